//! Notifications in the shapes of real ones (protocol.md §4, §5), with trades of their own. Re-deliveries keep
//! every business field and have a new `notify_time` and so a new signature; trade numbers are spread over the
//! day as real ones are, not counted up.

use rand::RngExt as _;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;

use super::{Signer, signing_content};
use crate::clock::Timestamp;

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

/// A trade that was paid.
#[derive(Debug, Clone)]
pub struct Trade {
    merchant: Merchant,
    trade_no: String,
    out_trade_no: String,
    notify_id: String,
    amount: u64,
    paid_at: Timestamp,
}

impl Trade {
    /// A new trade, paid now.
    pub fn new(merchant: &Merchant, random: &mut SmallRng, now: Timestamp) -> Self {
        let date: String = now.alipay().chars().filter(char::is_ascii_digit).take(8).collect();
        let (buyer, serial): (u64, u64) =
            (random.random_range(0..100), random.random_range(0..10u64.pow(13)));
        Self {
            merchant: merchant.clone(),
            trade_no: format!("{date}22001{buyer:02}{serial:013}"),
            out_trade_no: format!("R{:012}", random.random_range(0..10u64.pow(12))),
            notify_id: format!("{date}00222{:016}{buyer:02}", random.random_range(0..10u64.pow(16))),
            amount: random.random_range(1..1_000_000),
            // Some seconds ago, so that a re-delivery has a newer notify_time that is not in the future.
            paid_at: Timestamp::from_unix_millis(now.unix_millis() - 5_000),
        }
    }

    /// Its number at Alipay.
    pub fn trade_no(&self) -> &str {
        &self.trade_no
    }

    /// The body of a notification about it, signed, its parameters in arbitrary order.
    pub fn body(&self, kind: Kind, signer: &Signer, random: &mut SmallRng, now: Timestamp) -> String {
        self.notification(kind, random, now).body(signer, random)
    }

    /// A notification about it.
    pub fn notification(&self, kind: Kind, random: &mut SmallRng, now: Timestamp) -> Notification {
        let forged_amount = (kind == Kind::Forged).then(|| yuan(self.amount + 1));
        Notification { kind, fields: self.fields(kind, random, now), forged_amount }
    }

    fn fields(&self, kind: Kind, random: &mut SmallRng, now: Timestamp) -> Vec<(String, String)> {
        let (amount, paid_at) = (yuan(self.amount), self.paid_at.alipay());
        let app_id = self.merchant.app_id.as_str();
        let notify_time = match kind {
            Kind::Payment | Kind::Forged => self.paid_at.plus(std::time::Duration::from_secs(1)).alipay(),
            Kind::Redelivery | Kind::Refund | Kind::Finish => now.alipay(),
        };
        let mut fields: Vec<(&str, String)> = vec![
            ("app_id", app_id.to_owned()),
            ("auth_app_id", app_id.to_owned()),
            ("buyer_id", format!("2088{:012}", self.amount * 7919 % 10u64.pow(12))),
            ("buyer_logon_id", "186****0000".to_owned()),
            ("charset", "utf-8".to_owned()),
            ("gmt_create", paid_at.clone()),
            ("gmt_payment", paid_at),
            ("notify_id", self.notify_id.clone()),
            ("notify_time", notify_time),
            ("notify_type", "trade_status_sync".to_owned()),
            ("out_trade_no", self.out_trade_no.clone()),
            ("passback_params", "channel=web&campaign=11.11".to_owned()),
            ("point_amount", "0.00".to_owned()),
            ("seller_id", self.merchant.seller_id.clone()),
            ("sign_type", "RSA2".to_owned()),
            ("subject", "测试商品：一杯咖啡 + 一块蛋糕".to_owned()),
            ("total_amount", amount.clone()),
            ("trade_no", self.trade_no.clone()),
            ("version", "1.0".to_owned()),
        ];
        match kind {
            Kind::Payment | Kind::Redelivery | Kind::Forged => {
                fields.push(("trade_status", "TRADE_SUCCESS".to_owned()));
                fields.extend(money_that_came(&amount));
            }
            Kind::Finish => {
                fields.push(("trade_status", "TRADE_FINISHED".to_owned()));
                fields.extend(money_that_came(&amount));
                set(&mut fields, "notify_id", format!("{}f", self.notify_id));
            }
            Kind::Refund => {
                fields.push(("trade_status", "TRADE_SUCCESS".to_owned()));
                fields.push(("gmt_refund", format!("{}.{:03}", now.alipay(), random.random_range(0..1000))));
                fields.push(("refund_fee", yuan(self.amount.div_ceil(2))));
                fields.push(("out_biz_no", format!("{}-1", self.out_trade_no)));
                set(&mut fields, "notify_id", format!("{}r", self.notify_id));
            }
        }
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
        let mut fields = self.fields.clone();
        let sign = signer.sign(signing_content(&fields).as_bytes());
        if let Some(forged) = &self.forged_amount {
            for (_, value) in fields.iter_mut().filter(|(name, _)| name == "total_amount") {
                value.clone_from(forged);
            }
        }
        fields.push(("sign".to_owned(), sign));
        fields.shuffle(random);
        // A list of pairs of text cannot fail to be written as a form.
        serde_urlencoded::to_string(&fields).unwrap_or_default()
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

fn set(fields: &mut [(&str, String)], name: &str, value: String) {
    if let Some((_, old)) = fields.iter_mut().find(|(known, _)| *known == name) {
        *old = value;
    }
}

fn yuan(minor: u64) -> String {
    format!("{}.{:02}", minor / 100, minor % 100)
}
