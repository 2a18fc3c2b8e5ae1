//! `check`: every problem of a configuration at once; with `--connect` the broker and the store too.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use super::{DONE, Failure};
use crate::broker::amqp;
use crate::clock::SystemClock;
use crate::config::{self, Config};
use crate::store::Store as _;
use crate::store::sqlite::Sqlite;

/// Tell every problem of a configuration, each with its key.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  alipay-notify-gateway check --config gateway.toml --connect

Exits 0 when there is no problem, 78 when there is, 1 when --connect finds something away.")]
pub(super) struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Connect to the broker and open the store too. Declares nothing.
    #[arg(long)]
    connect: bool,
}

pub(super) fn run(args: &Args, out: &mut dyn Write) -> Result<u8, Failure> {
    let loaded = config::load(args.config.as_deref())
        .map_err(|problems| Failure::configuration(problems.to_string()))?;
    for remark in &loaded.remarks {
        writeln!(out, "remark: {remark}")?;
    }
    describe(&loaded.config, out)?;
    if args.connect {
        connect(&loaded.config, out)?;
    }
    writeln!(out, "ok")?;
    Ok(DONE)
}

fn describe(config: &Config, out: &mut dyn Write) -> std::io::Result<()> {
    for app in config.policy.apps.values() {
        let keys: Vec<&str> = app.keys.iter().map(|key| key.fingerprint()).collect();
        writeln!(
            out,
            "app {}: {}, {}, {} seller(s), key(s) {}",
            app.app_id,
            app.environment.as_str(),
            app.sign_type.as_str(),
            app.seller_ids.len(),
            keys.join(", ")
        )?;
    }
    writeln!(out, "notify URL: https://YOUR-HOST{}", config.http.path)
}

fn connect(config: &Config, out: &mut dyn Write) -> Result<(), Failure> {
    let seen = super::block_on(amqp::check(&config.amqp))?;
    for line in seen.map_err(|error| Failure::running(format!("amqp.uri: {error}")))? {
        writeln!(out, "broker: {line}")?;
    }
    let store = Sqlite::open(&config.store, Arc::new(SystemClock));
    let store = store.map_err(|error| Failure::running(error.to_string()))?;
    super::block_on(store.close())?;
    writeln!(out, "store: {} can be written", config.store.path.display())?;
    Ok(())
}
