//! Where the rows of a subject lie: an index that is written behind the rows.
//!
//! Rows lie one behind another, so that a commit appends few pages. An index of them by subject that were part of each
//! commit would change a page of its own for nearly every row, because trades come in no order: nine tenths of all pages
//! that were written. So what is newest is remembered in memory alone, and goes into the table `place` in slices of
//! neighbours, which share their pages.
//!
//! **What holds**: each row is in `place`, or its number is above the one in `placed`; and what is above it and not in
//! `place` is in memory, because the gateway that opens the file reads it. `place` may name rows that are gone, and rows of
//! another subject with the same hash: what is found is looked at. Who writes rows beside the gateway puts them into `place`
//! ([`Core::merge`](super::core::Core::merge)); rows that somebody writes with a shell are found within a second, if their
//! numbers are the highest.

use std::collections::BTreeSet;
use std::ops::Bound;

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::core::Result;
use super::transaction::{Transaction, Writing};
use crate::event::Key;

/// The index of one connection.
#[derive(Debug)]
pub(super) struct Places {
    /// What may not be in `place` yet. Bound: [`MOST`], and what one transaction brings; more on a connection that is only
    /// looked at.
    recent: BTreeSet<Place>,
    /// The slices have gone so far in this turn.
    cursor: Option<Place>,
    /// At the end of this turn, every row up to here is in `place`. A row that is written later and has such a number
    /// (SQLite gives the last one's again, once that is deleted) may have its place behind the cursor.
    turn: i64,
    /// What `placed` said when the transaction began.
    placed: i64,
    /// Rows that the transaction has written.
    added: usize,
    /// What it has put into `place`, or deleted.
    leaving: Vec<Place>,
    /// [`MUCH`] and [`SLICE`].
    much: usize,
    slice: usize,
}

/// A subject's hash, and the row.
type Place = (i64, i64);

impl Places {
    /// Knows of nothing that is in no table: enough for who only merges.
    pub(super) const fn new() -> Self {
        Self {
            recent: BTreeSet::new(),
            cursor: None,
            turn: 0,
            placed: 0,
            added: 0,
            leaving: Vec::new(),
            much: MUCH,
            slice: SLICE,
        }
    }

    /// Reads what is not in `place` yet, of a file that was just opened. If it is much, as in a file of an earlier version,
    /// it goes into `place` first.
    pub(super) fn open(&mut self, connection: &Connection) -> Result<()> {
        heal(connection)?;
        self.catch_up(connection)
    }

    /// The same of a file that is open, because somebody with a shell may have written rows; begins a turn. Where that
    /// happens all the time no turn ends, so what is too much goes into `place` here, too.
    pub(super) fn catch_up(&mut self, connection: &Connection) -> Result<()> {
        while count(connection)? > MOST {
            let mut writing = Writing::begin(connection, self)?;
            writing.place_rest(AT_ONCE)?;
            writing.commit()?;
        }
        self.read(connection)
    }

    /// Reads it, however much it is, and writes nothing.
    pub(super) fn read(&mut self, connection: &Connection) -> Result<()> {
        let mut select = connection.prepare_cached(NOT_PLACED)?;
        let mut rows = select.query([-1])?;
        while let Some(row) = rows.next()? {
            self.recent.insert(place_of(row)?);
        }
        self.turn = last_row(connection)?;
        self.cursor = None;
        Ok(())
    }

    /// What a transaction that writes does first.
    pub(super) fn begin(&mut self, transaction: &Transaction<'_>) -> Result<()> {
        self.leaving.clear();
        self.added = 0;
        // Another process may have put something into `place`.
        let mut select = transaction.prepare_cached("SELECT row FROM placed")?;
        self.placed = select.query_row([], |row| row.get(0))?;
        Ok(())
    }

    /// What it does last, once it is committed: after an error nothing is written on this connection any more, but it goes
    /// on answering questions, and what was rolled back is in memory alone.
    pub(super) fn committed(&mut self) {
        for place in std::mem::take(&mut self.leaving) {
            self.recent.remove(&place);
        }
    }

