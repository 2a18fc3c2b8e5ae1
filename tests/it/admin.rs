//! The operators' door.

use alipay_notify_gateway::admin::Phase;
use alipay_notify_gateway::broker::Link;

use crate::support::doors::AdminDoor;
use crate::support::raw_client::{End, RawAnswer, RawClient};

async fn ask(door: &AdminDoor, request_line: &str, header: &str) -> RawAnswer {
    let mut client = RawClient::connect(door.addr).await;
    client.send(format!("{request_line} HTTP/1.1\r\n{header}\r\n\r\n")).await;
    client.answer().await
}

async fn get(door: &AdminDoor, path: &str) -> RawAnswer {
    ask(door, &format!("GET {path}"), "host: x").await
}

fn json(answer: &RawAnswer) -> serde_json::Value {
    assert_eq!(answer.header("content-type"), Some("application/json"), "{}", answer.head);
    serde_json::from_slice(&answer.body).unwrap()
}

#[tokio::test]
async fn it_is_alive_in_every_phase_and_ready_in_one() {
    let door = AdminDoor::open(None);
    let phases = [
        (Phase::Starting, 503, "starting"),
        (Phase::Ready, 200, "ready"),
        (Phase::Stopping, 503, "stopping"),
    ];
    for (phase, status, name) in phases {
        door.readiness.enter(phase);
        for path in ["/livez", "/healthz"] {
            assert_eq!(get(&door, path).await.status, 200, "{name}");
        }
        let answer = get(&door, "/readyz").await;
        assert_eq!(answer.status, status, "{name}");
        assert_eq!(json(&answer), serde_json::json!({ "status": name, "parts": {} }));
        let metrics = String::from_utf8(get(&door, "/metrics").await.body).unwrap();
        let ready = format!("\nalipay_gateway_ready {}\n", u8::from(phase == Phase::Ready));
        assert!(metrics.contains(&ready), "{name}");
    }
}

#[tokio::test]
async fn without_a_broker_it_is_degraded_and_still_ready() {
    let door = AdminDoor::open(None);
    door.readiness.enter(Phase::Ready);
    door.broker.set(Link::Down);
    let answer = get(&door, "/readyz").await;
    assert_eq!(answer.status, 200);
    let degraded = serde_json::json!({ "status": "degraded", "parts": { "broker": "no connection" } });
    assert_eq!(json(&answer), degraded);
    assert_eq!(get(&door, "/livez").await.status, 200);
}

#[tokio::test]
async fn verbose_readiness_names_every_part() {
    let door = AdminDoor::open(None);
    door.readiness.enter(Phase::Ready);
    let answer = get(&door, "/readyz?verbose").await;
    assert_eq!(json(&answer)["parts"], serde_json::json!({ "broker": "ok", "store": "ok" }));
}

#[tokio::test]
async fn metrics_are_in_prometheus_text_format() {
    let answer = get(&AdminDoor::open(None), "/metrics").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(answer.body.ends_with(b"\n"));
}

