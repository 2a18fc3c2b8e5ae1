//! What `event.buyer` leaves of what tells who the buyer or user is (contract.md, "Event on the wire").

use std::borrow::Cow;

use serde_json::Value;

use crate::admission::notification::is_personal;
use crate::admission::policy::Buyer;

/// What is left of a parameter's value.
#[inline]
pub(super) fn disclose<'t>(name: &[u8], value: &'t str, buyer: Buyer) -> Option<Cow<'t, str>> {
    if is_personal(name) {
        return disclose_personal(name, value, buyer);
    }
    match buyer {
        Buyer::Omit | Buyer::Mask if name == b"biz_content" => disclose_members(value, buyer),
        Buyer::Omit | Buyer::Mask | Buyer::Forward => Some(Cow::Borrowed(value)),
    }
}

fn disclose_personal<'t>(name: &[u8], value: &'t str, buyer: Buyer) -> Option<Cow<'t, str>> {
    match buyer {
        Buyer::Omit => None,
        // An amount tells nobody who he is.
        Buyer::Mask if name == b"buyer_pay_amount" => Some(Cow::Borrowed(value)),
        Buyer::Mask => Some(Cow::Owned(mask(value))),
        Buyer::Forward => Some(Cow::Borrowed(value)),
    }
}

/// Of a message's `biz_content`, which is a map of its own with users' ids in it, and maps as texts in that. As it was received where
/// it names none; where it looks like JSON and is not, nobody knows whom it names.
fn disclose_members(text: &str, buyer: Buyer) -> Option<Cow<'_, str>> {
    if !text.trim_start().starts_with(['{', '[', '"']) {
        return Some(Cow::Borrowed(text));
    }
    match serde_json::from_str::<Value>(text) {
        Ok(mut content) => Some(match hide(&mut content, buyer, TEXTS_IN_TEXTS) {
            Found::Nobody => Cow::Borrowed(text),
            Found::Hidden => Cow::Owned(content.to_string()),
            Found::TooDeep => return disclose_personal(b"biz_content", text, buyer),
        }),
        Err(_) => disclose_personal(b"biz_content", text, buyer),
    }
}

/// What a look for users has come to, the lesser first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    Nobody,
    Hidden,
    /// More texts in texts than are looked into.
    TooDeep,
}

/// Hides whoever is named. Bound: serde_json takes 127 levels of each text, and `texts` texts in one another are looked into: what is
/// escaped doubles with each.
fn hide(value: &mut Value, buyer: Buyer, texts: usize) -> Found {
    let mut found = Found::Nobody;
    match value {
        Value::Object(members) => members.retain(|name, value| {
            if !is_personal(name.as_bytes()) {
                found = found.max(hide(value, buyer, texts));
                return true;
            }
            found = found.max(Found::Hidden);
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let left = disclose_personal(name.as_bytes(), &text, buyer).map(Cow::into_owned);
            left.map(|left| *value = Value::String(left)).is_some()
        }),
        Value::Array(items) => {
            for item in items {
                found = found.max(hide(item, buyer, texts));
            }
        }
        // A map, or a list of some; what begins so and is none is a merchant's text.
        Value::String(text) if text.trim_start().starts_with(['{', '[']) && text.contains('{') => {
            if let Ok(mut inner) = serde_json::from_str::<Value>(text) {
                let Some(texts) = texts.checked_sub(1) else { return Found::TooDeep };
                found = hide(&mut inner, buyer, texts);
                if found == Found::Hidden {
                    *text = inner.to_string();
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    found
}

/// Bound: of maps as texts in a map.
const TEXTS_IN_TEXTS: usize = 2;

/// Keeps the last four characters of what is long enough to stay unknown without them.
fn mask(text: &str) -> String {
    let length = text.chars().count();
    let shown = if length >= 12 { 4 } else { 0 };
    text.chars().enumerate().map(|(n, character)| if n + shown < length { '*' } else { character }).collect()
}
