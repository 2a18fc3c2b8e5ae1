//! The synchronous core of the embedded store: one file, one table, plain statements. It knows no thread and
//! no future, so that the simulation can drive it too.
//!
//! Rows lie in the order of their writing, so that a commit appends them together; the key (subject, id) is an index
//! beside them. A table that lies by its key instead has wider rows where a new trade falls between two others, and
//! moves them: it wrote a quarter more pages. What is settled has no other index, because every announcement would
//! have to write it; what is not settled has one.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Transaction, TransactionBehavior, params};

use super::Config;
use crate::clock::Timestamp;
use crate::event::{Digest, EventType, Key};
use crate::store::{
    Decision, Deferral, Holding, Kept, Known, MAX_FOUND, Record, Row, State, Tally, Waiting, held_key,
};

/// What the core says when it fails.
pub(super) type Result<T> = std::result::Result<T, rusqlite::Error>;

/// One connection to the file.
pub(super) struct Core {
    connection: Connection,
    path: PathBuf,
    inode: u64,
    max_deferred: u64,
    max_held: u64,
    /// Held notifications, by the id of their row: so that a record of an ordinary notification does not pay
    /// for a delete. Bound: `store.max_held`.
    held: HashMap<String, String>,
    /// Deferred and in-doubt rows, counted at open and kept.
    deferred: u64,
    /// Where the next look for expired rows begins.
    cursor: (String, String),
}

/// A change that the writer commits.
pub(super) enum Change {
    /// See [`Store::record`](crate::store::Store::record).
    Record(Vec<Record>),
    /// See [`Store::defer`](crate::store::Store::defer).
    Defer(Vec<Deferral>),
    /// See [`Store::hold`](crate::store::Store::hold).
    Hold(Vec<Holding>),
    /// See [`Store::decide`](crate::store::Store::decide).
    Decide(Decision),
}

impl Core {
    /// Opens the file, or makes it; migrates it to this version.
    pub(super) fn open(config: &Config) -> Result<Self> {
        prepare(&config.path);
        let connection = Connection::open(&config.path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_prepared_statement_cache_capacity(32);
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -8192;
             PRAGMA temp_store = MEMORY; PRAGMA foreign_keys = OFF; PRAGMA wal_autocheckpoint = 4000;",
        )?;
        migrate(&connection)?;
        let mut core = Self {
            connection,
            path: config.path.clone(),
            inode: inode(&config.path),
            max_deferred: config.max_deferred,
            max_held: config.max_held,
            held: HashMap::new(),
            deferred: 0,
            cursor: (String::new(), String::new()),
        };
        core.count()?;
        Ok(core)
    }

    /// Whether the file at the path is still the one that is open.
    pub(super) fn is_in_place(&self) -> bool {
        inode(&self.path) == self.inode
    }

