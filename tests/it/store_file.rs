//! What the embedded store does beside what every store does, when its file is taken, damaged, deleted or full.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use alipay_notify_gateway::clock::{Clock as _, Timestamp};
use alipay_notify_gateway::store::sqlite::pages::{Found, Pages};
use alipay_notify_gateway::store::sqlite::{Config, OpenError, Sqlite, read_all};
use alipay_notify_gateway::store::{Deferral, Entry, Holding, Kept, Record, State, Store as _, StoreError};

use crate::support::alipay;
use crate::support::eventually;
use crate::support::fakes::StillClock;
use crate::support::program::Folder;
use crate::support::rows::{deferral, holding, key, record, states};

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

    /// `store salvage` there, by an operator whose configuration names this store.
    fn salvage(&self, arguments: &[&str], store: &Path) -> Output {
        self.folder.write("alipay.pem", alipay::public_pem());
        let app = "[[apps]]\napp_id = \"2021000000000001\"\nalipay_public_keys = [\"alipay.pem\"]\n";
        self.folder.write("gateway.toml", app);
        let mut command = Command::new(env!("CARGO_BIN_EXE_alipay-notify-gateway"));
        command.args(["store", "salvage", "--config", "gateway.toml"]).args(arguments);
        command.current_dir(self.folder.path()).env("GATEWAY_STORE__PATH", store).output().unwrap()
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

#[tokio::test]
async fn what_a_clock_kept_that_was_set_back_before_the_start_is_due_by_the_new_one() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    let ahead = deferral(1, State::Deferred);
    let now = ahead.at.before(Duration::from_secs(86_400));
    let soon = Deferral { at: now.plus(Duration::from_secs(30)), ..deferral(2, State::Deferred) };
    store.defer(vec![ahead, soon]).await.unwrap();
    store.close().await;
    drop(store);
    fixture.clock.set(now);
    let store = fixture.open().unwrap();
    let due = async |seconds| {
        let due = store.due(now.plus(Duration::from_secs(seconds)), 9, Vec::new()).await.unwrap();
        due.into_iter().map(|waiting| waiting.key).collect::<Vec<_>>()
    };
    assert_eq!(due(0).await, []);
    assert_eq!(due(10).await, [key(1)]);
    assert_eq!(due(60).await, [key(1), key(2)], "what was due soon is left as it is");
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
async fn what_was_kept_under_a_shorter_retention_stays_as_long_as_the_present_one_says() {
    let fixture = Fixture::new();
    let day = |days: u64| Duration::from_secs(days * 86_400);
    let store = fixture.open().unwrap();
    let now = fixture.clock.now();
    let under_three_days = |n, at| Record { at, expires_at: Timestamp::plus(at, day(3)), ..record(n) };
    store.record(vec![under_three_days(1, now), under_three_days(2, now.before(day(60)))]).await.unwrap();
    let since = store.complete_since(day(50), now).await.unwrap();
    assert_eq!(since, Timestamp::default(), "nothing was deleted");
    fixture.clock.set(now.plus(day(9)));
    eventually("what is older than both has gone", || async {
        store.tally().await.unwrap();
        states(&store, 2).await.is_empty()
    })
    .await;
    assert_eq!(states(&store, 1).await, [State::Recorded]);
    assert_eq!(store.complete_since(day(50), now).await.unwrap(), now.before(day(60)));
    // What is salvaged brings it along, into a file and into a store.
    let pages = || Pages::open(&fixture.path()).unwrap();
    assert_eq!(pages().complete_since(now), now.before(day(60)));
    assert_eq!(pages().complete_since(now.before(day(61))), Timestamp::default(), "of a time to come");
    let (into, written) = (Fixture::new(), fixture.folder.path().join("salvaged.jsonl"));
    drop(into.open().unwrap());
    let salvage = fixture.salvage(&["data/gateway.db", "--out", "salvaged.jsonl"], &into.path());
    assert!(salvage.status.success(), "{salvage:?}");
    let head = std::fs::read_to_string(written).unwrap().lines().next().unwrap().to_owned();
    assert!(head.contains(&now.before(day(60)).rfc3339_utc()), "{head}");
    let brought = into.open().unwrap().complete_since(day(50), now).await.unwrap();
    assert_eq!(brought, now.before(day(60)));
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

#[tokio::test]
async fn who_reads_the_file_while_the_gateway_starts_keeps_nothing_from_being_written() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    store.record(vec![record(1)]).await.unwrap();
    let reader = rusqlite::Connection::open(fixture.path()).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM event").unwrap();
    store.record(vec![record(2)]).await.unwrap();
    drop(store);
    let store = fixture.open().unwrap();
    store.defer(vec![deferral(3, State::Deferred)]).await.unwrap();
    store.record(vec![record(4)]).await.unwrap();
    assert_eq!(store.tally().await.unwrap().deferred, 1);
    drop(reader);
    drop(store);
    assert_eq!(fixture.peek("SELECT count(*) FROM event"), ["Integer(4)"]);
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
async fn nothing_is_salvaged_into_a_store_that_no_gateway_has() {
    let fixture = Fixture::new();
    fixture.open().unwrap().record(vec![record(1)]).await.unwrap();
    let damaged = fixture.path().with_extension("db.damaged-1764000000");
    eventually("the store is closed", || async { fixture.open().is_ok() }).await;
    // It looks like what a store says of how far back it goes, and is the number of a row.
    let connection = rusqlite::Connection::open(fixture.path()).unwrap();
    connection.execute("INSERT OR REPLACE INTO placed (id, row) VALUES (1, 16384)", []).unwrap();
    connection.close().unwrap();
    std::fs::rename(fixture.path(), &damaged).unwrap();
    let elsewhere = fixture.folder.path().join("etc/data/gateway.db");
    assert_eq!(Pages::open(&damaged).unwrap().complete_since(fixture.clock.now()), Timestamp::default());
    let arguments = [damaged.to_str().unwrap(), "--accept-loss", "--out", "salvaged.jsonl"];
    let salvage = fixture.salvage(&arguments, &elsewhere);
    assert_eq!(salvage.status.code(), Some(1), "{salvage:?}");
    assert!(String::from_utf8(salvage.stderr).unwrap().contains("there is no store here"));
    assert!(damaged.exists() && !fixture.folder.path().join("etc").exists(), "the alarm stays");
    assert!(!fixture.folder.path().join("salvaged.jsonl").exists(), "and it can be said again");
    // The gateway's own has been made anew by its start.
    drop(fixture.open().unwrap());
    let salvage = fixture.salvage(&[damaged.to_str().unwrap()], &fixture.path());
    assert!(salvage.status.success() && !damaged.exists(), "{salvage:?}");
}

#[test]
fn a_folder_is_no_damaged_file() {
    let folder = Folder::new();
    assert_eq!(Pages::open(folder.path()).unwrap_err().kind(), std::io::ErrorKind::IsADirectory);
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
    expected.sort_by(|a, b| a.key.cmp(&b.key));
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
async fn what_is_missing_of_a_file_that_was_cut_off_is_said() {
    let fixture = Fixture::new();
    let (store, _) = furnished(&fixture).await;
    store.close().await;
    let (_, whole) = salvaged(&fixture.path());
    assert_eq!((whole.unreadable, whole.broken), (0, 0));
    let length = u64::from(whole.pages) * 4096;
    for cut in [length - 2048, length / 2, 4096, 100, 0] {
        std::fs::File::options().write(true).open(fixture.path()).unwrap().set_len(cut).unwrap();
        let (_, about) = salvaged(&fixture.path());
        assert!(about.unreadable > 0 || about.broken > 0, "cut to {cut} of {length}: {about:?}");
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

fn set_aside(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path.parent().unwrap()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.to_string_lossy().contains(".damaged-")).collect()
}

/// What a process that was killed leaves: the newest of it is in the log, and so may everything be.
fn killed(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    for part in ["", "-wal"] {
        let name = |path: &Path| PathBuf::from(format!("{}{part}", path.display()));
        std::fs::copy(name(from), name(to)).unwrap();
    }
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
