//! `consumer-check`: a gateway on a bad day, into the queue of a consumer under test; and what it shipped beside what it
//! should have. `plan` says what is sent and what should come of it. Every run of one number is the same.

mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;

use super::{DONE, Failure, NOT_VERIFIED, block_on};
use crate::broker::LinkError;
use crate::broker::feed::{Depth, Feed};
use crate::clock::{Clock as _, SystemClock};
use crate::event::Message;
use crate::secret::Secret;
use plan::{CASES, Case};

/// Try a consumer: repeats, reorderings, refunds before payments, conflicts; does it ship twice?
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  alipay-notify-gateway consumer-check orders > orders.csv
  alipay-notify-gateway consumer-check publish --queue test.orders --confirm test.orders
  sqlite3 -csv orders.db 'SELECT out_trade_no, refunded_minor FROM orders' > refunded.csv
  sqlite3 orders.db 'SELECT out_trade_no FROM shipments' |
    alipay-notify-gateway consumer-check judge --refunded refunded.csv

For a consumer under test, with a test database that has these orders, on a queue of its own. Everything is marked:
environment sandbox, app 2021000000000000, header x-test: consumer-check. docs/consuming.md has the rules.")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Print the orders that the consumer's test database must have, as CSV: out_trade_no, amount_minor.
    #[command(after_help = "Example:\n  alipay-notify-gateway consumer-check orders > orders.csv")]
    Orders(Run),
    /// Publish into the consumer's queue, and say what should come of it.
    #[command(after_help = "\
Example:
  alipay-notify-gateway consumer-check publish --queue test.orders --confirm test.orders --amqp-file amqp-uri

With nobody at the queue, every message is marked redelivered before your consumer takes it.")]
    Publish(Publish),
    /// Judge what was shipped: an order number a line, as often as it was shipped. Exits 65 when it is wrong, or
    /// a line of --refunded is no order and number.
    #[command(after_help = "\
Example:
  sqlite3 -csv orders.db 'SELECT out_trade_no, refunded_minor FROM orders' > refunded.csv
  sqlite3 orders.db 'SELECT out_trade_no FROM shipments' |
    alipay-notify-gateway consumer-check judge --refunded refunded.csv")]
    Judge(Judge),
}

#[derive(Debug, clap::Args)]
struct Run {
    /// Another number has other orders and other events.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=99_999_999))]
    run: u32,
}

