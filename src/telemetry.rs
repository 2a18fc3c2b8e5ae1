//! Logs: JSON lines or text on standard output, at a level that the operator chooses.
//!
//! One thing is not his choice: lapin is silent. It prints returned messages, with their bodies, at WARN, and
//! the password of the broker at TRACE.

mod lines;
pub mod traces;

use std::fmt::Debug;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::str::FromStr;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{FilterExt as _, LevelFilter, Targets, filter_fn};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer as _, Registry, fmt};

use crate::clock::{Clock as _, SystemClock};
use crate::json::Members;

pub use lines::Lines;

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `log.format`.
    pub format: Format,
    /// `log.level`.
    pub level: Level,
}

/// How much is said: a level, or a filter such as `info,alipay_notify_gateway::broker=debug`. What begins with the longest
/// of its names goes by that one's level.
#[derive(Debug, Clone, PartialEq)]
pub struct Level(Targets);

// Names and levels; no number among them.
impl Eq for Level {}

impl FromStr for Level {
    type Err = String;

    /// Not `Targets`' own: that takes a misspelt level for the name of a module, and then says nothing.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut targets = None;
        for directive in text.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
            let (target, level) = match directive.split_once('=') {
                Some((target, _)) if !is_name(target) => {
                    return Err(format!("{target:?} is not a module's name"));
                }
                Some((target, level)) => (Some(target), level),
                None => (None, directive),
            };
            // An empty one would be `error`.
            let parsed = Some(level).filter(|level| !level.is_empty()).and_then(|level| level.parse().ok());
            let parsed: LevelFilter = parsed.ok_or_else(|| format!("{level:?} is not a level ({LEVELS})"))?;
            let before: Targets = targets.unwrap_or_default();
            targets = Some(match target {
                Some(target) => before.with_target(target, parsed),
                None => before.with_default(parsed),
            });
        }
        targets.map(Self).ok_or_else(|| format!("it is empty, and not a level ({LEVELS}) or filter"))
    }
}

fn is_name(target: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b':');
    !target.is_empty() && target.bytes().all(is_part)
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Logs to standard output from now on. What it gives is to be flushed at the end.
pub fn start(config: &Config) -> Lines {
    // Not by way of its own buffer, which would keep what a full disk has not taken. Without a standard output there is nothing
    // to write to, and nothing is lost.
    let lines = match std::io::stdout().as_fd().try_clone_to_owned() {
        Ok(descriptor) => Lines::to(File::from(descriptor)),
        Err(_) => Lines::to(std::io::sink()),
    };
    // A second start, as in tests, keeps the first.
    let _ = tracing::subscriber::set_global_default(subscriber(config, lines.clone()));
    lines
}

/// What writes the lines.
pub fn subscriber<W>(config: &Config, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // A second filter, not directives beside the operator's: among those the most specific wins. The timer is the
    // default: RFC 3339 in UTC.
    let filter = config.level.0.clone().and(filter_fn(|metadata| !is_silent(metadata.target())));
    match config.format {
        Format::Json => {
            let lines = fmt::layer().event_format(JsonLines);
            Box::new(Registry::default().with(lines.with_writer(writer).with_filter(filter)))
        }
        Format::Text => {
            let lines = fmt::layer();
            Box::new(Registry::default().with(lines.with_writer(writer).with_filter(filter)))
        }
    }
}

/// One object a line, the event's fields beside the time, the level and the target. Ours and not the
/// subscriber's own, which took 20,000 instructions for the audit line that each notification has.
struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let mut fields = Fields(Members(String::with_capacity(USUAL_LINE)));
        fields.0.text("timestamp", &SystemClock.now().rfc3339_utc());
        fields.0.text("level", event.metadata().level().as_str());
        event.record(&mut fields);
        fields.0.text("target", event.metadata().target());
        writer.write_char('{')?;
        writer.write_str(&fields.0.0)?;
        writer.write_str("}\n")
    }
}

