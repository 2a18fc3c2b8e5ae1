//! A lane: one confirm-mode channel, one batch outstanding. It takes what waits, claims all, publishes all and
//! awaits the confirms; then it is free, and what was confirmed is recorded beside it.
//!
//! A lane never waits without a deadline: the store has its own, opening a channel has the broker's, a batch
//! has `amqp.confirm_timeout`. What is undecided then is *in doubt*: answered `fail`, kept, and watched by a
//! task of its own, which keeps others from publishing it again too early.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::watch;
use tokio::time::Instant;

use super::attribution::{Attribution, Verdict};
use super::breaker::Probe;
use super::recording::Done;
use super::{Errand, LEASE_MARGIN, Settlement, Shared};
use crate::broker::{Confirms, Link, Publisher, Settled};
use crate::event::{Event, Key, Message};
use crate::failpoint::{self, Point};
use crate::metrics::{PublishResult, Stage};
use crate::store::{Cause, State};
use crate::telemetry::traces::{Span, Trace};

/// An event that waits for a lane or is in one. Its leader's flight ends when it is settled.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) errand: Errand,
    /// It goes in a batch of its own: its batch ended in a channel exception, and it may be the cause.
    pub(super) alone: bool,
    /// It comes out of the store, and nobody waits for it.
    pub(super) drained: bool,
    /// The flight of its key is its own to end: not any more once its minute of doubt is over, when the flight under
    /// the key may be another one's, and of other money.
    pub(super) leads: bool,
    /// It is in the store since its minute of doubt was over, and others may be at it, in this process's name too.
    pub(super) is_kept: bool,
}

impl Job {
    pub(super) fn new(errand: Errand) -> Self {
        Self { errand, alone: false, drained: false, leads: true, is_kept: false }
    }

    /// Of an event that was kept.
    pub(super) fn drained(errand: Errand) -> Self {
        Self { errand, alone: false, drained: true, leads: true, is_kept: false }
    }

    pub(super) fn event(&self) -> &Event {
        &self.errand.event
    }

    pub(super) fn key(&self) -> &Key {
        self.errand.event.key()
    }

    /// The crash point that a live event passes, or a drained one.
    pub(super) fn passes(&self, live: Point, drained: Point) {
        failpoint::reached(if self.drained { drained } else { live });
    }
}

/// One of `amqp.lanes`.
pub(super) struct Lane {
    shared: Arc<Shared>,
    link: watch::Receiver<Link>,
    channel: Option<Channel>,
    /// The link was waited for once since it went down; it is not waited for again until it has been up.
    impatient: bool,
}

/// A publisher, and the connection that it is of.
pub(super) struct Channel {
    pub(super) connection: u64,
    publisher: Box<dyn Publisher>,
}

/// An event that may be published.
pub(super) struct Ready {
    pub(super) job: Job,
    pub(super) unchecked: bool,
    /// Its type is suspended, and it is to find out whether that is over.
    pub(super) probe: Option<Probe>,
}

/// The batch that is outstanding.
pub(super) struct Batch {
    /// Taken out as they are decided.
    pub(super) jobs: Vec<Option<Ready>>,
    /// Of the publish of each; taken out with its job.
    spans: Vec<Option<Span>>,
    pub(super) attribution: Attribution,
    pub(super) confirms: Box<dyn Confirms>,
    started: Instant,
    /// How long after its last publish it is waited for at most, if nobody needs the lane.
    patience: Duration,
    pub(super) done: Vec<Done>,
    pub(super) failed: Vec<(Ready, Verdict)>,
}

impl Lane {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let link = shared.broker.link();
        Self { shared, link, channel: None, impatient: false }
    }

    pub(super) async fn run(mut self) {
        while let Some(jobs) = self.shared.queue.take().await {
            let count = jobs.len();
            self.carry(jobs).await;
            self.shared.queue.done(count);
        }
    }

    async fn carry(&mut self, jobs: Vec<Job>) {
        let claimed = Instant::now();
        let ready = self.shared.sort_out(jobs).await;
        if ready.is_empty() {
            return;
        }
        match self.open().await {
            // Another replica may have it by the time that a confirm comes: claimed anew.
            Ok(channel) if claimed.elapsed() > self.shared.store.lease() / 3 => {
                self.channel = Some(channel);
                self.shared.put_back(ready);
            }
            Ok(channel) => self.publish(channel, ready, claimed).await,
            Err(cause) => self.shared.spawn_defer(ready, cause, State::Deferred),
        }
    }

    /// The channel of the present connection, opened if need be.
    async fn open(&mut self) -> Result<Channel, Cause> {
        if *self.link.borrow_and_update() == Link::Down && !self.impatient {
            self.impatient = true;
            let back = self.link.wait_for(|link| *link != Link::Down);
            // Bound: once for each time that the link goes down.
            let _ = tokio::time::timeout(LINK_PATIENCE, back).await;
        }
        let connection = match *self.link.borrow() {
            Link::Down => return Err(Cause::BrokerDown),
            Link::Blocked(_) => return Err(Cause::Blocked),
            Link::Up(connection) => connection,
        };
        self.impatient = false;
        if let Some(channel) = self.channel.take()
            && channel.connection == connection
            && channel.publisher.is_usable()
        {
            return Ok(channel);
        }
        match self.shared.broker.open().await {
            Ok(publisher) => Ok(Channel { connection, publisher }),
            Err(error) => {
                tracing::warn!(%error, "no channel to publish on");
                Err(Cause::BrokerDown)
            }
        }
    }

    async fn publish(&mut self, mut channel: Channel, ready: Vec<Ready>, claimed: Instant) {
        let mut batch = self.shared.start(&mut channel, ready, claimed);
        batch.await_confirms(&self.shared).await;
        let failed = std::mem::take(&mut batch.failed);
        if batch.attribution.is_complete() {
            self.shared.give_back(failed, self.still_up(channel.connection));
            self.channel = channel.publisher.is_usable().then_some(channel);
        } else {
            // The channel stays with the batch that is in doubt; the next one gets a new channel.
            self.shared.give_back(failed, false);
            self.shared.doubt(batch, channel).await;
        }
    }

    fn still_up(&self, connection: u64) -> bool {
        *self.link.borrow() == Link::Up(connection)
    }
}

