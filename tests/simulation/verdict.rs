//! What must hold, whatever broke. The checks know what the broker and the store really have; the gateway does not.
//!
//! - `success` only for what the broker took and confirmed before, and, unless the store failed, wrote down;
//! - a record only for what the broker confirmed;
//! - one more copy only inside the windows of design.md's "Crash points", each attributed to its window, with the same id
//!   and the same facts;
//! - in the end everything that Alipay delivered, and that a delivery brought past the crashes, is in a queue.

use std::collections::BTreeMap;

use alipay_notify_gateway::broker::Confirm;
use alipay_notify_gateway::event::{Key, Message};
use alipay_notify_gateway::publication::{Announced, How};
use alipay_notify_gateway::store::{self, Record, State};

use crate::alipay::Pool;
use crate::broker::QUEUES;
use crate::world::Inner;

/// An event id, and everything that became of it.
pub struct Event {
    pub id: String,
    pub is_payment: bool,
    pub attempts: Vec<Attempt>,
    /// Some attempt was taken by every queue that it was for.
    pub is_safe: bool,
    copies: [u32; QUEUES],
    /// When a record of it was written.
    recorded_at: Option<u64>,
    key: Option<Key>,
    /// When the store was first asked to record it in this life, and whether it ever said that it failed.
    asked_at: Option<u64>,
    was_denied: bool,
    /// When a shared store forgot what it had written about it.
    forgotten_at: Vec<u64>,
    /// When it did something to its lease that nobody waited for any more.
    late_at: Vec<u64>,
    /// When which life kept it as deferred: its confirm is not waited for any more.
    given_up: Vec<(u32, u64)>,
}

impl Event {
    fn is_given_up(&self, attempt: &Attempt) -> bool {
        self.given_up.iter().any(|(life, at)| *life == attempt.incarnation && *at >= attempt.at)
    }
}

/// One publish.
pub struct Attempt {
    incarnation: u32,
    at: u64,
    digest: String,
    unchecked: bool,
    batch: usize,
    told: Option<(Confirm, u64)>,
    pub is_refused: bool,
    pub is_stuck: bool,
    pub is_returned: bool,
    pub is_taken: bool,
    is_copied: bool,
    /// Why it may be one more.
    window: &'static str,
}

/// What one world, or many, came to.
#[derive(Debug, Default)]
pub struct Report {
    pub counts: BTreeMap<&'static str, u64>,
    pub violations: Vec<String>,
}

impl Report {
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn get(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }

    pub fn add(&mut self, other: Self) {
        for (what, count) in other.counts {
            *self.counts.entry(what).or_default() += count;
        }
        self.violations.extend(other.violations);
    }
}

impl Inner {
    pub fn violate(&mut self, what: String) {
        let now = self.now();
        let text = format!("seed {}, {now} ms, life {}: {what}", self.seed, self.life.incarnation);
        self.trace("violation", 0);
        if self.report.violations.len() < 10 {
            self.report.violations.push(text);
        }
    }

    /// A publish: which earlier attempts allow it?
    pub fn judge_publish(&mut self, message: &Message, batch: usize) -> (usize, usize) {
        let now = self.now();
        let event = self.event(&message.id);
        self.trace("published", event as u64);
        let is_known = self.delivered.contains(&message.id);
        if !is_known {
            self.violate(format!("{} was published, and nothing of it was delivered", message.id));
        }
        // The window is that of an attempt which is in a queue; of one that is still on its way to a broker that is frozen,
        // if none is, because both are taken when it wakes (seed 102288).
        let (mut window, mut on_its_way) = ("", "");
        let mut wrong = None;
        let mut overtaken = Vec::new();
        for (number, attempt) in self.events[event].attempts.iter().enumerate() {
            match self.allows(&self.events[event], attempt, message, now) {
                Ok(name) if attempt.is_copied => window = name,
                // Both are on their way, and either may be the second copy.
                Ok(name) if self.is_beside(attempt) => overtaken.push((number, name)),
                Ok(name) => on_its_way = name,
                Err(why) => wrong = Some(why),
            }
        }
        for (number, name) in overtaken {
            let other = &mut self.events[event].attempts[number];
            for window in [&mut other.window, &mut window] {
                *window = if window.is_empty() { name } else { window };
            }
        }
        if window.is_empty() {
            window = on_its_way;
        }
        if let Some(why) = wrong {
            self.violate(format!("{} was published again: {why}", message.id));
        }
        let attempt = Attempt {
            incarnation: self.life.incarnation,
            at: now,
            digest: message.digest.clone(),
            unchecked: message.unchecked,
            batch,
            told: None,
            is_refused: false,
            is_stuck: false,
            is_returned: false,
            is_taken: false,
            is_copied: false,
            window,
        };
        self.events[event].attempts.push(attempt);
        (event, self.events[event].attempts.len() - 1)
    }

