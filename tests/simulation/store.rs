//! A store that keeps what was synced, and only that. One worker takes one call after the other, as the embedded
//! store's thread does; a write is visible when it is written and survives a crash when it is synced, and between the two
//! (and between the sync and the answer) the gateway may die. What the caller does not wait for any more is done all the
//! same.
//!
//! Where several gateways share it, it is as Redis is: it outlives them, takes calls at once, gives leases (`src/store.rs`),
//! and at a fail-over it is without what it had written last.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use alipay_notify_gateway::clock::Timestamp;
use alipay_notify_gateway::event::{Digest, EventType, Key, Message};
use alipay_notify_gateway::store::{
    Claim, DOUBT, Decision, Deferral, Holding, Kept, Known, LEASE, Record, Row, State, Store, StoreError,
    Tally, Waiting, back_off, held_key,
};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use rand::RngExt as _;
use tokio::sync::{Notify, oneshot};

use crate::faults::{Kind, Spell, chance};
use crate::world::{Inner, World};

/// What is on the disk, and what is on its way to it.
#[derive(Default)]
pub struct Disk {
    rows: BTreeMap<Key, Line>,
    /// When what waits is due again.
    due: BTreeSet<(Timestamp, Key)>,
    /// Held notifications, by the id of their row.
    held: BTreeMap<String, Key>,
    /// How to take back what is written and not synced, the last first.
    unsynced: Vec<(Key, Option<Line>)>,
    calls: VecDeque<Call>,
    working: bool,
    wake: Arc<Notify>,
    /// When calls failed or were not answered in time.
    pub failed_at: Vec<u64>,
    /// Whose an event is, by the number of his life, and until when.
    leases: BTreeMap<Key, Lease>,
    /// Where it is shared: what was written last, and what was there before.
    journal: VecDeque<(u64, Key, Option<Line>, Option<Lease>)>,
}

type Lease = (u32, u64);

/// A row.
#[derive(Debug, Clone)]
struct Line {
    state: State,
    event_type: Option<EventType>,
    digest: Option<Digest>,
    notify_id: String,
    reason: Option<String>,
    first_at: Timestamp,
    at: Timestamp,
    attempts: u32,
    payment_time: Option<Timestamp>,
    message: Option<Arc<Message>>,
    body: Vec<u8>,
}

struct Call {
    pause: Duration,
    fate: Fate,
    work: Work,
}

type Work = Box<dyn FnOnce(&mut Inner, Fate) + Send>;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Done,
    /// It is done, and answered with an error.
    DoneAndDenied,
    Failed,
}

impl Disk {
    /// The process died: what was not synced is there or is not, up to some write.
    pub fn crash(&mut self, random: &mut rand::rngs::SmallRng) {
        let kept = random.random_range(0..=self.unsynced.len());
        while self.unsynced.len() > kept {
            if let Some((key, before)) = self.unsynced.pop() {
                self.put_back(key, before);
            }
        }
        self.unsynced.clear();
        self.calls.clear();
        self.working = false;
        self.wake = Arc::default();
    }

    /// Another disk, with nothing on it.
    pub fn wipe(&mut self) {
        *self = Self { failed_at: std::mem::take(&mut self.failed_at), ..Self::default() };
    }

    /// How much waits for the broker.
    pub fn waiting(&self) -> usize {
        self.due.len()
    }

    /// Whether an announcement of this event is on the disk for good.
    pub fn is_recorded(&self, key: &Key) -> bool {
        self.rows.get(key).is_some_and(|line| is_settled(line.state))
            && !self.unsynced.iter().any(|(unsynced, _)| unsynced == key)
    }

    /// Whether another life has the lease.
    fn is_leased(&self, key: &Key, life: u32, now: u64) -> bool {
        self.leases.get(key).is_some_and(|(holder, until)| *holder != life && now < *until)
    }

