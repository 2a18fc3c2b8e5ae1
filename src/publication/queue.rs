//! What waits for a lane: live deliveries, and what the drain brings out of the store. A lane takes everything that
//! waits, up to a batch: no lingering, because under load the batch fills while the lane is busy, and without load
//! nobody should wait. While live deliveries wait, the drain has a quarter of a batch.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use tokio::sync::Notify;

use super::lane::Job;
use crate::event::Key;

/// The events that wait for a lane, in order.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Bound: `publication.max_in_flight`, whose permit each job holds.
    live: VecDeque<Job>,
    /// Bound: a round of the drain.
    drained: VecDeque<Job>,
    closed: bool,
}

impl Queue {
    /// Adds a job.
    ///
    /// # Errors
    /// The job, if the lanes have ended.
    pub(super) fn push(&self, job: Job) -> Result<(), Box<Job>> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(Box::new(job));
        }
        if job.drained {
            waiting.drained.push_back(job);
        } else {
            waiting.live.push_back(job);
        }
        drop(waiting);
        self.arrived.notify_one();
        Ok(())
    }

    /// A live delivery waits for what the drain has brought: it goes first now.
    pub(super) fn hasten(&self, key: &Key) {
        let mut waiting = self.lock();
        let found = waiting.drained.iter().position(|job| job.key() == key);
        if let Some(job) = found.and_then(|at| waiting.drained.remove(at)) {
            waiting.live.push_front(job);
        }
    }

    /// Whether live deliveries wait.
    pub(super) fn has_live(&self) -> bool {
        !self.lock().live.is_empty()
    }

    /// Whether the lanes are to end.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Waits until something waits, and takes it: up to `max` jobs, or a single one that must go alone.
    /// `None` when the queue is closed and empty.
    pub(super) async fn take(&self, max: usize) -> Option<Vec<Job>> {
        loop {
            // Not a linger: what is ready to run may run first, so that a burst becomes one batch.
            tokio::task::yield_now().await;
            {
                let mut waiting = self.lock();
                if !waiting.is_empty() {
                    let jobs = waiting.take(max);
                    if !waiting.is_empty() {
                        self.arrived.notify_one();
                    }
                    return Some(jobs);
                }
                if waiting.closed {
                    self.arrived.notify_one();
                    return None;
                }
            }
            self.arrived.notified().await;
        }
    }

    /// Lets the lanes end when they have taken what waits.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.live.is_empty() && self.drained.is_empty()
    }

    fn take(&mut self, max: usize) -> Vec<Job> {
        for jobs in [&mut self.live, &mut self.drained] {
            if jobs.front().is_some_and(|job| job.alone) {
                return jobs.pop_front().into_iter().collect();
            }
        }
        let together = |jobs: &VecDeque<Job>, max| jobs.iter().take(max).take_while(|job| !job.alone).count();
        let share = if self.live.is_empty() { max } else { (max / 4).max(1) };
        let drained = together(&self.drained, share);
        let live = together(&self.live, max.saturating_sub(drained).max(1));
        self.live.drain(..live).chain(self.drained.drain(..drained)).collect()
    }
}
