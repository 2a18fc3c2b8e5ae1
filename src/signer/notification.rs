//! Notifications in the shapes of real ones (protocol.md §4, §5), with trades of their own. Re-deliveries keep
//! every business field and have a new `notify_time` and so a new signature; trade numbers are spread over the
//! day as real ones are, not counted up.

use rand::RngExt as _;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;

use super::{Signer, signing_content};
use crate::clock::Timestamp;
use crate::event::Money;

/// What a notification is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Somebody has paid.
    Payment,
    /// A payment delivered again.
    Redelivery,
    /// A part of a payment was given back: a TRADE_SUCCESS with refund fields.
    Refund,
    /// The refund window of a payment is over: a TRADE_FINISHED with a `notify_id` of its own.
    Finish,
    /// A payment whose amount somebody changed on the way.
    Forged,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Payment, Self::Redelivery, Self::Refund, Self::Finish, Self::Forged];

    /// The name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Payment => "payment",
            Self::Redelivery => "redelivery",
            Self::Refund => "refund",
            Self::Finish => "finish",
            Self::Forged => "forged",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Whether `success` is the right answer.
    pub const fn is_authentic(self) -> bool {
        match self {
            Self::Payment | Self::Redelivery | Self::Refund | Self::Finish => true,
            Self::Forged => false,
        }
    }
}

/// Whose notifications they are.
#[derive(Debug, Clone)]
pub struct Merchant {
    /// The app.
    pub app_id: String,
    /// The seller.
    pub seller_id: String,
}

/// What a merchant asked for.
#[derive(Debug, Clone)]
pub struct Purchase {
    /// The merchant's number of it.
    pub out_trade_no: String,
    /// How much.
    pub total_amount: Money,
    /// For what.
    pub subject: String,
    /// More of it; may be empty.
    pub body: String,
    /// Comes back as it is; may be empty.
    pub passback_params: String,
}

/// A trade.
#[derive(Debug, Clone)]
pub struct Trade {
    merchant: Merchant,
    purchase: Purchase,
    trade_no: String,
    notify_id: String,
    created_at: Timestamp,
    paid_at: Option<Timestamp>,
}

/// What became of a trade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// It was paid.
    Paid,
    /// Some or all of it was given back.
    Refunded(Refund),
    /// It was not paid in time, or the merchant closed it.
    Closed(Timestamp),
    /// It can no longer be refunded.
    Finished,
}

/// A refund.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refund {
    /// The merchant's number of it.
    pub out_biz_no: String,
    /// What was given back of the trade so far, this refund included (总退款金额).
    pub refunded: Money,
    /// When, with milliseconds.
    pub at: Timestamp,
}

impl Trade {
    /// A new trade, paid now.
    pub fn new(merchant: &Merchant, random: &mut SmallRng, now: Timestamp) -> Self {
        let (buyer, serial) = (random.random_range(0..100), random.random_range(0..10u64.pow(13)));
        let purchase = Purchase {
            out_trade_no: format!("R{:012}", random.random_range(0..10u64.pow(12))),
            total_amount: Money::default(),
            subject: "测试商品：一杯咖啡 + 一块蛋糕".to_owned(),
            body: String::new(),
            passback_params: "channel=web&campaign=11.11".to_owned(),
        };
        let mut trade = Self::numbered(merchant, purchase, (buyer, serial), random, now);
        trade.purchase.total_amount = Money::from_minor(random.random_range(1..1_000_000));
        // Some seconds ago, so that a re-delivery has a newer notify_time that is not in the future.
        trade.created_at = Timestamp::from_unix_millis(now.unix_millis() - 5_000);
        trade.paid_at = Some(trade.created_at);
        trade
    }

    /// A trade that a merchant asked for, not paid yet.
    pub fn ordered(merchant: &Merchant, purchase: Purchase, random: &mut SmallRng, now: Timestamp) -> Self {
        let numbers = (random.random_range(0..100), random.random_range(0..10u64.pow(13)));
        Self::numbered(merchant, purchase, numbers, random, now)
    }

