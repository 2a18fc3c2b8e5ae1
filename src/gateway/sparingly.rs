//! Lines of the log that strangers have said, and no more of them in a second than leave room for others.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Timestamp;

/// Lets so many lines a second through: a flood of notifications must not become a flood of logs, nor push out the lines of
/// others. Anybody who once saw a genuine one can send it again as often as he likes.
#[derive(Debug)]
pub(super) struct Sparingly {
    at_most: u64,
    second: AtomicU64,
    said: AtomicU64,
    unsaid: AtomicU64,
}

impl Sparingly {
    pub(super) fn to(at_most: u64) -> Self {
        Self { at_most, second: AtomicU64::new(0), said: AtomicU64::new(0), unsaid: AtomicU64::new(0) }
    }

    /// How many were not said since the last one, if this one may be.
    pub(super) fn say(&self, now: Timestamp) -> Option<u64> {
        let second = now.unix_seconds();
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.said.store(0, Ordering::Relaxed);
        }
        if self.said.fetch_add(1, Ordering::Relaxed) >= self.at_most {
            self.unsaid.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.unsaid.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_says_so_many_lines_a_second_and_then_how_many_it_did_not() {
        let sparingly = Sparingly::to(2);
        let at = |second: i64| Timestamp::from_unix_millis(second * 1000);
        let said = [1, 1, 1, 1, 2, 2, 2, 3].map(|second| sparingly.say(at(second)));
        assert_eq!(said, [Some(0), Some(0), None, None, Some(2), Some(0), None, Some(1)]);
    }
}
