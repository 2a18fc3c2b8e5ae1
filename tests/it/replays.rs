//! Attacks 47 to 51, and ten thousand forgeries, on the real binary: what is replayed, doubled or damaged, over HTTP.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::anything::mutated;
use super::properties::naive_form;
use crate::support::alipay::Notification;
use crate::support::program::{PATIENCE, Program, post};
use crate::support::queue::Queue;

fn payment(trade: u64) -> Notification {
    Notification::payment_now(trade)
}

fn multi_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Waits for blocking work beside a running consumer.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// The types of what was published before a payment that is sent now.
async fn published(program: &Program, queue: &mut Queue, marker: u64) -> Vec<String> {
    let events = queue.published(program, marker).await;
    events.iter().map(|event| event.event_type().to_owned()).collect()
}

#[test]
fn attack_47_the_same_body_a_thousand_times_in_a_row_gives_one_event() {
    multi_thread().block_on(async {
        let program = Program::start("in-a-row");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let (to, body) = (program.http, payment(1).body());
        let told = blocking(move || {
            let mut client = Client::connect(to);
            (0..1000).filter(|_| client.post(&body) == (200, "success".to_owned())).count()
        });
        assert_eq!(told.await, 1000);
        assert_eq!(published(&program, &mut queue, 2).await, ["payment.succeeded"]);
        assert_eq!(program.outcome("duplicate"), 999.0);
    });
}

#[test]
fn attack_48_a_thousand_at_once_of_one_trade_give_one_event() {
    multi_thread().block_on(async {
        let program = Arc::new(Program::start("thousand"));
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let body = Arc::new(payment(1).body());
        let answers = at_once(&program, (0..1000).map(|_| Arc::clone(&body)).collect()).await;
        assert_eq!(answers, 1000);
        assert_eq!(published(&program, &mut queue, 2).await, ["payment.succeeded"]);
        assert_eq!(program.outcome("duplicate"), 999.0);
    });
}

#[test]
fn attack_51_a_thousand_at_once_with_two_amounts_give_one_payment_and_one_conflict() {
    multi_thread().block_on(async {
        let program = Arc::new(Program::start("amounts"));
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let bodies = [payment(1).body(), payment(1).set("total_amount", "88.89").body()].map(Arc::new);
        let answers = at_once(&program, (0..1000).map(|n| Arc::clone(&bodies[n % 2])).collect()).await;
        assert_eq!(answers, 1000);
        let mut events = published(&program, &mut queue, 2).await;
        events.sort();
        assert_eq!(events, ["payment.conflict", "payment.succeeded"]);
    });
}

/// Posts all of them from 100 threads, and counts how many were told `success`.
async fn at_once(program: &Arc<Program>, bodies: Vec<Arc<Vec<u8>>>) -> usize {
    let to = program.http;
    let share = bodies.len().div_ceil(100);
    let threads: Vec<_> = bodies
        .chunks(share)
        .map(<[_]>::to_vec)
        .map(|bodies| {
            blocking(move || {
                let answers = bodies.iter().map(|body| post(to, "/alipay/notify", body).unwrap());
                answers.filter(crate::support::program::Answer::is_success).count()
            })
        })
        .collect();
    futures_util::future::join_all(threads).await.into_iter().sum()
}

#[test]
fn attack_49_success_refund_and_finish_of_one_trade_are_three_events() {
    multi_thread().block_on(async {
        let program = Program::start("three");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let paid = payment(1);
        let refund = paid.clone().set("gmt_refund", paid.text("gmt_payment")).set("refund_fee", "88.88");
        let refund = refund.set("out_biz_no", "R").set("notify_id", "refund-1");
        let finish = paid.clone().set("trade_status", "TRADE_FINISHED").set("notify_id", "finish-1");
        for body in [paid.body(), refund.body(), finish.body(), paid.body(), refund.body(), finish.body()] {
            assert!(program.post(&body).is_success());
        }
        let events = published(&program, &mut queue, 2).await;
        assert_eq!(events, ["payment.succeeded", "payment.refunded", "trade.finished"]);
    });
}

