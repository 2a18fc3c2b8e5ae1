//! `simulate send`: many notifications at a rate or a concurrency, every answer checked.

use std::collections::BTreeMap;
use std::io::{BufRead as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

use super::Identity;
use super::client::{Client, Target};
use crate::cli::{DONE, FAILED, Failure};
use crate::clock::{Clock as _, SystemClock};
use crate::lifecycle::Tasks;
use crate::signer::Signer;
use crate::signer::notification::{Kind, Merchant, Trade};

/// Send signed notifications and check the answers. Exits 0 if every answer was as promised, else 1.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  alipay-notify-gateway simulate send --url http://127.0.0.1:8080/alipay/notify --key sandbox/alipay-private.pem \\
    --count 1000 --concurrency 64 --shares payment=80,redelivery=10,refund=5,finish=3,forged=2")]
pub(super) struct Args {
    /// The notify URL.
    #[arg(long, value_name = "URL", required_unless_present = "bodies_out")]
    url: Option<String>,
    #[command(flatten)]
    identity: Identity,
    /// How many notifications.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// How many at once, each on a connection of its own.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    concurrency: u32,
    /// How many a second; as many as get answered if not given.
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// The shares of the kinds: payment, redelivery, refund, finish, forged.
    #[arg(long, value_name = "KIND=SHARE,…", default_value = "payment=100")]
    shares: String,
    /// Makes the same trades again.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Sign everything before the first is sent (for measuring).
    #[arg(long)]
    presign: bool,
    /// Send these instead: a file that --bodies-out wrote.
    #[arg(long, value_name = "FILE", conflicts_with = "bodies_out")]
    bodies: Option<PathBuf>,
    /// Sign, write to a file, and send nothing.
    #[arg(long, value_name = "FILE")]
    bodies_out: Option<PathBuf>,
    /// How to print the summary.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

/// A signed notification and what it is.
struct Signed {
    kind: Kind,
    body: Bytes,
}

pub(super) fn run(args: &Args, out: &mut dyn Write) -> Result<u8, Failure> {
    let plan = Plan::of(args)?;
    if let Some(file) = &args.bodies_out {
        return write_bodies(plan, file, out);
    }
    let target = Target::parse(args.url.as_deref().unwrap_or_default()).map_err(Failure::usage)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let bodies = args.bodies.as_deref().map(read_bodies).transpose()?;
    let summary = runtime.block_on(send_all(args, plan, bodies, target));
    runtime.shutdown_background();
    match args.format {
        Format::Text => summary.print(out)?,
        Format::Json => writeln!(out, "{}", serde_json::to_string(&summary).unwrap_or_default())?,
    }
    Ok(if summary.broken.is_empty() { DONE } else { FAILED })
}

async fn send_all(args: &Args, plan: Plan, bodies: Option<Vec<Signed>>, target: Target) -> Summary {
    let count = bodies
        .as_ref()
        .map_or(u64::from(args.count), |bodies| u64::try_from(bodies.len()).unwrap_or(u64::MAX));
    let bar = progress(count);
    // Bound: signing runs ahead of sending by this much.
    let (sender, receiver) =
        mpsc::channel(if args.presign { usize::try_from(count).unwrap_or(1) } else { 1024 });
    let feeding = tokio::task::spawn_blocking(move || match bodies {
        Some(bodies) => bodies.into_iter().for_each(|signed| drop(sender.blocking_send(signed))),
        None => plan.into_iter().for_each(|signed| drop(sender.blocking_send(signed))),
    });
    if args.presign {
        let _ = feeding.await;
    }
    let began = Instant::now();
    let pace = args.rate.map(|rate| Duration::from_secs(1) / rate);
    let queue = Arc::new(Mutex::new((receiver, 0u32)));
    let tally = Arc::new(Mutex::new(Tally::default()));
    let tasks = Tasks::default();
    for _ in 0..args.concurrency {
        let (queue, tally, bar) = (Arc::clone(&queue), Arc::clone(&tally), bar.clone());
        let mut client = Client::new(target.clone());
        tasks.spawn(async move {
            let mut mine = Tally::default();
            loop {
                let (signed, due) = {
                    let mut queue = queue.lock().await;
                    let Some(signed) = queue.0.recv().await else { break };
                    queue.1 += 1;
                    (signed, pace.map(|pace| began + pace * (queue.1 - 1)))
                };
                if let Some(due) = due {
                    tokio::time::sleep_until(due).await;
                }
                let sent = Instant::now();
                let answer = client.deliver(signed.body).await;
                mine.note(
                    signed.kind,
                    answer.as_ref().map(super::client::Answer::is_success),
                    sent.elapsed(),
                );
                bar.inc(1);
            }
            tally.lock().await.merge(mine);
        });
    }
    tasks.ended().await;
    bar.finish_and_clear();
    let tally = std::mem::take(&mut *tally.lock().await);
    tally.summary(began.elapsed())
}

/// What is to be sent, signed as it is asked for.
struct Plan {
    signer: Signer,
    merchant: Merchant,
    random: SmallRng,
    shares: Vec<(Kind, u32)>,
    left: u32,
    /// Bound: trades that re-deliveries, refunds and finishes can be about.
    trades: Vec<Trade>,
}

impl Plan {
    fn of(args: &Args) -> Result<Self, Failure> {
        let key = std::fs::read_to_string(&args.identity.key)
            .map_err(|error| Failure::running(format!("{}: {error}", args.identity.key.display())))?;
        let signer = Signer::read(&key).map_err(|error| Failure::running(format!("--key: {error}")))?;
        let merchant =
            Merchant { app_id: args.identity.app_id.clone(), seller_id: args.identity.seller_id.clone() };
        let random = SmallRng::seed_from_u64(args.seed.unwrap_or_else(rand::random));
        Ok(Self {
            signer,
            merchant,
            random,
            shares: shares(&args.shares)?,
            left: args.count,
            trades: Vec::new(),
        })
    }
}

impl Iterator for Plan {
    type Item = Signed;

    fn next(&mut self) -> Option<Signed> {
        self.left = self.left.checked_sub(1)?;
        let all: u64 = self.shares.iter().map(|(_, share)| u64::from(*share)).sum();
        let mut at = self.random.random_range(0..all);
        let mut kind = Kind::Payment;
        for (candidate, share) in &self.shares {
            let share = u64::from(*share);
            if at < share {
                kind = *candidate;
                break;
            }
            at -= share;
        }
        let now = SystemClock.now();
        let known = self.trades.len();
        let trade = match kind {
            Kind::Redelivery | Kind::Refund | Kind::Finish if known > 0 => {
                let at = self.random.random_range(0..known);
                // Each refund and finish is of a trade of its own, so that every answer is known beforehand.
                if kind == Kind::Redelivery {
                    self.trades.get(at).cloned()
                } else {
                    Some(self.trades.swap_remove(at))
                }
            }
            Kind::Payment | Kind::Redelivery | Kind::Refund | Kind::Finish | Kind::Forged => None,
        };
        // Without an earlier payment a refund is proof of one, and a finish is the payment itself.
        let trade = trade.unwrap_or_else(|| Trade::new(&self.merchant, &mut self.random, now));
        let body = trade.body(kind, &self.signer, &mut self.random, now);
        if kind == Kind::Payment && known < MAX_TRADES {
            self.trades.push(trade);
        }
        Some(Signed { kind, body: Bytes::from(body) })
    }
}

fn shares(text: &str) -> Result<Vec<(Kind, u32)>, Failure> {
    let share = |part: &str| {
        let (name, share) = part.split_once('=')?;
        Some((Kind::from_name(name.trim())?, share.trim().parse().ok()?))
    };
    let shares: Option<Vec<(Kind, u32)>> = text.split(',').map(share).collect();
    shares
        .filter(|shares| shares.iter().map(|(_, share)| u64::from(*share)).sum::<u64>() > 0)
        .ok_or_else(|| Failure::usage(format!("--shares {text:?} is not such as payment=90,forged=10")))
}

fn write_bodies(plan: Plan, file: &Path, out: &mut dyn Write) -> Result<u8, Failure> {
    let bar = progress(u64::from(plan.left));
    let mut writer = std::io::BufWriter::new(std::fs::File::create(file)?);
    let mut count = 0u64;
    for signed in plan {
        writer.write_all(signed.kind.as_str().as_bytes())?;
        writer.write_all(b"\t")?;
        writer.write_all(&signed.body)?;
        writer.write_all(b"\n")?;
        bar.inc(1);
        count += 1;
    }
    writer.flush()?;
    bar.finish_and_clear();
    writeln!(out, "{count} signed notifications in {}", file.display())?;
    Ok(DONE)
}

fn read_bodies(file: &Path) -> Result<Vec<Signed>, Failure> {
    let reader = std::io::BufReader::new(std::fs::File::open(file)?);
    let unreadable = || Failure::running(format!("{} was not written by --bodies-out", file.display()));
    reader
        .split(b'\n')
        .map(|line| {
            let line = line?;
            let tab = line.iter().position(|byte| *byte == b'\t').ok_or_else(unreadable)?;
            let (kind, body) = line.split_at(tab);
            let kind = std::str::from_utf8(kind).ok().and_then(Kind::from_name).ok_or_else(unreadable)?;
            Ok(Signed { kind, body: Bytes::copy_from_slice(body.get(1..).unwrap_or_default()) })
        })
        .collect()
}

/// On a terminal only.
fn progress(count: u64) -> ProgressBar {
    let bar = ProgressBar::new(count);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta}");
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// What was answered so far.
#[derive(Debug, Default)]
struct Tally {
    by_kind: BTreeMap<&'static str, Counts>,
    broken: Vec<String>,
    latencies_us: Vec<u32>,
}

#[derive(Debug, Default, Clone, Serialize)]
struct Counts {
    sent: u64,
    success: u64,
    fail: u64,
    unanswered: u64,
}

#[derive(Debug, Serialize)]
struct Summary {
    sent: u64,
    success: u64,
    fail: u64,
    unanswered: u64,
    seconds: f64,
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    by_kind: BTreeMap<&'static str, Counts>,
    /// Answers that were not as promised: at most [`MAX_BROKEN`] of them.
    broken: Vec<String>,
}

impl Tally {
    fn note(&mut self, kind: Kind, success: Result<bool, &String>, took: Duration) {
        let counts = self.by_kind.entry(kind.as_str()).or_default();
        counts.sent += 1;
        match success {
            Ok(true) => counts.success += 1,
            Ok(false) => counts.fail += 1,
            Err(_) => counts.unanswered += 1,
        }
        if success != Ok(kind.is_authentic()) && self.broken.len() < MAX_BROKEN {
            let answer = match success {
                Ok(true) => "success",
                Ok(false) => "not success",
                Err(error) => error.as_str(),
            };
            self.broken.push(format!("{}: {answer}", kind.as_str()));
        }
        self.latencies_us.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }

    fn merge(&mut self, other: Self) {
        for (kind, counts) in other.by_kind {
            let mine = self.by_kind.entry(kind).or_default();
            mine.sent += counts.sent;
            mine.success += counts.success;
            mine.fail += counts.fail;
            mine.unanswered += counts.unanswered;
        }
        self.broken.extend(other.broken);
        self.broken.truncate(MAX_BROKEN);
        self.latencies_us.extend(other.latencies_us);
    }

    fn summary(mut self, took: Duration) -> Summary {
        self.latencies_us.sort_unstable();
        let count = self.latencies_us.len();
        let quantile = |per_mille: usize| {
            let at = (count * per_mille / 1000).min(count.saturating_sub(1));
            self.latencies_us.get(at).map_or(0.0, |micros| f64::from(*micros) / 1000.0)
        };
        let (p50_ms, p99_ms) = (quantile(500), quantile(990));
        let sum = |of: fn(&Counts) -> u64| self.by_kind.values().map(of).sum::<u64>();
        let sent = sum(|counts| counts.sent);
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let per_second = sent as f64 / took.as_secs_f64();
        Summary {
            sent,
            success: sum(|counts| counts.success),
            fail: sum(|counts| counts.fail),
            unanswered: sum(|counts| counts.unanswered),
            seconds: took.as_secs_f64(),
            per_second,
            p50_ms,
            p99_ms,
            by_kind: self.by_kind,
            broken: self.broken,
        }
    }
}

impl Summary {
    fn print(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let Self { sent, seconds, per_second, p50_ms, p99_ms, .. } = self;
        writeln!(
            out,
            "{sent} sent in {seconds:.2} s ({per_second:.0} a second), p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms"
        )?;
        writeln!(out, "{:<12} {:>9} {:>9} {:>9} {:>11}", "kind", "sent", "success", "fail", "unanswered")?;
        for (kind, counts) in &self.by_kind {
            let Counts { sent, success, fail, unanswered } = counts;
            writeln!(out, "{kind:<12} {sent:>9} {success:>9} {fail:>9} {unanswered:>11}")?;
        }
        for broken in &self.broken {
            writeln!(out, "NOT AS PROMISED: {broken}")?;
        }
        if self.broken.is_empty() {
            writeln!(out, "every answer was as promised")?;
        }
        Ok(())
    }
}

const MAX_TRADES: usize = 10_000;
const MAX_BROKEN: usize = 20;
