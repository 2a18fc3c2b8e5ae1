//! The real binary on a real Redis: it remembers, for every replica; it rides out a Redis that is killed, frozen or failed
//! over; and what is to be known of a Redis before payments depend on it.

use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use alipay_notify_gateway::clock::{Clock as _, SystemClock, Timestamp};
use alipay_notify_gateway::secret::{Secret, Source};
use alipay_notify_gateway::store::redis::{self, Config, Redis, check};
use alipay_notify_gateway::store::sqlite::{self, Sqlite};
use alipay_notify_gateway::store::{
    Cause, Claim, Decision, Deferral, Kept, Record, State, Store as _, WhenAway,
};

use crate::store_faults::{is, is_unchecked, rides_out};
use crate::support::alipay::{self, Notification};
use crate::support::authority::Authority;
use crate::support::program::{Folder, Program, amqp_url, unique};
use crate::support::queue::{Event, Queue};
use crate::support::redis::{Node, Nodes, cli, cluster_url, redis_url};
use crate::support::rows::{holding, kept, key, record};
use crate::support::run;

/// `[store]` of a Redis, in the place of the file.
fn keys(url: &str, prefix: &str, more: &str) -> String {
    format!("engine = \"redis\"\nuri = \"{url}\"\nprefix = \"{prefix}\"\n{more}")
}

fn start(name: &str, url: &str, prefix: &str, more: &str) -> Program {
    let store = keys(url, prefix, more);
    let change = |text: String| text.replace("path = \"gateway.db\"", &store);
    let program = Program::launch_configured(name, &amqp_url(), change, |command| command);
    program.is_connected();
    program
}

fn recorded(program: &Program, payment: &Notification) -> bool {
    program.states(payment.trade_no()) == ["recorded"]
}

#[test]
fn what_one_replica_has_announced_every_other_knows_and_a_restart_too() {
    run(async {
        for url in [redis_url(), cluster_url()] {
            let prefix = unique("shared");
            let (mut one, other) = (start("one", &url, &prefix, ""), start("other", &url, &prefix, ""));
            let mut queue = Queue::bound(&one.exchange, &["#"]).await;
            let mut others = Queue::bound(&other.exchange, &["#"]).await;
            let paid = Notification::payment_now(1);
            assert!(one.post(&paid.body()).is_success(), "{}", one.log());
            assert_eq!(queue.next().await.id(), paid.event_id("payment.succeeded"));
            assert!(recorded(&one, &paid) && recorded(&other, &paid));
            assert!(other.post(&paid.body()).is_success());
            assert!(is(&other, "notifications_total{outcome=\"duplicate\"}", 1.0));
            assert!(others.published(&other, 2).await.is_empty(), "nothing from it but the next");
            one.kill();
            one.restart();
            one.is_connected();
            assert!(one.post(&paid.body()).is_success());
            assert!(is(&one, "notifications_total{outcome=\"duplicate\"}", 1.0));
            assert!(queue.published(&one, 3).await.is_empty());
        }
    });
}

#[test]
fn a_redis_that_is_killed_is_ridden_out() {
    run(async {
        let node = std::cell::RefCell::new(Node::start(&[]));
        let program = start("killed", &node.borrow().url(), "alipay", "");
        rides_out(&program, || node.borrow_mut().kill(), || node.borrow_mut().run()).await;
    });
}

#[test]
fn a_redis_that_is_frozen_is_ridden_out() {
    run(async {
        let node = Node::start(&[]);
        let program = start("frozen", &node.url(), "alipay", "");
        rides_out(&program, || node.signal("STOP"), || node.signal("CONT")).await;
    });
}

#[test]
fn a_cluster_of_which_one_master_is_frozen_is_ridden_out() {
    run(async {
        let nodes = Nodes::start(&["cluster"], &[]);
        let program = start("shard", &nodes.url, "alipay", "");
        let ports = nodes.ports();
        let freeze = || {
            nodes.signal(&ports[1], "STOP");
            // The gauges ask every bucket.
            program.wait_until("it is noticed", || is(&program, "store_up", 0.0));
            // Before anything has come that it is needed for.
            let ready = program.get("/readyz").unwrap();
            assert!(ready.status == 200 && ready.body.contains("degraded"), "{ready:?}");
            assert!(ready.body.contains("\"store\":\"it cannot be read\""), "{ready:?}");
        };
        rides_out(&program, freeze, || nodes.signal(&ports[1], "CONT")).await;
    });
}

