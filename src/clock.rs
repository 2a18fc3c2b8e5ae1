//! Wall-clock time, injected. Deadlines use `tokio::time`, which tests can pause; what is compared with a
//! signed time or written down uses a [`Timestamp`] from a [`Clock`].
//!
//! Alipay's times are UTC+8 without saying so (protocol.md §4); the host's zone is never asked.

use std::fmt;
use std::time::Duration;

use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset};

/// Where the present comes from.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The present.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the machine")]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// A moment, in milliseconds since 1970-01-01T00:00:00Z.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since the epoch.
    pub const fn from_unix_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// From a civil date and time in China (UTC+8). `None` if there is no such date or time.
    pub fn from_beijing(date: (i32, u8, u8), time: (u8, u8, u8, u16)) -> Option<Self> {
        let month = Month::try_from(date.1).ok()?;
        let date = Date::from_calendar_date(date.0, month, date.2).ok()?;
        let time = Time::from_hms_milli(time.0, time.1, time.2, time.3).ok()?;
        let moment = PrimitiveDateTime::new(date, time).assume_offset(BEIJING);
        i64::try_from(moment.unix_timestamp_nanos() / 1_000_000).ok().map(Self)
    }

    /// From RFC 3339. `None` if it is not that.
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        let moment = OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()?;
        i64::try_from(moment.unix_timestamp_nanos() / 1_000_000).ok().map(Self)
    }

    /// Milliseconds since the epoch.
    pub const fn unix_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch; 0 for a time before it.
    pub fn unix_seconds(self) -> u64 {
        u64::try_from(self.0.div_euclid(1000)).unwrap_or(0)
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// This moment and `later` more, at most the end of time.
    pub fn plus(self, later: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(later.as_millis()).unwrap_or(i64::MAX)))
    }

    /// This moment but for `earlier`, at least the beginning of time.
    pub fn before(self, earlier: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(earlier.as_millis()).unwrap_or(i64::MAX)))
    }

    /// RFC 3339 in China's zone, as the events carry it: `2026-11-23T10:15:31+08:00`, with milliseconds only
    /// where there are any.
    pub fn rfc3339_beijing(self) -> String {
        self.rfc3339(BEIJING, "+08:00")
    }

    /// RFC 3339 in UTC, as logs and the admin listener carry it: `2026-11-23T02:15:31Z`.
    pub fn rfc3339_utc(self) -> String {
        self.rfc3339(UtcOffset::UTC, "Z")
    }

    /// `yyyy-MM-dd HH:mm:ss` in China's zone, as Alipay writes a time.
    pub fn alipay(self) -> String {
        let text = self.rfc3339(BEIJING, "");
        text.get(..19).unwrap_or(&text).replace('T', " ")
    }

    fn rfc3339(self, offset: UtcOffset, suffix: &str) -> String {
        let seconds = self.0.div_euclid(1000) + i64::from(offset.whole_seconds());
        let moment = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let (year, month, day) = moment.to_calendar_date();
        let (hour, minute, second) = moment.to_hms();
        let year = year.unsigned_abs();
        let [y1, y2] = two_digits(u8::try_from(year / 100).unwrap_or(0));
        let [y3, y4] = two_digits(u8::try_from(year % 100).unwrap_or(0));
        let [[m1, m2], [d1, d2]] = [u8::from(month), day].map(two_digits);
        let [[h1, h2], [n1, n2], [s1, s2]] = [hour, minute, second].map(two_digits);
        let moment = [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T', h1, h2, b':', n1, n2, b':', s1, s2];
        let mut text = String::with_capacity(32);
        text.push_str(std::str::from_utf8(&moment).unwrap_or_default());
        let milli = self.0.rem_euclid(1000);
        if milli != 0 {
            let [m2, m3] = two_digits(u8::try_from(milli % 100).unwrap_or(0));
            let [_, m1] = two_digits(u8::try_from(milli / 100).unwrap_or(0));
            text.push_str(std::str::from_utf8(&[b'.', m1, m2, m3]).unwrap_or_default());
        }
        text.push_str(suffix);
        text
    }
}

/// By hand, because every notification writes several times.
const fn two_digits(number: u8) -> [u8; 2] {
    [b'0' + number / 10, b'0' + number % 10]
}

const BEIJING: UtcOffset = match UtcOffset::from_hms(8, 0, 0) {
    Ok(offset) => offset,
    Err(_) => UtcOffset::UTC,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alipays_times_are_utc_plus_8() {
        let paid = Timestamp::from_beijing((2026, 11, 23), (10, 15, 31, 0)).unwrap();
        assert_eq!(paid.rfc3339_utc(), "2026-11-23T02:15:31Z");
        assert_eq!(paid.rfc3339_beijing(), "2026-11-23T10:15:31+08:00");
        assert_eq!(paid.alipay(), "2026-11-23 10:15:31");
    }

    #[test]
    fn milliseconds_show_only_where_there_are_any() {
        let refunded = Timestamp::from_beijing((2026, 2, 28), (0, 0, 0, 7)).unwrap();
        assert_eq!(refunded.rfc3339_beijing(), "2026-02-28T00:00:00.007+08:00");
    }

    #[test]
    fn a_date_that_does_not_exist_is_none() {
        assert_eq!(Timestamp::from_beijing((2026, 2, 29), (0, 0, 0, 0)), None);
        assert_eq!(Timestamp::from_beijing((2026, 1, 1), (24, 0, 0, 0)), None);
    }
}
