//! RabbitMQ over lapin: the one home of AMQP 0-9-1.
//!
//! A supervisor keeps one connection for ever: lapin's own recovery gives up, and would hide a new connection
//! behind an old channel. It declares the topology, watches for alarms, and connects again with a jittered
//! back-off. Each lane has a channel of its own from it ([`publisher`]).
//!
//! Not here: what a confirm means (`publication/attribution.rs`), and when to give up on one.
//!
//! Nothing here survives a crash. Every await has a deadline, because a blocked connection answers nothing.

mod declare;
mod publisher;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::options::ConfirmSelectOptions;
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties, Event};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::time::Instant;

use super::topology::Queue;
use super::{Broker, Link, LinkError, Publisher};
use crate::lifecycle::{Stopping, Tasks};
use crate::metrics::Metrics;
use crate::secret::Secret;
use publisher::AmqpPublisher;

/// The broker.
#[derive(Debug, Clone)]
pub struct Config {
    /// `amqp.uri`.
    pub uri: Secret,
    /// `amqp.exchange`: a durable topic exchange.
    pub exchange: String,
    /// `[[amqp.queues]]`, declared at each connect.
    pub queues: Vec<Queue>,
    /// `amqp.required_queues`, beside those declared.
    pub required_queues: Vec<String>,
}

/// A supervised connection.
#[derive(Clone)]
pub struct Amqp {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    link: watch::Sender<Link>,
    connection: Mutex<Option<Arc<Connection>>>,
    problems: Mutex<Vec<String>>,
    metrics: Arc<Metrics>,
}

impl Amqp {
    /// Begins to connect, and returns at once: the gateway starts with the broker absent.
    pub fn start(
        config: Config,
        metrics: Arc<Metrics>,
        tasks: &Tasks,
        stopping: Stopping,
        seed: u64,
    ) -> Self {
        let shared = Arc::new(Shared {
            config,
            link: watch::Sender::new(Link::Down),
            connection: Mutex::default(),
            problems: Mutex::default(),
            metrics,
        });
        let supervisor = Arc::clone(&shared);
        tasks.spawn(async move { supervisor.supervise(stopping, SmallRng::seed_from_u64(seed)).await });
        Self { shared }
    }

    /// Closes the connection, within a bound.
    pub async fn close(&self) {
        let connection = self.shared.connection().take();
        if let Some(connection) = connection {
            let closed = connection.close(200, "shutting down".into());
            let _ = tokio::time::timeout(CLOSE_DEADLINE, closed).await;
        }
    }
}

/// Whether lapin takes this for a URI. The value is not repeated in any message, because it holds a password.
pub fn is_uri(uri: &Secret) -> bool {
    // lapin reads `amqp:/host` and even `amqp:` as the local machine: a typing error must not lead there.
    let has_host = ["amqp://", "amqps://"].iter().any(|scheme| uri.expose().starts_with(scheme));
    has_host && uri.expose().parse::<AMQPUri>().is_ok()
}

/// Looks at the broker without declaring anything: for `check --connect`. Gives what was seen.
///
/// # Errors
/// If there is no connection, or the exchange is there and not a durable topic exchange.
pub async fn check(config: &Config) -> Result<Vec<String>, LinkError> {
    let connection = connect(config).await?;
    let seen = declare::look(&connection, config).await;
    let _ = tokio::time::timeout(CLOSE_DEADLINE, connection.close(200, "checked".into())).await;
    seen
}

impl Broker for Amqp {
    fn link(&self) -> watch::Receiver<Link> {
        self.shared.link.subscribe()
    }

    fn problems(&self) -> Vec<(&'static str, String)> {
        let problems = self.shared.problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems.iter().map(|problem| ("topology", problem.clone())).collect()
    }

    fn open(&self) -> BoxFuture<'_, Result<Box<dyn Publisher>, LinkError>> {
        async {
            let connection = self.shared.connection().clone();
            let connection = connection.ok_or_else(|| LinkError::new("there is no connection"))?;
            let opened = async {
                let channel = connection.create_channel().await?;
                channel.confirm_select(ConfirmSelectOptions::default()).await?;
                Ok::<_, lapin::Error>(channel)
            };
            let channel = within(OPEN_DEADLINE, "opening a channel", opened).await?;
            let publisher: Box<dyn Publisher> =
                Box::new(AmqpPublisher::new(channel, &self.shared.config.exchange)?);
            Ok(publisher)
        }
        .boxed()
    }
}

