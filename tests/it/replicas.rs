//! Several real replicas behind a front that takes them in turn, one real Redis, one real broker. Each notification is
//! delivered twice at once, to different replicas, again and again until it is answered `success`; and what is in the queue
//! at the end is compared with what was delivered. At length: `tests/torture.sh`.

#![cfg(feature = "aws-lc")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::support::alipay::Notification;
use crate::support::program::{Program, amqp_url, post, unique};
use crate::support::queue::Queue;
use crate::support::redis::{Node, Nodes, cli, redis_url};
use crate::support::run;

/// Replicas of one gateway.
struct Replicas {
    programs: Vec<Program>,
    front: Front,
}

/// A few lines of load balancer: in turn, and the next where nobody listens.
struct Front(Vec<SocketAddr>);

impl Front {
    fn deliver(&self, turn: usize, body: &[u8]) -> bool {
        let mut places = self.0.iter().cycle().skip(turn % self.0.len()).take(self.0.len());
        let answer = places.find_map(|place| post(*place, "/alipay/notify", body).ok());
        answer.is_some_and(|answer| answer.is_success())
    }
}

impl Replicas {
    fn start(count: usize, url: &str) -> Self {
        let (exchange, prefix) = (unique("replicas"), unique("replicas"));
        let store = format!("engine = \"redis\"\nuri = \"{url}\"\nprefix = \"{prefix}\"");
        let start = |_| {
            let change = |text: String| {
                let own = text.lines().find(|line| line.starts_with("exchange")).unwrap().to_owned();
                let text = text.replace(&own, &format!("exchange = \"{exchange}\""));
                text.replace("path = \"gateway.db\"", &store)
            };
            let mut program = Program::launch_configured("replica", &amqp_url(), change, |command| command);
            program.exchange.clone_from(&exchange);
            program.is_connected();
            program
        };
        let programs: Vec<Program> = (0..count).map(start).collect();
        let front = Front(programs.iter().map(|program| program.http).collect());
        Self { programs, front }
    }

    /// Nothing waits any more, for whichever of them.
    fn come_to_rest(&self) {
        let one = &self.programs[0];
        let began = Instant::now();
        let waiting = || {
            ["deferred", "in_doubt"].map(|state| one.metric(&format!("backlog_events{{state=\"{state}\"}}")))
        };
        let unrecorded = || self.programs.iter().any(|program| program.metric("store_unrecorded") > 0.0);
        while waiting().iter().sum::<f64>() > 0.0 || unrecorded() {
            assert!(began.elapsed() < REST, "it does not come to rest: {:?}\n{}", waiting(), one.log());
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// One payment: when it was first delivered, and when it was answered `success`.
struct Paid {
    id: String,
    began: Instant,
    ended: Instant,
}

/// Two customers of Alipay's in step: the same notification at the same moment, to different replicas.
fn pay(front: &Front, from: u64, count: u64, stop: &AtomicBool) -> Vec<Paid> {
    let (together, paid) = (Barrier::new(2), Mutex::new(Vec::new()));
    let next = Mutex::new(None);
    let twin = |turn: usize| {
        for n in from..from + count {
            // One of them signs for both, and both stop before the same one.
            if together.wait().is_leader() {
                let payment = Notification::payment_now(n);
                let signed =
                    (!stop.load(Ordering::Relaxed)).then(|| Arc::new((payment.body_quickly(), payment)));
                *next.lock().unwrap() = signed;
            }
            together.wait();
            let Some(signed) = next.lock().unwrap().clone() else { break };
            let ((body, payment), began) = (&*signed, Instant::now());
            let mut tries = n as usize + turn;
            while !front.deliver(tries, body) {
                assert!(began.elapsed() < REST, "{} is never answered `success`", payment.trade_no());
                std::thread::sleep(Duration::from_millis(250));
                tries += 1;
            }
            let (id, ended) = (payment.event_id("payment.succeeded"), Instant::now());
            paid.lock().unwrap().push(Paid { id, began, ended });
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| twin(0));
        twin(1);
    });
    paid.into_inner().unwrap()
}

/// A copy in the queue.
struct Copy {
    id: String,
    seen: Instant,
    unchecked: bool,
}

async fn collect(mut queue: Queue, last: String) -> Vec<Copy> {
    let mut copies = Vec::new();
    loop {
        let event = queue.next().await;
        if event.id() == last {
            return copies;
        }
        let headers = event.delivery.properties.headers().as_ref();
        let unchecked = headers.is_some_and(|headers| headers.inner().contains_key("x-dedup"));
        copies.push(Copy { id: event.id().to_owned(), seen: Instant::now(), unchecked });
    }
}

/// Something after which an event may be announced once more.
struct Trouble {
    what: &'static str,
    from: Instant,
    until: Instant,
}

/// Pays by `pairs` customers while `disturb` is at it, and judges what came of it. `count`: of each pair.
async fn play(
    replicas: &mut Replicas,
    pairs: u64,
    count: u64,
    disturb: impl FnOnce(&mut [Program]) -> Vec<Trouble>,
) {
    let queue = Queue::bound(&replicas.programs[0].exchange, &["#"]).await;
    let last = Notification::payment_now(999_999_999);
    let collected = tokio::task::spawn_blocking({
        let last = last.event_id("payment.succeeded");
        move || tokio::runtime::Handle::current().block_on(collect(queue, last))
    });
    let stop = AtomicBool::new(false);
    let Replicas { programs, front } = &mut *replicas;
    let (paid, troubles) = tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            let (front, stop) = (&*front, &stop);
            let pay = |pair| scope.spawn(move || pay(front, pair * 10_000_000, count, stop));
            let payers: Vec<_> = (1..=pairs).map(pay).collect();
            let troubles = disturb(programs);
            stop.store(count == u64::MAX / 2, Ordering::Relaxed);
            let paid: Vec<Paid> = payers.into_iter().flat_map(|payer| payer.join().unwrap()).collect();
            (paid, troubles)
        })
    });
    tokio::task::block_in_place(|| {
        replicas.come_to_rest();
        assert!(replicas.programs[0].post(&last.body()).is_success());
    });
    let lost = judge(&paid, &collected.await.unwrap(), &troubles);
    // What each replica has said of it.
    let said: Vec<String> =
        replicas.programs.iter().flat_map(|program| lines_about(program, &lost)).collect();
    assert!(lost.is_empty(), "lost {lost:?}\n{}", said.join("\n"));
}

