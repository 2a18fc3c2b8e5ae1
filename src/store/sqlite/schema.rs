//! The file's table, its versions, and whose it is.

use rusqlite::Connection;

use super::core::{Error, Result};

/// Brings the file to this version, and makes it if it is empty.
pub(super) fn migrate(connection: &Connection) -> Result<()> {
    let from = match whose(connection)? {
        Whose::Ours => return Ok(()),
        Whose::First => "",
        Whose::Second => DROP_SECOND,
        Whose::Nobodys => SCHEMA,
    };
    Ok(connection.execute_batch(&format!(
        "BEGIN IMMEDIATE; {from} {THIRD} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};
         COMMIT;"
    ))?)
}

/// Whose the file is, if we may write it.
pub(super) enum Whose {
    Ours,
    /// Ours, of the first version.
    First,
    /// Ours, of the second.
    Second,
    /// It is empty.
    Nobodys,
}

pub(super) fn whose(connection: &Connection) -> Result<Whose> {
    let is_empty =
        || connection.query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0));
    match versions(connection)? {
        (VERSION, APPLICATION_ID) => Ok(Whose::Ours),
        (1, APPLICATION_ID) => Ok(Whose::First),
        (2, APPLICATION_ID) => Ok(Whose::Second),
        // Most programs give their files neither number.
        (0, 0) if is_empty()? => Ok(Whose::Nobodys),
        other => Err(refusal(other)),
    }
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
/// since the epoch. [`pages`](super::pages) reads the stored columns without SQLite: they stay the first thirteen.
pub(super) const SCHEMA: &str = "
CREATE TABLE event (
  subject TEXT NOT NULL, id TEXT NOT NULL, state INTEGER NOT NULL, digest BLOB, notify_id TEXT NOT NULL,
  type TEXT, first_at INTEGER NOT NULL, at INTEGER NOT NULL, attempts INTEGER NOT NULL, expires_at INTEGER,
  reason TEXT, payment_at INTEGER, message BLOB, PRIMARY KEY (subject, id)
);";
/// What version 2 had in their place.
const DROP_SECOND: &str = "
DROP INDEX unsettled; DROP INDEX due; ALTER TABLE event DROP COLUMN due_at; ALTER TABLE event DROP COLUMN is_refused;";
/// What makes version 3 of version 1: `store::back_off` and `store::DOUBT` as columns that are computed, and indices
/// that answer without reading what is recorded. Without `IN`: for a list of more than two SQLite makes a table in memory
/// for each row that it writes, which was an eighth of the instructions that are not RSA.
const THIRD: &str = "
ALTER TABLE event ADD COLUMN due_at INTEGER GENERATED ALWAYS AS (
  CASE state WHEN 1 THEN at + CASE reason WHEN 'broker_down' THEN 1000 WHEN 'broker_blocked' THEN 1000
    WHEN 'late' THEN 1000 WHEN 'suspended' THEN 1000 ELSE min(600000, 1000 << min(attempts - 1, 10)) END
  WHEN 2 THEN at + 60000 END) VIRTUAL;
ALTER TABLE event ADD COLUMN is_refused INTEGER GENERATED ALWAYS AS (
  CASE reason WHEN 'returned' THEN 1 WHEN 'nacked' THEN 1 WHEN 'in_doubt' THEN 1 WHEN 'channel_closed' THEN 1
    ELSE 0 END) VIRTUAL;
DROP INDEX IF EXISTS unsettled;
CREATE INDEX unsettled ON event (state, first_at, payment_at) WHERE state BETWEEN 1 AND 3;
CREATE INDEX due ON event (is_refused, due_at, type) WHERE state BETWEEN 1 AND 2;";
pub(super) const VERSION: i64 = 3;
/// 'ANGW'
pub(super) const APPLICATION_ID: i64 = 0x414e_4757;
