//! What is kept, as JSON lines: for a backup, for moving a store to another engine, and for what was salvaged. The first
//! line says what the file is and its version, the last how many entries there are, so that a file that was cut short
//! is not taken for a whole one. What waits is there with its content, and so with what `event.buyer` left of the buyer
//! in an event, and everything that Alipay sent in a held notification.

use std::io::{self, BufRead, Read as _, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::{Entry, State};
use crate::clock::Timestamp;
use crate::event::{Digest, Key, Message};

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is not what it should be.
    #[error("line {0}: {1}")]
    Line(u64, String),
}

/// Writes a file of entries.
pub struct Writer<'a> {
    out: &'a mut dyn Write,
    entries: u64,
}

/// What is in a file that is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contents {
    /// How many entries there are.
    pub entries: u64,
    /// See [`Store::complete_since`](super::Store::complete_since), of the store that it was written from. 1970 where that has
    /// forgotten nothing, or a version before wrote the file.
    pub complete_since: Timestamp,
}

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    format: String,
    version: u32,
    at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    complete_since: Option<String>,
}

/// The last line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Foot {
    entries: u64,
}

/// An entry, in the words of `GET /trades/…`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    subject: String,
    id: String,
    state: String,
    notify_id: String,
    first_at: String,
    at: String,
    attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    event_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payment_time: Option<String>,
    /// Of an event that waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<Message>,
    /// Of a held notification, as it was received; or of an event whose message cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

impl<'a> Writer<'a> {
    /// Begins the file, with what the store says of itself ([`Contents`]).
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn begin(out: &'a mut dyn Write, now: Timestamp, complete_since: Timestamp) -> io::Result<Self> {
        let head = Head {
            format: FORMAT.to_owned(),
            version: VERSION,
            at: now.rfc3339_utc(),
            complete_since: (complete_since > Timestamp::default()).then(|| complete_since.rfc3339_utc()),
        };
        let mut writer = Self { out, entries: 0 };
        writer.line(&head)?;
        Ok(writer)
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn add(&mut self, entry: &Entry) -> io::Result<()> {
        self.entries += 1;
        self.line(&Line::of(entry))
    }

    /// Ends the file, and says how many entries it has.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn end(mut self) -> io::Result<u64> {
        let entries = self.entries;
        self.line(&Foot { entries })?;
        self.out.flush()?;
        Ok(entries)
    }

    fn line(&mut self, line: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut *self.out, line)?;
        self.out.write_all(b"\n")
    }
}

/// Reads a file of entries, and checks that it is whole.
///
/// # Errors
/// The first line that is not what it should be, or what `take` says.
pub fn read(
    mut input: impl BufRead,
    mut take: impl FnMut(Entry) -> Result<(), TransferError>,
) -> Result<Contents, TransferError> {
    let (mut number, mut entries, mut complete_since) = (0u64, 0u64, Timestamp::default());
    let mut line = Vec::new();
    loop {
        line.clear();
        number += 1;
        // Bound: a line.
        let length = input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
        let wrong = |what: String| TransferError::Line(number, what);
        if length == 0 || line.last() != Some(&b'\n') {
            return Err(wrong("the file is cut short: it has no last line of its own".to_owned()));
        }
        if number == 1 {
            complete_since = read_head(&line).map_err(wrong)?;
            continue;
        }
        if let Ok(foot) = serde_json::from_slice::<Foot>(&line) {
            return match (foot.entries == entries, input.fill_buf()?.is_empty()) {
                (true, true) => Ok(Contents { entries, complete_since }),
                (false, _) => {
                    Err(wrong(format!("{} entries are announced, {entries} are there", foot.entries)))
                }
                (true, false) => Err(wrong("something follows the last line".to_owned())),
            };
        }
        let line: Line = serde_json::from_slice(&line).map_err(|error| wrong(error.to_string()))?;
        take(line.entry().map_err(wrong)?)?;
        entries += 1;
    }
}