impl Batch {
    /// Until every event is decided or the batch's deadline has come. What is confirmed is handed over as it
    /// comes, a moment gathered, so that one silent queue does not hold back the answers of the others.
    async fn await_confirms(&mut self, shared: &Arc<Shared>) {
        let mut deadline = self.started + shared.config.confirm_timeout.min(self.patience);
        let last = self.started + self.patience;
        let mut hand_over_at = None;
        while !self.attribution.is_complete() {
            let wake = hand_over_at.map_or(deadline, |at: Instant| at.min(deadline));
            let view = tokio::select! {
                biased;
                view = self.confirms.settle() => Some(view),
                () = tokio::time::sleep_until(wake) => None,
            };
            match view {
                Some(view) if view.is_empty() => break,
                Some(view) => self.settle(view, shared),
                // Nobody waits for these, and nobody for the lane.
                None if wake == deadline && deadline < last && !shared.queue.needs_a_lane() => {
                    deadline = (deadline + LOOK_FOR_LIVE).min(last);
                }
                None if wake == deadline => {
                    let view = self.confirms.settle_now();
                    self.settle(view, shared);
                    break;
                }
                None => {
                    shared.spawn_record(std::mem::take(&mut self.done));
                    hand_over_at = None;
                }
            }
            if hand_over_at.is_none() && !self.done.is_empty() {
                hand_over_at = Some(Instant::now() + GATHER);
            }
        }
        shared.spawn_record(std::mem::take(&mut self.done));
    }

    fn end_span(&mut self, index: usize, verdict: Verdict) {
        if let Some(span) = self.spans.get_mut(index).and_then(Option::take) {
            end(span, Some(verdict));
        }
    }

    /// What is in doubt may stay so for minutes, and its span is not to be missing meanwhile.
    pub(super) fn end_spans(&mut self) {
        self.spans.iter_mut().filter_map(Option::take).for_each(|span| end(span, None));
    }

    pub(super) fn settle(&mut self, view: Vec<Settled>, shared: &Shared) {
        let at = shared.clock.now();
        for (index, verdict) in self.attribution.settle(view) {
            let Some(ready) = self.jobs.get_mut(index).and_then(Option::take) else { continue };
            self.end_span(index, verdict);
            ready.job.passes(Point::PublishedUnconfirmed, Point::DrainedUnconfirmed);
            let event_type = ready.job.event().event_type;
            match shared.judge(&ready, verdict) {
                Some(state) => self.done.push(Done { job: ready.job, state, at }),
                None => self.failed.push((ready, verdict)),
            }
            if verdict == Verdict::Confirmed {
                shared.metrics.stage(Stage::Publish, self.started.elapsed());
                tracing::trace!(%event_type, "confirmed");
            }
        }
    }
}

/// Ends the span of a publish.
fn end(mut span: Span, verdict: Option<Verdict>) {
    let word = match verdict {
        Some(Verdict::Confirmed) => "confirmed",
        Some(Verdict::Returned) => "returned",
        Some(Verdict::Nacked) => "nacked",
        Some(Verdict::Lost) => "lost",
        Some(Verdict::Unsent) => "unsent",
        None => "in_doubt",
    };
    span.note("alipay_gateway.result", word);
    if verdict != Some(Verdict::Confirmed) {
        span.note("error.type", word);
        span.fail(word);
    }
}

