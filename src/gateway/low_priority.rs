//! Verifies what comes from origins that are out of favour (`penalty_box.rs`), behind everybody else: in a few threads of
//! the lowest use to us, so that no flood of signatures takes the cores from publication. What is genuine is verified
//! here as anywhere, and announced as any; what finds no room, or is not reached before its answer deadline, is told
//! `fail`, and Alipay delivers it again.
//!
//! Origins take turns, and where there is no room the longest queue gives way, or the one that holds most where it is
//! memory that is short, so that one noisy address starves no other.
//!
//! What it is not: it decides nothing. Its threads are started when they are needed first, and end with the gateway.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Origin;
use crate::admission::policy::Policy;
use crate::admission::{self, Verdict};
use crate::clock::Timestamp;
use crate::metrics::{LowPriorityResult, Metrics, Stage};

/// The way to the threads.
#[derive(Debug)]
pub(super) struct LowPriority {
    queue: Arc<Queue>,
    is_started: Mutex<bool>,
    metrics: Arc<Metrics>,
}

/// One notification that is to be verified.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) origin: Origin,
    pub(super) body: Bytes,
    pub(super) policy: Arc<Policy>,
    pub(super) now: Timestamp,
    /// Until then somebody waits for it.
    pub(super) deadline: Instant,
}

impl LowPriority {
    /// So many may wait, and hold `max_bytes`, but never more than [`MAX_BYTES`].
    pub(super) fn new(max_jobs: usize, max_bytes: usize, metrics: Arc<Metrics>) -> Self {
        let turns = Turns::new(max_jobs, max_bytes.min(MAX_BYTES));
        let queue = Arc::new(Queue { waiting: Mutex::new(turns), wake: Condvar::new() });
        Self { queue, is_started: Mutex::default(), metrics }
    }

    /// What admission says, or nothing if there was no room or no time.
    ///
    /// Cancel safety: dropped, it is not verified.
    pub(super) async fn admit(&self, job: Job) -> Option<Verdict> {
        self.start();
        let deadline = job.deadline;
        let (answer, verdict) = oneshot::channel();
        self.queue.push(Waiting { job, answer });
        match tokio::time::timeout_at(deadline, verdict).await {
            Ok(Ok(verdict)) => Some(verdict),
            Ok(Err(_)) => {
                self.metrics.low_priority(LowPriorityResult::NoRoom);
                None
            }
            Err(_) => {
                self.metrics.low_priority(LowPriorityResult::Late);
                None
            }
        }
    }

    /// Starts the threads, unless one of them works: where the system has none to give, the next job asks again.
    ///
    /// Bound: half of the cores, at least one.
    fn start(&self) {
        let mut is_started = self.is_started.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_started {
            return;
        }
        let cores = thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..(cores / 2).max(1) {
            let (queue, metrics) = (Arc::clone(&self.queue), Arc::clone(&self.metrics));
            let thread = thread::Builder::new().name("low-priority".to_owned());
            match thread.spawn(move || work(&queue, &metrics)) {
                Ok(_) => *is_started = true,
                Err(error) => {
                    tracing::error!(%error, "a thread for verifying at low priority could not be had");
                }
            }
        }
    }
}

impl Drop for LowPriority {
    fn drop(&mut self) {
        self.queue.lock().is_closed = true;
        self.queue.wake.notify_all();
    }
}

fn work(queue: &Queue, metrics: &Metrics) {
    // Of this thread alone, on Linux. Where it is not allowed the thread still works.
    let _ = rustix::process::nice(NICENESS);
    while let Some(Waiting { job, answer }) = queue.pop() {
        if answer.is_closed() {
            continue;
        }
        let started = Instant::now();
        // As in a request's own task, a panic is the end of that request alone.
        let admitted = catch_unwind(AssertUnwindSafe(|| admission::admit(&job.body, &job.policy, job.now)));
        metrics.stage(Stage::Admission, started.elapsed());
        let Ok(verdict) = admitted else { continue };
        metrics.low_priority(match verdict {
            Verdict::Admitted(..) | Verdict::Withheld(..) | Verdict::Shadowed(_) => {
                LowPriorityResult::Verified
            }
            Verdict::Rejected(..) => LowPriorityResult::Rejected,
        });
        // Nobody may be waiting any more: then Alipay delivers it again.
        let _ = answer.send(verdict);
    }
}

