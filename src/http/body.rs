//! Reading a request's body into one piece of memory, within a size and a time. The bytes are those that were
//! posted (invariant 3): nothing is decoded here but the transfer encoding, which hyper did.
//!
//! A body that comes in one piece is used where hyper has read it. Those that come in more have a bound on what they
//! hold together, so that many that never end cannot be all of the memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

use crate::metrics::Metrics;

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyFault {
    /// Longer than `http.max_body`, or announced to be.
    TooLarge,
    /// Not complete within `http.body_timeout`.
    TooSlow,
    /// The peer stopped in the middle, or its chunks are malformed.
    CutShort,
    /// All bodies together hold `http.max_bodies`.
    NoRoom,
}

/// The bounds of every body, and what all of them hold.
#[derive(Debug)]
pub(super) struct Shelf {
    /// Of one.
    pub(super) max_bytes: usize,
    /// Of all. What is counted is what was received; a buffer that grows may have twice that.
    pub(super) max_bytes_of_all: usize,
    /// For one to be complete.
    pub(super) within: Duration,
    pub(super) held: AtomicUsize,
    pub(super) metrics: Metrics,
}

/// A body that grows, and then is used; what it holds is given back when it is dropped.
struct Collected {
    bytes: BytesMut,
    shelf: Arc<Shelf>,
}

impl Shelf {
    /// The whole body.
    ///
    /// Bound: `max_bytes` of one and `max_bytes_of_all`; `within`. An announced length that is too large is refused
    /// before a byte is read.
    ///
    /// Cancel safety: what was read is lost, and with it the request.
    pub(super) async fn read(self: &Arc<Self>, body: Incoming) -> Result<Bytes, BodyFault> {
        if usize::try_from(body.size_hint().lower()).map_or(true, |announced| announced > self.max_bytes) {
            return Err(BodyFault::TooLarge);
        }
        tokio::time::timeout(self.within, self.collect(body)).await.unwrap_or(Err(BodyFault::TooSlow))
    }

    async fn collect(self: &Arc<Self>, mut body: Incoming) -> Result<Bytes, BodyFault> {
        let first = data(&mut body).await?.unwrap_or_default();
        // Nearly every notification arrives in one read and needs no copy.
        if body.is_end_stream() {
            return self.within_bound(first.len()).map(|()| first);
        }
        let mut whole = Collected { bytes: BytesMut::new(), shelf: Arc::clone(self) };
        whole.append(&first)?;
        drop(first);
        while let Some(next) = data(&mut body).await? {
            whole.append(&next)?;
        }
        Ok(Bytes::from_owner(whole))
    }

    fn within_bound(&self, length: usize) -> Result<(), BodyFault> {
        if length > self.max_bytes { Err(BodyFault::TooLarge) } else { Ok(()) }
    }

    fn take(&self, bytes: usize) -> Result<(), BodyFault> {
        let within = |held: usize| Some(held + bytes).filter(|held| *held <= self.max_bytes_of_all);
        let taken = self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within);
        taken.map_err(|_| BodyFault::NoRoom)?;
        self.metrics.body_bytes.add(i64::try_from(bytes).unwrap_or(i64::MAX));
        Ok(())
    }
}

impl Collected {
    fn append(&mut self, next: &[u8]) -> Result<(), BodyFault> {
        self.shelf.within_bound(self.bytes.len() + next.len())?;
        self.shelf.take(next.len())?;
        self.bytes.extend_from_slice(next);
        Ok(())
    }
}

impl AsRef<[u8]> for Collected {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Collected {
    fn drop(&mut self) {
        self.shelf.held.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        self.shelf.metrics.body_bytes.sub(i64::try_from(self.bytes.len()).unwrap_or(i64::MAX));
    }
}

/// The next bytes; trailers say nothing to us.
async fn data(body: &mut Incoming) -> Result<Option<Bytes>, BodyFault> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|_| BodyFault::CutShort)?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}
