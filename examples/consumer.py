#!/usr/bin/env python3
"""A complete small consumer: Python, pika, SQLite. What it does, and why, is in docs/consuming.md.

    pip install pika
    AMQP_URL=amqp://guest:guest@127.0.0.1:5672/%2f QUEUE=payments.orders DATABASE=orders.db python3 consumer.py

Exchange SQLite for the database that your orders are in: the rule is that the insert into `seen`, the order and the
shipment are one transaction there.
"""

import json
import os
import sqlite3
import sys
import time

import pika
from pika.adapters.utils.connection_workflow import AMQPConnectorException

# What ends a connection, or keeps it from being made: the broker, pika's own time limits, the name that is not found.
AWAY = (pika.exceptions.AMQPError, AMQPConnectorException, OSError)

TABLES = """
CREATE TABLE IF NOT EXISTS orders (out_trade_no TEXT PRIMARY KEY, amount_minor INTEGER NOT NULL,
  state TEXT NOT NULL DEFAULT 'new', trade_no TEXT, refunded_minor INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS seen (message_id TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS shipments (out_trade_no TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS reviews (message_id TEXT, why TEXT NOT NULL, body TEXT NOT NULL);
"""


def paid(db, event, review):
    order = db.execute("SELECT * FROM orders WHERE out_trade_no = ?", (event["out_trade_no"],)).fetchone()
    if order is None:
        return review("a payment of an order that is not ours")
    # Hundredths as an integer; there are none where the currency is not CNY.
    if event.get("total_amount_minor") != order["amount_minor"]:
        return review("the amount is not the order's")
    moved = db.execute(
        "UPDATE orders SET state = 'paid', trade_no = ? WHERE out_trade_no = ? AND state IN ('new', 'closed')",
        (event["trade_no"], event["out_trade_no"]),
    )
    if moved.rowcount == 1:
        db.execute("INSERT INTO shipments VALUES (?)", (event["out_trade_no"],))
    elif order["trade_no"] not in (None, event["trade_no"]):
        review("the order was paid by two trades: give one back")
    # Else: it was refunded before this payment came. The order does not move backwards.


def refunded(db, event, review):
    order = db.execute("SELECT * FROM orders WHERE out_trade_no = ?", (event["out_trade_no"],)).fetchone()
    if order is None:
        return review("a refund of an order that is not ours: it proves that there was a payment")
    if order["trade_no"] not in (None, event["trade_no"]):
        return review("a refund of another trade than the order's: the order stays as it is")
    # Such a trade never paid the order. If its refund took the order over, the trade that pays would not be shipped.
    if event.get("total_amount_minor") != order["amount_minor"]:
        return review("a refund of a trade that did not pay the order's amount: the order stays as it is")
    # Alipay's figure is the total given back so far; repeats and reorderings cannot make it smaller. It may be absent.
    fee = event["refund"].get("refund_fee_minor")
    total = max(order["refunded_minor"], 0 if fee is None else fee)
    state = "refunded" if total >= order["amount_minor"] else "partly_refunded"
    if fee is None:
        review("a refund that does not say how much was given back: look")
    elif order["state"] in ("new", "closed"):
        review("refunded before its payment was heard of: look before you ship")
    db.execute(
        "UPDATE orders SET state = ?, refunded_minor = ?, trade_no = ? WHERE out_trade_no = ?",
        (state, total, event["trade_no"], event["out_trade_no"]),
    )


def other(db, event, review):
    # Another kind of notification, or a trade of which Alipay says something new.
    if "trade_no" in event:
        review("a trade in a state that nobody knows: look")


def closed(db, event, review):
    db.execute("UPDATE orders SET state = 'closed' WHERE out_trade_no = ? AND state = 'new'", (event["out_trade_no"],))


# Decide on event_type, and never on trade_status: a refund may carry TRADE_SUCCESS.
ACTIONS = {
    "payment.succeeded": paid,
    "payment.refunded": refunded,
    "payment.late": lambda db, event, review: review("a payment so old that it may have been handled: look"),
    "payment.conflict": lambda db, event, review: review("the same identity with other money: look"),
    "trade.closed": closed,
    "trade.pending": lambda db, event, review: None,
    "trade.finished": lambda db, event, review: None,
    "notification.other": other,
}


def handle(db, message_id, body, environment):
    """One message, one transaction: everything of it, or nothing."""

    def review(why):
        db.execute("INSERT INTO reviews VALUES (?, ?, ?)", (message_id, why, body.decode("utf-8", "replace")))

    try:
        with db:
            apply(db, message_id, json.loads(body), environment, review)
    except sqlite3.OperationalError:
        # Ours, and it passes: the database is away.
        raise
    except sqlite3.IntegrityError:
        with db:
            review("the database refuses it, as a shipment that is there already: look")
    except Exception:
        # No try will mend it: a member is missing or of another kind. A queue that it blocks delivers nothing.
        with db:
            review("not an event of the gateway")


def apply(db, message_id, event, environment, review):
    if not message_id:
        raise ValueError("a message without an id")
    # The unique constraint decides, and not a SELECT before it: two copies may be handled at once.
    if db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (message_id,)).rowcount == 0:
        return None
    action = ACTIONS.get(event["event_type"])
    if event["environment"] != environment:
        return review("the money of another environment")
    if action is None:
        return review("an event type that this program does not know")
    return action(db, event, review)


def main():
    db = sqlite3.connect(os.environ.get("DATABASE", "orders.db"))
    db.row_factory = sqlite3.Row
    db.executescript(TABLES)
    environment = os.environ.get("ENVIRONMENT", "production")

    def on_message(channel, method, properties, body):
        while True:
            try:
                handle(db, properties.message_id, body, environment)
                break
            except sqlite3.Error as error:
                # The message is kept here and tried again. Given back (nack, requeue), it would count as delivered
                # again, and RabbitMQ 4 drops what a quorum queue has delivered 20 times.
                print(f"not handled, and tried again: {error}", file=sys.stderr, flush=True)
                pause(channel.connection)
        # Only now, after the commit: what is acknowledged is gone.
        channel.basic_ack(method.delivery_tag)

    while True:
        try:
            # It gives up after some 15 s. What is left of it is closed before the next.
            with pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"])) as connection:
                channel = connection.channel()
                channel.basic_qos(prefetch_count=10)
                channel.basic_consume(os.environ.get("QUEUE", "payments.orders"), on_message)
                channel.start_consuming()
        except AWAY as error:
            print(f"connecting again: {error!r}", file=sys.stderr, flush=True)
            time.sleep(2)


def pause(connection):
    """A second in which the connection says that it lives. If it ends, the message comes again: its id is known then."""
    try:
        connection.sleep(1)
    except AWAY:
        time.sleep(1)


if __name__ == "__main__":
    main()
