//! Traces, with the real binary, a real RabbitMQ and a collector that takes OTLP over HTTP: what is told, and that
//! no collector, however it behaves, is noticed by a notification. Only in a build with the feature `otlp`.

use std::collections::BTreeMap;
use std::net::TcpListener;

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use crate::support::alipay::Notification;
use crate::support::collector::{Collector, Manner, Told};
use crate::support::program::{self, Answer, Program};
use crate::support::queue::{Event, Queue};
use crate::support::run;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn payment(trade: u64) -> Notification {
    Notification::payment_now(trade)
}

/// As an ingress that traces hands it on.
fn post_under(program: &Program, traceparent: &str, notification: &Notification) -> Answer {
    let request = String::from_utf8(program::request("/alipay/notify", &notification.body())).unwrap();
    let request = request.replacen("\r\n", &format!("\r\ntraceparent: {traceparent}\r\n"), 1);
    program::exchange(program.http, request.as_bytes()).unwrap()
}

fn traceparent(event: &Event) -> Option<String> {
    let headers = event.delivery.properties.headers().as_ref().unwrap();
    let value = headers.inner().get("traceparent")?;
    Some(value.as_long_string().unwrap().to_string())
}

/// Waits until a trace has so many spans.
fn spans_of(program: &Program, collector: &Collector, trace: &str, count: usize) -> Vec<Told> {
    program.wait_until("the spans are there", || collector.trace(trace).len() >= count);
    let spans = collector.trace(trace);
    assert_eq!(spans.len(), count, "{spans:#?}");
    spans
}

fn named<'a>(spans: &'a [Told], name: &str) -> &'a Told {
    let found: Vec<&Told> = spans.iter().filter(|span| span.0.name == name).collect();
    assert_eq!(found.len(), 1, "{name} in {spans:#?}");
    found[0]
}

fn fates(program: &Program) -> BTreeMap<&'static str, f64> {
    let fate = |result| (result, program.metric(&format!("trace_spans_total{{result=\"{result}\"}}")));
    BTreeMap::from(["exported", "failed", "dropped"].map(fate))
}

/// Each is answered `success`, one connection each, several at once.
fn pay(program: &Program, trades: std::ops::Range<u64>) {
    let trades: Vec<u64> = trades.collect();
    std::thread::scope(|scope| {
        for share in trades.chunks(trades.len().div_ceil(4)) {
            scope.spawn(move || {
                for trade in share {
                    let answer = program.post(&payment(*trade).body());
                    assert!(answer.is_success(), "{answer:?}\n{}", program.log());
                }
            });
        }
    });
}

#[test]
fn a_notification_is_told_with_its_stages_below_the_span_that_it_came_under() {
    run(async {
        let collector = Collector::start(Manner::Takes);
        let resource = "service_name = \"pay\"\nresource = [\"deployment.environment.name=test\"]\n";
        let program = Program::with("traces", &format!("{}{resource}", collector.config()));
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let marked = payment(1).set("buyer_logon_id", "MARKED-BUYER").set("subject", "MARKED-SUBJECT");
        assert!(post_under(&program, &format!("00-{TRACE}-{PARENT}-01"), &marked).is_success());

        let spans = spans_of(&program, &collector, TRACE, 5);
        let id = marked.event_id("payment.succeeded");
        let root = named(&spans, "notification");
        assert_eq!((root.parent().as_str(), root.0.kind()), (PARENT, SpanKind::Server));
        assert_eq!(root.says("alipay_gateway.outcome"), "announced");
        assert_eq!(root.says("alipay_gateway.event_type"), "payment.succeeded");
        assert_eq!(root.says("messaging.message.id"), id);
        for stage in ["admission", "claim", "record"] {
            let stage = named(&spans, stage);
            assert_eq!((stage.parent(), stage.0.kind()), (root.id(), SpanKind::Internal));
            assert!(stage.0.start_time_unix_nano >= root.0.start_time_unix_nano, "{spans:#?}");
            assert!(stage.0.start_time_unix_nano <= stage.0.end_time_unix_nano, "{spans:#?}");
        }
        let destination = format!("{}:payment.succeeded", program.exchange);
        let publish = named(&spans, &format!("publish {destination}"));
        assert_eq!((publish.parent(), publish.0.kind()), (root.id(), SpanKind::Producer));
        for (name, value) in [
            ("messaging.system", "rabbitmq"),
            ("messaging.operation.type", "send"),
            ("messaging.operation.name", "publish"),
            ("messaging.destination.name", &destination),
            ("messaging.rabbitmq.destination.routing_key", "payment.succeeded"),
            ("messaging.message.id", &id),
            ("alipay_gateway.result", "confirmed"),
        ] {
            assert_eq!(publish.says(name), value, "{name}");
        }
        assert!(!spans.iter().any(Told::has_failed), "{spans:#?}");

        // Whoever consumes the event goes on below the span that published it; and the log names the trace.
        let event = queue.next().await;
        assert_eq!(traceparent(&event).unwrap(), format!("00-{TRACE}-{}-01", publish.id()));
        assert!(program.log().contains(&format!("\"trace_id\":\"{TRACE}\"")), "{}", program.log());

        let told = format!("{:?}", collector.requests());
        assert!(told.contains("\"pay\"") && told.contains("deployment.environment.name"), "{told}");
        assert!(!told.contains("MARKED-") && !told.contains("sign"), "{told}");
    });
}

