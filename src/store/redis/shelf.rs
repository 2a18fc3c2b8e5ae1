//! The shared store as `store export` and `import` see it: entries that are read out of it and put into it, beside the
//! gateways that use it.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::batch::{Batch, number, text};
use super::line::CONNECT_DEADLINE;
use super::target::Target;
use super::{Config, Redis, time};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::event::Digest;
use crate::store::{Entry, StoreError, Sums};

/// A store that entries are put into.
pub struct Shelf {
    runtime: Runtime,
    store: Redis,
    waiting: Vec<Entry>,
    sums: Sums,
}

/// Why entries cannot be read or put.
#[derive(Debug, thiserror::Error)]
pub enum ShelfError {
    /// Redis does not do what it is asked.
    #[error("the store could not be read or written: {0}")]
    Store(String),
    /// What was read could not be passed on.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl From<StoreError> for ShelfError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.message)
    }
}

/// Reads everything. What is there from the beginning to the end of the reading is read, once; what comes or goes
/// meanwhile may be.
///
/// # Errors
/// If it cannot be read, or `take` fails.
pub fn read_all(
    config: &Config,
    mut take: impl FnMut(&Entry) -> std::io::Result<()>,
) -> Result<(), ShelfError> {
    let runtime = runtime()?;
    runtime.block_on(async {
        let store = Redis::open(config).await;
        let shared = Arc::new(config.clone());
        let looking = async { Target::read(&shared).await?.keepers().await };
        let nodes = timeout(CONNECT_DEADLINE, looking).await;
        let nodes = nodes.unwrap_or_else(|_| Err(format!("no connection within {CONNECT_DEADLINE:?}")));
        // Bound: the keys, of which a scan may name one twice. It is what is kept, not what it says.
        let mut seen = std::collections::HashSet::new();
        for (name, mut node) in nodes.map_err(ShelfError::Store)? {
            let told = |error: redis::RedisError| ShelfError::Store(format!("{name}: {error}"));
            let mut cursor = 0u64;
            loop {
                let mut scan = redis::cmd("SCAN");
                scan.arg(cursor).arg("MATCH").arg(store.names.trades()).arg("COUNT").arg(PORTION);
                let (next, keys): (u64, Vec<String>) = scan.query_async(&mut node).await.map_err(told)?;
                let subjects = keys.iter().filter_map(|key| store.names.subject(key));
                let subjects: Vec<String> = subjects.filter(|subject| seen.insert(subject.clone())).collect();
                for entry in store.entries(&subjects).await? {
                    take(&entry)?;
                }
                if next == 0 {
                    break;
                }
                cursor = next;
            }
        }
        Ok(())
    })
}

/// See [`Store::complete_since`](crate::store::Store::complete_since). Nothing is written.
///
/// # Errors
/// If it cannot be read.
pub fn complete_since(config: &Config, retention: Duration) -> Result<Timestamp, ShelfError> {
    let now = SystemClock.now();
    let asked = async { Redis::open(config).await.horizon(now, Duration::ZERO, Timestamp::default()).await };
    Ok(runtime()?.block_on(asked)?.max(now.before(retention)))
}

impl Redis {
    async fn entries(&self, subjects: &[String]) -> Result<Vec<Entry>, StoreError> {
        let mut batch = Batch::new(&self.names, [text("bodies")]);
        for subject in subjects {
            batch.add_subject(subject, Vec::new());
        }
        let found = self.run(&self.scripts.entries, &batch, Ok).await?;
        let mut entries = Vec::new();
        for (subject, fields) in subjects.iter().zip(found) {
            entries.append(&mut fields.entries(subject)?);
        }
        Ok(entries)
    }

    async fn merge(&self, entries: &[Entry], sums: &mut Sums) -> Result<(), StoreError> {
        let now = SystemClock.now();
        let mut batch = Batch::new(&self.names, []);
        for entry in entries {
            let rest = [
                number(entry.state.code()),
                entry.digest.as_ref().map(Digest::as_bytes).map(|digest| digest.to_vec()).unwrap_or_default(),
                text(&entry.notify_id),
                text(entry.event_type.as_deref().unwrap_or_default()),
                time(entry.first_at),
                time(entry.at),
                number(entry.attempts),
                entry.expires_at.map_or_else(|| number(0), time),
                text(entry.reason.as_deref().unwrap_or_default()),
                entry.payment_time.map(time).unwrap_or_default(),
                entry.content.clone().unwrap_or_default(),
                time(now),
            ];
            batch.add(&entry.key, rest);
        }
        for (entry, merged) in entries.iter().zip(self.count(&self.scripts.merge, &batch).await?) {
            match merged {
                0 => sums.taken += 1,
                1 => sums.known += 1,
                _ => sums.differing.push(entry.key.clone()),
            }
        }
        Ok(())
    }
}

impl Shelf {
    /// The store, beside the gateways that use it.
    ///
    /// # Errors
    /// If it cannot be reached.
    pub fn open(config: &Config) -> Result<Self, ShelfError> {
        let runtime = runtime()?;
        let store = runtime.block_on(Redis::open(config));
        match store.problem() {
            None => Ok(Self { runtime, store, waiting: Vec::with_capacity(PORTION), sums: Sums::default() }),
            Some(why) => Err(ShelfError::Store(why)),
        }
    }

    /// Is told since when nothing is missing of what it will be brought. The later of two such times holds; a gateway that is
    /// running knows it within [`TOLD_EVERY`](crate::store::TOLD_EVERY).
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn bring_complete_since(&mut self, since: Timestamp) -> Result<(), ShelfError> {
        self.runtime.block_on(self.store.horizon(SystemClock.now(), Duration::ZERO, since))?;
        Ok(())
    }

    /// Puts an entry, or gathers it until there are enough for a batch.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn put(&mut self, entry: Entry) -> Result<(), ShelfError> {
        self.waiting.push(entry);
        if self.waiting.len() >= PORTION { self.commit() } else { Ok(()) }
    }

    /// Puts what was gathered, and says what became of all.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn finish(mut self) -> Result<Sums, ShelfError> {
        self.commit()?;
        Ok(self.sums)
    }

    fn commit(&mut self) -> Result<(), ShelfError> {
        self.runtime.block_on(self.store.merge(&self.waiting, &mut self.sums))?;
        self.waiting.clear();
        Ok(())
    }
}

fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Bound: trades that are read, or entries that are written, at once.
const PORTION: usize = 200;
