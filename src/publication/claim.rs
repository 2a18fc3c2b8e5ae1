//! Claims, and what the store has to say before anything is published: duplicates, tombstones, the stale, the late
//! and the contradicting take their own ways here; what is left goes into a lane's batch.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::breaker::Course;
use super::keeping::told_payment;
use super::lane::{Job, Ready};
use super::resolution::{Resolution, resolve};
use super::{Errand, Role, STORE_DEADLINE, Settlement, Shared, within};
use crate::admission::acceptance::Objection;
use crate::event::{Event, Key};
use crate::failpoint::{self, Point};
use crate::metrics::Stage;
use crate::store::{Cause, Claim, Decision, Kept, Known, State, Waiting, WhenAway, held_key};

impl Shared {
    /// Claims, and resolves what the store has to say: duplicates, tombstones, the stale, the late and the
    /// contradicting leave the batch here.
    pub(super) async fn sort_out(self: &Arc<Self>, jobs: Vec<Job>) -> Vec<Ready> {
        failpoint::reached(Point::Unclaimed);
        let started = Instant::now();
        let keys = jobs.iter().map(|job| job.key().clone()).collect();
        let (claims, unchecked) = match within(STORE_DEADLINE, self.store.claim(keys)).await {
            // It can be asked and not be written: what it says is true, but it may be forgetting.
            Ok(claims) => (claims, self.metrics.store_unchecked.get() == 1),
            Err(error) => {
                self.unchecked(Some(&error.message));
                if self.store.when_away() == WhenAway::Refuse {
                    jobs.into_iter().for_each(|job| self.give_up(job, Settlement::Refused));
                    return Vec::new();
                }
                (vec![Claim::Granted(None); jobs.len()], true)
            }
        };
        let took = started.elapsed();
        self.metrics.stage(Stage::Claim, took);
        jobs.iter().for_each(|job| job.errand.trace.stage(Stage::Claim, took));
        let mut ready = Vec::with_capacity(jobs.len());
        for (job, claim) in jobs.into_iter().zip(claims) {
            let unchecked = unchecked || claim == Claim::Unreadable;
            let known = match (self.unrecorded.known(job.key()), claim) {
                // Confirmed here, whoever is at it because he cannot know.
                (Some(known), _) => Some(known),
                (None, Claim::Unreadable) if self.store.when_away() == WhenAway::Refuse => {
                    self.give_up(job, Settlement::Refused);
                    continue;
                }
                (None, Claim::Unreadable) => None,
                (None, Claim::HeldElsewhere) => {
                    self.park(job);
                    continue;
                }
                (None, Claim::Granted(known)) => known,
            };
            match resolve(job.event(), known.as_ref()) {
                Resolution::Publish if job.errand.deadline <= Instant::now() => {
                    self.spawn_defer(
                        vec![Ready { job, unchecked, probe: None }],
                        Cause::Late,
                        State::Deferred,
                    );
                }
                Resolution::Publish => match self.breaker.course(job.event().event_type) {
                    Course::Publish => ready.push(Ready { job, unchecked, probe: None }),
                    Course::Probe(probe) => ready.push(Ready { job, unchecked, probe: Some(probe) }),
                    Course::Defer => {
                        let ready = vec![Ready { job, unchecked, probe: None }];
                        self.spawn_defer(ready, Cause::Suspended, State::Deferred);
                    }
                },
                Resolution::Duplicate => {
                    let event = Arc::clone(&job.errand.event);
                    if self.metrics.backlog_events.with_label_values(&["held"]).get() > 0 {
                        self.spawn_clear(job);
                        continue;
                    }
                    self.give_up(job, Settlement::Recorded { event });
                }
                Resolution::Dropped => self.give_up(job, Settlement::Dropped),
                Resolution::Hold => self.spawn_hold(job),
                Resolution::Announce(event) => self.redirect(job, *event),
            }
        }
        ready
    }

    /// Another replica is at it: asked again outside the lane, until the event's own deadline.
    fn park(self: &Arc<Self>, job: Job) {
        // What is kept stays so, and other replicas are no reason for a round of the drain to wait; a delivery that has
        // joined it is one.
        if job.drained && !self.flight.is_followed(job.key()) {
            return self.give_up(job, Settlement::Deferred(Cause::Late));
        }
        let pause = Duration::from_millis(self.random(50..200));
        let shared = Arc::clone(self);
        self.tasks.spawn_vital(async move {
            tokio::time::sleep(pause).await;
            if job.errand.deadline <= Instant::now() && !job.drained {
                // Who has it may have died, and this may have been Alipay's last delivery: kept, and due when his lease
                // is over. If he records it, the record replaces the row. A row does not say that an event is stale or late,
                // so such a one takes its own way now: as what it is beside his row, if he has kept it.
                let known = shared.kept_elsewhere(&job).await;
                match resolve(job.event(), known.as_ref()) {
                    Resolution::Hold => shared.spawn_hold(job),
                    Resolution::Announce(event) => shared.redirect(job, *event),
                    Resolution::Publish | Resolution::Duplicate | Resolution::Dropped => {
                        let ready = vec![Ready { job, unchecked: false, probe: None }];
                        shared.spawn_defer(ready, Cause::Late, State::Deferred);
                    }
                }
            } else if job.errand.deadline <= Instant::now() {
                shared.give_up(job, Settlement::Refused);
            } else if let Err(job) = shared.queue.push(job) {
                shared.give_up(*job, Settlement::Refused);
            }
        });
    }

