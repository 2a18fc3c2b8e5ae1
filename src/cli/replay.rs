//! `replay`: feeds a captured body through the running gateway once more, by its admin listener. What it is, the gateway
//! decides: its signature is verified as at the public door.

use std::io::Write;
use std::path::PathBuf;

use super::explain::capture::Capture;
use super::{DONE, Failure, NOT_VERIFIED, admin_client};

/// Feed a captured notification through the running gateway again, fresh or not.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  alipay-notify-gateway replay captured-body.txt --token-file admin.token --who anna \\
    --reason 'the ingress answered for us last night'

The signature is verified with the keys of today and everything else is checked as ever; only the age is overlooked. What
is announced already is not announced again. What the checks refuse is held: see `trade release`. Ask `explain` first.
Exits 0 when it is announced, now or before; 65 when it is not authentic, or held; 1 when it is not announced yet: `kept` is
announced by the gateway itself when the broker takes it, `not_now` is to be tried again.")]
pub(super) struct Args {
    /// The body as it was received; `-` or nothing: standard input. A request with its head is read, too.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Why: it is logged.
    #[arg(long, value_name = "TEXT", value_parser = admin_client::plain)]
    reason: String,
    /// Who you are: it is logged.
    #[arg(long, value_name = "NAME", value_parser = admin_client::plain)]
    who: String,
    /// A file with the admin token.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// The admin listener.
    #[arg(long, value_name = "URL", default_value = admin_client::DEFAULT_URL, value_parser = admin_client::url)]
    admin: String,
}

pub(super) fn run(args: &Args, out: &mut dyn Write) -> Result<u8, Failure> {
    let token = admin_client::token(&args.token_file)?;
    let body = Capture::read(args.file.as_deref())?.body;
    let query = serde_urlencoded::to_string([("reason", &args.reason), ("who", &args.who)])
        .map_err(|error| Failure::usage(error.to_string()))?;
    let path = format!("/replay?{query}");
    let asked = admin_client::post(&args.admin, &path, &token, body.into());
    let (status, answer) = super::block_on(asked)?.map_err(Failure::running)?;
    let text = std::str::from_utf8(&answer).unwrap_or_default().trim();
    if status.is_success() {
        writeln!(out, "{text}")?;
        return Ok(DONE);
    }
    let code = if status == hyper::StatusCode::CONFLICT { NOT_VERIFIED } else { super::FAILED };
    Err(Failure { code, message: format!("replay says {status}: {text}") })
}
