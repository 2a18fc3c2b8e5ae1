//! `trade`: what is kept about a trade, from the running gateway, and what its operator decides about it.

use std::io::Write;
use std::path::PathBuf;

use serde_json::Value;

use super::{DONE, Failure, admin_client};
use crate::admin::is_trade_no;

/// Show what happened to a trade, or decide about what waits of it.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  alipay-notify-gateway trade 2026112322001427340000000000
  alipay-notify-gateway trade release 2026112322001427340000000000 --token-file admin.token --who anna \\
    --reason 'the seller is ours since today'"
)]
pub(super) struct Args {
    #[command(subcommand)]
    order: Option<Order>,
    /// Alipay's trade number (or a notify_id, for what is not about a trade).
    #[arg(required = true, value_parser = trade_no)]
    trade_no: Option<String>,
    /// The admin listener.
    #[arg(long, value_name = "URL", default_value = admin_client::DEFAULT_URL, value_parser = admin_client::url)]
    admin: String,
    /// How to show it.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, clap::Subcommand)]
enum Order {
    /// Announce a held notification that you have looked into; its signature is verified again.
    #[command(after_help = "\
Example:
  alipay-notify-gateway trade release 2026112322001427340000000000 --token-file admin.token --who anna \\
    --reason 'the seller is ours since today'")]
    Release(OrderArgs),
    /// Decide that what waits is never announced; Alipay is answered success from now on.
    #[command(after_help = "\
Example:
  alipay-notify-gateway trade drop 2026112322001427340000000000 --token-file admin.token --who anna \\
    --reason 'a test order'")]
    Drop(OrderArgs),
    /// Show everything that is kept, with the content of what waits: the message, or the held body in base64. It holds
    /// what event.buyer leaves of the buyer, and of a held notification everything.
    #[command(after_help = "\
Example:
  alipay-notify-gateway trade export 2026112322001427340000000000 --token-file admin.token")]
    Export(ExportArgs),
}

#[derive(Debug, clap::Args)]
struct ExportArgs {
    /// Alipay's trade number (or a notify_id, for what is not about a trade).
    #[arg(value_parser = trade_no)]
    trade_no: String,
    /// A file with the admin token.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// The admin listener.
    #[arg(long, value_name = "URL", default_value = admin_client::DEFAULT_URL, value_parser = admin_client::url)]
    admin: String,
}

#[derive(Debug, clap::Args)]
struct OrderArgs {
    /// Alipay's trade number (or a notify_id, for what is not about a trade).
    #[arg(value_parser = trade_no)]
    trade_no: String,
    /// Which of the things that wait, where there are several.
    #[arg(long, value_name = "EVENT_ID")]
    id: Option<String>,
    /// Why: it is logged and kept.
    #[arg(long, value_name = "TEXT", value_parser = admin_client::plain)]
    reason: String,
    /// Who you are: it is logged and kept.
    #[arg(long, value_name = "NAME", value_parser = admin_client::plain)]
    who: String,
    /// A file with the admin token.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// The admin listener.
    #[arg(long, value_name = "URL", default_value = admin_client::DEFAULT_URL, value_parser = admin_client::url)]
    admin: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

pub(super) fn run(args: &Args, out: &mut dyn Write) -> Result<u8, Failure> {
    match (&args.order, &args.trade_no) {
        (Some(Order::Release(order)), _) => carry_out("release", order, out),
        (Some(Order::Drop(order)), _) => carry_out("drop", order, out),
        (Some(Order::Export(args)), _) => export(args, out),
        (None, Some(trade_no)) => show(trade_no, args, out),
        (None, None) => Err(Failure::usage("which trade?")),
    }
}

fn carry_out(action: &str, order: &OrderArgs, out: &mut dyn Write) -> Result<u8, Failure> {
    let token = admin_client::token(&order.token_file)?;
    let mut query = vec![("reason", order.reason.as_str()), ("who", order.who.as_str())];
    query.extend(order.id.as_deref().map(|id| ("id", id)));
    let query = serde_urlencoded::to_string(query).map_err(|error| Failure::usage(error.to_string()))?;
    let path = format!("/trades/{}/{action}?{query}", segment(&order.trade_no));
    let asked = admin_client::post(&order.admin, &path, &token, bytes::Bytes::new());
    let (status, body) = super::block_on(asked)?.map_err(Failure::running)?;
    let text = std::str::from_utf8(&body).unwrap_or_default();
    if !status.is_success() {
        return Err(Failure::running(format!("{action} says {status}: {}", text.trim())));
    }
    writeln!(out, "{}", text.trim())?;
    Ok(DONE)
}

fn export(args: &ExportArgs, out: &mut dyn Write) -> Result<u8, Failure> {
    let path = format!("/trades/{}/export", segment(&args.trade_no));
    let token = admin_client::token(&args.token_file)?;
    let asked = admin_client::get_with(&args.admin, &path, &token);
    let (status, body) = super::block_on(asked)?.map_err(Failure::running)?;
    if !status.is_success() {
        let text = std::str::from_utf8(&body).unwrap_or_default();
        return Err(Failure::running(format!("export says {status}: {}", text.trim())));
    }
    out.write_all(&body)?;
    writeln!(out)?;
    Ok(DONE)
}

/// What the gateway may keep something under.
fn trade_no(text: &str) -> Result<String, String> {
    let is_one = is_trade_no(text);
    is_one.then(|| text.to_owned()).ok_or_else(|| "it has 1 to 128 visible ASCII characters".to_owned())
}

/// It goes into a path, and a `notify_id` may have any character.
fn segment(trade_no: &str) -> String {
    let escaped = trade_no.bytes().map(|byte| match byte {
        b'-' | b'_' | b'.' => char::from(byte).to_string(),
        _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    escaped.collect()
}

fn show(trade_no: &str, args: &Args, out: &mut dyn Write) -> Result<u8, Failure> {
    let path = format!("/trades/{}", segment(trade_no));
    let (status, body) = super::block_on(admin_client::get(&args.admin, &path))?.map_err(Failure::running)?;
    if !status.is_success() {
        return Err(Failure::running(format!("{path} says {status}")));
    }
    if args.format == Format::Json {
        out.write_all(&body)?;
        writeln!(out)?;
        return Ok(DONE);
    }
    let json: Value = serde_json::from_slice(&body).map_err(|error| Failure::running(error.to_string()))?;
    let rows = json.get("rows").and_then(Value::as_array).cloned().unwrap_or_default();
    if rows.is_empty() {
        writeln!(out, "nothing is kept about {trade_no}")?;
    }
    for row in &rows {
        let field = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
        let attempts = row.get("attempts").and_then(Value::as_u64).unwrap_or(0);
        writeln!(out, "{:<10} {}", field("state"), field("event_id"))?;
        writeln!(out, "           first {}, last {}, {attempts} time(s)", field("first_at"), field("at"))?;
        writeln!(
            out,
            "           notify_id {}, digest {}, reason {}",
            field("notify_id"),
            field("digest"),
            field("reason")
        )?;
    }
    Ok(DONE)
}
