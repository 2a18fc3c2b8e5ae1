//! Every metric of the program, in one struct: the field's comment is the metric's help text in the
//! reference (`docs/metrics.md`, held to this file by a test). All of them exist from the start, so that
//! `rate()` sees the first error and no dashboard query meets a missing series.
//!
//! No trade number, address or buyer ever is a label; every label's values are a closed list.

mod labels;

use prometheus::core::Collector;
use prometheus::{
    Encoder as _, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

pub use labels::{ConnectionRefusal, LowPriorityResult, Outcome, PublishResult, Retirement, SpanFate, Stage};

use crate::event::EventType;

/// The metrics of one gateway.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    process: Registry,
    /// Requests on the public listener, by what became of them. Exactly one per request.
    pub notifications: IntCounterVec,
    /// Requests that were refused with 400 and not held, by reason.
    pub rejections: IntCounterVec,
    /// Authentic notifications that acceptance refused and that are kept for the operator, by reason.
    pub held: IntCounterVec,
    /// Time spent in each stage of a notification, in seconds.
    pub stage_duration: HistogramVec,
    /// The stages' own histograms, and the counters below: a look-up by label on the way of every notification costs
    /// more than the counting.
    stages: [Histogram; 4],
    outcomes: [IntCounter; 9],
    /// Publishes, by type and by what the broker said.
    publishes: [[IntCounter; 6]; 8],
    /// Events in one published batch.
    pub batch_size: Histogram,
    /// From the signed payment time to the broker's confirm, in seconds.
    pub payment_lag: Histogram,
    /// From a payment's arrival (or when it was first kept, where the drain announces it) to the broker's confirm, in
    /// seconds: the gateway's share of `payment_lag`, of the same events.
    pub handling_lag: Histogram,
    /// From `notify_time` to the arrival, in seconds.
    pub delivery_lag: Histogram,
    /// How far the last `notify_time` lay in the future of the gateway's clock, in seconds; 0 if it did not.
    pub clock_skew: Gauge,
    /// Events and notifications that are kept and not settled, by state.
    pub backlog_events: IntGaugeVec,
    /// 1 while events of this type go to the backlog because their confirms do not come.
    pub type_suspended: IntGaugeVec,
    /// How much of each bound of the backlog is used, from 0 to 1, by the name of its key under `store`. At 1 there is no
    /// room, and only Alipay keeps what comes.
    pub backlog_used: GaugeVec,
    /// Age of the oldest event that waits for the broker, in seconds; 0 if none waits.
    pub backlog_oldest: Gauge,
    /// Until Alipay's last delivery of the oldest authentic payment that is not announced, in seconds;
    /// negative when it is past; +Inf when there is none.
    pub unannounced_last_retry: Gauge,
    /// Events between admission and their answer.
    pub in_flight: IntGauge,
    /// Open connections on the public listener.
    pub connections: IntGauge,
    /// Connections that were refused or ended by a limit, by reason.
    pub connections_refused: IntCounterVec,
    /// Connections that had their share and got their last answer, by what was used up.
    pub connections_retired: IntCounterVec,
    /// What bodies hold that did not come with their heads: 16 KiB for each that is unfinished, and their bytes.
    pub body_bytes: IntGauge,
    /// Origins of forged notifications that are past `http.failure_budget`, and verified at low priority.
    pub addresses_over_budget: IntGauge,
    /// Notifications that were to be verified at low priority, by what became of that.
    pub low_priority_verifications: IntCounterVec,
    /// When the certificate of the public listener ends, in Unix seconds; 0 without TLS.
    pub tls_certificate_expires: IntGauge,
    /// 1 while there is a connection to the broker.
    pub broker_up: IntGauge,
    /// 1 while the broker takes nothing because of an alarm of its own.
    pub broker_blocked: IntGauge,
    /// How much of the topology is missing at the broker or is not as it should be.
    pub topology_problems: IntGauge,
    /// Declared queues that were found deleted and are made again, empty, by queue.
    pub queues_made_again: IntCounterVec,
    /// 1 while the store can be read.
    pub store_up: IntGauge,
    /// 1 while events are announced without asking the store.
    pub store_unchecked: IntGauge,
    /// Confirmed events whose record still has to be written.
    pub store_unrecorded: IntGauge,
    /// 1 while events are refused because the store is away.
    pub store_refusing: IntGauge,
    /// Store files that were set aside as damaged and not yet salvaged.
    pub store_damaged: IntGauge,
    /// Bytes that are free for the store on its file system; +Inf where that cannot be told.
    pub store_free: Gauge,
    /// How large the store's file system is, in bytes; +Inf where that cannot be told.
    pub store_size: Gauge,
    /// Signatures verified, by app and key.
    pub key_verifications: IntCounterVec,
    /// When a key's certificate ends, in Unix seconds, by app and key; keys that came in no certificate have none.
    pub key_expires: IntGaugeVec,
    /// Reloads of apps, keys and sellers, by whether they were applied or refused as a whole.
    pub policy_reloads: IntCounterVec,
    /// 1 while the last reload was refused, and what was in force before it still is.
    pub policy_refused: IntGauge,
    /// Log lines that found no room, because nobody reads them.
    pub log_lines_dropped: IntCounter,
    /// Spans that have ended, by what became of them.
    pub trace_spans: IntCounterVec,
    /// 1 while the gateway is listening and not stopping.
    pub ready: IntGauge,
}

