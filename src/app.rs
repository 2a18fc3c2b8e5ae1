//! The composition root: *build* opens and binds everything, so that what can fail at the start fails there;
//! *run* serves until it is told to stop, and stops in order: unready, no more connections, what is in flight,
//! the broker, the store, the admin listener.

mod process;
mod reload;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use crate::admin::{Admin, AdminHandle, Phase, Readiness};
use crate::admission::Rejection;
use crate::admission::acceptance::Objection;
use crate::broker::Broker;
use crate::broker::amqp::Amqp;
use crate::clock::{Clock, SystemClock};
use crate::config::Loaded;
use crate::gateway::{self, Gateway};
use crate::http::listener::{Listener, Signals};
use crate::lifecycle::{Shutdown, Stopping, Supervisor, Tasks};
use crate::metrics::Metrics;
use crate::publication::{self, Publication};
use crate::store::TOLD_EVERY;
use crate::store::engine::Engine;
use crate::telemetry::Lines;
use crate::telemetry::traces::Tracer;
use reload::Reloader;

/// A gateway that is ready to serve.
#[derive(Debug)]
pub struct App {
    listener: Listener,
    admin: AdminHandle,
    admin_addr: SocketAddr,
    readiness: Readiness,
    gateway: Gateway,
    publication: Publication,
    broker: Amqp,
    store: Engine,
    metrics: Arc<Metrics>,
    stopping: Stopping,
    shutdown: Shutdown,
    reloader: Reloader,
    log: Lines,
    tracer: Tracer,
    supervisor: Supervisor,
}