fn read_head(line: &[u8]) -> Result<Timestamp, String> {
    let head = serde_json::from_slice::<Head>(line).ok().filter(|head| head.format == FORMAT);
    match head.ok_or("the file does not begin as an export of a store does")? {
        Head { version: VERSION, complete_since, .. } => {
            complete_since.as_deref().map_or(Ok(Timestamp::default()), time)
        }
        Head { version, .. } => Err(format!("its version is {version}, and this program reads {VERSION}")),
    }
}

/// What is wrong with an entry that is to be kept, if something is: what waits must be what the drain, or its operator,
/// can do something with.
pub fn fault(entry: &Entry) -> Option<&'static str> {
    let content = entry.content.as_deref();
    match entry.state {
        State::Recorded | State::Unrouted | State::Dropped => {
            (entry.expires_at.is_none()).then_some("what is settled has a time to be forgotten")
        }
        State::Held => (content.is_none_or(<[u8]>::is_empty)).then_some("what is held has a body"),
        State::Deferred | State::InDoubt => {
            let message = content.and_then(|content| serde_json::from_slice::<Message>(content).ok());
            let event = message.zip(entry.digest).and_then(|(message, digest)| {
                message.event(digest, entry.notify_id.clone(), entry.payment_time)
            });
            (event.is_none_or(|event| *event.key() != entry.key))
                .then_some("its message is not of this event")
        }
    }
}

impl Line {
    fn of(entry: &Entry) -> Self {
        let content = entry.content.as_deref();
        let message = content
            .filter(|_| entry.state != State::Held)
            .and_then(|content| serde_json::from_slice::<Message>(content).ok());
        let body = content.filter(|_| message.is_none());
        Self {
            subject: entry.key.subject.clone(),
            id: entry.key.id.clone(),
            state: entry.state.as_str().to_owned(),
            notify_id: entry.notify_id.clone(),
            first_at: entry.first_at.rfc3339_utc(),
            at: entry.at.rfc3339_utc(),
            attempts: entry.attempts,
            event_type: entry.event_type.clone(),
            digest: entry.digest.map(|digest| digest.to_string()),
            expires_at: entry.expires_at.map(Timestamp::rfc3339_utc),
            reason: entry.reason.clone(),
            payment_time: entry.payment_time.map(Timestamp::rfc3339_utc),
            body_base64: body.map(|body| STANDARD.encode(body)),
            message,
        }
    }

    fn entry(self) -> Result<Entry, String> {
        let maybe = |text: Option<String>| text.map(|text| time(&text)).transpose();
        let state = State::from_name(&self.state).ok_or(format!("{:?} is not a state", self.state))?;
        let digest = self.digest.map(|hex| digest(&hex).ok_or(format!("{hex:?} is not a digest")));
        let body = self.body_base64.map(|body| STANDARD.decode(body).map_err(|error| error.to_string()));
        // A message is plain strings: it cannot fail to serialise.
        let message = self.message.map(|message| serde_json::to_vec(&message).unwrap_or_default());
        Ok(Entry {
            key: Key { subject: self.subject, id: self.id },
            state,
            event_type: self.event_type,
            digest: digest.transpose()?,
            notify_id: self.notify_id,
            first_at: time(&self.first_at)?,
            at: time(&self.at)?,
            attempts: self.attempts,
            expires_at: maybe(self.expires_at)?,
            reason: self.reason,
            payment_time: maybe(self.payment_time)?,
            content: message.or(body.transpose()?),
        })
    }
}

fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::from_rfc3339(text).ok_or(format!("{text:?} is not a time"))
}

fn digest(hex: &str) -> Option<Digest> {
    let mut bytes = [0; 32];
    if hex.len() != 64 {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(Digest::from_bytes(bytes))
}

const FORMAT: &str = "alipay-notify-gateway-store";
const VERSION: u32 = 1;
/// Bound: a body is at most 16 MiB by `http.max_body`, and base64 makes four bytes of three.
const MAX_LINE: u64 = 32 << 20;

#[cfg(test)]
mod tests;