impl Metrics {
    /// Takes the series of apps that are not configured away, of every key that they ever had.
    pub fn keep_apps(&self, is_configured: impl Fn(&str) -> bool) {
        for family in self.key_verifications.collect() {
            for metric in family.get_metric() {
                let label = |name| metric.get_label().iter().find(|label| label.name() == name);
                let [Some(app_id), Some(key)] = KEY.map(label) else { continue };
                if !is_configured(app_id.value()) {
                    // Nothing is wrong if there is none any more.
                    let _ = self.key_verifications.remove_label_values(&[app_id.value(), key.value()]);
                }
            }
        }
    }

    /// All metrics, at 0. `rejections` and `holds` are the closed lists of reasons, which admission owns;
    /// [`NOT_A_FORM`] need not be among them.
    ///
    /// # Errors
    /// If two metrics have the same name, which a test excludes.
    pub fn new(rejections: &[&str], holds: &[&str]) -> Result<Self, prometheus::Error> {
        let at = Registering(Registry::new_custom(Some("alipay_gateway".to_owned()), None)?);
        let notifications =
            at.counters("notifications_total", "Requests by what became of them.", &["outcome"])?;
        let [refused, retired, low_priority] = at.counters_of_the_door()?;
        let stage_duration =
            at.histograms("stage_duration_seconds", "Time in each stage.", &["stage"], STAGE_BUCKETS)?;
        let metrics = Self {
            stages: Stage::ALL.map(|stage| stage_duration.with_label_values(&[stage.as_str()])),
            outcomes: Outcome::ALL.map(|outcome| notifications.with_label_values(&[outcome.as_str()])),
            publishes: at.publishes()?,
            notifications,
            stage_duration,
            rejections: at.counters("rejections_total", "Refused and not held.", &["reason"])?,
            held: at.counters("held_total", "Authentic, refused and held.", &["reason"])?,
            batch_size: at.histogram("batch_size", "Events in one published batch.", BATCH_BUCKETS)?,
            payment_lag: at.histogram("payment_lag_seconds", "From payment to confirm.", LAG_BUCKETS)?,
            handling_lag: at.histogram(
                "handling_lag_seconds",
                "From arrival to confirm.",
                HANDLING_BUCKETS,
            )?,
            delivery_lag: at.histogram("delivery_lag_seconds", "From notify_time on.", LAG_BUCKETS)?,
            clock_skew: at.float("clock_skew_seconds", "How far the last notify_time lay in the future.")?,
            backlog_events: at.gauges("backlog_events", "What is kept, by state.", &["state"])?,
            type_suspended: at.gauges("type_suspended", "1 while its confirms do not come.", &["type"])?,
            backlog_used: at.floats("backlog_used_ratio", "How full the backlog is.", &["bound"])?,
            backlog_oldest: at.float("backlog_oldest_seconds", "Age of the oldest event that waits.")?,
            unannounced_last_retry: at.float(
                "unannounced_last_retry_seconds",
                "Until Alipay's last delivery of the oldest unannounced payment.",
            )?,
            in_flight: at.gauge("in_flight", "Events between admission and answer.")?,
            connections: at.gauge("connections", "Open connections on the public listener.")?,
            connections_refused: refused,
            connections_retired: retired,
            body_bytes: at.gauge("body_bytes", "What bodies hold that were waited for.")?,
            addresses_over_budget: at.gauge("addresses_over_budget", "Verified at low priority.")?,
            low_priority_verifications: low_priority,
            tls_certificate_expires: at.gauge(TLS_EXPIRES, "The listener's certificate's end.")?,
            broker_up: at.gauge("broker_up", "1 while connected to the broker.")?,
            broker_blocked: at.gauge("broker_blocked", "1 while the broker takes nothing.")?,
            topology_problems: at.gauge("topology_problems", "What should stand and does not.")?,
            queues_made_again: at.counters(MADE_AGAIN, "Deleted queues, made again.", &["queue"])?,
            store_up: at.gauge("store_up", "1 while the store can be read and written.")?,
            store_unchecked: at
                .gauge("store_unchecked", "1 while events are announced without asking the store.")?,
            store_refusing: at
                .gauge("store_refusing", "1 while events are refused because the store is away.")?,
            store_unrecorded: at
                .gauge("store_unrecorded", "Confirmed events whose record is still to be written.")?,
            store_damaged: at
                .gauge("store_damaged_files", "Damaged store files set aside and not yet salvaged.")?,
            store_free: at.float("store_free_bytes", "What is free on the store's file system.")?,
            store_size: at.float("store_size_bytes", "How large the store's file system is.")?,
            key_verifications: at.counters("key_verifications_total", "Signatures verified.", &KEY)?,
            key_expires: at.gauges("key_expires_timestamp_seconds", "Its certificate's end.", &KEY)?,
            policy_reloads: at.counters("policy_reloads_total", "Reloads of the policy.", &["result"])?,
            log_lines_dropped: at.register(IntCounter::new(
                "log_lines_dropped_total",
                "Log lines dropped because nobody reads them.",
            )?)?,
            trace_spans: at.counters("trace_spans_total", "Spans by what became of them.", &["result"])?,
            policy_refused: at.gauge("policy_refused", "1 while the last reload was refused.")?,
            ready: at.gauge("ready", "1 while listening and not stopping.")?,
            registry: at.0.clone(),
            process: process()?,
        };
        at.build_info()?;
        metrics.start_at_zero(rejections, holds);
        Ok(metrics)
    }

