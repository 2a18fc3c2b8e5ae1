//! One confirm-mode channel, its batches and their confirms.
//!
//! It says what lapin said about each publish, and decides nothing: which event a returned message speaks
//! against is `publication`'s to find out.
//!
//! Nothing here survives a crash: a batch whose confirms were not seen may be with the broker or not.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use futures_util::future::{BoxFuture, FutureExt as _, poll_fn, ready};
use lapin::message::BasicReturnMessage;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, ErrorKind, PublisherConfirm};
use tracing::warn;

use super::connection::{Doubt, short, words};
use super::cork::Cork;
use crate::broker::{Confirm, Confirms, LinkError, Publisher, Settled};
use crate::clock::Timestamp;
use crate::event::Message;

/// A publisher over lapin. Its channel stays open until the last confirm of its last batch has settled, even
/// if the publisher is dropped before.
pub(super) struct ConfirmChannel {
    channel: Arc<Channel>,
    exchange: ShortString,
    standing: Arc<Standing>,
    cork: Cork,
}

/// What the confirms of a channel have told of it and of the topology.
#[derive(Default)]
struct Standing {
    /// Raised by what is returned, refused or cut off: a queue, a binding or the exchange may be gone.
    doubt: Doubt,
    /// A channel that was nacked is given up. RabbitMQ 3.10 keeps what it knows of a quorum queue's leader with the
    /// channel: one that published while there was none was seen to be nacked for ever, where another was not.
    nacked: AtomicBool,
}

impl ConfirmChannel {
    pub(super) fn new(channel: Channel, exchange: ShortString, doubt: Doubt, cork: Cork) -> Self {
        let standing = Standing { doubt, nacked: AtomicBool::default() };
        Self { channel: Arc::new(channel), exchange, standing: Arc::new(standing), cork }
    }
}

impl Standing {
    fn note(&self, confirm: &Confirm) {
        match confirm {
            Confirm::Ack(None) => return,
            Confirm::Nack(_) => self.nacked.store(true, Ordering::Relaxed),
            Confirm::Ack(Some(_)) | Confirm::Lost | Confirm::Unsent | Confirm::NotRequested => {}
        }
        self.doubt.raise();
    }
}

impl Publisher for ConfirmChannel {
    fn publish(&mut self, batch: Vec<Message>, at: Timestamp) -> Box<dyn Confirms> {
        let start = |(index, message): (usize, Message)| {
            let outcome = publish(Arc::clone(&self.channel), self.exchange.clone(), message, at);
            Pending { index, outcome }
        };
        let pending: Vec<_> = batch.into_iter().enumerate().map(start).collect();
        // One alone is in one piece anyway, and lapin's thread would be woken to wait.
        let cork = (pending.len() > 1).then(|| self.cork.clone());
        let standing = Arc::clone(&self.standing);
        Box::new(Batch { pending, cork, failed: false, standing })
    }

    fn is_usable(&self) -> bool {
        self.channel.status().connected() && !self.standing.nacked.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for ConfirmChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfirmChannel").field("id", &self.channel.id()).finish_non_exhaustive()
    }
}

/// The publishes of one batch that have not settled, in their order. The first pass over them starts them, so
/// that the delivery tags are in that order too.
///
/// Dropping it with confirms outstanding does not undo a publish: lapin keeps what comes later in a list that
/// nobody reads, until the channel ends. A returned message that belongs to such a confirm would go to the next
/// batch's; that is why a lane whose batch is in doubt takes another channel.
struct Batch {
    pending: Vec<Pending>,
    /// Held in the first pass, of more than one.
    cork: Option<Cork>,
    /// The reason was logged: a lost channel is one line, not one a message.
    failed: bool,
    standing: Arc<Standing>,
}

struct Pending {
    index: usize,
    outcome: BoxFuture<'static, Outcome>,
}

/// What became of one publish, and lapin's error where there was one.
type Outcome = (Confirm, Option<lapin::Error>);

impl Batch {
    /// Polls all that are pending, again and again until a whole pass settles nothing. lapin resolves from a
    /// thread of its own and in some order; one pass could find a late one resolved and have missed an earlier
    /// one that was resolved meanwhile. After a pass without news, everything that was resolved before any of
    /// these has been seen.
    ///
    /// Bound: each pass but the last settles at least one.
    fn settled_view(&mut self, context: &mut Context<'_>) -> Vec<Settled> {
        let mut settled = Vec::new();
        let cork = self.cork.take();
        let _held = cork.as_ref().map(Cork::hold);
        loop {
            let before = settled.len();
            let failed = &mut self.failed;
            self.pending.retain_mut(|pending| match pending.outcome.as_mut().poll(context) {
                Poll::Ready((confirm, error)) => {
                    self.standing.note(&confirm);
                    if let Some(error) = error.filter(|_| !std::mem::replace(failed, true)) {
                        warn!(error = words(&error), "publishes were cut off from the broker");
                    }
                    settled.push(Settled { index: pending.index, confirm });
                    false
                }
                Poll::Pending => true,
            });
            if settled.len() == before {
                return settled;
            }
        }
    }
}

impl Confirms for Batch {
    fn settle(&mut self) -> BoxFuture<'_, Vec<Settled>> {
        // Cancel safety: what a poll takes out of `pending` it returns in the same poll.
        poll_fn(|context| {
            let settled = self.settled_view(context);
            if settled.is_empty() && !self.pending.is_empty() {
                return Poll::Pending;
            }
            Poll::Ready(settled)
        })
        .boxed()
    }

    fn settle_now(&mut self) -> Vec<Settled> {
        // The waker of an earlier `settle` is forgotten; the next `settle` polls everything anew.
        self.settled_view(&mut Context::from_waker(Waker::noop()))
    }
}

