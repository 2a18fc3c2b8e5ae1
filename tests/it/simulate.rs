//! `simulate send` as stubborn as Alipay: what is not answered exactly `success` is delivered again, on the schedule,
//! and every delivery is in the journal.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};
use std::thread::JoinHandle;

use serde_json::Value;

use crate::support::program::{Folder, free_port};

const GATEWAY: &str = env!("CARGO_BIN_EXE_alipay-notify-gateway");

/// Takes one request on each of as many connections as there are answers, and gives them: `None` hangs up without one.
fn merchant(answers: &'static [Option<&'static str>]) -> (SocketAddr, JoinHandle<Vec<(String, String)>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let mut requests = Vec::new();
        for answer in answers {
            let mut reader = BufReader::new(listener.accept().unwrap().0);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                assert_ne!(reader.read_line(&mut head).unwrap(), 0, "hung up in the head");
            }
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let mut body = vec![0; length.parse().unwrap()];
            reader.read_exact(&mut body).unwrap();
            requests.push((head, String::from_utf8(body).unwrap()));
            if let Some(answer) = answer {
                write!(reader.get_mut(), "HTTP/1.1 {answer}").unwrap();
            }
        }
        requests
    });
    (at, serving)
}

fn simulate(folder: &Folder, at: SocketAddr, more: &[&str]) -> (Output, Vec<Value>) {
    let keys = Command::new(GATEWAY).args(["simulate", "keys"]).arg(folder.path()).output().unwrap();
    assert!(keys.status.success());
    let journal = folder.path().join("journal");
    let mut command = Command::new(GATEWAY);
    command.args([
        "simulate",
        "send",
        "--time-scale",
        "86400",
        "--url",
        &format!("http://{at}/alipay/notify"),
    ]);
    command.arg("--key").arg(folder.path().join("alipay-private.pem")).arg("--journal").arg(&journal);
    let output = command.args(more).output().unwrap();
    let lines = std::fs::read_to_string(journal).unwrap();
    (output, lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

fn fields(body: &str) -> BTreeMap<String, String> {
    serde_urlencoded::from_str::<Vec<(String, String)>>(body).unwrap().into_iter().collect()
}

#[test]
fn what_is_not_answered_exactly_success_is_delivered_again_with_the_same_facts() {
    let (at, serving) = merchant(&[
        None,
        Some("503 Service Unavailable\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfail"),
        Some("200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\nsuccess\n"),
        Some("202 Accepted\r\nContent-Length: 7\r\nConnection: close\r\n\r\nsuccess"),
        Some(SUCCESS),
    ]);
    let folder = Folder::new();
    let (output, journal) = simulate(&folder, at, &["--count", "1", "--shares", "refund=1"]);
    assert!(output.status.success(), "{output:?}");
    let answers: Vec<_> = journal.iter().map(|line| line["answer"].as_str().unwrap()).collect();
    // Before who answers is waited for: he waits for them all.
    assert_eq!(answers, ["none", "fail", "fail", "fail", "success"]);
    let deliveries: Vec<_> = serving.join().unwrap();
    let first = fields(&deliveries[0].1);
    for ((head, body), line) in deliveries.iter().zip(&journal) {
        let mut again = fields(body);
        assert_eq!(line["notify_id"], again["notify_id"].as_str());
        assert_eq!(line["trade_no"], again["trade_no"].as_str());
        assert!(head.contains(&format!("traceparent: {}\r\n", line["traceparent"].as_str().unwrap())));
        for name in ["notify_time", "sign"] {
            again.insert(name.to_owned(), first[name].clone());
        }
        assert_eq!(again, first);
    }
}

#[test]
fn the_time_and_the_signature_are_new_each_time() {
    let (at, serving) = merchant(&[None, Some(SUCCESS)]);
    let (output, journal) = simulate(&Folder::new(), at, &["--count", "1"]);
    assert!(output.status.success() && journal.len() == 2, "{output:?}");
    let deliveries: Vec<_> = serving.join().unwrap().iter().map(|(_, body)| fields(body)).collect();
    // A payment's first delivery bears a time of some seconds ago.
    assert!(deliveries[0]["notify_time"] < deliveries[1]["notify_time"]);
    assert_ne!(deliveries[0]["sign"], deliveries[1]["sign"]);
}

#[test]
fn after_eight_deliveries_it_gives_up_and_says_so() {
    let (output, journal) = simulate(&Folder::new(), free_port(), &["--count", "2", "--format", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&summary["sent"], &summary["unanswered"], &summary["undelivered"]),
        (&Value::from(16), &Value::from(16), &Value::from(2))
    );
    for attempt in 1..=8 {
        let of_it: Vec<_> = journal.iter().filter(|line| line["attempt"] == attempt).collect();
        assert_eq!(of_it.len(), 2);
        assert!(of_it.iter().all(|line| line["answer"] == "none" && line["error"].is_string()));
    }
}

#[test]
fn a_forger_is_not_stubborn() {
    let (at, serving) =
        merchant(&[Some("400 Bad Request\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfail")]);
    let (output, journal) = simulate(&Folder::new(), at, &["--count", "1", "--shares", "forged=1"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!((serving.join().unwrap().len(), journal.len()), (1, 1));
}

const SUCCESS: &str = "200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nsuccess";
