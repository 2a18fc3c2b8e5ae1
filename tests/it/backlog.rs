//! The drain of the hedged backlog: what the broker did not take in time is announced when it does, without a delivery.

use std::time::Duration;

use alipay_notify_gateway::broker::{Confirm, Link};
use alipay_notify_gateway::clock::Timestamp;
use alipay_notify_gateway::event::Key;
use alipay_notify_gateway::store::{Cause, State, back_off};

use super::publication::{Bench, is_success, is_unavailable, settle};
use super::rabbitmq::{place, through};
use crate::support::alipay::{self, Notification};
use crate::support::fakes::Batch;
use crate::support::program::{Program, amqp_url};
use crate::support::proxy::Proxy;
use crate::support::queue::Queue;
use crate::support::run;

fn trade(n: u64) -> Notification {
    Notification::payment().trade(&format!("20261123220014273400{n:08}"))
}

fn later(seconds: u64) -> Timestamp {
    alipay::now().plus(Duration::from_secs(seconds))
}

/// Has them refused by the broker, so that they are deferred.
async fn deferred(bench: &Bench, trades: impl IntoIterator<Item = u64>) {
    for n in trades {
        let reply = bench.deliver(&trade(n));
        let batch = bench.broker.batch().await;
        batch.say(&[(0, Confirm::Nack(None))]).await;
        assert!(is_unavailable(&reply.await.unwrap()));
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_deferred_is_announced_without_a_delivery_and_once() {
    let bench = Bench::new();
    deferred(&bench, [1]).await;
    assert_eq!(bench.states(), ["deferred"]);
    assert!(bench.broker.is_quiet().await);
    bench.clock.set(later(2));
    let batch = bench.broker.batch().await;
    assert_eq!(batch.ids(), [trade(1).event_id("payment.succeeded")]);
    let message = batch.messages[0].clone();
    batch.confirm_all().await;
    settle().await;
    assert_eq!(bench.states(), ["recorded"]);
    // Word for word what a delivery would have announced.
    let other = Bench::new();
    let reply = other.deliver(&trade(1));
    let live = other.broker.batch().await;
    assert_eq!(live.messages[0], message);
    live.confirm_all().await;
    assert!(is_success(&reply.await.unwrap()));
    // Alipay's next delivery finds it announced.
    assert!(is_success(&bench.deliver(&trade(1)).await.unwrap()));
    bench.clock.set(later(700));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(bench.broker.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn a_payment_and_its_finish_that_were_both_refused_are_both_announced() {
    let bench = Bench::new();
    let finish = trade(1).set("trade_status", "TRADE_FINISHED").set("notify_id", "other");
    bench.broker.set(Link::Down);
    for notification in [&trade(1), &finish, &trade(1), &finish] {
        assert!(is_unavailable(&bench.deliver(notification).await.unwrap()));
    }
    bench.broker.set(Link::Up(2));
    bench.clock.set(later(60));
    let mut ids = Vec::new();
    while ids.len() < 2 {
        let batch = bench.broker.batch().await;
        ids.extend(batch.ids().iter().map(|id| (*id).to_owned()));
        batch.confirm_all().await;
    }
    ids.sort();
    assert_eq!(ids, [trade(1).event_id("payment.succeeded"), trade(1).event_id("trade.finished")]);
    settle().await;
    assert_eq!(bench.states(), ["recorded", "recorded"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_drained_while_the_broker_is_away_or_blocked() {
    let bench = Bench::new();
    deferred(&bench, [1, 2]).await;
    for away in [Link::Down, Link::Blocked(1)] {
        bench.broker.set(away);
        bench.clock.set(later(60));
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(bench.broker.is_quiet().await, "{away:?}");
    }
    bench.broker.set(Link::Up(2));
    let mut ids = Vec::new();
    while ids.len() < 2 {
        let batch = bench.broker.batch().await;
        ids.extend(batch.ids().iter().map(|id| (*id).to_owned()));
        batch.confirm_all().await;
    }
    settle().await;
    assert_eq!(bench.states(), ["recorded", "recorded"]);
}

#[tokio::test(start_paused = true)]
async fn a_redelivery_shares_the_outcome_of_the_drain() {
    let bench = Bench::new();
    deferred(&bench, [1]).await;
    bench.clock.set(later(2));
    let batch = bench.broker.batch().await;
    let reply = bench.deliver(&trade(1));
    settle().await;
    assert!(bench.broker.is_quiet().await, "it is not published beside it");
    batch.confirm_all().await;
    assert!(is_success(&reply.await.unwrap()));
    assert_eq!(bench.states(), ["recorded"]);
}

#[tokio::test(start_paused = true)]
async fn while_live_deliveries_wait_the_drain_has_a_quarter_of_a_batch() {
    let bench = Bench::with(|config| (config.lanes, config.max_batch) = (1, 8));
    deferred(&bench, 1..=8).await;
    // The lane is busy with one, and then the backlog is due and deliveries come.
    let first = bench.deliver(&trade(100));
    let busy = bench.broker.batch().await;
    bench.clock.set(later(2));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let live: Vec<_> = (200..220).map(|n| bench.deliver(&trade(n))).collect();
    settle().await;
    busy.confirm_all().await;
    assert!(is_success(&first.await.unwrap()));
    let batch = bench.broker.batch().await;
    let is_live = |id: &&str| (200..220).any(|n| *id == trade(n).event_id("payment.succeeded"));
    assert_eq!((batch.ids().iter().filter(|id| is_live(id)).count(), batch.ids().len()), (6, 8));
    batch.confirm_all().await;
    // All of them come through.
    let mut published = 8;
    while published < 28 {
        let batch = bench.broker.batch().await;
        published += batch.messages.len();
        batch.confirm_all().await;
    }
    for reply in live {
        assert!(is_success(&reply.await.unwrap()));
    }
    settle().await;
    assert!(bench.states().iter().all(|state| *state == "recorded"));
}

#[tokio::test(start_paused = true)]
async fn what_is_in_doubt_is_drained_after_60_seconds_with_the_same_id_and_not_before() {
    let bench = Bench::with(|config| config.lanes = 1);
    let reply = bench.deliver(&trade(1));
    let silent = bench.broker.batch().await;
    assert!(is_unavailable(&reply.await.unwrap()));
    assert_eq!(bench.states(), ["in_doubt"]);
    bench.clock.set(later(3600));
    tokio::time::sleep(Duration::from_secs(25)).await;
    // If its row said deferred by now, it would be due.
    bench.clock.set(later(3605));
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert!(bench.broker.is_quiet().await, "its confirm is still watched for");
    // Its row says deferred then, of a later time.
    tokio::time::sleep(Duration::from_secs(10)).await;
    settle().await;
    assert_eq!(bench.states(), ["deferred"]);
    bench.clock.set(later(3610));
    let again = bench.broker.batch().await;
    assert_eq!(again.ids(), silent.ids());
    again.confirm_all().await;
    settle().await;
    assert_eq!(bench.states(), ["recorded"]);
}

/// With a batch of one that was deferred, and was taken out of the store.
async fn draining(lanes: usize) -> (Bench, Batch) {
    let bench = Bench::with(|config| config.lanes = lanes);
    deferred(&bench, [1]).await;
    bench.clock.set(later(2));
    let batch = bench.broker.batch().await;
    (bench, batch)
}

#[tokio::test(start_paused = true)]
async fn a_drained_batch_without_confirms_waits_longer_but_not_when_a_live_delivery_needs_the_lane() {
    let (bench, slow) = draining(1).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(bench.states(), ["deferred"], "it is still waited for");
    let pending = trade(2).set("trade_status", "WAIT_BUYER_PAY").without("gmt_payment");
    let reply = bench.deliver(&pending);
    let live = tokio::time::timeout(Duration::from_secs(1), bench.broker.batch()).await.unwrap();
    assert_eq!(live.ids(), [trade(2).event_id("trade.pending")]);
    live.confirm_all().await;
    assert!(is_success(&reply.await.unwrap()));
    settle().await;
    let mut states = bench.states();
    states.sort_unstable();
    assert_eq!(states, ["in_doubt", "recorded"]);
    // Its confirm comes after all.
    slow.confirm_all().await;
    settle().await;
    assert_eq!(bench.states(), ["recorded", "recorded"]);
}

#[tokio::test(start_paused = true)]
async fn a_drained_batch_without_confirms_is_waited_for_while_another_lane_serves_live_deliveries() {
    let (bench, slow) = draining(2).await;
    // Twice `amqp.confirm_timeout` in all.
    for number in 2..600 {
        let reply = bench.deliver(&trade(number));
        bench.broker.batch().await.confirm_all().await;
        assert!(is_success(&reply.await.unwrap()));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(
        bench.states().iter().filter(|state| **state != "recorded").collect::<Vec<_>>(),
        [&"deferred"]
    );
    slow.confirm_all().await;
    settle().await;
    assert!(bench.states().iter().all(|state| *state == "recorded"));
}

#[tokio::test(start_paused = true)]
async fn what_another_replica_has_holds_up_no_round_of_the_drain_but_a_delivery_that_follows_waits_for_it() {
    let bench = Bench::with(|config| config.lanes = 1);
    deferred(&bench, [1]).await;
    let key = Key { subject: trade(1).trade_no().to_owned(), id: trade(1).event_id("payment.succeeded") };
    bench.store.elsewhere.lock().unwrap().insert(key);
    bench.clock.set(later(2));
    tokio::time::sleep(Duration::from_secs(2)).await;
    deferred(&bench, [2]).await;
    bench.clock.set(later(10));
    let next = tokio::time::timeout(Duration::from_secs(3), bench.broker.batch()).await.unwrap();
    assert_eq!(next.ids(), [trade(2).event_id("payment.succeeded")]);
    next.confirm_all().await;
    settle().await;
    // The lane is busy, and the drain brings it out again, when Alipay delivers it, too.
    let busy = bench.deliver(&trade(3));
    let batch = bench.broker.batch().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let follower = bench.deliver(&trade(1));
    settle().await;
    batch.confirm_all().await;
    assert!(is_success(&busy.await.unwrap()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!follower.is_finished());
    bench.store.elsewhere.lock().unwrap().clear();
    bench.broker.batch().await.confirm_all().await;
    assert!(is_success(&follower.await.unwrap()));
}

#[tokio::test(start_paused = true)]
async fn a_refused_event_stays_deferred_and_is_tried_again() {
    let bench = Bench::new();
    deferred(&bench, [1]).await;
    for round in 1..4 {
        bench.clock.set(later(round * 2));
        let batch = bench.broker.batch().await;
        batch.say(&[(0, Confirm::Nack(None))]).await;
        settle().await;
        assert_eq!(bench.states(), ["deferred"]);
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(bench.broker.is_quiet().await, "not before its back-off");
    }
}

#[test]
fn the_back_off_doubles_from_a_second_to_ten_minutes() {
    let seconds: Vec<u64> = (0..=13).map(|attempts| back_off(attempts).as_secs()).collect();
    assert_eq!(seconds, [1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600, 600]);
    assert_eq!(back_off(u32::MAX), Duration::from_secs(600));
}

/// Whether one line of the audit log, and no more, tells when the event was confirmed, and who was answered so.
fn audited(program: &Program, paid: &Notification, answered: &str) -> bool {
    let id = paid.event_id("payment.succeeded");
    let parts = ["\"audit\"", &id, "\"how\":\"confirmed\"", &format!("\"answered\":\"{answered}\"")];
    let log = program.log();
    let mut lines = log.lines().filter(|line| parts.iter().all(|part| line.contains(part)));
    lines.next().is_some_and(|line| line.contains("\"confirmed_at\":\"2") && line.contains("\"app_id\""))
        && lines.next().is_none()
}

#[test]
fn what_was_unroutable_is_announced_when_it_is_bound_without_a_delivery() {
    run(async {
        let program = Program::start("heals");
        let paid = Notification::payment_now(1);
        assert!(program.post(&paid.body()).is_fail(503));
        assert_eq!(program.rows(paid.trade_no())[0]["reason"], Cause::Returned.as_str());
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        assert_eq!(queue.next().await.id(), paid.event_id("payment.succeeded"));
        program
            .wait_until("it is recorded", || program.states(paid.trade_no()) == [State::Recorded.as_str()]);
        program.wait_until("its confirm is in the audit log", || audited(&program, &paid, "nobody"));
        assert!(program.post(&paid.body()).is_success());
        assert!(!audited(&program, &paid, "success"), "the confirm is told once");
        assert!(queue.published(&program, 2).await.is_empty());
    });
}

#[test]
fn what_came_while_the_broker_was_away_is_announced_when_it_is_back_even_by_another_process() {
    run(async {
        let mut proxy = Some(Proxy::to(&place()).await);
        let port = proxy.as_ref().unwrap().port();
        let amqp = through(proxy.as_ref().unwrap());
        let mut program = Program::launch("away", "", &amqp, |command| command);
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        program.wait_until("it is connected", || program.metric("broker_up") > 0.5);
        proxy.take();
        program.wait_until("it has noticed", || program.metric("broker_up") < 0.5);
        let payments: Vec<Notification> = (1..=20).map(Notification::payment_now).collect();
        for paid in &payments[..10] {
            assert!(program.post(&paid.body()).is_fail(503));
        }
        // Killed, and started again: the store has them.
        program.kill();
        program.restart();
        for paid in &payments[10..] {
            assert!(program.post(&paid.body()).is_fail(503));
        }
        assert!(
            (program.metric("backlog_events{state=\"deferred\"}") - 20.0).abs() < f64::EPSILON || {
                program
                    .wait_until("the gauge", || program.metric("backlog_events{state=\"deferred\"}") > 19.5);
                true
            }
        );
        let _proxy = Proxy::at(port, &place()).await;
        let mut announced: Vec<String> = Vec::new();
        while announced.len() < payments.len() {
            announced.push(queue.next().await.id().to_owned());
        }
        announced.sort();
        let mut expected: Vec<String> =
            payments.iter().map(|paid| paid.event_id("payment.succeeded")).collect();
        expected.sort();
        assert_eq!(announced, expected);
        program.wait_until("nothing waits", || program.metric("backlog_events{state=\"deferred\"}") < 0.5);
        assert!(queue.published(&program, 21).await.is_empty());
    });
}

#[test]
fn an_operator_releases_a_deferred_event_ahead_of_its_back_off() {
    run(async {
        let program = Program::launch_with_admin("hurry", "token = \"a-token-that-nobody-guesses\"");
        let paid = Notification::payment_now(1);
        // Its back-off grows with each delivery.
        for _ in 0..8 {
            assert!(program.post(&paid.body()).is_fail(503));
        }
        let mut queue = Queue::bound(&program.exchange, &["#"]).await;
        let request = format!(
            "POST /trades/{}/release?reason=bound&who=anna HTTP/1.1\r\nHost: admin\r\n\
             Authorization: Bearer a-token-that-nobody-guesses\r\nConnection: close\r\n\r\n",
            paid.trade_no()
        );
        let answer = crate::support::program::exchange(program.admin, request.as_bytes()).unwrap();
        assert!(answer.status == 200 && answer.body.contains("announced"), "{answer:?}");
        assert_eq!(queue.next().await.id(), paid.event_id("payment.succeeded"));
        assert_eq!(program.states(paid.trade_no()), ["recorded"]);
        program.wait_until("its confirm is in the audit log", || audited(&program, &paid, "nobody"));
        assert!(queue.published(&program, 2).await.is_empty());
        assert!(!amqp_url().is_empty());
    });
}