/// Publishes one message and waits for its confirm. There is no deadline here: the lane has it. What AMQP needs is made at
/// once and not when it is polled, so that the cork is held for no longer than lapin takes.
fn publish(
    channel: Arc<Channel>,
    exchange: ShortString,
    mut message: Message,
    at: Timestamp,
) -> BoxFuture<'static, Outcome> {
    let (event_id, body) = (message.id.clone(), std::mem::take(&mut message.body));
    let (Ok(key), Ok(properties)) = (short(&message.event_type), properties(message, at)) else {
        // AMQP's short strings have 255 bytes; ids and types of ours are shorter.
        warn!(event_id, "an event cannot be expressed in AMQP");
        return ready((Confirm::Unsent, None)).boxed();
    };
    async move {
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        #[expect(clippy::disallowed_methods, reason = "the one place: a batch's channel has one owner")]
        let handed_over = channel.basic_publish(exchange, key, options, body.as_bytes(), properties).await;
        outcome(handed_over).await
    }
    .boxed()
}

/// What lapin says of a publish, and what comes of it.
async fn outcome(handed_over: lapin::Result<PublisherConfirm>) -> Outcome {
    let confirmation = match handed_over {
        Ok(confirm) => confirm.await,
        Err(error) if was_refused_by_lapin(&error) => return (Confirm::Unsent, Some(error)),
        Err(error) => return (Confirm::Lost, Some(error)),
    };
    match confirmation {
        Ok(Confirmation::Ack(returned)) => (Confirm::Ack(returned.map(message_id)), None),
        Ok(Confirmation::Nack(returned)) => (Confirm::Nack(returned.map(message_id)), None),
        Ok(Confirmation::NotRequested) => (Confirm::NotRequested, None),
        Err(error) => (Confirm::Lost, Some(error)),
    }
}

/// The channel was not open when lapin was asked: it looks before it queues anything. Every other error may come
/// after the frames were queued, and over TLS even after some were written.
fn was_refused_by_lapin(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidChannelState(_, "basic.publish"))
}

/// A returned message without an id is none of ours; the empty id is nobody's, so it never attributes.
fn message_id(returned: BasicReturnMessage) -> String {
    returned.delivery.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default()
}

/// contract.md, "Event on the wire".
pub(in crate::broker) fn properties(message: Message, at: Timestamp) -> Result<BasicProperties, LinkError> {
    let (id, event_type) = (short(&message.id)?, short(&message.event_type)?);
    let mut headers = FieldTable::default();
    for (name, value) in message.into_headers() {
        headers.insert(short(name)?, AMQPValue::LongString(LongString::from(value)));
    }
    Ok(BasicProperties::default()
        .with_message_id(id)
        .with_type(event_type)
        .with_content_type(short("application/json")?)
        .with_delivery_mode(PERSISTENT)
        .with_timestamp(at.unix_seconds())
        .with_app_id(short(APP_ID)?)
        .with_headers(headers))
}

const PERSISTENT: u8 = 2;
/// `app_id` of each message, and the name of the connection.
pub(super) const APP_ID: &str = "alipay-notify-gateway";

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_confirm_that_comes_while_others_are_polled_is_in_the_same_answer() {
        // The second pending resolves the first, as lapin's thread may do between two polls of one pass.
        let (send, mut receive) = tokio::sync::oneshot::channel::<()>();
        let first = async move {
            poll_fn(|context| receive.poll_unpin(context)).await.unwrap();
            (Confirm::Ack(Some("b".to_owned())), None)
        };
        let second = async move {
            send.send(()).unwrap();
            (Confirm::Ack(None), None)
        };
        let never = futures_util::future::pending();
        let pending = [first.boxed(), second.boxed(), never.boxed()]
            .into_iter()
            .enumerate()
            .map(|(index, outcome)| Pending { index, outcome })
            .collect();
        let mut batch = Batch { pending, cork: None, failed: false, standing: Arc::default() };
        let settled = batch.settle().await;
        assert_eq!(settled.len(), 2, "{settled:?}");
        assert_eq!(batch.settle_now(), []);
        assert_eq!(batch.pending.len(), 1);
    }

    #[tokio::test]
    async fn nothing_is_written_while_a_batch_is_handed_over_and_everything_after() {
        let cork = Cork::default();
        let (send, mut seen) = tokio::sync::mpsc::channel(4);
        let outcome = |index| {
            let (cork, send) = (cork.clone(), send.clone());
            let outcome = poll_fn(move |_| {
                send.try_send(cork.is_held()).unwrap();
                Poll::Pending
            });
            Pending { index, outcome: outcome.boxed() }
        };
        let pending = (0..2).map(outcome).collect();
        let mut batch = Batch { pending, cork: Some(cork.clone()), failed: false, standing: Arc::default() };
        assert_eq!(batch.settle_now(), []);
        assert!(!cork.is_held());
        assert_eq!(batch.settle_now(), []);
        assert_eq!([(); 4].map(|()| seen.try_recv()), [Ok(true), Ok(true), Ok(false), Ok(false)]);
    }

    #[test]
    fn an_id_that_amqp_cannot_carry_is_no_reason_to_panic() {
        let message = Message {
            id: "i".repeat(256),
            event_type: "payment.succeeded".to_owned(),
            app_id: String::new(),
            subject: String::new(),
            time: String::new(),
            digest: String::new(),
            environment: String::new(),
            unchecked: false,
            traceparent: None,
            body: String::new(),
        };
        assert!(properties(message.clone(), Timestamp::default()).is_err());
        assert!(properties(Message { id: "i".repeat(255), ..message }, Timestamp::default()).is_ok());
    }
}
