//! What is written, statement by statement: a change is what the thread commits together with others.

use rusqlite::{OptionalExtension as _, params};

use super::core::{ENTRY, Result, Transaction};
use super::load::{Books, Weight};
use super::rival::{rival_at, step_aside};
use super::schema;
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
    pub(super) fn write(&self, transaction: &Transaction<'_>, books: &mut Books) -> Result<Vec<Kept>> {
        match self {
            Self::Record(records) => {
                for record in records {
                    write_record(transaction, record, books)?;
                }
                Ok(Vec::new())
            }
            Self::Defer(deferrals) => {
                deferrals.iter().map(|deferral| write_deferral(transaction, deferral, books)).collect()
            }
            Self::Hold(holdings) => {
                holdings.iter().map(|holding| write_holding(transaction, holding, books)).collect()
            }
            Self::Decide(decision) => write_decision(transaction, decision, books),
            Self::Probe => {
                // Writes a page, whether or not the number is the same.
                transaction.pragma_update(None, "user_version", schema::VERSION)?;
                Ok(Vec::new())
            }
        }
    }
}

fn write_record(transaction: &Transaction<'_>, record: &Record, books: &mut Books) -> Result<()> {
    if books.has_deferred()
        && let Some(waits) = weight_at(transaction, &record.key)?
    {
        books.load.remove(waits);
        if let Some(rival) = rival_at(transaction, &record.key, &record.digest)? {
            // What cannot be read cannot be announced either: only Alipay can bring it again.
            let _ = step_aside(rival, transaction, &record.key, waits, books)?;
        }
    }
    let mut insert = transaction.prepare_cached(INSERT_RECORD)?;
    insert.execute(params![
        record.key.subject,
        record.key.id,
        record.state.code(),
        record.event_type.as_str(),
        record.digest.as_bytes(),
        record.notify_id,
        record.at.unix_millis(),
        record.expires_at.unix_millis(),
    ])?;
    if books.held.is_empty() {
        return Ok(());
    }
    let id = held_key(&record.app_id, &record.notify_id, String::new()).id;
    if let Some(subject) = books.held.remove(&id) {
        let key = Key { subject, id };
        if let Some(held) = weight_at(transaction, &key)? {
            books.load.remove(held);
        }
        let mut delete = transaction.prepare_cached("DELETE FROM event WHERE subject = ?1 AND id = ?2")?;
        delete.execute(params![key.subject, key.id])?;
    }
    Ok(())
}

