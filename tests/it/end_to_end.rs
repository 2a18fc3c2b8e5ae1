//! The main job, end to end: the real binary, a real RabbitMQ, real sockets, and the word `success`.
//!
//! "Nothing was published" is shown by a payment sent afterwards, which is the next event in the queue.

use std::process::Command;

use alipay_notify_gateway::clock::{Clock as _, SystemClock};

use crate::support::alipay::{APP_ID, Notification, encode};
use crate::support::program::{Program, amqp_url};
use crate::support::queue::Queue;

fn payment(trade: u64) -> Notification {
    Notification::payment_now(trade)
}

fn multi_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// The types of what was published before a payment that is sent now.
async fn published(program: &Program, queue: &mut Queue, marker: u64) -> Vec<String> {
    let events = queue.published(program, marker).await;
    events.iter().map(|event| event.event_type().to_owned()).collect()
}

#[test]
fn a_payment_becomes_one_event_and_its_redelivery_none() {
    multi_thread().block_on(async {
        let program = Program::start("payment");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let paid = payment(1).set("passback_params", "a=1&b=2");
        let answer = program.post(&paid.body());
        assert!(answer.is_success(), "{answer:?}\n{}", program.log());
        assert!(answer.head.to_ascii_lowercase().contains("content-type: text/plain"));
        let event = queue.next().await;
        let id = paid.event_id("payment.succeeded");
        assert_eq!((event.event_type(), event.id()), ("payment.succeeded", id.as_str()));
        assert_eq!(event.body["total_amount"], "88.88");
        assert_eq!(event.body["total_amount_minor"], 8888);
        assert_eq!(event.body["passback_params"], "a=1&b=2");
        assert!(event.body.get("buyer_id").is_none(), "omitted by default");
        assert!(event.body["notification"].get("sign").is_some());
        assert!(event.body["notification"].get("buyer_logon_id").is_none());
        let properties = &event.delivery.properties;
        assert_eq!(properties.message_id().as_ref().unwrap().as_str(), id);
        assert_eq!(properties.kind().as_ref().unwrap().as_str(), "payment.succeeded");
        assert_eq!(*properties.delivery_mode(), Some(2));
        assert_eq!(event.delivery.routing_key.as_str(), "payment.succeeded");

        // Another notify_time, and so another signature: Alipay's own way of delivering again.
        let later = SystemClock.now().plus(std::time::Duration::from_secs(2)).alipay();
        assert!(program.post(&paid.set("notify_time", later).body()).is_success());
        assert_eq!(published(&program, &mut queue, 2).await, [""; 0]);
        assert_eq!((program.outcome("announced"), program.outcome("duplicate")), (2.0, 1.0));
    });
}

#[test]
fn it_serves_with_one_thread_or_with_as_many_as_are_asked_for() {
    multi_thread().block_on(async {
        for (threads, serving) in [(1, 0), (16, 16)] {
            let more = format!("[runtime]\nthreads = {threads}");
            // What the environment says, for a whole run of tests, would count.
            let wrap = |mut command: Command| {
                command.env_remove("GATEWAY_RUNTIME__THREADS");
                command
            };
            let mut program = Program::launch("threads", &more, &amqp_url(), wrap);
            program.is_connected();
            let mut queue = Queue::bound(&program.exchange, &["#"]).await;
            assert!(program.post(&payment(1).body()).is_success(), "{}", program.log());
            assert_eq!(published(&program, &mut queue, 2).await, ["payment.succeeded"]);
            let tasks = std::fs::read_dir(format!("/proc/{}/task", program.pid())).unwrap();
            let names =
                tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
            let names: Vec<String> = names.filter(|name| name.trim() == "serving").collect();
            // Files and names are looked for by threads of the same name, which end after some seconds.
            assert!(names.len() >= serving && (serving > 0 || names.is_empty()), "{threads}: {names:?}");
            program.signal("TERM");
            assert_eq!(program.end().code(), Some(0), "{}", program.log());
        }
    });
}

