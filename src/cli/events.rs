//! `events tap`: what the running gateway announces, as it does, without a buyer's data. It asks the gateway and not the
//! broker: a queue that is bound for watching would make events routable that no consumer takes.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::{DONE, Failure, admin_client};
use crate::secret::Secret;

/// Watch what is announced.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  alipay-notify-gateway events tap --token-file admin.token")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show each event when the broker has confirmed it: type, order, amount, id, and nothing of the buyer.
    #[command(after_help = "\
Examples:
  alipay-notify-gateway events tap --token-file admin.token
  alipay-notify-gateway events tap --token-file admin.token --format json --for 1h > events.jsonl

Of one gateway: of several replicas each has its own admin listener. Ends with Ctrl-C, or after --for.")]
    Tap(Tap),
}

#[derive(Debug, clap::Args)]
struct Tap {
    #[command(flatten)]
    watched: Watched,
    /// End after that many events.
    #[arg(long, value_name = "N")]
    count: Option<u32>,
    /// How long to watch; with --count, it ends with 1 if they have not come by then. Default: until it is ended.
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    span: Option<Duration>,
    /// A line of text, or a JSON object, for each.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// The gateway that is watched.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Watched {
    /// A file with the admin token.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// The admin listener.
    #[arg(long, value_name = "URL", default_value = admin_client::DEFAULT_URL, value_parser = admin_client::url)]
    admin: String,
}

/// Watches a gateway, from the first look on.
pub(super) struct Watch {
    admin: String,
    token: Secret,
    last: Option<u64>,
}

/// What was announced since the last look.
pub(super) struct Look {
    pub(super) events: Vec<Value>,
    /// How many more there were, which came too fast to be kept.
    missed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

pub(super) fn run(args: &Args, out: &mut dyn Write) -> Result<u8, Failure> {
    let Action::Tap(tap) = &args.action;
    let watched = watch(tap, out);
    super::block_on(async {
        match tap.span {
            Some(span) => tokio::time::timeout(span, watched).await.unwrap_or_else(|_| match tap.count {
                Some(_) => Err(Failure::running(format!("not as many events within {span:?}"))),
                None => Ok(DONE),
            }),
            None => watched.await,
        }
    })?
}

async fn watch(tap: &Tap, out: &mut dyn Write) -> Result<u8, Failure> {
    let mut watch = tap.watched.begin().await?;
    writeln!(std::io::stderr(), "watching what {} announces", tap.watched.admin)?;
    let mut left = tap.count;
    while left != Some(0) {
        tokio::time::sleep(PAUSE).await;
        let look = watch.look().await?;
        if look.missed > 0 {
            writeln!(std::io::stderr(), "{} events came too fast to be shown", look.missed)?;
        }
        let most = left.and_then(|left| usize::try_from(left).ok()).unwrap_or(usize::MAX);
        for event in look.events.iter().take(most) {
            left = left.map(|left| left.saturating_sub(1));
            show(event, tap.format, out)?;
        }
        out.flush()?;
    }
    Ok(DONE)
}

impl Watched {
    /// What is announced after this is seen.
    pub(super) async fn begin(&self) -> Result<Watch, Failure> {
        let token = admin_client::token(&self.token_file)?;
        let mut watch = Watch { admin: self.admin.clone(), token, last: None };
        watch.look().await?;
        Ok(watch)
    }
}

impl Watch {
    /// The gateway gathers events while somebody looks at least every half minute.
    pub(super) async fn look(&mut self) -> Result<Look, Failure> {
        let path = self.last.map_or("/events".to_owned(), |last| format!("/events?after={last}"));
        let (status, body) =
            admin_client::get_with(&self.admin, &path, &self.token).await.map_err(Failure::running)?;
        if !status.is_success() {
            let text = std::str::from_utf8(&body).unwrap_or_default();
            return Err(Failure::running(format!("/events says {status}: {}", text.trim())));
        }
        let seen: Value =
            serde_json::from_slice(&body).map_err(|error| Failure::running(error.to_string()))?;
        let events = seen.get("events").and_then(Value::as_array).cloned().unwrap_or_default();
        let first = events.first().and_then(|event| event.get("number")).and_then(Value::as_u64);
        let expected = self.last.map(|last| last + 1);
        let missed = first.zip(expected).map_or(0, |(first, expected)| first.saturating_sub(expected));
        // A gateway that was started anew counts anew.
        self.last = seen.get("last").and_then(Value::as_u64);
        Ok(Look { events, missed })
    }

    /// What the gateway keeps of a trade, in a few words for each part; nothing if it does not say.
    pub(super) async fn kept(&self, trade_no: &str) -> Vec<String> {
        let asked = admin_client::get(&self.admin, &format!("/trades/{trade_no}")).await;
        let kept: Value =
            asked.ok().and_then(|(_, body)| serde_json::from_slice(&body).ok()).unwrap_or_default();
        let rows = kept.get("rows").and_then(Value::as_array).cloned().unwrap_or_default();
        let word = |row: &Value, name: &str| row.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
        rows.iter()
            .map(|row| {
                format!("{} {}, reason {}", word(row, "state"), word(row, "event_id"), word(row, "reason"))
            })
            .collect()
    }
}

fn show(event: &Value, format: Format, out: &mut dyn Write) -> std::io::Result<()> {
    if format == Format::Json {
        return writeln!(out, "{event}");
    }
    let text =
        |name: &str| event.get(name).and_then(Value::as_str).unwrap_or("-").replace(char::is_control, "?");
    let money = match event.get("refund_fee").and_then(Value::as_str) {
        Some(fee) => format!("{} of {}", fee, text("total_amount")),
        None => text("total_amount"),
    };
    let sandbox = if text("environment") == "sandbox" { "  SANDBOX" } else { "" };
    let unrouted = if text("state") == "unrouted" { "  to nobody" } else { "" };
    let (at, event_type, id, order) =
        (text("at"), text("event_type"), text("event_id"), text("out_trade_no"));
    writeln!(out, "{at}  {event_type:<18}  {order}  {money} {}{sandbox}{unrouted}  {id}", text("currency"))
}

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);
