//! What a consumer is tried with: cases, each an order of its own with the events that come of it, and what is right.

use crate::clock::Timestamp;
use crate::event::{Digest, Environment, Event, EventId, EventType, Message, Money};
use crate::json::Members;

/// An order, and what happens to it.
#[derive(Debug)]
pub(super) struct Case {
    number: u8,
    /// What happens.
    pub(super) title: &'static str,
    /// The rule of docs/consuming.md that it tries.
    pub(super) rule: u8,
    /// Whether the consumer has the order.
    pub(super) has_order: bool,
    /// Whether it is to be shipped: then once.
    pub(super) ships: bool,
    /// Whether a person is to be told.
    pub(super) needs_look: bool,
    /// What is written down as given back of the order, in the end.
    given_back: Option<GivenBack>,
    steps: &'static [Step],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GivenBack {
    All,
    /// In hundredths.
    Part(u64),
}

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Paid,
    /// The same event from another delivery of Alipay's, while the gateway's store was away.
    PaidWithOtherBytes,
    /// By another trade.
    PaidAgain,
    /// With another amount than the order's.
    PaidTooLittle,
    RefundedInFull,
    RefundedInPart,
    /// Another part, after the first: the figure is the total so far.
    RefundedMore,
    /// By the trade that paid again.
    OtherRefunded,
    /// All that the trade with another amount paid.
    TooLittleRefunded,
    /// The figure is missing.
    RefundedWithoutFee,
    Conflict,
    Late,
    Pending,
    Closed,
    /// Of another trade than the one that is paid.
    OtherClosed,
    Finished,
    /// A type of a later version.
    OfTomorrow,
    NoJson,
    /// Known types, and a member missing.
    WithoutEnvironment,
    WithoutOrder,
    WithoutRefund,
}

use Step::{
    Closed, Conflict, Finished, Late, NoJson, OfTomorrow, OtherClosed, OtherRefunded, Paid, PaidAgain,
    PaidTooLittle, PaidWithOtherBytes, Pending, RefundedInFull, RefundedInPart, RefundedMore,
    RefundedWithoutFee, TooLittleRefunded, WithoutEnvironment, WithoutOrder, WithoutRefund,
};

const SHIPS: Case = Case {
    number: 0,
    title: "",
    rule: 2,
    has_order: true,
    ships: true,
    needs_look: false,
    given_back: None,
    steps: &[],
};
const NOT: Case = Case { ships: false, ..SHIPS };
const LOOK: Case = Case { needs_look: true, ..NOT };

pub(super) const CASES: [Case; 21] = [
    Case { number: 1, title: "paid", steps: &[Paid], ..SHIPS },
    Case { number: 2, title: "the same message five times", steps: &[Paid, Paid, Paid, Paid, Paid], ..SHIPS },
    Case { number: 3, title: "repeated with other bytes", steps: &[Paid, PaidWithOtherBytes], ..SHIPS },
    Case {
        number: 4,
        title: "given back in part, which carries TRADE_SUCCESS",
        rule: 1,
        steps: &[Paid, RefundedInPart],
        given_back: Some(GivenBack::Part(100)),
        ..SHIPS
    },
    Case {
        number: 5,
        title: "the refund comes before its payment",
        rule: 5,
        steps: &[RefundedInFull, Paid],
        given_back: Some(GivenBack::All),
        ..LOOK
    },
    Case {
        number: 6,
        title: "paid, given back, and the payment is repeated",
        rule: 4,
        steps: &[Paid, RefundedInFull, Paid],
        given_back: Some(GivenBack::All),
        ..SHIPS
    },
    Case {
        number: 7,
        title: "paid, then the same trade with other money",
        rule: 6,
        steps: &[Paid, Conflict],
        needs_look: true,
        ..SHIPS
    },
    Case { number: 8, title: "an amount that is not the order's", rule: 3, steps: &[PaidTooLittle], ..LOOK },
    Case {
        number: 9,
        title: "an order that there is not",
        rule: 3,
        has_order: false,
        steps: &[Paid],
        ..LOOK
    },
    Case {
        number: 10,
        title: "paid, then pending and closed come late",
        rule: 4,
        steps: &[Paid, Pending, Closed],
        ..SHIPS
    },
    Case {
        number: 11,
        title: "one trade ran out, another paid",
        rule: 4,
        steps: &[OtherClosed, Paid],
        ..SHIPS
    },
    Case {
        number: 12,
        title: "paid by two trades",
        rule: 6,
        steps: &[Paid, PaidAgain],
        needs_look: true,
        ..SHIPS
    },
    Case { number: 13, title: "a payment so old that nobody knows", rule: 6, steps: &[Late], ..LOOK },
    Case { number: 14, title: "paid, and finished months later", rule: 1, steps: &[Paid, Finished], ..SHIPS },
    Case { number: 15, title: "an event type of a later version", rule: 8, steps: &[OfTomorrow], ..NOT },
    Case {
        number: 16,
        title: "a message that is no JSON, and a payment behind it",
        rule: 8,
        steps: &[NoJson, Paid],
        ..SHIPS
    },
    Case {
        number: 17,
        title: "paid by two trades, and the second is given back",
        rule: 6,
        steps: &[Paid, PaidAgain, OtherRefunded],
        needs_look: true,
        ..SHIPS
    },
    Case {
        number: 18,
        title: "given back in two parts, and the second is heard of first",
        rule: 4,
        steps: &[Paid, RefundedMore, RefundedInPart],
        given_back: Some(GivenBack::Part(300)),
        ..SHIPS
    },
    Case {
        number: 19,
        title: "events without a member, and a payment behind them",
        rule: 8,
        steps: &[WithoutEnvironment, WithoutOrder, WithoutRefund, Paid],
        needs_look: true,
        ..SHIPS
    },
    Case {
        number: 20,
        title: "another amount was paid and given back, then the order's is paid",
        rule: 3,
        steps: &[PaidTooLittle, TooLittleRefunded, PaidAgain],
        needs_look: true,
        ..SHIPS
    },
    Case {
        number: 21,
        title: "given back in part, then a refund that does not say how much",
        rule: 4,
        steps: &[Paid, RefundedInPart, RefundedWithoutFee],
        needs_look: true,
        given_back: Some(GivenBack::Part(100)),
        ..SHIPS
    },
];

