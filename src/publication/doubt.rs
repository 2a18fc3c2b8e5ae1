//! In doubt is not failed: what was published and not confirmed in time is kept, answered `fail`, and watched by a task
//! of its own, which keeps others from publishing it again too early (design.md, "In doubt is not failed").

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::keeping::settlement_of;
use super::lane::{Batch, Channel, Ready};
use super::{STORE_DEADLINE, Shared, within};
use crate::broker::Link;
use crate::event::Key;
use crate::failpoint::{self, Point};
use crate::metrics::PublishResult;
use crate::store::{Cause, DOUBT, Kept, State};

impl Shared {
    /// In doubt is not failed: answered `fail`, kept, and not published again until its confirm resolves, its
    /// channel is gone, or [`DOUBT`] is over; and not over while the broker is blocked, when nothing can move.
    pub(super) async fn doubt(self: &Arc<Self>, mut batch: Batch, channel: Channel) {
        // A blocked broker is silent about everything, and says so.
        let is_up = *self.broker.link().borrow() == Link::Up(channel.connection);
        for ready in batch.jobs.iter_mut().flatten() {
            let event_type = ready.job.event().event_type;
            self.metrics.event(event_type, PublishResult::InDoubt);
            if is_up {
                self.breaker.silent(event_type, channel.connection);
            }
            ready.probe = None;
        }
        batch.end_spans();
        let doubtful: Vec<&Ready> = batch.jobs.iter().flatten().collect();
        tracing::warn!(events = doubtful.len(), "confirms are overdue: the events are in doubt");
        let deferrals =
            doubtful.iter().map(|ready| self.deferral(ready, Cause::InDoubt, State::InDoubt)).collect();
        let keys: Vec<Key> = doubtful.iter().map(|ready| ready.job.key().clone()).collect();
        failpoint::reached(Point::InDoubt);
        let kept = self.keep(deferrals).await;
        failpoint::reached(Point::InDoubtUnanswered);
        for (key, kept) in keys.iter().zip(kept) {
            self.flight.answer(key, &settlement_of(Cause::InDoubt, kept));
        }
        let shared = Arc::clone(self);
        self.tasks.spawn_vital(async move {
            let _channel = channel;
            batch.watch(&shared).await;
        });
    }

    /// Keeps the leases of what is still in doubt from ending while its confirm is waited for. Says when to do it again.
    async fn renew(&self, keys: Vec<Key>) -> Duration {
        match within(STORE_DEADLINE, self.store.renew(keys)).await {
            Ok(()) => DOUBT / 2,
            Err(error) => {
                tracing::warn!(%error, "what is in doubt could not be leased anew");
                RENEW_AGAIN
            }
        }
    }
}

impl Batch {
    /// Watches what is in doubt. Late confirms are recorded, even after others may publish the event again.
    async fn watch(&mut self, shared: &Arc<Shared>) {
        let mut doubt_until = Some(Instant::now() + DOUBT);
        let watch_until = Instant::now() + WATCH;
        let mut renew_at = (shared.store.lease() != Duration::MAX).then(|| Instant::now() + DOUBT / 2);
        let mut link = shared.broker.link();
        while !self.attribution.is_complete() {
            let end = doubt_until.unwrap_or(watch_until);
            let wake = renew_at.map_or(end, |at| at.min(end));
            let view = tokio::select! {
                biased;
                view = self.confirms.settle() => view,
                () = tokio::time::sleep_until(wake) => self.confirms.settle_now(),
            };
            let over = Instant::now() >= end;
            // Nothing more will come: what is undecided then stays so.
            if view.is_empty() && Instant::now() < wake {
                break;
            }
            self.settle(view, shared);
            shared.spawn_record(std::mem::take(&mut self.done));
            shared.give_back(std::mem::take(&mut self.failed), false);
            if over && doubt_until.is_none() {
                break;
            }
            if over {
                let blocked = matches!(*link.borrow_and_update(), Link::Blocked(_));
                doubt_until = blocked.then(|| Instant::now() + DOUBT);
                if !blocked {
                    renew_at = None;
                    self.release(shared).await;
                }
            }
            if renew_at.is_some_and(|at| Instant::now() >= at) {
                let keys = self.jobs.iter().flatten().map(|ready| ready.job.key().clone()).collect();
                renew_at = Some(Instant::now() + shared.renew(keys).await);
            }
        }
        if !self.attribution.is_complete() && doubt_until.is_some() {
            self.release(shared).await;
        }
    }

    /// Ends the flights of what is still in doubt: the next delivery may publish it again.
    async fn release(&mut self, shared: &Arc<Shared>) {
        let doubtful: Vec<&Ready> = self.jobs.iter().flatten().collect();
        let deferrals =
            doubtful.iter().map(|ready| shared.deferral(ready, Cause::InDoubt, State::Deferred)).collect();
        let keys: Vec<Key> = doubtful.iter().map(|ready| ready.job.key().clone()).collect();
        failpoint::reached(Point::DoubtOver);
        let kept = shared.keep(deferrals).await;
        for (key, kept) in keys.iter().zip(&kept) {
            shared.flight.complete(key, &settlement_of(Cause::InDoubt, *kept));
        }
        for (ready, kept) in self.jobs.iter_mut().flatten().zip(kept) {
            ready.job.errand.place = None;
            ready.job.leads = false;
            ready.job.is_kept = kept != Kept::Full;
        }
    }
}

/// Between two tries to have leases anew, where the store is away.
const RENEW_AGAIN: Duration = Duration::from_secs(5);
/// Bound: how long a late confirm is waited for at all.
const WATCH: Duration = Duration::from_secs(600);