    /// Counts what became of a request.
    pub fn notification(&self, outcome: Outcome) {
        if let Some(counter) = self.outcomes.get(outcome as usize) {
            counter.inc();
        }
    }

    /// Counts a publish.
    pub fn event(&self, event_type: EventType, result: PublishResult) {
        let of_type = self.publishes.get(event_type as usize);
        if let Some(counter) = of_type.and_then(|of_type| of_type.get(result as usize)) {
            counter.inc();
        }
    }

    /// Times a stage.
    pub fn stage(&self, stage: Stage, took: std::time::Duration) {
        if let Some(histogram) = self.stages.get(stage as usize) {
            histogram.observe(took.as_secs_f64());
        }
    }

    /// Counts spans.
    pub fn spans(&self, fate: SpanFate, count: u64) {
        self.trace_spans.with_label_values(&[fate.as_str()]).inc_by(count);
    }

    /// Counts a connection that was refused or ended.
    pub fn connection_refused(&self, refusal: ConnectionRefusal) {
        self.connections_refused.with_label_values(&[refusal.as_str()]).inc();
    }

    /// Counts a connection that had its share.
    pub fn connection_retired(&self, retirement: Retirement) {
        self.connections_retired.with_label_values(&[retirement.as_str()]).inc();
    }

    /// Counts what became of verifying at low priority.
    pub fn low_priority(&self, result: LowPriorityResult) {
        self.low_priority_verifications.with_label_values(&[result.as_str()]).inc();
    }