#[test]
fn every_class_of_event_is_announced_as_what_it_is() {
    multi_thread().block_on(async {
        let program = Program::start("classes");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let now = SystemClock.now();
        let old = now.plus(std::time::Duration::ZERO);
        let months_ago =
            alipay_notify_gateway::clock::Timestamp::from_unix_millis(old.unix_millis() - 40 * 86_400_000);
        let refund = |n: u64| {
            payment(n)
                .set("gmt_refund", format!("{}.125", now.alipay()))
                .set("refund_fee", "10.00")
                .set("out_biz_no", "R-1")
                .without("receipt_amount")
                .without("fund_bill_list")
        };
        let long_ago = |notification: Notification| {
            let at = months_ago.alipay();
            notification.set("gmt_create", &at).set("gmt_payment", &at)
        };
        let cases = [
            (payment(1), "payment.succeeded"),
            (payment(2).set("refund_fee", "0.00"), "payment.succeeded"),
            (refund(3), "payment.refunded"),
            (
                refund(4).set("trade_status", "TRADE_CLOSED").set("gmt_close", now.alipay()),
                "payment.refunded",
            ),
            (payment(5).set("trade_status", "TRADE_CLOSED").without("gmt_payment"), "trade.closed"),
            (payment(6).set("trade_status", "WAIT_BUYER_PAY").without("gmt_payment"), "trade.pending"),
            (payment(7).set("trade_status", "TRADE_FINISHED"), "payment.succeeded"),
            (long_ago(payment(8)).set("trade_status", "TRADE_FINISHED"), "trade.finished"),
            (long_ago(refund(9)).set("trade_status", "TRADE_FINISHED"), "trade.finished"),
            (long_ago(payment(10)), "payment.late"),
            (long_ago(refund(11)), "payment.refunded"),
            (payment(1).set("total_amount", "88.89"), "payment.conflict"),
            (payment(1).set("trade_status", "TRADE_FINISHED").set("notify_id", "finish-1"), "trade.finished"),
            (payment(12).set("trade_status", "TRADE_ODD"), "notification.other"),
            (
                payment(13).set("notify_type", "fund_auth_freeze").set("status", "SUCCESS"),
                "notification.other",
            ),
        ];
        for (n, (notification, event_type)) in cases.into_iter().enumerate() {
            let answer = program.post(&notification.body());
            assert!(answer.is_success(), "case {n}: {answer:?}");
            let event = queue.next().await;
            assert_eq!(event.event_type(), event_type, "case {n}");
            assert_eq!(event.delivery.routing_key.as_str(), event_type, "case {n}");
        }
    });
}

#[test]
fn what_no_queue_takes_is_not_success_until_it_is_bound() {
    multi_thread().block_on(async {
        let program = Program::start("unroutable");
        let answer = program.post(&payment(1).body());
        assert!(answer.is_fail(503), "{answer:?}");
        assert_eq!(program.states(payment(1).trade_no()), ["deferred"]);
        assert_eq!(program.metric("events_total{result=\"returned\",type=\"payment.succeeded\"}"), 1.0);
        assert_eq!(program.outcome("deferred"), 1.0);
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        assert!(program.post(&payment(1).body()).is_success());
        assert_eq!(queue.next().await.id(), payment(1).event_id("payment.succeeded"));
        assert_eq!(program.states(payment(1).trade_no()), ["recorded"]);
    });
}

#[test]
fn a_returned_event_of_an_ignored_type_is_success() {
    let program = Program::with("ignored", "");
    drop(program);
    let program = Program::launch("ignored", "", &amqp_url(), |mut command| {
        command.env("GATEWAY_AMQP__IGNORE", "trade.pending");
        command
    });
    let pending = payment(1).set("trade_status", "WAIT_BUYER_PAY").without("gmt_payment");
    assert!(program.post(&pending.body()).is_success());
    assert_eq!(program.states(pending.trade_no()), ["unrouted"]);
    assert!(program.post(&payment(2).body()).is_fail(503));
}

#[test]
fn nothing_is_published_or_kept_of_what_is_not_authentic() {
    multi_thread().block_on(async {
        let program = Program::start("forged");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let genuine = String::from_utf8(payment(1).body()).unwrap();
        let sign_at = genuine.find("sign=").unwrap();
        let forgeries = [
            (genuine.replace("88.88", "88.89"), "signature"),
            (genuine.replace(APP_ID, "2021000000000009"), "unknown_app"),
            (genuine.replace("sign_type=RSA2", "sign_type=RSA"), "sign_type"),
            (genuine[..sign_at].trim_end_matches('&').to_owned(), "no_signature"),
            (format!("{genuine}&extra=1"), "signature"),
            (format!("{genuine}&total_amount=88.88"), "malformed"),
            (format!("{genuine}%"), "malformed"),
            (genuine.replace("app_id=", "app_id_="), "partner"),
        ];
        for (body, reason) in &forgeries {
            let before = program.metric(&format!("rejections_total{{reason=\"{reason}\"}}"));
            assert!(program.post(body.as_bytes()).is_fail(400), "{reason}");
            let after = program.metric(&format!("rejections_total{{reason=\"{reason}\"}}"));
            assert_eq!(after - before, 1.0, "{reason}");
        }
        assert_eq!(program.rows(payment(1).trade_no()).len(), 0);
        assert_eq!(published(&program, &mut queue, 2).await, [""; 0]);
        assert_eq!(program.outcome("rejected"), forgeries.len() as f64);
    });
}

