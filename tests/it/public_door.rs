//! The attacks on HTTP itself (54 to 67), by their numbers, on real sockets against the real binary and a real broker:
//! no attack publishes anything or takes the word `success`, each is counted, and what is genuine gets through meanwhile
//! and afterwards.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::alipay::Notification;
use crate::support::program::{Program, request};
use crate::support::queue::Queue;
use crate::support::raw_client::{End, RawClient};
use crate::support::{eventually, run};

/// A request that costs a signature, and is forged.
fn forged(trade: u64) -> Vec<u8> {
    let body = Notification::payment_now(trade).body_by(crate::support::signer::stranger());
    keep_alive(&body)
}

fn genuine(trade: u64) -> Vec<u8> {
    keep_alive(&Notification::payment_now(trade).body())
}

fn keep_alive(body: &[u8]) -> Vec<u8> {
    let head = format!("POST /alipay/notify HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn refused(program: &Program, reason: &str) -> f64 {
    program.metric(&format!("connections_refused_total{{reason=\"{reason}\"}}"))
}

fn retired(program: &Program, reason: &str) -> f64 {
    program.metric(&format!("connections_retired_total{{reason=\"{reason}\"}}"))
}

/// Waits until so many connections have been refused or ended for this reason.
fn all_refused(program: &Program, reason: &str, count: f64) {
    program.wait_until("all are counted", || refused(program, reason) >= count);
    assert!((refused(program, reason) - count).abs() < f64::EPSILON, "{reason}");
}

/// What is genuine is announced, and nothing else was since the queue was bound.
async fn only_the_genuine(program: &Program, queue: &mut Queue, marker: u64) {
    assert_eq!(queue.published(program, marker).await.len(), 0);
    assert!(!program.log().contains("panicked"), "{}", program.log());
}

#[test]
fn attack_54_heads_that_drip_end_in_time() {
    run(async {
        let program = Program::with_http("slow-heads", "header_timeout = \"1s\"");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let mut clients = Vec::new();
        for _ in 0..20 {
            let mut client = RawClient::connect(program.http).await;
            client.send("POST /alipay/notify HTTP/1.1\r\nx: ").await;
            clients.push(client);
        }
        assert!(program.post(&Notification::payment_now(1).body()).is_success(), "meanwhile");
        let dripped = async {
            // Each byte in time, and the head never.
            while refused(&program, "slow_head") < 20.0 {
                for client in &mut clients {
                    let _ = client.try_send("a").await;
                }
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(crate::support::PATIENCE, dripped).await.expect("they are not ended");
        for mut client in clients {
            assert_eq!(client.rest().await.0, b"", "no answer");
        }
        all_refused(&program, "slow_head", 20.0);
        assert_eq!(queue.published(&program, 2).await.len(), 1);
    });
}

#[test]
fn attack_55_bodies_that_drip_are_answered_fail_in_time() {
    run(async {
        let program = Program::with_http("slow-bodies", "body_timeout = \"1s\"");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let mut clients = Vec::new();
        for _ in 0..20 {
            let mut client = RawClient::connect(program.http).await;
            client.send("POST /alipay/notify HTTP/1.1\r\ncontent-length: 5000\r\n\r\na=").await;
            clients.push(client);
        }
        assert!(program.post(&Notification::payment_now(1).body()).is_success(), "meanwhile");
        let dripped = async {
            while program.outcome("failed") < 20.0 {
                for client in &mut clients {
                    let _ = client.try_send("a").await;
                }
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(crate::support::PATIENCE, dripped).await.expect("they are not ended");
        for mut client in clients {
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.body.as_slice(), answer.is_last()), (408, &b"fail"[..], true));
        }
        assert_eq!(queue.published(&program, 2).await.len(), 1);
    });
}

#[test]
fn attack_55_bodies_that_never_end_have_a_bound_together() {
    run(async {
        let program = Program::with_http("bodies", "max_bodies = \"1MiB\"\nbody_timeout = \"1m\"");
        let _queue = Queue::bound(&program.exchange, &["#"]).await;
        let mut clients = Vec::new();
        for _ in 0..20 {
            let mut client = RawClient::connect(program.http).await;
            client.send("POST /alipay/notify HTTP/1.1\r\ncontent-length: 60001\r\n\r\n").await;
            clients.push(client);
        }
        for client in &mut clients {
            let _ = client.try_send(vec![b'a'; 60_000]).await;
        }
        program.wait_until("some find no room", || program.outcome("busy") >= 3.0);
        assert!(program.metric("body_bytes") <= 1_048_576.0);
        assert!(program.post(&Notification::payment_now(1).body()).is_success(), "one that comes in a piece");
        drop(clients);
        program.wait_until("all is given back", || program.metric("body_bytes") == 0.0);
        let (large, end) = (Notification::payment_now(2).set("body", vec![b'x'; 30_000]).body(), 700);
        let mut client = RawClient::connect(program.http).await;
        let whole = keep_alive(&large);
        client.send(&whole[..end]).await;
        tokio::task::yield_now().await;
        client.send(&whole[end..]).await;
        assert_eq!(client.answer().await.body, b"success");
    });
}

#[test]
fn attack_55_whoever_keeps_the_room_for_bodies_full_takes_none_from_who_completes_his() {
    run(async {
        let program = Program::with_http("shelf", "max_bodies = \"1MiB\"\nbody_timeout = \"1m\"");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        // More than twice what there is room for.
        let hoarders: Vec<_> = (0..40).map(|_| tokio::spawn(never_complete(program.http))).collect();
        program.wait_until("the room is full", || program.metric("body_bytes") > 900_000.0);
        for trade in 0..50 {
            let whole = genuine(trade);
            let (first, second) = whole.split_at(whole.len() - 300);
            let mut client = RawClient::connect(program.http).await;
            client.send(first).await;
            // As long as a network may take from the one to the other.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            client.send(second).await;
            assert_eq!(client.answer().await.body, b"success", "{trade}");
        }
        assert!(program.metric("body_bytes") <= 1_048_576.0);
        assert!(program.metric("body_bytes") > 800_000.0, "it was full all the time");
        assert!(refused(&program, "bodies") >= 50.0);
        hoarders.iter().for_each(tokio::task::JoinHandle::abort);
        assert_eq!(queue.published(&program, 999).await.len(), 50);
    });
}

/// Nearly a whole body; who is sent away comes again.
async fn never_complete(http: std::net::SocketAddr) {
    loop {
        let mut client = RawClient::connect(http).await;
        let _ = client.try_send("POST /alipay/notify HTTP/1.1\r\ncontent-length: 60001\r\n\r\n").await;
        let _ = client.try_send(vec![b'a'; 60_000]).await;
        client.until_closed().await;
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
}

#[test]
fn attack_57_five_thousand_connections_hold_little_whatever_they_have_sent() {
    run(async {
        // Long enough that nothing is let go because of time.
        let times = "header_timeout = \"3m\"\nbody_timeout = \"3m\"";
        let large = |head: usize| format!("POST /alipay/notify HTTP/1.1\r\nx: {}", "y".repeat(head - 34));
        let many: String = (0..95).map(|n| format!("x{n:02}: {}\r\n", "y".repeat(60))).collect();
        let body = "content-length: 60000\r\n\r\n";
        let shapes = [
            ("heads of 16 KiB", large(16_000)),
            ("heads of 8 KiB", large(8_100)),
            ("idle after 16 KiB and a body", format!("{}\r\n{body}{}", large(16_000), "a".repeat(60_000))),
            ("idle after 8 KiB and a body", format!("{}\r\n{body}{}", large(8_000), "a".repeat(60_000))),
            ("bodies behind many headers", format!("POST /alipay/notify HTTP/1.1\r\n{many}{body}a")),
        ];
        for (name, sent) in shapes {
            let program = Program::with_http("hoard", times);
            let mut hoarded = Vec::new();
            for _ in 0..5000 {
                let mut client = RawClient::connect(program.http).await;
                let _ = client.try_send(&sent).await;
                hoarded.push(client);
            }
            let _queue = Queue::bound(&program.exchange, &["#"]).await;
            for trade in 1..=10 {
                assert!(program.post(&Notification::payment_now(trade).body()).is_success(), "{name}");
            }
            let peak = program.peak_mib();
            assert!(peak < 128.0, "{name}: {peak} MiB");
        }
    });
}

#[test]
fn attack_57_of_those_who_have_said_something_only_so_many_stay() {
    run(async {
        let program =
            Program::with_http("buffers", "max_buffered_connections = 100\nheader_timeout = \"60s\"");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let mut hoarded = Vec::new();
        // A proxy keeps it open.
        let mut kept = RawClient::connect(program.http).await;
        kept.send(genuine(1000)).await;
        assert_eq!(kept.answer().await.body, b"success");
        for nth in 0..600 {
            let mut client = RawClient::connect(program.http).await;
            match nth % 3 {
                0 => client.send(b"POST /alipay/notify HTTP/1.1\r\n").await,
                1 => {
                    client.send(forged(1)).await;
                    assert_eq!(client.answer().await.status, 400);
                }
                // Who says nothing has no buffers.
                _ => {}
            }
            hoarded.push(client);
            if nth % 20 == 19 {
                let body = Notification::payment_now(nth).body();
                assert!(program.post(&body).is_success(), "meanwhile: {nth}");
            }
        }
        program.wait_until("the others have left", || program.metric("connections") <= 200.0 + 110.0);
        assert!(program.metric("connections") >= 200.0, "the silent stay");
        kept.send(genuine(1001)).await;
        assert_eq!(kept.answer().await.body, b"success", "who has brought something genuine goes last");
        assert!(retired(&program, "room") >= 280.0);
        drop(hoarded);
        assert_eq!(queue.published(&program, 9999).await.len(), 32);
    });
}

#[test]
fn attack_57_whoever_sends_one_forged_behind_the_other_leaves_after_an_answer() {
    run(async {
        let keys = "max_buffered_connections = 100\nfailure_budget = 1\nheader_timeout = \"60s\"";
        let program = Program::with_http("pipelines", keys);
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        // From another address than theirs, of which too many wait.
        let elsewhere = Ipv4Addr::new(127, 0, 0, 9);
        let mut kept = RawClient::connect_from(elsewhere, program.http).await;
        kept.send(genuine(1)).await;
        assert_eq!(kept.answer().await.body, b"success");
        let many = forged(2).repeat(20);
        let forge = |stream: TcpStream| {
            let many = many.clone();
            let (mut answers, mut requests) = stream.into_split();
            tokio::spawn(async move {
                let forged = async { while requests.write_all(&many).await.is_ok() {} };
                let mut nowhere = tokio::io::sink();
                let _ = tokio::join!(forged, tokio::io::copy(&mut answers, &mut nowhere));
            })
        };
        let mut forgers = Vec::new();
        for _ in 0..400 {
            forgers.push(forge(TcpStream::connect(program.http).await.unwrap()));
        }
        program.wait_until("they have found it crowded", || program.outcome("busy") >= 200.0);
        program.wait_until("the others have left", || program.metric("connections") <= 125.0);
        let mut newcomer = RawClient::connect_from(elsewhere, program.http).await;
        newcomer.send(genuine(3)).await;
        assert_eq!(newcomer.answer().await.body, b"success");
        kept.send(genuine(4)).await;
        assert_eq!(kept.answer().await.body, b"success", "who has brought something genuine goes last");
        forgers.iter().for_each(tokio::task::JoinHandle::abort);
        program.wait_until("they have gone", || program.metric("connections") <= 2.0);
        assert_eq!(queue.published(&program, 99).await.len(), 3);
    });
}

#[test]
fn attack_55_unfinished_bodies_never_take_up_the_whole_door() {
    run(async {
        let program = Program::with_http("small", "max_connections = 300\nbody_timeout = \"60s\"");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let begun = b"POST /alipay/notify HTTP/1.1\r\ncontent-length: 60000\r\n\r\na";
        let mut hoarded = Vec::new();
        for nth in 0..600 {
            let mut client = RawClient::connect(program.http).await;
            let _ = client.try_send(begun).await;
            hoarded.push(client);
            if nth % 30 == 29 {
                let body = Notification::payment_now(nth).body();
                assert!(program.post(&body).is_success(), "meanwhile: {nth}");
            }
        }
        let gave_way = program.metric("connections_refused_total{reason=\"bodies\"}");
        assert!(gave_way >= 400.0, "of 600, some 150 stay: {gave_way}");
        drop(hoarded);
        assert_eq!(queue.published(&program, 9999).await.len(), 20);
    });
}

#[test]
fn attack_57_whoever_repeats_what_he_has_seen_gives_way_before_who_brought_what_was_new() {
    run(async {
        let program =
            Program::with_http("repeats", "max_buffered_connections = 100\nheader_timeout = \"60s\"");
        let _queue = Queue::bound(&program.exchange, &["#"]).await;
        let mut kept = RawClient::connect(program.http).await;
        kept.send(genuine(1)).await;
        assert_eq!(kept.answer().await.body, b"success");
        let mut hoarded = Vec::new();
        for _ in 0..300 {
            let mut client = RawClient::connect(program.http).await;
            client.send(genuine(1)).await;
            assert_eq!(client.answer().await.body, b"success", "a repeat is no offence");
            hoarded.push(client);
        }
        program.wait_until("the others have left", || program.metric("connections") <= 110.0);
        kept.send(genuine(2)).await;
        assert_eq!(kept.answer().await.body, b"success", "it was silent for longest");
    });
}

#[test]
fn attack_57_whoever_repeats_what_he_has_seen_gives_way_before_who_just_came() {
    run(async {
        let program =
            Program::with_http("newcomer", "max_buffered_connections = 100\nheader_timeout = \"60s\"");
        let _queue = Queue::bound(&program.exchange, &["#"]).await;
        assert!(program.post(&Notification::payment_now(1).body()).is_success());
        let mut hoarded = Vec::new();
        for _ in 0..90 {
            let mut client = RawClient::connect(program.http).await;
            client.send(genuine(1)).await;
            assert_eq!(client.answer().await.body, b"success");
            hoarded.push(client);
        }
        let notification = genuine(2);
        let (first, second) = notification.split_at(20);
        let mut newcomer = RawClient::connect(program.http).await;
        newcomer.send(first).await;
        for _ in 0..60 {
            let mut client = RawClient::connect(program.http).await;
            client.send("P").await;
            hoarded.push(client);
        }
        program.wait_until("some have left", || program.metric("connections") <= 110.0);
        newcomer.send(second).await;
        assert_eq!(newcomer.answer().await.body, b"success");
    });
}

#[test]
fn attack_56_five_thousand_silent_connections_cost_little_and_are_let_go() {
    run(async {
        let program = Program::with_http("silence", "header_timeout = \"2m\"");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let mut hoarded = Vec::new();
        for _ in 0..5000 {
            hoarded.push(RawClient::connect(program.http).await);
        }
        program.wait_until("all are taken", || program.metric("connections") >= 5000.0);
        for trade in 1..=10 {
            assert!(program.post(&Notification::payment_now(trade).body()).is_success(), "meanwhile");
        }
        let resident = program.resident_mib();
        assert!(resident < 128.0, "{resident} MiB");
        assert!(refused(&program, "full") + refused(&program, "accept") == 0.0);
        drop(hoarded);
        program.wait_until("all are gone", || program.metric("connections") == 0.0);
        assert_eq!(queue.published(&program, 99).await.len(), 10);
    });
}

#[test]
fn attack_56_whoever_fills_the_door_gives_way_to_who_says_something() {
    run(async {
        let program = Program::with_http("full", "max_connections = 600\nheader_timeout = \"60s\"");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let mut hoarded = Vec::new();
        for nth in 0..900 {
            let mut client = RawClient::connect(program.http).await;
            if nth % 2 == 0 {
                // Half a head is no request.
                client.send(b"POST /alipay/notify HTTP/1.1\r\n").await;
            }
            hoarded.push(client);
            if nth % 15 == 14 {
                assert!(
                    program.post(&Notification::payment_now(nth).body()).is_success(),
                    "meanwhile: {nth}"
                );
            }
        }
        for trade in 1000..1020 {
            assert!(program.post(&Notification::payment_now(trade).body()).is_success(), "after: {trade}");
        }
        assert!(program.metric("connections_retired_total{reason=\"room\"}") >= 250.0);
        assert!(program.metric("connections") <= 600.0);
        drop(hoarded);
        assert_eq!(queue.published(&program, 9999).await.len(), 80);
    });
}

#[test]
fn attack_57_hoarders_of_idle_connections_are_let_go_and_make_room() {
    run(async {
        let program = Program::with_http("idle", "max_connections = 20\nheader_timeout = \"2s\"");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let mut hoarded = Vec::new();
        for trade in 0..20 {
            let mut client = RawClient::connect(program.http).await;
            client.send(forged(trade)).await;
            assert_eq!(client.answer().await.status, 400);
            hoarded.push(client);
        }
        assert_eq!(RawClient::connect(program.http).await.rest().await.0, b"", "the door is full");
        assert!(refused(&program, "full") >= 1.0);
        for mut client in hoarded {
            assert_eq!(client.rest().await.0, b"");
        }
        program.wait_until("there is room", || program.metric("connections") == 0.0);
        assert_eq!(refused(&program, "slow_head"), 0.0, "silence between requests is no offence");
        only_the_genuine(&program, &mut queue, 100).await;
    });
}

#[test]
fn attack_58_no_second_request_hides_behind_an_ambiguous_length() {
    run(async {
        let program = Program::start("smuggling");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        // What is smuggled would be announced if it were seen as a request.
        let hidden = genuine(7);
        let chunked = "3\r\na=b\r\n0\r\n\r\n";
        let pairs = [
            ("CL.TE", "content-length: 3\r\ntransfer-encoding: chunked", chunked),
            ("TE.CL", "transfer-encoding: chunked\r\ncontent-length: 3", chunked),
            ("TE", "transfer-encoding: chunked", chunked),
            ("TE.TE", "transfer-encoding: chunked\r\ntransfer-encoding: identity", chunked),
            ("TE.TE", "transfer-encoding: chunked\r\ntransfer-encoding: chunked", chunked),
            ("TE, obscured", "transfer-encoding: \x0bchunked", chunked),
            ("TE, obscured", "transfer-encoding: xchunked", chunked),
            ("TE, obscured", "transfer-encoding : chunked", chunked),
            ("TE, folded", "transfer-encoding:\r\n chunked", chunked),
            ("CL twice", "content-length: 3\r\ncontent-length: 0", "a=b"),
            ("CL list", "content-length: 3, 0", "a=b"),
            ("CL signed", "content-length: +3", "a=b"),
            ("CL hexadecimal", "content-length: 0x3", "a=b"),
            ("CL empty", "content-length: ", "a=b"),
            ("CL far too large", "content-length: 18446744073709551619", "a=b"),
        ];
        for (name, headers, body) in pairs {
            let head = format!("POST /alipay/notify HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n{body}");
            let mut client = RawClient::connect(program.http).await;
            let _ = client.try_send([head.as_bytes(), &hidden].concat()).await;
            let (bytes, _) = client.rest().await;
            let text = bytes.escape_ascii().to_string();
            assert!(text.starts_with("HTTP/1.1 400 ") || text.is_empty(), "{name}: {text}");
            assert_eq!(text.matches("HTTP/1.1 ").count(), usize::from(!text.is_empty()), "{name}: {text}");
        }
        only_the_genuine(&program, &mut queue, 8).await;
        assert!(program.rows(Notification::payment_now(7).trade_no()).is_empty());
    });
}

#[test]
fn attack_58_what_is_behind_a_short_length_is_a_request_of_the_same_client_and_no_other() {
    run(async {
        let program = Program::start("short");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        // Half of a genuine body as the body, the other half where a request should stand.
        let body = Notification::payment_now(1).body();
        let (first, second) = body.split_at(body.len() / 2);
        let mut client = RawClient::connect(program.http).await;
        client.send([&keep_alive(first)[..], second, b"\r\n\r\n"].concat()).await;
        assert_eq!(client.answer().await.status, 400);
        let (rest, _) = client.rest().await;
        assert!(rest.starts_with(b"HTTP/1.1 400 ") || rest.is_empty(), "{}", rest.escape_ascii());
        only_the_genuine(&program, &mut queue, 2).await;
    });
}

#[test]
fn attack_59_a_thousand_pipelined_requests_are_answered_in_their_order() {
    run(async {
        let program = Program::start("pipeline");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let mut client = RawClient::connect(program.http).await;
        let mut all = keep_alive(b"a=b").repeat(999);
        all.extend(genuine(1));
        client.send(all).await;
        for _ in 0..999 {
            assert_eq!(client.answer().await.status, 400);
        }
        assert_eq!(client.answer().await.body, b"success");
        assert_eq!(program.outcome("rejected"), 999.0);
        assert_eq!(queue.published(&program, 2).await.len(), 1);
    });
}

#[test]
fn attack_60_bombs_in_the_head_are_refused_by_http_itself() {
    run(async {
        let program = Program::start("bombs");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let many: String = (0..101).map(|n| format!("x-{n}: y\r\n")).collect();
        let bombs = [
            format!("POST /alipay/notify HTTP/1.1\r\n{many}\r\n"),
            format!("POST /alipay/notify HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20)),
            format!("POST /alipay/notify HTTP/1.1\r\n{}: y\r\n\r\n", "x".repeat(1 << 20)),
            format!("POST /{} HTTP/1.1\r\n\r\n", "y".repeat(1 << 20)),
            format!("{} / HTTP/1.1\r\n\r\n", "Y".repeat(1 << 20)),
        ];
        for bomb in &bombs {
            let mut client = RawClient::connect(program.http).await;
            let _ = client.try_send(bomb).await;
            let (bytes, _) = client.rest().await;
            let text = bytes.escape_ascii().to_string();
            let refused =
                ["400", "414", "431"].iter().any(|status| text.starts_with(&format!("HTTP/1.1 {status} ")));
            assert!(refused || text.is_empty(), "{text}");
        }
        all_refused(&program, "bad_head", 5.0);
        only_the_genuine(&program, &mut queue, 1).await;
    });
}

#[test]
fn attack_61_other_protocols_are_turned_away() {
    run(async {
        let program = Program::start("protocols");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let strangers: [&[u8]; 8] = [
            b"GET /alipay/notify\r\n\r\n",
            b"POST /alipay/notify\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03tls hello\r\n\r\n",
            b"AMQP\x00\x00\x09\x01\r\n\r\n",
            b"PROXY TCP4 198.51.100.1 10.0.0.1 4444 80\r\nPOST /alipay/notify HTTP/1.1\r\n\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c123456789012",
            b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
        ];
        for stranger in strangers {
            let mut client = RawClient::connect(program.http).await;
            client.send(stranger).await;
            let (bytes, _) = client.rest().await;
            let text = bytes.escape_ascii().to_string();
            assert!(text.is_empty() || text.starts_with("HTTP/1.1 400 "), "{text}");
            assert!(!text.contains("fail") && !text.contains("success"), "{text}");
        }
        all_refused(&program, "bad_head", 8.0);
        only_the_genuine(&program, &mut queue, 1).await;
    });
}

#[test]
fn attack_62_hanging_up_at_any_stage_announces_once_or_not_at_all() {
    run(async {
        let program = Program::start("hang-up");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let whole = genuine(1);
        let head = whole.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        // In the line, in the head, before the body, in it, and a byte before its end.
        for cut in [1, 20, head - 1, head, head + 1, head + (whole.len() - head) / 2, whole.len() - 1] {
            let mut client = RawClient::connect(program.http).await;
            client.send(&whole[..cut]).await;
            drop(client);
        }
        program.wait_until("all are gone", || program.metric("connections") == 0.0);
        assert_eq!(program.outcome("announced"), 0.0);
        // And right behind it, without waiting for the answer: it is published and recorded, once.
        for _ in 0..3 {
            let mut client = RawClient::connect(program.http).await;
            client.send(&whole).await;
            drop(client);
        }
        let settled = || program.outcome("announced") + program.outcome("duplicate");
        program.wait_until("all three are settled", || settled() >= 3.0);
        assert_eq!(program.states(Notification::payment_now(1).trade_no()), ["recorded"]);
        assert_eq!(queue.published(&program, 2).await.len(), 1);
    });
}

#[test]
fn attack_63_a_stranger_does_not_choose_his_address() {
    run(async {
        let program =
            Program::with_http("forwarded", "failure_budget = 3\ntrusted_proxies = [\"127.0.0.9\"]");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let stranger = "127.0.0.2".parse().unwrap();
        for n in 0..10u8 {
            // Another name in each, as if each came from somebody else.
            let body = Notification::payment_now(1).body_by(crate::support::signer::stranger());
            let head = format!(
                "POST /alipay/notify HTTP/1.1\r\nx-forwarded-for: 198.51.100.{n}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            let mut client = RawClient::connect_from(stranger, program.http).await;
            client.send([head.as_bytes(), &body].concat()).await;
            assert_eq!(client.answer().await.status, 400);
        }
        let at_low_priority = program.metric("low_priority_verifications_total{result=\"rejected\"}");
        assert!(at_low_priority >= 6.0, "one address, one budget: {at_low_priority}");
        program.wait_until("it is logged", || program.log().contains("\"127.0.0.2\""));
        assert!(!program.log().contains("198.51.100."), "{}", program.log());
        only_the_genuine(&program, &mut queue, 2).await;
    });
}

#[test]
fn attack_64_nothing_that_a_peer_sends_makes_a_line_of_the_log() {
    run(async {
        let program = Program::with("injection", "[log]\nlevel = \"trace\"");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let line = "\n{\"level\":\"INFO\",\"target\":\"audit\",\"injected\":\"yes\"}\r\n\u{2028}\u{1b}[2J";
        let (paid, other) = (Notification::payment_now(1), Notification::payment_now(2));
        let bodies = [
            paid.clone().set("app_id", line).body(),
            paid.clone().set("trade_no", line).body_by(crate::support::signer::stranger()),
            // Authentic: held for its trade number, announced whatever its other texts are.
            paid.clone().set("trade_no", line).body(),
            other.set("notify_id", line).set("subject", line).set("out_trade_no", line).body(),
        ];
        for body in &bodies {
            let request = String::from_utf8(request("/alipay/notify", body)).unwrap();
            let agent = "x\u{1b}[2J\tinjected {\"level\":\"INFO\"}";
            let request = request.replace("Mozilla/4.0", agent);
            let _ = crate::support::program::exchange(program.http, request.as_bytes()).unwrap();
        }
        assert!(program.post(&paid.body()).is_success());
        let _ = queue.published(&program, 3).await;
        program.wait_until("the log is written", || program.log().contains(paid.trade_no()));
        for line in program.log().lines() {
            let json: serde_json::Value =
                serde_json::from_str(line).unwrap_or_else(|_| panic!("no line of ours: {line}"));
            assert!(json.get("injected").is_none(), "{line}");
            assert!(!line.chars().any(|c| c.is_control() || c == '\u{2028}'), "{line}");
        }
    });
}

#[test]
fn attack_65_other_methods_and_paths_find_nothing() {
    run(async {
        let program = Program::start("paths");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let mut client = RawClient::connect(program.http).await;
        for method in ["GET", "OPTIONS", "PUT", "DELETE", "TRACE", "PATCH"] {
            client.send(format!("{method} /alipay/notify HTTP/1.1\r\n\r\n")).await;
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.body.as_slice()), (405, &b"fail"[..]), "{method}");
        }
        client.send("HEAD /alipay/notify HTTP/1.1\r\n\r\n").await;
        assert_eq!(client.answer_to_head().await.status, 405);
        let body = Notification::payment_now(1).body();
        for path in
            ["/", "/metrics", "/livez", "/readyz", "/trades/1", "/alipay/notify/", "/../alipay/notify"]
        {
            let head = format!("POST {path} HTTP/1.1\r\ncontent-length: {}\r\n\r\n", body.len());
            let mut client = RawClient::connect(program.http).await;
            client.send([head.as_bytes(), &body].concat()).await;
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.body.as_slice()), (404, &b"fail"[..]), "{path}");
        }
        assert_eq!(program.outcome("other"), 14.0);
        only_the_genuine(&program, &mut queue, 2).await;
    });
}

#[test]
fn attack_67_who_never_reads_his_answers_is_let_go() {
    run(async {
        let program = Program::with_http("slow-reader", NEVER_READ);
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let mut client = RawClient::connect_narrow(program.http).await;
        let request = b"POST /alipay/notify HTTP/1.1\r\ncontent-length: 3\r\n\r\na=b".repeat(1000);
        let written = async { while client.try_send(&request).await.is_ok() {} };
        tokio::time::timeout(BUFFERS_ARE_FULL, written).await.expect("it is never let go");
        all_refused(&program, "slow_reader", 1.0);
        program.wait_until("it is gone", || program.metric("connections") == 0.0);
        only_the_genuine(&program, &mut queue, 1).await;
    });
}

#[test]
fn the_accept_loop_survives_that_there_is_no_descriptor_left() {
    run(async {
        let program = Program::start("descriptors");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", program.pid())).unwrap().count();
        limit_files(&program, descriptors + 10);
        let mut hoarded = Vec::new();
        for _ in 0..40 {
            hoarded.push(RawClient::connect(program.http).await);
        }
        program.wait_until("accept fails", || program.log().contains("a connection could not be accepted"));
        drop(hoarded);
        limit_files(&program, 4096);
        program.wait_until("it is counted", || {
            program.get("/metrics").is_some() && refused(&program, "accept") >= 1.0
        });
        for trade in 1..=3 {
            assert!(program.post(&Notification::payment_now(trade).body()).is_success(), "{}", program.log());
        }
        assert_eq!(queue.published(&program, 9).await.len(), 3);
    });
}

/// Of requests there is no end either.
const NEVER_READ: &str = "write_timeout = \"1s\"\nmax_requests_per_connection = 1000000";
/// Bound: the system holds some megabytes of answers for a peer on the same machine.
const BUFFERS_ARE_FULL: std::time::Duration = std::time::Duration::from_secs(120);

fn limit_files(program: &Program, limit: usize) {
    let limited = Command::new("prlimit")
        .arg(format!("--nofile={limit}:{}", 4096.max(limit)))
        .args(["--pid", &program.pid().to_string()])
        .status();
    assert!(limited.unwrap().success());
}

#[test]
fn where_there_are_few_descriptors_some_are_kept_for_the_gateway() {
    run(async {
        let wrap = |command: Command| {
            let mut limited = Command::new("bash");
            limited.args(["-c", "ulimit -n 200; exec \"$@\"", "limited"]).arg(command.get_program());
            limited.args(command.get_args()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            limited
        };
        let program =
            Program::launch_configured("few", &crate::support::program::amqp_url(), |text| text, wrap);
        program.is_connected();
        let _queue = Queue::bound(&program.exchange, &["#"]).await;
        let mut hoarded = Vec::new();
        for _ in 0..300 {
            hoarded.push(RawClient::connect(program.http).await);
        }
        eventually("the rest is refused", async || refused(&program, "full") >= 200.0).await;
        assert_eq!((refused(&program, "full"), refused(&program, "accept")), (200.0, 0.0));
        assert!(program.get("/readyz").is_some_and(|answer| answer.status == 200), "operators get in");
        drop(hoarded);
        program.wait_until("all are gone", || program.metric("connections") == 0.0);
        assert!(program.post(&Notification::payment_now(1).body()).is_success());
    });
}

#[test]
fn a_connection_has_its_share_of_requests_and_of_time() {
    run(async {
        let program =
            Program::with_http("share", "max_requests_per_connection = 3\nmax_connection_age = \"2s\"");
        let _queue = Queue::bound(&program.exchange, &["#"]).await;
        let mut client = RawClient::connect(program.http).await;
        for n in 1..=3 {
            client.send(forged(n)).await;
            assert_eq!(client.answer().await.is_last(), n == 3, "{n}");
        }
        assert_eq!(client.rest().await, (Vec::new(), End::Closed));
        assert_eq!((retired(&program, "requests"), retired(&program, "age")), (1.0, 0.0));
        let mut idle = RawClient::connect(program.http).await;
        idle.send(genuine(1)).await;
        let answer = idle.answer().await;
        assert_eq!((answer.body.as_slice(), answer.is_last()), (&b"success"[..], false));
        let mut busy = RawClient::connect(program.http).await;
        let body = Notification::payment_now(2).body();
        let whole = keep_alive(&body);
        busy.send(&whole[..whole.len() - 1]).await;
        // Idle, it is closed in order, long before header_timeout; in a request, it may finish it.
        assert_eq!(idle.rest().await, (Vec::new(), End::Closed));
        program.wait_until("it has aged", || retired(&program, "age") >= 1.0);
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        busy.send(&whole[whole.len() - 1..]).await;
        let answer = busy.answer().await;
        assert_eq!((answer.body.as_slice(), answer.is_last()), (&b"success"[..], true));
        assert_eq!(busy.rest().await, (Vec::new(), End::Closed));
        program.wait_until("both have aged", || retired(&program, "age") >= 2.0);
    });
}
