//! The public door under strange and hostile requests: what each is answered, byte for byte, that it is
//! counted once, and that the next one is still served.

use std::time::Duration;

use alipay_notify_gateway::broker::Link;
use alipay_notify_gateway::http::Config;
use alipay_notify_gateway::metrics::Outcome;

use crate::support::alipay::Notification;
use crate::support::doors::{PublicDoor, generous};
use crate::support::eventually;
use crate::support::raw_client::{End, RawAnswer, RawClient};

/// A request that the gateway refuses: it reached admission.
const FORGED: &[u8] = b"POST /alipay/notify HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\na=b";

/// A payment that Alipay could have sent, with one more header.
fn genuine(header: &str) -> Vec<u8> {
    post(&Notification::payment().body(), header)
}

fn post(body: &[u8], header: &str) -> Vec<u8> {
    let mut request =
        format!("POST /alipay/notify HTTP/1.1\r\n{header}\r\ncontent-length: {}\r\n\r\n", body.len())
            .into_bytes();
    request.extend_from_slice(body);
    request
}

fn assert_fail(answer: &RawAnswer, status: u16) {
    assert_eq!(answer.status, status, "{}", answer.head);
    assert_eq!(answer.body, b"fail", "{}", answer.head);
    assert_eq!(answer.header("content-type"), Some("text/plain"), "{}", answer.head);
}

/// All outcomes together: exactly one per request, whatever it was.
fn counted(door: &PublicDoor) -> u64 {
    Outcome::ALL.iter().map(|outcome| door.outcome(outcome.as_str())).sum()
}

/// Generous bounds but for one.
fn bounded(tighten: impl FnOnce(&mut Config)) -> Config {
    let mut config = generous();
    tighten(&mut config);
    config
}

async fn one_answer(door: &PublicDoor, request: impl AsRef<[u8]>) -> (RawAnswer, RawClient) {
    let mut client = door.connect().await;
    client.send(request).await;
    (client.answer().await, client)
}

/// The door still serves whoever behaves.
async fn assert_serves(door: &PublicDoor) {
    let (answer, _client) = one_answer(door, FORGED).await;
    assert_fail(&answer, 400);
}

#[tokio::test]
async fn a_refusal_is_these_bytes_and_no_others() {
    let door = PublicDoor::open(generous()).await;
    let mut client = door.connect().await;
    client.send(FORGED).await;
    client.finish_sending().await;
    let (bytes, end) = client.rest().await;
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "fail");
    let mut lines: Vec<&str> = head.lines().filter(|line| !line.starts_with("date: ")).collect();
    lines[1..].sort_unstable();
    assert_eq!(lines, ["HTTP/1.1 400 Bad Request", "content-length: 4", "content-type: text/plain"]);
    assert_eq!(end, End::Closed);
}

#[tokio::test]
async fn success_is_these_bytes_and_no_others_and_comes_after_the_confirm() {
    let door = PublicDoor::open(generous()).await;
    let mut client = door.connect().await;
    client.send(genuine("x: y")).await;
    client.finish_sending().await;
    let batch = door.broker.batch().await;
    assert_eq!(counted(&door), 0);
    batch.confirm_all().await;
    let (bytes, end) = client.rest().await;
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "success");
    let mut lines: Vec<&str> = head.lines().filter(|line| !line.starts_with("date: ")).collect();
    lines[1..].sort_unstable();
    assert_eq!(lines, ["HTTP/1.1 200 OK", "content-length: 7", "content-type: text/plain"]);
    assert_eq!(end, End::Closed);
    assert_eq!((door.outcome("announced"), counted(&door)), (1, 1));
}

#[tokio::test]
async fn what_cannot_be_announced_is_503_fail() {
    let door = PublicDoor::open(generous()).await;
    door.broker.set(Link::Down);
    let (answer, _client) = one_answer(&door, genuine("x: y")).await;
    assert_fail(&answer, 503);
    assert!(!answer.is_last());
    assert_eq!((door.outcome("deferred"), counted(&door)), (1, 1));
}

