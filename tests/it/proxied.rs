//! Behind a proxy: whose address counts, and what a connection of it must begin with. On the real binary.

use std::net::Ipv4Addr;

use crate::support::alipay::Notification;
use crate::support::program::Program;
use crate::support::queue::Queue;
use crate::support::raw_client::RawClient;
use crate::support::run;
use crate::support::signer::stranger;

const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

fn post(body: &[u8], headers: &str) -> Vec<u8> {
    let length = body.len();
    let head = format!("POST /alipay/notify HTTP/1.1\r\n{headers}content-length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn genuine(trade: u64) -> Vec<u8> {
    post(&Notification::payment_now(trade).body(), "")
}

fn forged() -> Vec<u8> {
    Notification::payment_now(99).body_by(stranger())
}

fn refused(program: &Program, reason: &str) -> f64 {
    program.metric(&format!("connections_refused_total{{reason=\"{reason}\"}}"))
}

/// The addresses in the lines about what was refused.
fn logged(program: &Program) -> Vec<String> {
    let log = program.log();
    let lines = log.lines().filter(|line| line.contains("\"message\":\"refused\""));
    let client = |line: &str| {
        let json: serde_json::Value = serde_json::from_str(line).unwrap();
        json["client"].as_str().unwrap().to_owned()
    };
    lines.map(client).collect()
}

/// Sends a forged one and waits until a line tells of it: one a second is written.
async fn who(program: &Program, from: Ipv4Addr, before: &[u8], headers: &str) -> String {
    let seen = logged(program).len();
    let mut told = Vec::new();
    while told.len() <= seen {
        let mut client = RawClient::connect_from(from, program.http).await;
        client.send([before, &post(&forged(), headers)].concat()).await;
        assert_eq!(client.answer().await.status, 400);
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        told = logged(program);
    }
    told.pop().unwrap()
}

#[test]
fn only_a_trusted_proxy_says_for_whom_it_speaks() {
    run(async {
        let program = Program::with_http("hops", "trusted_proxies = [\"127.0.0.9\", \"10.0.0.0/8\"]");
        let hops = "X-Forwarded-For: 6.6.6.6, 198.51.100.7\r\nx-forwarded-for: 10.1.1.1\r\n";
        assert_eq!(who(&program, PROXY, b"", hops).await, "198.51.100.7");
        assert_eq!(who(&program, STRANGER, b"", hops).await, "127.0.0.2");
        assert_eq!(who(&program, PROXY, b"", "x-forwarded-for: unknown\r\n").await, "127.0.0.9");
    });
}

#[test]
fn with_the_proxy_protocol_connections_of_a_proxy_begin_with_its_header() {
    run(async {
        let keys = "trusted_proxies = [\"127.0.0.9\"]\nproxy_protocol = true\nheader_timeout = \"2s\"";
        let program = Program::with_http("proxy-protocol", keys);
        let _queue = Queue::bound(&program.exchange, &["#"]).await;
        let header = b"PROXY TCP4 198.51.100.8 127.0.0.1 4444 80\r\n";
        assert_eq!(who(&program, PROXY, header, "").await, "198.51.100.8");
        let version_2 =
            [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[198, 51, 100, 9, 127, 0, 0, 1, 0, 9, 0, 80]]
                .concat();
        assert_eq!(who(&program, PROXY, &version_2, "").await, "198.51.100.9");
        assert_eq!(who(&program, PROXY, b"PROXY UNKNOWN\r\n", "").await, "127.0.0.9");
        let mut client = RawClient::connect_from(PROXY, program.http).await;
        client.send([&version_2[..], &genuine(1), &genuine(1)].concat()).await;
        assert_eq!(client.answer().await.body, b"success");
        assert_eq!(client.answer().await.body, b"success", "and not before each request");
        // A stranger's connection begins with HTTP, and his header is none.
        let mut client = RawClient::connect_from(STRANGER, program.http).await;
        client.send(genuine(2)).await;
        assert_eq!(client.answer().await.body, b"success");
        let mut client = RawClient::connect_from(STRANGER, program.http).await;
        client.send([header, &genuine(3)[..]].concat()).await;
        assert!(!client.rest().await.0.ends_with(b"success"));
        assert_eq!(refused(&program, "proxy_header"), 0.0);
        // The proxy's without one is refused, as is one that never ends.
        for sent in [&genuine(4)[..], b"PROXY TCP4 198.51", b"", &[b'P'; 200]] {
            let mut client = RawClient::connect_from(PROXY, program.http).await;
            client.send(sent).await;
            assert_eq!(client.rest().await.0, b"", "{}", sent.escape_ascii());
        }
        program.wait_until("all are counted", || refused(&program, "proxy_header") >= 4.0);
        assert!(program.rows(Notification::payment_now(4).trade_no()).is_empty());
    });
}

#[test]
fn an_address_has_its_share_of_connections_and_a_proxy_has_no_bound() {
    run(async {
        let keys = "max_connections_per_address = 3\ntrusted_proxies = [\"127.0.0.9\"]";
        let program = Program::with_http("per-address", keys);
        let _queue = Queue::bound(&program.exchange, &["#"]).await;
        let mut hoarded = Vec::new();
        for _ in 0..3 {
            hoarded.push(RawClient::connect_from(STRANGER, program.http).await);
        }
        assert_eq!(RawClient::connect_from(STRANGER, program.http).await.rest().await.0, b"");
        assert_eq!((refused(&program, "full_for_address"), refused(&program, "full")), (1.0, 0.0));
        // Another address, and the proxy as often as it likes.
        for trade in 1..=6 {
            let mut client = RawClient::connect_from(PROXY, program.http).await;
            client.send(genuine(trade)).await;
            assert_eq!(client.answer().await.body, b"success");
            hoarded.push(client);
        }
        assert!(program.post(&Notification::payment_now(7).body()).is_success());
        hoarded.truncate(2);
        program.wait_until("it has room again", || program.metric("connections") <= 2.0);
        let mut client = RawClient::connect_from(STRANGER, program.http).await;
        client.send(genuine(8)).await;
        assert_eq!(client.answer().await.body, b"success");
    });
}