    /// What is known of each key.
    pub(super) fn known(&self, keys: &[Key]) -> Result<Vec<Option<Known>>> {
        // One read transaction for all: each takes and gives back locks on the file.
        let transaction = self.connection.unchecked_transaction()?;
        let mut select = transaction.prepare_cached(
            "SELECT state, digest, notify_id FROM event WHERE subject = ?1 AND id = ?2 AND digest IS NOT NULL",
        )?;
        keys.iter()
            .map(|key| {
                let row = select.query_row(params![key.subject, key.id], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, [u8; 32]>(1)?, row.get::<_, String>(2)?))
                });
                Ok(row.optional()?.and_then(|(state, digest, notify_id)| {
                    Some(Known { state: state_of(state)?, digest: Digest::from_bytes(digest), notify_id })
                }))
            })
            .collect()
    }

    /// Everything kept under a subject, oldest first.
    pub(super) fn find(&self, subject: &str) -> Result<Vec<Row>> {
        let mut select = self.connection.prepare_cached(
            "SELECT id, state, type, digest, notify_id, reason, first_at, at, attempts
             FROM event WHERE subject = ?1 ORDER BY first_at, id LIMIT ?2",
        )?;
        let limit = i64::try_from(MAX_FOUND).unwrap_or(i64::MAX);
        let rows = select.query_map(params![subject, limit], |row| {
            Ok(Row {
                key: Key { subject: subject.to_owned(), id: row.get(0)? },
                // A state of a newer version cannot be here: open refuses its file.
                state: state_of(row.get(1)?).unwrap_or(State::Held),
                event_type: row.get(2)?,
                digest: row.get::<_, Option<[u8; 32]>>(3)?.map(Digest::from_bytes),
                notify_id: row.get(4)?,
                reason: row.get(5)?,
                first_at: Timestamp::from_unix_millis(row.get(6)?),
                at: Timestamp::from_unix_millis(row.get(7)?),
                attempts: row.get(8)?,
            })
        })?;
        rows.collect()
    }

    /// What waits under a key.
    pub(super) fn waiting(&self, key: &Key) -> Result<Option<Waiting>> {
        let mut select = self.connection.prepare_cached(&format!(
            "SELECT {WAITING} FROM event WHERE subject = ?1 AND id = ?2 AND state IN (1, 2, 3)"
        ))?;
        select.query_row(params![key.subject, key.id], waiting_of).optional()
    }

    /// What is due to be published again, the oldest first, and none of the types in `skip`.
    pub(super) fn due(&self, now: Timestamp, limit: usize, skip: &[EventType]) -> Result<Vec<Waiting>> {
        // The back-off of `store::back_off`, and DOUBT.
        let mut select = self.connection.prepare_cached(&format!(
            "SELECT {WAITING} FROM event
             WHERE ((state = 1 AND at + min(600000, 1000 << min(attempts - 1, 10)) <= ?1)
                OR (state = 2 AND at + 60000 <= ?1))
               AND instr(?3, '|' || type || '|') = 0
             ORDER BY first_at LIMIT ?2"
        ))?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let skip: String = skip.iter().map(|event_type| format!("|{event_type}|")).collect();
        let rows = select.query_map(params![now.unix_millis(), limit, skip], waiting_of)?;
        rows.collect()
    }

    /// Counts what is not settled.
    pub(super) fn tally(&self) -> Result<Tally> {
        let mut select = self.connection.prepare_cached(
            "SELECT state, count(*), min(first_at), min(coalesce(payment_at, first_at))
             FROM event WHERE state IN (1, 2, 3) GROUP BY state",
        )?;
        let mut tally = Tally::default();
        let mut rows = select.query([])?;
        let earlier = |a: Option<Timestamp>, b: i64| {
            let b = Timestamp::from_unix_millis(b);
            Some(a.map_or(b, |a| a.min(b)))
        };
        while let Some(row) = rows.next()? {
            let count = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
            tally.oldest_payment = earlier(tally.oldest_payment, row.get(3)?);
            match state_of(row.get(0)?) {
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
    /// is not to be used again: what it counts may be of changes that were rolled back.
    pub(super) fn commit(&mut self, changes: &[&Change]) -> Result<Vec<Vec<Kept>>> {
        let Self { connection, held, deferred, max_deferred, max_held, .. } = self;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut outcomes = Vec::with_capacity(changes.len());
        for change in changes {
            outcomes.push(match change {
                Change::Record(records) => {
                    for record in records {
                        write_record(&transaction, record, held, deferred)?;
                    }
                    Vec::new()
                }
                Change::Defer(deferrals) => deferrals
                    .iter()
                    .map(|deferral| write_deferral(&transaction, deferral, deferred, *max_deferred))
                    .collect::<Result<_>>()?,
                Change::Decide(decision) => write_decision(&transaction, decision, held, deferred)?,
                Change::Hold(holdings) => holdings
                    .iter()
                    .map(|holding| write_holding(&transaction, holding, held, *max_held))
                    .collect::<Result<_>>()?,
            });
        }
        transaction.commit()?;
        Ok(outcomes)
    }

    /// Deletes some of what has expired, and moves on. Bound: [`SWEEP`] rows looked at.
    pub(super) fn sweep(&mut self, now: Timestamp) -> Result<usize> {
        let (subject, id) = &self.cursor;
        let last = {
            let mut select = self.connection.prepare_cached(
                "SELECT subject, id FROM event WHERE (subject, id) > (?1, ?2) ORDER BY subject, id LIMIT 1 OFFSET ?3",
            )?;
            select
                .query_row(params![subject, id, SWEEP - 1], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?
        };
        let end: (String, String) = last.unwrap_or_else(|| (AFTER_ALL.to_owned(), String::new()));
        let mut delete = self.connection.prepare_cached(
            "DELETE FROM event WHERE (subject, id) > (?1, ?2) AND (subject, id) <= (?3, ?4)
             AND state IN (0, 4, 5) AND expires_at < ?5",
        )?;
        let deleted = delete.execute(params![subject, id, end.0, end.1, now.unix_millis()])?;
        self.cursor = if end.0 == AFTER_ALL { (String::new(), String::new()) } else { end };
        Ok(deleted)
    }

    /// Writes the log back into the file, so that what is left behind is one file.
    pub(super) fn checkpoint(&self) -> Result<()> {
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }

    fn count(&mut self) -> Result<()> {
        self.deferred =
            self.connection.query_row("SELECT count(*) FROM event WHERE state IN (1, 2)", [], |row| {
                row.get::<_, i64>(0).map(|count| u64::try_from(count).unwrap_or(0))
            })?;
        let mut select = self.connection.prepare("SELECT id, subject FROM event WHERE state = 3")?;
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        self.held = rows.collect::<Result<_>>()?;
        Ok(())
    }
}

fn write_record(
    transaction: &Transaction<'_>,
    record: &Record,
    held: &mut HashMap<String, String>,
    deferred: &mut u64,
) -> Result<()> {
    if *deferred > 0 {
        let mut waiting = transaction
            .prepare_cached("SELECT 1 FROM event WHERE subject = ?1 AND id = ?2 AND state IN (1, 2)")?;
        if waiting.exists(params![record.key.subject, record.key.id])? {
            *deferred -= 1;
        }
    }
    let mut insert = transaction.prepare_cached(
        "INSERT INTO event (subject, id, state, type, digest, notify_id, first_at, at, attempts, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, 1, ?8)
         ON CONFLICT (subject, id) DO UPDATE SET state = ?3, type = ?4, digest = ?5, notify_id = ?6, at = ?7,
           attempts = attempts + 1, expires_at = max(coalesce(expires_at, 0), ?8), reason = NULL, message = NULL",
    )?;
    insert.execute(params![
        record.key.subject,
        record.key.id,
        code_of(record.state),
        record.event_type.as_str(),
        record.digest.as_bytes(),
        record.notify_id,
        record.at.unix_millis(),
        record.expires_at.unix_millis(),
    ])?;
    if held.is_empty() {
        return Ok(());
    }
    let id = held_key(&record.app_id, &record.notify_id, String::new()).id;
    if let Some(subject) = held.remove(&id) {
        let mut delete = transaction.prepare_cached("DELETE FROM event WHERE subject = ?1 AND id = ?2")?;
        delete.execute(params![subject, id])?;
    }
    Ok(())
}

fn write_deferral(
    transaction: &Transaction<'_>,
    deferral: &Deferral,
    deferred: &mut u64,
    max_deferred: u64,
) -> Result<Kept> {
    match state_at(transaction, &deferral.key)? {
        Some(settled @ (State::Recorded | State::Unrouted | State::Dropped)) => {
            return Ok(Kept::Settled(settled));
        }
        Some(State::Deferred | State::InDoubt) => {}
        Some(State::Held) | None if *deferred >= max_deferred => return Ok(Kept::Full),
        Some(State::Held) | None => *deferred += 1,
    }
    // A message is plain strings: it cannot fail to serialise.
    let message = serde_json::to_vec(&deferral.message).unwrap_or_default();
    let mut insert = transaction.prepare_cached(
        "INSERT INTO event (subject, id, state, type, digest, notify_id, first_at, at, attempts, reason,
           payment_at, message)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, 1, ?8, ?9, ?10)
         ON CONFLICT (subject, id) DO UPDATE SET state = ?3, type = ?4, digest = ?5, notify_id = ?6, at = ?7,
           attempts = attempts + 1, reason = ?8, payment_at = ?9, message = ?10",
    )?;
    insert.execute(params![
        deferral.key.subject,
        deferral.key.id,
        code_of(deferral.state),
        deferral.event_type.as_str(),
        deferral.digest.as_bytes(),
        deferral.notify_id,
        deferral.at.unix_millis(),
        deferral.cause.as_str(),
        deferral.payment_time.map(Timestamp::unix_millis),
        message,
    ])?;
    Ok(Kept::Yes)
}

fn write_holding(
    transaction: &Transaction<'_>,
    holding: &Holding,
    held: &mut HashMap<String, String>,
    max_held: u64,
) -> Result<Kept> {
    match state_at(transaction, &holding.key)? {
        Some(settled @ (State::Dropped | State::Recorded)) => return Ok(Kept::Settled(settled)),
        Some(_) => {}
        None if u64::try_from(held.len()).unwrap_or(u64::MAX) >= max_held => return Ok(Kept::Full),
        None => {}
    }
    let mut insert = transaction.prepare_cached(
        "INSERT INTO event (subject, id, state, notify_id, first_at, at, attempts, reason, message)
         VALUES (?1, ?2, 3, ?3, ?4, ?4, 1, ?5, ?6)
         ON CONFLICT (subject, id) DO UPDATE SET state = 3, at = ?4, attempts = attempts + 1, reason = ?5,
           message = ?6",
    )?;
    insert.execute(params![
        holding.key.subject,
        holding.key.id,
        holding.notify_id,
        holding.at.unix_millis(),
        holding.reason,
        holding.body,
    ])?;
    held.insert(holding.key.id.clone(), holding.key.subject.clone());
    Ok(Kept::Yes)
}

/// One answer if it took effect, none if nothing waits there.
fn write_decision(
    transaction: &Transaction<'_>,
    decision: &Decision,
    held: &mut HashMap<String, String>,
    deferred: &mut u64,
) -> Result<Vec<Kept>> {
    match state_at(transaction, &decision.key)? {
        Some(State::Deferred | State::InDoubt) => *deferred -= 1,
        Some(State::Held) => {
            held.remove(&decision.key.id);
        }
        // The record of its event has cleared what was held.
        None if decision.state == State::Recorded => {}
        Some(State::Recorded | State::Unrouted | State::Dropped) | None => return Ok(Vec::new()),
    }
    let mut write = transaction.prepare_cached(
        "INSERT INTO event (subject, id, state, notify_id, first_at, at, attempts, reason, expires_at)
         VALUES (?1, ?2, ?3, ?7, ?5, ?5, 1, ?4, ?6)
         ON CONFLICT (subject, id) DO UPDATE SET state = ?3, reason = ?4, at = ?5, expires_at = ?6, message = NULL",
    )?;
    write.execute(params![
        decision.key.subject,
        decision.key.id,
        code_of(decision.state),
        decision.reason,
        decision.at.unix_millis(),
        decision.expires_at.unix_millis(),
        decision.notify_id,
    ])?;
    Ok(vec![Kept::Yes])
}

fn state_at(transaction: &Transaction<'_>, key: &Key) -> Result<Option<State>> {
    let mut select = transaction.prepare_cached("SELECT state FROM event WHERE subject = ?1 AND id = ?2")?;
    let state = select.query_row(params![key.subject, key.id], |row| row.get::<_, i64>(0)).optional()?;
    Ok(state.and_then(state_of))
}

/// Whether an error means that the file is not what it should be, and not that it cannot be written.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

fn migrate(connection: &Connection) -> Result<()> {
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let application: i64 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    match (version, application) {
        (0, 0) => connection.execute_batch(&format!(
            "BEGIN IMMEDIATE; {SCHEMA}; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1; COMMIT;"
        )),
        (1, APPLICATION_ID) => Ok(()),
        (newer, APPLICATION_ID) => Err(refuse(format!("the file is of a newer version ({newer}) of the gateway"))),
        (_, _) => Err(refuse("the file is a database of another program".to_owned())),
    }
}

fn refuse(message: String) -> rusqlite::Error {
    rusqlite::Error::InvalidParameterName(message)
}

/// The file holds buyers' data while something waits: nobody else reads it.
fn prepare(path: &Path) {
    // What cannot be made here fails at open, with its own message.
    if let Some(parent) = path.parent() {
        let _ = fs::create_dir_all(parent);
    }
    let _ = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path);
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).map(|metadata| metadata.ino()).unwrap_or(0)
}

