//! `simulate scenario`: every story against the real gateway and the real broker; and stories that must fail.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use rsa::pkcs8::{EncodePrivateKey as _, LineEnding};

use crate::support::alipay;
use crate::support::program::{Folder, Program, amqp_url};
use crate::support::proxy::Proxy;

const GATEWAY: &str = env!("CARGO_BIN_EXE_alipay-notify-gateway");

fn play(name: &str, program: &Program, more: &[&str]) -> Output {
    let folder = Folder::new();
    let pem = alipay::private_key().to_pkcs8_pem(LineEnding::LF).unwrap();
    let (key, uri) = (folder.write("alipay.pem", pem.as_bytes()), folder.write("uri", amqp_url()));
    let mut command = Command::new(GATEWAY);
    let url = format!("http://{}/alipay/notify", program.http);
    command.args(["simulate", "scenario", name, "--url", &url, "--exchange", &program.exchange]);
    command.args(["--app-id", alipay::APP_ID, "--seller-id", alipay::SELLER_ID]);
    command.arg("--key").arg(key).arg("--amqp-file").arg(uri).args(more).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn every_story_that_needs_nothing_more_is_as_promised() {
    let program = Program::start("scenarios");
    let output = play("all", &program, &[]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}{}", text(&output.stderr));
    assert!(said.contains("7 played: everything was as promised."), "{said}");
    for left_out in ["key-rotation", "broker-outage"] {
        assert!(said.contains(&format!("{left_out}: left out")), "{said}");
    }
}

#[test]
fn a_rotation_is_as_promised_with_both_keys_and_told_where_the_new_one_is_missing() {
    let folder = Folder::new();
    let keys = Command::new(GATEWAY).args(["simulate", "keys"]).arg(folder.path()).output().unwrap();
    assert!(keys.status.success());
    let next = folder.path().join("alipay-private.pem");
    let next = next.to_str().unwrap();
    let public = std::fs::read_to_string(folder.path().join("alipay-public.pem")).unwrap();
    let both = |text: String| text.replace("[\"alipay.pem\"]", "[\"alipay.pem\", \"next.pem\"]");
    let program = Program::launch_with_files("rotation", &amqp_url(), &[("next.pem", public.as_str())], both);
    program.is_connected();
    let output = play("key-rotation", &program, &["--next-key", next]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));

    let program = Program::start("rotation-forgotten");
    let output = play("key-rotation", &program, &["--next-key", next]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("NOT AS PROMISED: the answer had to be success"), "{said}");
    assert!(said.contains("NOT AS PROMISED: expected payment.refunded, and there was no event"), "{said}");
}

/// Makes a shell wait until `done` says so: the commands of `--break` and `--mend` ask the test by a file.
fn asking(folder: &Folder, word: &str) -> String {
    let (asked, done) = (folder.path().join(word), folder.path().join(format!("{word}.done")));
    format!("touch {}; while [ ! -e {} ]; do sleep 0.02; done", asked.display(), done.display())
}

/// Bound: the test's own runtime, which ends with it.
async fn until_exists(file: &Path) {
    while !file.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn an_outage_is_as_promised() {
    crate::support::run(async {
        let broker: hyper::Uri = amqp_url().parse().unwrap();
        let target = format!("{}:{}", broker.host().unwrap(), broker.port_u16().unwrap_or(5672));
        let proxy = Proxy::to(&target).await;
        let through = amqp_url().replacen(&target, &format!("127.0.0.1:{}", proxy.port()), 1);
        let program = Program::launch("outage-told", "", &through, |command| command);
        program.is_connected();
        let folder = Folder::new();
        let (dark, light) = (asking(&folder, "dark"), asking(&folder, "light"));
        let playing = async {
            tokio::task::block_in_place(|| {
                play("broker-outage", &program, &["--break", &dark, "--mend", &light])
            })
        };
        let switching = tokio::spawn({
            let folder = folder.path().to_owned();
            async move {
                until_exists(&folder.join("dark")).await;
                proxy.go_dark();
                proxy.cut();
                std::fs::write(folder.join("dark.done"), "").unwrap();
                until_exists(&folder.join("light")).await;
                proxy.light();
                proxy.cut();
                std::fs::write(folder.join("light.done"), "").unwrap();
                std::future::pending::<()>().await;
            }
        });
        let output = playing.await;
        switching.abort();
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{said}{}", text(&output.stderr));
        assert!(said.contains("503 fail"), "{said}");
    });
}

#[test]
fn a_command_that_fails_ends_the_story() {
    let program = Program::start("outage-undone");
    let output = play("broker-outage", &program, &["--break", "exit 3", "--mend", "true"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("`exit 3` ended with"), "{}", text(&output.stderr));
}

#[test]
fn what_a_story_needs_and_was_not_given_is_usage() {
    let program = Program::start("scenario-usage");
    for (name, says) in
        [("key-rotation", "--next-key"), ("broker-outage", "--break"), ("moon", "double-payment")]
    {
        let output = play(name, &program, &[]);
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert!(text(&output.stderr).contains(says), "{name}: {}", text(&output.stderr));
    }
}
