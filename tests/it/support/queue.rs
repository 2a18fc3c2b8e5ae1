//! A consumer of the events: a queue of the test's own at the real broker.

use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, Consumer, ExchangeKind};
use serde_json::Value;

use super::alipay::Notification;
use super::program::{PATIENCE, Program, amqp_url, unique};

/// A queue bound to an exchange.
pub struct Queue {
    _connection: Connection,
    _channel: Channel,
    consumer: Consumer,
}

/// An event out of the queue.
#[derive(Debug)]
pub struct Event {
    pub delivery: Delivery,
    pub body: Value,
}

impl Event {
    pub fn event_type(&self) -> &str {
        self.body["event_type"].as_str().unwrap()
    }

    pub fn id(&self) -> &str {
        self.body["event_id"].as_str().unwrap()
    }

    pub fn trade_no(&self) -> &str {
        self.body["trade_no"].as_str().unwrap_or_default()
    }
}

impl Queue {
    /// Declares an exchange (as the gateway does) and an exclusive queue bound to it.
    pub async fn bound(exchange: &str, keys: &[&str]) -> Self {
        let connection = Connection::connect(&amqp_url(), ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let none = FieldTable::default;
        channel.exchange_declare(exchange.into(), ExchangeKind::Topic, durable, none()).await.unwrap();
        let name = unique("queue");
        let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(name.as_str().into(), exclusive, none()).await.unwrap();
        for key in keys {
            let options = QueueBindOptions::default();
            channel
                .queue_bind(name.as_str().into(), exchange.into(), (*key).into(), options, none())
                .await
                .unwrap();
        }
        let options = BasicConsumeOptions::default();
        let consumer = channel.basic_consume(name.as_str().into(), "".into(), options, none()).await.unwrap();
        Self { _connection: connection, _channel: channel, consumer }
    }

    /// The next event.
    pub async fn next(&mut self) -> Event {
        let delivery = tokio::time::timeout(PATIENCE, self.consumer.next()).await;
        let delivery = delivery.unwrap_or_else(|_| panic!("no event came")).unwrap().unwrap();
        delivery.acker.ack(BasicAckOptions::default()).await.unwrap();
        let body = serde_json::from_slice(&delivery.data).unwrap();
        Event { delivery, body }
    }

    /// What was published before a payment that is sent now: so "nothing was published" can be shown.
    pub async fn published(&mut self, program: &Program, marker: u64) -> Vec<Event> {
        let marker = Notification::payment_now(marker);
        assert!(program.post(&marker.body()).is_success(), "{}", program.log());
        let mut events = self.until(marker.trade_no()).await;
        events.pop();
        events
    }

    /// Everything up to and with the event of this trade: what is before it is all that was published before.
    pub async fn until(&mut self, trade_no: &str) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let event = self.next().await;
            let is_last = event.trade_no() == trade_no;
            events.push(event);
            if is_last {
                return events;
            }
        }
    }
}
