//! What there is: Alipay's deliveries, the gateways with what is in their memory, the store with its leases, the link, the
//! broker. And what only the model knows, to judge by: what was confirmed, which publication of an id is still open in
//! which gateway, why it was published again.

/// The money facts of a delivery: those of the payment, or others under the same trade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Money {
    A,
    B,
}

/// The id of an event, which is its key too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Id {
    Payment,
    ConflictOfA,
    ConflictOfB,
}

impl Id {
    pub const ALL: [Self; 3] = [Self::Payment, Self::ConflictOfA, Self::ConflictOfB];

    /// `Event::as_conflict`: the original id and the digest.
    pub fn of_conflict(money: Money) -> Self {
        match money {
            Money::A => Self::ConflictOfA,
            Money::B => Self::ConflictOfB,
        }
    }
}

/// What is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Event {
    pub id: Id,
    pub money: Money,
}

impl Event {
    pub fn payment(money: Money) -> Self {
        Self { id: Id::Payment, money }
    }

    pub fn conflict(money: Money) -> Self {
        Self { id: Id::of_conflict(money), money }
    }

    /// Its place in the broker's columns.
    pub fn column(self) -> usize {
        match (self.id, self.money) {
            (Id::Payment, Money::A) => 0,
            (Id::Payment, Money::B) => 1,
            (Id::ConflictOfA, _) => 2,
            (Id::ConflictOfB, _) => 3,
        }
    }
}

/// A delivery of Alipay's, as Alipay sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Delivery {
    Unsent,
    /// With a gateway, and about to join its flight.
    Arrived(usize),
    /// It has joined, and waits for the outcome.
    Waiting(usize),
    Success,
    Fail,
    /// Answered `fail` while it waited for the flight of other money: nothing of it is kept.
    LeftWaiting,
    /// The gateway crashed over it: no answer.
    Cut,
}

/// Whom a flight answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Waiter {
    /// The leader or a follower.
    Delivery(usize),
    /// One of other money, which joins again afterwards.
    Other(usize),
    /// The flight of the payment's id, whose event became a conflict (`Shared::redirect`).
    Redirect,
}

/// `publication/flight.rs`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Flight {
    pub money: Money,
    pub waiting: Vec<Waiter>,
}

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// In `publication/queue.rs`.
    Queued,
    /// Claimed, and to be published.
    Claimed,
    /// Its batch is awaited.
    Published,
    /// Confirmed, and with the store's writer.
    Recording { written: bool },
    /// Not confirmed, and with the store's writer.
    Keeping { to: Keep, written: bool },
    /// In doubt: its confirm is watched, its flight goes on.
    Doubt,
    /// Its minute is over: its confirm is watched, its flight has ended.
    Watched,
}

/// What it is kept as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Keep {
    Deferred,
    InDoubt,
    /// Deferred, because the minute of doubt is over.
    Release,
}

/// Where its message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Wire {
    Nowhere,
    InTransit,
    /// In a queue of the broker, and no word of it has come back.
    Taken,
    /// The channel or the connection went: no word will come.
    Lost,
}

/// An event on its way through a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Job {
    pub event: Event,
    pub stage: Stage,
    pub wire: Wire,
    /// The flight of its key is its own to end.
    pub leads: bool,
    pub drained: bool,
    pub alone: bool,
    pub lease: Lease,
}

/// What became of a job's claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lease {
    Held,
    /// As its holder's own clock says.
    RanOut,
    /// Its holder does not know.
    Forgotten,
    /// The store did not answer.
    Unasked,
}

/// Whose a lease is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Holder {
    Nobody,
    Live(usize),
    /// A process that is no more: its token is nobody's now.
    Dead,
}

impl Holder {
    /// Whether this gateway has to wait for it.
    pub fn is_other(self, at: usize) -> bool {
        self != Self::Nobody && self != Self::Live(at)
    }
}

/// One gateway. All of it is memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Replica {
    pub runs: bool,
    pub flights: [Option<Flight>; 3],
    /// In order, so that the same jobs are the same state.
    pub jobs: Vec<Job>,
    /// `publication/unrecorded.rs`.
    pub unrecorded: [Option<Money>; 3],
    /// What only the model knows: its last publication of each id.
    pub attempts: [Attempt; 3],
}

