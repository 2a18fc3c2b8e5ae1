//! What is asked of an authentic notification before it may mean anything: that it is about one of our
//! sellers, that the fields which decide have their form, that no border between fields was moved, and that
//! it is fresh. What is refused here is *held*, never dropped (design.md, invariant 5).

use super::borders;
use super::form::Form;
use super::notification::{self, Charset};
use super::policy::{App, SignType};
use crate::clock::Timestamp;
use crate::event::Money;

/// Why an authentic notification is held. A closed list: it is a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    /// It is about a seller that the app does not sell for.
    #[error("the seller_id is not one of the app's")]
    Seller,
    /// A field that decides has not got its form.
    #[error("a field that decides does not have its form: {0}")]
    Grammar(&'static str),
    /// What is signed can be read in another way as well.
    #[error(
        "a value holds what looks like the field {0}, or is part of a text itself: a border may have been moved"
    )]
    Ambiguous(&'static str),
    /// Its `notify_time` is too old, and its event is not recorded. Decided by publication.
    #[error("notify_time is older than freshness.max_age: a replay, or a wrong clock")]
    Stale,
}

impl Objection {
    /// Every reason, as metrics know it.
    pub const REASONS: [&'static str; 4] = ["seller", "grammar", "ambiguous", "stale"];

    /// The label.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Seller => "seller",
            Self::Grammar(_) => "grammar",
            Self::Ambiguous(_) => "ambiguous",
            Self::Stale => "stale",
        }
    }
}

/// What an operator has looked into and lets pass, of one held notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waived {
    /// Nothing: it passes as it is, or not at all.
    Nothing,
    /// The seller. Not where the signature is of a key that all merchants share: then it is the seller who makes
    /// the notification ours.
    Seller,
    /// A text that holds what looks like a missing field.
    Borders,
    /// The age that it had when it came. That which it came to while it was held is nobody's objection.
    Age,
}

impl Waived {
    /// What stands against a notification that was held for this reason. A field without its form cannot be waived:
    /// without it there is nothing to announce.
    pub fn of(reason: &str) -> Self {
        match reason {
            "seller" => Self::Seller,
            "ambiguous" => Self::Borders,
            "stale" => Self::Age,
            _ => Self::Nothing,
        }
    }
}

/// The fields that decide, read.
#[derive(Debug, Clone)]
pub struct Deciding<'a> {
    /// The charset of its texts.
    pub charset: Charset,
    /// `notify_id`.
    pub notify_id: &'a str,
    /// `notify_time`, else `utc_timestamp` of a `msg_method` message; `None` if it carries neither.
    pub notify_time: Option<Timestamp>,
    /// The trade, if it is about one and of a status that we know.
    pub trade: Option<Trade<'a>>,
}

/// The deciding fields of a trade.
#[derive(Debug, Clone)]
pub struct Trade<'a> {
    /// `trade_status`.
    pub status: Status,
    /// `trade_no`.
    pub trade_no: &'a str,
    /// `out_trade_no`, as received.
    pub out_trade_no: &'a [u8],
    /// `out_biz_no`, as received.
    pub out_biz_no: Option<&'a [u8]>,
    /// `seller_id`.
    pub seller_id: Option<&'a str>,
    /// `total_amount`.
    pub total_amount: Money,
    /// `refund_fee`.
    pub refund_fee: Option<Money>,
    /// `gmt_create`.
    pub gmt_create: Option<Timestamp>,
    /// `gmt_payment`.
    pub gmt_payment: Option<Timestamp>,
    /// `gmt_refund`, as received and read.
    pub gmt_refund: Option<(&'a [u8], Timestamp)>,
}

/// The trade statuses that we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Created, unpaid.
    WaitBuyerPay,
    /// Paid; also every partial refund.
    Success,
    /// Paid and not refundable, now or from the start.
    Finished,
    /// Never paid, or refunded in full.
    Closed,
}

impl Status {
    fn read(value: &[u8]) -> Option<Self> {
        match value {
            b"WAIT_BUYER_PAY" => Some(Self::WaitBuyerPay),
            b"TRADE_SUCCESS" => Some(Self::Success),
            b"TRADE_FINISHED" => Some(Self::Finished),
            b"TRADE_CLOSED" => Some(Self::Closed),
            _ => None,
        }
    }
}

/// Whether a notification is of the kind that trades come in.
pub fn is_trade(form: &Form) -> bool {
    form.value("notify_type") == Some(b"trade_status_sync")
}

/// Checks everything that can be checked without the store.
///
/// # Errors
/// The first objection.
pub fn accept<'a>(form: &'a Form, app: &App, waived: Waived) -> Result<Deciding<'a>, Objection> {
    if waived != Waived::Seller || app.sign_type == SignType::Rsa {
        check_seller(form, app)?;
    }
    let deciding = read_deciding(form)?;
    if waived != Waived::Borders {
        borders::check(form)?;
        check_refund(form, &deciding)?;
    }
    Ok(deciding)
}

/// Whether `notify_time` is older than `max_age`. One in the future proves only that our clock is slow.
pub fn is_stale(notify_time: Option<Timestamp>, now: Timestamp, max_age: std::time::Duration) -> bool {
    notify_time.is_some_and(|at| now.since(at) > max_age)
}

