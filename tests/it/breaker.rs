//! A type whose confirms time out is suspended and probed apart, so that one dead queue does not slow the others.

use std::time::Duration;

use alipay_notify_gateway::broker::{Confirm, Link};

use super::publication::{Bench, is_success, is_unavailable, settle};
use crate::support::alipay::{self, Notification};

fn payment(n: u64) -> Notification {
    Notification::payment().trade(&format!("20261123220014273400{n:08}"))
}

fn refund(n: u64) -> Notification {
    payment(n)
        .set("out_biz_no", "refund-1")
        .set("refund_fee", "1.00")
        .set("gmt_refund", "2026-11-23 10:15:31.505")
        .set("notify_id", format!("refund-of-{n}"))
}

fn refund_id(n: u64) -> String {
    format!("{}.refund-1", refund(n).event_id("payment.refunded"))
}

/// A refund is published and never confirmed in time.
async fn refunds_are_silent(bench: &Bench, n: u64) -> crate::support::fakes::Batch {
    let reply = bench.deliver(&refund(n));
    let silent = bench.broker.batch().await;
    assert_eq!(silent.ids(), [refund_id(n)]);
    assert!(is_unavailable(&reply.await.unwrap()));
    settle().await;
    silent
}

async fn is_deferred_at_once(bench: &Bench, n: u64) {
    let reply = bench.deliver(&refund(n));
    assert!(is_unavailable(&tokio::time::timeout(Duration::from_millis(500), reply).await.unwrap().unwrap()));
    assert!(bench.broker.is_quiet().await, "it was published");
}

fn suspended(bench: &Bench) -> bool {
    bench.count("type_suspended{type=\"payment.refunded\"}") > 0.5
}

async fn publishes(bench: &Bench, n: u64) {
    let reply = bench.deliver(&refund(n));
    let batch = tokio::time::timeout(Duration::from_millis(500), bench.broker.batch()).await.unwrap();
    assert_eq!(batch.ids(), [refund_id(n)]);
    batch.confirm_all().await;
    assert!(is_success(&reply.await.unwrap()));
}

#[tokio::test(start_paused = true)]
async fn a_type_whose_confirms_time_out_goes_to_the_backlog_and_the_others_do_not_wait_for_it() {
    let bench = Bench::with(|config| config.lanes = 1);
    assert!(!suspended(&bench));
    let _silent = refunds_are_silent(&bench, 1).await;
    assert!(suspended(&bench));
    assert!(bench.publication.degraded()[0].1.contains("payment.refunded"));
    is_deferred_at_once(&bench, 2).await;
    let paid = bench.deliver(&payment(3));
    let batch = tokio::time::timeout(Duration::from_millis(500), bench.broker.batch()).await.unwrap();
    batch.confirm_all().await;
    assert!(is_success(&paid.await.unwrap()));
    assert!(suspended(&bench), "a payment says nothing about refunds");
}

