//! Declares what is ours at the broker, and looks whether the rest is there. On throw-away channels: whatever
//! the broker refuses, it answers by closing the channel, and the next step takes another.
//!
//! It goes on after each refusal and reports them all. Only an exchange that cannot be had, or that is of
//! another type, makes the connection useless. Declaring again what stands changes nothing, so the supervisor
//! does all of it again every minute: a queue or a binding that somebody removed comes back, and one that could
//! not be declared is tried again. A queue comes back empty, so one that was there is asked for first: whether it is
//! gone is not told to who declares it.

use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ErrorKind, ExchangeKind};
use tokio::time::{Instant, timeout_at};

use super::Config;
use super::connection::{Live, short, words};
use super::known::Known;
use crate::broker::LinkError;
use crate::broker::topology::Queue;

/// What came of it.
pub(super) struct Declared {
    /// There is a topic exchange to publish to.
    pub(super) usable: bool,
    /// Everything that was refused or is missing.
    pub(super) problems: Vec<String>,
}

/// Declares and looks. Bound: [`DEADLINE`] for all of it; what was not reached by then is a problem.
pub(super) async fn declare(live: &Live, config: &Config, known: &Known) -> Declared {
    let mut hand = Hand::new(live);
    let mut problems = Vec::new();
    if let Err(refusal) = hand.exchange(&config.exchange).await {
        let usable = refusal.may_still_publish;
        problems.push(problem("amqp.exchange", &config.exchange, &refusal.what));
        if !usable {
            return Declared { usable, problems };
        }
    }
    for queue in &config.queues {
        hand.queue(queue, &config.exchange, known, &mut problems).await;
    }
    for name in foreign_queues(config) {
        if let Err(refusal) = hand.queue_is_there(name).await {
            problems.push(problem("amqp.required_queues", name, &refusal.what));
        }
    }
    Declared { usable: true, problems }
}

/// Looks, and changes nothing. A line for everything, and what `serve` would tell as a problem. What is there and is ours is
/// declared as it should be: the broker says whether it is so, and does not say it to who only looks. It tells nobody a queue's
/// bindings. Bound: [`DEADLINE`] for all of it.
pub(super) async fn look(live: &Live, config: &Config) -> Looked {
    let (mut hand, mut looked) = (Hand::new(live), Looked::default());
    let exchange = hand.exchange_is_there(&config.exchange).await;
    if looked.is_there("amqp.exchange", "exchange", &config.exchange, exchange)
        && let Err(refusal) = hand.exchange(&config.exchange).await
    {
        let what = problem("amqp.exchange", &config.exchange, &refusal.what);
        if refusal.may_still_publish { looked.seen.push(what) } else { looked.problems.push(what) }
    }
    for Queue { name, bind: _ } in &config.queues {
        let queue = hand.queue_is_there(name).await;
        if looked.is_there("amqp.queues", "queue", name, queue)
            && let Err(refusal) = hand.declare_queue(name).await
        {
            looked.problems.push(problem("amqp.queues", name, &refusal.what));
        }
    }
    for name in foreign_queues(config) {
        match hand.queue_is_there(name).await {
            Ok(()) => looked.seen.push(format!("queue {name:?} is there")),
            Err(refusal) => looked.problems.push(problem("amqp.required_queues", name, &refusal.what)),
        }
    }
    looked.seen.extend((!config.queues.is_empty()).then(|| DELIVERY_LIMIT.to_owned()));
    looked
}

/// What was found by looking.
#[derive(Debug, Default)]
pub struct Looked {
    /// What is there, and what `serve` would declare.
    pub seen: Vec<String>,
    /// What `serve` would not get right by itself, each with its key.
    pub problems: Vec<String>,
}

impl Looked {
    /// Whether something of ours is there.
    fn is_there(&mut self, key: &str, kind: &str, name: &str, seen: Result<(), Refusal>) -> bool {
        match &seen {
            Ok(()) => self.seen.push(format!("{kind} {name:?} is there")),
            Err(refusal) if refusal.code == Some(NOT_FOUND) => {
                self.seen.push(format!("{kind} {name:?} is not there: `serve` will declare it"));
            }
            Err(refusal) => self.problems.push(problem(key, name, &refusal.what)),
        }
        seen.is_ok()
    }
}

/// A hand on one connection: a channel while it lasts, then another.
struct Hand<'a> {
    live: &'a Live,
    channel: Option<Channel>,
    deadline: Instant,
}

impl<'a> Hand<'a> {
    fn new(live: &'a Live) -> Self {
        Self { live, channel: None, deadline: Instant::now() + DEADLINE }
    }

    async fn exchange(&mut self, name: &str) -> Result<(), Refusal> {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let exchange = short(name)?;
        let declared = self
            .step(async |channel| {
                channel
                    .exchange_declare(exchange.clone(), ExchangeKind::Topic, options, FieldTable::default())
                    .await
            })
            .await;
        let Err(refusal) = declared else { return Ok(()) };
        // A user without the right to configure may still publish to what an administrator has declared.
        if refusal.code == Some(ACCESS_REFUSED) && self.exchange_is_there(name).await.is_ok() {
            let what = format!("is there, but its type is not known: {}", refusal.what);
            return Err(Refusal { may_still_publish: true, what, ..refusal });
        }
        Err(refusal)
    }

    async fn exchange_is_there(&mut self, name: &str) -> Result<(), Refusal> {
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        let exchange = short(name)?;
        self.step(async |channel| {
            channel
                .exchange_declare(exchange.clone(), ExchangeKind::Topic, options, FieldTable::default())
                .await
        })
        .await
    }

