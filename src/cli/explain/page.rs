//! What `explain` prints: one screen for people, without a buyer's data; or the JSON of the contract.

use std::io::{self, Write};

use serde::Serialize;

use super::judgement::Judgement;
use crate::admission::notification::{Charset, is_personal};
use crate::admission::signing_content::Version;

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

/// Prints the screen.
pub(super) fn text(judgement: &Judgement, hints: &[String], out: &mut dyn Write) -> io::Result<()> {
    match &judgement.proof {
        Some(proof) => {
            let version = match proof.recipe.version {
                Version::V1 => "V1: without sign and sign_type",
                Version::V2 => "V2: without sign",
            };
            writeln!(out, "signature   authentic, by key {} ({version})", proof.fingerprint)?;
        }
        None => writeln!(out, "signature   does NOT verify")?,
    }
    match &judgement.announced {
        Some(message) => {
            writeln!(out, "announces   {}", message.event_type)?;
            writeln!(out, "event id    {}", message.id)?;
        }
        None => writeln!(out, "announces   nothing")?,
    }
    if let Some(reason) = judgement.reason {
        writeln!(out, "reason      {}: {}", reason.label(), reason.sentence())?;
    }
    if let Some(content) = &judgement.content {
        writeln!(
            out,
            "\nsigning content, {} bytes, joined with `&` (escaped here, who the buyer is hidden):",
            content.len()
        )?;
        parameters(content, judgement.charset, out)?;
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
fn parameters(content: &[u8], charset: Option<Charset>, out: &mut dyn Write) -> io::Result<()> {
    for piece in content.split(|byte| *byte == b'&').take(MAX_LINES) {
        let equals = piece.iter().position(|byte| *byte == b'=').unwrap_or(piece.len());
        let (name, value) = piece.split_at(equals);
        let value = value.strip_prefix(b"=").unwrap_or_default();
        let name_text = shortened(&escaped(&text_of(name, charset)));
        if is_personal(name) || name.ends_with(b"_email") {
            writeln!(out, "  {name_text}=({} bytes, hidden)", value.len())?;
        } else {
            writeln!(out, "  {name_text}={}", shortened(&escaped(&text_of(value, charset))))?;
        }
    }
    Ok(())
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

fn shortened(text: &str) -> String {
    let shown: String = text.chars().take(MAX_SHOWN).collect();
    if shown.len() == text.len() {
        shown
    } else {
        format!("{shown}… ({} characters)", text.chars().count())
    }
}

/// Bound: lines of a screen.
const MAX_LINES: usize = 64;
/// Bound: characters of a value on it.
const MAX_SHOWN: usize = 90;
