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
//! it failed ([`slot`]). A damaged one is set aside, never repaired and never deleted; `store salvage` reads it page
//! by page ([`pages`]).

mod change;
mod core;
mod expiry;
mod load;
pub mod pages;
mod place;
mod places;
mod reading;
mod rival;
mod schema;
mod shelf;
mod slot;
mod transaction;

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use self::change::Change;
use self::core::{Core, Error, Opening};
use self::load::Load;
use self::slot::Slot;
use super::{Claim, Decision, Deferral, Holding, Kept, Record, Row, Store, StoreError, Tally, Waiting};
use crate::clock::{Clock, Timestamp};
use crate::event::{EventType, Key};
use crate::lifecycle::vital;

pub use self::place::behind_links;
pub use self::shelf::{Shelf, ShelfError, complete_since, end_alarm, read_all};

/// The embedded store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `store.path`.
    pub path: PathBuf,
    /// `store.max_deferred`: rows deferred or in doubt, but for those that no queue took.
    pub max_deferred: u64,
    /// `store.max_returned`: rows deferred because no queue took them.
    pub max_returned: u64,
    /// `store.max_deferred_bytes`: of all of both; the latter have half of it.
    pub max_deferred_bytes: u64,
    /// `store.max_held`: rows held.
    pub max_held: u64,
    /// `store.max_held_bytes`.
    pub max_held_bytes: u64,
}

/// A running store.
pub struct Sqlite {
    /// Boxed, because the channel makes room for [`CALLS`] at once, which would be megabytes of an idle process.
    calls: Mutex<Option<SyncSender<Box<Asked>>>>,
    /// What waits for the thread may weigh this much, in KiB.
    room: Arc<Semaphore>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    config: Config,
    load: Arc<Mutex<Load>>,
    /// Since when the thread has been at what it does now.
    since: Arc<Mutex<Option<Instant>>>,
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

/// A call on its way to the thread, and the room that it takes until it is there.
struct Asked {
    call: Call,
    room: OwnedSemaphorePermit,
}

/// What the thread is asked, and whom it is to answer.
enum Call {
    Known(Vec<Key>, Answer<Vec<Claim>>),
    Find(String, Answer<Vec<Row>>),
    Waiting(Key, Answer<Option<Waiting>>),
    Due(Timestamp, usize, Vec<EventType>, Answer<Vec<Waiting>>),
    Tally(Answer<Tally>),
    Forgotten(Duration, Answer<Timestamp>),
    Write(Change, Answer<Vec<Kept>>),
}

impl Call {
    /// About what it holds in memory, in bytes.
    fn weight(&self) -> usize {
        match self {
            Self::Known(keys, _) => keys.len() * 256,
            Self::Write(Change::Record(records), _) => records.len() * 512,
            Self::Write(Change::Defer(deferrals), _) => {
                deferrals.iter().map(|deferral| 512 + deferral.message.weight()).sum()
            }
            Self::Write(Change::Hold(holdings), _) => {
                holdings.iter().map(|holding| 512 + holding.body.len()).sum()
            }
            Self::Write(Change::Decide(_) | Change::Probe, _)
            | Self::Find(..)
            | Self::Waiting(..)
            | Self::Due(..)
            | Self::Forgotten(..)
            | Self::Tally(_) => 512,
        }
    }
}

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

impl Sqlite {
    /// Opens the store, sets a damaged file aside, and starts its thread. A store that was there before and cannot be
    /// opened now (a full disk, a file system that is read-only) is opened when it can be: payments do not wait for it.
    ///
    /// # Errors
    /// If another gateway has it, or there never was one and none can be made, or the file is another program's, or of an earlier
    /// version and there is no room to copy it.
    pub fn open(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let lock = place::lock(&config.path)?;
        let was_there = config.path.metadata().is_ok_and(|file| file.len() > 0);
        let opened = || -> core::Result<Core> {
            let core = match Core::open(config, Opening::ToWrite) {
                Err(Error::Away(why)) => {
                    // Not after a write that failed: then only what is read from the disk again is known to be there.
                    tracing::warn!(why, "the store is opened beside who reads it: its log is emptied later");
                    Core::open(config, Opening::BesideReader)?
                }
                opened => opened?,
            };
            core.bring_due(clock.now())?;
            Ok(core)
        };
        let core = opened().or_else(|error| if error.is_damage() { opened() } else { Err(error) });
        let core = match core {
            Err(error) if error.is_damage() && set_aside(config, clock.as_ref(), &error) => opened(),
            other => other,
        };
        match &core {
            Err(error) if !was_there || matches!(error, Error::Refused(_)) => {
                return Err(OpenError::Unusable(config.path.clone(), error.to_string()));
            }
            Err(error) => tracing::error!(%error, "the store cannot be opened: starting without it"),
            Ok(_) => {}
        }
        let (calls, waiting) = sync_channel(CALLS);
        let load = Arc::default();
        let slot = Slot::new(core, config, Arc::clone(&load));
        let (retention, since) = (Duration::ZERO, Arc::default());
        let worker = Worker { slot, retention, config: config.clone(), clock, since: Arc::clone(&since) };
        // Without its thread the store answers every call with an error, and the gateway goes on unchecked.
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || vital(|| worker.run(waiting)))
            .ok();
        Ok(Self {
            calls: Mutex::new(Some(calls)),
            room: Arc::new(Semaphore::new(ROOM_KIB)),
            thread: Mutex::new(thread),
            config: config.clone(),
            load,
            since,
            _lock: lock,
        })
    }

