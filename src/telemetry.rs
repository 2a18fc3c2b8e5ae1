//! Logs: JSON lines or text on standard output, at a level that the operator chooses.
//!
//! One thing is not his choice: lapin is silent. It prints returned messages, with their bodies, at WARN, and
//! the password of the broker at TRACE.

use tracing::Subscriber;
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, fmt};

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
    // A second filter, not directives beside the operator's: among those the most specific wins, and one that
    // names a span (`[x]=trace`) wins over all. The timer is the default: RFC 3339 in UTC.
    let filter = EnvFilter::new(&config.level).and(filter_fn(|metadata| !is_silent(metadata.target())));
    match config.format {
        Format::Json => {
            let lines =
                fmt::layer().json().flatten_event(true).with_current_span(false).with_span_list(false);
            Box::new(Registry::default().with(lines.with_writer(writer).with_filter(filter)))
        }
        Format::Text => {
            let lines = fmt::layer().with_ansi(false);
            Box::new(Registry::default().with(lines.with_writer(writer).with_filter(filter)))
        }
    }
}

fn is_silent(target: &str) -> bool {
    SILENT.iter().any(|prefix| target.starts_with(prefix))
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
