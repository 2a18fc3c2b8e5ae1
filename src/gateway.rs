//! The one place with the whole order: admit, publish, count, audit. Knows nothing of HTTP.

mod key_use;
mod low_priority;
mod operator;
mod origin;
mod penalty_box;
mod sparingly;
mod verifier;

use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::admission::policy::Policy;
use crate::admission::{self, Admitted, Cost, KeyName, Rejection, Verdict, Withheld};
use crate::clock::{Clock, Timestamp};
use crate::event::{Event, EventType};
use crate::lifecycle::{self, Tasks};
use crate::metrics::{self, Metrics, Stage};
use crate::publication::{Announced, Answered, Backlog, Hold, How, Outcome, Publication, Seen, audit};
use crate::store::{Row, StoreError};
use crate::telemetry::traces::{Span, Tracer};

pub use key_use::KeyUse;
use key_use::KeyUses;
use low_priority::{Job, LowPriority};
pub use operator::{Done, Order, Replayed};
pub use origin::Origin;
use penalty_box::{PenaltyBox, Priority};
use sparingly::Sparingly;
use verifier::Verifier;

/// The gateway between two doors: notifications come in, replies go out.
#[derive(Debug, Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

/// What a gateway is made of.
#[derive(Debug)]
pub struct Parts {
    /// What admission judges by.
    pub policy: Policy,
    /// The second hall.
    pub publication: Publication,
    /// `http.answer_timeout`.
    pub answer_timeout: Duration,
    /// `http.failure_budget`: signatures that one origin may have verified in vain in a minute, at usual priority.
    pub failure_budget: u32,
    /// Bound: what waits at low priority may hold, in bytes. Half of `http.max_bodies`: a body that waits here is whole and
    /// gives way to none, and must leave room for a genuine one that comes in two pieces.
    pub low_priority_bytes: usize,
    /// Bound: and so many of them may wait. Each is in a request, and its connection gives way to none meanwhile.
    pub low_priority_jobs: usize,
    /// Whether another thread is to verify some of what comes at once: where one serves, and there are cores for two.
    pub has_verifier: bool,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where it spawns.
    pub tasks: Tasks,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
    /// What begins the spans.
    pub tracer: Tracer,
}

#[derive(Debug)]
struct Inner {
    policy: RwLock<Arc<Policy>>,
    publication: Publication,
    answer_timeout: Duration,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    metrics: Arc<Metrics>,
    tracer: Tracer,
    refusals: Sparingly,
    unavailable: Sparingly,
    held: Sparingly,
    late: Sparingly,
    duplicates: Sparingly,
    keys: KeyUses,
    penalties: PenaltyBox,
    low_priority: LowPriority,
    verifier: Option<Verifier<Judged>>,
}

/// What admission said, and how long it took.
type Judged = (Verdict, Duration);

/// A request body and what is known of its arrival.
#[derive(Debug)]
pub struct Delivery {
    /// The body, byte for byte.
    pub body: Bytes,
    /// Who sent it, as far as that can be known. Budgets are charged to him; it is a reason for nothing else.
    pub client: IpAddr,
    /// When its head was complete: the answer deadline counts from here.
    pub arrived: Instant,
    /// The W3C trace context of the request, if it brought a well-formed one.
    pub traceparent: Option<String>,
}

/// What Alipay is to be told.
#[derive(Debug)]
pub enum Reply {
    /// `success`: only with the proof.
    Success(Announced),
    /// `fail`, theirs: malformed, forged, not ours, or authentic and held.
    Rejected,
    /// `fail`, ours: not confirmed in time, no room, or stopping.
    Unavailable,
    /// `fail`, ours: it was to wait at low priority, and found no place or no time there; or another thread was to verify it,
    /// and did not.
    Crowded,
}

/// How the gateway is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The parts that are away and why; empty when all is well. Degraded is still ready.
    pub degraded: Vec<(&'static str, String)>,
}

impl Gateway {
    /// Puts it together.
    pub fn new(parts: Parts) -> Self {
        let inner = Inner {
            policy: RwLock::new(Arc::new(parts.policy)),
            publication: parts.publication,
            answer_timeout: parts.answer_timeout,
            clock: parts.clock,
            tasks: parts.tasks,
            low_priority: LowPriority::new(
                parts.low_priority_jobs,
                parts.low_priority_bytes,
                Arc::clone(&parts.metrics),
            ),
            metrics: parts.metrics,
            tracer: parts.tracer,
            refusals: Sparingly::to(1),
            unavailable: Sparingly::to(1),
            held: Sparingly::to(NAMED_A_SECOND),
            late: Sparingly::to(NAMED_A_SECOND),
            duplicates: Sparingly::to(DUPLICATES_A_SECOND),
            keys: KeyUses::default(),
            penalties: PenaltyBox::new(parts.failure_budget),
            verifier: parts.has_verifier.then(Verifier::new),
        };
        inner.show_keys();
        // Until somebody has looked.
        inner.metrics.store_up.set(1);
        Self { inner: Arc::new(inner) }
    }

