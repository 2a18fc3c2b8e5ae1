//! What `explain` prints: one screen for people, without a buyer's data unless it is asked for; or the JSON of the
//! contract, whose signing content is as it was signed.

use std::io::{self, Write};

use serde::Serialize;

use super::judgement::Judgement;
use super::language::Language;
use crate::admission::notification::{Charset, is_personal};

/// The JSON of the contract, on one line. `event` follows, as it would go on the wire.
#[derive(Serialize)]
struct Page<'a> {
    verified: bool,
    event_type: Option<&'a str>,
    event_id: Option<&'a str>,
    reason: Option<&'a str>,
    signing_content: String,
    hints: &'a [String],
}

/// Prints the JSON.
pub(super) fn json(judgement: &Judgement, hints: &[String], out: &mut dyn Write) -> io::Result<()> {
    let announced = judgement.announced.as_ref();
    let page = Page {
        verified: judgement.proof.is_some(),
        event_type: announced.map(|message| message.event_type.as_str()),
        event_id: announced.map(|message| message.id.as_str()),
        reason: judgement.reason.map(|reason| reason.label()),
        signing_content: judgement
            .content
            .as_deref()
            .map(|content| text_of(content, judgement.charset))
            .unwrap_or_default(),
        hints,
    };
    let page = serde_json::to_string(&page)?;
    let event = announced.map_or("null", |message| message.body.as_str());
    writeln!(out, "{},\"event\":{event}}}", page.strip_suffix('}').unwrap_or(&page))
}

/// One screen for people.
#[derive(Debug)]
pub(super) struct Screen {
    /// In which language.
    pub(super) language: Language,
    /// With what tells who the buyer is.
    pub(super) show_buyer: bool,
}

impl Screen {
    /// Prints it.
    pub(super) fn print(
        &self,
        judgement: &Judgement,
        hints: &[String],
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let (language, labels) = (self.language, self.language.labels());
        let verified = judgement.proof.as_ref().map_or_else(
            || labels.not_verified.to_owned(),
            |proof| language.authentic(&proof.fingerprint, proof.recipe.version),
        );
        writeln!(out, "{}{verified}", labels.signature)?;
        match &judgement.announced {
            Some(message) => {
                writeln!(out, "{}{}", labels.announces, message.event_type)?;
                writeln!(out, "{}{}", labels.event_id, message.id)?;
            }
            None => writeln!(out, "{}{}", labels.announces, labels.nothing)?,
        }
        if let Some(reason) = judgement.reason {
            writeln!(out, "{}{}: {}", labels.reason, reason.label(), language.reason(reason))?;
        }
        if let Some(content) = &judgement.content {
            writeln!(out, "\n{}", language.heading(content.len(), !self.show_buyer))?;
            self.parameters(content, judgement.charset, out)?;
        }
        if !hints.is_empty() {
            writeln!(out)?;
        }
        for hint in hints {
            writeln!(out, "- {hint}")?;
        }
        Ok(())
    }

    /// One parameter a line. Split at each `&`, as if no value held one: that is what the content itself looks
    /// like, and a line that surprises shows where a border was moved.
    fn parameters(&self, content: &[u8], charset: Option<Charset>, out: &mut dyn Write) -> io::Result<()> {
        let mut pieces = content.split(|byte| *byte == b'&');
        for piece in pieces.by_ref().take(MAX_LINES) {
            let equals = piece.iter().position(|byte| *byte == b'=').unwrap_or(piece.len());
            let (name, value) = piece.split_at(equals);
            let value = value.strip_prefix(b"=").unwrap_or_default();
            let name_text = self.shortened(&escaped(&text_of(name, charset)));
            // `biz_content` is a map of its own, with ids and log-ins in it.
            let hides = is_personal(name) || name.ends_with(b"_email") || name == b"biz_content";
            if !self.show_buyer && hides {
                writeln!(out, "  {name_text}={}", self.language.hidden(value.len()))?;
            } else {
                writeln!(out, "  {name_text}={}", self.shortened(&escaped(&text_of(value, charset))))?;
            }
        }
        match pieces.count() {
            0 => Ok(()),
            more => writeln!(out, "  … {}", self.language.left_out(more)),
        }
    }

    fn shortened(&self, text: &str) -> String {
        let shown: String = text.chars().take(MAX_SHOWN).collect();
        if shown.len() == text.len() {
            shown
        } else {
            format!("{shown}… {}", self.language.of_length(text.chars().count()))
        }
    }
}

/// UTF-8 where it is that, else the notification's charset.
fn text_of(bytes: &[u8], charset: Option<Charset>) -> String {
    match (std::str::from_utf8(bytes), charset) {
        (Ok(text), _) => text.to_owned(),
        (Err(_), Some(charset)) => charset.text(bytes).0.into_owned(),
        (Err(_), None) => bytes.escape_ascii().to_string(),
    }
}

/// Control characters and whatever could steer a terminal or hide at an end are made visible.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control()
            || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
        {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    if escaped.starts_with(' ') || escaped.ends_with(' ') { format!("\"{escaped}\"") } else { escaped }
}

/// Bound: lines of a screen.
const MAX_LINES: usize = 64;
/// Bound: characters of a value on it.
const MAX_SHOWN: usize = 90;
