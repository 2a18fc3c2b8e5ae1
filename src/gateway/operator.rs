//! What an operator may do: release what waits (a held notification, or a deferred event ahead of its back-off), drop it,
//! or feed a captured body through the gateway again. Each is logged with who did it and why.
//!
//! Releasing lets pass one objection of one notification, and the age that it came to while it was held, and nothing
//! else: the signature is verified again, with the keys of today, and the event goes publication's ordinary way, with its
//! confirm and its record. Replaying lets pass the age alone; what acceptance refuses otherwise is held like any delivery of it, and can be released.

use bytes::Bytes;
use tokio::time::Instant;

use super::Gateway;
use crate::admission::acceptance::Waived;
use crate::admission::{self, KeyName, Verdict, Withheld};
use crate::event::Key;
use crate::publication::{Answered, Hold, How, Outcome, audit};
use crate::store::{State, StoreError, Waiting};
use crate::telemetry::traces::Trace;

/// Who does something, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// What it is about.
    pub key: Key,
    /// In the operator's words.
    pub reason: String,
    /// The operator, as far as he says.
    pub who: String,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// It was released, and its event is announced: this is its id.
    Announced(String),
    /// It was dropped.
    Dropped,
    /// Nothing waits under that key.
    NothingWaits,
    /// It cannot be done, for this reason.
    Impossible(String),
    /// The broker or the store did not take it now: to be tried again.
    NotNow(String),
}

/// What became of a captured body that was fed through again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayed {
    /// Its event is announced now: this is its id.
    Announced(String),
    /// Its event was announced, or decided about, before: nothing was published.
    Known(String),
    /// It is authentic, and was refused, and is held now.
    Held(String),
    /// Its event is kept, for this reason: the gateway announces it by itself as soon as it can.
    Kept(String),
    /// It is not authentic, or no notification.
    Rejected(String),
    /// Nothing could be done with it now: to be tried again.
    NotNow(String),
}

impl Gateway {
    /// Feeds a captured body through the whole of admission and publication again. It is as if Alipay had delivered it
    /// just now; nothing but its age is overlooked. It is no request of the public door, and is not counted as one.
    ///
    /// Cancel safety: dropped before its end, it is finished and logged in a task of its own.
    pub fn replay(
        &self,
        body: Bytes,
        who: String,
        reason: String,
    ) -> impl Future<Output = Replayed> + Send + use<> {
        let gateway = self.clone();
        self.inner.tasks.finish(async move {
            let bytes = body.len();
            let replayed = gateway.replay_body(body).await;
            tracing::warn!(target: "audit", action = "replay", bytes, who, reason, ?replayed, "an operator's order");
            replayed
        })
    }

    async fn replay_body(&self, body: Bytes) -> Replayed {
        let (policy, now) = (self.inner.policy(), self.inner.clock.now());
        match admission::admit_released(&body, &policy, now, Waived::Age, now) {
            Verdict::Rejected(rejection, _) => Replayed::Rejected(rejection.to_string()),
            Verdict::Shadowed(_) => Replayed::Rejected(admission::Rejection::ShadowKey.to_string()),
            Verdict::Withheld(withheld, key) => self.hold_replayed(&withheld, &body, &key).await,
            Verdict::Admitted(admitted, key) => {
                let notify_id = admitted.event().notify_id.clone();
                let deadline = Instant::now() + self.inner.answer_timeout;
                let outcome =
                    self.inner.publication.announce(admitted, &body, Trace::default(), deadline).await;
                match outcome {
                    Outcome::Announced(announced) => {
                        audit(&announced, &notify_id, Some(&key), None, Answered::Nobody);
                        let id = announced.event_id().to_owned();
                        match announced.how() {
                            How::Confirmed(_) => Replayed::Announced(id),
                            How::Followed | How::Recorded | How::Unrouted | How::Dropped => {
                                Replayed::Known(id)
                            }
                        }
                    }
                    Outcome::Deferred(cause) => {
                        Replayed::Kept(format!("the broker did not take it yet: {}", cause.as_str()))
                    }
                    Outcome::Pending => Replayed::Kept("its confirm is still to come".to_owned()),
                    Outcome::Held(objection) => Replayed::Held(objection.to_string()),
                    Outcome::Refused => Replayed::NotNow(NO_ROOM.to_owned()),
                }
            }
        }
    }

