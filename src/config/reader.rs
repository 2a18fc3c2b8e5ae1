//! Typed access to the values. Every access marks its key as read and notes what is wrong with it, so that all
//! problems are found in one go.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use toml::Value;

use super::Problems;
use super::source::Gathered;
use super::watched::Watched;
use crate::secret::{Secret, Source, is_pasted_key};
use crate::telemetry::traces::Ratio;

/// The values that are still to be read, and what was wrong with those that were.
pub(super) struct Reader {
    values: BTreeMap<String, Value>,
    folder: PathBuf,
    problems: Vec<String>,
    remarks: Vec<String>,
    /// The files that apps, keys, sellers and the listener's certificate came from.
    watched: Vec<Watched>,
    is_unread: bool,
}

impl Reader {
    pub(super) fn new(gathered: Gathered) -> Self {
        let Gathered { values, folder, problems, remarks, file, is_unread } = gathered;
        Self { values, folder, problems, remarks, watched: file.into_iter().collect(), is_unread }
    }

    /// Notes a problem of a key.
    pub(super) fn problem(&mut self, key: &str, what: impl Display) {
        self.problems.push(format!("{key}: {what}"));
    }

    /// Notes something odd.
    pub(super) fn remark(&mut self, what: impl Into<String>) {
        self.remarks.push(what.into());
    }

    /// Notes that a key is missing which has no default; of a file that could not be read nobody knows.
    pub(super) fn missing(&mut self, key: &str, what: impl Display) {
        if !self.is_unread {
            self.problem(key, what);
        }
    }