#[test]
fn a_redis_that_is_full_is_ridden_out() {
    run(async {
        let node = Node::start(&["--maxmemory-policy", "noeviction"]);
        let program = start("full", &node.url(), "alipay", "");
        let url = node.url();
        let limit = |bytes: &str| drop(cli(&url, &["CONFIG", "SET", "maxmemory", bytes]));
        rides_out(&program, || limit("1"), || limit("0")).await;
    });
}

#[test]
fn a_gateway_starts_although_its_redis_is_away_and_records_when_it_comes() {
    run(async {
        let mut node = Node::start(&[]);
        node.kill();
        let program = start("absent", &node.url(), "alipay", "");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let paid = Notification::payment_now(1);
        assert!(program.post(&paid.body()).is_success(), "{}", program.log());
        assert!(is_unchecked(&queue.next().await));
        node.run();
        program.wait_until("it is there", || is(&program, "store_unchecked", 0.0));
        assert!(recorded(&program, &paid));
        assert!(program.post(&paid.body()).is_success());
        assert!(queue.published(&program, 2).await.is_empty(), "announced once");
    });
}

/// Pays one after the other until it is told to stop, and says what was paid.
fn pays(program: &Program, from: u64, stop: &AtomicBool) -> Vec<Notification> {
    let mut paid = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let payment = Notification::payment_now(from + paid.len() as u64);
        let answer = program.post(&payment.body());
        assert!(answer.is_success(), "{answer:?}\n{}", program.log());
        paid.push(payment);
        // Not a wait for anything: a customer every few milliseconds.
        std::thread::sleep(Duration::from_millis(5));
    }
    paid
}

/// Customers pay while the store is taken away and given back; each payment is announced, and once.
async fn loses_nothing(program: &Program, take: impl FnOnce(), give: impl FnOnce()) -> Vec<Notification> {
    let mut queue = Queue::bound(&program.exchange, &["#"]).await;
    let stop = AtomicBool::new(false);
    let paid = std::thread::scope(|scope| {
        let (program, stop) = (&program, &stop);
        let payers = [1_000_000, 2_000_000].map(|from| scope.spawn(move || pays(program, from, stop)));
        program.wait_until("there is load", || program.outcome("announced") > 20.0);
        take();
        program.wait_until("it has noticed", || is(program, "store_unchecked", 1.0));
        let before = program.outcome("announced");
        program.wait_until("payments go on", || program.outcome("announced") > before + 20.0);
        give();
        program
            .wait_until("it is back", || is(program, "store_unchecked", 0.0) && is(program, "store_up", 1.0));
        let before = program.outcome("announced");
        program.wait_until("payments go on", || program.outcome("announced") > before + 20.0);
        stop.store(true, Ordering::Relaxed);
        payers.into_iter().flat_map(|payer| payer.join().unwrap()).collect::<Vec<_>>()
    });
    let events = queue.published(program, 9).await;
    let mut announced: Vec<&str> = events.iter().map(Event::id).collect();
    let mut expected: Vec<String> = paid.iter().map(|paid| paid.event_id("payment.succeeded")).collect();
    announced.sort_unstable();
    expected.sort();
    assert_eq!(announced, expected, "each once");
    paid
}

#[test]
fn a_redis_that_is_stopped_and_started_under_load_loses_nothing() {
    run(async {
        let node = std::cell::RefCell::new(Node::start(&[]));
        let program = start("load", &node.borrow().url(), "alipay", "");
        let paid = loses_nothing(&program, || node.borrow_mut().kill(), || node.borrow_mut().run()).await;
        for payment in &paid {
            assert!(recorded(&program, payment), "{}", payment.trade_no());
        }
    });
}

