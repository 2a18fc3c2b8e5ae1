//! The store, as publication sees it: what is remembered of each event, in batches of plain data. It makes
//! announcements unique and keeps what could not be announced. It is never asked for permission to lose
//! anything: without it the gateway goes on, unchecked (design.md, "The store").
//!
//! States: *absent → (claimed) → recorded*; *deferred*, *in doubt*, *held*, *unrouted*, *dropped*.

mod conflict;
pub mod engine;
pub mod redis;
pub mod sqlite;
pub mod transfer;

use std::fmt;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::clock::Timestamp;
use crate::event::{Digest, EventType, Key, Message};

/// A store. Every call is a batch and answers in the order of the batch. In an engine that is a gateway's own it takes
/// effect as a whole, durably, or fails as a whole; in a shared one, what has failed may have taken effect in part (each
/// row as a whole) and is asked again.
///
/// **Leases.** Where several replicas share a store, a claim is a lease of [`LEASE`], in the name of the process that
/// asks, by the store's own clock:
/// - [`claim`](Self::claim): what is settled (recorded, unrouted, dropped) is told to everybody, and needs no lease. What
///   another process has leased is [`Claim::HeldElsewhere`] until its lease is over. Everything else, and what is in no
///   row yet, is leased to whoever asks; who has the lease may ask again, and has it anew.
/// - [`defer`](Self::defer) and [`hold`](Self::hold) write the row and end one's own lease. Only an event *in doubt* stays
///   leased to who published it, for [`DOUBT`], even if there was no room to keep it: he watches its confirm, and ends it
///   earlier by `record` or `defer`; if he dies, the time passes. A deferral by another changes nothing of it. For as long
///   as he waits he has it anew by [`renew`](Self::renew), before it is over.
/// - [`record`](Self::record) is unconditional, whoever has the lease, and ends it.
/// - [`release`](Self::release) gives back one's own lease, and nobody else's.
/// - [`due`](Self::due) hands out only what no other process has leased, and leases it to who asks, so that each event is
///   drained by one at a time: to nobody again, not even to who asked, before that lease is over or given back. Before it is
///   published it is claimed again in its lane.
///
/// Nothing is published on a claim that is older than [`lease`](Self::lease) allows. A lease that is lost (a fail-over of
/// the store, a process that was frozen for longer) can only repeat an event, with the same id.
pub trait Store: Send + Sync {
    /// Asks what is known of each key and, where the engine is shared, takes a lease on it.
    fn claim(&self, keys: Vec<Key>) -> BoxFuture<'_, Result<Vec<Claim>, StoreError>>;