    /// Takes one delivery to its reply. Does not fail and has its own deadline.
    ///
    /// Cancel safety: dropped before its end, it is finished and counted in a task of its own.
    pub fn notify(&self, delivery: Delivery) -> impl Future<Output = Reply> + Send + use<> {
        let inner = Arc::clone(&self.inner);
        self.inner.tasks.finish(async move { inner.notify(delivery).await })
    }

    /// Believes another policy from now on: the whole of it.
    pub fn replace_policy(&self, mut policy: Policy) {
        {
            let mut current = self.inner.policy.write().unwrap_or_else(PoisonError::into_inner);
            policy.complete_since = current.complete_since;
            *current = Arc::new(policy);
        }
        self.inner.show_keys();
    }

    /// Finds out what the store has forgotten. Says whether it is known now.
    pub async fn look_how_far_back(&self) -> bool {
        let Ok(since) = self.inner.publication.complete_since().await else { return false };
        let mut current = self.inner.policy.write().unwrap_or_else(PoisonError::into_inner);
        if current.complete_since != since {
            Arc::make_mut(&mut current).complete_since = since;
        }
        true
    }

    /// The keys that it believes and watches, and when each verified something last.
    pub fn keys(&self) -> Vec<KeyUse> {
        self.inner.keys.list()
    }

    /// Its time.
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// How it is.
    pub fn health(&self) -> Health {
        let mut degraded = self.inner.publication.degraded();
        // Who looks every few seconds finds out before an event does.
        let is_told = degraded.iter().any(|(part, _)| *part == "store");
        if !is_told && self.inner.metrics.store_up.get() == 0 {
            degraded.push(("store", "it cannot be read".to_owned()));
        }
        Health { degraded }
    }

    /// What was announced after a number, for who watches.
    pub fn seen(&self, after: Option<u64>) -> Seen {
        self.inner.publication.seen(after)
    }

    /// Everything kept for a trade.
    ///
    /// # Errors
    /// If the store is away.
    pub async fn trade(&self, trade_no: &str) -> Result<Vec<Row>, StoreError> {
        self.inner.publication.trade(trade_no).await
    }

    /// Brings the gauges up to date that have to be counted: what the store keeps, and who is out of favour.
    pub async fn show_backlog(&self) {
        let now = self.inner.clock.now();
        let metrics = &self.inner.metrics;
        let over_budget = self.inner.penalties.count(Instant::now());
        metrics.addresses_over_budget.set(i64::try_from(over_budget).unwrap_or(i64::MAX));
        let Backlog { tally, last_retry, is_known } = self.inner.publication.backlog(now).await;
        let is_away = !is_known || metrics.store_unchecked.get() + metrics.store_refusing.get() > 0;
        metrics.store_up.set(i64::from(!is_away));
        for (state, count) in
            [("deferred", tally.deferred), ("in_doubt", tally.in_doubt), ("held", tally.held)]
        {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            metrics.backlog_events.with_label_values(&[state]).set(count);
        }
        metrics.backlog_oldest.set(tally.oldest_at.map_or(0.0, |at| now.since(at).as_secs_f64()));
        metrics.unannounced_last_retry.set(last_retry);
    }
}

impl Inner {
    fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn notify(&self, mut delivery: Delivery) -> Reply {
        let now = self.clock.now();
        let started = Instant::now();
        let Some(verdict) = self.judge(&delivery, now).await else {
            // No span: nobody knows whose it is.
            self.metrics.notification(metrics::Outcome::Busy);
            return Reply::Crowded;
        };
        let took = started.elapsed();
        let mut begin = || {
            let span = self.tracer.notification(delivery.traceparent.take(), delivery.arrived.elapsed());
            span.trace().stage(Stage::Admission, took);
            span
        };
        match verdict {
            Verdict::Rejected(rejection, _) => self.reject(rejection, delivery.client, now, begin),
            Verdict::Shadowed(key) => {
                self.count_key(&key, now);
                self.reject(Rejection::ShadowKey, delivery.client, now, begin)
            }
            Verdict::Withheld(withheld, key) => {
                let span = begin();
                self.count_key(&key, now);
                self.hold(&withheld, &delivery.body, &key, span).await
            }
            Verdict::Admitted(admitted, key) => {
                let span = begin();
                self.count_key(&key, now);
                self.time_arrival(admitted.event(), now);
                self.announce(admitted, delivery, &key, span).await
            }
        }
    }

