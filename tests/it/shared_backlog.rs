//! A large backlog in a Redis that replicas share, counted in the commands that Redis does: what a round costs, that it hands
//! out each event once, and that nothing waits for ever behind what cannot be had.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use alipay_notify_gateway::clock::Timestamp;
use alipay_notify_gateway::event::{EventType, Key};
use alipay_notify_gateway::secret::{Secret, Source};
use alipay_notify_gateway::store::redis::{Config, Redis};
use alipay_notify_gateway::store::{
    Cause, Claim, Deferral, Kept, LEASE, Record, State, Store as _, StoreError, Waiting, WhenAway,
};

use crate::support::alipay;
use crate::support::program::PATIENCE;
use crate::support::redis::{Node, Nodes, cli};
use crate::support::rows::{deferral, key, record};
use crate::support::run;

async fn open(node: &Node) -> Redis {
    open_at(node.url()).await
}

async fn open_at(url: String) -> Redis {
    let config = Config {
        uri: Source::Here(Secret::new(url)),
        ca_file: None,
        prefix: "alipay".to_owned(),
        when_away: WhenAway::Unchecked,
        max_deferred: 100_000,
        max_returned: 100_000,
        max_deferred_bytes: 1 << 30,
        max_held: 10,
        max_held_bytes: 1 << 20,
    };
    Redis::open(&config).await
}

fn at(seconds: u64) -> Timestamp {
    alipay::now().plus(Duration::from_secs(seconds))
}