#[test]
fn attack_50_two_partial_refunds_are_two_events() {
    multi_thread().block_on(async {
        let program = Program::start("refunds");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let paid = payment(1);
        let refund = |number: &str, fee: &str| {
            let at = format!("{}.125", paid.text("gmt_payment"));
            let refund = paid.clone().set("gmt_refund", at).set("refund_fee", fee).set("out_biz_no", number);
            refund.set("notify_id", format!("refund-{number}"))
        };
        for notification in [refund("R-1", "10.00"), refund("R-2", "20.00"), refund("R-1", "10.00")] {
            assert!(program.post(&notification.body()).is_success());
        }
        let events = queue.published(&program, 2).await;
        let ids: Vec<&str> = events.iter().map(|event| event.id()).collect();
        let id = |number: &str| format!("{}.{number}", paid.event_id("payment.refunded"));
        assert_eq!(ids, [id("R-1"), id("R-2")]);
    });
}

#[test]
fn ten_thousand_forged_or_damaged_variants_are_refused_and_leave_nothing_behind() {
    multi_thread().block_on(async {
        let program = Program::start("ten-thousand");
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let genuine = [
            payment(1),
            payment(2).set("subject", "a=1&b=2").set("passback_params", "a%3D1"),
            payment(3).set("gmt_refund", payment(3).text("gmt_payment")).set("refund_fee", "1.00"),
            payment(4).set("notify_type", "dut_user_sign").without("trade_status"),
        ];
        let bodies: Vec<Vec<u8>> = genuine.iter().map(Notification::body).collect();
        let to = program.http;
        let threads = (0..CLIENTS).map(|client| {
            let bodies = bodies.clone();
            blocking(move || send_variants(to, &bodies, client))
        });
        let accepted: Vec<String> =
            futures_util::future::join_all(threads).await.into_iter().flatten().collect();
        assert_eq!(accepted, [""; 0]);
        #[expect(clippy::cast_precision_loss, reason = "ten thousand")]
        let sent = (CLIENTS * VARIANTS) as f64;
        assert!(sent >= 10_000.0);
        assert_eq!(program.outcome("rejected"), sent);
        assert_eq!(program.outcome("held") + program.outcome("announced"), 0.0);
        for notification in &genuine {
            assert!(program.rows(notification.trade_no()).is_empty());
        }
        assert_eq!(published(&program, &mut queue, 9).await, [""; 0]);
        assert!(!program.log().contains("panicked"), "{}", program.log());
        // What they were made of is accepted.
        for body in &bodies {
            assert!(program.post(body).is_success());
        }
        assert_eq!(published(&program, &mut queue, 10).await.len(), bodies.len());
    });
}

/// Sends variants, each of which says something else than what was signed, and gives those that were not refused.
fn send_variants(to: SocketAddr, bodies: &[Vec<u8>], client: u64) -> Vec<String> {
    let says = |body: &[u8]| {
        let mut pairs = naive_form(body)?;
        // Neither decides whether a signature holds (protocol.md §2).
        pairs.retain(|name, value| name != b"alipay_cert_sn" && !value.is_empty());
        Some(pairs)
    };
    let mut random = StdRng::seed_from_u64(client);
    let mut connection = Client::connect(to);
    let mut accepted = Vec::new();
    let mut sent = 0;
    while sent < VARIANTS {
        let genuine = &bodies[random.random_range(0..bodies.len())];
        let variant = mutated(genuine, &mut random);
        // Only reordered, or encoded in another way: authentic.
        if says(&variant) == says(genuine) {
            continue;
        }
        sent += 1;
        if connection.post(&variant) != (400, "fail".to_owned()) {
            accepted.push(variant.escape_ascii().to_string());
        }
    }
    accepted
}

/// A connection that is kept.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    fn post(&mut self, body: &[u8]) -> (u16, String) {
        let head = format!(
            "POST /alipay/notify HTTP/1.1\r\nHost: gateway\r\n\
             Content-Type: application/x-www-form-urlencoded; charset=utf-8\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.0.get_mut().write_all(&[head.as_bytes(), body].concat()).unwrap();
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "it hung up");
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(rest) = line.strip_prefix("http/1.1 ") {
                status = rest[..3].parse().unwrap();
            } else if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().unwrap();
            } else if line.is_empty() {
                break;
            }
        }
        let mut text = vec![0; length];
        self.0.read_exact(&mut text).unwrap();
        (status, String::from_utf8(text).unwrap())
    }
}

const CLIENTS: u64 = 8;
const VARIANTS: u64 = 1_300;