fn code_of(state: State) -> i64 {
    match state {
        State::Recorded => 0,
        State::Deferred => 1,
        State::InDoubt => 2,
        State::Held => 3,
        State::Unrouted => 4,
        State::Dropped => 5,
    }
}

fn state_of(code: i64) -> Option<State> {
    State::ALL.into_iter().find(|state| code_of(*state) == code)
}

fn waiting_of(row: &rusqlite::Row<'_>) -> Result<Waiting> {
    Ok(Waiting {
        key: Key { subject: row.get(0)?, id: row.get(1)? },
        state: state_of(row.get(2)?).unwrap_or(State::Held),
        digest: row.get::<_, Option<[u8; 32]>>(3)?.map(Digest::from_bytes),
        notify_id: row.get(4)?,
        payment_time: row.get::<_, Option<i64>>(5)?.map(Timestamp::from_unix_millis),
        reason: row.get::<_, Option<String>>(6)?.unwrap_or_default(),
        content: row.get::<_, Option<Vec<u8>>>(7)?.unwrap_or_default(),
        event_type: row.get::<_, Option<String>>(8)?.as_deref().and_then(EventType::from_name),
    })
}

const WAITING: &str = "subject, id, state, digest, notify_id, payment_at, reason, message, type";
/// The columns' order is the order of their use; `digest` is null for what is held. Times are milliseconds
/// since the epoch.
const SCHEMA: &str = "
CREATE TABLE event (
  subject TEXT NOT NULL, id TEXT NOT NULL, state INTEGER NOT NULL, digest BLOB, notify_id TEXT NOT NULL,
  type TEXT, first_at INTEGER NOT NULL, at INTEGER NOT NULL, attempts INTEGER NOT NULL, expires_at INTEGER,
  reason TEXT, payment_at INTEGER, message BLOB, PRIMARY KEY (subject, id)
);
CREATE INDEX unsettled ON event (state, first_at) WHERE state IN (1, 2, 3)";
/// 'ANGW'
const APPLICATION_ID: i64 = 0x414e_4757;
const BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_millis(500);
/// Bound: rows that one sweep looks at.
const SWEEP: i64 = 256;
/// Sorts behind every subject, which are ASCII.
const AFTER_ALL: &str = "\u{10ffff}";
