//! What has just been announced, for an operator who watches: the last few events, with what identifies them and nothing
//! of the buyer, of the texts or of the notification. Gathered only while somebody asks.
//!
//! It is here and not at the broker because a queue that is bound for watching would make every event routable: one whose
//! own queue is missing would be confirmed, and answered `success`, and seen by the watcher alone.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::clock::Timestamp;
use crate::event::Event;
use crate::store::State;

/// An event that was announced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sighting {
    /// They are counted from the start of the process.
    pub number: u64,
    /// When the broker confirmed it.
    pub at: String,
    /// `recorded`; or `unrouted`: nobody wants its type.
    pub state: &'static str,
    /// Its type.
    pub event_type: &'static str,
    /// Its id.
    pub event_id: String,
    /// The environment of its app.
    pub environment: &'static str,
    /// The merchant's order.
    pub out_trade_no: Option<String>,
    /// The trade's amount.
    pub total_amount: Option<String>,
    /// And its currency.
    pub currency: Option<String>,
    /// What was given back, as Alipay says it.
    pub refund_fee: Option<String>,
}

/// What was seen since some number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// The number of the last event that was announced while somebody watched.
    pub last: u64,
    /// The events; where their numbers leave some out, there were more than are kept.
    pub events: Vec<Sighting>,
}

#[derive(Debug, Default)]
pub(super) struct Watch {
    /// In milliseconds since the epoch.
    until: AtomicI64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    last: u64,
    /// Bound: [`MAX_KEPT`].
    sightings: VecDeque<Sighting>,
}

impl Watch {
    /// Costs one look at a number while nobody watches.
    pub(super) fn saw(&self, event: &Event, state: State, at: Timestamp) {
        if at.unix_millis() >= self.until.load(Ordering::Relaxed) {
            return;
        }
        let facts: Value = serde_json::from_str(&format!("{{{}}}", event.facts)).unwrap_or_default();
        let text = |place: &str| facts.pointer(place).and_then(Value::as_str).map(str::to_owned);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.last += 1;
        let sighting = Sighting {
            number: kept.last,
            at: at.rfc3339_beijing(),
            state: state.as_str(),
            event_type: event.event_type.as_str(),
            event_id: event.id.as_str().to_owned(),
            environment: event.environment.as_str(),
            out_trade_no: text("/out_trade_no"),
            total_amount: text("/total_amount"),
            currency: text("/currency"),
            refund_fee: text("/refund/refund_fee"),
        };
        if kept.sightings.len() >= MAX_KEPT {
            kept.sightings.pop_front();
        }
        kept.sightings.push_back(sighting);
    }

    /// What came after a number; nothing for who asks for the first time. Keeps the watch up.
    pub(super) fn since(&self, after: Option<u64>, now: Timestamp) -> Seen {
        self.until.store(now.plus(WATCHED).unix_millis(), Ordering::Relaxed);
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let after = after.unwrap_or(kept.last);
        let events = kept.sightings.iter().filter(|sighting| sighting.number > after).cloned().collect();
        Seen { last: kept.last, events }
    }
}

/// Bound: events that are kept for who watches.
const MAX_KEPT: usize = 1000;
/// How long they are gathered after the last time that somebody asked.
const WATCHED: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Digest, Environment, EventId, EventType};

    fn paid(trade: u64) -> Event {
        Event {
            event_type: EventType::PaymentSucceeded,
            id: EventId::of_trade("1", &format!("{trade:028}"), EventType::PaymentSucceeded),
            digest: Digest::of(b"o", None, b"", None),
            notify_id: "n".to_owned(),
            environment: Environment::Production,
            business_time: Timestamp::default(),
            payment_time: None,
            notified_at: Timestamp::default(),
            finishes: false,
            stale: false,
            late: false,
            facts: r#""out_trade_no":"R-1","total_amount":"88.88","subject":"a secret","buyer_id":"2088""#
                .to_owned(),
        }
    }

    #[test]
    fn nothing_is_gathered_while_nobody_watches_and_never_what_tells_of_the_buyer() {
        let (watch, now) = (Watch::default(), Timestamp::from_unix_millis(1_000_000));
        watch.saw(&paid(1), State::Recorded, now);
        assert_eq!(watch.since(None, now), Seen { last: 0, events: Vec::new() });
        watch.saw(&paid(2), State::Recorded, now);
        let seen = watch.since(Some(0), now);
        assert_eq!((seen.last, seen.events.len()), (1, 1));
        let shown = serde_json::to_string(&seen).unwrap();
        assert!(shown.contains("R-1") && shown.contains("88.88"), "{shown}");
        assert!(!shown.contains("secret") && !shown.contains("2088"), "{shown}");
        let mut nameless = paid(9);
        nameless.facts = r#""total_amount":"88.88","buyer_id":"2088""#.to_owned();
        watch.saw(&nameless, State::Recorded, now);
        let seen = watch.since(Some(1), now);
        assert_eq!(seen.events[0].out_trade_no, None, "nothing takes its place");
        let later = now.plus(WATCHED);
        watch.saw(&paid(3), State::Recorded, later);
        assert_eq!(watch.since(Some(2), later).last, 2, "nobody has asked for a while");
    }

    #[test]
    fn a_flood_pushes_out_the_oldest_and_the_numbers_tell() {
        let (watch, now) = (Watch::default(), Timestamp::from_unix_millis(1_000_000));
        watch.since(None, now);
        (0..1500).for_each(|trade| watch.saw(&paid(trade), State::Recorded, now));
        let seen = watch.since(Some(0), now);
        assert_eq!((seen.last, seen.events.len(), seen.events[0].number), (1500, MAX_KEPT, 501));
    }
}
