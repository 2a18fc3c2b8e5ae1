//! One world: a broker, a disk, Alipay and a clock that outlive the gateway, and the gateway's lives one after the other,
//! each on a runtime of its own in paused time. Everything is drawn from one seed, and every step of it goes into a hash,
//! so that a seed is a history and can be lived again.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use alipay_notify_gateway::admission::{Rejection, acceptance::Objection};
use alipay_notify_gateway::clock::{Clock, Timestamp};
use alipay_notify_gateway::gateway::{self, Delivery, Gateway, Reply};
use alipay_notify_gateway::lifecycle::Tasks;
use alipay_notify_gateway::metrics::Metrics;
use alipay_notify_gateway::publication::{self, Publication};
use alipay_notify_gateway::telemetry::traces::Tracer;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::alipay::{self, Due, Pool, RETENTION, Schedule};
use crate::broker::{self, Batch, SimulatedBroker, Wire};
use crate::faults::{Faults, Kind, chance};
use crate::replicas;
use crate::store::{self, Disk, SimulatedStore};
use crate::verdict::{Event, Report};

/// What the gateway's parts and the world share.
pub struct World {
    inner: Arc<Mutex<Inner>>,
    /// Whose hand this is, and in which of its lives; `None`: in the only one that there is.
    at: usize,
    life: Option<u32>,
}

/// One gateway's life: all that the broker knows of it, and how it is to end.
pub struct Life {
    /// Once it is false nothing that the gateway does has an effect any more.
    pub alive: bool,
    pub incarnation: u32,
    pub crash_at: u64,
    pub crash: Arc<Notify>,
    /// When this life is stopped in order.
    pub stop_at: u64,
    pub wire: Wire,
}

pub struct Inner {
    pub seed: u64,
    pub random: SmallRng,
    pub faults: Faults,
    /// Milliseconds of the world when this life began.
    base: u64,
    started: Option<Instant>,
    /// Of the gateway in whose name the world was locked.
    pub life: Life,
    /// Which of its lives that is.
    acting: Option<u32>,
    /// The lives of the others, and an empty place.
    pub lives: Vec<Life>,
    incarnations: u32,
    steps: u64,
    /// When the disk was lost.
    pub wiped: Vec<u64>,
    hash: DefaultHasher,
    is_told: bool,
    pub batches: Vec<Batch>,
    pub disk: Disk,
    pub alipay: Schedule,
    pub events: Vec<Event>,
    pub index: HashMap<String, usize>,
    /// The ids of everything that was delivered.
    pub delivered: BTreeSet<String>,
    /// For each notification, in which life and when the gateway had it.
    pub handled: Vec<Vec<(u32, u64)>>,
    pub told_success: BTreeSet<usize>,
    /// Lives that ended in a crash, and when.
    pub crashes: Vec<(u32, u64)>,
    pub report: Report,
}

/// How a life ends.
enum End {
    Crash,
    Stop,
    Over,
}

/// Lives through the world of a seed. Gives what it came to, and the hash of its history.
pub fn run(seed: u64, is_told: bool) -> (Report, u64) {
    let world = Arc::new(World::new(seed, is_told));
    if world.lock().faults.replicas > 1 {
        return replicas::run(&world);
    }
    loop {
        let end = live(&world);
        let mut inner = world.lock();
        inner.bury(&end);
        if matches!(end, End::Over) {
            inner.judge_end();
            inner.report.count("worlds");
            let hash = inner.hash.finish();
            return (std::mem::take(&mut inner.report), hash);
        }
        inner.lie_down();
    }
}

fn live(world: &Arc<World>) -> End {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let end = runtime.block_on(life(Arc::clone(world)));
    // What its tasks do while they are dropped is nothing that a dead process could do.
    drop(runtime);
    end
}

