//! What consumers are promised, held to the code: the JSON Schemas of `docs/schemas`, the AsyncAPI document and the golden
//! messages of `tests/golden`. `GOLDEN=write` in the environment writes schemas and messages anew; look at the difference
//! before you commit it, since each is a promise to somebody.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use alipay_notify_gateway::admission::policy::{Buyer, Policy};
use alipay_notify_gateway::admission::{self, Verdict};
use alipay_notify_gateway::event::{Event, EventType, Message};
use lapin::types::AMQPValue;
use serde_json::{Map, Value, json};

use super::support::alipay::Notification;
use super::support::judge::now;
use super::support::program::Program;
use super::support::queue::Queue;
use super::support::run;
use super::vectors;

/// Each golden message: the vector that it comes of, and what is done with it.
const GOLDEN: [(&str, &str, Case); 15] = [
    ("payment.succeeded", "payment", Case::AsItIs),
    ("payment.succeeded-gbk", "gbk-bytes", Case::AsItIs),
    ("payment.succeeded-with-a-body", "leading-and-trailing-spaces", Case::AsItIs),
    ("payment.succeeded-with-passback", "percent-encoded-passback", Case::AsItIs),
    ("payment.succeeded-buyer-forwarded", "invalid-utf8-in-subject", Case::Forwarded),
    ("payment.succeeded-buyer-masked", "buyer-id-absent", Case::Masked),
    ("payment.refunded", "partial-refund-with-milliseconds", Case::AsItIs),
    ("payment.refunded-in-full", "full-refund-closed", Case::AsItIs),
    ("payment.late", "payment", Case::Late),
    ("payment.conflict", "payment", Case::Conflict),
    ("trade.pending", "wait-buyer-pay", Case::AsItIs),
    ("trade.closed", "closed-unpaid", Case::AsItIs),
    ("trade.finished", "finished-first-and-alone", Case::Finish),
    ("notification.other", "agreement-signed", Case::AsItIs),
    ("notification.other-of-a-trade", "unknown-status", Case::AsItIs),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    AsItIs,
    Forwarded,
    Masked,
    Late,
    Conflict,
    Finish,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn event(vector: &str, policy: &Policy) -> Event {
    let verdict = admission::admit(&vectors::read(vector), policy, now());
    let Verdict::Admitted(admitted, _) = verdict else { panic!("{vector}: {verdict:?}") };
    Event::clone(admitted.event())
}

fn message(vector: &str, case: Case) -> Message {
    let mut policy = vectors::policy();
    policy.buyer = match case {
        Case::Forwarded => Buyer::Forward,
        Case::Masked => Buyer::Mask,
        Case::AsItIs | Case::Late | Case::Conflict | Case::Finish => Buyer::Omit,
    };
    let event = event(vector, &policy);
    let (event, unchecked) = match case {
        Case::AsItIs | Case::Masked => (event, false),
        // The header of a store that is away, with the least usual of them all.
        Case::Forwarded => (event, true),
        Case::Late => (event.as_late(), false),
        Case::Conflict => (event.as_conflict(), false),
        Case::Finish => (event.as_finish(), false),
    };
    let traceparent = unchecked.then(|| "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
    Message::of(&event, unchecked, traceparent)
}

/// As it is on the wire, but for the time of publishing, which is the vectors' own.
fn golden(message: &Message) -> Value {
    let headers: BTreeMap<_, _> = message.clone().into_headers().into_iter().collect();
    let body: Value = serde_json::from_str(&message.body).unwrap();
    json!({
        "routing_key": message.event_type,
        "properties": {
            "message_id": message.id,
            "type": message.event_type,
            "content_type": "application/json",
            "delivery_mode": 2,
            "timestamp": now().unix_seconds(),
            "app_id": "alipay-notify-gateway",
        },
        "headers": headers,
        "body": body,
    })
}

fn messages() -> Vec<(&'static str, Value)> {
    GOLDEN.into_iter().map(|(name, vector, case)| (name, golden(&message(vector, case)))).collect()
}

/// Compares a file with what it should be; or writes it.
fn hold(path: &str, expected: &Value) {
    let (file, mut text) = (root().join(path), serde_json::to_string_pretty(expected).unwrap());
    text.push('\n');
    if std::env::var("GOLDEN").as_deref() == Ok("write") {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(kept, text, "{path} is not what the code makes: GOLDEN=write, and look at the difference");
}

fn names(folder: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap().replace(".json", "")).collect()
}

#[test]
fn the_golden_messages_are_what_the_code_makes_of_the_vectors() {
    for (name, golden) in messages() {
        hold(&format!("tests/golden/{name}.json"), &golden);
    }
    assert_eq!(names("tests/golden"), GOLDEN.into_iter().map(|(name, ..)| name.to_owned()).collect());
    for event_type in EventType::ALL {
        assert!(GOLDEN.iter().any(|(name, ..)| *name == event_type.as_str()), "{event_type} has one");
    }
}

#[test]
fn every_event_type_has_a_schema_that_its_messages_fit_and_that_names_nothing_else() {
    let messages = messages();
    for event_type in EventType::ALL {
        let schema = schema(event_type);
        hold(&format!("docs/schemas/{event_type}.json"), &schema);
        let open = jsonschema::validator_for(&schema).unwrap();
        let closed = jsonschema::validator_for(&without_more(schema.clone())).unwrap();
        let of_type = messages.iter().filter(|(_, golden)| golden["routing_key"] == event_type.as_str());
        for (name, golden) in of_type {
            let errors: Vec<String> =
                closed.iter_errors(&golden["body"]).map(|error| error.to_string()).collect();
            assert_eq!(errors, Vec::<String>::new(), "{name}");
            let mut later = golden["body"].clone();
            later["something_new"] = json!(1);
            assert!(open.is_valid(&later), "{name}: what comes later breaks nobody");
        }
    }
    assert_eq!(names("docs/schemas"), EventType::ALL.map(|kind| kind.as_str().to_owned()).into());
}

#[test]
fn every_member_of_a_schema_is_in_some_golden_message() {
    let bodies: Vec<Value> = messages().into_iter().map(|(_, golden)| golden["body"].clone()).collect();
    for name in MEMBERS.iter().map(|(name, ..)| *name) {
        assert!(bodies.iter().any(|body| !body[name].is_null()), "nothing shows {name}: is it still there?");
    }
    for name in REFUND {
        assert!(bodies.iter().any(|body| !body["refund"][name].is_null()), "nothing shows refund.{name}");
    }
}

#[test]
fn a_schema_refuses_what_is_not_promised() {
    let body =
        |name: &str| messages().into_iter().find(|(found, _)| *found == name).unwrap().1["body"].clone();
    let fits = |event_type, body: &Value| jsonschema::is_valid(&schema(event_type), body);
    let paid = body("payment.succeeded");
    for (name, wrong) in [
        ("total_amount", json!(88.88)),
        ("total_amount", json!("88.8")),
        ("total_amount_minor", json!("8888")),
        ("total_amount_minor", json!(88.88)),
        ("event_type", json!("payment.refunded")),
        ("paid_at", json!("2026-11-23 10:15:31")),
        ("environment", json!("test")),
    ] {
        let mut changed = paid.clone();
        changed[name] = wrong;
        assert!(!fits(EventType::PaymentSucceeded, &changed), "{changed}");
    }
    for name in ["event_id", "out_trade_no", "total_amount", "currency", "trade_no"] {
        let mut less = paid.clone();
        less.as_object_mut().unwrap().remove(name);
        assert!(!fits(EventType::PaymentSucceeded, &less), "{name} is always there");
    }
    let other = body("notification.other-of-a-trade");
    assert_eq!(
        (&other["trade_status"], &other["total_amount_minor"]),
        (&json!("TRADE_PENDING"), &json!(8888))
    );
    for (name, wrong) in [("trade_no", json!(1)), ("total_amount", json!("88.8")), ("trade_status", json!(1))]
    {
        let mut changed = other.clone();
        changed[name] = wrong;
        assert!(!fits(EventType::NotificationOther, &changed), "{changed}");
    }
    let mut refund = body("payment.refunded");
    refund.as_object_mut().unwrap().remove("refund");
    assert!(!fits(EventType::PaymentRefunded, &refund));
}

#[test]
fn the_wire_bears_what_the_golden_messages_show() {
    run(async {
        let program = Program::start("contract");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let paid = Notification::payment_now(1);
        assert!(program.post(&paid.body()).is_success());
        let event = queue.next().await;
        let (delivery, golden) = (&event.delivery, golden(&message("payment", Case::AsItIs)));
        let properties = &delivery.properties;
        let text = |text: &Option<lapin::types::ShortString>| text.as_ref().map(ToString::to_string);
        assert_eq!(delivery.routing_key.as_str(), golden["routing_key"]);
        let seen = json!({
            "message_id": text(properties.message_id()),
            "type": text(properties.kind()),
            "content_type": text(properties.content_type()),
            "delivery_mode": properties.delivery_mode(),
            "timestamp": golden["properties"]["timestamp"],
            "app_id": text(properties.app_id()),
        });
        assert!(properties.timestamp().is_some() && properties.reply_to().is_none());
        let mut expected = golden["properties"].clone();
        expected["message_id"] = json!(paid.event_id("payment.succeeded"));
        assert_eq!(seen, expected);
        let headers: BTreeMap<String, String> = properties
            .headers()
            .as_ref()
            .unwrap()
            .inner()
            .iter()
            .map(|(name, value)| {
                let AMQPValue::LongString(text) = value else { panic!("{name}: {value:?}") };
                (name.to_string(), text.to_string())
            })
            .collect();
        let names: BTreeSet<&String> = headers.keys().collect();
        assert_eq!(names, golden["headers"].as_object().unwrap().keys().collect());
        for same in
            ["cloudEvents_specversion", "cloudEvents_dataschema", "cloudEvents_source", "x-environment"]
        {
            assert_eq!(golden["headers"][same], headers[same].as_str(), "{same}");
        }
        assert_eq!(headers["cloudEvents_id"], event.id());
        assert!(jsonschema::is_valid(&schema(EventType::PaymentSucceeded), &event.body), "{}", event.body);
    });
}

#[test]
fn the_asyncapi_document_names_every_event_type_with_its_schema_and_every_header() {
    let document = std::fs::read_to_string(root().join("docs/asyncapi.yaml")).unwrap();
    assert!(document.starts_with("asyncapi: 3."));
    for event_type in EventType::ALL {
        for part in [
            format!("name: {event_type}\n"),
            format!("$ref: ./schemas/{event_type}.json\n"),
            format!("urn:alipay-notify-gateway:event:{event_type}:v1"),
        ] {
            assert!(document.contains(&part), "{part}");
        }
    }
    let headers: BTreeSet<String> = messages()
        .into_iter()
        .flat_map(|(_, golden)| golden["headers"].as_object().unwrap().keys().cloned().collect::<Vec<_>>())
        .collect();
    for header in &headers {
        assert!(document.contains(&format!("\n        {header}:\n")), "{header}");
    }
    let described = document.lines().filter_map(|line| line.strip_prefix("        ")?.strip_suffix(':'));
    let ours =
        |name: &&str| name.starts_with("cloudEvents_") || name.starts_with("x-") || *name == "traceparent";
    assert_eq!(described.filter(ours).map(str::to_owned).collect::<BTreeSet<_>>(), headers);
}

/// Where a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// Every event.
    All,
    /// Those that are about a trade.
    Trade,
    /// The same; and maybe a `notification.other`, where a trade is in a state that nobody knows.
    Named,
    /// `payment.refunded`, and a `payment.conflict` of a refund.
    Refund,
}

/// Whether it is always there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Always,
    Maybe,
}

