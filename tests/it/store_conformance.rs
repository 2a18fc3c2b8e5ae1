//! What every store must do, and what the embedded one does beside it when its file is taken, damaged, deleted
//! or full. The suite is written against the trait, so that another engine is another `engines()` entry.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use alipay_notify_gateway::clock::Clock as _;
use alipay_notify_gateway::event::{Digest, EventType, Key, Message, Money};
use alipay_notify_gateway::store::sqlite::pages::{Found, Pages};
use alipay_notify_gateway::store::sqlite::{Config, OpenError, Sqlite, read_all};
use alipay_notify_gateway::store::{
    Cause, Claim, Decision, Deferral, Entry, Holding, Kept, Known, Record, State, Store, StoreError, held_key,
};

use crate::support::alipay;
use crate::support::eventually;
use crate::support::fakes::StillClock;
use crate::support::program::Folder;

const APP: &str = "2021000000000001";

struct Fixture {
    folder: Folder,
    clock: Arc<StillClock>,
}

impl Fixture {
    fn new() -> Self {
        Self { folder: Folder::new(), clock: Arc::new(StillClock::at(alipay::now())) }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("data/gateway.db")
    }

    fn config(&self) -> Config {
        Config {
            path: self.path(),
            max_deferred: 3,
            max_returned: 2,
            max_deferred_bytes: 1 << 20,
            max_held: 3,
            max_held_bytes: 1 << 20,
        }
    }

    fn open(&self) -> Result<Sqlite, OpenError> {
        Sqlite::open(&self.config(), Arc::<StillClock>::clone(&self.clock))
    }

    /// A column of a row, as an operator sees it beside the running gateway.
    fn peek(&self, sql: &str) -> Vec<String> {
        let connection =
            rusqlite::Connection::open_with_flags(self.path(), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)
                .unwrap();
        let mut select = connection.prepare(sql).unwrap();
        let rows = select.query_map([], |row| row.get::<_, rusqlite::types::Value>(0)).unwrap();
        rows.map(|value| format!("{:?}", value.unwrap())).collect()
    }
}

fn trade(n: u64) -> String {
    format!("20261123220014273400{n:08}")
}

fn key(n: u64) -> Key {
    Key { subject: trade(n), id: format!("{APP}.{}.payment.succeeded", trade(n)) }
}

fn digest(amount: &str) -> Digest {
    Digest::of(b"o", Money::parse(amount.as_bytes()), b"", None)
}

fn record(n: u64) -> Record {
    let at = alipay::now();
    Record {
        key: key(n),
        app_id: APP.to_owned(),
        event_type: EventType::PaymentSucceeded,
        digest: digest("1.00"),
        notify_id: format!("n{n}"),
        state: State::Recorded,
        at,
        expires_at: at.plus(Duration::from_secs(35 * 86_400)),
    }
}

fn deferral(n: u64, state: State) -> Deferral {
    Deferral {
        key: key(n),
        event_type: EventType::PaymentSucceeded,
        digest: digest("1.00"),
        notify_id: format!("n{n}"),
        state,
        cause: Cause::BrokerDown,
        message: Message {
            id: key(n).id,
            event_type: "payment.succeeded".to_owned(),
            app_id: APP.to_owned(),
            subject: trade(n),
            time: "2026-11-23T10:15:31+08:00".to_owned(),
            digest: digest("1.00").short(),
            environment: "production".to_owned(),
            unchecked: false,
            traceparent: None,
            body: "{}".to_owned(),
        },
        at: alipay::now(),
        payment_time: Some(alipay::now()),
    }
}

fn holding(n: u64) -> Holding {
    let notify_id = format!("n{n}");
    Holding {
        key: held_key(APP, &notify_id, trade(n)),
        notify_id,
        reason: "seller",
        body: b"app_id=1&x=\xff".to_vec(),
        at: alipay::now(),
    }
}

async fn known(store: &dyn Store, n: u64) -> Option<Known> {
    match store.claim(vec![key(n)]).await.unwrap().remove(0) {
        Claim::Granted(known) => known,
        Claim::HeldElsewhere => panic!("nobody else is here"),
    }
}

async fn states(store: &dyn Store, n: u64) -> Vec<State> {
    store.find(trade(n)).await.unwrap().into_iter().map(|row| row.state).collect()
}

