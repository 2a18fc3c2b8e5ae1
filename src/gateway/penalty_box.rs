//! Who has sent forged notifications lately, so that what he sends next is verified behind everybody else's
//! (`low_priority.rs`). Nobody is refused because of it: Alipay's addresses are shared and unknown, and behind a proxy
//! that is not named in `http.trusted_proxies` all traffic has one.
//!
//! Two leaky buckets. One for each origin: past `http.failure_budget` failures a minute it is out of favour, and each
//! failure that leaks out lets it have one more try at usual priority. And one for all together, because a forger with
//! more addresses than this table has entries would look new each time: past it, only those count as in favour that
//! have shown a genuine notification since. So what is verified in vain at usual priority has a bound, whoever sends it.
//!
//! What it is not: proof of anything. Nothing of it survives a crash, and nothing has to.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Origin;

/// How soon something is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Priority {
    /// At once, where it arrived.
    Usual,
    /// By threads that take what time the others leave.
    Low,
}

/// Failures of signatures, by origin.
#[derive(Debug)]
pub(super) struct PenaltyBox {
    /// What one failure of an origin costs, in time that has to pass.
    step: Duration,
    book: Mutex<Book>,
}

/// Bound: [`GENERATION`] entries in each of two generations. When the younger is full the older is forgotten, so that
/// those which were seen last are kept.
#[derive(Debug)]
struct Book {
    young: HashMap<Origin, Record>,
    old: HashMap<Origin, Record>,
    together: Debt,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    debt: Debt,
    /// Something of it has verified while all together were past their budget.
    is_proven: bool,
}

/// A leaky bucket, as the time at which it will be empty.
#[derive(Debug, Clone, Copy)]
struct Debt {
    until: Instant,
}

impl PenaltyBox {
    /// `failures` a minute are an origin's budget.
    pub(super) fn new(failures: u32) -> Self {
        let none = Debt { until: Instant::now() };
        let book = Book { young: HashMap::new(), old: HashMap::new(), together: none };
        Self { step: WINDOW / failures.max(1), book: Mutex::new(book) }
    }

    /// How soon what comes from there is to be verified.
    pub(super) fn priority(&self, origin: Origin, now: Instant) -> Priority {
        let mut book = self.book();
        let is_pressed = book.together.is_past_budget(now);
        let in_favour = match book.record(origin) {
            Some(record) => !record.debt.is_past_budget(now) && (record.is_proven || !is_pressed),
            None => !is_pressed,
        };
        if in_favour { Priority::Usual } else { Priority::Low }
    }

    /// How many signatures may still be verified in vain at usual priority before the origin, or all together, are out of
    /// favour.
    pub(super) fn failures_left(&self, origin: Origin, now: Instant) -> usize {
        let mut book = self.book();
        let own = book.record(origin).map_or(Debt { until: now }, |record| record.debt);
        own.steps_left(self.step, now).min(book.together.steps_left(self.step / TOGETHER, now))
    }

    /// A signature was verified in vain, at this priority. Only what was verified at usual priority counts for all
    /// together: one noisy origin does not put others out of favour.
    pub(super) fn failed(&self, origin: Origin, priority: Priority, now: Instant) {
        let mut book = self.book();
        if priority == Priority::Usual {
            book.together.grow(self.step / TOGETHER, now);
        }
        book.record_or(origin, now).debt.grow(self.step, now);
    }

    /// Something was genuine. Remembered only where it makes a difference, so that an ordinary day has no table.
    pub(super) fn verified(&self, origin: Origin, now: Instant) {
        let mut book = self.book();
        if book.together.is_past_budget(now) {
            book.record_or(origin, now).is_proven = true;
        }
    }

    /// How many origins are past their budget.
    pub(super) fn count(&self, now: Instant) -> usize {
        let book = self.book();
        let records = book.young.values().chain(book.old.values());
        records.filter(|record| record.debt.is_past_budget(now)).count()
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// What is known of it; it is now among the young again.
    fn record(&mut self, origin: Origin) -> Option<&mut Record> {
        if let Some(record) = self.old.remove(&origin) {
            self.insert(origin, record);
        }
        self.young.get_mut(&origin)
    }

    fn record_or(&mut self, origin: Origin, now: Instant) -> &mut Record {
        if self.record(origin).is_none() {
            self.insert(origin, Record { debt: Debt { until: now }, is_proven: false });
        }
        self.young.entry(origin).or_insert(Record { debt: Debt { until: now }, is_proven: false })
    }

    fn insert(&mut self, origin: Origin, record: Record) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(origin, record);
    }
}

