//! What is written, statement by statement: a change is what the thread commits together with others.

use rusqlite::params;

use super::core::Result;
use super::load::{Books, Weight};
use super::reading::{readable, state_of, weight_of};
use super::rival::{rival_at, step_aside};
use super::schema;
use super::transaction::Writing;
use crate::clock::Timestamp;
use crate::event::{Digest, Key};
use crate::store::{
    Cause, Decision, Deferral, Entry, Holding, Kept, Merged, Record, State, conflict, held_key,
};

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
    /// Nothing, and written all the same: whether it can be.
    Probe,
}

impl Change {
    /// Writes it, and says what became of each part of it.
    pub(super) fn write(&self, writing: &mut Writing<'_>, books: &mut Books) -> Result<Vec<Kept>> {
        match self {
            Self::Record(records) => {
                for record in records {
                    write_record(writing, record, books)?;
                }
                Ok(Vec::new())
            }
            Self::Defer(deferrals) => {
                deferrals.iter().map(|deferral| write_deferral(writing, deferral, books)).collect()
            }
            Self::Hold(holdings) => {
                holdings.iter().map(|holding| write_holding(writing, holding, books)).collect()
            }
            Self::Decide(decision) => write_decision(writing, decision, books),
            Self::Probe => {
                // Writes a page, whether or not the number is the same.
                writing.pragma_update(None, "user_version", schema::VERSION)?;
                Ok(Vec::new())
            }
        }
    }
}

fn write_record(writing: &mut Writing<'_>, record: &Record, books: &mut Books) -> Result<()> {
    if books.has_deferred()
        && let Some(waits) = weight_at(writing, &record.key)?
    {
        books.load.remove(waits);
        if let Some(rival) = rival_at(writing, &record.key, &record.digest)? {
            // What cannot be read cannot be announced either: only Alipay can bring it again.
            let _ = step_aside(rival, writing, &record.key, waits, books)?;
        }
    }
    writing.put(
        &record.key,
        PUT_RECORD,
        params![
            record.state.code(),
            record.event_type.as_str(),
            record.digest.as_bytes(),
            record.notify_id,
            record.at.unix_millis(),
            record.expires_at.unix_millis(),
        ],
    )?;
    if books.held.is_empty() {
        return Ok(());
    }
    let id = held_key(&record.app_id, &record.notify_id, String::new()).id;
    if let Some(subject) = books.held.remove(&id) {
        let key = Key { subject, id };
        if let Some(held) = weight_at(writing, &key)? {
            books.load.remove(held);
        }
        writing.delete(&key)?;
    }
    Ok(())
}

fn write_deferral(writing: &mut Writing<'_>, deferral: &Deferral, books: &mut Books) -> Result<Kept> {
    // A message is plain strings: it cannot fail to serialise.
    let message = serde_json::to_vec(&deferral.message).unwrap_or_default();
    let bytes = u64::try_from(message.len()).unwrap_or(u64::MAX);
    let new = Weight { state: deferral.state, is_returned: deferral.cause == Cause::Returned, bytes };
    match weight_at(writing, &deferral.key)? {
        Some(Weight { state: settled @ (State::Recorded | State::Unrouted | State::Dropped), .. }) => {
            return Ok(Kept::Settled(settled));
        }
        Some(old) => {
            if let Some(rival) = rival_at(writing, &deferral.key, &deferral.digest)?
                && !(rival.yields_to(deferral) && step_aside(rival, writing, &deferral.key, old, books)?)
            {
                // Bound: an id of a conflict has the digest in it.
                return conflict::as_conflict(deferral)
                    .map_or(Ok(Kept::Full), |conflict| write_deferral(writing, &conflict, books));
            }
            books.load.remove(old);
        }
        None if !books.has_room_for(new) => return Ok(Kept::Full),
        None => {}
    }
    books.load.add(new);
    writing.put(
        &deferral.key,
        PUT_DEFERRAL,
        params![
            deferral.state.code(),
            deferral.event_type.as_str(),
            deferral.digest.as_bytes(),
            deferral.notify_id,
            deferral.at.unix_millis(),
            deferral.cause.as_str(),
            deferral.payment_time.map(Timestamp::unix_millis),
            message,
        ],
    )?;
    Ok(Kept::Yes)
}

fn write_holding(writing: &mut Writing<'_>, holding: &Holding, books: &mut Books) -> Result<Kept> {
    let bytes = u64::try_from(holding.body.len()).unwrap_or(u64::MAX);
    let new = Weight { state: State::Held, is_returned: false, bytes };
    match weight_at(writing, &holding.key)? {
        Some(Weight { state: settled @ (State::Dropped | State::Recorded), .. }) => {
            return Ok(Kept::Settled(settled));
        }
        Some(old) => books.load.remove(old),
        None if !books.has_room_for(new) => return Ok(Kept::Full),
        None => {}
    }
    books.load.add(new);
    writing.put(
        &holding.key,
        PUT_HOLDING,
        params![
            holding.notify_id,
            holding.at.unix_millis(),
            holding.reason,
            holding.body,
            holding.payment_time.map(Timestamp::unix_millis),
        ],
    )?;
    books.held.insert(holding.key.id.clone(), holding.key.subject.clone());
    Ok(Kept::Yes)
}