/// Why it does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address that cannot be listened on.
    #[error("{0} ({1}): {2}")]
    Bind(&'static str, SocketAddr, std::io::Error),
    /// The store does not open.
    #[error(transparent)]
    Store(#[from] crate::store::sqlite::OpenError),
    /// Two metrics have one name, or the admin listener or the traces have no thread.
    #[error("{0}")]
    Inside(String),
}

/// What the operating system may ask of it. To be listened to before anything else is done: until then the signals
/// end the process at once, and PID 1 does not even get them.
#[derive(Debug)]
pub struct SystemSignals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl SystemSignals {
    /// Listens from now on; what comes before [`App::run`] is remembered. Needs a runtime.
    ///
    /// # Errors
    /// If the system does not let it.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Everything that was in flight was finished.
    Clean,
    /// The grace ran out, or somebody could not wait.
    Forced,
}

impl App {
    /// Opens and binds everything. The broker may be absent.
    ///
    /// # Errors
    /// What cannot be opened or bound.
    pub async fn build(loaded: Loaded, log: Lines) -> Result<Self, StartError> {
        let mut config = loaded.config.clone();
        let metrics = Metrics::new(&Rejection::REASONS, &Objection::REASONS);
        let metrics = Arc::new(metrics.map_err(|error| StartError::Inside(error.to_string()))?);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (listen, listen_admin) = (config.http.listen, config.admin.listen);
        let low_priority_bytes = config.http.max_bodies / 2;
        process::use_small_pages();
        process::keep_descriptors_back(&mut config.http.max_connections);
        let low_priority_jobs = config.http.requests_at_low_priority();
        let listener = Listener::bind(config.http).await;
        let listener = listener.map_err(|error| StartError::Bind("http.listen", listen, error))?;
        let admin = Admin::bind(config.admin);
        let admin = admin.map_err(|error| StartError::Bind("admin.listen", listen_admin, error))?;
        let store = Engine::open(&config.store, Arc::clone(&clock)).await?;
        metrics.store_damaged.set(i64::try_from(store.damaged_files()).unwrap_or(i64::MAX));
        let tracer = Tracer::start(&config.traces, &config.amqp.exchange, &metrics);
        let tracer = tracer.map_err(|error| StartError::Inside(error.to_string()))?;
        let (stopping, supervised) = (Stopping::default(), Tasks::default());
        let broker =
            Amqp::start(config.amqp, Arc::clone(&metrics), &supervised, stopping.clone(), rand::random());
        let answer_timeout = config.publication.answer_timeout;
        let tasks = Tasks::default();
        let publication = Publication::start(publication::Parts {
            config: config.publication,
            broker: Arc::new(broker.clone()) as Arc<dyn Broker>,
            store: store.store(),
            clock: Arc::clone(&clock),
            tasks: tasks.clone(),
            metrics: Arc::clone(&metrics),
            tracer: tracer.clone(),
            seed: rand::random(),
        });
        let gateway = Gateway::new(gateway::Parts {
            policy: config.policy,
            publication: publication.clone(),
            answer_timeout,
            failure_budget: config.failure_budget,
            low_priority_bytes,
            low_priority_jobs,
            has_verifier: process::has_a_core_to_spare(),
            clock,
            tasks,
            metrics: Arc::clone(&metrics),
            tracer: tracer.clone(),
        });
        let supervisor = loaded.supervisor.clone();
        let reloader = Reloader::new(loaded, gateway.clone(), listener.tls(), Arc::clone(&metrics));
        let (admin_addr, readiness) = (admin.addr(), Readiness::new(&metrics));
        let admin = admin.run(Arc::new(gateway.clone()), (*metrics).clone(), readiness.clone());
        let admin = admin.map_err(|error| StartError::Inside(error.to_string()))?;
        let shutdown = config.shutdown;
        Ok(Self {
            listener,
            admin,
            admin_addr,
            readiness,
            gateway,
            publication,
            broker,
            store,
            metrics,
            stopping,
            shutdown,
            reloader,
            log,
            tracer,
            supervisor,
        })
    }

    /// The public address, with the port that the system chose.
    pub fn http_addr(&self) -> SocketAddr {
        self.listener.addr()
    }

    /// The admin address, with the port that the system chose.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// Serves until SIGTERM or SIGINT, and stops in order.
    pub async fn run(self, signals: SystemSignals) -> End {
        let SystemSignals { mut terminate, mut interrupt, hangup } = signals;
        let (http, admin) = (self.http_addr(), self.admin_addr());
        let signals = Signals::default();
        let gauges = Tasks::default();
        // Before anything is judged. Bound: the store's deadline.
        let is_known = self.gateway.look_how_far_back().await;
        gauges.spawn(self.reloader.run(hangup, signals.end.clone()));
        let watch = Watch {
            gateway: self.gateway.clone(),
            store: self.store.clone(),
            metrics: Arc::clone(&self.metrics),
            log: self.log,
            looks_back_at: is_known.then(|| Instant::now() + TOLD_EVERY),
        };
        gauges.spawn(watch.run(signals.clone()));
        gauges.spawn(watch_files(self.store.clone(), Arc::clone(&self.metrics), signals.clone()));
        // Nobody waits for these: they say that who serves gets on, until he does not.
        Tasks::default().spawn(self.supervisor.clone().stay_alive());
        Tasks::default().spawn(self.readiness.clone().get_on());
        let serving = Tasks::default();
        serving.spawn_vital(self.listener.run(
            Arc::new(self.gateway),
            (*self.metrics).clone(),
            signals.clone(),
        ));
        self.readiness.enter(Phase::Ready);
        self.supervisor.ready();
        tracing::info!(version = env!("CARGO_PKG_VERSION"), %http, %admin, "serving");
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = give_memory_back() => {}
        }
        tracing::info!(delay = ?self.shutdown.delay, grace = ?self.shutdown.grace, "stopping");
        self.readiness.enter(Phase::Stopping);
        self.supervisor.stopping();
        signals.stopping.begin();
        let drained = async {
            tokio::time::sleep(self.shutdown.delay).await;
            signals.end.begin();
            let grace = Instant::now() + self.shutdown.grace;
            let in_flight = async {
                serving.ended().await;
                self.publication.close();
                self.publication.idle().await;
            };
            tokio::time::timeout_at(grace, in_flight).await.is_ok()
        };
        let clean = tokio::select! {
            clean = drained => clean,
            _ = terminate.recv() => false,
            _ = interrupt.recv() => false,
        };
        self.stopping.begin();
        if !clean {
            tracing::error!("not everything in flight was finished: Alipay will deliver it again");
        }
        // The broker's connection is closed in order either way; what is cut off was told fail or nothing.
        self.broker.close().await;
        let traced = async {
            if clean {
                self.tracer.close().await;
            }
        };
        let store = self.store.store();
        let closed = tokio::time::timeout(CLOSE_DEADLINE, store.close());
        let _ = tokio::join!(closed, traced);
        self.admin.stop().await;
        tracing::info!(clean, "stopped");
        if clean { End::Clean } else { End::Forced }
    }
}