#[test]
fn a_fail_over_by_sentinel_loses_no_payment() {
    run(async {
        let nodes = Nodes::start(&["sentinel"], &[]);
        let program = start("sentinel", &nodes.url, "alipay", "");
        let sentinel = nodes.url.replace("/gateway", "");
        let master = || {
            let place = cli(&sentinel, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "gateway"]);
            place.lines().nth(1).unwrap().to_owned()
        };
        let first = master();
        let paid = loses_nothing(&program, || nodes.signal(&first, "KILL"), || {}).await;
        assert_ne!(master(), first, "it was failed over");
        // What the old master had not passed on may be forgotten: delivered again it is repeated, with the same id.
        let kept = paid.iter().filter(|payment| recorded(&program, payment)).count();
        assert!(kept * 2 > paid.len(), "{kept} of {}", paid.len());
    });
}

#[test]
fn where_it_is_so_configured_nothing_is_published_while_redis_is_away() {
    run(async {
        let mut node = Node::start(&[]);
        let program = start("refuse", &node.url(), "alipay", "unavailable = \"refuse\"");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let [first, second] = [1, 2].map(Notification::payment_now);
        // A machine with much to do may have Redis answer too late.
        program.wait_until("it is announced", || program.post(&first.body()).is_success());
        queue.next().await;
        // A line a second, and not one for each.
        let (began, from) = (std::time::Instant::now(), program.log().matches("told fail").count());
        node.kill();
        for payment in [&first, &second] {
            let answer = program.post(&payment.body());
            assert!(answer.is_fail(503), "{answer:?}\n{}", program.log());
        }
        for n in 10..60 {
            assert!(program.post(&Notification::payment_now(n).body()).is_fail(503));
        }
        let (said, seconds) = (program.log().matches("told fail").count() - from, began.elapsed().as_secs());
        assert!(said as u64 <= seconds + 2, "{said} in {seconds} s");
        assert!(is(&program, "store_refusing", 1.0) && is(&program, "store_unchecked", 0.0));
        assert!(program.get("/readyz").unwrap().body.contains("refused"));
        node.run();
        program.wait_until("it is back", || is(&program, "store_refusing", 0.0));
        program.wait_until("it is announced", || program.post(&second.body()).is_success());
        assert_eq!(queue.next().await.id(), second.event_id("payment.succeeded"), "and nothing before it");
    });
}

#[test]
fn a_key_that_is_not_ours_is_named_and_only_its_own_payment_goes_unchecked() {
    run(async {
        let node = Node::start(&[]);
        let program = start("damage", &node.url(), "alipay", "");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let [one, other, next] = [1, 2, 3].map(Notification::payment_now);
        assert!(program.post(&other.body()).is_success());
        let key = cli(&node.url(), &["--scan", "--pattern", "*:t:*"]);
        queue.next().await;
        cli(&node.url(), &["DEL", &key]);
        cli(&node.url(), &["SET", &key, "junk"]);
        assert!(program.post(&other.body()).is_success(), "{}", program.log());
        assert!(is_unchecked(&queue.next().await));
        program.wait_until("it is named", || program.log().contains(&key));
        for payment in [&one, &next] {
            assert!(program.post(&payment.body()).is_success());
            assert!(!is_unchecked(&queue.next().await));
            assert!(recorded(&program, payment));
        }
        assert!(is(&program, "store_unchecked", 0.0) && is(&program, "store_unrecorded", 0.0));
    });
}

#[test]
fn what_a_shorter_retention_has_left_goes_on_expiring() {
    run(async {
        let at = |seconds: i64| Timestamp::from_unix_millis(seconds * 1000);
        for url in [redis_url(), cluster_url()] {
            let config = config(&url);
            let since = async |retention, now| {
                let store = Redis::open(&config).await;
                store.complete_since(Duration::from_secs(retention), at(now)).await.unwrap()
            };
            assert_eq!(since(1000, 100_000).await, at(0), "what the present one leaves is known");
            assert_eq!(since(1000, 200_000).await, at(0));
            // Raised: each record of before expires after 1000 s, until there are none. Two minutes more, for who asks rarely.
            assert_eq!(since(50_000, 200_060).await, at(200_060 - 1000 + 120));
            assert_eq!(since(50_000, 200_900).await, at(200_900 - 1000 + 120));
            assert_eq!(since(50_000, 300_000).await, at(200_000 + 120));
            assert_eq!(since(1000, 300_000).await, at(0), "and back again");
            // By a clock that was ahead: as if it were in force still, and no more.
            assert_eq!(since(1000, 9_000_000).await, at(0));
            // One that is behind takes nothing away.
            assert_eq!(since(1000, 100_000).await, at(0));
            assert_eq!(since(50_000, 400_000).await, at(400_000 - 1000 + 120));
        }
    });
}