#[tokio::test]
async fn what_is_recorded_is_known_and_what_is_not_is_not() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    store.record(vec![record(1), record(2)]).await.unwrap();
    let expected = Known { state: State::Recorded, digest: digest("1.00"), notify_id: "n1".to_owned() };
    assert_eq!(known(&store, 1).await, Some(expected));
    assert_eq!(known(&store, 3).await, None);
    let claims = store.claim(vec![key(3), key(2), key(3)]).await.unwrap();
    assert!(matches!(&claims[..], [Claim::Granted(None), Claim::Granted(Some(_)), Claim::Granted(None)]));
}

#[tokio::test]
async fn a_record_replaces_what_waited_and_nothing_replaces_a_record() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    assert_eq!(store.defer(vec![deferral(1, State::Deferred)]).await.unwrap(), [Kept::Yes]);
    assert_eq!(store.defer(vec![deferral(1, State::InDoubt)]).await.unwrap(), [Kept::Yes]);
    assert_eq!(states(&store, 1).await, [State::InDoubt]);
    assert_eq!(store.tally().await.unwrap().in_doubt, 1);
    store.record(vec![record(1)]).await.unwrap();
    assert_eq!(
        store.defer(vec![deferral(1, State::Deferred)]).await.unwrap(),
        [Kept::Settled(State::Recorded)]
    );
    let rows = store.find(trade(1)).await.unwrap();
    assert_eq!((rows[0].state, rows[0].reason.clone(), rows[0].attempts), (State::Recorded, None, 3));
    assert_eq!(
        fixture.peek("SELECT message FROM event"),
        ["Null"],
        "what was announced keeps no buyer's data"
    );
    let tally = store.tally().await.unwrap();
    assert_eq!((tally.deferred, tally.in_doubt, tally.oldest_payment), (0, 0, None));
}

#[tokio::test]
async fn a_held_notification_is_shown_replaced_and_cleared_by_a_record_of_it() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
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
}

#[tokio::test]
async fn a_decision_about_what_waits_is_kept_and_about_what_does_not_is_none() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
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
    assert_eq!(known(&store, 3).await.map(|known| known.state), Some(State::Dropped));
    assert_eq!(
        store.defer(vec![deferral(3, State::Deferred)]).await.unwrap(),
        [Kept::Settled(State::Dropped)]
    );
    assert!(!store.decide(decision(key(4), State::Dropped)).await.unwrap(), "it is recorded");
    assert!(!store.decide(decision(key(5), State::Dropped)).await.unwrap(), "there is none");
    let tally = store.tally().await.unwrap();
    assert_eq!((tally.held, tally.deferred), (1, 0));
    assert_eq!(
        fixture.peek("SELECT count(*) FROM event WHERE state = 5 AND message IS NOT NULL"),
        ["Integer(0)"]
    );

    // Announced: its record cleared what was held, and the decision is written all the same.
    store.record(vec![record(2)]).await.unwrap();
    assert!(store.decide(decision(holding(2).key, State::Recorded)).await.unwrap());
    assert_eq!(store.hold(vec![holding(2)]).await.unwrap(), [Kept::Settled(State::Recorded)]);
}

#[tokio::test]
async fn what_is_due_comes_oldest_first_when_its_back_off_is_over_and_what_is_in_doubt_after_a_minute() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
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
    let due = async |seconds: u64, limit: usize| -> Vec<Key> {
        store
            .due(at(seconds), limit, Vec::new())
            .await
            .unwrap()
            .into_iter()
            .map(|waiting| waiting.key)
            .collect()
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
    assert_eq!(store.due(at(61), 9, vec![EventType::PaymentLate]).await.unwrap().len(), 3);
    let waiting = store.due(at(61), 1, Vec::new()).await.unwrap().remove(0);
    let message: Message = serde_json::from_slice(&waiting.content).unwrap();
    assert_eq!(message, deferral(1, State::Deferred).message);
    assert_eq!((waiting.digest, waiting.payment_time), (Some(digest("1.00")), Some(alipay::now())));
}

#[tokio::test]
async fn a_full_store_says_so_and_still_takes_what_it_has() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
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
}

