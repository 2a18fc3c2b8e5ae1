//! The embedded store: SQLite in one file, for one gateway. Chosen for trust, for salvage, and for the operator
//! who opens it with the `sqlite3` shell beside the running gateway.
//!
//! One thread works for all lanes, on one connection: it takes everything that waits, looks up what is asked,
//! and commits what is to be written in one synced transaction. A second connection for reading would find its
//! page cache stale after every commit and read the file again (7 % of the gateway's CPU in a profile). A
//! claim is memory only, and publication's single flight is that memory, so claiming is looking.
//!
//! What survives a crash: every committed transaction (WAL, `synchronous = FULL`), and nothing else. A file that
//! cannot be written is opened again once, never written again in place, and is left alone for a second after
//! it failed. A damaged one is set aside, never repaired and never deleted.

mod core;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use self::core::{Change, Core, is_damage};
use super::{Claim, Decision, Deferral, Holding, Kept, Record, Row, Store, StoreError, Tally, Waiting};
use crate::clock::{Clock, Timestamp};
use crate::event::{EventType, Key};
use crate::lifecycle::vital;

/// The embedded store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `store.path`.
    pub path: PathBuf,
    /// `store.max_deferred`: rows deferred or in doubt.
    pub max_deferred: u64,
    /// `store.max_held`: rows held.
    pub max_held: u64,
}

/// A running store.
pub struct Sqlite {
    calls: Mutex<Option<SyncSender<Call>>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    config: Config,
    set_aside: Arc<AtomicU64>,
    /// Held for as long as the store lives: one gateway to a file.
    _lock: File,
}

/// Why the store does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another gateway has it.
    #[error("store.path {0}: another gateway has this store open")]
    Taken(PathBuf),
    /// It cannot be made, read or written.
    #[error("store.path {0}: {1}")]
    Unusable(PathBuf, String),
}

/// What the thread is asked, and whom it is to answer.
enum Call {
    Known(Vec<Key>, Answer<Vec<Claim>>),
    Find(String, Answer<Vec<Row>>),
    Waiting(Key, Answer<Option<Waiting>>),
    Due(Timestamp, usize, Vec<EventType>, Answer<Vec<Waiting>>),
    Tally(Answer<Tally>),
    Write(Change, Answer<Vec<Kept>>),
}

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

impl Sqlite {
    /// Opens the store, sets a damaged file aside, and starts its threads.
    ///
    /// # Errors
    /// If another gateway has it, or it cannot be used at all.
    pub fn open(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let lock = lock(&config.path)?;
        let set_aside = Arc::new(AtomicU64::new(count_set_aside(&config.path)));
        let core = match Core::open(config) {
            Err(error) if is_damage(&error) => {
                set_damaged_aside(&config.path, clock.as_ref());
                set_aside.fetch_add(1, Ordering::Relaxed);
                Core::open(config)
            }
            other => other,
        };
        let core = core.map_err(|error| OpenError::Unusable(config.path.clone(), error.to_string()))?;
        let (calls, waiting) = sync_channel(CALLS);
        let slot = Slot::new(core, config);
        let worker = Worker { slot, clock, set_aside: Arc::clone(&set_aside) };
        // Without its thread the store answers every call with an error, and the gateway goes on unchecked.
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || vital(|| worker.run(waiting)))
            .ok();
        Ok(Self {
            calls: Mutex::new(Some(calls)),
            thread: Mutex::new(thread),
            config: config.clone(),
            set_aside,
            _lock: lock,
        })
    }

    /// Damaged files that lie beside the store and were not salvaged yet.
    pub fn damaged_files(&self) -> u64 {
        self.set_aside.load(Ordering::Relaxed)
    }

    async fn ask<T>(&self, call: impl FnOnce(Answer<T>) -> Call) -> Result<T, StoreError> {
        let (done, answer) = oneshot::channel();
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sent = calls.ok_or_else(closed)?.try_send(call(done));
        // Full: the thread is stuck, and the gateway goes on without it rather than wait.
        sent.map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }
}

