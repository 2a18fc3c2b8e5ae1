//! `explain`: offline, what a captured body is: parsed, verified, classified, and where it does not verify, why.
//! It shows what `serve` would do with it, seen for the first time, and prints no buyer's data.

mod diagnosis;
mod evidence;

use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::{CONFIGURATION, DONE, Failure, NOT_VERIFIED};
use crate::admission::key_ring::PublicKey;
use crate::admission::policy::{Policy, SignType};
use crate::admission::{self, Verdict, form::Form, notification};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::config;
use crate::event::{Event, Message};
use evidence::{Authenticity, Evidence};

/// Say what a captured body is, and why it does not verify.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  alipay-notify-gateway explain --key alipay-public.pem body.txt
  alipay-notify-gateway explain --config gateway.toml --format json - < body.txt

--key without --config judges the signature alone, and takes the hash from the body's sign_type.
Exits 0 if the signature is authentic, 65 if not.")]
pub(super) struct Args {
    /// The configuration whose apps, keys and limits are to judge it.
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    config: Option<PathBuf>,
    /// A public key of Alipay's; may be given several times.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    key: Vec<PathBuf>,
    /// The app that it is for, where the body does not say or another is meant.
    #[arg(long, value_name = "ID")]
    app_id: Option<String>,
    /// How to print it.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// The time to judge by: RFC 3339, or yyyy-MM-dd HH:mm:ss in China. By default the body's notify_time, else now.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// The body, byte for byte as it was posted; - or nothing for standard input.
    #[arg(value_name = "FILE")]
    body: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

/// What is said. The names are contract.md's.
#[derive(Debug, Serialize)]
struct Explanation {
    verified: bool,
    event_type: Option<&'static str>,
    event_id: Option<String>,
    reason: Option<&'static str>,
    signing_content: String,
    hints: Vec<String>,
    event: Option<Value>,
    #[serde(skip)]
    because: Option<String>,
    #[serde(skip)]
    key: Option<String>,
}

pub(super) fn run(args: &Args, out: &mut dyn Write) -> Result<u8, Failure> {
    let (keys, file) = keys_and_body(args);
    let body = read_body(file)?;
    let form = Form::parse(&body);
    let at = clock(args, form.as_ref().ok())?;
    let evidence = if keys.is_empty() {
        let policy = config::load_policy(args.config.as_deref());
        Evidence::of_policy(policy.map_err(|problems| Failure::configuration(problems.to_string()))?)
    } else {
        Evidence::of_keys(keys, args.app_id.as_deref(), form.as_ref().ok())?
    };
    let explanation = explain(&body, form, &evidence, at);
    match args.format {
        Format::Json => writeln!(out, "{}", serde_json::to_string(&explanation).unwrap_or_default())?,
        Format::Text => explanation.print(out)?,
    }
    Ok(if explanation.verified { DONE } else { NOT_VERIFIED })
}

fn explain(
    body: &[u8],
    form: Result<Form, admission::form::FormError>,
    evidence: &Evidence,
    at: Timestamp,
) -> Explanation {
    let form = match form {
        Ok(form) => form,
        Err(error) => return Explanation::of_garbage(body, error),
    };
    let authenticity = evidence.authenticity(&form);
    let charset = notification::Charset::of(&form);
    let mut explanation = Explanation {
        verified: authenticity.is_some(),
        event_type: None,
        event_id: None,
        reason: None,
        signing_content: charset.text(&evidence.signing_content(&form, authenticity.as_ref())).0.into_owned(),
        hints: Vec::new(),
        event: None,
        because: None,
        key: authenticity.as_ref().map(|authenticity| authenticity.key.clone()),
    };
    match admission::admit(body, &evidence.policy, at) {
        Verdict::Admitted(admitted, _) => explanation.announce(admitted.event()),
        Verdict::Withheld(withheld, _) => {
            explanation.refuse(withheld.objection().reason(), withheld.objection().to_string());
        }
        Verdict::Rejected(rejection) => explanation.refuse(rejection.reason(), rejection.to_string()),
    }
    if !explanation.verified {
        explanation.hints = diagnosis::hints(&form, evidence);
    } else if let Some(hint) = note(authenticity.as_ref(), explanation.reason) {
        explanation.hints.push(hint);
    }
    explanation
}

impl Explanation {
    fn announce(&mut self, event: &Event) {
        if event.stale {
            let objection = admission::acceptance::Objection::Stale;
            return self.refuse(objection.reason(), objection.to_string());
        }
        // Seen for the first time, a payment older than the retention is late.
        let event = if event.late { event.as_late() } else { event.clone() };
        let message = Message::of(&event, false, None);
        self.event_type = Some(event.event_type.as_str());
        self.event_id = Some(message.id.clone());
        self.event = serde_json::from_str(&message.body).ok();
    }