    /// Gives one's own leases back without having recorded anything. An engine whose claims are memory only has
    /// nothing to do.
    fn release(&self, keys: Vec<Key>) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Has one's own leases on what is in doubt anew, for [`DOUBT`], and those that the store has forgotten meanwhile, but
    /// nobody else's. An engine whose claims are memory only has nothing to do, and is not asked.
    fn renew(&self, _keys: Vec<Key>) -> BoxFuture<'_, Result<(), StoreError>> {
        std::future::ready(Ok(())).boxed()
    }

    /// Writes that these were announced. Called only by the holder of a confirm, and unconditional: it
    /// replaces whatever else is kept under the key, and clears what is held of the same notification. One that is
    /// [`Claim::Unreadable`] is let go, so that it keeps no other from being written. An empty batch asks whether the
    /// store can be written.
    fn record(&self, records: Vec<Record>) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Keeps events that could not be announced. One that is recorded or dropped stays so.
    fn defer(&self, deferrals: Vec<Deferral>) -> BoxFuture<'_, Result<Vec<Kept>, StoreError>>;

    /// Keeps authentic notifications that were refused.
    fn hold(&self, holdings: Vec<Holding>) -> BoxFuture<'_, Result<Vec<Kept>, StoreError>>;

    /// Everything kept for a trade (or another subject), oldest first. At most [`MAX_FOUND`] rows.
    fn find(&self, subject: String) -> BoxFuture<'_, Result<Vec<Row>, StoreError>>;

    /// What is kept of an event or notification that waits. `None` if nothing waits under the key.
    fn waiting(&self, key: Key) -> BoxFuture<'_, Result<Option<Waiting>, StoreError>>;

    /// What is due to be published again: deferred events whose back-off is over, and events in doubt that nobody watches
    /// any more, the longest due first. At most `limit`, of which what the broker itself refused (returned, nacked) or
    /// did not confirm has a quarter while others wait, so that it hides nobody; and none of the types in `skip`. A shared
    /// engine may come near to this order only, and find what others have put there somewhat later; nothing that is due is
    /// passed over for ever.
    fn due(
        &self,
        now: Timestamp,
        limit: usize,
        skip: Vec<EventType>,
    ) -> BoxFuture<'_, Result<Vec<Waiting>, StoreError>>;

    /// Writes an operator's decision over what is deferred, in doubt or held. `false` if nothing waits under the key;
    /// but what says that a held notification was announced is written although its record has cleared it already.
    fn decide(&self, decision: Decision) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Since when nothing is missing, beside what the present `retention` leaves: what was announced later is not forgotten for
    /// as long as that, whatever it was before. To be asked every [`TOLD_EVERY`], because what a shorter one has left goes on
    /// expiring, and because an engine that does not see what it forgets keeps which retentions there were until when.
    fn complete_since(
        &self,
        _retention: Duration,
        _now: Timestamp,
    ) -> BoxFuture<'_, Result<Timestamp, StoreError>> {
        std::future::ready(Ok(Timestamp::default())).boxed()
    }

    /// What the gauges show.
    fn tally(&self) -> BoxFuture<'_, Result<Tally, StoreError>>;

    /// Finishes what was handed over and closes. Nothing may be called after it.
    fn close(&self) -> BoxFuture<'_, ()>;

    /// How long a claim is good for. For ever where claims are one process's own memory.
    fn lease(&self) -> Duration {
        Duration::MAX
    }

    /// What is done with events while this store is away.
    fn when_away(&self) -> WhenAway {
        WhenAway::Unchecked
    }
}

/// What is done with events while the store is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenAway {
    /// They are announced unchecked: perhaps once more, with the same id.
    #[default]
    Unchecked,
    /// They are answered `fail`, and nothing is published.
    Refuse,
}

/// The answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Nobody else is at it; this is what is known of the key.
    Granted(Option<Known>),
    /// Another replica is at it: to be asked again, outside the lane, until the deadline.
    HeldElsewhere,
    /// Something lies under its key that is not the store's own, or is damaged: of this event nothing can be known or
    /// written, as if the store were away for it alone.
    Unreadable,
}

/// What is kept under a key, as far as a decision needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its state.
    pub state: State,
    /// Its money facts.
    pub digest: Digest,
    /// The notification that it came from.
    pub notify_id: String,
}

/// The states of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Announced and confirmed.
    Recorded,
    /// Waits for the broker.
    Deferred,
    /// Published, and the confirm is still to come.
    InDoubt,
    /// Authentic, and refused by acceptance: waits for the operator.
    Held,
    /// Returned by the broker, of a type that nobody wants.
    Unrouted,
    /// The operator's decision that this is never announced.
    Dropped,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::Recorded, Self::Deferred, Self::InDoubt, Self::Held, Self::Unrouted, Self::Dropped];

    /// The name in metrics and on the admin listener.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Recorded => "recorded",
            Self::Deferred => "deferred",
            Self::InDoubt => "in_doubt",
            Self::Held => "held",
            Self::Unrouted => "unrouted",
            Self::Dropped => "dropped",
        }
    }

    /// Its number in what is kept (`store/sqlite/core.rs`, `store/redis/row.lua`): never to be changed.
    pub(crate) const fn code(self) -> i64 {
        match self {
            Self::Recorded => 0,
            Self::Deferred => 1,
            Self::InDoubt => 2,
            Self::Held => 3,
            Self::Unrouted => 4,
            Self::Dropped => 5,
        }
    }

    /// The state of that number.
    pub(crate) fn from_code(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.code() == code)
    }

    /// The state of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// An announcement to write down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its identity.
    pub key: Key,
    /// The app's id, of which a held delivery of the same notification is cleared.
    pub app_id: String,
    /// Its type.
    pub event_type: EventType,
    /// Its money facts.
    pub digest: Digest,
    /// The notification.
    pub notify_id: String,
    /// [`State::Recorded`], or [`State::Unrouted`] for a returned event of an ignored type.
    pub state: State,
    /// When the broker confirmed (or returned) it.
    pub at: Timestamp,
    /// When the row may go: never before its payment is older than the retention.
    pub expires_at: Timestamp,
}