#[tokio::test]
async fn a_client_that_hangs_up_stops_nothing() {
    let door = PublicDoor::open(generous()).await;
    let mut client = door.connect().await;
    client.send(genuine("x: y")).await;
    drop(client);
    door.broker.batch().await.confirm_all().await;
    eventually("it is recorded", async || !door.store.is_empty()).await;
    eventually("it is counted", async || door.outcome("announced") == 1).await;
    eventually("the connection is gone", async || door.metrics.connections.get() == 0).await;
}

#[tokio::test]
async fn a_trace_context_travels_into_the_event_only_if_it_is_one() {
    let door = PublicDoor::open(generous()).await;
    let context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut client = door.connect().await;
    client.send(genuine(&format!("traceparent: {context}"))).await;
    let batch = door.broker.batch().await;
    assert_eq!(batch.messages[0].traceparent.as_deref(), Some(context));
    let other = Notification::payment().trade("2026112322001427340000000001");
    client.send(post(&other.body(), &format!("traceparent: {}", context.to_uppercase()))).await;
    batch.confirm_all().await;
    assert_eq!(client.answer().await.body, b"success");
    assert_eq!(door.broker.batch().await.messages[0].traceparent, None);
}

#[tokio::test]
async fn other_paths_are_not_found_and_other_methods_not_allowed() {
    let door = PublicDoor::open(generous()).await;
    let mut client = door.connect().await;
    for path in ["/", "/alipay/notify/", "/alipay", "/Alipay/notify", "//alipay/notify", "/alipay/notif%79"] {
        client.send(format!("POST {path} HTTP/1.1\r\ncontent-length: 0\r\n\r\n")).await;
        let answer = client.answer().await;
        assert_fail(&answer, 404);
        assert!(!answer.is_last(), "{path}");
    }
    for method in ["GET", "PUT", "OPTIONS", "DELETE", "post", "BREW"] {
        client.send(format!("{method} /alipay/notify?x=y HTTP/1.1\r\n\r\n")).await;
        let answer = client.answer().await;
        assert_fail(&answer, 405);
        assert_eq!(answer.header("allow"), Some("POST"), "{method}");
    }
    client.send("HEAD /alipay/notify HTTP/1.1\r\n\r\n").await;
    let answer = client.answer_to_head().await;
    assert_eq!((answer.status, answer.header("content-length")), (405, Some("4")));
    assert_eq!(door.outcome("other"), 13);
    client.send(FORGED).await;
    assert_fail(&client.answer().await, 400);
    assert_eq!((door.outcome("rejected"), counted(&door)), (1, 14));
}

#[tokio::test]
async fn the_query_does_not_matter() {
    let door = PublicDoor::open(generous()).await;
    let request = b"POST /alipay/notify?sign=x&sign_type=RSA2 HTTP/1.1\r\ncontent-length: 0\r\n\r\n";
    let (answer, _client) = one_answer(&door, request).await;
    assert_fail(&answer, 400);
    assert_eq!((door.outcome("rejected"), counted(&door)), (1, 1));
}

#[tokio::test]
async fn what_says_that_it_is_no_form_is_refused_unread() {
    let door = PublicDoor::open(generous()).await;
    let headers = ["content-type: multipart/form-data; boundary=b", "content-type: application/json"];
    for header in headers.into_iter().chain(["content-encoding: gzip", "Content-Encoding: identity, br"]) {
        let head = format!("POST /alipay/notify HTTP/1.1\r\n{header}\r\ncontent-length: 4000\r\n\r\n");
        let (answer, _client) = one_answer(&door, head).await;
        assert_fail(&answer, 400);
        assert!(answer.is_last(), "its body was not read");
    }
    assert_eq!(door.outcome("rejected"), 4);
    assert_eq!(door.metrics.rejections.with_label_values(&["not_a_form"]).get(), 4);
}

#[tokio::test]
async fn an_odd_type_goes_to_admission() {
    let door = PublicDoor::open(generous()).await;
    let mut client = door.connect().await;
    for header in ["content-type: text/html", "content-type: ", "x: y", "content-encoding: identity"] {
        client
            .send(format!("POST /alipay/notify HTTP/1.1\r\n{header}\r\ncontent-length: 3\r\n\r\na=b"))
            .await;
        let answer = client.answer().await;
        assert_fail(&answer, 400);
        assert!(!answer.is_last());
    }
    assert_eq!(door.metrics.rejections.with_label_values(&["not_a_form"]).get(), 0);
}

