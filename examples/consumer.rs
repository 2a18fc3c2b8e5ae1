//! A complete small consumer: Rust, lapin, SQLite. What it does, and why, is in docs/consuming.md.
//!
//! ```sh
//! AMQP_URL=amqp://guest:guest@127.0.0.1:5672/%2f QUEUE=payments.orders DATABASE=orders.db \
//!   cargo run --example consumer
//! ```
//!
//! Exchange SQLite for the database that your orders are in: the rule is that the insert into `seen`, the order and the
//! shipment are one transaction there.

#![expect(clippy::disallowed_methods, clippy::print_stderr, reason = "an example of somebody else's program")]

use std::error::Error;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties, Consumer};
use rusqlite::{ErrorCode, OptionalExtension as _, Transaction, params};
use serde_json::Value;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS orders (out_trade_no TEXT PRIMARY KEY, amount_minor INTEGER NOT NULL,
  state TEXT NOT NULL DEFAULT 'new', trade_no TEXT, refunded_minor INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS seen (message_id TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS shipments (out_trade_no TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS reviews (message_id TEXT, why TEXT NOT NULL, body TEXT NOT NULL);
";

/// What a message is to whoever has to look at it; nothing if nobody has to.
type Review = Option<&'static str>;

/// What no try will mend, as an event that lacks a member.
const NOT_AN_EVENT: Review = Some("not an event of the gateway");

struct Order {
    amount_minor: i64,
    state: String,
    trade_no: Option<String>,
    refunded_minor: i64,
}

fn order_of(db: &Transaction<'_>, out_trade_no: &str) -> rusqlite::Result<Option<Order>> {
    let sql = "SELECT amount_minor, state, trade_no, refunded_minor FROM orders WHERE out_trade_no = ?";
    db.query_row(sql, [out_trade_no], |row| {
        Ok(Order {
            amount_minor: row.get(0)?,
            state: row.get(1)?,
            trade_no: row.get(2)?,
            refunded_minor: row.get(3)?,
        })
    })
    .optional()
}

fn paid(db: &Transaction<'_>, event: &Value) -> rusqlite::Result<Review> {
    let (Some(out_trade_no), Some(trade_no)) = (text(event, "/out_trade_no"), text(event, "/trade_no"))
    else {
        return Ok(NOT_AN_EVENT);
    };
    let Some(order) = order_of(db, out_trade_no)? else {
        return Ok(Some("a payment of an order that is not ours"));
    };
    // Hundredths as an integer; there are none where the currency is not CNY.
    if event.pointer("/total_amount_minor").and_then(Value::as_i64) != Some(order.amount_minor) {
        return Ok(Some("the amount is not the order's"));
    }
    let moved = db.execute(
        "UPDATE orders SET state = 'paid', trade_no = ? WHERE out_trade_no = ? AND state IN ('new', 'closed')",
        [trade_no, out_trade_no],
    )?;
    if moved == 1 {
        db.execute("INSERT INTO shipments VALUES (?)", [out_trade_no])?;
    } else if order.trade_no.is_some_and(|known| known != trade_no) {
        return Ok(Some("the order was paid by two trades: give one back"));
    }
    // Else: it was refunded before this payment came. The order does not move backwards.
    Ok(None)
}

fn refunded(db: &Transaction<'_>, event: &Value) -> rusqlite::Result<Review> {
    let (Some(out_trade_no), Some(trade_no)) = (text(event, "/out_trade_no"), text(event, "/trade_no"))
    else {
        return Ok(NOT_AN_EVENT);
    };
    let Some(order) = order_of(db, out_trade_no)? else {
        return Ok(Some("a refund of an order that is not ours: it proves that there was a payment"));
    };
    if order.trade_no.is_some_and(|known| known != trade_no) {
        return Ok(Some("a refund of another trade than the order's: the order stays as it is"));
    }
    let Some(refund) = event.get("refund").and_then(Value::as_object) else { return Ok(NOT_AN_EVENT) };
    // Such a trade never paid the order. If its refund took the order over, the trade that pays would not be shipped.
    if event.get("total_amount_minor").and_then(Value::as_i64) != Some(order.amount_minor) {
        return Ok(Some("a refund of a trade that did not pay the order's amount: the order stays as it is"));
    }
    // Alipay's figure is the total given back so far; repeats and reorderings cannot make it smaller. It may be missing.
    let fee = refund.get("refund_fee_minor").and_then(Value::as_i64);
    let total = fee.unwrap_or(0).max(order.refunded_minor);
    let state = if total >= order.amount_minor { "refunded" } else { "partly_refunded" };
    db.execute(
        "UPDATE orders SET state = ?, refunded_minor = ?, trade_no = ? WHERE out_trade_no = ?",
        params![state, total, trade_no, out_trade_no],
    )?;
    if fee.is_none() {
        return Ok(Some("a refund that does not say how much was given back: look"));
    }
    let is_first = matches!(order.state.as_str(), "new" | "closed");
    Ok(is_first.then_some("refunded before its payment was heard of: look before you ship"))
}

/// Decides on `event_type`, and never on `trade_status`: a refund may carry TRADE_SUCCESS.
fn act(db: &Transaction<'_>, event: &Value) -> rusqlite::Result<Review> {
    match text(event, "/event_type").unwrap_or_default() {
        "payment.succeeded" => paid(db, event),
        "payment.refunded" => refunded(db, event),
        "payment.late" => Ok(Some("a payment so old that it may have been handled: look")),
        "payment.conflict" => Ok(Some("the same identity with other money: look")),
        "trade.closed" => {
            let Some(out_trade_no) = text(event, "/out_trade_no") else { return Ok(NOT_AN_EVENT) };
            let sql = "UPDATE orders SET state = 'closed' WHERE out_trade_no = ? AND state = 'new'";
            db.execute(sql, [out_trade_no])?;
            Ok(None)
        }
        "trade.pending" | "trade.finished" => Ok(None),
        // Another kind of notification, or a trade of which Alipay says something new.
        "notification.other" => {
            Ok(text(event, "/trade_no").and(Some("a trade in a state that nobody knows: look")))
        }
        _ => Ok(Some("an event type that this program does not know")),
    }
}

/// What the database refuses is to be looked at: no try will mend it, and a queue that it blocks delivers nothing. (Repeats
/// do not come here: see `OR IGNORE`.)
fn handle(db: &mut rusqlite::Connection, delivery: &Delivery, environment: &str) -> rusqlite::Result<()> {
    let done = apply(db, delivery, environment);
    if let Err(error) = &done
        && error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation)
    {
        return review(db, delivery, "the database refuses it, as a shipment that is there already: look");
    }
    done
}

fn review(db: &rusqlite::Connection, delivery: &Delivery, why: &str) -> rusqlite::Result<()> {
    let message_id = delivery.properties.message_id().as_ref().map(|id| id.as_str());
    let body = String::from_utf8_lossy(&delivery.data);
    db.execute("INSERT INTO reviews VALUES (?, ?, ?)", params![message_id, why, body])?;
    Ok(())
}

/// One message, one transaction: everything of it, or nothing.
fn apply(db: &mut rusqlite::Connection, delivery: &Delivery, environment: &str) -> rusqlite::Result<()> {
    let db = db.transaction()?;
    let message_id = delivery.properties.message_id().as_ref().map(|id| id.as_str());
    let event = serde_json::from_slice::<Value>(&delivery.data).ok();
    let event =
        event.filter(|event| ["/event_type", "/environment"].iter().all(|name| text(event, name).is_some()));
    let why = match (message_id, event) {
        (Some(id), Some(event)) => {
            // The unique constraint decides, and not a SELECT before it: two copies may be handled at once.
            match db.execute("INSERT OR IGNORE INTO seen VALUES (?)", [id])? {
                0 => None,
                _ if text(&event, "/environment") != Some(environment) => {
                    Some("the money of another environment")
                }
                _ => act(&db, &event)?,
            }
        }
        _ => NOT_AN_EVENT,
    };
    if let Some(why) = why {
        review(&db, delivery, why)?;
    }
    db.commit()
}

fn text<'e>(event: &'e Value, place: &str) -> Option<&'e str> {
    event.pointer(place).and_then(Value::as_str)
}