impl Debt {
    fn is_past_budget(self, now: Instant) -> bool {
        self.until > now + WINDOW
    }

    fn steps_left(self, step: Duration, now: Instant) -> usize {
        let left = (now + WINDOW).saturating_duration_since(self.until);
        let steps = left.as_nanos().checked_div(step.as_nanos());
        steps.and_then(|steps| usize::try_from(steps).ok()).unwrap_or(usize::MAX)
    }

    /// Bound: one step past the budget, so that the end of a flood is the end of its consequences.
    fn grow(&mut self, step: Duration, now: Instant) {
        self.until = (self.until.max(now) + step).min(now + WINDOW + step);
    }
}

/// What `http.failure_budget` is counted over.
const WINDOW: Duration = Duration::from_secs(60);
/// The budget of all origins together, in budgets of one.
const TOGETHER: u32 = 64;
/// Bound: origins in one generation of two.
const GENERATION: usize = 2048;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn origin(n: u32) -> Origin {
        Origin::from(std::net::IpAddr::V4(Ipv4Addr::from_bits(n)))
    }

    fn fail(penalties: &PenaltyBox, origin: Origin, times: u32, now: Instant) {
        for _ in 0..times {
            penalties.failed(origin, penalties.priority(origin, now), now);
        }
    }

    #[test]
    fn what_is_left_of_a_budget_is_that_of_the_origin_or_of_all() {
        let (penalties, now) = (PenaltyBox::new(10), Instant::now());
        assert_eq!(penalties.failures_left(origin(1), now), 10);
        fail(&penalties, origin(1), 4, now);
        assert_eq!(penalties.failures_left(origin(1), now), 6);
        assert_eq!(penalties.failures_left(origin(1), now + WINDOW / 10), 7, "one has leaked out");
        fail(&penalties, origin(1), 100, now);
        assert_eq!(
            (penalties.failures_left(origin(1), now), penalties.failures_left(origin(2), now)),
            (0, 10)
        );
        for other in 0..63 {
            fail(&penalties, origin(100 + other), 10, now);
        }
        assert!(penalties.failures_left(origin(2), now) < 3, "of all there is less");
        assert!(PenaltyBox::new(u32::MAX).failures_left(origin(1), now) > 1 << 32, "as good as no bound");
    }

    #[test]
    fn past_its_budget_an_origin_waits_until_a_failure_has_leaked_out() {
        let (penalties, now) = (PenaltyBox::new(10), Instant::now());
        fail(&penalties, origin(1), 10, now);
        assert_eq!(penalties.priority(origin(1), now), Priority::Usual, "the budget is not past");
        fail(&penalties, origin(1), 1000, now);
        assert_eq!(penalties.priority(origin(1), now), Priority::Low);
        assert_eq!(penalties.count(now), 1);
        assert_eq!(penalties.priority(origin(2), now), Priority::Usual, "another");
        let later = now + Duration::from_secs(6);
        assert_eq!(penalties.priority(origin(1), later), Priority::Usual, "however long it went on");
        assert_eq!(penalties.count(later), 0);
        fail(&penalties, origin(1), 1, later);
        assert_eq!(penalties.priority(origin(1), later), Priority::Low);
    }

    #[test]
    fn a_forger_with_ever_new_addresses_presses_all_but_those_that_have_proven_themselves() {
        let (penalties, now) = (PenaltyBox::new(10), Instant::now());
        penalties.verified(origin(1), now);
        for n in 0..10 * TOGETHER + 1 {
            fail(&penalties, origin(100 + n), 1, now);
        }
        assert_eq!(penalties.priority(origin(7), now), Priority::Low, "nothing is known of it");
        assert_eq!(penalties.priority(origin(1), now), Priority::Low, "what was before was not noted");
        penalties.verified(origin(1), now);
        assert_eq!(penalties.priority(origin(1), now), Priority::Usual);
        fail(&penalties, origin(1), 11, now);
        assert_eq!(penalties.priority(origin(1), now), Priority::Low, "its own budget counts all the same");
        assert_eq!(penalties.priority(origin(7), now + WINDOW), Priority::Usual, "the flood is over");
    }

    #[test]
    fn the_table_is_bounded_and_keeps_those_that_were_seen_last() {
        let (penalties, now) = (PenaltyBox::new(1), Instant::now());
        fail(&penalties, origin(1), 2, now);
        for n in 0..100_000 {
            fail(&penalties, origin(1000 + n), 1, now);
            assert_eq!(penalties.priority(origin(1), now), Priority::Low, "it goes on, and is not forgotten");
        }
        let book = penalties.book();
        assert!(book.young.len() <= GENERATION && book.old.len() <= GENERATION);
    }
}