#[test]
fn what_came_without_a_context_or_again_is_told_too() {
    run(async {
        let collector = Collector::start(Manner::Takes);
        let program = Program::with("traces", &collector.config());
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        assert!(program.post(&payment(1).body()).is_success());
        let context = traceparent(&queue.next().await).unwrap();
        let trace = context.split('-').nth(1).unwrap();
        let spans = spans_of(&program, &collector, trace, 5);
        assert_eq!(named(&spans, "notification").parent(), "");

        assert!(post_under(&program, &format!("00-{TRACE}-{PARENT}-01"), &payment(1)).is_success());
        let spans = spans_of(&program, &collector, TRACE, 3);
        assert_eq!(named(&spans, "notification").says("alipay_gateway.outcome"), "duplicate");
        named(&spans, "claim");
    });
}

#[test]
fn the_parent_decides_what_is_traced_and_the_ratio_where_there_is_none() {
    run(async {
        let collector = Collector::start(Manner::Takes);
        let program = Program::with("traces", &format!("{}ratio = 0.0\n", collector.config()));
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let other = "0af7651916cd43dd8448eb211c80319c";
        assert!(program.post(&payment(1).body()).is_success());
        assert!(post_under(&program, &format!("00-{other}-{PARENT}-00"), &payment(2)).is_success());
        assert!(post_under(&program, &format!("00-{TRACE}-{PARENT}-01"), &payment(3)).is_success());
        spans_of(&program, &collector, TRACE, 5);
        assert_eq!(collector.spans().len(), 5);
        // That it is not traced travels on, too: a consumer is not to begin in the middle.
        let untraced = traceparent(&queue.next().await).unwrap();
        assert!(untraced.ends_with("-00"), "{untraced}");
        let untraced = traceparent(&queue.next().await).unwrap();
        assert!(untraced.starts_with(&format!("00-{other}-")) && untraced.ends_with("-00"), "{untraced}");
    });
}

#[test]
fn what_waited_for_a_queue_is_published_below_its_notification() {
    run(async {
        let collector = Collector::start(Manner::Takes);
        let program = Program::with("traces", &collector.config());
        let answer = post_under(&program, &format!("00-{TRACE}-{PARENT}-01"), &payment(1));
        assert!(answer.is_fail(503), "{answer:?}");
        let spans = spans_of(&program, &collector, TRACE, 4);
        let root = named(&spans, "notification").clone();
        assert!(root.has_failed());
        assert_eq!(
            (root.says("alipay_gateway.outcome"), root.says("alipay_gateway.cause")),
            ("deferred", "returned")
        );
        let publish = named(&spans, &format!("publish {}:payment.succeeded", program.exchange));
        assert!(publish.has_failed());
        assert_eq!(
            (publish.says("alipay_gateway.result"), publish.says("error.type")),
            ("returned", "returned")
        );

        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let context = traceparent(&queue.next().await).unwrap();
        let told = |span: &Told| context == format!("00-{TRACE}-{}-01", span.id());
        program.wait_until("it is told", || collector.trace(TRACE).iter().any(told));
        let publish = collector.trace(TRACE).into_iter().find(told).unwrap();
        assert_eq!((publish.parent(), publish.says("alipay_gateway.result")), (root.id(), "confirmed"));
    });
}