#[tokio::test]
async fn everything_survives_a_reopen() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    store.record(vec![record(1)]).await.unwrap();
    store.defer(vec![deferral(2, State::Deferred)]).await.unwrap();
    store.hold(vec![holding(3)]).await.unwrap();
    store.close().await;
    assert!(store.claim(vec![key(1)]).await.is_err(), "it is closed");
    drop(store);
    let store = fixture.open().unwrap();
    assert_eq!(states(&store, 1).await, [State::Recorded]);
    assert_eq!(states(&store, 2).await, [State::Deferred]);
    assert_eq!(states(&store, 3).await, [State::Held]);
    // What is held is known again: its record clears it.
    store.record(vec![record(3)]).await.unwrap();
    assert_eq!(states(&store, 3).await, [State::Recorded]);
    store.defer(vec![deferral(4, State::Deferred), deferral(5, State::Deferred)]).await.unwrap();
    assert_eq!(
        store.defer(vec![deferral(6, State::Deferred)]).await.unwrap(),
        [Kept::Full],
        "counted at open"
    );
}

#[tokio::test]
async fn many_callers_at_once_are_all_answered() {
    let fixture = Fixture::new();
    let store = Arc::new(fixture.open().unwrap());
    let calls = (0..500).map(|n| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.record(vec![record(n)]).await })
    });
    for call in futures_util::future::join_all(calls).await {
        call.unwrap().unwrap();
    }
    assert_eq!(fixture.peek("SELECT count(*) FROM event"), ["Integer(500)"]);
}

#[tokio::test]
async fn what_has_expired_goes_and_what_is_not_settled_stays() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    store.record((10..20).map(record).collect()).await.unwrap();
    store.defer(vec![deferral(1, State::Deferred)]).await.unwrap();
    store.hold(vec![holding(2)]).await.unwrap();
    fixture.clock.set(fixture.clock.now().plus(Duration::from_secs(34 * 86_400)));
    let young =
        Record { expires_at: fixture.clock.now().plus(Duration::from_secs(9 * 86_400)), ..record(30) };
    store.record(vec![young]).await.unwrap();
    assert_eq!(states(&store, 10).await, [State::Recorded], "not a day too early");
    fixture.clock.set(fixture.clock.now().plus(Duration::from_secs(2 * 86_400)));
    // A look for expired rows follows a call, once a second.
    eventually("the expired rows are gone", || async {
        store.tally().await.unwrap();
        states(&store, 10).await.is_empty() && states(&store, 19).await.is_empty()
    })
    .await;
    assert_eq!(states(&store, 1).await, [State::Deferred]);
    assert_eq!(states(&store, 2).await, [State::Held]);
    assert_eq!(states(&store, 30).await, [State::Recorded]);
}

#[tokio::test]
async fn one_gateway_has_the_store_and_others_may_read_it() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    store.record(vec![record(1)]).await.unwrap();
    assert!(matches!(fixture.open(), Err(OpenError::Taken(_))));
    assert_eq!(fixture.peek("SELECT notify_id FROM event"), ["Text(\"n1\")"]);
    drop(store);
    assert!(fixture.open().is_ok(), "the lock goes with its owner");
}

#[tokio::test]
async fn the_file_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let fixture = Fixture::new();
    let _store = fixture.open().unwrap();
    assert_eq!(std::fs::metadata(fixture.path()).unwrap().permissions().mode() & 0o777, 0o600);
}

fn set_aside(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path.parent().unwrap()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.to_string_lossy().contains(".damaged-")).collect()
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_and_a_fresh_one_started() {
    let fixture = Fixture::new();
    std::fs::create_dir_all(fixture.path().parent().unwrap()).unwrap();
    let damaged = b"this is not a database, but it may hold somebody's payments".repeat(100);
    std::fs::write(fixture.path(), &damaged).unwrap();
    let store = fixture.open().unwrap();
    assert_eq!(store.damaged_files(), 1);
    let aside = set_aside(&fixture.path());
    assert_eq!(aside.len(), 1);
    assert_eq!(std::fs::read(&aside[0]).unwrap(), damaged, "untouched");
    store.record(vec![record(1)]).await.unwrap();
    drop(store);
    assert_eq!(fixture.open().unwrap().damaged_files(), 1, "the alarm stays until it is salvaged");
}

