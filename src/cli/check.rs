//! `check`: every problem of a configuration at once; with `--connect` the broker and the store too.

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use super::{DONE, Failure, admin_client};
use crate::admin::KeyReport;
use crate::broker::amqp;
use crate::config::{self, Config};
use crate::store::sqlite::{self, OpenError, Sqlite};
use crate::store::{engine, redis as shared};

/// Tell every problem of a configuration, each with its key.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  alipay-notify-gateway check --config gateway.toml --connect

Exits 0 when there is no problem, 78 when there is, 1 when --connect finds something away or not as it should be.")]
pub(super) struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Connect to the broker and open the store too, and ask a running gateway which keys it uses. Changes nothing.
    #[arg(long)]
    connect: bool,
}

pub(super) fn run(args: &Args, out: &mut dyn Write) -> Result<u8, Failure> {
    let loaded = config::load(args.config.as_deref())
        .map_err(|problems| Failure::configuration(problems.to_string()))?;
    for remark in &loaded.remarks {
        writeln!(out, "remark: {remark}")?;
    }
    describe(&loaded.config, out)?;
    if args.connect {
        connect(&loaded.config, out)?;
    }
    writeln!(out, "ok")?;
    Ok(DONE)
}

fn describe(config: &Config, out: &mut dyn Write) -> std::io::Result<()> {
    for app in config.policy.apps.values() {
        let full = app.keys.iter().map(|key| key.fingerprint().to_owned());
        let shadow = app.shadow_keys.iter().map(|key| format!("{} in shadow", key.fingerprint()));
        let keys: Vec<String> = full.chain(shadow).collect();
        writeln!(
            out,
            "app {}: {}, {}, {} seller(s), key(s) {}",
            app.app_id,
            app.environment.as_str(),
            app.sign_type.as_str(),
            app.seller_ids.len(),
            keys.join(", ")
        )?;
    }
    writeln!(out, "notify URL: https://YOUR-HOST{}", config.http.path)
}

/// Everything that is away or wrong, at once.
fn connect(config: &Config, out: &mut dyn Write) -> Result<(), Failure> {
    let mut problems = Vec::new();
    match super::block_on(amqp::check(&config.amqp))? {
        Ok(looked) => {
            for line in &looked.seen {
                writeln!(out, "broker: {line}")?;
            }
            problems.extend(looked.problems);
        }
        Err(error) => problems.push(format!("amqp.uri: {error}")),
    }
    match &config.store {
        engine::Config::Sqlite(store) => look_at_file(store, &mut problems, out)?,
        engine::Config::Redis(store) => look_at_redis(store, &mut problems, out)?,
    }
    report_keys(config, out)?;
    if problems.is_empty() { Ok(()) } else { Err(Failure::running(problems.join("\n"))) }
}

fn look_at_file(
    config: &sqlite::Config,
    problems: &mut Vec<String>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let path = config.path.display();
    match Sqlite::check(config) {
        Ok(()) if !config.path.exists() => writeln!(out, "store: {path} can be made")?,
        Ok(()) => writeln!(out, "store: {path} can be written")?,
        Err(OpenError::Taken(_)) => writeln!(out, "store: {path} is open in a running gateway")?,
        Err(error) => problems.push(error.to_string()),
    }
    Ok(())
}

fn look_at_redis(
    config: &shared::Config,
    problems: &mut Vec<String>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    match super::block_on(shared::check(config))? {
        Ok(verdict) => {
            for line in &verdict.seen {
                writeln!(out, "store: {line}")?;
            }
            for warning in &verdict.warnings {
                writeln!(out, "remark: store: {warning}")?;
            }
            problems.extend(verdict.refusals.iter().map(|refusal| format!("store.uri: {refusal}")));
        }
        Err(error) => problems.push(format!("store.uri: {error}")),
    }
    Ok(())
}

/// What a running gateway with this configuration has seen of its keys.
fn report_keys(config: &Config, out: &mut dyn Write) -> Result<(), Failure> {
    let mut admin = config.admin.listen;
    if admin.ip().is_unspecified() {
        admin.set_ip(if admin.is_ipv6() { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() });
    }
    let answer = super::block_on(admin_client::get(&format!("http://{admin}"), "/keys"))?;
    let keys: Option<Vec<KeyReport>> = match answer {
        Ok((status, body)) if status.is_success() => serde_json::from_slice(&body).ok(),
        Ok(_) | Err(_) => None,
    };
    let Some(keys) = keys else {
        writeln!(out, "keys: no gateway answers at {admin}: which keys are in use is not known")?;
        return Ok(());
    };
    for key in &keys {
        let of_its_app = keys.iter().filter(|other| other.app_id == key.app_id && !other.shadow);
        let successor =
            of_its_app.filter(|other| other.key != key.key && other.last_at.is_some()).count() > 0;
        writeln!(out, "key {} of app {}: {}", key.key, key.app_id, advice(key, successor))?;
    }
    Ok(())
}

/// What to do about a key. `has_successor`: another key of the app that is believed has verified something.
fn advice(key: &KeyReport, has_successor: bool) -> String {
    let hours = key.idle_seconds / 3600;
    let idle = key.idle_seconds >= LAST_DELIVERY_SECONDS;
    let expired =
        key.expires_at.as_ref().map(|at| format!("; its certificate ends at {at}")).unwrap_or_default();
    let told = match (&key.last_at, key.shadow) {
        (Some(at), true) => format!("in shadow, and Alipay signs with it (last at {at}): believe it now"),
        (None, true) => format!("in shadow, and has verified nothing since {}", key.since),
        (_, false) if idle && has_successor => format!("unused for {hours} h, safe to remove"),
        (Some(at), false) => format!("in use, last at {at}"),
        (None, false) if has_successor => {
            format!("unused since {}, {hours} h ago: wait until 26 h are over", key.since)
        }
        (None, false) => format!("has verified nothing since {}", key.since),
    };
    told + &expired
}

/// Alipay's last delivery of a notification comes some 25 hours after the first (protocol.md §6); an hour more for
/// clocks and queues.
const LAST_DELIVERY_SECONDS: u64 = 26 * 3600;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(idle_hours: u64, last_at: Option<&str>, shadow: bool) -> KeyReport {
        KeyReport {
            app_id: "1".to_owned(),
            key: "ab".to_owned(),
            shadow,
            since: "S".to_owned(),
            last_at: last_at.map(str::to_owned),
            idle_seconds: idle_hours * 3600,
            expires_at: None,
        }
    }

    #[test]
    fn a_key_is_safe_to_remove_only_after_26_hours_and_with_a_successor_that_works() {
        assert_eq!(advice(&key(26, None, false), true), "unused for 26 h, safe to remove");
        assert_eq!(advice(&key(30, Some("L"), false), true), "unused for 30 h, safe to remove");
        for kept in [
            advice(&key(25, None, false), true),
            advice(&key(25, Some("L"), false), true),
            advice(&key(100, None, false), false),
            advice(&key(100, Some("L"), false), false),
            advice(&key(100, None, true), true),
            advice(&key(100, Some("L"), true), true),
        ] {
            assert!(!kept.contains("safe to remove"), "{kept}");
        }
        assert!(advice(&key(0, Some("L"), true), true).contains("believe it now"));
    }
}
