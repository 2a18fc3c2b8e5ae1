//! Traces: a span for each notification and one below it for each of its stages, told to a collector over OTLP.
//!
//! They may be lost and are never waited for: a span that has ended goes into a bounded queue or is dropped and
//! counted, and a thread of its own sends what is in there. No span says anything of a buyer, and none has a body.
//!
//! Without the feature `otlp` there is nothing behind this, and the trace context of a request passes into its event as
//! it came. With a collector configured, the event carries the context of the span that published it.

#[cfg(not(feature = "otlp"))]
#[path = "traces/none.rs"]
mod spans;
#[cfg(feature = "otlp")]
#[path = "traces/otlp.rs"]
mod spans;

use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::metrics::{Metrics, Stage};

/// `[traces]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `traces.otlp_endpoint`: where the collector is. `None`: no traces.
    pub endpoint: Option<Endpoint>,
    /// `traces.ratio`.
    pub ratio: Ratio,
    /// `traces.service_name`.
    pub service_name: String,
    /// `traces.resource`: what else is said of this process.
    pub resource: Vec<(String, String)>,
}

/// Of the notifications that come without a trace context, the share that is traced. The others are as their parent is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio(f64);

impl Eq for Ratio {}

impl Ratio {
    /// Every one.
    pub const ALL: Self = Self(1.0);

    /// From 0 to 1.
    pub fn new(share: f64) -> Option<Self> {
        (0.0..=1.0).contains(&share).then_some(Self(share))
    }
}

/// A collector that takes OTLP over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// As the header `host` has it.
    authority: String,
    host: String,
    port: u16,
    /// With what OTLP puts behind the endpoint.
    path: String,
}

/// Whether this build can tell a collector anything.
pub const AVAILABLE: bool = cfg!(feature = "otlp");

impl FromStr for Endpoint {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("https://") {
            return Err(
                "TLS is not spoken here: name a collector beside the gateway, and let that one speak it",
            );
        }
        let rest = text.strip_prefix("http://").ok_or(NO_ENDPOINT)?;
        let (authority, base) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let fits = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && !b"@?#".contains(&byte));
        if !fits(rest) {
            return Err(NO_ENDPOINT);
        }
        // The colons in `[::1]` begin no port.
        let in_brackets = authority.rfind(']').map_or(0, |end| end + 1);
        let colon = authority.get(in_brackets..).and_then(|rest| rest.rfind(':')).map(|at| at + in_brackets);
        let (host, port) = match colon.map(|at| authority.split_at(at)) {
            Some((host, port)) => (host, port.trim_start_matches(':').parse().map_err(|_| NO_ENDPOINT)?),
            None => (authority, 80),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() || port == 0 {
            return Err(NO_ENDPOINT);
        }
        Ok(Self {
            authority: authority.to_owned(),
            host,
            port,
            path: format!("{}/v1/traces", base.trim_end_matches('/')),
        })
    }
}

/// Begins spans, or nothing: the default.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<spans::Spans>>);

impl Tracer {
    /// Starts the thread that tells the collector, if one is configured. `exchange` is where events are published.
    ///
    /// # Errors
    /// If the thread or its runtime cannot be had.
    pub fn start(config: &Config, exchange: &str, metrics: &Metrics) -> io::Result<Self> {
        let Some(endpoint) = &config.endpoint else { return Ok(Self::default()) };
        Ok(Self(Some(Arc::new(spans::Spans::start(config, endpoint, exchange, metrics)?))))
    }

    /// The span of a notification that arrived `ago`, below the one that `traceparent` names, if it does.
    pub fn notification(&self, traceparent: Option<String>, ago: Duration) -> Span {
        let open = self.0.as_ref().map(|spans| spans.notification(traceparent.as_deref(), ago));
        self.clone().span(open, traceparent)
    }

    /// The trace of something that was kept with the context of its notification's span.
    pub fn kept(&self, traceparent: Option<String>) -> Trace {
        Trace { tracer: self.clone(), traceparent }
    }

    /// Sends what has ended, and nothing more after it. Bound: [`FLUSH`], whatever the collector does.
    pub async fn close(&self) {
        if let Some(spans) = &self.0
            && tokio::time::timeout(FLUSH, spans.close()).await.is_err()
        {
            tracing::warn!("the collector did not take the last spans in time");
        }
    }

