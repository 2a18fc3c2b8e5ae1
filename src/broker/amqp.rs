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
use lapin::types::ShortString;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::topology::{Queue, Topology};
use super::{Broker, Link, LinkError, Publisher};
use crate::lifecycle::Tasks;
use crate::metrics::Metrics;
use crate::secret::Secret;
use connection::Addresses;
use publisher::ConfirmChannel;
use supervisor::{Shared, Supervisor};

/// The broker.
#[derive(Debug, Clone)]
pub struct Config {
    /// `amqp.uri`: one URI, or several separated by commas, which are tried in turn.
    pub uri: Secret,
    /// `amqp.exchange`: a durable topic exchange.
    pub exchange: String,
    /// `[[amqp.queues]]`, declared at start.
    pub queues: Vec<Queue>,
    /// `amqp.required_queues`, beside those declared.
    pub required_queues: Vec<String>,
}

impl Config {
    /// Everything that is wrong with it as it stands, without asking a broker.
    pub fn errors(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        if let Err(problem) = Addresses::parse(&self.uri) {
            errors.push(ConfigError { key: "amqp.uri", problem });
        }
        let mut name = |key, name: &str| {
            if let Err(problem) = check_name(name) {
                errors.push(ConfigError { key, problem });
            }
        };
        name("amqp.exchange", &self.exchange);
        for queue in &self.queues {
            name("amqp.queues.name", &queue.name);
            queue.bind.iter().for_each(|key| name("amqp.queues.bind", key));
        }
        self.required_queues.iter().for_each(|queue| name("amqp.required_queues", queue));
        errors
    }

    fn topology(&self) -> Topology {
        Topology {
            exchange: self.exchange.clone(),
            queues: self.queues.clone(),
            required_queues: self.required_queues.clone(),
        }
    }

    fn usable(&self) -> Result<(Addresses, ShortString), ConfigError> {
        if let Some(error) = self.errors().into_iter().next() {
            return Err(error);
        }
        let addresses =
            Addresses::parse(&self.uri).map_err(|problem| ConfigError { key: "amqp.uri", problem })?;
        let exchange = ShortString::try_new(self.exchange.as_str())
            .map_err(|error| ConfigError { key: "amqp.exchange", problem: error.to_string() })?;
        Ok((addresses, exchange))
    }
}

/// Why a configuration cannot be used. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct ConfigError {
    /// The key.
    pub key: &'static str,
    /// What is wrong with its value; the value itself only where it is not secret.
    pub problem: String,
}

/// The real broker. Dropping it ends the connection at once; [`Amqp::close`] ends it properly.
#[derive(Debug)]
pub struct Amqp {
    shared: Arc<Shared>,
    ended: CancellationToken,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

impl Amqp {
    /// Starts the supervisor's task and returns at once, whether there is a broker or not. The task ends
    /// after [`close`](Self::close) or when the value is dropped, not before: what is in flight at shutdown
    /// still wants its confirms. `seed` is for the jitter of the back-off.
    ///
    /// # Errors
    /// If the configuration cannot be used at all (see [`Config::errors`]).
    pub fn start(
        config: &Config,
        tasks: &Tasks,
        metrics: Arc<Metrics>,
        seed: u64,
    ) -> Result<Self, ConfigError> {
        let (addresses, exchange) = config.usable()?;
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let shared = Arc::new(Shared::new(exchange, metrics));
        let supervisor =
            Supervisor::new(Arc::clone(&shared), addresses, config.topology(), stop.clone(), seed);
        let ends = ended.clone().drop_guard();
        tasks.spawn(async move {
            supervisor.run().await;
            drop(ends);
        });
        Ok(Self { shared, ended, _stop_on_drop: stop.clone().drop_guard(), stop })
    }

    /// Everything that is not as it should be, in words, for `/readyz`: the link, and what should stand at the
    /// broker and does not. Empty when all is well.
    pub fn problems(&self) -> Vec<String> {
        self.shared.problems()
    }

