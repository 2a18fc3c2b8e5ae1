//! Transactions, and how rows are found and written in one.

use std::ops::Deref;

use rusqlite::{Connection, Row, ToSql, params_from_iter};

use super::core::Result;
use super::places::Places;
use crate::event::Key;

/// A transaction, with statements that are kept like any other: parsing two such short ones took longer than a look at a
/// key. What is not committed is as if it had never been.
pub(super) struct Transaction<'a>(&'a Connection);

impl<'a> Transaction<'a> {
    /// Sees one moment of the file.
    pub(super) fn to_read(connection: &'a Connection) -> Result<Self> {
        Self::begin(connection, "BEGIN")
    }

    /// Nobody else writes meanwhile.
    pub(super) fn to_write(connection: &'a Connection) -> Result<Self> {
        Self::begin(connection, "BEGIN IMMEDIATE")
    }

    fn begin(connection: &'a Connection, statement: &str) -> Result<Self> {
        connection.prepare_cached(statement)?.execute([])?;
        Ok(Self(connection))
    }

    pub(super) fn commit(self) -> Result<()> {
        self.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }
}

impl Deref for Transaction<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.0
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        // After its commit there is none, and after some errors neither.
        if !self.is_autocommit() {
            let _ = self.execute_batch("ROLLBACK");
        }
    }
}

/// A transaction that writes rows and where they lie.
pub(super) struct Writing<'a> {
    transaction: Transaction<'a>,
    places: &'a mut Places,
}

impl<'a> Writing<'a> {
    pub(super) fn begin(connection: &'a Connection, places: &'a mut Places) -> Result<Self> {
        let transaction = Transaction::to_write(connection)?;
        places.begin(&transaction)?;
        Ok(Self { transaction, places })
    }

    pub(super) fn commit(self) -> Result<()> {
        self.transaction.commit()?;
        self.places.committed();
        Ok(())
    }

    /// Looks for the row of a key: `sql` has the conditions `row = ?1 AND subject = ?2 AND id = ?3`.
    pub(super) fn look<T>(
        &self,
        key: &Key,
        sql: &str,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>> {
        self.places.look(&self.transaction, key, sql, read)
    }

    /// The row of a key.
    pub(super) fn row(&self, key: &Key) -> Result<Option<i64>> {
        self.look(key, "SELECT row FROM event WHERE row = ?1 AND subject = ?2 AND id = ?3", |row| row.get(0))
    }

    /// Writes the row of a key, or makes it: `sql` inserts `(row, subject, id, …)`, with these values from `?4` on, and says
    /// what is done `ON CONFLICT (row)`.
    pub(super) fn put(&mut self, key: &Key, sql: &str, values: &[&dyn ToSql]) -> Result<()> {
        let row = self.row(key)?;
        let known: [&dyn ToSql; 3] = [&row, &key.subject, &key.id];
        self.prepare_cached(sql)?.execute(params_from_iter(known.iter().chain(values)))?;
        if row.is_none() {
            self.places.add(&self.transaction, &key.subject, self.transaction.last_insert_rowid())?;
        }
        Ok(())
    }

    /// Deletes the row of a key, if there is one.
    pub(super) fn delete(&mut self, key: &Key) -> Result<()> {
        if let Some(row) = self.row(key)? {
            self.prepare_cached("DELETE FROM event WHERE row = ?1")?.execute([row])?;
            self.let_go(key.subject.as_bytes(), row)?;
        }
        Ok(())
    }

    /// A row was deleted.
    pub(super) fn let_go(&mut self, subject: &[u8], row: i64) -> Result<()> {
        self.places.remove(&self.transaction, subject, row)
    }

    /// See [`Places::place_some`].
    pub(super) fn place_some(&mut self) -> Result<()> {
        self.places.place_some(&self.transaction)
    }

    /// See [`Places::place_rest`].
    pub(super) fn place_rest(&mut self, limit: usize) -> Result<usize> {
        self.places.place_rest(&self.transaction, limit)
    }
}

impl Deref for Writing<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.transaction
    }
}
