//! An event as it goes on the wire: a CloudEvent in the AMQP 0-9-1 binding (contract.md, "Event on the wire").
//! Plain data: only `broker/amqp.rs` knows how AMQP spells it.

use super::{Digest, Environment, Event, EventId, EventType, Money};
use crate::clock::Timestamp;

/// Everything that the broker is given, and everything that a store keeps of an event that waits.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Message {
    /// `message_id` and `cloudEvents_id`.
    pub id: String,
    /// Routing key, property `type` and `cloudEvents_type`.
    pub event_type: String,
    /// The app's id.
    pub app_id: String,
    /// `cloudEvents_subject`.
    pub subject: String,
    /// `cloudEvents_time`, RFC 3339.
    pub time: String,
    /// `x-digest`.
    pub digest: String,
    /// `x-environment`.
    pub environment: String,
    /// `x-dedup: unchecked`: the store could not be asked whether this was announced before.
    pub unchecked: bool,
    /// W3C trace context of the request that brought it.
    pub traceparent: Option<String>,
    /// The JSON body.
    pub body: String,
}

impl Message {
    /// Renders an event whose type and id are final.
    pub fn of(event: &Event, unchecked: bool, traceparent: Option<String>) -> Self {
        let (id, event_type) = (event.id.as_str(), event.event_type.as_str());
        let mut body = String::with_capacity(id.len() + event_type.len() + event.facts.len() + 40);
        // Neither holds a character that JSON would escape: ids are `[A-Za-z0-9._%-]`, types are ours.
        for piece in [r#"{"event_id":""#, id, r#"","event_type":""#, event_type, r#"","#, &event.facts, "}"] {
            body.push_str(piece);
        }
        Self {
            id: id.to_owned(),
            event_type: event_type.to_owned(),
            app_id: event.id.app_id().to_owned(),
            subject: event.id.subject().to_owned(),
            time: event.business_time.rfc3339_beijing(),
            digest: event.digest.short(),
            environment: event.environment.as_str().to_owned(),
            unchecked,
            traceparent,
            body,
        }
    }

    /// The event that this is of, for publishing it again as it is: nothing is left to resolve but whether it was
    /// announced meanwhile. `None` if this was not written by [`Message::of`].
    pub fn event(&self, digest: Digest, notify_id: String, payment_time: Option<Timestamp>) -> Option<Event> {
        let event_type = EventType::from_name(&self.event_type)?;
        let head = format!(r#"{{"event_id":"{}","event_type":"{}","#, self.id, self.event_type);
        let facts = self.body.strip_prefix(&head)?.strip_suffix('}')?.to_owned();
        let business_time = Timestamp::from_rfc3339(&self.time)?;
        Some(Event {
            event_type,
            id: EventId::kept(&self.app_id, &self.subject, event_type, &self.id),
            digest,
            notify_id,
            environment: Environment::from_name(&self.environment)?,
            business_time,
            payment_time,
            notified_at: business_time,
            finishes: false,
            stale: false,
            late: false,
            facts,
        })
    }

    /// Whether the money facts in the body give this digest: what was read out of a damaged file is believed only then.
    pub fn agrees_with(&self, digest: &Digest) -> bool {
        let Ok(body) = serde_json::from_str::<serde_json::Value>(&self.body) else { return false };
        let text = |place: &str| body.pointer(place).and_then(serde_json::Value::as_str).unwrap_or_default();
        if text("/trade_no").is_empty() {
            return *digest == Digest::of(b"", None, b"", None);
        }
        let amount = |place: &str| Money::parse(text(place).as_bytes());
        let fee = amount("/refund/refund_fee").or_else(|| amount("/notification/refund_fee"));
        let (out_trade_no, seller_id) = (text("/out_trade_no").as_bytes(), text("/seller_id").as_bytes());
        *digest == Digest::of(out_trade_no, amount("/total_amount"), seller_id, fee)
    }

    /// The headers, in the form that the CloudEvents AMQP binding now prefers (`cloudEvents_…`).
    pub fn into_headers(self) -> Vec<(&'static str, String)> {
        let schema = [DATA_SCHEMA, ":", &self.event_type, ":v1"].concat();
        let mut headers = vec![
            ("cloudEvents_specversion", "1.0".to_owned()),
            ("cloudEvents_id", self.id),
            ("cloudEvents_source", ["urn:alipay:app:", &self.app_id].concat()),
            ("cloudEvents_type", self.event_type),
            ("cloudEvents_subject", self.subject),
            ("cloudEvents_time", self.time),
            ("cloudEvents_dataschema", schema),
            ("x-digest", self.digest),
            ("x-environment", self.environment),
        ];
        if self.unchecked {
            headers.push(("x-dedup", "unchecked".to_owned()));
        }
        if let Some(traceparent) = self.traceparent {
            headers.push(("traceparent", traceparent));
        }
        headers
    }

    /// How many bytes it takes in a backlog, about.
    pub fn weight(&self) -> usize {
        self.body.len() + self.id.len() + 256
    }
}

/// Names the JSON Schema of an event's body; the version follows the type.
const DATA_SCHEMA: &str = "urn:alipay-notify-gateway:event";
