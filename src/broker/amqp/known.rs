//! Which of the declared queues this process has seen, so that one that is made again is told apart from one that is
//! new: what was in it had been answered `success`, and Alipay delivers it no more.
//!
//! It outlives connections and not the process: of a queue that was gone before the process looked nobody knows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::warn;

use super::Config;
use crate::metrics::Metrics;

/// What is known of the queues under `amqp.queues`.
pub(super) struct Known {
    /// Bound: as many as are configured.
    queues: Mutex<BTreeMap<String, Seen>>,
    metrics: Arc<Metrics>,
}

/// A queue that was there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    There,
    /// The broker has said since that it is not.
    Gone,
}

impl Known {
    pub(super) fn new(config: &Config, metrics: &Arc<Metrics>) -> Self {
        for queue in &config.queues {
            let _ = metrics.queues_made_again.with_label_values(&[&queue.name]);
        }
        Self { queues: Mutex::default(), metrics: Arc::clone(metrics) }
    }

    /// Whether it was there before.
    pub(super) fn has(&self, queue: &str) -> bool {
        self.queues().contains_key(queue)
    }

    /// It exists, whoever made it.
    pub(super) fn exists(&self, queue: &str) {
        self.queues().insert(queue.to_owned(), Seen::There);
    }

    /// The broker does not have it.
    pub(super) fn is_gone(&self, queue: &str) {
        self.set(queue, Seen::Gone);
    }

    /// The broker does not let us make it, so it is not made again. Where nothing was answered it may have been made
    /// all the same, and the next look counts it.
    pub(super) fn is_refused(&self, queue: &str) {
        self.set(queue, Seen::There);
    }

    /// It was declared. Tells the log and counts if it was gone.
    pub(super) fn is_declared(&self, queue: &str) {
        if self.queues().insert(queue.to_owned(), Seen::There) == Some(Seen::Gone) {
            self.metrics.queues_made_again.with_label_values(&[queue]).inc();
            warn!(
                queue,
                "a declared queue was deleted: it is made again, empty; what was in it is lost unless a consumer had it"
            );
        }
    }

    fn set(&self, queue: &str, now: Seen) {
        if let Some(seen) = self.queues().get_mut(queue) {
            *seen = now;
        }
    }

    fn queues(&self) -> MutexGuard<'_, BTreeMap<String, Seen>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_there_is_gone_and_is_made_by_us_is_counted() {
        let metrics = Arc::new(Metrics::new(&[], &[]).unwrap());
        let known = Known { queues: Mutex::default(), metrics: Arc::clone(&metrics) };
        let count = || metrics.queues_made_again.with_label_values(&["q"]).get();
        for unknown in [Known::is_gone, Known::is_refused] {
            unknown(&known, "q");
            assert!(!known.has("q"));
        }
        known.is_declared("q");
        known.is_declared("q");
        assert_eq!((known.has("q"), count()), (true, 0));
        // Gone, and made by somebody else, with other properties.
        known.is_gone("q");
        known.exists("q");
        known.is_declared("q");
        // Not to be had (its node is down), and back with what is in it.
        known.is_gone("q");
        known.is_refused("q");
        known.is_declared("q");
        assert_eq!(count(), 0);
        // Gone, and nothing was answered to who made it.
        known.is_gone("q");
        known.is_declared("q");
        known.is_declared("q");
        assert_eq!(count(), 1);
    }
}
