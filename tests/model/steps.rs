//! What can happen, a step at a time: which function of `src/` each step stands for, and what it does. A crash can come
//! between any two.
//!
//! | step | stands for |
//! |---|---|
//! | `Arrive`, `Join` | `Publication::announce`, `Shared::settle`, `Flight::join` |
//! | `AnswerLate` | `timeout_at` in `Shared::settle`: `fail`, and the event goes on |
//! | `Claim`, `ClaimFails` | `Shared::sort_out` with `resolve`, `Shared::redirect` |
//! | `TooLate`, `NoLink` | `Cause::Late` in `sort_out`, or its type's `breaker`; `Lane::open` without a link |
//! | `Publish` | `Shared::start`, `Confirms::settle` |
//! | `Take` | the broker puts it into a queue |
//! | `Ack`, `Nack`, `Return` | `Batch::settle`: handed to `spawn_record`, or to `give_back` and `spawn_defer` |
//! | `Overdue` | the deadline in `Batch::await_confirms`: `Shared::doubt` |
//! | `MinuteOver` | `DOUBT` in `Batch::watch`: `Batch::release` |
//! | `ChannelCloses` | a channel exception: `give_back`, which tries it once more, alone |
//! | `LinkLost`, `SeeLoss` | a connection lost: every confirm settles as lost |
//! | `Write`, `Sync`, `StoreFails` | `Core::commit`; after it `Shared::record`, `keep`, `give_up`, `Flight::answer` |
//! | `Rewrite` | `Shared::spawn_rewrite` |
//! | `Drain` | `backlog::drain_round`, `put_in`; where the store is shared, `due` takes the lease |
//! | `GiveUp` | `Shared::park`, at the deadline: another gateway is at it |
//! | `LeaseEnds` | 15 s, in doubt 60 s: by itself for what a dead gateway left, a fault for what a living one is at |
//! | `Forget` | a fail-over of the shared store: a lease is lost, or a row as it was last written |
//! | `Crash`, `Restart` | kill -9, or a power cut: what was written and not synced is there or is not |
//!
//! Not modelled: a blocked broker (it is silence and deferral), the stale, the late and the finishing, what is held, and
//! the bounds.
//!
//! With more than one gateway the store is shared: `claim` gives leases, `due` too; what is in doubt is leased to whoever
//! published it; `record` ends any lease, `defer` and `release` only one's own. A claim that is refused leaves the job where it is.
//!
//! A batch is one event here: what the confirms of a larger one mean is told by `tests/it/scripted_orders.rs`. Time is
//! not modelled: whatever waits for a time may happen at once, or never until everything else has. A message that was
//! in transit when its sender lost it arrives at that moment or never.

use crate::world::{
    Attempt, Delivery, Event, Faults, Flight, Holder, Id, Job, Keep, Lease, Money, Publication, Replica, Row,
    RowState, Stage, Waiter, Window, Wire, World,
};

/// What the protocol is, and in which way it is broken to see that a property notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// As `src/publication` has it.
    Real,
    /// `success` is said when the event is on its way.
    AnswersBeforeConfirm,
    /// The record is written when the event is on its way.
    RecordsBeforeConfirm,
    /// The flight ends at the confirm, before the record can be seen.
    ForgetsFlightBeforeRecord,
    /// The flight of an event in doubt ends at once.
    DropsDoubt,
    /// The store answers before it has synced.
    DoesNotSync,
    /// Nobody asks the store what is known.
    DoesNotClaim,
    /// What is kept is left to Alipay.
    DoesNotDrain,
    /// A flight is ended by its key, by whoever had such a job.
    EndsFlightsByKey,
    /// `success` is said because another gateway is at it.
    AnswersOnClaim,
    /// A claim is granted whoever has the lease.
    IgnoresLeases,
    /// The lease of what is in doubt ends as that of what is deferred.
    DoubtEndsLease,
    /// Leases are given back whoever has them.
    ReleasesOthers,
    /// What is kept ends the lease, whoever has it.
    KeepsEndOthersLeases,
    /// A batch is published although its leases have run out.
    PublishesWithoutLease,
    /// `due` hands out what another gateway was handed.
    HandsOutTwice,
    /// The lease of a gateway that has died lasts for ever.
    LeasesLastForEver,
}

