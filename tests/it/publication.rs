//! What publication makes of everything that a broker and a store can say, in paused time where no other thread is at work.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use alipay_notify_gateway::admission::{self, Verdict};
use alipay_notify_gateway::broker::{Confirm, Link};
use alipay_notify_gateway::clock::{Clock as _, Timestamp};
use alipay_notify_gateway::event::{EventType, Key};
use alipay_notify_gateway::gateway::{self, Delivery, Gateway, Reply};
use alipay_notify_gateway::lifecycle::Tasks;
use alipay_notify_gateway::metrics::Metrics;
use alipay_notify_gateway::publication::{self, How, Publication};
use alipay_notify_gateway::store::{Cause, DOUBT, State, Tally};
use alipay_notify_gateway::telemetry::traces::Tracer;
use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::support::alipay::{self, Notification};
use crate::support::fakes::{Batch, Kind, MemoryStore, ScriptedBroker, StillClock};

/// A gateway on a scripted broker.
pub struct Bench {
    pub gateway: Gateway,
    pub publication: Publication,
    pub broker: Arc<ScriptedBroker>,
    pub store: Arc<MemoryStore>,
    pub clock: Arc<StillClock>,
    pub metrics: Arc<Metrics>,
}

impl Bench {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut publication::Config)) -> Self {
        Self::made_of(change, u32::MAX, false)
    }

    /// With a thread that verifies some of what comes at once, and a budget of failures. Not to be used in paused time, which
    /// does not wait for it.
    pub fn with_a_verifier(failure_budget: u32) -> Self {
        Self::made_of(|_| {}, failure_budget, true)
    }

    fn made_of(
        change: impl FnOnce(&mut publication::Config),
        failure_budget: u32,
        has_verifier: bool,
    ) -> Self {
        let mut config = publication::Config {
            lanes: 2,
            max_batch: 64,
            max_in_flight: 4096,
            confirm_timeout: Duration::from_secs(3),
            answer_timeout: Duration::from_secs(5),
            ignore: BTreeSet::new(),
            retention: Duration::from_secs(35 * 86_400),
        };
        change(&mut config);
        let metrics =
            Metrics::new(&admission::Rejection::REASONS, &admission::acceptance::Objection::REASONS);
        let metrics = Arc::new(metrics.unwrap());
        let broker = Arc::new(ScriptedBroker::up());
        let store = Arc::new(MemoryStore::default());
        let clock = Arc::new(StillClock::at(alipay::now()));
        let tasks = Tasks::default();
        let answer_timeout = config.answer_timeout;
        let publication = Publication::start(publication::Parts {
            config,
            broker: Arc::<ScriptedBroker>::clone(&broker),
            store: Arc::<MemoryStore>::clone(&store),
            clock: Arc::<StillClock>::clone(&clock),
            tasks: tasks.clone(),
            metrics: Arc::clone(&metrics),
            tracer: Tracer::default(),
            seed: 7,
        });
        let gateway = Gateway::new(gateway::Parts {
            policy: alipay::policy(),
            publication: publication.clone(),
            answer_timeout,
            failure_budget,
            low_priority_bytes: 8 << 20,
            low_priority_jobs: 512,
            has_verifier,
            clock: Arc::<StillClock>::clone(&clock),
            tasks,
            metrics: Arc::clone(&metrics),
            tracer: Tracer::default(),
        });
        Self { gateway, publication, broker, store, clock, metrics }
    }

    /// Delivers in a task of its own, as a connection would.
    pub fn deliver(&self, notification: &Notification) -> JoinHandle<Reply> {
        self.deliver_body(notification.body())
    }

    pub fn deliver_body(&self, body: Vec<u8>) -> JoinHandle<Reply> {
        let delivery = Delivery {
            body: Bytes::from(body),
            client: alipay::ADDRESS,
            arrived: Instant::now(),
            traceparent: None,
        };
        let gateway = self.gateway.clone();
        tokio::spawn(async move { gateway.notify(delivery).await })
    }

    /// Delivers, confirms what comes of it, and gives the reply.
    pub async fn announce(&self, notification: &Notification) -> Reply {
        let reply = self.deliver(notification);
        self.broker.batch().await.confirm_all().await;
        reply.await.unwrap()
    }

    pub fn count(&self, sample: &str) -> f64 {
        let text = self.metrics.render();
        let line = text.lines().find(|line| line.starts_with(&format!("alipay_gateway_{sample} ")));
        line.unwrap_or_else(|| panic!("no {sample}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// One that was changed after it was signed.
    fn forged() -> Vec<u8> {
        let mut body = numbered(1000).body();
        let digit = body.windows(6).position(|part| part == b"=88.88").unwrap() + 5;
        body[digit] = b'9';
        body
    }

    pub fn outcomes(&self, outcome: &str) -> f64 {
        self.count(&format!("notifications_total{{outcome=\"{outcome}\"}}"))
    }

    pub fn states(&self) -> Vec<&'static str> {
        self.store.states().into_iter().map(|(_, state)| state).collect()
    }
}

pub fn is_success(reply: &Reply) -> bool {
    matches!(reply, Reply::Success(_))
}

pub fn is_unavailable(reply: &Reply) -> bool {
    matches!(reply, Reply::Unavailable | Reply::Crowded)
}

pub fn how(reply: &Reply) -> Option<(EventType, bool)> {
    match reply {
        Reply::Success(announced) => {
            Some((announced.event_type().unwrap(), matches!(announced.how(), How::Confirmed(_))))
        }
        Reply::Rejected | Reply::Unavailable | Reply::Crowded => None,
    }
}

/// Lets everything run that can, without moving time.
pub async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn success_is_said_only_after_the_broker_confirmed_and_the_record_is_written() {
    let bench = Bench::new();
    let reply = bench.deliver(&Notification::payment());
    let batch = bench.broker.batch().await;
    assert_eq!(batch.ids(), [Notification::payment().event_id("payment.succeeded")]);
    settle().await;
    assert!(!reply.is_finished() && bench.store.is_empty());
    batch.confirm_all().await;
    assert_eq!(how(&reply.await.unwrap()), Some((EventType::PaymentSucceeded, true)));
    assert_eq!(bench.states(), ["recorded"]);
    assert_eq!(bench.outcomes("announced"), 1.0);
    assert_eq!(bench.count("events_total{result=\"confirmed\",type=\"payment.succeeded\"}"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_redelivery_is_answered_success_and_publishes_nothing() {
    let bench = Bench::new();
    bench.announce(&Notification::payment()).await;
    let again = Notification::payment().set("notify_time", "2026-11-23 10:19:32");
    let reply = bench.deliver(&again).await.unwrap();
    assert_eq!(how(&reply), Some((EventType::PaymentSucceeded, false)));
    assert!(bench.broker.is_quiet().await);
    assert_eq!(bench.outcomes("duplicate"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_deliveries_at_once_share_one_event() {
    let bench = Bench::new();
    let replies: Vec<_> = (0..1000).map(|_| bench.deliver(&Notification::payment())).collect();
    let batch = bench.broker.batch().await;
    assert_eq!(batch.messages.len(), 1);
    settle().await;
    assert!(replies.iter().all(|reply| !reply.is_finished()), "nobody is told success because another began");
    batch.confirm_all().await;
    for reply in replies {
        assert!(is_success(&reply.await.unwrap()));
    }
    assert!(bench.broker.is_quiet().await);
    assert_eq!((bench.outcomes("announced"), bench.outcomes("duplicate")), (1.0, 999.0));
}

#[tokio::test]
async fn in_a_burst_that_two_threads_verify_each_is_judged_by_its_own_bytes() {
    let bench = Bench::with_a_verifier(u32::MAX);
    let genuine: Vec<_> = (1..=60).map(numbered).collect();
    let (bodies, forged): (Vec<_>, _) = (genuine.iter().map(Notification::body).collect(), Bench::forged());
    // While something is in flight, what comes is shared.
    let first = bench.deliver(&numbered(0));
    let mut batch = bench.broker.batch().await;
    let deliver = |genuine| (bench.deliver_body(genuine), bench.deliver_body(forged.clone()));
    let replies: Vec<_> = bodies.into_iter().map(deliver).collect();
    let mut published = BTreeSet::new();
    loop {
        published.extend(batch.ids().into_iter().map(str::to_owned));
        batch.confirm_all().await;
        if published.len() > 60 {
            break;
        }
        batch = bench.broker.batch().await;
    }
    assert!(is_success(&first.await.unwrap()));
    for (notification, (genuine, forged)) in genuine.iter().zip(replies) {
        assert!(published.contains(&notification.event_id("payment.succeeded")));
        assert!(is_success(&genuine.await.unwrap()));
        assert!(matches!(forged.await.unwrap(), Reply::Rejected));
    }
    assert!(bench.broker.is_quiet().await);
    assert_eq!(bench.states(), ["recorded"; 61]);
    assert_eq!((bench.outcomes("announced"), bench.outcomes("rejected")), (61.0, 60.0));
    assert_eq!(bench.count("stage_duration_seconds_count{stage=\"admission\"}"), 121.0, "each counts once");
    assert!(has_thread("verifier"), "some were shared");
}

fn has_thread(name: &str) -> bool {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    threads
        .map(|thread| std::fs::read_to_string(thread.path().join("comm")).unwrap_or_default())
        .any(|it| it.trim() == name)
}

#[tokio::test]
async fn a_burst_of_forgeries_passes_the_budget_by_no_more_than_the_budget() {
    let bench = Bench::with_a_verifier(5);
    let forged = Bench::forged();
    let first = bench.deliver(&numbered(0));
    let in_flight = bench.broker.batch().await;
    let replies: Vec<_> = (0..300).map(|_| bench.deliver_body(forged.clone())).collect();
    for reply in replies {
        assert!(matches!(reply.await.unwrap(), Reply::Rejected));
    }
    let low = bench.count("low_priority_verifications_total{result=\"rejected\"}");
    assert!((289.0..=294.0).contains(&low), "{low} of 300 waited behind everybody else");
    in_flight.confirm_all().await;
    assert!(is_success(&first.await.unwrap()));
    assert!(bench.broker.is_quiet().await);
    assert_eq!(bench.states(), ["recorded"]);
}

#[tokio::test(start_paused = true)]
async fn what_comes_at_once_is_published_in_batches_and_their_sizes_are_shown() {
    let bench = Bench::with(|config| config.lanes = 1);
    let first = bench.deliver(&numbered(0));
    let alone = bench.broker.batch().await;
    let rest: Vec<_> = (1..=9).map(|number| bench.deliver(&numbered(number))).collect();
    settle().await;
    alone.confirm_all().await;
    let together = bench.broker.batch().await;
    assert_eq!((alone.messages.len(), together.messages.len()), (1, 9));
    together.confirm_all().await;
    for reply in [first].into_iter().chain(rest) {
        assert!(is_success(&reply.await.unwrap()));
    }
    let sizes = &bench.metrics.batch_size;
    assert_eq!((sizes.get_sample_count(), sizes.get_sample_sum()), (2, 10.0));
}

/// Trades of their own.
fn numbered(number: u64) -> Notification {
    Notification::payment().trade(&format!("2026112322001427340000{number:06}"))
}

/// So many at once, of the numbers from `first`: they are one batch, which is out.
async fn together(bench: &Bench, first: u64, count: u64) -> (Batch, Vec<JoinHandle<Reply>>) {
    let replies = (first..first + count).map(|number| bench.deliver(&numbered(number))).collect();
    let batch = bench.broker.batch().await;
    assert_eq!(batch.messages.len() as u64, count);
    (batch, replies)
}

async fn are_successes(replies: impl IntoIterator<Item = JoinHandle<Reply>>) {
    for reply in replies {
        assert!(is_success(&reply.await.unwrap()));
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_others_where_none_is_out() {
    let bench = Bench::with(|config| config.lanes = 4);
    for number in 0..3 {
        let begun = Instant::now();
        let (alone, replies) = together(&bench, number, 1).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        alone.confirm_all().await;
        are_successes(replies).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_a_batch_is_out_goes_together_when_as_many_wait_though_another_lane_is_free() {
    let bench = Bench::with(|config| config.lanes = 4);
    let (first, mut replies) = together(&bench, 0, 5).await;
    for number in 5..10 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        replies.push(bench.deliver(&numbered(number)));
    }
    let begun = Instant::now();
    let second = bench.broker.batch().await;
    assert_eq!((second.messages.len(), begun.elapsed()), (5, Duration::ZERO));
    // Ten are out now, and five are not enough.
    replies.extend((10..15).map(|number| bench.deliver(&numbered(number))));
    tokio::time::sleep(Duration::from_millis(5)).await;
    // With this one they are six, as soon as no more than five are out.
    replies.push(bench.deliver(&numbered(15)));
    settle().await;
    first.confirm_all().await;
    let begun = Instant::now();
    let third = bench.broker.batch().await;
    assert_eq!((third.messages.len(), begun.elapsed()), (6, Duration::ZERO));
    for batch in [second, third] {
        batch.confirm_all().await;
    }
    are_successes(replies).await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_slow_holds_nobody_back_for_more_than_ten_milliseconds() {
    let bench = Bench::with(|config| config.lanes = 3);
    let (silent, slow) = together(&bench, 0, 5).await;
    for number in 5..25 {
        let begun = Instant::now();
        let (batch, replies) = together(&bench, number, 1).await;
        // Tokio's timers round up to a whole millisecond.
        assert!(begun.elapsed() <= Duration::from_millis(11), "{:?}", begun.elapsed());
        batch.confirm_all().await;
        are_successes(replies).await;
    }
    assert!(!slow.iter().any(JoinHandle::is_finished));
    silent.confirm_all().await;
    are_successes(slow).await;
}

#[tokio::test(start_paused = true)]
async fn a_whole_batch_waits_for_no_other_one() {
    let bench = Bench::with(|config| (config.lanes, config.max_batch) = (4, 8));
    let begun = Instant::now();
    let (first, mut replies) = together(&bench, 0, 8).await;
    let mut batches = vec![first];
    for number in 8..32 {
        replies.push(bench.deliver(&numbered(number)));
        // So that a lane gathers already when the last one of its batch comes.
        settle().await;
    }
    for _ in 0..3 {
        batches.push(bench.broker.batch().await);
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
    let sizes: Vec<_> = batches.iter().map(|batch| batch.messages.len()).collect();
    assert_eq!(sizes, [8, 8, 8, 8]);
    for batch in batches {
        batch.confirm_all().await;
    }
    are_successes(replies).await;
}

#[tokio::test(start_paused = true)]
async fn what_gathers_goes_at_once_when_no_more_will_come() {
    let bench = Bench::with(|config| config.lanes = 2);
    let begun = Instant::now();
    let (first, replies) = together(&bench, 0, 2).await;
    let late = bench.deliver(&numbered(2));
    settle().await;
    bench.publication.close();
    let second = bench.broker.batch().await;
    assert_eq!((second.messages.len(), begun.elapsed()), (1, Duration::ZERO));
    for batch in [first, second] {
        batch.confirm_all().await;
    }
    are_successes(replies.into_iter().chain([late])).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_goes_alone_gathers_for_nobody() {
    let bench = Bench::with(|config| config.lanes = 2);
    let (out, silent) = together(&bench, 0, 3).await;
    let (poisoned, replies) = together(&bench, 3, 1).await;
    let begun = Instant::now();
    // A channel exception.
    drop(poisoned);
    let alone = bench.broker.batch().await;
    assert_eq!((alone.messages.len(), begun.elapsed()), (1, Duration::ZERO));
    for batch in [alone, out] {
        batch.confirm_all().await;
    }
    are_successes(silent.into_iter().chain(replies)).await;
}

#[tokio::test(start_paused = true)]
async fn two_amounts_at_once_give_one_payment_and_one_conflict() {
    let bench = Bench::new();
    let other = Notification::payment().set("total_amount", "88.89");
    let first: Vec<_> = (0..500).map(|_| bench.deliver(&Notification::payment())).collect();
    settle().await;
    let second: Vec<_> = (0..500).map(|_| bench.deliver(&other)).collect();
    let payment = bench.broker.batch().await;
    settle().await;
    assert!(bench.broker.is_quiet().await, "the other digest waits for the flight of the first");
    payment.confirm_all().await;
    let conflict = bench.broker.batch().await;
    assert_eq!(conflict.messages.len(), 1);
    assert_eq!(conflict.messages[0].event_type, "payment.conflict");
    assert!(conflict.messages[0].id.starts_with(&format!("{}.conflict.", payment.ids()[0])));
    conflict.confirm_all().await;
    for reply in first.into_iter().chain(second) {
        assert!(is_success(&reply.await.unwrap()));
    }
    assert_eq!((bench.outcomes("announced"), bench.outcomes("conflict")), (1.0, 1.0));
    assert_eq!(bench.outcomes("duplicate"), 998.0);
    assert_eq!(bench.states(), ["recorded", "recorded"]);
}

#[tokio::test(start_paused = true)]
async fn other_money_that_came_while_the_first_is_in_doubt_is_kept_and_announced_as_the_conflict_that_it_is()
{
    let bench = Bench::new();
    let other = Notification::payment().set("total_amount", "88.89").set("notify_id", "n2");
    let first = bench.deliver(&Notification::payment());
    let silent = bench.broker.batch().await;
    // Alipay's last delivery of it: what is not kept now is lost.
    let reply = bench.deliver(&other).await.unwrap();
    assert!(is_unavailable(&reply));
    assert!(is_unavailable(&first.await.unwrap()));
    settle().await;
    let states = bench.store.states();
    assert_eq!(bench.states(), ["in_doubt", "deferred"], "{states:?}");
    assert!(states[1].0.contains(".payment.succeeded.conflict."), "{states:?}");
    bench.clock.set(alipay::now().plus(Duration::from_secs(2)));
    let conflict = bench.broker.batch().await;
    assert_eq!(conflict.ids(), [&states[1].0]);
    conflict.confirm_all().await;
    silent.confirm_all().await;
    settle().await;
    assert_eq!(bench.states(), ["recorded", "recorded"]);
    assert!(is_success(&bench.deliver(&other).await.unwrap()));
    assert!(bench.broker.is_quiet().await, "announced once");
}

#[tokio::test(start_paused = true)]
async fn a_finish_that_came_while_its_payment_is_in_doubt_is_kept_and_announced_as_the_finish_that_it_is() {
    let bench = Bench::new();
    let finish = Notification::payment().set("trade_status", "TRADE_FINISHED").set("notify_id", "n2");
    let first = bench.deliver(&Notification::payment());
    let silent = bench.broker.batch().await;
    assert!(is_unavailable(&bench.deliver(&finish).await.unwrap()));
    assert!(is_unavailable(&first.await.unwrap()));
    settle().await;
    assert_eq!(bench.states(), ["in_doubt", "deferred"]);
    bench.clock.set(alipay::now().plus(Duration::from_secs(2)));
    let finished = bench.broker.batch().await;
    assert_eq!(finished.ids(), [finish.event_id("trade.finished")]);
    finished.confirm_all().await;
    silent.confirm_all().await;
    settle().await;
    assert_eq!(bench.states(), ["recorded", "recorded"]);
}

#[tokio::test(start_paused = true)]
async fn a_payment_that_comes_again_while_its_finish_is_announced_is_answered_by_its_own_record() {
    let bench = Bench::new();
    bench.announce(&Notification::payment()).await;
    let finish = Notification::payment().set("trade_status", "TRADE_FINISHED").set("notify_id", "n2");
    let finished = bench.deliver(&finish);
    let batch = bench.broker.batch().await;
    assert_eq!(batch.ids(), [finish.event_id("trade.finished")]);
    let again = bench.deliver(&Notification::payment());
    settle().await;
    batch.confirm_all().await;
    assert_eq!(how(&finished.await.unwrap()), Some((EventType::TradeFinished, true)));
    assert_eq!(how(&again.await.unwrap()), Some((EventType::PaymentSucceeded, false)));
    assert!(bench.broker.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_announced_once() {
    let bench = Bench::new();
    bench.announce(&Notification::payment()).await;
    let other = Notification::payment().set("total_amount", "88.89");
    assert_eq!(how(&bench.announce(&other).await), Some((EventType::PaymentConflict, true)));
    assert_eq!(how(&bench.deliver(&other).await.unwrap()), Some((EventType::PaymentConflict, false)));
    assert!(bench.broker.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn returned_nacked_and_lost_are_not_success_and_are_kept() {
    for (confirm, result) in [
        (Confirm::Ack(Some(Notification::payment().event_id("payment.succeeded"))), "returned"),
        (Confirm::Nack(None), "nacked"),
    ] {
        let bench = Bench::new();
        let reply = bench.deliver(&Notification::payment());
        bench.broker.batch().await.say(&[(0, confirm)]).await;
        assert!(is_unavailable(&reply.await.unwrap()), "{result}");
        assert_eq!(bench.states(), ["deferred"], "{result}");
        assert_eq!(bench.outcomes("deferred"), 1.0);
        let sample = format!("events_total{{result=\"{result}\",type=\"payment.succeeded\"}}");
        assert_eq!(bench.count(&sample), 1.0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_deferred_event_is_announced_by_its_next_delivery() {
    let bench = Bench::new();
    let reply = bench.deliver(&Notification::payment());
    bench.broker.batch().await.say(&[(0, Confirm::Nack(None))]).await;
    assert!(is_unavailable(&reply.await.unwrap()));
    assert!(is_success(&bench.announce(&Notification::payment()).await));
    assert_eq!(bench.states(), ["recorded"]);
}

#[tokio::test(start_paused = true)]
async fn an_unroutable_event_of_an_ignored_type_is_unrouted_and_success() {
    let bench = Bench::with(|config| {
        config.ignore.insert(EventType::TradePending);
    });
    let pending = Notification::payment().set("trade_status", "WAIT_BUYER_PAY").without("gmt_payment");
    let reply = bench.deliver(&pending);
    let batch = bench.broker.batch().await;
    let follower = bench.deliver(&pending);
    settle().await;
    let id = batch.ids()[0].to_owned();
    batch.say(&[(0, Confirm::Ack(Some(id)))]).await;
    assert!(is_success(&reply.await.unwrap()) && is_success(&follower.await.unwrap()));
    assert_eq!((bench.outcomes("announced"), bench.outcomes("duplicate")), (1.0, 1.0));
    assert_eq!(bench.states(), ["unrouted"]);
    assert!(is_success(&bench.deliver(&pending).await.unwrap()));
    assert!(bench.broker.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn a_channel_exception_is_tried_once_more_alone() {
    let bench = Bench::with(|config| config.lanes = 1);
    let first = Notification::payment();
    let second = Notification::payment().trade("2026112322001427340000000002");
    let replies = [bench.deliver(&first), bench.deliver(&second)];
    settle().await;
    let batch = bench.broker.batch().await;
    let together = batch.messages.len();
    drop(batch);
    let mut alone = Vec::new();
    for _ in 0..2 {
        let batch = bench.broker.batch().await;
        assert_eq!(batch.messages.len(), 1);
        alone.push(batch.ids()[0].to_owned());
        batch.confirm_all().await;
    }
    assert!(together <= 2);
    for reply in replies {
        assert!(is_success(&reply.await.unwrap()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_poisonous_event_is_deferred_after_it_was_alone() {
    let bench = Bench::with(|config| config.lanes = 1);
    let reply = bench.deliver(&Notification::payment());
    drop(bench.broker.batch().await);
    drop(bench.broker.batch().await);
    assert!(is_unavailable(&reply.await.unwrap()));
    assert_eq!(bench.states(), ["deferred"]);
    assert!(bench.broker.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn an_overdue_confirm_is_in_doubt_and_not_published_again() {
    let bench = Bench::new();
    let reply = bench.deliver(&Notification::payment());
    let batch = bench.broker.batch().await;
    assert!(is_unavailable(&reply.await.unwrap()));
    assert_eq!(bench.states(), ["in_doubt"]);
    // The next delivery joins it and publishes nothing, until the late confirm tells.
    let again = bench.deliver(&Notification::payment());
    settle().await;
    assert!(bench.broker.is_quiet().await);
    batch.confirm_all().await;
    assert!(is_success(&again.await.unwrap()));
    assert_eq!(bench.states(), ["recorded"]);
    assert_eq!(bench.count("events_total{result=\"in_doubt\",type=\"payment.succeeded\"}"), 1.0);
    assert!(is_success(&bench.deliver(&Notification::payment()).await.unwrap()));
    assert!(bench.broker.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn what_is_in_doubt_may_be_published_again_after_60_seconds_and_not_before() {
    let bench = Bench::new();
    let began = Instant::now();
    let reply = bench.deliver(&Notification::payment());
    let silent = bench.broker.batch().await;
    assert!(is_unavailable(&reply.await.unwrap()));
    let mut tries = 0;
    let batch: Batch = loop {
        let reply = bench.deliver(&Notification::payment());
        tokio::select! {
            biased;
            batch = bench.broker.batch() => break batch,
            reply = reply => assert!(is_unavailable(&reply.unwrap())),
        }
        tries += 1;
    };
    assert!(tries > 5, "{tries}");
    assert!(began.elapsed() >= Duration::from_secs(60));
    batch.confirm_all().await;
    silent.confirm_all().await;
    settle().await;
    assert_eq!(bench.states(), ["recorded"]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_comes_after_60_seconds_does_not_end_the_flight_of_the_next_publish() {
    let bench = Bench::new();
    let reply = bench.deliver(&Notification::payment());
    let first = bench.broker.batch().await;
    assert!(is_unavailable(&reply.await.unwrap()));
    let second: Batch = loop {
        let reply = bench.deliver(&Notification::payment());
        tokio::select! {
            biased;
            batch = bench.broker.batch() => break batch,
            reply = reply => assert!(is_unavailable(&reply.unwrap())),
        }
    };
    first.say(&[(0, Confirm::Nack(None))]).await;
    settle().await;
    let again = bench.deliver(&Notification::payment());
    settle().await;
    assert!(bench.broker.is_quiet().await, "it is published and not yet confirmed");
    second.confirm_all().await;
    assert!(is_success(&again.await.unwrap()));
    assert_eq!(bench.states(), ["recorded"]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_after_the_minute_of_doubt_keeps_only_what_was_not_kept_yet() {
    for had_room in [true, false] {
        let bench = Bench::new();
        bench.store.full.store(!had_room, Ordering::SeqCst);
        let reply = bench.deliver(&Notification::payment());
        let batch = bench.broker.batch().await;
        assert!(is_unavailable(&reply.await.unwrap()));
        tokio::time::sleep(DOUBT + Duration::from_secs(5)).await;
        let before = bench.states();
        assert_eq!(before.is_empty(), !had_room);
        bench.store.full.store(false, Ordering::SeqCst);
        batch.say(&[(0, Confirm::Nack(None))]).await;
        settle().await;
        assert_eq!(bench.states(), ["deferred"]);
        let cause = bench.store.cause_of(&Notification::payment().event_id("payment.succeeded"));
        assert_eq!(cause, Some(if had_room { Cause::InDoubt } else { Cause::Nacked }));
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_confirm_ends_no_flight_but_its_own() {
    let bench = Bench::new();
    let reply = bench.deliver(&Notification::payment());
    let silent = bench.broker.batch().await;
    assert!(is_unavailable(&reply.await.unwrap()));
    // Its minute is over, and it is published again.
    tokio::time::sleep(Duration::from_secs(61)).await;
    let again = bench.deliver(&Notification::payment());
    let second = bench.broker.batch().await;
    silent.confirm_all().await;
    settle().await;
    // Other money of the same trade: its conflict has to be confirmed itself.
    let other = bench.deliver(&Notification::payment().set("total_amount", "88.89"));
    settle().await;
    second.confirm_all().await;
    settle().await;
    assert!(is_success(&again.await.unwrap()));
    assert!(!other.is_finished(), "it was answered for another one's confirm");
    let conflict = bench.broker.batch().await;
    assert_eq!(conflict.messages[0].event_type, "payment.conflict");
    conflict.confirm_all().await;
    assert!(is_success(&other.await.unwrap()));
}

#[tokio::test(start_paused = true)]
async fn what_is_in_doubt_while_the_broker_is_blocked_stays_so() {
    let bench = Bench::new();
    let reply = bench.deliver(&Notification::payment());
    let batch = bench.broker.batch().await;
    assert!(is_unavailable(&reply.await.unwrap()));
    bench.broker.set(Link::Blocked(1));
    tokio::time::sleep(Duration::from_secs(200)).await;
    let again = bench.deliver(&Notification::payment());
    settle().await;
    assert!(bench.broker.is_quiet().await);
    bench.broker.set(Link::Up(1));
    batch.confirm_all().await;
    assert!(is_success(&again.await.unwrap()));
}

#[tokio::test(start_paused = true)]
async fn a_lane_whose_batch_is_in_doubt_goes_on_with_a_new_channel() {
    let bench = Bench::with(|config| config.lanes = 1);
    let stuck = bench.deliver(&Notification::payment());
    let silent = bench.broker.batch().await;
    assert!(is_unavailable(&stuck.await.unwrap()));
    // Of another type: payments are suspended.
    let other = Notification::payment()
        .trade("2026112322001427340000000002")
        .set("trade_status", "WAIT_BUYER_PAY")
        .without("gmt_payment");
    assert!(is_success(&bench.announce(&other).await));
    assert_eq!(bench.broker.channels_opened(), 2);
    drop(silent);
    settle().await;
    assert_eq!(bench.states(), ["deferred", "recorded"]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_publish_does_not_hold_back_the_answers_of_its_batch() {
    let bench = Bench::with(|config| config.lanes = 1);
    // The first takes the lane, so that the other two go together.
    let first = bench.deliver(&Notification::payment());
    let batch = bench.broker.batch().await;
    let loud = bench.deliver(&Notification::payment().trade("2026112322001427340000000002"));
    settle().await;
    let silent = bench.deliver(&Notification::payment().trade("2026112322001427340000000003"));
    settle().await;
    batch.confirm_all().await;
    assert!(is_success(&first.await.unwrap()));
    let batch = bench.broker.batch().await;
    assert_eq!(batch.messages.len(), 2);
    let began = Instant::now();
    batch.say(&[(0, Confirm::Ack(None))]).await;
    assert!(is_success(&loud.await.unwrap()));
    assert!(began.elapsed() < Duration::from_secs(1));
    assert!(is_unavailable(&silent.await.unwrap()));
}

#[tokio::test(start_paused = true)]
async fn without_a_connection_or_blocked_events_are_deferred_and_duplicates_still_answered() {
    for link in [Link::Down, Link::Blocked(1)] {
        let bench = Bench::new();
        bench.announce(&Notification::payment()).await;
        bench.broker.set(link);
        let other = Notification::payment().trade("2026112322001427340000000002");
        assert!(is_unavailable(&bench.deliver(&other).await.unwrap()));
        assert_eq!(bench.states(), ["recorded", "deferred"]);
        assert!(is_success(&bench.deliver(&Notification::payment()).await.unwrap()));
        assert!(bench.broker.is_quiet().await);
    }
}

#[tokio::test(start_paused = true)]
async fn the_answer_comes_at_its_deadline_and_the_confirm_is_still_awaited() {
    let bench = Bench::with(|config| config.confirm_timeout = Duration::from_secs(20));
    let began = Instant::now();
    let reply = bench.deliver(&Notification::payment());
    let batch = bench.broker.batch().await;
    assert!(is_unavailable(&reply.await.unwrap()));
    assert_eq!(began.elapsed().as_secs(), 5);
    batch.confirm_all().await;
    settle().await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(bench.states(), ["recorded"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_payment_took_and_how_the_clocks_differ_is_measured() {
    let bench = Bench::new();
    let pair = |name: &str| (bench.count(&format!("{name}_count")), bench.count(&format!("{name}_sum")));
    bench.announce(&Notification::payment()).await;
    // Paid at 10:15:31, notified at 10:15:32, and now it is 10:16:31.
    assert_eq!(pair("payment_lag_seconds"), (1.0, 60.0));
    assert_eq!(pair("delivery_lag_seconds"), (1.0, 59.0));
    // It was confirmed at once: all of the lag is Alipay's.
    assert_eq!(pair("handling_lag_seconds"), (1.0, 0.0));
    assert_eq!(pair("batch_size"), (1.0, 1.0));
    for stage in ["admission", "claim", "publish", "record"] {
        let sample = format!("stage_duration_seconds_count{{stage=\"{stage}\"}}");
        assert_eq!(bench.count(&sample), 1.0, "{stage}");
    }
    assert_eq!(bench.count("clock_skew_seconds"), 0.0);
    let from_the_future = Notification::payment()
        .trade("2026112322001427340000000009")
        .set("notify_time", "2026-11-23 10:16:41");
    bench.announce(&from_the_future).await;
    assert_eq!(bench.count("clock_skew_seconds"), 10.0);
}

#[tokio::test(start_paused = true)]
async fn what_a_slow_body_took_is_of_the_answers_time() {
    let bench = Bench::with(|config| config.confirm_timeout = Duration::from_secs(20));
    let arrived = Instant::now();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let body = Bytes::from(Notification::payment().body());
    let reply =
        bench.gateway.notify(Delivery { body, client: alipay::ADDRESS, arrived, traceparent: None }).await;
    assert!(is_unavailable(&reply));
    assert_eq!(arrived.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_hangs_up_does_not_stop_the_announcement() {
    let bench = Bench::new();
    let reply = bench.deliver(&Notification::payment());
    let batch = bench.broker.batch().await;
    reply.abort();
    settle().await;
    batch.confirm_all().await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(bench.states(), ["recorded"]);
    assert_eq!(bench.outcomes("announced"), 1.0, "counted all the same");
}

#[tokio::test(start_paused = true)]
async fn without_the_store_events_are_announced_unchecked_and_recorded_when_it_is_back() {
    let bench = Bench::new();
    bench.store.away.store(true, Ordering::SeqCst);
    let reply = bench.deliver(&Notification::payment());
    let batch = bench.broker.batch().await;
    assert!(batch.messages[0].unchecked);
    assert!(batch.messages[0].clone().into_headers().contains(&("x-dedup", "unchecked".to_owned())));
    batch.confirm_all().await;
    assert!(is_success(&reply.await.unwrap()));
    assert_eq!((bench.count("store_unchecked"), bench.count("store_unrecorded")), (1.0, 1.0));
    for result in ["confirmed", "unchecked"] {
        let sample = format!("events_total{{result=\"{result}\",type=\"payment.succeeded\"}}");
        assert_eq!(bench.count(&sample), 1.0, "{result}");
    }
    assert_eq!(bench.gateway.health().degraded.len(), 1);
    // What was confirmed in this process is still known to it.
    assert!(is_success(&bench.deliver(&Notification::payment()).await.unwrap()));
    assert!(bench.broker.is_quiet().await);
    bench.store.away.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(bench.states(), ["recorded"]);
    assert_eq!((bench.count("store_unchecked"), bench.count("store_unrecorded")), (0.0, 0.0));
}

#[tokio::test(start_paused = true)]
async fn what_waits_counts_from_its_payment_only_if_it_tells_one() {
    let bench = Bench::new();
    bench.broker.set(Link::Down);
    let refunded =
        |of: Notification| of.set("gmt_refund", "2026-11-23 11:00:00.125").set("refund_fee", "10.00");
    let foreign =
        |id: &str| Notification::payment().set("seller_id", "2088000000000000").set("notify_id", id);
    let kept = async |notification: Notification| {
        bench.deliver(&notification).await.unwrap();
        let mut rows = bench.store.rows.lock().unwrap();
        let times: Vec<_> = rows.values().map(Kind::payment_time).collect();
        rows.clear();
        times
    };
    let paid = Timestamp::from_beijing((2026, 11, 23), (10, 15, 31, 0));
    assert!(paid.is_some());
    assert_eq!(kept(Notification::payment()).await, [paid]);
    assert_eq!(kept(refunded(Notification::payment())).await, [None]);
    // Held, for a seller that is not ours.
    assert_eq!(kept(foreign("n1")).await, [paid]);
    assert_eq!(kept(refunded(foreign("n2"))).await, [None]);
    assert_eq!(kept(foreign("n3").set("trade_status", "TRADE_FINISHED")).await, [None]);
    // What was not believed cannot put off the alarm.
    let future = kept(foreign("n4").set("gmt_payment", "2036-11-23 10:15:31")).await;
    assert_eq!(future, [Some(bench.clock.now())]);
}

#[tokio::test(start_paused = true)]
async fn without_store_and_broker_nothing_is_said_to_be_kept() {
    let bench = Bench::new();
    bench.store.away.store(true, Ordering::SeqCst);
    bench.broker.set(Link::Down);
    assert!(is_unavailable(&bench.deliver(&Notification::payment()).await.unwrap()));
    assert_eq!(bench.outcomes("busy"), 1.0);
    assert!(bench.store.is_empty());
}

#[tokio::test(start_paused = true)]
async fn beyond_max_in_flight_the_answer_is_busy_at_once() {
    let bench = Bench::with(|config| config.max_in_flight = 2);
    let trade = |n: u64| Notification::payment().trade(&format!("202611232200142734000000000{n}"));
    let waiting = [bench.deliver(&trade(1)), bench.deliver(&trade(2))];
    settle().await;
    let began = Instant::now();
    assert!(is_unavailable(&bench.deliver(&trade(3)).await.unwrap()));
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!((bench.outcomes("busy"), bench.count("in_flight")), (1.0, 2.0));
    let mut left = 2;
    while left > 0 {
        let batch = bench.broker.batch().await;
        left -= batch.messages.len();
        batch.confirm_all().await;
    }
    for reply in waiting {
        assert!(is_success(&reply.await.unwrap()));
    }
    assert_eq!(bench.count("in_flight"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_key_claimed_by_another_replica_is_asked_again_outside_the_lane() {
    let bench = Bench::with(|config| config.lanes = 1);
    let payment = Notification::payment();
    let key = Key { subject: payment.trade_no().to_owned(), id: payment.event_id("payment.succeeded") };
    bench.store.elsewhere.lock().unwrap().insert(key.clone());
    let parked = bench.deliver(&payment);
    settle().await;
    // The lane is free meanwhile.
    let other = Notification::payment().trade("2026112322001427340000000002");
    assert!(is_success(&bench.announce(&other).await));
    assert!(!parked.is_finished());
    bench.store.elsewhere.lock().unwrap().clear();
    bench.broker.batch().await.confirm_all().await;
    assert!(is_success(&parked.await.unwrap()));
    // For ever elsewhere: fail at the deadline, and never success on a claim.
    let third = Notification::payment().trade("2026112322001427340000000003");
    let key = Key { subject: third.trade_no().to_owned(), id: third.event_id("payment.succeeded") };
    bench.store.elsewhere.lock().unwrap().insert(key);
    assert!(is_unavailable(&bench.deliver(&third).await.unwrap()));
    assert!(bench.broker.is_quiet().await);
    // And kept: whoever has it may have died, and this may have been the last delivery.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.states(), ["recorded", "recorded", "deferred"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_stale_or_late_and_claimed_by_another_replica_is_kept_as_no_payment() {
    let late = Notification::payment()
        .set("gmt_payment", "2026-10-01 10:15:31")
        .set("gmt_create", "2026-10-01 10:15:30")
        .trade("2026100122001427340000000000");
    for (notification, age, kept) in [(late, 0, "payment.late"), (Notification::payment(), 25, "held")] {
        let bench = Bench::new();
        bench.clock.set(bench.clock.now().plus(Duration::from_secs(age * 3600)));
        let id = notification.event_id("payment.succeeded");
        let key = Key { subject: notification.trade_no().to_owned(), id: id.clone() };
        bench.store.elsewhere.lock().unwrap().insert(key);
        assert!(is_unavailable(&bench.deliver(&notification).await.unwrap()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        // Who had it is dead, and the drain has its turn.
        bench.store.elsewhere.lock().unwrap().clear();
        let rows = bench.store.states();
        assert!(rows.len() == 1 && rows[0].0 != id && rows[0].0.contains(kept), "{rows:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_fresh_delivery_is_announced_although_a_stale_one_of_the_same_is_being_held() {
    let bench = Bench::new();
    let fresh = Notification::payment();
    let stale = fresh.clone().set("notify_time", "2026-11-21 10:15:32");
    let key = Key { subject: fresh.trade_no().to_owned(), id: fresh.event_id("payment.succeeded") };
    bench.store.elsewhere.lock().unwrap().insert(key);
    let held = bench.deliver(&stale);
    settle().await;
    let announced = bench.deliver(&fresh);
    settle().await;
    assert!(!held.is_finished() && !announced.is_finished());
    bench.store.elsewhere.lock().unwrap().clear();
    assert!(matches!(held.await.unwrap(), Reply::Rejected));
    bench.broker.batch().await.confirm_all().await;
    assert!(is_success(&announced.await.unwrap()));
}

#[tokio::test(start_paused = true)]
async fn a_late_event_that_another_replica_has_kept_as_a_payment_stays_that_one_event() {
    let bench = Bench::new();
    let payment = Notification::payment();
    let id = payment.event_id("payment.succeeded");
    bench.broker.set(Link::Down);
    assert!(is_unavailable(&bench.deliver(&payment).await.unwrap()));
    assert_eq!(bench.store.states(), [(id.clone(), "deferred")]);
    let key = Key { subject: payment.trade_no().to_owned(), id: id.clone() };
    bench.store.elsewhere.lock().unwrap().insert(key);
    bench.clock.set(bench.clock.now().plus(Duration::from_secs(40 * 86_400)));
    let late = payment.clone().set("notify_time", "2027-01-02 10:15:32");
    assert!(is_unavailable(&bench.deliver(&late).await.unwrap()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.store.states(), [(id.clone(), "deferred")]);
    // And behind a stale one, which is held meanwhile.
    for reply in [bench.deliver(&payment), bench.deliver(&late)] {
        assert!(is_unavailable(&reply.await.unwrap()));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.states(), ["deferred", "held"]);
    assert!(bench.store.states().contains(&(id, "deferred")));
}

#[tokio::test(start_paused = true)]
async fn a_fresh_delivery_is_kept_though_its_time_is_over_before_the_stale_one_ahead_is_held() {
    let bench = Bench::new();
    let fresh = Notification::payment();
    let stale = fresh.clone().set("notify_time", "2026-11-21 10:15:32");
    let id = fresh.event_id("payment.succeeded");
    let key = Key { subject: fresh.trade_no().to_owned(), id: id.clone() };
    bench.store.elsewhere.lock().unwrap().insert(key);
    let replies = [bench.deliver(&stale), bench.deliver(&fresh)];
    for reply in replies {
        assert!(is_unavailable(&reply.await.unwrap()));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut states = bench.states();
    states.sort_unstable();
    assert_eq!(states, ["deferred", "held"]);
    assert!(bench.store.states().contains(&(id, "deferred")));
}

#[tokio::test(start_paused = true)]
async fn what_is_confirmed_here_and_not_recorded_yet_is_answered_whoever_has_the_claim() {
    let bench = Bench::new();
    let payment = Notification::payment();
    bench.store.away.store(true, Ordering::SeqCst);
    let reply = bench.deliver(&payment);
    bench.broker.batch().await.confirm_all().await;
    assert!(is_success(&reply.await.unwrap()));
    // The store is back, does not know of it, and has given it to another replica meanwhile.
    let key = Key { subject: payment.trade_no().to_owned(), id: payment.event_id("payment.succeeded") };
    bench.store.elsewhere.lock().unwrap().insert(key);
    bench.store.away.store(false, Ordering::SeqCst);
    let asked = Instant::now();
    assert!(is_success(&bench.deliver(&payment).await.unwrap()));
    assert!(asked.elapsed() < Duration::from_millis(50), "it was not parked: {:?}", asked.elapsed());
    assert!(bench.broker.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn a_finish_after_the_payment_is_a_finish_and_alone_it_is_the_payment() {
    let bench = Bench::new();
    let finish = Notification::payment().set("trade_status", "TRADE_FINISHED").set("notify_id", "other");
    assert_eq!(how(&bench.announce(&finish).await), Some((EventType::PaymentSucceeded, true)));
    let bench = Bench::new();
    bench.announce(&Notification::payment()).await;
    assert_eq!(how(&bench.announce(&finish).await), Some((EventType::TradeFinished, true)));
    assert_eq!(how(&bench.deliver(&finish).await.unwrap()), Some((EventType::TradeFinished, false)));
    assert_eq!(bench.states(), ["recorded", "recorded"]);
}

#[tokio::test(start_paused = true)]
async fn a_second_finish_of_an_old_payment_is_a_duplicate_and_frees_its_place() {
    let bench = Bench::new();
    let old = Notification::payment()
        .set("trade_status", "TRADE_FINISHED")
        .set("gmt_payment", "2026-01-05 10:15:31");
    let finish = |notify_id| old.clone().set("notify_id", notify_id);
    assert_eq!(how(&bench.announce(&finish("first")).await), Some((EventType::TradeFinished, true)));
    for notify_id in ["second", "first", "third"] {
        let reply = bench.deliver(&finish(notify_id)).await.unwrap();
        assert_eq!(how(&reply), Some((EventType::TradeFinished, false)), "{notify_id}");
    }
    assert!(bench.broker.is_quiet().await);
    assert_eq!(bench.states(), ["recorded"]);
    // The same while the first is in flight.
    let bench = Bench::new();
    let first = bench.deliver(&finish("first"));
    let batch = bench.broker.batch().await;
    let second = bench.deliver(&finish("second"));
    settle().await;
    batch.confirm_all().await;
    assert_eq!(how(&first.await.unwrap()), Some((EventType::TradeFinished, true)));
    assert_eq!(how(&second.await.unwrap()), Some((EventType::TradeFinished, false)));
    assert!(bench.broker.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn a_finish_that_comes_while_the_payment_is_in_flight_is_announced_after_it() {
    let bench = Bench::new();
    let finish = Notification::payment().set("trade_status", "TRADE_FINISHED").set("notify_id", "other");
    let paid = bench.deliver(&Notification::payment());
    let batch = bench.broker.batch().await;
    let (finished, again) = (bench.deliver(&finish), bench.deliver(&finish));
    settle().await;
    assert!(bench.broker.is_quiet().await, "it waits for the flight of the payment");
    batch.confirm_all().await;
    assert_eq!(how(&paid.await.unwrap()), Some((EventType::PaymentSucceeded, true)));
    let batch = bench.broker.batch().await;
    assert_eq!(batch.ids(), [finish.event_id("trade.finished")]);
    batch.confirm_all().await;
    let mut answers = [how(&finished.await.unwrap()), how(&again.await.unwrap())];
    answers.sort();
    let finished = |confirmed| Some((EventType::TradeFinished, confirmed));
    assert_eq!(answers, [finished(false), finished(true)]);
    assert_eq!(bench.states(), ["recorded", "recorded"]);
}

#[tokio::test(start_paused = true)]
async fn a_payment_follows_its_finish_that_is_being_announced_in_its_place() {
    let bench = Bench::new();
    let finish = Notification::payment().set("trade_status", "TRADE_FINISHED").set("notify_id", "other");
    let finished = bench.deliver(&finish);
    let batch = bench.broker.batch().await;
    let (paid, again) = (bench.deliver(&Notification::payment()), bench.deliver(&finish));
    settle().await;
    batch.confirm_all().await;
    assert_eq!(how(&finished.await.unwrap()), Some((EventType::PaymentSucceeded, true)));
    for reply in [paid, again] {
        assert_eq!(how(&reply.await.unwrap()), Some((EventType::PaymentSucceeded, false)));
    }
    assert!(bench.broker.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn a_payment_older_than_the_retention_is_late() {
    let bench = Bench::new();
    let late = Notification::payment()
        .set("gmt_payment", "2026-10-01 10:15:31")
        .set("gmt_create", "2026-10-01 10:15:30")
        .trade("2026100122001427340000000000");
    assert_eq!(how(&bench.announce(&late).await), Some((EventType::PaymentLate, true)));
    assert_eq!(how(&bench.deliver(&late).await.unwrap()), Some((EventType::PaymentLate, false)));
}

#[tokio::test(start_paused = true)]
async fn a_stale_delivery_is_success_if_recorded_and_held_if_not() {
    let bench = Bench::new();
    bench.announce(&Notification::payment()).await;
    let before = bench.clock.now();
    bench.clock.set(before.plus(Duration::from_secs(25 * 3600)));
    assert!(is_success(&bench.deliver(&Notification::payment()).await.unwrap()));
    let other = Notification::payment().trade("2026112322001427340000000002");
    assert!(matches!(bench.deliver(&other).await.unwrap(), Reply::Rejected));
    assert!(bench.broker.is_quiet().await);
    assert_eq!((bench.outcomes("held"), bench.count("held_total{reason=\"stale\"}")), (1.0, 1.0));
    let rows = bench.store.rows.lock().unwrap();
    let held = rows.values().find_map(|kind| if let Kind::Holding(held) = kind { Some(held) } else { None });
    assert_eq!(held.map(|held| held.body.clone()), Some(other.body()));
}

#[tokio::test(start_paused = true)]
async fn what_acceptance_refuses_is_held_with_its_body_and_nothing_is_published() {
    let bench = Bench::new();
    for (n, (notification, reason)) in [
        (Notification::payment().set("seller_id", "2088000000000000"), "seller"),
        (Notification::payment().set("total_amount", "8e1"), "grammar"),
        (Notification::payment().set("subject", "x&refund_fee=9.00"), "ambiguous"),
    ]
    .into_iter()
    .enumerate()
    {
        let notification = notification.set("notify_id", format!("n{n}"));
        assert!(matches!(bench.deliver(&notification).await.unwrap(), Reply::Rejected));
        assert_eq!(bench.count(&format!("held_total{{reason=\"{reason}\"}}")), 1.0);
    }
    // Another seller's, whose buyer wrote `x&seller_id=OURS&subject=y`: the same bytes are signed.
    let email = "s@example.com&seller_id=2088000000000000&subject=x";
    let moved = Notification::payment().set("seller_email", email).set("subject", "y").set("notify_id", "n3");
    assert!(matches!(bench.deliver(&moved).await.unwrap(), Reply::Rejected));
    assert_eq!(bench.count("held_total{reason=\"ambiguous\"}"), 2.0);
    assert_eq!(bench.states(), ["held"; 4]);
    assert!(bench.broker.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn what_waits_grows_old_while_the_store_is_away() {
    let bench = Bench::new();
    let kept_at = Some(bench.clock.now());
    *bench.store.tally.lock().unwrap() =
        Tally { deferred: 1, oldest_at: kept_at, oldest_payment: kept_at, ..Tally::default() };
    bench.gateway.show_backlog().await;
    let seen = || [bench.count("unannounced_last_retry_seconds"), bench.count("backlog_oldest_seconds")];
    let [last_retry, oldest] = seen();
    assert!(last_retry.is_finite() && bench.count("store_up") == 1.0);
    bench.store.away.store(true, Ordering::SeqCst);
    bench.clock.set(bench.clock.now().plus(Duration::from_secs(3600)));
    bench.gateway.show_backlog().await;
    assert_eq!(seen(), [last_retry - 3600.0, oldest + 3600.0]);
    assert_eq!((bench.count("store_up"), bench.count("backlog_events{state=\"deferred\"}")), (0.0, 1.0));
}

#[tokio::test(start_paused = true)]
async fn another_reading_of_what_is_held_does_not_take_its_place_and_a_redelivery_does() {
    let bench = Bench::new();
    let genuine = Notification::payment().set("subject", "x&total_amount=9999.00&total_b=");
    let resplit = Notification::payment().set("subject", "x").set("total_amount", "9999.00");
    let resplit = resplit.set("total_b", "&total_amount=88.88");
    let again = genuine.clone().set("notify_time", "2026-11-23 10:16:02");
    for notification in [&genuine, &resplit, &again] {
        assert!(matches!(bench.deliver(notification).await.unwrap(), Reply::Rejected));
    }
    let rows: Vec<_> = bench.store.rows.lock().unwrap().values().cloned().collect();
    let held: Vec<_> = rows
        .into_iter()
        .filter_map(|kind| if let Kind::Holding(held) = kind { Some(held.body) } else { None })
        .collect();
    assert_eq!(held.len(), 2);
    for body in [resplit.body(), again.body()] {
        assert!(held.contains(&body));
    }
    assert!(bench.broker.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn a_reading_that_cannot_be_released_takes_the_place_of_nothing_that_is_held() {
    let ours = Notification::payment().set("out_unknown", "1");
    for (genuine, age) in [(ours.clone().set("seller_id", "2088000000000042"), 0), (ours, 25)] {
        let bench = Bench::new();
        bench.clock.set(bench.clock.now().plus(Duration::from_secs(age * 3600)));
        assert!(matches!(bench.deliver(&genuine).await.unwrap(), Reply::Rejected));
        // The same signed bytes, one border gone; there may be tens of thousands of such readings.
        let gone =
            [("notify_type", "out_trade_no"), ("gmt_create", "gmt_payment"), ("out_trade_no", "out_unknown")];
        for (swallower, gone) in gone {
            let value = format!("{}&{gone}={}", genuine.text(swallower), genuine.text(gone));
            let swallowed = genuine.clone().without(gone).set(swallower, value);
            assert!(matches!(bench.deliver(&swallowed).await.unwrap(), Reply::Rejected));
        }
        let rows: Vec<_> = bench.store.rows.lock().unwrap().values().cloned().collect();
        let bodies = rows.into_iter().filter_map(|kind| match kind {
            Kind::Holding(held) => Some(held.body),
            Kind::Record(_) | Kind::Deferral(_) => None,
        });
        let bodies: Vec<_> = bodies.collect();
        assert!(bodies.len() == 2 && bodies.contains(&genuine.body()), "{age}");
        assert!(bench.broker.is_quiet().await);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_authentic_is_rejected_and_leaves_nothing() {
    let bench = Bench::new();
    let mut forged = Notification::payment().body();
    let at = forged.windows(6).position(|window| window == b"88.88&").unwrap();
    forged[at] = b'9';
    assert!(matches!(bench.deliver_body(forged).await.unwrap(), Reply::Rejected));
    assert_eq!(
        (bench.outcomes("rejected"), bench.count("rejections_total{reason=\"signature\"}")),
        (1.0, 1.0)
    );
    assert!(bench.store.is_empty() && bench.broker.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn three_stages_of_a_trade_are_three_events_and_two_refunds_are_two() {
    let bench = Bench::new();
    let refund = |number: &str| {
        Notification::payment()
            .set("gmt_refund", "2026-11-23 11:00:00.125")
            .set("refund_fee", "10.00")
            .set("out_biz_no", number)
            .set("notify_id", number)
    };
    let finish = Notification::payment().set("trade_status", "TRADE_FINISHED").set("notify_id", "f");
    let mut types = Vec::new();
    for notification in [Notification::payment(), refund("R1"), refund("R2"), finish] {
        let (event_type, confirmed) = how(&bench.announce(&notification).await).unwrap();
        assert!(confirmed);
        types.push(event_type.as_str());
    }
    assert_eq!(types, ["payment.succeeded", "payment.refunded", "payment.refunded", "trade.finished"]);
    assert_eq!(how(&bench.deliver(&refund("R1")).await.unwrap()), Some((EventType::PaymentRefunded, false)));
}

#[tokio::test(start_paused = true)]
async fn after_closing_what_waits_is_done_and_what_comes_is_refused() {
    let bench = Bench::new();
    let reply = bench.deliver(&Notification::payment());
    let batch = bench.broker.batch().await;
    bench.publication.close();
    let other = Notification::payment().trade("2026112322001427340000000002");
    assert!(is_unavailable(&bench.deliver(&other).await.unwrap()));
    batch.confirm_all().await;
    assert!(is_success(&reply.await.unwrap()));
    bench.publication.idle().await;
    assert_eq!(bench.states(), [State::Recorded.as_str()]);
    let _ = Timestamp::default();
    assert!(matches!(admission::admit(b"", &alipay::policy(), alipay::now()), Verdict::Rejected(..)));
}

/// On a shared store, whose claims are leases, and with somebody who waits for long.
fn leased() -> Bench {
    let bench = Bench::with(|config| {
        (config.answer_timeout, config.confirm_timeout) = (Duration::from_secs(60), Duration::from_secs(60));
    });
    *bench.store.lease.lock().unwrap() = Some(Duration::from_secs(15));
    bench
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_may_be_over_is_asked_for_anew_before_anything_is_published() {
    for (seconds, claims) in [(4, 1), (6, 2)] {
        let bench = leased();
        *bench.broker.slowness.lock().unwrap() = Duration::from_secs(seconds);
        assert!(is_success(&bench.announce(&Notification::payment()).await));
        assert_eq!(*bench.store.claims.lock().unwrap(), claims, "{seconds}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_confirm_is_given_up_before_the_lease_of_its_event_is_over() {
    let bench = leased();
    let _reply = bench.deliver(&Notification::payment());
    let _batch = bench.broker.batch().await;
    tokio::time::sleep(Duration::from_millis(11_900)).await;
    assert!(bench.store.is_empty());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(bench.states(), ["in_doubt"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_in_doubt_is_leased_anew_for_as_long_as_its_confirm_is_waited_for() {
    let bench = leased();
    let payments = [1, 2].map(|n| Notification::payment().trade(&format!("202611232200142734000000000{n}")));
    let _replies: Vec<_> = payments.iter().map(|payment| bench.deliver(payment)).collect();
    let batch = bench.broker.batch().await;
    assert_eq!(batch.messages.len(), 2);
    let renewed = || std::mem::take(&mut *bench.store.renewed.lock().unwrap());
    // In doubt 12 s after its claim; blocked, until its connection goes.
    tokio::time::sleep(Duration::from_secs(12 + 29)).await;
    assert!(renewed().is_empty());
    bench.broker.set(Link::Blocked(1));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(renewed().iter().map(Vec::len).collect::<Vec<_>>(), [2]);
    // One is confirmed late; the other's minute is not over, however long the broker blocks.
    batch.say(&[(0, Confirm::Ack(None))]).await;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(renewed().iter().map(Vec::len).collect::<Vec<_>>(), [1]);
    }
    // A store that is away is asked again soon, so that a lease of a minute does not end.
    bench.store.away.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(40)).await;
    bench.store.away.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(renewed().len(), 1);
    // Its minute is over: it is anybody's.
    bench.broker.set(Link::Up(1));
    tokio::time::sleep(Duration::from_secs(90)).await;
    renewed();
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert!(renewed().is_empty());
    // Where claims are the process's own there is nothing to renew.
    let alone = Bench::new();
    let _reply = alone.deliver(&payments[0]);
    let _batch = alone.broker.batch().await;
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert!(alone.store.renewed.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_announced_as_another_event_or_held_gives_its_claim_back() {
    let bench = leased();
    let paid = Notification::payment();
    assert!(is_success(&bench.announce(&paid).await));
    assert!(bench.store.released.lock().unwrap().is_empty());
    assert!(is_success(&bench.announce(&paid.set("total_amount", "99.00")).await));
    let stale = Notification::payment().trade("2026112222001427340000000002");
    let stale = stale.set("notify_time", "2026-11-21 10:15:32");
    assert!(!is_success(&bench.deliver(&stale).await.unwrap()));
    let released = std::mem::take(&mut *bench.store.released.lock().unwrap());
    let ids: Vec<String> = released.into_iter().map(|key| key.id).collect();
    let expected = [Notification::payment(), stale].map(|paid| paid.event_id("payment.succeeded"));
    assert_eq!(ids, expected);
}