    fn note(&mut self, key: &Key, now: u64) {
        while self.journal.front().is_some_and(|(at, ..)| at + LONGEST_LAG < now) {
            self.journal.pop_front();
        }
        let before = (now, key.clone(), self.rows.get(key).cloned(), self.leases.get(key).copied());
        self.journal.push_back(before);
    }

    /// As it was at `since`. Gives the keys of what is forgotten.
    fn forget(&mut self, since: u64) -> BTreeSet<Key> {
        let mut forgotten = BTreeSet::new();
        while self.journal.back().is_some_and(|(at, ..)| *at >= since) {
            let Some((_, key, line, lease)) = self.journal.pop_back() else { break };
            self.put_back(key.clone(), line);
            match lease {
                Some(lease) => self.leases.insert(key.clone(), lease),
                None => self.leases.remove(&key),
            };
            forgotten.insert(key);
        }
        forgotten
    }

    fn write(&mut self, key: Key, line: Option<Line>) {
        let before = self.rows.get(&key).cloned();
        self.unsynced.push((key.clone(), before));
        self.put_back(key, line);
    }

    fn put_back(&mut self, key: Key, line: Option<Line>) {
        if let Some(old) = self.rows.get(&key).and_then(Line::due_at) {
            self.due.remove(&(old, key.clone()));
        }
        if let Some(new) = line.as_ref().and_then(Line::due_at) {
            self.due.insert((new, key.clone()));
        }
        match line {
            Some(line) => self.rows.insert(key, line),
            None => self.rows.remove(&key),
        };
    }

    fn sync(&mut self) {
        self.unsynced.clear();
    }

    fn record(&mut self, record: Record) {
        let old = self.rows.get(&record.key);
        let line = Line {
            state: record.state,
            event_type: Some(record.event_type),
            digest: Some(record.digest),
            notify_id: record.notify_id.clone(),
            reason: None,
            first_at: old.map_or(record.at, |old| old.first_at),
            at: record.at,
            attempts: old.map_or(1, |old| old.attempts + 1),
            payment_time: None,
            message: None,
            body: Vec::new(),
        };
        self.write(record.key, Some(line));
        if self.held.is_empty() {
            return;
        }
        let id = held_key(&record.app_id, &record.notify_id, String::new()).id;
        if let Some(key) = self.held.remove(&id) {
            self.write(key, None);
        }
    }

    fn defer(&mut self, deferral: Deferral, full: bool) -> Kept {
        let old = self.rows.get(&deferral.key);
        match old.map(|old| old.state) {
            Some(state) if is_settled(state) => return Kept::Settled(state),
            Some(State::Deferred | State::InDoubt) => {}
            Some(_) | None if full => return Kept::Full,
            Some(_) | None => {}
        }
        let line = Line {
            state: deferral.state,
            event_type: Some(deferral.event_type),
            digest: Some(deferral.digest),
            notify_id: deferral.notify_id,
            reason: Some(deferral.cause.as_str().to_owned()),
            first_at: old.map_or(deferral.at, |old| old.first_at),
            at: deferral.at,
            attempts: old.map_or(1, |old| old.attempts + 1),
            payment_time: deferral.payment_time,
            message: Some(Arc::new(deferral.message)),
            body: Vec::new(),
        };
        self.write(deferral.key, Some(line));
        Kept::Yes
    }

    fn hold(&mut self, holding: Holding, full: bool) -> Kept {
        match self.rows.get(&holding.key).map(|old| old.state) {
            Some(state) if is_settled(state) => return Kept::Settled(state),
            None if full => return Kept::Full,
            Some(_) | None => {}
        }
        let line = Line {
            state: State::Held,
            event_type: None,
            digest: None,
            notify_id: holding.notify_id,
            reason: Some(holding.reason.to_owned()),
            first_at: holding.at,
            at: holding.at,
            attempts: 1,
            payment_time: holding.payment_time,
            message: None,
            body: holding.body,
        };
        self.held.insert(holding.key.id.clone(), holding.key.clone());
        self.write(holding.key, Some(line));
        Kept::Yes
    }