const REFUND: [&str; 4] = ["out_biz_no", "refund_fee", "refund_fee_minor", "refunded_at"];

/// The members of a body, in the order in which they come.
const MEMBERS: [(&str, Of, Is, &str); 27] = [
    (
        "event_id",
        Of::All,
        Is::Always,
        "The event's id, the same in every repeat, and `message_id`. Drop repeats by it.",
    ),
    ("event_type", Of::All, Is::Always, "Decide on this, and never on `trade_status`."),
    ("app_id", Of::All, Is::Always, "The app."),
    ("auth_app_id", Of::All, Is::Maybe, "Another's app, where a third party acts for it."),
    ("environment", Of::All, Is::Always, "Nothing is delivered for a sandbox's money."),
    ("notify_type", Of::All, Is::Maybe, "Alipay's kind of notification."),
    ("trade_no", Of::Named, Is::Always, "Alipay's number of the trade."),
    ("out_trade_no", Of::Named, Is::Always, "Your order. Check that there is one."),
    ("trade_status", Of::Named, Is::Always, "For the record. A refund may carry TRADE_SUCCESS."),
    ("seller_id", Of::Named, Is::Maybe, "Who was paid."),
    ("currency", Of::Named, Is::Always, "CNY, or Alipay's `trans_currency`."),
    ("total_amount", Of::Named, Is::Always, "The trade's amount. Check it against your order."),
    ("total_amount_minor", Of::Named, Is::Maybe, "The same in hundredths; only where the currency is CNY."),
    ("receipt_amount", Of::Trade, Is::Maybe, "What the seller received, as Alipay writes it."),
    ("buyer_pay_amount", Of::Trade, Is::Maybe, "What the buyer paid. Not with event.buyer = \"omit\"."),
    ("paid_at", Of::Trade, Is::Maybe, "When the buyer paid."),
    ("refund", Of::Refund, Is::Maybe, "What was given back."),
    ("notified_at", Of::All, Is::Always, "Alipay's time of the delivery that was announced."),
    ("notify_id", Of::All, Is::Always, "Alipay's id of the notification."),
    ("subject", Of::All, Is::Maybe, "The order's title."),
    ("body", Of::All, Is::Maybe, "The order's description."),
    ("passback_params", Of::All, Is::Maybe, "What you gave along with the order, as Alipay sent it."),
    ("buyer_id", Of::All, Is::Maybe, "Not with event.buyer = \"omit\"; masked with \"mask\"."),
    ("buyer_open_id", Of::All, Is::Maybe, "Not with event.buyer = \"omit\"; masked with \"mask\"."),
    (
        "notification",
        Of::All,
        Is::Maybe,
        "Every received parameter as text, `sign` included. Not with event.notification = false.",
    ),
    (
        "decoding_lossy",
        Of::All,
        Is::Maybe,
        "Some text could not be decoded, and holds replacement characters.",
    ),
    (
        "raw_body",
        Of::All,
        Is::Maybe,
        "Then, and with event.buyer = \"forward\": the received body in base64.",
    ),
];

