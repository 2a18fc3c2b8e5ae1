//! What every store must do, asked of each engine, real: SQLite in a file, Redis on one node, Redis in a cluster. Where
//! they are shared, also what two processes are to each other.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use alipay_notify_gateway::clock::Timestamp;
use alipay_notify_gateway::event::{Digest, EventType, Key, Message};
use alipay_notify_gateway::secret::{Secret, Source};
use alipay_notify_gateway::store::engine::{Config, Engine, read_all};
use alipay_notify_gateway::store::sqlite::OpenError;
use alipay_notify_gateway::store::{
    Cause, Claim, DOUBT, Decision, Deferral, Entry, Holding, Kept, Known, LEASE, Record, State, Store,
    WhenAway, held_key, redis, sqlite,
};

use crate::support::fakes::StillClock;
use crate::support::program::{Folder, unique};
use crate::support::redis::{cli, cluster_url, redis_url};
use crate::support::rows::{APP, deferral, digest, holding, kept, key, known, record, states, trade};
use crate::support::{PATIENCE, alipay, eventually};

/// One engine, with a place of its own.
struct Fixture {
    config: Config,
    clock: Arc<StillClock>,
    _folder: Folder,
}

/// A store that is open.
struct Opened {
    engine: Engine,
    store: Arc<dyn Store>,
}

impl Deref for Opened {
    type Target = dyn Store;

    fn deref(&self) -> &Self::Target {
        &*self.store
    }
}

impl Opened {
    /// How much of each bound is used, counted now.
    async fn used(&self) -> [(&'static str, f64); 5] {
        self.tally().await.unwrap();
        self.engine.used()
    }
}

/// The same test on every engine.
async fn on_each_engine(test: impl AsyncFn(Fixture)) {
    for fixture in [Fixture::sqlite()].into_iter().chain(Fixture::shared()) {
        eprintln!("on {:?}", fixture.config);
        test(fixture).await;
    }
}

impl Fixture {
    fn sqlite() -> Self {
        let folder = Folder::new();
        let config = sqlite::Config {
            path: folder.path().join("data/gateway.db"),
            max_deferred: 3,
            max_returned: 2,
            max_deferred_bytes: 1 << 20,
            max_held: 3,
            max_held_bytes: 1 << 20,
        };
        Self::of(Config::Sqlite(config), folder)
    }

    /// The engines that replicas share.
    fn shared() -> Vec<Self> {
        let config = |uri: String| redis::Config {
            uri: Source::Here(Secret::new(uri)),
            ca_file: None,
            prefix: unique("store"),
            when_away: WhenAway::Unchecked,
            max_deferred: 3,
            max_returned: 2,
            max_deferred_bytes: 1 << 20,
            max_held: 3,
            max_held_bytes: 1 << 20,
        };
        let urls = [redis_url(), cluster_url()].into_iter();
        urls.map(|url| Self::of(Config::Redis(config(url)), Folder::new())).collect()
    }

    fn of(config: Config, folder: Folder) -> Self {
        Self { config, clock: Arc::new(StillClock::at(alipay::now())), _folder: folder }
    }

    /// With room for many.
    fn roomy(mut self) -> Self {
        match &mut self.config {
            Config::Sqlite(config) => (config.max_returned, config.max_deferred) = (1000, 1000),
            Config::Redis(config) => (config.max_returned, config.max_deferred) = (1000, 1000),
        }
        self
    }

    async fn open(&self) -> Opened {
        let began = std::time::Instant::now();
        let engine = loop {
            match Engine::open(&self.config, Arc::<StillClock>::clone(&self.clock)).await {
                // What another test starts as a process of its own just now has the file's lock, too, until it is another program.
                Err(OpenError::Taken(_)) if began.elapsed() < PATIENCE => tokio::task::yield_now().await,
                opened => break opened.unwrap(),
            }
        };
        Opened { store: engine.store(), engine }
    }

    /// Everything that is kept, in the order of the keys.
    async fn entries(&self) -> Vec<Entry> {
        let config = self.config.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let mut entries = Vec::new();
            read_all(&config, |entry| {
                entries.push(entry.clone());
                Ok(())
            })
            .unwrap();
            entries.sort_by(|a, b| a.key.cmp(&b.key));
            entries
        });
        reading.await.unwrap()
    }
}

/// What waits of a trade: the digest, the id, and what its message says.
async fn waiting(store: &dyn Store, n: u64) -> Vec<(Digest, String, Message)> {
    let mut found = Vec::new();
    for row in store.find(trade(n)).await.unwrap() {
        if let Some(waiting) = store.waiting(row.key).await.unwrap() {
            let message = serde_json::from_slice(&waiting.content).unwrap();
            found.push((waiting.digest.unwrap(), waiting.key.id, message));
        }
    }
    found.sort_by_key(|(digest, ..)| digest.to_string());
    found
}