async fn life(world: Arc<World>) -> End {
    let crash = world.lock().begin();
    tokio::spawn(store::work(Arc::clone(&world)));
    tokio::spawn(broker::weather(Arc::clone(&world)));
    let (gateway, publication) = start(&world);
    let end = tokio::select! {
        biased;
        () = crash.notified() => End::Crash,
        end = play(&world, &gateway, &publication) => end,
    };
    world.lock().stop_clock();
    end
}

pub fn start(world: &Arc<World>) -> (Gateway, Publication) {
    let config = publication::Config {
        lanes: 4,
        max_batch: 64,
        max_in_flight: 4096,
        confirm_timeout: Duration::from_secs(3),
        answer_timeout: Duration::from_secs(5),
        ignore: BTreeSet::new(),
        retention: RETENTION,
    };
    let answer_timeout = config.answer_timeout;
    let metrics = Arc::new(Metrics::new(&Rejection::REASONS, &Objection::REASONS).unwrap());
    let clock: Arc<dyn Clock> = Arc::new(SimulatedClock(Arc::clone(world)));
    let tasks = Tasks::default();
    let seed = world.lock().random.random();
    let publication = Publication::start(publication::Parts {
        config,
        broker: Arc::new(SimulatedBroker(Arc::clone(world))),
        store: Arc::new(SimulatedStore(Arc::clone(world))),
        clock: Arc::clone(&clock),
        tasks: tasks.clone(),
        metrics: Arc::clone(&metrics),
        tracer: Tracer::default(),
        seed,
    });
    let policy = Pool::shared().policy.clone();
    let tracer = Tracer::default();
    let parts = gateway::Parts {
        policy,
        publication: publication.clone(),
        answer_timeout,
        // Threads of their own have no place in simulated time.
        failure_budget: u32::MAX,
        low_priority_bytes: 8 << 20,
        low_priority_jobs: 512,
        has_verifier: false,
        clock,
        tasks,
        metrics,
        tracer,
    };
    (Gateway::new(parts), publication)
}

/// Delivers what is due until nothing is left, then waits until everything is announced.
async fn play(world: &Arc<World>, gateway: &Gateway, publication: &Publication) -> End {
    loop {
        let wait = {
            let mut inner = world.lock();
            let now = inner.now();
            while let Some(due) = inner.alipay.take(now) {
                inner.alipay.outstanding.insert(due.number, due);
                tokio::spawn(deliver(Arc::clone(world), gateway.clone(), due));
            }
            if inner.alipay.is_over() {
                break;
            }
            let next = inner.alipay.next_at().unwrap_or(u64::MAX).min(inner.life.stop_at);
            let pause = Duration::from_millis(next.saturating_sub(now).min(60_000));
            (inner.life.stop_at > now).then(|| (pause, Arc::clone(&inner.alipay.changed)))
        };
        let Some((pause, changed)) = wait else { return stop(world, publication).await };
        let _ = tokio::time::timeout(pause, changed.notified()).await;
    }
    heal(world, publication).await;
    End::Over
}

/// Stopped in order: what is in flight is finished, within a grace.
async fn stop(world: &World, publication: &Publication) -> End {
    publication.close();
    let in_order = tokio::time::timeout(GRACE, publication.idle()).await.is_ok();
    // Whoever is answered now is answered before the end.
    tokio::time::sleep(Duration::from_millis(1)).await;
    if in_order {
        world.lock().report.count("stopped in order");
        End::Stop
    } else {
        world.lock().report.count("stopped with events in doubt");
        End::Crash
    }
}

