//! TLS on the public listener: the same answers inside of it, strangers to it turned away in time, and a certificate that
//! is exchanged while it runs. On the real binary.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::alipay::Notification;
use crate::support::authority::Authority;
use crate::support::program::{Program, amqp_url, request};
use crate::support::queue::Queue;
use crate::support::raw_client::{End, RawClient};
use crate::support::tls_client::Version::{Tls12, Tls13};
use crate::support::tls_client::{believing, connect, connect_narrow, deliver, unfinished_message};
use crate::support::{PATIENCE, run};

const KEYS: &str = "tls_certificate_file = \"tls.pem\"\ntls_key_file = \"tls.key\"\n";

/// A gateway whose certificate is of this authority.
fn start(name: &str, authority: &Authority, more: &str) -> Program {
    let (certificate, key) = authority.issue("gateway");
    let program = Program::launch_with_files(
        name,
        &amqp_url(),
        &[("tls.pem", &certificate), ("tls.key", &key)],
        |text| text.replacen("[admin]", &format!("{KEYS}{more}\n[admin]"), 1),
    );
    program.is_connected();
    program
}

fn payment(trade: u64) -> Vec<u8> {
    Notification::payment_now(trade).body()
}

/// As Alipay delivers it: anew, where the answer is `fail`, which a busy machine owes it when five seconds are over. Whoever is
/// cut off beforehand, or gets another answer, fails.
async fn deliver_until_success(program: &Program, authority: &Authority) {
    let delivered = async {
        loop {
            let mut stream = connect(program.http, b"", believing(authority, Tls13)).await.unwrap();
            let answer = deliver(&mut stream, &payment(1)).await;
            if answer.ends_with("success") {
                return;
            }
            assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("fail"), "{answer}");
        }
    };
    tokio::time::timeout(PATIENCE * 6, delivered).await.expect("it is never told success");
}

#[test]
fn inside_of_tls_everything_is_as_ever() {
    run(async {
        let authority = Authority::new("tests");
        let program = start("tls", &authority, "");
        let _queue = Queue::bound(&program.exchange, &["#"]).await;
        for (trade, version) in [(1, Tls13), (2, Tls12)] {
            let mut stream = connect(program.http, b"", believing(&authority, version)).await.unwrap();
            let answer = deliver(&mut stream, &payment(trade)).await;
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("success"), "{answer}");
        }
        let mut http_2 = believing(&authority, Tls13);
        http_2.alpn_protocols = vec![b"h2".to_vec()];
        assert!(connect(program.http, b"", http_2).await.is_err(), "HTTP/2 is not spoken");
        let mut both = believing(&authority, Tls13);
        both.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let stream = connect(program.http, b"", both).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        let ends = program.metric("tls_certificate_expires_timestamp_seconds");
        assert!(ends > 1e9, "{ends}");
    });
}

#[test]
fn who_speaks_no_tls_or_never_finishes_his_hello_is_turned_away_in_time() {
    run(async {
        let authority = Authority::new("tests");
        let program = start("no-tls", &authority, "handshake_timeout = \"1s\"\n");
        let plain = request("/alipay/notify", &Notification::payment_now(1).body());
        let mut silent = RawClient::connect(program.http).await;
        let mut half = RawClient::connect(program.http).await;
        half.send(b"\x16\x03\x01\x02\0\x01").await;
        let mut http = RawClient::connect(program.http).await;
        http.send(&plain).await;
        assert!(!http.rest().await.0.windows(4).any(|four| four == b"HTTP"));
        assert_eq!((silent.rest().await.1, half.rest().await.1), (End::Closed, End::Closed));
        let refused = || program.metric("connections_refused_total{reason=\"handshake\"}");
        program.wait_until("all are counted", || refused() >= 3.0);
        program.wait_until("all are gone", || program.metric("connections") == 0.0);
        assert!(program.rows(Notification::payment_now(1).trade_no()).is_empty());
    });
}