    /// The window in which an earlier attempt allows another, or why it does not.
    fn allows(
        &self,
        event: &Event,
        attempt: &Attempt,
        message: &Message,
        now: u64,
    ) -> Result<&'static str, &'static str> {
        let recorded_long = event.recorded_at.is_some_and(|at| at + CLAIMED_BEFORE <= now);
        if message.unchecked {
            return Ok("unchecked: the store was away");
        }
        if recorded_long {
            return Err("the store had its record");
        }
        if event.forgotten_at.iter().any(|at| *at <= now && attempt.at <= at + LEASE) {
            return Ok("the shared store forgot a claim or a record");
        }
        if let Some(at) = self.living(attempt.incarnation).filter(|at| *at != self.faults.at) {
            return self.allows_beside(event, attempt, at, now);
        }
        if attempt.incarnation != self.life.incarnation {
            let was_lost = self.wiped.iter().any(|at| attempt.at <= *at);
            return Ok(if was_lost {
                "the disk was lost"
            } else if self.is_confirmed(attempt) {
                "crash between confirm and record"
            } else {
                "crash before the confirm"
            });
        }
        let in_doubt_long = attempt.at + DOUBT <= now;
        match &attempt.told {
            Some((Confirm::Nack(_), _)) => Ok("nacked by one of several queues"),
            Some((Confirm::Lost | Confirm::Unsent, _)) => Ok("channel or connection lost before the confirm"),
            Some(_) if attempt.is_returned => Ok("returned"),
            Some((_, at)) if self.is_confirmed(attempt) && (in_doubt_long && at + CLAIMED_BEFORE > now) => {
                Ok("confirm later than 60 s")
            }
            Some(_) if self.is_confirmed(attempt) => Err("it was confirmed"),
            Some(_) if self.batches[attempt.batch].is_lost => {
                Ok("channel or connection lost before the confirm")
            }
            Some(_) | None if in_doubt_long => Ok("confirm later than 60 s"),
            Some(_) | None => Err("it was in doubt, and 60 s were not over"),
        }
    }

    /// Whether it is another gateway's.
    fn is_beside(&self, attempt: &Attempt) -> bool {
        self.is_shared() && attempt.incarnation != self.life.incarnation
    }

    /// The window in which an attempt of another gateway, which lives, allows one here.
    fn allows_beside(
        &self,
        event: &Event,
        attempt: &Attempt,
        at: usize,
        now: u64,
    ) -> Result<&'static str, &'static str> {
        let record_failed = event.was_denied || event.asked_at.is_some_and(|at| at + STORE_PATIENCE <= now);
        let claimed = attempt.at.saturating_sub(LEASE);
        let failed = self.disk.failed_at.iter().any(|failed| (claimed..=now).contains(failed));
        match &attempt.told {
            Some((Confirm::Nack(_), _)) => Ok("nacked by one of several queues"),
            Some((Confirm::Lost | Confirm::Unsent, _)) => Ok("channel or connection lost before the confirm"),
            Some(_) if attempt.is_returned => Ok("returned"),
            Some(_) if self.batches[attempt.batch].is_lost && !self.is_confirmed(attempt) => {
                Ok("channel or connection lost before the confirm")
            }
            _ if attempt.unchecked || record_failed => {
                Ok("unchecked: the store was away from another gateway")
            }
            // Its minute is as long as its publisher says, who waits for longer where the broker blocks him.
            _ if attempt.at + DOUBT <= now && event.is_given_up(attempt) => Ok("confirm later than 60 s"),
            _ if attempt.at + LEASE <= now + PUBLISHED_AFTER
                && (failed || self.faults.disturbed(at, claimed, now)) =>
            {
                Ok("its lease ran out under another gateway")
            }
            _ if event.late_at.iter().any(|late| (attempt.at..=now).contains(late)) => {
                Ok("the store did late what ended another gateway's lease")
            }
            _ => Err("another gateway had it"),
        }
    }

    /// A shared store has forgotten it.
    pub fn note_forgotten(&mut self, key: &Key) {
        let now = self.now();
        let event = self.event(&key.id);
        let event = &mut self.events[event];
        event.forgotten_at.push(now);
        event.recorded_at = None;
    }

    /// Its publisher gives it to whoever asks.
    pub fn note_given_up(&mut self, key: &Key) {
        let (life, now) = (self.life.incarnation, self.now());
        let event = self.event(&key.id);
        self.events[event].given_up.push((life, now));
    }