#[tokio::test]
async fn a_length_that_is_too_large_is_refused_before_the_body() {
    let door = PublicDoor::open(generous()).await;
    let (answer, mut client) =
        one_answer(&door, "POST /alipay/notify HTTP/1.1\r\ncontent-length: 65537\r\n\r\n").await;
    assert_fail(&answer, 413);
    assert!(answer.is_last());
    assert_eq!(client.rest().await, (Vec::new(), End::Closed));
    assert_eq!((door.outcome("failed"), door.refused("large_body")), (1, 1));
    assert_eq!(counted(&door), 1);
}

#[tokio::test]
async fn a_length_at_the_bound_is_read_and_one_byte_more_is_not() {
    let door = PublicDoor::open(generous()).await;
    for (length, status) in [(65_536, 400), (65_537, 413)] {
        let mut request = format!("POST /alipay/notify HTTP/1.1\r\ncontent-length: {length}\r\n\r\n");
        request.push_str(&"a".repeat(length));
        let (answer, _client) = one_answer(&door, request).await;
        assert_fail(&answer, status);
    }
}

#[tokio::test]
async fn chunks_that_add_up_to_too_much_are_refused() {
    let door = PublicDoor::open(generous()).await;
    let mut client = door.connect().await;
    client.send("POST /alipay/notify HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let chunk = format!("1000\r\n{}\r\n", "a".repeat(0x1000));
    for _ in 0..64 {
        // The answer may come before the last of them.
        if client.try_send(&chunk).await.is_err() {
            break;
        }
    }
    let _ = client.try_send("1\r\na\r\n0\r\n\r\n").await;
    let answer = client.answer().await;
    assert_fail(&answer, 413);
    assert!(answer.is_last());
    assert_eq!(door.outcome("failed"), 1);
}

#[tokio::test]
async fn an_answer_that_comes_early_is_not_lost_to_a_reset() {
    let door = PublicDoor::open(generous()).await;
    let mut client = door.connect().await;
    client.send("POST /alipay/notify HTTP/1.1\r\ncontent-length: 500000\r\n\r\n").await;
    eventually("it is refused", async || door.outcome("failed") == 1).await;
    // The peer goes on sending: it has not looked at the answer yet, and a reset could take it away.
    for _ in 0..50 {
        client.send("a".repeat(10_000)).await;
        tokio::task::yield_now().await;
    }
    client.finish_sending().await;
    let (bytes, end) = client.rest().await;
    assert!(bytes.starts_with(b"HTTP/1.1 413 ") && bytes.ends_with(b"\r\n\r\nfail"));
    assert_eq!(end, End::Closed);
}

#[tokio::test]
async fn a_slow_body_is_answered_408() {
    let door = PublicDoor::open(bounded(|config| config.body_timeout = SHORT)).await;
    let (answer, mut client) =
        one_answer(&door, "POST /alipay/notify HTTP/1.1\r\ncontent-length: 10\r\n\r\na=").await;
    assert_fail(&answer, 408);
    assert!(answer.is_last());
    client.finish_sending().await;
    assert_eq!(client.rest().await, (Vec::new(), End::Closed));
    assert_eq!((door.outcome("failed"), door.refused("slow_body")), (1, 1));
}

#[tokio::test]
async fn a_body_that_drips_gets_no_more_time_than_a_silent_one() {
    let door = PublicDoor::open(bounded(|config| config.body_timeout = SHORT)).await;
    let mut client = door.connect().await;
    client.send("POST /alipay/notify HTTP/1.1\r\ncontent-length: 60000\r\n\r\n").await;
    let dripped = async {
        while client.try_send("a").await.is_ok() && door.outcome("failed") == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        client.answer().await
    };
    assert_fail(&tokio::time::timeout(crate::support::PATIENCE, dripped).await.unwrap(), 408);
}

#[tokio::test]
async fn a_body_cut_short_is_a_failure() {
    let door = PublicDoor::open(generous()).await;
    for request in [
        "POST /alipay/notify HTTP/1.1\r\ncontent-length: 10\r\n\r\na=b",
        "POST /alipay/notify HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5\r\na=b",
        "POST /alipay/notify HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
    ] {
        let mut client = door.connect().await;
        client.send(request).await;
        client.finish_sending().await;
        let answer = client.answer().await;
        assert_fail(&answer, 400);
        assert!(answer.is_last(), "{request:?}");
    }
    assert_eq!(door.outcome("failed"), 3);
    assert_eq!(door.outcome("rejected"), 0);
}

#[tokio::test]
async fn a_peer_that_resets_in_the_middle_of_a_body_is_counted_too() {
    let door = PublicDoor::open(generous()).await;
    let mut client = door.connect().await;
    client.send("POST /alipay/notify HTTP/1.1\r\ncontent-length: 10\r\n\r\na=b").await;
    drop(client);
    eventually("the cut body is counted", async || door.outcome("failed") == 1).await;
    eventually("the connection is gone", async || door.metrics.connections.get() == 0).await;
}

#[tokio::test]
async fn a_body_that_is_there_with_its_head_takes_no_room_from_those_that_are_waited_for() {
    // No room for any.
    let door = PublicDoor::open(bounded(|config| config.max_bodies = 1024)).await;
    let mut client = door.connect().await;
    for _ in 0..3 {
        client.send(FORGED).await;
        assert_fail(&client.answer().await, 400);
    }
    client.send(&FORGED[..FORGED.len() - 1]).await;
    let answer = client.answer().await;
    assert_fail(&answer, 503);
    assert!(answer.is_last());
    assert_eq!((door.outcome("busy"), door.refused("bodies"), door.metrics.body_bytes.get()), (1, 1, 0));
}

#[tokio::test]
async fn the_body_that_held_most_for_longest_gives_way_and_one_byte_holds_its_connection() {
    let room_for_three = 3 * 16 * 1024 + 9000;
    let door = PublicDoor::open(bounded(|config| config.max_bodies = room_for_three)).await;
    let announced = "POST /alipay/notify HTTP/1.1\r\ncontent-length: 10000\r\n\r\n";
    let mut slow = Vec::new();
    for bytes in [1, 8000, 1] {
        let mut client = door.connect().await;
        client.send(format!("{announced}{}", "a".repeat(bytes))).await;
        slow.push(client);
        let held = slow.len() as i64 * 16 * 1024;
        eventually("it has a place", async || door.metrics.body_bytes.get() > held).await;
        // What gives way is decided by microseconds.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (body, end) = FORGED.split_at(FORGED.len() - 1);
    let mut quick = door.connect().await;
    quick.send(body).await;
    assert_fail(&slow.remove(1).answer().await, 503);
    quick.send(end).await;
    assert_fail(&quick.answer().await, 400);
    for mut client in slow {
        client.send("a".repeat(9999)).await;
        assert_fail(&client.answer().await, 400);
    }
    eventually("all is given back", async || door.metrics.body_bytes.get() == 0).await;
    assert_eq!((door.outcome("busy"), door.refused("bodies")), (1, 1));
}

#[tokio::test]
async fn a_slow_head_is_closed_without_an_answer() {
    let door = PublicDoor::open(bounded(|config| config.header_timeout = SHORT)).await;
    let mut dripping = door.connect().await;
    dripping.send("POST /alipay/notify HTTP/1.1\r\nx: ").await;
    let mut silent = door.connect().await;
    assert_eq!(dripping.rest().await.0, b"");
    assert_eq!(silent.rest().await.0, b"");
    eventually("both are counted", async || door.refused("slow_head") == 2).await;
    assert_serves(&door).await;
}

#[tokio::test]
async fn silence_between_two_requests_ends_the_connection_and_is_no_offence() {
    let door = PublicDoor::open(bounded(|config| config.header_timeout = SHORT)).await;
    let (answer, mut client) = one_answer(&door, FORGED).await;
    assert_fail(&answer, 400);
    assert_eq!(client.rest().await.0, b"");
    eventually("it is gone", async || door.metrics.connections.get() == 0).await;
    assert_eq!(door.refused("slow_head"), 0);
    // Half a head after an answer is an offence again.
    let (_, mut client) = one_answer(&door, FORGED).await;
    client.send("POST /ali").await;
    assert_eq!(client.rest().await.0, b"");
    eventually("it is counted", async || door.refused("slow_head") == 1).await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_answered_431_or_414_and_nothing_more() {
    let door = PublicDoor::open(generous()).await;
    let many: String = (0..101).map(|n| format!("x-{n}: y\r\n")).collect();
    let bombs = [
        (format!("POST /alipay/notify HTTP/1.1\r\n{many}\r\n"), "431"),
        (format!("POST /alipay/notify HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20)), "431"),
        (format!("POST /alipay/notify HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(16 * 1024)), "431"),
        (format!("POST /{} HTTP/1.1\r\n\r\n", "y".repeat(1 << 20)), "431"),
    ];
    for (bomb, status) in &bombs {
        let mut client = door.connect().await;
        let _ = client.try_send(bomb).await;
        let (bytes, _) = client.rest().await;
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text:?}");
        assert!(text.ends_with("\r\n\r\n") && text.contains("content-length: 0"), "{text:?}");
        assert!(!text.to_ascii_lowercase().contains("server:"), "{text:?}");
    }
    eventually("all are counted", async || door.refused("bad_head") == bombs.len() as u64).await;
    assert_eq!(counted(&door), 0, "they are counted with the connections");
    assert_serves(&door).await;
}

#[tokio::test]
async fn the_bound_of_a_head_may_be_smaller_than_a_buffer() {
    let door = PublicDoor::open(bounded(|config| config.max_header = 1024)).await;
    let head = |padding| format!("POST /alipay/notify HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(padding));
    assert_eq!(one_answer(&door, head(2048)).await.0.status, 431);
    assert_fail(&one_answer(&door, head(512)).await.0, 400);
}

#[tokio::test]
async fn a_head_below_the_bound_passes() {
    let door = PublicDoor::open(generous()).await;
    let padding = "y".repeat(12 * 1024);
    let request = format!("POST /alipay/notify HTTP/1.1\r\nx: {padding}\r\ncontent-length: 3\r\n\r\na=b");
    assert_fail(&one_answer(&door, request).await.0, 400);
}

#[tokio::test]
async fn other_protocols_are_turned_away() {
    let door = PublicDoor::open(generous()).await;
    let strangers: [&[u8]; 5] = [
        b"GET /alipay/notify\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00\r\n\r\n",
        b"POST /alipay/notify HTTP/1.1\r\nbad header\r\n\r\n",
        b"AMQP\x00\x00\x09\x01\r\n\r\n",
    ];
    for stranger in strangers {
        let mut client = door.connect().await;
        client.send(stranger).await;
        let (bytes, _) = client.rest().await;
        let text = bytes.escape_ascii().to_string();
        assert!(bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 400 "), "{text}");
        assert!(!bytes.ends_with(b"fail"), "{text}");
    }
    eventually("all are counted", async || door.refused("bad_head") == strangers.len() as u64).await;
    assert_eq!(counted(&door), 0);
    assert_serves(&door).await;
}

#[tokio::test]
async fn no_request_hides_behind_a_transfer_encoding() {
    let door = PublicDoor::open(generous()).await;
    let hidden = "GET /hidden HTTP/1.1\r\n\r\n";
    let chunked = "transfer-encoding: chunked\r\n\r\n3\r\na=b\r\n0\r\n\r\n";
    for head in ["", "content-length: 3\r\n", "content-length: 30\r\n"] {
        let mut client = door.connect().await;
        client.send(format!("POST /alipay/notify HTTP/1.1\r\n{head}{chunked}{hidden}")).await;
        let answer = client.answer().await;
        assert_fail(&answer, 400);
        assert!(answer.is_last());
        assert_eq!(client.rest().await, (Vec::new(), End::Closed));
    }
    assert_eq!(door.outcome("other"), 0, "the hidden request was not seen");
    assert_eq!(door.refused("bad_head"), 0);
}

#[tokio::test]
async fn an_ambiguous_length_is_no_request() {
    let door = PublicDoor::open(generous()).await;
    let hidden = "GET /hidden HTTP/1.1\r\n\r\n";
    let heads = [
        "content-length: 3\r\ncontent-length: 4\r\n\r\na=b",
        "content-length: 3, 4\r\n\r\na=b",
        "content-length: +3\r\n\r\na=b",
        "content-length: -1\r\n\r\na=b",
        "content-length : 3\r\n\r\na=b",
        "transfer-encoding: identity\r\n\r\na=b",
        "transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    ];
    for head in heads {
        let mut client = door.connect().await;
        client.send(format!("POST /alipay/notify HTTP/1.1\r\n{head}{hidden}")).await;
        let (bytes, _) = client.rest().await;
        let text = bytes.escape_ascii().to_string();
        assert!(bytes.starts_with(b"HTTP/1.1 400 "), "{head:?}: {text}");
        assert_eq!(bytes.windows(5).filter(|five| five == b"HTTP/").count(), 1, "{head:?}: {text}");
    }
    assert_eq!(counted(&door), 0);
    eventually("all are counted", async || door.refused("bad_head") == heads.len() as u64).await;
}

#[tokio::test]
async fn what_follows_a_length_that_is_too_short_is_no_request() {
    let door = PublicDoor::open(generous()).await;
    let mut client = door.connect().await;
    client.send("POST /alipay/notify HTTP/1.1\r\ncontent-length: 1\r\n\r\na=bGET / HTTP/1.1\r\n\r\n").await;
    assert_fail(&client.answer().await, 400);
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.body.len(), answer.is_last()), (400, 0, true));
    assert_eq!(client.rest().await, (Vec::new(), End::Closed));
    assert_eq!((door.outcome("rejected"), counted(&door)), (1, 1));
}

#[tokio::test]
async fn a_thousand_pipelined_requests_get_a_thousand_answers() {
    let door = PublicDoor::open(generous()).await;
    let mut client = door.connect().await;
    client.send(FORGED.repeat(1000)).await;
    for _ in 0..1000 {
        assert_fail(&client.answer().await, 400);
    }
    client.finish_sending().await;
    assert_eq!(client.rest().await, (Vec::new(), End::Closed));
    assert_eq!((door.outcome("rejected"), counted(&door)), (1000, 1000));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_reads_its_answers_is_let_go() {
    let door = PublicDoor::open(generous()).await;
    let mut client = door.connect().await;
    // Its own patience is the door's: it writes until the door has had enough.
    while client.try_send(FORGED.repeat(1000)).await.is_ok() {}
    eventually("it is counted", async || door.refused("slow_reader") == 1).await;
    assert_eq!(door.metrics.connections.get(), 0);
}

#[tokio::test]
async fn one_connection_too_many_is_closed_at_once() {
    let door = PublicDoor::open(bounded(|config| config.max_connections = 3)).await;
    let mut kept = Vec::new();
    for _ in 0..3 {
        let (answer, client) = one_answer(&door, FORGED).await;
        assert_fail(&answer, 400);
        kept.push(client);
    }
    assert_eq!(door.metrics.connections.get(), 3);
    let mut refused = door.connect().await;
    assert_eq!(refused.rest().await.0, b"");
    assert_eq!(door.refused("full"), 1);
    assert_eq!(door.metrics.connections.get(), 3, "those that are open are not touched");
    kept[0].send(FORGED).await;
    assert_fail(&kept[0].answer().await, 400);
    kept.pop();
    eventually("the place is free", async || door.metrics.connections.get() == 2).await;
    assert_serves(&door).await;
}

#[tokio::test]
async fn who_begins_to_speak_while_all_buffers_are_in_requests_waits_a_second_and_no_longer() {
    // Twice as many may have buffers: who is asked to leave has them until he is answered.
    let door = PublicDoor::open(bounded(|config| config.max_buffered_connections = 1)).await;
    let trades = [1, 2, 3].map(|n| Notification::payment().trade(&format!("202611272200142700000000000{n}")));
    let [mut first, mut second] = [door.connect().await, door.connect().await];
    first.send(post(&trades[0].body(), "host: x")).await;
    let of_the_first = door.broker.batch().await;
    second.send(post(&trades[1].body(), "host: x")).await;
    let of_the_second = door.broker.batch().await;
    let began = std::time::Instant::now();
    let mut third = door.connect().await;
    third.send(post(&trades[2].body(), "host: x")).await;
    assert_eq!(third.rest().await.0, b"");
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(door.refused("full"), 1);
    assert!(door.store.is_empty() && door.broker.is_quiet().await, "nothing was made of it");
    of_the_first.confirm_all().await;
    of_the_second.confirm_all().await;
    for client in [&mut first, &mut second] {
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.is_last()), (200, true), "{}", answer.head);
    }
    assert_serves(&door).await;
}

#[tokio::test]
async fn the_peer_may_wait_for_100_continue() {
    let door = PublicDoor::open(generous()).await;
    let mut client = door.connect().await;
    let head = "POST /alipay/notify HTTP/1.1\r\nexpect: 100-continue\r\n";
    client.send(format!("{head}content-length: 3\r\n\r\n")).await;
    client.expect(b"HTTP/1.1 100 Continue\r\n\r\n").await;
    client.send("a=b").await;
    assert_fail(&client.answer().await, 400);
    client.send(format!("{head}content-length: 65537\r\n\r\n")).await;
    assert_fail(&client.answer().await, 413);
}

#[tokio::test]
async fn http_1_0_is_answered_and_closed() {
    let door = PublicDoor::open(generous()).await;
    let request = "POST /alipay/notify HTTP/1.0\r\ncontent-length: 3\r\n\r\na=b";
    let (answer, mut client) = one_answer(&door, request).await;
    assert_fail(&answer, 400);
    assert_eq!(client.rest().await, (Vec::new(), End::Closed));
}

#[tokio::test]
async fn a_request_in_flight_is_finished_when_the_listener_ends() {
    let door = PublicDoor::open(generous()).await;
    let (addr, signals) = (door.addr, door.signals.clone());
    let (_, mut idle) = one_answer(&door, FORGED).await;
    let mut untouched = door.connect().await;
    let mut in_flight = door.connect().await;
    in_flight.send("POST /alipay/notify HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n").await;
    in_flight.expect(b"HTTP/1.1 100 Continue\r\n\r\n").await;
    eventually("all three are taken", async || door.metrics.connections.get() == 3).await;
    signals.end.begin();
    assert_eq!(idle.rest().await, (Vec::new(), End::Closed));
    assert_eq!(untouched.rest().await, (Vec::new(), End::Closed));
    eventually("nobody is let in", async || tokio::net::TcpStream::connect(addr).await.is_err()).await;
    assert!(!door.served.is_finished(), "it waits for the request");
    in_flight.send("a=b").await;
    let answer = in_flight.answer().await;
    assert_fail(&answer, 400);
    assert!(answer.is_last());
    assert_eq!(in_flight.rest().await, (Vec::new(), End::Closed));
    door.close().await;
}

#[tokio::test]
async fn while_stopping_everybody_is_served_for_the_last_time() {
    let door = PublicDoor::open(generous()).await;
    let (answer, mut old) = one_answer(&door, FORGED).await;
    assert!(!answer.is_last());
    door.signals.stopping.begin();
    old.send(FORGED).await;
    for (answer, mut client) in [(old.answer().await, old), one_answer(&door, FORGED).await] {
        assert_fail(&answer, 400);
        assert!(answer.is_last());
        assert_eq!(client.rest().await, (Vec::new(), End::Closed));
    }
    door.close().await;
}

#[tokio::test]
async fn a_taken_port_is_an_error_at_the_start() {
    let door = PublicDoor::open(generous()).await;
    let config = bounded(|config| config.listen = door.addr);
    let second = alipay_notify_gateway::http::listener::Listener::bind(config).await;
    assert_eq!(second.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
}

/// A deadline that the test waits out.
const SHORT: Duration = Duration::from_millis(200);
