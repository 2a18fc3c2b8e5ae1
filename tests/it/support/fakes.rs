//! A broker that says what the test tells it to, and a store in memory: for what publication makes of every
//! answer, in paused time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use alipay_notify_gateway::broker::{Broker, Confirm, Confirms, Link, LinkError, Publisher, Settled};
use alipay_notify_gateway::clock::{Clock, Timestamp};
use alipay_notify_gateway::event::{EventType, Key, Message};
use alipay_notify_gateway::store::{
    Cause, Claim, DOUBT, Decision, Deferral, Holding, Kept, Known, Record, Row, State, Store, StoreError,
    Tally, Waiting, back_off,
};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{Mutex as AsyncMutex, mpsc, watch};

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub struct StillClock(Mutex<Timestamp>);

impl StillClock {
    pub fn at(now: Timestamp) -> Self {
        Self(Mutex::new(now))
    }

    pub fn set(&self, now: Timestamp) {
        *self.0.lock().unwrap() = now;
    }
}

impl Clock for StillClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

/// A broker in the test's hands.
pub struct ScriptedBroker {
    link: watch::Sender<Link>,
    batches: mpsc::Sender<Batch>,
    published: AsyncMutex<mpsc::Receiver<Batch>>,
    opened: Mutex<u64>,
    /// How long the next channel takes to open.
    pub slowness: Mutex<Duration>,
}

/// A batch that the gateway published.
pub struct Batch {
    pub messages: Vec<Message>,
    confirms: mpsc::Sender<Vec<Settled>>,
}

impl ScriptedBroker {
    pub fn up() -> Self {
        let (batches, published) = mpsc::channel(1000);
        Self {
            link: watch::Sender::new(Link::Up(1)),
            batches,
            published: AsyncMutex::new(published),
            opened: Mutex::new(0),
            slowness: Mutex::default(),
        }
    }

    pub fn set(&self, link: Link) {
        self.link.send_replace(link);
    }

    /// Waits for the next batch, of a clock that stands still but for timers: for longer than anything here waits.
    pub async fn batch(&self) -> Batch {
        let mut published = self.published.lock().await;
        tokio::time::timeout(Duration::from_secs(1200), published.recv())
            .await
            .expect("no batch came")
            .unwrap()
    }

    /// Whether no batch waits to be looked at, nor comes once what waits for a lane has gathered (10 ms, and Tokio's
    /// timers round up).
    pub async fn is_quiet(&self) -> bool {
        tokio::time::sleep(Duration::from_millis(12)).await;
        self.published.lock().await.try_recv().is_err()
    }

    pub fn channels_opened(&self) -> u64 {
        *self.opened.lock().unwrap()
    }
}

impl Batch {
    pub fn ids(&self) -> Vec<&str> {
        self.messages.iter().map(|message| message.id.as_str()).collect()
    }

    /// Says what the broker said to some of the publishes, by their numbers from 0.
    pub async fn say(&self, confirms: &[(usize, Confirm)]) {
        let view =
            confirms.iter().map(|(index, confirm)| Settled { index: *index, confirm: confirm.clone() });
        self.confirms.send(view.collect()).await.unwrap();
    }

    pub async fn confirm_all(&self) {
        let all: Vec<_> = (0..self.messages.len()).map(|index| (index, Confirm::Ack(None))).collect();
        self.say(&all).await;
    }
}

impl Broker for ScriptedBroker {
    fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    fn problems(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn open(&self) -> BoxFuture<'_, Result<Box<dyn Publisher>, LinkError>> {
        *self.opened.lock().unwrap() += 1;
        let publisher =
            ScriptedPublisher { batches: self.batches.clone(), broken: std::sync::Arc::default() };
        let publisher: Box<dyn Publisher> = Box::new(publisher);
        let slowness = std::mem::take(&mut *self.slowness.lock().unwrap());
        async move {
            tokio::time::sleep(slowness).await;
            Ok(publisher)
        }
        .boxed()
    }
}

struct ScriptedPublisher {
    batches: mpsc::Sender<Batch>,
    broken: std::sync::Arc<AtomicBool>,
}

impl Publisher for ScriptedPublisher {
    fn publish(&mut self, batch: Vec<Message>, _at: Timestamp) -> Box<dyn Confirms> {
        let (confirms, said) = mpsc::channel(1000);
        let open = (0..batch.len()).collect();
        self.batches.try_send(Batch { messages: batch, confirms }).ok();
        Box::new(ScriptedConfirms { said, open, broken: std::sync::Arc::clone(&self.broken) })
    }

