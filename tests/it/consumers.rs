//! The consumers of docs/consuming.md on real events of the real gateway: none of them ships twice, or what was not paid.
//! `tests/consumers.sh` says how each is started; without its variables they are skipped, with the reason printed (with
//! STRICT=1 that is a failure).

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use alipay_notify_gateway::clock::{Clock as _, SystemClock};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use rusqlite::Connection as Database;

use crate::consumer_check::{check, publish};
use crate::support::alipay::Notification;
use crate::support::program::{Folder, Program, amqp_url, unique};
use crate::support::run;

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
        assert!(
            std::env::var("STRICT").as_deref() != Ok("1"),
            "CONSUMER_{language} is not set, and STRICT=1 is"
        );
        eprintln!("skipped: CONSUMER_{language} is not set: ./tests/consumers.sh sets it");
        return None;
    };
    let mut words = words.split(' ');
    let mut command = Command::new(words.next()?);
    command.args(words);
    Some(command)
}

fn consumer(
    language: &str,
    queue: &str,
    database: &Path,
    with: impl FnOnce(&mut Command) -> &mut Command,
) -> Consumer {
    let mut command = command(language).unwrap();
    command.env("AMQP_URL", amqp_url()).env("QUEUE", queue).env("DATABASE", database);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    with(&mut command);
    Consumer(command.spawn().unwrap())
}

/// The tables that every one of them makes for himself, and the orders of this test.
fn orders(database: &Path, numbers: &[&str]) {
    let db = Database::open(database).unwrap();
    db.execute_batch(
        "CREATE TABLE orders (out_trade_no TEXT PRIMARY KEY, amount_minor INTEGER NOT NULL,
           state TEXT NOT NULL DEFAULT 'new', trade_no TEXT, refunded_minor INTEGER NOT NULL DEFAULT 0);
         CREATE TABLE seen (message_id TEXT PRIMARY KEY);
         CREATE TABLE shipments (out_trade_no TEXT PRIMARY KEY);
         CREATE TABLE reviews (message_id TEXT, why TEXT NOT NULL, body TEXT NOT NULL);",
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

/// The orders that the consumer has; STRANGER is of nobody.
const ORDERS: [&str; 10] =
    ["PLAIN", "EARLY-REFUND", "PART", "CHEAP", "TWICE", "PARTS", "SHIPPED", "LITTLE", "DOLLARS", "SILENT"];

/// What Alipay sends. The first is the payment of PLAIN.
fn notifications() -> Vec<Notification> {
    let order = |notification: Notification, number: &str| notification.set("out_trade_no", number);
    let paid = |trade: u64, number: &str| order(Notification::payment_now(trade), number);
    let refund = |of: &Notification, fee: &str| {
        let refund = of.clone().set("refund_fee", fee).set("out_biz_no", format!("RF-{fee}"));
        refund.set("notify_id", format!("r{}-{fee}", of.trade_no())).without("receipt_amount")
    };
    let closed = |of: &Notification| {
        let closed = of.clone().set("trade_status", "TRADE_CLOSED");
        let closed = closed.set("notify_id", format!("c{}", of.trade_no()));
        closed.without("gmt_payment").without("receipt_amount")
    };
    let (plain, early, part) = (paid(1, "PLAIN"), paid(2, "EARLY-REFUND"), paid(3, "PART"));
    let (cheap, stranger, twice) = (paid(4, "CHEAP"), paid(5, "STRANGER"), paid(6, "TWICE"));
    let (again, parts) = (paid(7, "TWICE"), paid(8, "PARTS"));
    let little = paid(10, "LITTLE").set("total_amount", "0.01");
    let (dollars, silent) = (paid(12, "DOLLARS").set("trans_currency", "USD"), paid(14, "SILENT"));
    vec![
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
        // Two trades for one order, and the second is given back.
        twice.clone(),
        again.clone(),
        refund(&again, "88.88"),
        // Two parts were given back, and the second, with the total, is heard of first.
        parts.clone(),
        refund(&parts, "50.00"),
        refund(&parts, "20.00"),
        // Somebody shipped it by hand, before the payment was heard of.
        paid(9, "SHIPPED"),
        // Too little was paid, and given back; then another trade pays rightly.
        little.clone(),
        refund(&little, "0.01"),
        paid(11, "LITTLE"),
        // So with the right figure in another currency.
        dollars.clone(),
        refund(&dollars, "88.88"),
        paid(13, "DOLLARS"),
        // A part was given back, and then nobody says how much.
        silent.clone(),
        refund(&silent, "10.00"),
        refund(&silent, "30.00").without("refund_fee").set("gmt_refund", SystemClock.now().alipay()),
        // Something new of a trade, and something that is about none.
        silent.clone().set("trade_status", "TRADE_PENDING").set("notify_id", "new"),
        silent.clone().set("notify_type", "dut_user_sign").set("notify_id", "kind"),
    ]
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
        let notifications = notifications();
        for notification in &notifications {
            let answer = program.post(&notification.body());
            assert!(answer.is_success(), "{answer:?}\n{}", program.log());
        }
        let database = program.folder().path().join("orders.db");
        orders(&database, &ORDERS);
        let by_hand = "INSERT INTO shipments VALUES ('SHIPPED')";
        Database::open(&database).unwrap().execute(by_hand, []).unwrap();
        repeat(&queue, &notifications[0].event_id("payment.succeeded")).await;
        let _consumer = consumer(language, &queue, &database, |command| command);
        comes_to("the-last", &database).await;
        has_done_right(language, &database);
    });
}