    fn due(
        &self,
        now: Timestamp,
        limit: usize,
        skip: &[EventType],
        is_free: impl Fn(&Key) -> bool,
    ) -> Vec<Waiting> {
        let due = self.due.iter().take_while(|(at, _)| *at <= now).filter(|(_, key)| is_free(key));
        let due = due.filter_map(|(_, key)| self.rows.get_key_value(key));
        let due = due.filter(|(_, line)| line.event_type.is_none_or(|known| !skip.contains(&known)));
        // What the broker refused, or is silent about, has a quarter while others wait.
        let is_refused = |line: &Line| {
            matches!(line.reason.as_deref(), Some("returned" | "nacked" | "in_doubt" | "channel_closed"))
        };
        let (refused, others): (Vec<_>, Vec<_>) = due.partition(|(_, line)| is_refused(line));
        let share =
            if others.is_empty() { limit } else { (limit / 4).max(limit.saturating_sub(others.len())) };
        let refused = refused.into_iter().take(share);
        refused.chain(others).take(limit).map(|(key, line)| line.waiting(key)).collect()
    }

    fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for line in self.rows.values() {
            match line.state {
                State::Deferred => tally.deferred += 1,
                State::InDoubt => tally.in_doubt += 1,
                State::Held => tally.held += 1,
                State::Recorded | State::Unrouted | State::Dropped => {}
            }
        }
        tally
    }
}

impl Line {
    fn due_at(&self) -> Option<Timestamp> {
        match self.state {
            State::Deferred => Some(self.at.plus(match self.reason.as_deref() {
                Some("broker_down" | "broker_blocked" | "late" | "suspended") => back_off(1),
                Some(_) | None => back_off(self.attempts),
            })),
            State::InDoubt => Some(self.at.plus(DOUBT)),
            State::Recorded | State::Held | State::Unrouted | State::Dropped => None,
        }
    }

    fn known(&self) -> Option<Known> {
        Some(Known { state: self.state, digest: self.digest?, notify_id: self.notify_id.clone() })
    }

    fn waiting(&self, key: &Key) -> Waiting {
        let message = self.message.as_ref().map(|message| serde_json::to_vec(message.as_ref()).unwrap());
        Waiting {
            key: key.clone(),
            digest: self.digest,
            notify_id: self.notify_id.clone(),
            event_type: self.event_type,
            payment_time: self.payment_time,
            first_at: self.first_at,
            state: self.state,
            reason: self.reason.clone().unwrap_or_default(),
            content: message.unwrap_or_else(|| self.body.clone()),
        }
    }

    fn row(&self, key: &Key) -> Row {
        Row {
            key: key.clone(),
            state: self.state,
            event_type: self.event_type.map(|event_type| event_type.as_str().to_owned()),
            digest: self.digest,
            notify_id: self.notify_id.clone(),
            reason: self.reason.clone(),
            first_at: self.first_at,
            at: self.at,
            attempts: self.attempts,
        }
    }
}

fn is_settled(state: State) -> bool {
    matches!(state, State::Recorded | State::Unrouted | State::Dropped)
}

/// Of what a shared store wrote, a fail-over may lose the last second.
const LONGEST_LAG: u64 = 1_000;

/// The gateway's end of it.
pub struct SimulatedStore(pub Arc<World>);