/// The schema of a type's bodies.
pub fn schema(event_type: EventType) -> Value {
    let is_here = |of: Of| match of {
        Of::All | Of::Named => true,
        Of::Trade => event_type != EventType::NotificationOther,
        Of::Refund => matches!(event_type, EventType::PaymentRefunded | EventType::PaymentConflict),
    };
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for (name, of, is, description) in MEMBERS {
        if !is_here(of) {
            continue;
        }
        let mut member = form(name, event_type);
        member["description"] = json!(description);
        properties.insert(name.to_owned(), member);
        let is_always = match of {
            Of::Named => is == Is::Always && event_type != EventType::NotificationOther,
            Of::All | Of::Trade | Of::Refund => is == Is::Always,
        };
        if is_always || (name == "refund" && event_type == EventType::PaymentRefunded) {
            required.push(name);
        }
    }
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": format!("urn:alipay-notify-gateway:event:{event_type}:v1"),
        "title": event_type.as_str(),
        "description": meaning(event_type),
        "type": "object",
        "properties": properties,
        "required": required,
    })
}

fn form(name: &str, event_type: EventType) -> Value {
    match name {
        "event_id" => json!({ "type": "string", "pattern": "^[A-Za-z0-9._%-]{1,200}$" }),
        "event_type" => json!({ "const": event_type.as_str() }),
        "environment" => json!({ "enum": ["production", "sandbox"] }),
        "trade_no" => json!({ "type": "string", "pattern": "^[0-9]{16,64}$" }),
        // One that nobody knows.
        "trade_status" if event_type == EventType::NotificationOther => json!({ "type": "string" }),
        "trade_status" => {
            json!({ "enum": ["WAIT_BUYER_PAY", "TRADE_SUCCESS", "TRADE_FINISHED", "TRADE_CLOSED"] })
        }
        "total_amount" | "refund_fee" => json!({ "type": "string", "pattern": r"^[0-9]{1,12}\.[0-9]{2}$" }),
        "total_amount_minor" | "refund_fee_minor" => json!({ "type": "integer", "minimum": 0 }),
        "paid_at" | "notified_at" | "refunded_at" => json!({
            "type": "string", "format": "date-time",
            "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?\+08:00$"
        }),
        "notification" => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        "decoding_lossy" => json!({ "const": true }),
        "raw_body" => json!({ "type": "string", "contentEncoding": "base64" }),
        "refund" => {
            let described = |name: &str| {
                let mut member = form(name, event_type);
                member["description"] = json!(match name {
                    "out_biz_no" => "Your number of the refund.",
                    "refund_fee" =>
                        "Alipay's figure, verbatim: by its documents the trade's total given back so far. It may be missing.",
                    "refund_fee_minor" => "The same in hundredths; only where the currency is CNY.",
                    _ => "When it was given back.",
                });
                (name.to_owned(), member)
            };
            json!({ "type": "object", "properties": Map::from_iter(REFUND.map(described)) })
        }
        _ => json!({ "type": "string" }),
    }
}

fn meaning(event_type: EventType) -> &'static str {
    match event_type {
        EventType::PaymentSucceeded => {
            "A buyer has paid. Announced once for each trade; a repeat has the same id."
        }
        EventType::PaymentRefunded => "Some or all of a payment was given back: one event for each refund.",
        EventType::PaymentLate => {
            "A payment so old that nobody can prove that it is the first announcement: look before you deliver."
        }
        EventType::PaymentConflict => "The identity of an earlier event, with other money: look.",
        EventType::TradePending => "A trade was created, and is not paid.",
        EventType::TradeFinished => "A trade that was paid before can no longer be refunded. Not a payment.",
        EventType::TradeClosed => "A trade ended without a payment.",
        EventType::NotificationOther => {
            "Authentic, and none of the others: another kind of notification, or a trade in a state that nobody knows. With \
             a `trade_no`: look."
        }
    }
}

/// The same, closed: what is not named is not there.
fn without_more(mut schema: Value) -> Value {
    schema["additionalProperties"] = json!(false);
    if !schema["properties"]["refund"].is_null() {
        schema["properties"]["refund"]["additionalProperties"] = json!(false);
    }
    schema
}