/// They are kept, one under the plain id and the other as the conflict, each ready to be published.
async fn both_are_kept(store: &dyn Store, plain: &str, conflict: &str) {
    let mut found = waiting(store, 1).await;
    assert_eq!(found.len(), 2, "{found:?}");
    let (id, is_first) =
        (format!("{}.conflict.{}", key(1).id, digest(conflict).short()), found[0].1 == key(1).id);
    let (second, first) =
        (if is_first { found.pop() } else { Some(found.remove(0)) }.unwrap(), found.remove(0));
    assert_eq!((first.0, first.1.as_str()), (digest(plain), key(1).id.as_str()));
    assert!(first.2.body.contains(plain), "{first:?}");
    assert_eq!(
        (second.0, second.1.as_str(), second.2.id.as_str()),
        (digest(conflict), id.as_str(), id.as_str())
    );
    assert_eq!(second.2.event_type, "payment.conflict");
    assert!(second.2.body.contains(conflict) && second.2.body.contains(&id), "{second:?}");
    let due = store.due(alipay::now().plus(Duration::from_secs(3600)), 9, Vec::new()).await.unwrap();
    assert_eq!(due.len(), 2);
}

#[tokio::test]
async fn what_is_recorded_is_known_and_what_is_not_is_not() {
    on_each_engine(async |fixture| {
        let store = fixture.open().await;
        store.record(vec![record(1), record(2)]).await.unwrap();
        let expected = Known { state: State::Recorded, digest: digest("1.00"), notify_id: "n1".to_owned() };
        assert_eq!(known(&*store, 1).await, Some(expected));
        assert_eq!(known(&*store, 3).await, None);
        let claims = store.claim(vec![key(3), key(2), key(3)]).await.unwrap();
        assert!(matches!(&claims[..], [Claim::Granted(None), Claim::Granted(Some(_)), Claim::Granted(None)]));
    })
    .await;
}

#[tokio::test]
async fn a_record_replaces_what_waited_and_nothing_replaces_a_record() {
    on_each_engine(async |fixture| {
        let store = fixture.open().await;
        assert_eq!(store.defer(vec![deferral(1, State::Deferred)]).await.unwrap(), [Kept::Yes]);
        assert_eq!(store.defer(vec![deferral(1, State::InDoubt)]).await.unwrap(), [Kept::Yes]);
        assert_eq!(states(&*store, 1).await, [State::InDoubt]);
        assert_eq!(store.tally().await.unwrap().in_doubt, 1);
        store.record(vec![record(1)]).await.unwrap();
        assert_eq!(
            store.defer(vec![deferral(1, State::Deferred)]).await.unwrap(),
            [Kept::Settled(State::Recorded)]
        );
        let rows = store.find(trade(1)).await.unwrap();
        assert_eq!((rows[0].state, rows[0].reason.clone(), rows[0].attempts), (State::Recorded, None, 3));
        let content = fixture.entries().await.remove(0).content;
        assert_eq!(content, None, "what was announced keeps no buyer's data");
        let tally = store.tally().await.unwrap();
        assert_eq!((tally.deferred, tally.in_doubt, tally.oldest_payment), (0, 0, None));
    })
    .await;
}

#[tokio::test]
async fn what_is_held_counts_from_its_payment_if_that_is_known_and_else_from_its_arrival() {
    on_each_engine(async |fixture| {
        let store = fixture.open().await;
        store.hold(vec![holding(1)]).await.unwrap();
        assert_eq!(store.tally().await.unwrap().oldest_payment, Some(holding(1).at));
        let paid = Timestamp::from_unix_millis(alipay::now().unix_millis() - 15 * 3_600_000);
        store.hold(vec![Holding { payment_time: Some(paid), ..holding(2) }]).await.unwrap();
        assert_eq!(store.tally().await.unwrap().oldest_payment, Some(paid));
        let waiting = store.waiting(holding(2).key).await.unwrap().unwrap();
        assert_eq!(waiting.payment_time, Some(paid));
        // It comes again.
        store.hold(vec![Holding { payment_time: Some(paid), ..holding(2) }]).await.unwrap();
        assert_eq!(store.tally().await.unwrap().oldest_payment, Some(paid));
    })
    .await;
}

#[tokio::test]
async fn a_held_notification_is_shown_replaced_and_cleared_by_a_record_of_it() {
    on_each_engine(async |fixture| {
        let store = fixture.open().await;
        // Held under its notify_id, because its trade_no had no form: a later record clears it there.
        let odd = Holding { key: held_key(APP, "n1", "n1".to_owned()), ..holding(1) };
        assert_eq!(store.hold(vec![odd.clone()]).await.unwrap(), [Kept::Yes]);
        assert_eq!(store.hold(vec![odd]).await.unwrap(), [Kept::Yes]);
        let rows = store.find("n1".to_owned()).await.unwrap();
        assert_eq!((rows.len(), rows[0].state, rows[0].attempts), (1, State::Held, 2));
        assert_eq!((rows[0].reason.as_deref(), rows[0].digest), (Some("seller"), None));
        assert_eq!(store.tally().await.unwrap().held, 1);
        store.record(vec![record(1)]).await.unwrap();
        assert!(store.find("n1".to_owned()).await.unwrap().is_empty());
        assert_eq!(store.tally().await.unwrap().held, 0);
    })
    .await;
}

