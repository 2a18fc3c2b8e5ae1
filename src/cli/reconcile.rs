//! `reconcile`: Alipay's bill of its trades beside what the gateway keeps. It tells what was paid and never notified, what
//! was notified and not announced, and whose amounts differ; it publishes nothing, and only reads the store.
//!
//! `bill` reads what Alipay exports, `comparison` compares, with `refunds` for which event is which refund's, `page` prints.

mod bill;
mod comparison;
mod page;
mod refunds;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{DONE, Failure, NOT_VERIFIED};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::config;
use crate::store::engine::read_all;
use crate::store::transfer;
use bill::{Bill, BillError};
use comparison::{Comparison, Grounds};

/// Compare a bill that Alipay exported with what is kept; only reads, and never publishes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  alipay-notify-gateway reconcile --config gateway.toml 20881011179556110156_20261123.csv.zip
  alipay-notify-gateway reconcile --export backup.jsonl --format json 20881011179556110156_20261123.csv.zip

The bill is the one of trades (bill_type=trade): the CSV with 业务明细 in its name, or the ZIP as it was downloaded. The
gateway may be running. A bill is an account's: trades of the account's apps that are not notified here are listed, too.
The amount of a refund is compared where the bills of its payment's day and of every day from then on are given, so give a
crontab the last week's, or as many as your customers take to give back; a line that two files have counts once.
An announced refund that no bill has is told where the bills have every day from its trade's to its announcement.
Exits 0 when nothing is to be done; 65 when something is, or a bill is none or not whole; 1 when a file or the store cannot
be read, or nothing could be compared: `… || alarm` in a crontab.")]
pub(super) struct Args {
    /// The configuration file: its store, sellers and retention.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Compare with what `store export` wrote, and not with the store.
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Bills of one account, as downloaded: CSV or ZIP.
    #[arg(value_name = "BILL", required = true)]
    bills: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

impl From<BillError> for Failure {
    fn from(error: BillError) -> Self {
        let code = if error.is_of_content() { NOT_VERIFIED } else { super::FAILED };
        Self { code, message: error.to_string() }
    }
}

pub(super) fn run(args: &Args, out: &mut dyn Write) -> Result<u8, Failure> {
    let mut bill = Bill::default();
    for file in &args.bills {
        bill.read(file)?;
    }
    let comparison = match &args.export {
        Some(export) => with_export(&bill, export, args.config.as_deref())?,
        None => with_store(&bill, args.config.as_deref())?,
    };
    let report = comparison.report();
    match args.format {
        Format::Text => page::text(&bill, &report, out)?,
        Format::Json => page::json(&bill, &report, out)?,
    }
    let seen = report.compared + report.amount_unknown;
    let is_empty = bill.rows.is_empty() && bill.others == 0;
    if seen == 0 && !is_empty && report.is_clean() && bill.is_whole() {
        return Err(Failure::running("nothing of this bill could be compared: see above"));
    }
    Ok(if report.is_clean() && bill.is_whole() { DONE } else { NOT_VERIFIED })
}

fn with_store<'a>(bill: &'a Bill, file: Option<&Path>) -> Result<Comparison<'a>, Failure> {
    let loaded = config::load(file).map_err(|problems| Failure::configuration(problems.to_string()))?;
    let policy = &loaded.config.policy;
    let grounds = Grounds {
        as_of: SystemClock.now(),
        retention: policy.retention,
        sellers: policy.apps.iter().map(|(id, app)| (id.clone(), app.seller_ids.clone())).collect(),
    };
    let mut comparison = Comparison::new(bill, grounds);
    read_all(&loaded.config.store, |entry| {
        comparison.take(entry);
        Ok(())
    })?;
    Ok(comparison)
}

fn with_export<'a>(bill: &'a Bill, export: &Path, config: Option<&Path>) -> Result<Comparison<'a>, Failure> {
    let name = export.display();
    let unreadable = |error: &dyn std::fmt::Display| Failure::running(format!("{name}: {error}"));
    let policy = config.map(|file| config::load_policy(Some(file))).transpose();
    let policy = policy.map_err(|problems| Failure::configuration(problems.to_string()))?;
    let apps = policy.iter().flat_map(|policy| &policy.apps);
    let grounds = Grounds {
        as_of: written_at(export).map_err(|error| unreadable(&error))?,
        retention: policy.as_ref().map_or(RETENTION, |policy| policy.retention),
        sellers: apps
            .map(|(id, app)| (id.clone(), app.seller_ids.clone()))
            .collect::<Vec<(_, BTreeSet<_>)>>(),
    };
    let mut comparison = Comparison::new(bill, grounds);
    let file = File::open(export).map_err(|error| unreadable(&error))?;
    transfer::read(BufReader::new(file), |entry| {
        comparison.take(&entry);
        Ok(())
    })
    .map_err(|error| unreadable(&error))?;
    Ok(comparison)
}

/// When an export was written: its first line says so. What else is wrong with it is told when it is read.
fn written_at(export: &Path) -> std::io::Result<Timestamp> {
    let mut line = Vec::new();
    BufReader::new(File::open(export)?.take(MAX_HEAD)).read_until(b'\n', &mut line)?;
    let head: serde_json::Value = serde_json::from_slice(&line).unwrap_or_default();
    let at = head.get("at").and_then(serde_json::Value::as_str).and_then(Timestamp::from_rfc3339);
    at.ok_or_else(|| std::io::Error::other("it does not begin as an export of a store does"))
}

/// `store.retention`, where no configuration says another.
const RETENTION: Duration = Duration::from_secs(35 * 86_400);
/// Bound: the first line of an export.
const MAX_HEAD: u64 = 4096;
