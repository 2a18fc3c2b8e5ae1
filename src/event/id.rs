//! Event ids and dedup keys. Both are functions of what Alipay signed, so every delivery of the same facts, by
//! any replica, after any crash, bears the same id (design.md, invariant 7).

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use super::{Digest, EventType};

/// The dedup identity: what a store looks up. `subject` comes first in every store's key, so that a trade's
/// rows lie together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// `trade_no`, else `notify_id`.
    pub subject: String,
    /// The event id, which holds the app's id too.
    pub id: String,
}

/// An event's identity, in its parts and as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventId {
    app_id: String,
    event_type: EventType,
    part: Part,
    conflict: Option<String>,
    key: Key,
}

/// What tells two events of one type and one trade apart.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// Nothing: there is one of its type to a trade.
    None,
    /// The merchant's number of the refund, as received.
    OutBizNo(Vec<u8>),
    /// A refund without a number: its time as received, and its amount.
    RefundAt(Vec<u8>, u64),
    /// Alipay's number of the notification: the subject is it, too.
    Notification(Vec<u8>),
}

impl EventId {
    /// An event of which a trade has at most one.
    pub fn of_trade(app_id: &str, trade_no: &str, event_type: EventType) -> Self {
        Self::build(app_id, trade_no, event_type, Part::None, None)
    }

    /// A refund with the merchant's own number.
    pub fn of_refund(app_id: &str, trade_no: &str, out_biz_no: &[u8]) -> Self {
        let part = Part::OutBizNo(out_biz_no.to_vec());
        Self::build(app_id, trade_no, EventType::PaymentRefunded, part, None)
    }

    /// A refund that bears no number: `gmt_refund` as received (empty if absent) and the fee in hundredths.
    pub fn of_refund_at(app_id: &str, trade_no: &str, gmt_refund: &[u8], refund_fee_minor: u64) -> Self {
        let part = Part::RefundAt(gmt_refund.to_vec(), refund_fee_minor);
        Self::build(app_id, trade_no, EventType::PaymentRefunded, part, None)
    }

    /// A notification of another kind. `subject`: the trade that it names, if it does, else the `notify_id` again.
    pub fn of_notification(app_id: &str, subject: &str, notify_id: &str) -> Self {
        let part = Part::Notification(notify_id.as_bytes().to_vec());
        Self::build(app_id, subject, EventType::NotificationOther, part, None)
    }

    /// The id of an event that was kept: its text is final, and only the id of a conflict is derived from it.
    pub fn kept(app_id: &str, subject: &str, event_type: EventType, text: &str) -> Self {
        let part = text.strip_prefix(&format!("{app_id}.{subject}.{event_type}."));
        Self {
            app_id: app_id.to_owned(),
            event_type,
            // Of a refund without a number, too: as text it is the same, and short.
            part: part.map_or(Part::None, |part| Part::OutBizNo(pull_part(part))),
            conflict: None,
            key: Key { subject: subject.to_owned(), id: text.to_owned() },
        }
    }

    /// The same subject under another type.
    pub fn retyped(&self, event_type: EventType) -> Self {
        Self::build(&self.app_id, &self.key.subject, event_type, self.part.clone(), None)
    }

    /// The id of the event that contradicts this one.
    pub fn conflict(&self, digest: &Digest) -> Self {
        let mut id = Self::build(
            &self.app_id,
            &self.key.subject,
            self.event_type,
            self.part.clone(),
            Some(digest.short()),
        );
        id.event_type = EventType::PaymentConflict;
        id
    }

    /// The id as text: at most 200 bytes, of `[A-Za-z0-9._%-]`.
    pub fn as_str(&self) -> &str {
        &self.key.id
    }

    /// The app it belongs to.
    pub fn app_id(&self) -> &str {
        &self.app_id
    }

    /// `trade_no`, else `notify_id`.
    pub fn subject(&self) -> &str {
        &self.key.subject
    }

    /// The dedup identity.
    pub fn key(&self) -> &Key {
        &self.key
    }

    fn build(
        app_id: &str,
        subject: &str,
        event_type: EventType,
        part: Part,
        conflict: Option<String>,
    ) -> Self {
        let render = |hashed: bool| {
            let mut text = String::with_capacity(USUAL_ID_BYTES);
            text.push_str(app_id);
            text.push('.');
            match &part {
                Part::Notification(_) => text.push_str("notification"),
                Part::None | Part::OutBizNo(_) | Part::RefundAt(..) => {
                    text.push_str(subject);
                    text.push('.');
                    text.push_str(event_type.as_str());
                }
            }
            part.render(&mut text, hashed);
            if let Some(digest) = &conflict {
                text.push_str(".conflict.");
                text.push_str(digest);
            }
            text
        };
        let mut text = render(false);
        if text.len() > MAX_ID_BYTES {
            text = render(true);
        }
        let key = Key { subject: subject.to_owned(), id: text };
        Self { app_id: app_id.to_owned(), event_type, part, conflict, key }
    }
}

/// The id of a notification that is held, which is no event yet.
pub fn held(app_id: &str, notify_id: &str) -> String {
    let render = |hashed| {
        let mut text = format!("{app_id}.held.");
        push_part(&mut text, notify_id.as_bytes(), hashed);
        text
    };
    let text = render(false);
    if text.len() > MAX_ID_BYTES { render(true) } else { text }
}