/// Everything is well from now on: what waits must be announced.
async fn heal(world: &Arc<World>, publication: &Publication) {
    {
        let mut inner = world.lock();
        inner.faults.heal();
        inner.life.crash_at = u64::MAX;
        inner.life.stop_at = u64::MAX;
        broker::clear_up(&mut inner);
    }
    for _ in 0..HEALED_LOOKS {
        let quiet = tokio::time::timeout(LOOK, publication.idle()).await.is_ok();
        if quiet && world.lock().disk.waiting() == 0 {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
    world.lock().violate("not everything was announced although all was well".to_owned());
}

/// One delivery: a connection of Alipay's.
pub async fn deliver(world: Arc<World>, gateway: Gateway, due: Due) {
    let (patience, is_answer_lost) = {
        let mut inner = world.lock();
        if !inner.step("deliver") {
            inner.is_cut_off(due);
            return;
        }
        inner.report.count("notifications");
        inner.trace("delivered", due.notice as u64);
        let notice = &Pool::shared().notices[due.notice];
        for id in &notice.ids {
            if !inner.delivered.contains(id) {
                inner.delivered.insert(id.clone());
            }
        }
        let (life, now) = (inner.life.incarnation, inner.now());
        inner.handled[due.notice].push((life, now));
        let Inner { random, faults, .. } = &mut *inner;
        let patience = if chance(random, faults.hang_up) { random.random_range(0..6_000) } else { 60_000 };
        (patience, chance(random, faults.answer_lost))
    };
    world.until_it_goes_on().await;
    let body = Pool::shared().body(due.notice, due.delivery);
    let delivery =
        Delivery { body, client: Ipv4Addr::LOCALHOST.into(), arrived: Instant::now(), traceparent: None };
    let reply = tokio::time::timeout(Duration::from_millis(patience), gateway.notify(delivery)).await.ok();
    let mut inner = world.lock();
    if inner.step("reply") {
        inner.take_reply(due, reply, is_answer_lost);
    } else {
        inner.is_cut_off(due);
    }
}

impl World {
    fn new(seed: u64, is_told: bool) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let is_shared = seed & SHARED != 0;
        let faults = if is_shared { Faults::of_many(&mut random) } else { Faults::of(&mut random) };
        let mut inner = Inner {
            seed,
            base: 0,
            started: None,
            life: Life::new(),
            acting: None,
            lives: (0..faults.replicas).map(|_| Life::new()).collect(),
            incarnations: 0,
            steps: 0,
            wiped: Vec::new(),
            hash: DefaultHasher::new(),
            is_told,
            batches: Vec::new(),
            faults,
            disk: Disk::default(),
            alipay: Schedule::new(),
            events: Vec::new(),
            index: HashMap::new(),
            delivered: BTreeSet::new(),
            handled: vec![Vec::new(); Pool::shared().notices.len()],
            told_success: BTreeSet::new(),
            crashes: Vec::new(),
            report: Report::default(),
            random,
        };
        inner.happen();
        Self { inner: Arc::new(Mutex::new(inner)), at: 0, life: None }
    }

    /// The hand of a gateway, in the life that it has now.
    pub fn hand(&self, at: usize, life: u32) -> Self {
        Self { inner: Arc::clone(&self.inner), at, life: Some(life) }
    }

    /// In the name of the gateway whose hand this is, whichever life it has.
    pub fn lock_as_is(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().unwrap();
        inner.act_as(self.at, None);
        inner
    }

    /// In the name of the gateway whose hand this is.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().unwrap();
        inner.act_as(self.at, self.life);
        inner
    }

    /// Until the gateway whose hand this is goes on, if it stands still.
    pub async fn until_it_goes_on(&self) {
        loop {
            {
                let inner = self.lock();
                if !inner.faults.lasts(Kind::Stopped, inner.now()) {
                    return;
                }
            }
            tokio::time::sleep(STOPPED_LOOK).await;
        }
    }
}

impl Life {
    fn new() -> Self {
        Self {
            alive: false,
            incarnation: 0,
            crash_at: u64::MAX,
            crash: Arc::default(),
            stop_at: u64::MAX,
            wire: Wire::new(),
        }
    }
}

impl Inner {
    fn act_as(&mut self, at: usize, life: Option<u32>) {
        self.acting = life;
        let was = std::mem::replace(&mut self.faults.at, at);
        if was != at {
            std::mem::swap(&mut self.life, &mut self.lives[was]);
            std::mem::swap(&mut self.life, &mut self.lives[at]);
        }
    }