fn lines_about(program: &Program, ids: &[String]) -> Vec<String> {
    let log = program.log();
    let about = |line: &&str| ids.iter().any(|id| line.contains(id.as_str()));
    log.lines().filter(about).map(|line| format!("{}: {line}", program.http)).collect()
}

/// Gives what was answered `success` and is not in the queue.
fn judge(paid: &[Paid], copies: &[Copy], troubles: &[Trouble]) -> Vec<String> {
    let mut events: BTreeMap<&str, Vec<&Copy>> = BTreeMap::new();
    for copy in copies {
        events.entry(&copy.id).or_default().push(copy);
    }
    let mut first: BTreeMap<&str, (Instant, Instant)> = BTreeMap::new();
    for Paid { id, began, ended } in paid {
        let one = first.entry(id).or_insert((*began, *ended));
        *one = (one.0.min(*began), one.1.min(*ended));
    }
    let (mut inside, mut outside) = (BTreeMap::<&str, usize>::new(), Vec::new());
    for (id, copies) in events.iter().filter(|(_, copies)| copies.len() > 1) {
        let (began, last) = (first[id].0, copies.iter().map(|copy| copy.seen).max().unwrap());
        let between = troubles.iter().find(|trouble| trouble.from <= last && began <= trouble.until);
        let unchecked = copies.iter().any(|copy| copy.unchecked);
        match between {
            Some(_) if unchecked => {
                *inside.entry("Redis could not be asked").or_default() += copies.len() - 1
            }
            Some(trouble) => *inside.entry(trouble.what).or_default() += copies.len() - 1,
            None => outside.push(id),
        }
    }
    let lost: Vec<_> = first.keys().filter(|id| !events.contains_key(*id)).collect();
    let unexpected: Vec<_> = events.keys().filter(|id| !first.contains_key(*id)).collect();
    let unchecked = copies.iter().filter(|copy| copy.unchecked).count();
    eprintln!(
        "{} notifications, each twice at once; {} events, {unchecked} of them unchecked; lost {}; duplicated inside the \
         windows {inside:?}, outside {}; {} troubles",
        first.len(),
        copies.len(),
        lost.len(),
        outside.len(),
        troubles.len()
    );
    assert!(unexpected.is_empty(), "unexpected {unexpected:?}");
    assert!(outside.is_empty(), "announced twice, and nothing happened: {outside:?}");
    lost.into_iter().map(|id| (*id).to_owned()).collect()
}

