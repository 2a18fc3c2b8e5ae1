//! The real broker's client in a test's hands, whatever it is connected to.

use std::sync::Arc;

use alipay_notify_gateway::broker::amqp::{Amqp, Config, LOOK_EVERY, Tls};
use alipay_notify_gateway::broker::topology::Queue;
use alipay_notify_gateway::broker::{Broker as _, Confirm, Confirms, Link, Publisher, Settled};
use alipay_notify_gateway::clock::Timestamp;
use alipay_notify_gateway::event::Message;
use alipay_notify_gateway::lifecycle::{Stopping, Tasks};
use alipay_notify_gateway::metrics::Metrics;
use alipay_notify_gateway::secret::{Secret, Source};

use super::program::PATIENCE;

/// A supervised connection and what belongs to it.
pub struct Connected {
    pub amqp: Amqp,
    pub metrics: Arc<Metrics>,
}

impl Connected {
    /// Starts, and does not wait.
    pub fn start(config: Config) -> Self {
        let metrics = Arc::new(Metrics::new(&[], &[]).unwrap());
        let amqp = Amqp::start(config, Arc::clone(&metrics), &Tasks::default(), Stopping::default(), 1);
        Self { amqp, metrics }
    }

    /// Waits until the link fits.
    pub async fn link(&self, fits: impl FnMut(&Link) -> bool) -> Link {
        let mut link = self.amqp.link();
        let waiting = tokio::time::timeout(PATIENCE, link.wait_for(fits)).await;
        match waiting {
            Ok(link) => *link.unwrap(),
            Err(_) => panic!("the link stayed {:?}", *self.amqp.link().borrow()),
        }
    }

    /// Waits until the link is up.
    pub async fn up(&self) -> Link {
        self.link(|link| matches!(link, Link::Up(_))).await
    }

    /// A publisher; the link must be up.
    pub async fn publisher(&self) -> Box<dyn Publisher> {
        self.up().await;
        self.amqp.open().await.unwrap()
    }

    /// The value of one series: a name, and its labels if it has some.
    pub fn gauge(&self, series: &str) -> f64 {
        let text = self.metrics.render();
        let line = text.lines().find(|line| line.starts_with(&format!("alipay_gateway_{series} ")));
        line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
    }
}

/// A configuration without queues.
pub fn config(uri: &str, exchange: &str) -> Config {
    Config {
        uri: Source::Here(Secret::new(uri)),
        nodes: Vec::new(),
        tls: Tls::default(),
        exchange: exchange.to_owned(),
        queues: Vec::new(),
        required_queues: Vec::new(),
        look_every: LOOK_EVERY,
    }
}

pub fn queue(name: &str, bind: &[&str]) -> Queue {
    Queue { name: name.to_owned(), bind: bind.iter().map(|key| (*key).to_owned()).collect() }
}

/// A message with everything in it.
pub fn message(id: &str, event_type: &str) -> Message {
    Message {
        id: id.to_owned(),
        event_type: event_type.to_owned(),
        app_id: "2021000000000001".to_owned(),
        subject: "2026112322001427340000000000".to_owned(),
        time: "2026-11-23T10:15:31+08:00".to_owned(),
        digest: "0123456789abcdef".to_owned(),
        environment: "sandbox".to_owned(),
        unchecked: true,
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        body: format!(r#"{{"event_id":"{id}"}}"#),
    }
}

/// A batch of messages named `1`, `2`, …
pub fn batch(count: usize) -> Vec<Message> {
    (1..=count).map(|id| message(&id.to_string(), "payment.succeeded")).collect()
}

/// A moment to publish at.
pub fn at() -> Timestamp {
    Timestamp::from_unix_millis(1_795_400_131_500)
}

/// All confirms of a batch, by position.
pub async fn settle_all(confirms: &mut Box<dyn Confirms>) -> Vec<Confirm> {
    let mut settled = Vec::new();
    let all = async {
        loop {
            let view = confirms.settle().await;
            if view.is_empty() {
                break;
            }
            settled.extend(view);
        }
    };
    assert!(tokio::time::timeout(PATIENCE, all).await.is_ok(), "not all settled");
    settled.sort_by_key(|settled: &Settled| settled.index);
    assert!(settled.iter().enumerate().all(|(at, settled)| settled.index == at), "{settled:?}");
    settled.into_iter().map(|settled| settled.confirm).collect()
}

/// The next view.
pub async fn settle(confirms: &mut Box<dyn Confirms>) -> Vec<Settled> {
    match tokio::time::timeout(PATIENCE, confirms.settle()).await {
        Ok(view) => view,
        Err(_) => panic!("nothing settled"),
    }
}