    /// How many tables an array of tables has.
    pub(super) fn tables(&self, array: &str) -> usize {
        let prefix = format!("{array}[");
        let indices: BTreeSet<&str> = self
            .values
            .keys()
            .filter_map(|key| key.strip_prefix(&prefix)?.split_once(']').map(|(index, _)| index))
            .collect();
        indices.len()
    }

    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        let value = self.values.remove(key)?;
        let text = value.as_str().map(str::to_owned);
        if text.is_none() {
            self.problem(key, format!("is to be a text, and is {}", kind(&value)));
        }
        text
    }

    pub(super) fn text_or(&mut self, key: &str, default: &str) -> String {
        self.text(key).unwrap_or_else(|| default.to_owned())
    }

    /// Something that reads itself from a text, such as an address.
    pub(super) fn parsed<T: FromStr>(&mut self, key: &str, default: &str, what: &str) -> Option<T> {
        let text = self.text_or(key, default);
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.problem(key, format!("{text:?} is not {what}"));
        }
        parsed
    }

    pub(super) fn duration(
        &mut self,
        key: &str,
        default: &str,
        bounds: RangeInclusive<Duration>,
    ) -> Duration {
        let text = self.text_or(key, default);
        match humantime::parse_duration(&text) {
            Ok(duration) if bounds.contains(&duration) => return duration,
            Ok(_) => {
                let (from, to) = (plain(*bounds.start()), plain(*bounds.end()));
                self.problem(key, format!("{text:?} is not between {from} and {to}"));
            }
            Err(_) => self.problem(key, format!("{text:?} is not a duration such as {default:?}")),
        }
        // What is wrong with it is said: what is compared with it should find no second problem.
        humantime::parse_duration(default).unwrap_or(*bounds.start())
    }

    pub(super) fn size(&mut self, key: &str, default: &str, bounds: RangeInclusive<usize>) -> usize {
        let text = self.text_or(key, default);
        // A number alone is refused, although the parser takes it for bytes: the contract wants the unit.
        let has_unit = text.ends_with(|last: char| last.is_ascii_alphabetic());
        let size = text.parse::<ByteSize>().ok().filter(|_| has_unit);
        let bytes = size.and_then(|size| usize::try_from(size.as_u64()).ok());
        match bytes {
            Some(bytes) if bounds.contains(&bytes) => bytes,
            Some(_) => {
                self.problem(
                    key,
                    format!("{text:?} is not between {} and {} bytes", bounds.start(), bounds.end()),
                );
                *bounds.start()
            }
            None => {
                self.problem(key, format!("{text:?} is not a size such as {default:?}"));
                *bounds.start()
            }
        }
    }

    pub(super) fn number(&mut self, key: &str, default: usize, bounds: RangeInclusive<usize>) -> usize {
        let number = match self.values.remove(key) {
            None => Some(default),
            Some(Value::Integer(number)) => usize::try_from(number).ok(),
            // From the environment.
            Some(Value::String(text)) => text.parse().ok(),
            Some(_) => None,
        };
        match number {
            Some(number) if bounds.contains(&number) => number,
            _ => {
                self.problem(key, format!("is to be a number from {} to {}", bounds.start(), bounds.end()));
                *bounds.start()
            }
        }
    }

    /// A share, all of it by default.
    pub(super) fn ratio(&mut self, key: &str) -> Ratio {
        let share = match self.values.remove(key) {
            None => return Ratio::ALL,
            Some(Value::Float(share)) => Some(share),
            Some(Value::Integer(0)) => Some(0.0),
            Some(Value::Integer(1)) => Some(1.0),
            // From the environment.
            Some(Value::String(text)) => text.parse().ok(),
            Some(_) => None,
        };
        share.and_then(Ratio::new).unwrap_or_else(|| {
            self.problem(key, "is to be a number from 0 to 1");
            Ratio::ALL
        })
    }

    pub(super) fn flag(&mut self, key: &str, default: bool) -> bool {
        match self.values.remove(key) {
            None => default,
            Some(Value::Boolean(flag)) => flag,
            Some(Value::String(text)) if text == "true" => true,
            Some(Value::String(text)) if text == "false" => false,
            Some(_) => {
                self.problem(key, "is to be true or false");
                default
            }
        }
    }

    /// A list of texts; from the environment separated by commas.
    pub(super) fn list(&mut self, key: &str) -> Vec<String> {
        let items = match self.values.remove(key) {
            None => return Vec::new(),
            Some(Value::Array(items)) => items,
            Some(Value::String(text)) => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                return items.map(str::to_owned).collect();
            }
            Some(_) => {
                self.problem(key, "is to be a list of texts");
                return Vec::new();
            }
        };
        let count = items.len();
        let texts: Vec<String> =
            items.into_iter().filter_map(|item| item.as_str().map(str::to_owned)).collect();
        if texts.len() < count {
            self.problem(key, "is to be a list of texts");
        }
        texts
    }

    /// A secret, in place or in a file of its own.
    pub(super) fn secret(&mut self, key: &str) -> Option<Secret> {
        // Read a moment ago, when its source was looked at.
        self.secret_source(key)?.read().ok()
    }

    /// Where a secret is, which can be read now.
    pub(super) fn secret_source(&mut self, key: &str) -> Option<Source> {
        let in_place = self.text(key);
        let key_of_file = format!("{key}_file");
        let Some(file) = self.text(&key_of_file) else {
            return in_place.map(|text| Source::Here(Secret::new(text)));
        };
        if file.contains("://") {
            // Somebody's URI with its password, one key too far: not to be printed as a path.
            self.problem(&key_of_file, format!("is to name a file; a URI belongs in {key}"));
            return None;
        }
        let source = Source::File(self.path(&file));
        match source.read() {
            Ok(_) => Some(source),
            Err(error) => {
                // Its name is not told: where somebody has put the secret itself, it would be printed.
                self.problem(&key_of_file, format!("the file that it names: {error}"));
                None
            }
        }
    }

    /// What names a file, and is not the key that belongs in it.
    pub(super) fn file_name(&mut self, key: &str) -> Option<String> {
        let file = self.text(key)?;
        if is_pasted_key(&file) {
            self.problem(key, NOT_A_FILE);
            return None;
        }
        Some(file)
    }

    /// The path of a file that somebody else reads.
    pub(super) fn file(&mut self, key: &str) -> Option<PathBuf> {
        self.file_name(key).map(|file| self.path(&file))
    }

    /// One of a few names.
    pub(super) fn choice<T: Copy>(&mut self, key: &str, default: &str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text_or(key, default);
        let found = choices.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice);
        if found.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.problem(key, format!("{text:?} is not one of {}", names.join(", ")));
        }
        found
    }

    /// A path, relative to the configuration's folder.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.folder.join(Path::new(path))
    }

    /// A file of at most `max` bytes that a reload will look at again.
    pub(super) fn watched_file(&mut self, path: &str, max: u64) -> Result<Vec<u8>, String> {
        let path = self.path(path);
        self.watched.push(Watched::look(path.clone()));
        let size = std::fs::metadata(&path).map_err(|error| error.to_string())?.len();
        if size > max {
            return Err(format!("{size} bytes are more than {max}"));
        }
        std::fs::read(path).map_err(|error| error.to_string())
    }

    /// The files that [`Self::watched_file`] read, and the configuration file.
    pub(super) fn watched(&mut self) -> Vec<Watched> {
        std::mem::take(&mut self.watched)
    }

    /// Takes no offence at what was not read.
    pub(super) fn leave_the_rest(&mut self) {
        self.values.clear();
    }

    /// The remarks, if there are no problems.
    pub(super) fn finish(mut self) -> Result<Vec<String>, Problems> {
        if self.problems.is_empty() {
            return Ok(self.remarks);
        }
        self.problems.dedup();
        Err(Problems(self.problems))
    }
}

pub(super) const MILLISECOND: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const DAY: Duration = Duration::from_secs(86_400);
/// Of a key in the place of a file's name.
pub(super) const NOT_A_FILE: &str =
    "is to name a file, and holds a key itself: put the key into a file of its own";

/// As one would write it: `3650d`, and not the years, months and minutes that are in it.
fn plain(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];
    let whole = units.into_iter().find(|(_, unit)| millis.is_multiple_of(*unit));
    let (unit, size) = whole.filter(|_| millis > 0).unwrap_or(("ms", 1));
    format!("{}{unit}", millis / size)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) | Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}