#[tokio::test]
async fn a_decision_about_what_waits_is_kept_and_about_what_does_not_is_none() {
    on_each_engine(async |fixture| {
        let store = fixture.open().await;
        let decision = |key: Key, state: State| Decision {
            key,
            notify_id: "n".to_owned(),
            state,
            reason: "anna: a test".to_owned(),
            at: alipay::now(),
            expires_at: alipay::now().plus(Duration::from_secs(60)),
        };
        let held = holding(1);
        store.hold(vec![held.clone(), holding(2)]).await.unwrap();
        store.defer(vec![deferral(3, State::Deferred)]).await.unwrap();
        store.record(vec![record(4)]).await.unwrap();
        let waiting = store.waiting(held.key.clone()).await.unwrap().unwrap();
        assert_eq!(
            (waiting.state, waiting.reason.as_str(), waiting.content),
            (State::Held, "seller", held.body.clone())
        );
        let message: Message =
            serde_json::from_slice(&store.waiting(key(3)).await.unwrap().unwrap().content).unwrap();
        assert_eq!(message, deferral(3, State::Deferred).message);
        assert_eq!(store.waiting(key(4)).await.unwrap(), None, "it does not wait");

        assert!(store.decide(decision(held.key.clone(), State::Dropped)).await.unwrap());
        assert!(!store.decide(decision(held.key.clone(), State::Dropped)).await.unwrap(), "decided before");
        assert_eq!(store.hold(vec![held.clone()]).await.unwrap(), [Kept::Settled(State::Dropped)]);
        assert_eq!(store.waiting(held.key.clone()).await.unwrap(), None);
        assert!(store.decide(decision(key(3), State::Dropped)).await.unwrap());
        assert_eq!(known(&*store, 3).await.map(|known| known.state), Some(State::Dropped));
        assert_eq!(
            store.defer(vec![deferral(3, State::Deferred)]).await.unwrap(),
            [Kept::Settled(State::Dropped)]
        );
        assert!(!store.decide(decision(key(4), State::Dropped)).await.unwrap(), "it is recorded");
        assert!(!store.decide(decision(key(5), State::Dropped)).await.unwrap(), "there is none");
        let tally = store.tally().await.unwrap();
        assert_eq!((tally.held, tally.deferred), (1, 0));
        let dropped = |entry: &Entry| entry.state == State::Dropped && entry.content.is_some();
        assert!(!fixture.entries().await.iter().any(dropped));

        // Announced: its record cleared what was held, and the decision is written all the same.
        store.record(vec![record(2)]).await.unwrap();
        assert!(store.decide(decision(holding(2).key, State::Recorded)).await.unwrap());
        assert_eq!(store.hold(vec![holding(2)]).await.unwrap(), [Kept::Settled(State::Recorded)]);
    })
    .await;
}

#[tokio::test]
async fn what_is_due_comes_oldest_first_when_its_back_off_is_over_and_what_is_in_doubt_after_a_minute() {
    on_each_engine(async |fixture| {
        let store = fixture.open().await;
        let at = |seconds: u64| alipay::now().plus(Duration::from_secs(seconds));
        store.defer(vec![deferral(1, State::Deferred)]).await.unwrap();
        store.defer(vec![Deferral { at: at(1), ..deferral(2, State::InDoubt) }]).await.unwrap();
        // Refused three times, the last time at 0: due after 4 s. Not to be had three times: due after 1 s.
        for _ in 0..3 {
            let refused = Deferral { cause: Cause::Nacked, ..deferral(3, State::Deferred) };
            store.defer(vec![refused, deferral(1, State::Deferred)]).await.unwrap();
        }
        store.hold(vec![holding(4)]).await.unwrap();
        store.record(vec![record(5)]).await.unwrap();
        // Looked at, and given back.
        let due = async |seconds: u64, limit: usize| -> Vec<Key> {
            let due = store.due(at(seconds), limit, Vec::new()).await.unwrap();
            let keys: Vec<Key> = due.into_iter().map(|waiting| waiting.key).collect();
            store.release(keys.clone()).await.unwrap();
            keys
        };
        assert_eq!(due(0, 9).await, []);
        assert_eq!(due(1, 9).await, [key(1)]);
        assert_eq!(due(3, 9).await, [key(1)]);
        assert_eq!(due(4, 9).await, [key(1), key(3)]);
        assert_eq!(due(60, 9).await, [key(1), key(3)]);
        // What was refused comes behind the others.
        assert_eq!(due(61, 9).await, [key(1), key(2), key(3)]);
        assert_eq!(due(61, 1).await, [key(1)]);
        assert_eq!(store.due(at(61), 9, vec![EventType::PaymentSucceeded]).await.unwrap(), []);
        let mut all = store.due(at(61), 9, vec![EventType::PaymentLate]).await.unwrap();
        assert_eq!(all.len(), 3);
        let waiting = all.remove(0);
        let message: Message = serde_json::from_slice(&waiting.content).unwrap();
        assert_eq!(message, deferral(1, State::Deferred).message);
        assert_eq!((waiting.digest, waiting.payment_time), (Some(digest("1.00")), Some(alipay::now())));
    })
    .await;
}