impl SimulatedStore {
    fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Disk) -> T + Send + 'static,
    ) -> BoxFuture<'_, Result<T, StoreError>> {
        self.call(move |inner| inner.step("read").then(|| look(&inner.disk)), |_| ())
    }

    /// Written, synced, answered: the gateway may die before and after each.
    fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Inner) -> T + Send + 'static,
        denied: impl FnOnce(&mut Inner) + Send + 'static,
    ) -> BoxFuture<'_, Result<T, StoreError>> {
        let change = move |inner: &mut Inner| {
            let written = inner.step("write").then(|| change(inner))?;
            if inner.is_shared() {
                inner.disk.sync();
            }
            if !inner.step("sync") {
                return None;
            }
            inner.disk.sync();
            inner.step("synced").then_some(written)
        };
        self.call(change, denied)
    }

    /// `None` from `work`: the gateway died meanwhile. `denied`: the gateway is told that it failed.
    fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Inner) -> Option<T> + Send + 'static,
        denied: impl FnOnce(&mut Inner) + Send + 'static,
    ) -> BoxFuture<'_, Result<T, StoreError>> {
        let (sender, receiver) = oneshot::channel();
        let work = move |inner: &mut Inner, fate: Fate| {
            if fate != Fate::Done {
                denied(inner);
            }
            let answer = match fate {
                Fate::Failed => Some(Err(StoreError { message: "it failed".to_owned() })),
                Fate::DoneAndDenied => {
                    work(inner).map(|_| Err(StoreError { message: "it failed".to_owned() }))
                }
                Fate::Done => work(inner).map(Ok),
            };
            match answer {
                Some(answer) => drop(sender.send(answer)),
                // Nobody is answered by the dead.
                None => drop(sender),
            }
        };
        let mut inner = self.0.lock();
        if inner.is_alive() {
            let (pause, fate) = inner.store_fate();
            if inner.is_shared() {
                tokio::spawn(serve(Arc::clone(&self.0), Call { pause, fate, work: Box::new(work) }));
            } else {
                inner.hand_to_store(pause, fate, Box::new(work));
            }
        }
        drop(inner);
        async move { receiver.await.unwrap_or_else(|_| Err(StoreError { message: "gone".to_owned() })) }
            .boxed()
    }
}

impl Inner {
    fn store_fate(&mut self) -> (Duration, Fate) {
        let now = self.now();
        let (pause, fate) = if self.faults.lasts(Kind::StoreStuck, now) {
            (Duration::from_millis(2_500), Fate::Done)
        } else if self.faults.lasts(Kind::StoreAway, now) {
            (Duration::ZERO, Fate::Failed)
        } else if chance(&mut self.random, self.faults.store_error) {
            let fate = if self.random.random_bool(0.3) { Fate::DoneAndDenied } else { Fate::Failed };
            (Duration::ZERO, fate)
        } else if chance(&mut self.random, self.faults.store_slow) {
            (Duration::from_millis(self.random.random_range(100..4_000)), Fate::Done)
        } else {
            let pause = if self.random.random_bool(0.5) { 0 } else { self.random.random_range(1..8) };
            (Duration::from_millis(pause), Fate::Done)
        };
        if fate != Fate::Done || pause > Duration::from_millis(500) {
            self.disk.failed_at.push(now);
            self.report.count("store: failed or slow call");
        }
        (pause, fate)
    }

    /// A claim, where the store is shared: with a lease, unless it is settled.
    fn claim(&mut self, key: &Key) -> Claim {
        let (life, now) = (self.life.incarnation, self.now());
        let known = self.disk.rows.get(key).and_then(Line::known);
        if known.as_ref().is_some_and(|known| is_settled(known.state)) {
            return Claim::Granted(known);
        }
        if self.disk.is_leased(key, life, now) {
            self.report.count("claim: held elsewhere");
            return Claim::HeldElsewhere;
        }
        self.lease(key, LEASE);
        Claim::Granted(known)
    }

    fn lease(&mut self, key: &Key, lasts: Duration) {
        let (life, now) = (self.life.incarnation, self.now());
        self.disk.note(key, now);
        self.disk.leases.insert(key.clone(), (life, now + lasts.as_millis() as u64));
    }

    fn release(&mut self, key: &Key) {
        if self.disk.leases.get(key).is_some_and(|(holder, _)| *holder == self.life.incarnation) {
            self.disk.leases.remove(key);
        }
    }

    /// What is in doubt stays its publisher's, unless another has it.
    fn renew(&mut self, key: &Key) {
        if !self.disk.is_leased(key, self.life.incarnation, self.now()) {
            self.lease(key, DOUBT);
        }
    }

