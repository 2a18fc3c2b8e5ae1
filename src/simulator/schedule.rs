//! When Alipay delivers again: eight deliveries in 24 hours and 24 minutes, as long as the answer is not exactly
//! `success` (protocol.md §6). A scale makes hours of it seconds.

use std::time::Duration;

/// The schedule, divided by a scale.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    scale: u32,
}

impl Schedule {
    /// Divided by `scale`.
    pub(crate) fn divided_by(scale: u32) -> Self {
        Self { scale }
    }

    /// What it is divided by.
    pub(crate) fn scale(self) -> u32 {
        self.scale
    }

    /// How long after the answer to delivery number `attempt` (from 1) the next one comes. `None` after the last.
    pub(crate) fn after(self, attempt: u32) -> Option<Duration> {
        let index = usize::try_from(attempt.checked_sub(1)?).ok()?;
        INTERVALS.get(index)?.checked_div(self.scale)
    }
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const INTERVALS: [Duration; 7] = [
    MINUTE.saturating_mul(4),
    MINUTE.saturating_mul(10),
    MINUTE.saturating_mul(10),
    HOUR,
    HOUR.saturating_mul(2),
    HOUR.saturating_mul(6),
    HOUR.saturating_mul(15),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_eight_deliveries_in_24_hours_and_24_minutes() {
        let all: Vec<Duration> = (0..20).map_while(|n| Schedule::divided_by(1).after(n + 1)).collect();
        let minutes: Vec<u64> = all.iter().map(|pause| pause.as_secs() / 60).collect();
        // 4 m, 10 m, 10 m, 1 h, 2 h, 6 h, 15 h (protocol.md §6).
        assert_eq!(minutes, [4, 10, 10, 60, 120, 360, 900]);
        assert_eq!(all.iter().sum::<Duration>(), HOUR * 24 + MINUTE * 24);
        assert_eq!(Schedule::divided_by(3600).after(7), Some(Duration::from_secs(15)));
        assert_eq!(Schedule::divided_by(1).after(0), None);
    }
}