fn config(url: &str) -> Config {
    Config {
        uri: Source::Here(Secret::new(url)),
        ca_file: None,
        prefix: unique("check"),
        when_away: WhenAway::Unchecked,
        max_deferred: 10,
        max_returned: 10,
        max_deferred_bytes: 1 << 20,
        max_held: 10,
        max_held_bytes: 1 << 20,
    }
}

#[test]
fn a_redis_that_may_throw_records_away_is_refused_and_one_that_forgets_is_remarked_on() {
    run(async {
        for url in [redis_url(), cluster_url()] {
            let good = check(&config(&url)).await.unwrap();
            assert!(good.refusals.is_empty() && good.warnings.is_empty(), "{good:?}");
        }
        let node = Node::start(&["--maxmemory-policy", "volatile-ttl"]);
        let verdict = check(&config(&node.url())).await.unwrap();
        assert!(verdict.refusals[0].contains("maxmemory-policy is volatile-ttl"), "{verdict:?}");
        let node = Node::start(&["--appendonly", "no"]);
        let verdict = check(&config(&node.url())).await.unwrap();
        assert!(verdict.refusals.is_empty() && verdict.warnings[0].contains("neither appendonly nor save"));
        // A hosted Redis that lets nobody look: what could not be seen is said.
        let hosted = ["--user", "shop", "on", ">secret", "~*", "+@all", "-config", "-info"];
        let node = Node::start(&hosted);
        let login = node.url().replace("redis://", "redis://shop:secret@");
        let verdict = check(&config(&login)).await.unwrap();
        assert!(verdict.refusals.is_empty(), "{verdict:?}");
        assert!(verdict.warnings.iter().any(|warning| warning.contains("maxmemory-policy")), "{verdict:?}");
        // One that is no master cannot be written.
        let replica = Node::start(&["--replicaof", "127.0.0.1 1"]);
        let verdict = check(&config(&replica.url())).await.unwrap();
        assert!(verdict.refusals.iter().any(|refusal| refusal.contains("cannot be written")), "{verdict:?}");
        let away = check(&config("redis://127.0.0.1:1")).await.unwrap_err();
        assert!(away.contains("refused"), "{away}");
        let wrong = node.url().replace("redis://", "redis://shop:wrong-word@");
        let told = check(&config(&wrong)).await.unwrap_err();
        assert!(!told.contains("wrong-word"), "{told}");
    });
}

#[test]
fn over_tls_only_the_right_redis_is_believed_of_one_node_a_cluster_and_sentinels() {
    run(async {
        let authority = Authority::new("the tests' authority");
        for kind in ["single", "cluster", "sentinel"] {
            let nodes = Nodes::start(&[kind, "tls"], &identity(&authority, "127.0.0.1"));
            let stranger = nodes.folder().write("stranger.pem", Authority::new("a stranger's").pem());
            let with = |url: &str, ca_file| Config { ca_file, ..config(url) };
            let ours = nodes.folder().path().join("ca.pem");
            let good = check(&with(&nodes.url, Some(ours.clone()))).await.unwrap();
            assert!(good.refusals.is_empty(), "{kind}: {good:?}");
            assert!(check(&with(&nodes.url, Some(stranger))).await.is_err(), "{kind}");
            assert!(check(&with(&nodes.url, None)).await.is_err(), "{kind}: the system's do not know it");
            if kind != "sentinel" {
                let mismatch = nodes.url.replace("127.0.0.1", "localhost");
                assert!(check(&with(&mismatch, Some(ours.clone()))).await.is_err(), "{kind}: not its name");
            }
            let more = format!("ca_file = \"{}\"", ours.display());
            let program = start("secure", &nodes.url, "alipay", &more);
            let mut queue = Queue::bound(&program.exchange, &["#"]).await;
            let paid = [1, 2].map(Notification::payment_now);
            remembers(&program, &paid[0]);
            if kind == "sentinel" {
                let sentinel = nodes.url.replace("/gateway", "");
                assert_eq!(cli(&sentinel, &["SENTINEL", "FAILOVER", "gateway"]), "OK");
                program.wait_until("it is connected to the other", || {
                    program.log().matches("redis: connected").count() > 1
                });
            }
            remembers(&program, &paid[1]);
            for paid in &paid {
                assert_eq!(queue.next().await.id(), paid.event_id("payment.succeeded"));
            }
            assert!(queue.published(&program, 9).await.is_empty(), "{kind}");
        }
    });
}

