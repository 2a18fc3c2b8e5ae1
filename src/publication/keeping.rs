//! What was not announced in time is kept, and answered `fail`.

use std::sync::Arc;

use super::lane::Ready;
use super::{STORE_DEADLINE, Settlement, Shared, within};
use crate::clock::Timestamp;
use crate::event::{Event, EventType};
use crate::failpoint::{self, Point};
use crate::store::{Cause, Deferral, Kept, State};

impl Shared {
    pub(super) fn spawn_defer(self: &Arc<Self>, ready: Vec<Ready>, cause: Cause, state: State) {
        let shared = Arc::clone(self);
        self.tasks.spawn_vital(async move {
            let deferrals = ready.iter().map(|ready| shared.deferral(ready, cause, state)).collect();
            failpoint::reached(Point::Deferring);
            let kept = shared.keep(deferrals).await;
            failpoint::reached(Point::DeferredUnanswered);
            for (ready, kept) in ready.into_iter().zip(kept) {
                shared.give_up(ready.job, settlement_of(cause, kept));
            }
        });
    }

    /// One answer for each, whatever the store says.
    pub(super) async fn keep(self: &Arc<Self>, deferrals: Vec<Deferral>) -> Vec<Kept> {
        let count = deferrals.len();
        match within(STORE_DEADLINE, self.store.defer(deferrals)).await {
            Ok(mut kept) => {
                kept.resize(count, Kept::Full);
                kept
            }
            Err(error) => {
                self.unchecked(Some(&error.message));
                vec![Kept::Full; count]
            }
        }
    }

    pub(super) fn deferral(&self, ready: &Ready, cause: Cause, state: State) -> Deferral {
        let event = ready.job.event();
        Deferral {
            key: event.key().clone(),
            event_type: event.event_type,
            digest: event.digest,
            notify_id: event.notify_id.clone(),
            state,
            cause,
            message: ready.message(&ready.job.errand.trace),
            at: self.clock.now(),
            payment_time: told_payment(event),
        }
    }
}

/// When the buyer paid, if a payment is what the event tells. A refund, or the end of a trade, comes long after it and has
/// a schedule of its own.
pub(super) fn told_payment(event: &Event) -> Option<Timestamp> {
    match event.event_type {
        EventType::PaymentSucceeded | EventType::PaymentLate => event.payment_time,
        EventType::PaymentRefunded
        | EventType::PaymentConflict
        | EventType::TradePending
        | EventType::TradeFinished
        | EventType::TradeClosed
        | EventType::NotificationOther => None,
    }
}

/// What is said of something that was handed over to be kept.
pub(super) fn settlement_of(cause: Cause, kept: Kept) -> Settlement {
    match kept {
        Kept::Yes | Kept::Settled(_) => Settlement::Deferred(cause),
        Kept::Full => Settlement::Refused,
    }
}