impl Case {
    /// Its order number.
    pub(super) fn order(&self, run: u32) -> String {
        format!("{PREFIX}{run}-{:02}", self.number)
    }

    /// The order's amount.
    pub(super) fn amount(&self) -> Money {
        Money::from_minor(8800 + u64::from(self.number))
    }

    /// What is written down as given back of it in the end.
    pub(super) fn given_back(&self) -> Money {
        match self.given_back {
            None => Money::default(),
            Some(GivenBack::All) => self.amount(),
            Some(GivenBack::Part(minor)) => Money::from_minor(minor),
        }
    }

    /// Its messages, in their order.
    pub(super) fn messages(&self, run: u32, now: Timestamp) -> Vec<Message> {
        self.steps.iter().map(|step| self.message(*step, run, now)).collect()
    }

    fn message(&self, step: Step, run: u32, now: Timestamp) -> Message {
        let is_too_little = matches!(step, PaidTooLittle | TooLittleRefunded);
        let total = if is_too_little { Money::from_minor(1) } else { self.amount() };
        let total = if step == Conflict { Money::from_minor(total.minor() * 10) } else { total };
        let fee = match step {
            RefundedInFull | OtherRefunded | TooLittleRefunded | WithoutRefund => Some(total),
            RefundedInPart => Some(Money::from_minor(100)),
            RefundedMore => Some(Money::from_minor(300)),
            Paid | PaidWithOtherBytes | PaidAgain | PaidTooLittle | Conflict | Late | Pending | Closed
            | OtherClosed | Finished | OfTomorrow | NoJson | WithoutEnvironment | WithoutOrder
            | RefundedWithoutFee => None,
        };
        let trade = if matches!(step, PaidAgain | OtherClosed | OtherRefunded) { 2 } else { 1 };
        let trade_no = format!("20260101{run:08}{:04}{trade:08}", self.number);
        let digest = Digest::of(self.order(run).as_bytes(), Some(total), SELLER.as_bytes(), fee);
        let (event_type, id) = identity(step, &trade_no, &digest);
        let facts = Facts { case: self, step, run, now, trade_no: &trade_no, total, fee };
        let event = Event {
            event_type,
            id,
            digest,
            notify_id: String::new(),
            environment: Environment::Sandbox,
            business_time: now,
            payment_time: Some(now),
            notified_at: now,
            finishes: false,
            stale: false,
            late: false,
            facts: facts.render(event_type),
        };
        let mut message = Message::of(&event, step == PaidWithOtherBytes, None);
        if step == OfTomorrow {
            let tomorrow = "payment.of_a_later_version";
            message.id = message.id.replace(&message.event_type, tomorrow);
            message.body = message.body.replace(&message.event_type, tomorrow);
            tomorrow.clone_into(&mut message.event_type);
        }
        if step == NoJson {
            message.id.push_str(".no-json");
            "{\"event_id\":".clone_into(&mut message.body);
        }
        if let Some(member) = missing(step) {
            let id = format!("{}.without-{member}", message.id);
            message.body = message.body.replace(&message.id, &id);
            message.id = id;
        }
        message
    }
}