    /// Whether [`open`](Self::open) would find a file that it can use. What is there is left as it is, damaged or of an earlier
    /// version; where there is nothing, nothing is made.
    ///
    /// # Errors
    /// If it would not, or another gateway has it.
    pub fn check(config: &Config) -> Result<(), OpenError> {
        let unusable = |why: String| OpenError::Unusable(config.path.clone(), why);
        // Who has it open has made the lock.
        let _lock = place::has_lock(&config.path).then(|| place::lock(&config.path)).transpose()?;
        if !config.path.exists() && !place::is_beheaded(&config.path) {
            let makeable = place::can_be_made(&config.path);
            return makeable.map_err(|error| unusable(format!("cannot be made: {error}")));
        }
        Core::look(config).map_err(|error| {
            let told = error.to_string();
            unusable(if error.is_damage() { format!("{told}: {SET_ASIDE_BY_SERVE}") } else { told })
        })?;
        let writable = OpenOptions::new().append(true).open(&config.path);
        writable.map(drop).map_err(|error| unusable(format!("cannot be written: {error}")))
    }

    /// Damaged files that lie beside the store and were not salvaged yet.
    pub fn damaged_files(&self) -> u64 {
        place::count_set_aside(&self.config.path)
    }

    /// Bytes that are free for it on its file system; infinity where the file system does not tell.
    pub fn free_bytes(&self) -> f64 {
        place::free_bytes(&self.config.path)
    }

    /// How large that file system is, in bytes; infinity where it does not tell.
    pub fn size_bytes(&self) -> f64 {
        place::size_bytes(&self.config.path)
    }

