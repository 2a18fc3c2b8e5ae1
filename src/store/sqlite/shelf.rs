//! A store as `store export`, `import` and `salvage` see it: entries that are read out of it and put into it, beside a
//! gateway that may be running.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::core::{Core, Error, Opening, PORTION, each};
use super::expiry::forgotten;
use super::{Config, OpenError, place};
use crate::clock::Timestamp;
use crate::store::{Entry, Merged, Sums};

/// A store that entries are put into.
pub struct Shelf {
    core: Core,
    waiting: Vec<Entry>,
    sums: Sums,
    /// Held where no gateway may be running.
    _lock: Option<File>,
}

/// Why entries cannot be read or put.
#[derive(Debug, thiserror::Error)]
pub enum ShelfError {
    /// The store does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It failed while it was read or written.
    #[error("the store could not be read or written: {0}")]
    Store(String),
    /// What was read could not be passed on.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl From<Error> for ShelfError {
    fn from(error: Error) -> Self {
        Self::Store(error.to_string())
    }
}

/// Reads everything, as it was at one moment, in the order of its writing.
///
/// # Errors
/// If there is no store, it cannot be read, or `take` fails.
pub fn read_all(
    config: &Config,
    mut take: impl FnMut(&Entry) -> std::io::Result<()>,
) -> Result<(), ShelfError> {
    let unusable = |error: Error| OpenError::Unusable(config.path.clone(), error.to_string());
    let connection = Core::open_to_read(config).map_err(unusable)?;
    each(&connection, |entry| take(&entry.map_err(Error::from)?).map_err(ShelfError::Io))
}

/// See [`Store::complete_since`](crate::store::Store::complete_since).
///
/// # Errors
/// If there is no store, or it cannot be read.
pub fn complete_since(config: &Config) -> Result<Timestamp, ShelfError> {
    let unusable = |error: Error| OpenError::Unusable(config.path.clone(), error.to_string());
    Ok(forgotten(&Core::open_to_read(config).map_err(unusable)?)?)
}

/// Ends the alarm about a damaged file that was set aside, by its name. `None` if its name is not one of those.
///
/// # Errors
/// If it cannot be renamed.
pub fn end_alarm(path: &Path) -> std::io::Result<Option<PathBuf>> {
    place::mark_salvaged(path)
}

impl Shelf {
    /// The store, for its user alone.
    ///
    /// # Errors
    /// If a gateway has it open, or it does not open.
    pub fn alone(config: &Config) -> Result<Self, OpenError> {
        let lock = place::lock(&config.path)?;
        Self::of(Core::open(config, Opening::ToWrite), Some(lock), config)
    }

    /// The store, beside a gateway that may be running: it notices what it is brought within a second.
    ///
    /// # Errors
    /// If there is none, or it does not open. None is made: what was put into one that no gateway reads would wait for ever, in
    /// silence. That is what becomes of a command that has not the environment of the service.
    pub fn beside(config: &Config) -> Result<Self, OpenError> {
        if !config.path.try_exists().unwrap_or(true) {
            let told =
                "there is no store here: is this what the gateway runs with, its environment included?";
            return Err(OpenError::Unusable(config.path.clone(), told.to_owned()));
        }
        Self::of(Core::open(config, Opening::Beside), None, config)
    }

    fn of(core: Result<Core, Error>, lock: Option<File>, config: &Config) -> Result<Self, OpenError> {
        let core = core.map_err(|error| OpenError::Unusable(config.path.clone(), error.to_string()))?;
        Ok(Self { core, waiting: Vec::with_capacity(PORTION), sums: Sums::default(), _lock: lock })
    }

    /// Is told since when nothing is missing of what it will be brought. The later of two such times holds.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn bring_complete_since(&mut self, since: Timestamp) -> Result<(), ShelfError> {
        patiently(|| self.core.bring_forgotten(since))
    }

    /// Puts an entry, or gathers it until there are enough for a transaction.
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
        let merged = patiently(|| self.core.merge(&self.waiting))?;
        for (entry, merged) in self.waiting.drain(..).zip(merged) {
            match merged {
                Merged::Taken => self.sums.taken += 1,
                Merged::Known => self.sums.known += 1,
                Merged::Differs => self.sums.differing.push(entry.key),
            }
        }
        Ok(())
    }
}

/// Does it again while the gateway beside has the file. Bound: [`TRIES`]; the gateway's own transactions are short.
fn patiently<T>(mut action: impl FnMut() -> Result<T, Error>) -> Result<T, ShelfError> {
    for _ in 0..TRIES {
        match action() {
            Err(error) if error.is_busy() => std::thread::sleep(PAUSE),
            other => return Ok(other?),
        }
    }
    Ok(action()?)
}

/// Bound: how often a store is asked that another process is writing.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);