/// A step. Gateways and jobs are numbered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Arrive {
        delivery: usize,
        at: usize,
    },
    Join(usize),
    AnswerLate(usize),
    Of(usize, usize, JobStep),
    Rewrite(usize, Id),
    Drain(usize, Id),
    /// `taken`: of each job in transit, whether the broker has got it.
    LinkLost {
        taken: u8,
    },
    LinkBack,
    /// `taken` as above; `written`: of each that was written and not synced, whether it is there.
    Crash {
        at: usize,
        taken: u8,
        written: u8,
    },
    Restart(usize),
    LeaseEnds(Id),
    Forget(Id, Forgotten),
}

/// What a fail-over loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgotten {
    Lease,
    Row,
    /// The row is again what it was: deferred.
    Record,
}

/// A step of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobStep {
    Claim,
    /// `leased`: it has taken effect all the same.
    ClaimFails {
        leased: bool,
    },
    GiveUp,
    TooLate,
    NoLink,
    Publish,
    Take,
    Ack,
    Nack,
    Return,
    Overdue,
    MinuteOver,
    ChannelCloses {
        taken: bool,
    },
    SeeLoss,
    Write,
    Sync,
    StoreFails,
}

impl Step {
    /// Whether it happens by itself, in the end: no fault, and no hurry.
    pub fn is_progress(&self, world: &World) -> bool {
        match self {
            Self::LeaseEnds(id) => !world.is_under_its_holder(world.leases[*id as usize], *id),
            Self::AnswerLate(_) | Self::LinkLost { .. } | Self::Crash { .. } | Self::Forget(..) => false,
            Self::Arrive { .. }
            | Self::Join(_)
            | Self::Rewrite(..)
            | Self::Drain(..)
            | Self::LinkBack
            | Self::Restart(_) => true,
            Self::Of(_, _, step) => match step {
                JobStep::Claim
                | JobStep::GiveUp
                | JobStep::NoLink
                | JobStep::Publish
                | JobStep::Take
                | JobStep::Ack
                | JobStep::MinuteOver
                | JobStep::SeeLoss
                | JobStep::Write
                | JobStep::Sync => true,
                JobStep::ClaimFails { .. }
                | JobStep::TooLate
                | JobStep::Nack
                | JobStep::Return
                | JobStep::Overdue
                | JobStep::ChannelCloses { .. }
                | JobStep::StoreFails => false,
            },
        }
    }
}

impl World {
    pub fn new(deliveries: usize, replicas: usize, left: Faults) -> Self {
        Self {
            deliveries: vec![Delivery::Unsent; deliveries],
            replicas: vec![Replica::started(); replicas],
            rows: [None; 3],
            leases: [Holder::Nobody; 3],
            unsynced: [false; 3],
            link: true,
            copies: [0; 4],
            confirmed: [false; 4],
            repeats: [None; 3],
            overlapped: false,
            kept: [false; 2],
            left,
        }
    }

    /// What can happen now.
    pub fn steps(&self, protocol: Protocol, steps: &mut Vec<Step>) {
        for (number, delivery) in self.deliveries.iter().enumerate() {
            match delivery {
                Delivery::Unsent => {
                    let running = self.replicas.iter().enumerate().filter(|(_, replica)| replica.runs);
                    // All gateways are alike until the first delivery has come to one.
                    let alike = self.deliveries.iter().all(|delivery| *delivery == Delivery::Unsent);
                    let running = running.take(if alike { 1 } else { usize::MAX });
                    steps.extend(running.map(|(at, _)| Step::Arrive { delivery: number, at }));
                }
                Delivery::Arrived(_) => steps.push(Step::Join(number)),
                Delivery::Waiting(_) => steps.push(Step::AnswerLate(number)),
                Delivery::Success | Delivery::Fail | Delivery::LeftWaiting | Delivery::Cut => {}
            }
        }
        for (at, replica) in self.replicas.iter().enumerate() {
            if !replica.runs {
                steps.push(Step::Restart(at));
                continue;
            }
            for (number, job) in replica.jobs.iter().enumerate() {
                let of_job = self.job_steps(protocol, at, job);
                steps.extend(of_job.into_iter().map(|step| Step::Of(at, number, step)));
            }
            for id in Id::ALL {
                if replica.unrecorded[id as usize].is_some() {
                    steps.push(Step::Rewrite(at, id));
                }
                let waits = self.rows[id as usize].is_some_and(|row| row.state != RowState::Recorded);
                let is_free = replica.flights[id as usize].is_none();
                let is_due = protocol == Protocol::HandsOutTwice || !self.is_held_elsewhere(at, id);
                if waits && is_due && is_free && self.link && protocol != Protocol::DoesNotDrain {
                    steps.push(Step::Drain(at, id));
                }
            }
            if self.left.crashes > 0 {
                let unsynced = if protocol == Protocol::DoesNotSync { 0b111 } else { 0 };
                // To a shared store it is on its way: it may be written though nobody hears of it.
                let is_written =
                    |job: &Job| job.stage.is_written() || self.is_shared() && job.stage.is_writing();
                let written = bits(&replica.jobs, is_written) | unsynced;
                for taken in choices(bits(&replica.jobs, |job| job.wire == Wire::InTransit)) {
                    steps.extend(choices(written).map(|written| Step::Crash { at, taken, written }));
                }
            }
        }
        if self.is_shared() {
            self.store_steps(protocol, steps);
        }
        if !self.link {
            steps.push(Step::LinkBack);
        } else if self.left.losses > 0 {
            let jobs: Vec<Job> = self.replicas.iter().flat_map(|replica| replica.jobs.clone()).collect();
            let taken = choices(bits(&jobs, |job| job.wire == Wire::InTransit));
            steps.extend(taken.map(|taken| Step::LinkLost { taken }));
        }
    }

