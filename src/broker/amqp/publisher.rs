//! One confirm-mode channel with one owner, and the confirms of its one outstanding batch.
//!
//! The publishes of a batch are started in order from one task and polled together, in passes. A pass in which
//! something resolved is followed by another over what is left, until a pass brings nothing new: so whatever
//! lapin resolved before any confirm of a view is in that view or an earlier one. lapin resolves confirms in
//! its I/O thread while we poll; without the second pass a later one could be seen before an earlier one, and
//! with it the earlier one's return would be missed.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation};

use crate::broker::{Confirm, Confirms, LinkError, Publisher, Settled};
use crate::clock::Timestamp;
use crate::event::Message;

/// A channel in confirm mode.
pub(super) struct AmqpPublisher {
    channel: Channel,
    exchange: ShortString,
}

impl AmqpPublisher {
    /// Takes ownership of a channel that is in confirm mode.
    pub(super) fn new(channel: Channel, exchange: &str) -> Result<Self, LinkError> {
        Ok(Self { channel, exchange: short(exchange)? })
    }
}

impl Publisher for AmqpPublisher {
    fn publish(&mut self, batch: Vec<Message>, at: Timestamp) -> Box<dyn Confirms> {
        let publishes = batch
            .into_iter()
            .map(|message| Some(publish(self.channel.clone(), self.exchange.clone(), message, at).boxed()))
            .collect();
        Box::new(AmqpConfirms { publishes })
    }

    fn is_usable(&self) -> bool {
        self.channel.status().connected()
    }
}

/// Publishes one message and awaits its confirm.
async fn publish(channel: Channel, exchange: ShortString, message: Message, at: Timestamp) -> Confirm {
    let (Ok(properties), Ok(routing_key)) = (properties(&message, at), short(&message.event_type)) else {
        return Confirm::Unsent;
    };
    // Not in confirm mode any more, or not open: nothing was handed over.
    if !channel.status().connected() {
        return Confirm::Unsent;
    }
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    #[expect(clippy::disallowed_methods, reason = "the one place, and the channel's one owner")]
    let published =
        channel.basic_publish(exchange, routing_key, options, message.body.as_bytes(), properties);
    let confirm = match published.await {
        Ok(confirm) => confirm.await,
        Err(error) => Err(error),
    };
    match confirm {
        Ok(Confirmation::Ack(returned)) => {
            Confirm::Ack(returned.map(|message| id_of(&message.delivery.properties)))
        }
        Ok(Confirmation::Nack(returned)) => {
            Confirm::Nack(returned.map(|message| id_of(&message.delivery.properties)))
        }
        Ok(Confirmation::NotRequested) => Confirm::NotRequested,
        Err(_) => Confirm::Lost,
    }
}

fn id_of(properties: &BasicProperties) -> String {
    properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default()
}

/// contract.md, "Event on the wire".
fn properties(message: &Message, at: Timestamp) -> Result<BasicProperties, LinkError> {
    let mut headers = FieldTable::default();
    for (name, value) in message.headers() {
        headers.insert(short(name)?, AMQPValue::LongString(value.into()));
    }
    Ok(BasicProperties::default()
        .with_message_id(short(&message.id)?)
        .with_type(short(&message.event_type)?)
        .with_content_type(short("application/json")?)
        .with_delivery_mode(PERSISTENT)
        .with_timestamp(at.unix_seconds())
        .with_app_id(short("alipay-notify-gateway")?)
        .with_headers(headers))
}

/// A short string holds 255 bytes, and lapin's own conversion panics past them.
pub(super) fn short(text: &str) -> Result<ShortString, LinkError> {
    ShortString::try_new(text)
        .map_err(|_| LinkError { message: "longer than an AMQP short string".to_owned() })
}

/// The outstanding confirms of a batch; each is taken out when it has resolved.
struct AmqpConfirms {
    publishes: Vec<Option<BoxFuture<'static, Confirm>>>,
}

impl AmqpConfirms {
    fn view(&mut self, context: &mut Context<'_>) -> Vec<Settled> {
        let mut view = Vec::new();
        loop {
            let before = view.len();
            for (index, publish) in self.publishes.iter_mut().enumerate() {
                if let Some(future) = publish
                    && let Poll::Ready(confirm) = future.as_mut().poll(context)
                {
                    view.push(Settled { index, confirm });
                    *publish = None;
                }
            }
            if view.len() == before {
                return view;
            }
        }
    }
}

impl Confirms for AmqpConfirms {
    fn settle(&mut self) -> BoxFuture<'_, Vec<Settled>> {
        Box::pin(Settle { confirms: self })
    }

    fn settle_now(&mut self) -> Vec<Settled> {
        self.view(&mut Context::from_waker(Waker::noop()))
    }
}

struct Settle<'c> {
    confirms: &'c mut AmqpConfirms,
}

impl Future for Settle<'_> {
    type Output = Vec<Settled>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Vec<Settled>> {
        if self.confirms.publishes.iter().all(Option::is_none) {
            return Poll::Ready(Vec::new());
        }
        let view = self.confirms.view(context);
        if view.is_empty() { Poll::Pending } else { Poll::Ready(view) }
    }
}

const PERSISTENT: u8 = 2;
