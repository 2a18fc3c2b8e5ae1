//! `healthcheck`: the probe for containers, which have no curl.

use super::{DONE, Failure, admin_client};

/// Ask the admin listener whether the process is alive. Exits 0 if it is, 1 if not.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  alipay-notify-gateway healthcheck --admin http://127.0.0.1:9090")]
pub(super) struct Args {
    /// The admin listener.
    #[arg(long, value_name = "URL", default_value = admin_client::DEFAULT_URL, value_parser = admin_client::url)]
    admin: String,
}

pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    let (status, _) = super::block_on(admin_client::get(&args.admin, "/livez"))?.map_err(Failure::running)?;
    if status.is_success() { Ok(DONE) } else { Err(Failure::running(format!("/livez says {status}"))) }
}
