//! Every command of docs/troubleshooting.md and docs/migrating.md, in both languages, is run: against a running gateway,
//! with the capture that its section is about. What a page shows as an answer must be in the answer. And what README.md tells
//! an operator, and docs/consuming.md a consumer, to do.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use alipay_notify_gateway::clock::{Clock as _, SystemClock};

use crate::consumer_check;
use crate::support::alipay::{self, Notification, encode};
use crate::support::program::{Folder, Program, amqp_url, unique};
use crate::support::queue::Queue;
use crate::support::run;
use crate::vectors;

/// A command of a page, and what the page says of it.
struct Shown {
    section: String,
    command: String,
    exits: i32,
    answers: Vec<String>,
}

fn page(name: &str) -> Vec<Shown> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    let text = std::fs::read_to_string(path).unwrap();
    let mut shown = Vec::new();
    for section in text.split("\n## ").skip(1) {
        let number = section.split(['.', ' ']).next().unwrap();
        for block in section.split("```console\n").skip(1) {
            for line in block.split("```").next().unwrap().lines() {
                if let Some(command) = line.strip_prefix("$ ") {
                    let (command, exits) = command.split_once("  # exits ").unwrap_or((command, "0"));
                    let exits = exits.split(' ').next().unwrap().parse().unwrap();
                    let (section, command) = (number.to_owned(), command.to_owned());
                    shown.push(Shown { section, command, exits, answers: Vec::new() });
                } else {
                    let pieces = line.split('…').map(str::trim).filter(|piece| !piece.is_empty());
                    shown.last_mut().unwrap().answers.extend(pieces.map(str::to_owned));
                }
            }
        }
    }
    shown
}

/// A gateway, and a folder for each section with what its commands name.
struct Desk {
    program: Program,
    _queue: Queue,
    folder: Folder,
}

impl Desk {
    async fn open() -> Self {
        let program = Program::launch_with_admin("manuals", "token = \"a-token-that-nobody-guesses\"");
        program.is_connected();
        let queue = Queue::bound(&program.exchange, &["#"]).await;
        let folder = Folder::new();
        std::os::unix::fs::symlink(
            env!("CARGO_BIN_EXE_alipay-notify-gateway"),
            folder.path().join("alipay-notify-gateway"),
        )
        .unwrap();
        Self { program, _queue: queue, folder }
    }

    fn run(&self, shown: &Shown, files: &Folder, trade_no: &str) {
        // A reader's gateway listens where the commands look for it by themselves.
        let mut command = shown.command.clone();
        if let Some(at) = ["trade release", "trade drop", "trade", "replay"]
            .into_iter()
            .find(|at| command.contains(&format!("gateway {at} ")))
        {
            command = command.replacen(
                &format!("gateway {at} "),
                &format!("gateway {at} --admin http://127.0.0.1:9090 "),
                1,
            );
        }
        let command = command
            .replace("127.0.0.1:9090", &self.program.admin.to_string())
            .replace("127.0.0.1:8080", &self.program.http.to_string())
            .replace("2026112322001427340000000000", trade_no);
        let path = format!("{}:{}", self.folder.path().display(), std::env::var("PATH").unwrap());
        let mut bash = Command::new("bash");
        for name in ["AMQP_URL", "ALIPAY_APP_ID", "ALIPAY_PUBLIC_KEY"] {
            bash.env_remove(name);
        }
        bash.current_dir(files.path()).env("PATH", path).arg("-c").arg(&command);
        let output = bash.output().unwrap();
        let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
        let said = String::from_utf8(said).unwrap();
        assert_eq!(output.status.code(), Some(shown.exits), "{}: $ {command}\n{said}", shown.section);
        for answer in &shown.answers {
            assert!(said.contains(answer), "{}: $ {command}\nshould say {answer}\n{said}", shown.section);
        }
    }
}

fn text(body: Vec<u8>) -> String {
    String::from_utf8(body).unwrap()
}

/// The notification of a section of the troubleshooting page.
fn notification(section: &str) -> Notification {
    let paid = Notification::payment_now(section.parse().unwrap());
    match section {
        "3" => paid.set("passback_params", "from%3Dapp"),
        "4" => paid.set("subject", "咖啡&蛋糕"),
        "7" => paid.set("refund_fee", "10.00").set("out_biz_no", "RF-1").without("receipt_amount"),
        "11" => paid.set("subject", "咖啡 + 蛋糕"),
        "17" => paid.set("seller_id", "2088000000000042"),
        _ => paid,
    }
}

/// What was captured of it, with the damage that the section is about.
fn capture(section: &str, notification: &Notification) -> String {
    let body = text(notification.body());
    match section {
        "2" => body.replace("%22", "%26quot%3B"),
        "3" => body.replace("from%253D", "from%3D"),
        "4" => body.replace("%26", "&"),
        "5" => text(vectors::read("gateway-order-v2")),
        "6" => body.replace("&point_amount=0.00", ""),
        "10" => format!("{body}&s={}", encode(b"pay/notify")),
        "11" => body.replace("%2B", "+"),
        _ => body,
    }
}

