//! What is to be known of a Redis before payments depend on it: whether it may throw records away, whether it keeps them
//! over a restart, and whether it does what the scripts want.

use std::collections::BTreeMap;
use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use tokio::time::timeout;

use super::line::CONNECT_DEADLINE;
use super::target::Target;
use super::{Config, Redis};
use crate::store::Store as _;

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// What there is.
    pub seen: Vec<String>,
    /// What is odd, or could not be looked at.
    pub warnings: Vec<String>,
    /// Why it is not to be used.
    pub refusals: Vec<String>,
}

/// Whether the URI and the files are such as can be used: the key that is wrong, and what is wrong with it.
///
/// # Errors
/// What is wrong.
pub fn judge(config: &Config) -> Result<(), String> {
    Target::read_now(config).map(drop)
}

/// Connects, looks at each node that keeps something, and writes a key that goes within a second.
///
/// # Errors
/// If it cannot be reached.
pub async fn check(config: &Config) -> Result<Verdict, String> {
    let shared = Arc::new(config.clone());
    let looking = async { Target::read(&shared).await?.keepers().await };
    let nodes = timeout(CONNECT_DEADLINE, looking).await;
    let nodes = nodes.unwrap_or_else(|_| Err(format!("no connection within {CONNECT_DEADLINE:?}")))?;
    let mut verdict = Verdict::default();
    for (name, node) in nodes {
        verdict.look(&name, node).await;
    }
    let store = Redis::open(config).await;
    match store.record(Vec::new()).await {
        Ok(()) => verdict.seen.push("each bucket can be written".to_owned()),
        Err(error) => verdict.refusals.push(format!("it cannot be written: {error}")),
    }
    store.close().await;
    Ok(verdict)
}

impl Verdict {
    async fn look(&mut self, name: &str, mut node: MultiplexedConnection) {
        let info: Option<String> = redis::cmd("INFO").query_async(&mut node).await.ok();
        let info: BTreeMap<String, String> = info.as_deref().map(fields).unwrap_or_default();
        let mut settings = info.clone();
        for setting in SETTINGS {
            let asked = redis::cmd("CONFIG").arg("GET").arg(setting).query_async(&mut node).await;
            let found: BTreeMap<String, String> = asked.unwrap_or_default();
            settings.extend(found);
        }
        self.judge_eviction(name, &settings);
        self.judge_persistence(name, &settings);
        let replicas = info.get("connected_slaves").map_or("0", String::as_str);
        let wants_none = settings.get("min-replicas-to-write").is_some_and(|wanted| wanted == "0");
        if replicas != "0" && wants_none {
            self.warnings.push(format!(
                "{name}: min-replicas-to-write is 0: a master that is cut off goes on answering, and a fail-over \
                 forgets what it answered"
            ));
        }
        if let Some(version) = info.get("redis_version") {
            let is_old = number_of(version).is_some_and(|version| version < OLDEST);
            if is_old {
                self.refusals.push(format!("{name}: version {version} is older than 6.2"));
            }
            let role = info.get("role").map_or("", String::as_str);
            self.seen.push(format!("{name}: version {version}, {role}, {replicas} replica(s)"));
        }
    }

    /// A record that is evicted lets a payment be announced again; an event that waits, and is evicted, is lost.
    fn judge_eviction(&mut self, name: &str, settings: &BTreeMap<String, String>) {
        let policy = settings.get("maxmemory-policy").or_else(|| settings.get("maxmemory_policy"));
        match policy.map(String::as_str) {
            Some("noeviction") => {}
            Some(policy) => self.refusals.push(format!(
                "{name}: maxmemory-policy is {policy}, by which it may throw away what the gateway keeps: set noeviction"
            )),
            None => self.warnings.push(format!(
                "{name}: neither INFO nor CONFIG tells its maxmemory-policy: see yourself that it is noeviction"
            )),
        }
    }

    fn judge_persistence(&mut self, name: &str, settings: &BTreeMap<String, String>) {
        let is_off = |name: &str, off: &str| settings.get(name).map(|value| value == off);
        let aof =
            settings.get("aof_enabled").map(|on| on == "1").or(is_off("appendonly", "no").map(|off| !off));
        match (aof, is_off("save", "")) {
            (Some(true), _) if settings.get("appendfsync").is_some_and(|when| when == "no") => {
                self.warnings.push(format!("{name}: appendfsync is no: a crash takes the last half minute"));
            }
            (Some(true), _) => {}
            (Some(false), Some(true)) => self.warnings.push(format!(
                "{name}: neither appendonly nor save is set: a restart forgets everything, events that wait too"
            )),
            (Some(false), Some(false)) => self.warnings.push(format!(
                "{name}: appendonly is off: a crash forgets everything since the last snapshot"
            )),
            (None, _) | (Some(false), None) => {
                self.warnings.push(format!("{name}: whether it keeps anything over a restart could not be looked at"));
            }
        }
    }
}

fn fields(info: &str) -> BTreeMap<String, String> {
    let lines = info.lines().filter_map(|line| line.trim_end().split_once(':'));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn number_of(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

const SETTINGS: [&str; 5] =
    ["maxmemory-policy", "appendonly", "appendfsync", "save", "min-replicas-to-write"];
/// HRANDFIELD.
const OLDEST: (u32, u32) = (6, 2);
