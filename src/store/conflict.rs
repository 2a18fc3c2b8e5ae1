//! Two events of one key and of different money, of which one waits: it comes about where the store could not be asked,
//! so that the second was taken for new. Neither is written over. One of them keeps the id and the other is kept as the
//! conflict that it would have been, had it been known (`payment.conflict`, with an id of its own), and the drain
//! announces both. Whichever may be in a queue under the plain id keeps it.

use super::{Cause, Deferral, State};
use crate::clock::Timestamp;
use crate::event::{Digest, Event, Message};

/// What waits under a key, of other money.
pub(super) struct Rival {
    pub(super) digest: Digest,
    pub(super) notify_id: String,
    pub(super) payment_time: Option<Timestamp>,
    pub(super) message: Option<Message>,
    pub(super) in_doubt: bool,
}

impl Rival {
    /// Whether it makes room for this one: that may be in a queue under the id, and it itself cannot.
    pub(super) fn yields_to(&self, deferral: &Deferral) -> bool {
        deferral.cause == Cause::InDoubt && !self.in_doubt
    }

    /// The conflict that it is kept as. `None` if its message cannot be read.
    pub(super) fn conflict(self) -> Option<(Event, Message)> {
        conflict_of(&self.message?, self.digest, self.notify_id, self.payment_time)
    }
}

/// The deferral of the conflict that this one is. `None` if its message is not of an event.
pub(super) fn as_conflict(deferral: &Deferral) -> Option<Deferral> {
    let (digest, notify_id) = (deferral.digest, deferral.notify_id.clone());
    let (event, message) = conflict_of(&deferral.message, digest, notify_id, deferral.payment_time)?;
    // Nothing was published under this id.
    let state = State::Deferred;
    Some(Deferral {
        key: event.key().clone(),
        event_type: event.event_type,
        message,
        state,
        ..deferral.clone()
    })
}

fn conflict_of(
    message: &Message,
    digest: Digest,
    notify_id: String,
    payment_time: Option<Timestamp>,
) -> Option<(Event, Message)> {
    let event = message.event(digest, notify_id, payment_time)?.as_conflict();
    let message = Message::of(&event, message.unchecked, message.traceparent.clone());
    Some((event, message))
}
