//! What is declared at the broker, and what is expected of it: plain data, and which event types a set of
//! bindings takes. How it is declared is `amqp`'s.

use crate::event::EventType;

/// A durable quorum queue, bound to the exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Binding keys: event types, or patterns such as `trade.#`.
    pub bind: Vec<String>,
}

/// The event types that no binding takes.
pub fn unbound(queues: &[Queue]) -> Vec<EventType> {
    let taken = |kind: &EventType| {
        queues.iter().flat_map(|queue| &queue.bind).any(|pattern| matches(pattern, kind.as_str()))
    };
    EventType::ALL.into_iter().filter(|kind| !taken(kind)).collect()
}

/// AMQP's topic match: words between dots, `*` is one word, `#` is any number of words.
pub fn matches(pattern: &str, key: &str) -> bool {
    fn match_words(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern.split_first(), key.split_first()) {
            (None, None) => true,
            (Some((&"#", rest)), _) => {
                (0..=key.len()).any(|skipped| match_words(rest, key.get(skipped..).unwrap_or_default()))
            }
            (Some((word, pattern)), Some((first, key))) => {
                (*word == "*" || word == first) && match_words(pattern, key)
            }
            (None, Some(_)) | (Some(_), None) => false,
        }
    }
    match_words(&pattern.split('.').collect::<Vec<_>>(), &key.split('.').collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_a_topic_exchange_does() {
        for (pattern, key, expected) in [
            ("payment.succeeded", "payment.succeeded", true),
            ("payment.*", "payment.succeeded", true),
            ("payment.*", "payment", false),
            ("trade.#", "trade.closed", true),
            ("#", "notification.other", true),
            ("*.closed", "trade.closed", true),
            ("*", "trade.closed", false),
            ("trade.closed.#", "trade.closed", true),
            ("payment.succeeded", "payment.refunded", false),
        ] {
            assert_eq!(matches(pattern, key), expected, "{pattern} {key}");
        }
    }

    #[test]
    fn what_no_binding_takes_is_named() {
        let queue = |bind: &[&str]| Queue {
            name: "q".to_owned(),
            bind: bind.iter().map(|key| (*key).to_owned()).collect(),
        };
        assert_eq!(unbound(&[queue(&["payment.*"]), queue(&["trade.#"])]), [EventType::NotificationOther]);
        assert_eq!(unbound(&[queue(&["#"])]), []);
    }
}