impl Store for Sqlite {
    fn claim(&self, keys: Vec<Key>) -> BoxFuture<'_, Result<Vec<Claim>, StoreError>> {
        self.ask(|done| Call::Known(keys, done)).boxed()
    }

    fn release(&self, _keys: Vec<Key>) -> BoxFuture<'_, Result<(), StoreError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn record(&self, records: Vec<Record>) -> BoxFuture<'_, Result<(), StoreError>> {
        async { self.ask(|done| Call::Write(Change::Record(records), done)).await.map(drop) }.boxed()
    }

    fn defer(&self, deferrals: Vec<Deferral>) -> BoxFuture<'_, Result<Vec<Kept>, StoreError>> {
        self.ask(|done| Call::Write(Change::Defer(deferrals), done)).boxed()
    }

    fn hold(&self, holdings: Vec<Holding>) -> BoxFuture<'_, Result<Vec<Kept>, StoreError>> {
        self.ask(|done| Call::Write(Change::Hold(holdings), done)).boxed()
    }

    fn find(&self, subject: String) -> BoxFuture<'_, Result<Vec<Row>, StoreError>> {
        self.ask(|done| Call::Find(subject, done)).boxed()
    }

    fn waiting(&self, key: Key) -> BoxFuture<'_, Result<Option<Waiting>, StoreError>> {
        self.ask(|done| Call::Waiting(key, done)).boxed()
    }

    fn due(
        &self,
        now: Timestamp,
        limit: usize,
        skip: Vec<EventType>,
    ) -> BoxFuture<'_, Result<Vec<Waiting>, StoreError>> {
        self.ask(move |done| Call::Due(now, limit, skip, done)).boxed()
    }

    fn decide(&self, decision: Decision) -> BoxFuture<'_, Result<bool, StoreError>> {
        async {
            let done = self.ask(|done| Call::Write(Change::Decide(decision), done)).await;
            done.map(|kept| !kept.is_empty())
        }
        .boxed()
    }

    fn tally(&self) -> BoxFuture<'_, Result<Tally, StoreError>> {
        self.ask(Call::Tally).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async {
            self.calls.lock().unwrap_or_else(PoisonError::into_inner).take();
            let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(thread) = thread {
                let _ = tokio::task::spawn_blocking(move || thread.join()).await;
            }
        }
        .boxed()
    }
}

impl std::fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sqlite").field("config", &self.config).finish_non_exhaustive()
    }
}

/// A connection that is opened again after it failed: once at once, then at most once a second.
struct Slot {
    core: Option<Core>,
    config: Config,
    failed_at: Option<Instant>,
    looked_at: Instant,
}

impl Slot {
    fn new(core: Core, config: &Config) -> Self {
        Self { core: Some(core), config: config.clone(), failed_at: None, looked_at: Instant::now() }
    }

    /// Does it, on a connection that is opened again and tried once more if it fails.
    fn with<T>(&mut self, mut work: impl FnMut(&mut Core) -> core::Result<T>) -> Result<T, rusqlite::Error> {
        let now = Instant::now();
        if self.core.is_none() && self.failed_at.is_some_and(|at| now.duration_since(at) < REOPEN_PAUSE) {
            return Err(rusqlite::Error::InvalidQuery);
        }
        // A file that was deleted under us still takes writes that nobody will ever find.
        if now.duration_since(self.looked_at) >= LOOK_PAUSE {
            self.looked_at = now;
            if self.core.as_ref().is_some_and(|core| !core.is_in_place()) {
                self.core = None;
            }
        }
        let fresh = self.core.is_none();
        let mut outcome = self.once(&mut work);
        if !fresh && outcome.as_ref().is_err_and(|error| !is_damage(error)) {
            self.core = None;
            outcome = self.once(&mut work);
        }
        if outcome.is_err() {
            self.core = None;
            self.failed_at = Some(now);
        }
        outcome
    }

    fn once<T>(&mut self, work: &mut impl FnMut(&mut Core) -> core::Result<T>) -> Result<T, rusqlite::Error> {
        let core = match &mut self.core {
            Some(core) => core,
            empty => empty.insert(Core::open(&self.config)?),
        };
        work(core)
    }
}

/// The thread.
struct Worker {
    slot: Slot,
    clock: Arc<dyn Clock>,
    set_aside: Arc<AtomicU64>,
}

impl Worker {
    fn run(mut self, calls: Receiver<Call>) {
        let mut writes = Vec::with_capacity(WAITING);
        let mut swept_at = Instant::now();
        let mut busy = false;
        while let Ok(first) = calls.recv() {
            self.take(first, &mut writes);
            while writes.len() < WAITING
                && let Ok(next) = calls.try_recv()
            {
                self.take(next, &mut writes);
            }
            if busy && !writes.is_empty() {
                self.gather(&calls, &mut writes);
            }
            if !writes.is_empty() {
                busy = writes.len() > 1;
                self.commit(&mut writes);
            }
            if swept_at.elapsed() >= SWEEP_PAUSE {
                swept_at = Instant::now();
                let now = self.clock.now();
                let _ = self.slot.with(|core| core.sweep(now));
            }
        }
        let _ = self.slot.with(|core| core.checkpoint());
    }