impl std::fmt::Debug for Amqp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Amqp").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl Shared {
    /// Connects, watches, and connects again, until the gateway stops.
    async fn supervise(self: Arc<Self>, stopping: Stopping, mut jitter: SmallRng) {
        let mut number = 0;
        let mut failures = 0u32;
        while !stopping.has_begun() {
            let attempt = Instant::now();
            match self.establish().await {
                Ok(connection) => {
                    number += 1;
                    tracing::info!(connection = number, "connected to the broker");
                    let ended = self.watch(connection, number, &stopping).await;
                    self.show(Link::Down);
                    if stopping.has_begun() {
                        return;
                    }
                    tracing::error!(
                        connection = number,
                        reason = ended,
                        "the connection to the broker is gone"
                    );
                    // One that lasted was a good one: the next try comes at once.
                    failures = if attempt.elapsed() > BACKOFF_MAX { 0 } else { failures + 1 };
                }
                Err(error) => {
                    if failures.is_power_of_two() || failures == 0 {
                        tracing::error!(%error, failures, "no connection to the broker");
                    }
                    failures = failures.saturating_add(1);
                }
            }
            // Bound: 2 s, jittered, so that many gateways do not come back at once.
            let pause = BACKOFF_MIN.saturating_mul(1 << failures.min(10)).min(BACKOFF_MAX);
            let pause = pause.mul_f64(jitter.random_range(0.5..1.0));
            tokio::select! {
                biased;
                () = stopping.begun() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn establish(&self) -> Result<Connection, LinkError> {
        let connection = connect(&self.config).await?;
        let problems = declare::declare(&connection, &self.config).await?;
        self.note(problems);
        Ok(connection)
    }

    /// Follows a connection to its end, and says why it ended.
    async fn watch(&self, connection: Connection, number: u64, stopping: &Stopping) -> String {
        let mut events = Box::pin(connection.events_listener());
        let connection = Arc::new(connection);
        *self.connection() = Some(Arc::clone(&connection));
        let status = connection.status();
        self.show(if status.blocked() { Link::Blocked(number) } else { Link::Up(number) });
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last_declared = Instant::now();
        let ended = loop {
            tokio::select! {
                biased;
                // The connection stays for what is in flight; `close` ends it.
                () = stopping.begun() => return "stopping".to_owned(),
                event = events.next() => match event {
                    None => break "closed".to_owned(),
                    Some(Event::Error(error)) => {
                        if !connection.status().connected() {
                            break error.to_string();
                        }
                    }
                    Some(Event::ConnectionBlocked(reason)) => {
                        tracing::error!(reason, "the broker takes nothing for now");
                        self.show(Link::Blocked(number));
                    }
                    Some(Event::ConnectionUnblocked) => {
                        tracing::info!("the broker takes messages again");
                        self.show(Link::Up(number));
                    }
                    Some(_) => {}
                },
                _ = look.tick() => {
                    if !connection.status().connected() {
                        break "not connected any more".to_owned();
                    }
                    if last_declared.elapsed() > REQUIRED_EVERY && !connection.status().blocked() {
                        last_declared = Instant::now();
                        match declare::missing(&connection, &self.config).await {
                            Ok(problems) => self.note(problems),
                            Err(error) => tracing::warn!(%error, "the required queues could not be looked at"),
                        }
                    }
                }
            }
        };
        self.connection().take();
        ended
    }

    fn show(&self, link: Link) {
        let (up, blocked) = match link {
            Link::Down => (0, 0),
            Link::Up(_) => (1, 0),
            Link::Blocked(_) => (1, 1),
        };
        self.metrics.broker_up.set(up);
        self.metrics.broker_blocked.set(blocked);
        self.link.send_replace(link);
    }

    fn note(&self, problems: Vec<String>) {
        let mut noted = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        if *noted != problems {
            for problem in &problems {
                tracing::error!(problem, "the topology is not complete");
            }
            *noted = problems;
        }
    }

    fn connection(&self) -> std::sync::MutexGuard<'_, Option<Arc<Connection>>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection, with the heartbeat and the frame size that are ours unless the URI says otherwise.
async fn connect(config: &Config) -> Result<Connection, LinkError> {
    // The parser's own message may repeat parts of the URI, and the URI holds a password.
    let mut uri: AMQPUri =
        config.uri.expose().parse().map_err(|_| LinkError::new("amqp.uri is not an AMQP URI"))?;
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    uri.query.frame_max.get_or_insert(FRAME_MAX_BYTES);
    let properties = ConnectionProperties::default().with_connection_name("alipay-notify-gateway".into());
    within(CONNECT_DEADLINE, "connecting", Connection::connect_uri(uri, properties)).await
}

/// Awaits lapin, but not for ever: `connection.blocked` makes it hang.
async fn within<T>(
    deadline: Duration,
    what: &str,
    call: impl Future<Output = lapin::Result<T>>,
) -> Result<T, LinkError> {
    match tokio::time::timeout(deadline, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(LinkError { message: format!("{what}: {error}") }),
        Err(_) => Err(LinkError { message: format!("{what}: nothing within {deadline:?}") }),
    }
}

impl LinkError {
    fn new(message: &str) -> Self {
        Self { message: message.to_owned() }
    }
}

/// Two missed heartbeats end a connection: 20 s.
const HEARTBEAT_SECONDS: u16 = 10;
/// lapin holds buffers of 64 frames a connection: 1 MiB. An event is 2 to 4 KiB.
const FRAME_MAX_BYTES: u32 = 16 * 1024;
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Bound on getting a channel: a lane waits for it.
const OPEN_DEADLINE: Duration = Duration::from_secs(1);
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// How often the connection's own state is looked at, beside its events.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often the required queues are looked at.
const REQUIRED_EVERY: Duration = Duration::from_secs(60);
