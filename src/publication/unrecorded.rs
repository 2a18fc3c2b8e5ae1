//! What the broker has confirmed and the store could not write down. It answers claims in the store's place,
//! so that a store that is away repeats as little as possible, and it is written when the store is back.
//!
//! It lives in memory: what is in it at a crash is announced once more, with the same id, if Alipay delivers
//! it again (design.md, "Crash points").

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use prometheus::IntGauge;

use crate::event::Key;
use crate::store::{Known, Record};

/// Records that are still to be written.
#[derive(Debug)]
pub(super) struct Unrecorded {
    records: Mutex<BTreeMap<Key, Record>>,
    rewriting: AtomicBool,
    gauge: IntGauge,
}

impl Unrecorded {
    /// None yet.
    pub(super) fn new(gauge: IntGauge) -> Self {
        Self { records: Mutex::default(), rewriting: AtomicBool::new(false), gauge }
    }

    /// Keeps records. Says how many did not fit: those will be announced again if they are delivered again.
    pub(super) fn keep(&self, records: Vec<Record>) -> usize {
        let mut kept = self.lock();
        let mut lost = 0;
        for record in records {
            if kept.len() >= MAX_UNRECORDED && !kept.contains_key(&record.key) {
                lost += 1;
                continue;
            }
            kept.insert(record.key.clone(), record);
        }
        self.show(&kept);
        lost
    }

    /// What is known of a key from here.
    pub(super) fn known(&self, key: &Key) -> Option<Known> {
        let kept = self.lock();
        let record = kept.get(key)?;
        Some(Known { state: record.state, digest: record.digest, notify_id: record.notify_id.clone() })
    }

    /// Up to `max` of them, for another try.
    pub(super) fn some(&self, max: usize) -> Vec<Record> {
        self.lock().values().take(max).cloned().collect()
    }

    /// They are written now.
    pub(super) fn written(&self, records: &[Record]) {
        let mut kept = self.lock();
        for record in records {
            if kept.get(&record.key) == Some(record) {
                kept.remove(&record.key);
            }
        }
        self.show(&kept);
    }

    /// Whether the caller is the one who is to write them.
    pub(super) fn begin_rewriting(&self) -> bool {
        !self.rewriting.swap(true, Ordering::AcqRel)
    }

    /// Ends the writer's work if there is none left. Decided under the lock, so that what is kept after it
    /// finds no writer and begins a new one.
    pub(super) fn end_if_empty(&self) -> bool {
        let kept = self.lock();
        if kept.is_empty() {
            self.rewriting.store(false, Ordering::Release);
        }
        kept.is_empty()
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn show(&self, kept: &BTreeMap<Key, Record>) {
        self.gauge.set(i64::try_from(kept.len()).unwrap_or(i64::MAX));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Record>> {
        self.records.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Bound: about 60 MiB of records.
const MAX_UNRECORDED: usize = 100_000;