/// The files that the commands of a section name.
fn files(desk: &Desk, section: &str, body: &str) -> Folder {
    let folder = Folder::new();
    folder.write("captured-body.txt", body);
    folder.write("admin.token", "a-token-that-nobody-guesses\n");
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let vectors_key = std::fs::read_to_string(vectors.join("alipay-public.pem")).unwrap();
    folder
        .write("alipay-public.pem", if section == "5" { vectors_key.clone() } else { alipay::public_pem() });
    folder.write("alipay.pem", alipay::public_pem());
    let bare: String = alipay::public_pem().lines().filter(|line| !line.starts_with('-')).collect();
    folder.write("bare-key.txt", bare);
    folder.write("app-public.pem", &vectors_key);
    folder.write("app-private.pem", std::fs::read(vectors.join("test-signing-key.pem")).unwrap());
    let mut config = std::fs::read_to_string(desk.program.folder().path().join("gateway.toml")).unwrap();
    config =
        config.replace("\"gateway.db\"", &format!("{:?}", desk.program.folder().path().join("gateway.db")));
    if section == "15" {
        // The production app with a key of its own, and beside it the sandbox's.
        config = config
            .replace("alipay_public_keys = [\"alipay.pem\"]", "alipay_public_keys = [\"app-public.pem\"]");
        config.push_str("mix = 1");
        config = config.replace(
            "mix = 1",
            "\n[[apps]]\napp_id = \"9021000000000001\"\nenvironment = \"sandbox\"\n\
            seller_ids = [\"2088721000000001\"]\nalipay_public_keys = [\"alipay.pem\"]\n",
        );
        config = config.replace("[store]", "mix_environments = true\n[store]");
    }
    folder.write("gateway.toml", config);
    folder
}

fn try_page(name: &str, at_least: usize) {
    let shown = page(name);
    assert!(shown.len() >= at_least, "{name} is read as it is written: {}", shown.len());
    run(async {
        let desk = Desk::open().await;
        for shown in &shown {
            let notification = notification(&shown.section);
            let files = files(&desk, &shown.section, &capture(&shown.section, &notification));
            prepare(&desk, &shown.section, &notification);
            desk.run(shown, &files, notification.trade_no());
        }
    });
}

/// What has happened before the commands of a section.
fn prepare(desk: &Desk, section: &str, notification: &Notification) {
    let post = |notification: &Notification| desk.program.post(&notification.body());
    match section {
        "8" => {
            assert!(post(notification).is_success());
            let finished =
                notification.clone().set("trade_status", "TRADE_FINISHED").set("notify_id", "finish");
            let finished = finished.set("notify_time", SystemClock.now().alipay());
            assert!(post(&finished).is_success());
        }
        "17" => assert!(post(notification).is_fail(400)),
        _ => {}
    }
}

#[test]
fn every_command_of_the_troubleshooting_page_shows_what_the_page_says() {
    try_page("troubleshooting.md", 20);
}

#[test]
fn every_command_of_the_chinese_troubleshooting_page_shows_what_the_page_says() {
    try_page("troubleshooting.zh-CN.md", 20);
}

#[test]
fn every_command_of_the_migration_notes_works_in_both_languages() {
    for name in ["migrating.md", "migrating.zh-CN.md"] {
        try_page(name, 5);
    }
}

/// The blocks of a page that are for a shell.
fn blocks(name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
    let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned());
    blocks.collect()
}

#[test]
fn what_the_readme_tells_an_operator_to_do_works_in_both_languages() {
    run(async {
        let desk = Desk::open().await;
        for (page, trade) in [("README.md", 40), ("README.zh-CN.md", 50)] {
            let lines: Vec<String> =
                blocks(page).iter().flat_map(|block| block.lines()).map(str::to_owned).collect();
            for (number, (begins, answer)) in [
                ("alipay-notify-gateway check ", ""),
                ("alipay-notify-gateway trade release ", "announced"),
                ("alipay-notify-gateway trade drop ", "dropped"),
            ]
            .into_iter()
            .enumerate()
            {
                let line = lines.iter().find(|line| line.starts_with(begins));
                let line = line.unwrap_or_else(|| panic!("{page} has no {begins}"));
                let held = Notification::payment_now(trade + u64::try_from(number).unwrap())
                    .set("seller_id", "2088000000000042");
                assert!(desk.program.post(&held.body()).is_fail(400));
                let shown = Shown {
                    section: page.to_owned(),
                    command: line.replace("TRADE_NO", held.trade_no()),
                    exits: 0,
                    answers: vec![answer.to_owned()],
                };
                desk.run(&shown, &files(&desk, page, ""), held.trade_no());
            }
        }
    });
}

#[test]
fn the_test_of_a_consumer_goes_as_its_page_says() {
    run(async {
        let desk = Desk::open().await;
        let block = blocks("docs/consuming.md").into_iter().find(|block| block.contains("consumer-check"));
        let queue = unique("manuals-consumer");
        let _queue = consumer_check::queue(&queue).await;
        let folder = Folder::new();
        folder.write("amqp-uri", amqp_url());
        // A consumer who does everything right, as far as the page's last command sees him.
        let sqlite3 = r"#!/bin/sh
case $1 in
-csv) sed -nE 's/^ +(\S+) .*, ([0-9]+) given back.*/\1,\2/p' published ;;
*) sed -nE 's/^ +(\S+) +shipped once.*/\1/p' published ;;
esac
";
        let sqlite3 = desk.folder.write("sqlite3", sqlite3);
        std::fs::set_permissions(sqlite3, std::fs::Permissions::from_mode(0o755)).unwrap();
        let command = block.unwrap().replace("test.orders", &queue).replace(
            &format!("--confirm {queue}"),
            &format!("--confirm {queue} --amqp-file amqp-uri > published"),
        );
        let shown = Shown {
            section: "consuming.md".to_owned(),
            command: format!("set -e\n{command}"),
            exits: 0,
            answers: vec!["right, 0 wrong".to_owned()],
        };
        desk.run(&shown, &folder, "");
        let orders = std::fs::read_to_string(folder.path().join("orders.csv")).unwrap();
        assert!(orders.starts_with("out_trade_no,amount_minor\n") && orders.lines().count() > 10, "{orders}");
    });
}
