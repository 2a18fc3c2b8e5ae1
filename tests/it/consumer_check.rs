//! `consumer-check`: what it publishes, where it refuses to, and that it finds the faults that consumers have.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use alipay_notify_gateway::event::EventType;
use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};
use serde_json::Value;

use crate::contract::schema;
use crate::support::program::{Folder, amqp_url, unique};
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
        let (mut ids, mut bodies) =
            (BTreeMap::<&str, usize>::new(), BTreeMap::<&str, BTreeSet<&[u8]>>::new());
        let (mut types, mut lacking) = (BTreeSet::new(), Vec::new());
        for message in &taken {
            *ids.entry(&message.id).or_default() += 1;
            bodies.entry(&message.id).or_default().insert(&message.body);
            assert!(message.mark && message.id.starts_with("2021000000000000."), "{}", message.id);
            let Ok(body) = serde_json::from_slice::<Value>(&message.body) else {
                assert!(message.id.ends_with(".no-json"));
                continue;
            };
            assert_eq!(
                (&body["event_id"], &body["event_type"]),
                (&message.id.as_str().into(), &message.routing_key.as_str().into())
            );
            if let Some((_, member)) = message.id.split_once(".without-") {
                assert!(body.get(member).is_none() && body.get("trade_no").is_some(), "{body}");
                lacking.push(member.to_owned());
                continue;
            }
            assert_eq!(body["environment"], "sandbox");
            types.insert(message.routing_key.as_str());
            match EventType::from_name(&message.routing_key) {
                Some(event_type) => assert!(jsonschema::is_valid(&schema(event_type), &body), "{body}"),
                None => assert_eq!(message.routing_key, "payment.of_a_later_version"),
            }
        }
        assert!(ids.values().all(|count| *count >= 1) && ids.values().any(|count| *count >= 5));
        // Every type that a gateway announces of a trade, and what a case is made of.
        let of_trades =
            EventType::ALL.into_iter().filter(|event_type| *event_type != EventType::NotificationOther);
        for event_type in of_trades {
            assert!(types.contains(event_type.as_str()), "{event_type}");
        }
        lacking.dedup();
        assert_eq!(lacking[..3], ["environment", "out_trade_no", "refund"]);
        assert!(
            taken.iter().any(|message| message.routing_key == "trade.finished" && of_case(message, "14"))
        );
        // Bytes may differ where the id does not, and do in case 3.
        let differing: Vec<&str> =
            bodies.iter().filter(|(_, all)| all.len() > 1).map(|(id, _)| *id).collect();
        assert_eq!(differing.len(), 1, "{differing:?}");
        assert!(taken.iter().any(|message| message.id == differing[0] && of_case(message, "03")));
        // And a copy of each case's first message comes behind everything, in another order.
        let (first, late) = taken.split_at(taken.len() - CASES);
        let number = |message: &Taken| {
            String::from_utf8_lossy(&message.body).split("CC-1-").nth(1).map(|n| n[..2].to_owned())
        };
        assert!(
            late.iter()
                .all(|late| first.iter().any(|message| message.id == late.id && message.body == late.body))
        );
        let late: Vec<Option<String>> = late.iter().map(number).collect();
        assert!(!late.is_sorted(), "in another order");
        assert_eq!(
            late.iter().flatten().collect::<BTreeSet<_>>().len(),
            CASES - 1,
            "all but the one that is no JSON"
        );
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
        let file = check(&["publish", "--queue", &name, "--confirm", &name, "--amqp-file", "nowhere"], "");
        assert_eq!(file.status.code(), Some(1), "{file:?}");
        assert!(String::from_utf8_lossy(&file.stderr).contains("--amqp-file nowhere:"), "{file:?}");
        let nowhere = unique("nowhere");
        assert_eq!(publish(&nowhere, &nowhere).status.code(), Some(1));
    });
}

/// Whether a message is of a case's order.
fn of_case(message: &Taken, number: &str) -> bool {
    String::from_utf8_lossy(&message.body).contains(&format!("\"CC-1-{number}\""))
}

/// How many cases there are.
const CASES: usize = 21;

/// The cases of which the order is to be shipped.
const SHIPS: [&str; 16] =
    ["01", "02", "03", "04", "06", "07", "10", "11", "12", "14", "16", "17", "18", "19", "20", "21"];

/// What a consumer of no fault has shipped.
fn rightly_shipped() -> String {
    SHIPS.map(|number| format!("CC-1-{number}\n")).concat()
}