    /// The text format 0.0.4, as `/metrics` gives it.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        // Writing to a Vec cannot fail, and the registry's names were checked when they were registered.
        for registry in [&self.registry, &self.process] {
            let _ = TextEncoder::new().encode(&registry.gather(), &mut text);
        }
        // The encoder writes `inf`, which Prometheus reads and other readers of the format need not.
        String::from_utf8(text).unwrap_or_default().replace(" inf\n", " +Inf\n")
    }

    fn start_at_zero(&self, rejections: &[&str], holds: &[&str]) {
        for reason in rejections.iter().chain(&[NOT_A_FORM]) {
            let _ = self.rejections.with_label_values(&[reason]);
        }
        for reason in holds {
            let _ = self.held.with_label_values(&[reason]);
        }
        for event_type in EventType::ALL {
            let _ = self.type_suspended.with_label_values(&[event_type.as_str()]);
        }
        for state in ["deferred", "in_doubt", "held"] {
            let _ = self.backlog_events.with_label_values(&[state]);
        }
        for bound in ["max_deferred", "max_returned", "max_deferred_bytes", "max_held", "max_held_bytes"] {
            let _ = self.backlog_used.with_label_values(&[bound]);
        }
        for result in ["applied", "refused"] {
            let _ = self.policy_reloads.with_label_values(&[result]);
        }
        for fate in SpanFate::ALL {
            self.spans(fate, 0);
        }
        for refusal in ConnectionRefusal::ALL {
            let _ = self.connections_refused.with_label_values(&[refusal.as_str()]);
        }
        for retirement in Retirement::ALL {
            let _ = self.connections_retired.with_label_values(&[retirement.as_str()]);
        }
        for result in LowPriorityResult::ALL {
            let _ = self.low_priority_verifications.with_label_values(&[result.as_str()]);
        }
        self.unannounced_last_retry.set(f64::INFINITY);
        self.store_free.set(f64::INFINITY);
        self.store_size.set(f64::INFINITY);
    }
}

/// Registers each metric as it is made.
struct Registering(Registry);

impl Registering {
    fn register<C: Collector + Clone + 'static>(&self, metric: C) -> Result<C, prometheus::Error> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.register(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.register(IntGauge::new(name, help)?)
    }

    fn floats(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, prometheus::Error> {
        self.register(GaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn float(&self, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
        self.register(Gauge::new(name, help)?)
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, prometheus::Error> {
        self.register(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> Result<HistogramVec, prometheus::Error> {
        self.register(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?)
    }

    fn publishes(&self) -> Result<[[IntCounter; 6]; 8], prometheus::Error> {
        let all = self.counters("events_total", "Publishes by type and result.", &["type", "result"])?;
        Ok(EventType::ALL.map(|event_type| {
            PublishResult::ALL.map(|result| all.with_label_values(&[event_type.as_str(), result.as_str()]))
        }))
    }

    /// What the public door counts beside notifications.
    fn counters_of_the_door(&self) -> Result<[IntCounterVec; 3], prometheus::Error> {
        let refused = "Connections refused or ended by a limit.";
        let low_priority = "What became of verifying at low priority.";
        Ok([
            self.counters("connections_refused_total", refused, &["reason"])?,
            self.counters("connections_retired_total", "Connections that had their share.", &["reason"])?,
            self.counters("low_priority_verifications_total", low_priority, &["result"])?,
        ])
    }

    fn build_info(&self) -> Result<(), prometheus::Error> {
        let info = self.gauges("build_info", "The build: always 1.", &["version", "engine"])?;
        let engine = if cfg!(feature = "aws-lc") { "aws-lc-rs" } else { "rsa" };
        info.with_label_values(&[env!("CARGO_PKG_VERSION"), engine]).set(1);
        Ok(())
    }
}

/// CPU, memory and descriptors of the process, under the names that every dashboard knows: a registry of its
/// own, because ours gives every name a prefix. Read from `/proc` at each scrape; elsewhere there is nothing.
fn process() -> Result<Registry, prometheus::Error> {
    let registry = Registry::new();
    #[cfg(target_os = "linux")]
    registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
    Ok(registry)
}

/// The one reason of `rejections_total` that the public door gives itself, without asking admission: the
/// request says that it is no form.
pub const NOT_A_FORM: &str = "not_a_form";

const MADE_AGAIN: &str = "queues_made_again_total";
const TLS_EXPIRES: &str = "tls_certificate_expires_timestamp_seconds";
/// Which key of which app.
const KEY: [&str; 2] = ["app_id", "key"];
/// 50 µs to 10 s: a stage takes microseconds when all is well and seconds when a broker does not answer.
const STAGE_BUCKETS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];
/// A lane's batch has at most 64 events.
const BATCH_BUCKETS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];
/// Up to an hour Alipay is late; past that it is its retry schedule (protocol.md §6).
const LAG_BUCKETS: &[f64] =
    &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21_600.0, 90_000.0];
/// The objective is a payment confirmed within 1 s of its arrival; past `http.answer_timeout` it is the backlog.
const HANDLING_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 90_000.0];
