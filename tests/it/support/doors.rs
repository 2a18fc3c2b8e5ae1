//! The two doors on ports of their own, before a gateway that knows no app.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use alipay_notify_gateway::admin::{self, Admin, AdminHandle, Readiness};
use alipay_notify_gateway::gateway::Gateway;
use alipay_notify_gateway::http::Config;
use alipay_notify_gateway::http::listener::{Listener, Signals};
use alipay_notify_gateway::metrics::Metrics;
use alipay_notify_gateway::secret::Secret;
use tokio::task::JoinHandle;

use super::raw_client::RawClient;

/// A public listener that is being served.
#[derive(Debug)]
pub(crate) struct PublicDoor {
    pub(crate) addr: SocketAddr,
    pub(crate) metrics: Metrics,
    pub(crate) signals: Signals,
    pub(crate) served: JoinHandle<()>,
}

/// An admin listener that is being served.
#[derive(Debug)]
pub(crate) struct AdminDoor {
    pub(crate) addr: SocketAddr,
    pub(crate) readiness: Readiness,
    pub(crate) handle: AdminHandle,
}

/// Bounds that no test meets by accident.
pub(crate) fn generous() -> Config {
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        path: "/alipay/notify".to_owned(),
        max_body: 64 * 1024,
        max_connections: 100,
        max_header: 16 * 1024,
        header_timeout: Duration::from_secs(60),
        body_timeout: Duration::from_secs(60),
    }
}

impl PublicDoor {
    pub(crate) async fn open(config: Config) -> Self {
        let listener = Listener::bind(config).await.unwrap();
        let (addr, signals, metrics) = (listener.addr(), Signals::default(), metrics());
        let served = listener.run(gateway(), metrics.clone(), signals.clone());
        #[expect(clippy::disallowed_methods, reason = "the handle is what the test waits for")]
        let served = tokio::spawn(served);
        Self { addr, metrics, signals, served }
    }

    pub(crate) async fn connect(&self) -> RawClient {
        RawClient::connect(self.addr).await
    }

    /// Tells it to end, and waits until it has.
    pub(crate) async fn close(self) {
        self.signals.end.begin();
        tokio::time::timeout(super::PATIENCE, self.served).await.expect("it did not end").unwrap();
    }

    /// How many requests have this outcome.
    pub(crate) fn outcome(&self, outcome: &str) -> u64 {
        self.metrics.notifications.with_label_values(&[outcome]).get()
    }

    /// How many connections were refused for this reason.
    pub(crate) fn refused(&self, reason: &str) -> u64 {
        self.metrics.connections_refused.with_label_values(&[reason]).get()
    }
}

impl AdminDoor {
    pub(crate) fn open(token: Option<&str>) -> Self {
        let listen = "127.0.0.1:0".parse().unwrap();
        let admin = Admin::bind(admin::Config { listen, token: token.map(Secret::new) }).unwrap();
        let (addr, metrics) = (admin.addr(), metrics());
        let readiness = Readiness::new(&metrics);
        let handle = admin.run(gateway(), metrics, readiness.clone()).unwrap();
        Self { addr, readiness, handle }
    }
}

/// A gateway before which every body is a stranger's.
fn gateway() -> Arc<Gateway> {
    Arc::new(Gateway {})
}

/// Metrics with the real lists of reasons.
pub(crate) fn metrics() -> Metrics {
    Metrics::new(&[], &[]).unwrap()
}
