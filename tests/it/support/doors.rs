//! The two doors on ports of their own, before a real gateway on a scripted broker and a store in memory.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use alipay_notify_gateway::admin::{self, Admin, AdminHandle, Readiness};
use alipay_notify_gateway::admission::Rejection;
use alipay_notify_gateway::admission::acceptance::Objection;
use alipay_notify_gateway::gateway::{self, Gateway};
use alipay_notify_gateway::http::Config;
use alipay_notify_gateway::http::client_address::TrustedProxies;
use alipay_notify_gateway::http::listener::{Listener, Signals};
use alipay_notify_gateway::lifecycle::Tasks;
use alipay_notify_gateway::metrics::Metrics;
use alipay_notify_gateway::publication::{self, Publication};
use alipay_notify_gateway::secret::Secret;
use alipay_notify_gateway::telemetry::traces::Tracer;
use tokio::task::JoinHandle;

use super::alipay;
use super::fakes::{MemoryStore, ScriptedBroker, StillClock};
use super::raw_client::RawClient;

/// A public listener that is being served.
pub struct PublicDoor {
    pub addr: SocketAddr,
    pub broker: Arc<ScriptedBroker>,
    pub store: Arc<MemoryStore>,
    pub metrics: Arc<Metrics>,
    pub signals: Signals,
    pub served: JoinHandle<()>,
}

/// An admin listener that is being served.
pub struct AdminDoor {
    pub addr: SocketAddr,
    pub broker: Arc<ScriptedBroker>,
    pub readiness: Readiness,
    pub handle: AdminHandle,
}

/// Bounds that no test meets by accident.
pub fn generous() -> Config {
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        path: "/alipay/notify".to_owned(),
        max_body: 64 * 1024,
        max_bodies: 64 << 20,
        max_connections: 100,
        max_buffered_connections: 100,
        max_connections_per_address: 0,
        max_requests_per_connection: 1_000_000,
        max_connection_age: Duration::from_secs(3600),
        max_header: 16 * 1024,
        header_timeout: Duration::from_secs(60),
        body_timeout: Duration::from_secs(60),
        write_timeout: Duration::from_secs(10),
        handshake_timeout: Duration::from_secs(10),
        trusted_proxies: TrustedProxies::default(),
        proxy_protocol: false,
        tls: None,
    }
}

impl PublicDoor {
    pub async fn open(config: Config) -> Self {
        let listener = Listener::bind(config).await.unwrap();
        let (addr, signals, inside) = (listener.addr(), Signals::default(), Inside::new());
        let (metrics, gateway) = ((*inside.metrics).clone(), Arc::new(inside.gateway));
        let served = tokio::spawn(listener.run(gateway, metrics, signals.clone()));
        Self { addr, broker: inside.broker, store: inside.store, metrics: inside.metrics, signals, served }
    }

    pub async fn connect(&self) -> RawClient {
        RawClient::connect(self.addr).await
    }

    /// Tells it to end, and waits until it has.
    pub async fn close(self) {
        self.signals.end.begin();
        tokio::time::timeout(super::PATIENCE, self.served).await.expect("it did not end").unwrap();
    }

    /// How many requests have this outcome.
    pub fn outcome(&self, outcome: &str) -> u64 {
        self.metrics.notifications.with_label_values(&[outcome]).get()
    }

    /// How many connections were refused for this reason.
    pub fn refused(&self, reason: &str) -> u64 {
        self.metrics.connections_refused.with_label_values(&[reason]).get()
    }
}

impl AdminDoor {
    pub fn open(token: Option<&str>) -> Self {
        let listen = "127.0.0.1:0".parse().unwrap();
        let admin = Admin::bind(admin::Config { listen, token: token.map(Secret::new) }).unwrap();
        let (addr, inside) = (admin.addr(), Inside::new());
        let readiness = Readiness::new(&inside.metrics);
        let (gateway, metrics) = (Arc::new(inside.gateway), (*inside.metrics).clone());
        let handle = admin.run(gateway, metrics, readiness.clone()).unwrap();
        Self { addr, broker: inside.broker, readiness, handle }
    }
}

/// What stands behind the doors.
struct Inside {
    gateway: Gateway,
    broker: Arc<ScriptedBroker>,
    store: Arc<MemoryStore>,
    metrics: Arc<Metrics>,
}

impl Inside {
    fn new() -> Self {
        let metrics = Arc::new(metrics());
        let (broker, store) = (Arc::new(ScriptedBroker::up()), Arc::new(MemoryStore::default()));
        let clock = Arc::new(StillClock::at(alipay::now()));
        let (tasks, answer_timeout) = (Tasks::default(), Duration::from_secs(5));
        let publication = Publication::start(publication::Parts {
            config: publication::Config {
                lanes: 2,
                max_batch: 64,
                max_in_flight: 4096,
                confirm_timeout: Duration::from_secs(3),
                answer_timeout,
                ignore: BTreeSet::new(),
                retention: Duration::from_secs(35 * 86_400),
            },
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
            publication,
            answer_timeout,
            failure_budget: u32::MAX,
            low_priority_bytes: 8 << 20,
            low_priority_jobs: 512,
            has_verifier: false,
            clock,
            tasks,
            metrics: Arc::clone(&metrics),
            tracer: Tracer::default(),
        });
        Self { gateway, broker, store, metrics }
    }
}

/// Metrics with the program's own lists of reasons.
pub fn metrics() -> Metrics {
    Metrics::new(&Rejection::REASONS, &Objection::REASONS).unwrap()
}