    /// A shared store does something to a lease so late that its caller has begun something else (seed 2^32 + 100977).
    pub fn note_late(&mut self, key: &Key, asked: u64) {
        let now = self.now();
        if now >= asked + STORE_PATIENCE {
            let event = self.event(&key.id);
            self.events[event].late_at.push(now);
        }
    }

    /// The gateway was told what proves it: an ack that carries nothing, or the whole batch resolved.
    fn is_confirmed(&self, attempt: &Attempt) -> bool {
        match &attempt.told {
            Some((Confirm::Ack(None), _)) => attempt.is_taken,
            Some((Confirm::Ack(Some(_)), _)) => attempt.is_taken && self.batches[attempt.batch].is_resolved(),
            Some((Confirm::Nack(_) | Confirm::Lost | Confirm::Unsent | Confirm::NotRequested, _)) | None => {
                false
            }
        }
    }

    /// One more copy in a queue.
    pub fn store_copy(&mut self, event: usize, attempt: usize, queue: usize) {
        self.trace("stored", event as u64);
        let event = &mut self.events[event];
        event.copies[queue] += 1;
        let copied = event.copies[queue];
        let first = event.attempts.iter().find(|attempt| attempt.is_copied).map(|first| first.digest.clone());
        let attempt = &mut event.attempts[attempt];
        attempt.is_copied = true;
        let window = attempt.window;
        if copied == 1 {
            self.report.count("copies: first in its queue");
            return;
        }
        let same = first.is_none_or(|first| first == attempt.digest);
        let id = event.id.clone();
        match (window, same) {
            ("", _) => self.violate(format!("{id} is in a queue twice, and no window allows it")),
            (_, false) => self.report.count("again: same id, other money"),
            (window, true) => self.report.count(window),
        }
    }

    pub fn judge_told(&mut self, batch: usize, index: usize, confirm: &Confirm) {
        let now = self.now();
        let (event, attempt) = self.batches[batch].attempts[index];
        let (name, counted) = match confirm {
            Confirm::Ack(None) => ("ack", "confirm: ack"),
            Confirm::Ack(Some(_)) => ("ack with a return", "confirm: ack with a return"),
            Confirm::Nack(_) => ("nack", "confirm: nack"),
            Confirm::Lost => ("lost", "confirm: lost"),
            Confirm::Unsent => ("unsent", "confirm: unsent"),
            Confirm::NotRequested => ("not requested", "confirm: not requested"),
        };
        self.trace(name, event as u64);
        self.report.count(counted);
        let attempt = &mut self.events[event].attempts[attempt];
        if attempt.at + DOUBT <= now && matches!(confirm, Confirm::Ack(_)) {
            self.report.count("confirm: later than 60 s");
        }
        if self.batches[batch].is_watched {
            attempt.told = Some((confirm.clone(), now));
        } else {
            self.report.count("confirm: when nobody watched any more");
        }
    }

    /// It was told, and the gateway did not look any more.
    pub fn judge_forgotten(&mut self, batch: usize, index: usize) {
        let (event, attempt) = self.batches[batch].attempts[index];
        self.events[event].attempts[attempt].told = None;
    }

    /// The store never claims what the broker did not take.
    pub fn judge_record(&mut self, record: &Record) {
        if !self.is_alive() {
            return;
        }
        let digest = record.digest.short();
        let event = self.event(&record.key.id);
        let confirmed = self.events[event]
            .attempts
            .iter()
            .any(|attempt| self.is_confirmed(attempt) && attempt.digest == digest);
        if record.state == State::Recorded && !confirmed {
            self.violate(format!("{} was recorded, and the broker did not confirm it", record.key.id));
        }
        let now = self.now();
        self.events[event].asked_at.get_or_insert(now);
    }

    pub fn note_recorded(&mut self, key: &Key) {
        let now = self.now();
        let event = self.event(&key.id);
        let event = &mut self.events[event];
        event.recorded_at.get_or_insert(now);
        event.key = Some(key.clone());
    }

    pub fn note_not_recorded(&mut self, keys: &[Key]) {
        for key in keys {
            let event = self.event(&key.id);
            self.events[event].was_denied = true;
        }
    }

    /// After a crash: what was written and not synced may be gone.
    pub fn forget_unsynced(&mut self) {
        for event in &mut self.events {
            event.asked_at = None;
            if event.key.as_ref().is_some_and(|key| !self.disk.is_recorded(key)) {
                event.recorded_at = None;
            }
        }
    }

