//! The JSON members of an event that come from the notification (contract.md, "Event on the wire"). What the
//! notification lacks is absent; what does not parse and decides nothing travels as text.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

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
    let mut json = Json(String::with_capacity(2 * body.len() + 512));
    json.text("app_id", &app.app_id);
    json.maybe("auth_app_id", texts.text("auth_app_id"));
    json.text("environment", app.environment.as_str());
    json.maybe("notify_type", texts.text("notify_type"));
    if let Some(trade) = &deciding.trade {
        render_trade(&mut json, &texts, trade, event_type);
    }
    json.text("notified_at", &notified_at.rfc3339_beijing());
    json.text("notify_id", deciding.notify_id);
    for name in ["subject", "body", "passback_params", "buyer_id", "buyer_open_id"] {
        json.maybe(name, texts.text(name));
    }
    if policy.notification {
        json.object("notification", |json| render_everything(json, &texts));
    }
    if lossy {
        json.plain("decoding_lossy", "true");
    }
    if lossy && policy.buyer == Buyer::Forward {
        json.text("raw_body", &STANDARD.encode(body));
    }
    json.0
}

fn render_trade(json: &mut Json, texts: &Texts<'_>, trade: &Trade<'_>, event_type: EventType) {
    let currency = texts.text("trans_currency").unwrap_or(Cow::Borrowed("CNY"));
    let is_cny = currency == "CNY";
    json.text("trade_no", trade.trade_no);
    json.maybe("out_trade_no", texts.text("out_trade_no"));
    json.maybe("trade_status", texts.text("trade_status"));
    json.maybe("seller_id", trade.seller_id.map(Cow::Borrowed));
    json.text("currency", &currency);
    json.money("total_amount", trade.total_amount, is_cny);
    json.maybe("receipt_amount", texts.amount("receipt_amount").map(Cow::Owned));
    json.maybe("buyer_pay_amount", texts.amount("buyer_pay_amount").map(Cow::Owned));
    json.maybe("paid_at", trade.gmt_payment.map(|at| Cow::Owned(at.rfc3339_beijing())));
    if event_type == EventType::PaymentRefunded {
        json.object("refund", |json| {
            json.maybe("out_biz_no", texts.text("out_biz_no"));
            if let Some(fee) = trade.refund_fee {
                json.money("refund_fee", fee, is_cny);
            }
            json.maybe("refunded_at", trade.gmt_refund.map(|(_, at)| Cow::Owned(at.rfc3339_beijing())));
        });
    }
}

/// Every received parameter, `sign` included, so that a consumer can verify for himself.
fn render_everything(json: &mut Json, texts: &Texts<'_>) {
    for (name, value) in texts.form.parameters() {
        if let Some(text) = texts.disclose(name, value) {
            json.text(&texts.charset.text(name).0, &text);
        }
    }
}

/// Members of a JSON object, written one behind the other. By hand, because an event has some sixty texts of which
/// hardly any needs escaping, and rendering them byte by byte took a fifth of the instructions that are not RSA.
struct Json(String);

impl Json {
    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        self.quoted(value);
    }

    fn maybe(&mut self, name: &str, value: Option<Cow<'_, str>>) {
        if let Some(value) = value {
            self.text(name, &value);
        }
    }

    /// A number, or true.
    fn plain(&mut self, name: &str, value: &str) {
        self.name(name);
        self.0.push_str(value);
    }

    /// With two decimals as text, and for CNY in hundredths as a number.
    fn money(&mut self, name: &str, amount: Money, is_cny: bool) {
        self.text(name, &amount.to_string());
        if is_cny {
            self.plain(&format!("{name}_minor"), &amount.minor().to_string());
        }
    }

    fn object(&mut self, name: &str, members: impl FnOnce(&mut Self)) {
        self.name(name);
        self.0.push('{');
        members(self);
        self.0.push('}');
    }

    fn name(&mut self, name: &str) {
        if !self.0.is_empty() && !self.0.ends_with('{') {
            self.0.push(',');
        }
        self.quoted(name);
        self.0.push(':');
    }

    fn quoted(&mut self, text: &str) {
        // All of it is looked at, without an early end: that is what compilers make wide instructions of.
        let odd =
            text.bytes().fold(false, |odd, byte| odd | (byte < 0x20) | (byte == b'"') | (byte == b'\\'));
        if odd {
            // A text cannot fail to serialise.
            self.0.push_str(&serde_json::to_string(text).unwrap_or_else(|_| "null".to_owned()));
        } else {
            self.0.push('"');
            self.0.push_str(text);
            self.0.push('"');
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

/// Keeps the last four characters of what is long enough to stay unknown without them.
fn mask(text: &str) -> String {
    let length = text.chars().count();
    let shown = if length >= 12 { 4 } else { 0 };
    text.chars().enumerate().map(|(n, character)| if n + shown < length { '*' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_comes_out_as_it_went_in() {
        let odd: String = (0..0x30).map(char::from).chain("\"\\/é商\u{2028}\u{7f}😀".chars()).collect();
        for text in ["", "plain", "商品", "{", "a{", &odd] {
            let mut json = Json(String::new());
            json.text(text, text);
            json.object("inside", |json| {
                json.text("a", text);
                json.plain("b", "1");
            });
            json.text("last", text);
            let read: serde_json::Value = serde_json::from_str(&format!("{{{}}}", json.0)).unwrap();
            let expected = serde_json::json!({text: text, "inside": {"a": text, "b": 1}, "last": text});
            assert_eq!(read, expected);
        }
    }
}
