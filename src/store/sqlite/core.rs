//! The synchronous core of the embedded store: one file, one table of rows and its index, plain statements. It knows no thread and
//! no future, so that the simulation can drive it too.
//!
//! Rows lie in the order of their writing, so that a commit appends them together, and where those of a subject lie is
//! the business of [`places`](super::places). What is settled has no other index, because every announcement would have to
//! write it; what is not settled has two: one that answers how much waits, and one that has what is due in order, so that
//! neither question grows with what is recorded.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, params};

use super::change::{Change, merge_entry};
use super::load::{Books, Load};
use super::place::{self, Identity};
use super::places::{self, Places};
use super::reading::{ENTRY, KNOWN, WAITING, entry_of, known_of, readable, waiting_of, weight_of};
use super::schema::{self, Whose};
use super::transaction::{Transaction, Writing};
use super::{Config, OpenError};
use crate::clock::Timestamp;
use crate::event::{Digest, EventType, Key};
use crate::failpoint::{self, Point};
use crate::store::{Claim, Entry, Kept, MAX_BACK_OFF, MAX_FOUND, Merged, Row, State, Tally, Waiting};

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// SQLite's own words.
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
    /// The database is empty or gone, and its log is not. SQLite deletes such a log without a word.
    #[error("its log is there, and the database is empty or gone")]
    Beheaded,
    /// The file is none of ours, of a newer version, or of an earlier one that cannot be copied now.
    #[error("{0}")]
    Refused(String),
    /// It failed a moment ago, for this reason.
    #[error("it is left alone for a moment: {0}")]
    Away(String),
}

impl Error {
    /// Whether it means that the file is not what it should be, and not that it cannot be written.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Self::Sql(error) => {
                matches!(
                    error.sqlite_error_code(),
                    Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
                )
            }
            Self::Beheaded => true,
            Self::Refused(_) | Self::Away(_) => false,
        }
    }

    /// Whether another connection has the lock just now.
    pub(super) fn is_busy(&self) -> bool {
        let Self::Sql(error) = self else { return false };
        matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
    }
}

/// What the core says.
pub(super) type Result<T> = std::result::Result<T, Error>;

/// One connection to the file.
pub(super) struct Core {
    pub(super) connection: Connection,
    path: PathBuf,
    identity: Identity,
    books: Books,
    pub(super) places: Places,
    /// SQLite's number of the version that this connection has seen: another one means that somebody else wrote.
    data_version: i64,
    /// The next look for expired rows begins behind this one.
    pub(super) swept: i64,
}

