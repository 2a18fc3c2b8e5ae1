//! The broker, as publication sees it: plain data in, exact outcomes out. [`amqp`] is the real one, over
//! lapin; tests and the simulation have their own.
//!
//! What a [`Confirm`] means for an event is not decided here: a broker reports what it was told, and
//! `publication/attribution.rs` decides (design.md, "Why a batch, and never a shared channel").

pub mod amqp;
pub mod feed;
pub mod tap;
pub mod topology;

use std::fmt;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::clock::Timestamp;
use crate::event::Message;

/// A broker that is connected to, watched, and connected to again for ever.
pub trait Broker: Send + Sync {
    /// The state of the link, as it changes.
    fn link(&self) -> watch::Receiver<Link>;

    /// What is wrong with the topology while the link is up, by part: a required queue that is missing, say.
    fn problems(&self) -> Vec<(&'static str, String)>;

    /// Opens a publisher: one confirm-mode channel that nobody else uses. Bound: the broker's own open
    /// deadline; an error after it.
    fn open(&self) -> BoxFuture<'_, Result<Box<dyn Publisher>, LinkError>>;
}

/// The state of the link to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// No connection. A supervisor is at it.
    Down,
    /// Connected. Each connection has a number of its own, so that a lane knows its channel is gone.
    Up(u64),
    /// Connected, and the broker takes nothing for now (a memory or disk alarm). A state, not a fault.
    Blocked(u64),
}

/// One confirm-mode channel, with one owner and one batch outstanding.
pub trait Publisher: Send {
    /// Starts publishing `batch`, persistent and mandatory, in its order. Nothing is awaited here: the
    /// publishes are driven, and their confirms collected, by [`Confirms::settle`]. Message ids within a
    /// batch differ.
    fn publish(&mut self, batch: Vec<Message>, at: Timestamp) -> Box<dyn Confirms>;

    /// Whether another batch may be published on this channel: false once it has failed, or was refused something.
    fn is_usable(&self) -> bool;
}

/// The confirms of one batch. To be owned by a task and never dropped before every one has settled: a dropped
/// confirm can no longer be watched.
pub trait Confirms: Send {
    /// Waits until at least one more has settled, and gives all that have. A settled view: every confirm that
    /// the broker resolved before any of these is in this answer or an earlier one. Empty when all have
    /// settled before. There is no deadline here: the lane has it.
    ///
    /// Cancel safety: nothing is lost when the future is dropped; what had settled comes with the next call.
    fn settle(&mut self) -> BoxFuture<'_, Vec<Settled>>;

    /// What has settled by now, without waiting.
    fn settle_now(&mut self) -> Vec<Settled>;
}

/// The outcome of one publish of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The position in the batch.
    pub index: usize,
    /// What the broker said.
    pub confirm: Confirm,
}

/// What the broker said to one publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confirm {
    /// `basic.ack`, and the `message_id` of the returned message that came with it, if one did: not
    /// necessarily this one's.
    Ack(Option<String>),
    /// `basic.nack`, likewise.
    Nack(Option<String>),
    /// The channel or the connection went first: it may be with the broker or not, and nobody will say.
    Lost,
    /// It was never handed to the connection: it is certainly not with the broker.
    Unsent,
    /// The channel was not in confirm mode: a bug, treated as lost.
    NotRequested,
}

/// Why there is no channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkError {
    /// For the log; holds no secret.
    pub message: String,
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for LinkError {}
