//! A real consumer of the queue, on a connection of its own past every fault. It drops no repeats: it writes down what
//! comes, in the queue's order.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ExchangeDeleteOptions,
    QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use crate::moment::Moment;

/// One message out of the queue.
#[derive(Debug, Clone)]
pub struct Copy {
    pub message_id: String,
    pub arrived: Moment,
    /// The second in which it was published, by the gateway's clock, which is this one.
    pub published: Moment,
    /// The delivery that it came of, if it named itself.
    pub traceparent: Option<String>,
    pub notify_id: String,
    /// The broker says that it may have handed it out before.
    pub redelivered: bool,
    pub unchecked: bool,
}

pub struct Consumer {
    _connection: Connection,
    channel: Channel,
    queue: String,
    copies: Arc<Mutex<Vec<Copy>>>,
}

impl Consumer {
    pub async fn of(amqp: &str, queue: &str) -> Self {
        let connection = Connection::connect(amqp, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.basic_qos(1000, BasicQosOptions::default()).await.unwrap();
        let options = BasicConsumeOptions::default();
        let consumed = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await;
        let mut consumer = consumed.unwrap();
        let copies: Arc<Mutex<Vec<Copy>>> = Arc::default();
        let written = Arc::clone(&copies);
        tokio::spawn(async move {
            while let Some(Ok(delivery)) = consumer.next().await {
                written.lock().unwrap().push(copy_of(&delivery));
                let _ = delivery.acker.ack(BasicAckOptions::default()).await;
            }
        });
        Self { _connection: connection, channel, queue: queue.to_owned(), copies }
    }

    /// Everything that is in the queue now has been written down when this returns: a message of our own comes behind
    /// it.
    pub async fn catch_up(&self) {
        let last = format!("{LAST}{:032x}", rand::random::<u128>());
        let properties = BasicProperties::default().with_message_id(last.as_str().into());
        let options = BasicPublishOptions::default();
        let queue = self.queue.as_str().into();
        self.channel.basic_publish("".into(), queue, options, b"", properties).await.unwrap();
        let patience = async {
            while !self.copies.lock().unwrap().iter().rev().any(|copy| copy.message_id == last) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, patience).await.is_ok(), "the queue does not come to an end");
    }

    /// Leaves nothing behind at the broker.
    pub async fn take_away(self) {
        let name = self.queue.as_str();
        self.channel.queue_delete(name.into(), QueueDeleteOptions::default()).await.unwrap();
        self.channel.exchange_delete(name.into(), ExchangeDeleteOptions::default()).await.unwrap();
    }

    /// What has come so far.
    pub fn copies(&self) -> Vec<Copy> {
        let copies = self.copies.lock().unwrap();
        copies.iter().filter(|copy| !copy.message_id.starts_with(LAST)).cloned().collect()
    }
}

fn copy_of(delivery: &Delivery) -> Copy {
    let properties = &delivery.properties;
    let header = |name: &str| {
        let value = properties.headers().as_ref()?.inner().get(name)?;
        Some(value.as_long_string()?.to_string())
    };
    let body: serde_json::Value = serde_json::from_slice(&delivery.data).unwrap_or_default();
    Copy {
        message_id: properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default(),
        arrived: Moment::now(),
        published: Moment(properties.timestamp().map_or(0, |at| i64::try_from(at).unwrap() * 1000)),
        traceparent: header("traceparent"),
        notify_id: body["notify_id"].as_str().unwrap_or_default().to_owned(),
        redelivered: delivery.redelivered,
        unchecked: header("x-dedup").is_some(),
    }
}

const LAST: &str = "last:";
const PATIENCE: Duration = Duration::from_secs(120);
