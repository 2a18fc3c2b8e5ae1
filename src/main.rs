//! The program: parse, run, exit code.

use std::process::ExitCode;

use alipay_notify_gateway::cli::{self, Cli};
use clap::Parser as _;

fn main() -> ExitCode {
    cli::run(Cli::parse())
}