    /// Looks for the row of a key: `sql` has the conditions `row = ?1 AND subject = ?2 AND id = ?3`.
    pub(super) fn look<T>(
        &self,
        connection: &Connection,
        key: &Key,
        sql: &str,
        mut read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>> {
        for row in self.rows(connection, &key.subject)? {
            let mut select = connection.prepare_cached(sql)?;
            let found = select.query_row(params![row, key.subject, key.id], &mut read).optional()?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The rows that may be of this subject.
    pub(super) fn rows(&self, connection: &Connection, subject: &str) -> Result<Vec<i64>> {
        let hash = hash(subject.as_bytes());
        let mut found: Vec<i64> =
            self.recent.range((hash, i64::MIN)..=(hash, i64::MAX)).map(|place| place.1).collect();
        let mut select = connection.prepare_cached("SELECT row FROM place WHERE hash = ?1")?;
        let mut rows = select.query([hash])?;
        while let Some(row) = rows.next()? {
            let row = row.get(0)?;
            if !found.contains(&row) {
                found.push(row);
            }
        }
        Ok(found)
    }

    /// Takes a row that was just written.
    pub(super) fn add(&mut self, connection: &Connection, subject: &str, row: i64) -> Result<()> {
        let place = (hash(subject.as_bytes()), row);
        if row <= self.placed.max(self.turn) {
            return put(connection, place);
        }
        // The number of a row that the same transaction has deleted, and the same subject.
        self.leaving.retain(|leaving| *leaving != place);
        self.added += 1;
        self.recent.insert(place);
        Ok(())
    }

    /// Lets a row go that was just deleted.
    pub(super) fn remove(&mut self, connection: &Connection, subject: &[u8], row: i64) -> Result<()> {
        let place = (hash(subject), row);
        self.leaving.push(place);
        let mut delete = connection.prepare_cached("DELETE FROM place WHERE hash = ?1 AND row = ?2")?;
        delete.execute([place.0, place.1])?;
        Ok(())
    }

    /// Puts the next slice into `place`, if much is in memory alone.
    pub(super) fn place_some(&mut self, connection: &Connection) -> Result<()> {
        if self.recent.len() <= self.much {
            return Ok(());
        }
        let slice = self.slice.max(2 * self.added);
        let from = self.cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let places: Vec<Place> = self.recent.range((from, Bound::Unbounded)).take(slice).copied().collect();
        let is_there = |place: &&Place| !self.leaving.contains(place);
        places.iter().filter(is_there).try_for_each(|place| put(connection, *place))?;
        if places.len() == slice {
            self.cursor = places.last().copied();
        } else {
            // All hashes have had their slice since the turn began.
            set_placed(connection, self.turn)?;
            self.turn = last_row(connection)?;
            self.cursor = None;
        }
        self.leaving.extend(places);
        Ok(())
    }

    /// Puts up to so many rows that are above `placed` into `place`, and raises `placed`. How many there were.
    pub(super) fn place_rest(&mut self, connection: &Connection, limit: usize) -> Result<usize> {
        let mut places = Vec::new();
        {
            let mut select = connection.prepare_cached(NOT_PLACED)?;
            let mut rows = select.query([i64::try_from(limit).unwrap_or(i64::MAX)])?;
            while let Some(row) = rows.next()? {
                places.push(place_of(row)?);
            }
        }
        let Some(&(_, last)) = places.last() else { return Ok(0) };
        places.sort_unstable();
        places.iter().try_for_each(|place| put(connection, *place))?;
        set_placed(connection, last)?;
        self.placed = last;
        let count = places.len();
        self.leaving.extend(places);
        Ok(count)
    }
}

fn put(connection: &Connection, (hash, row): Place) -> Result<()> {
    connection
        .prepare_cached("INSERT OR IGNORE INTO place (hash, row) VALUES (?1, ?2)")?
        .execute([hash, row])?;
    Ok(())
}

fn set_placed(connection: &Connection, row: i64) -> Result<()> {
    connection.prepare_cached("UPDATE placed SET row = max(row, ?1)")?.execute([row])?;
    Ok(())
}

fn last_row(connection: &Connection) -> Result<i64> {
    let mut select = connection.prepare_cached("SELECT coalesce(max(row), 0) FROM event")?;
    Ok(select.query_row([], |row| row.get(0))?)
}

/// How many rows may not be in `place`; no more than one above [`MOST`] are counted.
fn count(connection: &Connection) -> Result<usize> {
    let sql = "SELECT count(*) FROM (SELECT 1 FROM event WHERE row > (SELECT row FROM placed) LIMIT ?1)";
    let limit = i64::try_from(MOST + 1).unwrap_or(i64::MAX);
    let count: i64 = connection.query_row(sql, [limit], |row| row.get(0))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Makes `placed` anew, so that everything is placed again, where it is gone, or the newest row that it covers is in no
/// place: somebody with a shell has emptied one of the two.
pub(super) fn heal(connection: &Connection) -> Result<()> {
    let placed: Option<i64> =
        connection.query_row("SELECT (SELECT row FROM placed)", [], |row| row.get(0))?;
    let newest = "SELECT row, subject FROM event WHERE row <= ?1 ORDER BY row DESC LIMIT 1";
    let covered = connection.query_row(newest, [placed], |row| Ok(place_of(row))).optional()?.transpose()?;
    let is_there = |place: Place| {
        let sql = "SELECT EXISTS (SELECT 1 FROM place WHERE hash = ?1 AND row = ?2)";
        connection.query_row(sql, [place.0, place.1], |row| row.get::<_, bool>(0))
    };
    if placed.is_some() && covered.map_or(Ok(true), is_there)? {
        return Ok(());
    }
    tracing::warn!("the index of the store is gone: it is made again");
    Ok(connection.execute_batch(
        "BEGIN IMMEDIATE; DELETE FROM placed; INSERT INTO placed (id, row) VALUES (1, 0); COMMIT",
    )?)
}

fn place_of(row: &Row<'_>) -> Result<Place> {
    // Bytes, because those of a damaged row may be no text; or it is none at all, and found under no key.
    Ok((hash(row.get_ref(1)?.as_bytes().unwrap_or_default()), row.get(0)?))
}

/// FNV-1a, folded to what SQLite stores in six bytes. In the file: never to be changed. Subjects of authentic
/// notifications alone come here, and a collision costs a look at a row.
fn hash(subject: &[u8]) -> i64 {
    let hash = subject.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    ((hash ^ (hash >> 47)) & ((1 << 47) - 1)).cast_signed()
}

const NOT_PLACED: &str =
    "SELECT row, subject FROM event WHERE row > (SELECT row FROM placed) ORDER BY row LIMIT ?1";
/// Rows that are remembered in memory alone before slices go into `place`: about a MiB. The more there are, the more
/// neighbours share a page, and the longer takes a start after a crash.
const MUCH: usize = 16_384;
/// What is above `placed` at the most where nobody disturbs the turns: each brings about twice [`MUCH`], so that some five
/// times as many stand above it, and nine times in the turn after a start (by simulation).
const MOST: usize = 10 * MUCH;
/// Rows that go into `place` with a commit, or twice as many as it writes.
const SLICE: usize = 512;
/// The same where more than [`MOST`] are in no place.
const AT_ONCE: usize = 1_000_000;

#[cfg(test)]
mod tests;
