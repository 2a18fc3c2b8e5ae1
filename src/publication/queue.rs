//! What waits for a lane. A lane takes everything that waits, up to a batch: no lingering, because under load
//! the batch fills while the lane is busy, and without load nobody should wait.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use tokio::sync::Notify;

use super::lane::Job;

/// The events that wait for a lane, in order.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Bound: `publication.max_in_flight`, whose permit each job holds.
    jobs: VecDeque<Job>,
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
        waiting.jobs.push_back(job);
        drop(waiting);
        self.arrived.notify_one();
        Ok(())
    }

    /// Waits until something waits, and takes it: up to `max` jobs, or a single one that must go alone.
    /// `None` when the queue is closed and empty.
    pub(super) async fn take(&self, max: usize) -> Option<Vec<Job>> {
        loop {
            // Not a linger: what is ready to run may run first, so that a burst becomes one batch.
            tokio::task::yield_now().await;
            {
                let mut waiting = self.lock();
                if !waiting.jobs.is_empty() {
                    let jobs = waiting.take(max);
                    if !waiting.jobs.is_empty() {
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
    fn take(&mut self, max: usize) -> Vec<Job> {
        let together = self.jobs.iter().take(max).take_while(|job| !job.alone).count();
        self.jobs.drain(..together.max(1)).collect()
    }
}
