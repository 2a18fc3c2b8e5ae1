//! The JSON members of an event that come from the notification (contract.md, "Event on the wire"). What the
//! notification lacks is absent; what does not parse and decides nothing travels as text.

mod disclosure;

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use disclosure::disclose;

use super::acceptance::{Deciding, Trade, is_trade};
use super::form::Form;
use super::notification::{self, Charset};
use super::policy::{App, Buyer, Policy};
use crate::clock::Timestamp;
use crate::event::{EventType, Money};
use crate::json::Members;

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
    let texts = Texts::decode(form, deciding.charset, policy.buyer);
    let mut json = Members(String::with_capacity(2 * body.len() + 512));
    json.text("app_id", &app.app_id);
    json.maybe("auth_app_id", texts.text("auth_app_id"));
    json.text("environment", app.environment.as_str());
    json.maybe("notify_type", texts.text("notify_type"));
    match &deciding.trade {
        Some(trade) => render_trade(&mut json, &texts, trade, event_type),
        None if is_trade(form) => render_what_it_names(&mut json, &texts),
        // What the fields of a kind mean that nobody knows, nobody knows either.
        None => {}
    }
    json.text("notified_at", &notified_at.rfc3339_beijing());
    json.text("notify_id", deciding.notify_id);
    for name in ["subject", "body", "passback_params", "buyer_id", "buyer_open_id"] {
        json.maybe(name, texts.text(name));
    }
    if policy.notification {
        json.object("notification", |json| render_everything(json, &texts));
    }
    if texts.lossy {
        json.plain("decoding_lossy", "true");
    }
    if texts.lossy && policy.buyer == Buyer::Forward {
        json.text("raw_body", &STANDARD.encode(body));
    }
    json.0
}

fn render_trade(json: &mut Members, texts: &Texts<'_>, trade: &Trade<'_>, event_type: EventType) {
    let currency = texts.text("trans_currency").unwrap_or(Cow::Borrowed("CNY"));
    let is_cny = currency == "CNY";
    json.text("trade_no", trade.trade_no);
    json.maybe("out_trade_no", texts.text("out_trade_no"));
    json.maybe("trade_status", texts.text("trade_status"));
    json.maybe("seller_id", trade.seller_id.map(Cow::Borrowed));
    json.text("currency", &currency);
    render_money(json, ["total_amount", "total_amount_minor"], trade.total_amount, is_cny);
    json.maybe("receipt_amount", texts.amount("receipt_amount").map(Cow::Owned));
    json.maybe("buyer_pay_amount", texts.amount("buyer_pay_amount").map(Cow::Owned));
    json.maybe("paid_at", trade.gmt_payment.map(|at| Cow::Owned(at.rfc3339_beijing())));
    if event_type == EventType::PaymentRefunded {
        json.object("refund", |json| {
            json.maybe("out_biz_no", texts.text("out_biz_no"));
            if let Some(fee) = trade.refund_fee {
                render_money(json, ["refund_fee", "refund_fee_minor"], fee, is_cny);
            }
            json.maybe("refunded_at", trade.gmt_refund.map(|(_, at)| Cow::Owned(at.rfc3339_beijing())));
        });
    }
}

/// What a notification of a status that is not known says of its trade. It decides nothing.
fn render_what_it_names(json: &mut Members, texts: &Texts<'_>) {
    let value = |name: &str| texts.form.value(name);
    json.maybe("trade_no", value("trade_no").and_then(notification::trade_no).map(Cow::Borrowed));
    for name in ["out_trade_no", "trade_status", "seller_id"] {
        json.maybe(name, texts.text(name));
    }
    if let Some(amount) = value("total_amount").and_then(Money::parse) {
        let currency = texts.text("trans_currency").unwrap_or(Cow::Borrowed("CNY"));
        json.text("currency", &currency);
        render_money(json, ["total_amount", "total_amount_minor"], amount, currency == "CNY");
    }
}

/// With two decimals as text, and for CNY in hundredths as a number.
fn render_money(json: &mut Members, [name, minor]: [&'static str; 2], amount: Money, is_cny: bool) {
    json.text(name, &amount.decimal());
    if is_cny {
        json.plain(minor, &amount.minor().to_string());
    }
}

/// Every received parameter, `sign` included, so that a consumer can verify for himself. But for empty ones whose names are no
/// text: nobody signed them, and two of them may have the same name once they are decoded.
fn render_everything(json: &mut Members, texts: &Texts<'_>) {
    for ((bytes, _), (name, value)) in texts.form.parameters().zip(&texts.all) {
        if value.is_empty() && std::str::from_utf8(bytes).is_err() {
            continue;
        }
        if let Some(value) = disclose(bytes, value, texts.buyer) {
            json.received(name, &value);
        }
    }
}

/// The notification's parameters as text, each decoded once.
struct Texts<'a> {
    form: &'a Form,
    /// Names and values, in the form's order.
    all: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    lossy: bool,
    buyer: Buyer,
}

impl<'a> Texts<'a> {
    fn decode(form: &'a Form, charset: Charset, buyer: Buyer) -> Self {
        let mut lossy = false;
        let mut text = |bytes: &'a [u8]| {
            let (text, lost) = charset.text(bytes);
            lossy |= lost;
            text
        };
        let texts = if charset.is_utf8() { form.texts() } else { None };
        let all = texts
            .unwrap_or_else(|| form.parameters().map(|(name, value)| (text(name), text(value))).collect());
        Self { form, all, lossy, buyer }
    }

    /// What may be told of a value that is present and not empty.
    #[inline]
    fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        let (_, value) = self.all.get(self.form.position(name)?)?;
        disclose(name.as_bytes(), Some(value).filter(|value| !value.is_empty())?, self.buyer)
    }

    /// With two decimals where it is an amount, as received where it is not.
    fn amount(&self, name: &str) -> Option<String> {
        let text = self.text(name)?;
        Some(Money::parse(text.as_bytes()).map_or_else(|| text.into_owned(), Money::decimal))
    }
}