/// What was shipped, what the orders say, and what somebody is to look at.
fn has_done_right(language: &str, database: &Path) {
    let shipped = rows(database, "SELECT out_trade_no FROM shipments ORDER BY 1");
    assert_eq!(
        shipped,
        ["DOLLARS", "LITTLE", "PART", "PARTS", "PLAIN", "SHIPPED", "SILENT", "TWICE"],
        "{language}"
    );
    let states = "SELECT out_trade_no || ' ' || state || ' ' || refunded_minor FROM orders ORDER BY 1";
    let expected = [
        "CHEAP new 0",
        "DOLLARS paid 0",
        "EARLY-REFUND refunded 8888",
        "LITTLE paid 0",
        "PART partly_refunded 1000",
        "PARTS partly_refunded 5000",
        "PLAIN paid 0",
        "SHIPPED new 0",
        "SILENT partly_refunded 1000",
        "TWICE paid 0",
    ];
    assert_eq!(rows(database, states), expected, "{language}");
    let whys = rows(database, "SELECT why FROM reviews ORDER BY 1");
    let expected = [
        "a payment of an order that is not ours",
        "a refund of a trade that did not pay the order's amount: the order stays as it is",
        "a refund of a trade that did not pay the order's amount: the order stays as it is",
        "a refund of another trade than the order's: the order stays as it is",
        "a refund that does not say how much was given back: look",
        "a trade in a state that nobody knows: look",
        "an event type that this program does not know",
        "not an event of the gateway",
        "not an event of the gateway",
        "refunded before its payment was heard of: look before you ship",
        "the amount is not the order's",
        "the amount is not the order's",
        "the amount is not the order's",
        "the database refuses it, as a shipment that is there already: look",
        "the money of another environment",
        "the order was paid by two trades: give one back",
        "the same identity with other money: look",
    ];
    assert_eq!(whys, expected, "{language}");
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
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        send(&channel, &queue, "the-last", &event("trade.pending", "sandbox", "PLAIN", "x")).await;
        let consumer = consumer(language, &queue, &database, |command| command.env("ENVIRONMENT", "sandbox"));
        comes_to("the-last", &database).await;
        drop(consumer);
        let shipped = rows(&database, "SELECT out_trade_no FROM shipments").join("\n");
        let refunded = rows(&database, "SELECT out_trade_no || ',' || refunded_minor FROM orders").join("\n");
        let file = folder.path().join("refunded.csv");
        std::fs::write(&file, refunded).unwrap();
        let judged = check(&["judge", "--refunded", file.to_str().unwrap()], &shipped);
        assert_eq!(judged.status.code(), Some(0), "{language}\n{}", String::from_utf8_lossy(&judged.stdout));
        let looked = rows(&database, "SELECT why FROM reviews WHERE why = 'not an event of the gateway'");
        assert!(looked.len() >= 4, "the one that is no JSON, and three that lack a member: {looked:?}");
        let deleted = channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default());
        deleted.await.unwrap();
    });
}

/// As the other tests wait, and longer: a consumer starts, and its database gives up after 5 s.
async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let patience = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), patience).await.is_ok(), "never happened: {what}");
}