    /// `success` was said.
    pub fn judge_success(&mut self, notice: usize, announced: &Announced) {
        let notice = &Pool::shared().notices[notice];
        let id = announced.event_id().to_owned();
        let event = self.event(&id);
        let digest = announced.digest().map(alipay_notify_gateway::event::Digest::short).unwrap_or_default();
        if !notice.ids.contains(&id) || digest != notice.digest {
            self.violate(format!("`success` for {:?} was said on the ground of {id}", notice.ids));
        }
        let attempts = &self.events[event].attempts;
        let taken = attempts.iter().any(|attempt| {
            attempt.is_taken && matches!(attempt.told, Some((Confirm::Ack(_), _))) && attempt.digest == digest
        });
        if !taken {
            self.violate(format!("`success` was said, and the broker did not confirm {id}"));
        }
        self.report.count(match announced.how() {
            How::Confirmed(_) => "success: confirmed",
            How::Followed => "success: followed",
            How::Recorded => "success: recorded before",
            How::Unrouted => "success: unrouted",
            How::Dropped => "success: dropped",
        });
        let now = self.now();
        let event = &self.events[event];
        // Refused by the store, or not answered within its deadline.
        let excused = !event.forgotten_at.is_empty()
            || event.was_denied
            || event.asked_at.is_some_and(|at| at + STORE_PATIENCE <= now);
        let recorded = event.key.as_ref().is_some_and(|key| self.disk.is_recorded(key));
        if !excused && !recorded {
            self.violate(format!("`success` was said, and the record of {id} is not on the disk"));
        }
    }

    /// After everything is over and well.
    pub fn judge_end(&mut self) {
        if self.disk.waiting() > 0 {
            self.violate(format!("{} events still wait for a broker that is well", self.disk.waiting()));
        }
        let lost: Vec<usize> = (0..self.handled.len()).filter(|notice| self.is_missing(*notice)).collect();
        for notice in lost {
            let excused = self.handled[notice].iter().all(|(life, at)| self.is_excused(*life, *at));
            let ids = &Pool::shared().notices[notice].ids;
            if self.told_success.contains(&notice) || !excused {
                self.violate(format!("lost: {ids:?}, delivered at {:?}", self.handled[notice]));
            } else {
                self.report
                    .count("not announced: no delivery got past a crash, a store that failed or a lost disk");
            }
        }
    }

    fn is_missing(&self, notice: usize) -> bool {
        let wanted = &Pool::shared().notices[notice];
        let is_there = |id: &String| {
            let event = self.index.get(id).map(|event| &self.events[*event]);
            event.is_some_and(|event| {
                event.is_safe
                    && event
                        .attempts
                        .iter()
                        .any(|attempt| attempt.is_copied && attempt.digest == wanted.digest)
            })
        };
        !self.handled[notice].is_empty() && !wanted.ids.iter().any(is_there)
    }

    /// A delivery after which the gateway soon crashed, or the store could not keep it.
    fn is_excused(&self, life: u32, at: u64) -> bool {
        let crashed = self.crashes.iter().any(|(crashed, when)| *crashed == life && *when < at + SURVIVES);
        let failed = self.disk.failed_at.iter().any(|failed| (at..at + SURVIVES).contains(failed));
        crashed || failed || self.wiped.iter().any(|wiped| at <= *wiped)
    }

    fn event(&mut self, id: &str) -> usize {
        if let Some(event) = self.index.get(id) {
            return *event;
        }
        let is_payment = id.ends_with(".payment.succeeded");
        let event = Event {
            id: id.to_owned(),
            is_payment,
            attempts: Vec::new(),
            is_safe: false,
            copies: [0; QUEUES],
            recorded_at: None,
            key: None,
            asked_at: None,
            was_denied: false,
            forgotten_at: Vec::new(),
            late_at: Vec::new(),
            given_up: Vec::new(),
        };
        self.events.push(event);
        self.index.insert(id.to_owned(), self.events.len() - 1);
        self.events.len() - 1
    }
}

/// An event in doubt is not published again before.
const DOUBT: u64 = 60_000;
/// Between the claim and the publish, at most: the wait for a link and for a channel.
const CLAIMED_BEFORE: u64 = 3_000;
/// A lease of a shared store, and how long after its claim a batch is published at the latest.
const LEASE: u64 = store::LEASE.as_millis() as u64;
const PUBLISHED_AFTER: u64 = 5_000;
/// How long publication waits for the store.
const STORE_PATIENCE: u64 = 2_000;
/// After so long a delivery is announced or kept.
const SURVIVES: u64 = 30_000;