/// Has every thread of the runtime give back what it does not use, again and again. Which thread takes a task is not ours to
/// say, so whoever has one keeps it until each has one, if that is soon. Not to be spawned: what a thread of the runtime
/// spawns is its own before it is anybody's.
async fn give_memory_back() {
    let threads = Handle::current().metrics().num_workers();
    loop {
        tokio::time::sleep(GIVE_BACK_EVERY).await;
        let (given, here) = (Tasks::default(), Arc::new(AtomicUsize::new(0)));
        for _ in 0..threads {
            let here = Arc::clone(&here);
            given.spawn(async move {
                process::give_memory_back();
                here.fetch_add(1, Ordering::Relaxed);
                let began = Instant::now();
                while here.load(Ordering::Relaxed) < threads && began.elapsed() < WAIT_FOR_ANOTHER {
                    std::thread::yield_now();
                }
            });
        }
    }
}

/// Keeps true what has to be looked at to be known.
struct Watch {
    gateway: Gateway,
    store: Engine,
    metrics: Arc<Metrics>,
    log: Lines,
    /// When the store is asked next how far back it goes; at once, if it is not known yet.
    looks_back_at: Option<Instant>,
}

impl Watch {
    async fn run(mut self, signals: Signals) {
        while !signals.end.has_begun() {
            self.gateway.show_backlog().await;
            self.show();
            if self.looks_back_at.is_none_or(|at| at <= Instant::now()) {
                let is_known = self.gateway.look_how_far_back().await;
                self.looks_back_at = is_known.then(|| Instant::now() + TOLD_EVERY);
            }
            tokio::select! {
                () = signals.end.begun() => {}
                () = tokio::time::sleep(GAUGE_EVERY) => {}
            }
        }
    }

    fn show(&self) {
        let metrics = &self.metrics;
        for (bound, used) in self.store.used() {
            metrics.backlog_used.with_label_values(&[bound]).set(used);
        }
        let dropped = self.log.dropped();
        metrics.log_lines_dropped.inc_by(dropped.saturating_sub(metrics.log_lines_dropped.get()));
    }
}

/// Looks at the store's folder, which may hang as long as its disk does: beside the threads that serve, and one look at a time.
async fn watch_files(store: Engine, metrics: Arc<Metrics>, signals: Signals) {
    while !signals.end.has_begun() {
        let there = store.clone();
        let look = spawn_blocking(move || (there.damaged_files(), there.free_bytes(), there.size_bytes()));
        let looked = tokio::select! {
            () = signals.end.begun() => return,
            looked = look => looked,
        };
        if let Ok((damaged, free, size)) = looked {
            metrics.store_damaged.set(i64::try_from(damaged).unwrap_or(i64::MAX));
            metrics.store_free.set(free);
            metrics.store_size.set(size);
        }
        tokio::select! {
            () = signals.end.begun() => {}
            () = tokio::time::sleep(GAUGE_EVERY) => {}
        }
    }
}

/// Bound on closing the store: what it was handed is written or Alipay delivers it again.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);
/// How long what a flood held is kept, or twice that where a thread was passed over.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(5);
/// Bound: how long a thread waits for another, which has other things to do then.
const WAIT_FOR_ANOTHER: Duration = Duration::from_millis(1);
/// How old the gauges of the backlog may be.
const GAUGE_EVERY: Duration = Duration::from_secs(2);