/// What a process that was killed leaves: the newest of it is in the log, and so may everything be.
fn killed(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    for part in ["", "-wal"] {
        let name = |path: &Path| PathBuf::from(format!("{}{part}", path.display()));
        std::fs::copy(name(from), name(to)).unwrap();
    }
}

#[tokio::test]
async fn a_log_whose_database_is_empty_or_gone_is_set_aside_alarmed_and_salvaged() {
    for is_gone in [false, true] {
        let (living, fixture) = (Fixture::new(), Fixture::new());
        let store = living.open().unwrap();
        store.defer(vec![deferral(1, State::Deferred)]).await.unwrap();
        killed(&living.path(), &fixture.path());
        if is_gone {
            std::fs::remove_file(fixture.path()).unwrap();
        } else {
            std::fs::File::create(fixture.path()).unwrap();
        }
        assert!(read_all(&fixture.config(), |_| Ok(())).is_err(), "neither does an export touch it");
        let opened = fixture.open().unwrap();
        assert_eq!(opened.damaged_files(), 1, "alarmed");
        assert_eq!(opened.tally().await.unwrap().deferred, 0, "it starts cold");
        let aside =
            set_aside(&fixture.path()).into_iter().find(|path| !path.to_string_lossy().contains("-wal"));
        let (entries, _) = salvaged(&aside.unwrap());
        let found: Vec<_> = entries.iter().map(|entry| (entry.key.clone(), entry.state)).collect();
        assert_eq!(found, [(key(1), State::Deferred)]);
    }
}

#[tokio::test]
async fn what_a_log_alone_does_not_have_is_missed() {
    let (living, fixture) = (Fixture::new(), Fixture::new());
    let (store, config) = furnished(&living).await;
    drop(store);
    let store = Sqlite::open(&config, Arc::<StillClock>::clone(&living.clock)).unwrap();
    // One page, of some hundreds.
    store.record(Vec::new()).await.unwrap();
    killed(&living.path(), &fixture.path());
    std::fs::File::create(fixture.path()).unwrap();
    let (_, found) = salvaged(&fixture.path());
    assert!(found.pages > 200 && found.unreadable > 200, "{found:?}");
}

/// A payment of this trade with this amount, that waits.
fn kept(n: u64, amount: &str) -> Deferral {
    let deferral = deferral(n, State::Deferred);
    let head = format!(r#"{{"event_id":"{}","event_type":"payment.succeeded","#, deferral.key.id);
    let digest = digest(amount);
    let body = format!(r#"{head}"out_trade_no":"o","total_amount":"{amount}"}}"#);
    let message = Message { digest: digest.short(), body, ..deferral.message.clone() };
    Deferral { digest, message, notify_id: format!("n{amount}"), ..deferral }
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
async fn a_deferral_of_other_money_is_kept_beside_the_first_and_not_over_it() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    for amount in ["1.00", "2.00", "1.00", "2.00"] {
        assert_eq!(store.defer(vec![kept(1, amount)]).await.unwrap(), [Kept::Yes]);
        assert!(waiting(&store, 1).await.iter().any(|(digest, ..)| *digest == self::digest("1.00")));
    }
    both_are_kept(&store, "1.00", "2.00").await;
    let [(_, used), ..] = store.used();
    assert!((used - 2.0 / 3.0).abs() < 1e-9, "each is counted once: {used}");
}

#[tokio::test]
async fn what_may_be_in_a_queue_under_the_id_keeps_it_and_what_waited_steps_aside() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    store.defer(vec![kept(1, "1.00")]).await.unwrap();
    let doubtful = Deferral { state: State::InDoubt, cause: Cause::InDoubt, ..kept(1, "2.00") };
    assert_eq!(store.defer(vec![doubtful]).await.unwrap(), [Kept::Yes]);
    both_are_kept(&store, "2.00", "1.00").await;
    let [(_, used), ..] = store.used();
    assert!((used - 2.0 / 3.0).abs() < 1e-9, "{used}");
}

#[tokio::test]
async fn a_record_of_other_money_leaves_what_waited_waiting() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    store.defer(vec![kept(1, "2.00")]).await.unwrap();
    for _ in 0..2 {
        store.record(vec![record(1)]).await.unwrap();
        let found = waiting(&store, 1).await;
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0, found[0].2.event_type.as_str()), (digest("2.00"), "payment.conflict"));
    }
    assert_eq!(known(&store, 1).await.unwrap().digest, digest("1.00"));
    let [(_, used), ..] = store.used();
    assert!((used - 1.0 / 3.0).abs() < 1e-9, "{used}");
}

