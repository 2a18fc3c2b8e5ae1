//! `explain`: what a captured body is, offline: whether it verifies and, if not, why; what `serve` would
//! announce. It decides nothing itself: `judgement` asks admission, `diagnosis` looks for the mistake,
//! `capture` reads what people have, and `page` prints. Nothing is kept.

pub(super) mod capture;
mod cause;
mod chinese;
mod diagnosis;
mod english;
mod judgement;
mod language;
mod page;
mod parameters;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{DONE, Failure, NOT_VERIFIED};
use crate::admission::Rejection;
use crate::admission::key_ring::{KeyFault, PublicKey};
use crate::admission::notification;
use crate::admission::policy::{App, Buyer, Policy, SignType};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::config;
use crate::event::Environment;
use capture::Capture;
use diagnosis::Evidence;
use judgement::{Grounds, Judgement, Reason};
use language::Language;
use parameters::Parameters;

/// Tell what a captured notification is and, where it does not verify, why.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  alipay-notify-gateway explain --key alipay-public.pem captured-body.txt
  alipay-notify-gateway explain --config gateway.toml --format json - < captured-body.txt
  alipay-notify-gateway explain --key alipay-public.pem --lang zh captured-body.txt

The body is wanted as it was received, before any framework has decoded it.
Exits 0 when the signature verifies, 65 when it does not, 78 when a key or the configuration is wrong.")]
pub(super) struct Args {
    /// The configuration file; its apps and keys are asked.
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    config: Option<PathBuf>,
    /// A public key of Alipay's, in any format; may be given several times. Judges the signature alone.
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// The app that it should be of. Default: the one that the body names.
    #[arg(long, value_name = "ID")]
    app_id: Option<String>,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// In which language to explain: en, zh.
    #[arg(long, value_enum, default_value_t = Language::English)]
    lang: Language,
    /// Show who the buyer is, too. (JSON has the signing content as it is, always.)
    #[arg(long)]
    show_buyer: bool,
    /// The time to judge at: RFC 3339, or `yyyy-MM-dd HH:mm:ss` in UTC+8. Default: the notification's own.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    at: Option<Timestamp>,
    /// The captured body; `-` or nothing: standard input. Files before it are more keys, where --key is given.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

pub(super) fn run(args: &Args, out: &mut dyn Write) -> Result<u8, Failure> {
    let (file, keys) = file_and_keys(args)?;
    let capture = Capture::read(file)?;
    let (grounds, sign_type) = grounds(args, &keys, &capture)?;
    let judgement = judgement::judge(&capture.body, &grounds, args.at, SystemClock.now());
    let hints = hints(&judgement, &capture, &grounds, sign_type, args.lang);
    match args.format {
        Format::Text => {
            let screen = page::Screen { language: args.lang, show_buyer: args.show_buyer };
            screen.print(&judgement, &hints, out)?;
        }
        Format::Json => page::json(&judgement, &hints, out)?,
    }
    Ok(if judgement.proof.is_some() { DONE } else { NOT_VERIFIED })
}

/// What `explain --key KEY --format json` prints of a capture, without files and a terminal: what the fuzz targets ask.
/// `None` if the key cannot be used.
pub fn json_of(captured: &[u8], key: &[u8]) -> Option<Vec<u8>> {
    let capture = Capture::of(captured);
    let parameters = Parameters::lenient(&capture.body);
    let claimed = parameters.value("app_id").and_then(|id| std::str::from_utf8(id).ok());
    let keys = [("key".to_owned(), key.to_vec())];
    let (grounds, sign_type) = given(&keys, claimed, parameters.value("sign_type")).ok()?;
    let judgement = judgement::judge(&capture.body, &grounds, None, SystemClock.now());
    let hints = hints(&judgement, &capture, &grounds, sign_type, Language::English);
    let mut printed = Vec::new();
    page::json(&judgement, &hints, &mut printed).ok()?;
    Some(printed)
}

/// `--key a b body` is two keys and a body, as a shell's `--key *.pem body` makes it.
fn file_and_keys(args: &Args) -> Result<(Option<&Path>, Vec<PathBuf>), Failure> {
    let Some((file, before)) = args.files.split_last() else { return Ok((None, args.key.clone())) };
    if !before.is_empty() && args.key.is_empty() {
        return Err(Failure::usage("one captured body at a time"));
    }
    Ok((Some(file), args.key.iter().chain(before).cloned().collect()))
}

fn hints(
    judgement: &Judgement,
    capture: &Capture,
    grounds: &Grounds,
    sign_type: SignType,
    language: Language,
) -> Vec<String> {
    let mut hints: Vec<String> =
        capture.shape.iter().map(|shape| language.shape(*shape).to_owned()).collect();
    let shadowed = judgement.reason == Some(Reason::Rejected(Rejection::ShadowKey));
    if judgement.proof.is_none() && !shadowed {
        let apps = grounds.apps.iter().collect();
        let evidence = Evidence { body: &capture.body, keys: &grounds.suspects, sign_type, apps };
        hints.extend(diagnosis::diagnose(&evidence).iter().map(|cause| language.cause(cause)));
        hints.extend(grounds.remarks.iter().cloned());
    }
    let unproven = judgement.proof.is_none();
    match judgement.reason {
        // The diagnosis has said it better.
        Some(Reason::Rejected(Rejection::Signature | Rejection::SignatureForm | Rejection::NoSignature))
            if unproven => {}
        Some(Reason::Rejected(rejection)) => hints.push(language.advice(rejection).to_owned()),
        Some(Reason::Held(objection)) => hints.push(language.held(objection).to_owned()),
        None => {}
    }
    hints
}

fn grounds(args: &Args, keys: &[PathBuf], capture: &Capture) -> Result<(Grounds, SignType), Failure> {
    let parameters = Parameters::lenient(&capture.body);
    let claimed = parameters.value("app_id").and_then(|id| std::str::from_utf8(id).ok());
    let asked = args.app_id.as_deref().or(claimed);
    if args.key.is_empty() {
        configured(args, asked)
    } else {
        given(&read_key_files(keys)?, asked, parameters.value("sign_type"))
    }
}

/// The keys of the app; or, where none is named or it is not one of ours, all keys that there are: whether the
/// signature is authentic is one question, and whether it is for us another.
fn configured(args: &Args, asked: Option<&str>) -> Result<(Grounds, SignType), Failure> {
    let mut policy = policy_of(args.config.as_deref())?;
    if let Some(app_id) = &args.app_id
        && !policy.apps.contains_key(app_id)
    {
        return Err(Failure::configuration(format!("apps: {app_id} is not configured")));
    }
    let apps: Vec<App> = policy.apps.values().cloned().collect();
    // Judged as of that app, it is no other app's either: what is not verified here must not be announced here.
    policy.apps.retain(|app_id, _| args.app_id.as_ref().is_none_or(|asked| asked == app_id));
    let app = asked.and_then(|app_id| policy.apps.get(app_id));
    let keys = app.map_or_else(
        || policy.apps.values().flat_map(|app| app.keys.clone()).collect(),
        |app| app.keys.clone(),
    );
    let sign_type = app.or_else(|| policy.apps.values().next()).map_or(SignType::Rsa2, |app| app.sign_type);
    Ok((Grounds { policy, apps, suspects: keys.clone(), keys, remarks: Vec::new() }, sign_type))
}

fn policy_of(config: Option<&Path>) -> Result<Policy, Failure> {
    config::load_policy(config).map_err(|problems| Failure::configuration(problems.to_string()))
}

/// A policy of nothing but the keys: one app of any seller. The hash is the one that the body names; and since anybody
/// can write that, a key that cannot be of it is no fault of the key's, and proves nothing.
fn given(
    files: &[KeyFile],
    asked: Option<&str>,
    claimed: Option<&[u8]>,
) -> Result<(Grounds, SignType), Failure> {
    let app_id = asked.unwrap_or_default();
    let (sign_type, other) = match claimed {
        Some(b"RSA") => (SignType::Rsa, SignType::Rsa2),
        Some(_) | None => (SignType::Rsa2, SignType::Rsa),
    };
    let Keys { fit, unfit, remarks } = read_keys(files, app_id, [sign_type, other])?;
    // It says nothing that could be meant: then the key's size says what can be.
    let by_size = !matches!(claimed, Some(b"RSA" | b"RSA2"));
    let expected = if fit.is_empty() && by_size { other } else { sign_type };
    let believed = if fit.is_empty() { other } else { sign_type };
    let keys = if fit.is_empty() && by_size { unfit.clone() } else { fit.clone() };
    let app = App {
        app_id: app_id.to_owned(),
        environment: Environment::Production,
        seller_ids: BTreeSet::new(),
        keys: if fit.is_empty() { unfit.clone() } else { fit.clone() },
        shadow_keys: Vec::new(),
        sign_type: believed,
    };
    // What is not an app's number must not come into an event's id, which is never escaped.
    let fits = (1..=32).contains(&app_id.len()) && app_id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let policy = Policy {
        apps: fits.then(|| (app_id.to_owned(), app)).into_iter().collect(),
        max_age: MAX_AGE,
        retention: RETENTION,
        complete_since: Timestamp::default(),
        buyer: Buyer::default(),
        notification: true,
    };
    let suspects = fit.into_iter().chain(unfit).collect();
    Ok((Grounds { policy, apps: Vec::new(), keys, suspects, remarks }, expected))
}

/// A name to call it by, and what is in it.
type KeyFile = (String, Vec<u8>);

/// What `--key` gave.
struct Keys {
    /// Of a size that the first of the two algorithms has.
    fit: Vec<PublicKey>,
    /// Of a size that only the second has.
    unfit: Vec<PublicKey>,
    remarks: Vec<String>,
}

fn read_key_files(files: &[PathBuf]) -> Result<Vec<KeyFile>, Failure> {
    let read = |file: &PathBuf| {
        let name = file.display().to_string();
        let content = capture::read_file(file)
            .map_err(|error| Failure::configuration(format!("--key {name}: {error}")))?;
        Ok((name, content))
    };
    files.iter().map(read).collect()
}

fn read_keys(files: &[KeyFile], app_id: &str, [sign_type, other]: [SignType; 2]) -> Result<Keys, Failure> {
    let mut keys = Keys { fit: Vec::with_capacity(files.len()), unfit: Vec::new(), remarks: Vec::new() };
    for (name, content) in files {
        let odd = match PublicKey::read(content, app_id, sign_type) {
            Ok((key, odd)) => {
                keys.fit.push(key);
                odd
            }
            Err(fault) => {
                let second = PublicKey::read(content, app_id, other).ok();
                let unfit = second.filter(|_| matches!(fault, KeyFault::Size { .. }));
                let (key, odd) =
                    unfit.ok_or_else(|| Failure::configuration(format!("--key {name}: {fault}")))?;
                keys.unfit.push(key);
                keys.remarks.push(format!("{name}: {fault}"));
                odd
            }
        };
        keys.remarks.extend(odd.iter().map(|remark| format!("{name}: {remark}")));
    }
    Ok(keys)
}

/// RFC 3339, or as Alipay writes a time.
fn moment(text: &str) -> Result<Timestamp, String> {
    parse_moment(text).filter(|at| (0..=LATEST_MILLIS).contains(&at.unix_millis())).ok_or_else(|| {
        "not a time: write 2026-11-23T10:15:31+08:00, or 2026-11-23 10:15:31 (UTC+8)".to_owned()
    })
}

fn parse_moment(text: &str) -> Option<Timestamp> {
    let (date, rest) = text.split_at_checked(10)?;
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let zone = rest.find(['Z', 'z', '+', '-']).unwrap_or(rest.len());
    let (time, zone) = rest.split_at(zone);
    let beijing = notification::time(format!("{date} {time}").as_bytes())?;
    let minutes = match zone {
        "" => BEIJING_MINUTES,
        "Z" | "z" => 0,
        _ => {
            let (hours, minutes) = zone.get(1..)?.split_once(':')?;
            let number = |digits: &str, below: i64| -> Option<i64> {
                let is_one = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
                digits.parse().ok().filter(|number| is_one && *number < below)
            };
            let (hours, minutes) = (number(hours, 24)?, number(minutes, 60)?);
            let east = hours * 60 + minutes;
            if zone.starts_with('-') { -east } else { east }
        }
    };
    let shift = (BEIJING_MINUTES - minutes) * 60_000;
    Some(Timestamp::from_unix_millis(beijing.unix_millis() + shift))
}

/// China's zone is eight hours east.
const BEIJING_MINUTES: i64 = 8 * 60;
/// The end of the year 9998 in UTC: whatever is printed of it still has four digits.
const LATEST_MILLIS: i64 = 253_370_764_799_999;
/// `freshness.max_age` where there is no configuration: its default.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// `store.retention` where there is no configuration: its default.
const RETENTION: Duration = Duration::from_secs(35 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_rfc_3339_or_as_alipay_writes_it() {
        for text in [
            "2026-11-23 10:15:31",
            "2026-11-23T10:15:31+08:00",
            "2026-11-23T02:15:31Z",
            "2026-11-22T21:15:31.000-05:00",
        ] {
            assert_eq!(moment(text).unwrap().rfc3339_utc(), "2026-11-23T02:15:31Z", "{text}");
        }
        for bad in [
            "",
            "now",
            "2026-11-23",
            "2026-11-23T10:15:31+8",
            "9999-12-31 23:59:59",
            "2026-11-23T10:15:31+é:00",
            "2026-11-23T10:15:31+25:00",
            "2026-11-23T10:15:31+08:60",
            "2026-11-23T10:15:31++8:00",
        ] {
            assert!(moment(bad).is_err(), "{bad}");
        }
    }
}