fn write_deferral(transaction: &Transaction<'_>, deferral: &Deferral, books: &mut Books) -> Result<Kept> {
    // A message is plain strings: it cannot fail to serialise.
    let message = serde_json::to_vec(&deferral.message).unwrap_or_default();
    let bytes = u64::try_from(message.len()).unwrap_or(u64::MAX);
    let new = Weight { state: deferral.state, is_returned: deferral.cause == Cause::Returned, bytes };
    match weight_at(transaction, &deferral.key)? {
        Some(Weight { state: settled @ (State::Recorded | State::Unrouted | State::Dropped), .. }) => {
            return Ok(Kept::Settled(settled));
        }
        Some(old) => {
            if let Some(rival) = rival_at(transaction, &deferral.key, &deferral.digest)?
                && !(rival.yields_to(deferral) && step_aside(rival, transaction, &deferral.key, old, books)?)
            {
                // Bound: an id of a conflict has the digest in it.
                return conflict::as_conflict(deferral)
                    .map_or(Ok(Kept::Full), |conflict| write_deferral(transaction, &conflict, books));
            }
            books.load.remove(old);
        }
        None if !books.has_room_for(new) => return Ok(Kept::Full),
        None => {}
    }
    books.load.add(new);
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
        deferral.state.code(),
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

fn write_holding(transaction: &Transaction<'_>, holding: &Holding, books: &mut Books) -> Result<Kept> {
    let bytes = u64::try_from(holding.body.len()).unwrap_or(u64::MAX);
    let new = Weight { state: State::Held, is_returned: false, bytes };
    match weight_at(transaction, &holding.key)? {
        Some(Weight { state: settled @ (State::Dropped | State::Recorded), .. }) => {
            return Ok(Kept::Settled(settled));
        }
        Some(old) => books.load.remove(old),
        None if !books.has_room_for(new) => return Ok(Kept::Full),
        None => {}
    }
    books.load.add(new);
    let mut insert = transaction.prepare_cached(
        "INSERT INTO event (subject, id, state, notify_id, first_at, at, attempts, reason, message, payment_at)
         VALUES (?1, ?2, 3, ?3, ?4, ?4, 1, ?5, ?6, ?7)
         ON CONFLICT (subject, id) DO UPDATE SET state = 3, at = ?4, attempts = attempts + 1, reason = ?5,
           message = ?6, payment_at = ?7",
    )?;
    insert.execute(params![
        holding.key.subject,
        holding.key.id,
        holding.notify_id,
        holding.at.unix_millis(),
        holding.reason,
        holding.body,
        holding.payment_time.map(Timestamp::unix_millis),
    ])?;
    books.held.insert(holding.key.id.clone(), holding.key.subject.clone());
    Ok(Kept::Yes)
}

/// One answer if it took effect, none if nothing waits there.
fn write_decision(
    transaction: &Transaction<'_>,
    decision: &Decision,
    books: &mut Books,
) -> Result<Vec<Kept>> {
    match weight_at(transaction, &decision.key)? {
        Some(waits) if matches!(waits.state, State::Deferred | State::InDoubt | State::Held) => {
            books.load.remove(waits);
            books.held.remove(&decision.key.id);
        }
        // The record of its event has cleared what was held.
        None if decision.state == State::Recorded => {}
        Some(_) | None => return Ok(Vec::new()),
    }
    let mut write = transaction.prepare_cached(
        "INSERT INTO event (subject, id, state, notify_id, first_at, at, attempts, reason, expires_at)
         VALUES (?1, ?2, ?3, ?7, ?5, ?5, 1, ?4, ?6)
         ON CONFLICT (subject, id) DO UPDATE SET state = ?3, reason = ?4, at = ?5, expires_at = ?6, message = NULL",
    )?;
    write.execute(params![
        decision.key.subject,
        decision.key.id,
        decision.state.code(),
        decision.reason,
        decision.at.unix_millis(),
        decision.expires_at.unix_millis(),
        decision.notify_id,
    ])?;
    Ok(vec![Kept::Yes])
}

/// What is settled beats what waits, an announcement beats a decision not to announce, and what is here beats what is
/// brought; other money facts are never written over.
pub(super) fn merge_entry(transaction: &Transaction<'_>, entry: &Entry) -> Result<Merged> {
    let mut select =
        transaction.prepare_cached("SELECT state, digest FROM event WHERE subject = ?1 AND id = ?2")?;
    let here = select.query_row(params![entry.key.subject, entry.key.id], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, Option<[u8; 32]>>(1)?))
    });
    let here = here.optional()?.and_then(|(state, digest)| Some((State::from_code(state)?, digest)));
    let waits = |state| matches!(state, State::Deferred | State::InDoubt | State::Held);
    match here {
        None => {}
        Some((_, Some(digest))) if entry.digest.is_some_and(|brought| *brought.as_bytes() != digest) => {
            return Ok(Merged::Differs);
        }
        Some((state, _)) if waits(state) && !waits(entry.state) => {}
        Some((State::Dropped | State::Unrouted, _)) if entry.state == State::Recorded => {}
        Some(_) => return Ok(Merged::Known),
    }
    let mut write = transaction.prepare_cached(&format!(
        "INSERT OR REPLACE INTO event ({ENTRY}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)"
    ))?;
    write.execute(params![
        entry.key.subject,
        entry.key.id,
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
    ])?;
    Ok(Merged::Taken)
}

/// What is kept under a key, as far as the load knows it.
pub(super) fn weight_at(transaction: &Transaction<'_>, key: &Key) -> Result<Option<Weight>> {
    let mut select = transaction
        .prepare_cached("SELECT state, reason, length(message) FROM event WHERE subject = ?1 AND id = ?2")?;
    let mut rows = select.query(params![key.subject, key.id])?;
    Ok(match rows.next()? {
        Some(row) => Some(weight_of(row, 0)?),
        None => None,
    })
}

pub(super) fn weight_of(row: &rusqlite::Row<'_>, from: usize) -> rusqlite::Result<Weight> {
    let reason = row.get_ref(from + 1)?.as_str_or_null().unwrap_or_default();
    Ok(Weight {
        // A state of a newer version cannot be here: open refuses its file.
        state: State::from_code(row.get(from)?).unwrap_or(State::Held),
        is_returned: reason == Some(Cause::Returned.as_str()),
        bytes: u64::try_from(row.get::<_, Option<i64>>(from + 2)?.unwrap_or(0)).unwrap_or(0),
    })
}

pub(super) const INSERT_RECORD: &str =
    "INSERT INTO event (subject, id, state, type, digest, notify_id, first_at, at, attempts, expires_at)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, 1, ?8)
  ON CONFLICT (subject, id) DO UPDATE SET state = ?3, type = ?4, digest = ?5, notify_id = ?6, at = ?7,
    attempts = attempts + 1, expires_at = max(coalesce(expires_at, 0), ?8), reason = NULL, message = NULL";
