//! What Alipay is told when the broker's answers come in the orders that trap a naive publisher: the whole
//! gateway over the real AMQP client, against the scripted peer. Nothing unroutable or undecided is `success`.
//!
//! Each story is of a batch of three, A, B and C, with the delivery tags 2, 3 and 4 on its channel: tag 1 is an
//! event that keeps the one lane busy until the three wait behind it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use alipay_notify_gateway::broker::Broker;
use alipay_notify_gateway::event::EventType;
use alipay_notify_gateway::gateway::{self, Delivery, Gateway, Reply as Answer};
use alipay_notify_gateway::lifecycle::{Stopping, Tasks};
use alipay_notify_gateway::metrics::Metrics;
use alipay_notify_gateway::publication::{self, Publication};
use alipay_notify_gateway::telemetry::traces::Tracer;
use alipay_notify_gateway::{admission, broker};
use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::support::alipay::{self, Notification};
use crate::support::amqp_peer::{Peer, Published, Reply, Script};
use crate::support::broker::config;
use crate::support::eventually;
use crate::support::fakes::{MemoryStore, StillClock};

const A: u64 = 2;
const B: u64 = 3;
const C: u64 = 4;

struct Stage {
    peer: Peer,
    gateway: Gateway,
    store: Arc<MemoryStore>,
    metrics: Arc<Metrics>,
}

impl Stage {
    async fn set(ignore: &[EventType]) -> Self {
        let peer = Peer::start(Script::silent()).await;
        let metrics =
            Metrics::new(&admission::Rejection::REASONS, &admission::acceptance::Objection::REASONS);
        let (metrics, tasks) = (Arc::new(metrics.unwrap()), Tasks::default());
        let amqp = broker::amqp::Amqp::start(
            config(&peer.uri(), "payments"),
            Arc::clone(&metrics),
            &tasks,
            Stopping::default(),
            7,
        );
        let up = amqp.link().wait_for(|link| matches!(link, broker::Link::Up(_))).await.map(|link| *link);
        assert!(up.is_ok());
        let (store, clock) = (Arc::new(MemoryStore::default()), Arc::new(StillClock::at(alipay::now())));
        let publication = Publication::start(publication::Parts {
            config: publication::Config {
                lanes: 1,
                max_batch: 64,
                max_in_flight: 100,
                confirm_timeout: Duration::from_millis(400),
                answer_timeout: Duration::from_secs(5),
                ignore: ignore.iter().copied().collect::<BTreeSet<_>>(),
                retention: Duration::from_secs(35 * 86_400),
            },
            broker: Arc::new(amqp),
            store: Arc::<MemoryStore>::clone(&store),
            clock: Arc::<StillClock>::clone(&clock),
            tasks: tasks.clone(),
            metrics: Arc::clone(&metrics),
            tracer: Tracer::default(),
            seed: 7,
        });
        let gateway = Gateway::new(gateway::Parts {
            policy: alipay::policy(),
            publication,
            answer_timeout: Duration::from_secs(5),
            failure_budget: u32::MAX,
            low_priority_bytes: 8 << 20,
            low_priority_jobs: 512,
            has_verifier: false,
            clock,
            tasks,
            metrics: Arc::clone(&metrics),
            tracer: Tracer::default(),
        });
        Self { peer, gateway, store, metrics }
    }

    fn deliver(&self, trade: u64) -> JoinHandle<Answer> {
        let body = Bytes::from(Notification::payment().trade(&trade_no(trade)).body());
        let delivery = Delivery { body, client: alipay::ADDRESS, arrived: Instant::now(), traceparent: None };
        let gateway = self.gateway.clone();
        tokio::spawn(async move { gateway.notify(delivery).await })
    }

    /// Publishes the batch of three, and gives its deliveries and one of its messages to speak to.
    async fn three(&self) -> ([JoinHandle<Answer>; 3], Published) {
        let first = self.deliver(1);
        let one = self.peer.published(1).await.remove(0);
        let mut waiting = Vec::new();
        for trade in [A, B, C] {
            waiting.push(self.deliver(trade));
            let in_flight = i64::try_from(waiting.len()).unwrap() + 1;
            eventually("it is in flight", || async { self.metrics.in_flight.get() == in_flight }).await;
        }
        self.peer.say(&one, vec![Reply::ack(1)]);
        assert!(matches!(first.await.unwrap(), Answer::Success(_)));
        let published = self.peer.published(4).await;
        let ids: Vec<String> = published.iter().skip(1).map(Published::id).collect();
        assert_eq!(
            ids,
            [A, B, C].map(|trade| format!("{}.{}.payment.succeeded", alipay::APP_ID, trade_no(trade)))
        );
        (waiting.try_into().unwrap_or_else(|_| panic!("three")), published[1].clone())
    }

    fn state(&self, trade: u64) -> &'static str {
        let states = self.store.states();
        let state = states.iter().find(|(id, _)| id.contains(&trade_no(trade)));
        state.map_or("nothing", |(_, state)| state)
    }
}

fn trade_no(trade: u64) -> String {
    format!("20261123220014273400{trade:08}")
}