impl Core {
    /// Opens the file, or makes it; migrates it to this version.
    pub(super) fn open(config: &Config, opening: Opening) -> Result<Self> {
        place::prepare(&config.path);
        let connection = Self::connect(config, OpenFlags::default())?;
        // Before anything is written: another program's file is left as it is.
        let is_earlier = schema::whose(&connection)? == Whose::Earlier;
        // Nobody of that version opens it meanwhile.
        let _lock = if is_earlier && opening == Opening::Beside { Some(lock_earlier(config)?) } else { None };
        if is_earlier {
            schema::room_to_copy(schema::content(&connection)?, place::free_bytes(&config.path))?;
        }
        connection.set_prepared_statement_cache_capacity(32);
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -8192;
             PRAGMA temp_store = MEMORY; PRAGMA foreign_keys = OFF; PRAGMA wal_autocheckpoint = 4000;",
        )?;
        if opening == Opening::ToWrite {
            mend(&connection)?;
        }
        schema::migrate(&connection)?;
        let mut core = Self {
            connection,
            path: config.path.clone(),
            identity: Identity::at(&config.path),
            books: Books::new(config),
            places: Places::new(),
            data_version: 0,
            swept: 0,
        };
        core.count()?;
        match opening {
            Opening::ToWrite | Opening::BesideReader => core.places.open(&core.connection)?,
            Opening::ToRead => core.places.read(&core.connection)?,
            Opening::Beside => places::heal(&core.connection)?,
        }
        core.identity = Identity::at(&config.path);
        Ok(core)
    }

    /// Opens the file as it is, of this version or an earlier one, to be read beside whoever writes it.
    pub(super) fn open_to_read(config: &Config) -> Result<Connection> {
        let connection = Self::connect(config, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        schema::readable(&connection)?;
        Ok(connection)
    }

    /// Whether [`open`](Self::open) would take the file; it is only read.
    pub(super) fn look(config: &Config) -> Result<()> {
        let connection = Self::connect(config, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        if schema::whose(&connection)? == Whose::Earlier {
            schema::room_to_copy(schema::content(&connection)?, place::free_bytes(&config.path))?;
        }
        Ok(())
    }

    fn connect(config: &Config, flags: OpenFlags) -> Result<Connection> {
        if place::is_beheaded(&config.path) {
            return Err(Error::Beheaded);
        }
        let connection = Connection::open_with_flags(&config.path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        Ok(connection)
    }

    /// Writes the whole log into the database, synced, and empties it. Whatever is written next stands behind nothing
    /// that may be on no disk.
    pub(super) fn mend(&self) -> Result<()> {
        mend(&self.connection)
    }

    /// Whether the files at the path are still those that are open.
    pub(super) fn is_in_place(&self) -> bool {
        Identity::at(&self.path) == self.identity
    }

    /// Whether the database at the path is the one that is open, though its log may not be.
    pub(super) fn is_same_file(&self) -> bool {
        Identity::at(&self.path).is_same_file(self.identity)
    }

    /// Removes the log and its index if they lie beside another database now, which SQLite would take them for.
    pub(super) fn remove_its_logs(&self) {
        self.identity.remove_logs(&self.path);
    }

    /// How much waits.
    pub(super) fn load(&self) -> Load {
        self.books.load
    }

    /// Another process may have brought something: `store salvage` beside the running gateway.
    pub(super) fn recount_if_changed(&mut self) -> Result<()> {
        let version: i64 = self.connection.query_row("PRAGMA data_version", [], |row| row.get(0))?;
        if self.data_version != version {
            self.count()?;
            self.places.catch_up(&self.connection)?;
        }
        Ok(())
    }

    /// What is known of each key.
    pub(super) fn known(&self, keys: &[Key]) -> Result<Vec<Claim>> {
        let of = |key: &Key| {
            let found = self.places.look(&self.connection, key, KNOWN, |row| {
                let known = readable(known_of(row))?;
                Ok(known.flatten().map_or(Claim::Unreadable, |known| Claim::Granted(Some(known))))
            });
            Ok(found?.unwrap_or(Claim::Granted(None)))
        };
        if let [key] = keys {
            return Ok(vec![of(key)?]);
        }
        // One for all: each takes and gives back locks on the file.
        let transaction = Transaction::to_read(&self.connection)?;
        let known = keys.iter().map(of).collect::<Result<_>>()?;
        transaction.commit()?;
        Ok(known)
    }

    /// Everything kept under a subject, oldest first.
    pub(super) fn find(&self, subject: &str) -> Result<Vec<Row>> {
        let mut select = self.connection.prepare_cached(
            "SELECT id, state, type, digest, notify_id, reason, first_at, at, attempts
             FROM event WHERE row = ?1 AND subject = ?2",
        )?;
        let mut found = Vec::new();
        for row in self.places.rows(&self.connection, subject)? {
            let row = select.query_row(params![row, subject], |row| {
                Ok(Row {
                    key: Key { subject: subject.to_owned(), id: row.get(0)? },
                    // A state of a newer version cannot be here: open refuses its file.
                    state: State::from_code(row.get(1)?).unwrap_or(State::Held),
                    event_type: row.get(2)?,
                    digest: row.get::<_, Option<[u8; 32]>>(3)?.map(Digest::from_bytes),
                    notify_id: row.get(4)?,
                    reason: row.get(5)?,
                    first_at: Timestamp::from_unix_millis(row.get(6)?),
                    at: Timestamp::from_unix_millis(row.get(7)?),
                    attempts: row.get(8)?,
                })
            });
            found.extend(readable(row).optional()?.flatten());
        }
        found.sort_by(|a, b| (a.first_at, &a.key.id).cmp(&(b.first_at, &b.key.id)));
        found.truncate(MAX_FOUND);
        Ok(found)
    }

    /// What waits under a key.
    pub(super) fn waiting(&self, key: &Key) -> Result<Option<Waiting>> {
        let sql = &format!(
            "SELECT {WAITING} FROM event WHERE row = ?1 AND subject = ?2 AND id = ?3 AND state BETWEEN 1 AND 3"
        );
        self.places.look(&self.connection, key, sql, waiting_of)
    }

    /// What is due to be published again, the longest due first, and none of the types in `skip`. What the broker refused
    /// has its own part.
    pub(super) fn due(&self, now: Timestamp, limit: usize, skip: &[EventType]) -> Result<Vec<Waiting>> {
        let skip: String = skip.iter().map(|event_type| format!("|{event_type}|")).collect();
        let mut select = self.connection.prepare_cached(&format!("SELECT {WAITING} FROM event {IS_DUE}"))?;
        let mut of = |is_refused: i64| -> Result<Vec<Waiting>> {
            let bound = i64::try_from(limit).unwrap_or(i64::MAX);
            let rows = select.query_map(params![is_refused, now.unix_millis(), bound, skip], waiting_of)?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        };
        let (mut due, mut refused) = (of(0)?, of(1)?);
        refused.truncate((limit / 4).max(limit - due.len()));
        due.truncate(limit - refused.len());
        due.append(&mut refused);
        Ok(due)
    }

    /// Makes due, within the longest back-off, what was kept by a clock that has been set back since: it would wait for as long.
    pub(super) fn bring_due(&self, now: Timestamp) -> Result<()> {
        let latest = now.plus(MAX_BACK_OFF).unix_millis();
        let waits = "state BETWEEN 1 AND 2 AND is_refused BETWEEN 0 AND 1 AND due_at > ?1";
        let waits_too_long = format!("SELECT EXISTS (SELECT 1 FROM event WHERE {waits})");
        if self.connection.query_row(&waits_too_long, [latest], |row| row.get(0))? {
            let update = format!("UPDATE event SET at = ?2 WHERE {waits}");
            let count = self.connection.execute(&update, [latest, now.unix_millis()])?;
            tracing::warn!(
                count,
                "the clock was set back since events were kept for the broker: they are due by it now"
            );
        }
        Ok(())
    }

    /// Counts what is not settled.
    pub(super) fn tally(&self) -> Result<Tally> {
        let mut select = self.connection.prepare_cached(TALLY)?;
        let mut tally = Tally::default();
        let mut rows = select.query([])?;
        let earlier = |a: Option<Timestamp>, b: i64| {
            let b = Timestamp::from_unix_millis(b);
            Some(a.map_or(b, |a| a.min(b)))
        };
        while let Some(row) = rows.next()? {
            let count = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
            tally.oldest_payment = earlier(tally.oldest_payment, row.get(3)?);
            match State::from_code(row.get(0)?) {
                Some(State::Deferred) => tally.deferred = count,
                Some(State::InDoubt) => tally.in_doubt = count,
                Some(State::Held) => {
                    tally.held = count;
                    continue;
                }
                Some(State::Recorded | State::Unrouted | State::Dropped) | None => continue,
            }
            tally.oldest_at = earlier(tally.oldest_at, row.get(2)?);
        }
        Ok(tally)
    }

    /// Commits changes in one synced transaction, and says what became of each. After an error this connection
    /// is not to be written again: what it counts may be of changes that were rolled back.
    pub(super) fn commit(&mut self, changes: &[&Change]) -> Result<Vec<Vec<Kept>>> {
        let Self { connection, books, places, .. } = self;
        let mut writing = Writing::begin(connection, places)?;
        let mut outcomes = Vec::with_capacity(changes.len());
        for change in changes {
            outcomes.push(change.write(&mut writing, books)?);
        }
        writing.place_some()?;
        failpoint::reached(Point::StoreMidCommit);
        writing.commit()?;
        Ok(outcomes)
    }

    /// Keeps what was brought from elsewhere, in one synced transaction: never in the place of more. Beside a gateway that has
    /// the file open: all that it knows in memory alone is put into the index first, and so is all that is brought.
    pub(super) fn merge(&mut self, entries: &[Entry]) -> Result<Vec<Merged>> {
        loop {
            let mut writing = Writing::begin(&self.connection, &mut self.places)?;
            // Much of it takes transactions of its own, so that a gateway beside it waits for none long.
            if writing.place_rest(PORTION)? < PORTION {
                let merged =
                    entries.iter().map(|entry| merge_entry(&mut writing, entry)).collect::<Result<_>>()?;
                writing.place_rest(usize::MAX)?;
                writing.commit()?;
                return Ok(merged);
            }
            writing.commit()?;
        }
    }

    /// Takes over everything that another file has, as far as it can be read, and counts.
    pub(super) fn take_over(&mut self, old: &Self) -> Result<u64> {
        let mut entries = Vec::with_capacity(PORTION);
        let mut taken = 0;
        // What cannot be read of it is told below.
        self.bring_forgotten(old.forgotten().unwrap_or_default())?;
        let read = each(&old.connection, |entry| {
            match entry {
                Ok(entry) => entries.push(entry),
                Err(error) => {
                    tracing::error!(%error, "a row of the old file cannot be read: it is lost");
                    return Ok(());
                }
            }
            taken += 1;
            if entries.len() == PORTION {
                self.merge(&entries).map_err(TakeOver::Write)?;
                entries.clear();
            }
            Ok(())
        });
        match read {
            Ok(()) => {}
            Err(TakeOver::Write(error)) => return Err(error),
            Err(TakeOver::Read(error)) => {
                tracing::error!(%error, "the old file cannot be read to its end: what is missing is lost");
            }
        }
        self.merge(&entries)?;
        self.count()?;
        Ok(taken)
    }

    fn count(&mut self) -> Result<()> {
        let mut books = self.books.emptied();
        let mut select = self.connection.prepare_cached(
            "SELECT id, subject, state, reason, length(message), row FROM event WHERE state BETWEEN 1 AND 3",
        )?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let weight = weight_of(row, 2)?;
            books.load.add(weight);
            if weight.state == State::Held {
                let key = readable(row.get(0).and_then(|id| Ok((id, row.get(1)?))))?;
                if key.is_none() {
                    let row: i64 = row.get(5)?;
                    tracing::error!(
                        row,
                        "the key of a held notification cannot be read: only Alipay can bring it again"
                    );
                }
                books.held.extend(key);
            }
        }
        drop(rows);
        drop(select);
        self.data_version = self.connection.query_row("PRAGMA data_version", [], |row| row.get(0))?;
        self.books = books;
        Ok(())
    }
}

/// What a connection is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// The log is written into the database first, synced, and emptied, so that nothing is ever written behind something
    /// that may be on no disk.
    ToWrite,
    /// The same at a start, while another process reads the file and so keeps its log: only what a sync left out that failed before
    /// the start could be missing, and only after a crash of the machine.
    BesideReader,
    /// It is opened anew before it is written.
    ToRead,
    /// Only to merge, beside a gateway that may be running. If that is of an earlier version, its file stays as it is.
    Beside,
}