async fn comes_to(message_id: &str, database: &Path) {
    let seen = format!("SELECT message_id FROM seen WHERE message_id = '{message_id}'");
    eventually("the consumer has come to the message", || async { !rows(database, &seen).is_empty() }).await;
}

/// A consumer whose database goes away, and comes back; and that is killed with messages in its hands. Its queue drops what
/// has been delivered too often, as quorum queues of RabbitMQ 4 do by default.
fn loses_nothing_that_it_has_taken(language: &str) {
    if command(language).is_none() {
        return;
    }
    run(async {
        let (queue, folder) = (unique("outage"), Folder::new());
        let connection = Connection::connect(&amqp_url(), ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERY_LIMIT));
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.as_str().into(), durable, arguments).await.unwrap();
        let (database, log) = (folder.path().join("orders.db"), folder.path().join("log"));
        orders(&database, &["AWAY", "KILLED-1", "KILLED-2", "KILLED-3"]);
        let start = async || {
            let log = File::create(&log).unwrap();
            let started = consumer(language, &queue, &database, |command| command.stderr(log));
            eventually("it consumes", || async { consumers(&channel, &queue).await == 1 }).await;
            started
        };
        let tries = || std::fs::read_to_string(&log).unwrap().matches("not handled").count();
        let shipped = || rows(&database, "SELECT out_trade_no FROM shipments ORDER BY 1");
        let pay = async |order: &str| {
            let id = format!("2021000000000000.{order}.payment.succeeded");
            send(&channel, &queue, &id, &event("payment.succeeded", "production", order, order)).await;
        };
        let ours = Database::open(&database).unwrap();
        ours.busy_timeout(Duration::from_secs(20)).unwrap();

        // Half of it is away: what is before the shipment succeeds, each time, and must not stay.
        let first = start().await;
        ours.execute_batch("ALTER TABLE shipments RENAME TO away").unwrap();
        pay("AWAY").await;
        eventually("it was tried more often than it may be delivered", || async {
            tries() > DELIVERY_LIMIT as usize + 2
        })
        .await;
        ours.execute_batch("ALTER TABLE away RENAME TO shipments").unwrap();
        eventually("it is shipped when the database is back", || async { shipped() == ["AWAY"] }).await;

        // Nothing can be written; and the consumer is killed while it tries.
        ours.execute_batch("BEGIN IMMEDIATE").unwrap();
        let before = tries();
        for order in ["KILLED-1", "KILLED-2", "KILLED-3"] {
            pay(order).await;
        }
        eventually("it has failed to write", || async { tries() > before }).await;
        drop(first);
        ours.execute_batch("ROLLBACK").unwrap();
        eventually("the broker has seen it go", || async { consumers(&channel, &queue).await == 0 }).await;
        assert_eq!(shipped(), ["AWAY"], "{language}");
        send(&channel, &queue, "the-last", &event("trade.pending", "production", "AWAY", "AWAY")).await;
        let second = start().await;
        comes_to("the-last", &database).await;
        eventually("all of them are shipped", || async { shipped().len() == 4 }).await;
        let unpaid = rows(&database, "SELECT out_trade_no FROM orders WHERE state != 'paid'");
        assert!(unpaid.is_empty(), "{language}: {unpaid:?}");
        assert!(rows(&database, "SELECT why FROM reviews").is_empty(), "{language}");
        // Who has come to this one has sent the acknowledgements of those before it; its own may be on its way.
        send(&channel, &queue, "the-end", &event("trade.pending", "production", "AWAY", "AWAY")).await;
        comes_to("the-end", &database).await;
        drop(second);
        eventually("the broker has seen it go", || async { consumers(&channel, &queue).await == 0 }).await;
        let deleted = channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default());
        assert!(deleted.await.unwrap() <= 1, "{language}: everything was acknowledged");
    });
}

