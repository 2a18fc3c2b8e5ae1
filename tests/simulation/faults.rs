//! What goes wrong in one world, drawn from its seed. Each world has some kinds of fault and not others, each at a rate
//! of its own: a world with everything in it at once would hide what needs a calm moment.

use rand::RngExt as _;
use rand::rngs::SmallRng;

/// The faults of one world.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Mean number of steps between two crashes; 0: it never crashes.
    pub crash_every: u64,
    /// Beside crashing it is stopped in order.
    pub stops: bool,
    /// Per mille of crashes with which the disk is lost, too.
    pub disk_lost: u64,
    /// Per mille of deliveries.
    pub hang_up: u64,
    pub answer_lost: u64,
    pub twin: u64,
    /// Per mille of batches.
    pub close: u64,
    pub lose: u64,
    pub slow: u64,
    /// Per mille of messages.
    pub nack: u64,
    pub silent: u64,
    pub late: u64,
    /// Per mille of acks that wait for others, and of those that overtake.
    pub coalesce: u64,
    pub overtake: u64,
    /// Per mille of the store's calls.
    pub store_error: u64,
    pub store_slow: u64,
    /// A queue is bound for everything, beside the others.
    pub ledger: bool,
    /// First deliveries come within so many milliseconds.
    pub spread: u64,
    /// Per mille of trades that happen.
    pub trades: u64,
    pub spells: Vec<Spell>,
    /// Gateways over one store.
    pub replicas: usize,
    /// When the shared store fails over, or starts again, without what it had not passed on.
    pub failovers: Vec<u64>,
    /// Of which gateway is asked.
    pub at: usize,
}

/// Something that lasts.
#[derive(Debug, Clone)]
pub struct Spell {
    pub kind: Kind,
    pub from: u64,
    pub until: u64,
    /// Of one gateway, or of all.
    pub at: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// No broker.
    Away,
    /// The broker takes nothing, and says so.
    Blocked,
    /// The connection is half open: nothing moves and nobody says so, until the heartbeat misses.
    Frozen,
    /// No queue is bound for payments.
    Unbound,
    /// The payments' queue confirms nothing.
    Mute,
    /// The store answers every call with an error.
    StoreAway,
    /// The store answers no call in time.
    StoreStuck,
    /// The store has no room for anything new that waits.
    StoreFull,
    /// The process stands still, as by SIGSTOP.
    Stopped,
}

impl Faults {
    /// Draws a world's.
    pub fn of(random: &mut SmallRng) -> Self {
        let spread = [100, 2_000, 20_000][random.random_range(0..3)];
        let trades = random.random_range(300..1000);
        let mut faults =
            Self { spread, trades, coalesce: 300, overtake: 100, replicas: 1, ..Self::default() };
        let calm = random.random_range(0..16) == 0;
        if calm {
            return faults;
        }
        faults.ledger = random.random_bool(0.3);
        let mut rate = |most: u64| if random.random_bool(0.5) { random.random_range(1..=most) } else { 0 };
        faults.hang_up = rate(100);
        faults.answer_lost = rate(100);
        faults.twin = rate(300);
        faults.close = rate(100);
        faults.lose = rate(30);
        faults.slow = rate(200);
        faults.nack = rate(200);
        faults.silent = rate(50);
        faults.late = rate(100);
        faults.store_error = rate(50);
        faults.store_slow = rate(50);
        if random.random_bool(0.7) {
            faults.crash_every = 1 << random.random_range(6..13);
        }
        faults.stops = random.random_bool(0.2);
        faults.disk_lost = if random.random_bool(0.1) { 100 } else { 0 };
        for _ in 0..random.random_range(0..6) {
            faults.spells.push(Spell::of(random));
        }
        faults
    }

    /// Draws what many over one store have beside it.
    pub fn of_many(random: &mut SmallRng) -> Self {
        let mut faults = Self::of(random);
        faults.replicas = random.random_range(2..4);
        // The store is not theirs, and what it keeps is as safe as it is.
        faults.disk_lost = 0;
        for spell in &mut faults.spells {
            spell.at = random.random_bool(0.7).then(|| random.random_range(0..faults.replicas));
        }
        for _ in 0..random.random_range(0..4) {
            let from = random.random_range(0..600_000);
            let at = Some(random.random_range(0..faults.replicas));
            let until = from + random.random_range(1_000..40_000);
            faults.spells.push(Spell { kind: Kind::Stopped, from, until, at });
        }
        for _ in 0..random.random_range(0..4) {
            faults.failovers.push(random.random_range(0..600_000));
        }
        faults
    }

    /// Whether a spell lasts at `now`.
    pub fn lasts(&self, kind: Kind, now: u64) -> bool {
        self.spells.iter().any(|spell| {
            spell.kind == kind && spell.is_of(self.at) && (spell.from..spell.until).contains(&now)
        })
    }

    /// Whether a gateway stood still, or its store was away, at some time between.
    pub fn disturbed(&self, at: usize, from: u64, until: u64) -> bool {
        let of_store = [Kind::Stopped, Kind::StoreAway, Kind::StoreStuck, Kind::StoreFull];
        let mut spells = self.spells.iter().filter(|spell| spell.is_of(at) && of_store.contains(&spell.kind));
        spells.any(|spell| spell.from <= until && from <= spell.until)
    }

    /// When the next spell begins or ends after `now`.
    pub fn next_turn(&self, now: u64) -> Option<u64> {
        let turns = self.spells.iter().flat_map(|spell| [spell.from, spell.until]);
        turns.filter(|turn| *turn > now).min()
    }

    /// From now on all is well: what lasts ends.
    pub fn heal(&mut self) {
        *self = Self {
            ledger: self.ledger,
            coalesce: self.coalesce,
            overtake: self.overtake,
            at: self.at,
            replicas: self.replicas,
            ..Self::default()
        };
    }
}

impl Spell {
    fn is_of(&self, at: usize) -> bool {
        self.at.is_none_or(|of| of == at)
    }

    fn of(random: &mut SmallRng) -> Self {
        let kinds = [
            Kind::Away,
            Kind::Away,
            Kind::Blocked,
            Kind::Frozen,
            Kind::Unbound,
            Kind::Mute,
            Kind::StoreAway,
            Kind::StoreStuck,
            Kind::StoreFull,
        ];
        let kind = kinds[random.random_range(0..kinds.len())];
        let from = random.random_range(0..600_000);
        let second = 1_000;
        let longest = [10 * second, 120 * second, 1800 * second, 90_000 * second];
        let is_long = match kind {
            Kind::Away | Kind::Blocked | Kind::Unbound | Kind::Mute | Kind::StoreAway => true,
            Kind::Frozen | Kind::StoreStuck | Kind::StoreFull | Kind::Stopped => false,
        };
        let scale = match random.random_range(0..100) {
            0..40 => longest[0],
            40..75 => longest[1],
            75..97 => longest[2],
            _ => longest[3],
        };
        let scale = if is_long { scale } else { scale.min(longest[1]) };
        Self { kind, from, until: from + random.random_range(100..scale), at: None }
    }
}

/// Whether it happens, of a thousand times.
pub fn chance(random: &mut SmallRng, permille: u64) -> bool {
    permille > 0 && random.random_range(0..1000) < permille
}
