//! The program: parse, run, exit code.

use std::process::ExitCode;

/// A notification costs about 250 small allocations, most of them lapin's and hyper's; benches/run.sh shows what
/// they cost with another allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    alipay_notify_gateway::cli::run()
}
