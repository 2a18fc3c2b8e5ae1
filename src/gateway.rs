//! The one place with the whole order: admit, publish, count, audit. Knows nothing of HTTP.

use std::future::Future;

use bytes::Bytes;
use tokio::time::Instant;

use crate::publication::Announced;
use crate::store::{Row, StoreError};

/// The gateway between two doors: notifications come in, replies go out.
#[derive(Debug)]
pub struct Gateway {}

/// A request body and what is known of its arrival.
#[derive(Debug)]
pub struct Delivery {
    /// The body, byte for byte.
    pub body: Bytes,
    /// When its head was complete: the answer deadline counts from here.
    pub arrived: Instant,
    /// The W3C trace context of the request, if it brought a well-formed one.
    pub traceparent: Option<String>,
}

/// What Alipay is to be told.
#[derive(Debug)]
pub enum Reply {
    /// `success`: only with the proof.
    Success(Announced),
    /// `fail`, theirs: malformed, forged, not ours, or authentic and held.
    Rejected,
    /// `fail`, ours: not confirmed in time, no room, or stopping.
    Unavailable,
}

/// How the gateway is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The parts that are away and why; empty when all is well. Degraded is still ready.
    pub degraded: Vec<(&'static str, String)>,
}

impl Gateway {
    /// Takes one delivery to its reply. Does not fail and has its own deadline. The future may be dropped at
    /// any time: what was begun is finished in a task of its own.
    pub fn notify(&self, _delivery: Delivery) -> impl Future<Output = Reply> + Send + use<> {
        async { Reply::Rejected }
    }

    /// How it is.
    pub fn health(&self) -> Health {
        Health { degraded: Vec::new() }
    }

    /// Everything kept for a trade.
    ///
    /// # Errors
    /// If the store is away.
    pub async fn trade(&self, _trade_no: &str) -> Result<Vec<Row>, StoreError> {
        Ok(Vec::new())
    }
}