    fn is_usable(&self) -> bool {
        !self.broken.load(Ordering::SeqCst)
    }
}

struct ScriptedConfirms {
    said: mpsc::Receiver<Vec<Settled>>,
    open: BTreeSet<usize>,
    broken: std::sync::Arc<AtomicBool>,
}

impl ScriptedConfirms {
    fn note(&mut self, view: Option<Vec<Settled>>) -> Vec<Settled> {
        let view = view.unwrap_or_else(|| {
            // The test dropped the batch: the channel is closed.
            self.broken.store(true, Ordering::SeqCst);
            self.open.iter().map(|index| Settled { index: *index, confirm: Confirm::Lost }).collect()
        });
        for settled in &view {
            self.open.remove(&settled.index);
        }
        view
    }
}

impl Confirms for ScriptedConfirms {
    fn settle(&mut self) -> BoxFuture<'_, Vec<Settled>> {
        async move {
            if self.open.is_empty() {
                return Vec::new();
            }
            let view = self.said.recv().await;
            self.note(view)
        }
        .boxed()
    }

    fn settle_now(&mut self) -> Vec<Settled> {
        match self.said.try_recv() {
            Ok(view) => self.note(Some(view)),
            Err(_) => Vec::new(),
        }
    }
}

/// A store in memory.
#[derive(Default)]
pub struct MemoryStore {
    pub rows: Mutex<BTreeMap<Key, Kind>>,
    /// Claims of these keys are answered that another replica is at it.
    pub elsewhere: Mutex<BTreeSet<Key>>,
    /// What it says that it keeps.
    pub tally: Mutex<Tally>,
    /// Every call fails.
    pub away: AtomicBool,
    /// There is no room.
    pub full: AtomicBool,
    /// How long a claim is good for, where it is not for ever.
    pub lease: Mutex<Option<Duration>>,
    /// How often it was asked for claims, and what was given back.
    pub claims: Mutex<u32>,
    pub released: Mutex<Vec<Key>>,
    /// What was leased anew, a call a row.
    pub renewed: Mutex<Vec<Vec<Key>>>,
}

#[derive(Debug, Clone)]
pub enum Kind {
    Record(Record),
    Deferral(Box<Deferral>),
    Holding(Holding),
}

fn waiting_of(deferral: &Deferral) -> Waiting {
    Waiting {
        key: deferral.key.clone(),
        digest: Some(deferral.digest),
        event_type: Some(deferral.event_type),
        notify_id: deferral.notify_id.clone(),
        payment_time: deferral.payment_time,
        first_at: deferral.at,
        state: deferral.state,
        reason: deferral.cause.as_str().to_owned(),
        content: serde_json::to_vec(&deferral.message).unwrap(),
    }
}

impl MemoryStore {
    pub fn states(&self) -> Vec<(String, &'static str)> {
        let rows = self.rows.lock().unwrap();
        rows.iter().map(|(key, kind)| (key.id.clone(), kind.state().as_str())).collect()
    }

    /// Why an event waits, if it does.
    pub fn cause_of(&self, id: &str) -> Option<Cause> {
        self.rows.lock().unwrap().iter().find_map(|(key, kind)| match kind {
            Kind::Deferral(deferral) if key.id == id => Some(deferral.cause),
            Kind::Deferral(_) | Kind::Record(_) | Kind::Holding(_) => None,
        })
    }

    pub fn is_empty(&self) -> bool {
        self.rows.lock().unwrap().is_empty()
    }

    fn answer<T: Send + 'static>(&self, answer: impl FnOnce() -> T) -> BoxFuture<'_, Result<T, StoreError>> {
        let answer = if self.away.load(Ordering::SeqCst) {
            Err(StoreError { message: "away".to_owned() })
        } else {
            Ok(answer())
        };
        std::future::ready(answer).boxed()
    }
}

impl Kind {
    fn state(&self) -> State {
        match self {
            Self::Record(record) => record.state,
            Self::Deferral(deferral) => deferral.state,
            Self::Holding(_) => State::Held,
        }
    }

    /// As it counts for Alipay's last delivery.
    pub fn payment_time(&self) -> Option<Timestamp> {
        match self {
            Self::Record(_) => None,
            Self::Deferral(deferral) => deferral.payment_time,
            Self::Holding(holding) => holding.payment_time,
        }
    }

    fn known(&self) -> Option<Known> {
        match self {
            Self::Record(record) => Some(Known {
                state: record.state,
                digest: record.digest,
                notify_id: record.notify_id.clone(),
            }),
            Self::Deferral(deferral) => Some(Known {
                state: deferral.state,
                digest: deferral.digest,
                notify_id: deferral.notify_id.clone(),
            }),
            Self::Holding(_) => None,
        }
    }
}

