//! The consumers of docs/consuming.md on real events of the real gateway: none of them ships twice, or what was not paid.
//! `tests/consumers.sh` says how each is started; without its variables they are skipped, with the reason printed.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use rusqlite::Connection as Database;

use crate::consumer_check::{check, publish};
use crate::support::alipay::Notification;
use crate::support::program::{Folder, Program, amqp_url, unique};
use crate::support::{eventually, run};

/// Ended when it is dropped.
struct Consumer(Child);

impl Drop for Consumer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The words of a variable of `tests/consumers.sh`, as a command.
fn command(language: &str) -> Option<Command> {
    let Ok(words) = std::env::var(format!("CONSUMER_{language}")) else {
        eprintln!("skipped: CONSUMER_{language} is not set: ./tests/consumers.sh sets it");
        return None;
    };
    let mut words = words.split(' ');
    let mut command = Command::new(words.next()?);
    command.args(words);
    Some(command)
}

fn consumer(language: &str, queue: &str, database: &Path) -> Option<Consumer> {
    let mut command = command(language)?;
    command.env("AMQP_URL", amqp_url()).env("QUEUE", queue).env("DATABASE", database);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    Some(Consumer(command.spawn().unwrap()))
}

/// The tables that every one of them makes for himself, and the orders of this test.
fn orders(database: &Path, numbers: &[&str]) {
    let db = Database::open(database).unwrap();
    db.execute_batch(
        "CREATE TABLE orders (out_trade_no TEXT PRIMARY KEY, amount_minor INTEGER NOT NULL,
           state TEXT NOT NULL DEFAULT 'new', trade_no TEXT, refunded_minor INTEGER NOT NULL DEFAULT 0);",
    )
    .unwrap();
    for number in numbers {
        db.execute("INSERT INTO orders (out_trade_no, amount_minor) VALUES (?, 8888)", [number]).unwrap();
    }
}

/// A column of text.
fn rows(database: &Path, sql: &str) -> Vec<String> {
    let db = Database::open(database).unwrap();
    db.busy_timeout(Duration::from_secs(5)).unwrap();
    let Ok(mut statement) = db.prepare(sql) else { return Vec::new() };
    let found = statement.query_map([], |row| row.get(0)).unwrap();
    found.map(Result::unwrap).collect()
}

fn plays_its_part(language: &str) {
    if command(language).is_none() {
        return;
    }
    run(async {
        let queue = unique("orders");
        let section = format!("[[amqp.queues]]\nname = \"{queue}\"\nbind = [\"#\"]");
        let add = |text: String| text.replace("[store]", &format!("{section}\n[store]"));
        let program = Program::launch_configured("consumers", &amqp_url(), add, |command| command);
        program.is_connected();
        let order = |notification: Notification, number: &str| notification.set("out_trade_no", number);
        let paid = |trade: u64, number: &str| order(Notification::payment_now(trade), number);
        let refund = |of: &Notification, fee: &str| {
            let refund = of.clone().set("refund_fee", fee).set("out_biz_no", "RF");
            refund.set("notify_id", format!("r{}", of.trade_no())).without("receipt_amount")
        };
        let closed = |of: &Notification| {
            let closed = of
                .clone()
                .set("trade_status", "TRADE_CLOSED")
                .set("notify_id", format!("c{}", of.trade_no()));
            closed.without("gmt_payment").without("receipt_amount")
        };
        let (plain, early, part) = (paid(1, "PLAIN"), paid(2, "EARLY-REFUND"), paid(3, "PART"));
        let (cheap, stranger, twice) = (paid(4, "CHEAP"), paid(5, "STRANGER"), paid(6, "TWICE"));
        for notification in [
            // Paid, and delivered again by Alipay; closed afterwards, as a notification that was late may say.
            plain.clone(),
            plain.clone(),
            closed(&plain),
            // All of it was given back, and that was heard of first.
            refund(&early, "88.88"),
            early.clone(),
            // A part was given back, which is a TRADE_SUCCESS.
            part.clone(),
            refund(&part, "10.00"),
            // The amount is not the order's; and the same trade with another amount.
            cheap.clone().set("total_amount", "0.01"),
            cheap.clone(),
            stranger,
            // Two trades for one order.
            twice.clone(),
            order(Notification::payment_now(7), "TWICE"),
        ] {
            let answer = program.post(&notification.body());
            assert!(answer.is_success(), "{answer:?}\n{}", program.log());
        }
        let database = program.folder().path().join("orders.db");
        orders(&database, &["PLAIN", "EARLY-REFUND", "PART", "CHEAP", "TWICE"]);
        repeat(&queue, &plain.event_id("payment.succeeded")).await;
        let _consumer = consumer(language, &queue, &database).unwrap();
        let last = "SELECT message_id FROM seen WHERE message_id = 'the-last'";
        eventually("the consumer has come to the last message", || {
            let has_come = !rows(&database, last).is_empty();
            async move { has_come }
        })
        .await;
        let shipped = rows(&database, "SELECT out_trade_no FROM shipments ORDER BY 1");
        assert_eq!(shipped, ["PART", "PLAIN", "TWICE"], "{language}");
        let states = rows(&database, "SELECT out_trade_no || ' ' || state FROM orders ORDER BY 1");
        let expected =
            ["CHEAP new", "EARLY-REFUND refunded", "PART partly_refunded", "PLAIN paid", "TWICE paid"];
        assert_eq!(states, expected, "{language}");
        let whys = rows(&database, "SELECT why FROM reviews ORDER BY 1");
        let expected = [
            "a payment of an order that is not ours",
            "an event type that this program does not know",
            "not an event of the gateway",
            "refunded before its payment was heard of: look before you ship",
            "the amount is not the order's",
            "the money of another environment",
            "the order was paid by two trades: give one back",
            "the same identity with other money: look",
        ];
        assert_eq!(whys, expected, "{language}");
    });
}