#[tokio::test]
async fn a_full_store_says_so_and_still_takes_what_it_has() {
    on_each_engine(async |fixture| {
        let store = fixture.open().await;
        let three = (1..=3).map(|n| deferral(n, State::Deferred)).collect();
        assert_eq!(store.defer(three).await.unwrap(), [Kept::Yes; 3]);
        assert_eq!(store.defer(vec![deferral(4, State::Deferred)]).await.unwrap(), [Kept::Full]);
        assert_eq!(store.defer(vec![deferral(3, State::InDoubt)]).await.unwrap(), [Kept::Yes]);
        let holdings = (1..=4).map(holding).collect();
        assert_eq!(store.hold(holdings).await.unwrap(), [Kept::Yes, Kept::Yes, Kept::Yes, Kept::Full]);
        store.record(vec![record(1)]).await.unwrap();
        assert_eq!(
            store.defer(vec![deferral(4, State::Deferred)]).await.unwrap(),
            [Kept::Yes],
            "a place is free"
        );
        assert_eq!(store.hold(vec![holding(4)]).await.unwrap(), [Kept::Yes]);
    })
    .await;
}

#[tokio::test]
async fn everything_survives_a_reopen() {
    on_each_engine(async |fixture| {
        let store = fixture.open().await;
        store.record(vec![record(1)]).await.unwrap();
        store.defer(vec![deferral(2, State::Deferred)]).await.unwrap();
        store.hold(vec![holding(3)]).await.unwrap();
        store.close().await;
        assert!(store.claim(vec![key(1)]).await.is_err(), "it is closed");
        drop(store);
        let store = fixture.open().await;
        assert_eq!(states(&*store, 1).await, [State::Recorded]);
        assert_eq!(states(&*store, 2).await, [State::Deferred]);
        assert_eq!(states(&*store, 3).await, [State::Held]);
        // What is held is known again: its record clears it.
        store.record(vec![record(3)]).await.unwrap();
        assert_eq!(states(&*store, 3).await, [State::Recorded]);
        store.defer(vec![deferral(4, State::Deferred), deferral(5, State::Deferred)]).await.unwrap();
        assert_eq!(
            store.defer(vec![deferral(6, State::Deferred)]).await.unwrap(),
            [Kept::Full],
            "counted at open"
        );
    })
    .await;
}

#[tokio::test]
async fn many_callers_at_once_are_all_answered() {
    on_each_engine(async |fixture| {
        let store = fixture.open().await.store;
        let calls = (0..500).map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.record(vec![record(n)]).await })
        });
        for call in futures_util::future::join_all(calls).await {
            call.unwrap().unwrap();
        }
        assert_eq!(fixture.entries().await.len(), 500);
    })
    .await;
}

#[tokio::test]
async fn a_deferral_of_other_money_is_kept_beside_the_first_and_not_over_it() {
    on_each_engine(async |fixture| {
        let store = fixture.open().await;
        for amount in ["1.00", "2.00", "1.00", "2.00"] {
            assert_eq!(store.defer(vec![kept(1, amount)]).await.unwrap(), [Kept::Yes]);
            assert!(waiting(&*store, 1).await.iter().any(|(digest, ..)| *digest == self::digest("1.00")));
        }
        both_are_kept(&*store, "1.00", "2.00").await;
        let [(_, used), ..] = store.used().await;
        assert!((used - 2.0 / 3.0).abs() < 1e-9, "each is counted once: {used}");
    })
    .await;
}

#[tokio::test]
async fn what_may_be_in_a_queue_under_the_id_keeps_it_and_what_waited_steps_aside() {
    on_each_engine(async |fixture| {
        let store = fixture.open().await;
        store.defer(vec![kept(1, "1.00")]).await.unwrap();
        let doubtful = Deferral { state: State::InDoubt, cause: Cause::InDoubt, ..kept(1, "2.00") };
        assert_eq!(store.defer(vec![doubtful]).await.unwrap(), [Kept::Yes]);
        both_are_kept(&*store, "2.00", "1.00").await;
        let [(_, used), ..] = store.used().await;
        assert!((used - 2.0 / 3.0).abs() < 1e-9, "{used}");
    })
    .await;
}

