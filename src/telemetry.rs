//! Logs: JSON lines or text on standard output, at a level that the operator chooses.
//!
//! One thing is not his choice: lapin is silent. It prints returned messages, with their bodies, at WARN, and
//! the password of the broker at TRACE.

mod lines;
pub mod traces;

use std::fmt::Debug;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, fmt};

use crate::clock::{Clock as _, SystemClock};
use crate::json::Members;

pub use lines::Lines;

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `log.format`.
    pub format: Format,
    /// `log.level`: a level, or a filter such as `info,alipay_notify_gateway::broker=debug`.
    pub level: String,
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Whether a text is a level or a filter.
pub fn is_level(level: &str) -> bool {
    !level.is_empty() && EnvFilter::try_new(level).is_ok()
}

/// Logs to standard output from now on. What it gives is to be flushed at the end.
pub fn start(config: &Config) -> Lines {
    let lines = Lines::to(std::io::stdout());
    // A second start, as in tests, keeps the first.
    let _ = tracing::subscriber::set_global_default(subscriber(config, lines.clone()));
    lines
}

/// What writes the lines.
pub fn subscriber<W>(config: &Config, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // A second filter, not directives beside the operator's: among those the most specific wins, and one that
    // names a span (`[x]=trace`) wins over all. The timer is the default: RFC 3339 in UTC.
    let filter = EnvFilter::new(&config.level).and(filter_fn(|metadata| !is_silent(metadata.target())));
    match config.format {
        Format::Json => {
            let lines = fmt::layer().event_format(JsonLines);
            Box::new(Registry::default().with(lines.with_writer(writer).with_filter(filter)))
        }
        Format::Text => {
            let lines = fmt::layer().with_ansi(false);
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
        let config = Config { format, level: level.to_owned() };
        tracing::subscriber::with_default(subscriber(&config, move || writer.clone()), log);
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn lapin_is_silent_whatever_the_filter_says() {
        for level in [
            "trace",
            "lapin=trace",
            "info,lapin=warn",
            "trace,lapin::channel=trace",
            "lapin[x]=trace",
            "[x]=trace",
        ] {
            let text = logged(level, Format::Text, || {
                let _inside = tracing::error_span!("x").entered();
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
    fn a_level_is_a_level_or_a_filter() {
        assert!(is_level("info") && is_level("warn,alipay_notify_gateway=debug"));
        assert!(!is_level("") && !is_level("info=loud=x"));
    }
}
