//! The one home of AMQP 0-9-1, over lapin 4.12.3. Nothing outside this file and its rooms knows lapin.
//!
//! - [`supervisor`]: one task that connects, declares, watches, and connects again for ever.
//! - [`target`] and [`tls`]: which nodes, with what login, and what is believed of them.
//! - [`connection`]: one connection, how it is made, and how it is ended for certain.
//! - [`cork`]: what keeps lapin from writing a batch in pieces.
//! - [`declaration`]: exchange and queues on throw-away channels.
//! - [`publisher`]: one confirm-mode channel, its batches and their confirms.
//!
//! What lapin does and what is done about it, read in its source and seen on the wire:
//! - A `basic.return` goes to whichever confirm completes next, and a coalesced ack completes confirms in the
//!   order of a `HashMap`. So a [`Confirm`](super::Confirm) here says only which message *came with* it, and
//!   `publication` attributes.
//! - Its own recovery gives up after 16 tries: not used.
//! - While the broker blocks the connection, publishing, opening and closing hang. Every await in here has a
//!   deadline, except the confirms, for which the lane has one.
//! - It never ends a connection whose peer is silent during the handshake or a blocked close: the thread and
//!   the socket would stay for good. [`connection::Socket`] ends them.
//! - It logs returned payloads at WARN and the password at TRACE: `telemetry` turns its targets off, and what
//!   is worth a line is logged here.
//!
//! Nothing here survives a crash, and nothing needs to: what was not confirmed is the store's to keep.

mod connection;
mod cork;
mod declaration;
mod known;
mod publisher;
mod supervisor;
mod target;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::topology::Queue;
use super::{Broker, Link, LinkError, Publisher};
use crate::clock::Timestamp;
use crate::lifecycle::{Stopping, Tasks};
use crate::metrics::Metrics;
use crate::secret::Source;
use connection::short;
pub use declaration::Looked;
use publisher::ConfirmChannel;
pub(super) use publisher::properties;
use supervisor::{Shared, Supervisor};
use target::Target;
use tls::Judgement;
pub use tls::Tls;

/// The broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `amqp.uri`: one URI, or several separated by commas, which are tried in turn. Read anew before each connect.
    pub uri: Source,
    /// `amqp.nodes`: more hosts, with port or without, for the login of the one URI.
    pub nodes: Vec<String>,
    /// What TLS believes and shows.
    pub tls: Tls,
    /// `amqp.exchange`: a durable topic exchange.
    pub exchange: String,
    /// `[[amqp.queues]]`, declared at each connect.
    pub queues: Vec<Queue>,
    /// `amqp.required_queues`, beside those declared.
    pub required_queues: Vec<String>,
    /// How often all of that is declared and looked at while the connection lasts: [`LOOK_EVERY`], but for tests.
    pub look_every: Duration,
}

/// The real broker, supervised.
#[derive(Debug, Clone)]
pub struct Amqp {
    shared: Arc<Shared>,
    stopping: Stopping,
    ended: CancellationToken,
}

impl Amqp {
    /// Starts the supervisor's task and returns at once, whether there is a broker or not. Once `stopping` has
    /// begun the connection is closed, so that is to come after everything in flight has its confirms. `seed`
    /// is for the jitter of the back-off.
    pub fn start(
        config: Config,
        metrics: Arc<Metrics>,
        tasks: &Tasks,
        stopping: Stopping,
        seed: u64,
    ) -> Self {
        let shared = Arc::new(Shared::new(config, metrics));
        let supervisor = Supervisor::new(Arc::clone(&shared), stopping.clone(), seed);
        let ended = CancellationToken::new();
        let ends = ended.clone().drop_guard();
        tasks.spawn(async move {
            supervisor.run().await;
            drop(ends);
        });
        Self { shared, stopping, ended }
    }

