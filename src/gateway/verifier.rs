//! A second thread for bursts. Where one thread serves, what comes at once is verified one after the other, and meanwhile
//! the broker and the store have nothing to do: so another thread takes some of it. The two share one queue. Who brings
//! something takes it back when his turn comes, unless the verifier has begun with it; the verifier begins at the other end.
//!
//! What it is not: it decides nothing, and nothing depends on it. Where the thread cannot be had, or has no time, whoever
//! brought a job does it himself.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::thread;

use tokio::sync::oneshot;
use tokio::task::yield_now;

/// The way to the thread, which is started when it is needed first and ends with this.
pub(super) struct Verifier<T> {
    queue: Arc<Queue<T>>,
    started: Once,
}

struct Queue<T> {
    shared: Mutex<Shared<T>>,
    wake: Condvar,
}

/// Bound: one job for each request that waits for its turn; of who has gone, fewer than [`BURST`] are left behind.
struct Shared<T> {
    jobs: VecDeque<Job<T>>,
    next_number: u64,
    /// The verifier sleeps, and nobody has called it.
    is_asleep: bool,
    is_closed: bool,
}

struct Job<T> {
    number: u64,
    work: Work<T>,
    told: oneshot::Sender<T>,
}

type Work<T> = Box<dyn FnOnce() -> T + Send>;

impl<T: Send + 'static> Verifier<T> {
    pub(super) fn new() -> Self {
        let shared = Shared { jobs: VecDeque::new(), next_number: 0, is_asleep: false, is_closed: false };
        let queue = Queue { shared: Mutex::new(shared), wake: Condvar::new() };
        Self { queue: Arc::new(queue), started: Once::new() }
    }

    /// Does the work, here or there. Nothing if it panicked there: as in a task of its own, that is the end of this one alone.
    ///
    /// Cancel safety: dropped, it may be done or not.
    pub(super) async fn run(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (number, told) = self.share(work);
        // What has come with it is shared first.
        yield_now().await;
        match self.take_back(number) {
            Some(work) => Some(work()),
            None => told.await.ok(),
        }
    }

    fn share(&self, work: impl FnOnce() -> T + Send + 'static) -> (u64, oneshot::Receiver<T>) {
        let (tell, told) = oneshot::channel();
        let mut shared = self.queue.lock();
        let number = shared.next_number;
        shared.next_number += 1;
        shared.jobs.push_back(Job { number, work: Box::new(work), told: tell });
        let is_burst = shared.jobs.len() >= BURST;
        let is_called = is_burst && std::mem::take(&mut shared.is_asleep);
        drop(shared);
        if is_called {
            self.queue.wake.notify_one();
        } else if is_burst {
            self.started.call_once(|| self.start());
        }
        (number, told)
    }

    fn take_back(&self, number: u64) -> Option<Work<T>> {
        let mut shared = self.queue.lock();
        // Turns come in order, so it is the first of those that are left.
        let at = shared.jobs.iter().position(|job| job.number == number)?;
        shared.jobs.remove(at).map(|job| job.work)
    }

    fn start(&self) {
        let queue = Arc::clone(&self.queue);
        if let Err(error) = thread::Builder::new().name("verifier".to_owned()).spawn(move || queue.work()) {
            tracing::warn!(%error, "a second thread for verifying could not be had");
        }
    }
}

impl<T> Drop for Verifier<T> {
    fn drop(&mut self) {
        self.queue.lock().is_closed = true;
        self.queue.wake.notify_one();
    }
}

impl<T> fmt::Debug for Verifier<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

impl<T> Queue<T> {
    fn lock(&self) -> MutexGuard<'_, Shared<T>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(Job { work, told, .. }) = self.pop() {
            if !told.is_closed()
                && let Ok(value) = catch_unwind(AssertUnwindSafe(work))
            {
                // Nobody may be waiting any more.
                let _ = told.send(value);
            }
        }
    }

    /// The last one, when there is one; nothing when the gateway is gone.
    fn pop(&self) -> Option<Job<T>> {
        let mut shared = self.lock();
        loop {
            if shared.is_closed {
                return None;
            }
            if let Some(job) = shared.jobs.pop_back() {
                shared.is_asleep = false;
                return Some(job);
            }
            shared.is_asleep = true;
            shared = self.wake.wait(shared).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// So many that wait for their turn are worth waking a thread, which takes as long as one verification
/// (docs/performance.md).
const BURST: usize = 4;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;

    use super::*;

    fn here() -> Option<String> {
        thread::current().name().map(str::to_owned)
    }

    /// Until something is so that another thread makes so. Bound: the test runner's.
    fn wait_until(is_so: impl Fn() -> bool) {
        while !is_so() {
            thread::yield_now();
        }
    }

    #[tokio::test]
    async fn a_burst_wakes_the_verifier_again_and_again_and_who_brought_a_job_is_told() {
        let verifier = Verifier::new();
        for _ in 0..3 {
            let told: Vec<_> = (0..BURST).map(|_| verifier.share(here).1).collect();
            for told in told {
                assert_eq!(told.await.unwrap().as_deref(), Some("verifier"));
            }
            wait_until(|| verifier.queue.lock().is_asleep);
        }
    }

    #[tokio::test]
    async fn fewer_are_done_by_who_brought_them_and_nobody_is_woken() {
        let verifier = Verifier::new();
        let done = join_all((1..BURST).map(|_| verifier.run(here))).await;
        assert_eq!(done, vec![Some(here()); BURST - 1]);
        assert!(!verifier.started.is_completed());
    }

    #[tokio::test]
    async fn each_is_done_once_and_its_own_result_told() {
        let (verifier, times) = (Verifier::new(), Arc::new(AtomicUsize::new(0)));
        let jobs = (0..10_000).map(|number| {
            let times = Arc::clone(&times);
            verifier.run(move || {
                times.fetch_add(1, Ordering::Relaxed);
                number
            })
        });
        let done = join_all(jobs).await;
        assert!(done.into_iter().eq((0..10_000).map(Some)));
        assert_eq!(times.load(Ordering::Relaxed), 10_000);
    }

    #[tokio::test]
    async fn a_panic_ends_that_job_alone_and_the_verifier_goes_on() {
        let verifier = Verifier::new();
        let bad: Vec<_> = (0..BURST).map(|_| verifier.share(|| panic!("on purpose")).1).collect();
        for told in bad {
            assert!(told.await.is_err());
        }
        let good: Vec<_> = (0..BURST).map(|_| verifier.share(|| ()).1).collect();
        for told in good {
            told.await.unwrap();
        }
    }

    #[test]
    fn of_who_has_gone_nothing_is_done_and_fewer_than_a_burst_are_left_behind() {
        let (verifier, times) = (Verifier::new(), Arc::new(AtomicUsize::new(0)));
        let count = || {
            let times = Arc::clone(&times);
            move || times.fetch_add(1, Ordering::Relaxed)
        };
        for _ in 1..BURST {
            drop(verifier.share(count()));
        }
        assert!(!verifier.started.is_completed());
        let (_, told) = verifier.share(count());
        told.blocking_recv().unwrap();
        wait_until(|| verifier.queue.lock().is_asleep);
        assert!(verifier.queue.lock().jobs.is_empty());
        assert_eq!(times.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn the_thread_ends_with_the_gateway() {
        let verifier = Verifier::new();
        let told: Vec<_> = (0..BURST).map(|_| verifier.share(|| ()).1).collect();
        let queue = Arc::downgrade(&verifier.queue);
        drop((told, verifier));
        wait_until(|| queue.strong_count() == 0);
    }
}
