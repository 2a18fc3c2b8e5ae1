//! What the AMQP client makes of answers that a real broker gives too rarely to wait for: the raw outcome of
//! each publish, before anybody attributes anything. Against the scripted peer.

use alipay_notify_gateway::broker::{Broker as _, Confirm, Confirms, Link, Settled};

use crate::support::amqp_peer::{Peer, Reply, Script};
use crate::support::broker::{Connected, at, batch, config, message, queue, settle, settle_all};

const EXCHANGE: &str = "payments";

async fn connected(script: Script) -> (Peer, Connected) {
    let peer = Peer::start(script).await;
    let broker = Connected::start(config(&peer.uri(), EXCHANGE));
    broker.up().await;
    (peer, broker)
}

async fn settle_some(confirms: &mut Box<dyn Confirms>, count: usize) -> Vec<(usize, Confirm)> {
    let mut settled: Vec<Settled> = Vec::new();
    while settled.len() < count {
        settled.extend(settle(confirms).await);
    }
    settled.sort_by_key(|settled| settled.index);
    settled.into_iter().map(|settled| (settled.index, settled.confirm)).collect()
}

fn ack() -> Confirm {
    Confirm::Ack(None)
}

fn ack_with(id: &str) -> Confirm {
    Confirm::Ack(Some(id.to_owned()))
}

#[tokio::test]
async fn a_returned_message_comes_with_whichever_confirm_is_next() {
    let replies = vec![Reply::Return(1), Reply::Return(3), Reply::ack(3)];
    let (peer, broker) = connected(Script::after(3, replies)).await;
    let mut confirms = broker.publisher().await.publish(batch(3), at());
    assert_eq!(settle_some(&mut confirms, 1).await, [(2, ack_with("1"))]);
    assert_eq!(confirms.settle_now(), [], "nothing was said of the others");

    let published = peer.published(3).await;
    peer.say(&published[0], vec![Reply::ack(2)]);
    assert_eq!(settle_some(&mut confirms, 1).await, [(1, ack_with("3"))]);
    peer.say(&published[0], vec![Reply::ack(1)]);
    assert_eq!(settle_some(&mut confirms, 1).await, [(0, ack())]);
    assert_eq!(confirms.settle().await, [], "all have settled");
}

#[tokio::test]
async fn a_return_before_another_ones_ack_is_reported_with_that_ack() {
    let replies = vec![Reply::Return(2), Reply::ack(1), Reply::ack(2)];
    let (_peer, broker) = connected(Script::after(3, replies)).await;
    let mut confirms = broker.publisher().await.publish(batch(3), at());
    assert_eq!(settle_some(&mut confirms, 2).await, [(0, ack_with("2")), (1, ack())]);
    assert_eq!(confirms.settle_now(), [], "nothing was said of the third");
}

#[tokio::test]
async fn a_coalesced_ack_settles_all_and_one_of_them_carries_the_return() {
    let (_peer, broker) =
        connected(Script::after(8, vec![Reply::Return(2), Reply::ack_up_to(6), Reply::ack_up_to(8)])).await;
    let mut confirms = broker.publisher().await.publish(batch(8), at());
    let settled = settle_all(&mut confirms).await;
    assert_eq!(settled.iter().filter(|confirm| **confirm == ack_with("2")).count(), 1, "{settled:?}");
    assert_eq!(settled.iter().filter(|confirm| **confirm == ack()).count(), 7, "{settled:?}");
    assert_eq!(settled[6..], [ack(), ack()], "the return was with the first six");
}

#[tokio::test]
async fn acks_in_any_order_settle_their_own_publishes() {
    let replies = vec![Reply::ack(3), Reply::Return(1), Reply::ack(1), Reply::nack(2)];
    let (_peer, broker) = connected(Script::after(3, replies)).await;
    let mut confirms = broker.publisher().await.publish(batch(3), at());
    assert_eq!(settle_all(&mut confirms).await, [ack_with("1"), Confirm::Nack(None), ack()]);
}

#[tokio::test]
async fn a_nack_carries_a_return_as_an_ack_does() {
    let replies = vec![Reply::Return(1), Reply::Nack { tag: 2, multiple: true }, Reply::ack(3)];
    let (_peer, broker) = connected(Script::after(3, replies)).await;
    let mut confirms = broker.publisher().await.publish(batch(3), at());
    let settled = settle_all(&mut confirms).await;
    assert!(settled[..2].contains(&Confirm::Nack(Some("1".to_owned()))), "{settled:?}");
    assert!(settled[..2].contains(&Confirm::Nack(None)), "{settled:?}");
    assert_eq!(settled[2], ack());
}

