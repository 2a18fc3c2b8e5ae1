//! Where values come from: a TOML file, the environment, or three variables. The result is one flat map from
//! key to value; the environment beats the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::DEFAULT_FILE;
use super::keys::{KEYS, general};
use super::watched::Watched;
use crate::telemetry::traces;

/// What was found.
pub(super) struct Gathered {
    pub(super) values: BTreeMap<String, Value>,
    pub(super) problems: Vec<String>,
    pub(super) remarks: Vec<String>,
    /// Relative paths are relative to this.
    pub(super) folder: PathBuf,
    /// As it was before it was read.
    pub(super) file: Option<Watched>,
    /// Whether the file could not be read, so that nobody knows what is in it.
    pub(super) is_unread: bool,
}

/// Reads everything and refuses what has no key.
pub(super) fn gather(file: Option<&Path>, environment: Vec<(String, String)>) -> Gathered {
    let file = file.map(Path::to_owned).or_else(|| {
        let default = PathBuf::from(DEFAULT_FILE);
        default.exists().then_some(default)
    });
    let folder = file.as_deref().and_then(Path::parent).map(Path::to_owned).unwrap_or_default();
    let mut gathered = Gathered {
        values: BTreeMap::new(),
        problems: Vec::new(),
        remarks: Vec::new(),
        folder,
        file: file.map(Watched::look),
        is_unread: false,
    };
    let short: Vec<&(String, String)> = environment
        .iter()
        .filter(|(name, value)| SHORT.contains(&name.as_str()) && !value.is_empty())
        .collect();
    match gathered.file.clone() {
        Some(file) => {
            gathered.read_file(&file.path);
            gathered.refuse_short(&short);
        }
        None => gathered.read_short(&short),
    }
    gathered.read_environment(&environment);
    gathered.read_conventions(&environment);
    gathered.refuse_unknown();
    gathered
}

impl Gathered {
    fn read_file(&mut self, path: &Path) {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                self.is_unread = true;
                return self.problems.push(format!("{}: {error}", path.display()));
            }
        };
        match text.parse::<Table>() {
            Ok(table) => flatten("", table, &mut self.values),
            // The parser shows the line, and the line may hold a secret: only where and what.
            Err(error) => {
                self.is_unread = true;
                let before = error.span().and_then(|span| text.get(..span.start));
                let line = before.map_or(1, |before| before.matches('\n').count() + 1);
                self.problems.push(format!("{} line {line}: {}", path.display(), error.message()));
            }
        }
        for key in self.values.keys().filter(|key| self.values.contains_key(&format!("{key}_file"))) {
            self.problems.push(format!("{key}: {key}_file is given too; one of them must go"));
        }
    }

    /// Only variables that contain `__` override: `GATEWAY_AMQP__URI` is `amqp.uri`.
    fn read_environment(&mut self, environment: &[(String, String)]) {
        let mut set: Vec<String> = Vec::new();
        for (name, value) in environment {
            let Some(path) = overriding(name) else { continue };
            let key = path.replace("__", ".").to_ascii_lowercase();
            if !KEYS.contains(&key.as_str()) || key.contains('[') {
                self.problems.push(format!(
                    "environment variable {name}: there is no key {key} that the environment can set"
                ));
                continue;
            }
            let other = key.strip_suffix("_file").map_or_else(|| format!("{key}_file"), str::to_owned);
            if set.contains(&other) {
                self.problems
                    .push(format!("{key}: {other} is set in the environment too; one of them must go"));
            }
            self.values.remove(&other);
            self.values.insert(key.clone(), Value::String(value.clone()));
            set.push(key);
        }
    }

    /// What operators set out of habit. The file and `GATEWAY_LOG__…`, `GATEWAY_TRACES__…` come first.
    fn read_conventions(&mut self, environment: &[(String, String)]) {
        let set =
            |name: &str| environment.iter().find(|(variable, value)| variable == name && !value.is_empty());
        for (name, key) in CONVENTIONS {
            let Some((_, value)) = set(name).filter(|_| !self.values.contains_key(key)) else { continue };
            // Set for a whole cluster as a rule, and for programs of all kinds: no reason not to start.
            let has_meaning = match key {
                OTLP_ENDPOINT => traces::AVAILABLE && value.parse::<traces::Endpoint>().is_ok(),
                RESOURCE => value.split(',').all(|pair| pair.contains('=')),
                _ => true,
            };
            if !has_meaning {
                self.remarks
                    .push(format!("{name} is set and not used: {key} takes no such value in this build"));
                continue;
            }
            self.values.insert(key.to_owned(), Value::String(value.clone()));
        }
        if set("OTEL_SDK_DISABLED").is_some_and(|(_, value)| value.eq_ignore_ascii_case("true")) {
            self.values.remove(OTLP_ENDPOINT);
        }
    }

    /// One app without a file: three variables are enough.
    fn read_short(&mut self, short: &[&(String, String)]) {
        for (name, value) in short.iter().map(|(name, value)| (name.as_str(), value.clone())) {
            let (key, value) = match name {
                "ALIPAY_APP_ID" => ("apps[0].app_id", Value::String(value)),
                "ALIPAY_PUBLIC_KEY" => {
                    ("apps[0].alipay_public_keys", Value::Array(vec![Value::String(inline(value))]))
                }
                _ => ("amqp.uri", Value::String(value)),
            };
            self.values.insert(key.to_owned(), value);
        }
        if short.is_empty() {
            self.problems.push(format!(
                "there is no {DEFAULT_FILE} here, --config names none, and {} are not set",
                SHORT.join(", ")
            ));
        }
    }

    fn refuse_short(&mut self, short: &[&(String, String)]) {
        for (name, _) in short {
            // AMQP_URL is widely set for other programs; the other two can only be meant for this one.
            if name == "AMQP_URL" {
                self.remarks.push("AMQP_URL is set and not used: there is a configuration file".to_owned());
            } else {
                self.problems.push(format!(
                    "{name}: it is for a start without a configuration file, and there is one"
                ));
            }
        }
    }

    fn refuse_unknown(&mut self) {
        for key in self.values.keys() {
            if !KEYS.contains(&general(key).as_str()) {
                self.problems.push(format!("{key}: there is no such key"));
            }
        }
    }
}

