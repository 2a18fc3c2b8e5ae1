//! Spans as OpenTelemetry has them. Its SDK makes and samples them (by the parent, else by the ratio); what has ended
//! goes into a queue, and [`Exporter`], in a thread and runtime of its own, posts it to the collector in protobuf.
//!
//! Two parts of OpenTelemetry are not used. The SDK's batch processor tells nobody what it drops. The HTTP exporter
//! brings HTTP/2, and reads a dozen variables of the environment behind the configuration's back.

use std::fmt;
use std::io;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use opentelemetry::time::now;
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId,
    TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, SpanData, SpanLimits, SpanProcessor};
use prost::Message as _;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{Config, Endpoint};
use crate::lifecycle::Stopping;
use crate::metrics::{Metrics, SpanFate, Stage};

/// Makes spans, and knows when the exporter has ended.
pub(super) struct Spans {
    tracer: SdkTracer,
    exchange: String,
    closing: Stopping,
    /// Its sender goes with the exporter.
    exporter: watch::Receiver<()>,
}

/// A span that has begun. The SDK ends it where it is dropped.
#[derive(Debug)]
pub(super) struct Open(opentelemetry_sdk::trace::Span);

impl Spans {
    pub(super) fn start(
        config: &Config,
        endpoint: &Endpoint,
        exchange: &str,
        metrics: &Metrics,
    ) -> io::Result<Self> {
        // Bound: a name is looked up in a thread that cannot be stopped, and there is one of those.
        let runtime =
            tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).enable_all().build()?;
        // Bound: what does not fit is dropped. A span with its attributes takes about 1 KiB.
        let (queue, ended) = mpsc::channel(QUEUE);
        let resource = resource(config);
        let (closing, (alive, exporter)) = (Stopping::default(), watch::channel(()));
        let work = Exporter {
            ended,
            closing: closing.clone(),
            resource: ResourceAttributesWithSchema::from(&resource),
            endpoint: endpoint.clone(),
            metrics: metrics.clone(),
            is_failing: false,
        };
        thread::Builder::new().name("traces".to_owned()).spawn(move || {
            runtime.block_on(work.run());
            runtime.shutdown_background();
            drop(alive);
        })?;
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.ratio.0)));
        let provider = SdkTracerProvider::builder()
            .with_sampler(sampler)
            .with_span_limits(SpanLimits::default())
            .with_resource(resource)
            .with_span_processor(Handover { queue, metrics: metrics.clone() })
            .build();
        let scope = InstrumentationScope::builder(env!("CARGO_PKG_NAME"));
        let tracer = provider.tracer_with_scope(scope.with_version(env!("CARGO_PKG_VERSION")).build());
        Ok(Self { tracer, exchange: exchange.to_owned(), closing, exporter })
    }

    pub(super) fn notification(&self, parent: Option<&str>, ago: Duration) -> Open {
        let parent = parent.and_then(context_of);
        let parent =
            parent.map_or_else(Context::new, |parent| Context::new().with_remote_span_context(parent));
        let builder = SpanBuilder::from_name("notification").with_kind(SpanKind::Server);
        Open(self.tracer.build_with_context(builder.with_start_time(before(ago)), &parent))
    }

    pub(super) fn stage(&self, parent: &str, stage: Stage, took: Duration) {
        let Some(parent) = sampled(parent) else { return };
        let builder = SpanBuilder::from_name(stage.as_str()).with_start_time(before(took));
        drop(self.tracer.build_with_context(builder, &parent));
    }

    pub(super) fn publish(&self, parent: &str, message_id: &str, routing_key: &'static str) -> Option<Open> {
        let parent = sampled(parent)?;
        // OpenTelemetry's conventions for messaging, and for RabbitMQ: the context of this span is the message's.
        let destination = format!("{}:{routing_key}", self.exchange);
        let builder = SpanBuilder::from_name(format!("publish {destination}"))
            .with_kind(SpanKind::Producer)
            .with_attributes([
                KeyValue::new("messaging.system", "rabbitmq"),
                KeyValue::new("messaging.operation.type", "send"),
                KeyValue::new("messaging.operation.name", "publish"),
                KeyValue::new("messaging.destination.name", destination),
                KeyValue::new("messaging.rabbitmq.destination.routing_key", routing_key),
                KeyValue::new("messaging.message.id", message_id.to_owned()),
            ]);
        Some(Open(self.tracer.build_with_context(builder, &parent)))
    }

    /// Resolves when everything that has ended is sent or given up.
    pub(super) async fn close(&self) {
        self.closing.begin();
        // An error is what is waited for: the sender is gone.
        let _ = self.exporter.clone().changed().await;
    }
}

impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spans").field("exchange", &self.exchange).finish_non_exhaustive()
    }
}

impl Open {
    pub(super) fn traceparent(&self) -> String {
        let context = self.0.span_context();
        format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags())
    }

    pub(super) fn note(&mut self, name: &'static str, value: &str) {
        if self.0.is_recording() {
            self.0.set_attribute(KeyValue::new(name, value.to_owned()));
        }
    }

    pub(super) fn fail(&mut self, why: &'static str) {
        self.0.set_status(Status::error(why));
    }
}

fn before(ago: Duration) -> std::time::SystemTime {
    let now = now();
    now.checked_sub(ago).unwrap_or(now)
}

/// What a `traceparent` names. It was looked at when it came (`http/trace_context.rs`), or is one of ours.
fn context_of(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.split('-').skip(1);
    let trace = TraceId::from_hex(parts.next()?).ok()?;
    let span = SpanId::from_hex(parts.next()?).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(parts.next()?, 16).ok()?);
    Some(SpanContext::new(trace, span, flags, true, TraceState::default()))
}

/// The same to stand below, if it is traced at all.
fn sampled(traceparent: &str) -> Option<Context> {
    let parent = context_of(traceparent).filter(SpanContext::is_sampled)?;
    Some(Context::new().with_remote_span_context(parent))
}

/// Whom the spans are of.
fn resource(config: &Config) -> Resource {
    let more = config.resource.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    Resource::builder_empty()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attributes(more)
        .with_service_name(config.service_name.clone())
        .build()
}

/// Where the SDK puts what has ended: nobody waits here.
#[derive(Debug)]
struct Handover {
    queue: mpsc::Sender<SpanData>,
    metrics: Metrics,
}