impl Store for MemoryStore {
    fn claim(&self, keys: Vec<Key>) -> BoxFuture<'_, Result<Vec<Claim>, StoreError>> {
        *self.claims.lock().unwrap() += 1;
        self.answer(|| {
            let (rows, elsewhere) = (self.rows.lock().unwrap(), self.elsewhere.lock().unwrap());
            let claim = |key: &Key| {
                if elsewhere.contains(key) {
                    return Claim::HeldElsewhere;
                }
                Claim::Granted(rows.get(key).and_then(Kind::known))
            };
            keys.iter().map(claim).collect()
        })
    }

    fn release(&self, keys: Vec<Key>) -> BoxFuture<'_, Result<(), StoreError>> {
        self.answer(|| self.released.lock().unwrap().extend(keys))
    }

    fn renew(&self, keys: Vec<Key>) -> BoxFuture<'_, Result<(), StoreError>> {
        self.answer(|| self.renewed.lock().unwrap().push(keys))
    }

    fn lease(&self) -> Duration {
        self.lease.lock().unwrap().unwrap_or(Duration::MAX)
    }

    fn record(&self, records: Vec<Record>) -> BoxFuture<'_, Result<(), StoreError>> {
        self.answer(|| {
            let mut rows = self.rows.lock().unwrap();
            for record in records {
                rows.insert(record.key.clone(), Kind::Record(record));
            }
        })
    }

    fn defer(&self, deferrals: Vec<Deferral>) -> BoxFuture<'_, Result<Vec<Kept>, StoreError>> {
        let full = self.full.load(Ordering::SeqCst);
        self.answer(|| {
            let mut rows = self.rows.lock().unwrap();
            let mut keep = |deferral: Deferral| match rows.get(&deferral.key) {
                Some(Kind::Record(record)) => Kept::Settled(record.state),
                _ if full => Kept::Full,
                _ => {
                    rows.insert(deferral.key.clone(), Kind::Deferral(Box::new(deferral)));
                    Kept::Yes
                }
            };
            deferrals.into_iter().map(&mut keep).collect()
        })
    }

    fn hold(&self, holdings: Vec<Holding>) -> BoxFuture<'_, Result<Vec<Kept>, StoreError>> {
        let full = self.full.load(Ordering::SeqCst);
        self.answer(|| {
            let mut rows = self.rows.lock().unwrap();
            let mut keep = |holding: Holding| {
                if full {
                    return Kept::Full;
                }
                rows.insert(holding.key.clone(), Kind::Holding(holding));
                Kept::Yes
            };
            holdings.into_iter().map(&mut keep).collect()
        })
    }

    fn find(&self, _subject: String) -> BoxFuture<'_, Result<Vec<Row>, StoreError>> {
        self.answer(Vec::new)
    }

    fn waiting(&self, key: Key) -> BoxFuture<'_, Result<Option<Waiting>, StoreError>> {
        self.answer(|| match self.rows.lock().unwrap().get(&key) {
            Some(Kind::Holding(holding)) => Some(Waiting {
                key: holding.key.clone(),
                digest: None,
                event_type: None,
                notify_id: holding.notify_id.clone(),
                payment_time: holding.payment_time,
                first_at: holding.at,
                state: State::Held,
                reason: holding.reason.to_owned(),
                content: holding.body.clone(),
            }),
            Some(Kind::Deferral(deferral)) => Some(waiting_of(deferral)),
            Some(Kind::Record(_)) | None => None,
        })
    }

    fn due(
        &self,
        now: Timestamp,
        limit: usize,
        skip: Vec<EventType>,
    ) -> BoxFuture<'_, Result<Vec<Waiting>, StoreError>> {
        self.answer(|| {
            let rows = self.rows.lock().unwrap();
            let due = rows.values().filter_map(|row| match row {
                Kind::Deferral(deferral) => {
                    let pause = if deferral.state == State::Deferred { back_off(1) } else { DOUBT };
                    let is_due = deferral.at.plus(pause) <= now && !skip.contains(&deferral.event_type);
                    is_due.then(|| waiting_of(deferral))
                }
                Kind::Record(_) | Kind::Holding(_) => None,
            });
            due.take(limit).collect()
        })
    }

    fn decide(&self, _decision: Decision) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.answer(|| false)
    }

    fn tally(&self) -> BoxFuture<'_, Result<Tally, StoreError>> {
        self.answer(|| self.tally.lock().unwrap().clone())
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
}
