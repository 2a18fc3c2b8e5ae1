//! What has expired goes, and the store remembers how far back it still goes.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _};

use super::core::{Core, Result};
use super::transaction::{Transaction, Writing};
use crate::clock::Timestamp;

impl Core {
    /// Deletes some of what has expired, and moves on: nothing that the present retention keeps, which may be longer than the one
    /// under which it was written. Bound: [`SWEEP`] rows looked at.
    pub(super) fn sweep(&mut self, now: Timestamp, retention: Duration) -> Result<usize> {
        let mut writing = Writing::begin(&self.connection, &mut self.places)?;
        let last: Option<i64> = writing
            .prepare_cached("SELECT row FROM event WHERE row > ?1 ORDER BY row LIMIT 1 OFFSET ?2")?
            .query_row([self.swept, SWEEP - 1], |row| row.get(0))
            .optional()?;
        let gone: Vec<(i64, Option<Vec<u8>>, Option<i64>)> = writing
            .prepare_cached(
                "DELETE FROM event WHERE row > ?1 AND row <= ?2 AND state IN (0, 4, 5) AND expires_at < ?3
                   AND NOT (typeof(at) = 'integer' AND at >= ?4)
                 RETURNING row, CAST(subject AS BLOB), CAST(at AS INTEGER)",
            )?
            .query_map(
                [
                    self.swept,
                    last.unwrap_or(i64::MAX),
                    now.unix_millis(),
                    now.before(retention).unix_millis(),
                ],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )?
            .collect::<rusqlite::Result<_>>()?;
        for (row, subject, _) in &gone {
            writing.let_go(subject.as_deref().unwrap_or_default(), *row)?;
        }
        if let Some(at) = gone.iter().filter_map(|(.., at)| *at).max() {
            // Where the retention is raised, what is older than this is not known to be new.
            set_forgotten(&writing, at)?;
        }
        writing.commit()?;
        self.swept = last.unwrap_or(0);
        Ok(gone.len())
    }

    /// When the newest was announced, or decided about, of what was ever deleted.
    pub(super) fn forgotten(&self) -> Result<Timestamp> {
        forgotten(&self.connection)
    }

    /// Takes over what the store has forgotten from which entries are brought.
    pub(super) fn bring_forgotten(&mut self, at: Timestamp) -> Result<()> {
        if at > self.forgotten()? {
            let transaction = Transaction::to_write(&self.connection)?;
            set_forgotten(&transaction, at.unix_millis())?;
            transaction.commit()?;
        }
        Ok(())
    }
}

/// See [`Core::forgotten`].
pub(super) fn forgotten(connection: &Connection) -> Result<Timestamp> {
    let has_deleted = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'forgotten')";
    if !connection.query_row(has_deleted, [], |row| row.get::<_, bool>(0))? {
        return Ok(Timestamp::default());
    }
    let newest: Option<i64> = connection.query_row("SELECT max(at) FROM forgotten", [], |row| row.get(0))?;
    Ok(newest.map(Timestamp::from_unix_millis).unwrap_or_default())
}

fn set_forgotten(connection: &Connection, at: i64) -> Result<()> {
    connection.execute_batch(FORGOTTEN)?;
    let sql = "INSERT INTO forgotten (id, at) VALUES (1, ?1) ON CONFLICT (id) DO UPDATE SET at = max(at, ?1)";
    connection.prepare_cached(sql)?.execute([at])?;
    Ok(())
}

/// Made when something is deleted, so that a file of before gets it, too.
const FORGOTTEN: &str = "CREATE TABLE IF NOT EXISTS forgotten (id INTEGER PRIMARY KEY, at INTEGER NOT NULL)";
/// Bound: rows that one sweep looks at.
const SWEEP: i64 = 256;
