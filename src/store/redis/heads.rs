//! Where the drain finds something: of each bucket, when the first of what waits there is due, as it was last seen. So a
//! round asks the few buckets that it takes from, and not all of them; and one that has nothing to take asks none.
//!
//! Each process goes round the buckets in an order of its own, so that several of them seldom meet in one. What it does not
//! know of, because another wrote it, it finds when it looks anew.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::answer::{Fields, odd};
use crate::clock::Timestamp;
use crate::event::{EventType, Key};
use crate::store::{Cause, StoreError, Waiting, back_off};

/// What the broker did not refuse, and what it did (or did not confirm): see `due_of` in `row.lua`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum List {
    Fresh,
    Refused,
}

/// What is known of them.
pub(super) struct Heads {
    known: Mutex<Known>,
    /// The order: from one bucket to the one so many further on. Odd, so that it comes by all of them.
    stride: u8,
}

struct Known {
    /// When it was looked at, and without which types.
    looked: Option<(Instant, Vec<EventType>)>,
    fresh: Round,
    refused: Round,
}

struct Round {
    /// Bound: of each of 256 buckets, when the first is due, if there is any.
    heads: Vec<Option<i64>>,
    /// Where it goes on.
    at: u8,
}

/// What a bucket gave.
#[derive(Default)]
pub(super) struct Visit {
    /// When the next is due.
    pub(super) next: Option<i64>,
    /// When each was due.
    pub(super) taken: Vec<(i64, Waiting)>,
    /// Where something lies that cannot be read.
    pub(super) unreadable: Vec<Key>,
}

impl List {
    pub(super) fn of(cause: Cause) -> Self {
        match cause {
            Cause::Nacked | Cause::Returned | Cause::InDoubt | Cause::ChannelClosed => Self::Refused,
            Cause::BrokerDown | Cause::Blocked | Cause::Late | Cause::Suspended => Self::Fresh,
        }
    }

    /// Its number in the names of keys.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Fresh => 0,
            Self::Refused => 1,
        }
    }
}

/// See `heads.lua`.
pub(super) fn read(mut fields: Fields) -> Result<[Option<i64>; 2], StoreError> {
    Ok([fields.maybe_number()?, fields.maybe_number()?])
}

impl Visit {
    /// See `due.lua`.
    pub(super) fn read(mut fields: Fields) -> Result<Self, StoreError> {
        let next = fields.maybe_number()?;
        let (mut taken, mut unreadable) = (Vec::new(), Vec::new());
        for row in fields.rest() {
            let mut row = row?;
            let (at, place) = (row.number()?, row.text()?);
            let (subject, id) = place.rsplit_once(' ').ok_or_else(odd)?;
            let key = Key { subject: subject.to_owned(), id: id.to_owned() };
            match row.waiting(key.clone())? {
                Some(waiting) => taken.push((at, waiting)),
                None => unreadable.push(key),
            }
        }
        Ok(Self { next, taken, unreadable })
    }
}

impl Heads {
    pub(super) fn new() -> Self {
        let round = || Round { heads: vec![None; 256], at: rand::random() };
        let known = Known { looked: None, fresh: round(), refused: round() };
        Self { known: Mutex::new(known), stride: rand::random::<u8>() | 1 }
    }

    /// Whether what is known is of these types, and young enough.
    pub(super) fn are_known(&self, skip: &[EventType]) -> bool {
        let known = self.lock();
        known.looked.as_ref().is_some_and(|(at, without)| at.elapsed() < LOOK_EVERY && without == skip)
    }

    /// Notes what was seen in all buckets, without these types.
    pub(super) fn saw(&self, skip: Vec<EventType>, heads: impl IntoIterator<Item = [Option<i64>; 2]>) {
        let mut known = self.lock();
        known.looked = Some((Instant::now(), skip));
        let Known { fresh, refused, .. } = &mut *known;
        for ((fresh, refused), head) in fresh.heads.iter_mut().zip(&mut refused.heads).zip(heads) {
            [*fresh, *refused] = head;
        }
    }

    /// Notes what this process has put there, which is due no earlier than the shortest back-off after it.
    pub(super) fn put(&self, bucket: u8, cause: Cause, at: Timestamp) {
        let (mut known, at) = (self.lock(), at.plus(back_off(1)).unix_millis());
        if let Some(head) = known.of(List::of(cause)).heads.get_mut(usize::from(bucket)) {
            *head = Some(head.map_or(at, |head| head.min(at)));
        }
    }

    /// Notes what was given back. See `release.lua`.
    pub(super) fn released(&self, bucket: u8, mut fields: Fields) -> Result<(), StoreError> {
        if !fields.is_empty() {
            let list = if fields.number()? == 0 { List::Fresh } else { List::Refused };
            self.visited(bucket, list, fields.maybe_number()?);
        }
        Ok(())
    }

    /// Notes what a bucket has left.
    pub(super) fn visited(&self, bucket: u8, list: List, next: Option<i64>) {
        if let Some(head) = self.lock().of(list).heads.get_mut(usize::from(bucket)) {
            *head = next;
        }
    }

    /// The next buckets that have something due, in turn, and how much is to be taken of each: `wanted` in all, and no more
    /// than `share` of each unless they are too few. Where there are many, those whose first is due for longer than that of
    /// the other half.
    pub(super) fn next(&self, now: Timestamp, list: List, wanted: usize, share: usize) -> Vec<(u8, usize)> {
        let (mut known, stride) = (self.lock(), self.stride);
        let round = known.of(list);
        let (start, count) = (round.at, wanted.div_ceil(share.max(1)));
        let in_turn = (0..=u8::MAX).map(|step| start.wrapping_add(step.wrapping_mul(stride)));
        let due = |bucket| round.heads.get(usize::from(bucket)).copied().flatten().map(|at| (at, bucket));
        let mut due: Vec<(i64, u8)> =
            in_turn.filter_map(due).filter(|(at, _)| *at <= now.unix_millis()).collect();
        let mut heads: Vec<i64> = due.iter().map(|(at, _)| *at).collect();
        heads.sort_unstable();
        if let Some(latest) = heads.get(count.max(heads.len() / 2).saturating_sub(1)) {
            due.retain(|(at, _)| at <= latest);
        }
        due.truncate(count);
        let Some((_, last)) = due.last() else { return Vec::new() };
        round.at = last.wrapping_add(stride);
        let (each, mut left) = (wanted.div_ceil(due.len()), wanted);
        let shares = due.into_iter().map(|(_, bucket)| {
            let share = each.min(left);
            left -= share;
            (bucket, share)
        });
        shares.filter(|(_, share)| *share > 0).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn of(&mut self, list: List) -> &mut Round {
        match list {
            List::Fresh => &mut self.fresh,
            List::Refused => &mut self.refused,
        }
    }
}

/// How long what was seen is believed: what another process has put there is drained so much later.
const LOOK_EVERY: Duration = Duration::from_secs(2);