#[tokio::test]
async fn a_record_of_other_money_leaves_what_waited_waiting() {
    on_each_engine(async |fixture| {
        let store = fixture.open().await;
        store.defer(vec![kept(1, "2.00")]).await.unwrap();
        for _ in 0..2 {
            store.record(vec![record(1)]).await.unwrap();
            let found = waiting(&*store, 1).await;
            assert_eq!(found.len(), 1);
            assert_eq!((found[0].0, found[0].2.event_type.as_str()), (digest("2.00"), "payment.conflict"));
        }
        assert_eq!(known(&*store, 1).await.unwrap().digest, digest("1.00"));
        let [(_, used), ..] = store.used().await;
        assert!((used - 1.0 / 3.0).abs() < 1e-9, "{used}");
    })
    .await;
}

#[tokio::test]
async fn what_no_queue_takes_has_a_bound_of_its_own() {
    on_each_engine(async |fixture| {
        let store = fixture.open().await;
        let returned = |n| Deferral { cause: Cause::Returned, ..deferral(n, State::Deferred) };
        let kept = store.defer((1..=4).map(returned).collect()).await.unwrap();
        assert_eq!(kept, [Kept::Yes, Kept::Yes, Kept::Full, Kept::Full]);
        let three = (11..=14).map(|n| deferral(n, State::Deferred)).collect();
        assert_eq!(store.defer(three).await.unwrap(), [Kept::Yes, Kept::Yes, Kept::Yes, Kept::Full]);
        let used = store.used().await;
        assert_eq!((used[0], used[1]), (("max_deferred", 1.0), ("max_returned", 1.0)));
        // What is there already is always kept, as what it is now.
        assert_eq!(store.defer(vec![deferral(1, State::Deferred)]).await.unwrap(), [Kept::Yes]);
        assert_eq!(store.defer(vec![returned(3)]).await.unwrap(), [Kept::Yes], "a place is free");
        store.record(vec![record(1), record(2), record(3)]).await.unwrap();
        assert_eq!((store.used().await[0].1, store.used().await[1].1), (1.0, 0.0));
        drop(store);
        let store = fixture.open().await;
        assert_eq!((store.used().await[0].1, store.used().await[1].1), (1.0, 0.0), "counted at open");
    })
    .await;
}

#[tokio::test]
async fn the_backlog_is_bounded_in_bytes_and_what_no_queue_takes_has_half_of_them() {
    on_each_engine(async |fixture| {
        let store = fixture.open().await;
        let large = |n, cause, kib: usize| {
            let mut deferral = Deferral { cause, ..deferral(n, State::Deferred) };
            deferral.message.body = "x".repeat(kib << 10);
            deferral
        };
        let kept = async |deferral| store.defer(vec![deferral]).await.unwrap().remove(0);
        assert_eq!(kept(large(1, Cause::Returned, 600)).await, Kept::Full, "more than half");
        assert_eq!(kept(large(2, Cause::Returned, 400)).await, Kept::Yes);
        assert_eq!(kept(large(3, Cause::BrokerDown, 700)).await, Kept::Full);
        assert_eq!(kept(large(4, Cause::BrokerDown, 500)).await, Kept::Yes);
        let held = Holding { body: vec![b'x'; 600 << 10], ..holding(5) };
        assert_eq!(store.hold(vec![held.clone()]).await.unwrap(), [Kept::Yes]);
        assert_eq!(store.hold(vec![held]).await.unwrap(), [Kept::Yes], "the same again");
        let another = Holding { body: vec![b'x'; 600 << 10], ..holding(6) };
        assert_eq!(store.hold(vec![another.clone()]).await.unwrap(), [Kept::Full]);
        store.record(vec![record(2), record(5)]).await.unwrap();
        assert_eq!(store.hold(vec![another]).await.unwrap(), [Kept::Yes], "its bytes are free");
        assert_eq!(kept(large(3, Cause::BrokerDown, 500)).await, Kept::Yes, "its bytes are free");
    })
    .await;
}

#[tokio::test]
async fn what_the_broker_refuses_again_and_again_hides_nobody() {
    on_each_engine(async |fixture| {
        let fixture = fixture.roomy();
        let store = fixture.open().await;
        let returned = |n| Deferral { cause: Cause::Returned, ..deferral(n, State::Deferred) };
        store.defer((1..=500).map(returned).collect()).await.unwrap();
        let at = alipay::now().plus(Duration::from_secs(100));
        store
            .defer((501..=510).map(|n| Deferral { at, ..deferral(n, State::Deferred) }).collect())
            .await
            .unwrap();
        let due = store.due(at.plus(Duration::from_secs(1)), 12, Vec::new()).await.unwrap();
        store.release(due.iter().map(|waiting| waiting.key.clone()).collect()).await.unwrap();
        let young: Vec<bool> = due.iter().map(|waiting| waiting.reason == "broker_down").collect();
        assert_eq!(young, [[true; 9].as_slice(), &[false; 3]].concat(), "younger, and first");
        // Where nobody else waits, the whole of it is theirs.
        let due = store.due(at, 12, Vec::new()).await.unwrap();
        assert_eq!(due.len(), 12);
    })
    .await;
}

