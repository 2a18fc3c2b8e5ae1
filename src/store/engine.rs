//! The one real choice: which engine keeps what is remembered.

use std::sync::Arc;
use std::time::Duration;

use super::redis::{self as shared, Redis};
use super::sqlite::{self, OpenError, Sqlite};
use super::{Entry, Store, Sums};
use crate::clock::{Clock, Timestamp};

/// `[store]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Config {
    /// `store.engine = "sqlite"`.
    Sqlite(sqlite::Config),
    /// `store.engine = "redis"`.
    Redis(shared::Config),
}

/// The running store.
#[derive(Debug, Clone)]
pub enum Engine {
    /// In a file of this gateway's own.
    Sqlite(Arc<Sqlite>),
    /// Shared with other replicas.
    Redis(Arc<Redis>),
}

impl Engine {
    /// Opens it. Needs a runtime.
    ///
    /// # Errors
    /// What SQLite says of its file. A Redis that is away is waited for while the gateway runs.
    pub async fn open(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        Ok(match config {
            Config::Sqlite(config) => Self::Sqlite(Arc::new(Sqlite::open(config, clock)?)),
            Config::Redis(config) => Self::Redis(Arc::new(Redis::open(config).await)),
        })
    }

    /// As publication sees it.
    pub fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Sqlite(store) => Arc::<Sqlite>::clone(store),
            Self::Redis(store) => Arc::<Redis>::clone(store),
        }
    }

    /// Damaged files that lie beside the store and were not salvaged yet.
    pub fn damaged_files(&self) -> u64 {
        match self {
            Self::Sqlite(store) => store.damaged_files(),
            Self::Redis(_) => 0,
        }
    }

    /// Bytes that are free for it on its file system; infinity where it has none, or that does not tell.
    pub fn free_bytes(&self) -> f64 {
        match self {
            Self::Sqlite(store) => store.free_bytes(),
            Self::Redis(_) => f64::INFINITY,
        }
    }

    /// How large that file system is, in bytes; infinity likewise.
    pub fn size_bytes(&self) -> f64 {
        match self {
            Self::Sqlite(store) => store.size_bytes(),
            Self::Redis(_) => f64::INFINITY,
        }
    }

    /// How much of each bound is used, by the name of its key.
    pub fn used(&self) -> [(&'static str, f64); 5] {
        match self {
            Self::Sqlite(store) => store.used(),
            Self::Redis(store) => store.used(),
        }
    }
}

/// A store that entries are put into.
pub enum Shelf {
    /// A file.
    Sqlite(Box<sqlite::Shelf>),
    /// Redis.
    Redis(Box<shared::Shelf>),
}

/// Why entries cannot be read or put.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub enum ShelfError {
    /// As SQLite's shelf says.
    Sqlite(#[from] sqlite::ShelfError),
    /// As Redis' says.
    Redis(#[from] shared::ShelfError),
}

/// Reads everything that is kept.
///
/// # Errors
/// If it cannot be read, or `take` fails.
pub fn read_all(config: &Config, take: impl FnMut(&Entry) -> std::io::Result<()>) -> Result<(), ShelfError> {
    match config {
        Config::Sqlite(config) => Ok(sqlite::read_all(config, take)?),
        Config::Redis(config) => Ok(shared::read_all(config, take)?),
    }
}

/// See [`Store::complete_since`].
///
/// # Errors
/// If it cannot be read.
pub fn complete_since(config: &Config, retention: Duration) -> Result<Timestamp, ShelfError> {
    match config {
        Config::Sqlite(config) => Ok(sqlite::complete_since(config)?),
        Config::Redis(config) => Ok(shared::complete_since(config, retention)?),
    }
}

impl Shelf {
    /// The store: a file for its user alone, Redis beside the gateways that use it.
    ///
    /// # Errors
    /// If a gateway has the file open, or it does not open.
    pub fn alone(config: &Config) -> Result<Self, ShelfError> {
        Ok(match config {
            Config::Sqlite(config) => {
                Self::Sqlite(Box::new(sqlite::Shelf::alone(config).map_err(sqlite::ShelfError::from)?))
            }
            Config::Redis(config) => Self::Redis(Box::new(shared::Shelf::open(config)?)),
        })
    }

    /// The store, beside a gateway that may be running.
    ///
    /// # Errors
    /// If it does not open.
    pub fn beside(config: &Config) -> Result<Self, ShelfError> {
        Ok(match config {
            Config::Sqlite(config) => {
                Self::Sqlite(Box::new(sqlite::Shelf::beside(config).map_err(sqlite::ShelfError::from)?))
            }
            Config::Redis(config) => Self::Redis(Box::new(shared::Shelf::open(config)?)),
        })
    }

    /// Is told since when nothing is missing of what it will be brought. The later of two such times holds.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn bring_complete_since(&mut self, since: Timestamp) -> Result<(), ShelfError> {
        match self {
            Self::Sqlite(shelf) => Ok(shelf.bring_complete_since(since)?),
            Self::Redis(shelf) => Ok(shelf.bring_complete_since(since)?),
        }
    }

    /// Puts an entry, or gathers it until there are enough.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn put(&mut self, entry: Entry) -> Result<(), ShelfError> {
        match self {
            Self::Sqlite(shelf) => Ok(shelf.put(entry)?),
            Self::Redis(shelf) => Ok(shelf.put(entry)?),
        }
    }

    /// Puts what was gathered, and says what became of all.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn finish(self) -> Result<Sums, ShelfError> {
        match self {
            Self::Sqlite(shelf) => Ok(shelf.finish()?),
            Self::Redis(shelf) => Ok(shelf.finish()?),
        }
    }
}