fn identity(authority: &Authority, name: &str) -> [(&'static str, String); 3] {
    let (certificate, key) = authority.issue(name);
    [("ca.pem", authority.pem()), ("redis.pem", certificate), ("redis.key", key)]
}

/// Announces a payment, and answers its next delivery from the store.
fn remembers(program: &Program, paid: &Notification) {
    let before = program.outcome("duplicate");
    for _ in 0..2 {
        let answer = program.post(&paid.body());
        assert!(answer.is_success(), "{answer:?}\n{}", program.log());
    }
    assert!(program.outcome("duplicate") > before && recorded(program, paid));
}

fn store(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_alipay-notify-gateway"));
    command.arg("store").args(arguments).output().unwrap()
}

/// The path of a configuration with this store and one app.
fn configured(folder: &Folder, name: &str, store: &str) -> String {
    folder.write("alipay.pem", alipay::public_pem());
    let app = "[[apps]]\napp_id = \"2021000000000001\"\nalipay_public_keys = [\"alipay.pem\"]\n";
    folder.write(name, format!("[store]\n{store}\n{app}")).to_str().unwrap().to_owned()
}

fn file_at(path: std::path::PathBuf) -> Sqlite {
    let config = sqlite::Config {
        path,
        max_deferred: 100,
        max_returned: 100,
        max_deferred_bytes: 1 << 20,
        max_held: 100,
        max_held_bytes: 1 << 20,
    };
    Sqlite::open(&config, Arc::new(SystemClock)).unwrap()
}

/// What is kept, but for the first line, which has the time.
fn exported(config: &str) -> Vec<String> {
    let output = store(&["export", "--config", config]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<String> = text.lines().skip(1).map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn what_is_kept_moves_from_sqlite_to_redis_and_back() {
    for url in [redis_url(), cluster_url()] {
        let folder = Folder::new();
        let write = |name: &str, store: &str| configured(&folder, name, store);
        let (from, back) =
            (write("from.toml", "path = \"from.db\""), write("back.toml", "path = \"back.db\""));
        let redis = write("redis.toml", &keys(&url, &unique("move"), ""));
        run(furnish(folder.path().join("from.db")));
        let kept = exported(&from);
        assert_eq!(kept.len(), 600 + 20 + 20 + 1, "and how many they are");
        for (source, target) in [(&from, &redis), (&redis, &back)] {
            let file = folder.path().join(unique("export"));
            let file = file.to_str().unwrap();
            assert!(store(&["export", "--config", source, "--out", file]).status.success());
            for taken in ["640 entries taken, 0 were known", "0 entries taken, 640 were known"] {
                let output = store(&["import", "--config", target, file]);
                assert!(String::from_utf8_lossy(&output.stdout).contains(taken), "{output:?}");
            }
            assert!(exported(target) == kept, "{target}");
        }
    }
}

#[test]
fn since_when_nothing_is_missing_moves_along() {
    for url in [redis_url(), cluster_url()] {
        let folder = Folder::new();
        let write = |name: &str, store: &str| configured(&folder, name, store);
        let prefix = unique("since");
        let redis = write("redis.toml", &keys(&url, &prefix, ""));
        let file = write("file.toml", "path = \"file.db\"");
        let head = |config: &str| {
            let output = store(&["export", "--config", config]);
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap().lines().next().unwrap().to_owned()
        };
        let bring = |config: &str, since: Timestamp| {
            let since = since.rfc3339_utc();
            let head = format!(
                r#"{{"format":"alipay-notify-gateway-store","version":1,"at":"{since}","complete_since":"{since}"}}"#
            );
            let export = folder.write(&unique("export"), format!("{head}\n{{\"entries\":0}}\n"));
            store(&["import", "--config", config, export.to_str().unwrap()])
        };
        let says = |head: String, since: Timestamp| {
            assert!(head.ends_with(&format!(r#""complete_since":"{}"}}"#, since.rfc3339_utc())), "{head}");
        };
        let since = SystemClock.now().before(Duration::from_secs(2 * 86_400));
        let earlier = since.before(Duration::from_secs(60));
        for config in [&file, &redis] {
            assert!(bring(config, since).status.success());
            assert!(bring(config, earlier).status.success());
        }
        says(head(&file), since);
        says(head(&redis), since);
        let to_come = SystemClock.now().plus(Duration::from_secs(3600));
        for config in [&file, &redis] {
            assert_eq!(bring(config, to_come).status.code(), Some(65), "every payment would be late");
        }
        says(head(&file), since);
        // A gateway whose clock is behind takes nothing away.
        run(async {
            let store = Redis::open(&Config { prefix, ..config(&url) }).await;
            let behind = since.before(Duration::from_secs(86_400));
            let told = store.complete_since(Duration::from_secs(35 * 86_400), behind).await.unwrap();
            assert_eq!(told, Timestamp::default());
        });
        says(head(&redis), since);
    }
}

#[test]
fn what_is_imported_is_kept_as_long_as_the_retention_that_it_is_imported_with_says() {
    for url in [redis_url(), cluster_url()] {
        let folder = Folder::new();
        let write = |name: &str, store: &str| configured(&folder, name, store);
        let from = write("from.toml", "path = \"from.db\"");
        let redis = write("redis.toml", &keys(&url, &unique("longer"), "retention = \"60d\""));
        let days = |days: u64| Duration::from_secs(days * 86_400);
        // Written with a retention of three days.
        let at = SystemClock.now().before(days(1));
        run(async {
            let store = file_at(folder.path().join("from.db"));
            store.record(vec![Record { at, expires_at: at.plus(days(3)), ..record(1) }]).await.unwrap();
            store.close().await;
        });
        let file = folder.path().join("export.jsonl");
        let file = file.to_str().unwrap();
        assert!(store(&["export", "--config", &from, "--out", file]).status.success());
        assert!(store(&["import", "--config", &redis, file]).status.success());
        let kept = exported(&redis).join("\n");
        assert!(kept.contains(&format!(r#""expires_at":"{}""#, at.plus(days(60)).rfc3339_utc())), "{kept}");
    }
}

/// Rows of every kind that waits or is settled.
async fn furnish(path: std::path::PathBuf) {
    let store = file_at(path);
    let expires_at = SystemClock.now().plus(Duration::from_secs(40 * 86_400));
    store.record((1..=600).map(|n| Record { expires_at, ..record(n) }).collect()).await.unwrap();
    store.defer((1001..=1020).map(|n| kept(n, "1.00")).collect()).await.unwrap();
    store.hold((2001..=2020).map(holding).collect()).await.unwrap();
    store.close().await;
}

/// The commands of a section of docs/deployment.md, in that folder; what the manual shows as an answer must be in it.
fn follow(section: &str, folder: &Folder) {
    let manual = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/deployment.md")).unwrap();
    let section = manual.split_once(&format!("## {section}\n")).unwrap().1.split("\n## ").next().unwrap();
    let gateway = std::path::Path::new(env!("CARGO_BIN_EXE_alipay-notify-gateway")).parent().unwrap();
    let path = format!("{}:{}", gateway.display(), std::env::var("PATH").unwrap());
    let mut said = String::new();
    for block in section.split("```console\n").skip(1) {
        for line in block.split("```").next().unwrap().lines() {
            if let Some(command) = line.strip_prefix("$ ") {
                let mut bash = Command::new("bash");
                bash.args(["-c", command]).current_dir(folder.path()).env("PATH", &path);
                let output = bash.env_remove("AMQP_URL").output().unwrap();
                assert!(output.status.success(), "{command}: {output:?}");
                said = String::from_utf8(output.stdout).unwrap();
            } else {
                assert!(said.contains(line), "{line}: {said}");
            }
        }
    }
}

#[test]
fn a_running_shop_moves_from_sqlite_to_redis_by_the_commands_of_the_manual() {
    run(async {
        let node = Node::start(&[]);
        let mut program = Program::start("moves");
        let mut queue = Queue::bound(&program.exchange, &["payment.succeeded"]).await;
        let [paid, other, meanwhile] = [1, 2, 3].map(Notification::payment_now);
        let refund = other.set("refund_fee", "0.01").set("out_biz_no", "R1").without("receipt_amount");
        assert!(program.post(&paid.body()).is_success());
        queue.next().await;
        // No queue takes it.
        assert!(program.post(&refund.body()).is_fail(503));
        program.wait_until("it waits", || program.states(refund.trade_no()) == ["deferred"]);
        let config = std::fs::read_to_string(program.folder().path().join("gateway.toml")).unwrap();
        let store = keys(&node.url(), "alipay", "");
        program.folder().write("redis.toml", config.replace("path = \"gateway.db\"", &store));
        program.signal("TERM");
        assert!(program.end().success());
        follow("From SQLite to Redis", program.folder());
        program.restart();
        program.is_connected();
        assert_eq!(program.states(refund.trade_no()), ["deferred"]);
        let mut refunds = Queue::bound(&program.exchange, &["payment.refunded"]).await;
        assert_eq!(refunds.next().await.id(), refund.event_id("payment.refunded.R1"));
        // Alipay delivers again what nobody answered, and now and then what somebody did.
        program.wait_until("it is answered", || program.post(&paid.body()).is_success());
        assert!(program.outcome("duplicate") > 0.0);
        program.wait_until("it is announced", || program.post(&meanwhile.body()).is_success());
        assert_eq!(queue.next().await.id(), meanwhile.event_id("payment.succeeded"), "and nothing before it");
    });
}

#[test]
fn an_export_that_fails_leaves_no_file() {
    let folder = Folder::new();
    folder.write("alipay.pem", alipay::public_pem());
    let app = "[[apps]]\napp_id = \"2021000000000001\"\nalipay_public_keys = [\"alipay.pem\"]\n";
    let away = keys("redis://127.0.0.1:1", "alipay", "");
    let config = folder.write("away.toml", format!("[store]\n{away}\n{app}"));
    let before = std::fs::read_dir(folder.path()).unwrap().count();
    let file = folder.path().join("export.jsonl");
    let arguments = ["export", "--config", config.to_str().unwrap(), "--out", file.to_str().unwrap()];
    let output = store(&arguments);
    assert!(!output.status.success(), "{output:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), before, "not even in part");
    // What is there is not overwritten.
    std::fs::write(&file, "another").unwrap();
    assert!(!store(&arguments).status.success());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "another");
}

/// What docs/configuration.md says that the gateway's user may do.
fn documented_commands() -> Vec<String> {
    let manual =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md")).unwrap();
    let block = manual.split_once("ACL SETUSER gateway ").unwrap().1.split_once("```").unwrap().0;
    let words = block.split_whitespace().filter(|word| word.starts_with(['+', '-']));
    words.map(str::to_owned).collect()
}

#[test]
fn a_user_who_may_do_what_the_manual_says_and_no_more_is_enough() {
    let rules = documented_commands();
    let single = Node::start(&[]);
    let nodes = Nodes::start(&["sentinel"], &[]);
    let cluster = Nodes::start(&["cluster"], &[]);
    let sentinel = nodes.url.replace("/gateway", "");
    let master = cli(&sentinel, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "gateway"]);
    let master = format!("redis://127.0.0.1:{}", master.lines().nth(1).unwrap());
    let mut needless: Option<BTreeSet<String>> = None;
    let of_cluster = cluster.ports().into_iter().map(|port| format!("redis://127.0.0.1:{port}"));
    for (url, places) in [
        (single.url(), vec![single.url()]),
        (nodes.url.clone(), vec![master]),
        (cluster.url.clone(), of_cluster.collect()),
    ] {
        let prefix = unique("acl");
        for place in &places {
            let pattern = format!("~{prefix}:*");
            let user = ["ACL", "SETUSER", "shop", "reset", "on", ">secret", &pattern];
            let rules: Vec<&str> = user.into_iter().chain(rules.iter().map(String::as_str)).collect();
            assert_eq!(cli(place, &rules), "OK");
            cli(place, &["CONFIG", "RESETSTAT"]);
        }
        let login = url.replacen("://", "://shop:secret@", 1);
        run(use_everything(&login, &prefix));
        for place in &places {
            let denied = cli(place, &["ACL", "LOG"]);
            assert!(denied.is_empty(), "{url}: {denied}");
        }
        let stats: Vec<String> = places.iter().map(|place| cli(place, &["INFO", "commandstats"])).collect();
        let used = |rule: &str| stats.iter().any(|stats| stats.contains(&format!("cmdstat_{rule}:")));
        let unused = rules.iter().filter(|rule| rule.starts_with('+') && !used(&rule[1..])).cloned();
        let unused: BTreeSet<String> = unused.collect();
        needless = Some(needless.map_or(unused.clone(), |needless| &needless & &unused));
    }
    assert_eq!(needless, Some(BTreeSet::new()), "none is needless");
}

/// Everything that a gateway, `check --connect`, `store export` and `store import` do.
async fn use_everything(url: &str, prefix: &str) {
    let config = Config { prefix: prefix.to_owned(), ..config(url) };
    let verdict = Box::pin(check(&config)).await.unwrap();
    assert!(verdict.refusals.is_empty(), "{verdict:?}");
    let store = Redis::open(&config).await;
    store.claim([1, 2, 3, 4].map(key).into()).await.unwrap();
    assert!(
        store
            .defer([1, 2].map(|n| kept(n, "1.00")).into())
            .await
            .unwrap()
            .iter()
            .all(|kept| *kept == Kept::Yes)
    );
    store.defer(vec![kept(1, "2.00")]).await.unwrap();
    store.renew([3].map(key).into()).await.unwrap();
    assert_eq!(store.hold(vec![holding(5), holding(6)]).await.unwrap(), [Kept::Yes, Kept::Yes]);
    let due = store.due(alipay::now().plus(Duration::from_secs(9)), 9, Vec::new()).await.unwrap();
    assert_eq!(due.len(), 3);
    store.release(due.iter().map(|waiting| waiting.key.clone()).chain([key(4)]).collect()).await.unwrap();
    let other = Redis::open(&config).await;
    assert_eq!(other.claim(vec![key(3)]).await.unwrap(), [Claim::HeldElsewhere]);
    other.due(alipay::now().plus(Duration::from_secs(9)), 9, Vec::new()).await.unwrap();
    store.due(alipay::now().plus(Duration::from_secs(9)), 9, Vec::new()).await.unwrap();
    store.record([1, 2, 3].map(record).into()).await.unwrap();
    store.record([5].map(record).into()).await.unwrap();
    // What another has in doubt is put off; what waits of other money steps aside.
    let doubt = Deferral { state: State::InDoubt, cause: Cause::InDoubt, ..kept(7, "1.00") };
    store.defer(vec![doubt, kept(8, "2.00")]).await.unwrap();
    other.due(alipay::now().plus(Duration::from_secs(3_600)), 9, Vec::new()).await.unwrap();
    store.record([8].map(record).into()).await.unwrap();
    let drop = |key| Decision {
        key,
        notify_id: "n6".to_owned(),
        state: State::Dropped,
        reason: "a test".to_owned(),
        at: alipay::now(),
        expires_at: alipay::now().plus(Duration::from_secs(60)),
    };
    assert!(store.decide(drop(holding(6).key)).await.unwrap());
    assert!(!store.find(key(1).subject).await.unwrap().is_empty());
    store.waiting(key(2)).await.unwrap();
    store.tally().await.unwrap();
    let reading = tokio::task::spawn_blocking(move || {
        let mut entries = Vec::new();
        redis::read_all(&config, |entry| {
            entries.push(entry.clone());
            Ok(())
        })
        .unwrap();
        let mut shelf = redis::Shelf::open(&config).unwrap();
        entries.into_iter().for_each(|entry| shelf.put(entry).unwrap());
        shelf.finish().unwrap()
    });
    assert!(reading.await.unwrap().known > 0);
}
