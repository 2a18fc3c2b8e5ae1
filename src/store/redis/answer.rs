//! What the scripts answer, as plain data.

use redis::Value;

use crate::clock::Timestamp;
use crate::event::{Digest, EventType, Key};
use crate::store::conflict::Rival;
use crate::store::{Cause, Entry, Kept, Known, State, StoreError, Waiting};

/// The fields of an answer, one by one.
pub(super) struct Fields(std::vec::IntoIter<Value>);

type Answer<T> = Result<T, StoreError>;

impl Fields {
    pub(super) fn of(value: Value) -> Answer<Self> {
        let Value::Array(values) = value else { return Err(odd()) };
        Ok(Self(values.into_iter()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.len() == 0
    }

    /// What is left, each a list of fields of its own.
    pub(super) fn rest(self) -> impl Iterator<Item = Answer<Self>> {
        self.0.map(Self::of)
    }

    fn next(&mut self) -> Answer<Value> {
        self.0.next().ok_or_else(odd)
    }

    pub(super) fn number(&mut self) -> Answer<i64> {
        self.maybe_number()?.ok_or_else(odd)
    }

    pub(super) fn maybe_number(&mut self) -> Answer<Option<i64>> {
        let value = self.next()?;
        if value == Value::Nil {
            return Ok(None);
        }
        let Value::Int(number) = value else { return Err(odd()) };
        Ok(Some(number))
    }

    fn maybe_bytes(&mut self) -> Answer<Option<Vec<u8>>> {
        let value = self.next()?;
        if value == Value::Nil {
            return Ok(None);
        }
        let Value::BulkString(bytes) = value else { return Err(odd()) };
        Ok(Some(bytes))
    }

    pub(super) fn text(&mut self) -> Answer<String> {
        self.maybe_text()?.ok_or_else(odd)
    }

    fn maybe_text(&mut self) -> Answer<Option<String>> {
        self.maybe_bytes()?.map(|bytes| String::from_utf8(bytes).map_err(|_| odd())).transpose()
    }

    fn digest(&mut self) -> Answer<Option<Digest>> {
        let bytes = self.maybe_bytes()?.unwrap_or_default();
        Ok(<[u8; 32]>::try_from(bytes).ok().map(Digest::from_bytes))
    }

    fn state(&mut self) -> Answer<State> {
        let code = self.number()?;
        State::from_code(code).ok_or_else(odd)
    }

    fn maybe_time(&mut self) -> Answer<Option<Timestamp>> {
        Ok(self.maybe_number()?.map(Timestamp::from_unix_millis))
    }

    fn time(&mut self) -> Answer<Timestamp> {
        self.maybe_time()?.ok_or_else(odd)
    }

    /// See `claim.lua`, behind its first field.
    pub(super) fn known(&mut self) -> Answer<Known> {
        let (state, digest) = (self.state()?, self.digest()?.ok_or_else(odd)?);
        Ok(Known { state, digest, notify_id: self.text()? })
    }

    /// See `waiting.lua`.
    pub(super) fn waiting(mut self, key: Key) -> Answer<Option<Waiting>> {
        if self.number()? == 0 {
            return Ok(None);
        }
        let (state, digest, notify_id) = (self.state()?, self.digest()?, self.text()?);
        let event_type = EventType::from_name(&self.text()?);
        let (payment_time, reason, first_at) = (self.maybe_time()?, self.text()?, self.time()?);
        let content = self.maybe_bytes()?.unwrap_or_default();
        let waiting =
            Waiting { key, digest, notify_id, event_type, payment_time, first_at, state, reason, content };
        Ok(Some(waiting))
    }

    /// See `defer.lua`.
    pub(super) fn deferred(mut self) -> Answer<Deferred> {
        Ok(match self.number()? {
            0 => Deferred::Done(Kept::Yes),
            1 => Deferred::Done(Kept::Settled(self.state()?)),
            2 => Deferred::Done(Kept::Full),
            _ => Deferred::Rival(Box::new(self.rival()?)),
        })
    }

    /// See `record.lua`.
    pub(super) fn recorded(mut self) -> Answer<Option<Rival>> {
        if self.number()? == 0 { Ok(None) } else { self.rival().map(Some) }
    }

    fn rival(&mut self) -> Answer<Rival> {
        let (digest, notify_id) = (self.digest()?.ok_or_else(odd)?, self.text()?);
        let (payment_time, reason) = (self.maybe_time()?, self.text()?);
        let message = self.maybe_bytes()?.and_then(|message| serde_json::from_slice(&message).ok());
        let in_doubt = reason == Cause::InDoubt.as_str();
        Ok(Rival { digest, notify_id, payment_time, message, in_doubt })
    }

    /// See `entries.lua`.
    pub(super) fn entries(self, subject: &str) -> Answer<Vec<Entry>> {
        self.rest().map(|row| row?.entry(subject)).collect()
    }

    fn entry(mut self, subject: &str) -> Answer<Entry> {
        let key = Key { subject: subject.to_owned(), id: self.text()? };
        let (state, digest, notify_id) = (self.state()?, self.digest()?, self.text()?);
        let event_type = Some(self.text()?).filter(|name| !name.is_empty());
        let (first_at, at) = (self.time()?, self.time()?);
        let attempts = u32::try_from(self.number()?).unwrap_or(u32::MAX);
        let expires_at = self.maybe_time()?.filter(|at| at.unix_millis() > 0);
        let (reason, payment_time, content) = (self.maybe_text()?, self.maybe_time()?, self.maybe_bytes()?);
        let entry = Entry {
            key,
            state,
            event_type,
            digest,
            notify_id,
            first_at,
            at,
            attempts,
            expires_at,
            reason,
            payment_time,
            content,
        };
        Ok(entry)
    }
}

/// What became of a deferral.
pub(super) enum Deferred {
    Done(Kept),
    /// Something of other money waits there, and nothing was done.
    Rival(Box<Rival>),
}

pub(super) fn odd() -> StoreError {
    StoreError { message: "redis: an answer of another form than the script's".to_owned() }
}