#[tokio::test]
async fn the_version_is_the_packages() {
    let answer = get(&AdminDoor::open(None), "/version").await;
    assert_eq!(json(&answer)["version"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn a_trade_of_which_nothing_is_kept_has_no_rows() {
    let door = AdminDoor::open(None);
    let answer = get(&door, "/trades/20261123%32?verbose=x").await;
    assert_eq!(answer.status, 200);
    assert_eq!(json(&answer), serde_json::json!({ "trade_no": "202611232", "rows": [] }));
    for weird in ["/trades/", "/trades/%00", "/trades/a%0Ab", "/trades/%"] {
        assert_eq!(get(&door, weird).await.status, 400, "{weird}");
    }
}

#[tokio::test]
async fn anything_else_is_not_there_or_not_allowed() {
    let door = AdminDoor::open(None);
    for path in ["/", "/livez/", "/trades", "/trades/1/2", "/alipay/notify"] {
        assert_eq!(get(&door, path).await.status, 404, "{path}");
    }
    for path in ["/livez", "/readyz", "/metrics", "/version", "/trades/1"] {
        let answer = ask(&door, &format!("PUT {path}"), "host: x").await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{path}");
    }
}

#[tokio::test]
async fn a_changing_call_needs_the_token() {
    let (with, without) = (AdminDoor::open(Some("s3cret")), AdminDoor::open(None));
    for call in ["POST /trades/1/forget", "DELETE /trades/1", "POST /livez", "POST /nowhere"] {
        let bare = ask(&with, call, "host: x").await;
        assert_eq!((bare.status, bare.header("www-authenticate")), (401, Some("Bearer")), "{call}");
        assert_eq!(ask(&with, call, "authorization: Bearer s3cre").await.status, 401, "{call}");
        assert_eq!(ask(&with, call, "authorization: Bearer s3cret").await.status, 404, "{call}");
        assert_eq!(ask(&without, call, "authorization: Bearer s3cret").await.status, 403, "{call}");
    }
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let door = AdminDoor::open(None);
    let mut client = RawClient::connect(door.addr).await;
    client.send("HEAD /livez HTTP/1.1\r\nconnection: close\r\n\r\n").await;
    let answer = client.answer_to_head().await;
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("6")));
    assert_eq!(client.rest().await, (Vec::new(), End::Closed));
}

#[tokio::test]
async fn a_body_is_not_read_and_a_large_head_is_refused() {
    let door = AdminDoor::open(Some("s3cret"));
    let answer = ask(&door, "POST /trades/1/drop", "content-length: 1000000000").await;
    assert_eq!(answer.status, 401);
    assert!(answer.is_last());
    let answer = ask(&door, "GET /livez", &format!("x: {}", "y".repeat(20_000))).await;
    assert_eq!(answer.status, 431);
}

#[tokio::test]
async fn whoever_connects_and_says_nothing_keeps_no_probe_out() {
    let door = AdminDoor::open(None);
    let mut silent = Vec::new();
    // 64 have a place; each that comes anew takes that of the one who is silent for longest.
    for _ in 0..70 {
        silent.push(RawClient::connect(door.addr).await);
    }
    for _ in 0..70 {
        assert_eq!(get(&door, "/livez").await.status, 200);
    }
    assert_eq!(silent.swap_remove(0).rest().await, (Vec::new(), End::Closed));
    let mut last = silent.pop().unwrap();
    last.send("GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(last.answer().await.status, 200, "those that came last stay");
}

#[tokio::test]
async fn whoever_asks_one_thing_behind_the_other_keeps_no_probe_out() {
    let door = AdminDoor::open(None);
    let two = "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(2);
    let mut alone = RawClient::connect(door.addr).await;
    alone.send(&two).await;
    for _ in 0..2 {
        assert_eq!(alone.answer().await.status, 200, "while there is room both are answered");
    }
    // With him they are 63.
    let mut others = Vec::new();
    for _ in 0..62 {
        let mut other = RawClient::connect(door.addr).await;
        other.send("GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!(other.answer().await.status, 200);
        others.push(other);
    }
    let mut last = RawClient::connect(door.addr).await;
    last.send(&two).await;
    assert_eq!(last.answer().await.status, 200);
    assert_eq!(
        last.rest().await,
        (Vec::new(), End::Closed),
        "where all places are taken, who is answered leaves"
    );
}

#[tokio::test]
async fn it_answers_while_the_data_plane_is_stuck() {
    let door = AdminDoor::open(None);
    // This test's runtime is the data plane's, with one thread, and the blocking call below holds it: only
    // another thread can answer.
    let answer = {
        use std::io::{Read as _, Write as _};
        let mut client = std::net::TcpStream::connect(door.addr).unwrap();
        client.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
        client.write_all(b"GET /livez HTTP/1.1\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test]
async fn it_stops_when_told_and_not_before() {
    let door = AdminDoor::open(None);
    let addr = door.addr;
    let mut idle = RawClient::connect(addr).await;
    idle.send("GET /livez HTTP/1.1\r\n\r\n").await;
    assert_eq!(idle.answer().await.status, 200);
    let stopped = tokio::time::timeout(crate::support::PATIENCE, door.handle.stop()).await;
    assert!(stopped.is_ok());
    assert_eq!(idle.rest().await, (Vec::new(), End::Closed));
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
}