/// Plays a story: what the broker says, and then who is told `success` and what is kept of the three.
async fn story(replies: Vec<Reply>, expected: [(bool, &str); 3]) {
    let stage = Stage::set(&[]).await;
    let (deliveries, one) = stage.three().await;
    stage.peer.say(&one, replies);
    for ((delivery, trade), (success, state)) in deliveries.into_iter().zip([A, B, C]).zip(expected) {
        let answer = delivery.await.unwrap();
        assert_eq!(matches!(answer, Answer::Success(_)), success, "{trade}: {answer:?}");
        assert_eq!(stage.state(trade), state, "{trade}");
    }
}

const RECORDED: (bool, &str) = (true, "recorded");
const DEFERRED: (bool, &str) = (false, "deferred");
const IN_DOUBT: (bool, &str) = (false, "in_doubt");

#[tokio::test]
async fn a_plain_ack_of_all_is_success_for_all() {
    story(vec![Reply::ack_up_to(C)], [RECORDED, RECORDED, RECORDED]).await;
}

#[tokio::test]
async fn two_returns_one_ack_and_then_nothing_is_success_for_nobody() {
    story(vec![Reply::Return(A), Reply::Return(C), Reply::ack(C)], [IN_DOUBT, IN_DOUBT, IN_DOUBT]).await;
}

#[tokio::test]
async fn a_return_that_another_ones_ack_carries_is_still_its_own() {
    let replies = vec![Reply::Return(B), Reply::ack(A), Reply::ack(B), Reply::ack(C)];
    story(replies, [RECORDED, DEFERRED, RECORDED]).await;
}

#[tokio::test]
async fn one_that_carries_anothers_return_is_not_success_while_a_confirm_is_missing() {
    // A carries B's return; C is silent: only B is decided.
    story(vec![Reply::Return(B), Reply::ack(A), Reply::ack(B)], [IN_DOUBT, DEFERRED, IN_DOUBT]).await;
}

#[tokio::test]
async fn coalesced_acks_tell_the_returned_one_from_the_others() {
    story(vec![Reply::Return(B), Reply::ack_up_to(C)], [RECORDED, DEFERRED, RECORDED]).await;
}

#[tokio::test]
async fn acks_out_of_order_are_each_ones_own() {
    story(vec![Reply::ack(C), Reply::ack(A), Reply::ack(B)], [RECORDED, RECORDED, RECORDED]).await;
}

#[tokio::test]
async fn everything_returned_is_success_for_nobody() {
    let replies = vec![Reply::Return(A), Reply::Return(B), Reply::Return(C), Reply::ack_up_to(C)];
    story(replies, [DEFERRED, DEFERRED, DEFERRED]).await;
}

#[tokio::test]
async fn a_nack_is_not_success_and_harms_nobody_else() {
    story(vec![Reply::nack(B), Reply::ack(A), Reply::ack(C)], [RECORDED, DEFERRED, RECORDED]).await;
}

#[tokio::test]
async fn silence_is_in_doubt_and_a_late_ack_is_recorded() {
    let stage = Stage::set(&[]).await;
    let (deliveries, one) = stage.three().await;
    stage.peer.say(&one, vec![Reply::ack(A)]);
    let mut answers = Vec::new();
    for delivery in deliveries {
        answers.push(matches!(delivery.await.unwrap(), Answer::Success(_)));
    }
    assert_eq!((answers, stage.state(B), stage.state(C)), (vec![true, false, false], "in_doubt", "in_doubt"));
    stage.peer.say(&one, vec![Reply::ack_up_to(C)]);
    eventually("the late confirms are recorded", || async {
        stage.state(B) == "recorded" && stage.state(C) == "recorded"
    })
    .await;
}

#[tokio::test]
async fn a_channel_that_closes_in_the_middle_is_success_only_for_what_was_acked() {
    let stage = Stage::set(&[]).await;
    let (deliveries, one) = stage.three().await;
    // From now on every publish is acked: what is tried once more, alone, goes through.
    stage.peer.change(Script::acking());
    stage.peer.say(&one, vec![Reply::ack(B), Reply::CloseChannel(404, "NOT_FOUND")]);
    for delivery in deliveries {
        assert!(matches!(delivery.await.unwrap(), Answer::Success(_)));
    }
    // A and C were lost with the channel and published again, each alone; B was not.
    let published = stage.peer.published(6).await;
    let again: Vec<String> = published.iter().skip(4).map(Published::id).collect();
    assert!(again.iter().all(|id| !id.contains(&trade_no(B))), "{again:?}");
    assert_eq!(stage.peer.seen().published.len(), 6);
}

#[tokio::test]
async fn a_return_that_went_with_its_channel_is_not_taken_for_a_confirm() {
    let stage = Stage::set(&[]).await;
    let (deliveries, one) = stage.three().await;
    // Confirm C carries A's return; C's own is lost with the channel. Then silence.
    let replies =
        vec![Reply::Return(A), Reply::Return(C), Reply::ack(C), Reply::CloseChannel(404, "NOT_FOUND")];
    stage.peer.say(&one, replies);
    for delivery in deliveries {
        assert!(!matches!(delivery.await.unwrap(), Answer::Success(_)));
    }
}