#[tokio::test(start_paused = true)]
async fn batches_that_were_out_together_are_one_silence_and_the_first_probe_goes_a_second_later() {
    let bench = Bench::with(|config| config.lanes = 4);
    let (mut replies, mut silent) = (Vec::new(), Vec::new());
    for n in 1..=4 {
        replies.push(bench.deliver(&refund(n)));
        silent.push(bench.broker.batch().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for reply in replies {
        assert!(is_unavailable(&reply.await.unwrap()));
    }
    settle().await;
    tokio::time::sleep(Duration::from_millis(1000)).await;
    publishes(&bench, 5).await;
    assert!(!suspended(&bench));
}

#[tokio::test(start_paused = true)]
async fn one_probe_at_a_time_finds_out_and_its_confirm_ends_the_suspension() {
    let bench = Bench::new();
    let _silent = refunds_are_silent(&bench, 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let probe = bench.deliver(&refund(2));
    let batch = bench.broker.batch().await;
    assert_eq!(batch.ids(), [refund_id(2)]);
    is_deferred_at_once(&bench, 3).await;
    // This probe too is silent: the next one may go after twice the time.
    assert!(is_unavailable(&probe.await.unwrap()));
    settle().await;
    tokio::time::sleep(Duration::from_millis(1900)).await;
    is_deferred_at_once(&bench, 4).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    publishes(&bench, 5).await;
    assert!(!suspended(&bench));
    publishes(&bench, 6).await;
}

#[tokio::test(start_paused = true)]
async fn whatever_the_broker_answers_ends_the_suspension() {
    for answer in [Confirm::Nack(None), Confirm::Ack(Some(refund_id(2)))] {
        let bench = Bench::new();
        let _silent = refunds_are_silent(&bench, 1).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let reply = bench.deliver(&refund(2));
        bench.broker.batch().await.say(&[(0, answer)]).await;
        assert!(is_unavailable(&reply.await.unwrap()));
        assert!(!suspended(&bench));
        publishes(&bench, 3).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_confirm_ends_the_suspension() {
    let bench = Bench::new();
    let silent = refunds_are_silent(&bench, 1).await;
    silent.confirm_all().await;
    settle().await;
    assert!(!suspended(&bench));
    publishes(&bench, 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_cut_off_leaves_room_for_the_next() {
    let bench = Bench::new();
    let _silent = refunds_are_silent(&bench, 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let reply = bench.deliver(&refund(2));
    // Its channel closes; it is tried once more, alone, and that too.
    drop(bench.broker.batch().await);
    drop(bench.broker.batch().await);
    assert!(is_unavailable(&reply.await.unwrap()));
    assert!(suspended(&bench));
    publishes(&bench, 3).await;
    assert!(!suspended(&bench));
}

#[tokio::test(start_paused = true)]
async fn a_new_connection_suspends_nothing() {
    let bench = Bench::new();
    let _silent = refunds_are_silent(&bench, 1).await;
    bench.broker.set(Link::Up(2));
    publishes(&bench, 2).await;
    assert!(!suspended(&bench));
}

#[tokio::test(start_paused = true)]
async fn a_blocked_broker_is_silent_about_everything_and_suspends_nothing() {
    let bench = Bench::new();
    let reply = bench.deliver(&refund(1));
    let silent = bench.broker.batch().await;
    bench.broker.set(Link::Blocked(1));
    assert!(is_unavailable(&reply.await.unwrap()));
    settle().await;
    assert_eq!(bench.states(), ["in_doubt"]);
    assert!(!suspended(&bench));
    drop(silent);
}

#[tokio::test(start_paused = true)]
async fn the_drain_sends_one_of_a_suspended_type_and_everything_of_the_others() {
    let bench = Bench::with(|config| config.lanes = 1);
    bench.broker.set(Link::Down);
    for n in 1..=4 {
        assert!(is_unavailable(&bench.deliver(&refund(n)).await.unwrap()));
    }
    bench.broker.set(Link::Up(1));
    let silent = refunds_are_silent(&bench, 9).await;
    for n in 5..=7 {
        let reply = bench.deliver(&payment(n));
        bench.broker.batch().await.say(&[(0, Confirm::Nack(None))]).await;
        assert!(is_unavailable(&reply.await.unwrap()));
    }
    bench.clock.set(alipay::now().plus(Duration::from_secs(5)));
    let batch = bench.broker.batch().await;
    let mut expected = vec![refund_id(1)];
    expected.extend([5, 6, 7].map(|n| payment(n).event_id("payment.succeeded")));
    assert_eq!(batch.ids(), expected);
    batch.say(&[1, 2, 3].map(|index| (index, Confirm::Ack(None)))).await;
    // The probe is silent, and the next one is of another trade.
    let probe = bench.broker.batch().await;
    assert_eq!(probe.ids(), [refund_id(2)]);
    assert!(suspended(&bench));
    probe.confirm_all().await;
    let rest = bench.broker.batch().await;
    assert_eq!(rest.ids(), [3, 4].map(refund_id));
    rest.confirm_all().await;
    for late in [silent, batch] {
        late.say(&[(0, Confirm::Ack(None))]).await;
    }
    settle().await;
    assert!(bench.states().iter().all(|state| *state == "recorded"), "{:?}", bench.states());
}

#[tokio::test(start_paused = true)]
async fn one_that_is_still_watched_for_does_not_keep_the_drain_from_probing_with_another() {
    let bench = Bench::with(|config| config.lanes = 1);
    let _silent = refunds_are_silent(&bench, 1).await;
    is_deferred_at_once(&bench, 2).await;
    // By its row the first is due again; its confirm is still watched for.
    bench.clock.set(alipay::now().plus(Duration::from_secs(70)));
    let probe = tokio::time::timeout(Duration::from_secs(20), bench.broker.batch()).await.unwrap();
    assert_eq!(probe.ids(), [refund_id(2)]);
    probe.confirm_all().await;
    settle().await;
    assert!(!suspended(&bench));
}
