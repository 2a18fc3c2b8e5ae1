//! The program: parse, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    alipay_notify_gateway::cli::run()
}