    /// Closes the connection and ends the supervisor. Publishes whose confirms are not in settle as
    /// [`Lost`](super::Confirm::Lost). Bound: `within`; after it the socket is cut.
    pub async fn close(&self, within: Duration) {
        self.shared.close_within(within);
        self.stop.cancel();
        // Bound: the supervisor has `within` for the close itself; the rest of its way out awaits nothing.
        let _ = timeout(within + LAST_STEPS, self.ended.cancelled()).await;
    }
}

impl Broker for Amqp {
    fn link(&self) -> watch::Receiver<Link> {
        self.shared.link()
    }

    fn open(&self) -> BoxFuture<'_, Result<Box<dyn Publisher>, LinkError>> {
        Box::pin(async move {
            let live = self.shared.live().ok_or_else(|| LinkError { message: "not connected".to_owned() })?;
            match timeout(OPEN_DEADLINE, live.open_confirm_channel()).await {
                Ok(Ok(channel)) => {
                    let publisher: Box<dyn Publisher> =
                        Box::new(ConfirmChannel::new(channel, self.shared.exchange()));
                    Ok(publisher)
                }
                Ok(Err(error)) => Err(LinkError { message: format!("no channel: {error}") }),
                Err(_elapsed) => {
                    live.no_channel_in_time();
                    Err(LinkError { message: format!("no channel within {OPEN_DEADLINE:?}") })
                }
            }
        })
    }
}

/// Connects, and looks without declaring anything: one remark for the exchange and for each queue, whether it
/// is there. For `check --connect`. Bound: the deadlines of connecting and of looking.
///
/// # Errors
/// If there is no connection; the words hold no secret.
pub async fn check(config: &Config) -> Result<Vec<String>, String> {
    let (addresses, _) = config.usable().map_err(|error| error.to_string())?;
    let live = connection::connect(&addresses, 0).await?;
    let remarks = declaration::look(&live, &config.topology()).await;
    live.close(CHECK_CLOSE).await;
    Ok(remarks)
}

/// AMQP's short strings have 255 bytes, and lapin panics past that.
fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("is empty".to_owned());
    }
    if name.len() > SHORT_STRING_BYTES {
        return Err(format!("is longer than {SHORT_STRING_BYTES} bytes"));
    }
    Ok(())
}

const SHORT_STRING_BYTES: usize = 255;
/// Bound: a lane that has lost its channel gets another, or the connection is replaced (design.md, "Blocked").
const OPEN_DEADLINE: Duration = Duration::from_secs(1);
const CHECK_CLOSE: Duration = Duration::from_secs(2);
const LAST_STEPS: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    fn config(uri: &str) -> Config {
        Config {
            uri: Secret::new(uri),
            exchange: "payments".to_owned(),
            queues: vec![],
            required_queues: vec![],
        }
    }

    #[test]
    fn a_uri_that_cannot_be_read_is_named_and_not_shown() {
        for uri in [
            "",
            "amqp",
            "http://user:pw-9d1@h/",
            "user:pw-9d1@host",
            "amqp://u:pw-9d1@h:99999/",
            "amqp:pw-9d1",
        ] {
            let errors = config(uri).errors();
            assert_eq!(errors.len(), 1, "{uri}");
            assert_eq!(errors[0].key, "amqp.uri");
            assert!(!errors[0].to_string().contains("pw-9d1"), "{}", errors[0]);
        }
    }

    #[test]
    fn names_that_amqp_cannot_carry_are_refused() {
        let mut config = config("amqp://localhost/%2f");
        assert_eq!(config.errors(), []);
        config.exchange = String::new();
        config.required_queues = vec!["q".repeat(256)];
        config.queues = vec![Queue { name: "q".repeat(255), bind: vec!["k".repeat(256)] }];
        let keys: Vec<_> = config.errors().into_iter().map(|error| error.key).collect();
        assert_eq!(keys, ["amqp.exchange", "amqp.queues.bind", "amqp.required_queues"]);
    }
}