    fn refuse(&mut self, reason: &'static str, because: String) {
        self.reason = Some(reason);
        self.because = Some(because);
    }

    fn of_garbage(body: &[u8], error: admission::form::FormError) -> Self {
        Self {
            verified: false,
            event_type: None,
            event_id: None,
            reason: Some(admission::Rejection::Malformed(error).reason()),
            signing_content: String::new(),
            hints: diagnosis::of_garbage(body, error),
            event: None,
            because: Some(error.to_string()),
            key: None,
        }
    }

    fn print(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let verified = if self.verified { "yes" } else { "NO" };
        writeln!(
            out,
            "signature verified   {verified}{}",
            self.key.as_ref().map(|key| format!(", by key {key}")).unwrap_or_default()
        )?;
        match (self.event_type, self.reason) {
            (Some(event_type), _) => {
                writeln!(out, "serve would announce {event_type}")?;
                writeln!(out, "event id             {}", self.event_id.as_deref().unwrap_or_default())?;
            }
            (None, reason) => {
                writeln!(out, "serve would refuse   {}", reason.unwrap_or("it"))?;
                writeln!(out, "because              {}", self.because.as_deref().unwrap_or_default())?;
            }
        }
        for hint in &self.hints {
            writeln!(out, "hint                 {hint}")?;
        }
        writeln!(out, "signing content      {}", printable(&self.signing_content))
    }
}

fn note(authenticity: Option<&Authenticity>, reason: Option<&str>) -> Option<String> {
    if reason == Some("no_app_id") && authenticity.is_some_and(|authenticity| authenticity.is_v2) {
        return Some("authentic application-gateway traffic, signed with a key that many merchants share: it names no app, so it proves nothing about a payment of yours".to_owned());
    }
    None
}

/// Values of parameters that tell who the buyer is are not shown to people; control characters are escaped.
fn printable(content: &str) -> String {
    let hidden = content.split('&').map(|pair| match pair.split_once('=') {
        Some((name, _)) if notification::is_personal(name.as_bytes()) => format!("{name}=…"),
        _ => pair.to_owned(),
    });
    let joined = hidden.collect::<Vec<_>>().join("&");
    joined
        .chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect()
}

/// `--key` takes several files, so it takes the body that follows them too: where no body is named, the last of
/// them is it, unless it is a key.
fn keys_and_body(args: &Args) -> (&[PathBuf], Option<&Path>) {
    if let (None, Some((last, keys))) = (&args.body, args.key.split_last())
        && !keys.is_empty()
    {
        let is_key = std::fs::read(last).is_ok_and(|content| {
            [SignType::Rsa2, SignType::Rsa].iter().any(|kind| PublicKey::read(&content, "", *kind).is_ok())
        });
        if !is_key {
            return (keys, Some(last));
        }
    }
    (&args.key, args.body.as_deref())
}

/// The bytes, without the line end that an editor or a shell put behind them.
fn read_body(file: Option<&Path>) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    match file {
        None => std::io::stdin().lock().take(MAX_BODY).read_to_end(&mut body)?,
        Some(path) if path.as_os_str() == "-" => {
            std::io::stdin().lock().take(MAX_BODY).read_to_end(&mut body)?
        }
        Some(path) => {
            let file = std::fs::File::open(path);
            let file = file.map_err(|error| Failure::running(format!("{}: {error}", path.display())))?;
            file.take(MAX_BODY).read_to_end(&mut body)?
        }
    };
    if body.last() == Some(&b'\n') {
        body.pop();
        if body.last() == Some(&b'\r') {
            body.pop();
        }
    }
    Ok(body)
}

fn clock(args: &Args, form: Option<&Form>) -> Result<Timestamp, Failure> {
    if let Some(at) = &args.at {
        let parsed = notification::time(at.as_bytes()).or_else(|| Timestamp::from_rfc3339(at));
        return parsed.ok_or_else(|| {
            Failure::usage(format!("--at {at:?} is neither RFC 3339 nor yyyy-MM-dd HH:mm:ss"))
        });
    }
    let notified = form.and_then(|form| form.value("notify_time")).and_then(notification::time);
    Ok(notified.unwrap_or_else(|| SystemClock.now()))
}

impl Evidence {
    fn of_policy(policy: Policy) -> Self {
        Self { policy, alone: Vec::new() }
    }
}

/// For key files: an unfit key is a matter of configuration.
fn unfit(path: &Path, fault: impl std::fmt::Display) -> Failure {
    Failure { code: CONFIGURATION, message: format!("{}: {fault}", path.display()) }
}

/// Bound: a capture is a body of at most 64 KiB; this leaves room for what people paste.
const MAX_BODY: u64 = 1 << 20;