impl Part {
    fn render(&self, text: &mut String, hashed: bool) {
        match self {
            Self::None => {}
            Self::OutBizNo(bytes) | Self::Notification(bytes) => {
                text.push('.');
                push_part(text, bytes, hashed);
            }
            Self::RefundAt(gmt_refund, fee_minor) => {
                text.push_str(".at-");
                push_part(text, gmt_refund, hashed);
                text.push('-');
                text.push_str(&fee_minor.to_string());
            }
        }
    }
}

/// Percent-encodes from the received bytes, so that no charset can change an id; or, where that would be too
/// long for an AMQP short string, gives the SHA-256 of the received bytes in hex.
fn push_part(text: &mut String, bytes: &[u8], hashed: bool) {
    if hashed {
        for byte in Sha256::digest(bytes) {
            push_hex(text, byte, false);
        }
        return;
    }
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            text.push(char::from(byte));
        } else {
            text.push('%');
            push_hex(text, byte, true);
        }
    }
}

/// The bytes that [`push_part`] encoded.
fn pull_part(text: &str) -> Vec<u8> {
    let mut pieces = text.split('%');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        let (code, plain) = piece.split_at_checked(2).unwrap_or((piece, ""));
        bytes.extend(u8::from_str_radix(code, 16));
        bytes.extend_from_slice(plain.as_bytes());
    }
    bytes
}

fn push_hex(text: &mut String, byte: u8, upper: bool) {
    // Writing to a String cannot fail.
    let _ = if upper { write!(text, "{byte:02X}") } else { write!(text, "{byte:02x}") };
}

/// `message_id` is an AMQP short string of at most 255 bytes; contract.md leaves room.
const MAX_ID_BYTES: usize = 200;
/// A payment's has 63.
const USUAL_ID_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Money;

    const APP: &str = "2021000000000001";
    const TRADE: &str = "2026112322001427340000000000";

    #[test]
    fn ids_are_those_of_the_contract() {
        let paid = EventId::of_trade(APP, TRADE, EventType::PaymentSucceeded);
        assert_eq!(paid.as_str(), "2021000000000001.2026112322001427340000000000.payment.succeeded");
        let refund = EventId::of_refund(APP, TRADE, b"R-1_x");
        assert_eq!(refund.as_str(), "2021000000000001.2026112322001427340000000000.payment.refunded.R-1_x");
        let at = EventId::of_refund_at(APP, TRADE, b"2026-11-23 10:15:31.250", 1000);
        assert_eq!(
            at.as_str(),
            "2021000000000001.2026112322001427340000000000.payment.refunded.at-2026-11-23%2010%3A15%3A31%2E250-1000"
        );
        assert_eq!(EventId::of_notification(APP, "abc", "abc").as_str(), "2021000000000001.notification.abc");
    }

    #[test]
    fn a_conflict_names_the_original_and_the_digest() {
        let digest = Digest::of(b"o", Money::parse(b"1.00"), b"", None);
        let paid = EventId::of_trade(APP, TRADE, EventType::PaymentSucceeded);
        let conflict = paid.conflict(&digest);
        assert_eq!(conflict.as_str(), format!("{}.conflict.{}", paid.as_str(), digest.short()));
        assert_eq!(conflict.key().subject, TRADE);
    }

    #[test]
    fn a_kept_id_has_the_conflict_that_the_original_has() {
        let digest = Digest::of(b"o", Money::parse(b"1.00"), b"", None);
        for id in [
            EventId::of_trade(APP, TRADE, EventType::PaymentSucceeded),
            EventId::of_refund(APP, TRADE, b"R-1_x"),
            EventId::of_refund(APP, TRADE, &[0xcd, 0xcb, b'.', b'%', b'/', 0]),
            EventId::of_refund(APP, TRADE, "退".repeat(64).as_bytes()),
            // Short enough alone, and too long with the digest.
            EventId::of_refund(APP, TRADE, "退".repeat(14).as_bytes()),
            EventId::of_refund_at(APP, TRADE, b"2026-11-23 10:15:31.250", 1000),
        ] {
            let kept = EventId::kept(APP, TRADE, id.event_type, id.as_str());
            assert_eq!(kept.conflict(&digest).as_str(), id.conflict(&digest).as_str());
        }
    }

    #[test]
    fn what_the_merchant_made_is_encoded_from_the_received_bytes() {
        let gbk = EventId::of_refund(APP, TRADE, &[0xcd, 0xcb, b'.', b'/', 0]);
        assert!(gbk.as_str().ends_with(".payment.refunded.%CD%CB%2E%2F%00"), "{}", gbk.as_str());
    }

    #[test]
    fn a_long_part_becomes_its_sha256_and_the_id_stays_short() {
        let long = EventId::of_refund(APP, TRADE, "退".repeat(64).as_bytes());
        assert!(long.as_str().len() <= 200, "{}", long.as_str().len());
        let part = long.as_str().rsplit('.').next().unwrap();
        assert_eq!(part.len(), 64);
        assert!(part.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(long, EventId::of_refund(APP, TRADE, "款".repeat(64).as_bytes()));
    }
}
