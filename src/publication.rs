//! Publication: an admitted event is made safe in the broker, and only then may the word `success` be said.
//!
//! ```text
//! Admitted ─▶ single flight ─▶ queue ─▶ lane: claim ─▶ resolve ─▶ publish ─▶ confirm ─▶ record ─▶ Announced
//! ```
//!
//! A lane owns one confirm-mode channel and has one batch outstanding. There is no setting by which `success`
//! precedes the confirm, and no other mode than persistent, mandatory and confirmed.
//!
//! Nobody outside makes an [`Announced`], so nobody outside can say `success`:
//!
//! ```compile_fail
//! use alipay_notify_gateway::publication::{Announced, How};
//! fn forge() -> Announced {
//!     Announced { how: How::Confirmed } // private fields
//! }
//! ```
//!
//! What survives a crash is what the store and the broker have; what is in memory here had not been answered.

mod attribution;
mod audit;
mod backlog;
mod breaker;
mod claim;
mod doubt;
mod flight;
mod keeping;
mod lane;
mod operator;
mod outcome;
mod queue;
mod recording;
mod resolution;
mod unrecorded;
mod watch;

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::admission::acceptance::Objection;
use crate::admission::{Admitted, Withheld};
use crate::broker::{Broker, Link};
use crate::clock::{Clock, Timestamp};
use crate::event::{Event, EventType, Key};
use crate::lifecycle::Tasks;
use crate::metrics::Metrics;
use crate::store::{self, Holding, Kept, Row, State, Store, StoreError, Tally};
use crate::telemetry::traces::{Trace, Tracer};

pub use audit::{Answered, audit};
use breaker::Breaker;
use flight::{Flight, Join};
use lane::{Job, Lane};
pub use outcome::{Announced, Hold, How, Outcome};
use outcome::{Role, Settlement};
use queue::Queue;
use unrecorded::Unrecorded;
use watch::Watch;
pub use watch::{Seen, Sighting};

/// The bounds of publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `amqp.lanes`: confirm-mode channels, each with one batch outstanding.
    pub lanes: usize,
    /// `publication.max_batch`: events in one batch.
    pub max_batch: usize,
    /// `publication.max_in_flight`: events between admission and their outcome; beyond it 503 at once.
    pub max_in_flight: usize,
    /// `amqp.confirm_timeout`: how long after its last publish a batch is waited for.
    pub confirm_timeout: Duration,
    /// `http.answer_timeout`: from arrival to answer.
    pub answer_timeout: Duration,
    /// `amqp.ignore`: types of which an unroutable event is answered `success`.
    pub ignore: BTreeSet<EventType>,
    /// `store.retention`.
    pub retention: Duration,
}

/// What publication works with. Everything that waits, chooses or tells the time comes from here, so that the
/// real code runs in a simulation too.
pub struct Parts {
    /// Its bounds.
    pub config: Config,
    /// The broker.
    pub broker: Arc<dyn Broker>,
    /// The store.
    pub store: Arc<dyn Store>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where it spawns.
    pub tasks: Tasks,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
    /// What begins the spans of what was kept.
    pub tracer: Tracer,
    /// What its jitter comes from.
    pub seed: u64,
}

/// The second hall: the only thing that publishes and records.
#[derive(Clone)]
pub struct Publication {
    shared: Arc<Shared>,
}

/// What the lanes and the waiting requests have in common.
struct Shared {
    config: Config,
    broker: Arc<dyn Broker>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    metrics: Arc<Metrics>,
    tracer: Tracer,
    jitter: std::sync::Mutex<SmallRng>,
    flight: Flight,
    queue: Queue,
    breaker: Breaker,
    unrecorded: Unrecorded,
    watch: Watch,
    /// What the store said last.
    tally: std::sync::Mutex<Tally>,
    room: Arc<Semaphore>,
}

/// What is kept and not settled.
#[derive(Debug, Clone, PartialEq)]
pub struct Backlog {
    /// How much.
    pub tally: Tally,
    /// Seconds until Alipay's last delivery of the oldest payment of it; negative when it is past, infinite
    /// when there is none.
    pub last_retry: f64,
    /// Whether the store was asked just now, and this is not what it said last.
    pub is_known: bool,
}

/// A delivery on its way: the event and what belongs to its request.
#[derive(Debug)]
struct Errand {
    event: Arc<Event>,
    /// When it came, or was first kept.
    arrived: Timestamp,
    /// Kept only where the event may have to be held.
    body: Option<Bytes>,
    trace: Trace,
    deadline: Instant,
    /// `None` once the event may be published again by others while its late confirm is still watched for.
    place: Option<InFlight>,
}

