//! `events tap`: what is announced, live. A queue of its own beside those of the consumers, which takes nothing from them.

use std::io::Write;
use std::time::Duration;

use serde_json::Value;

use super::broker_at::BrokerAt;
use super::{DONE, Failure};
use crate::broker::tap::{Tap, Tapped};
use crate::secret::Secret;

/// Look at the events that the gateway announces.
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "\
Example:
  alipay-notify-gateway events tap --amqp-file secrets/amqp-uri --exchange payments")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Tap(TapArgs),
}

/// Print every event from now on, without what tells who the buyer is.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  alipay-notify-gateway events tap --amqp-file secrets/amqp-uri --exchange payments --count 1

It has a queue of its own, which goes with it: your consumers lose nothing. But while it runs, an event that no other queue takes
is confirmed because of this one, answered success, and gone with it: on an exchange that matters, bind every type first.")]
struct TapArgs {
    #[command(flatten)]
    broker: BrokerAt,
    /// End after that many events.
    #[arg(long, value_name = "N")]
    count: Option<u32>,
    /// End, with 1, when that much time has passed and --count events have not come.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, requires = "count")]
    within: Option<Duration>,
    /// text, or a JSON line for each event.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

pub(super) fn run(args: &Args, out: &mut dyn Write) -> Result<u8, Failure> {
    let Command::Tap(args) = &args.command;
    let uri = args.broker.uri()?;
    super::block_on(tap(args, &uri, out))?
}

async fn tap(args: &TapArgs, uri: &Secret, out: &mut dyn Write) -> Result<u8, Failure> {
    let broker = |error: crate::broker::LinkError| Failure::running(format!("--amqp: {error}"));
    let mut tap = Tap::open(uri, &args.broker.exchange).await.map_err(broker)?;
    // It satisfies the gateway's `mandatory`, which else would keep what nobody takes.
    let exchange = &args.broker.exchange;
    writeln!(
        std::io::stderr(),
        "listening on the exchange {exchange}; an event that no other queue takes is seen here and nowhere else"
    )?;
    let mut left = args.count;
    let listening = async {
        while left != Some(0) {
            if let Some(tapped) = tap.next(A_WHILE).await.map_err(broker)? {
                show(&tapped, args.format, out)?;
                left = left.map(|left| left.saturating_sub(1));
            }
        }
        Ok(DONE)
    };
    match args.within {
        None => listening.await,
        Some(within) => tokio::time::timeout(within, listening)
            .await
            .unwrap_or_else(|_| Err(Failure::running(format!("not as many events within {within:?}")))),
    }
}

fn show(tapped: &Tapped, format: Format, out: &mut dyn Write) -> Result<(), Failure> {
    let body: Value = serde_json::from_slice(&tapped.body).unwrap_or_default();
    let shown = SHOWN.iter().filter_map(|name| Some((*name, body.get(*name)?)));
    match format {
        Format::Json => {
            let mut line: serde_json::Map<String, Value> =
                shown.map(|(name, value)| (name.to_owned(), value.clone())).collect();
            line.insert("message_id".to_owned(), tapped.message_id.clone().into());
            writeln!(out, "{}", Value::Object(line))?;
        }
        Format::Text => {
            writeln!(out, "{}", tapped.routing_key)?;
            writeln!(out, "  {:<16} {}", "message_id", tapped.message_id)?;
            for (name, value) in shown.filter(|(name, _)| *name != "event_type") {
                let text = value.as_str().map_or_else(|| value.to_string(), printable);
                writeln!(out, "  {name:<16} {text}")?;
            }
        }
    }
    Ok(out.flush()?)
}

/// What a merchant wrote may hold what a terminal obeys.
fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '·' } else { character }).collect()
}

/// What is shown of an event: nothing of the buyer, and not the whole notification.
const SHOWN: [&str; 11] = [
    "event_type",
    "app_id",
    "environment",
    "trade_no",
    "out_trade_no",
    "trade_status",
    "total_amount",
    "subject",
    "passback_params",
    "paid_at",
    "refund",
];
/// How long one look at the queue takes; then there is another.
const A_WHILE: Duration = Duration::from_secs(3600);
