//! A feed into one queue, for `consumer-check`: through an exchange of its own that is bound to the queue for as long as it
//! lasts, so that messages come with the routing keys that they have in earnest. It knows AMQP, as `tap` does; never part
//! of `serve`.

use std::time::Duration;

use lapin::options::{
    BasicGetOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind};

use super::LinkError;
use super::amqp::properties;
use crate::clock::Timestamp;
use crate::event::Message;
use crate::secret::Secret;

/// A connection to the broker of the queue.
pub struct Feed {
    connection: Connection,
    channel: Channel,
    queue: String,
    exchange: String,
}

/// How a queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// Messages that wait in it.
    pub messages: u32,
    /// Who takes from it.
    pub consumers: u32,
}

impl Feed {
    /// Connects, and looks at the queue, which must be there. Nothing is changed.
    ///
    /// # Errors
    /// If the broker does not do it within [`DEADLINE`], or has no such queue.
    pub async fn open(uri: &Secret, queue: &str, exchange: &str) -> Result<(Self, Depth), LinkError> {
        let opened = async {
            let connection = Connection::connect(uri.expose(), ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let found = channel.queue_declare(queue.into(), passive, FieldTable::default()).await?;
            let depth = Depth { messages: found.message_count(), consumers: found.consumer_count() };
            Ok::<_, lapin::Error>((connection, channel, depth))
        };
        let (connection, channel, depth) = within(opened).await?;
        let (queue, exchange) = (queue.to_owned(), exchange.to_owned());
        Ok((Self { connection, channel, queue, exchange }, depth))
    }

    /// Binds the queue to the exchange of the feed.
    ///
    /// # Errors
    /// If the broker does not do it.
    pub async fn begin(&self) -> Result<(), LinkError> {
        within(async {
            let (queue, exchange) = (self.queue.as_str().into(), self.exchange.as_str());
            let own = ExchangeDeclareOptions { auto_delete: true, ..ExchangeDeclareOptions::default() };
            let none = FieldTable::default;
            self.channel.exchange_declare(exchange.into(), ExchangeKind::Topic, own, none()).await?;
            let options = QueueBindOptions::default();
            self.channel.queue_bind(queue, exchange.into(), "#".into(), options, none()).await?;
            self.channel.confirm_select(ConfirmSelectOptions::default()).await
        })
        .await
    }

    /// Publishes a message as the gateway would, with one more header that says what it is; and waits for its confirm.
    ///
    /// # Errors
    /// If it is not confirmed.
    #[expect(clippy::disallowed_methods, reason = "this channel has one owner, and one message outstanding")]
    pub async fn send(&self, message: &Message, at: Timestamp, mark: (&str, &str)) -> Result<(), LinkError> {
        let ready = properties(message.clone(), at)?;
        let mut headers = ready.headers().clone().unwrap_or_default();
        headers.insert(mark.0.into(), AMQPValue::LongString(mark.1.into()));
        let (exchange, key) = (self.exchange.as_str().into(), message.event_type.as_str().into());
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        // One at a time: what comes back is this one's.
        let confirmed = within(async {
            let ready = ready.with_headers(headers);
            let body = message.body.as_bytes();
            self.channel.basic_publish(exchange, key, options, body, ready).await?.await
        });
        let confirmation = confirmed.await?;
        if matches!(confirmation, Confirmation::Ack(None)) {
            return Ok(());
        }
        Err(LinkError { message: format!("the broker did not take it: {confirmation:?}") })
    }

    /// Takes everything that waits and gives it back, so that whoever takes it next sees it marked as redelivered. For a
    /// queue that nobody takes from. Bound: `count`.
    ///
    /// # Errors
    /// If the broker does not do it.
    pub async fn mark_redelivered(&self, count: usize) -> Result<(), LinkError> {
        let mut last = None;
        for _ in 0..count {
            let options = BasicGetOptions::default();
            match within(self.channel.basic_get(self.queue.as_str().into(), options)).await? {
                Some(taken) => last = Some(taken.delivery.delivery_tag),
                None => break,
            }
        }
        let Some(tag) = last else { return Ok(()) };
        within(self.channel.basic_nack(tag, BasicNackOptions { multiple: true, requeue: true })).await
    }

    /// Takes the exchange away, and its binding with it.
    ///
    /// # Errors
    /// If the broker does not do it.
    pub async fn close(self) -> Result<(), LinkError> {
        let options = ExchangeDeleteOptions::default();
        within(self.channel.exchange_delete(self.exchange.as_str().into(), options)).await?;
        within(self.connection.close(200, "done".into())).await
    }
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("queue", &self.queue).finish_non_exhaustive()
    }
}

async fn within<T>(call: impl Future<Output = lapin::Result<T>>) -> Result<T, LinkError> {
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(done) => done.map_err(|error| LinkError { message: error.to_string() }),
        Err(_) => Err(LinkError { message: format!("the broker did not answer within {DEADLINE:?}") }),
    }
}

/// Bound on every call.
const DEADLINE: Duration = Duration::from_secs(10);
