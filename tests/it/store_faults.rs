//! The store failing under the running gateway, with a real broker: payments go on, nothing is lost, what was announced
//! meanwhile is recorded when the store is back, and what is in a damaged file comes back by `store salvage`.

use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lapin::types::AMQPValue;
use serde_json::Value;

use crate::support::alipay::Notification;
use crate::support::faults::{EACCES, EIO, ENOSPC, EROFS, Faults, load};
use crate::support::program::{Folder, Program, exchange};
use crate::support::queue::{Event, Queue};
use crate::support::run;

pub fn is_unchecked(event: &Event) -> bool {
    let headers = event.delivery.properties.headers().as_ref().unwrap();
    match headers.inner().get("x-dedup") {
        Some(AMQPValue::LongString(text)) => text.as_bytes() == b"unchecked",
        _ => false,
    }
}

pub fn is(program: &Program, sample: &str, value: f64) -> bool {
    (program.metric(sample) - value).abs() < f64::EPSILON
}

fn store(program: &Program) -> PathBuf {
    program.folder().path().join("gateway.db")
}

/// Beside it.
fn part(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

fn cli(arguments: &[&str]) -> Output {
    cli_in(Path::new("."), arguments)
}

fn cli_in(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_alipay-notify-gateway"));
    command.arg("store").args(arguments).current_dir(folder).output().unwrap()
}

fn files(folder: &Path, infix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = entries
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.contains(infix) && !name.ends_with("-wal") && !name.ends_with("-shm")
        })
        .collect();
    found.sort();
    found
}

/// Payments before, during and after: each is answered `success` and announced once; those of the bad time are marked, and
/// recorded when it is over.
pub async fn rides_out(program: &Program, begin: impl FnOnce(), end: impl FnOnce()) {
    let mut queue = Queue::bound(&program.exchange, &["#"]).await;
    let payments: Vec<Notification> = (1..=9).map(Notification::payment_now).collect();
    let pay = |n: usize| {
        let answer = program.post(&payments[n].body());
        assert!(answer.is_success(), "{n}: {answer:?}\n{}", program.log());
    };
    pay(0);
    program.wait_until("it is well", || is(program, "store_up", 1.0));
    begin();
    pay(1);
    program.wait_until("it has noticed", || is(program, "store_unchecked", 1.0));
    (2..=5).for_each(pay);
    // Known to this process, though it is nowhere written.
    (1..=5).for_each(pay);
    program.wait_until("it says so", || is(program, "store_up", 0.0));
    assert!(program.get("/readyz").unwrap().body.contains("degraded"));
    assert!(program.metric("store_unrecorded") > 4.5);
    end();
    program.wait_until("it is back", || is(program, "store_unchecked", 0.0) && is(program, "store_up", 1.0));
    assert!(is(program, "store_unrecorded", 0.0));
    for paid in &payments[..=5] {
        assert_eq!(program.states(paid.trade_no()), ["recorded"]);
    }
    (0..=6).for_each(pay);
    let events = queue.until(payments[6].trade_no()).await;
    let expected: Vec<String> =
        payments[..=6].iter().map(|paid| paid.event_id("payment.succeeded")).collect();
    let events: Vec<Event> =
        events.into_iter().filter(|event| expected.iter().any(|id| id == event.id())).collect();
    let ids: Vec<&str> = events.iter().map(Event::id).collect();
    assert_eq!(ids, expected, "each once");
    assert!(events[2..=5].iter().all(is_unchecked), "marked while the store is away");
    assert!(!is_unchecked(&events[0]) && !is_unchecked(&events[6]));
    program.wait_until("it is logged", || program.log().contains("the store is away"));
    let errors = program.log().matches("the store is away").count();
    assert_eq!(errors, 1, "said once\n{}", program.log());
}

#[test]
fn a_full_disk_is_ridden_out() {
    run(async {
        let (program, faults) = Faults::start("full", "");
        let (begin, end) = (|| faults.set(&[("write", ENOSPC), ("truncate", ENOSPC)]), || faults.clear());
        rides_out(&program, begin, end).await;
    });
}

