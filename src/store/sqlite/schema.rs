//! The file's table, its versions, and whose it is.

use rusqlite::Connection;

use super::core::{Error, Result};

/// Brings the file to this version, and makes it if it is empty.
pub(super) fn migrate(connection: &Connection) -> Result<()> {
    let (before, after) = match whose(connection)? {
        Whose::Ours => return Ok(()),
        Whose::Earlier => {
            tracing::warn!(
                "the store's file is of an earlier version: its rows are copied, which takes a while"
            );
            (SET_ASIDE, COPY)
        }
        Whose::Nobodys => ("", ""),
    };
    Ok(connection.execute_batch(&format!(
        "BEGIN IMMEDIATE; {before} {SCHEMA} {after} PRAGMA application_id = {APPLICATION_ID};
         PRAGMA user_version = {VERSION}; COMMIT;"
    ))?)
}

/// Whose the file is, if we may write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Ours,
    /// Ours, of an earlier version.
    Earlier,
    /// It is empty.
    Nobodys,
}

pub(super) fn whose(connection: &Connection) -> Result<Whose> {
    let is_empty =
        || connection.query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0));
    match versions(connection)? {
        (VERSION, APPLICATION_ID) => Ok(Whose::Ours),
        (1..VERSION, APPLICATION_ID) => Ok(Whose::Earlier),
        // Most programs give their files neither number.
        (0, 0) if is_empty()? => Ok(Whose::Nobodys),
        other => Err(refusal(other)),
    }
}

/// Bytes of the file that are in use.
pub(super) fn content(connection: &Connection) -> Result<u64> {
    let number = |pragma: &str| connection.query_row(pragma, [], |row| row.get::<_, i64>(0));
    let pages = number("PRAGMA page_count")?.saturating_sub(number("PRAGMA freelist_count")?);
    Ok(u64::try_from(pages.saturating_mul(number("PRAGMA page_size")?)).unwrap_or(0))
}

/// Whether so many bytes of rows can be copied where so many are free: at most once in the log and once in the file. A gateway
/// that found out in the middle would have no store, and try again all the time.
pub(super) fn room_to_copy(content: u64, free: f64) -> Result<()> {
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let needed = content as f64 * 2.0;
    if free < needed {
        let mib = |bytes: f64| (bytes / 1_048_576.0).ceil();
        return Err(Error::Refused(format!(
            "it is of an earlier version, to copy its rows takes {} MiB of free disk, and there are {}",
            mib(needed),
            mib(free)
        )));
    }
    Ok(())
}

/// The version of the file, and whose it is.
pub(super) fn versions(connection: &Connection) -> Result<(i64, i64)> {
    let number = |pragma: &str| connection.query_row(pragma, [], |row| row.get(0));
    Ok((number("PRAGMA user_version")?, number("PRAGMA application_id")?))
}

fn refusal((version, application): (i64, i64)) -> Error {
    Error::Refused(match application {
        APPLICATION_ID => format!("the file is of a newer version ({version}) of the gateway"),
        _ => "the file is a database of another program".to_owned(),
    })
}

/// Whether it is ours, of a version that can be read as it is.
pub(super) fn readable(connection: &Connection) -> Result<()> {
    match versions(connection)? {
        (1..=VERSION, APPLICATION_ID) => Ok(()),
        other => Err(refusal(other)),
    }
}

/// The columns' order is the order of their use; `digest` is null for what is held. Times are milliseconds
/// since the epoch. [`pages`](super::pages) reads the stored columns without SQLite: they stay the first thirteen. `row` has
/// a name, or a `VACUUM` would give other numbers.
/// The two that follow are `store::back_off` and `store::DOUBT`, computed, and the indices answer without reading what is
/// recorded. Without `IN`: for a list of more than two SQLite makes a table in memory for each row that it writes, which was
/// an eighth of the instructions that are not RSA. `place` and `placed` are of [`places`](super::places), and keep a key
/// from having two rows in the place of a constraint.
const SCHEMA: &str = "
CREATE TABLE event (
  subject TEXT NOT NULL, id TEXT NOT NULL, state INTEGER NOT NULL, digest BLOB, notify_id TEXT NOT NULL,
  type TEXT, first_at INTEGER NOT NULL, at INTEGER NOT NULL, attempts INTEGER NOT NULL, expires_at INTEGER,
  reason TEXT, payment_at INTEGER, message BLOB, row INTEGER PRIMARY KEY,
  due_at INTEGER GENERATED ALWAYS AS (
    CASE state WHEN 1 THEN at + CASE reason WHEN 'broker_down' THEN 1000 WHEN 'broker_blocked' THEN 1000
      WHEN 'late' THEN 1000 WHEN 'suspended' THEN 1000 ELSE min(600000, 1000 << min(attempts - 1, 10)) END
    WHEN 2 THEN at + 60000 END) VIRTUAL,
  is_refused INTEGER GENERATED ALWAYS AS (
    CASE reason WHEN 'returned' THEN 1 WHEN 'nacked' THEN 1 WHEN 'in_doubt' THEN 1 WHEN 'channel_closed' THEN 1
      ELSE 0 END) VIRTUAL
);
CREATE INDEX unsettled ON event (state, first_at, payment_at) WHERE state BETWEEN 1 AND 3;
CREATE INDEX due ON event (is_refused, due_at, type) WHERE state BETWEEN 1 AND 2;
CREATE TABLE place (hash INTEGER NOT NULL, row INTEGER NOT NULL, PRIMARY KEY (hash, row)) WITHOUT ROWID;
CREATE TABLE placed (id INTEGER PRIMARY KEY, row INTEGER NOT NULL);
INSERT INTO placed (id, row) VALUES (1, 0);";
/// What versions 1 to 3 had: an index of the keys, which each commit wrote. Their rows are copied, and the room that they took is
/// used again afterwards.
const SET_ASIDE: &str = "
DROP INDEX IF EXISTS unsettled; DROP INDEX IF EXISTS due; ALTER TABLE event RENAME TO earlier;";
const COPY: &str = "
INSERT INTO event (subject, id, state, digest, notify_id, type, first_at, at, attempts, expires_at, reason, payment_at,
  message)
SELECT subject, id, state, digest, notify_id, type, first_at, at, attempts, expires_at, reason, payment_at, message
  FROM earlier;
DROP TABLE earlier;";
pub(super) const VERSION: i64 = 4;
/// 'ANGW'
pub(super) const APPLICATION_ID: i64 = 0x414e_4757;
