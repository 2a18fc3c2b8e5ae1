//! The AMQP client against a real RabbitMQ (`AMQP_URL`): what goes over the wire, what comes back, and what
//! stands at the broker afterwards.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use alipay_notify_gateway::broker::amqp::{Looked, check};
use alipay_notify_gateway::broker::{Broker as _, Confirm, Link};
use lapin::options::{
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};

use crate::support::broker::{Connected, at, batch, config, message, queue, settle_all};
use crate::support::program::{amqp_url, unique};
use crate::support::proxy::Proxy;
use crate::support::queue::Queue;
use crate::support::{PATIENCE, eventually};

/// A connection of the test's own, to look at the broker with.
async fn operator() -> (Connection, Channel) {
    let connection = Connection::connect(&amqp_url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

async fn delete_exchange(channel: &Channel, name: &str) {
    channel.exchange_delete(name.into(), ExchangeDeleteOptions::default()).await.unwrap();
}

/// `AMQP_URL` with the place of the proxy.
pub fn through(proxy: &Proxy) -> String {
    let (scheme, rest) = split_url();
    let user = rest.rsplit_once('@').map(|(user, _)| format!("{user}@")).unwrap_or_default();
    let vhost = rest.split_once('/').map(|(_, vhost)| format!("/{vhost}")).unwrap_or_default();
    format!("{scheme}://{user}127.0.0.1:{}{vhost}", proxy.port())
}

pub fn place() -> String {
    let (scheme, rest) = split_url();
    let place = rest.rsplit('@').next().unwrap().split('/').next().unwrap().to_owned();
    let port = if scheme == "amqps" { 5671 } else { 5672 };
    if place.contains(':') { place } else { format!("{place}:{port}") }
}

fn split_url() -> (String, String) {
    let url = amqp_url();
    let (scheme, rest) = url.split_once("://").unwrap();
    (scheme.to_owned(), rest.to_owned())
}

#[tokio::test]
async fn an_event_arrives_as_the_contract_says() {
    let exchange = unique("wire");
    let mut consumer = Queue::bound(&exchange, &["payment.#"]).await;
    let broker = Connected::start(config(&amqp_url(), &exchange));
    let message =
        message("2021000000000001.2026112322001427340000000000.payment.succeeded", "payment.succeeded");
    let mut confirms = broker.publisher().await.publish(vec![message.clone()], at());
    assert_eq!(settle_all(&mut confirms).await, [Confirm::Ack(None)]);

    let delivery = consumer.next().await.delivery;
    assert_eq!(
        (delivery.exchange.as_str(), delivery.routing_key.as_str()),
        (&*exchange, "payment.succeeded")
    );
    assert_eq!(delivery.data, message.body.as_bytes());
    let properties = &delivery.properties;
    let text = |value: &Option<lapin::types::ShortString>| value.as_ref().unwrap().to_string();
    assert_eq!(text(properties.message_id()), message.id);
    assert_eq!(text(properties.kind()), "payment.succeeded");
    assert_eq!(text(properties.content_type()), "application/json");
    assert_eq!(text(properties.app_id()), "alipay-notify-gateway");
    assert_eq!(properties.delivery_mode(), &Some(2));
    assert_eq!(properties.timestamp(), &Some(1_795_400_131));
    let headers = properties.headers().as_ref().unwrap().inner();
    let headers: Vec<(&str, String)> = headers
        .iter()
        .map(|(name, value)| {
            let AMQPValue::LongString(value) = value else { panic!("{name} is {value:?}") };
            (name.as_str(), value.to_string())
        })
        .collect();
    let expected = [
        ("cloudEvents_dataschema", "urn:alipay-notify-gateway:event:payment.succeeded:v1"),
        ("cloudEvents_id", &message.id),
        ("cloudEvents_source", "urn:alipay:app:2021000000000001"),
        ("cloudEvents_specversion", "1.0"),
        ("cloudEvents_subject", "2026112322001427340000000000"),
        ("cloudEvents_time", "2026-11-23T10:15:31+08:00"),
        ("cloudEvents_type", "payment.succeeded"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("x-dedup", "unchecked"),
        ("x-digest", "0123456789abcdef"),
        ("x-environment", "sandbox"),
    ];
    assert_eq!(headers, expected.map(|(name, value)| (name, value.to_owned())));
    broker.amqp.close().await;
}

#[tokio::test]
async fn a_body_of_many_frames_arrives_whole() {
    let exchange = unique("large");
    let mut consumer = Queue::bound(&exchange, &["#"]).await;
    let broker = Connected::start(config(&amqp_url(), &exchange));
    let mut large = message("large", "payment.succeeded");
    large.body = format!(r#"{{"subject":"{}"}}"#, "年".repeat(60_000));
    let mut confirms = broker.publisher().await.publish(vec![large.clone()], at());
    assert_eq!(settle_all(&mut confirms).await, [Confirm::Ack(None)]);
    assert!(consumer.next().await.delivery.data == large.body.as_bytes());
}

#[tokio::test]
async fn every_unroutable_message_of_a_batch_is_named_by_one_confirm_of_it() {
    let exchange = unique("routes");
    let _consumer = Queue::bound(&exchange, &["payment.#"]).await;
    let broker = Connected::start(config(&amqp_url(), &exchange));
    let mut publisher = broker.publisher().await;
    for round in 0..40_usize {
        let kind =
            |at: usize| if (at * 7 + round).is_multiple_of(3) { "trade.closed" } else { "payment.late" };
        let batch: Vec<_> = (0..64).map(|at| message(&format!("{round}.{at}"), kind(at))).collect();
        let unroutable: BTreeSet<String> = batch
            .iter()
            .filter(|message| message.event_type == "trade.closed")
            .map(|message| message.id.clone())
            .collect();
        let settled = settle_all(&mut publisher.publish(batch, at())).await;
        let mut named = BTreeSet::new();
        for confirm in settled {
            let Confirm::Ack(returned) = confirm else { panic!("{confirm:?}") };
            if let Some(id) = returned {
                assert!(named.insert(id), "named twice");
            }
        }
        assert_eq!(named, unroutable, "round {round}");
    }
}

#[tokio::test]
async fn the_topology_stands_before_the_link_is_up() {
    let (exchange, orders, missing) = (unique("topology"), unique("orders"), unique("missing"));
    let mut config = config(&amqp_url(), &exchange);
    config.queues = vec![queue(&orders, &["payment.succeeded", "trade.#"])];
    config.required_queues = vec![missing.clone(), orders.clone()];
    let problem = format!("amqp.required_queues {missing:?}: does not exist");
    let Looked { seen, problems } = check(&config).await.unwrap();
    assert_eq!(seen[0], format!("exchange {exchange:?} is not there: `serve` will declare it"));
    assert_eq!(seen[1], format!("queue {orders:?} is not there: `serve` will declare it"));
    assert!(seen.last().unwrap().contains("delivered 20 times"), "{seen:?}");
    assert_eq!(problems, std::slice::from_ref(&problem));

    let broker = Connected::start(config.clone());
    let mut publisher = broker.publisher().await;
    let batch =
        vec![message("1", "payment.succeeded"), message("2", "trade.closed"), message("3", "payment.late")];
    let settled = settle_all(&mut publisher.publish(batch, at())).await;
    assert_eq!(settled.iter().filter(|confirm| **confirm == Confirm::Ack(None)).count(), 2, "{settled:?}");
    assert_eq!(broker.amqp.problems(), [("topology", problem.clone())]);
    let Looked { seen, problems } = check(&config).await.unwrap();
    assert_eq!(seen[0], format!("exchange {exchange:?} is there"));
    assert_eq!(seen[1], format!("queue {orders:?} is there"));
    assert_eq!(problems, [problem]);

    // Declaring it again as what it should be is refused if it is anything else.
    let (_connection, channel) = operator().await;
    let mut quorum = FieldTable::default();
    quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(orders.as_str().into(), durable, quorum).await.unwrap();
    let topic = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let none = FieldTable::default();
    channel.exchange_declare(exchange.as_str().into(), ExchangeKind::Topic, topic, none).await.unwrap();
    channel.queue_delete(orders.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    delete_exchange(&channel, &exchange).await;
}

#[tokio::test]
async fn what_is_there_and_not_as_it_should_be_is_a_problem_and_is_left_as_it_is() {
    let (exchange, orders) = (unique("odd"), unique("classic"));
    let (_connection, channel) = operator().await;
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let direct = async || {
        let none = FieldTable::default();
        channel.exchange_declare(exchange.as_str().into(), ExchangeKind::Direct, durable, none).await
    };
    direct().await.unwrap();
    let classic = async || {
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(orders.as_str().into(), durable, FieldTable::default()).await
    };
    classic().await.unwrap();
    let mut config = config(&amqp_url(), &exchange);
    config.queues = vec![queue(&orders, &["#"])];
    let Looked { seen, problems } = check(&config).await.unwrap();
    assert!(seen[0].ends_with("is there") && seen[1].ends_with("is there"), "{seen:?}");
    for (problem, key, name, odd) in [
        (&problems[0], "amqp.exchange", &exchange, "inequivalent arg 'type'"),
        (&problems[1], "amqp.queues", &orders, "inequivalent arg 'x-queue-type'"),
    ] {
        assert!(problem.starts_with(key) && problem.contains(name) && problem.contains(odd), "{problem}");
    }
    assert_eq!(problems.len(), 2, "{problems:?}");
    direct().await.unwrap();
    classic().await.unwrap();
    channel.queue_delete(orders.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    delete_exchange(&channel, &exchange).await;
}

#[tokio::test]
async fn an_exchange_of_another_type_keeps_the_link_down_until_it_is_gone() {
    let exchange = unique("direct");
    let (_connection, channel) = operator().await;
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let none = FieldTable::default();
    channel.exchange_declare(exchange.as_str().into(), ExchangeKind::Direct, durable, none).await.unwrap();
    let broker = Connected::start(config(&amqp_url(), &exchange));
    let problem = async {
        while broker.amqp.problems().is_empty() {
            tokio::task::yield_now().await;
        }
        broker.amqp.problems().remove(0).1
    };
    let problem = problem.await;
    assert!(problem.contains("inequivalent arg 'type'") && problem.contains(&exchange), "{problem}");
    assert_eq!(*broker.amqp.link().borrow(), Link::Down);
    delete_exchange(&channel, &exchange).await;
    broker.up().await;
    assert_eq!(broker.amqp.problems(), []);
    broker.amqp.close().await;
    delete_exchange(&channel, &exchange).await;
}

/// How many messages are in it, if it is there.
async fn depth(queue: &str) -> Option<u32> {
    let (_connection, channel) = operator().await;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let told = channel.queue_declare(queue.into(), passive, FieldTable::default()).await;
    told.ok().map(|queue| queue.message_count())
}

/// How many messages were in it.
async fn delete(queue: &str) -> u32 {
    let (_connection, channel) = operator().await;
    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap()
}

#[tokio::test]
async fn a_declared_queue_that_somebody_deletes_is_made_again_and_counted_and_a_new_one_is_not() {
    let (exchange, orders) = (unique("again"), unique("orders"));
    let mut config = config(&amqp_url(), &exchange);
    config.queues = vec![queue(&orders, &["payment.#"])];
    config.look_every = Duration::from_millis(50);
    let made_again = format!("queues_made_again_total{{queue=\"{orders}\"}}");
    let broker = Connected::start(config.clone());
    assert_eq!(broker.gauge(&made_again), 0.0, "the series is there from the start");
    let mut publisher = broker.publisher().await;
    assert_eq!(
        settle_all(&mut publisher.publish(batch(2), at())).await,
        [Confirm::Ack(None), Confirm::Ack(None)]
    );
    assert_eq!(broker.gauge(&made_again), 0.0, "the broker was fresh");

    assert_eq!(delete(&orders).await, 2);
    let counted = async || broker.gauge(&made_again) > 0.0;
    eventually("it is counted", counted).await;
    assert_eq!(depth(&orders).await, Some(0));
    // Two looks more, each of which puts a binding back.
    for _ in 0..2 {
        let (_connection, channel) = operator().await;
        let bound = (orders.as_str().into(), exchange.as_str().into(), "payment.#".into());
        channel.queue_unbind(bound.0, bound.1, bound.2, FieldTable::default()).await.unwrap();
        let mut is_bound = false;
        let patience = Instant::now() + PATIENCE;
        while !is_bound {
            assert!(Instant::now() < patience, "the binding does not come back");
            is_bound = settle_all(&mut publisher.publish(batch(1), at())).await == [Confirm::Ack(None)];
        }
    }
    assert_eq!((broker.gauge(&made_again), broker.amqp.problems()), (1.0, vec![]));
    assert_eq!(settle_all(&mut publisher.publish(batch(1), at())).await, [Confirm::Ack(None)]);
    broker.amqp.close().await;

    // A process of its own that finds it, and one that does not: it was gone before anybody looked.
    for is_there in [true, false] {
        let again = Connected::start(config.clone());
        again.up().await;
        assert_eq!(again.gauge(&made_again), 0.0, "there: {is_there}");
        again.amqp.close().await;
        delete(&orders).await;
    }
    delete_exchange(&operator().await.1, &exchange).await;
}

#[tokio::test]
async fn a_declared_queue_that_is_gone_after_a_reconnect_is_made_again_and_counted() {
    let (exchange, orders) = (unique("again"), unique("orders"));
    let proxy = Proxy::to(&place()).await;
    let mut config = config(&through(&proxy), &exchange);
    config.queues = vec![queue(&orders, &["payment.#"])];
    let broker = Connected::start(config);
    let made_again = format!("queues_made_again_total{{queue=\"{orders}\"}}");
    broker.link(|link| *link == Link::Up(1)).await;
    proxy.cut();
    broker.link(|link| *link == Link::Up(2)).await;
    assert_eq!(broker.gauge(&made_again), 0.0, "it was there");
    delete(&orders).await;
    proxy.cut();
    broker.link(|link| *link == Link::Up(3)).await;
    assert_eq!((broker.gauge(&made_again), depth(&orders).await), (1.0, Some(0)));
    broker.amqp.close().await;
    delete(&orders).await;
    delete_exchange(&operator().await.1, &exchange).await;
}

#[tokio::test]
async fn a_lost_connection_is_made_again_and_carries_events_again() {
    let exchange = unique("reconnect");
    let mut consumer = Queue::bound(&exchange, &["#"]).await;
    let proxy = Proxy::to(&place()).await;
    let broker = Connected::start(config(&through(&proxy), &exchange));
    let mut publisher = broker.publisher().await;
    assert_eq!(
        settle_all(&mut publisher.publish(vec![message("1", "trade.closed")], at())).await,
        [Confirm::Ack(None)]
    );
    for generation in 2..5 {
        proxy.cut();
        broker.link(|link| *link == Link::Up(generation)).await;
        assert!(!publisher.is_usable());
        publisher = broker.publisher().await;
        let again = vec![message(&generation.to_string(), "trade.closed")];
        assert_eq!(settle_all(&mut publisher.publish(again, at())).await, [Confirm::Ack(None)]);
    }
    for id in ["1", "2", "3", "4"] {
        assert_eq!(consumer.next().await.id(), id);
    }
}

#[tokio::test]
async fn a_refused_login_is_told_without_the_password() {
    let url = format!("{}://nobody:s3cret-9d1@{}/%2f", split_url().0, place());
    let refused = check(&config(&url, "any")).await.unwrap_err().message;
    assert!(refused.contains("ACCESS_REFUSED"), "{refused}");
    assert!(!refused.contains("s3cret-9d1"), "{refused}");
}
