//! `consumer-check`: what it publishes, where it refuses to, and that it finds the faults that consumers have.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use alipay_notify_gateway::event::EventType;
use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};
use serde_json::Value;

use crate::contract::schema;
use crate::support::program::{amqp_url, unique};
use crate::support::run;

/// The command with what it reads.
pub fn check(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_alipay-notify-gateway"));
    command.arg("consumer-check").args(arguments);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

pub fn publish(queue: &str, confirm: &str) -> Output {
    check(&["publish", "--queue", queue, "--confirm", confirm, "--amqp", &amqp_url()], "")
}

/// A queue that goes with its connection, but that others may look at.
pub async fn queue(name: &str) -> (Connection, Channel) {
    let connection = Connection::connect(&amqp_url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let options = QueueDeclareOptions { auto_delete: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.into(), options, FieldTable::default()).await.unwrap();
    (connection, channel)
}

struct Taken {
    id: String,
    routing_key: String,
    redelivered: bool,
    body: Vec<u8>,
    mark: bool,
}

async fn take_all(channel: &Channel, queue: &str) -> Vec<Taken> {
    let mut taken = Vec::new();
    let options = BasicGetOptions { no_ack: true };
    while let Some(message) = channel.basic_get(queue.into(), options).await.unwrap() {
        let delivery = message.delivery;
        let headers = delivery.properties.headers().clone().unwrap();
        taken.push(Taken {
            id: delivery.properties.message_id().as_ref().unwrap().to_string(),
            routing_key: delivery.routing_key.to_string(),
            redelivered: delivery.redelivered,
            body: delivery.data,
            mark: headers.inner().contains_key("x-test") && headers.inner().contains_key("cloudEvents_id"),
        });
    }
    taken
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn what_it_publishes_is_marked_fits_the_schemas_and_leaves_no_binding_behind() {
    run(async {
        let name = unique("checked");
        let (_connection, channel) = queue(&name).await;
        let output = publish(&name, &name);
        assert!(output.status.success(), "{output:?}");
        let taken = take_all(&channel, &name).await;
        assert!(taken.len() > 30, "{}", taken.len());
        assert!(taken.iter().all(|message| message.redelivered), "nobody was at the queue");
        let mut ids = BTreeMap::<&str, usize>::new();
        for message in &taken {
            *ids.entry(&message.id).or_default() += 1;
            assert!(message.mark && message.id.starts_with("2021000000000000."), "{}", message.id);
            let Ok(body) = serde_json::from_slice::<Value>(&message.body) else {
                assert!(message.id.ends_with(".no-json"));
                continue;
            };
            assert_eq!(
                (&body["event_id"], &body["environment"]),
                (&message.id.as_str().into(), &"sandbox".into())
            );
            assert_eq!(body["event_type"], message.routing_key.as_str());
            match EventType::from_name(&message.routing_key) {
                Some(event_type) => assert!(jsonschema::is_valid(&schema(event_type), &body), "{body}"),
                None => assert_eq!(message.routing_key, "payment.of_a_later_version"),
            }
        }
        assert!(ids.values().all(|count| *count >= 1) && ids.values().any(|count| *count >= 5));
        // Bytes may differ where the id does not.
        let orders = text(&check(&["orders"], ""));
        assert!(orders.starts_with("out_trade_no,amount_minor\nCC-1-01,8801\n"), "{orders}");
        assert!(!orders.contains("CC-1-09"), "an order that there is not");
    });
}

#[test]
fn it_refuses_a_queue_that_is_not_confirmed_not_empty_or_not_there() {
    run(async {
        let name = unique("refused");
        let (_connection, channel) = queue(&name).await;
        assert_eq!(publish(&name, "payments.orders").status.code(), Some(2));
        assert!(take_all(&channel, &name).await.is_empty());
        assert!(publish(&name, &name).status.success());
        let again = publish(&name, &name);
        assert_eq!(again.status.code(), Some(1), "{again:?}");
        assert!(String::from_utf8_lossy(&again.stderr).contains("messages in it"), "{again:?}");
        let nowhere = unique("nowhere");
        assert_eq!(publish(&nowhere, &nowhere).status.code(), Some(1));
    });
}

/// What a consumer of some fault would have shipped.
fn shipped(taken: &[Taken], ships: impl Fn(&Taken, &Value) -> bool) -> String {
    let mut lines = String::new();
    for message in taken {
        if let Ok(body) = serde_json::from_slice::<Value>(&message.body)
            && ships(message, &body)
        {
            lines.push_str(body["out_trade_no"].as_str().unwrap());
            lines.push('\n');
        }
    }
    lines
}

#[test]
fn the_judge_finds_the_faults_that_consumers_have() {
    run(async {
        let name = unique("judged");
        let (_connection, channel) = queue(&name).await;
        assert!(publish(&name, &name).status.success());
        let taken = take_all(&channel, &name).await;
        // By trade_status, and never dropping a repeat.
        let by_status = shipped(&taken, |_, body| body["trade_status"] == "TRADE_SUCCESS");
        // By type and id, and trusting amount and order.
        let seen = std::cell::RefCell::new(std::collections::BTreeSet::new());
        let trusting = shipped(&taken, |message, body| {
            body["event_type"] == "payment.succeeded" && seen.borrow_mut().insert(message.id.clone())
        });
        for (lines, faults) in [
            (by_status.as_str(), &["CC-1-02", "CC-1-03", "CC-1-04", "CC-1-06", "CC-1-07", "CC-1-13"][..]),
            (trusting.as_str(), &["CC-1-05", "CC-1-08", "CC-1-09", "CC-1-12"]),
            ("", &["CC-1-01", "CC-1-16"]),
        ] {
            let output = check(&["judge"], lines);
            assert_eq!(output.status.code(), Some(65));
            for fault in faults {
                assert!(text(&output).contains(&format!("WRONG  {fault}")), "{fault}\n{}", text(&output));
            }
        }
        let right = ["01", "02", "03", "04", "06", "07", "10", "11", "12", "14", "16"]
            .map(|n| format!("CC-1-{n}|x\n"));
        let output = check(&["judge"], &right.concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    });
}