    fn numbered(
        merchant: &Merchant,
        purchase: Purchase,
        (buyer, serial): (u64, u64),
        random: &mut SmallRng,
        now: Timestamp,
    ) -> Self {
        let date: String = now.alipay().chars().filter(char::is_ascii_digit).take(8).collect();
        Self {
            merchant: merchant.clone(),
            purchase,
            trade_no: format!("{date}22001{buyer:02}{serial:013}"),
            notify_id: format!("{date}00222{:016}{buyer:02}", random.random_range(0..10u64.pow(16))),
            created_at: now,
            paid_at: None,
        }
    }

    /// A buyer pays it.
    pub fn pay(&mut self, now: Timestamp) {
        self.paid_at = Some(now);
    }

    /// Its number at Alipay.
    pub fn trade_no(&self) -> &str {
        &self.trade_no
    }

    /// What was asked for.
    pub fn purchase(&self) -> &Purchase {
        &self.purchase
    }

    /// When it was made.
    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// When it was paid.
    pub fn paid_at(&self) -> Option<Timestamp> {
        self.paid_at
    }

    /// The body of a notification about it, signed, its parameters in arbitrary order.
    pub fn body(&self, kind: Kind, signer: &Signer, random: &mut SmallRng, now: Timestamp) -> String {
        self.notification(kind, random, now).body(signer, random)
    }

    /// A notification about it.
    pub fn notification(&self, kind: Kind, random: &mut SmallRng, now: Timestamp) -> Notification {
        let amount = self.purchase.total_amount.minor();
        let forged_amount = (kind == Kind::Forged).then(|| Money::from_minor(amount + 1).to_string());
        Notification { kind, fields: self.fields(kind, random, now), forged_amount }
    }

    fn fields(&self, kind: Kind, random: &mut SmallRng, now: Timestamp) -> Vec<(String, String)> {
        let paid_at = self.paid_at.unwrap_or(self.created_at);
        match kind {
            Kind::Payment | Kind::Forged => {
                self.told(&Fact::Paid, &self.notify_id, paid_at.plus(std::time::Duration::from_secs(1)))
            }
            Kind::Redelivery => self.told(&Fact::Paid, &self.notify_id, now),
            Kind::Finish => self.told(&Fact::Finished, &format!("{}f", self.notify_id), now),
            Kind::Refund => {
                let seconds = now.unix_millis().div_euclid(1000) * 1000;
                let refund = Refund {
                    out_biz_no: format!("{}-1", self.purchase.out_trade_no),
                    refunded: Money::from_minor(self.purchase.total_amount.minor().div_ceil(2)),
                    at: Timestamp::from_unix_millis(seconds + random.random_range(0..1000)),
                };
                let mut fields = self.told(&Fact::Refunded(refund), &format!("{}r", self.notify_id), now);
                // Of one hundredth nothing remains; told as a part all the same, since these are what `refund` means.
                for (name, value) in &mut fields {
                    if name == "trade_status" {
                        "TRADE_SUCCESS".clone_into(value);
                    }
                }
                fields.retain(|(name, _)| name != "gmt_close");
                fields
            }
        }
    }