/// The path of a variable that overrides a key.
fn overriding(name: &str) -> Option<&str> {
    name.strip_prefix("GATEWAY_").filter(|path| path.contains("__"))
}

/// Whether an environment variable of that name means anything here.
pub(super) fn is_ours(name: &str) -> bool {
    overriding(name).is_some()
        || SHORT.contains(&name)
        || CONVENTIONS.iter().any(|(variable, _)| *variable == name)
}

/// A key in the variable itself is marked, because a list of keys is a list of files.
fn inline(value: String) -> String {
    match value.strip_prefix('@') {
        Some(file) => file.to_owned(),
        None => format!("{INLINE}{value}"),
    }
}

fn flatten(prefix: &str, table: Table, values: &mut BTreeMap<String, Value>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value {
            // An empty table leaves no trace in a flat map, so one that has no place here stays as it is.
            Value::Table(table) if table.is_empty() && !is_section(&key) => {
                values.insert(key, Value::Table(table));
            }
            Value::Table(table) => flatten(&key, table, values),
            Value::Array(ref items) if !items.is_empty() && items.iter().all(Value::is_table) => {
                for (index, table) in items.iter().filter_map(Value::as_table).enumerate() {
                    flatten(&format!("{key}[{index}]"), table.clone(), values);
                }
            }
            Value::String(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Array(_) => {
                values.insert(key, value);
            }
        }
    }
}

fn is_section(key: &str) -> bool {
    let prefix = format!("{}.", general(key));
    KEYS.iter().any(|known| known.starts_with(&prefix))
}

/// Begins a key that stands in the place of a file's name.
pub(super) const INLINE: &str = "inline:";
const CONVENTIONS: [(&str, &str); 5] = [
    ("RUST_LOG", "log.level"),
    ("LOG_FORMAT", "log.format"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", OTLP_ENDPOINT),
    ("OTEL_SERVICE_NAME", "traces.service_name"),
    ("OTEL_RESOURCE_ATTRIBUTES", RESOURCE),
];
const OTLP_ENDPOINT: &str = "traces.otlp_endpoint";
const RESOURCE: &str = "traces.resource";
const SHORT: [&str; 3] = ["ALIPAY_APP_ID", "ALIPAY_PUBLIC_KEY", "AMQP_URL"];
