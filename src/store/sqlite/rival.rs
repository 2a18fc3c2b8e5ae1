//! Two events of one key and of different money, of which one waits: it comes about where the store could not be asked,
//! so that the second was taken for new. Neither is written over. One of them keeps the id and the other is kept as the
//! conflict that it would have been, had it been known (`payment.conflict`, with an id of its own), and the drain
//! announces both. Whichever may be in a queue under the plain id keeps it.

use rusqlite::{OptionalExtension as _, Transaction, params};

use super::core::{Result, weight_at};
use super::load::{Books, Weight};
use crate::clock::Timestamp;
use crate::event::{Digest, Event, Key, Message};
use crate::store::{Cause, Deferral, State};

/// What waits under a key, of other money.
pub(super) struct Rival {
    digest: Digest,
    notify_id: String,
    payment_time: Option<Timestamp>,
    message: Option<Message>,
    in_doubt: bool,
}

/// What waits under this key and is of other money, if something is.
pub(super) fn rival_at(transaction: &Transaction<'_>, key: &Key, digest: &Digest) -> Result<Option<Rival>> {
    let mut select = transaction.prepare_cached(
        "SELECT digest, notify_id, payment_at, message, reason FROM event
         WHERE subject = ?1 AND id = ?2 AND state IN (1, 2) AND digest <> ?3",
    )?;
    let rival = select.query_row(params![key.subject, key.id, digest.as_bytes()], |row| {
        let message: Option<Vec<u8>> = row.get(3)?;
        Ok(Rival {
            digest: Digest::from_bytes(row.get(0)?),
            notify_id: row.get(1)?,
            payment_time: row.get::<_, Option<i64>>(2)?.map(Timestamp::from_unix_millis),
            message: message.and_then(|message| serde_json::from_slice(&message).ok()),
            in_doubt: row.get::<_, Option<String>>(4)?.as_deref() == Some(Cause::InDoubt.as_str()),
        })
    });
    Ok(rival.optional()?)
}

impl Rival {
    /// Whether it makes room for this one: that may be in a queue under the id, and it itself cannot.
    pub(super) fn yields_to(&self, deferral: &Deferral) -> bool {
        deferral.cause == Cause::InDoubt && !self.in_doubt
    }

    /// Keeps it as the conflict that it is, unless that is known already. Says whether its own row may be written over.
    pub(super) fn step_aside(
        self,
        transaction: &Transaction<'_>,
        key: &Key,
        old: Weight,
        books: &mut Books,
    ) -> Result<bool> {
        let conflict = self
            .message
            .and_then(|message| conflict_of(&message, self.digest, self.notify_id, self.payment_time));
        let Some((event, message)) = conflict else { return Ok(false) };
        tracing::warn!(id = key.id, kept_as = message.id, "other money came under the id of what waits");
        let aside = event.key();
        if weight_at(transaction, &aside)?.is_some() {
            return Ok(true);
        }
        // A message is plain strings: it cannot fail to serialise.
        let message = serde_json::to_vec(&message).unwrap_or_default();
        let mut rename = transaction.prepare_cached(
            "UPDATE event SET id = ?3, type = ?4, message = ?5 WHERE subject = ?1 AND id = ?2",
        )?;
        rename.execute(params![key.subject, key.id, aside.id, event.event_type.as_str(), message])?;
        books.load.add(Weight { bytes: u64::try_from(message.len()).unwrap_or(u64::MAX), ..old });
        Ok(true)
    }
}

/// The deferral of the conflict that this one is. `None` if its message is not of an event.
pub(super) fn as_conflict(deferral: &Deferral) -> Option<Deferral> {
    let (digest, notify_id) = (deferral.digest, deferral.notify_id.clone());
    let (event, message) = conflict_of(&deferral.message, digest, notify_id, deferral.payment_time)?;
    // Nothing was published under this id.
    let state = State::Deferred;
    Some(Deferral { key: event.key(), event_type: event.event_type, message, state, ..deferral.clone() })
}

fn conflict_of(
    message: &Message,
    digest: Digest,
    notify_id: String,
    payment_time: Option<Timestamp>,
) -> Option<(Event, Message)> {
    let event = message.event(digest, notify_id, payment_time)?.as_conflict();
    let message = Message::of(&event, message.unchecked, message.traceparent.clone());
    Some((event, message))
}