    /// The fields of a notification that tells it, unsigned.
    pub fn told(&self, fact: &Fact, notify_id: &str, notify_time: Timestamp) -> Vec<(String, String)> {
        let amount = self.purchase.total_amount.to_string();
        let app_id = self.merchant.app_id.as_str();
        let buyer = self.purchase.total_amount.minor() * 7919 % 10u64.pow(12);
        let mut fields: Vec<(&str, String)> = vec![
            ("app_id", app_id.to_owned()),
            ("auth_app_id", app_id.to_owned()),
            ("buyer_id", format!("2088{buyer:012}")),
            ("buyer_logon_id", "186****0000".to_owned()),
            ("charset", "utf-8".to_owned()),
            ("gmt_create", self.created_at.alipay()),
            ("notify_id", notify_id.to_owned()),
            ("notify_time", notify_time.alipay()),
            ("notify_type", "trade_status_sync".to_owned()),
            ("out_trade_no", self.purchase.out_trade_no.clone()),
            ("passback_params", self.purchase.passback_params.clone()),
            ("body", self.purchase.body.clone()),
            ("point_amount", "0.00".to_owned()),
            ("seller_id", self.merchant.seller_id.clone()),
            ("sign_type", "RSA2".to_owned()),
            ("subject", self.purchase.subject.clone()),
            ("total_amount", amount.clone()),
            ("trade_no", self.trade_no.clone()),
            ("version", "1.0".to_owned()),
        ];
        // What is closed with nothing given back was never paid.
        let paid_at = self.paid_at.filter(|_| !matches!(fact, Fact::Closed(_)));
        fields.extend(paid_at.map(|at| ("gmt_payment", at.alipay())));
        match fact {
            Fact::Paid => {
                fields.push(("trade_status", "TRADE_SUCCESS".to_owned()));
                fields.extend(money_that_came(&amount));
            }
            Fact::Finished => {
                fields.push(("trade_status", "TRADE_FINISHED".to_owned()));
                fields.extend(money_that_came(&amount));
            }
            Fact::Closed(at) => {
                fields.push(("trade_status", "TRADE_CLOSED".to_owned()));
                fields.push(("gmt_close", at.alipay()));
            }
            Fact::Refunded(refund) => {
                // With nothing left it is closed; a part leaves it as it was (protocol.md §5).
                let is_all = refund.refunded >= self.purchase.total_amount;
                let status = if is_all { "TRADE_CLOSED" } else { "TRADE_SUCCESS" };
                fields.push(("trade_status", status.to_owned()));
                fields.extend(is_all.then(|| ("gmt_close", refund.at.alipay())));
                let millis = refund.at.unix_millis().rem_euclid(1000);
                fields.push(("gmt_refund", format!("{}.{millis:03}", refund.at.alipay())));
                fields.push(("refund_fee", refund.refunded.to_string()));
                fields.push(("out_biz_no", refund.out_biz_no.clone()));
            }
        }
        // No real notification has an empty value.
        fields.retain(|(_, value)| !value.is_empty());
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// One notification: what all its deliveries have in common, and the `notify_time` of the next one.
#[derive(Debug, Clone)]
pub struct Notification {
    kind: Kind,
    fields: Vec<(String, String)>,
    forged_amount: Option<String>,
}

impl Notification {
    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// A field of it, empty if it has none of that name.
    pub fn field(&self, name: &str) -> &str {
        self.fields.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// It is delivered again: with a new `notify_time`, so that its signature is new too.
    pub fn again(&mut self, now: Timestamp) {
        for (_, value) in self.fields.iter_mut().filter(|(name, _)| name == "notify_time") {
            *value = now.alipay();
        }
    }

    /// The body of a delivery, signed, its parameters in arbitrary order.
    pub fn body(&self, signer: &Signer, random: &mut SmallRng) -> String {
        signed_body(self.fields.clone(), signer, self.forged_amount.as_deref(), random)
    }
}

/// The fields as a signed body, in arbitrary order; with another `total_amount` than the one that was signed, where a forger
/// has been at it.
pub fn signed_body(
    mut fields: Vec<(String, String)>,
    signer: &Signer,
    forged_amount: Option<&str>,
    random: &mut SmallRng,
) -> String {
    let sign = signer.sign(signing_content(&fields).as_bytes());
    if let Some(forged) = forged_amount {
        for (_, value) in fields.iter_mut().filter(|(name, _)| name == "total_amount") {
            forged.clone_into(value);
        }
    }
    fields.push(("sign".to_owned(), sign));
    fields.shuffle(random);
    // A list of pairs of text cannot fail to be written as a form.
    serde_urlencoded::to_string(&fields).unwrap_or_default()
}

/// The fields as a signed body in GBK, which they are told to be in: the signature covers the bytes of that charset, and
/// the values are percent-encoded in it. What GBK has no character for becomes a reference such as `&#128077;`.
pub fn body_in_gbk(mut fields: Vec<(String, String)>, signer: &Signer) -> String {
    for (_, value) in fields.iter_mut().filter(|(name, _)| name == "charset") {
        "GBK".clone_into(value);
    }
    let in_gbk = |text: &str| encoding_rs::GBK.encode(text).0.into_owned();
    let sign = signer.sign(&in_gbk(&signing_content(&fields)));
    fields.push(("sign".to_owned(), sign));
    let encoded = |text: &str| in_gbk(text).iter().map(|byte| percent_encoded(*byte)).collect::<String>();
    let pairs = fields.iter().map(|(name, value)| format!("{name}={}", encoded(value)));
    pairs.collect::<Vec<_>>().join("&")
}

fn percent_encoded(byte: u8) -> String {
    match byte {
        b' ' => "+".to_owned(),
        b'*' | b'-' | b'.' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    }
}

/// What a payment carries and a refund does not.
fn money_that_came(amount: &str) -> [(&'static str, String); 4] {
    [
        ("receipt_amount", amount.to_owned()),
        ("buyer_pay_amount", amount.to_owned()),
        ("invoice_amount", amount.to_owned()),
        ("fund_bill_list", format!(r#"[{{"amount":"{amount}","fundChannel":"ALIPAYACCOUNT"}}]"#)),
    ]
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    /// The names of what a notification tells, beside those that every one has.
    fn told(fact: &Fact) -> Vec<(String, String)> {
        let merchant = Merchant { app_id: "1".to_owned(), seller_id: "2088".to_owned() };
        let mut random = SmallRng::seed_from_u64(1);
        let mut trade = Trade::new(&merchant, &mut random, Timestamp::from_unix_millis(1_800_000_000_000));
        trade.purchase.total_amount = Money::from_minor(1000);
        let told = trade.told(fact, "n", trade.created_at());
        let closed = trade.told(&Fact::Closed(trade.created_at()), "n", trade.created_at());
        let of_every_one = |name: &str| name != "gmt_close" && closed.iter().any(|(known, _)| known == name);
        told.into_iter().filter(|(name, _)| !of_every_one(name) || name == "trade_status").collect()
    }

    fn names(told: &[(String, String)]) -> Vec<&str> {
        let mut names: Vec<&str> = told.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn each_notification_has_the_fields_of_its_kind_and_no_others() {
        let paid = ["fund_bill_list", "gmt_payment", "invoice_amount", "receipt_amount", "trade_status"];
        let paid: Vec<&str> = ["buyer_pay_amount"].into_iter().chain(paid).collect();
        assert_eq!(names(&told(&Fact::Paid)), paid);
        assert_eq!(names(&told(&Fact::Finished)), paid);
        let at = Timestamp::from_unix_millis(1_800_000_100_125);
        assert_eq!(names(&told(&Fact::Closed(at))), ["gmt_close", "trade_status"]);
        let refund = |minor| Refund { out_biz_no: "R".to_owned(), refunded: Money::from_minor(minor), at };
        // Nothing of the money that came (protocol.md §5): who reads receipt_amount alone would ship again.
        let part = told(&Fact::Refunded(refund(400)));
        assert_eq!(names(&part), ["gmt_payment", "gmt_refund", "out_biz_no", "refund_fee", "trade_status"]);
        let all = told(&Fact::Refunded(refund(1000)));
        assert_eq!(
            names(&all),
            ["gmt_close", "gmt_payment", "gmt_refund", "out_biz_no", "refund_fee", "trade_status"]
        );
        let status = |told: &[(String, String)]| {
            told.iter().find(|(name, _)| name == "trade_status").map(|(_, status)| status.clone())
        };
        assert_eq!(status(&part).as_deref(), Some("TRADE_SUCCESS"));
        assert_eq!(status(&all).as_deref(), Some("TRADE_CLOSED"));
    }
}