impl Replica {
    pub fn started() -> Self {
        let attempts = [Attempt::NONE; 3];
        Self { runs: true, flights: [None, None, None], jobs: Vec::new(), unrecorded: [None; 3], attempts }
    }
}

/// A row of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Row {
    pub money: Money,
    pub state: RowState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowState {
    Recorded,
    Deferred,
    /// Deferred, and it may be in a queue.
    Released,
    InDoubt,
}

/// The last publication of an id by one gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Attempt {
    pub stage: Publication,
    /// What makes it no fault of the others' that they do not know of it.
    pub excuse: Option<Window>,
}

impl Attempt {
    pub const NONE: Self = Self { stage: Publication::None, excuse: None };

    /// Somebody who publishes now has to know of it.
    pub fn stands(self) -> bool {
        matches!(self.stage, Publication::Open | Publication::Confirmed)
    }
}

/// How far a publication is, and, where it ended without a confirm, how: that is the window in which it may be published
/// again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Publication {
    None,
    Open,
    Confirmed,
    Ended(Window),
}

/// The rows of the crash table (docs/reliability.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Window {
    /// A crash before the confirm was seen.
    BeforeConfirm,
    /// A crash after it, before the record was durable.
    BeforeRecord,
    /// Its channel or connection went.
    Lost,
    /// Nacked or returned.
    Refused,
    /// Its minute of doubt is over.
    Released,
    /// It is recorded, or with another gateway, and the store did not answer when it was asked.
    Unchecked,
    /// Its lease ran out under its holder, after it was published.
    LeaseRanOut,
    /// The store lost its lease or its row at a fail-over.
    Forgotten,
}

/// How many faults of each kind: those that may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Faults {
    pub crashes: u8,
    /// The connection is lost.
    pub losses: u8,
    /// A channel is closed by the broker.
    pub closes: u8,
    /// A confirm does not come in time.
    pub silences: u8,
    /// A nack, with or without a copy in some queue, or a return.
    pub refusals: u8,
    /// A call of the store fails.
    pub store: u8,
    /// A lease runs out under a holder that lives.
    pub leases: u8,
    /// A fail-over loses a lease or a row.
    pub forgets: u8,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    pub deliveries: Vec<Delivery>,
    pub replicas: Vec<Replica>,
    /// Synced rows.
    pub rows: [Option<Row>; 3],
    /// Whose lease an id is under, where the store is shared.
    pub leases: [Holder; 3],
    /// Only under a sabotage: rows that were answered for and are not on the disk.
    pub unsynced: [bool; 3],
    pub link: bool,
    /// Copies in the broker's queues, by [`Event::column`]; 3 stands for more too.
    pub copies: [u8; 4],
    pub confirmed: [bool; 4],
    /// Why the id was published again, the last time.
    pub repeats: [Option<Window>; 3],
    /// An id was published again while a publication of it was open, or confirmed, and nothing excuses it.
    pub overlapped: bool,
    /// The store has written that it keeps an event with this money.
    pub kept: [bool; 2],
    pub left: Faults,
}

impl World {
    /// Whether several gateways have this store: then it gives leases, and writes at one stroke.
    pub fn is_shared(&self) -> bool {
        self.replicas.len() > 1
    }

    /// Whether the store answers `HeldElsewhere`.
    pub fn is_held_elsewhere(&self, at: usize, id: Id) -> bool {
        let is_recorded = self.rows[id as usize].is_some_and(|row| row.state == RowState::Recorded);
        !is_recorded && self.leases[id as usize].is_other(at)
    }

    /// Every job, and where it is.
    pub fn jobs(&self) -> impl Iterator<Item = (usize, &Job)> {
        let replicas = self.replicas.iter().enumerate();
        replicas.flat_map(|(at, replica)| replica.jobs.iter().map(move |job| (at, job)))
    }

    /// Whether this gateway is at the id: its lease does not run out unless it stands still.
    pub fn is_at(&self, at: usize, id: Id) -> bool {
        self.replicas[at].jobs.iter().any(|job| job.event.id == id && job.leads)
    }

    /// Whether somebody has, or will find, an event with this money in a queue.
    pub fn is_announced(&self, money: Money) -> bool {
        self.copies[Event::payment(money).column()] > 0 || self.copies[Event::conflict(money).column()] > 0
    }
}
