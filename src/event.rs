//! What the gateway announces: an [`Event`], who it is ([`Key`], [`Digest`], [`event id`](id)), and how it
//! looks on the wire ([`Message`]). Plain data: nothing here has verified anything, and nothing here can
//! publish.

pub mod digest;
pub mod id;
pub mod message;
pub mod money;

use std::fmt;

use crate::clock::Timestamp;
pub use digest::Digest;
pub use id::{EventId, Key};
pub use message::Message;
pub use money::Money;

/// The kinds of event, which are also the routing keys (contract.md, "Event on the wire").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventType {
    /// A buyer has paid.
    PaymentSucceeded,
    /// Some or all of a payment was given back.
    PaymentRefunded,
    /// A payment older than the store's memory: nobody can prove that it is the first announcement.
    PaymentLate,
    /// The same identity with other money.
    PaymentConflict,
    /// A trade was created and not yet paid.
    TradePending,
    /// A trade that was paid before can no longer be refunded.
    TradeFinished,
    /// A trade ended without a payment.
    TradeClosed,
    /// Authentic, and none of the others: of another kind, or of a trade in a state that nobody knows.
    NotificationOther,
}

impl EventType {
    /// Every type, in the order of the documents.
    pub const ALL: [Self; 8] = [
        Self::PaymentSucceeded,
        Self::PaymentRefunded,
        Self::PaymentLate,
        Self::PaymentConflict,
        Self::TradePending,
        Self::TradeFinished,
        Self::TradeClosed,
        Self::NotificationOther,
    ];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PaymentSucceeded => "payment.succeeded",
            Self::PaymentRefunded => "payment.refunded",
            Self::PaymentLate => "payment.late",
            Self::PaymentConflict => "payment.conflict",
            Self::TradePending => "trade.pending",
            Self::TradeFinished => "trade.finished",
            Self::TradeClosed => "trade.closed",
            Self::NotificationOther => "notification.other",
        }
    }

    /// The type of that name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which of Alipay's worlds an app belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Environment {
    /// Real money.
    Production,
    /// Alipay's sandbox.
    Sandbox,
}

impl Environment {
    /// The name in the configuration and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Production => "production",
            Self::Sandbox => "sandbox",
        }
    }

    /// The environment of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Production, Self::Sandbox].into_iter().find(|environment| environment.as_str() == name)
    }
}

/// An authentic notification's meaning, as far as it can be known without the store.
///
/// `facts` is the part of the JSON body that depends on neither the id nor the type, because publication may
/// still change both (design.md, "Four outcomes need the store").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What it is, before the store was asked.
    pub event_type: EventType,
    /// Its identity: app, subject and the part that tells two events of one type apart.
    pub id: EventId,
    /// The money facts: the same identity with another digest is a conflict.
    pub digest: Digest,
    /// The delivery's own identity at Alipay, constant over re-deliveries.
    pub notify_id: String,
    /// The environment of its app.
    pub environment: Environment,
    /// When it happened, for people and for `cloudEvents_time`: paid, refunded, closed, else notified.
    pub business_time: Timestamp,
    /// When the buyer paid, as far as the notification tells: `gmt_payment`, else `gmt_create`, else the date
    /// in `trade_no`. `None` for what is not about a trade.
    pub payment_time: Option<Timestamp>,
    /// `notify_time` of this delivery.
    pub notified_at: Timestamp,
    /// A `payment.succeeded` whose status was TRADE_FINISHED: if the payment is already recorded from another notification, this is
    /// its finish and not a second payment.
    pub finishes: bool,
    /// `notify_time` is older than `freshness.max_age`: a duplicate if recorded, else held.
    pub stale: bool,
    /// A `payment.succeeded` whose payment is older than `retention`: a duplicate if recorded, else late.
    pub late: bool,
    /// JSON members, without braces: `"app_id":"…",…`. Never empty.
    pub facts: String,
}

impl Event {
    /// The dedup identity.
    pub fn key(&self) -> &Key {
        self.id.key()
    }

    /// The same facts under another type and id: the finish of a payment that is already recorded.
    pub fn as_finish(&self) -> Self {
        Self { business_time: self.notified_at, ..self.retyped(EventType::TradeFinished) }
    }

    /// The same facts, announced as a payment that nobody can prove to be the first.
    pub fn as_late(&self) -> Self {
        self.retyped(EventType::PaymentLate)
    }

    /// The same facts, announced as contradicting what is recorded under the same identity.
    pub fn as_conflict(&self) -> Self {
        Self { id: self.id.conflict(&self.digest), ..self.retyped(EventType::PaymentConflict) }
    }

    /// What the store had to say about the original is said: nothing is left to resolve.
    fn retyped(&self, event_type: EventType) -> Self {
        let id = self.id.retyped(event_type);
        Self { event_type, id, finishes: false, late: false, ..self.clone() }
    }
}