#[tokio::test]
async fn a_database_of_another_program_or_a_newer_version_is_refused_and_left_alone() {
    for pragma in [
        "CREATE TABLE theirs (x); PRAGMA user_version = 7",
        "CREATE TABLE theirs (x)",
        "PRAGMA application_id = 1095649111; PRAGMA user_version = 99",
    ] {
        let fixture = Fixture::new();
        std::fs::create_dir_all(fixture.path().parent().unwrap()).unwrap();
        rusqlite::Connection::open(fixture.path()).unwrap().execute_batch(pragma).unwrap();
        let before = std::fs::read(fixture.path()).unwrap();
        let error = fixture.open().err().unwrap().to_string();
        assert!(error.contains("store.path"), "{error}");
        assert!(std::fs::read(fixture.path()).unwrap() == before, "left alone: {pragma}");
        assert!(set_aside(&fixture.path()).is_empty());
    }
}

#[tokio::test]
async fn a_file_that_is_deleted_or_replaced_is_made_again_with_everything_that_was_in_it() {
    for replaced in [false, true] {
        let fixture = Fixture::new();
        let store = fixture.open().unwrap();
        store.record(vec![record(1)]).await.unwrap();
        store.defer(vec![deferral(2, State::Deferred)]).await.unwrap();
        store.hold(vec![holding(3)]).await.unwrap();
        if replaced {
            std::fs::rename(fixture.path(), fixture.folder.path().join("elsewhere")).unwrap();
        }
        for part in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{part}", fixture.path().display()));
        }
        if replaced {
            rusqlite::Connection::open(fixture.path()).unwrap();
        }
        // What is answered as kept is where it will be looked for.
        assert_eq!(store.defer(vec![deferral(4, State::Deferred)]).await.unwrap(), [Kept::Yes]);
        assert_eq!(fixture.peek("SELECT count(*) FROM event"), ["Integer(4)"]);
        drop(store);
        let store = fixture.open().unwrap();
        assert_eq!(states(&store, 1).await, [State::Recorded]);
        assert_eq!(states(&store, 3).await, [State::Held]);
        let tally = store.tally().await.unwrap();
        assert_eq!((tally.deferred, tally.held, store.damaged_files()), (2, 1, 0));
    }
}

#[tokio::test]
async fn a_log_that_is_deleted_loses_nothing() {
    for part in ["-wal", "-shm"] {
        let fixture = Fixture::new();
        let store = fixture.open().unwrap();
        store.record(vec![record(1)]).await.unwrap();
        store.defer(vec![deferral(2, State::Deferred)]).await.unwrap();
        std::fs::remove_file(format!("{}{part}", fixture.path().display())).unwrap();
        store.record(vec![record(3)]).await.unwrap();
        assert_eq!(fixture.peek("SELECT count(*) FROM event"), ["Integer(3)"], "{part}");
        // As after a kill: the log beside the file is the one in use.
        drop(store);
        let store = fixture.open().unwrap();
        for (n, state) in [(1, State::Recorded), (2, State::Deferred), (3, State::Recorded)] {
            assert_eq!(states(&store, n).await, [state], "{part}");
        }
    }
}

