//! The one home of AMQP.

use super::topology::Queue;
use crate::secret::Secret;

/// The broker.
#[derive(Debug, Clone)]
pub struct Config {
    /// `amqp.uri`.
    pub uri: Secret,
    /// `amqp.exchange`: a durable topic exchange.
    pub exchange: String,
    /// `[[amqp.queues]]`, declared at start.
    pub queues: Vec<Queue>,
    /// `amqp.required_queues`, beside those declared.
    pub required_queues: Vec<String>,
}