/// A broker whose name is not found, and one that takes the connection and says nothing: both are tried again.
fn goes_on_trying_to_connect(language: &str) {
    if command(language).is_none() {
        return;
    }
    run(async {
        let folder = Folder::new();
        // What it accepts stays open in its backlog.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let silent_url = format!("amqp://guest:guest@{}/%2f", silent.local_addr().unwrap());
        let mut tried = Vec::new();
        for (name, url) in [("nowhere", "amqp://guest:guest@broker.invalid/%2f"), ("silent", &silent_url)] {
            let (database, log) = (folder.path().join(format!("{name}.db")), folder.path().join(name));
            let stderr = File::create(&log).unwrap();
            let consumer = consumer(language, "payments.orders", &database, |command| {
                command.env("AMQP_URL", url).stderr(stderr)
            });
            tried.push((name, log, consumer));
        }
        for (name, log, consumer) in &mut tried {
            eventually("it has given up, and tries again", || async {
                std::fs::read_to_string(&*log).unwrap().matches("connecting again").count() >= 2
            })
            .await;
            let ended = consumer.0.try_wait().unwrap();
            assert!(ended.is_none(), "{language}, {name}: {ended:?}");
        }
    });
}

/// How many consumers a queue has.
async fn consumers(channel: &Channel, queue: &str) -> u32 {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), passive, FieldTable::default()).await.unwrap().consumer_count()
}

/// The body of an event of an order at 88.88.
fn event(event_type: &str, environment: &str, order: &str, trade: &str) -> String {
    format!(
        r#"{{"event_type":"{event_type}","environment":"{environment}","out_trade_no":"{order}","trade_no":"{trade}",
        "total_amount":"88.88","total_amount_minor":8888,"notified_at":"2026-11-24T00:00:00+08:00"}}"#
    )
}

async fn send(channel: &Channel, queue: &str, id: &str, body: &str) {
    let properties = BasicProperties::default().with_message_id(id.into()).with_delivery_mode(2);
    let options = BasicPublishOptions::default();
    let published = channel.basic_publish("".into(), queue.into(), options, body.as_bytes(), properties);
    published.await.unwrap().await.unwrap();
}

/// What the gateway may do, and what it never does, into the queue behind its events: a repeat of an event with other
/// bytes; no JSON; a type of a later version; another environment; and the last message.
async fn repeat(queue: &str, id: &str) {
    let connection = Connection::connect(&amqp_url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), passive, FieldTable::default()).await.unwrap();
    let event = |event_type: &str, environment: &str| event(event_type, environment, "PLAIN", "x");
    for (id, body) in [
        (id, event("payment.succeeded", "production")),
        (id, event("payment.succeeded", "production")),
        ("poison", "no JSON".to_owned()),
        ("shape", r#"{"event_type":"payment.refunded","environment":"production","refund":null}"#.to_owned()),
        ("later", event("payment.something_new", "production")),
        ("sandbox", event("payment.succeeded", "sandbox")),
        ("the-last", event("trade.pending", "production")),
    ] {
        send(&channel, queue, id, &body).await;
    }
    connection.close(200, "done".into()).await.unwrap();
}

#[test]
fn the_consumer_in_python_ships_once_what_was_paid_and_nothing_else() {
    plays_its_part("PYTHON");
    passes_the_check("PYTHON");
}

#[test]
fn the_consumer_in_python_goes_on_trying_to_connect() {
    goes_on_trying_to_connect("PYTHON");
}

#[test]
fn the_consumer_in_python_loses_nothing_while_its_database_is_away_or_when_it_is_killed() {
    loses_nothing_that_it_has_taken("PYTHON");
}

#[test]
fn the_consumer_in_node_ships_once_what_was_paid_and_nothing_else() {
    plays_its_part("NODE");
    passes_the_check("NODE");
}

#[test]
fn the_consumer_in_node_goes_on_trying_to_connect() {
    goes_on_trying_to_connect("NODE");
}

#[test]
fn the_consumer_in_node_loses_nothing_while_its_database_is_away_or_when_it_is_killed() {
    loses_nothing_that_it_has_taken("NODE");
}

#[test]
fn the_consumer_in_rust_ships_once_what_was_paid_and_nothing_else() {
    plays_its_part("RUST");
    passes_the_check("RUST");
}

#[test]
fn the_consumer_in_rust_goes_on_trying_to_connect() {
    goes_on_trying_to_connect("RUST");
}

#[test]
fn the_consumer_in_rust_loses_nothing_while_its_database_is_away_or_when_it_is_killed() {
    loses_nothing_that_it_has_taken("RUST");
}

/// RabbitMQ 4 has 20; fewer take less time.
const DELIVERY_LIMIT: i64 = 2;
