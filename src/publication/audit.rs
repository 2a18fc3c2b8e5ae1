//! The proof of what was announced, and of what was answered, in the log: one line (target `audit`) for each notification that
//! is announced, without a buyer's data (contract.md, "Metrics"). It is told by who answers, and of what is confirmed when nobody
//! waits for it any more (drained after a broker was away, or later than the answer deadline) by who writes the confirm down.

use super::{Announced, How};
use crate::admission::KeyName;
use crate::event::{Digest, EventType};

/// Who was told that it is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// Alipay, or whoever delivered it.
    Success,
    /// Nobody: it is an operator's doing, or who delivered it was told `fail` before, or nothing.
    Nobody,
}

/// The line. `key`: what verified this delivery; of an event that was kept it is not known any more, and the line of its first
/// delivery that is answered `success` has it.
pub fn audit(
    announced: &Announced,
    notify_id: &str,
    key: Option<&KeyName>,
    trace_id: Option<&str>,
    answered: Answered,
) {
    let answered = match answered {
        Answered::Success => "success",
        Answered::Nobody => "nobody",
    };
    let (how, confirmed_at) = match announced.how() {
        How::Confirmed(at) => ("confirmed", at.rfc3339_utc()),
        How::Followed => ("followed", String::new()),
        How::Recorded => ("recorded", String::new()),
        How::Unrouted => ("unrouted", String::new()),
        How::Dropped => ("dropped", String::new()),
    };
    tracing::info!(
        target: "audit",
        event_id = announced.event_id(),
        event_type = announced.event_type().map(EventType::as_str),
        notify_id,
        app_id = key.map(|key| key.app_id.as_str()).or_else(|| announced.app_id()),
        digest = announced.digest().map(Digest::short),
        key = key.map(|key| key.fingerprint.as_str()),
        how,
        confirmed_at,
        trace_id,
        answered,
    );
}