/// The member that a message of a step lacks.
fn missing(step: Step) -> Option<&'static str> {
    match step {
        WithoutEnvironment => Some("environment"),
        WithoutOrder => Some("out_trade_no"),
        WithoutRefund => Some("refund"),
        Paid | PaidWithOtherBytes | PaidAgain | PaidTooLittle | RefundedInFull | RefundedInPart
        | RefundedMore | OtherRefunded | TooLittleRefunded | RefundedWithoutFee | Conflict | Late
        | Pending | Closed | OtherClosed | Finished | OfTomorrow | NoJson => None,
    }
}

fn identity(step: Step, trade_no: &str, digest: &Digest) -> (EventType, EventId) {
    let of = |event_type| (event_type, EventId::of_trade(APP_ID, trade_no, event_type));
    match step {
        Paid | PaidWithOtherBytes | PaidAgain | PaidTooLittle | OfTomorrow | NoJson | WithoutEnvironment
        | WithoutOrder => of(EventType::PaymentSucceeded),
        RefundedInFull | RefundedInPart | RefundedMore | OtherRefunded | TooLittleRefunded
        | RefundedWithoutFee | WithoutRefund => (
            EventType::PaymentRefunded,
            EventId::of_refund(APP_ID, trade_no, number_of_refund(step).as_bytes()),
        ),
        Conflict => (EventType::PaymentConflict, of(EventType::PaymentSucceeded).1.conflict(digest)),
        Late => of(EventType::PaymentLate),
        Pending => of(EventType::TradePending),
        Closed | OtherClosed => of(EventType::TradeClosed),
        Finished => of(EventType::TradeFinished),
    }
}

fn number_of_refund(step: Step) -> &'static str {
    if matches!(step, RefundedMore | RefundedWithoutFee) { "RF-2" } else { "RF-1" }
}

/// What the members of a body are made of.
struct Facts<'a> {
    case: &'a Case,
    step: Step,
    run: u32,
    now: Timestamp,
    trade_no: &'a str,
    total: Money,
    fee: Option<Money>,
}

impl Facts<'_> {
    /// As admission renders them.
    fn render(&self, event_type: EventType) -> String {
        let status = match event_type {
            EventType::TradePending => "WAIT_BUYER_PAY",
            EventType::TradeClosed => "TRADE_CLOSED",
            EventType::TradeFinished => "TRADE_FINISHED",
            EventType::PaymentRefunded if self.fee == Some(self.total) => "TRADE_CLOSED",
            EventType::PaymentSucceeded
            | EventType::PaymentRefunded
            | EventType::PaymentLate
            | EventType::PaymentConflict
            | EventType::NotificationOther => "TRADE_SUCCESS",
        };
        // A minute later, from another delivery.
        let later = if self.step == PaidWithOtherBytes { 60 } else { 0 };
        let notified_at = self.now.plus(std::time::Duration::from_secs(later)).rfc3339_beijing();
        let mut json = Members(String::new());
        json.text("app_id", APP_ID);
        if self.step != WithoutEnvironment {
            json.text("environment", Environment::Sandbox.as_str());
        }
        json.text("notify_type", "trade_status_sync");
        json.text("trade_no", self.trade_no);
        if self.step != WithoutOrder {
            json.text("out_trade_no", &self.case.order(self.run));
        }
        json.text("trade_status", status);
        json.text("seller_id", SELLER);
        json.text("currency", "CNY");
        json.text("total_amount", &self.total.to_string());
        json.plain("total_amount_minor", &self.total.minor().to_string());
        if !matches!(event_type, EventType::TradePending | EventType::TradeClosed) {
            json.text("paid_at", &self.now.rfc3339_beijing());
        }
        if event_type == EventType::PaymentRefunded && self.step != WithoutRefund {
            json.object("refund", |json| {
                json.text("out_biz_no", number_of_refund(self.step));
                if let Some(fee) = self.fee {
                    json.text("refund_fee", &fee.to_string());
                    json.plain("refund_fee_minor", &fee.minor().to_string());
                }
                json.text("refunded_at", &self.now.rfc3339_beijing());
            });
        }
        json.text("notified_at", &notified_at);
        json.text("notify_id", &format!("consumer-check-{}", self.trade_no));
        json.text("subject", "consumer-check: nobody has paid this");
        json.0
    }
}

/// Of every order number.
pub(super) const PREFIX: &str = "CC-";
/// Of no merchant.
const APP_ID: &str = "2021000000000000";
const SELLER: &str = "2088000000000000";