/// One answer if it took effect, none if nothing waits there.
fn write_decision(writing: &mut Writing<'_>, decision: &Decision, books: &mut Books) -> Result<Vec<Kept>> {
    match weight_at(writing, &decision.key)? {
        Some(waits) if matches!(waits.state, State::Deferred | State::InDoubt | State::Held) => {
            books.load.remove(waits);
            books.held.remove(&decision.key.id);
        }
        // The record of its event has cleared what was held.
        None if decision.state == State::Recorded => {}
        Some(_) | None => return Ok(Vec::new()),
    }
    writing.put(
        &decision.key,
        PUT_DECISION,
        params![
            decision.state.code(),
            decision.reason,
            decision.at.unix_millis(),
            decision.expires_at.unix_millis(),
            decision.notify_id,
        ],
    )?;
    Ok(vec![Kept::Yes])
}

/// What is settled beats what waits, an announcement beats a decision not to announce, and what is here beats what is
/// brought; other money facts are never written over.
pub(super) fn merge_entry(writing: &mut Writing<'_>, entry: &Entry) -> Result<Merged> {
    let sql = "SELECT state, digest FROM event WHERE row = ?1 AND subject = ?2 AND id = ?3";
    let here = writing
        .look(&entry.key, sql, |row| Ok((state_of(row, 0)?, readable(row.get::<_, Option<[u8; 32]>>(1))?)))?;
    let waits = |state| matches!(state, State::Deferred | State::InDoubt | State::Held);
    match here {
        None => {}
        Some((_, Some(Some(digest))))
            if entry.digest.is_some_and(|brought| *brought.as_bytes() != digest) =>
        {
            return Ok(Merged::Differs);
        }
        Some((state, _)) if waits(state) && !waits(entry.state) => {}
        // What waits and cannot be read is nothing.
        Some((state, None)) if waits(state) => {}
        Some((State::Dropped | State::Unrouted, _)) if entry.state == State::Recorded => {}
        Some(_) => return Ok(Merged::Known),
    }
    writing.put(
        &entry.key,
        PUT_ENTRY,
        params![
            entry.state.code(),
            entry.digest.as_ref().map(Digest::as_bytes),
            entry.notify_id,
            entry.event_type,
            entry.first_at.unix_millis(),
            entry.at.unix_millis(),
            entry.attempts,
            entry.expires_at.map(Timestamp::unix_millis),
            entry.reason,
            entry.payment_time.map(Timestamp::unix_millis),
            entry.content,
        ],
    )?;
    Ok(Merged::Taken)
}

/// What is kept under a key, as far as the load knows it.
pub(super) fn weight_at(writing: &Writing<'_>, key: &Key) -> Result<Option<Weight>> {
    let sql = "SELECT state, reason, length(message) FROM event WHERE row = ?1 AND subject = ?2 AND id = ?3";
    writing.look(key, sql, |row| weight_of(row, 0))
}

pub(super) const PUT_RECORD: &str =
    "INSERT INTO event (row, subject, id, state, type, digest, notify_id, first_at, at, attempts, expires_at)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8, 1, ?9)
  ON CONFLICT (row) DO UPDATE SET state = ?4, type = ?5, digest = ?6, notify_id = ?7, at = ?8,
    attempts = coalesce(attempts, 0) + 1, expires_at = max(coalesce(expires_at, 0), ?9), reason = NULL, message = NULL";
const PUT_DEFERRAL: &str =
    "INSERT INTO event (row, subject, id, state, type, digest, notify_id, first_at, at, attempts, reason, payment_at,
    message)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8, 1, ?9, ?10, ?11)
  ON CONFLICT (row) DO UPDATE SET state = ?4, type = ?5, digest = ?6, notify_id = ?7, at = ?8,
    attempts = coalesce(attempts, 0) + 1, reason = ?9, payment_at = ?10, message = ?11";
const PUT_HOLDING: &str =
    "INSERT INTO event (row, subject, id, state, notify_id, first_at, at, attempts, reason, message, payment_at)
  VALUES (?1, ?2, ?3, 3, ?4, ?5, ?5, 1, ?6, ?7, ?8)
  ON CONFLICT (row) DO UPDATE SET state = 3, at = ?5, attempts = coalesce(attempts, 0) + 1, reason = ?6, message = ?7,
    payment_at = ?8";
const PUT_DECISION: &str =
    "INSERT INTO event (row, subject, id, state, notify_id, first_at, at, attempts, reason, expires_at)
  VALUES (?1, ?2, ?3, ?4, ?8, ?6, ?6, 1, ?5, ?7)
  ON CONFLICT (row) DO UPDATE SET state = ?4, reason = ?5, at = ?6, expires_at = ?7, message = NULL";
const PUT_ENTRY: &str =
    "INSERT OR REPLACE INTO event (row, subject, id, state, digest, notify_id, type, first_at, at, attempts,
    expires_at, reason, payment_at, message)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";
