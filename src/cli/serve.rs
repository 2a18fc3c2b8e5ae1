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
    // Others' words (of the store, of the broker) are not to wait for 31 of its own tasks, which is the default.
    let main = Builder::new_current_thread().enable_all().global_queue_interval(OTHERS_EVERY).build()?;
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
    let runtime = several_threads(loaded.config.threads)?.unwrap_or(main);
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

/// Threads that serve, unless the main one does so alone (`runtime.threads`): half of the cores by default, because the store,
/// what is verified at low priority and the log have threads of their own. One alone costs least: no thread wakes another
/// one to share the work, and what it uses is in its own core's caches (docs/performance.md).
fn several_threads(wanted: usize) -> std::io::Result<Option<Runtime>> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    match serving(wanted, cores) {
        1 => Ok(None),
        threads => Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name(NAME)
            .enable_all()
            .build()
            .map(Some),
    }
}

/// How many serve.
fn serving(wanted: usize, cores: usize) -> usize {
    if wanted == 0 { (cores / 2).clamp(1, MOST) } else { wanted }
}

/// Bound: as in the configuration.
const MOST: usize = 64;
/// What such a thread is called by `top -H`.
const NAME: &str = "serving";
/// After so many tasks it looks what other threads have woken. A look that finds nothing is cheap.
const OTHERS_EVERY: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_cores_serve_or_as_many_as_are_wanted() {
        assert_eq!([1, 2, 3, 4, 64, 512].map(|cores| serving(0, cores)), [1, 1, 1, 2, 32, 64]);
        assert_eq!([1, 2, 64].map(|wanted| serving(wanted, 4)), [1, 2, 64]);
    }
}