    /// Whether what the acting gateway does has an effect.
    pub fn is_alive(&self) -> bool {
        self.life.alive && self.acting.is_none_or(|acting| acting == self.life.incarnation)
    }

    /// Something of a gateway that has died is still about, beside its next life.
    pub fn is_after_life(&self) -> bool {
        self.acting.is_some() && !self.is_alive()
    }

    /// Whether that life goes on, of whichever gateway, and which.
    pub fn living(&self, incarnation: u32) -> Option<usize> {
        if self.life.incarnation == incarnation {
            return self.life.alive.then_some(self.faults.at);
        }
        self.lives.iter().position(|life| life.incarnation == incarnation && life.alive)
    }

    pub fn is_shared(&self) -> bool {
        self.faults.replicas > 1
    }

    /// Milliseconds since the world began.
    pub fn now(&self) -> u64 {
        self.base + self.started.map_or(0, |started| started.elapsed().as_millis() as u64)
    }

    /// One step of the gateway or of what answers it. False: it is dead, and this has no effect any more.
    pub fn step(&mut self, what: &'static str) -> bool {
        if !self.is_alive() {
            return false;
        }
        self.steps += 1;
        self.trace(what, self.steps);
        if self.steps < self.life.crash_at {
            return true;
        }
        self.life.alive = false;
        self.life.crash.notify_one();
        self.report.count(match what {
            "deliver" => "crash: before a delivery",
            "read" => "crash: before a claim or a look",
            "open" => "crash: before a channel opens",
            "publish" => "crash: before a publish, or within a batch",
            "take" => "crash: before the broker takes a message",
            "answer" => "crash: before a confirm",
            "write" => "crash: before a write",
            "sync" => "crash: written, not synced",
            "synced" => "crash: synced, not known",
            "reply" => "crash: before the answer",
            _ => "crash: elsewhere",
        });
        false
    }

    pub fn trace(&mut self, what: &'static str, which: u64) {
        let now = self.now();
        (now, what, which).hash(&mut self.hash);
        if self.is_told {
            let id = match what {
                "published" | "stored" | "returned" | "ack" | "nack" | "lost" | "ack with a return" => {
                    self.events.get(which as usize).map_or("", |event| event.id.as_str())
                }
                _ => "",
            };
            eprintln!("{now:>9} {what} {which} {id}");
        }
    }

    /// The notifications of this world.
    fn happen(&mut self) {
        for (notice, known) in Pool::shared().notices.iter().enumerate() {
            let happens = {
                // Decided by the trade, so that its notifications come together or not at all.
                let mut random = SmallRng::seed_from_u64(self.seed ^ ((known.trade as u64) << 20));
                chance(&mut random, self.faults.trades)
            };
            if !happens {
                continue;
            }
            let at = known.first_at + self.random.random_range(0..self.faults.spread);
            self.alipay.add(notice, 0, at, false);
            if chance(&mut self.random, self.faults.twin) {
                self.alipay.add(notice, 0, at + self.random.random_range(0..3), true);
            }
        }
    }

    pub fn begin(&mut self) -> Arc<Notify> {
        self.started.get_or_insert_with(Instant::now);
        self.life.alive = true;
        self.incarnations += 1;
        self.life.incarnation = self.incarnations;
        self.report.count("lives");
        self.life.crash = Arc::default();
        self.life.crash_at = match self.faults.crash_every {
            0 => u64::MAX,
            _ if self.life.incarnation > MAX_CRASHES => u64::MAX,
            mean => self.steps + self.random.random_range(1..2 * mean),
        };
        let lasts = self.random.random_range(1_000..600_000);
        let stops = self.faults.stops && self.life.incarnation <= MAX_CRASHES;
        self.life.stop_at = if stops { self.now() + lasts } else { u64::MAX };
        Arc::clone(&self.life.crash)
    }

    /// The time of a life is known on its runtime alone.
    fn stop_clock(&mut self) {
        self.base = self.now();
        self.started = None;
        self.life.alive = false;
    }