impl Shared {
    /// Renders and starts a batch. Message ids differ within it, because single flight holds each key once.
    fn start(&self, channel: &mut Channel, ready: Vec<Ready>, claimed: Instant) -> Batch {
        failpoint::reached(Point::ClaimedUnpublished);
        let spans: Vec<Span> = ready.iter().map(Ready::span).collect();
        let messages: Vec<Message> =
            ready.iter().zip(&spans).map(|(ready, span)| ready.message(span.trace())).collect();
        let attribution = Attribution::of(messages.iter().map(|message| message.id.clone()));
        #[expect(clippy::cast_precision_loss, reason = "a batch has at most a few hundred events")]
        self.metrics.batch_size.observe(messages.len() as f64);
        let confirms = channel.publisher.publish(messages, self.clock.now());
        let nobody_waits = ready.iter().all(|ready| ready.job.drained && ready.probe.is_none());
        let patience = if nobody_waits { DRAIN_PATIENCE } else { self.config.confirm_timeout };
        // What is in doubt is written before its lease is over, and is nobody else's from then on.
        let lease = self.store.lease().saturating_sub(claimed.elapsed() + LEASE_MARGIN);
        let patience = patience.max(self.config.confirm_timeout).min(lease);
        let jobs = ready.into_iter().map(Some).collect();
        let spans = spans.into_iter().map(Some).collect();
        let (started, done, failed) = (Instant::now(), Vec::new(), Vec::new());
        Batch { jobs, spans, attribution, confirms, started, patience, done, failed }
    }

    /// Counts a verdict, and says in which state it is to be recorded, if it is.
    fn judge(&self, ready: &Ready, verdict: Verdict) -> Option<State> {
        let event_type = ready.job.event().event_type;
        let (result, state) = match verdict {
            Verdict::Confirmed => (PublishResult::Confirmed, Some(State::Recorded)),
            Verdict::Returned if self.config.ignore.contains(&event_type) => {
                (PublishResult::Unrouted, Some(State::Unrouted))
            }
            Verdict::Returned => (PublishResult::Returned, None),
            Verdict::Nacked => (PublishResult::Nacked, None),
            Verdict::Lost | Verdict::Unsent => return None,
        };
        self.breaker.answered(event_type);
        self.metrics.event(event_type, result);
        if ready.unchecked && verdict == Verdict::Confirmed {
            self.metrics.event(event_type, PublishResult::Unchecked);
        }
        state
    }

    /// What the broker refused or lost is kept; after a channel exception on a connection that is still up,
    /// each event of the batch is tried once more, alone, so that a poisonous one harms only itself.
    pub(super) fn give_back(self: &Arc<Self>, failed: Vec<(Ready, Verdict)>, still_up: bool) {
        for (mut ready, verdict) in failed {
            // To keep it anew would take the lease from whoever publishes it now.
            if ready.job.is_kept {
                continue;
            }
            let cause = match verdict {
                Verdict::Returned => Cause::Returned,
                Verdict::Nacked => Cause::Nacked,
                Verdict::Confirmed | Verdict::Lost | Verdict::Unsent if still_up && ready.job.alone => {
                    Cause::ChannelClosed
                }
                Verdict::Confirmed | Verdict::Lost | Verdict::Unsent => Cause::BrokerDown,
            };
            let in_time = ready.job.errand.deadline > Instant::now();
            if cause == Cause::BrokerDown && still_up && in_time {
                ready.job.alone = true;
                if let Err(job) = self.queue.push(ready.job) {
                    self.give_up(*job, Settlement::Refused);
                }
            } else {
                if cause != Cause::BrokerDown {
                    let (event_id, cause) = (ready.job.event().id.as_str(), cause.as_str());
                    tracing::error!(event_id, cause, "the broker did not take an event");
                }
                self.spawn_defer(vec![ready], cause, State::Deferred);
            }
        }
    }

    /// Lets a lane claim and publish it anew.
    fn put_back(&self, ready: Vec<Ready>) {
        for ready in ready {
            if let Err(job) = self.queue.push(ready.job) {
                self.give_up(*job, Settlement::Refused);
            }
        }
    }

    /// Ends a job.
    pub(super) fn give_up(&self, job: Job, settlement: Settlement) {
        let _ = self.finish(job, &settlement);
    }

    /// Ends a job: its flight, if it still has one, ends with it, and its place is free. Says whether who brought it heard how it
    /// ended.
    pub(super) fn finish(&self, job: Job, settlement: &Settlement) -> bool {
        let flight = job.leads.then(|| Arc::clone(&job.errand.event));
        drop(job);
        flight.is_some_and(|event| self.flight.complete(event.key(), settlement))
    }

    pub(super) fn random(&self, range: std::ops::Range<u64>) -> u64 {
        self.jitter.lock().unwrap_or_else(std::sync::PoisonError::into_inner).random_range(range)
    }
}

impl Ready {
    /// It bears the context of what it is published under, or kept.
    pub(super) fn message(&self, trace: &Trace) -> Message {
        Message::of(self.job.event(), self.unchecked, trace.traceparent())
    }

    fn span(&self) -> Span {
        let event = self.job.event();
        self.job.errand.trace.publish(event.id.as_str(), event.event_type.as_str())
    }
}

/// How long what is confirmed waits for the rest of its batch before it is recorded and answered.
const GATHER: Duration = Duration::from_millis(5);
/// How long a lane waits for a link that has just gone: a start or a reconnect takes less.
const LINK_PATIENCE: Duration = Duration::from_millis(250);
/// How often a lane that waits longer for such a batch looks whether live deliveries need it.
const LOOK_FOR_LIVE: Duration = Duration::from_millis(100);
/// How long a batch is waited for in which nobody waits.
pub(super) const DRAIN_PATIENCE: Duration = Duration::from_secs(30);
