//! What operators decide about what is held: release and drop, on the real binary with a real broker.

use std::process::{Command, Output};

use alipay_notify_gateway::clock::{Clock as _, SystemClock, Timestamp};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::support::alipay::{APP_ID, Notification};
use crate::support::program::{Answer, Program, exchange};
use crate::support::queue::Queue;
use crate::support::run;

const TOKEN: &str = "a-token-that-nobody-guesses";

/// A gateway with an admin token.
fn start(name: &str) -> Program {
    Program::launch_with_admin(name, &format!("token = \"{TOKEN}\""))
}

/// Of a seller who is not ours.
fn foreign(trade: u64) -> Notification {
    Notification::payment_now(trade).set("seller_id", "2088000000000042")
}

fn order(program: &Program, path: &str, token: Option<&str>) -> Answer {
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!("POST {path} HTTP/1.1\r\nHost: admin\r\n{token}Connection: close\r\n\r\n");
    exchange(program.admin, request.as_bytes()).unwrap()
}

fn json(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("{answer:?}"))
}

fn cli(program: &Program, arguments: &[&str]) -> Output {
    let token = program.folder().write("token", format!("{TOKEN}\n"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_alipay-notify-gateway"));
    command.arg("trade").args(arguments).arg("--token-file").arg(token);
    command.arg("--admin").arg(format!("http://{}", program.admin)).output().unwrap()
}

#[test]
fn a_held_notification_is_released_once_and_its_redeliveries_are_answered_success() {
    run(async {
        let program = start("release");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let paid = foreign(1);
        assert!(program.post(&paid.body()).is_fail(400));
        assert_eq!(program.states(paid.trade_no()), ["held"]);
        assert!(queue.published(&program, 2).await.is_empty());
        let path = format!("/trades/{}/release?reason=it+is+ours&who=anna", paid.trade_no());
        let answer = order(&program, &path, Some(TOKEN));
        let id = paid.event_id("payment.succeeded");
        assert_eq!(
            (answer.status, &json(&answer)["outcome"], &json(&answer)["detail"]),
            (200, &"announced".into(), &id.as_str().into())
        );
        let events = queue.published(&program, 3).await;
        assert_eq!(events.iter().map(|event| event.id()).collect::<Vec<_>>(), [id.as_str()]);
        assert_eq!(events[0].body["seller_id"], "2088000000000042");
        // Acceptance refuses the next delivery as before, and the operator's decision answers it.
        let again = paid.clone().set("notify_time", paid.text("notify_time"));
        assert!(program.post(&again.body()).is_success());
        assert!((program.outcome("duplicate") - 1.0).abs() < f64::EPSILON);
        assert!(queue.published(&program, 4).await.is_empty());
        assert_eq!(program.states(paid.trade_no()), ["recorded", "recorded"]);
        let released =
            program.rows(paid.trade_no()).into_iter().find(|row| !row["reason"].is_null()).unwrap();
        assert_eq!(released["reason"], "anna: it is ours");
        program.wait_until("it is logged", || program.log().contains("\"who\":\"anna\""));
        let second = order(&program, &path, Some(TOKEN));
        assert_eq!((second.status, &json(&second)["outcome"]), (404, &"nothing_waits".into()));
        assert!(queue.published(&program, 5).await.is_empty());
    });
}

#[test]
fn what_is_dropped_is_never_announced_and_answered_success() {
    run(async {
        let mut program = start("drop");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let paid = foreign(1);
        assert!(program.post(&paid.body()).is_fail(400));
        let number = paid.trade_no().to_owned();
        let output = cli(&program, &["drop", &number, "--reason", "a test order", "--who", "ben"]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(program.states(&number), ["dropped"]);
        assert!((program.metric("backlog_events{state=\"held\"}")).abs() < f64::EPSILON);
        assert!(program.post(&paid.body()).is_success());
        assert!(queue.published(&program, 2).await.is_empty());
        program.signal("TERM");
        program.end();
        program.restart();
        assert!(program.post(&paid.body()).is_success(), "the decision outlives the process");
        assert_eq!(program.states(&number), ["dropped"]);
        assert!(queue.published(&program, 3).await.is_empty());
        let second = cli(&program, &["drop", &number, "--reason", "again", "--who", "ben"]);
        assert_eq!(second.status.code(), Some(1), "{second:?}");
    });
}

#[test]
fn an_order_needs_the_token_a_reason_and_a_name() {
    run(async {
        let program = start("orders");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let paid = foreign(1);
        assert!(program.post(&paid.body()).is_fail(400));
        let path = format!("/trades/{}/release?reason=ours&who=anna", paid.trade_no());
        assert_eq!(order(&program, &path, None).status, 401);
        assert_eq!(order(&program, &path, Some("another-token")).status, 401);
        let bare = format!("/trades/{}/release", paid.trade_no());
        let long = format!("{bare}?who=anna&reason={}", "x".repeat(201));
        for bad in [
            bare.clone(),
            format!("{bare}?reason=ours"),
            format!("{bare}?who=anna"),
            format!("{bare}?who=anna&reason="),
            format!("{bare}?who=%20&reason=x"),
            format!("{bare}?who=anna&reason=a%0Ab"),
            long,
        ] {
            assert_eq!(order(&program, &bad, Some(TOKEN)).status, 400, "{bad}");
        }
        assert_eq!(order(&program, &path.replace("release", "forget"), Some(TOKEN)).status, 404);
        let unknown = "/trades/2026112322001427349999999999/drop?reason=x&who=y";
        assert_eq!(order(&program, unknown, Some(TOKEN)).status, 404);
        assert_eq!(program.get(&path).unwrap().status, 405);
        assert_eq!(program.states(paid.trade_no()), ["held"]);
        assert!(queue.published(&program, 2).await.is_empty());
    });
}

#[test]
fn what_waits_under_a_notify_id_of_any_form_is_shown_exported_and_dropped_by_the_command() {
    run(async {
        let program = start("odd-ids");
        for number in ["ab+/=:~", "n|x?y#z", "a%2Fb", ".."] {
            let odd =
                foreign(1).set("notify_type", "dut_user_sign").set("notify_id", number).without("trade_no");
            assert!(program.post(&odd.body()).is_fail(400));
            for arguments in [&["export", number][..], &["drop", number, "--reason", "odd", "--who", "ben"]] {
                let output = cli(&program, arguments);
                assert!(output.status.success(), "{number}: {output:?}");
                let text = String::from_utf8(output.stdout).unwrap();
                assert!(text.contains(if arguments[0] == "drop" { "dropped" } else { "held" }), "{text}");
            }
        }
    });
}

#[test]
fn a_field_without_its_form_cannot_be_released_and_can_be_dropped() {
    run(async {
        let program = start("grammar");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let odd = Notification::payment_now(1).set("total_amount", "88,88");
        assert!(program.post(&odd.body()).is_fail(400));
        let path = |action: &str| format!("/trades/{}/{action}?reason=r&who=w", odd.trade_no());
        let answer = order(&program, &path("release"), Some(TOKEN));
        assert_eq!((answer.status, &json(&answer)["outcome"]), (409, &"impossible".into()));
        assert!(json(&answer)["detail"].as_str().unwrap().contains("total_amount"), "{answer:?}");
        assert_eq!(program.states(odd.trade_no()), ["held"]);
        assert!(queue.published(&program, 2).await.is_empty());
        assert_eq!(order(&program, &path("drop"), Some(TOKEN)).status, 200);
        assert!(program.post(&odd.body()).is_success());
    });
}

#[test]
fn what_is_kept_and_cannot_be_read_cannot_be_released_and_alipay_brings_it_again() {
    run(async {
        let mut program = start("unreadable-release");
        let paid = Notification::payment_now(1);
        assert!(program.post(&paid.body()).is_fail(503));
        program.kill();
        let file = program.folder().path().join("gateway.db");
        rusqlite::Connection::open(file)
            .unwrap()
            .execute_batch("UPDATE event SET message = x'7b7d'")
            .unwrap();
        program.restart();
        program.is_connected();
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let path = format!("/trades/{}/release?reason=r&who=w", paid.trade_no());
        let answer = order(&program, &path, Some(TOKEN));
        assert_eq!((answer.status, &json(&answer)["outcome"]), (409, &"impossible".into()));
        assert!(json(&answer)["detail"].as_str().unwrap().contains("cannot be read"), "{answer:?}");
        assert!(queue.published(&program, 2).await.is_empty());
        assert_eq!(program.states(paid.trade_no()), ["deferred"]);
        assert!(program.post(&paid.body()).is_success());
        assert_eq!(queue.next().await.id(), paid.event_id("payment.succeeded"));
        assert_eq!(program.states(paid.trade_no()), ["recorded"]);
    });
}

#[test]
fn of_several_things_that_wait_one_has_to_be_named() {
    run(async {
        let program = start("several");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let first = foreign(1);
        let second = foreign(1).set("notify_id", "another");
        assert!(program.post(&first.body()).is_fail(400) && program.post(&second.body()).is_fail(400));
        let path = format!("/trades/{}/drop?reason=r&who=w", first.trade_no());
        assert_eq!(order(&program, &path, Some(TOKEN)).status, 409);
        assert_eq!(program.states(first.trade_no()), ["held", "held"]);
        let named = order(&program, &format!("{path}&id={APP_ID}.held.another"), Some(TOKEN));
        assert_eq!(named.status, 200, "{named:?}");
        let mut states = program.states(first.trade_no());
        states.sort();
        assert_eq!(states, ["dropped", "held"]);
        assert!(program.post(&second.body()).is_success() && program.post(&first.body()).is_fail(400));
        assert!(queue.published(&program, 2).await.is_empty());
    });
}

#[test]
fn everything_that_is_kept_of_a_trade_is_exported_with_its_content_and_only_with_the_token() {
    run(async {
        let program = start("export");
        let paid = Notification::payment_now(1);
        assert!(program.post(&paid.body()).is_fail(503), "nobody binds it: it is deferred");
        let odd = foreign(1).set("notify_id", "another");
        assert!(program.post(&odd.body()).is_fail(400));
        let path = format!("/trades/{}/export", paid.trade_no());
        assert_eq!(program.get(&path).unwrap().status, 401);
        assert_eq!(order(&program, &path, Some(TOKEN)).status, 404, "it changes nothing: GET");
        let output = cli(&program, &["export", paid.trade_no()]);
        assert!(output.status.success(), "{output:?}");
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        let row = |state: &str| {
            let rows = json["rows"].as_array().unwrap();
            rows.iter().find(|row| row["state"] == state).unwrap_or_else(|| panic!("{json}"))
        };
        assert_eq!(row("deferred")["message"]["id"], paid.event_id("payment.succeeded"));
        assert_eq!(row("held")["body_base64"], STANDARD.encode(odd.body()));
        program.wait_until("it is logged", || program.log().contains("exported"));
        // Without the token there is no content.
        assert!(
            program
                .rows(paid.trade_no())
                .iter()
                .all(|row| row["message"].is_null() && row["body_base64"].is_null())
        );
    });
}

#[test]
fn a_later_delivery_that_passes_clears_what_was_held() {
    run(async {
        let program = start("passes");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        // The first delivery came through a proxy with a clock of last week; the next is Alipay's own.
        let paid = Notification::payment_now(1);
        let old = paid.clone().set("notify_time", "2026-01-02 03:04:05");
        assert!(program.post(&old.body()).is_fail(400));
        assert_eq!(program.states(paid.trade_no()), ["held"]);
        assert!(queue.published(&program, 2).await.is_empty());
        assert!(program.post(&paid.body()).is_success());
        assert_eq!(program.states(paid.trade_no()), ["recorded"]);
        assert_eq!(queue.published(&program, 3).await.len(), 1);
    });
}

#[test]
fn a_later_delivery_that_passes_clears_what_was_held_though_its_event_was_announced_before() {
    run(async {
        let program = start("passes-again");
        let _queue = Queue::bound(&program.exchange, &["#"]).await;
        let held = || program.metric("backlog_events{state=\"held\"}");
        let paid = Notification::payment_now(1);
        assert!(program.post(&paid.body()).is_success());
        // As if the list of sellers had been wrong for a moment.
        let foreign = paid.clone().set("seller_id", "2088000000000042");
        assert!(program.post(&foreign.body()).is_fail(400));
        program.wait_until("it is held", || held() > 0.0);
        assert!(program.post(&paid.body()).is_success());
        program.wait_until("it is cleared", || held() == 0.0);
        assert_eq!(program.states(paid.trade_no()), ["recorded"; 2]);
    });
}

#[test]
fn without_a_token_in_the_configuration_nothing_can_be_decided() {
    run(async {
        let program = Program::start("no-token");
        let path = "/trades/2026112322001427340000000001/drop?reason=r&who=w";
        assert_eq!(order(&program, path, Some(TOKEN)).status, 403);
    });
}

/// `replay` of a body, as the command.
fn replay(program: &Program, body: &[u8]) -> Output {
    let token = program.folder().write("token", format!("{TOKEN}\n"));
    let captured = program.folder().write("captured.txt", [body, b"\n"].concat());
    let mut command = Command::new(env!("CARGO_BIN_EXE_alipay-notify-gateway"));
    command.arg("replay").arg(captured).args(["--who", "anna", "--reason", "lost by the ingress"]);
    command.arg("--token-file").arg(token).arg("--admin").arg(format!("http://{}", program.admin));
    command.output().unwrap()
}

fn replay_request(program: &Program, query: &str, token: Option<&str>, body: &[u8]) -> Answer {
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let length = body.len();
    let head = format!(
        "POST /replay{query} HTTP/1.1\r\nHost: admin\r\n{token}Connection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    exchange(program.admin, &[head.as_bytes(), body].concat()).unwrap()
}

fn of_three_days_ago(trade: u64) -> Notification {
    let at = SystemClock.now().unix_millis() - 3 * 86_400_000;
    let at = Timestamp::from_unix_millis(at).alipay();
    Notification::payment_now(trade).set("notify_time", &at).set("gmt_payment", &at).set("gmt_create", &at)
}

#[test]
fn a_captured_body_is_announced_once_however_old_it_is_and_counts_as_no_request() {
    run(async {
        let program = start("replay");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let paid = of_three_days_ago(1);
        let output = replay(&program, &paid.body());
        assert!(output.status.success(), "{output:?}");
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        let id = paid.event_id("payment.succeeded");
        assert_eq!((&told["outcome"], &told["event_id"]), (&"announced".into(), &id.as_str().into()));
        let counted: f64 =
            ["announced", "duplicate", "held", "rejected", "other"].map(|o| program.outcome(o)).iter().sum();
        assert!(counted.abs() < f64::EPSILON, "it is no request of the public door");
        // Again, by the command and by Alipay: the same deduplication.
        let again = replay(&program, &paid.body());
        let told: Value = serde_json::from_slice(&again.stdout).unwrap();
        assert_eq!((again.status.code(), &told["outcome"]), (Some(0), &"known".into()));
        assert!(program.post(&paid.body()).is_success());
        let events = queue.published(&program, 2).await;
        assert_eq!(events.iter().map(|event| event.id()).collect::<Vec<_>>(), [id.as_str()]);
        let is_logged = |parts: &[&str]| {
            let log = program.log();
            log.lines().any(|line| parts.iter().all(|part| line.contains(part)))
        };
        program.wait_until("the order is in the audit log", || {
            is_logged(&["\"replay\"", "\"anna\"", "lost by the ingress", &id])
        });
        // And the announcement itself, as any other; but it is Alipay alone who is ever answered.
        for (how, answered) in [("confirmed", "nobody"), ("recorded", "nobody"), ("recorded", "success")] {
            let (how, answered) = (format!("\"how\":\"{how}\""), format!("\"answered\":\"{answered}\""));
            program.wait_until("it is in the audit log", || is_logged(&[&how, &answered, &id]));
        }
        assert!(!is_logged(&["\"how\":\"confirmed\"", "\"answered\":\"success\"", &id]));
    });
}

#[test]
fn a_replay_goes_through_the_whole_of_verification() {
    run(async {
        let program = start("replay-forged");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let paid = of_three_days_ago(1);
        let body = String::from_utf8(paid.body()).unwrap();
        let unsigned: String =
            body.split('&').filter(|pair| !pair.starts_with("sign=")).collect::<Vec<_>>().join("&");
        for forged in [
            body.replace("total_amount=88.88", "total_amount=8888.00"),
            body.replace(APP_ID, "2021000000000009"),
            body.replace("sign_type=RSA2", "sign_type=RSA"),
            format!("{body}&refund_fee=88.88"),
            unsigned,
            "hello".to_owned(),
            String::new(),
        ] {
            let output = replay(&program, forged.as_bytes());
            assert_eq!(output.status.code(), Some(65), "{forged}: {output:?}");
            assert!(String::from_utf8_lossy(&output.stderr).contains("rejected"), "{output:?}");
        }
        assert!(program.states(paid.trade_no()).is_empty());
        assert!(queue.published(&program, 2).await.is_empty());
        let told = program.log();
        assert!(
            told.lines().filter(|line| line.contains("\"replay\"")).count() >= 7,
            "each is in the log: {told}"
        );
    });
}

#[test]
fn what_acceptance_refuses_of_a_replay_is_held_and_can_be_released() {
    run(async {
        let program = start("replay-held");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let strange = Notification::payment_now(1).set("seller_id", "2088000000000042");
        let output = replay(&program, &strange.body());
        assert_eq!(output.status.code(), Some(65), "{output:?}");
        assert_eq!(program.states(strange.trade_no()), ["held"]);
        assert!((program.metric("held_total{reason=\"seller\"}") - 1.0).abs() < f64::EPSILON);
        assert!(queue.published(&program, 2).await.is_empty());
        // Too old as it came, and of another's: a release lets one of them pass. With the seller in the configuration
        // it would be replayed, for the age alone.
        let old = of_three_days_ago(12).set("seller_id", "2088000000000042");
        assert_eq!(replay(&program, &old.body()).status.code(), Some(65));
        let output = cli(&program, &["release", old.trade_no(), "--reason", "it is ours", "--who", "ben"]);
        assert!(!output.status.success(), "{output:?}");
        assert_eq!(program.states(old.trade_no()), ["held"]);
        assert!(queue.published(&program, 3).await.is_empty());
        let output =
            cli(&program, &["release", strange.trade_no(), "--reason", "it is ours", "--who", "ben"]);
        assert!(output.status.success(), "{output:?}");
        let events = queue.published(&program, 4).await;
        let id = strange.event_id("payment.succeeded");
        assert_eq!(events.iter().map(|event| event.id()).collect::<Vec<_>>(), [id.as_str()]);
        // Decided is decided, whichever way it comes.
        assert!(replay(&program, &strange.body()).status.success());
        assert!(queue.published(&program, 5).await.is_empty());
    });
}

#[test]
fn a_replay_needs_the_token_a_reason_a_name_and_a_body_of_a_size_that_can_be() {
    run(async {
        let program = start("replay-needs");
        let paid = of_three_days_ago(1);
        let (body, query) = (paid.body(), "?who=anna&reason=r");
        assert_eq!(replay_request(&program, query, None, &body).status, 401);
        assert_eq!(replay_request(&program, query, Some("another-token"), &body).status, 401);
        for bad in ["", "?who=anna", "?reason=r", "?who=&reason=r", "?who=anna&reason=a%0Ab"] {
            assert_eq!(replay_request(&program, bad, Some(TOKEN), &body).status, 400, "{bad}");
        }
        let large = vec![b'a'; (1 << 20) + 1];
        assert_eq!(replay_request(&program, query, Some(TOKEN), &large).status, 413);
        assert_eq!(program.get("/replay").unwrap().status, 405);
        assert!(program.states(paid.trade_no()).is_empty());
        // Nobody wants it: it is kept, and goes out when somebody does.
        let output = replay(&program, &body);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("\"kept\"") && said.contains("returned"), "{said}");
        assert!(said.contains("announces it by itself"), "{said}");
        assert_eq!(program.states(paid.trade_no()), ["deferred"]);
        let closed = Program::start("replay-closed");
        assert_eq!(replay_request(&closed, query, Some(TOKEN), &body).status, 403);
    });
}

#[test]
fn what_is_watched_is_shown_as_a_line_with_the_fee_before_the_total() {
    run(async {
        let program = start("watch-text");
        let _queue = Queue::bound(&program.exchange, &["#"]).await;
        let token = program.folder().write("token", format!("{TOKEN}\n"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_alipay-notify-gateway"));
        command.args(["events", "tap", "--count", "2", "--for", "30s", "--token-file"]).arg(token);
        command.arg("--admin").arg(format!("http://{}", program.admin));
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut tap = command.spawn().unwrap();
        let mut said = std::io::BufReader::new(tap.stderr.take().unwrap());
        let mut line = String::new();
        std::io::BufRead::read_line(&mut said, &mut line).unwrap();
        assert!(line.starts_with("watching what"), "{line}");
        let paid = Notification::payment_now(1);
        let refunded = paid.clone().set("refund_fee", "10.00").set("out_biz_no", "RF");
        assert!(program.post(&refunded.body()).is_success() && program.post(&paid.body()).is_success());
        let output = tap.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let shown = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = shown.lines().map(|line| line.split_once("  ").unwrap().1).collect();
        let order = paid.text("out_trade_no");
        let (refund, payment) =
            (refunded.event_id("payment.refunded.RF"), paid.event_id("payment.succeeded"));
        let expected = [
            format!("payment.refunded    {order}  10.00 of 88.88 CNY  {refund}"),
            format!("payment.succeeded   {order}  88.88 CNY  {payment}"),
        ];
        assert_eq!(lines, expected);
    });
}

#[test]
fn who_watches_sees_every_announced_event_and_nothing_of_the_buyer() {
    run(async {
        let program = start("watch");
        let _queue = Queue::bound(&program.exchange, &["#"]).await;
        assert_eq!(program.get("/events").unwrap().status, 401);
        let token = program.folder().write("token", format!("{TOKEN}\n"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_alipay-notify-gateway"));
        command.args(["events", "tap", "--format", "json", "--for", "2m", "--token-file"]).arg(token);
        command.arg("--admin").arg(format!("http://{}", program.admin));
        let mut tap = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(tap.stdout.take().unwrap()));
        let head = format!(
            "GET /events?after=0 HTTP/1.1\r\nHost: admin\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
        );
        let seen = || json(&exchange(program.admin, head.as_bytes()).unwrap());
        // The tap is up when events are gathered; each is of a trade of its own until one of them is.
        let mut trade = 0;
        program.wait_until("events are gathered", || seen()["last"] == 0);
        while seen()["last"] == 0 {
            trade += 1;
            assert!(program.post(&Notification::payment_now(trade).body()).is_success());
        }
        let refunded = Notification::payment_now(500)
            .set("refund_fee", "10.00")
            .set("out_biz_no", "RF")
            .set("buyer_id", "2088000000000099");
        assert!(program.post(&refunded.body()).is_success());
        let id = refunded.event_id("payment.refunded.RF");
        let line = lines.find(|line| line.as_ref().unwrap().contains(&id)).unwrap().unwrap();
        let event: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&event["refund_fee"], &event["total_amount"]), (&"10.00".into(), &"88.88".into()));
        for secret in ["2088000000000099", "186****", "测试商品", "sign"] {
            assert!(!line.contains(secret), "{secret}: {line}");
        }
        tap.kill().unwrap();
        tap.wait().unwrap();
    });
}
