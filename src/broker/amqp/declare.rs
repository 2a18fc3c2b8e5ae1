//! The topology at each connect, on throw-away channels: a refused declaration closes its channel.
//!
//! A durable topic exchange, the optional durable quorum queues and their bindings. Never a policy that drops
//! messages. What is required and missing is a problem that is shown; it is no reason not to publish, since an
//! event that no queue takes is returned and kept.

use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ExchangeKind};

use super::publisher::short;
use super::{Config, within};
use crate::broker::LinkError;
use crate::broker::topology::Queue;

/// Declares everything. Gives what is wrong and can be lived with.
///
/// # Errors
/// If the exchange cannot be had: nothing could be published.
pub(super) async fn declare(connection: &Connection, config: &Config) -> Result<Vec<String>, LinkError> {
    let exchange = declare_exchange(connection, config, false);
    exchange
        .await
        .map_err(|error| LinkError { message: format!("amqp.exchange {:?}: {error}", config.exchange) })?;
    let mut problems = Vec::new();
    for queue in &config.queues {
        if let Err(error) = declare_queue(connection, config, queue).await {
            problems.push(format!("amqp.queues {:?} could not be declared: {error}", queue.name));
        }
    }
    problems.extend(missing(connection, config).await?);
    Ok(problems)
}

/// The required queues that are not there.
pub(super) async fn missing(connection: &Connection, config: &Config) -> Result<Vec<String>, LinkError> {
    let mut problems = Vec::new();
    for name in &config.required_queues {
        if let Err(error) = look_at_queue(connection, name).await {
            problems.push(format!("amqp.required_queues {name:?}: {error}"));
        }
    }
    Ok(problems)
}

/// Looks, and declares nothing.
pub(super) async fn look(connection: &Connection, config: &Config) -> Result<Vec<String>, LinkError> {
    let mut seen = vec!["the broker answers".to_owned()];
    seen.push(match declare_exchange(connection, config, true).await {
        Ok(()) => format!("the exchange {:?} is there", config.exchange),
        Err(_) => format!("the exchange {:?} is not there: serve declares it", config.exchange),
    });
    let declared = config.queues.iter().map(|queue| &queue.name);
    for name in declared.chain(&config.required_queues) {
        seen.push(match look_at_queue(connection, name).await {
            Ok(()) => format!("the queue {name:?} is there"),
            Err(_) => format!("the queue {name:?} is not there"),
        });
    }
    Ok(seen)
}

async fn declare_exchange(connection: &Connection, config: &Config, passive: bool) -> Result<(), LinkError> {
    let name = short(&config.exchange)?;
    let options = ExchangeDeclareOptions { passive, durable: true, ..ExchangeDeclareOptions::default() };
    let channel = throw_away(connection).await?;
    let declared = channel.exchange_declare(name, ExchangeKind::Topic, options, FieldTable::default());
    within(DECLARE_DEADLINE, "declaring", declared).await
}

async fn declare_queue(connection: &Connection, config: &Config, queue: &Queue) -> Result<(), LinkError> {
    let channel = throw_away(connection).await?;
    let mut arguments = FieldTable::default();
    arguments.insert(short("x-queue-type")?, AMQPValue::LongString("quorum".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(short(&queue.name)?, options, arguments);
    within(DECLARE_DEADLINE, "declaring", declared).await?;
    for key in &queue.bind {
        let (name, exchange, key) = (short(&queue.name)?, short(&config.exchange)?, short(key)?);
        let bound =
            channel.queue_bind(name, exchange, key, QueueBindOptions::default(), FieldTable::default());
        within(DECLARE_DEADLINE, "binding", bound).await?;
    }
    Ok(())
}

async fn look_at_queue(connection: &Connection, name: &str) -> Result<(), LinkError> {
    let channel = throw_away(connection).await?;
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let looked = channel.queue_declare(short(name)?, options, FieldTable::default());
    within(DECLARE_DEADLINE, "looking", looked).await.map(drop)
}

async fn throw_away(connection: &Connection) -> Result<Channel, LinkError> {
    within(DECLARE_DEADLINE, "opening a channel", connection.create_channel()).await
}

/// Quorum queues take a moment to be made.
const DECLARE_DEADLINE: Duration = Duration::from_secs(5);