#[test]
fn writes_that_fail_are_ridden_out() {
    run(async {
        let (program, faults) = Faults::start("eio", "");
        rides_out(&program, || faults.set(&[("write", EIO)]), || faults.clear()).await;
    });
}

#[test]
fn an_fsync_that_fails_for_ever_is_ridden_out() {
    run(async {
        let (program, faults) = Faults::start("fsync", "");
        rides_out(&program, || faults.set(&[("fsync", EIO)]), || faults.clear()).await;
    });
}

#[test]
fn a_disk_that_neither_reads_nor_writes_is_ridden_out() {
    run(async {
        let (program, faults) = Faults::start("dead", "");
        let all = ["read", "write", "fsync", "truncate", "open", "openr", "unlink"].map(|call| (call, EIO));
        rides_out(&program, || faults.set(&all), || faults.clear()).await;
    });
}

#[test]
fn a_file_system_that_becomes_read_only_is_ridden_out() {
    run(async {
        let (program, faults) = Faults::start("ro", "");
        let read_only = ["write", "fsync", "truncate", "open", "unlink", "rename"].map(|call| (call, EROFS));
        rides_out(&program, || faults.set(&read_only), || faults.clear()).await;
    });
}

#[test]
fn an_fsync_that_fails_once_is_not_tried_again_in_place() {
    run(async {
        let (program, faults) = Faults::start("fsync-once", "");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let payments: Vec<Notification> = (1..=2).map(Notification::payment_now).collect();
        assert!(program.post(&payments[0].body()).is_success());
        faults.set_once("fsync", EIO);
        assert!(program.post(&payments[1].body()).is_success());
        assert_eq!(program.states(payments[1].trade_no()), ["recorded"]);
        assert!(
            is(&program, "store_unrecorded", 0.0),
            "the second try, on another connection, is the record"
        );
        let calls = faults.calls();
        let failed = calls.iter().position(|call| *call == format!("fsync gateway.db-wal {EIO}")).unwrap();
        let after = &calls[failed + 1..];
        let next_write = after.iter().position(|call| call.starts_with("write gateway.db-wal ")).unwrap();
        // Opened again, and the log emptied behind a synced database, before anything is appended to it.
        let expected = ["open gateway.db 0", "fsync gateway.db 0", "truncate gateway.db-wal 0"];
        let places = expected.map(|wanted| after.iter().position(|call| call == wanted).unwrap());
        assert!(places.is_sorted() && places[2] < next_write, "{calls:#?}");
        assert_eq!(queue.published(&program, 3).await.len(), 2);
    });
}

#[test]
fn a_deferral_that_was_not_synced_is_not_answered_as_kept() {
    run(async {
        let (program, faults) = Faults::start("unsynced", "");
        // Nobody binds: it is returned, and would be kept.
        let paid = Notification::payment_now(1);
        assert!(program.post(&paid.body()).is_fail(503));
        assert_eq!(program.states(paid.trade_no()), ["deferred"]);
        faults.set(&[("fsync", EIO)]);
        let another = Notification::payment_now(2);
        assert!(program.post(&another.body()).is_fail(503));
        assert!(is(&program, "notifications_total{outcome=\"busy\"}", 1.0), "not called deferred");
        assert_eq!(program.states(another.trade_no()), [""; 0]);
        faults.clear();
        program.wait_until("it is back", || is(&program, "store_unchecked", 0.0));
        assert_eq!(program.states(paid.trade_no()), ["deferred"]);
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        assert_eq!(queue.next().await.id(), paid.event_id("payment.succeeded"));
        assert!(program.post(&another.body()).is_success());
    });
}

