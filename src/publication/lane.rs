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
use super::resolution::{Resolution, resolve};
use super::{Errand, Role, STORE_DEADLINE, Settlement, Shared, within};
use crate::admission::acceptance::Objection;
use crate::broker::{Confirms, Link, Publisher, Settled};
use crate::clock::Timestamp;
use crate::event::{Event, EventType, Key, Message};
use crate::metrics::{PublishResult, Stage};
use crate::store::{Cause, Claim, DOUBT, Deferral, Kept, Record, State};

/// An event that waits for a lane or is in one. Its leader's flight ends when it is settled.
#[derive(Debug)]
pub(super) struct Job {
    errand: Errand,
    /// It goes in a batch of its own: its batch ended in a channel exception, and it may be the cause.
    pub(super) alone: bool,
    /// It comes out of the store, and nobody waits for it.
    pub(super) drained: bool,
}

impl Job {
    pub(super) fn new(errand: Errand) -> Self {
        Self { errand, alone: false, drained: false }
    }

    /// Of an event that was kept.
    pub(super) fn drained(errand: Errand) -> Self {
        Self { errand, alone: false, drained: true }
    }

    fn event(&self) -> &Event {
        &self.errand.event
    }

    pub(super) fn key(&self) -> Key {
        self.errand.event.key()
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
struct Channel {
    connection: u64,
    publisher: Box<dyn Publisher>,
}

/// An event that may be published.
struct Ready {
    job: Job,
    unchecked: bool,
}

/// An event that is safe in the broker, or returned as one that nobody wants.
struct Done {
    job: Job,
    state: State,
    at: Timestamp,
}

/// The batch that is outstanding.
struct Batch {
    /// Taken out as they are decided.
    jobs: Vec<Option<Ready>>,
    attribution: Attribution,
    confirms: Box<dyn Confirms>,
    started: Instant,
    /// How long after its last publish it is waited for at most, if nobody needs the lane.
    patience: Duration,
    done: Vec<Done>,
    failed: Vec<(Ready, Verdict)>,
}

impl Lane {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let link = shared.broker.link();
        Self { shared, link, channel: None, impatient: false }
    }

    pub(super) async fn run(mut self) {
        while let Some(jobs) = self.shared.queue.take(self.shared.config.max_batch).await {
            let ready = self.shared.sort_out(jobs).await;
            if ready.is_empty() {
                continue;
            }
            match self.open().await {
                Ok(channel) => self.publish(channel, ready).await,
                Err(cause) => self.shared.spawn_defer(ready, cause, State::Deferred),
            }
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

    async fn publish(&mut self, mut channel: Channel, ready: Vec<Ready>) {
        let mut batch = self.shared.start(&mut channel, ready);
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
        let mut deadline = self.started + shared.config.confirm_timeout;
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
                None if wake == deadline && deadline < last && !shared.queue.has_live() => {
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

    fn settle(&mut self, view: Vec<Settled>, shared: &Shared) {
        let at = shared.clock.now();
        for (index, verdict) in self.attribution.settle(view) {
            let Some(ready) = self.jobs.get_mut(index).and_then(Option::take) else { continue };
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

impl Shared {
    /// Claims, and resolves what the store has to say: duplicates, tombstones, the stale, the late and the
    /// contradicting leave the batch here.
    async fn sort_out(self: &Arc<Self>, jobs: Vec<Job>) -> Vec<Ready> {
        let started = Instant::now();
        let keys: Vec<Key> = jobs.iter().map(Job::key).collect();
        let (claims, unchecked) = match within(STORE_DEADLINE, self.store.claim(keys)).await {
            Ok(claims) => (claims, false),
            Err(error) => {
                self.unchecked(Some(&error.message));
                (vec![Claim::Granted(None); jobs.len()], true)
            }
        };
        self.metrics.stage(Stage::Claim, started.elapsed());
        let mut ready = Vec::with_capacity(jobs.len());
        for (job, claim) in jobs.into_iter().zip(claims) {
            let known = match claim {
                Claim::HeldElsewhere => {
                    self.park(job);
                    continue;
                }
                Claim::Granted(known) => self.unrecorded.known(&job.key()).or(known),
            };
            match resolve(job.event(), known.as_ref()) {
                Resolution::Publish if job.errand.deadline <= Instant::now() => {
                    self.spawn_defer(vec![Ready { job, unchecked }], Cause::Late, State::Deferred);
                }
                Resolution::Publish => ready.push(Ready { job, unchecked }),
                Resolution::Duplicate => {
                    let (event_id, event_type) = (job.event().id.as_str().to_owned(), job.event().event_type);
                    self.give_up(job, Settlement::Recorded { event_id, event_type });
                }
                Resolution::Dropped => self.give_up(job, Settlement::Dropped),
                Resolution::Hold => self.spawn_hold(job),
                Resolution::Announce(event) => self.redirect(job, *event),
            }
        }
        ready
    }

    /// Renders and starts a batch. Message ids differ within it, because single flight holds each key once.
    fn start(&self, channel: &mut Channel, ready: Vec<Ready>) -> Batch {
        let messages: Vec<Message> = ready.iter().map(Ready::message).collect();
        let attribution = Attribution::of(messages.iter().map(|message| message.id.clone()));
        #[expect(clippy::cast_precision_loss, reason = "a batch has at most a few hundred events")]
        self.metrics.batch_size.observe(messages.len() as f64);
        let confirms = channel.publisher.publish(messages, self.clock.now());
        let nobody_waits = ready.iter().all(|ready| ready.job.drained);
        let patience = if nobody_waits { DRAIN_PATIENCE } else { self.config.confirm_timeout };
        let patience = patience.max(self.config.confirm_timeout);
        let jobs = ready.into_iter().map(Some).collect();
        let (started, done, failed) = (Instant::now(), Vec::new(), Vec::new());
        Batch { jobs, attribution, confirms, started, patience, done, failed }
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
        self.metrics.event(event_type.as_str(), result);
        if ready.unchecked && verdict == Verdict::Confirmed {
            self.metrics.event(event_type.as_str(), PublishResult::Unchecked);
        }
        state
    }

    /// What the broker refused or lost is kept; after a channel exception on a connection that is still up,
    /// each event of the batch is tried once more, alone, so that a poisonous one harms only itself.
    fn give_back(self: &Arc<Self>, failed: Vec<(Ready, Verdict)>, still_up: bool) {
        for (mut ready, verdict) in failed {
            let cause = match verdict {
                Verdict::Returned => Cause::Returned,
                Verdict::Nacked => Cause::Nacked,
                Verdict::Confirmed | Verdict::Lost | Verdict::Unsent => Cause::BrokerDown,
            };
            let in_time = ready.job.errand.deadline > Instant::now();
            if cause == Cause::BrokerDown && still_up && in_time && !ready.job.alone {
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

    /// In doubt is not failed: answered `fail`, kept, and not published again until its confirm resolves, its
    /// channel is gone, or [`DOUBT`] is over; and not over while the broker is blocked, when nothing can move.
    async fn doubt(self: &Arc<Self>, mut batch: Batch, channel: Channel) {
        let doubtful: Vec<&Ready> = batch.jobs.iter().flatten().collect();
        for ready in &doubtful {
            self.metrics.event(ready.job.event().event_type.as_str(), PublishResult::InDoubt);
        }
        tracing::warn!(events = doubtful.len(), "confirms are overdue: the events are in doubt");
        let deferrals =
            doubtful.iter().map(|ready| self.deferral(ready, Cause::InDoubt, State::InDoubt)).collect();
        let keys: Vec<Key> = doubtful.iter().map(|ready| ready.job.key()).collect();
        let kept = self.keep(deferrals).await;
        for (key, kept) in keys.iter().zip(kept) {
            self.flight.answer(key, &settlement_of(Cause::InDoubt, kept));
        }
        let shared = Arc::clone(self);
        self.tasks.spawn(async move {
            let _channel = channel;
            batch.watch(&shared).await;
        });
    }

    /// Another replica is at it: asked again outside the lane, until the event's own deadline.
    fn park(self: &Arc<Self>, job: Job) {
        let pause = Duration::from_millis(self.random(50..200));
        let shared = Arc::clone(self);
        self.tasks.spawn(async move {
            tokio::time::sleep(pause).await;
            if job.errand.deadline <= Instant::now() {
                shared.give_up(job, Settlement::Refused);
            } else if let Err(job) = shared.queue.push(job) {
                shared.give_up(*job, Settlement::Refused);
            }
        });
    }

    /// Announces another event in this one's place, through a flight of its own, so that its id too is
    /// published once.
    fn redirect(self: &Arc<Self>, job: Job, event: Event) {
        let original = job.key();
        let shared = Arc::clone(self);
        self.tasks.spawn(async move {
            let errand = Errand { event, body: None, ..job.errand };
            let settlement = match Box::pin(shared.settle(errand, None)).await {
                Some((Role::Follower, Settlement::Confirmed { event_id, event_type, .. })) => {
                    Settlement::Recorded { event_id, event_type }
                }
                Some((_, settlement)) => settlement,
                None => Settlement::Refused,
            };
            shared.flight.complete(&original, &settlement);
        });
    }

    fn spawn_hold(self: &Arc<Self>, job: Job) {
        let shared = Arc::clone(self);
        self.tasks.spawn(async move {
            let event = job.event();
            let (app_id, subject) = (event.id.app_id().to_owned(), event.id.subject().to_owned());
            let body = job.errand.body.clone().unwrap_or_default();
            let held = shared.hold(&app_id, &event.notify_id, subject, Objection::Stale, &body).await;
            let settlement = match held {
                Ok(Kept::Yes) => Settlement::Held,
                Ok(Kept::Settled(State::Dropped)) => Settlement::Dropped,
                Ok(Kept::Settled(_)) => Settlement::Recorded {
                    event_id: event.id.as_str().to_owned(),
                    event_type: event.event_type,
                },
                Ok(Kept::Full) => Settlement::Refused,
                Err(error) => {
                    shared.unchecked(Some(&error.message));
                    Settlement::Refused
                }
            };
            shared.give_up(job, settlement);
        });
    }

    /// Hands what is safe to the store's writer, and answers when it is written. If it cannot be, the answer
    /// is `success` all the same: the broker has it.
    fn spawn_record(self: &Arc<Self>, done: Vec<Done>) {
        if done.is_empty() {
            return;
        }
        let shared = Arc::clone(self);
        self.tasks.spawn(async move { shared.record(done).await });
    }

    async fn record(self: Arc<Self>, done: Vec<Done>) {
        let started = Instant::now();
        let records = || done.iter().map(|done| self.record_of(done)).collect::<Vec<_>>();
        match within(STORE_DEADLINE, self.store.record(records())).await {
            Ok(()) => {
                self.metrics.stage(Stage::Record, started.elapsed());
                self.unchecked(None);
            }
            Err(error) => {
                self.unchecked(Some(&error.message));
                let lost = self.unrecorded.keep(records());
                if lost > 0 {
                    tracing::error!(
                        lost,
                        "too many confirmed events wait for the store: these may be repeated"
                    );
                }
                self.spawn_rewrite();
            }
        }
        for done in done {
            if done.state == State::Recorded
                && let Some(paid) = payment_time(done.job.event())
            {
                self.metrics.payment_lag.observe(done.at.since(paid).as_secs_f64());
            }
            let (event_id, event_type) =
                (done.job.event().id.as_str().to_owned(), done.job.event().event_type);
            let settlement = match done.state {
                State::Unrouted => Settlement::Unrouted,
                State::Recorded | State::Deferred | State::InDoubt | State::Held | State::Dropped => {
                    Settlement::Confirmed { event_id, event_type, at: done.at }
                }
            };
            self.give_up(done.job, settlement);
        }
    }

    /// Writes what could not be written, until it is: one task at a time.
    fn spawn_rewrite(self: &Arc<Self>) {
        if !self.unrecorded.begin_rewriting() {
            return;
        }
        let shared = Arc::clone(self);
        self.tasks.spawn(async move {
            while !shared.unrecorded.end_if_empty() {
                let records = shared.unrecorded.some(shared.config.max_batch);
                match within(STORE_DEADLINE, shared.store.record(records.clone())).await {
                    Ok(()) => shared.unrecorded.written(&records),
                    // Bound: for as long as the store is away; shutdown has its own grace.
                    Err(_) => tokio::time::sleep(REWRITE_PAUSE).await,
                }
            }
            shared.unchecked(None);
        });
    }

    fn spawn_defer(self: &Arc<Self>, ready: Vec<Ready>, cause: Cause, state: State) {
        let shared = Arc::clone(self);
        self.tasks.spawn(async move {
            let deferrals = ready.iter().map(|ready| shared.deferral(ready, cause, state)).collect();
            let kept = shared.keep(deferrals).await;
            for (ready, kept) in ready.into_iter().zip(kept) {
                shared.give_up(ready.job, settlement_of(cause, kept));
            }
        });
    }

    /// One answer for each, whatever the store says.
    async fn keep(&self, deferrals: Vec<Deferral>) -> Vec<Kept> {
        let count = deferrals.len();
        match within(STORE_DEADLINE, self.store.defer(deferrals)).await {
            Ok(mut kept) => {
                kept.resize(count, Kept::Full);
                kept
            }
            Err(error) => {
                self.unchecked(Some(&error.message));
                vec![Kept::Full; count]
            }
        }
    }

    /// Ends a job: its flight ends with it, and its place is free.
    fn give_up(&self, job: Job, settlement: Settlement) {
        let key = job.key();
        drop(job);
        self.flight.complete(&key, &settlement);
    }

    /// Notes whether the store did what was asked, and says so when it changes.
    fn unchecked(&self, failure: Option<&str>) {
        let before = self.metrics.store_unchecked.get();
        match failure {
            Some(error) if before == 0 => {
                self.metrics.store_unchecked.set(1);
                tracing::error!(error, "the store is away: events are announced unchecked");
            }
            None if before == 1 && self.unrecorded.is_empty() => {
                self.metrics.store_unchecked.set(0);
                tracing::info!("the store is back: events are checked again");
            }
            Some(_) | None => {}
        }
    }

    fn record_of(&self, done: &Done) -> Record {
        let event = done.job.event();
        let from = event.payment_time.map_or(done.at, |paid| paid.max(done.at));
        Record {
            key: event.key(),
            app_id: event.id.app_id().to_owned(),
            event_type: event.event_type,
            digest: event.digest,
            notify_id: event.notify_id.clone(),
            state: done.state,
            at: done.at,
            expires_at: from.plus(self.config.retention),
        }
    }

    fn deferral(&self, ready: &Ready, cause: Cause, state: State) -> Deferral {
        let event = ready.job.event();
        Deferral {
            key: event.key(),
            event_type: event.event_type,
            digest: event.digest,
            notify_id: event.notify_id.clone(),
            state,
            cause,
            message: ready.message(),
            at: self.clock.now(),
            payment_time: event.payment_time,
        }
    }

    fn random(&self, range: std::ops::Range<u64>) -> u64 {
        self.jitter.lock().unwrap_or_else(std::sync::PoisonError::into_inner).random_range(range)
    }
}

impl Batch {
    /// Watches what is in doubt. Late confirms are recorded, even after others may publish the event again.
    async fn watch(&mut self, shared: &Arc<Shared>) {
        let mut doubt_until = Some(Instant::now() + DOUBT);
        let watch_until = Instant::now() + WATCH;
        let mut link = shared.broker.link();
        while !self.attribution.is_complete() {
            let wake = doubt_until.unwrap_or(watch_until);
            let view = tokio::select! {
                biased;
                view = self.confirms.settle() => view,
                () = tokio::time::sleep_until(wake) => self.confirms.settle_now(),
            };
            let over = Instant::now() >= wake;
            // Nothing more will come: what is undecided then stays so.
            if view.is_empty() && !over {
                break;
            }
            self.settle(view, shared);
            shared.spawn_record(std::mem::take(&mut self.done));
            shared.give_back(std::mem::take(&mut self.failed), false);
            if over && doubt_until.is_none() {
                break;
            }
            if over {
                let blocked = matches!(*link.borrow_and_update(), Link::Blocked(_));
                doubt_until = blocked.then(|| Instant::now() + DOUBT);
                if !blocked {
                    self.release(shared).await;
                }
            }
        }
        if !self.attribution.is_complete() && doubt_until.is_some() {
            self.release(shared).await;
        }
    }

    /// Ends the flights of what is still in doubt: the next delivery may publish it again.
    async fn release(&mut self, shared: &Arc<Shared>) {
        let doubtful: Vec<&Ready> = self.jobs.iter().flatten().collect();
        let deferrals =
            doubtful.iter().map(|ready| shared.deferral(ready, Cause::InDoubt, State::Deferred)).collect();
        let keys: Vec<Key> = doubtful.iter().map(|ready| ready.job.key()).collect();
        let kept = shared.keep(deferrals).await;
        for (key, kept) in keys.iter().zip(kept) {
            shared.flight.complete(key, &settlement_of(Cause::InDoubt, kept));
        }
        for ready in self.jobs.iter_mut().flatten() {
            ready.job.errand.place = None;
        }
    }
}

impl Ready {
    fn message(&self) -> Message {
        Message::of(self.job.event(), self.unchecked, self.job.errand.traceparent.clone())
    }
}

fn settlement_of(cause: Cause, kept: Kept) -> Settlement {
    match kept {
        Kept::Yes | Kept::Settled(_) => Settlement::Deferred(cause),
        Kept::Full => Settlement::Refused,
    }
}

/// Only a payment's announcement has a lag from its payment.
fn payment_time(event: &Event) -> Option<Timestamp> {
    match event.event_type {
        EventType::PaymentSucceeded => event.payment_time,
        EventType::PaymentRefunded
        | EventType::PaymentLate
        | EventType::PaymentConflict
        | EventType::TradePending
        | EventType::TradeFinished
        | EventType::TradeClosed
        | EventType::NotificationOther => None,
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
/// Bound: how long a late confirm is waited for at all.
const WATCH: Duration = Duration::from_secs(600);
/// Between two tries to write what could not be written.
const REWRITE_PAUSE: Duration = Duration::from_secs(1);