/// A trade must be one of our sellers'; another kind must if it names a seller, or if its signature is of a
/// key that all merchants share and so proves nothing about whose it is (protocol.md §3).
fn check_seller(form: &Form, app: &App) -> Result<(), Objection> {
    if app.seller_ids.is_empty() {
        return Ok(());
    }
    let ours = |id: &[u8]| std::str::from_utf8(id).is_ok_and(|id| app.seller_ids.contains(id));
    match form.value("seller_id") {
        Some(id) if ours(id) => Ok(()),
        Some(_) => Err(Objection::Seller),
        None if is_trade(form) || app.sign_type == SignType::Rsa => Err(Objection::Seller),
        None => Ok(()),
    }
}

/// A refund of what was never paid: only a text that was split says so (it held `&refund_fee=5.00`, in a trade that timed out).
fn check_refund(form: &Form, deciding: &Deciding<'_>) -> Result<(), Objection> {
    let Some(trade) = &deciding.trade else { return Ok(()) };
    let is_unpaid =
        matches!(trade.status, Status::WaitBuyerPay | Status::Closed) && trade.gmt_payment.is_none();
    let refunds = trade.gmt_refund.is_none() && trade.refund_fee.is_some_and(|fee| fee.minor() > 0);
    if is_unpaid && refunds && borders::may_be_of_a_text(form, "refund_fee") {
        return Err(Objection::Ambiguous("refund_fee"));
    }
    Ok(())
}

fn read_deciding(form: &Form) -> Result<Deciding<'_>, Objection> {
    // These say what it is about. With a neighbour swallowed whose name we do not know, they would say something else:
    // a payment would be announced, and answered `success`, as a notification of an unknown kind.
    for name in ["notify_type", "trade_status", "trans_currency"] {
        if form.value(name).is_some_and(|value| value.contains(&b'&')) {
            return Err(Objection::Grammar(name));
        }
    }
    let notify_id =
        form.value("notify_id").and_then(notification::notify_id).ok_or(Objection::Grammar("notify_id"))?;
    let notify_time = optional(form, "notify_time", notification::time)?;
    let notify_time = notify_time.or_else(|| form.value("utc_timestamp").and_then(unix_millis));
    let status = form.value("trade_status").and_then(Status::read).filter(|_| is_trade(form));
    let charset = Charset::of(form);
    let trade = status.map(|status| read_trade(form, charset, status)).transpose()?;
    Ok(Deciding { charset, notify_id, notify_time, trade })
}

fn read_trade(form: &Form, charset: Charset, status: Status) -> Result<Trade<'_>, Objection> {
    let number = |value| notification::merchant_number(charset, value).map(|()| value);
    Ok(Trade {
        status,
        trade_no: required(form, "trade_no", notification::trade_no)?,
        out_trade_no: required(form, "out_trade_no", number)?,
        out_biz_no: optional(form, "out_biz_no", number)?,
        seller_id: optional(form, "seller_id", notification::seller_id)?,
        total_amount: required(form, "total_amount", Money::parse)?,
        refund_fee: optional(form, "refund_fee", Money::parse)?,
        gmt_create: optional(form, "gmt_create", notification::time)?,
        gmt_payment: optional(form, "gmt_payment", notification::time)?,
        gmt_refund: optional(form, "gmt_refund", |value| Some((value, notification::time(value)?)))?,
    })
}

fn required<'a, T>(
    form: &'a Form,
    name: &'static str,
    read: impl FnOnce(&'a [u8]) -> Option<T>,
) -> Result<T, Objection> {
    form.value(name).and_then(read).ok_or(Objection::Grammar(name))
}

fn optional<'a, T>(
    form: &'a Form,
    name: &'static str,
    read: impl FnOnce(&'a [u8]) -> Option<T>,
) -> Result<Option<T>, Objection> {
    form.value(name).map(|value| read(value).ok_or(Objection::Grammar(name))).transpose()
}

/// `utc_timestamp` of `msg_method` messages: milliseconds since the epoch.
pub fn unix_millis(value: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.len() == 13)?;
    text.parse().ok().map(Timestamp::from_unix_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: [Objection; 4] = [
        Objection::Seller,
        Objection::Grammar("total_amount"),
        Objection::Ambiguous("refund_fee"),
        Objection::Stale,
    ];

    #[test]
    fn each_objection_has_its_label() {
        assert_eq!(EVERY.map(Objection::reason), Objection::REASONS);
    }

    #[test]
    fn an_operator_waives_what_was_objected_to_and_never_a_form() {
        let waived = EVERY.map(|objection| Waived::of(objection.reason()));
        assert_eq!(waived, [Waived::Seller, Waived::Nothing, Waived::Borders, Waived::Age]);
        assert_eq!(Waived::of("anything else"), Waived::Nothing);
    }

    #[test]
    fn the_time_of_a_message_is_thirteen_digits() {
        assert_eq!(unix_millis(b"1551960008123"), Some(Timestamp::from_unix_millis(1_551_960_008_123)));
        for bad in [&b""[..], b"155196000812", b"15519600081230", b"1551960008.12", b"155196000812x"] {
            assert_eq!(unix_millis(bad), None);
        }
    }
}