/// The same consumer under `consumer-check`.
fn passes_the_check(language: &str) {
    if command(language).is_none() {
        return;
    }
    run(async {
        let (queue, folder) = (unique("check"), Folder::new());
        let connection = Connection::connect(&amqp_url(), ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let declare = QueueDeclareOptions::default();
        channel.queue_declare(queue.as_str().into(), declare, FieldTable::default()).await.unwrap();
        let database = folder.path().join("orders.db");
        let listed = check(&["orders"], "");
        let listed = String::from_utf8(listed.stdout).unwrap();
        orders(&database, &[]);
        let db = Database::open(&database).unwrap();
        for line in listed.lines().skip(1) {
            let (number, amount) = line.split_once(',').unwrap();
            db.execute("INSERT INTO orders (out_trade_no, amount_minor) VALUES (?, ?)", [number, amount])
                .unwrap();
        }
        drop(db);
        let published = publish(&queue, &queue);
        assert!(published.status.success(), "{published:?}");
        let mut command = command(language).unwrap();
        command.env("AMQP_URL", amqp_url()).env("QUEUE", &queue).env("DATABASE", &database);
        command.env("ENVIRONMENT", "sandbox").stdin(Stdio::null()).stdout(Stdio::null());
        let consumer = Consumer(command.spawn().unwrap());
        eventually("the queue is empty and everything is acknowledged", || async {
            // Every id that was published is seen; the message that is none is written down for a person.
            rows(&database, "SELECT message_id FROM seen").len() >= IDS
                && !rows(&database, "SELECT why FROM reviews WHERE why = 'not an event of the gateway'")
                    .is_empty()
        })
        .await;
        drop(consumer);
        let shipped = rows(&database, "SELECT out_trade_no FROM shipments").join("\n");
        let judged = check(&["judge"], &shipped);
        assert_eq!(judged.status.code(), Some(0), "{language}\n{}", String::from_utf8_lossy(&judged.stdout));
        let deleted = channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default());
        deleted.await.unwrap();
    });
}

/// What the gateway may do, and what it never does, into the queue behind its events: a repeat of an event with other
/// bytes; no JSON; a type of a later version; another environment; and the last message.
async fn repeat(queue: &str, id: &str) {
    let connection = Connection::connect(&amqp_url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), passive, FieldTable::default()).await.unwrap();
    let event = |event_type: &str, environment: &str| {
        format!(
            r#"{{"event_type":"{event_type}","environment":"{environment}","out_trade_no":"PLAIN","trade_no":"x",
            "total_amount":"88.88","total_amount_minor":8888,"notified_at":"2026-11-24T00:00:00+08:00"}}"#
        )
    };
    for (id, body) in [
        (id, event("payment.succeeded", "production")),
        (id, event("payment.succeeded", "production")),
        ("poison", "no JSON".to_owned()),
        ("later", event("payment.something_new", "production")),
        ("sandbox", event("payment.succeeded", "sandbox")),
        ("the-last", event("trade.pending", "production")),
    ] {
        let properties = BasicProperties::default().with_message_id(id.into()).with_delivery_mode(2);
        let options = BasicPublishOptions::default();
        let published = channel.basic_publish("".into(), queue.into(), options, body.as_bytes(), properties);
        published.await.unwrap().await.unwrap();
    }
    connection.close(200, "done".into()).await.unwrap();
}

#[test]
fn the_consumer_in_python_ships_once_what_was_paid_and_nothing_else() {
    plays_its_part("PYTHON");
    passes_the_check("PYTHON");
}

#[test]
fn the_consumer_in_node_ships_once_what_was_paid_and_nothing_else() {
    plays_its_part("NODE");
    passes_the_check("NODE");
}

#[test]
fn the_consumer_in_rust_ships_once_what_was_paid_and_nothing_else() {
    plays_its_part("RUST");
    passes_the_check("RUST");
}

/// The ids that `consumer-check` publishes, without the message that is no event.
const IDS: usize = 23;
