//! A circuit breaker for each type of event: one whose confirms time out goes straight to the backlog until a probe of
//! that type is answered, so that one dead queue does not slow the others (design.md, "Blocked is a state").
//!
//! Types are what queues are bound for, so a type is the finest thing that can be told to be dead from here. At most
//! one probe is outstanding, whatever the number of dead types, so that they occupy at most one lane. Nothing here
//! survives a crash or a new connection, and nothing needs to: the next time-out opens it again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use prometheus::IntGaugeVec;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use crate::broker::Link;
use crate::event::EventType;

/// Which types are suspended.
pub(super) struct Breaker {
    state: Mutex<State>,
    link: watch::Receiver<Link>,
    probe: Arc<Semaphore>,
    gauge: IntGaugeVec,
}

struct State {
    /// The connection that the time-outs were seen on.
    connection: u64,
    suspended: BTreeMap<EventType, Suspension>,
}

struct Suspension {
    pause: Duration,
    probe_at: Instant,
}

/// What to do with an event.
#[derive(Debug)]
pub(super) enum Course {
    /// Its type is answered as ever.
    Publish,
    /// Its type is suspended, and this is to find out whether it still must be.
    Probe(Probe),
    /// Its type is suspended.
    Defer,
}

/// The right to probe, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Probe(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit);

impl Breaker {
    /// Nothing is suspended.
    pub(super) fn new(link: watch::Receiver<Link>, gauge: IntGaugeVec) -> Self {
        let state = State { connection: 0, suspended: BTreeMap::new() };
        Self { state: Mutex::new(state), link, probe: Arc::new(Semaphore::new(1)), gauge }
    }

    /// What to do with an event of this type.
    pub(super) fn course(&self, event_type: EventType) -> Course {
        match self.lock().suspended.get(&event_type) {
            None => Course::Publish,
            Some(suspension) if suspension.probe_at > Instant::now() => Course::Defer,
            Some(_) => match Arc::clone(&self.probe).try_acquire_owned() {
                Ok(permit) => Course::Probe(Probe(permit)),
                Err(_) => Course::Defer,
            },
        }
    }

    /// The suspended types.
    pub(super) fn suspended(&self) -> Vec<EventType> {
        self.lock().suspended.keys().copied().collect()
    }

    /// The suspended types of which no probe is due.
    pub(super) fn waiting(&self) -> Vec<EventType> {
        let now = Instant::now();
        let probing = self.probe.available_permits() == 0;
        let state = self.lock();
        let waits = |suspension: &Suspension| probing || suspension.probe_at > now;
        state.suspended.iter().filter(|(_, suspension)| waits(suspension)).map(|(kind, _)| *kind).collect()
    }

    /// No confirm of an event of this type came in time on this connection.
    pub(super) fn silent(&self, event_type: EventType, connection: u64) {
        let mut state = self.lock();
        if state.connection != connection {
            return;
        }
        let now = Instant::now();
        state
            .suspended
            .entry(event_type)
            // What was published before it was suspended says nothing new: the lanes' batches were all out.
            .and_modify(|suspension| {
                if now < suspension.probe_at {
                    return;
                }
                suspension.pause = (suspension.pause * 2).min(MAX_PAUSE);
                suspension.probe_at = now + suspension.pause;
            })
            .or_insert_with(|| {
                let event_type = event_type.as_str();
                tracing::error!(event_type, "confirms do not come: events of this type go to the backlog");
                Suspension { pause: FIRST_PAUSE, probe_at: now + FIRST_PAUSE }
            });
        self.show(event_type, 1);
    }

    /// The broker answered for an event of this type, late or in time.
    pub(super) fn answered(&self, event_type: EventType) {
        if self.lock().suspended.remove(&event_type).is_some() {
            tracing::info!(
                event_type = event_type.as_str(),
                "confirms come again: nothing of this type is held back"
            );
            self.show(event_type, 0);
        }
    }

    fn show(&self, event_type: EventType, suspended: i64) {
        self.gauge.with_label_values(&[event_type.as_str()]).set(suspended);
    }

    /// What was silent on one connection says nothing about the next.
    fn lock(&self) -> MutexGuard<'_, State> {
        let link = *self.link.borrow();
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Link::Up(connection) = link
            && connection != state.connection
        {
            state.connection = connection;
            for event_type in std::mem::take(&mut state.suspended).into_keys() {
                self.show(event_type, 0);
            }
        }
        state
    }
}

/// Between a time-out and the first probe.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Bound: between two probes of one type.
const MAX_PAUSE: Duration = Duration::from_secs(10);
