//! `serve`: the gateway itself.

use std::path::PathBuf;

use super::{DONE, FAILED, Failure};
use crate::app::{App, End, StartError, SystemSignals};
use crate::{config, telemetry};

/// Run the gateway.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  alipay-notify-gateway serve --config gateway.toml

Without --config it reads gateway.toml in the working directory. Where there is none, ALIPAY_APP_ID,
ALIPAY_PUBLIC_KEY (the key, or @FILE) and AMQP_URL are enough.")]
pub(super) struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let signals = {
        let _inside = runtime.enter();
        SystemSignals::listen()?
    };
    let loaded = config::load(args.config.as_deref())
        .map_err(|problems| Failure::configuration(problems.to_string()))?;
    let log = telemetry::start(&loaded.config.log);
    for remark in &loaded.remarks {
        tracing::warn!(remark, "configuration");
    }
    let end = runtime.block_on(async {
        let app = App::build(loaded, log.clone()).await?;
        Ok::<_, StartError>(app.run(signals).await)
    });
    // What is still running was told fail or nothing; nobody waits for it.
    runtime.shutdown_background();
    log.flush();
    match end {
        Ok(End::Clean) => Ok(DONE),
        Ok(End::Forced) => Ok(FAILED),
        Err(error) => Err(Failure::running(error.to_string())),
    }
}