fn lock_earlier(config: &Config) -> Result<File> {
    place::lock(&config.path).map_err(|error| {
        Error::Refused(match error {
            OpenError::Taken(_) => {
                "it is of an earlier version, and a gateway has it open: restart that with this version first"
                    .to_owned()
            }
            other @ OpenError::Unusable(..) => other.to_string(),
        })
    })
}

fn mend(connection: &Connection) -> Result<()> {
    let is_busy: bool = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if is_busy {
        return Err(Error::Away("another process reads the file".to_owned()));
    }
    Ok(())
}

/// Gives all rows, in the order of their writing, as they are at one moment; or why one does not read as it was written.
pub(super) fn each<E: From<Error>>(
    connection: &Connection,
    mut take: impl FnMut(rusqlite::Result<Entry>) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let mut select = connection.prepare(&format!("SELECT {ENTRY} FROM event")).map_err(Error::from)?;
    for entry in select.query_map([], |row| Ok(entry_of(row))).map_err(Error::from)? {
        take(entry.map_err(Error::from)?)?;
    }
    Ok(())
}

/// Why a file is not taken over.
enum TakeOver {
    /// It cannot be read.
    Read(Error),
    /// What was read cannot be written.
    Write(Error),
}

impl From<Error> for TakeOver {
    fn from(error: Error) -> Self {
        Self::Read(error)
    }
}

const IS_DUE: &str =
    "WHERE state BETWEEN 1 AND 2 AND is_refused = ?1 AND due_at <= ?2 AND instr(?4, '|' || type || '|') = 0
  ORDER BY due_at LIMIT ?3";
const TALLY: &str = "SELECT state, count(*), min(first_at), min(coalesce(payment_at, first_at))
  FROM event WHERE state BETWEEN 1 AND 3 GROUP BY state";
const BUSY_TIMEOUT: Duration = Duration::from_millis(500);
/// Bound: rows that are taken elsewhere at once.
pub(super) const PORTION: usize = 500;

#[cfg(test)]
mod tests;