    /// Where several lanes had something to commit the last time, they will again: a moment's wait makes one synced
    /// commit of theirs. Questions are answered meanwhile, and a single caller never waits.
    fn gather(&mut self, calls: &Receiver<Call>, writes: &mut Vec<(Change, Answer<Vec<Kept>>)>) {
        let until = Instant::now() + GROUP_COMMIT;
        while writes.len() < WAITING {
            match calls.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(next) => self.take(next, writes),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Answers a question at once, and gathers what is to be written.
    fn take(&mut self, call: Call, writes: &mut Vec<(Change, Answer<Vec<Kept>>)>) {
        // Whoever asked and hung up does not want the answer.
        match call {
            Call::Write(change, done) => writes.push((change, done)),
            Call::Known(keys, done) => {
                let known = self.read(|core| core.known(&keys));
                let _ = done.send(known.map(|known| known.into_iter().map(Claim::Granted).collect()));
            }
            Call::Find(subject, done) => {
                let _ = done.send(self.read(|core| core.find(&subject)));
            }
            Call::Waiting(key, done) => {
                let _ = done.send(self.read(|core| core.waiting(&key)));
            }
            Call::Due(now, limit, skip, done) => {
                let _ = done.send(self.read(|core| core.due(now, limit, &skip)));
            }
            Call::Tally(done) => {
                let _ = done.send(self.read(|core| core.tally()));
            }
        }
    }

    fn read<T>(&mut self, look: impl FnMut(&mut Core) -> core::Result<T>) -> Result<T, StoreError> {
        let found = self.slot.with(look);
        found.map_err(|error| self.fail("read", &error))
    }

    fn commit(&mut self, writes: &mut Vec<(Change, Answer<Vec<Kept>>)>) {
        let changes: Vec<&Change> = writes.iter().map(|(change, _)| change).collect();
        let outcome = self.slot.with(|core| core.commit(&changes));
        match outcome {
            Ok(outcomes) => {
                for ((_, done), kept) in writes.drain(..).zip(outcomes) {
                    let _ = done.send(Ok(kept));
                }
            }
            Err(error) => {
                let error = self.fail("written", &error);
                for (_, done) in writes.drain(..) {
                    let _ = done.send(Err(error.clone()));
                }
            }
        }
    }

    /// A damaged file is set aside, so that the next call finds a fresh one.
    fn fail(&mut self, what: &str, error: &rusqlite::Error) -> StoreError {
        if is_damage(error) {
            set_damaged_aside(&self.slot.config.path, self.clock.as_ref());
            self.set_aside.fetch_add(1, Ordering::Relaxed);
            self.slot.failed_at = None;
        }
        StoreError { message: format!("the store could not be {what}: {error}") }
    }
}

fn closed() -> StoreError {
    StoreError { message: "the store is closed".to_owned() }
}

/// An advisory lock on a file beside the store. It is gone with the process, however that ends.
fn lock(path: &Path) -> Result<File, OpenError> {
    let unusable = |error: std::io::Error| OpenError::Unusable(path.to_owned(), error.to_string());
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(unusable)?;
    }
    let file = File::options().create(true).append(true).open(beside(path, ".lock")).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::Taken(path.to_owned())),
        Err(std::fs::TryLockError::Error(error)) => Err(unusable(error)),
    }
}

/// Renames the file and its log, so that a fresh one can be made and the damaged one be salvaged.
fn set_damaged_aside(path: &Path, clock: &dyn Clock) {
    let suffix = format!("{DAMAGED}{}", clock.now().unix_seconds());
    tracing::error!(path = %path.display(), suffix, "the store's file is damaged: set aside, starting cold");
    for part in ["", "-wal", "-shm"] {
        let from = beside(path, part);
        let to = beside(path, &format!("{suffix}{part}"));
        if let Err(error) = std::fs::rename(&from, &to)
            && part.is_empty()
        {
            tracing::error!(%error, "it could not be set aside");
        }
    }
}

fn count_set_aside(path: &Path) -> u64 {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let is_damaged = |entry: &str| {
        let rest = entry.strip_prefix(&name).and_then(|rest| rest.strip_prefix(DAMAGED));
        rest.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let damaged = entries.flatten().filter(|entry| is_damaged(&entry.file_name().to_string_lossy()));
    u64::try_from(damaged.count()).unwrap_or(u64::MAX)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Bound: calls that wait for the thread. Each is of a batch of events in flight, so that a full one means that the
/// thread is stuck; about 1 MiB.
const CALLS: usize = 16_384;
/// Bound: about the callers in one transaction.
const WAITING: usize = 256;
/// Bound: how long a commit waits for others, under load.
const GROUP_COMMIT: Duration = Duration::from_millis(3);
/// A store that failed is left alone for this long.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);
/// How often the file is looked for at its path.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// Expired rows are looked for this often at the most, between batches.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);
const DAMAGED: &str = ".damaged-";
