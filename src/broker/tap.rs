//! A tap on a demonstration's exchange: a queue of its own that goes with its connection, and the events that come out
//! of it. The second room that knows AMQP; never part of `serve`, and never for an exchange that carries real events:
//! while it is bound, everything is routable (`cli/broker_at.rs` sees to that).

use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, Consumer, ExchangeKind};

use super::LinkError;
use crate::secret::Secret;

/// An open tap.
pub struct Tap {
    connection: Connection,
    channel: Channel,
    consumer: Consumer,
    exchange: String,
}

/// An event as a consumer sees it.
#[derive(Debug, Clone)]
pub struct Tapped {
    /// The routing key, which is the event type.
    pub routing_key: String,
    /// The property `message_id`.
    pub message_id: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Tap {
    /// Binds an exclusive queue to everything that goes through the exchange, which is declared as the gateway
    /// declares it.
    ///
    /// # Errors
    /// If the broker does not do it within [`DEADLINE`].
    pub async fn open(uri: &Secret, exchange: &str) -> Result<Self, LinkError> {
        let opened = async {
            let connection = Connection::connect(uri.expose(), ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            let none = FieldTable::default;
            channel.exchange_declare(exchange.into(), ExchangeKind::Topic, durable, none()).await?;
            let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
            let queue = channel.queue_declare("".into(), exclusive, none()).await?;
            let name = queue.name().clone();
            channel
                .queue_bind(name.clone(), exchange.into(), "#".into(), QueueBindOptions::default(), none())
                .await?;
            let consumer =
                channel.basic_consume(name, "".into(), BasicConsumeOptions::default(), none()).await?;
            Ok::<_, lapin::Error>((connection, channel, consumer))
        };
        let (connection, channel, consumer) = within(opened).await?;
        Ok(Self { connection, channel, consumer, exchange: exchange.to_owned() })
    }

    /// The next event, if one comes within `patience`.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn next(&mut self, patience: Duration) -> Result<Option<Tapped>, LinkError> {
        let Ok(delivery) = tokio::time::timeout(patience, self.consumer.next()).await else {
            return Ok(None);
        };
        let Some(Ok(delivery)) = delivery else {
            return Err(LinkError { message: "the connection to the broker is gone".to_owned() });
        };
        within(delivery.acker.ack(BasicAckOptions::default())).await?;
        Ok(Some(Tapped {
            routing_key: delivery.routing_key.to_string(),
            message_id: delivery
                .properties
                .message_id()
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            body: delivery.data,
        }))
    }

    /// Closes the tap, and takes the exchange away with it.
    ///
    /// # Errors
    /// If the broker does not do it within [`DEADLINE`].
    pub async fn close_and_delete_exchange(self) -> Result<(), LinkError> {
        let deleted =
            self.channel.exchange_delete(self.exchange.as_str().into(), ExchangeDeleteOptions::default());
        within(deleted).await?;
        within(self.connection.close(200, "done".into())).await
    }
}

impl std::fmt::Debug for Tap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tap").field("exchange", &self.exchange).finish_non_exhaustive()
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
