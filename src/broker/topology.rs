//! What should stand at the broker, as the configuration names it: one durable topic exchange, optional durable
//! quorum queues bound to it, and queues that somebody else declares and that must be there.
//!
//! Plain data: how it is declared and checked is `amqp/declaration.rs`. There is no key for a limit, a time to
//! live or a dead-letter exchange, because each of them can drop an event that the broker has confirmed; who
//! wants a limit sets it by a policy of his own, with `overflow = reject-publish`.

/// A durable quorum queue, bound to the exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Binding keys: event types, or patterns such as `trade.#`.
    pub bind: Vec<String>,
}

/// Everything that should stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// `amqp.exchange`.
    pub exchange: String,
    /// `[[amqp.queues]]`: declared and bound.
    pub queues: Vec<Queue>,
    /// `amqp.required_queues`: checked passively.
    pub required_queues: Vec<String>,
}

impl Topology {
    /// The required queues that are not declared by us anyway, each once, in their order.
    pub fn foreign_queues(&self) -> Vec<&str> {
        let mut foreign: Vec<&str> = Vec::new();
        for name in &self.required_queues {
            let ours = self.queues.iter().any(|queue| queue.name == *name);
            if !ours && !foreign.contains(&name.as_str()) {
                foreign.push(name);
            }
        }
        foreign
    }
}

/// Something that should stand and does not, or could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The configuration key that asks for it.
    pub key: &'static str,
    /// The name of the exchange or queue.
    pub name: String,
    /// What is wrong, in words; often the broker's own. Holds no secret.
    pub what: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} `{}`: {}", self.key, self.name, self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_required_queue_that_we_declare_is_not_checked_twice() {
        let topology = Topology {
            exchange: "payments".to_owned(),
            queues: vec![Queue { name: "ours".to_owned(), bind: vec![] }],
            required_queues: ["theirs", "ours", "theirs", "others"].map(str::to_owned).to_vec(),
        };
        assert_eq!(topology.foreign_queues(), ["theirs", "others"]);
    }
}
