//! Single flight: deliveries of the same key and digest that are in the process together share one outcome,
//! and are published once. Another digest waits for them and then takes its own way, to a conflict; so does the
//! finish of a payment that is being announced, which is an event of its own once the payment is recorded.
//!
//! An entry leaves only when its record is visible to the next claim, so there is no moment at which an event
//! is neither in flight nor known. Nothing here survives a crash, and nothing needs to: what was in flight had
//! not been answered.

use std::collections::{HashMap, hash_map};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::oneshot;

use super::Settlement;
use crate::event::{Event, Key};
use crate::store::{Known, State};

/// The events in the process.
#[derive(Debug, Default)]
pub(super) struct Flight(Mutex<HashMap<Key, Entry>>);

#[derive(Debug)]
struct Entry {
    /// The leader's.
    event: Arc<Event>,
    /// Until it is answered.
    leader: Option<oneshot::Sender<Settlement>>,
    /// Bound: each belongs to a request that holds a permit of `publication.max_in_flight`.
    waiting: Vec<oneshot::Sender<Settlement>>,
}

impl Entry {
    fn known(&self) -> Option<Known> {
        let Event { digest, notify_id, stale, .. } = &*self.event;
        (!stale).then(|| Known { state: State::Deferred, digest: *digest, notify_id: notify_id.clone() })
    }

    fn everybody(&self) -> impl Iterator<Item = &oneshot::Sender<Settlement>> {
        self.leader.iter().chain(&self.waiting)
    }

    /// Whether its outcome is that event's, too. A finish and another notification's payment share none, whichever came
    /// first: they may be two events. Nor does a fresh delivery share that of a stale one, which may have to be held.
    fn is_shared_by(&self, event: &Event) -> bool {
        let finishes = self.event.finishes || event.finishes;
        self.event.digest == event.digest
            && (!finishes || self.event.notify_id == event.notify_id)
            && (!self.event.stale || event.stale)
    }
}

/// What a delivery has to do.
#[derive(Debug)]
pub(super) enum Join {
    /// Nobody is at it: announce it, then [`complete`](Flight::complete) it.
    Lead(oneshot::Receiver<Settlement>),
    /// Somebody is announcing the same facts: wait for his outcome.
    Follow(oneshot::Receiver<Settlement>),
    /// Somebody is announcing other facts under this key, or what this one finishes, or finds out whether it is to be held: wait
    /// for him, then join again. What he announces, as the store will know it, if he does.
    Other(oneshot::Receiver<Settlement>, Option<Known>),
}

impl Flight {
    /// Joins the flight of an event's key.
    pub(super) fn join(&self, event: &Arc<Event>) -> Join {
        let (sender, receiver) = oneshot::channel();
        match self.lock().entry(event.key().clone()) {
            hash_map::Entry::Occupied(mut entry) => {
                let entry = entry.get_mut();
                entry.waiting.retain(|waiting| !waiting.is_closed());
                entry.waiting.push(sender);
                if entry.is_shared_by(event) {
                    Join::Follow(receiver)
                } else {
                    Join::Other(receiver, entry.known())
                }
            }
            hash_map::Entry::Vacant(place) => {
                place.insert(Entry { event: Arc::clone(event), leader: Some(sender), waiting: Vec::new() });
                Join::Lead(receiver)
            }
        }
    }

    /// Whether more than one waits for its outcome.
    pub(super) fn is_followed(&self, key: &Key) -> bool {
        let waiting = |entry: &Entry| entry.everybody().filter(|waiting| !waiting.is_closed()).count();
        self.lock().get(key).is_some_and(|entry| waiting(entry) > 1)
    }

    /// Answers everybody who waits and keeps the entry: the event is in doubt, and must not be published
    /// again while it is.
    pub(super) fn answer(&self, key: &Key, settlement: &Settlement) {
        let waiting = |entry: &mut Entry| (entry.leader.take(), std::mem::take(&mut entry.waiting));
        let waiting = self.lock().get_mut(key).map(waiting);
        let _ = send(waiting, settlement);
    }

    /// Answers everybody who waits and ends the flight. Says whether its leader was among them: he may have given up before.
    pub(super) fn complete(&self, key: &Key, settlement: &Settlement) -> bool {
        let waiting = self.lock().remove(key).map(|entry| (entry.leader, entry.waiting));
        send(waiting, settlement)
    }

    /// Whether nothing is in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

type Senders = (Option<oneshot::Sender<Settlement>>, Vec<oneshot::Sender<Settlement>>);

fn send(waiting: Option<Senders>, settlement: &Settlement) -> bool {
    let Some((leader, followers)) = waiting else { return false };
    for waiting in followers {
        // One that hung up does not want it any more.
        let _ = waiting.send(settlement.clone());
    }
    leader.is_some_and(|leader| leader.send(settlement.clone()).is_ok())
}
