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
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::alipay::{self, Due, Pool, RETENTION, Schedule};
use crate::broker::{self, SimulatedBroker, Wire};
use crate::faults::{Faults, chance};
use crate::store::{self, Disk, SimulatedStore};
use crate::verdict::{Event, Report};

/// What the gateway's parts and the world share.
pub struct World(Mutex<Inner>);

pub struct Inner {
    pub seed: u64,
    pub random: SmallRng,
    pub faults: Faults,
    /// Milliseconds of the world when this life began.
    base: u64,
    started: Option<Instant>,
    /// Once it is false nothing that the gateway does has an effect any more.
    pub alive: bool,
    pub incarnation: u32,
    steps: u64,
    crash_at: u64,
    crash: Arc<Notify>,
    /// When this life is stopped in order.
    stop_at: u64,
    /// When the disk was lost.
    pub wiped: Vec<u64>,
    hash: DefaultHasher,
    is_told: bool,
    pub wire: Wire,
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

fn start(world: &Arc<World>) -> (Gateway, Publication) {
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
        seed,
    });
    let policy = Pool::shared().policy.clone();
    let parts = gateway::Parts {
        policy,
        publication: publication.clone(),
        answer_timeout,
        // Threads of their own have no place in simulated time.
        failure_budget: u32::MAX,
        clock,
        tasks,
        metrics,
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
            let next = inner.alipay.next_at().unwrap_or(u64::MAX).min(inner.stop_at);
            let pause = Duration::from_millis(next.saturating_sub(now).min(60_000));
            (inner.stop_at > now).then(|| (pause, Arc::clone(&inner.alipay.changed)))
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
        inner.crash_at = u64::MAX;
        inner.stop_at = u64::MAX;
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
async fn deliver(world: Arc<World>, gateway: Gateway, due: Due) {
    let (patience, is_answer_lost) = {
        let mut inner = world.lock();
        if !inner.step("deliver") {
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
        let (life, now) = (inner.incarnation, inner.now());
        inner.handled[due.notice].push((life, now));
        let Inner { random, faults, .. } = &mut *inner;
        let patience = if chance(random, faults.hang_up) { random.random_range(0..6_000) } else { 60_000 };
        (patience, chance(random, faults.answer_lost))
    };
    let body = Pool::shared().body(due.notice, due.delivery);
    let delivery =
        Delivery { body, client: Ipv4Addr::LOCALHOST.into(), arrived: Instant::now(), traceparent: None };
    let reply = tokio::time::timeout(Duration::from_millis(patience), gateway.notify(delivery)).await.ok();
    let mut inner = world.lock();
    if inner.step("reply") {
        inner.take_reply(due, reply, is_answer_lost);
    }
}

impl World {
    fn new(seed: u64, is_told: bool) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let faults = Faults::of(&mut random);
        let mut inner = Inner {
            seed,
            faults,
            base: 0,
            started: None,
            alive: false,
            incarnation: 0,
            steps: 0,
            crash_at: u64::MAX,
            crash: Arc::default(),
            stop_at: u64::MAX,
            wiped: Vec::new(),
            hash: DefaultHasher::new(),
            is_told,
            wire: Wire::new(),
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
        Self(Mutex::new(inner))
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }
}

impl Inner {
    /// Milliseconds since the world began.
    pub fn now(&self) -> u64 {
        self.base + self.started.map_or(0, |started| started.elapsed().as_millis() as u64)
    }

    /// One step of the gateway or of what answers it. False: it is dead, and this has no effect any more.
    pub fn step(&mut self, what: &'static str) -> bool {
        if !self.alive {
            return false;
        }
        self.steps += 1;
        self.trace(what, self.steps);
        if self.steps < self.crash_at {
            return true;
        }
        self.alive = false;
        self.crash.notify_one();
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

    fn begin(&mut self) -> Arc<Notify> {
        self.started = Some(Instant::now());
        self.alive = true;
        self.incarnation += 1;
        self.report.count("lives");
        self.crash = Arc::default();
        self.crash_at = match self.faults.crash_every {
            0 => u64::MAX,
            _ if self.incarnation > MAX_CRASHES => u64::MAX,
            mean => self.steps + self.random.random_range(1..2 * mean),
        };
        let lasts = self.random.random_range(1_000..600_000);
        let stops = self.faults.stops && self.incarnation <= MAX_CRASHES;
        self.stop_at = if stops { self.base + lasts } else { u64::MAX };
        Arc::clone(&self.crash)
    }

    /// The time of a life is known on its runtime alone.
    fn stop_clock(&mut self) {
        self.base = self.now();
        self.started = None;
        self.alive = false;
    }

    /// What a dead gateway leaves behind.
    fn bury(&mut self, end: &End) {
        if let End::Crash = end {
            self.crashes.push((self.incarnation, self.base));
            self.trace("crash", u64::from(self.incarnation));
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

    /// Until the next life: connections are refused.
    fn lie_down(&mut self) {
        let longest = [100, 5_000, 120_000, 7_200_000];
        let scale = match self.random.random_range(0..100) {
            0..50 => longest[0],
            50..85 => longest[1],
            85..99 => longest[2],
            _ => longest[3],
        };
        self.base += self.random.random_range(1..scale);
        while let Some(due) = self.alipay.take(self.base) {
            self.report.count("deliveries to nobody");
            self.fail(due);
        }
    }

    fn fail(&mut self, due: Due) {
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
            Some(Reply::Unavailable) => self.report.count("fail"),
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

/// `shutdown.grace`.
const GRACE: Duration = Duration::from_secs(20);
/// Bound: crashes of one world.
const MAX_CRASHES: u32 = 60;
/// Between two looks whether everything is announced.
const LOOK: Duration = Duration::from_secs(10);
/// Bound: three hours.
const HEALED_LOOKS: u32 = 540;