    async fn queue(&mut self, queue: &Queue, exchange: &str, known: &Known, problems: &mut Vec<String>) {
        let name = &queue.name;
        if known.has(name)
            && let Err(refusal) = self.queue_is_there(name).await
            && refusal.code == Some(NOT_FOUND)
        {
            known.is_gone(name);
        }
        match self.declare_queue(name).await {
            Ok(()) => known.is_declared(name),
            Err(refusal) => {
                problems.push(problem("amqp.queues", name, &refusal.what));
                match refusal.code {
                    // One that exists with other properties can still be bound, and is better than nothing.
                    Some(PRECONDITION_FAILED) => known.exists(name),
                    Some(_) => return known.is_refused(name),
                    None => return,
                }
            }
        }
        for key in &queue.bind {
            if let Err(refusal) = self.bind(&queue.name, exchange, key).await {
                let what = format!("cannot be bound with {key:?}: {}", refusal.what);
                problems.push(problem("amqp.queues", &queue.name, &what));
            }
        }
    }

    async fn declare_queue(&mut self, name: &str) -> Result<(), Refusal> {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let mut arguments = FieldTable::default();
        // And no x-delivery-limit: what was declared without one would be refused, and so would be the -1 of RabbitMQ 4,
        // which means none, by RabbitMQ 3. It is a policy's ([`DELIVERY_LIMIT`]).
        arguments.insert(short("x-queue-type")?, AMQPValue::LongString("quorum".into()));
        let queue = short(name)?;
        self.step(async |channel| {
            channel.queue_declare(queue.clone(), options, arguments.clone()).await.map(drop)
        })
        .await
    }

    async fn queue_is_there(&mut self, name: &str) -> Result<(), Refusal> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = short(name)?;
        self.step(async |channel| {
            channel.queue_declare(queue.clone(), options, FieldTable::default()).await.map(drop)
        })
        .await
    }

    async fn bind(&mut self, queue: &str, exchange: &str, key: &str) -> Result<(), Refusal> {
        let (queue, exchange, key) = (short(queue)?, short(exchange)?, short(key)?);
        self.step(async |channel| {
            let (queue, exchange, key) = (queue.clone(), exchange.clone(), key.clone());
            channel.queue_bind(queue, exchange, key, QueueBindOptions::default(), FieldTable::default()).await
        })
        .await
    }

    /// One request on the channel, or on a new one if the last was refused.
    async fn step(
        &mut self,
        request: impl AsyncFnOnce(&Channel) -> Result<(), lapin::Error>,
    ) -> Result<(), Refusal> {
        let kept = self.channel.take().filter(|channel| channel.status().connected());
        let asking = async {
            let channel = match kept {
                Some(channel) => channel,
                None => self.live.connection.create_channel().await?,
            };
            request(&channel).await.map(|()| channel)
        };
        match timeout_at(self.deadline, asking).await {
            Ok(Ok(channel)) => {
                self.channel = Some(channel);
                Ok(())
            }
            Ok(Err(error)) => Err(Refusal::told(&error)),
            Err(_elapsed) => Err(Refusal::other(format!("no answer within {DEADLINE:?}"))),
        }
    }
}

/// Why a step failed.
struct Refusal {
    /// The broker's reply code, if it was the broker.
    code: Option<u16>,
    what: String,
    may_still_publish: bool,
}

impl Refusal {
    fn told(error: &lapin::Error) -> Self {
        let code = if let ErrorKind::ProtocolError(told) = error.kind() { Some(told.get_id()) } else { None };
        let what = match code {
            Some(NOT_FOUND) => "does not exist".to_owned(),
            _ => words(error),
        };
        Self { code, what, may_still_publish: false }
    }

    const fn other(what: String) -> Self {
        Self { code: None, what, may_still_publish: false }
    }
}

impl From<LinkError> for Refusal {
    fn from(error: LinkError) -> Self {
        Self::other(error.message)
    }
}

/// The required queues that are not declared here anyway, each once, in their order.
fn foreign_queues(config: &Config) -> Vec<&str> {
    let mut foreign: Vec<&str> = Vec::new();
    for name in &config.required_queues {
        let ours = config.queues.iter().any(|queue| queue.name == *name);
        if !ours && !foreign.contains(&name.as_str()) {
            foreign.push(name);
        }
    }
    foreign
}

fn problem(key: &str, name: &str, what: &str) -> String {
    format!("{key} {name:?}: {what}")
}

/// Bound: for everything at one connect. Past it the connection is used with what there is.
const DEADLINE: Duration = Duration::from_secs(5);
/// Always said: no broker tells a client what a policy says, and lapin does not hand on which version it is.
const DELIVERY_LIMIT: &str = "RabbitMQ 4 drops what a quorum queue has delivered 20 times: see that a policy gives \
    the queues declared here a dead-letter exchange (docs/consuming.md, \"Queues\")";
const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const PRECONDITION_FAILED: u16 = 406;

#[cfg(test)]
mod tests {
    use super::super::Tls;
    use super::*;
    use crate::secret::{Secret, Source};

    #[test]
    fn a_required_queue_that_is_declared_here_is_not_looked_for_twice() {
        let config = Config {
            uri: Source::Here(Secret::new("amqp://localhost")),
            nodes: Vec::new(),
            tls: Tls::default(),
            exchange: "payments".to_owned(),
            queues: vec![Queue { name: "ours".to_owned(), bind: vec![] }],
            required_queues: ["theirs", "ours", "theirs", "others"].map(str::to_owned).to_vec(),
            look_every: Duration::ZERO,
        };
        assert_eq!(foreign_queues(&config), ["theirs", "others"]);
    }
}
