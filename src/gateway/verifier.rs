//! A second thread for bursts. Where one thread serves, what comes at once is verified one after the other, and meanwhile
//! the broker and the store have nothing to do: so another thread takes some of it. The two share one queue. Who brings
//! something takes it back when his turn comes, unless the verifier has begun with it.
//!
//! What it is not: it decides nothing. Where the thread cannot be had (it is asked for once), whoever brought a job does it.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::thread;

use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};

/// The way to the thread, which is started when it is needed first and ends with this.
pub(super) struct Verifier<T> {
    queue: Arc<Queue<T>>,
    started: Once,
    /// Bound: [`MOST`]. Shared, and not known yet to who brought them.
    outstanding: AtomicUsize,
}

struct Queue<T> {
    shared: Mutex<Shared<T>>,
    wake: Condvar,
}

/// Bound: [`MOST`], and of who has gone, fewer than [`BURST`].
struct Shared<T> {
    /// By their numbers.
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
        Self { queue: Arc::new(queue), started: Once::new(), outstanding: AtomicUsize::new(0) }
    }

    /// Does the work, here or there; here and at once, if `at_most` others are outstanding. Nothing if it is late, or panicked
    /// there: as in a task of its own, that is the end of this one alone.
    ///
    /// Cancel safety: dropped, it may be done or not.
    pub(super) async fn run(
        &self,
        at_most: usize,
        deadline: Instant,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        if self.outstanding.load(Ordering::Relaxed) >= at_most.min(MOST) {
            return Some(work());
        }
        let _outstanding = Outstanding::one_of(&self.outstanding);
        let (number, told) = self.share(work);
        // What has come with it is shared first.
        yield_now().await;
        match self.take_back(number) {
            Some(work) => Some(work()),
            None => timeout_at(deadline, told).await.ok()?.ok(),
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
        let at = shared.jobs.binary_search_by_key(&number, |job| job.number).ok()?;
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

    /// The oldest, when there is one (Tokio lets those go on first that have yielded last); nothing when the gateway is gone.
    fn pop(&self) -> Option<Job<T>> {
        let mut shared = self.lock();
        loop {
            if shared.is_closed {
                return None;
            }
            if let Some(job) = shared.jobs.pop_front() {
                shared.is_asleep = false;
                return Some(job);
            }
            shared.is_asleep = true;
            shared = self.wake.wait(shared).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// One that is outstanding, until this is dropped.
struct Outstanding<'a>(&'a AtomicUsize);

impl<'a> Outstanding<'a> {
    fn one_of(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Outstanding<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// So many that wait for their turn are worth waking a thread, which takes about as long as one verification
/// (docs/performance.md).
const BURST: usize = 4;
/// Bound: so many are outstanding. What has not been judged is in nobody's budget yet (`penalty_box.rs`).
const MOST: usize = 32;

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use futures_util::future::join_all;

    use super::*;

    fn here() -> Option<String> {
        thread::current().name().map(str::to_owned)
    }

    fn share<T: Send + 'static>(
        verifier: &Verifier<T>,
        count: usize,
        work: impl Fn() -> T + Clone + Send + 'static,
    ) -> Vec<oneshot::Receiver<T>> {
        (0..count).map(|_| verifier.share(work.clone()).1).collect()
    }

    /// What was told by another thread.
    async fn told<T>(receiver: oneshot::Receiver<T>) -> Result<T, oneshot::error::RecvError> {
        tokio::time::timeout(PATIENCE, receiver).await.expect("it was told nothing")
    }

    /// Until something is so that another thread makes so.
    fn wait_until(is_so: impl Fn() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < PATIENCE, "it did not come");
            thread::yield_now();
        }
    }

    fn run<T: Send + 'static>(
        verifier: &Verifier<T>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Option<T>> {
        verifier.run(MOST, Instant::now() + PATIENCE, work)
    }

    /// Work that is done when the gate is opened.
    fn wait_for(gate: &Arc<AtomicBool>) -> impl Fn() + Clone + Send + 'static {
        let gate = Arc::clone(gate);
        move || wait_until(|| gate.load(Ordering::Relaxed))
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_burst_wakes_the_verifier_again_and_again_and_who_brought_a_job_is_told() {
        let verifier = Verifier::new();
        for _ in 0..3 {
            for receiver in share(&verifier, BURST, here) {
                assert_eq!(told(receiver).await.unwrap().as_deref(), Some("verifier"));
            }
            wait_until(|| verifier.queue.lock().is_asleep);
        }
    }

    #[tokio::test]
    async fn fewer_are_done_by_who_brought_them_and_nobody_is_woken() {
        let verifier = Verifier::new();
        let done = join_all((1..BURST).map(|_| run(&verifier, here))).await;
        assert_eq!(done, vec![Some(here()); BURST - 1]);
        assert!(!verifier.started.is_completed());
    }

    #[tokio::test]
    async fn each_is_done_once_and_its_own_result_told() {
        let (verifier, times) = (Verifier::new(), Arc::new(AtomicUsize::new(0)));
        let jobs = (0..10_000).map(|number| {
            let times = Arc::clone(&times);
            run(&verifier, move || {
                times.fetch_add(1, Ordering::Relaxed);
                number
            })
        });
        let done = join_all(jobs).await;
        assert!(done.into_iter().eq((0..10_000).map(Some)));
        assert_eq!(times.load(Ordering::Relaxed), 10_000);
    }

    #[tokio::test]
    async fn no_more_are_outstanding_than_are_allowed_and_the_next_is_done_at_once() {
        let verifier = Verifier::new();
        for (at_most, bound) in [(2, 2), (usize::MAX, MOST)] {
            let run = || Box::pin(verifier.run(at_most, Instant::now() + PATIENCE, here));
            let mut outstanding: Vec<_> = (0..bound).map(|_| run()).collect();
            for one in &mut outstanding {
                assert!(futures_util::poll!(one).is_pending());
            }
            // Though the verifier has done some of them.
            if bound >= BURST {
                wait_until(|| verifier.queue.lock().is_asleep);
            }
            assert_eq!(run().now_or_never(), Some(Some(here())));
            drop(outstanding.pop());
            assert!(run().now_or_never().is_none(), "one has gone");
        }
        assert_eq!(verifier.outstanding.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn who_is_told_nothing_in_time_waits_no_longer() {
        let (verifier, gate) = (Verifier::new(), Arc::new(AtomicBool::new(false)));
        let began = Instant::now();
        let first = verifier.run(MOST, began, wait_for(&gate));
        let mut first = std::pin::pin!(first);
        assert!(futures_util::poll!(&mut first).is_pending());
        let rest = share(&verifier, BURST - 1, wait_for(&gate));
        wait_until(|| verifier.queue.lock().jobs.len() == BURST - 1);
        assert_eq!(first.await, None);
        assert!(began.elapsed() < PATIENCE, "the work had an end before the wait");
        gate.store(true, Ordering::Relaxed);
        drop(rest);
    }

    #[tokio::test]
    async fn a_panic_ends_that_job_alone_and_the_verifier_goes_on() {
        let verifier = Verifier::new();
        for receiver in share(&verifier, BURST, || panic!("on purpose")) {
            assert!(told(receiver).await.is_err());
        }
        wait_until(|| verifier.queue.lock().is_asleep);
        for receiver in share(&verifier, BURST, || ()) {
            told(receiver).await.unwrap();
        }
    }

    #[tokio::test]
    async fn for_who_has_gone_nothing_is_done() {
        let (verifier, times) = (Verifier::new(), Arc::new(AtomicUsize::new(0)));
        let counting = Arc::clone(&times);
        let count = move || counting.fetch_add(1, Ordering::Relaxed);
        drop(share(&verifier, BURST - 1, count.clone()));
        assert!(!verifier.started.is_completed());
        for receiver in share(&verifier, 1, count) {
            told(receiver).await.unwrap();
        }
        wait_until(|| verifier.queue.lock().is_asleep);
        assert!(verifier.queue.lock().jobs.is_empty());
        assert_eq!(times.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn the_thread_ends_with_the_gateway() {
        let verifier = Verifier::new();
        drop(share(&verifier, BURST, || ()));
        wait_until(|| verifier.queue.lock().is_asleep);
        let queue = Arc::downgrade(&verifier.queue);
        drop(verifier);
        wait_until(|| queue.strong_count() == 0);
    }
}
