//! What became of an event: for everybody in its flight, and for the request that brought it. The proof that `success` may
//! be said is made here alone, and nobody outside of publication can ask for one.

use std::sync::Arc;

use crate::admission::acceptance::Objection;
use crate::clock::Timestamp;
use crate::event::{Digest, Event, EventType};
use crate::store::Cause;

/// The proof that the word `success` may be said: the broker confirmed this event, or the store proves that an
/// equal one was confirmed before, or it was returned as one that the operator does not want, or the operator
/// dropped it (design.md, invariant 1). Made in this module alone.
#[derive(Debug)]
pub struct Announced {
    what: What,
    how: How,
}

/// What was announced.
#[derive(Debug)]
enum What {
    Event(Arc<Event>),
    /// A notification that was refused and that the operator decided about, by its id: it means nothing yet.
    Refused(String),
}

/// On what ground `success` is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// The broker confirmed it for this request.
    Confirmed(Timestamp),
    /// The broker confirmed it for another request that was in flight.
    Followed,
    /// The store proves that it was confirmed, or returned as not wanted, before.
    Recorded,
    /// It was returned, and its type is one that nobody wants.
    Unrouted,
    /// The operator dropped it.
    Dropped,
}

impl Announced {
    /// Of a notification that was refused, and that the operator decided about.
    pub(super) const fn decided(id: String, how: How) -> Self {
        Self { what: What::Refused(id), how }
    }

    /// The event that stands for this request.
    pub fn event_id(&self) -> &str {
        match &self.what {
            What::Event(event) => event.id.as_str(),
            What::Refused(id) => id,
        }
    }

    /// Its type. `None` for a notification that acceptance refuses and the operator has decided about.
    pub fn event_type(&self) -> Option<EventType> {
        self.event().map(|event| event.event_type)
    }

    /// The app that it is of; `None` as above.
    pub fn app_id(&self) -> Option<&str> {
        self.event().map(|event| event.id.app_id())
    }

    /// Its money facts; `None` as above.
    pub fn digest(&self) -> Option<&Digest> {
        self.event().map(|event| &event.digest)
    }

    /// The ground.
    pub fn how(&self) -> How {
        self.how
    }

    fn event(&self) -> Option<&Event> {
        match &self.what {
            What::Event(event) => Some(event),
            What::Refused(_) => None,
        }
    }
}

/// What became of an admitted event, as far as its request can wait.
#[derive(Debug)]
pub enum Outcome {
    /// `success` may be said.
    Announced(Announced),
    /// It is kept, and `fail` is said: Alipay's own schedule is the safety net.
    Deferred(Cause),
    /// It is still in the process, and its answer is due.
    Pending,
    /// It was refused after all, and is held.
    Held(Objection),
    /// Nothing was done: no room, or stopping, or neither the broker nor the store could take it.
    Refused,
}

/// What became of an authentic notification that was refused.
#[derive(Debug)]
pub enum Hold {
    /// It is kept.
    Held,
    /// There is no room.
    Full,
    /// The operator released it, and its event was announced, or dropped it.
    Decided(Announced),
}

/// What a flight ends with, for everybody in it.
#[derive(Debug, Clone)]
pub(super) enum Settlement {
    Confirmed { event: Arc<Event>, at: Timestamp },
    Recorded { event: Arc<Event> },
    Unrouted,
    Dropped,
    Deferred(Cause),
    Held,
    Refused,
}

/// Whose event it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Leader,
    Follower,
}

impl Settlement {
    /// The one place that makes an [`Announced`] of an event.
    pub(super) fn outcome(self, role: Role, own: Arc<Event>) -> Outcome {
        let announced = |event, how| Outcome::Announced(Announced { what: What::Event(event), how });
        match self {
            Self::Confirmed { event, at } => {
                let how = if role == Role::Leader { How::Confirmed(at) } else { How::Followed };
                announced(event, how)
            }
            Self::Recorded { event } => announced(event, How::Recorded),
            Self::Unrouted => {
                let how = if role == Role::Leader { How::Unrouted } else { How::Followed };
                announced(own, how)
            }
            Self::Dropped => announced(own, How::Dropped),
            Self::Deferred(cause) => Outcome::Deferred(cause),
            Self::Held => Outcome::Held(Objection::Stale),
            Self::Refused => Outcome::Refused,
        }
    }
}
