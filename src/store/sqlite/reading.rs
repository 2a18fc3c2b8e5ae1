//! How the columns of a row become what is kept of an event. A row that does not read as it was written harms its own event, and no
//! other: whoever reads many goes on behind it.

use rusqlite::Row;

use super::load::Weight;
use crate::clock::Timestamp;
use crate::event::{Digest, EventType, Key};
use crate::store::{Cause, Entry, Known, State, Waiting};

pub(super) const KNOWN: &str = "SELECT state, digest, notify_id FROM event
  WHERE row = ?1 AND subject = ?2 AND id = ?3 AND digest IS NOT NULL";
pub(super) const WAITING: &str =
    "subject, id, state, digest, notify_id, payment_at, reason, message, type, first_at, row";
pub(super) const ENTRY: &str =
    "subject, id, state, digest, notify_id, type, first_at, at, attempts, expires_at, reason,
  payment_at, message";

/// `None` if the row does not read as it was written (flipped bits): that harms its own event, and no other.
pub(super) fn readable<T>(read: rusqlite::Result<T>) -> rusqlite::Result<Option<T>> {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
    match read {
        Ok(value) => Ok(Some(value)),
        Err(
            FromSqlConversionFailure(..)
            | IntegralValueOutOfRange(..)
            | InvalidColumnType(..)
            | Utf8Error(..),
        ) => Ok(None),
        Err(error) => Err(error),
    }
}

/// As in [`KNOWN`]. `None` for a state that there is not.
pub(super) fn known_of(row: &Row<'_>) -> rusqlite::Result<Option<Known>> {
    let (digest, notify_id) = (Digest::from_bytes(row.get(1)?), row.get(2)?);
    Ok(State::from_code(row.get(0)?).map(|state| Known { state, digest, notify_id }))
}

/// As in [`WAITING`]. One that cannot be read has no content, and its row's number for an id: it is named in the log, and left.
pub(super) fn waiting_of(row: &Row<'_>) -> rusqlite::Result<Waiting> {
    let read = || {
        Ok(Waiting {
            key: Key { subject: row.get(0)?, id: row.get(1)? },
            state: State::from_code(row.get(2)?).unwrap_or(State::Held),
            digest: row.get::<_, Option<[u8; 32]>>(3)?.map(Digest::from_bytes),
            notify_id: row.get(4)?,
            payment_time: row.get::<_, Option<i64>>(5)?.map(Timestamp::from_unix_millis),
            reason: row.get::<_, Option<String>>(6)?.unwrap_or_default(),
            content: row.get::<_, Option<Vec<u8>>>(7)?.unwrap_or_default(),
            event_type: row.get::<_, Option<String>>(8)?.as_deref().and_then(EventType::from_name),
            first_at: Timestamp::from_unix_millis(row.get(9)?),
        })
    };
    if let Some(waiting) = readable(read())? {
        return Ok(waiting);
    }
    let number: i64 = row.get(10)?;
    Ok(Waiting {
        key: Key { subject: String::new(), id: format!("row {number}") },
        state: State::Deferred,
        digest: None,
        notify_id: String::new(),
        payment_time: None,
        reason: String::new(),
        content: Vec::new(),
        event_type: None,
        first_at: Timestamp::from_unix_millis(0),
    })
}

/// As in [`ENTRY`].
pub(super) fn entry_of(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let time = |at: Option<i64>| at.map(Timestamp::from_unix_millis);
    Ok(Entry {
        key: Key { subject: row.get(0)?, id: row.get(1)? },
        state: State::from_code(row.get(2)?).unwrap_or(State::Held),
        digest: row.get::<_, Option<[u8; 32]>>(3)?.map(Digest::from_bytes),
        notify_id: row.get(4)?,
        event_type: row.get(5)?,
        first_at: Timestamp::from_unix_millis(row.get(6)?),
        at: Timestamp::from_unix_millis(row.get(7)?),
        attempts: row.get(8)?,
        expires_at: time(row.get(9)?),
        reason: row.get(10)?,
        payment_time: time(row.get(11)?),
        content: row.get(12)?,
    })
}

pub(super) fn weight_of(row: &Row<'_>, from: usize) -> rusqlite::Result<Weight> {
    let reason = row.get_ref(from + 1)?.as_str_or_null().unwrap_or_default();
    Ok(Weight {
        state: state_of(row, from)?,
        is_returned: reason == Some(Cause::Returned.as_str()),
        bytes: u64::try_from(row.get::<_, Option<i64>>(from + 2)?.unwrap_or(0)).unwrap_or(0),
    })
}

/// One that cannot be read may be written over, like what waits. A state of a newer version cannot be here: open refuses its file.
pub(super) fn state_of(row: &Row<'_>, at: usize) -> rusqlite::Result<State> {
    Ok(readable(row.get(at))?.and_then(State::from_code).unwrap_or(State::Held))
}
