//! What operators decide about what is held: release and drop, on the real binary with a real broker.

use std::process::{Command, Output};

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
fn without_a_token_in_the_configuration_nothing_can_be_decided() {
    run(async {
        let program = Program::start("no-token");
        let path = "/trades/2026112322001427340000000001/drop?reason=r&who=w";
        assert_eq!(order(&program, path, Some(TOKEN)).status, 403);
    });
}