impl SpanProcessor for Handover {
    fn on_start(&self, _: &mut opentelemetry_sdk::trace::Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.queue.try_send(span).is_err() {
            self.metrics.spans(SpanFate::Dropped, 1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Tells the collector. A batch that it does not take is lost: nothing is tried twice.
struct Exporter {
    ended: mpsc::Receiver<SpanData>,
    closing: Stopping,
    resource: ResourceAttributesWithSchema,
    endpoint: Endpoint,
    metrics: Metrics,
    /// So that a change is said, and not each batch.
    is_failing: bool,
}

impl Exporter {
    async fn run(mut self) {
        let mut batch = Vec::new();
        while self.gather(&mut batch).await {
            let spans = std::mem::take(&mut batch);
            let count = u64::try_from(spans.len()).unwrap_or(u64::MAX);
            let told = tokio::time::timeout(DEADLINE, self.tell(spans)).await;
            match told.unwrap_or_else(|_| Err(format!("no answer within {DEADLINE:?}"))) {
                Ok(refused) => {
                    self.metrics.spans(SpanFate::Exported, count.saturating_sub(refused));
                    self.metrics.spans(SpanFate::Failed, refused.min(count));
                    self.say(None);
                }
                Err(error) => {
                    self.metrics.spans(SpanFate::Failed, count);
                    self.say(Some(&error));
                    // Meanwhile the queue fills, and what does not fit is dropped.
                    let _ = tokio::time::timeout(PAUSE, self.closing.begun()).await;
                }
            }
        }
    }

    /// Takes what has ended, a moment gathered. `false` when there will be nothing more.
    async fn gather(&mut self, batch: &mut Vec<SpanData>) -> bool {
        let mut until: Option<Instant> = None;
        while batch.len() < BATCH {
            if self.closing.has_begun() {
                self.ended.close();
            }
            let room = BATCH - batch.len();
            let pause = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            let is_closed = self.ended.is_closed();
            tokio::select! {
                biased;
                () = self.closing.begun(), if !is_closed => {}
                taken = self.ended.recv_many(batch, room) => {
                    if taken == 0 {
                        break;
                    }
                    until.get_or_insert_with(|| Instant::now() + GATHER);
                }
                () = pause => break,
            }
        }
        !batch.is_empty()
    }

    /// How many of them the collector took and did not keep.
    async fn tell(&self, spans: Vec<SpanData>) -> Result<u64, String> {
        let request = ExportTraceServiceRequest {
            resource_spans: group_spans_by_resource_and_scope(spans, &self.resource),
        };
        let answer = self.post(Bytes::from(request.encode_to_vec())).await?;
        // Whatever else it says, it has said that it took them.
        let answer = ExportTraceServiceResponse::decode(answer).unwrap_or_default();
        let refused = answer.partial_success.map_or(0, |partial| partial.rejected_spans);
        Ok(u64::try_from(refused).unwrap_or(0))
    }

    async fn post(&self, body: Bytes) -> Result<Bytes, String> {
        let Endpoint { authority, host, port, path } = &self.endpoint;
        let request = Request::post(path)
            .header("host", authority)
            .header("user-agent", concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .header("content-type", "application/x-protobuf")
            .header("connection", "close")
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(|error| error.to_string())?;
        let opened = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = opened.map_err(|error| error.to_string())?;
        let answer = async move {
            let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
            if !answer.status().is_success() {
                return Err(format!("it answers {}", answer.status()));
            }
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            Ok(body.map_err(|error| error.to_string())?.to_bytes())
        };
        tokio::pin!(answer, connection);
        tokio::select! {
            answer = &mut answer => answer,
            // What it had read before its end is still there.
            _ = &mut connection => answer.await,
        }
    }

    fn say(&mut self, error: Option<&str>) {
        match error {
            Some(error) if !self.is_failing => {
                tracing::warn!(error, "the collector does not take the traces: they are lost");
            }
            None if self.is_failing => tracing::info!("the collector takes the traces again"),
            Some(_) | None => {}
        }
        self.is_failing = error.is_some();
    }
}

/// Bound: spans that have ended and wait for the exporter, some 2 MiB.
const QUEUE: usize = 2048;
/// Bound: spans in one request.
const BATCH: usize = 512;
/// How long the first of a batch waits for others.
const GATHER: Duration = Duration::from_millis(500);
/// Bound: from the connection to the whole answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// Between a batch that failed and the next.
const PAUSE: Duration = Duration::from_secs(1);
/// Bound: an answer has a few bytes; what is longer is none.
const MAX_ANSWER: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_that_finds_no_room_is_dropped_and_counted() {
        let metrics = Metrics::new(&[], &[]).unwrap();
        let (queue, mut ended) = mpsc::channel(1);
        let handover = Handover { queue, metrics: metrics.clone() };
        let tracer = SdkTracerProvider::builder().with_span_processor(handover).build().tracer("test");
        for name in ["first", "second", "third"] {
            drop(tracer.start(name));
        }
        assert_eq!(metrics.trace_spans.with_label_values(&["dropped"]).get(), 2);
        assert_eq!(ended.try_recv().unwrap().name, "first");
    }

    #[test]
    fn what_is_no_context_has_nothing_below_it() {
        let odd = ["", "00", "00-x-y-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-zz"];
        assert!(odd.into_iter().all(|odd| sampled(odd).is_none()));
        assert!(sampled("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00").is_none());
        assert!(sampled("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").is_some());
    }
}