#[test]
fn what_an_attack_has_held_is_given_back_and_the_same_once_more_adds_nothing() {
    run(async {
        let authority = Authority::new("tests");
        let keys = "handshake_timeout = \"60s\"\nmax_buffered_connections = 4096\n";
        let program = start("given-back", &authority, keys);
        let at_first = program.resident_mib();
        // TLS has to keep all of it.
        let hello = part_of_a_hello(16_000);
        for round in 1..=3 {
            let mut hoarded = Vec::new();
            for _ in 0..2000 {
                let mut client = RawClient::connect(program.http).await;
                client.send(&hello).await;
                hoarded.push(client);
            }
            program.wait_until("it holds them", || program.resident_mib() > at_first + 40.0);
            drop(hoarded);
            program.wait_until("all are gone", || program.metric("connections") == 0.0);
            let given_back = || program.resident_mib() < at_first + 6.0;
            program.wait_until(&format!("it is given back, {round}"), given_back);
        }
    });
}

/// As many bytes of a hello that says it had 64 KiB, in records of 16 KiB.
fn part_of_a_hello(bytes: usize) -> Vec<u8> {
    let mut hello = b"\x01\0\xff\xf0\x03\x03".to_vec();
    hello.resize(bytes, b'a');
    let record =
        |part: &[u8]| [b"\x16\x03\x01", &u16::try_from(part.len()).unwrap().to_be_bytes()[..], part].concat();
    hello.chunks(16_000).flat_map(record).collect()
}

#[test]
fn attack_57_five_thousand_halves_of_a_hello_hold_little_however_large_it_says_it_is() {
    run(async {
        let authority = Authority::new("tests");
        for bytes in [16_000, 23_000, 64_000] {
            let program = start("hellos", &authority, "handshake_timeout = \"3m\"\n");
            let _queue = Queue::bound(&program.exchange, &["#"]).await;
            let (hello, mut hoarded) = (part_of_a_hello(bytes), Vec::new());
            for _ in 0..5000 {
                let mut client = RawClient::connect(program.http).await;
                let _ = client.try_send(&hello).await;
                hoarded.push(client);
            }
            deliver_until_success(&program, &authority).await;
            let peak = program.peak_mib();
            assert!(peak < 128.0, "{bytes}: {peak} MiB");
            // Half of `http.max_buffered_connections`, and who came last.
            program.wait_until("the others have left", || program.metric("connections") <= 1300.0);
        }
    });
}

#[test]
fn attack_57_of_five_thousand_that_begin_to_speak_at_once_only_so_many_have_buffers() {
    run(async {
        let authority = Authority::new("tests");
        let program = start("at-once", &authority, "handshake_timeout = \"3m\"\n");
        let _queue = Queue::bound(&program.exchange, &["#"]).await;
        let mut hoarded = Vec::new();
        for _ in 0..5000 {
            hoarded.push(RawClient::connect(program.http).await);
        }
        program.wait_until("all sit", || program.metric("connections") == 5000.0);
        // What comes while it stands still is all there when it goes on.
        program.signal("STOP");
        let hello = part_of_a_hello(23_000);
        for client in &mut hoarded {
            client.send(&hello).await;
        }
        program.signal("CONT");
        deliver_until_success(&program, &authority).await;
        program.wait_until("the others have left", || program.metric("connections") <= 1300.0);
        let peak = program.peak_mib();
        assert!(peak < 128.0, "{peak} MiB");
    });
}

#[test]
fn a_message_of_tls_that_does_not_end_ends_its_connection() {
    run(async {
        let authority = Authority::new("tests");
        let long = "handshake_timeout = \"5m\"\nheader_timeout = \"5m\"\n";
        let program = start("endless", &authority, long);
        let mut hello = RawClient::connect(program.http).await;
        hello.send(part_of_a_hello(48_000)).await;
        hello.rest().await;
        program.wait_until("it is counted", || {
            program.metric("connections_refused_total{reason=\"handshake\"}") >= 1.0
        });
        let mut afterwards = unfinished_message(program.http, &authority).await;
        let ended = async { while afterwards.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {} };
        tokio::time::timeout(PATIENCE, ended).await.expect("it stays");
        program.wait_until("both are gone", || program.metric("connections") == 0.0);
    });
}