impl Publication {
    /// Starts the lanes.
    pub fn start(parts: Parts) -> Self {
        let lanes = parts.config.lanes;
        let shared = Arc::new(Shared {
            room: Arc::new(Semaphore::new(parts.config.max_in_flight)),
            breaker: Breaker::new(parts.broker.link(), parts.metrics.type_suspended.clone()),
            unrecorded: Unrecorded::new(parts.metrics.store_unrecorded.clone()),
            queue: Queue::new(lanes, parts.config.max_batch),
            config: parts.config,
            broker: parts.broker,
            store: parts.store,
            clock: parts.clock,
            tasks: parts.tasks,
            metrics: parts.metrics,
            tracer: parts.tracer,
            jitter: std::sync::Mutex::new(SmallRng::seed_from_u64(parts.seed)),
            flight: Flight::default(),
            watch: Watch::default(),
            tally: std::sync::Mutex::default(),
        });
        for _ in 0..lanes {
            shared.tasks.spawn_vital(Lane::new(Arc::clone(&shared)).run());
        }
        shared.tasks.spawn_vital(backlog::drain(Arc::clone(&shared)));
        Self { shared }
    }

    /// Takes an admitted event to its outcome, by `deadline` at the latest.
    ///
    /// Cancel safety: an event that was handed to a lane is announced whether or not anybody still waits.
    pub async fn announce(
        &self,
        admitted: Admitted,
        body: &Bytes,
        trace: Trace,
        deadline: Instant,
    ) -> Outcome {
        let Some(place) = self.shared.enter() else { return Outcome::Refused };
        let event = admitted.into_event();
        let body = event.stale.then(|| body.clone());
        // It was judged meanwhile, and may have waited for its body, or for its turn to be judged.
        let left = deadline.saturating_duration_since(Instant::now());
        let arrived = self.shared.clock.now().before(self.shared.config.answer_timeout.saturating_sub(left));
        let errand = Errand { event: Arc::clone(&event), arrived, body, trace, deadline, place: Some(place) };
        match self.shared.settle(errand, Some(deadline)).await {
            None => Outcome::Pending,
            Some((role, settlement)) => settlement.outcome(role, event),
        }
    }

    /// Keeps an authentic notification that was refused, unless the operator has decided about it.
    ///
    /// # Errors
    /// If the store is away.
    pub async fn hold(&self, withheld: &Withheld, body: &Bytes) -> Result<Hold, StoreError> {
        let key = store::held_key(withheld.app_id(), &withheld.held_as(), withheld.subject().to_owned());
        let (id, paid) = (key.id.clone(), withheld.payment_time());
        Ok(match self.shared.hold(key, withheld.notify_id(), paid, withheld.objection(), body).await? {
            Kept::Yes => Hold::Held,
            Kept::Full => Hold::Full,
            Kept::Settled(state) => {
                let how = if state == State::Dropped { How::Dropped } else { How::Recorded };
                Hold::Decided(Announced::decided(id, how))
            }
        })
    }

    /// What was announced after a number, for who watches.
    pub fn seen(&self, after: Option<u64>) -> Seen {
        self.shared.watch.since(after, self.shared.clock.now())
    }

    /// Everything kept for a trade.
    ///
    /// # Errors
    /// If the store is away.
    pub async fn trade(&self, trade_no: &str) -> Result<Vec<Row>, StoreError> {
        self.shared.store.find(trade_no.to_owned()).await
    }

    /// Since when nothing that was announced has been forgotten.
    ///
    /// # Errors
    /// If the store is away.
    pub async fn complete_since(&self) -> Result<Timestamp, StoreError> {
        let (now, retention) = (self.shared.clock.now(), self.shared.config.retention);
        let since = within(STORE_DEADLINE, self.shared.store.complete_since(retention, now)).await?;
        if since > now {
            // Every payment would be late. A clock that was wrong once has written it.
            tracing::error!(since = %since.rfc3339_utc(), "the store says that it has forgotten what is to come: not believed");
            return Ok(Timestamp::default());
        }
        Ok(since)
    }

    /// The parts that are away, and why.
    pub fn degraded(&self) -> Vec<(&'static str, String)> {
        let mut degraded = self.shared.broker.problems();
        match *self.shared.broker.link().borrow() {
            Link::Up(_) => {}
            Link::Down => degraded.push(("broker", "no connection".to_owned())),
            Link::Blocked(_) => {
                degraded.push(("broker", "it takes nothing: a memory or disk alarm".to_owned()))
            }
        }
        for event_type in self.shared.breaker.suspended() {
            degraded.push(("broker", format!("confirms of {event_type} do not come: a queue of it is dead")));
        }
        if self.shared.metrics.store_unchecked.get() == 1 {
            degraded.push(("store", "away: events are announced unchecked".to_owned()));
        }
        if self.shared.metrics.store_refusing.get() == 1 {
            degraded.push(("store", "away: events are refused".to_owned()));
        }
        degraded
    }