#[tokio::test]
async fn what_no_queue_takes_has_a_bound_of_its_own() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    let returned = |n| Deferral { cause: Cause::Returned, ..deferral(n, State::Deferred) };
    let kept = store.defer((1..=4).map(returned).collect()).await.unwrap();
    assert_eq!(kept, [Kept::Yes, Kept::Yes, Kept::Full, Kept::Full]);
    let three = (11..=14).map(|n| deferral(n, State::Deferred)).collect();
    assert_eq!(store.defer(three).await.unwrap(), [Kept::Yes, Kept::Yes, Kept::Yes, Kept::Full]);
    let used = store.used();
    assert_eq!((used[0], used[1]), (("max_deferred", 1.0), ("max_returned", 1.0)));
    // What is there already is always kept, as what it is now.
    assert_eq!(store.defer(vec![deferral(1, State::Deferred)]).await.unwrap(), [Kept::Yes]);
    assert_eq!(store.defer(vec![returned(3)]).await.unwrap(), [Kept::Yes], "a place is free");
    store.record(vec![record(1), record(2), record(3)]).await.unwrap();
    assert_eq!((store.used()[0].1, store.used()[1].1), (1.0, 0.0));
    drop(store);
    let store = fixture.open().unwrap();
    assert_eq!((store.used()[0].1, store.used()[1].1), (1.0, 0.0), "counted at open");
}

#[tokio::test]
async fn the_backlog_is_bounded_in_bytes_and_what_no_queue_takes_has_half_of_them() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
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
}

#[tokio::test]
async fn what_the_broker_refuses_again_and_again_hides_nobody() {
    let fixture = Fixture::new();
    let config = Config { max_returned: 1000, max_deferred: 1000, ..fixture.config() };
    let store = Sqlite::open(&config, Arc::<StillClock>::clone(&fixture.clock)).unwrap();
    let returned = |n| Deferral { cause: Cause::Returned, ..deferral(n, State::Deferred) };
    store.defer((1..=500).map(returned).collect()).await.unwrap();
    let at = alipay::now().plus(Duration::from_secs(100));
    store
        .defer((501..=510).map(|n| Deferral { at, ..deferral(n, State::Deferred) }).collect())
        .await
        .unwrap();
    let due = store.due(at.plus(Duration::from_secs(1)), 12, Vec::new()).await.unwrap();
    let young: Vec<bool> = due.iter().map(|waiting| waiting.reason == "broker_down").collect();
    assert_eq!(young, [[true; 9].as_slice(), &[false; 3]].concat(), "younger, and first");
    // Where nobody else waits, the whole of it is theirs.
    let due = store.due(at, 12, Vec::new()).await.unwrap();
    assert_eq!(due.len(), 12);
    // Whoever was tried steps behind whoever was not.
    let tried: Vec<Deferral> = (1..=12).map(|n| Deferral { at, ..returned(n) }).collect();
    store.defer(tried).await.unwrap();
    let due = store.due(at.plus(Duration::from_secs(600)), 490, Vec::new()).await.unwrap();
    assert!(due.iter().all(|waiting| waiting.key != key(1)), "the others come first");
}

#[tokio::test]
async fn a_store_that_cannot_be_written_says_so_and_comes_back() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    store.record(vec![record(1)]).await.unwrap();
    // Another process holds the write lock for longer than the store waits.
    let other = rusqlite::Connection::open(fixture.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused: Result<(), StoreError> = store.record(vec![record(2)]).await;
    assert!(refused.is_err());
    other.execute_batch("ROLLBACK").unwrap();
    eventually("it is written again", || async { store.record(vec![record(2)]).await.is_ok() }).await;
    assert_eq!(states(&store, 1).await, [State::Recorded]);
    assert_eq!(states(&store, 2).await, [State::Recorded]);
}

/// Everything, as `store salvage` finds it, in the order of the keys.
fn salvaged(path: &Path) -> (Vec<Entry>, Found) {
    let mut entries = Vec::new();
    let found = Pages::open(path).unwrap().read(|entry| {
        entries.push(entry);
        Ok::<(), std::io::Error>(())
    });
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    (entries, found.unwrap())
}

/// A store with rows of every state, short ones and such as run over to other pages.
async fn furnished(fixture: &Fixture) -> (Sqlite, Config) {
    let many = Config { max_deferred: 1000, max_deferred_bytes: 1 << 30, max_held: 1000, ..fixture.config() };
    let config = Config { max_held_bytes: 1 << 30, ..many };
    let store = Sqlite::open(&config, Arc::<StillClock>::clone(&fixture.clock)).unwrap();
    store.record((1..=1000).map(record).collect()).await.unwrap();
    let large = |n: u64| {
        let mut deferral = deferral(n, State::Deferred);
        deferral.message.body = "x".repeat(usize::try_from(n % 40).unwrap() * 500);
        deferral
    };
    store.defer((2001..=2100).map(large).collect()).await.unwrap();
    store
        .hold((3001..=3040).map(|n| Holding { body: vec![b'y'; 30_000], ..holding(n) }).collect())
        .await
        .unwrap();
    store.record((2001..=2050).map(record).collect()).await.unwrap();
    store.record((1001..=1500).map(record).collect()).await.unwrap();
    (store, config)
}