    /// How much of each bound is used, by the name of its key.
    pub fn used(&self) -> [(&'static str, f64); 5] {
        self.load.lock().unwrap_or_else(PoisonError::into_inner).used(&self.config)
    }

    async fn ask<T>(&self, call: impl FnOnce(Answer<T>) -> Call) -> Result<T, StoreError> {
        let (done, answer) = oneshot::channel();
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let call = call(done);
        // A single call always has room, or it could never be kept.
        // A disk that hangs: who asks next does not wait for it as well.
        if self
            .since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some_and(|since| since.elapsed() > STUCK)
        {
            return Err(stuck());
        }
        let kib = u32::try_from((call.weight() / 1024 + 1).min(ROOM_KIB)).unwrap_or(u32::MAX);
        // Full: the thread is stuck, and the gateway goes on without it rather than wait.
        let room = Arc::clone(&self.room).try_acquire_many_owned(kib).map_err(|_| stuck())?;
        calls.ok_or_else(closed)?.try_send(Box::new(Asked { call, room })).map_err(|_| stuck())?;
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
        let change = if records.is_empty() { Change::Probe } else { Change::Record(records) };
        async { self.ask(|done| Call::Write(change, done)).await.map(drop) }.boxed()
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

    fn complete_since(
        &self,
        retention: Duration,
        _now: Timestamp,
    ) -> BoxFuture<'_, Result<Timestamp, StoreError>> {
        self.ask(move |done| Call::Forgotten(retention, done)).boxed()
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

/// Whoever opens the file next finds it closed. After [`Store::close`] there is nothing left to wait for.
impl Drop for Sqlite {
    fn drop(&mut self) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sqlite").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The thread.
struct Worker {
    slot: Slot,
    /// The present one, once it is told.
    retention: Duration,
    config: Config,
    clock: Arc<dyn Clock>,
    since: Arc<Mutex<Option<Instant>>>,
}

impl Worker {
    fn run(mut self, calls: Receiver<Box<Asked>>) {
        let mut writes = Vec::with_capacity(WAITING);
        let mut swept_at = Instant::now();
        while let Ok(first) = calls.recv() {
            self.is_at_it(Some(Instant::now()));
            self.take(*first, &mut writes);
            while writes.len() < WAITING
                && let Ok(next) = calls.try_recv()
            {
                self.take(*next, &mut writes);
            }
            if !writes.is_empty() {
                self.commit(&mut writes);
            }
            self.slot.look();
            if swept_at.elapsed() >= SWEEP_PAUSE {
                swept_at = Instant::now();
                let now = self.clock.now();
                let retention = self.retention;
                if let Err(error) = self.slot.write(|core| core.sweep(now, retention)) {
                    self.fail("swept", &error);
                }
            }
            self.is_at_it(None);
        }
        self.slot.close();
    }

    fn is_at_it(&self, since: Option<Instant>) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// Answers a question at once, and gathers what is to be written.
    fn take(&mut self, Asked { call, room }: Asked, writes: &mut Vec<(Change, Answer<Vec<Kept>>)>) {
        drop(room);
        // Whoever asked and hung up does not want the answer.
        match call {
            Call::Write(change, done) => writes.push((change, done)),
            Call::Known(keys, done) => {
                let _ = done.send(self.read(|core| core.known(&keys)));
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
            Call::Forgotten(retention, done) => {
                self.retention = retention;
                let _ = done.send(self.read(|core| core.forgotten()));
            }
            Call::Tally(done) => {
                let _ = done.send(self.read(|core| core.tally()));
            }
        }
    }

    fn read<T>(&mut self, look: impl FnMut(&Core) -> core::Result<T>) -> Result<T, StoreError> {
        let found = self.slot.read(look);
        found.map_err(|error| self.fail("read", &error))
    }

    fn commit(&mut self, writes: &mut Vec<(Change, Answer<Vec<Kept>>)>) {
        let changes: Vec<&Change> = writes.iter().map(|(change, _)| change).collect();
        let outcome = self.slot.write(|core| core.commit(&changes));
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
    fn fail(&mut self, what: &str, error: &Error) -> StoreError {
        if error.is_damage() && set_aside(&self.config, self.clock.as_ref(), error) {
            self.slot.abandon();
        }
        StoreError { message: format!("the store could not be {what}: {error}") }
    }
}

/// Sets the file aside if it is its content that is wrong, and says so. Whether it did.
fn set_aside(config: &Config, clock: &dyn Clock, why: &Error) -> bool {
    if !place::is_readable(&config.path) {
        tracing::error!(%why, "the store's file cannot be read: left where it is");
        return false;
    }
    match place::set_damaged_aside(&config.path, clock) {
        Ok(to) => {
            let file = to.display();
            tracing::error!(%file, %why, "the store's file is damaged and set aside: starting cold. Run: store salvage");
            true
        }
        Err(error) => {
            tracing::error!(%error, %why, "the store's file is damaged, and cannot be set aside");
            false
        }
    }
}

fn stuck() -> StoreError {
    StoreError { message: "the store has not done what it was asked before".to_owned() }
}

fn closed() -> StoreError {
    StoreError { message: "the store is closed".to_owned() }
}

const SET_ASIDE_BY_SERVE: &str =
    "`serve` would set it aside and begin with an empty one; run `store salvage`";
/// Bound: calls that wait for the thread. Each is of a batch of events in flight, so that a full one means that the
/// thread is stuck.
const CALLS: usize = 16_384;
/// Bound: what they hold. Whoever asked has given up after some seconds, and what he asked stays: a disk that hangs for
/// hours beside a broker that is away would fill the memory with deferrals.
const ROOM_KIB: usize = 32 * 1024;
/// Bound: about the callers in one transaction.
const WAITING: usize = 256;
/// How long the thread may be at one thing before nobody waits for it: as long as publication waits for one answer.
const STUCK: Duration = Duration::from_secs(2);
/// Expired rows are looked for this often at the most, between batches.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