#[tokio::test]
async fn of_a_trade_what_was_tried_steps_behind_what_was_not() {
    on_each_engine(async |fixture| {
        let fixture = fixture.roomy();
        let store = fixture.open().await;
        let refund = |n: u64, at| {
            let key = Key { id: format!("{}.r{n}", key(1).id), ..key(1) };
            Deferral { key, at, cause: Cause::Returned, ..deferral(1, State::Deferred) }
        };
        store.defer((1..=50).map(|n| refund(n, alipay::now())).collect()).await.unwrap();
        let at = alipay::now().plus(Duration::from_secs(100));
        store.defer((1..=12).map(|n| refund(n, at)).collect()).await.unwrap();
        let due = store.due(at.plus(Duration::from_secs(600)), 38, Vec::new()).await.unwrap();
        let untried: Vec<Key> = (13..=50).map(|n| refund(n, at).key).collect();
        let mut keys: Vec<Key> = due.into_iter().map(|waiting| waiting.key).collect();
        keys.sort_by_key(|key| untried.iter().position(|one| one == key));
        assert_eq!(keys, untried, "the others come first");
    })
    .await;
}

/// Two processes on one store.
async fn two(fixture: &Fixture) -> (Opened, Opened) {
    (fixture.open().await, fixture.open().await)
}

async fn claim(store: &dyn Store, n: u64) -> Claim {
    store.claim(vec![key(n)]).await.unwrap().remove(0)
}

fn is_known_as(claim: &Claim, state: State) -> bool {
    matches!(claim, Claim::Granted(Some(known)) if known.state == state)
}

async fn due_keys(store: &dyn Store, seconds: u64) -> Vec<Key> {
    let now = alipay::now().plus(Duration::from_secs(seconds));
    store.due(now, 9, Vec::new()).await.unwrap().into_iter().map(|waiting| waiting.key).collect()
}

#[tokio::test]
async fn a_claim_is_its_owners_until_it_is_given_back_recorded_deferred_or_held() {
    for fixture in Fixture::shared() {
        let (ours, theirs) = two(&fixture).await;
        assert!(ours.lease() == LEASE && LEASE < DOUBT);
        for n in 1..=4 {
            assert_eq!(claim(&*ours, n).await, Claim::Granted(None));
            assert_eq!(
                claim(&*ours, n).await,
                Claim::Granted(None),
                "an answer that was lost is asked for again"
            );
            assert_eq!(claim(&*theirs, n).await, Claim::HeldElsewhere);
        }
        // Nobody gives back what is another's.
        theirs.release(vec![key(1)]).await.unwrap();
        assert_eq!(claim(&*theirs, 1).await, Claim::HeldElsewhere);
        ours.release(vec![key(1)]).await.unwrap();
        assert_eq!(claim(&*theirs, 1).await, Claim::Granted(None));
        // What is settled is told to everybody, and whoever has a confirm writes it.
        theirs.record(vec![record(2)]).await.unwrap();
        for store in [&ours, &theirs, &ours] {
            assert!(is_known_as(&claim(&**store, 2).await, State::Recorded));
        }
        ours.defer(vec![deferral(3, State::Deferred)]).await.unwrap();
        assert!(is_known_as(&claim(&*theirs, 3).await, State::Deferred));
        assert_eq!(claim(&*ours, 3).await, Claim::HeldElsewhere);
        // A deferral does not end another's lease.
        ours.defer(vec![deferral(3, State::Deferred)]).await.unwrap();
        assert_eq!(claim(&*ours, 3).await, Claim::HeldElsewhere);
        ours.hold(vec![Holding { key: key(4), ..holding(4) }]).await.unwrap();
        assert_eq!(claim(&*theirs, 4).await, Claim::Granted(None));
    }
}

#[tokio::test]
async fn what_is_in_doubt_is_its_publishers_alone_until_he_says_otherwise() {
    for fixture in Fixture::shared() {
        let (ours, theirs) = two(&fixture).await;
        for n in [1, 2] {
            assert_eq!(claim(&*ours, n).await, Claim::Granted(None));
            ours.defer(vec![deferral(n, State::InDoubt)]).await.unwrap();
            assert_eq!(claim(&*theirs, n).await, Claim::HeldElsewhere);
        }
        assert_eq!(due_keys(&*theirs, 3600).await, [], "neither is it drained");
        // Another who had it too, and no more time, does not make it due for its publisher.
        assert_eq!(theirs.defer(vec![deferral(1, State::Deferred)]).await.unwrap(), [Kept::Yes]);
        assert_eq!(due_keys(&*ours, 30).await, []);
        ours.defer(vec![deferral(1, State::Deferred)]).await.unwrap();
        assert_eq!(due_keys(&*theirs, 3600).await, [key(1)]);
        ours.record(vec![record(2)]).await.unwrap();
        assert!(is_known_as(&claim(&*theirs, 2).await, State::Recorded));
    }
}

