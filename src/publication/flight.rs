//! Single flight: deliveries of the same key and digest that are in the process together share one outcome,
//! and are published once. Another digest waits for them and then takes its own way, to a conflict; so does the
//! finish of a payment that is being announced, which is an event of its own once the payment is recorded.
//!
//! An entry leaves only when its record is visible to the next claim, so there is no moment at which an event
//! is neither in flight nor known. Nothing here survives a crash, and nothing needs to: what was in flight had
//! not been answered.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use tokio::sync::oneshot;

use super::Settlement;
use crate::event::{Digest, Event, Key};
use crate::store::{Known, State};

/// The events in the process.
#[derive(Debug, Default)]
pub(super) struct Flight(Mutex<HashMap<Key, Entry>>);

#[derive(Debug)]
struct Entry {
    digest: Digest,
    /// The leader's notification, and whether it finishes the trade.
    notify_id: String,
    finishes: bool,
    /// Bound: each belongs to a request that holds a permit of `publication.max_in_flight`.
    waiting: Vec<oneshot::Sender<Settlement>>,
}

impl Entry {
    fn known(&self) -> Known {
        Known { state: State::Deferred, digest: self.digest, notify_id: self.notify_id.clone() }
    }
}

/// What a delivery has to do.
#[derive(Debug)]
pub(super) enum Join {
    /// Nobody is at it: announce it, then [`complete`](Flight::complete) it.
    Lead(oneshot::Receiver<Settlement>),
    /// Somebody is announcing the same facts: wait for his outcome.
    Follow(oneshot::Receiver<Settlement>),
    /// Somebody is announcing other facts under this key, or what this one finishes: wait for him, then join again. What
    /// he announces, as the store will know it.
    Other(oneshot::Receiver<Settlement>, Known),
}

/// What a flight has to know of an event that wants to join it.
#[derive(Debug)]
pub(super) struct Boarding {
    pub(super) key: Key,
    digest: Digest,
    notify_id: String,
    finishes: bool,
}

impl Boarding {
    pub(super) fn of(event: &Event) -> Self {
        let (notify_id, finishes) = (event.notify_id.clone(), event.finishes);
        Self { key: event.key(), digest: event.digest, notify_id, finishes }
    }

    /// Whether the outcome of that flight is this one's. A finish and another notification's payment share none, whichever
    /// came first: they may be two events.
    fn shares(&self, entry: &Entry) -> bool {
        let finishes = self.finishes || entry.finishes;
        entry.digest == self.digest && (!finishes || entry.notify_id == self.notify_id)
    }
}

impl Flight {
    /// Joins the flight of an event's key.
    pub(super) fn join(&self, aboard: &Boarding) -> Join {
        let (sender, receiver) = oneshot::channel();
        let mut entries = self.lock();
        match entries.get_mut(&aboard.key) {
            Some(entry) => {
                entry.waiting.retain(|waiting| !waiting.is_closed());
                entry.waiting.push(sender);
                if aboard.shares(entry) {
                    Join::Follow(receiver)
                } else {
                    Join::Other(receiver, entry.known())
                }
            }
            None => {
                let (digest, finishes, notify_id) =
                    (aboard.digest, aboard.finishes, aboard.notify_id.clone());
                let entry = Entry { digest, notify_id, finishes, waiting: vec![sender] };
                entries.insert(aboard.key.clone(), entry);
                Join::Lead(receiver)
            }
        }
    }

    /// Whether more than one waits for its outcome.
    pub(super) fn is_followed(&self, key: &Key) -> bool {
        let waiting = |entry: &Entry| entry.waiting.iter().filter(|waiting| !waiting.is_closed()).count();
        self.lock().get(key).is_some_and(|entry| waiting(entry) > 1)
    }

    /// Answers everybody who waits and keeps the entry: the event is in doubt, and must not be published
    /// again while it is.
    pub(super) fn answer(&self, key: &Key, settlement: &Settlement) {
        let waiting = self.lock().get_mut(key).map(|entry| std::mem::take(&mut entry.waiting));
        send(waiting.unwrap_or_default(), settlement);
    }

    /// Answers everybody who waits and ends the flight.
    pub(super) fn complete(&self, key: &Key, settlement: &Settlement) {
        let waiting = self.lock().remove(key).map(|entry| entry.waiting);
        send(waiting.unwrap_or_default(), settlement);
    }

    /// Whether nothing is in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn send(waiting: Vec<oneshot::Sender<Settlement>>, settlement: &Settlement) {
    for waiting in waiting {
        // One that hung up does not want it any more.
        let _ = waiting.send(settlement.clone());
    }
}
