//! How much waits, and whether there is room for more. The numbers are counted in Redis, in each bucket; here is what they
//! added up to when they were last looked at, and what this gateway has added since. Far from a bound that is enough:
//! near one they are looked at anew before each write. So the bounds hold for all replicas together, and may be passed by
//! what several of them write at once.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Config;
use super::answer::Fields;
use crate::clock::Timestamp;
use crate::store::{Cause, Deferral, Holding, StoreError, Tally};

/// What is known of it.
pub(super) struct Books {
    config: Config,
    known: Mutex<Known>,
}

struct Known {
    sums: Sums,
    /// `None` before the first look.
    at: Option<Instant>,
    /// When this gateway last held something apart from its trade.
    apart_at: Option<Instant>,
}

/// In rows and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sums {
    /// Deferred or in doubt, returned ones too.
    deferred: u64,
    returned: u64,
    bytes: u64,
    returned_bytes: u64,
    held: u64,
    held_bytes: u64,
    apart: u64,
}

/// What is left of each bound.
pub(super) struct Room {
    /// Rows, returned rows, bytes, bytes of returned ones.
    pub(super) deferred: [u64; 4],
    /// Rows, bytes.
    pub(super) held: [u64; 2],
}

/// What waits in a bucket: what `tally.lua` answers.
#[derive(Default)]
pub(super) struct Bucket {
    deferred: u64,
    in_doubt: u64,
    sums: Sums,
    first: Option<i64>,
    paid: Option<i64>,
}

pub(super) fn read(mut fields: Fields) -> Result<Bucket, StoreError> {
    if fields.is_empty() {
        return Ok(Bucket::default());
    }
    let mut number = || Ok(u64::try_from(fields.number()?).unwrap_or(0));
    let (deferred, in_doubt) = (number()?, number()?);
    let (returned, bytes, returned_bytes) = (number()?, number()?, number()?);
    let (held, held_bytes, apart) = (number()?, number()?, number()?);
    let sums =
        Sums { deferred: deferred + in_doubt, returned, bytes, returned_bytes, held, held_bytes, apart };
    Ok(Bucket { deferred, in_doubt, sums, first: fields.maybe_number()?, paid: fields.maybe_number()? })
}

impl Books {
    pub(super) fn new(config: &Config) -> Self {
        let known = Known { sums: Sums::default(), at: None, apart_at: None };
        Self { config: config.clone(), known: Mutex::new(known) }
    }

    /// To be handed to [`Self::sum`], from before the buckets were asked.
    pub(super) fn begin(&self) -> Instant {
        Instant::now()
    }

    pub(super) fn sum(&self, began: Instant, buckets: impl Iterator<Item = Bucket>) -> Tally {
        let (mut sums, mut tally) = (Sums::default(), Tally::default());
        let earliest = |a: Option<Timestamp>, b: Option<i64>| {
            let b = b.map(Timestamp::from_unix_millis);
            a.into_iter().chain(b).min()
        };
        for bucket in buckets {
            sums.add(&bucket.sums);
            tally.deferred += bucket.deferred;
            tally.in_doubt += bucket.in_doubt;
            tally.oldest_at = earliest(tally.oldest_at, bucket.first);
            tally.oldest_payment = earliest(tally.oldest_payment, bucket.paid);
        }
        tally.held = sums.held;
        let mut known = self.lock();
        (known.sums, known.at) = (sums, Some(began));
        tally
    }

    /// Counts what was written, until the buckets are looked at again. What was there before is counted twice.
    pub(super) fn add(&self, sums: &Sums) {
        let mut known = self.lock();
        known.sums.add(sums);
        if sums.apart > 0 {
            known.apart_at = Some(Instant::now());
        }
    }

    /// Whether something may be held apart from its trade. Another gateway's is known when the buckets were looked at.
    pub(super) fn has_held_apart(&self) -> bool {
        let known = self.lock();
        let (Some(at), apart_at) = (known.at, known.apart_at) else { return true };
        known.sums.apart > 0 || apart_at.is_some_and(|apart_at| apart_at >= at)
    }

    /// Whether what is known is too little to write as much as this by.
    pub(super) fn is_tight_for(&self, more: &Sums) -> bool {
        let known = self.lock();
        let mut sums = known.sums;
        sums.add(more);
        let is_fresh = known.at.is_some_and(|at| at.elapsed() < FRESH);
        let is_full = sums.returned_bytes >= self.config.max_deferred_bytes / 2;
        !is_fresh || is_full || self.of(&sums).into_iter().any(|(_, used)| used > 0.9)
    }

    /// Whether anything waits for the broker. `None` if what is known is too old to say.
    pub(super) fn has_waiting(&self) -> Option<bool> {
        let known = self.lock();
        let is_fresh = known.at.is_some_and(|at| at.elapsed() < FRESH);
        is_fresh.then_some(known.sums.deferred > 0)
    }

    pub(super) fn room(&self) -> Room {
        let (sums, config) = (self.lock().sums, &self.config);
        let left = u64::saturating_sub;
        Room {
            deferred: [
                left(config.max_deferred, sums.deferred.saturating_sub(sums.returned)),
                left(config.max_returned, sums.returned),
                left(config.max_deferred_bytes, sums.bytes),
                left(config.max_deferred_bytes / 2, sums.returned_bytes),
            ],
            held: [left(config.max_held, sums.held), left(config.max_held_bytes, sums.held_bytes)],
        }
    }

    pub(super) fn used(&self) -> [(&'static str, f64); 5] {
        self.of(&self.lock().sums)
    }

    fn of(&self, sums: &Sums) -> [(&'static str, f64); 5] {
        #[expect(clippy::cast_precision_loss, reason = "a ratio for a gauge")]
        let ratio = |used: u64, bound: u64| used as f64 / bound.max(1) as f64;
        let config = &self.config;
        [
            ("max_deferred", ratio(sums.deferred.saturating_sub(sums.returned), config.max_deferred)),
            ("max_returned", ratio(sums.returned, config.max_returned)),
            ("max_deferred_bytes", ratio(sums.bytes, config.max_deferred_bytes)),
            ("max_held", ratio(sums.held, config.max_held)),
            ("max_held_bytes", ratio(sums.held_bytes, config.max_held_bytes)),
        ]
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sums {
    pub(super) fn of_deferral(deferral: &Deferral) -> Self {
        // Somewhat less than its JSON: what is written is counted in Redis.
        let bytes = u64::try_from(deferral.message.weight()).unwrap_or(u64::MAX);
        let is_returned = u64::from(deferral.cause == Cause::Returned);
        let (returned, returned_bytes) = (is_returned, is_returned * bytes);
        Self { deferred: 1, bytes, returned, returned_bytes, ..Self::default() }
    }

    pub(super) fn of_holding(holding: &Holding) -> Self {
        let held_bytes = u64::try_from(holding.body.len()).unwrap_or(u64::MAX);
        let apart = u64::from(holding.key.subject == holding.notify_id);
        Self { held: 1, held_bytes, apart, ..Self::default() }
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.deferred, other.deferred),
            (&mut self.returned, other.returned),
            (&mut self.bytes, other.bytes),
            (&mut self.returned_bytes, other.returned_bytes),
            (&mut self.held, other.held),
            (&mut self.held_bytes, other.held_bytes),
            (&mut self.apart, other.apart),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

/// How old what is known may be. The gauges ask every two seconds.
const FRESH: Duration = Duration::from_secs(5);