#[tokio::test]
async fn what_is_in_doubt_is_its_publishers_alone_even_if_there_is_no_room_to_keep_it() {
    for fixture in Fixture::shared() {
        let (ours, theirs) = two(&fixture).await;
        ours.defer((11..=13).map(|n| deferral(n, State::Deferred)).collect()).await.unwrap();
        assert_eq!(claim(&*ours, 1).await, Claim::Granted(None));
        assert_eq!(ours.defer(vec![deferral(1, State::InDoubt)]).await.unwrap(), [Kept::Full]);
        assert_eq!(claim(&*theirs, 1).await, Claim::HeldElsewhere);
        let left = fixture.ask("PTTL", &lease_key(&fixture, 1));
        assert!(left > 15_000, "for as long as its confirm may come: {left}");
        // Given up, it is for whoever asks.
        assert_eq!(ours.defer(vec![deferral(1, State::Deferred)]).await.unwrap(), [Kept::Full]);
        assert_eq!(claim(&*theirs, 1).await, Claim::Granted(None));
    }
}

#[tokio::test]
async fn what_is_in_doubt_is_its_publishers_for_as_long_as_he_says_so() {
    for fixture in Fixture::shared() {
        let (ours, theirs) = two(&fixture).await;
        let left = |n| fixture.ask("PTTL", &lease_key(&fixture, n));
        ours.defer([1, 2, 3].map(|n| deferral(n, State::InDoubt)).into()).await.unwrap();
        for n in [1, 2, 3] {
            fixture.ask("PEXPIRE", &format!("{} 20000", lease_key(&fixture, n)));
        }
        // Nobody has another's anew.
        theirs.renew(vec![key(1)]).await.unwrap();
        assert!((1..=20_000).contains(&left(1)), "{}", left(1));
        // One was forgotten, and one of those given to another meanwhile.
        for n in [2, 3] {
            fixture.ask("DEL", &lease_key(&fixture, n));
        }
        assert!(is_known_as(&claim(&*theirs, 3).await, State::InDoubt));
        ours.renew([1, 2, 3].map(key).into()).await.unwrap();
        assert!((20_001..=60_000).contains(&left(1)) && left(2) > 20_000, "{} and {}", left(1), left(2));
        assert!(left(3) <= 15_000, "{}", left(3));
        assert_eq!(claim(&*theirs, 2).await, Claim::HeldElsewhere);
        assert_eq!(due_keys(&*theirs, 3600).await, [key(3)]);
    }
}

#[tokio::test]
async fn each_event_is_drained_by_one_at_a_time() {
    for fixture in Fixture::shared() {
        let fixture = fixture.roomy();
        let (ours, theirs) = two(&fixture).await;
        ours.defer((1..=40).map(|n| deferral(n, State::Deferred)).collect()).await.unwrap();
        let now = alipay::now().plus(Duration::from_secs(5));
        let (some, others) = tokio::join!(ours.due(now, 30, Vec::new()), theirs.due(now, 30, Vec::new()));
        let (some, others) = (some.unwrap(), others.unwrap());
        let mut keys: Vec<&Key> = some.iter().chain(&others).map(|waiting| &waiting.key).collect();
        keys.sort();
        let count = keys.len();
        keys.dedup();
        assert_eq!(keys.len(), count, "nothing is handed out twice");
        assert!(count >= 30, "{} and {}", some.len(), others.len());
        for waiting in &some {
            assert_eq!(theirs.claim(vec![waiting.key.clone()]).await.unwrap(), [Claim::HeldElsewhere]);
            let claims = ours.claim(vec![waiting.key.clone()]).await.unwrap();
            assert!(is_known_as(&claims[0], State::Deferred), "its lane claims it again");
        }
        // Announced, or given up: the rest is for whoever asks.
        let announced = some.iter().map(|waiting| Record { key: waiting.key.clone(), ..record(1) });
        ours.record(announced.collect()).await.unwrap();
        theirs.release(others.into_iter().map(|waiting| waiting.key).collect()).await.unwrap();
        let found = std::cell::Cell::new(0);
        eventually("what another gave back is found", || async {
            found.set(found.get() + ours.due(now, 100, Vec::new()).await.unwrap().len());
            found.get() == 40 - some.len()
        })
        .await;
    }
}

#[tokio::test]
async fn a_lease_ends_by_itself() {
    for fixture in Fixture::shared() {
        let (ours, theirs) = two(&fixture).await;
        assert_eq!(claim(&*ours, 1).await, Claim::Granted(None));
        let left = fixture.ask("PTTL", &lease_key(&fixture, 1));
        assert!((1..=15_000).contains(&left), "{left}");
        ours.defer(vec![deferral(2, State::InDoubt)]).await.unwrap();
        let left = fixture.ask("PTTL", &lease_key(&fixture, 2));
        assert!((15_001..=60_000).contains(&left), "{left}");
        // As if the time were over.
        for n in [1, 2] {
            assert_eq!(fixture.ask("DEL", &lease_key(&fixture, n)), 1);
            assert!(matches!(claim(&*theirs, n).await, Claim::Granted(_)));
        }
        // Late as it is, who has a confirm writes it.
        ours.record(vec![record(1)]).await.unwrap();
        assert!(is_known_as(&claim(&*theirs, 1).await, State::Recorded));
    }
}

