//! What lies under a key of ours and is none: another program's, or damaged. It is named in the log, so that a person finds it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::store::StoreError;

/// Of which keys that was said, and when.
#[derive(Default)]
pub(super) struct Damage(Mutex<BTreeMap<String, Instant>>);

impl Damage {
    /// Names the key of a trade or of a bucket: it, or one that belongs to it, cannot be used. Once a minute for each.
    pub(super) fn tell(&self, key: &str, error: &str) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| at.elapsed() < AGAIN_AFTER);
        if told.len() < MAX_TOLD && !told.contains_key(key) {
            told.insert(key.to_owned(), Instant::now());
            tracing::error!(
                key,
                error,
                "redis: what lies there, or belongs to it, is not ours or is damaged, or its slot is moving"
            );
        }
    }
}

pub(super) fn unreadable() -> StoreError {
    StoreError {
        message: "redis: what lies under its key is not ours or is damaged: the log names it".to_owned(),
    }
}

const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Bound: keys that are named in a minute.
const MAX_TOLD: usize = 1000;
