//! The embedded store: SQLite in one file, for one gateway. Chosen for trust, for salvage, and for the operator
//! who opens it with the `sqlite3` shell beside the running gateway.
//!
//! One thread writes for all lanes: it takes everything that waits and commits it in one synced transaction. One
//! thread reads. A claim is memory only, and publication's single flight is that memory, so claiming is looking.
//!
//! What survives a crash: every committed transaction (WAL, `synchronous = FULL`), and nothing else. A file that
//! cannot be written is opened again once, never written again in place, and is left alone for a second after
//! it failed. A damaged one is set aside, never repaired and never deleted.

mod core;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use self::core::{Change, Core, is_damage};
use super::{Claim, Deferral, Holding, Kept, Record, Row, Store, StoreError, Tally};
use crate::clock::Clock;
use crate::event::Key;

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
    writer: Mutex<Option<mpsc::Sender<Write>>>,
    reader: Mutex<Option<mpsc::Sender<Read>>>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
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

struct Write {
    change: Change,
    done: oneshot::Sender<Result<Vec<Kept>, StoreError>>,
}

enum Read {
    Known(Vec<Key>, oneshot::Sender<Result<Vec<Claim>, StoreError>>),
    Find(String, oneshot::Sender<Result<Vec<Row>, StoreError>>),
    Tally(oneshot::Sender<Result<Tally, StoreError>>),
}

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
        let unusable = |error: rusqlite::Error| OpenError::Unusable(config.path.clone(), error.to_string());
        let writing = core.map_err(unusable)?;
        let reading = Core::open(config).map_err(unusable)?;
        // Bound: lanes wait for their answers, so few ever wait here.
        let (writer, writes) = mpsc::channel(WAITING);
        let (reader, reads) = mpsc::channel(WAITING);
        let write = Writing::new(writing, config, Arc::clone(&clock), Arc::clone(&set_aside));
        let read = Reading { core: Slot::new(reading, config) };
        let threads = vec![
            spawn("store-writer", move || write.run(writes)),
            spawn("store-reader", move || read.run(reads)),
        ];
        Ok(Self {
            writer: Mutex::new(Some(writer)),
            reader: Mutex::new(Some(reader)),
            threads: Mutex::new(threads.into_iter().flatten().collect()),
            config: config.clone(),
            set_aside,
            _lock: lock,
        })
    }

    /// Damaged files that lie beside the store and were not salvaged yet.
    pub fn damaged_files(&self) -> u64 {
        self.set_aside.load(Ordering::Relaxed)
    }

    async fn write(&self, change: Change) -> Result<Vec<Kept>, StoreError> {
        let (done, answer) = oneshot::channel();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sent = writer.ok_or_else(closed)?.send(Write { change, done }).await;
        sent.map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    async fn read<T>(
        &self,
        read: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Read,
    ) -> Result<T, StoreError> {
        let (done, answer) = oneshot::channel();
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sent = reader.ok_or_else(closed)?.send(read(done)).await;
        sent.map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }
}

impl Store for Sqlite {
    fn claim(&self, keys: Vec<Key>) -> BoxFuture<'_, Result<Vec<Claim>, StoreError>> {
        self.read(|done| Read::Known(keys, done)).boxed()
    }

    fn release(&self, _keys: Vec<Key>) -> BoxFuture<'_, Result<(), StoreError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn record(&self, records: Vec<Record>) -> BoxFuture<'_, Result<(), StoreError>> {
        async { self.write(Change::Record(records)).await.map(drop) }.boxed()
    }

    fn defer(&self, deferrals: Vec<Deferral>) -> BoxFuture<'_, Result<Vec<Kept>, StoreError>> {
        self.write(Change::Defer(deferrals)).boxed()
    }

    fn hold(&self, holdings: Vec<Holding>) -> BoxFuture<'_, Result<Vec<Kept>, StoreError>> {
        self.write(Change::Hold(holdings)).boxed()
    }

    fn find(&self, subject: String) -> BoxFuture<'_, Result<Vec<Row>, StoreError>> {
        self.read(|done| Read::Find(subject, done)).boxed()
    }

    fn tally(&self) -> BoxFuture<'_, Result<Tally, StoreError>> {
        self.read(Read::Tally).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async {
            self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
            self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
            let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
            let join = tokio::task::spawn_blocking(move || {
                for thread in threads {
                    let _ = thread.join();
                }
            });
            let _ = join.await;
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

/// The writer's thread.
struct Writing {
    slot: Slot,
    clock: Arc<dyn Clock>,
    set_aside: Arc<AtomicU64>,
}

impl Writing {
    fn new(core: Core, config: &Config, clock: Arc<dyn Clock>, set_aside: Arc<AtomicU64>) -> Self {
        Self { slot: Slot::new(core, config), clock, set_aside }
    }

    fn run(mut self, mut writes: mpsc::Receiver<Write>) {
        let mut waiting = Vec::with_capacity(WAITING);
        let mut swept_at = Instant::now();
        while let Some(first) = writes.blocking_recv() {
            waiting.push(first);
            while waiting.len() < WAITING
                && let Ok(next) = writes.try_recv()
            {
                waiting.push(next);
            }
            self.commit(&mut waiting);
            if swept_at.elapsed() >= SWEEP_PAUSE {
                swept_at = Instant::now();
                let now = self.clock.now();
                let _ = self.slot.with(|core| core.sweep(now));
            }
        }
        let _ = self.slot.with(|core| core.checkpoint());
    }

    fn commit(&mut self, waiting: &mut Vec<Write>) {
        let changes: Vec<&Change> = waiting.iter().map(|write| &write.change).collect();
        let outcome = self.slot.with(|core| core.commit(&changes));
        match outcome {
            Ok(outcomes) => {
                for (write, kept) in waiting.drain(..).zip(outcomes) {
                    let _ = write.done.send(Ok(kept));
                }
            }
            Err(error) => {
                if is_damage(&error) {
                    set_damaged_aside(&self.slot.config.path, self.clock.as_ref());
                    self.set_aside.fetch_add(1, Ordering::Relaxed);
                    self.slot.failed_at = None;
                }
                let error = StoreError { message: format!("the store could not be written: {error}") };
                for write in waiting.drain(..) {
                    let _ = write.done.send(Err(error.clone()));
                }
            }
        }
    }
}

/// The reader's thread.
struct Reading {
    core: Slot,
}

impl Reading {
    fn run(mut self, mut reads: mpsc::Receiver<Read>) {
        let away =
            |error: rusqlite::Error| StoreError { message: format!("the store could not be read: {error}") };
        while let Some(read) = reads.blocking_recv() {
            match read {
                Read::Known(keys, done) => {
                    let known = self.core.with(|core| core.known(&keys)).map_err(away);
                    let _ = done.send(known.map(|known| known.into_iter().map(Claim::Granted).collect()));
                }
                Read::Find(subject, done) => {
                    let _ = done.send(self.core.with(|core| core.find(&subject)).map_err(away));
                }
                Read::Tally(done) => {
                    let _ = done.send(self.core.with(|core| core.tally()).map_err(away));
                }
            }
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Option<std::thread::JoinHandle<()>> {
    // Without its thread the store answers every call with an error, and the gateway goes on unchecked.
    std::thread::Builder::new().name(name.to_owned()).spawn(run).ok()
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

/// Bound: calls that wait for a thread, and callers in one transaction.
const WAITING: usize = 256;
/// A store that failed is left alone for this long.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);
/// How often the file is looked for at its path.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// Expired rows are looked for this often at the most, between batches.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);
const DAMAGED: &str = ".damaged-";
