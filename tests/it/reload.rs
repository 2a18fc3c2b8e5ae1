//! Apps, keys and sellers are exchanged while the gateway runs: the whole policy or none of it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::thread;

use alipay_notify_gateway::admission::key_ring::PublicKey;
use alipay_notify_gateway::admission::policy::SignType;

use crate::support::alipay::{self, APP_ID, Notification, SELLER_ID};
use crate::support::certificate::certificate_until;
use crate::support::program::Program;
use crate::support::queue::Queue;
use crate::support::run;
use crate::support::signer::{self, pem, stranger};

fn payment(trade: u64) -> Notification {
    Notification::payment_now(trade)
}

/// Changes the configuration file.
fn configure(program: &Program, change: impl FnOnce(String) -> String) {
    let text = fs::read_to_string(program.folder().path().join("gateway.toml")).unwrap();
    program.folder().write("gateway.toml", change(text));
}

fn reloads(program: &Program, result: &str) -> f64 {
    program.metric(&format!("policy_reloads_total{{result=\"{result}\"}}"))
}

/// Tells it by SIGHUP, and waits until it has counted a reload more.
fn tell(program: &Program, result: &str) {
    let before = reloads(program, result);
    program.signal("HUP");
    program.wait_until("it has loaded again", || reloads(program, result) > before);
}

/// The ids of what was published before a payment that is sent now.
async fn published(program: &Program, queue: &mut Queue, marker: u64) -> Vec<String> {
    queue.published(program, marker).await.iter().map(|event| event.id().to_owned()).collect()
}

#[test]
fn a_key_that_comes_with_sighup_is_believed_without_a_restart() {
    run(async {
        let program = Program::start("new-key");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let paid = payment(1);
        assert!(program.post(&paid.body_by(stranger())).is_fail(400));
        assert!(published(&program, &mut queue, 2).await.is_empty());
        assert!(program.rows(paid.trade_no()).is_empty());
        program.folder().write("new.pem", pem(stranger()));
        configure(&program, |text| text.replace("[\"alipay.pem\"]", "[\"alipay.pem\", \"new.pem\"]"));
        tell(&program, "applied");
        assert!(program.post(&paid.body_by(stranger())).is_success(), "{}", program.log());
        assert!(program.post(&payment(3).body()).is_success(), "the old one too");
        assert_eq!(published(&program, &mut queue, 4).await.len(), 2);
        // No file has changed since: only the signal makes it load again.
        tell(&program, "applied");
        program.wait_until("it is logged", || program.log().contains("and are the same"));
    });
}

#[test]
fn a_configuration_that_is_wrong_in_one_thing_changes_nothing_and_is_alarmed() {
    run(async {
        let program = Program::start("refused");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        program.folder().write("new.pem", pem(stranger()));
        let good = fs::read_to_string(program.folder().path().join("gateway.toml")).unwrap();
        // The new key is right; the seller is not.
        configure(&program, |text| {
            text.replace("[\"alipay.pem\"]", "[\"new.pem\"]").replace(SELLER_ID, "no-seller")
        });
        tell(&program, "refused");
        assert!((program.metric("policy_refused") - 1.0).abs() < f64::EPSILON);
        program.wait_until("it is logged", || program.log().contains("no-seller"));
        let stranger = payment(1);
        assert!(program.post(&stranger.body_by(self::stranger())).is_fail(400));
        assert!(program.rows(stranger.trade_no()).is_empty());
        assert!(published(&program, &mut queue, 2).await.is_empty());
        program.folder().write("gateway.toml", good);
        tell(&program, "applied");
        assert!(program.metric("policy_refused").abs() < f64::EPSILON);
        assert!(published(&program, &mut queue, 3).await.is_empty());
    });
}

