//! `explain`.
use super::Failure;
use std::io::Write;
/// x
#[derive(Debug, clap::Args)]
pub(super) struct Args {}
pub(super) fn run(_args: &Args, _out: &mut dyn Write) -> Result<u8, Failure> {
    Err(Failure::usage("x"))
}