#[tokio::test]
async fn a_closed_channel_loses_what_it_had_and_nothing_else() {
    let replies = vec![Reply::ack(1), Reply::CloseChannel(404, "NOT_FOUND - no exchange")];
    let (peer, broker) = connected(Script::after(3, replies)).await;
    let mut publisher = broker.publisher().await;
    let mut others = broker.publisher().await;
    let mut confirms = publisher.publish(batch(3), at());
    assert_eq!(settle_all(&mut confirms).await, [ack(), Confirm::Lost, Confirm::Lost]);
    assert!(!publisher.is_usable());
    let mut late = publisher.publish(batch(1), at());
    assert_eq!(settle_all(&mut late).await, [Confirm::Unsent]);

    assert_eq!(*broker.amqp.link().borrow(), Link::Up(1), "the connection is as good as before");
    peer.change(Script::acking());
    let mut confirms = others.publish(batch(2), at());
    assert_eq!(settle_all(&mut confirms).await, [ack(), ack()]);
    assert_eq!(peer.seen().connections, 1);
}

#[tokio::test]
async fn publishes_go_out_in_their_order_and_mandatory() {
    let (peer, broker) = connected(Script::acking()).await;
    let mut publisher = broker.publisher().await;
    for _ in 0..3 {
        settle_all(&mut publisher.publish(batch(64), at())).await;
    }
    let published = peer.published(192).await;
    for (at, published) in published.iter().enumerate() {
        assert_eq!((published.tag, published.id()), (at as u64 + 1, (at % 64 + 1).to_string()));
        assert!(published.mandatory);
        assert_eq!(published.exchange, EXCHANGE);
        assert_eq!(published.properties.delivery_mode(), &Some(2));
    }
}

#[tokio::test]
async fn a_message_that_amqp_cannot_carry_is_unsent_and_takes_no_tag() {
    let (peer, broker) = connected(Script::acking()).await;
    let messages = vec![message(&"i".repeat(256), "payment.succeeded"), message("2", "payment.succeeded")];
    let mut confirms = broker.publisher().await.publish(messages, at());
    assert_eq!(settle_all(&mut confirms).await, [Confirm::Unsent, ack()]);
    assert_eq!(peer.published(1).await[0].tag, 1);
}

#[tokio::test]
async fn a_channel_outlives_its_publisher_until_its_confirms_are_in() {
    let (peer, broker) = connected(Script::silent()).await;
    let mut confirms = broker.publisher().await.publish(batch(2), at());
    assert_eq!(confirms.settle_now(), [], "this starts them; the publisher is gone already");
    let published = peer.published(2).await;
    peer.say(&published[0], vec![Reply::ack_up_to(2)]);
    assert_eq!(settle_all(&mut confirms).await, [ack(), ack()]);
}

#[tokio::test]
async fn blocked_is_a_state_in_which_nothing_is_sent_and_nothing_is_lost() {
    let (peer, broker) = connected(Script::acking()).await;
    let mut publisher = broker.publisher().await;
    peer.say_on(1, 0, vec![Reply::Block]);
    assert_eq!(broker.link(|link| *link == Link::Blocked(1)).await, Link::Blocked(1));
    assert_eq!((broker.gauge("broker_up"), broker.gauge("broker_blocked")), (1.0, 1.0));

    let mut confirms = publisher.publish(batch(2), at());
    assert_eq!(confirms.settle_now(), []);
    let refused = broker.amqp.open().await.err().unwrap();
    assert!(refused.message.contains("within 1s"), "{refused}");
    assert_eq!(*broker.amqp.link().borrow(), Link::Blocked(1), "a blocked connection is not replaced");
    assert_eq!(peer.seen().published.len(), 0);

    peer.say_on(1, 0, vec![Reply::Unblock]);
    assert_eq!(settle_all(&mut confirms).await, [ack(), ack()]);
    assert_eq!(broker.up().await, Link::Up(1));
    assert_eq!(broker.gauge("broker_blocked"), 0.0);
}

#[tokio::test]
async fn what_was_in_flight_is_lost_with_the_connection_and_a_new_one_is_made() {
    for end in
        [Reply::Cut, Reply::CloseConnection(320, "CONNECTION_FORCED"), Reply::CloseConnection(200, "OK")]
    {
        let (peer, broker) = connected(Script::after(2, vec![Reply::ack(1), end.clone()])).await;
        let mut publisher = broker.publisher().await;
        let mut confirms = publisher.publish(batch(2), at());
        let settled = settle_all(&mut confirms).await;
        assert_eq!(settled, [ack(), Confirm::Lost], "{end:?}");
        assert!(!publisher.is_usable(), "{end:?}");
        broker.link(|link| *link == Link::Up(2)).await;
        peer.change(Script::acking());
        let mut confirms = broker.publisher().await.publish(batch(2), at());
        assert_eq!(settle_all(&mut confirms).await, [ack(), ack()], "{end:?}");
        peer.until(|seen| seen.ended == 1).await;
    }
}

#[tokio::test]
async fn a_connection_that_opens_no_channel_in_time_is_replaced() {
    let (peer, broker) = connected(Script::acking()).await;
    let mut publisher = broker.publisher().await;
    let mut confirms = {
        peer.change(Script::without_confirm_mode());
        publisher.publish(batch(1), at())
    };
    assert_eq!(confirms.settle_now(), []);
    peer.published(1).await;
    assert!(broker.amqp.open().await.is_err());
    assert_eq!(settle_all(&mut confirms).await, [Confirm::Lost], "what was in flight on it is lost with it");
    assert_eq!(broker.link(|link| *link == Link::Up(2)).await, Link::Up(2));
    peer.until(|seen| seen.ended == 1).await;
}