    /// What a dead gateway leaves behind.
    fn bury(&mut self, end: &End) {
        if let End::Crash = end {
            self.crashes.push((self.life.incarnation, self.base));
            self.trace("crash", u64::from(self.life.incarnation));
        }
        self.hang_up_on_broker();
        let Self { disk, random, .. } = self;
        disk.crash(random);
        if chance(&mut self.random, self.faults.disk_lost) && !matches!(end, End::Over) {
            self.report.count("disk lost");
            self.wiped.push(self.base);
            self.disk.wipe();
        }
        self.forget_unsynced();
        for (_, due) in std::mem::take(&mut self.alipay.outstanding) {
            self.fail(due);
        }
    }

    /// What a dead gateway leaves behind while others live.
    pub fn bury_beside_others(&mut self, in_order: bool) {
        let (life, now) = (self.life.incarnation, self.now());
        if in_order {
            self.report.count("stopped in order");
        } else {
            self.crashes.push((life, now));
            self.trace("crash", u64::from(life));
        }
        self.life.alive = false;
        self.hang_up_on_broker();
    }

    /// When it is over: what it came to, and the hash of its history.
    pub fn judge_all(&mut self) -> (Report, u64) {
        self.judge_end();
        self.report.count("worlds");
        self.report.count("worlds of several gateways");
        (std::mem::take(&mut self.report), self.hash.finish())
    }

    /// How long until the next life.
    pub fn rest(&mut self) -> u64 {
        let longest = [100, 5_000, 120_000, 7_200_000];
        let scale = match self.random.random_range(0..100) {
            0..50 => longest[0],
            50..85 => longest[1],
            85..99 => longest[2],
            _ => longest[3],
        };
        self.random.random_range(1..scale)
    }

    /// Until the next life: connections are refused.
    fn lie_down(&mut self) {
        self.base += self.rest();
        while let Some(due) = self.alipay.take(self.base) {
            self.report.count("deliveries to nobody");
            self.fail(due);
        }
    }

    /// Its gateway has died, and others live: the front hangs up.
    fn is_cut_off(&mut self, due: Due) {
        if self.is_shared() && self.alipay.outstanding.remove(&due.number).is_some() {
            self.fail(due);
            self.alipay.changed.notify_one();
        }
    }

    pub fn fail(&mut self, due: Due) {
        let jitter = self.random.random_range(0..140_000);
        let now = self.now();
        self.alipay.retry(due, now, jitter);
    }

    fn take_reply(&mut self, due: Due, reply: Option<Reply>, is_answer_lost: bool) {
        self.alipay.outstanding.remove(&due.number);
        match &reply {
            Some(Reply::Success(announced)) => {
                self.judge_success(due.notice, announced);
                if !is_answer_lost {
                    self.told_success.insert(due.notice);
                    self.alipay.settle(due.notice);
                    return;
                }
                self.report.count("answer lost on its way");
            }
            Some(Reply::Rejected) => self.violate("an authentic notification was rejected".to_owned()),
            Some(Reply::Unavailable | Reply::Crowded) => self.report.count("fail"),
            None => self.report.count("the client hung up"),
        }
        self.fail(due);
        self.alipay.changed.notify_one();
    }
}

#[derive(Clone)]
struct SimulatedClock(Arc<World>);

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        alipay::at(self.0.lock().now())
    }
}

impl std::fmt::Debug for SimulatedClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimulatedClock")
    }
}

/// In the seeds of worlds in which several gateways share a store.
pub const SHARED: u64 = 1 << 32;
/// How often it is looked whether one that stands still goes on.
const STOPPED_LOOK: Duration = Duration::from_millis(100);
/// `shutdown.grace`.
pub const GRACE: Duration = Duration::from_secs(20);
/// Bound: crashes of one world.
const MAX_CRASHES: u32 = 60;
/// Between two looks whether everything is announced.
pub const LOOK: Duration = Duration::from_secs(10);
/// Bound: three hours.
pub const HEALED_LOOKS: u32 = 540;