/// Asks until there is an answer: on a machine with much to do Redis may take longer over one than the store waits.
async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(mut ask: impl FnMut() -> F) -> T {
    let began = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn defer(store: &Redis, deferrals: Vec<Deferral>) {
    for some in deferrals.chunks(200) {
        let kept = patiently(|| store.defer(some.to_vec())).await;
        assert!(kept.iter().all(|kept| *kept == Kept::Yes));
    }
}

async fn due(store: &Redis, now: Timestamp, limit: usize) -> Vec<Waiting> {
    patiently(|| store.due(now, limit, Vec::new())).await
}

async fn announce(store: &Redis, records: Vec<Record>) {
    patiently(|| store.record(records.clone())).await;
}

/// How many commands Redis has done, in scripts too, since it was asked before.
fn commands(node: &Node) -> u64 {
    let told = cli(&node.url(), &["INFO", "commandstats"]);
    cli(&node.url(), &["CONFIG", "RESETSTAT"]);
    let calls = told.lines().filter_map(|line| line.split_once("calls=")?.1.split_once(','));
    calls.map(|(calls, _)| calls.parse::<u64>().unwrap()).sum()
}

fn announced(waiting: &Waiting) -> Record {
    Record { key: waiting.key.clone(), ..record(1) }
}

/// Announces what is due until there has been as much as that in all.
async fn drain(store: &Redis, drained: &AtomicU64) -> Vec<Key> {
    let (mut keys, began) = (Vec::new(), Instant::now());
    while drained.load(Ordering::Relaxed) < WAITING {
        // What was taken for an answer that came too late is due again after a lease.
        let due = due(store, at(5 + began.elapsed().as_secs()), 64).await;
        drained.fetch_add(due.len() as u64, Ordering::Relaxed);
        announce(store, due.iter().map(announced).collect()).await;
        keys.extend(due.into_iter().map(|waiting| waiting.key));
    }
    keys
}

#[test]
fn a_large_backlog_is_drained_for_a_few_commands_an_event_beside_live_claims_and_each_event_once() {
    run(async {
        let node = Node::start(&[]);
        let (one, other, live) = (open(&node).await, open(&node).await, open(&node).await);
        defer(&one, (1..=WAITING).map(|n| deferral(n, State::Deferred)).collect()).await;
        commands(&node);
        let (drained, over) = (AtomicU64::new(0), AtomicBool::new(false));
        let pay = async {
            let mut paid = 0;
            while !over.load(Ordering::Relaxed) {
                let keys: Vec<Key> = (0..16).map(|n| key(1_000_000 + paid + n)).collect();
                let claims = patiently(|| live.claim(keys.clone())).await;
                assert!(claims.iter().all(|claim| *claim == Claim::Granted(None)));
                announce(&live, (0..16).map(|n| record(1_000_000 + paid + n)).collect()).await;
                paid += 16;
            }
            paid
        };
        let drains = async {
            let both = tokio::join!(drain(&one, &drained), drain(&other, &drained));
            over.store(true, Ordering::Relaxed);
            both
        };
        let (paid, (some, others)) = tokio::join!(pay, drains);
        let count = commands(&node);
        let each = count as f64 / (WAITING + paid) as f64;
        eprintln!("{} and {} drained, {paid} paid, {each:.1} commands each", some.len(), others.len());
        let keys: BTreeSet<&Key> = some.iter().chain(&others).collect();
        assert_eq!((keys.len(), some.len() + others.len()), (WAITING as usize, WAITING as usize), "once");
        assert!(some.len() > 500 && others.len() > 500, "{} and {}", some.len(), others.len());
        assert!(each < 30.0, "{each:.1} commands an event");
        assert_eq!(patiently(|| one.tally()).await.deferred, 0);
    });
}

#[test]
fn a_round_that_finds_nothing_asks_next_to_nothing() {
    run(async {
        let node = Node::start(&[]);
        let store = open(&node).await;
        patiently(|| store.tally()).await;
        commands(&node);
        for _ in 0..100 {
            assert_eq!(due(&store, at(5), 64).await, []);
        }
        let idle = commands(&node);
        // What waits, and is not due yet.
        defer(&store, (1..=100).map(|n| deferral(n, State::Deferred)).collect()).await;
        commands(&node);
        for _ in 0..100 {
            assert_eq!(due(&store, at(0), 64).await, []);
        }
        let waiting = commands(&node);
        // The gauges' look counts as one; a machine that stands still for seconds may have it look again.
        assert!(idle < 1_000 && waiting < 10_000, "{idle} and {waiting} commands");
    });
}

#[test]
fn what_another_has_leased_hides_nothing_behind_it() {
    run(async {
        let node = Node::start(&[]);
        let (ours, theirs) = (open(&node).await, open(&node).await);
        // Of one trade, and so in one bucket.
        let refund = |n: u64| Key { id: format!("{}.r{n}", key(1).id), ..key(1) };
        let doubt = |n| Deferral { key: refund(n), ..deferral(1, State::InDoubt) };
        defer(&theirs, (1..=200).map(doubt).collect()).await;
        defer(&theirs, vec![Deferral { key: refund(201), at: at(100), ..deferral(1, State::Deferred) }])
            .await;
        // Of another type, in the same bucket, and not due for long: it is no reason to look no further.
        let later = Deferral { event_type: EventType::PaymentRefunded, at: at(9_999), ..doubt(202) };
        defer(&theirs, vec![Deferral { state: State::Deferred, ..later }]).await;
        let mut rounds = 0;
        let found = loop {
            rounds += 1;
            let due = due(&ours, at(3_600), 4).await;
            if let Some(found) = due.into_iter().next() {
                break found;
            }
            assert!(rounds < 100, "it is never found");
        };
        assert_eq!(found.key, refund(201));
    });
}

#[test]
fn whatever_comes_meanwhile_each_event_has_its_turn() {
    run(async {
        let node = Node::start(&[]);
        let stores = [open(&node).await, open(&node).await];
        let cause = |n: u64| if n.is_multiple_of(3) { Cause::Returned } else { Cause::BrokerDown };
        let first: Vec<_> =
            (1..=600).map(|n| Deferral { cause: cause(n), ..deferral(n, State::Deferred) }).collect();
        let mut left: BTreeSet<Key> = first.iter().map(|deferral| deferral.key.clone()).collect();
        defer(&stores[0], first).await;
        let mut rounds = 0;
        while !left.is_empty() {
            rounds += 1;
            assert!(rounds < 400, "{} have had no turn", left.len());
            let (now, store) = (at(10 + rounds), &stores[rounds as usize % 2]);
            let due = due(store, now, 16).await;
            left.retain(|key| due.iter().all(|waiting| waiting.key != *key));
            // Every other one is refused once more, and with what comes anew that is more than a round takes.
            let (done, refused): (Vec<_>, Vec<_>) =
                due.into_iter().enumerate().partition(|(n, _)| n.is_multiple_of(2));
            announce(store, done.iter().map(|(_, waiting)| announced(waiting)).collect()).await;
            let again = |waiting: Waiting| Deferral {
                key: waiting.key,
                cause: Cause::Nacked,
                at: now,
                ..deferral(1, State::Deferred)
            };
            let again = refused.into_iter().map(|(_, waiting)| again(waiting));
            let new =
                (0..20).map(|n| Deferral { at: now, ..deferral(10_000 + 20 * rounds + n, State::Deferred) });
            defer(&stores[0], again.chain(new).collect()).await;
        }
        eprintln!("{rounds} rounds");
    });
}

#[test]
fn what_a_process_that_died_had_taken_another_takes_once_its_lease_is_over() {
    run(async {
        let node = Node::start(&[]);
        let (dies, lives) = (open(&node).await, open(&node).await);
        defer(&dies, (1..=40).map(|n| deferral(n, State::Deferred)).collect()).await;
        assert_eq!(due(&dies, at(5), 64).await.len(), 40);
        drop(dies);
        assert_eq!(due(&lives, at(5), 64).await, [], "they are leased");
        // Its clock is ahead, and the leases are not over: they are put off, and not forgotten.
        let far = at(5 + 3_600);
        assert_eq!(due(&lives, far, 64).await, []);
        let leases = cli(&node.url(), &["--scan", "--pattern", "*:l:*"]);
        assert_eq!(leases.lines().count(), 40);
        for lease in leases.lines() {
            assert!(cli(&node.url(), &["PTTL", lease]).parse::<u64>().unwrap() <= 15_000);
            cli(&node.url(), &["DEL", lease]);
        }
        let mut found = BTreeSet::new();
        let began = Instant::now();
        while found.len() < 40 {
            assert!(began.elapsed() < PATIENCE, "{} of 40", found.len());
            found.extend(due(&lives, far.plus(LEASE), 64).await.into_iter().map(|waiting| waiting.key));
        }
    });
}

#[test]
fn what_is_in_doubt_keeps_its_minute_when_its_own_process_comes_upon_it() {
    run(async {
        let node = Node::start(&[]);
        let (ours, theirs) = (open(&node).await, open(&node).await);
        defer(&ours, vec![deferral(1, State::InDoubt)]).await;
        patiently(|| ours.renew(vec![key(1)])).await;
        assert_eq!(due(&ours, at(61), 64).await.len(), 1);
        let left: u64 = cli(&node.url(), &["PTTL", &format!("alipay:{{{}}}:l:{}", bucket(&node), key(1).id)])
            .parse()
            .unwrap();
        assert!(left > 30_000, "{left} ms: he who watches its confirm asks for it anew every 30 s");
        assert_eq!(due(&theirs, at(61 + 20), 64).await, []);
    });
}

/// The one bucket of which there is something.
fn bucket(node: &Node) -> String {
    let load = cli(&node.url(), &["--scan", "--pattern", "*:load"]);
    load.split(['{', '}']).nth(1).unwrap().to_owned()
}

#[test]
fn scripts_that_redis_has_forgotten_are_given_to_it_again() {
    run(async {
        let node = Node::start(&[]);
        let store = open(&node).await;
        defer(&store, (1..=9).map(|n| deferral(n, State::Deferred)).collect()).await;
        cli(&node.url(), &["SCRIPT", "FLUSH"]);
        let found = due(&store, at(5), 64).await;
        assert_eq!(found.len(), 9);
        cli(&node.url(), &["SCRIPT", "FLUSH"]);
        announce(&store, found.iter().map(announced).collect()).await;
        cli(&node.url(), &["SCRIPT", "FLUSH"]);
        assert_eq!(patiently(|| store.tally()).await.deferred, 0);
    });
}

#[test]
fn a_slot_of_a_cluster_that_is_moving_holds_up_its_own_bucket_alone() {
    run(async {
        let nodes = Nodes::start(&["cluster"], &[]);
        let store = open_at(nodes.url.clone()).await;
        let keys: BTreeSet<Key> = (1..=200).map(key).collect();
        defer(&store, (1..=200).map(|n| deferral(n, State::Deferred)).collect()).await;
        let slot = cli(&nodes.url, &["CLUSTER", "KEYSLOT", &names(&key(1).subject)]);
        let place = |port: &String| format!("redis://127.0.0.1:{port}");
        let owner = |place: &String| !cli(place, &["CLUSTER", "COUNTKEYSINSLOT", &slot]).starts_with('0');
        let (from, to): (Vec<String>, Vec<String>) = nodes.ports().iter().map(place).partition(owner);
        let id = cli(&to[0], &["CLUSTER", "MYID"]);
        assert_eq!(cli(&from[0], &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id]), "OK");
        let is_moving = |key: &Key| names(&key.subject)[..12] == names(&self::key(1).subject)[..12];
        let (mut found, began) = (BTreeSet::new(), Instant::now());
        let others = keys.iter().filter(|key| !is_moving(key)).count();
        assert!(others < 200);
        while found.len() < others {
            assert!(began.elapsed() < PATIENCE, "{} of {others}", found.len());
            found.extend(due(&store, at(5), 64).await.into_iter().map(|waiting| waiting.key));
        }
        assert!(!found.iter().any(is_moving));
        // An event of that bucket is announced unchecked, and no other.
        let claims = patiently(|| store.claim(vec![key(1), key(1_001)])).await;
        assert_eq!(claims, [Claim::Unreadable, Claim::Granted(None)]);
        assert_eq!(cli(&from[0], &["CLUSTER", "SETSLOT", &slot, "STABLE"]), "OK");
        while found != keys {
            assert!(began.elapsed() < PATIENCE * 2, "{} of 200", found.len());
            found.extend(due(&store, at(5), 64).await.into_iter().map(|waiting| waiting.key));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}

/// The key of a trade, which says its bucket.
fn names(subject: &str) -> String {
    let hash = subject
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let bucket = hash.to_be_bytes().into_iter().fold(0, |folded, byte| folded ^ byte);
    format!("alipay:{{{bucket:02x}}}:t:{subject}")
}

const WAITING: u64 = 4_000;