#[test]
fn a_gateway_starts_although_its_disk_is_full_and_is_checked_when_there_is_room() {
    run(async {
        let (mut program, faults) = Faults::start("start-full", "");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let payments: Vec<Notification> = (1..=3).map(Notification::payment_now).collect();
        assert!(program.post(&payments[0].body()).is_success());
        program.kill();
        faults.set(&[("write", ENOSPC), ("truncate", ENOSPC), ("open", ENOSPC)]);
        program.restart_as(load);
        assert!(program.post(&payments[1].body()).is_success());
        program.wait_until("it says so", || is(&program, "store_up", 0.0));
        faults.clear();
        program.wait_until("it is back", || {
            is(&program, "store_unchecked", 0.0) && is(&program, "store_up", 1.0)
        });
        assert!(
            program.post(&payments[0].body()).is_success() && program.post(&payments[1].body()).is_success()
        );
        let events = queue.published(&program, 3).await;
        assert_eq!(events.len(), 2, "{:?}", events.iter().map(Event::id).collect::<Vec<_>>());
        assert!(is_unchecked(&events[1]));
    });
}

#[test]
fn a_store_that_never_was_and_cannot_be_made_is_refused() {
    let mut program = Program::start("never");
    program.kill();
    let config = program.folder().path().join("gateway.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_alipay-notify-gateway"));
    command.arg("serve").arg("--config").arg(&config).env("GATEWAY_STORE__PATH", "/proc/no/gateway.db");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("store.path"), "it says which key");
}

#[test]
fn files_that_are_deleted_under_it_are_made_again_with_what_was_in_them() {
    for parts in [vec!["", "-wal", "-shm"], vec!["-wal"], vec!["-shm"], vec![""]] {
        run(async {
            let mut program = Program::start("deleted");
            // Returned, because nobody binds it yet: it is in no queue, and Alipay was told fail.
            let waits = Notification::payment_now(1);
            assert!(program.post(&waits.body()).is_fail(503));
            for part_name in &parts {
                std::fs::remove_file(part(&store(&program), part_name)).unwrap();
            }
            let second = Notification::payment_now(2);
            assert!(program.post(&second.body()).is_fail(503));
            assert_eq!(program.states(second.trade_no()), ["deferred"], "{parts:?}");
            program.kill();
            program.restart();
            program.is_connected();
            assert_eq!(program.states(waits.trade_no()), ["deferred"], "{parts:?}");
            assert_eq!(program.states(second.trade_no()), ["deferred"], "{parts:?}");
            let mut payments = Queue::bound(&program.exchange, &["payment.succeeded"]).await;
            let mut ids = [payments.next().await.id().to_owned(), payments.next().await.id().to_owned()];
            ids.sort();
            assert_eq!(ids, [&waits, &second].map(|paid| paid.event_id("payment.succeeded")));
            assert!(is(&program, "store_damaged_files", 0.0));
        });
    }
}

/// Overwrites pages with noise, under the running gateway.
fn damage(path: &Path, pages: impl IntoIterator<Item = u64>) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    for page in pages {
        let noise: Vec<u8> =
            (0..4096u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8 | 0x80).collect();
        file.write_all_at(&noise, (page - 1) * 4096).unwrap();
    }
}

/// Writes the log into the file, as the gateway does by itself after some thousand pages.
fn checkpoint(path: &Path) {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
}

