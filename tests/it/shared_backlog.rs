//! A large backlog in a Redis that replicas share, counted in the commands that Redis does: what a round costs, that it hands
//! out each event once, and that nothing waits for ever behind what cannot be had.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use alipay_notify_gateway::clock::Timestamp;
use alipay_notify_gateway::event::Key;
use alipay_notify_gateway::secret::{Secret, Source};
use alipay_notify_gateway::store::redis::{Config, Redis};
use alipay_notify_gateway::store::{Cause, Claim, Deferral, Kept, Record, State, Store as _};
use alipay_notify_gateway::store::{Waiting, WhenAway};

use crate::support::alipay;
use crate::support::redis::{Node, cli};
use crate::support::rows::{deferral, key, record};
use crate::support::run;

async fn open(node: &Node) -> Redis {
    let config = Config {
        uri: Source::Here(Secret::new(node.url())),
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

async fn defer(store: &Redis, deferrals: Vec<Deferral>) {
    for some in deferrals.chunks(200) {
        assert!(store.defer(some.to_vec()).await.unwrap().iter().all(|kept| *kept == Kept::Yes));
    }
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
    let mut keys = Vec::new();
    while drained.load(Ordering::Relaxed) < WAITING {
        let due = store.due(at(5), 64, Vec::new()).await.unwrap();
        drained.fetch_add(due.len() as u64, Ordering::Relaxed);
        store.record(due.iter().map(announced).collect()).await.unwrap();
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
                let keys = (0..16).map(|n| key(1_000_000 + paid + n));
                let claims = live.claim(keys.collect()).await.unwrap();
                assert!(claims.iter().all(|claim| *claim == Claim::Granted(None)));
                live.record((0..16).map(|n| record(1_000_000 + paid + n)).collect()).await.unwrap();
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
        assert_eq!(one.tally().await.unwrap().deferred, 0);
    });
}

#[test]
fn a_round_that_finds_nothing_asks_next_to_nothing() {
    run(async {
        let node = Node::start(&[]);
        let store = open(&node).await;
        store.tally().await.unwrap();
        commands(&node);
        for _ in 0..100 {
            assert_eq!(store.due(at(5), 64, Vec::new()).await.unwrap(), []);
        }
        let idle = commands(&node);
        // What waits, and is not due yet.
        defer(&store, (1..=100).map(|n| deferral(n, State::Deferred)).collect()).await;
        commands(&node);
        for _ in 0..100 {
            assert_eq!(store.due(at(0), 64, Vec::new()).await.unwrap(), []);
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
        let mut rounds = 0;
        let found = loop {
            rounds += 1;
            let due = ours.due(at(3_600), 4, Vec::new()).await.unwrap();
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
            (1..=1_500).map(|n| Deferral { cause: cause(n), ..deferral(n, State::Deferred) }).collect();
        let mut left: BTreeSet<Key> = first.iter().map(|deferral| deferral.key.clone()).collect();
        defer(&stores[0], first).await;
        let mut rounds = 0;
        while !left.is_empty() {
            rounds += 1;
            assert!(rounds < 200, "{} have had no turn", left.len());
            let (now, store) = (at(10 + rounds), &stores[rounds as usize % 2]);
            let due = store.due(now, 64, Vec::new()).await.unwrap();
            left.retain(|key| due.iter().all(|waiting| waiting.key != *key));
            // Every other one is refused once more, and as much as a third of it comes anew.
            let (done, refused): (Vec<_>, Vec<_>) =
                due.into_iter().enumerate().partition(|(n, _)| n.is_multiple_of(2));
            store.record(done.iter().map(|(_, waiting)| announced(waiting)).collect()).await.unwrap();
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

const WAITING: u64 = 4_000;