    /// What the shared store does by itself.
    fn store_steps(&self, protocol: Protocol, steps: &mut Vec<Step>) {
        for id in Id::ALL {
            let (lease, row) = (self.leases[id as usize], self.rows[id as usize]);
            let ends = match lease {
                Holder::Nobody => false,
                Holder::Dead => protocol != Protocol::LeasesLastForEver,
                Holder::Live(at) => !self.is_at(at, id) || self.left.leases > 0,
            };
            if ends {
                steps.push(Step::LeaseEnds(id));
            }
            if self.left.forgets == 0 {
                continue;
            }
            if lease != Holder::Nobody {
                steps.push(Step::Forget(id, Forgotten::Lease));
            }
            if let Some(row) = row {
                steps.push(Step::Forget(id, Forgotten::Row));
                if row.state == RowState::Recorded && self.kept[row.money as usize] {
                    steps.push(Step::Forget(id, Forgotten::Record));
                }
            }
        }
    }

    fn is_under_its_holder(&self, holder: Holder, id: Id) -> bool {
        matches!(holder, Holder::Live(at) if self.is_at(at, id))
    }

    fn job_steps(&self, protocol: Protocol, at: usize, job: &Job) -> Vec<JobStep> {
        let mut steps = Vec::new();
        let id = job.event.id;
        let is_held = match protocol {
            Protocol::AnswersOnClaim | Protocol::IgnoresLeases => false,
            _ => self.is_held_elsewhere(at, id),
        };
        let mut may = |step, is_possible| {
            if is_possible {
                steps.push(step);
            }
        };
        let (left, on_wire) = (self.left, matches!(job.wire, Wire::InTransit | Wire::Taken));
        let listens = matches!(job.stage, Stage::Published | Stage::Doubt | Stage::Watched);
        let (silent, refusing) = (job.stage == Stage::Published && on_wire, listens && left.refusals > 0);
        may(JobStep::Claim, job.stage == Stage::Queued && !is_held);
        may(JobStep::GiveUp, job.stage == Stage::Queued && is_held);
        may(JobStep::ClaimFails { leased: false }, job.stage == Stage::Queued && left.store > 0);
        let may_lease = self.is_shared() && !self.is_held_elsewhere(at, id);
        may(JobStep::ClaimFails { leased: true }, job.stage == Stage::Queued && left.store > 0 && may_lease);
        may(JobStep::Publish, job.stage == Stage::Claimed && self.link);
        may(JobStep::NoLink, job.stage == Stage::Claimed && !self.link);
        may(JobStep::TooLate, job.stage == Stage::Claimed && !job.drained);
        may(JobStep::Take, job.wire == Wire::InTransit);
        may(JobStep::Ack, listens && job.wire == Wire::Taken);
        may(JobStep::Nack, refusing && on_wire);
        may(JobStep::Return, refusing && job.wire == Wire::InTransit);
        may(JobStep::Overdue, silent && left.silences > 0);
        may(JobStep::MinuteOver, job.stage == Stage::Doubt && on_wire);
        may(JobStep::ChannelCloses { taken: false }, listens && on_wire && left.closes > 0);
        may(
            JobStep::ChannelCloses { taken: true },
            listens && job.wire == Wire::InTransit && left.closes > 0,
        );
        may(JobStep::SeeLoss, listens && job.wire == Wire::Lost);
        match job.stage {
            Stage::Recording { written } | Stage::Keeping { written, .. } => {
                may(JobStep::Write, !written && !self.is_shared());
                may(JobStep::Sync, written || self.is_shared());
                may(JobStep::StoreFails, left.store > 0);
            }
            Stage::Queued | Stage::Claimed | Stage::Published | Stage::Doubt | Stage::Watched => {}
        }
        steps
    }
}

