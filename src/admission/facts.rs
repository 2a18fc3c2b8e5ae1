//! The JSON members of an event that come from the notification (contract.md, "Event on the wire"). What the
//! notification lacks is absent; what does not parse and decides nothing travels as text.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};

use super::acceptance::{Deciding, Trade};
use super::form::Form;
use super::notification::{self, Charset};
use super::policy::{App, Buyer, Policy};
use crate::clock::Timestamp;
use crate::event::{EventType, Money};

/// Renders the members, without the braces around them. `body` is what `form` was read from.
pub(super) fn render(
    body: &[u8],
    form: &Form,
    deciding: &Deciding<'_>,
    event_type: EventType,
    app: &App,
    policy: &Policy,
    notified_at: Timestamp,
) -> String {
    let texts = Texts { form, charset: Charset::of(form), buyer: policy.buyer };
    let lossy = texts.lossy();
    let facts = Facts {
        notify_type: texts.text("notify_type"),
        app_id: &app.app_id,
        auth_app_id: texts.text("auth_app_id"),
        environment: app.environment.as_str(),
        trade: deciding.trade.as_ref().map(|trade| TradeFacts::of(&texts, trade, event_type)),
        notified_at: notified_at.rfc3339_beijing(),
        notify_id: deciding.notify_id,
        subject: texts.text("subject"),
        body: texts.text("body"),
        passback_params: texts.text("passback_params"),
        buyer_id: texts.text("buyer_id"),
        buyer_open_id: texts.text("buyer_open_id"),
        notification: policy.notification.then_some(Everything(&texts)),
        decoding_lossy: lossy.then_some(true),
        raw_body: (lossy && policy.buyer == Buyer::Forward).then(|| STANDARD.encode(body)),
    };
    // A struct of strings and numbers cannot fail to serialise.
    let json = serde_json::to_string(&facts).unwrap_or_default();
    json.strip_prefix('{').and_then(|json| json.strip_suffix('}')).unwrap_or_default().to_owned()
}

#[derive(Serialize)]
struct Facts<'a> {
    app_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_app_id: Option<Cow<'a, str>>,
    environment: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    notify_type: Option<Cow<'a, str>>,
    #[serde(flatten)]
    trade: Option<TradeFacts<'a>>,
    notified_at: String,
    notify_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    passback_params: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    buyer_id: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    buyer_open_id: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    notification: Option<Everything<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decoding_lossy: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_body: Option<String>,
}

#[derive(Serialize)]
struct TradeFacts<'a> {
    trade_no: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    out_trade_no: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trade_status: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seller_id: Option<&'a str>,
    currency: Cow<'a, str>,
    total_amount: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_amount_minor: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt_amount: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    buyer_pay_amount: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paid_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refund: Option<Refund<'a>>,
}

#[derive(Serialize)]
struct Refund<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    out_biz_no: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refund_fee: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refund_fee_minor: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refunded_at: Option<String>,
}

impl<'a> TradeFacts<'a> {
    fn of(texts: &Texts<'a>, trade: &Trade<'a>, event_type: EventType) -> Self {
        let currency = texts.text("trans_currency").unwrap_or(Cow::Borrowed("CNY"));
        let minor = |amount: Money| (currency == "CNY").then_some(amount.minor());
        let refund = (event_type == EventType::PaymentRefunded).then(|| Refund {
            out_biz_no: texts.text("out_biz_no"),
            refund_fee: trade.refund_fee.map(|fee| fee.to_string()),
            refund_fee_minor: trade.refund_fee.and_then(minor),
            refunded_at: trade.gmt_refund.map(|(_, at)| at.rfc3339_beijing()),
        });
        Self {
            trade_no: trade.trade_no,
            out_trade_no: texts.text("out_trade_no"),
            trade_status: texts.text("trade_status"),
            seller_id: trade.seller_id,
            total_amount: trade.total_amount.to_string(),
            total_amount_minor: minor(trade.total_amount),
            receipt_amount: texts.amount("receipt_amount"),
            buyer_pay_amount: texts.amount("buyer_pay_amount"),
            paid_at: trade.gmt_payment.map(Timestamp::rfc3339_beijing),
            refund,
            currency,
        }
    }
}

/// The notification's values as text, with what `event.buyer` leaves of them.
struct Texts<'a> {
    form: &'a Form,
    charset: Charset,
    buyer: Buyer,
}

impl<'a> Texts<'a> {
    fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        self.disclose(name.as_bytes(), self.form.value(name)?)
    }

    /// With two decimals where it is an amount, as received where it is not.
    fn amount(&self, name: &str) -> Option<String> {
        let text = self.text(name)?;
        Some(Money::parse(text.as_bytes()).map_or_else(|| text.into_owned(), |amount| amount.to_string()))
    }

    fn disclose(&self, name: &[u8], value: &'a [u8]) -> Option<Cow<'a, str>> {
        let (text, _) = self.charset.text(value);
        if !notification::is_personal(name) {
            return Some(text);
        }
        match self.buyer {
            Buyer::Omit => None,
            // An amount tells nobody who he is.
            Buyer::Mask if name == b"buyer_pay_amount" => Some(text),
            Buyer::Mask => Some(Cow::Owned(mask(&text))),
            Buyer::Forward => Some(text),
        }
    }

    fn lossy(&self) -> bool {
        self.form.parameters().any(|(name, value)| self.charset.text(name).1 || self.charset.text(value).1)
    }
}

/// Every received parameter, `sign` included, so that a consumer can verify for himself.
struct Everything<'a>(&'a Texts<'a>);

impl Serialize for Everything<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in self.0.form.parameters() {
            if let Some(text) = self.0.disclose(name, value) {
                map.serialize_entry(&self.0.charset.text(name).0, &text)?;
            }
        }
        map.end()
    }
}

/// Keeps the last four characters of what is long enough to stay unknown without them.
fn mask(text: &str) -> String {
    let length = text.chars().count();
    let shown = if length >= 12 { 4 } else { 0 };
    text.chars().enumerate().map(|(n, character)| if n + shown < length { '*' } else { character }).collect()
}