/// What happens to them, one after the other.
fn disturb(
    programs: &mut [Program],
    random: &mut SmallRng,
    rounds: u64,
    mut redis: impl FnMut(&mut SmallRng),
) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    for round in 0..rounds {
        let from = Instant::now();
        let which = random.random_range(0..programs.len());
        let what = match round % 3 {
            0 => {
                programs[which].kill();
                programs[which].restart();
                programs[which].is_connected();
                "a replica was killed"
            }
            1 => {
                programs[which].signal("STOP");
                // Every other time for longer than a lease.
                let longest = if round % 6 == 1 { 18_000 } else { 3_000 };
                std::thread::sleep(Duration::from_millis(random.random_range(longest - 1_000..longest)));
                programs[which].signal("CONT");
                "a replica stood still"
            }
            _ => {
                redis(random);
                "Redis was away"
            }
        };
        // What a dead or late one had leased, and what it did not record, is over by then.
        troubles.push(Trouble { what, from, until: Instant::now() + AFTERMATH });
        std::thread::sleep(Duration::from_millis(random.random_range(500..2_000)));
    }
    troubles
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.replace('_', "").parse().unwrap())
}

fn seeded() -> SmallRng {
    let seed = number("REPLICAS_SEED").unwrap_or_else(rand::random);
    eprintln!("REPLICAS_SEED={seed}");
    SmallRng::seed_from_u64(seed)
}

#[test]
fn each_of_many_that_come_twice_at_once_to_different_replicas_is_announced_once() {
    run(async {
        let all = number("REPLICAS_NOTIFICATIONS").unwrap_or(1_600);
        for count in [2, 3] {
            let mut replicas = Replicas::start(count, &redis_url());
            play(&mut replicas, PAIRS, all / PAIRS, |_| Vec::new()).await;
        }
    });
}

#[test]
fn whatever_happens_to_replicas_and_to_redis_nothing_is_lost_or_repeated_outside_the_windows() {
    run(async {
        let (mut random, mut node) = (seeded(), Node::start(&[]));
        let mut replicas = Replicas::start(3, &node.url());
        let rounds = number("REPLICAS_ROUNDS").unwrap_or(6);
        play(&mut replicas, PAIRS, u64::MAX / 2, |programs| {
            disturb(programs, &mut random, rounds, |random| {
                if random.random_bool(0.5) {
                    node.kill();
                    std::thread::sleep(Duration::from_millis(random.random_range(100..3_000)));
                    node.run();
                } else {
                    node.signal("STOP");
                    std::thread::sleep(Duration::from_millis(random.random_range(500..4_000)));
                    node.signal("CONT");
                }
            })
        })
        .await;
    });
}

#[test]
fn a_fail_over_beneath_replicas_that_are_killed_loses_nothing() {
    run(async {
        let mut random = seeded();
        let nodes = Nodes::start(&["sentinel"], &[]);
        let sentinel = nodes.url.replace("/gateway", "");
        let master = || {
            let place = cli(&sentinel, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "gateway"]);
            place.lines().nth(1).unwrap().to_owned()
        };
        let mut replicas = Replicas::start(2, &nodes.url);
        let failovers = number("REPLICAS_FAILOVERS").unwrap_or(1);
        play(&mut replicas, PAIRS, u64::MAX / 2, |programs| {
            let mut troubles = disturb(programs, &mut random, 1, |_| ());
            for left in (0..failovers).rev() {
                let (from, first) = (Instant::now(), master());
                // The last is killed; those before it stand still, and come back as the replica of who took their place.
                nodes.signal(&first, if left == 0 { "KILL" } else { "STOP" });
                let away = |one: &Program| one.metric("store_unchecked") > 0.0;
                while master() == first || programs.iter().any(away) {
                    assert!(from.elapsed() < REST, "it is not failed over");
                    std::thread::sleep(Duration::from_millis(100));
                }
                if left > 0 {
                    nodes.signal(&first, "CONT");
                    while !cli(&sentinel, &["SENTINEL", "REPLICAS", "gateway"])
                        .contains("master-link-status\nok")
                    {
                        assert!(from.elapsed() < REST, "it does not come back as a replica");
                        std::thread::sleep(Duration::from_millis(100));
                    }
                }
                troubles.push(Trouble { what: "a fail-over", from, until: Instant::now() + AFTERMATH });
                troubles.extend(disturb(programs, &mut random, 1, |_| ()));
            }
            troubles
        })
        .await;
    });
}

/// Customers in step, by twos.
const PAIRS: u64 = 16;
/// After a trouble: a lease, and what was deferred.
const AFTERMATH: Duration = Duration::from_secs(5);
/// A bound for what is broken: a minute of doubt, and its drain.
const REST: Duration = Duration::from_secs(180);