#[test]
fn what_is_authentic_and_refused_is_held_and_shown() {
    multi_thread().block_on(async {
        let program = Program::start("held");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let foreign = payment(1).set("seller_id", "2088000000000000");
        assert!(program.post(&foreign.body()).is_fail(400));
        let rows = program.rows(foreign.trade_no());
        assert_eq!((rows[0]["state"].as_str(), rows[0]["reason"].as_str()), (Some("held"), Some("seller")));
        assert_eq!(program.outcome("held"), 1.0);
        assert_eq!(published(&program, &mut queue, 2).await, [""; 0]);
        // A later delivery that passes clears it.
        assert!(program.post(&payment(1).body()).is_success());
        assert_eq!(program.states(foreign.trade_no()), ["recorded"]);
    });
}

#[test]
fn a_client_that_hangs_up_is_still_announced() {
    multi_thread().block_on(async {
        let program = Program::start("hangup");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        for trade in 1..=20 {
            let request = crate::support::program::request("/alipay/notify", &payment(trade).body());
            let mut stream = std::net::TcpStream::connect(program.http).unwrap();
            std::io::Write::write_all(&mut stream, &request).unwrap();
            drop(stream);
            let event = queue.next().await;
            assert_eq!(event.trade_no(), payment(trade).trade_no());
        }
    });
}

#[test]
fn odd_content_types_and_encodings_pass_where_the_signature_holds() {
    multi_thread().block_on(async {
        let program = Program::start("types");
        let _queue = Queue::bound(&program.exchange, &["#"]).await;
        for (n, kind) in
            ["application/x-www-form-urlencoded; text/html; charset=utf-8", "text/plain", ""].iter().enumerate()
        {
            let body = payment(n as u64 + 1).body();
            let mut request = format!(
                "POST /alipay/notify?app_id=1 HTTP/1.1\r\nHost: h\r\nContent-Type: {kind}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                body.len()
            )
            .into_bytes();
            request.extend_from_slice(&body);
            let answer = crate::support::program::exchange(program.http, &request).unwrap();
            assert!(answer.is_success(), "{kind:?}: {answer:?}");
        }
        let gbk = payment(9).set("charset", "GBK").set("subject", b"\xc9\xcc\xc6\xb7\xaf\xe4 ");
        assert!(program.post(&gbk.body()).is_success());
    });
}

#[test]
fn an_appended_empty_refund_changes_nothing() {
    multi_thread().block_on(async {
        let program = Program::start("appended");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        for (n, name) in ["gmt_refund", "refund_fee", "out_biz_no"].iter().enumerate() {
            let mut body = payment(n as u64 + 1).body();
            body.extend_from_slice(format!("&{name}={}", encode(b"")).as_bytes());
            assert!(program.post(&body).is_success());
            assert_eq!(queue.next().await.event_type(), "payment.succeeded");
        }
    });
}

#[test]
fn a_trace_context_travels_into_the_headers() {
    multi_thread().block_on(async {
        let program = Program::start("trace");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let body = payment(1).body();
        let mut request = format!(
            "POST /alipay/notify HTTP/1.1\r\nHost: h\r\ntraceparent: {context}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(&body);
        assert!(crate::support::program::exchange(program.http, &request).unwrap().is_success());
        let event = queue.next().await;
        let headers = event.delivery.properties.headers().as_ref().unwrap();
        assert_eq!(headers.inner()["traceparent"].as_long_string().unwrap().to_string(), context);
    });
}

#[test]
fn a_restart_remembers_what_was_announced() {
    multi_thread().block_on(async {
        let mut program = Program::start("restart");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        assert!(program.post(&payment(1).body()).is_success());
        program.kill();
        program.restart();
        program.is_connected();
        assert!(program.post(&payment(1).body()).is_success());
        assert_eq!(published(&program, &mut queue, 2).await, ["payment.succeeded"]);
    });
}

#[test]
fn one_audit_line_tells_each_success_and_nothing_of_the_buyer() {
    multi_thread().block_on(async {
        let program = Program::start("audit");
        let _queue = Queue::bound(&program.exchange, &["#"]).await;
        let marked = payment(1).set("buyer_logon_id", "MARKED-BUYER").set("subject", "MARKED-SUBJECT");
        assert!(program.post(&marked.body()).is_success());
        assert!(program.post(&marked.body()).is_success());
        program.wait_until("it is logged", || program.log().matches("\"audit\"").count() >= 2);
        let log = program.log();
        let audit: Vec<&str> = log.lines().filter(|line| line.contains("\"audit\"")).collect();
        assert_eq!(audit.len(), 2, "{log}");
        assert!(audit[0].contains(&marked.event_id("payment.succeeded")));
        assert!(!log.contains("MARKED-") && !log.contains("guest:guest"), "{log}");
    });
}