impl Stage {
    fn is_writing(self) -> bool {
        matches!(self, Self::Recording { .. } | Self::Keeping { .. })
    }

    fn is_written(self) -> bool {
        matches!(self, Self::Recording { written: true } | Self::Keeping { written: true, .. })
    }
}

fn bits(jobs: &[Job], is_so: impl Fn(&Job) -> bool) -> u8 {
    jobs.iter().enumerate().filter(|(_, job)| is_so(job)).fold(0, |bits, (at, _)| bits | 1 << at)
}

/// Every subset of these bits.
fn choices(of: u8) -> impl Iterator<Item = u8> {
    (0..=of).filter(move |choice| choice & !of == 0)
}

/// A world in which something happens.
pub struct Happening<'w> {
    pub world: &'w mut World,
    pub protocol: Protocol,
    /// The money of each delivery.
    pub money: &'w [Money],
}

impl Happening<'_> {
    pub fn take(&mut self, step: &Step) {
        match *step {
            Step::Arrive { delivery, at } => self.world.deliveries[delivery] = Delivery::Arrived(at),
            Step::Join(delivery) => self.join(delivery),
            Step::AnswerLate(delivery) => self.answer_late(delivery),
            Step::Of(at, job, step) => self.job(at, job, step),
            Step::Rewrite(at, id) => {
                if let Some(money) = self.world.replicas[at].unrecorded[id as usize].take() {
                    self.record(Event { id, money });
                }
            }
            Step::Drain(at, id) => self.drain(at, id),
            Step::LinkLost { taken } => self.lose_link(taken),
            Step::LinkBack => self.world.link = true,
            Step::Crash { at, taken, written } => self.crash(at, taken, written),
            Step::Restart(at) => self.world.replicas[at].runs = true,
            Step::LeaseEnds(id) => self.end_lease(id),
            Step::Forget(id, what) => self.forget(id, what),
        }
        for replica in &mut self.world.replicas {
            replica.jobs.sort_unstable();
        }
    }

    fn join(&mut self, delivery: usize) {
        let Delivery::Arrived(at) = self.world.deliveries[delivery] else { return };
        let money = self.money[delivery];
        self.world.deliveries[delivery] = Delivery::Waiting(at);
        self.fly(at, Event::payment(money), Waiter::Delivery(delivery));
    }

    /// Leads or follows the flight of an event, or waits for that of other money.
    fn fly(&mut self, at: usize, event: Event, waiter: Waiter) {
        let replica = &mut self.world.replicas[at];
        match &mut replica.flights[event.id as usize] {
            Some(flight) => {
                let other = match waiter {
                    Waiter::Delivery(delivery) if flight.money != event.money => Waiter::Other(delivery),
                    Waiter::Delivery(_) | Waiter::Other(_) | Waiter::Redirect => waiter,
                };
                flight.waiting.push(other);
                flight.waiting.sort_unstable();
            }
            none => {
                *none = Some(Flight { money: event.money, waiting: vec![waiter] });
                replica.jobs.push(Job::new(event));
            }
        }
    }

    fn answer_late(&mut self, delivery: usize) {
        let Delivery::Waiting(at) = self.world.deliveries[delivery] else { return };
        self.world.deliveries[delivery] = Delivery::Fail;
        for flight in self.world.replicas[at].flights.iter_mut().flatten() {
            if flight.waiting.contains(&Waiter::Other(delivery)) {
                self.world.deliveries[delivery] = Delivery::LeftWaiting;
            }
            let gone = [Waiter::Delivery(delivery), Waiter::Other(delivery)];
            flight.waiting.retain(|waiter| !gone.contains(waiter));
        }
    }

    fn drain(&mut self, at: usize, id: Id) {
        let Some(row) = self.world.rows[id as usize] else { return };
        if self.world.is_shared() && !self.world.is_held_elsewhere(at, id) {
            self.world.leases[id as usize] = Holder::Live(at);
        }
        let replica = &mut self.world.replicas[at];
        replica.flights[id as usize] = Some(Flight { money: row.money, waiting: Vec::new() });
        replica.jobs.push(Job { drained: true, ..Job::new(Event { id, money: row.money }) });
    }

    fn lose_link(&mut self, taken: u8) {
        self.world.left.losses -= 1;
        self.world.link = false;
        let mut number = 0;
        for at in 0..self.world.replicas.len() {
            for job in 0..self.world.replicas[at].jobs.len() {
                self.cut(at, job, taken & (1 << number) != 0);
                number += 1;
            }
        }
    }

    /// No word will come any more.
    fn cut(&mut self, at: usize, job: usize, taken: bool) {
        let one = &mut self.world.replicas[at].jobs[job];
        let was = one.wire;
        if matches!(was, Wire::InTransit | Wire::Taken) {
            one.wire = Wire::Lost;
        }
        let (event, leads) = (one.event, one.leads);
        if was == Wire::InTransit && taken {
            self.copy(event);
        }
        if matches!(was, Wire::InTransit | Wire::Taken) && leads {
            self.ends(at, event, Window::Lost);
        }
    }

    /// Its time is over. Under a holder that has published, that is a window of the others'.
    fn end_lease(&mut self, id: Id) {
        let holder = std::mem::replace(&mut self.world.leases[id as usize], Holder::Nobody);
        let Holder::Live(at) = holder else { return };
        let mut jobs = self.world.replicas[at].jobs.iter_mut();
        let Some(job) = jobs.find(|job| job.event.id == id && job.leads) else { return };
        self.world.left.leases -= 1;
        let excuse = match job.stage {
            Stage::Queued => return,
            Stage::Claimed => {
                job.lease = Lease::RanOut;
                return;
            }
            Stage::Doubt | Stage::Keeping { to: Keep::Release, .. } => Window::Released,
            Stage::Published | Stage::Recording { .. } | Stage::Keeping { .. } | Stage::Watched => {
                Window::LeaseRanOut
            }
        };
        self.world.replicas[at].attempts[id as usize].excuse = Some(excuse);
    }

    /// The shared store fails over, and has not got everything.
    fn forget(&mut self, id: Id, what: Forgotten) {
        self.world.left.forgets -= 1;
        let row = &mut self.world.rows[id as usize];
        match (what, *row) {
            (Forgotten::Lease, _) | (_, None) => self.world.leases[id as usize] = Holder::Nobody,
            (Forgotten::Row, Some(lost)) => {
                *row = None;
                self.world.kept[lost.money as usize] &= lost.state == RowState::Recorded;
            }
            (Forgotten::Record, Some(lost)) => *row = Some(Row { state: RowState::Deferred, ..lost }),
        }
        for replica in &mut self.world.replicas {
            let attempt = &mut replica.attempts[id as usize];
            if attempt.stands() {
                attempt.excuse = Some(Window::Forgotten);
            }
            for job in &mut replica.jobs {
                if job.event.id == id && job.stage == Stage::Claimed && job.lease == Lease::Held {
                    job.lease = Lease::Forgotten;
                }
            }
        }
    }

    fn crash(&mut self, at: usize, taken: u8, written: u8) {
        self.world.left.crashes -= 1;
        for number in 0..self.world.replicas[at].jobs.len() {
            let job = self.world.replicas[at].jobs[number];
            if job.wire == Wire::InTransit && taken & (1 << number) != 0 {
                self.copy(job.event);
            }
            if job.stage.is_writing() && written & (1 << number) != 0 {
                self.apply(at, &job);
            }
        }
        for id in Id::ALL {
            if self.world.unsynced[id as usize] && written & (1 << id as usize) == 0 {
                self.world.rows[id as usize] = None;
            }
            self.world.unsynced[id as usize] = false;
            let row = self.world.rows[id as usize];
            let is_recorded = row.is_some_and(|row| row.state == RowState::Recorded);
            self.world.leases[id as usize].dies(at);
            let attempt = &mut self.world.replicas[at].attempts[id as usize];
            match attempt.stage {
                Publication::Open => attempt.stage = Publication::Ended(Window::BeforeConfirm),
                Publication::Confirmed if !is_recorded => {
                    attempt.stage = Publication::Ended(Window::BeforeRecord);
                }
                Publication::None | Publication::Confirmed | Publication::Ended(_) => {}
            }
        }
        for delivery in &mut self.world.deliveries {
            if matches!(delivery, Delivery::Arrived(here) | Delivery::Waiting(here) if *here == at) {
                *delivery = Delivery::Cut;
            }
        }
        let attempts = self.world.replicas[at].attempts;
        self.world.replicas[at] = Replica { runs: false, attempts, ..Replica::started() };
    }

    fn job(&mut self, at: usize, number: usize, step: JobStep) {
        let mut job = self.world.replicas[at].jobs.remove(number);
        match step {
            JobStep::Claim => return self.claim(at, job, true),
            JobStep::ClaimFails { leased } => {
                self.world.left.store -= 1;
                if leased {
                    self.world.leases[job.event.id as usize] = Holder::Live(at);
                }
                return self.claim(at, job, false);
            }
            JobStep::GiveUp => return self.give_up(at, &job),
            JobStep::TooLate | JobStep::NoLink => job.stage = Stage::keeping(Keep::Deferred),
            JobStep::Publish if !self.may_publish(&job) => job.stage = Stage::Queued,
            JobStep::Publish => self.publish(at, &mut job),
            JobStep::Take => {
                job.wire = Wire::Taken;
                self.copy(job.event);
            }
            JobStep::Ack => self.ack(at, &mut job),
            JobStep::Nack | JobStep::Return => {
                self.world.left.refusals -= 1;
                self.refuse(at, &mut job, Window::Refused);
            }
            JobStep::SeeLoss => self.refuse(at, &mut job, Window::Lost),
            JobStep::Overdue => {
                self.world.left.silences -= 1;
                job.stage = Stage::keeping(Keep::InDoubt);
            }
            JobStep::MinuteOver => job.stage = Stage::keeping(Keep::Release),
            JobStep::ChannelCloses { taken } => self.close(at, &mut job, taken),
            JobStep::Write => return self.write(at, job),
            JobStep::Sync => {
                self.apply(at, &job);
                return self.written(at, job, Told::Kept);
            }
            JobStep::StoreFails => {
                self.world.left.store -= 1;
                return self.written(at, job, Told::Failed);
            }
        }
        self.world.replicas[at].jobs.push(job);
    }

    /// `sort_out`: what is known of the key decides.
    fn claim(&mut self, at: usize, mut job: Job, answers: bool) {
        let Event { id, money } = job.event;
        if self.protocol == Protocol::AnswersOnClaim && self.world.is_held_elsewhere(at, id) {
            return self.complete(at, &job, Told::Success);
        }
        let unrecorded = self.world.replicas[at].unrecorded[id as usize];
        let kept =
            self.world.rows[id as usize].filter(|_| answers && self.protocol != Protocol::DoesNotClaim);
        let known = unrecorded.map(|money| Row { money, state: RowState::Recorded }).or(kept);
        match known {
            Some(row) if row.money != money => {
                self.release(at, id);
                // `redirect`: its flight stays, until that of the conflict is over.
                self.fly(at, Event::conflict(money), Waiter::Redirect);
            }
            Some(Row { state: RowState::Recorded, .. }) => {
                self.release(at, id);
                self.complete(at, &job, Told::Success);
            }
            Some(_) | None => {
                if self.world.is_shared() && answers {
                    self.world.leases[id as usize] = Holder::Live(at);
                }
                job.stage = Stage::Claimed;
                job.lease = if answers { Lease::Held } else { Lease::Unasked };
                self.world.replicas[at].jobs.push(job);
            }
        }
    }

    /// It is published: which publications before it, by whomever, allow that?
    fn judge_publication(&mut self, at: usize, job: &Job) {
        let (id, unchecked) = (job.event.id, job.lease == Lease::Unasked);
        for (other, replica) in self.world.replicas.iter().enumerate() {
            let attempt = replica.attempts[id as usize];
            let is_own = other == at;
            let unasked = unchecked && (!is_own || attempt.stage == Publication::Confirmed);
            let window = match attempt.stage {
                Publication::None => continue,
                Publication::Ended(window) => Some(window),
                Publication::Open | Publication::Confirmed if unasked => Some(Window::Unchecked),
                Publication::Open | Publication::Confirmed if job.lease == Lease::Forgotten => {
                    Some(Window::Forgotten)
                }
                Publication::Open | Publication::Confirmed => attempt.excuse,
            };
            match window {
                Some(window) => self.world.repeats[id as usize] = Some(window),
                None => self.world.overlapped = true,
            }
        }
        self.world.replicas[at].attempts[id as usize] = Attempt {
            stage: Publication::Open,
            // Of what has no lease nobody could know.
            excuse: match job.lease {
                Lease::Unasked => self.world.is_shared().then_some(Window::Unchecked),
                Lease::Forgotten => Some(Window::Forgotten),
                Lease::Held | Lease::RanOut => None,
            },
        };
    }

    /// A lease of one's own is given back.
    fn release(&mut self, at: usize, id: Id) {
        let lease = &mut self.world.leases[id as usize];
        if *lease == Holder::Live(at) || self.protocol == Protocol::ReleasesOthers {
            *lease = Holder::Nobody;
        }
    }

    /// Another gateway is at it, and this one's time is over.
    fn give_up(&mut self, at: usize, job: &Job) {
        self.release(at, job.event.id);
        self.complete(at, job, Told::Refused);
    }

    /// A batch whose claim is older than its lease, by its own clock, is not published: it is claimed anew.
    fn may_publish(&self, job: &Job) -> bool {
        let careless = self.protocol == Protocol::PublishesWithoutLease;
        job.lease != Lease::RanOut || careless
    }

    fn publish(&mut self, at: usize, job: &mut Job) {
        self.judge_publication(at, job);
        // From here on the claim is of no account: the same state, whatever it was.
        job.lease = Lease::Held;
        job.stage = Stage::Published;
        job.wire = Wire::InTransit;
        match self.protocol {
            Protocol::AnswersBeforeConfirm => self.answer(at, job.event.id, Told::Success),
            Protocol::RecordsBeforeConfirm => self.record(job.event),
            _ => {}
        }
    }

    fn ack(&mut self, at: usize, job: &mut Job) {
        self.world.confirmed[job.event.column()] = true;
        job.wire = Wire::Nowhere;
        job.stage = Stage::Recording { written: false };
        if job.leads {
            self.world.replicas[at].attempts[job.event.id as usize].stage = Publication::Confirmed;
        }
        if self.protocol == Protocol::ForgetsFlightBeforeRecord {
            self.complete(at, job, Told::Success);
            job.leads = false;
        }
    }

    /// `give_back`: what was not confirmed is kept.
    fn refuse(&mut self, at: usize, job: &mut Job, window: Window) {
        if job.leads {
            self.ends(at, job.event, window);
        }
        job.wire = Wire::Nowhere;
        job.stage = Stage::keeping(Keep::Deferred);
    }

    fn close(&mut self, at: usize, job: &mut Job, taken: bool) {
        self.world.left.closes -= 1;
        if taken {
            self.copy(job.event);
        }
        let again = job.stage == Stage::Published && !job.alone;
        self.refuse(at, job, Window::Lost);
        if again {
            job.alone = true;
            job.stage = Stage::Queued;
        }
    }

    fn write(&mut self, at: usize, mut job: Job) {
        if self.protocol == Protocol::DoesNotSync {
            self.apply(at, &job);
            self.world.unsynced[job.event.id as usize] = true;
            return self.written(at, job, Told::Kept);
        }
        job.stage = match job.stage {
            Stage::Recording { .. } => Stage::Recording { written: true },
            Stage::Keeping { to, .. } => Stage::Keeping { to, written: true },
            other => other,
        };
        self.world.replicas[at].jobs.push(job);
    }

    /// What is on the disk then. `Core::commit`: a record replaces whatever there is, a deferral no record. Other money that
    /// waits under the id is not written over: one of the two is kept as the conflict that it is (`rival.rs`).
    fn apply(&mut self, at: usize, job: &Job) {
        let Event { id, money } = job.event;
        let state = match job.stage {
            Stage::Keeping { to: Keep::InDoubt, .. } => RowState::InDoubt,
            Stage::Keeping { to: Keep::Release, .. } => RowState::Released,
            Stage::Keeping { to: Keep::Deferred, .. } => RowState::Deferred,
            _ => return self.record(job.event),
        };
        self.lease_as(at, id, state);
        match self.world.rows[id as usize] {
            Some(Row { state: RowState::Recorded, .. }) => return,
            Some(row) if row.money != money => {
                self.world.kept[money as usize] = true;
                let yields = row.state == RowState::Deferred && state != RowState::Deferred;
                self.keep_aside(if yields { row.money } else { money });
                if !yields {
                    return;
                }
            }
            Some(_) | None => {}
        }
        self.world.rows[id as usize] = Some(Row { money, state });
        self.world.kept[money as usize] = true;
    }

    /// What is kept is nobody's any more; but what is in doubt is its publisher's, unless another has the lease by now.
    fn lease_as(&mut self, at: usize, id: Id, state: RowState) {
        let is_recorded = self.world.rows[id as usize].is_some_and(|row| row.state == RowState::Recorded);
        let doubts = state == RowState::InDoubt && self.protocol != Protocol::DoubtEndsLease;
        let lease = &mut self.world.leases[id as usize];
        if self.world.replicas.len() > 1 && doubts && !is_recorded && !lease.is_other(at) {
            *lease = Holder::Live(at);
        } else if *lease == Holder::Live(at) || self.protocol == Protocol::KeepsEndOthersLeases {
            *lease = Holder::Nobody;
        }
    }

    /// Keeps the conflict that an event of this money is, unless that is known already.
    fn keep_aside(&mut self, money: Money) {
        let aside = &mut self.world.rows[Id::of_conflict(money) as usize];
        if aside.is_none() {
            *aside = Some(Row { money, state: RowState::Deferred });
        }
    }

    fn record(&mut self, Event { id, money }: Event) {
        match self.world.rows[id as usize] {
            Some(row) if row.money != money && row.state != RowState::Recorded => self.keep_aside(row.money),
            Some(_) | None => {}
        }
        self.world.rows[id as usize] = Some(Row { money, state: RowState::Recorded });
        self.world.leases[id as usize] = Holder::Nobody;
    }

    /// The store has answered, one way or the other.
    fn written(&mut self, at: usize, mut job: Job, told: Told) {
        let Event { id, money } = job.event;
        match job.stage {
            Stage::Keeping { to, .. } => {
                match to {
                    Keep::Deferred => return self.complete(at, &job, Told::Kept),
                    Keep::InDoubt if self.protocol == Protocol::DropsDoubt => {
                        self.complete(at, &job, Told::Kept);
                        (job.stage, job.leads) = (Stage::Watched, false);
                    }
                    Keep::InDoubt => {
                        self.answer(at, id, Told::Kept);
                        job.stage = Stage::Doubt;
                    }
                    Keep::Release => {
                        self.complete(at, &job, Told::Kept);
                        self.ends(at, job.event, Window::Released);
                        (job.stage, job.leads) = (Stage::Watched, false);
                    }
                }
                self.world.replicas[at].jobs.push(job);
            }
            _ => {
                if told == Told::Failed {
                    self.world.replicas[at].unrecorded[id as usize] = Some(money);
                    // The others, if there are any, cannot know.
                    let excuse = self.world.is_shared().then_some(Window::Unchecked);
                    self.world.replicas[at].attempts[id as usize].excuse = excuse;
                }
                self.complete(at, &job, Told::Success);
            }
        }
    }

    /// `Flight::complete`: answers everybody and ends the flight, if it is this job's.
    fn complete(&mut self, at: usize, job: &Job, told: Told) {
        if job.leads || self.protocol == Protocol::EndsFlightsByKey {
            self.end(at, job.event.id, told);
        }
    }

    fn end(&mut self, at: usize, id: Id, told: Told) {
        let flight = self.world.replicas[at].flights[id as usize].take();
        self.tell(at, flight.map(|flight| flight.waiting).unwrap_or_default(), told);
    }

    /// `Flight::answer`: answers everybody and keeps the flight.
    fn answer(&mut self, at: usize, id: Id, told: Told) {
        let flight = self.world.replicas[at].flights[id as usize].as_mut();
        let waiting = flight.map(|flight| std::mem::take(&mut flight.waiting)).unwrap_or_default();
        self.tell(at, waiting, told);
    }

    fn tell(&mut self, at: usize, waiting: Vec<Waiter>, told: Told) {
        for waiter in waiting {
            match waiter {
                Waiter::Delivery(delivery) if told == Told::Success => {
                    self.world.deliveries[delivery] = Delivery::Success;
                }
                // Another gateway has it, or has other money: of that nothing is kept here.
                Waiter::Delivery(delivery) if told == Told::Refused => {
                    self.world.deliveries[delivery] = Delivery::LeftWaiting;
                }
                Waiter::Delivery(delivery) => self.world.deliveries[delivery] = Delivery::Fail,
                Waiter::Other(delivery) => self.world.deliveries[delivery] = Delivery::Arrived(at),
                Waiter::Redirect => self.end(at, Id::Payment, told),
            }
        }
    }

    fn copy(&mut self, event: Event) {
        let copies = &mut self.world.copies[event.column()];
        *copies = (*copies + 1).min(3);
    }

    /// The open publication of this id has ended without a confirm.
    fn ends(&mut self, at: usize, event: Event, window: Window) {
        let attempt = &mut self.world.replicas[at].attempts[event.id as usize];
        if attempt.stage == Publication::Open {
            attempt.stage = Publication::Ended(window);
        }
    }
}

/// With what a flight ends, or what the store has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Success,
    Kept,
    Failed,
    /// Another gateway was at it for as long as one could wait.
    Refused,
}

impl Job {
    fn new(event: Event) -> Self {
        let (stage, wire) = (Stage::Queued, Wire::Nowhere);
        Self { event, stage, wire, leads: true, drained: false, alone: false, lease: Lease::Held }
    }
}

impl Holder {
    fn dies(&mut self, at: usize) {
        if *self == Self::Live(at) {
            *self = Self::Dead;
        }
    }
}

impl Stage {
    fn keeping(to: Keep) -> Self {
        Self::Keeping { to, written: false }
    }
}
