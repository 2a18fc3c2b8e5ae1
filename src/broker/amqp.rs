//! The one home of AMQP 0-9-1, over lapin 4.12.3. Nothing outside this file and its rooms knows lapin.
//!
//! - [`supervisor`]: one task that connects, declares, watches, and connects again for ever.
//! - [`connection`]: one connection, and how it is ended for certain.
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
mod declaration;
mod publisher;
mod supervisor;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::topology::Queue;
use super::{Broker, Link, LinkError, Publisher};
use crate::lifecycle::{Stopping, Tasks};
use crate::metrics::Metrics;
use crate::secret::Secret;
use connection::{Addresses, short};
use publisher::ConfirmChannel;
use supervisor::{Shared, Supervisor};

/// The broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `amqp.uri`: one URI, or several separated by commas, which are tried in turn.
    pub uri: Secret,
    /// `amqp.exchange`: a durable topic exchange.
    pub exchange: String,
    /// `[[amqp.queues]]`, declared at each connect.
    pub queues: Vec<Queue>,
    /// `amqp.required_queues`, beside those declared.
    pub required_queues: Vec<String>,
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
                    let publisher: Box<dyn Publisher> = Box::new(ConfirmChannel::new(channel, exchange));
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

/// Whether this can be taken for `amqp.uri`. The value is repeated in no message, because it holds a password.
pub fn is_uri(uri: &Secret) -> bool {
    // lapin reads `amqp:/host` and even `amqp:` as the local machine: a typing error must not lead there.
    let schemes = ["amqp://", "amqps://"];
    let with_host = |address: &str| schemes.iter().any(|scheme| address.trim().starts_with(scheme));
    uri.expose().split(',').all(with_host) && Addresses::parse(uri).is_ok()
}

/// Connects, and looks without declaring anything: a line for the exchange and for each queue, whether it is
/// there. For `check --connect`. Bound: the deadlines of connecting and of looking.
///
/// # Errors
/// If there is no connection; the words hold no secret.
pub async fn check(config: &Config) -> Result<Vec<String>, LinkError> {
    let live = connection::connect(&config.uri, 0).await.map_err(LinkError::new)?;
    let seen = declaration::look(&live, config).await;
    live.close(CLOSE_DEADLINE).await;
    Ok(seen)
}

impl LinkError {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }
}

/// Bound: a lane that has lost its channel gets another, or the connection is replaced (design.md, "Blocked").
const OPEN_DEADLINE: Duration = Duration::from_secs(1);
/// Bound: for saying goodbye. It hangs behind a blocked connection.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);
const LAST_STEPS: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_amqp_uri_is_not_taken_for_one() {
        for uri in [
            "",
            "amqp",
            "amqp:",
            "amqp:pw",
            "amqp:/host",
            "amqp://",
            "amqp:///vhost",
            "amqp://u:p@/vhost",
            "amqp://u:p@:5672/vhost",
            "amqp://u:p@h:99999/",
            "http://user:pw@h/",
            "user:pw@host",
            "amqp://one,amqp://",
        ] {
            assert!(!is_uri(&Secret::new(uri)), "{uri}");
        }
        for uri in ["amqp://localhost", "amqps://u:p@h:5671/%2f?heartbeat=5", "amqp://one,amqp://two"] {
            assert!(is_uri(&Secret::new(uri)), "{uri}");
        }
    }
}