    /// What waits, and how long Alipay will still deliver the oldest of it. While the store is away, what it said last: it is then
    /// that somebody must be told how little time is left.
    pub async fn backlog(&self, now: Timestamp) -> Backlog {
        let found = within(STORE_DEADLINE, self.shared.store.tally()).await;
        let is_known = found.is_ok();
        let tally = {
            let mut tally = self.shared.tally.lock().unwrap_or_else(PoisonError::into_inner);
            if let Ok(found) = found {
                *tally = found;
            }
            tally.clone()
        };
        let last_retry = tally.oldest_payment.map_or(f64::INFINITY, |paid| {
            let last = paid.plus(LAST_DELIVERY);
            last.since(now).as_secs_f64() - now.since(last).as_secs_f64()
        });
        Backlog { tally, last_retry, is_known }
    }

    /// Resolves when nothing is in flight and everything that was confirmed is recorded. There is no deadline
    /// here: shutdown has the grace period.
    pub async fn idle(&self) {
        while !(self.shared.flight.is_empty() && self.shared.unrecorded.is_empty()) {
            tokio::time::sleep(IDLE_LOOK).await;
        }
    }

    /// Events between admission and their outcome.
    pub fn in_flight(&self) -> usize {
        self.shared.config.max_in_flight.saturating_sub(self.shared.room.available_permits())
    }

    /// Lets the lanes end when they have done what waits. What comes after it is refused.
    pub fn close(&self) {
        self.shared.queue.close();
    }
}

impl std::fmt::Debug for Publication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publication").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl Shared {
    fn enter(&self) -> Option<InFlight> {
        let permit = Arc::clone(&self.room).try_acquire_owned().ok()?;
        self.metrics.in_flight.inc();
        Some(InFlight { _permit: permit, gauge: self.metrics.in_flight.clone() })
    }

    /// Leads or follows the flight of an event. `None` if the deadline came first.
    async fn settle(
        self: &Arc<Self>,
        errand: Errand,
        deadline: Option<Instant>,
    ) -> Option<(Role, Settlement)> {
        let event = Arc::clone(&errand.event);
        let mut errand = Some(errand);
        loop {
            let mut ahead = None;
            let (role, receiver) = match self.flight.join(&event) {
                Join::Lead(receiver) => {
                    if let Some(errand) = errand.take()
                        && let Err(job) = self.queue.push(Job::new(errand))
                    {
                        drop(job);
                        self.flight.complete(event.key(), &Settlement::Refused);
                    }
                    (Some(Role::Leader), receiver)
                }
                Join::Follow(receiver) => {
                    self.queue.hasten(event.key());
                    (Some(Role::Follower), receiver)
                }
                Join::Other(receiver, known) => {
                    ahead = Some(known);
                    (None, receiver)
                }
            };
            // A sender that is dropped without a word means that the process is going down.
            let wait = async { receiver.await.unwrap_or(Settlement::Refused) };
            let settlement = match deadline {
                None => wait.await,
                Some(deadline) => match tokio::time::timeout_at(deadline, wait).await {
                    Ok(settlement) => settlement,
                    Err(_) => {
                        if let (Some(errand), Some(ahead)) = (errand, ahead) {
                            self.keep_apart(errand, ahead.as_ref());
                        }
                        return None;
                    }
                },
            };
            if let Some(role) = role {
                return Some((role, settlement));
            }
        }
    }

    async fn hold(
        &self,
        key: Key,
        notify_id: &str,
        payment_time: Option<Timestamp>,
        objection: Objection,
        body: &Bytes,
    ) -> Result<Kept, StoreError> {
        let now = self.clock.now();
        let holding = Holding {
            key,
            notify_id: notify_id.to_owned(),
            reason: objection.reason(),
            body: body.to_vec(),
            at: now,
            // What was not believed may name any time, and none of the future puts off an alarm.
            payment_time: payment_time.map(|paid| paid.min(now)),
        };
        let kept = within(STORE_DEADLINE, self.store.hold(vec![holding])).await?;
        Ok(kept.first().copied().unwrap_or(Kept::Full))
    }
}

/// A place among `publication.max_in_flight`, given back when it is dropped.
#[derive(Debug)]
struct InFlight {
    _permit: OwnedSemaphorePermit,
    gauge: prometheus::IntGauge,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

/// Awaits the store, but not for ever.
async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let overdue = || StoreError { message: format!("the store did not answer within {deadline:?}") };
    tokio::time::timeout(deadline, call).await.unwrap_or_else(|_| Err(overdue()))
}

/// Bound: how long one call of the store may take before the gateway goes on without it.
const STORE_DEADLINE: Duration = Duration::from_secs(2);
/// What is left of a lease when its confirm is given up: enough to write that it is in doubt.
pub const LEASE_MARGIN: Duration = Duration::from_secs(3);
/// Alipay's eighth and last delivery comes 4 + 10 + 10 minutes and 1 + 2 + 6 + 15 hours after the first
/// (protocol.md §6).
const LAST_DELIVERY: Duration = Duration::from_secs(24 * 3600 + 24 * 60);
/// How often [`Publication::idle`] looks.
const IDLE_LOOK: Duration = Duration::from_millis(10);