#[test]
fn a_damaged_file_is_set_aside_alarmed_and_salvaged_beside_the_running_gateway() {
    run(async {
        let program = Program::launch_with_admin("damaged", "token = \"a-token-that-nobody-guesses\"");
        let mut refunds = Queue::bound(&program.exchange, &["payment.refunded"]).await;
        // One that waits for a queue, one that is held, and some that are announced.
        let waits = Notification::payment_now(1);
        assert!(program.post(&waits.body()).is_fail(503));
        let held = Notification::payment_now(2).set("seller_id", "2088000000000042");
        assert!(program.post(&held.body()).is_fail(400));
        let refund =
            |n| Notification::payment_now(n).set("refund_fee", "1.00").set("out_biz_no", format!("R{n}"));
        for n in 3..=12 {
            assert!(program.post(&refund(n).body()).is_success());
        }
        checkpoint(&store(&program));
        // The first page: SQLite makes nothing of such a file any more.
        damage(&store(&program), [1]);
        assert!(program.post(&refund(13).body()).is_success(), "payments go on");
        program.wait_until("it is alarmed", || is(&program, "store_damaged_files", 1.0));
        program.wait_until("it is checked", || {
            is(&program, "store_unchecked", 0.0) && is(&program, "store_up", 1.0)
        });
        assert_eq!(program.states(waits.trade_no()), [""; 0], "cold");
        assert!(program.post(&refund(3).body()).is_success(), "announced once more, with its id");
        let aside = files(program.folder().path(), ".damaged-");
        assert_eq!(aside.len(), 1, "{aside:?}");
        let before = std::fs::read(&aside[0]).unwrap();

        let config = program.folder().path().join("gateway.toml");
        let (file, config) = (aside[0].to_str().unwrap(), config.to_str().unwrap());
        let output = cli(&["salvage", file, "--config", config]);
        let told = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!(output.status.code(), Some(65), "a page is gone: {told}");
        assert!(
            told.contains("1 hold nothing that can be read") && told.contains("the alarm stays"),
            "{told}"
        );
        assert_eq!(std::fs::read(&aside[0]).unwrap(), before, "only read");
        assert!(is(&program, "store_damaged_files", 1.0));
        assert_eq!(program.states(waits.trade_no()), ["deferred"]);
        assert_eq!(program.states(held.trade_no()), ["held"]);
        assert_eq!(program.states(refund(4).trade_no()), ["recorded"]);

        // Without a place to put it, nothing is done; gateway.toml where one stands is one.
        let nowhere = Folder::new();
        let output = cli_in(nowhere.path(), &["salvage", file, "--accept-loss"]);
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        assert!(is(&program, "store_damaged_files", 1.0) && output.stdout.is_empty(), "{output:?}");
        let output = cli_in(program.folder().path(), &["salvage", file, "--accept-loss"]);
        assert!(String::from_utf8(output.stderr).unwrap().contains("0 entries taken, 12 were known"));
        program.wait_until("the alarm ends", || is(&program, "store_damaged_files", 0.0));
        assert_eq!(files(program.folder().path(), ".salvaged-").len(), 1);

        // The drain announces what was in it, dedup knows what it knew, and what is held can be decided about.
        let mut payments = Queue::bound(&program.exchange, &["payment.succeeded"]).await;
        assert_eq!(payments.next().await.id(), waits.event_id("payment.succeeded"));
        for n in 3..=13 {
            assert!(program.post(&refund(n).body()).is_success());
        }
        let last = refund(14);
        assert!(program.post(&last.body()).is_success());
        let mut ids: Vec<String> =
            refunds.until(last.trade_no()).await.iter().map(|event| event.id().to_owned()).collect();
        ids.sort();
        let twice = refund(3).event_id("payment.refunded.R3");
        assert_eq!(ids.iter().filter(|id| **id == twice).count(), 2);
        ids.dedup();
        assert_eq!(ids.len(), 12);
        let request = format!(
            "POST /trades/{}/release?reason=ours&who=anna HTTP/1.1\r\nHost: admin\r\n\
             Authorization: Bearer a-token-that-nobody-guesses\r\nConnection: close\r\n\r\n",
            held.trade_no()
        );
        let answer = exchange(program.admin, request.as_bytes()).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(payments.next().await.id(), held.event_id("payment.succeeded"));
    });
}

