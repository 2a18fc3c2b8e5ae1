//! The drain of the hedged backlog: what the broker did not confirm in time is in the store, and is published when the
//! broker is back, without waiting for Alipay's next delivery.
//!
//! It goes through the same single flight and the same lanes as live deliveries, behind them, and each event has a
//! back-off of its own in the store, so that one that is refused again and again steps aside. An event in doubt is in
//! flight for as long as its confirm is watched; only what nobody watches any more, after a crash, is drained.
//!
//! What survives a crash is the store's: an event that was drained and confirmed and whose row was not rewritten is
//! published once more, with the same id (design.md, "Crash points").

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::flight::Join;
use super::lane::{DRAIN_PATIENCE, Job};
use super::{Errand, Outcome, Publication, Role, STORE_DEADLINE, Settlement, Shared, within};
use crate::broker::Link;
use crate::clock::Timestamp;
use crate::event::{Event, Message};
use crate::failpoint::{self, Point};
use crate::store::{MAX_BACK_OFF, Waiting};

/// Drains until the lanes are to end.
pub(super) async fn drain(shared: Arc<Shared>) {
    let mut link = shared.broker.link();
    let (mut stuck, mut steady) = (0, Steady::new(shared.clock.now()));
    while !shared.queue.is_closed() {
        let is_up = matches!(*link.borrow_and_update(), Link::Up(_));
        let now = steady.now(shared.clock.now());
        let was_full = is_up && shared.drain_round(now, &mut stuck).await;
        if was_full {
            continue;
        }
        // Bound: a pause, or less when the link changes. A broker that is gone for good ends this too.
        let _ = tokio::time::timeout(PAUSE, link.changed()).await;
        if link.has_changed().is_err() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Publication {
    /// Publishes one deferred event now, ahead of its back-off. `None` if what is kept of it cannot be read.
    pub async fn hurry(&self, waiting: Waiting, deadline: Instant) -> Option<Outcome> {
        let kept = KeptEvent::read(waiting)?;
        let Some((event, receiver)) = self.shared.put_in(kept) else { return Some(Outcome::Pending) };
        Some(match tokio::time::timeout_at(deadline, receiver).await {
            Err(_) => Outcome::Pending,
            Ok(settlement) => settlement.unwrap_or(Settlement::Refused).outcome(Role::Leader, event),
        })
    }
}

impl Shared {
    /// Publishes some of what is due, and waits for it. Says whether there may be more at once. `stuck`: how much of the
    /// last round could not be put into the queue, and is there still: as much more is asked for, so that it hides nobody.
    async fn drain_round(&self, now: Timestamp, stuck: &mut usize) -> bool {
        // Bound: what is in memory of the backlog at one time.
        let round = self.config.max_batch + *stuck;
        let skip = self.breaker.waiting();
        let due = within(STORE_DEADLINE, self.store.due(now, round, skip)).await;
        let Ok(due) = due else { return false };
        let count = due.len();
        let (probes, due): (Vec<_>, Vec<_>) = due.into_iter().partition(|waiting| self.is_suspended(waiting));
        // One probe is enough, and nothing waits for it.
        let probed = probes.into_iter().find_map(|waiting| self.put_in(KeptEvent::read(waiting)?));
        let put_in = |waiting| Some(self.put_in(KeptEvent::read(waiting)?)?.1);
        let waiting: Vec<_> = due.into_iter().filter_map(put_in).collect();
        let moved = !waiting.is_empty();
        *stuck = (count - waiting.len() - usize::from(probed.is_some())).min(MAX_STUCK);
        let settled = futures_util::future::join_all(waiting);
        // Bound: beyond its patience a batch is in doubt, and answered.
        let settled = tokio::time::timeout(DRAIN_PATIENCE * 2, settled).await.unwrap_or_default();
        let announced = |settled: &Result<Settlement, _>| matches!(settled, Ok(Settlement::Confirmed { .. }));
        let announced = settled.iter().filter(|settled| announced(settled)).count();
        if announced > 0 {
            tracing::info!(announced, of = count, "announced what was kept for the broker");
        }
        moved && announced > 0 && count == round
    }

    fn is_suspended(&self, waiting: &Waiting) -> bool {
        waiting.event_type.is_some_and(|event_type| self.breaker.suspended().contains(&event_type))
    }

    /// Puts one event into the queue, unless somebody is at it.
    fn put_in(&self, kept: KeptEvent) -> Option<(Arc<Event>, oneshot::Receiver<Settlement>)> {
        let KeptEvent { event, traceparent, arrived } = kept;
        let receiver = match self.flight.join(&event) {
            Join::Lead(receiver) => receiver,
            Join::Follow(_) | Join::Other(..) => return None,
        };
        let trace = self.tracer.kept(traceparent);
        let deadline = Instant::now() + DRAIN_PATIENCE;
        let errand = Errand { event: Arc::clone(&event), arrived, body: None, trace, deadline, place: None };
        failpoint::reached(Point::Draining);
        if let Err(job) = self.queue.push(Job::drained(errand)) {
            drop(job);
            self.flight.complete(event.key(), &Settlement::Refused);
        }
        Some((event, receiver))
    }
}

/// The time that the drain goes by. A clock that was set back would let what was kept before wait for as long as it was set
/// back, and the gauge of its age would say nothing.
struct Steady {
    last: Timestamp,
    /// How far the clock was set back.
    ahead: Duration,
    /// By then everything that was kept before has been due.
    until: Instant,
}

impl Steady {
    fn new(now: Timestamp) -> Self {
        Self { last: now, ahead: Duration::ZERO, until: Instant::now() }
    }

    /// To be called more often than anybody sets a clock.
    fn now(&mut self, now: Timestamp) -> Timestamp {
        let set_back = self.last.since(now);
        self.last = now;
        if Instant::now() >= self.until {
            self.ahead = Duration::ZERO;
        }
        if set_back > SLEWED {
            tracing::warn!(seconds = set_back.as_secs(), "the clock was set back");
            self.ahead += set_back;
            self.until = Instant::now() + MAX_BACK_OFF;
        }
        now.plus(self.ahead)
    }
}

/// An event that waits, as it is to be published.
struct KeptEvent {
    event: Arc<Event>,
    traceparent: Option<String>,
    arrived: Timestamp,
}

impl KeptEvent {
    /// `None`, and the log names it, if what is kept cannot be read, or is of another event than the key.
    fn read(waiting: Waiting) -> Option<Self> {
        let Waiting { key, digest, notify_id, payment_time, content, first_at: arrived, .. } = waiting;
        let message: Option<Message> = serde_json::from_slice(&content).ok();
        let kept = digest.zip(message).and_then(|(digest, message)| {
            let event = message.event(digest, notify_id, payment_time).filter(|event| *event.key() == key)?;
            Some(Self { event: Arc::new(event), traceparent: message.traceparent, arrived })
        });
        if kept.is_none() {
            tracing::error!(
                id = key.id,
                "what is kept of an event cannot be read: only Alipay can bring it again"
            );
        }
        kept
    }
}

/// A clock that is slewed goes back by no more between two looks, and what is kept is due later by no more.
const SLEWED: Duration = Duration::from_secs(2);
/// Bound: what a round asks for beyond a batch.
const MAX_STUCK: usize = 1024;
/// Between two looks into the store while there is little to do. The first comes when the link does.
const PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_back_is_gone_by_no_sooner_than_what_was_kept_has_been_due() {
        let at = Timestamp::from_unix_millis;
        let mut steady = Steady::new(at(10_000_000));
        assert_eq!(steady.now(at(10_001_000)), at(10_001_000));
        assert_eq!(steady.now(at(10_000_500)), at(10_000_500), "slewed");
        assert_eq!(steady.now(at(6_400_500)), at(10_000_500), "an hour back");
        assert_eq!(steady.now(at(6_401_500)), at(10_001_500));
        assert_eq!(steady.now(at(2_801_500)), at(10_001_500), "and another");
        tokio::time::advance(MAX_BACK_OFF).await;
        assert_eq!(steady.now(at(3_401_500)), at(3_401_500));
    }
}