/// An event that could not be announced in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deferral {
    /// Its identity.
    pub key: Key,
    /// Its type.
    pub event_type: EventType,
    /// Its money facts.
    pub digest: Digest,
    /// The notification.
    pub notify_id: String,
    /// [`State::Deferred`] or [`State::InDoubt`].
    pub state: State,
    /// Why: `broker_down`, `blocked`, `nacked`, `returned`, `in_doubt`, … ([`Cause`]).
    pub cause: Cause,
    /// What to publish when the broker is back.
    pub message: Message,
    /// When it was decided.
    pub at: Timestamp,
    /// When the buyer paid, which tells when Alipay's last delivery comes. `None` for what tells no payment: its last
    /// delivery comes a day after its first, whenever the payment was.
    pub payment_time: Option<Timestamp>,
}

/// Why an event was deferred. A closed list: it is a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// There was no connection, or it went while the event was on its way.
    BrokerDown,
    /// The broker takes nothing for now.
    Blocked,
    /// The broker refused it.
    Nacked,
    /// No queue is bound for it.
    Returned,
    /// The confirm did not come in time.
    InDoubt,
    /// Its own deadline came before it could be published.
    Late,
    /// Confirms of its type do not come: it waits until a probe of that type is answered.
    Suspended,
    /// The broker closed the channel over it, alone in its batch, on a connection that stayed.
    ChannelClosed,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 8] = [
        Self::BrokerDown,
        Self::Blocked,
        Self::Nacked,
        Self::Returned,
        Self::InDoubt,
        Self::Late,
        Self::Suspended,
        Self::ChannelClosed,
    ];

    /// The name in logs and on the admin listener.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BrokerDown => "broker_down",
            Self::Blocked => "broker_blocked",
            Self::Nacked => "nacked",
            Self::Returned => "returned",
            Self::InDoubt => "in_doubt",
            Self::Late => "late",
            Self::Suspended => "suspended",
            Self::ChannelClosed => "channel_closed",
        }
    }
}

/// An authentic notification that acceptance refused: kept as received, for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// `subject` is `trade_no` if it has the form of one, else `notify_id`; `id` comes from app and
    /// `notify_id`, so that a re-delivery replaces it.
    pub key: Key,
    /// The notification.
    pub notify_id: String,
    /// Why it was refused, in the metric's words.
    pub reason: &'static str,
    /// The body as received.
    pub body: Vec<u8>,
    /// When it arrived.
    pub at: Timestamp,
    /// When the buyer paid, as in [`Deferral`].
    pub payment_time: Option<Timestamp>,
}

/// What waits under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its identity.
    pub key: Key,
    /// Its money facts; `None` for a held notification.
    pub digest: Option<Digest>,
    /// The notification.
    pub notify_id: String,
    /// Its type; `None` for a held notification.
    pub event_type: Option<EventType>,
    /// When the buyer paid, as far as it is known.
    pub payment_time: Option<Timestamp>,
    /// When it was first kept.
    pub first_at: Timestamp,
    /// Deferred, in doubt or held.
    pub state: State,
    /// Why.
    pub reason: String,
    /// The message as JSON, or the body of a held notification.
    pub content: Vec<u8>,
}

/// An operator's decision about what waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What it is about.
    pub key: Key,
    /// The notification, where the row has to be made anew.
    pub notify_id: String,
    /// [`State::Dropped`]; or [`State::Recorded`] for a held notification whose event was announced.
    pub state: State,
    /// In the operator's words.
    pub reason: String,
    /// When it was decided.
    pub at: Timestamp,
    /// When it may be forgotten.
    pub expires_at: Timestamp,
}

/// What became of an event or notification that was handed over to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is kept.
    Yes,
    /// It was recorded or dropped before: nothing to keep.
    Settled(State),
    /// There is no room: Alipay's own schedule is the only net left.
    Full,
}

