//! Alipay: a pool of trades and the notifications about them, each signed once and reused by every world, and the
//! schedule on which each is delivered until it is answered `success` (protocol.md §6: 4 m, 10 m, 10 m, 1 h, 2 h, 6 h,
//! 15 h; captures fit within −50/+90 s). A delivery has its own `notify_time` and so its own signature: what is
//! simulated goes through the real `admission::admit` each time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use alipay_notify_gateway::admission::key_ring::PublicKey;
use alipay_notify_gateway::admission::policy::{App, Buyer, Policy, SignType};
use alipay_notify_gateway::clock::Timestamp;
use alipay_notify_gateway::event::{Digest, Environment, Money};
use alipay_notify_gateway::signer::{Signer, signing_content};
use bytes::Bytes;
use tokio::sync::Notify;

/// When each world begins.
pub fn beginning() -> Timestamp {
    Timestamp::from_beijing((2026, 11, 23), (10, 0, 0, 0)).unwrap()
}

/// Every notification that there is.
pub struct Pool {
    signer: Signer,
    pub policy: Policy,
    pub notices: Vec<Notice>,
}

/// One notification, in its eight deliveries.
pub struct Notice {
    /// Which trade it is about, by its number.
    pub trade: usize,
    /// When it is first delivered, in milliseconds of the world.
    pub first_at: u64,
    /// The ids under any of which it may be announced.
    pub ids: Vec<String>,
    /// Its money facts.
    pub digest: String,
    fields: Vec<(&'static str, String)>,
    bodies: [OnceLock<Bytes>; DELIVERIES],
}

/// What a notification is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pending,
    Payment,
    OtherMoney,
    Refund(u64),
    Finish,
    Closed,
    Other,
}

impl Pool {
    /// The pool. Made once, with the key of the test vectors: the same bytes in every run.
    pub fn shared() -> &'static Self {
        static POOL: OnceLock<Pool> = OnceLock::new();
        POOL.get_or_init(|| {
            let signer = Signer::read(include_str!("../vectors/test-signing-key.pem")).unwrap();
            let policy = policy(&signer);
            let notices = (0..TRADES).flat_map(notices_of).collect();
            Self { signer, policy, notices }
        })
    }

    /// The body of a notification's delivery.
    pub fn body(&self, notice: usize, delivery: usize) -> Bytes {
        let notice = &self.notices[notice];
        notice.bodies[delivery].get_or_init(|| notice.signed(&self.signer, delivery)).clone()
    }
}

impl Notice {
    fn signed(&self, signer: &Signer, delivery: usize) -> Bytes {
        let notify_time = at(self.first_at + SCHEDULE[delivery]).alipay();
        let mut fields: Vec<(String, String)> =
            self.fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        fields.push(("notify_time".to_owned(), notify_time));
        let sign = signer.sign(signing_content(&fields).as_bytes());
        fields.push(("sign".to_owned(), sign));
        serde_urlencoded::to_string(&fields).unwrap().into()
    }
}

/// What Alipay still has to deliver, and what it waits to be answered.
pub struct Schedule {
    due: BinaryHeap<Reverse<Due>>,
    number: u64,
    /// Deliveries on their way: with the gateway they are gone too.
    pub outstanding: BTreeMap<u64, Due>,
    /// Answered `success`, as far as Alipay saw it.
    settled: BTreeSet<usize>,
    /// Something came in that is due earlier.
    pub changed: Arc<Notify>,
}

/// A delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due {
    pub at: u64,
    pub number: u64,
    pub notice: usize,
    pub delivery: usize,
    /// It is one more of the same: nothing follows from what it is answered.
    pub twin: bool,
}

impl Schedule {
    pub fn new() -> Self {
        Self {
            due: BinaryHeap::new(),
            number: 0,
            outstanding: BTreeMap::new(),
            settled: BTreeSet::new(),
            changed: Arc::default(),
        }
    }

    /// Adds a delivery.
    pub fn add(&mut self, notice: usize, delivery: usize, at: u64, twin: bool) {
        self.number += 1;
        self.due.push(Reverse(Due { at, number: self.number, notice, delivery, twin }));
        self.changed.notify_one();
    }

    /// What comes after an unanswered or failed delivery: the next of the schedule, if there is one. `jitter` is of
    /// 0 to 140 seconds.
    pub fn retry(&mut self, failed: Due, now: u64, jitter: u64) {
        let next = failed.delivery + 1;
        if failed.twin || next >= DELIVERIES || self.settled.contains(&failed.notice) {
            return;
        }
        let nominal = Pool::shared().notices[failed.notice].first_at + SCHEDULE[next];
        let at = (nominal + jitter).saturating_sub(50_000).max(now + 60_000);
        self.add(failed.notice, next, at, false);
    }

    /// Alipay saw `success`.
    pub fn settle(&mut self, notice: usize) {
        self.settled.insert(notice);
    }

    /// When the next one is due.
    pub fn next_at(&self) -> Option<u64> {
        self.due.peek().map(|Reverse(due)| due.at)
    }

    /// Takes the next one, if it is due.
    pub fn take(&mut self, now: u64) -> Option<Due> {
        (self.next_at()? <= now).then(|| self.due.pop())?.map(|Reverse(due)| due)
    }

    pub fn is_over(&self) -> bool {
        self.due.is_empty() && self.outstanding.is_empty()
    }
}

/// A moment of the world as a time.
pub fn at(millis: u64) -> Timestamp {
    beginning().plus(Duration::from_millis(millis))
}

