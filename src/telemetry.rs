//! Logs: JSON lines or text on standard output, at a level that the operator chooses.
//!
//! One thing is not his choice: lapin is silent. It prints returned messages, with their bodies, at WARN, and
//! the password of the broker at TRACE.

use std::fmt;

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use crate::clock::{Clock as _, SystemClock};

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

/// Logs to standard output from now on.
pub fn start(config: &Config) {
    let subscriber = subscriber(config, std::io::stdout);
    // A second start, as in tests, keeps the first.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// What writes the lines.
pub fn subscriber<W>(config: &Config, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let builder =
        tracing_subscriber::fmt().with_writer(writer).with_timer(Utc).with_env_filter(filter(&config.level));
    match config.format {
        Format::Json => Box::new(
            builder.json().flatten_event(true).with_current_span(false).with_span_list(false).finish(),
        ),
        Format::Text => Box::new(builder.with_ansi(false).finish()),
    }
}

/// The operator's filter, and behind it, where nothing can overrule them, the targets that must be silent.
/// Directives of the operator's that name these targets or parts of them are left out.
fn filter(level: &str) -> EnvFilter {
    let is_silenced =
        |directive: &str| SILENT.iter().any(|target| directive.trim_start().starts_with(target));
    let kept: Vec<&str> = level.split(',').filter(|directive| !is_silenced(directive)).collect();
    let silent = SILENT.map(|target| format!("{target}=off"));
    let all = kept.into_iter().map(str::to_owned).chain(silent).collect::<Vec<_>>().join(",");
    EnvFilter::new(all)
}

/// RFC 3339 in UTC.
struct Utc;

impl FormatTime for Utc {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        writer.write_str(&SystemClock.now().rfc3339_utc())
    }
}

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
        for level in
            ["trace", "lapin=trace", "info,lapin=warn", "trace,lapin::channel=trace", "lapin[x]=trace"]
        {
            let text = logged(level, Format::Text, || {
                tracing::error!(target: "lapin", "PAYLOAD");
                tracing::warn!(target: "lapin::returned_messages", "PAYLOAD");
                tracing::error!(target: "amq_protocol_uri", "PASSWORD");
            });
            assert_eq!(text, "", "{level}");
        }
    }

    #[test]
    fn a_json_line_is_an_object_with_its_fields() {
        let text = logged("info", Format::Json, || tracing::info!(target: "audit", event_id = "1.2", "said"));
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(
            (&line["event_id"], &line["target"], &line["level"]),
            (&"1.2".into(), &"audit".into(), &"INFO".into())
        );
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn a_level_is_a_level_or_a_filter() {
        assert!(is_level("info") && is_level("warn,alipay_notify_gateway=debug"));
        assert!(!is_level("") && !is_level("info=loud=x"));
    }
}
