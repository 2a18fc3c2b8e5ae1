//! Configuration: the only place that knows where a value came from. A file and the environment become one set
//! of values ([`source`]); those become each module's own `Config` ([`sections`], [`apps`]). Nothing downstream checks
//! again. Every problem is collected, with its key and never with a secret.

mod apps;
mod keys;
mod reader;
mod sections;
mod source;
mod watched;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::admission::policy::Policy;
use crate::broker::amqp;
use crate::lifecycle::{Shutdown, Supervisor};
use crate::{admin, http, publication, store, telemetry};

pub use apps::is_kept_long_enough;
pub use keys::KEYS;
use reader::Reader;
pub use watched::Watched;

/// Everything that `serve` needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `[http]`.
    pub http: http::Config,
    /// `http.failure_budget`.
    pub failure_budget: u32,
    /// `[admin]`.
    pub admin: admin::Config,
    /// `[amqp]`, as far as it is about the broker.
    pub amqp: amqp::Config,
    /// `[publication]`, and what of other sections bounds it.
    pub publication: publication::Config,
    /// `[store]`.
    pub store: store::engine::Config,
    /// `[[apps]]`, `[freshness]`, `[event]`.
    pub policy: Policy,
    /// `runtime.threads`; 0: as many as suit the machine.
    pub threads: usize,
    /// `[shutdown]`.
    pub shutdown: Shutdown,
    /// `[log]`.
    pub log: telemetry::Config,
    /// `[traces]`.
    pub traces: telemetry::traces::Config,
}

/// A configuration without problems.
#[derive(Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// What is odd, and no reason to refuse it.
    pub remarks: Vec<String>,
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// The files that the policy and the certificate of `http` came from, and the configuration file: when one changes, all is to be
    /// loaded again.
    pub watched: Vec<Watched>,
    /// Who started the process, as far as the environment says.
    pub supervisor: Supervisor,
}

/// What is wrong with a configuration: at least one thing, each with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Problems {}

/// Loads the configuration: from `file`, else from `gateway.toml` if there is one, else from three variables.
///
/// # Errors
/// Every problem at once.
pub fn load(file: Option<&Path>) -> Result<Loaded, Problems> {
    let environment = environment()?;
    #[cfg(feature = "failpoints")]
    crate::failpoint::arm(&environment).map_err(|problem| Problems(vec![problem]))?;
    load_from(file, environment)
}

/// As [`load`], with an environment of the caller's.
///
/// # Errors
/// Every problem at once.
pub fn load_from(file: Option<&Path>, environment: Vec<(String, String)>) -> Result<Loaded, Problems> {
    let supervisor = Supervisor::of(&environment, std::process::id());
    let gathered = source::gather(file, environment);
    let file = gathered.file.as_ref().map(|file| file.path.clone());
    let mut reader = Reader::new(gathered);
    let config = sections::config(&mut reader);
    let watched = reader.watched();
    let remarks = reader.finish()?;
    let config = config.ok_or_else(|| Problems(vec!["the configuration is not complete".to_owned()]))?;
    Ok(Loaded { config, remarks, file, watched, supervisor })
}

/// Loads only what admission judges by, for `explain`: nothing but `[[apps]]` has to be there.
///
/// # Errors
/// Every problem at once.
pub fn load_policy(file: Option<&Path>) -> Result<Policy, Problems> {
    load_policy_from(file, environment()?)
}

/// As [`load_policy`], with an environment of the caller's.
///
/// # Errors
/// Every problem at once.
pub fn load_policy_from(file: Option<&Path>, environment: Vec<(String, String)>) -> Result<Policy, Problems> {
    let mut reader = Reader::new(source::gather(file, environment));
    let policy = apps::policy(&mut reader);
    reader.leave_the_rest();
    reader.finish()?;
    policy.ok_or_else(|| Problems(vec!["apps: there is no app".to_owned()]))
}

/// Every variable that is text. One that is meant for us and is not would silently not count.
#[expect(clippy::disallowed_methods, reason = "the one place that asks")]
fn environment() -> Result<Vec<(String, String)>, Problems> {
    let (mut text, mut problems) = (Vec::new(), Vec::new());
    for (name, value) in std::env::vars_os() {
        let shown = name.to_string_lossy().into_owned();
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => text.push((name, value)),
            _ if source::is_ours(&shown) => {
                problems.push(format!("environment variable {shown}: is not UTF-8"));
            }
            _ => {}
        }
    }
    if problems.is_empty() { Ok(text) } else { Err(Problems(problems)) }
}

/// Where a configuration is looked for when none is named.
pub const DEFAULT_FILE: &str = "gateway.toml";