#[test]
fn strangers_fill_no_collector() {
    run(async {
        let collector = Collector::start(Manner::Takes);
        let program = Program::with("traces", &collector.config());
        let began = std::time::Instant::now();
        for trade in 0..300 {
            let forged = payment(trade).set("app_id", "2021000000000009");
            assert!(post_under(&program, &format!("00-{TRACE}-{PARENT}-01"), &forged).is_fail(400));
        }
        let seconds = began.elapsed().as_secs();
        program.wait_until("one is told", || !collector.spans().is_empty());
        let _queue = Queue::bound(&program.exchange, &["#"]).await;
        assert!(program.post(&payment(1000).body()).is_success());
        program.wait_until("the payment is told", || {
            collector.spans().iter().any(|span| span.says("alipay_gateway.outcome") == "announced")
        });
        let refused = collector.trace(TRACE);
        let roots = refused.iter().filter(|span| span.0.name == "notification");
        assert!(roots.clone().all(|root| root.says("alipay_gateway.cause") == "unknown_app"), "{refused:#?}");
        // As sparingly as they are logged: one for each second of the clock.
        let count = roots.count() as u64;
        assert!((1..=seconds + 2).contains(&count), "{count} in {seconds} s");
    });
}

#[test]
fn a_thousand_notifications_are_answered_while_the_collector_is_away() {
    run(async {
        // Nobody listens there any more.
        let away = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
        let program = Program::with("traces", &format!("[traces]\notlp_endpoint = \"http://{away}\"\n"));
        let _queue = Queue::bound(&program.exchange, &["#"]).await;
        pay(&program, 0..1000);
        assert_eq!(program.outcome("announced"), 1000.0);
        program.wait_until("some are given up", || fates(&program)["failed"] > 0.0);
        assert_eq!(fates(&program)["exported"], 0.0);
        // Said once, and not for each batch.
        let said = program.log().matches("the collector does not take the traces").count();
        assert_eq!(said, 1, "{}", program.log());
    });
}

#[test]
fn a_thousand_notifications_are_answered_while_the_collector_is_silent_and_then_it_ends_in_order() {
    run(async {
        let collector = Collector::start(Manner::Silent);
        let mut program = Program::with("traces", &collector.config());
        let _queue = Queue::bound(&program.exchange, &["#"]).await;
        pay(&program, 0..1000);
        assert_eq!(program.outcome("announced"), 1000.0);
        // 5,000 spans have ended; 2,048 wait, and at most 512 of each 5 s were with the collector.
        program.wait_until("all have ended", || {
            let fates = fates(&program);
            fates["dropped"] + fates["failed"] + 2048.0 + 512.0 >= 5000.0
        });
        assert_eq!(fates(&program)["exported"], 0.0);
        // And it ends in order, although the collector still says nothing.
        program.signal("TERM");
        assert!(program.end().success(), "{}", program.log());
        assert!(program.log().contains("did not take the last spans in time"), "{}", program.log());
    });
}

#[test]
fn a_collector_that_answers_rubbish_changes_nothing() {
    run(async {
        for manner in [Manner::Rubbish, Manner::Endless, Manner::Unavailable] {
            let collector = Collector::start(manner);
            let program = Program::with("traces", &collector.config());
            let _queue = Queue::bound(&program.exchange, &["#"]).await;
            pay(&program, 0..20);
            program.wait_until("they are given up", || fates(&program)["failed"] > 0.0);
            pay(&program, 20..40);
            assert_eq!(program.outcome("announced"), 40.0, "{manner:?}");
            assert_eq!(fates(&program)["exported"], 0.0, "{manner:?}");
        }
    });
}

#[test]
fn what_the_collector_refuses_of_a_batch_is_counted_as_lost() {
    run(async {
        let collector = Collector::start(Manner::Refuses(2));
        let program = Program::with("traces", &collector.config());
        let _queue = Queue::bound(&program.exchange, &["#"]).await;
        assert!(program.post(&payment(1).body()).is_success());
        program.wait_until("all are told", || collector.spans().len() == 5);
        let requests = collector.requests().len() as f64;
        program.wait_until("they are counted", || fates(&program).values().sum::<f64>() == 5.0);
        assert_eq!(fates(&program)["failed"], (2.0 * requests).min(5.0));
    });
}

#[test]
fn the_last_spans_are_told_before_it_ends() {
    run(async {
        let collector = Collector::start(Manner::Takes);
        let mut program = Program::with("traces", &collector.config());
        let _queue = Queue::bound(&program.exchange, &["#"]).await;
        assert!(post_under(&program, &format!("00-{TRACE}-{PARENT}-01"), &payment(1)).is_success());
        program.signal("TERM");
        assert!(program.end().success(), "{}", program.log());
        assert_eq!(collector.trace(TRACE).len(), 5);
    });
}
