//! What the broker has confirmed is written down, and only then answered; and if it cannot be written, it is answered
//! all the same, because the broker has it, and written later.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::lane::Job;
use super::{Answered, Outcome, Role, STORE_DEADLINE, Settlement, Shared, audit, within};
use crate::clock::Timestamp;
use crate::event::{Event, EventType};
use crate::failpoint::{self, Point};
use crate::metrics::Stage;
use crate::store::{Record, State, WhenAway};

/// An event that is safe in the broker, or returned as one that nobody wants.
pub(super) struct Done {
    pub(super) job: Job,
    pub(super) state: State,
    pub(super) at: Timestamp,
}

impl Shared {
    /// Hands what is safe to the store's writer, and answers when it is written. If it cannot be, the answer
    /// is `success` all the same: the broker has it.
    pub(super) fn spawn_record(self: &Arc<Self>, done: Vec<Done>) {
        if done.is_empty() {
            return;
        }
        let shared = Arc::clone(self);
        self.tasks.spawn_vital(async move { shared.record(done).await });
    }

    async fn record(self: Arc<Self>, done: Vec<Done>) {
        done.iter().for_each(|done| done.job.passes(Point::ConfirmedUnrecorded, Point::DrainedUnrecorded));
        let started = Instant::now();
        let records = || done.iter().map(|done| self.record_of(done)).collect::<Vec<_>>();
        match within(STORE_DEADLINE, self.store.record(records())).await {
            Ok(()) => {
                failpoint::reached(Point::RecordedUnanswered);
                let took = started.elapsed();
                self.metrics.stage(Stage::Record, took);
                done.iter().for_each(|done| done.job.errand.trace.stage(Stage::Record, took));
                self.unchecked(None);
            }
            Err(error) => {
                let lost = self.unrecorded.keep(records());
                self.unchecked(Some(&error.message));
                if lost > 0 {
                    tracing::error!(
                        lost,
                        "too many confirmed events wait for the store: these may be repeated"
                    );
                }
            }
        }
        for done in done {
            self.watch.saw(done.job.event(), done.state, done.at);
            if done.state == State::Recorded
                && let Some(paid) = payment_time(done.job.event())
            {
                self.metrics.payment_lag.observe(done.at.since(paid).as_secs_f64());
                self.metrics.handling_lag.observe(done.at.since(done.job.errand.arrived).as_secs_f64());
            }
            let (event, trace) = (Arc::clone(&done.job.errand.event), done.job.errand.trace.clone());
            let settlement = match done.state {
                State::Unrouted => Settlement::Unrouted,
                State::Recorded | State::Deferred | State::InDoubt | State::Held | State::Dropped => {
                    Settlement::Confirmed { event: Arc::clone(&event), at: done.at }
                }
            };
            let is_drained = done.job.drained;
            let is_heard = self.finish(done.job, &settlement);
            let is_confirmed = matches!(settlement, Settlement::Confirmed { .. });
            if is_confirmed
                && (is_drained || !is_heard)
                && let Outcome::Announced(announced) = settlement.outcome(Role::Leader, Arc::clone(&event))
            {
                audit(&announced, &event.notify_id, None, trace.id(), Answered::Nobody);
            }
        }
    }

    /// Writes what could not be written, until it is, and finds out whether the store can be written again: one task at
    /// a time.
    fn spawn_rewrite(self: &Arc<Self>) {
        if !self.unrecorded.begin_rewriting() {
            return;
        }
        let shared = Arc::clone(self);
        self.tasks.spawn_vital(async move {
            loop {
                // If there is none, the empty batch asks.
                let records = shared.unrecorded.some(shared.config.max_batch);
                match within(STORE_DEADLINE, shared.store.record(records.clone())).await {
                    Ok(()) => {
                        shared.unrecorded.written(&records);
                        if shared.unrecorded.end_if_empty() {
                            break;
                        }
                    }
                    // Bound: for as long as the store is away; shutdown has its own grace.
                    Err(_) => tokio::time::sleep(REWRITE_PAUSE).await,
                }
            }
            shared.unchecked(None);
        });
    }

    /// Notes whether the store did what was asked, and says so when it changes.
    pub(super) fn unchecked(self: &Arc<Self>, failure: Option<&str>) {
        let (gauge, so) = match self.store.when_away() {
            WhenAway::Unchecked => (&self.metrics.store_unchecked, "announced unchecked"),
            WhenAway::Refuse => (&self.metrics.store_refusing, "refused"),
        };
        let before = gauge.get();
        if failure.is_some() {
            self.spawn_rewrite();
        }
        match failure {
            Some(error) if before == 0 => {
                gauge.set(1);
                tracing::error!(error, "the store is away: events are {so}");
            }
            None if before == 1 && self.unrecorded.is_empty() => {
                gauge.set(0);
                tracing::info!("the store is back: events are checked again");
            }
            Some(_) | None => {}
        }
    }

    fn record_of(&self, done: &Done) -> Record {
        let event = done.job.event();
        let from = event.payment_time.map_or(done.at, |paid| paid.max(done.at));
        Record {
            key: event.key().clone(),
            app_id: event.id.app_id().to_owned(),
            event_type: event.event_type,
            digest: event.digest,
            notify_id: event.notify_id.clone(),
            state: done.state,
            at: done.at,
            expires_at: from.plus(self.config.retention),
        }
    }
}

/// Only a payment's announcement has a lag from its payment.
fn payment_time(event: &Event) -> Option<Timestamp> {
    match event.event_type {
        EventType::PaymentSucceeded => event.payment_time,
        EventType::PaymentRefunded
        | EventType::PaymentLate
        | EventType::PaymentConflict
        | EventType::TradePending
        | EventType::TradeFinished
        | EventType::TradeClosed
        | EventType::NotificationOther => None,
    }
}

/// Between two tries to write what could not be written.
const REWRITE_PAUSE: Duration = Duration::from_secs(1);