#[tokio::test]
async fn what_lies_under_a_key_and_is_not_ours_harms_no_other() {
    for fixture in Fixture::shared() {
        let fixture = fixture.roomy();
        let store = fixture.open().await;
        store.defer([2, 3].map(|n| deferral(n, State::Deferred)).into()).await.unwrap();
        // A trade's, an event's that waits, and a whole bucket's.
        assert_eq!(fixture.ask("RPUSH", &format!("{} junk", trade_key(&fixture, 1))), 1);
        assert_eq!(fixture.ask("DEL", &trade_key(&fixture, 3)), 1);
        assert_eq!(fixture.ask("RPUSH", &format!("{} junk", trade_key(&fixture, 3))), 1);
        assert_eq!(fixture.ask("HSET", &format!("{} {} junk", trade_key(&fixture, 4), key(4).id)), 1);
        assert_eq!(fixture.ask("RPUSH", &format!("{}load junk", fixture.bucket(5))), 1);
        let claims = store.claim([1, 2, 4, 6].map(key).into()).await.unwrap();
        assert_eq!((&claims[0], &claims[2]), (&Claim::Unreadable, &Claim::Unreadable));
        assert!(is_known_as(&claims[1], State::Deferred) && claims[3] == Claim::Granted(None));
        store.record([1, 6].map(record).into()).await.unwrap();
        assert_eq!(known(&*store, 6).await.map(|known| known.state), Some(State::Recorded));
        let kept = store.defer([1, 5, 7].map(|n| deferral(n, State::Deferred)).into()).await.unwrap();
        assert_eq!(kept, [Kept::Full, Kept::Full, Kept::Yes]);
        assert_eq!(store.hold(vec![holding(1), holding(8)]).await.unwrap(), [Kept::Full, Kept::Yes]);
        store.release([1, 2].map(key).into()).await.unwrap();
        // Whoever starts now sees the rest, and drains it.
        let another = fixture.open().await;
        assert_eq!(another.tally().await.unwrap().deferred, 3);
        let due = due_keys(&*another, 3600).await;
        assert!(due.len() == 2 && due.contains(&key(2)) && due.contains(&key(7)), "{due:?}");
        assert!(store.find(trade(1)).await.unwrap_err().message.contains("the log names it"));
    }
}

#[tokio::test]
async fn a_trade_expires_with_its_last_row_and_not_while_one_of_them_waits() {
    for fixture in Fixture::shared() {
        let store = fixture.open().await;
        let (day, at) = (Duration::from_secs(86_400), alipay::now());
        let refund = |days: u32| Record {
            key: Key { id: format!("{}.r{days}", key(1).id), ..key(1) },
            expires_at: at.plus(day * days),
            ..record(1)
        };
        let hours = || fixture.ask("PTTL", &trade_key(&fixture, 1)) / 3_600_000;
        store.record(vec![record(1)]).await.unwrap();
        assert!((35 * 24 - 1..=35 * 24).contains(&hours()), "{}", hours());
        store.record(vec![refund(40)]).await.unwrap();
        store.record(vec![refund(10)]).await.unwrap();
        assert!((40 * 24 - 1..=40 * 24).contains(&hours()), "{}", hours());
        store.hold(vec![holding(1)]).await.unwrap();
        assert_eq!(fixture.ask("PTTL", &trade_key(&fixture, 1)), -1);
        store.record(vec![record(1)]).await.unwrap();
        assert!((40 * 24 - 1..=40 * 24).contains(&hours()), "its notification was announced: nothing waits");
        let brief = Record { expires_at: at.plus(Duration::from_millis(50)), ..record(2) };
        store.record(vec![brief]).await.unwrap();
        eventually("it is forgotten", || async { states(&*store, 2).await.is_empty() }).await;
    }
}

impl Fixture {
    /// What the keys of a bucket begin with. FNV-1a, folded: as documented.
    fn bucket(&self, n: u64) -> String {
        let Config::Redis(config) = &self.config else { panic!("not shared") };
        let fold = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        let hash = trade(n).bytes().fold(0x811c_9dc5, fold);
        let bucket = hash.to_be_bytes().into_iter().fold(0, |folded, byte| folded ^ byte);
        format!("{}:{{{bucket:02x}}}:", config.prefix)
    }

    /// Asks as an operator would, past the gateway.
    fn ask(&self, command: &str, key: &str) -> i64 {
        let Config::Redis(config) = &self.config else { panic!("not shared") };
        let words: Vec<&str> = std::iter::once(command).chain(key.split(' ')).collect();
        cli(config.uri.read().unwrap().expose(), &words).parse().unwrap()
    }
}

fn lease_key(fixture: &Fixture, n: u64) -> String {
    format!("{}l:{}", fixture.bucket(n), key(n).id)
}

fn trade_key(fixture: &Fixture, n: u64) -> String {
    format!("{}t:{}", fixture.bucket(n), trade(n))
}