    /// Closes the connection and ends the supervisor. Publishes whose confirms are not in settle as
    /// [`Lost`](super::Confirm::Lost). Bound: [`CLOSE_DEADLINE`], after which the socket is cut.
    pub async fn close(&self) {
        self.stopping.begin();
        // Bound: the supervisor has its deadline; the rest of its way out awaits nothing.
        let _ = timeout(CLOSE_DEADLINE + LAST_STEPS, self.ended.cancelled()).await;
    }
}

impl Broker for Amqp {
    fn link(&self) -> watch::Receiver<Link> {
        self.shared.link()
    }

    fn problems(&self) -> Vec<(&'static str, String)> {
        self.shared.problems().into_iter().map(|problem| ("topology", problem)).collect()
    }

    fn open(&self) -> BoxFuture<'_, Result<Box<dyn Publisher>, LinkError>> {
        Box::pin(async move {
            let live = self.shared.live().ok_or_else(|| LinkError::new("there is no connection"))?;
            let exchange = short(&self.shared.config.exchange)?;
            match timeout(OPEN_DEADLINE, live.open_confirm_channel()).await {
                Ok(Ok(channel)) => {
                    let publisher: Box<dyn Publisher> =
                        Box::new(ConfirmChannel::new(channel, exchange, live.doubt(), live.cork()));
                    Ok(publisher)
                }
                Ok(Err(error)) => Err(LinkError::new(format!("opening a channel: {error}"))),
                Err(_elapsed) => {
                    live.no_channel_in_time();
                    Err(LinkError::new(format!("opening a channel: nothing within {OPEN_DEADLINE:?}")))
                }
            }
        })
    }
}

/// What is wrong with where and how to connect: each with its key, and never with a value that may be secret. And what is
/// odd about it.
pub fn judge(config: &Config, now: Timestamp) -> (Vec<(&'static str, String)>, Vec<String>) {
    let Judgement { mut problems, remarks } = config.tls.judge(now);
    // A file that cannot be read is told by who read it first.
    let Ok(uri) = config.uri.read() else { return (problems, remarks) };
    match target::nodes(&uri, &config.nodes) {
        Ok(nodes) if config.tls.is_configured() && !nodes.iter().any(target::is_encrypted) => {
            problems.push(("amqp.uri", target::NOT_ENCRYPTED.to_owned()));
        }
        Ok(_) => {}
        Err(problem) => problems.push(problem),
    }
    (problems, remarks)
}

/// Connects to each node, and looks on the first that answers, without changing anything: a line for each node, for the
/// exchange and for each queue, and what is wrong with them. For `check --connect`. Bound: the deadlines of connecting, node by
/// node, and of looking.
///
/// # Errors
/// If no node answers; the words hold no secret.
pub async fn check(config: &Config) -> Result<Looked, LinkError> {
    let target = Target::read(&Arc::new(config.clone())).await.map_err(LinkError::new)?;
    let (mut seen, mut failures, mut first) = (Vec::new(), Vec::new(), None);
    for node in &target.nodes {
        match connection::connect_to(node, target.tls.as_ref(), 0, 0).await {
            Ok(live) if target.nodes.len() == 1 => first = Some(live),
            Ok(live) => {
                seen.push(format!("node {} answers", live.at));
                match &first {
                    None => first = Some(live),
                    Some(_) => live.close(CLOSE_DEADLINE).await,
                }
            }
            Err(failure) => {
                seen.push(format!("node {failure}"));
                failures.push(failure);
            }
        }
    }
    let Some(live) = first else { return Err(LinkError::new(failures.join("; "))) };
    let mut looked = declaration::look(&live, config).await;
    live.close(CLOSE_DEADLINE).await;
    looked.seen.splice(..0, seen);
    Ok(looked)
}

impl LinkError {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }
}

/// How often the topology is declared and looked at while the connection lasts.
pub const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Bound: a lane that has lost its channel gets another, or the connection is replaced (design.md, "Blocked").
const OPEN_DEADLINE: Duration = Duration::from_secs(1);
/// Bound: for saying goodbye. It hangs behind a blocked connection.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);
const LAST_STEPS: Duration = Duration::from_millis(500);