/// What a consumer of some fault would have shipped.
fn shipped(taken: &[Taken], ships: impl Fn(&Taken, &Value) -> bool) -> String {
    let mut lines = String::new();
    for message in taken {
        if let Ok(body) = serde_json::from_slice::<Value>(&message.body)
            && ships(message, &body)
            && let Some(order) = body["out_trade_no"].as_str()
        {
            lines.push_str(order);
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
        let seen = std::cell::RefCell::new(BTreeSet::new());
        let trusting = shipped(&taken, |message, body| {
            body["event_type"] == "payment.succeeded" && seen.borrow_mut().insert(message.id.clone())
        });
        for (lines, faults) in [
            (
                by_status.as_str(),
                &["CC-1-02", "CC-1-03", "CC-1-04", "CC-1-06", "CC-1-07", "CC-1-13", "CC-1-18"][..],
            ),
            (trusting.as_str(), &["CC-1-05", "CC-1-08", "CC-1-09", "CC-1-12", "CC-1-20"]),
            ("", &["CC-1-01", "CC-1-16"]),
        ] {
            let output = check(&["judge"], lines);
            assert_eq!(output.status.code(), Some(65));
            for fault in faults {
                assert!(text(&output).contains(&format!("WRONG  {fault}")), "{fault}\n{}", text(&output));
            }
        }
        // As the tools of databases print a row: bars, commas, tabs, quotes; with a heading or without.
        for row in [
            |n: &str| format!("CC-1-{n}|x\n"),
            |n: &str| format!("\"CC-1-{n}\",\"x\"\n"),
            |n: &str| format!("CC-1-{n}\tx\r\n"),
            |n: &str| format!("  CC-1-{n} \n"),
        ] {
            let shipped = format!("out_trade_no\n{}", SHIPS.map(row).concat());
            let output = check(&["judge"], &shipped);
            assert_eq!(output.status.code(), Some(0), "{shipped}\n{}", text(&output));
        }
    });
}

#[test]
fn the_judge_names_what_was_shipped_of_no_order_of_the_run() {
    let shipped = rightly_shipped();
    assert!(!text(&check(&["judge"], &shipped)).contains("Not of run"));
    let output = check(&["judge"], &format!("{shipped}CC-2-01\nCC-2-01\n17\nCC-1-99\n"));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let told = "Not of run 1, and not judged: 17, CC-1-99, CC-2-01\n";
    assert!(text(&output).contains(told), "{}", text(&output));
    let many = (1..=7).map(|n| format!("{n}\n")).collect::<String>();
    let told = text(&check(&["judge", "--run", "2"], &many));
    assert!(told.contains("Not of run 2, and not judged: 1, 2, 3, 4, 5 and 2 more\n"), "{told}");
}

/// What the orders of a consumer of no fault say was given back; of others, nothing.
const GIVEN_BACK: &str =
    "CC-1-04,100\nCC-1-05,8805\nCC-1-06,8806\nCC-1-17,0\nCC-1-18,300\nCC-1-20,0\nCC-1-21,100\n";

/// All shipped rightly, and this given back.
fn judged_with(refunded: &str) -> Output {
    let folder = Folder::new();
    folder.write("refunded.csv", refunded);
    let file = folder.path().join("refunded.csv");
    check(&["judge", "--refunded", file.to_str().unwrap()], &rightly_shipped())
}

#[test]
fn the_judge_looks_at_what_was_given_back_too() {
    let output = judged_with(GIVEN_BACK);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    // The other trade's refund is no refund of the order; a total that went backwards; an order that is not in the file; the
    // refund of a trade that paid another amount; a figure that is missing is no 0.
    for (right, wrong) in [
        ("17,0", "17,8817"),
        ("18,300", "18,100"),
        ("CC-1-04,100\n", ""),
        ("20,0", "20,1"),
        ("21,100", "21,0"),
    ] {
        let output = judged_with(&GIVEN_BACK.replace(right, wrong));
        assert_eq!(output.status.code(), Some(65), "{wrong}");
        assert!(
            text(&output).contains(&format!("WRONG  CC-1-{}", &right.replace("CC-1-", "")[..2])),
            "{}",
            text(&output)
        );
    }
}

#[test]
fn the_judge_refuses_a_line_that_is_no_order_and_number() {
    // With a heading, and orders that are none of ours.
    let output = judged_with(&format!("out_trade_no,refunded_minor\n{GIVEN_BACK}\nOURS-1,0\n"));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for (line, number) in
        [("CC-1-04", 1), ("CC-1-04,1.00", 1), ("a,b\nc,d", 2), ("CC-1-04,100\n,5", 2), ("a\tb\tc", 1)]
    {
        let output = judged_with(line);
        assert_eq!(output.status.code(), Some(65), "{line}: {output:?}");
        let told = format!("line {number} is no order,number");
        assert!(String::from_utf8_lossy(&output.stderr).contains(&told), "{line}: {output:?}");
        assert!(text(&output).is_empty(), "{line}: {output:?}");
    }
    let output = check(&["judge", "--refunded", "nowhere.csv"], "");
    assert!(String::from_utf8_lossy(&output.stderr).contains("nowhere.csv"), "{output:?}");
}
