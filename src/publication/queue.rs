//! What waits for a lane: live deliveries, and what the drain brings out of the store. A lane takes everything that
//! waits, up to a batch. While live deliveries wait, the drain has a quarter of a batch.
//!
//! Where nothing is outstanding, nobody waits. Where something is, what comes meanwhile gathers for the next batch though a
//! lane is free, as small segments do on a TCP connection (Nagle's algorithm, RFC 896): until as many wait as are outstanding,
//! or as a batch may have, or the last batch was taken [`GATHER`] ago. Four lanes that each took what had just come
//! shared the same events in small batches, and each batch costs a commit, wake-ups, and reads and writes here and in the
//! broker; and to wait until nothing is outstanding leaves the broker idle while the next batch is made (docs/performance.md).
//! A batch that is slow, or of a queue that is dead, holds nobody back for longer than that.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::lane::Job;
use crate::event::Key;

/// The events that wait for a lane, in order.
#[derive(Debug)]
pub(super) struct Queue {
    /// `amqp.lanes`.
    lanes: usize,
    /// `publication.max_batch`.
    max: usize,
    waiting: Mutex<Waiting>,
    /// There is something for a lane to take, or to gather: it looks at everything that waits, and at what it left.
    arrived: Notify,
}

#[derive(Debug)]
struct Waiting {
    /// Bound: `publication.max_in_flight`, whose permit each job holds.
    live: VecDeque<Job>,
    /// Bound: a round of the drain.
    drained: VecDeque<Job>,
    /// Lanes that have taken a batch and are not done with it.
    busy: usize,
    /// Events in those batches.
    outstanding: usize,
    /// When the last one was taken.
    taken_at: Instant,
    closed: bool,
}

impl Queue {
    pub(super) fn new(lanes: usize, max: usize) -> Self {
        let (live, drained) = (VecDeque::new(), VecDeque::new());
        let waiting =
            Waiting { live, drained, busy: 0, outstanding: 0, taken_at: Instant::now(), closed: false };
        Self { lanes, max, waiting: Mutex::new(waiting), arrived: Notify::new() }
    }

    /// Adds a job.
    ///
    /// # Errors
    /// The job, if the lanes have ended.
    pub(super) fn push(&self, job: Job) -> Result<(), Box<Job>> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(Box::new(job));
        }
        let is_first = waiting.is_empty();
        if job.drained {
            waiting.drained.push_back(job);
        } else {
            waiting.live.push_back(job);
        }
        // The lane that the first one has called finds those that come behind it.
        let is_news = is_first || waiting.outstanding > 0 && waiting.is_enough(self.max);
        drop(waiting);
        if is_news {
            self.arrived.notify_one();
        }
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

    /// Whether live deliveries wait, and no lane is free to take them.
    pub(super) fn needs_a_lane(&self) -> bool {
        let waiting = self.lock();
        !waiting.live.is_empty() && waiting.busy >= self.lanes
    }

    /// Whether the lanes are to end.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Waits until there is a batch to take, and takes it: up to `publication.max_batch` jobs, or a single one that must go
    /// alone. It is outstanding until [`Queue::done`]. `None` when the queue is closed and empty.
    pub(super) async fn take(&self) -> Option<Vec<Job>> {
        loop {
            // What is ready to run may run first, so that a burst becomes one batch.
            tokio::task::yield_now().await;
            let gathered_at = {
                let mut waiting = self.lock();
                if waiting.is_empty() && waiting.closed {
                    self.arrived.notify_one();
                    return None;
                }
                if waiting.is_ripe(self.max) {
                    let jobs = waiting.take(self.max);
                    waiting.busy += 1;
                    waiting.outstanding += jobs.len();
                    waiting.taken_at = Instant::now();
                    if !waiting.is_empty() {
                        self.arrived.notify_one();
                    }
                    return Some(jobs);
                }
                (!waiting.is_empty()).then_some(waiting.taken_at + GATHER)
            };
            let arrived = self.arrived.notified();
            match gathered_at {
                None => arrived.await,
                Some(gathered_at) => {
                    let _ = timeout_at(gathered_at, arrived).await;
                }
            }
        }
    }

    /// A lane is done with the batch of so many that it took, and comes for the next one.
    pub(super) fn done(&self, count: usize) {
        let mut waiting = self.lock();
        waiting.busy -= 1;
        waiting.outstanding -= count;
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

    /// Whether something waits, and is not to wait for more.
    fn is_ripe(&self, max: usize) -> bool {
        !self.is_empty() && (self.is_enough(max) || self.taken_at + GATHER <= Instant::now())
    }

    /// Whether there is nothing to gather for: as many wait as are outstanding or as a batch may have, or one that goes alone,
    /// or no more will come.
    fn is_enough(&self, max: usize) -> bool {
        let is_alone = |jobs: &VecDeque<Job>| jobs.front().is_some_and(|job| job.alone);
        self.live.len() + self.drained.len() >= max.min(self.outstanding)
            || is_alone(&self.live)
            || is_alone(&self.drained)
            || self.closed
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

/// How long after a batch was taken others gather for the next one, at the most.
const GATHER: Duration = Duration::from_millis(10);
