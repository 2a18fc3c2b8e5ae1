//! `serve`: the gateway itself.

use std::path::PathBuf;
use std::thread;

use tokio::runtime::{Builder, Runtime};

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
    let main = Builder::new_current_thread().enable_all().build()?;
    let signals = {
        let _inside = main.enter();
        SystemSignals::listen()?
    };
    let loaded = config::load(args.config.as_deref())
        .map_err(|problems| Failure::configuration(problems.to_string()))?;
    let log = telemetry::start(&loaded.config.log);
    for remark in &loaded.remarks {
        tracing::warn!(remark, "configuration");
    }
    let others = other_threads(loaded.config.threads)?;
    let lines = log.clone();
    let serve = async {
        let app = App::build(loaded, lines).await?;
        Ok::<_, StartError>(app.run(signals).await)
    };
    let end = match &others {
        None => main.block_on(serve),
        Some(others) => main.block_on(others.spawn(serve)).map_err(std::io::Error::from)?,
    };
    // What is still running was told fail or nothing; nobody waits for it.
    if let Some(others) = others {
        others.shutdown_background();
    }
    main.shutdown_background();
    log.flush();
    match end {
        Ok(End::Clean) => Ok(DONE),
        Ok(End::Forced) => Ok(FAILED),
        Err(error) => Err(Failure::running(error.to_string())),
    }
}

/// The threads that serve, unless the main one does so alone: half of the cores by default, because the store, what is
/// verified at low priority and the log have threads of their own. One alone costs least: no thread wakes another one to
/// share the work, and what it uses is in its own core's caches (docs/performance.md).
fn other_threads(wanted: usize) -> std::io::Result<Option<Runtime>> {
    let half = || thread::available_parallelism().map_or(1, |cores| cores.get() / 2);
    match if wanted == 0 { half() } else { wanted } {
        0 | 1 => Ok(None),
        threads => Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name(NAME)
            .enable_all()
            .build()
            .map(Some),
    }
}

/// What such a thread is called by `top -H`.
const NAME: &str = "serving";