fn policy(signer: &Signer) -> Policy {
    let pem = signer.public_pem().unwrap();
    let (key, _) = PublicKey::read(pem.as_bytes(), APP, SignType::Rsa2).unwrap();
    let app = App {
        app_id: APP.to_owned(),
        environment: Environment::Production,
        seller_ids: BTreeSet::from([SELLER.to_owned()]),
        keys: vec![key],
        shadow_keys: Vec::new(),
        sign_type: SignType::Rsa2,
    };
    Policy {
        apps: BTreeMap::from([(APP.to_owned(), app)]),
        max_age: Duration::from_secs(24 * 3600),
        retention: RETENTION,
        complete_since: Timestamp::default(),
        buyer: Buyer::Omit,
        notification: false,
    }
}

/// Trades come in crowds of one second, a crowd every 20 seconds.
fn notices_of(trade: usize) -> Vec<Notice> {
    let paid_at = (trade / CROWD) as u64 * 20_000;
    let mut kinds = vec![(Kind::Payment, 1_000)];
    let mut also = |every: usize, is: usize, kind: Kind, after: u64| {
        if trade % every == is {
            kinds.push((kind, after));
        }
    };
    also(10, 3, Kind::Pending, 500);
    also(40, 5, Kind::OtherMoney, 1_000);
    also(8, 1, Kind::Refund(1), 30_000);
    also(16, 1, Kind::Refund(2), 31_000);
    also(7, 2, Kind::Finish, 45_000);
    also(20, 9, Kind::Closed, 1_000);
    also(50, 11, Kind::Other, 2_000);
    kinds.into_iter().map(|(kind, after)| notice_of(trade, kind, paid_at, after)).collect()
}

fn notice_of(trade: usize, kind: Kind, paid_at: u64, after: u64) -> Notice {
    let trade_no = format!("2026112322001427{trade:012}");
    let out_trade_no = format!("R{trade:08}");
    let amount = 100 + trade as u64 + u64::from(kind == Kind::OtherMoney);
    let (suffix, status, event_type) = match kind {
        Kind::Pending => ("w", "WAIT_BUYER_PAY", "trade.pending"),
        Kind::Payment => ("p", "TRADE_SUCCESS", "payment.succeeded"),
        Kind::OtherMoney => ("o", "TRADE_SUCCESS", "payment.succeeded"),
        Kind::Refund(1) => ("r", "TRADE_SUCCESS", "payment.refunded"),
        Kind::Refund(_) => ("s", "TRADE_SUCCESS", "payment.refunded"),
        Kind::Finish => ("f", "TRADE_FINISHED", "payment.succeeded"),
        Kind::Closed => ("c", "TRADE_CLOSED", "trade.closed"),
        Kind::Other => ("n", "", "notification.other"),
    };
    let notify_id = format!("20261123002{trade:08}{suffix}");
    let mut fields = vec![
        ("app_id", APP.to_owned()),
        ("charset", "utf-8".to_owned()),
        ("notify_id", notify_id.clone()),
        ("seller_id", SELLER.to_owned()),
        ("sign_type", "RSA2".to_owned()),
    ];
    if kind == Kind::Other {
        fields.push(("notify_type", "fund_auth_freeze".to_owned()));
        let ids = vec![format!("{APP}.notification.{notify_id}")];
        let digest = Digest::of(b"", None, b"", None).short();
        return Notice { trade, first_at: paid_at + after, ids, digest, fields, bodies: Default::default() };
    }
    let mut refund_fee = None;
    let mut id = format!("{APP}.{trade_no}.{event_type}");
    fields.extend([
        ("notify_type", "trade_status_sync".to_owned()),
        ("gmt_create", at(paid_at).alipay()),
        ("out_trade_no", out_trade_no.clone()),
        ("subject", "测试商品 + 1".to_owned()),
        ("total_amount", yuan(amount)),
        ("trade_no", trade_no.clone()),
        ("trade_status", status.to_owned()),
    ]);
    if !matches!(kind, Kind::Pending | Kind::Closed) {
        fields.push(("gmt_payment", at(paid_at).alipay()));
    }
    if let Kind::Refund(number) = kind {
        let number_at_merchant = format!("{out_trade_no}-{number}");
        id = format!("{id}.{number_at_merchant}");
        fields.push(("out_biz_no", number_at_merchant));
        fields.push(("gmt_refund", format!("{}.250", at(paid_at + after).alipay())));
        fields.push(("refund_fee", yuan(10 * number)));
        refund_fee = Money::parse(yuan(10 * number).as_bytes());
    }
    let money = Money::parse(yuan(amount).as_bytes());
    let digest = Digest::of(out_trade_no.as_bytes(), money, SELLER.as_bytes(), refund_fee).short();
    let mut ids = vec![format!("{id}.conflict.{digest}"), id];
    if kind == Kind::Finish {
        ids.push(format!("{APP}.{trade_no}.trade.finished"));
    }
    Notice { trade, first_at: paid_at + after, ids, digest, fields, bodies: Default::default() }
}

fn yuan(minor: u64) -> String {
    format!("{}.{:02}", minor / 100, minor % 100)
}

const APP: &str = "2021000000000001";
const SELLER: &str = "2088101117955611";
/// `store.retention`.
pub const RETENTION: Duration = Duration::from_secs(35 * 86_400);
/// Deliveries of one notification, if none is answered `success`.
pub const DELIVERIES: usize = 8;
/// When each comes after the first.
const SCHEDULE: [u64; DELIVERIES] = {
    let minute = 60_000;
    [0, 4 * minute, 14 * minute, 24 * minute, 84 * minute, 204 * minute, 564 * minute, 1464 * minute]
};
const TRADES: usize = 600;
const CROWD: usize = 25;