    async fn hold_replayed(&self, withheld: &Withheld, body: &Bytes, key: &KeyName) -> Replayed {
        let objection = withheld.objection();
        match self.inner.publication.hold(withheld, body).await {
            Ok(Hold::Decided(announced)) => {
                audit(&announced, withheld.notify_id(), Some(key), None, Answered::Nobody);
                Replayed::Known(announced.event_id().to_owned())
            }
            Ok(Hold::Held) => {
                self.inner.metrics.held.with_label_values(&[objection.reason()]).inc();
                Replayed::Held(objection.to_string())
            }
            Ok(Hold::Full) => Replayed::NotNow(format!("there is no room to hold it: {objection}")),
            Err(_) => Replayed::NotNow(format!("the store is away, and it is to be held: {objection}")),
        }
    }

    /// Announces a held notification that its operator has looked into.
    ///
    /// # Errors
    /// If the store is away.
    pub async fn release(&self, order: Order) -> Result<Done, StoreError> {
        let done = self.release_held(&order).await?;
        tell("release", &order, &done);
        Ok(done)
    }

    /// Decides that what waits is never announced: deliveries of it are answered `success` from now on.
    ///
    /// # Errors
    /// If the store is away.
    pub async fn drop_waiting(&self, order: Order) -> Result<Done, StoreError> {
        let dropped = self.inner.publication.drop_waiting(order.key.clone(), reason(&order)).await?;
        let done = if dropped { Done::Dropped } else { Done::NothingWaits };
        tell("drop", &order, &done);
        Ok(done)
    }

    /// What waits under a key, with its content. `None` if nothing does.
    ///
    /// # Errors
    /// If the store is away.
    pub async fn waiting(&self, key: Key) -> Result<Option<Waiting>, StoreError> {
        self.inner.publication.waiting(key).await
    }

    async fn release_held(&self, order: &Order) -> Result<Done, StoreError> {
        let publication = &self.inner.publication;
        let waiting = match publication.waiting(order.key.clone()).await? {
            None => return Ok(Done::NothingWaits),
            Some(waiting) if waiting.state == State::InDoubt => {
                return Ok(Done::NotNow("its confirm is still awaited".to_owned()));
            }
            Some(waiting) if waiting.state == State::Deferred => {
                let deadline = Instant::now() + self.inner.answer_timeout;
                let outcome = publication.hurry(waiting, deadline).await;
                return Ok(outcome.map_or_else(|| Done::Impossible(UNREADABLE.to_owned()), done));
            }
            Some(waiting) => waiting,
        };
        let (policy, now) = (self.inner.policy(), self.inner.clock.now());
        let waived = Waived::of(&waiting.reason);
        let verdict = admission::admit_released(&waiting.content, &policy, now, waived, waiting.first_at);
        let (admitted, key) = match verdict {
            Verdict::Admitted(admitted, key) => (admitted, key),
            Verdict::Withheld(withheld, _) => return Ok(Done::Impossible(withheld.objection().to_string())),
            Verdict::Rejected(rejection, _) => return Ok(Done::Impossible(rejection.to_string())),
            Verdict::Shadowed(_) => {
                return Ok(Done::Impossible(admission::Rejection::ShadowKey.to_string()));
            }
        };
        let notify_id = admitted.event().notify_id.clone();
        let deadline = Instant::now() + self.inner.answer_timeout;
        let body = waiting.content.into();
        let outcome = publication.announce(admitted, &body, Trace::default(), deadline).await;
        if let Outcome::Announced(announced) = &outcome {
            audit(announced, &notify_id, Some(&key), None, Answered::Nobody);
            // The record clears what is held of this notification; this remains for deliveries still to come, which
            // acceptance refuses as before.
            publication.settle_released(order.key.clone(), notify_id, reason(order)).await?;
        }
        Ok(done(outcome))
    }
}

fn done(outcome: Outcome) -> Done {
    match outcome {
        Outcome::Announced(announced) => Done::Announced(announced.event_id().to_owned()),
        Outcome::Deferred(cause) => Done::NotNow(format!("the broker did not take it: {}", cause.as_str())),
        Outcome::Pending => Done::NotNow("its confirm is still to come".to_owned()),
        Outcome::Held(objection) => Done::Impossible(objection.to_string()),
        Outcome::Refused => Done::NotNow(NO_ROOM.to_owned()),
    }
}

const UNREADABLE: &str = "what is kept of it cannot be read: only Alipay can bring it again";
const NO_ROOM: &str = "there is no room, or the gateway is stopping";

fn reason(order: &Order) -> String {
    format!("{}: {}", order.who, order.reason)
}

fn tell(action: &'static str, order: &Order, done: &Done) {
    let Order { key, reason, who } = order;
    let (subject, id) = (&key.subject, &key.id);
    tracing::warn!(target: "audit", action, subject, id, who, reason, ?done, "an operator's order");
}