#[test]
fn whatever_its_records_are_like_a_genuine_notification_is_read() {
    run(async {
        let authority = Authority::new("tests");
        // hyper's buffer for what is read grows with it.
        let program = start("records", &authority, "max_header = \"64KiB\"\n");
        let _queue = Queue::bound(&program.exchange, &["#"]).await;
        // In one go: records of a few bytes, and as large as they get.
        for (trade, most) in [(1, Some(32)), (2, None)] {
            let mut config = believing(&authority, Tls13);
            config.max_fragment_size = most;
            let mut stream = connect(program.http, b"", config).await.unwrap();
            let large = Notification::payment_now(trade).set("body", "b".repeat(55_000)).body();
            let answer = deliver(&mut stream, &large).await;
            assert!(answer.ends_with("success"), "{most:?}: {answer}");
        }
        // Of different sizes, all there at once.
        let mut stream = connect(program.http, b"", believing(&authority, Tls13)).await.unwrap();
        let large = Notification::payment_now(3).set("body", "b".repeat(55_000)).body();
        let whole = request("/alipay/notify", &large);
        for part in [&whole[..1200], &whole[1200..8191], &whole[8191..]] {
            stream.write_all(part).await.unwrap();
        }
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.ends_with(b"success"));
    });
}

#[test]
fn an_answer_inside_of_tls_that_comes_before_the_request_was_read_is_not_lost() {
    run(async {
        let authority = Authority::new("tests");
        let program = start("early", &authority, "");
        let mut stream = connect(program.http, b"", believing(&authority, Tls13)).await.unwrap();
        // Longer than what is read of a peer until something comes of it, shorter than what is discarded.
        stream.write_all(&request("/alipay/notify", &[b'a'; 700_000])).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("no end");
        read.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    });
}

#[test]
fn a_peer_inside_of_tls_that_never_reads_is_let_go() {
    run(async {
        let authority = Authority::new("tests");
        let program =
            start("tls-slow", &authority, "write_timeout = \"1s\"\nmax_requests_per_connection = 1000000\n");
        let mut stream = connect_narrow(program.http, believing(&authority, Tls13)).await.unwrap();
        let request = b"POST /alipay/notify HTTP/1.1\r\ncontent-length: 3\r\n\r\na=b".repeat(1000);
        let written =
            async { while stream.write_all(&request).await.is_ok() && stream.flush().await.is_ok() {} };
        tokio::time::timeout(PATIENCE * 12, written).await.expect("it is never let go");
        let refused = || program.metric("connections_refused_total{reason=\"slow_reader\"}");
        program.wait_until("it is counted", || refused() >= 1.0);
        program.wait_until("it is gone", || program.metric("connections") == 0.0);
    });
}

#[test]
fn another_certificate_is_shown_without_a_restart_and_a_wrong_one_is_refused() {
    run(async {
        let (old, new) = (Authority::new("old"), Authority::new("new"));
        let program = start("renewal", &old, "");
        let _queue = Queue::bound(&program.exchange, &["#"]).await;
        let reloads = |result: &str| program.metric(&format!("policy_reloads_total{{result=\"{result}\"}}"));
        // A certificate without its key changes nothing.
        let (certificate, key) = new.issue("gateway");
        program.folder().write("tls.pem", certificate);
        program.signal("HUP");
        program.wait_until("it is refused", || reloads("refused") >= 1.0);
        assert!(connect(program.http, b"", believing(&old, Tls13)).await.is_ok());
        // With it, it is shown, and connections that are open go on.
        let mut open = connect(program.http, b"", believing(&old, Tls13)).await.unwrap();
        program.folder().write("tls.key", key);
        program.wait_until("the files were looked at", || reloads("applied") >= 1.0);
        assert!(connect(program.http, b"", believing(&old, Tls13)).await.is_err());
        let mut stream = connect(program.http, b"", believing(&new, Tls13)).await.unwrap();
        assert!(deliver(&mut stream, &payment(1)).await.ends_with("success"));
        assert!(deliver(&mut open, &payment(2)).await.ends_with("success"));
        assert!(program.log().contains("another certificate"), "{}", program.log());
    });
}

#[test]
fn behind_a_proxy_that_forwards_bytes_its_header_comes_before_tls() {
    run(async {
        let authority = Authority::new("tests");
        let more = "trusted_proxies = [\"127.0.0.1\"]\nproxy_protocol = true\n";
        let program = start("tls-proxied", &authority, more);
        let _queue = Queue::bound(&program.exchange, &["#"]).await;
        let header = b"PROXY TCP4 198.51.100.8 127.0.0.1 4444 443\r\n";
        let mut stream = connect(program.http, header, believing(&authority, Tls13)).await.unwrap();
        assert!(deliver(&mut stream, &payment(1)).await.ends_with("success"));
    });
}
