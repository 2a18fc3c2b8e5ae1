//! Times as everything here tells them: milliseconds since 1970, of this one machine's clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Moment(pub i64);

impl Moment {
    pub fn now() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Self(i64::try_from(now.as_millis()).unwrap())
    }

    pub fn parse(text: &str) -> Option<Self> {
        let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        i64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok().map(Self)
    }

    pub fn plus(self, pause: Duration) -> Self {
        Self(self.0 + i64::try_from(pause.as_millis()).unwrap())
    }

    pub fn minus(self, pause: Duration) -> Self {
        Self(self.0 - i64::try_from(pause.as_millis()).unwrap())
    }

    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }
}