/// A row, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its identity.
    pub key: Key,
    /// Its state.
    pub state: State,
    /// Its type; `None` for a held notification, which has not got one yet.
    pub event_type: Option<String>,
    /// Its money facts; `None` for a held notification.
    pub digest: Option<Digest>,
    /// The notification.
    pub notify_id: String,
    /// Why it is deferred or held.
    pub reason: Option<String>,
    /// When it was first kept.
    pub first_at: Timestamp,
    /// When the state was last written.
    pub at: Timestamp,
    /// How often it was written.
    pub attempts: u32,
}

/// Everything that is kept under a key, for taking it elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its identity.
    pub key: Key,
    /// Its state.
    pub state: State,
    /// Its type; `None` for a held notification.
    pub event_type: Option<String>,
    /// Its money facts; `None` for a held notification.
    pub digest: Option<Digest>,
    /// The notification.
    pub notify_id: String,
    /// When it was first kept.
    pub first_at: Timestamp,
    /// When the state was last written.
    pub at: Timestamp,
    /// How often it was written.
    pub attempts: u32,
    /// When it may be forgotten; `None` for what waits.
    pub expires_at: Option<Timestamp>,
    /// Why it waits, or was dropped.
    pub reason: Option<String>,
    /// When the buyer paid.
    pub payment_time: Option<Timestamp>,
    /// The message as JSON, or the body of a held notification; `None` for what is settled.
    pub content: Option<Vec<u8>>,
}

impl From<Entry> for Row {
    fn from(entry: Entry) -> Self {
        let Entry { key, state, event_type, digest, notify_id, first_at, at, attempts, reason, .. } = entry;
        Self { key, state, event_type, digest, notify_id, reason, first_at, at, attempts }
    }
}

/// What became of an entry that was brought from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merged {
    /// It is kept.
    Taken,
    /// The store knew as much or more: nothing was written.
    Known,
    /// Other money facts are kept under its key: the store's own stay, and a person has to look.
    Differs,
}

/// What became of the entries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sums {
    /// How many are kept now.
    pub taken: u64,
    /// Of how many the store knew as much or more.
    pub known: u64,
    /// Under whose keys the store has other money facts: they were left out.
    pub differing: Vec<Key>,
}

/// How much is kept that is not settled.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// Deferred events.
    pub deferred: u64,
    /// Events in doubt.
    pub in_doubt: u64,
    /// Held notifications.
    pub held: u64,
    /// When the oldest deferred or in-doubt event was first kept.
    pub oldest_at: Option<Timestamp>,
    /// The earliest payment time of what is deferred, in doubt or held, or when it was first kept.
    pub oldest_payment: Option<Timestamp>,
}

/// Why the store did not do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreError {
    /// For the log; holds no buyer's data.
    pub message: String,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StoreError {}

/// How long after its last try a deferred event is due again: doubled with each, from 1 s to 10 min. Not where its cause
/// says nothing about it (`broker_down`, `broker_blocked`, `late`, `suspended`): then it is due a second later, however often Alipay
/// has delivered it meanwhile, so that it is announced at once when the broker is back.
pub fn back_off(attempts: u32) -> Duration {
    (Duration::from_secs(1) * 2u32.saturating_pow(attempts.saturating_sub(1).min(10))).min(MAX_BACK_OFF)
}

/// The key under which a held notification is kept: a re-delivery replaces it, and a later one that passes clears it, where it is
/// held as its `notify_id` ([`Withheld::held_as`](crate::admission::Withheld::held_as)).
pub fn held_key(app_id: &str, held_as: &str, subject: String) -> Key {
    Key { subject, id: crate::event::id::held(app_id, held_as) }
}

/// How long a claim is good for where the store is shared.
pub const LEASE: Duration = Duration::from_secs(15);
/// An event in doubt is published again no earlier, even if nobody watches it any more (design.md, "In doubt is not
/// failed").
pub const DOUBT: Duration = Duration::from_secs(60);
/// Bound: of [`back_off`].
pub const MAX_BACK_OFF: Duration = Duration::from_secs(600);
/// How often a store is told what its retention leaves.
pub const TOLD_EVERY: Duration = Duration::from_secs(60);
/// Bound: rows that [`Store::find`] gives.
pub const MAX_FOUND: usize = 1000;
