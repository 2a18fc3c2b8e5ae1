//! Publication: an admitted event is made safe in the broker, and only then may the word `success` be said.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::event::EventType;

/// The bounds of publication.
#[derive(Debug, Clone)]
pub struct Config {
    /// `amqp.lanes`: confirm-mode channels, each with one batch outstanding.
    pub lanes: usize,
    /// `publication.max_batch`: events in one batch.
    pub max_batch: usize,
    /// `publication.max_in_flight`: events between admission and answer; beyond it 503 at once.
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

/// The proof that the word `success` may be said.
#[derive(Debug)]
pub struct Announced {
    _private: (),
}