    fn span(self, open: Option<spans::Open>, otherwise: Option<String>) -> Span {
        let traceparent = open.as_ref().map(spans::Open::traceparent).or(otherwise);
        Span { open, trace: Trace { tracer: self, traceparent } }
    }
}

/// What a notification's spans stand below: handed along with it.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    tracer: Tracer,
    traceparent: Option<String>,
}

impl Trace {
    /// W3C Trace Context, for the header of that name.
    pub fn traceparent(&self) -> Option<String> {
        self.traceparent.clone()
    }

    /// The id of the trace, to find a log line by.
    pub fn id(&self) -> Option<&str> {
        self.traceparent.as_deref()?.split('-').nth(1)
    }

    /// A stage that has just ended.
    pub fn stage(&self, stage: Stage, took: Duration) {
        if let (Some(spans), Some(parent)) = (&self.tracer.0, &self.traceparent) {
            spans.stage(parent, stage, took);
        }
    }

    /// The span of a publish that begins now.
    pub fn publish(&self, message_id: &str, routing_key: &'static str) -> Span {
        let below = self.tracer.0.as_ref().zip(self.traceparent.as_deref());
        let open = below.and_then(|(spans, parent)| spans.publish(parent, message_id, routing_key));
        self.tracer.clone().span(open, self.traceparent.clone())
    }
}

/// A span that has begun. It ends where it is dropped.
#[derive(Debug)]
pub struct Span {
    open: Option<spans::Open>,
    trace: Trace,
}

impl Span {
    /// What stands below it.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Says something of it.
    pub fn note(&mut self, name: &'static str, value: &str) {
        if let Some(open) = &mut self.open {
            open.note(name, value);
        }
    }

    /// It failed, through no fault of whoever asked.
    pub fn fail(&mut self, why: &'static str) {
        if let Some(open) = &mut self.open {
            open.fail(why);
        }
    }
}

const NO_ENDPOINT: &str =
    "is to be http://HOST:PORT, where a collector takes OTLP over HTTP (port 4318 as a rule)";
/// Bound: how long stopping waits for a collector.
const FLUSH: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_base_behind_which_otlp_puts_its_path() {
        let endpoint = |text: &str| text.parse::<Endpoint>().map(|e| (e.authority, e.host, e.port, e.path));
        let expected = |authority: &str, host: &str, port, path: &str| {
            Ok((authority.to_owned(), host.to_owned(), port, path.to_owned()))
        };
        assert_eq!(endpoint("http://otel:4318"), expected("otel:4318", "otel", 4318, "/v1/traces"));
        assert_eq!(endpoint("http://otel/a/b/"), expected("otel", "otel", 80, "/a/b/v1/traces"));
        assert_eq!(endpoint("http://[::1]:4318/"), expected("[::1]:4318", "::1", 4318, "/v1/traces"));
        assert_eq!(endpoint("http://[::1]"), expected("[::1]", "::1", 80, "/v1/traces"));
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        let odd = [
            "",
            "otel:4318",
            "grpc://otel:4317",
            "http://",
            "http://:4318",
            "http://otel:0",
            "http://otel:x",
        ];
        let worse =
            ["http://user:secret@otel:4318", "http://otel:4318?a", "http://ot el", "http://otel:99999"];
        for text in odd.into_iter().chain(worse) {
            assert_eq!(text.parse::<Endpoint>(), Err(NO_ENDPOINT), "{text}");
        }
        assert!("https://otel:4318".parse::<Endpoint>().unwrap_err().contains("TLS"));
    }

    #[test]
    fn a_ratio_is_a_share() {
        for share in [0.0, 0.1, 1.0] {
            assert!(Ratio::new(share).is_some());
        }
        for share in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(Ratio::new(share).is_none());
        }
    }

    #[test]
    fn without_a_collector_the_context_passes_as_it_came() {
        let context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned();
        let span = Tracer::default().notification(Some(context.clone()), Duration::ZERO);
        assert_eq!(span.trace().id(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        let publish = span.trace().publish("id", "payment.succeeded");
        assert_eq!(publish.trace().traceparent(), Some(context));
        assert_eq!(Tracer::default().notification(None, Duration::ZERO).trace().traceparent(), None);
    }
}
