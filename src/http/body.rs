//! Reading a request's body into one piece of memory, within a size and a time. The bytes are those that were
//! posted (invariant 3): nothing is decoded here but the transfer encoding, which hyper did.
//!
//! A body that is there with its head is used where hyper has read it. Those that are waited for have a bound on what
//! they hold together, so that many that never end cannot be all of the memory. Where there is no room for one more, the
//! one that held most for longest gives way: a genuine one is small and soon complete, so whoever keeps the shelf full
//! keeps only himself out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::sync::Notify;
use tokio::time::Instant;

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
    /// All bodies together hold `http.max_bodies`, and this one had to give way.
    NoRoom,
}

/// The bounds of every body, and what all of them hold.
#[derive(Debug)]
pub(super) struct Shelf {
    /// Of one.
    pub(super) max_bytes: usize,
    /// Of all.
    pub(super) max_bytes_of_all: usize,
    /// Of those that are waited for. They give way to one another alone, and so must leave room at the door.
    pub(super) max_unfinished: usize,
    /// For one to be complete.
    pub(super) within: Duration,
    pub(super) places: Mutex<Places>,
    pub(super) metrics: Metrics,
}

/// Bound: `max_bytes_of_all`; `max_unfinished`.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// What was received and is not dropped, and [`CONNECTION_BYTES`] for each that is unfinished. (A buffer that grows
    /// may have twice what it received.)
    held: usize,
    unfinished: HashMap<u64, Unfinished>,
    next: u64,
}

#[derive(Debug)]
struct Unfinished {
    bytes: BytesMut,
    since: Instant,
    has_to_go: Arc<Notify>,
}

/// A body that is waited for; what it holds is given back when it is dropped.
struct Place {
    shelf: Arc<Shelf>,
    number: u64,
    has_to_go: Arc<Notify>,
}