    /// What admission says, sooner or later. Nothing if that would be too late, if nothing more can wait for it, or if it
    /// panicked in another thread.
    async fn judge(&self, delivery: &Delivery, now: Timestamp) -> Option<Verdict> {
        let (origin, policy) = (Origin::from(delivery.client), self.policy());
        let priority = self.penalties.priority(origin, delivery.arrived);
        let verdict = match priority {
            Priority::Usual => {
                let (verdict, took) = match &self.verifier {
                    // Where nothing is in flight, nothing else comes at once, and the way over the queue is saved.
                    Some(verifier) if self.publication.in_flight() > 0 => {
                        let body = delivery.body.clone();
                        // More than may be forged are not begun with before the first is known to be.
                        let at_most = self.penalties.failures_left(origin, delivery.arrived);
                        let deadline = delivery.arrived + self.answer_timeout;
                        verifier.run(at_most, deadline, move || judge(&body, &policy, now)).await?
                    }
                    Some(_) | None => judge(&delivery.body, &policy, now),
                };
                self.metrics.stage(Stage::Admission, took);
                verdict
            }
            Priority::Low => {
                let (body, deadline) = (delivery.body.clone(), delivery.arrived + self.answer_timeout);
                self.low_priority.admit(Job { origin, body, policy, now, deadline }).await?
            }
        };
        match &verdict {
            Verdict::Rejected(_, Cost::Verification) => {
                self.penalties.failed(origin, priority, delivery.arrived);
            }
            Verdict::Rejected(_, Cost::Nothing) => {}
            Verdict::Admitted(..) | Verdict::Withheld(..) | Verdict::Shadowed(_) => {
                self.penalties.verified(origin, delivery.arrived);
            }
        }
        Some(verdict)
    }

    fn reject(
        &self,
        rejection: Rejection,
        client: IpAddr,
        now: Timestamp,
        begin: impl FnOnce() -> Span,
    ) -> Reply {
        let reason = rejection.reason();
        self.metrics.rejections.with_label_values(&[reason]).inc();
        self.metrics.notification(metrics::Outcome::Rejected);
        if let Some(unsaid) = self.refusals.say(now) {
            // Nothing of the body: whoever sent it is a stranger. Nor may his flood push out the spans of others.
            tracing::info!(reason, %rejection, %client, unsaid, "refused");
            let mut span = begin();
            span.note(CAUSE, reason);
            span.note(OUTCOME, metrics::Outcome::Rejected.as_str());
        }
        Reply::Rejected
    }

    async fn hold(&self, withheld: &Withheld, body: &Bytes, key: &KeyName, mut span: Span) -> Reply {
        let (app_id, reason) = (withheld.app_id(), withheld.objection().reason());
        span.note(CAUSE, reason);
        match self.publication.hold(withheld, body).await {
            Ok(Hold::Decided(announced)) => {
                self.count(outcome_of(&announced), &mut span);
                self.audit(&announced, withheld.notify_id(), key, span.trace().id());
                Reply::Success(announced)
            }
            Ok(Hold::Held) => {
                if let Some(unsaid) = self.held.say(self.clock.now()) {
                    let objection = withheld.objection();
                    tracing::warn!(app_id, reason, %objection, unsaid, "authentic, and held");
                }
                self.count_held(reason, span)
            }
            Ok(Hold::Full) => {
                tracing::error!(app_id, reason, "authentic and to be held, but there is no room");
                self.unavailable(metrics::Outcome::Busy, "no_room", span)
            }
            Err(error) => {
                tracing::error!(app_id, reason, %error, "authentic and to be held, but the store is away");
                self.unavailable(metrics::Outcome::Busy, "store_down", span)
            }
        }
    }

    async fn announce(&self, admitted: Admitted, delivery: Delivery, key: &KeyName, mut span: Span) -> Reply {
        let event = Arc::clone(admitted.event());
        let (notify_id, event_id) = (event.notify_id.as_str(), event.id.as_str());
        span.note("messaging.message.id", event_id);
        span.note("alipay_gateway.event_type", event.event_type.as_str());
        let deadline = delivery.arrived + self.answer_timeout;
        let trace = span.trace().clone();
        match self.publication.announce(admitted, &delivery.body, trace, deadline).await {
            Outcome::Announced(announced) => {
                self.count(outcome_of(&announced), &mut span);
                self.audit(&announced, notify_id, key, span.trace().id());
                Reply::Success(announced)
            }
            Outcome::Deferred(cause) => {
                if let Some(unsaid) = self.late.say(self.clock.now()) {
                    tracing::warn!(
                        event_id,
                        notify_id,
                        cause = cause.as_str(),
                        unsaid,
                        "deferred, and told fail"
                    );
                }
                self.unavailable(metrics::Outcome::Deferred, cause.as_str(), span)
            }
            Outcome::Pending => {
                let cause = "answer_deadline";
                if let Some(unsaid) = self.late.say(self.clock.now()) {
                    tracing::warn!(event_id, notify_id, cause, unsaid, "still in flight, and told fail");
                }
                self.unavailable(metrics::Outcome::Deferred, cause, span)
            }
            Outcome::Held(objection) => {
                if let Some(unsaid) = self.held.say(self.clock.now()) {
                    tracing::warn!(
                        event_id,
                        notify_id,
                        reason = objection.reason(),
                        unsaid,
                        "authentic, and held"
                    );
                }
                span.note(CAUSE, objection.reason());
                self.count_held(objection.reason(), span)
            }
            Outcome::Refused => {
                // One line a second: while a store is away that is not to be done without, it is every one of them.
                if let Some(unsaid) = self.unavailable.say(self.clock.now()) {
                    tracing::warn!(event_id, notify_id, unsaid, "no room, or nowhere to keep it: told fail");
                }
                self.unavailable(metrics::Outcome::Busy, "no_room", span)
            }
        }
    }