struct Fields(Members);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.text(field.name(), &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.text(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.plain(field.name(), &value.to_string());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.plain(field.name(), &value.to_string());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.plain(field.name(), if value { "true" } else { "false" });
    }
}

fn is_silent(target: &str) -> bool {
    SILENT.iter().any(|prefix| target.starts_with(prefix))
}

const LEVELS: &str = "error, warn, info, debug, trace, off";
/// The audit line has some 420 bytes.
const USUAL_LINE: usize = 512;
/// Everything that sees a frame, a payload or a URI.
const SILENT: [&str; 5] = ["lapin", "amq_protocol", "async_rs", "tcp_stream", "executor_trait"];

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: &str, format: Format, log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let config = Config { format, level: level.parse().unwrap() };
        tracing::subscriber::with_default(subscriber(&config, move || writer.clone()), log);
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn lapin_is_silent_whatever_the_filter_says() {
        for level in ["trace", "lapin=trace", "info,lapin=warn", "trace,lapin::channel=trace"] {
            let text = logged(level, Format::Text, || {
                tracing::error!(target: "lapin", "PAYLOAD");
                tracing::warn!(target: "lapin::returned_messages", "PAYLOAD");
                tracing::error!(target: "amq_protocol_uri", "PASSWORD");
            });
            assert_eq!(text, "", "{level}");
            let text = logged(level, Format::Text, || tracing::error!(target: "ours", "SAID"));
            assert_eq!(
                text.contains("SAID"),
                level.contains("info") || level.starts_with("trace"),
                "{level}"
            );
        }
    }

    #[test]
    fn a_json_line_is_an_object_with_its_fields() {
        let text = logged("info", Format::Json, || {
            let odd = "a \"quoted\"\nline";
            tracing::warn!(target: "audit", id = odd, n = 7u64, below = -7, yes = true, %odd, half = 0.5, "said");
        });
        let mut line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(text.ends_with("}\n") && text.lines().count() == 1, "{text}");
        assert!(line["timestamp"].take().as_str().unwrap().ends_with('Z'));
        let odd = "a \"quoted\"\nline";
        let expected = serde_json::json!({
            "timestamp": null, "level": "WARN", "target": "audit", "message": "said", "id": odd, "n": 7,
            "below": -7, "yes": true, "odd": odd, "half": "0.5",
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn a_filter_says_what_its_longest_name_says() {
        let said = |level: &str| {
            let text = logged(level, Format::Text, || {
                tracing::info!(target: "ours", "news");
                tracing::debug!(target: "ours", "details");
                tracing::debug!(target: "ours::broker::link", "cut");
                tracing::error!(target: "other", "failed");
            });
            ["news", "details", "cut", "failed"]
                .into_iter()
                .filter(|word| text.contains(word))
                .collect::<Vec<_>>()
        };
        assert_eq!(said("info"), ["news", "failed"]);
        assert_eq!(said("INFO,ours::broker=debug"), ["news", "cut", "failed"]);
        assert_eq!(said(" info , ours=warn , ours::broker=debug,"), ["cut", "failed"]);
        assert_eq!(said("ours=debug,ours::broker=off"), ["news", "details"]);
        assert_eq!(said("off"), [""; 0]);
    }

    #[test]
    fn what_is_no_level_is_named() {
        for (level, named) in [
            ("", "empty"),
            (" , ", "empty"),
            ("loud", "\"loud\" is not a level"),
            // A module without a level: it would be taken for a misspelt level, and the other way round.
            ("info,lapin", "\"lapin\" is not a level"),
            ("info,lapin=", "\"\" is not a level"),
            ("info=loud=x", "\"loud=x\" is not a level"),
            ("=info", "\"\" is not a module's name"),
            ("[x]=trace", "\"[x]\" is not a module's name"),
            ("lapin[{x}]=trace", "\"lapin[{x}]\" is not a module's name"),
        ] {
            let problem = level.parse::<Level>().unwrap_err();
            assert!(problem.contains(named), "{level}: {problem}");
        }
    }
}