#[derive(Debug)]
struct Waiting {
    job: Job,
    answer: oneshot::Sender<Verdict>,
}

#[derive(Debug)]
struct Queue {
    waiting: Mutex<Turns>,
    wake: Condvar,
}

/// A queue for each origin, and whose turn it is.
///
/// Bound: `max_jobs` and `max_bytes` over all; one body that is larger by itself waits where no other does, so that none is
/// refused for what its origin has sent before.
#[derive(Debug, Default)]
struct Turns {
    max_jobs: usize,
    max_bytes: usize,
    queues: HashMap<Origin, Line>,
    /// The queues by their length and by what they hold, so that the first of them is found without looking at thousands.
    lengths: BTreeSet<(usize, Origin)>,
    sizes: BTreeSet<(usize, Origin)>,
    order: VecDeque<Origin>,
    jobs: usize,
    bytes: usize,
    is_closed: bool,
}

/// What waits of one origin.
#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Waiting>,
    bytes: usize,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Turns> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, waiting: Waiting) {
        self.lock().push(waiting);
        self.wake.notify_one();
    }

    /// The next, when there is one; nothing when the gateway is gone.
    fn pop(&self) -> Option<Waiting> {
        let mut turns = self.lock();
        loop {
            if let Some(waiting) = turns.pop() {
                return Some(waiting);
            }
            if turns.is_closed {
                return None;
            }
            turns = self.wake.wait(turns).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Turns {
    fn new(max_jobs: usize, max_bytes: usize) -> Self {
        Self { max_jobs, max_bytes, ..Self::default() }
    }

    /// What is dropped here, this one or another, finds out by its channel.
    fn push(&mut self, waiting: Waiting) {
        let (origin, bytes) = (waiting.job.origin, waiting.job.body.len());
        while let Some(short) = self.short_of(bytes) {
            let own = self.queues.get(&origin).map_or((0, 0), |line| (line.waiting.len(), line.bytes));
            let (most, own) = match short {
                Short::Jobs => (self.lengths.last(), own.0 + 1),
                Short::Bytes => (self.sizes.last(), own.1 + bytes),
            };
            let Some((_, most)) = most.filter(|(most, _)| *most > own).copied() else { return };
            self.take(most, VecDeque::pop_back);
            if !self.queues.contains_key(&most) {
                self.order.retain(|other| *other != most);
            }
        }
        if !self.queues.contains_key(&origin) {
            self.order.push_back(origin);
        }
        self.change(origin, |line| {
            line.bytes += bytes;
            line.waiting.push_back(waiting);
        });
    }

    fn short_of(&self, bytes: usize) -> Option<Short> {
        if self.bytes > 0 && self.bytes + bytes > self.max_bytes {
            Some(Short::Bytes)
        } else {
            (self.jobs >= self.max_jobs).then_some(Short::Jobs)
        }
    }

    fn pop(&mut self) -> Option<Waiting> {
        let origin = self.order.pop_front()?;
        let next = self.take(origin, VecDeque::pop_front);
        if self.queues.contains_key(&origin) {
            self.order.push_back(origin);
        }
        next
    }

    /// The first or the last of a queue.
    fn take(
        &mut self,
        origin: Origin,
        end: impl FnOnce(&mut VecDeque<Waiting>) -> Option<Waiting>,
    ) -> Option<Waiting> {
        let mut taken = None;
        self.change(origin, |line| {
            taken = end(&mut line.waiting);
            line.bytes -= taken.as_ref().map_or(0, |waiting| waiting.job.body.len());
        });
        taken
    }

    /// Changes a queue, and what is known of it. One that is empty is none.
    fn change(&mut self, origin: Origin, change: impl FnOnce(&mut Line)) {
        let mut line = self.queues.remove(&origin).unwrap_or_default();
        let (length, bytes) = (line.waiting.len(), line.bytes);
        self.lengths.remove(&(length, origin));
        self.sizes.remove(&(bytes, origin));
        change(&mut line);
        self.jobs = self.jobs - length + line.waiting.len();
        self.bytes = self.bytes - bytes + line.bytes;
        if !line.waiting.is_empty() {
            self.lengths.insert((line.waiting.len(), origin));
            self.sizes.insert((line.bytes, origin));
            self.queues.insert(origin, line);
        }
    }
}

/// What there is too little of.
#[derive(Debug, Clone, Copy)]
enum Short {
    Jobs,
    Bytes,
}

/// Bound: what they hold, however large `http.max_bodies` is.
const MAX_BYTES: usize = 8 << 20;
/// How far behind the others the threads are: they still get a tenth of a core that everybody wants.
const NICENESS: i32 = 10;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;
    use crate::admission::policy::Buyer;

    const MAX_JOBS: usize = 4096;

    fn origin(n: u32) -> Origin {
        Origin::from(std::net::IpAddr::V4(Ipv4Addr::from_bits(n)))
    }

    fn job(from: u32, bytes: usize) -> Job {
        let policy = Policy {
            apps: BTreeMap::new(),
            max_age: Duration::from_secs(1),
            retention: Duration::from_secs(1),
            complete_since: Timestamp::default(),
            buyer: Buyer::Omit,
            notification: false,
        };
        Job {
            origin: origin(from),
            body: Bytes::from(vec![b'a'; bytes]),
            policy: Arc::new(policy),
            now: Timestamp::from_unix_millis(0),
            deadline: Instant::now() + Duration::from_secs(20),
        }
    }

    fn push(turns: &mut Turns, from: u32, bytes: usize) -> oneshot::Receiver<Verdict> {
        let (answer, verdict) = oneshot::channel();
        turns.push(Waiting { job: job(from, bytes), answer });
        verdict
    }

    #[test]
    fn origins_take_turns() {
        let mut turns = Turns::new(MAX_JOBS, MAX_BYTES);
        let _answers: Vec<_> = [1, 1, 1, 2, 3, 2].map(|from| push(&mut turns, from, 1)).into();
        let order: Vec<Origin> =
            std::iter::from_fn(|| turns.pop()).map(|waiting| waiting.job.origin).collect();
        assert_eq!(order, [1, 2, 3, 1, 2, 1].map(origin));
        assert_eq!((turns.jobs, turns.bytes, turns.queues.len(), turns.order.len()), (0, 0, 0, 0));
        assert_eq!((turns.lengths.len(), turns.sizes.len()), (0, 0));
    }

    #[test]
    fn where_there_is_no_room_the_longest_queue_gives_way() {
        let mut turns = Turns::new(MAX_JOBS, MAX_BYTES);
        let mut noisy: Vec<_> = (0..MAX_JOBS).map(|_| push(&mut turns, 1, 1)).collect();
        let mut late = push(&mut turns, 1, 1);
        assert!(late.try_recv().is_err(), "the noisy one finds no room for more");
        let mut quiet = push(&mut turns, 2, 1);
        let empty = Err(oneshot::error::TryRecvError::Empty);
        assert_eq!(quiet.try_recv().map(|_| ()), empty);
        let gone = Err(oneshot::error::TryRecvError::Closed);
        assert_eq!(noisy.pop().unwrap().try_recv().map(|_| ()), gone, "its newest gave way");
        assert_eq!(noisy[0].try_recv().map(|_| ()), empty);
        assert_eq!(turns.jobs, MAX_JOBS);
        let lengths: Vec<_> = turns.lengths.iter().copied().collect();
        assert_eq!(lengths, [(1, origin(2)), (MAX_JOBS - 1, origin(1))]);
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_too() {
        let mut turns = Turns::new(MAX_JOBS, MAX_BYTES);
        let _answers: Vec<_> = (0..2000).map(|_| push(&mut turns, 1, 64 * 1024)).collect();
        assert_eq!(turns.bytes, MAX_BYTES);
        let mut larger = push(&mut turns, 2, MAX_BYTES + 1);
        assert!(larger.try_recv().is_err());
        while turns.pop().is_some() {}
        let mut alone = push(&mut turns, 2, MAX_BYTES + 1);
        let empty = Err(oneshot::error::TryRecvError::Empty);
        assert_eq!(alone.try_recv().map(|_| ()), empty, "it waits where no other does");
        let mut behind = push(&mut turns, 1, 1);
        assert_eq!(behind.try_recv().map(|_| ()), empty);
        assert!(
            alone.try_recv().is_err_and(|error| error != oneshot::error::TryRecvError::Empty),
            "and gives way"
        );
    }

    #[test]
    fn what_waits_holds_no_more_than_its_share_of_a_small_shelf_and_a_great_one_gives_no_more() {
        for (share, most) in [(100, 100), (MAX_BYTES * 100, MAX_BYTES)] {
            let low = LowPriority::new(MAX_JOBS, share, Arc::new(Metrics::new(&[], &[]).unwrap()));
            assert_eq!(low.queue.lock().max_bytes, most);
        }
    }

    #[test]
    fn where_bytes_are_short_who_holds_most_of_them_gives_way() {
        let mut turns = Turns::new(MAX_JOBS, MAX_BYTES);
        let empty = Err(oneshot::error::TryRecvError::Empty);
        let mut small: Vec<_> = (0..1000).map(|_| push(&mut turns, 1, 1)).collect();
        let large = MAX_BYTES / 64;
        let mut heavy: Vec<_> = (2..65).map(|from| push(&mut turns, from, large)).collect();
        let mut heaviest = push(&mut turns, 99, large - 1000);
        assert_eq!((turns.bytes, turns.jobs), (MAX_BYTES, 1064));
        let mut quiet = push(&mut turns, 100, 2000);
        assert_eq!(quiet.try_recv().map(|_| ()), empty);
        assert!(small.iter_mut().all(|small| small.try_recv().map(|_| ()) == empty), "they hold little");
        let gone = heavy.iter_mut().filter_map(|heavy| heavy.try_recv().err());
        let gone = gone.filter(|error| *error == oneshot::error::TryRecvError::Closed).count();
        assert_eq!((gone, heaviest.try_recv().map(|_| ())), (1, empty), "one is enough");
        assert_eq!((turns.order.len(), turns.queues.len()), (65, 65), "who has nothing left has no turn");
        let mut greedy = push(&mut turns, 3, large);
        assert!(greedy.try_recv().is_err(), "nobody holds more than he would");
    }

    #[tokio::test(start_paused = true)]
    async fn what_finds_no_time_or_no_room_is_not_judged_and_counted() {
        let metrics = Arc::new(Metrics::new(&[], &[]).unwrap());
        let low = LowPriority::new(MAX_JOBS, MAX_BYTES, Arc::clone(&metrics));
        // Nobody works.
        *low.is_started.lock().unwrap() = true;
        let count = |result| metrics.low_priority_verifications.with_label_values(&[result]).get();
        let started = Instant::now();
        assert!(low.admit(job(1, 3)).await.is_none());
        assert_eq!((count("late"), count("no_room"), started.elapsed().as_secs()), (1, 0, 20));
        let _waiting: Vec<_> = (0..MAX_JOBS).map(|_| push(&mut low.queue.lock(), 1, 1)).collect();
        assert!(low.admit(job(1, 3)).await.is_none());
        assert_eq!((count("late"), count("no_room")), (1, 1));
    }

    #[tokio::test]
    async fn what_is_pushed_is_judged_and_counted_and_the_threads_end_with_it() {
        let metrics = Arc::new(Metrics::new(&[], &[]).unwrap());
        let low = LowPriority::new(MAX_JOBS, MAX_BYTES, Arc::clone(&metrics));
        let queue = Arc::downgrade(&low.queue);
        let verdict = low.admit(job(1, 3)).await;
        assert!(matches!(verdict, Some(Verdict::Rejected(..))), "{verdict:?}");
        let late = Job { deadline: Instant::now() - Duration::from_secs(1), ..job(1, 3) };
        // A verdict that is there already is taken, deadline or not; there is one at most.
        let _ = low.admit(late).await;
        drop(low);
        tokio::time::timeout(Duration::from_secs(20), async {
            while queue.strong_count() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap();
    }
}