#[test]
fn what_a_salvage_writes_is_imported_when_the_gateway_stands_still_and_not_before() {
    run(async {
        let mut program = Program::start("moves");
        let waits = Notification::payment_now(1);
        assert!(program.post(&waits.body()).is_fail(503));
        let folder = program.folder().path().to_owned();
        let config = folder.join("gateway.toml");
        let config = config.to_str().unwrap();
        let export = cli(&["export", "--config", config]);
        assert!(export.status.success(), "{export:?}");
        let lines: Vec<Value> = String::from_utf8(export.stdout.clone())
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(
            (lines.len(), &lines[1]["state"], &lines[2]["entries"]),
            (3, &"deferred".into(), &1.into())
        );
        let backup = program.folder().write("backup.jsonl", &export.stdout);
        let backup = backup.to_str().unwrap();
        let taken = cli(&["import", "--config", config, backup]);
        assert_eq!(taken.status.code(), Some(1), "a gateway has it open: {taken:?}");

        // The store is lost, and the backup put in its place.
        program.kill();
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(part(&store(&program), suffix));
        }
        let cut = program.folder().write("cut.jsonl", &export.stdout[..export.stdout.len() - 5]);
        let refused = cli(&["import", "--config", config, cut.to_str().unwrap()]);
        assert_eq!(refused.status.code(), Some(65), "{refused:?}");
        let done = cli(&["import", "--config", config, backup]);
        assert!(done.status.success(), "{done:?}");
        program.restart();
        program.is_connected();
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        assert_eq!(queue.next().await.id(), waits.event_id("payment.succeeded"));
        program.wait_until("it is recorded", || program.states(waits.trade_no()) == ["recorded"]);
        program.signal("TERM");
        program.end();
        // What is announced stays so: the backup's deferral is older.
        let again = cli(&["import", "--config", config, backup]);
        assert!(String::from_utf8(again.stdout).unwrap().contains("0 entries taken, 1 were known"));
        program.restart();
        program.is_connected();
        assert!(program.post(&waits.body()).is_success());
        assert!(queue.published(&program, 2).await.is_empty());
    });
}

#[test]
fn what_cannot_be_read_in_the_backlog_keeps_nobody_from_being_announced() {
    run(async {
        let program = Program::start("unreadable");
        let waits = Notification::payment_now(1);
        assert!(program.post(&waits.body()).is_fail(503));
        // More than a batch, and longer due.
        let connection = rusqlite::Connection::open(store(&program)).unwrap();
        connection
            .execute_batch(
                "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 200)
                 INSERT INTO event (subject, id, state, digest, notify_id, type, first_at, at, attempts, reason, message)
                 SELECT 'T' || n, 'A.T' || n, 1, zeroblob(32), 'n', 'payment.succeeded', n, n, 1, 'returned', x'7b7d'
                 FROM n",
            )
            .unwrap();
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        assert_eq!(queue.next().await.id(), waits.event_id("payment.succeeded"));
    });
}

/// Flipped bits: a text that is none any more or became a blob, half a digest, content that became a text.
#[test]
fn a_waiting_row_with_flipped_bits_harms_its_own_event_alone_until_alipay_brings_that_again() {
    run(async {
        let mut program = Program::start("flipped");
        let flips = [
            "subject = CAST(subject || x'ff' AS TEXT)",
            "subject = CAST(subject AS BLOB)",
            "id = CAST(id || x'ff' AS TEXT)",
            "notify_id = CAST(x'ff' AS TEXT)",
            "digest = substr(digest, 2)",
            "digest = CAST(digest AS TEXT)",
            "message = CAST(message AS TEXT)",
            "reason = CAST(x'ff' AS TEXT)",
        ];
        let damaged: Vec<Notification> = (1..=8).map(Notification::payment_now).collect();
        let whole = Notification::payment_now(9);
        for notification in damaged.iter().chain([&whole]) {
            assert!(program.post(&notification.body()).is_fail(503));
        }
        program.kill();
        let connection = rusqlite::Connection::open(store(&program)).unwrap();
        for (notification, flip) in damaged.iter().zip(flips) {
            let sql = format!("UPDATE event SET {flip}, at = row WHERE subject = ?1");
            assert_eq!(connection.execute(&sql, [notification.trade_no()]).unwrap(), 1, "{flip}");
        }
        program.restart();
        program.is_connected();
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        assert_eq!(queue.next().await.id(), whole.event_id("payment.succeeded"));
        let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        let is_named = |row: &i64| program.log().matches(&format!("row {row}\"")).count() > 1;
        program.wait_until("each is named, again and again", || {
            (1..=8).collect::<Vec<i64>>().iter().all(is_named)
        });
        assert_eq!(number("SELECT count(*) FROM event WHERE state = 1 AND at < 9"), 8, "they are left");
        // Alipay brings them again, beside what is known: each is announced once, and the known one not again.
        for notification in damaged.iter().chain([&whole]) {
            assert!(program.post(&notification.body()).is_success());
        }
        let announced = queue.published(&program, 10).await;
        let ids: Vec<_> = announced.iter().map(|event| event.id().to_owned()).collect();
        let expected: Vec<_> = damaged.iter().map(|paid| paid.event_id("payment.succeeded")).collect();
        assert_eq!(ids, expected);
        // Those of which the store cannot tell whether they were announced: notify_id, and twice the digest.
        let unchecked: Vec<_> = announced.iter().map(is_unchecked).collect();
        assert_eq!(unchecked, [false, false, false, true, true, true, false, false]);
        assert!(is(&program, "store_up", 1.0) && is(&program, "store_unchecked", 0.0));
        // What could be found under its key is written over; a key that is none stays, for a person.
        program
            .wait_until("they are recorded", || number("SELECT count(*) FROM event WHERE state = 0") == 10);
        assert_eq!(number("SELECT count(*) FROM event WHERE state = 1"), 3);
        for notification in &damaged {
            assert!(program.post(&notification.body()).is_success());
        }
        assert!(queue.published(&program, 11).await.is_empty());
    });
}