/// A complete body that is used; what it holds is given back when it is dropped.
struct Whole {
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
        let first = match data(&mut body).now_or_never() {
            Some(first) => first?.unwrap_or_default(),
            None => Bytes::new(),
        };
        // Nearly every notification arrives in one read and needs no copy.
        if body.is_end_stream() {
            return self.within_bound(first.len()).map(|()| first);
        }
        let place = self.place()?;
        tokio::select! {
            biased;
            () = place.has_to_go.notified() => Err(BodyFault::NoRoom),
            filled = place.fill(first, &mut body) => filled.and_then(|()| place.finish()),
        }
    }

    fn within_bound(&self, length: usize) -> Result<(), BodyFault> {
        if length > self.max_bytes { Err(BodyFault::TooLarge) } else { Ok(()) }
    }

    fn place(self: &Arc<Self>) -> Result<Place, BodyFault> {
        let (now, has_to_go) = (Instant::now(), Arc::new(Notify::new()));
        let mut places = self.lock();
        self.make_room(&mut places, CONNECTION_BYTES, now)?;
        while places.unfinished.len() >= self.max_unfinished {
            self.let_go_of_one(&mut places, now)?;
        }
        let number = places.next;
        places.next += 1;
        let unfinished = Unfinished { bytes: BytesMut::new(), since: now, has_to_go: Arc::clone(&has_to_go) };
        places.unfinished.insert(number, unfinished);
        self.hold(&mut places, CONNECTION_BYTES);
        Ok(Place { shelf: Arc::clone(self), number, has_to_go })
    }

    /// Until there is room for so much more, whoever held most for longest loses what he has, and is told.
    fn make_room(&self, places: &mut Places, bytes: usize, now: Instant) -> Result<(), BodyFault> {
        while places.held + bytes > self.max_bytes_of_all {
            self.let_go_of_one(places, now)?;
        }
        Ok(())
    }

    fn let_go_of_one(&self, places: &mut Places, now: Instant) -> Result<(), BodyFault> {
        let most = places.unfinished.iter().max_by_key(|(_, unfinished)| unfinished.cost(now));
        let number = most.map(|(number, _)| *number).ok_or(BodyFault::NoRoom)?;
        if let Some(gone) = self.remove(places, number) {
            gone.has_to_go.notify_one();
        }
        Ok(())
    }

    fn remove(&self, places: &mut Places, number: u64) -> Option<Unfinished> {
        let unfinished = places.unfinished.remove(&number)?;
        self.release(places, unfinished.held());
        Some(unfinished)
    }

    fn hold(&self, places: &mut Places, bytes: usize) {
        places.held += bytes;
        self.show(places);
    }

    fn release(&self, places: &mut Places, bytes: usize) {
        places.held -= bytes;
        self.show(places);
    }

    fn show(&self, places: &Places) {
        self.metrics.body_bytes.set(i64::try_from(places.held).unwrap_or(i64::MAX));
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unfinished {
    fn held(&self) -> usize {
        CONNECTION_BYTES + self.bytes.len()
    }

    /// What it holds, times how long it has been there. The former counts twice: a great one that is read in a moment must
    /// not outlast a small one whose second half is late.
    fn cost(&self, now: Instant) -> u128 {
        now.saturating_duration_since(self.since).as_micros() * (self.held() as u128).pow(2)
    }
}

impl Place {
    async fn fill(&self, first: Bytes, body: &mut Incoming) -> Result<(), BodyFault> {
        self.append(&first)?;
        drop(first);
        while let Some(next) = data(body).await? {
            self.append(&next)?;
        }
        Ok(())
    }

    fn append(&self, next: &[u8]) -> Result<(), BodyFault> {
        let mut places = self.shelf.lock();
        let held = places.unfinished.get(&self.number).map_or(0, |unfinished| unfinished.bytes.len());
        // Before anybody gives way to what is refused.
        self.shelf.within_bound(held + next.len())?;
        self.shelf.make_room(&mut places, next.len(), Instant::now())?;
        // It may be this one that had to go.
        let unfinished = places.unfinished.get_mut(&self.number).ok_or(BodyFault::NoRoom)?;
        unfinished.bytes.extend_from_slice(next);
        self.shelf.hold(&mut places, next.len());
        Ok(())
    }

    fn finish(&self) -> Result<Bytes, BodyFault> {
        let mut places = self.shelf.lock();
        let bytes = self.shelf.remove(&mut places, self.number).ok_or(BodyFault::NoRoom)?.bytes;
        self.shelf.hold(&mut places, bytes.len());
        Ok(Bytes::from_owner(Whole { bytes, shelf: Arc::clone(&self.shelf) }))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Not there if it is complete, or had to go.
        let _ = self.shelf.remove(&mut self.shelf.lock(), self.number);
    }
}

impl AsRef<[u8]> for Whole {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.shelf.release(&mut self.shelf.lock(), self.bytes.len());
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

/// What the connection of an unfinished body holds beside it, as far as it counts for `http.max_bodies`: so that bodies
/// of one byte each have a bound, too.
pub(crate) const CONNECTION_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_great_body_goes_before_a_small_one_that_has_been_there_for_longer() {
        let unfinished = |bytes: usize| Unfinished {
            bytes: BytesMut::zeroed(bytes),
            since: Instant::now(),
            has_to_go: Arc::new(Notify::new()),
        };
        let (small, of_one_byte) = (unfinished(900), unfinished(1));
        tokio::time::advance(Duration::from_millis(180)).await;
        let great = unfinished(56_000);
        tokio::time::advance(Duration::from_millis(20)).await;
        let now = Instant::now();
        assert!(great.cost(now) > small.cost(now), "ten times as long");
        tokio::time::advance(Duration::from_millis(50)).await;
        let late = unfinished(900);
        tokio::time::advance(Duration::from_millis(50)).await;
        assert!(of_one_byte.cost(Instant::now()) > late.cost(Instant::now()));
    }
}