    /// What is due, and is leased to nobody else; leased to who asks from now on.
    fn hand_out(&mut self, now: Timestamp, limit: usize, skip: &[EventType]) -> Vec<Waiting> {
        let (life, at) = (self.life.incarnation, self.now());
        let due = self.disk.due(now, limit, skip, |key| !self.disk.is_leased(key, life, at));
        due.iter().for_each(|waiting| self.lease(&waiting.key, LEASE));
        due
    }

    /// What is kept is nobody's any more; what is in doubt is its publisher's, kept or not, unless another has the lease by
    /// now.
    fn lease_kept(&mut self, key: &Key, state: State) {
        let (life, now) = (self.life.incarnation, self.now());
        let settled = self.disk.rows.get(key).is_some_and(|line| is_settled(line.state));
        if state == State::InDoubt && !settled && !self.disk.is_leased(key, life, now) {
            self.lease(key, DOUBT);
        } else {
            self.release(key);
        }
    }

    fn is_doubt_of_another(&self, key: &Key) -> bool {
        let in_doubt = self.disk.rows.get(key).is_some_and(|line| line.state == State::InDoubt);
        self.is_shared() && in_doubt && self.disk.is_leased(key, self.life.incarnation, self.now())
    }

    /// The shared store fails over, or starts again: it is without the last of what it wrote, and away for a moment.
    pub fn fail_over(&mut self) {
        let now = self.now();
        let lag = self.random.random_range(0..LONGEST_LAG);
        let forgotten = self.disk.forget(now.saturating_sub(lag));
        self.report.count("store: failed over");
        if !forgotten.is_empty() {
            self.report.count("store: failed over, and forgot something");
        }
        self.disk.failed_at.push(now);
        self.trace("failed over", forgotten.len() as u64);
        for key in &forgotten {
            self.note_forgotten(key);
        }
        let until = now + self.random.random_range(1..5_000);
        self.faults.spells.push(Spell { kind: Kind::StoreAway, from: now, until, at: None });
    }

    /// In the order of the calls; at once where nothing waits.
    fn hand_to_store(&mut self, pause: Duration, fate: Fate, work: Work) {
        if pause.is_zero() && !self.disk.working && self.disk.calls.is_empty() {
            work(self, fate);
            return;
        }
        self.disk.calls.push_back(Call { pause, fate, work });
        self.disk.wake.notify_one();
    }
}

/// A shared store, at one call. A caller that stands still has not sent it yet.
async fn serve(world: Arc<World>, call: Call) {
    if !call.pause.is_zero() {
        tokio::time::sleep(call.pause).await;
    }
    world.until_it_goes_on().await;
    (call.work)(&mut world.lock(), call.fate);
}

/// The store's one worker.
pub async fn work(world: Arc<World>) {
    let wake = Arc::clone(&world.lock().disk.wake);
    loop {
        let call = {
            let mut inner = world.lock();
            let call = inner.disk.calls.pop_front();
            inner.disk.working = call.is_some();
            call
        };
        let Some(call) = call else {
            wake.notified().await;
            continue;
        };
        if !call.pause.is_zero() {
            tokio::time::sleep(call.pause).await;
        }
        (call.work)(&mut world.lock(), call.fate);
    }
}

