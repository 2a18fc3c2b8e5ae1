//! How far back a Redis goes, which deletes what has expired without a word.

use std::time::Duration;

use super::batch::{Batch, number};
use super::{Redis, time};
use crate::clock::Timestamp;
use crate::store::{StoreError, TOLD_EVERY};

impl Redis {
    /// Since when nothing is missing. Redis deletes what has expired without a word, so it keeps until when each `retention` was
    /// told (none: zero), and what is `brought`. Good for as long as it takes until it is told, or asked, again.
    pub(super) async fn horizon(
        &self,
        now: Timestamp,
        retention: Duration,
        brought: Timestamp,
    ) -> Result<Timestamp, StoreError> {
        let head =
            vec![time(now), number(GOOD_FOR.as_millis()), number(retention.as_millis()), time(brought)];
        let since =
            self.count(&self.scripts.horizon, &Batch::over(&self.names, head, [(0, Vec::new())])).await?;
        Ok(since.first().copied().map(Timestamp::from_unix_millis).unwrap_or_default())
    }
}

/// What it says of what was forgotten: until it has been told again twice.
const GOOD_FOR: Duration = TOLD_EVERY.saturating_mul(2);