    /// The proof of what was announced; of what was announced before, no more than others have room beside.
    fn audit(&self, announced: &Announced, notify_id: &str, key: &KeyName, trace_id: Option<&str>) {
        if outcome_of(announced) == metrics::Outcome::Duplicate {
            match self.duplicates.say(self.clock.now()) {
                None => return,
                Some(0) => {}
                Some(unsaid) => tracing::warn!(unsaid, "audit lines of duplicates were left out"),
            }
        }
        let is_heard = !lifecycle::is_abandoned();
        let answered = if is_heard { Answered::Success } else { Answered::Nobody };
        audit(announced, notify_id, Some(key), trace_id, answered);
    }

    fn count(&self, outcome: metrics::Outcome, span: &mut Span) {
        self.metrics.notification(outcome);
        span.note(OUTCOME, outcome.as_str());
    }

    fn count_held(&self, reason: &'static str, mut span: Span) -> Reply {
        self.metrics.held.with_label_values(&[reason]).inc();
        self.count(metrics::Outcome::Held, &mut span);
        Reply::Rejected
    }

    fn unavailable(&self, outcome: metrics::Outcome, cause: &'static str, mut span: Span) -> Reply {
        self.count(outcome, &mut span);
        span.note(CAUSE, cause);
        span.fail(cause);
        Reply::Unavailable
    }

    fn count_key(&self, key: &KeyName, now: Timestamp) {
        self.keys.verified(key, now);
        self.metrics.key_verifications.with_label_values(&[&key.app_id, &key.fingerprint]).inc();
    }

    /// A genuine delivery always has a new `notify_time`, so one in the future proves that our clock is slow.
    fn time_arrival(&self, event: &Event, now: Timestamp) {
        self.metrics.clock_skew.set(event.notified_at.since(now).as_secs_f64());
        self.metrics.delivery_lag.observe(now.since(event.notified_at).as_secs_f64());
    }

    /// Every key has its series from the start, so that one that verifies nothing shows as 0; those of an app that is configured no
    /// more go, or its silence would be told.
    fn show_keys(&self) {
        let policy = self.policy();
        self.metrics.keep_apps(|app_id| policy.apps.contains_key(app_id));
        self.keys.watch(&policy, self.clock.now());
        self.metrics.key_expires.reset();
        for KeyUse { key, expires_at, .. } in self.keys.list() {
            let labels = [key.app_id.as_str(), key.fingerprint.as_str()];
            let _ = self.metrics.key_verifications.with_label_values(&labels);
            if let Some(at) = expires_at {
                let seconds = i64::try_from(at.unix_seconds()).unwrap_or(i64::MAX);
                self.metrics.key_expires.with_label_values(&labels).set(seconds);
            }
        }
    }
}

fn judge(body: &Bytes, policy: &Policy, now: Timestamp) -> Judged {
    let started = Instant::now();
    let verdict = admission::admit(body, policy, now);
    (verdict, started.elapsed())
}

fn outcome_of(announced: &Announced) -> metrics::Outcome {
    match announced.how() {
        How::Confirmed(_) if announced.event_type() == Some(EventType::PaymentConflict) => {
            metrics::Outcome::Conflict
        }
        How::Confirmed(_) | How::Unrouted => metrics::Outcome::Announced,
        How::Followed | How::Recorded | How::Dropped => metrics::Outcome::Duplicate,
    }
}

/// What a span says of its notification, in the words of `notifications_total{outcome}` and of the log.
const OUTCOME: &str = "alipay_gateway.outcome";
const CAUSE: &str = "alipay_gateway.cause";

/// Bound: lines that name what was held, or was answered too late for `success`.
const NAMED_A_SECOND: u64 = 20;
/// Bound: audit lines of what was announced before. Alipay delivers each notification eight times at the most, and again only
/// where it was not told `success`.
const DUPLICATES_A_SECOND: u64 = 200;