impl Store for SimulatedStore {
    fn claim(&self, keys: Vec<Key>) -> BoxFuture<'_, Result<Vec<Claim>, StoreError>> {
        if self.0.lock().is_shared() {
            let claim = move |inner: &mut Inner| keys.iter().map(|key| inner.claim(key)).collect();
            return self.call(move |inner| inner.step("read").then(|| claim(inner)), |_| ());
        }
        self.read(move |disk| {
            keys.iter().map(|key| Claim::Granted(disk.rows.get(key).and_then(Line::known))).collect()
        })
    }

    fn release(&self, keys: Vec<Key>) -> BoxFuture<'_, Result<(), StoreError>> {
        let asked = self.0.lock().now();
        let release = move |inner: &mut Inner| {
            for key in &keys {
                inner.note_late(key, asked);
                inner.release(key);
            }
        };
        self.call(move |inner| inner.step("read").then(|| release(inner)), |_| ())
    }

    fn renew(&self, keys: Vec<Key>) -> BoxFuture<'_, Result<(), StoreError>> {
        let renew = move |inner: &mut Inner| keys.iter().for_each(|key| inner.renew(key));
        self.call(move |inner| inner.step("read").then(|| renew(inner)), |_| ())
    }

    fn record(&self, records: Vec<Record>) -> BoxFuture<'_, Result<(), StoreError>> {
        let keys: Vec<Key> = records.iter().map(|record| record.key.clone()).collect();
        {
            let mut inner = self.0.lock();
            // So that what is left of a life that is over comes to its end.
            if inner.is_after_life() {
                return std::future::ready(Ok(())).boxed();
            }
            for record in &records {
                inner.judge_record(record);
            }
        }
        let change = move |inner: &mut Inner| {
            let now = inner.now();
            for record in records {
                if inner.is_shared() {
                    inner.disk.note(&record.key, now);
                    inner.disk.leases.remove(&record.key);
                }
                inner.note_recorded(&record.key);
                inner.disk.record(record);
            }
        };
        self.change(change, move |inner| inner.note_not_recorded(&keys))
    }

    fn defer(&self, deferrals: Vec<Deferral>) -> BoxFuture<'_, Result<Vec<Kept>, StoreError>> {
        let asked = self.0.lock().now();
        let change = move |inner: &mut Inner| {
            let now = inner.now();
            let full = inner.faults.lasts(Kind::StoreFull, now);
            if full {
                inner.disk.failed_at.push(now);
            }
            let keep = |deferral: Deferral| {
                let (key, state) = (deferral.key.clone(), deferral.state);
                if inner.is_shared() {
                    inner.disk.note(&key, now);
                }
                // Whether another's event in doubt may be published again is his to say.
                if inner.is_doubt_of_another(&key) {
                    return Kept::Yes;
                }
                if state == State::Deferred {
                    inner.note_given_up(&key);
                }
                let kept = inner.disk.defer(deferral, full);
                if inner.is_shared() {
                    inner.note_late(&key, asked);
                    inner.lease_kept(&key, state);
                }
                kept
            };
            deferrals.into_iter().map(keep).collect()
        };
        self.change(change, |_| ())
    }

    fn hold(&self, holdings: Vec<Holding>) -> BoxFuture<'_, Result<Vec<Kept>, StoreError>> {
        let change = move |inner: &mut Inner| {
            holdings.into_iter().map(|holding| inner.disk.hold(holding, false)).collect()
        };
        self.change(change, |_| ())
    }

    fn find(&self, subject: String) -> BoxFuture<'_, Result<Vec<Row>, StoreError>> {
        self.read(move |disk| {
            let of = disk.rows.iter().filter(|(key, _)| key.subject == subject);
            of.map(|(key, line)| line.row(key)).collect()
        })
    }

    fn waiting(&self, key: Key) -> BoxFuture<'_, Result<Option<Waiting>, StoreError>> {
        self.read(move |disk| {
            disk.rows.get(&key).filter(|line| !is_settled(line.state)).map(|line| line.waiting(&key))
        })
    }

    fn due(
        &self,
        now: Timestamp,
        limit: usize,
        skip: Vec<EventType>,
    ) -> BoxFuture<'_, Result<Vec<Waiting>, StoreError>> {
        if self.0.lock().is_shared() {
            let hand_out = move |inner: &mut Inner| inner.hand_out(now, limit, &skip);
            return self.call(move |inner| inner.step("read").then(|| hand_out(inner)), |_| ());
        }
        self.read(move |disk| disk.due(now, limit, &skip, |_| true))
    }

    fn decide(&self, _decision: Decision) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.read(|_| false)
    }

    fn tally(&self) -> BoxFuture<'_, Result<Tally, StoreError>> {
        self.read(Disk::tally)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }

    fn lease(&self) -> Duration {
        if self.0.lock().is_shared() { LEASE } else { Duration::MAX }
    }
}