#[derive(Debug, clap::Args)]
struct Publish {
    #[command(flatten)]
    run: Run,
    /// The queue of the consumer under test. It must be there and empty.
    #[arg(long, value_name = "NAME")]
    queue: String,
    /// The same name again: that it is a test's queue, and no customer's order hangs on it.
    #[arg(long, value_name = "NAME")]
    confirm: String,
    /// The broker's URI.
    #[arg(long, value_name = "URI", default_value = "amqp://guest:guest@127.0.0.1:5672/%2f")]
    amqp: String,
    /// A file with its URI, so that no password is on the command line.
    #[arg(long, value_name = "FILE", conflicts_with = "amqp")]
    amqp_file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Judge {
    #[command(flatten)]
    run: Run,
    /// What your orders say was given back of them: an order number and hundredths a line, in CSV. Without it, only what was
    /// shipped is judged.
    #[arg(long, value_name = "FILE")]
    refunded: Option<PathBuf>,
    /// What was shipped; `-` or nothing: standard input.
    #[arg(value_name = "FILE")]
    shipped: Option<PathBuf>,
}

pub(super) fn run(args: &Args, out: &mut dyn Write) -> Result<u8, Failure> {
    match &args.action {
        Action::Orders(args) => orders(args.run, out),
        Action::Publish(args) => block_on(publish(args, out))?,
        Action::Judge(args) => judge(args, out),
    }
}

fn orders(run: u32, out: &mut dyn Write) -> Result<u8, Failure> {
    writeln!(out, "out_trade_no,amount_minor")?;
    for case in CASES.iter().filter(|case| case.has_order) {
        writeln!(out, "{},{}", case.order(run), case.amount().minor())?;
    }
    Ok(DONE)
}

async fn publish(args: &Publish, out: &mut dyn Write) -> Result<u8, Failure> {
    if args.queue != args.confirm {
        return Err(Failure::usage(
            "--confirm is not --queue: this publishes payments that nobody made. Name the queue of a test twice",
        ));
    }
    let uri = match &args.amqp_file {
        None => Secret::new(args.amqp.as_str()),
        Some(file) => {
            let unreadable = |error| Failure::running(format!("--amqp-file {}: {error}", file.display()));
            Secret::new(std::fs::read_to_string(file).map_err(unreadable)?.trim())
        }
    };
    let broker = |error: LinkError| Failure::running(format!("{}: {error}", args.queue));
    let exchange = format!("consumer-check-{:08x}", rand::random::<u32>());
    let (feed, depth) = Feed::open(&uri, &args.queue, &exchange).await.map_err(broker)?;
    if depth.messages > 0 {
        return Err(Failure::running(format!(
            "{} has {} messages in it: what is under test has an empty queue of its own",
            args.queue, depth.messages
        )));
    }
    feed.begin().await.map_err(broker)?;
    let fed = feed_all(&feed, args.run.run, depth, out).await;
    feed.close().await.map_err(broker)?;
    fed.map_err(broker)?;
    expectation(args.run.run, out)?;
    Ok(DONE)
}

async fn feed_all(feed: &Feed, run: u32, depth: Depth, out: &mut dyn Write) -> Result<(), LinkError> {
    let now = SystemClock.now();
    let mut messages: Vec<Message> = CASES.iter().flat_map(|case| case.messages(run, now)).collect();
    // Copies that come when nobody expects them any more, in another order.
    let mut late: Vec<Message> =
        CASES.iter().filter_map(|case| case.messages(run, now).into_iter().next()).collect();
    late.shuffle(&mut SmallRng::seed_from_u64(u64::from(run)));
    messages.append(&mut late);
    for message in &messages {
        feed.send(message, now, ("x-test", "consumer-check")).await?;
    }
    let (count, mut how) = (messages.len(), "to the consumer that is at it");
    if depth.consumers == 0 {
        feed.mark_redelivered(count).await?;
        how = "and marked as redelivered: start your consumer now";
    }
    // Nobody is left to tell if it cannot be written.
    let _ = writeln!(out, "{count} messages published, {how}\n");
    Ok(())
}

fn expectation(run: u32, out: &mut dyn Write) -> Result<(), Failure> {
    writeln!(out, "When your consumer has taken them all:")?;
    for case in &CASES {
        let ships = if case.ships { "shipped once" } else { "not shipped" };
        let back = match case.given_back().minor() {
            0 => String::new(),
            minor => format!(", {minor} given back"),
        };
        let look = if case.needs_look { ", and somebody is told to look" } else { "" };
        writeln!(out, "  {:<16} {ships}{back}{look}: {}", case.order(run), case.title)?;
    }
    writeln!(out, "Then: consumer-check judge")?;
    Ok(())
}

fn judge(args: &Judge, out: &mut dyn Write) -> Result<u8, Failure> {
    let open = |file: &Path| {
        File::open(file).map_err(|error| Failure::running(format!("{}: {error}", file.display())))
    };
    let shipped = match args.shipped.as_deref() {
        Some(file) if file != Path::new("-") => count(open(file)?)?,
        Some(_) | None => count(std::io::stdin().lock())?,
    };
    let refunded = args.refunded.as_deref().map(|file| amounts(file, open(file)?)).transpose()?;
    let mut wrong = 0;
    for case in &CASES {
        let number = case.order(args.run.run);
        let times = shipped.get(&number).copied().unwrap_or_default();
        let given_back = refunded.as_ref().map(|all| all.get(&number).map_or("0", String::as_str));
        let Some(fault) = fault(case, times).or_else(|| fault_of_state(case, given_back?)) else {
            writeln!(out, "ok     {number:<16} {}", case.title)?;
            continue;
        };
        wrong += 1;
        writeln!(
            out,
            "WRONG  {number:<16} {}\n       {fault}: docs/consuming.md, rule {}",
            case.title, case.rule
        )?;
    }
    let told: Vec<String> =
        CASES.iter().filter(|case| case.needs_look).map(|case| case.order(args.run.run)).collect();
    writeln!(out, "Somebody should have been told to look at: {}", told.join(", "))?;
    remark_on_strangers(args.run.run, shipped.keys(), out)?;
    writeln!(out, "{} right, {wrong} wrong", CASES.len() - wrong)?;
    Ok(if wrong == 0 { DONE } else { NOT_VERIFIED })
}

fn fault(case: &Case, times: u32) -> Option<String> {
    match (case.ships, times) {
        (true, 1) | (false, 0) => None,
        (true, 0) => Some("it was paid, and not shipped".to_owned()),
        (true, times) => Some(format!("it was shipped {times} times")),
        (false, times) => Some(format!("it was shipped {times} times, and should not have been")),
    }
}

/// Whether the order says what was given back of it: the total, whatever came first, and nothing of another trade's.
fn fault_of_state(case: &Case, given_back: &str) -> Option<String> {
    let right = case.given_back().minor().to_string();
    (given_back != right).then(|| format!("{given_back} is written down as given back, and it is {right}"))
}

/// What was shipped and is no order of the run: of another run, or no order number at all. It is not judged.
fn remark_on_strangers<'a>(
    run: u32,
    shipped: impl Iterator<Item = &'a String>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let ours: BTreeSet<String> = CASES.iter().map(|case| case.order(run)).collect();
    let strangers: Vec<&str> = shipped.map(String::as_str).filter(|number| !ours.contains(*number)).collect();
    let Some(shown) = strangers.get(..strangers.len().min(MAX_STRANGERS)).filter(|shown| !shown.is_empty())
    else {
        return Ok(());
    };
    let more = match strangers.len() - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    writeln!(out, "Not of run {run}, and not judged: {}{more}", shown.join(", "))?;
    Ok(())
}