/// Has sellers come from a pipe, and puts another configuration, with one more key, in the place of the one that names it, once that has
/// been read: who reads a pipe waits for who writes.
fn exchange_once_sellers_are_read(program: &Program) -> thread::JoinHandle<()> {
    let file = program.folder().path().join("gateway.toml");
    let text = fs::read_to_string(&file).unwrap();
    let next = text.replace("[\"alipay.pem\"]", "[\"alipay.pem\", \"new.pem\"]");
    program.folder().write("new.pem", pem(stranger()));
    let pipe = program.folder().path().join("sellers.pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let named = format!("seller_ids = [\"{SELLER_ID}\"]");
    assert!(text.contains(&named));
    program.folder().write("gateway.toml", text.replace(&named, "seller_ids_file = \"sellers.pipe\""));
    thread::spawn(move || {
        let mut pipe = fs::OpenOptions::new().write(true).open(pipe).unwrap();
        fs::write(file, next).unwrap();
        pipe.write_all(SELLER_ID.as_bytes()).unwrap();
    })
}

#[test]
fn a_file_that_is_exchanged_while_another_one_is_read_at_a_start_is_loaded() {
    run(async {
        let mut program = Program::start("meanwhile");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        program.kill();
        let other = exchange_once_sellers_are_read(&program);
        program.restart();
        program.wait_until("the sellers are read", || other.is_finished());
        program.wait_until("it is loaded", || reloads(&program, "applied") > 0.5);
        program.is_connected();
        assert!(program.post(&payment(1).body_by(stranger())).is_success(), "{}", program.log());
        assert_eq!(published(&program, &mut queue, 2).await.len(), 1);
    });
}

#[test]
fn a_file_that_is_exchanged_while_another_one_is_loaded_again_is_loaded() {
    run(async {
        let program = Program::start("meanwhile");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let other = exchange_once_sellers_are_read(&program);
        program.signal("HUP");
        program.wait_until("the sellers are read", || other.is_finished());
        program.wait_until("the first is loaded, and the second", || reloads(&program, "applied") > 1.5);
        assert!(program.post(&payment(1).body_by(stranger())).is_success(), "{}", program.log());
        assert_eq!(published(&program, &mut queue, 2).await.len(), 1);
    });
}

#[test]
fn an_app_that_a_reload_takes_away_is_named_in_the_log() {
    let program = Program::start("apps-named");
    configure(&program, |text| text.replace(APP_ID, "2021000000000077"));
    tell(&program, "applied");
    program.wait_until("it is named", || {
        let log = program.log();
        let named =
            |app: &str, words: &str| log.lines().any(|line| line.contains(words) && line.contains(app));
        named(APP_ID, "no longer configured") && named("2021000000000077", "not configured before")
    });
}

#[test]
fn what_is_fresh_for_longer_than_the_store_remembers_is_refused_until_the_next_start() {
    let mut program = Program::with("fresh", "[freshness]\nmax_age = \"1d\"");
    // Right by itself, but the store goes on forgetting after 35 days.
    configure(&program, |text| {
        text.replace("[store]", "[store]\nretention = \"60d\"").replace("\"1d\"", "\"50d\"")
    });
    tell(&program, "refused");
    assert!((program.metric("policy_refused") - 1.0).abs() < f64::EPSILON);
    program.wait_until("it is told", || program.log().contains("freshness.max_age"));
    configure(&program, |text| text.replace("\"50d\"", "\"1d\""));
    tell(&program, "applied");
    program.wait_until("the section is told", || program.log().contains("\"section\":\"store\""));
    assert!(!program.log().contains("\"section\":\"publication\""), "{}", program.log());
    program.signal("TERM");
    assert_eq!(program.end().code(), Some(0));
}

#[test]
fn a_seller_who_comes_into_the_sellers_file_is_believed_without_a_signal() {
    run(async {
        let program = Program::start("sellers");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        program.folder().write("sellers.txt", format!("# ours\n{SELLER_ID}\n"));
        configure(&program, |text| {
            text.replace(&format!("seller_ids = [\"{SELLER_ID}\"]"), "seller_ids_file = \"sellers.txt\"")
        });
        program.wait_until("it has seen the file", || reloads(&program, "applied") > 0.0);
        let paid = payment(1).set("seller_id", "2088000000000042");
        assert!(program.post(&paid.body()).is_fail(400));
        assert_eq!(program.states(paid.trade_no()), ["held"]);
        assert!(published(&program, &mut queue, 2).await.is_empty());
        program.folder().write("sellers.txt", format!("{SELLER_ID} # ours\n\n2088000000000042\n"));
        program.wait_until("the new list is in force", || reloads(&program, "applied") > 1.0);
        assert!(program.post(&paid.body()).is_success(), "{}", program.log());
        assert_eq!(published(&program, &mut queue, 3).await, [paid.event_id("payment.succeeded")]);
        // A list that was emptied by mistake does not mean that any seller is ours.
        program.folder().write("sellers.txt", "# nobody\n");
        program.wait_until("it is refused", || reloads(&program, "refused") > 0.0);
        program.wait_until("it is logged", || program.log().contains("names no seller"));
        assert!(program.post(&payment(4).set("seller_id", "2088000000000043").body()).is_fail(400));
    });
}

#[test]
fn a_mounted_secret_that_is_exchanged_by_turning_a_link_is_believed_without_a_signal() {
    run(async {
        let program = Program::start("mounted");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let mount = program.folder().path().join("keys");
        mount_secret(&mount, "..2026_11_25_08_00_00.1", alipay::public_pem());
        symlink("..data/alipay.pem", mount.join("alipay.pem")).unwrap();
        configure(&program, |text| text.replace("[\"alipay.pem\"]", "[\"keys/alipay.pem\"]"));
        tell(&program, "applied");
        let paid = payment(1);
        assert!(program.post(&paid.body_by(stranger())).is_fail(400));
        let before = reloads(&program, "applied");
        mount_secret(&mount, "..2026_11_25_09_00_00.2", pem(stranger()));
        fs::remove_dir_all(mount.join("..2026_11_25_08_00_00.1")).unwrap();
        program.wait_until("the new key is in force", || reloads(&program, "applied") > before);
        assert!(program.post(&paid.body_by(stranger())).is_success(), "{}", program.log());
        assert!(program.post(&payment(2).body()).is_fail(400), "the old one is gone");
        let marked = payment(3);
        assert!(program.post(&marked.body_by(stranger())).is_success());
        let ids = [queue.next().await, queue.next().await].map(|event| event.id().to_owned());
        assert_eq!(ids, [&paid, &marked].map(|sent| sent.event_id("payment.succeeded")));
    });
}

#[test]
fn a_renewed_certificate_of_the_same_key_brings_its_own_end() {
    let program = Program::start("renewed");
    let name = "支付宝(中国)网络技术有限公司-2088001111111111";
    let until = |end| certificate_until(alipay::private_key(), name, "Ant Financial", end);
    let (key, _) = PublicKey::read(alipay::public_pem().as_bytes(), APP_ID, SignType::Rsa2).unwrap();
    let labels = format!("app_id=\"{APP_ID}\",key=\"{}\"", key.fingerprint());
    let shown = || program.metric(&format!("key_expires_timestamp_seconds{{{labels}}}"));
    let ends = |at: f64| program.wait_until("the end is shown", || (shown() - at).abs() < 1.0);
    program.folder().write("alipay.pem", until("310101000000Z"));
    tell(&program, "applied");
    ends(1_924_992_000.0);
    program.folder().write("alipay.pem", until("360101000000Z"));
    tell(&program, "applied");
    ends(2_082_758_400.0);
    // Both, in either order: the later one counts.
    program.folder().write("old.crt", until("310101000000Z"));
    configure(&program, |text| text.replace("[\"alipay.pem\"]", "[\"old.crt\", \"alipay.pem\"]"));
    tell(&program, "applied");
    ends(2_082_758_400.0);
    let paid = payment(1);
    // Nothing is bound: it is authentic, and waits for a queue.
    assert!(program.post(&paid.body()).is_fail(503), "it is the same key: {}", program.log());
    assert_eq!(program.states(paid.trade_no()), ["deferred"]);
}

/// What a kubelet does with a Secret: the files in a folder of their own, and the link `..data` turned to it in one step.
fn mount_secret(mount: &Path, version: &str, key: impl AsRef<[u8]>) {
    fs::create_dir_all(mount.join(version)).unwrap();
    fs::write(mount.join(version).join("alipay.pem"), key).unwrap();
    symlink(version, mount.join("..data_tmp")).unwrap();
    fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
}

#[test]
fn an_app_is_added_without_a_restart() {
    run(async {
        let program = Program::start("new-app");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let paid = payment(1).set("app_id", "2021000000000777");
        assert!(program.post(&paid.body_by(stranger())).is_fail(400));
        program.folder().write("new.pem", pem(stranger()));
        configure(&program, |text| {
            text + "\n[[apps]]\napp_id = \"2021000000000777\"\nalipay_public_keys = [\"new.pem\"]\n"
        });
        tell(&program, "applied");
        assert!(program.post(&paid.body()).is_fail(400), "the other app's key proves nothing");
        assert!(published(&program, &mut queue, 2).await.is_empty());
        assert!(program.post(&paid.body_by(stranger())).is_success());
        let ids = published(&program, &mut queue, 3).await;
        assert_eq!(ids, [format!("2021000000000777.{}.payment.succeeded", paid.trade_no())]);
        // Another key of its, and then taken away again, with the series of both: nobody is to be paged for its silence.
        program.folder().write("new.pem", pem(signer::alipay()));
        tell(&program, "applied");
        let shown = || program.get("/metrics").unwrap().body;
        let is_shown = || shown().contains(r#"key_verifications_total{app_id="2021000000000777""#);
        assert!(is_shown());
        let keys = || {
            shown()
                .lines()
                .filter(|line| {
                    line.starts_with(r#"alipay_gateway_key_verifications_total{app_id="2021000000000777""#)
                })
                .count()
        };
        assert_eq!(keys(), 2, "a key that was exchanged keeps what it counted");
        configure(&program, |text| {
            text.split("\n[[apps]]\napp_id = \"2021000000000777\"").next().unwrap().to_owned()
        });
        tell(&program, "applied");
        assert!(!is_shown());
        assert!(shown().contains(&format!(r#"key_verifications_total{{app_id="{APP_ID}""#)));
        assert!(program.post(&payment(4).set("app_id", "2021000000000777").body_by(stranger())).is_fail(400));
    });
}

#[test]
fn a_key_in_shadow_is_counted_and_told_and_publishes_nothing_until_it_is_believed() {
    run(async {
        let program = Program::start("shadow");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        program.folder().write("new.pem", pem(stranger()));
        configure(&program, |text| text + "shadow_public_keys = [\"new.pem\"]\n");
        tell(&program, "applied");
        let paid = payment(1);
        assert!(program.post(&paid.body_by(stranger())).is_fail(400));
        assert!(program.rows(paid.trade_no()).is_empty());
        assert!((program.metric("rejections_total{reason=\"shadow_key\"}") - 1.0).abs() < f64::EPSILON);
        assert!(published(&program, &mut queue, 2).await.is_empty());
        let keys: Vec<serde_json::Value> = serde_json::from_str(&program.get("/keys").unwrap().body).unwrap();
        let shadow = keys.iter().find(|key| key["shadow"] == true).unwrap();
        let full = keys.iter().find(|key| key["shadow"] == false).unwrap();
        assert!(shadow["last_at"].is_string() && full["last_at"].is_string(), "{keys:?}");
        let key = shadow["key"].as_str().unwrap();
        let counted =
            program.metric(&format!("key_verifications_total{{app_id=\"{APP_ID}\",key=\"{key}\"}}"));
        assert!((counted - 1.0).abs() < f64::EPSILON);
        configure(&program, |text| {
            text.replace("shadow_public_keys = [\"new.pem\"]\n", "")
                .replace("[\"alipay.pem\"]", "[\"alipay.pem\", \"new.pem\"]")
        });
        tell(&program, "applied");
        assert!(program.post(&paid.body_by(stranger())).is_success());
        assert_eq!(published(&program, &mut queue, 3).await, [paid.event_id("payment.succeeded")]);
    });
}
