//! What waits in the file under the key of other money, and how it steps aside ([`Rival`]).

use rusqlite::{Row, params};

use super::change::weight_at;
use super::core::Result;
use super::load::{Books, Weight};
use super::reading::readable;
use super::transaction::Writing;
use crate::clock::Timestamp;
use crate::event::{Digest, Key};
use crate::store::Cause;
use crate::store::conflict::Rival;

/// What waits under this key and is of other money, if something is.
pub(super) fn rival_at(writing: &mut Writing<'_>, key: &Key, digest: &Digest) -> Result<Option<Rival>> {
    let sql = "SELECT digest, notify_id, payment_at, message, reason FROM event
               WHERE row = ?1 AND subject = ?2 AND id = ?3 AND state IN (1, 2) AND digest IS NOT NULL";
    // What cannot be read is no rival, and is written over.
    let rival = writing.look(key, sql, |row| match readable(row.get(0))?.map(Digest::from_bytes) {
        Some(of) if of != *digest => readable(rival_of(row, of)),
        Some(_) | None => Ok(None),
    })?;
    Ok(rival.flatten())
}

fn rival_of(row: &Row<'_>, digest: Digest) -> rusqlite::Result<Rival> {
    let message: Option<Vec<u8>> = row.get(3)?;
    Ok(Rival {
        digest,
        notify_id: row.get(1)?,
        payment_time: row.get::<_, Option<i64>>(2)?.map(Timestamp::from_unix_millis),
        message: message.and_then(|message| serde_json::from_slice(&message).ok()),
        in_doubt: row.get::<_, Option<String>>(4)?.as_deref() == Some(Cause::InDoubt.as_str()),
    })
}

/// Keeps it as the conflict that it is, unless that is known already. Says whether its own row may be written over.
pub(super) fn step_aside(
    rival: Rival,
    writing: &mut Writing<'_>,
    key: &Key,
    old: Weight,
    books: &mut Books,
) -> Result<bool> {
    let Some((event, message)) = rival.conflict() else { return Ok(false) };
    tracing::warn!(id = key.id, kept_as = message.id, "other money came under the id of what waits");
    let aside = event.key();
    if weight_at(writing, aside)?.is_some() {
        return Ok(true);
    }
    // A message is plain strings: it cannot fail to serialise.
    let message = serde_json::to_vec(&message).unwrap_or_default();
    let row = writing.row(key)?;
    let mut rename =
        writing.prepare_cached("UPDATE event SET id = ?2, type = ?3, message = ?4 WHERE row = ?1")?;
    rename.execute(params![row, aside.id, event.event_type.as_str(), message])?;
    books.load.add(Weight { bytes: u64::try_from(message.len()).unwrap_or(u64::MAX), ..old });
    Ok(true)
}