    /// What is kept by who has claimed a late event. Of others nobody asks: it changes nothing.
    async fn kept_elsewhere(&self, job: &Job) -> Option<Known> {
        if !job.event().late {
            return None;
        }
        let waiting = within(STORE_DEADLINE, self.store.waiting(job.key().clone())).await.ok()??;
        let Waiting { state, digest, notify_id, .. } = waiting;
        Some(Known { state, digest: digest?, notify_id })
    }

    /// Announces another event in this one's place, through a flight of its own, so that its id too is
    /// published once.
    fn redirect(self: &Arc<Self>, job: Job, event: Event) {
        let original = job.key().clone();
        let shared = Arc::clone(self);
        self.tasks.spawn_vital(async move {
            let errand = Errand { event: Arc::new(event), body: None, ..job.errand };
            let (settled, ()) =
                futures_util::join!(Box::pin(shared.settle(errand, None)), shared.let_go(original.clone()));
            let settlement = match settled {
                Some((Role::Follower, Settlement::Confirmed { event, .. })) => Settlement::Recorded { event },
                Some((_, settlement)) => settlement,
                None => Settlement::Refused,
            };
            shared.flight.complete(&original, &settlement);
        });
    }

    /// Somebody is at the same key with other facts, beyond this one's deadline (his confirm is in doubt): what it will be
    /// once those are known, a conflict or a finish, is kept under the id that it will have. This may have been Alipay's
    /// last delivery of it (simulation, seed 104657).
    pub(super) fn keep_apart(self: &Arc<Self>, errand: Errand, ahead: Option<&Known>) {
        let errand = match ahead {
            // Behind one that is too old, and may be held: it takes its own way when that is decided.
            None => errand,
            Some(ahead) => {
                let Resolution::Announce(event) = resolve(&errand.event, Some(ahead)) else { return };
                Errand { event: Arc::new(*event), body: None, ..errand }
            }
        };
        let shared = Arc::clone(self);
        self.tasks.spawn_vital(async move {
            Box::pin(shared.settle(errand, None)).await;
        });
    }

    fn spawn_hold(self: &Arc<Self>, job: Job) {
        let shared = Arc::clone(self);
        self.tasks.spawn_vital(async move {
            let event = job.event();
            let key = held_key(event.id.app_id(), &event.notify_id, event.id.subject().to_owned());
            let body = job.errand.body.clone().unwrap_or_default();
            let held = shared.hold(key, &event.notify_id, told_payment(event), Objection::Stale, &body).await;
            let settlement = match held {
                Ok(Kept::Yes) => Settlement::Held,
                Ok(Kept::Settled(State::Dropped)) => Settlement::Dropped,
                Ok(Kept::Settled(_)) => Settlement::Recorded { event: Arc::clone(&job.errand.event) },
                Ok(Kept::Full) => Settlement::Refused,
                Err(error) => {
                    shared.unchecked(Some(&error.message));
                    Settlement::Refused
                }
            };
            shared.let_go(job.key().clone()).await;
            shared.give_up(job, settlement);
        });
    }

    /// A duplicate. What was held of the same notification, while it was refused for a moment, is announced, and nobody is to be
    /// called for it: what is confirmed has its record clear that, and this one has none to write.
    fn spawn_clear(self: &Arc<Self>, job: Job) {
        let shared = Arc::clone(self);
        self.tasks.spawn_vital(async move {
            let event = Arc::clone(&job.errand.event);
            let key = held_key(event.id.app_id(), &event.notify_id, event.id.subject().to_owned());
            let held = within(STORE_DEADLINE, shared.store.waiting(key.clone())).await;
            if matches!(held, Ok(Some(Waiting { state: State::Held, .. }))) {
                let (state, reason, at) = (State::Recorded, "announced".to_owned(), shared.clock.now());
                let (notify_id, expires_at) = (event.notify_id.clone(), at.plus(shared.config.retention));
                let decision = Decision { key, notify_id, state, reason, at, expires_at };
                // If it cannot be written the next delivery, or an operator, clears it.
                let _ = within(STORE_DEADLINE, shared.store.decide(decision)).await;
            }
            shared.give_up(job, Settlement::Recorded { event });
        });
    }

    /// Gives a lease back that led to nothing which is written under its key. If that fails it ends by itself.
    async fn let_go(&self, key: Key) {
        let _ = within(STORE_DEADLINE, self.store.release(vec![key])).await;
    }
}