#[tokio::test]
async fn a_peer_that_never_says_hello_is_let_go() {
    let peer = Peer::start(Script::mute()).await;
    let broker = Connected::start(config(&peer.uri(), EXCHANGE));
    // lapin alone would keep this connection, and a thread with it, for ever.
    peer.until(|seen| seen.ended >= 1).await;
    assert_eq!(*broker.amqp.link().borrow(), Link::Down);
    peer.change(Script::acking());
    broker.up().await;
}

#[tokio::test]
async fn addresses_are_tried_in_turn() {
    let peer = Peer::start(Script::acking()).await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let broker = Connected::start(config(&format!("amqp://{nobody},{}", peer.uri()), EXCHANGE));
    broker.up().await;
}

#[tokio::test]
async fn everything_is_declared_and_each_refusal_is_told_and_lived_with() {
    let script = Script::silent()
        .refusing("classic", 406, "PRECONDITION_FAILED - inequivalent arg 'x-queue-type'")
        .refusing("forbidden", 403, "ACCESS_REFUSED - access to queue 'forbidden' refused")
        .refusing("missing", 404, "NOT_FOUND - no queue 'missing'");
    let peer = Peer::start(script).await;
    let mut config = config(&peer.uri(), EXCHANGE);
    config.queues = vec![
        queue("orders", &["payment.succeeded", "trade.#"]),
        queue("classic", &["payment.late"]),
        queue("forbidden", &["payment.conflict"]),
    ];
    config.required_queues = ["missing", "orders", "theirs"].map(str::to_owned).to_vec();
    let broker = Connected::start(config);
    broker.up().await;
    assert_eq!(
        peer.seen().asked,
        [
            "exchange payments topic durable",
            "queue orders quorum durable",
            "bind orders payments payment.succeeded",
            "bind orders payments trade.#",
            "queue classic quorum durable",
            "bind classic payments payment.late",
            "queue forbidden quorum durable",
            "queue missing passive",
            "queue theirs passive",
        ]
    );
    assert_eq!(
        broker.amqp.problems().into_iter().map(|(_, problem)| problem).collect::<Vec<_>>(),
        [
            r#"amqp.queues "classic": PRECONDITION_FAILED - inequivalent arg 'x-queue-type'"#,
            r#"amqp.queues "forbidden": ACCESS_REFUSED - access to queue 'forbidden' refused"#,
            r#"amqp.required_queues "missing": does not exist"#,
        ]
    );
    let mut confirms = broker.publisher().await.publish(batch(1), at());
    assert_eq!(confirms.settle_now(), []);
    peer.published(1).await;
}

#[tokio::test]
async fn without_its_exchange_a_connection_is_no_link() {
    let refusal = "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'payments'";
    let peer = Peer::start(Script::silent().refusing(EXCHANGE, 406, refusal)).await;
    let broker = Connected::start(config(&peer.uri(), EXCHANGE));
    peer.until(|seen| seen.connections == 3).await;
    assert_eq!(*broker.amqp.link().borrow(), Link::Down);
    assert_eq!(broker.amqp.problems()[0].1, format!("amqp.exchange \"payments\": {refusal}"));
    assert!(broker.amqp.open().await.is_err());
    peer.change(Script::acking());
    broker.up().await;
    assert_eq!(broker.amqp.problems(), []);
}

#[tokio::test]
async fn who_may_not_declare_the_exchange_may_still_publish_to_it() {
    let peer = Peer::start(Script::acking().refusing_to_declare(EXCHANGE, 403, "ACCESS_REFUSED")).await;
    let broker = Connected::start(config(&peer.uri(), EXCHANGE));
    broker.up().await;
    assert!(broker.amqp.problems()[0].1.contains("its type is not known"), "{:?}", broker.amqp.problems());
}

#[tokio::test]
async fn closing_says_goodbye_even_if_the_peer_does_not_answer() {
    for answers in [true, false] {
        let (peer, broker) = connected(Script::silent()).await;
        let mut confirms = broker.publisher().await.publish(batch(1), at());
        assert_eq!(confirms.settle_now(), []);
        peer.published(1).await;
        if !answers {
            // Nothing can be written to a blocked connection, a goodbye neither.
            peer.say_on(1, 0, vec![Reply::Block]);
            broker.link(|link| *link == Link::Blocked(1)).await;
        }
        broker.amqp.close().await;
        assert_eq!(settle_all(&mut confirms).await, [Confirm::Lost]);
        assert_eq!(*broker.amqp.link().borrow(), Link::Down);
        assert_eq!(broker.gauge("broker_up"), 0.0);
        let seen = peer.until(|seen| seen.ended == 1).await;
        assert_eq!(seen.connections, 1, "and no other is made");
    }
}