#[test]
fn a_damaged_file_in_a_folder_that_cannot_be_written_is_said_and_payments_go_on() {
    run(async {
        let (program, faults) = Faults::start("stuck", "");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let payments: Vec<Notification> = (1..=4).map(Notification::payment_now).collect();
        assert!(program.post(&payments[0].body()).is_success());
        checkpoint(&store(&program));
        faults.set(&[("rename", EACCES), ("unlink", EACCES)]);
        damage(&store(&program), [1]);
        for paid in &payments[1..3] {
            assert!(program.post(&paid.body()).is_success());
        }
        program.wait_until("it says so", || {
            is(&program, "store_up", 0.0) && is(&program, "store_unchecked", 1.0)
        });
        program.wait_until("it is logged", || program.log().contains("cannot be set aside"));
        faults.clear();
        program.wait_until("it is back", || {
            is(&program, "store_unchecked", 0.0) && is(&program, "store_up", 1.0)
        });
        assert!(is(&program, "store_damaged_files", 1.0));
        for paid in &payments[1..3] {
            assert_eq!(program.states(paid.trade_no()), ["recorded"]);
        }
        assert_eq!(queue.published(&program, 4).await.len(), 3);
    });
}

/// A file system of its own, where the tests run as root: it is really full.
struct Disk(Folder);

impl Disk {
    fn new() -> Option<Self> {
        let folder = Folder::new();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(folder.path());
        mount.output().is_ok_and(|output| output.status.success()).then_some(Self(folder))
    }

    fn start(&self, name: &str) -> Program {
        let path = self.0.path().join("gateway.db");
        Program::launch(name, "", &crate::support::program::amqp_url(), |mut command| {
            command.env("GATEWAY_STORE__PATH", path);
            command
        })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_file_system_that_is_really_full_is_ridden_out() {
    let Some(disk) = Disk::new() else {
        eprintln!("not run: only root mounts a file system");
        return;
    };
    run(async {
        let program = disk.start("really-full");
        let filler = disk.0.path().join("filler");
        let begin = || {
            // Emptying the log makes room, which is filled again, until there is none to be made.
            for n in 101..200 {
                let mut more = std::fs::File::options().create(true).append(true).open(&filler).unwrap();
                let full = more.write_all(&vec![0; 2 << 20]).unwrap_err();
                assert_eq!(full.raw_os_error(), Some(ENOSPC));
                assert!(program.post(&Notification::payment_now(n).body()).is_success());
                if is(&program, "store_unchecked", 1.0) {
                    return;
                }
            }
        };
        rides_out(&program, begin, || std::fs::remove_file(&filler).unwrap()).await;
    });
}
