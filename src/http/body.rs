//! Reading a request's body into one piece of memory, within a size and a time. The bytes are those that were
//! posted (invariant 3): nothing is decoded here but the transfer encoding, which hyper did.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyFault {
    /// Longer than `http.max_body`, or announced to be.
    TooLarge,
    /// Not complete within `http.body_timeout`.
    TooSlow,
    /// The peer stopped in the middle, or its chunks are malformed.
    CutShort,
}

/// The whole body.
///
/// Bound: `max_bytes`, and twice that while it grows; `within`. An announced length that is too large is
/// refused before a byte is read.
///
/// Cancel safety: what was read is lost, and with it the request.
pub(super) async fn read(body: Incoming, max_bytes: usize, within: Duration) -> Result<Bytes, BodyFault> {
    if usize::try_from(body.size_hint().lower()).map_or(true, |announced| announced > max_bytes) {
        return Err(BodyFault::TooLarge);
    }
    tokio::time::timeout(within, collect(body, max_bytes)).await.unwrap_or(Err(BodyFault::TooSlow))
}

async fn collect(mut body: Incoming, max_bytes: usize) -> Result<Bytes, BodyFault> {
    let first = data(&mut body).await?.unwrap_or_default();
    // Nearly every notification arrives in one read and needs no copy.
    if body.is_end_stream() {
        return within(first.len(), max_bytes).map(|()| first);
    }
    let mut whole = BytesMut::from(first);
    while let Some(next) = data(&mut body).await? {
        within(whole.len() + next.len(), max_bytes)?;
        whole.extend_from_slice(&next);
    }
    within(whole.len(), max_bytes).map(|()| whole.freeze())
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

fn within(length: usize, max_bytes: usize) -> Result<(), BodyFault> {
    if length > max_bytes { Err(BodyFault::TooLarge) } else { Ok(()) }
}