#[tokio::test]
async fn page_by_page_is_found_what_sqlite_finds_in_the_file_and_in_its_log() {
    let fixture = Fixture::new();
    let (store, config) = furnished(&fixture).await;
    let mut expected = Vec::new();
    read_all(&config, |entry| {
        expected.push(entry.clone());
        Ok(())
    })
    .unwrap();
    assert_eq!(expected.len(), 1640);
    // Beside the running store: nearly all of it is in the log.
    let (found, about) = salvaged(&fixture.path());
    assert!(found == expected, "{} of {}", found.len(), expected.len());
    assert_eq!((about.unreadable, about.broken), (0, 0));
    store.close().await;
    let (found, about) = salvaged(&fixture.path());
    assert!(found == expected, "{} of {}", found.len(), expected.len());
    assert_eq!((about.unreadable, about.broken), (0, 0));
}

#[tokio::test]
async fn a_page_that_is_lost_takes_only_its_own_rows_with_it() {
    use std::os::unix::fs::FileExt as _;
    let fixture = Fixture::new();
    let (store, _) = furnished(&fixture).await;
    store.close().await;
    let (whole, about) = salvaged(&fixture.path());
    let bytes = std::fs::read(fixture.path()).unwrap();
    let noise: Vec<u8> = std::iter::repeat_with(rand::random).take(4096).collect();
    for page in (1..=about.pages).step_by(7) {
        std::fs::write(fixture.path(), &bytes).unwrap();
        let file = std::fs::File::options().write(true).open(fixture.path()).unwrap();
        file.write_all_at(&noise, u64::from(page - 1) * 4096).unwrap();
        let (found, damaged) = salvaged(&fixture.path());
        // The far end of a long content has nothing that tells it from noise: a signature or a digest does.
        let plain = |entry: &Entry| Entry { content: None, ..entry.clone() };
        let mut changed = 0;
        for entry in &found {
            let known = &whole[whole.binary_search_by(|known| known.key.cmp(&entry.key)).unwrap()];
            if known != entry {
                changed += 1;
                assert_eq!(plain(known), plain(entry), "page {page}");
            }
        }
        assert!(changed <= 1, "page {page}: nothing is made up");
        let lost = whole.len() - found.len();
        assert!(lost < 60, "page {page}: {lost} lost");
        // A page in no use is no loss.
        assert!(lost == 0 || damaged.unreadable > 0 || damaged.broken > 0, "page {page}: it is said");
    }
}

#[tokio::test]
async fn a_file_of_the_first_release_is_salvaged_too() {
    let fixture = Fixture::new();
    std::fs::create_dir_all(fixture.path().parent().unwrap()).unwrap();
    let connection = rusqlite::Connection::open(fixture.path()).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE event (
               subject TEXT NOT NULL, id TEXT NOT NULL, state INTEGER NOT NULL, digest BLOB, notify_id TEXT NOT NULL,
               type TEXT, first_at INTEGER NOT NULL, at INTEGER NOT NULL, attempts INTEGER NOT NULL,
               expires_at INTEGER, reason TEXT, payment_at INTEGER, message BLOB, PRIMARY KEY (subject, id)
             ) WITHOUT ROWID;
             WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 500)
             INSERT INTO event SELECT 'T' || n, 'A.held.' || n, 3, NULL, 'n', NULL, n, n, 1, NULL, 'seller', NULL,
               zeroblob(n * 20) FROM n",
        )
        .unwrap();
    drop(connection);
    let (found, about) = salvaged(&fixture.path());
    assert_eq!((found.len(), about.unreadable, about.broken), (500, 0, 0));
    assert!(found.iter().all(|entry| entry.content.as_ref().unwrap().len()
        == 20 * usize::try_from(entry.at.unix_millis()).unwrap()));
}
