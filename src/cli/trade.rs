//! `trade`: what is kept about a trade, from the running gateway.

use std::io::Write;

use serde_json::Value;

use super::{DONE, Failure, admin_client};

/// Show what happened to a trade.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  alipay-notify-gateway trade 2026112322001427340000000000")]
pub(super) struct Args {
    /// Alipay's trade number (or a notify_id, for what is not about a trade).
    trade_no: String,
    /// The admin listener.
    #[arg(long, value_name = "URL", default_value = admin_client::DEFAULT_URL)]
    admin: String,
    /// How to show it.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

pub(super) fn run(args: &Args, out: &mut dyn Write) -> Result<u8, Failure> {
    if !args.trade_no.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
        return Err(Failure::usage("a trade number has letters, digits, - _ and . only"));
    }
    let path = format!("/trades/{}", args.trade_no);
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
        writeln!(out, "nothing is kept about {}", args.trade_no)?;
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
