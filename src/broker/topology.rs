//! What is declared at the broker.

/// A durable quorum queue, bound to the exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Binding keys: event types, or patterns such as `trade.#`.
    pub bind: Vec<String>,
}