/// The connection ends when it is dropped.
async fn open() -> lapin::Result<(Connection, Consumer)> {
    let url =
        std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned());
    let queue = std::env::var("QUEUE").unwrap_or_else(|_| "payments.orders".to_owned());
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(10, BasicQosOptions::default()).await?;
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let consumer = channel.basic_consume(queue.into(), "".into(), options, none).await?;
    Ok((connection, consumer))
}

async fn consume(db: &mut rusqlite::Connection, environment: &str) -> Result<(), Box<dyn Error>> {
    // Without a time limit, a broker that answers nothing is waited for until somebody restarts this.
    let (_connection, mut consumer) = tokio::time::timeout(Duration::from_secs(10), open()).await??;
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        // The message is kept here and tried again. Given back (nack, requeue), it would count as delivered again, and
        // RabbitMQ 4 drops what a quorum queue has delivered 20 times.
        while let Err(error) = handle(db, &delivery, environment) {
            eprintln!("not handled, and tried again: {error}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        // Only now, after the commit: what is acknowledged is gone.
        delivery.acker.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> rusqlite::Result<()> {
    let file = std::env::var("DATABASE").unwrap_or_else(|_| "orders.db".to_owned());
    let environment = std::env::var("ENVIRONMENT").unwrap_or_else(|_| "production".to_owned());
    let mut db = rusqlite::Connection::open(file)?;
    db.busy_timeout(Duration::from_secs(5))?;
    db.execute_batch(TABLES)?;
    loop {
        if let Err(error) = consume(&mut db, &environment).await {
            eprintln!("connecting again: {error}");
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}