/// The second column by the first. A line that is no `order,number` is an error, but for empty ones and a heading: what is
/// passed over would be judged as nothing given back. Bound: [`MAX_SHIPPED`].
fn amounts(file: &Path, input: impl Read) -> Result<BTreeMap<String, String>, Failure> {
    let mut amounts = BTreeMap::new();
    for (at, line) in BufReader::new(input.take(MAX_SHIPPED)).lines().enumerate() {
        let line = line?;
        let columns: Vec<&str> = columns(&line).collect();
        match columns.as_slice() {
            [""] => {}
            [number, amount] if !number.is_empty() && is_number(amount) => {
                amounts.insert((*number).to_owned(), (*amount).to_owned());
            }
            [number, _] if at == 0 && !number.starts_with(plan::PREFIX) => {}
            _ => {
                let what = format!("{}: line {} is no order,number", file.display(), at + 1);
                return Err(Failure { code: NOT_VERIFIED, message: what });
            }
        }
    }
    Ok(amounts)
}

/// Hundredths, as a database prints an integer.
fn is_number(text: &str) -> bool {
    text.parse::<i64>().is_ok()
}

fn columns(line: &str) -> impl Iterator<Item = &str> {
    line.split([',', '|', '\t']).map(|column| column.trim().trim_matches('"'))
}

/// How often each number stands there. The first column counts, where there are several. Bound: [`MAX_SHIPPED`].
fn count(input: impl Read) -> Result<BTreeMap<String, u32>, Failure> {
    let mut counted = BTreeMap::new();
    for line in BufReader::new(input.take(MAX_SHIPPED)).lines() {
        let line = line?;
        let number = columns(&line).next().unwrap_or_default();
        // A heading has no digit.
        if number.bytes().any(|byte| byte.is_ascii_digit()) {
            *counted.entry(number.to_owned()).or_default() += 1;
        }
    }
    Ok(counted)
}

const MAX_SHIPPED: u64 = 64 << 20;
/// How many numbers that are of no order are told.
const MAX_STRANGERS: usize = 5;
