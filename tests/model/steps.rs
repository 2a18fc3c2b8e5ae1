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
//! | `Drain` | `backlog::drain_round`, `put_in` |
//! | `Crash`, `Restart` | kill -9, or a power cut: what was written and not synced is there or is not |
//!
//! Not modelled: a blocked broker (it is silence and deferral), the stale, the late and the finishing, what is held, and
//! the bounds.
//!
//! A batch is one event here: what the confirms of a larger one mean is told by `tests/it/scripted_orders.rs`. Time is
//! not modelled: whatever waits for a time may happen at once, or never until everything else has. A message that was
//! in transit when its sender lost it arrives at that moment or never.

use crate::world::{
    Attempt, Delivery, Event, Faults, Flight, Id, Job, Keep, Money, Replica, Row, RowState, Stage, Waiter,
    Window, Wire, World,
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
}

/// A step of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobStep {
    Claim,
    ClaimFails,
    TooLate,
    NoLink,
    Publish,
    Take,
    Ack,
    Nack,
    Return,
    Overdue,
    MinuteOver,
    ChannelCloses { taken: bool },
    SeeLoss,
    Write,
    Sync,
    StoreFails,
}

impl Step {
    /// Whether it happens by itself, in the end: no fault, and no hurry.
    pub fn is_progress(&self) -> bool {
        match self {
            Self::AnswerLate(_) | Self::LinkLost { .. } | Self::Crash { .. } => false,
            Self::Arrive { .. }
            | Self::Join(_)
            | Self::Rewrite(..)
            | Self::Drain(..)
            | Self::LinkBack
            | Self::Restart(_) => true,
            Self::Of(_, _, step) => match step {
                JobStep::Claim
                | JobStep::NoLink
                | JobStep::Publish
                | JobStep::Take
                | JobStep::Ack
                | JobStep::MinuteOver
                | JobStep::SeeLoss
                | JobStep::Write
                | JobStep::Sync => true,
                JobStep::ClaimFails
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
            unsynced: [false; 3],
            link: true,
            copies: [0; 4],
            confirmed: [false; 4],
            attempts: [Attempt::None; 3],
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
                steps.extend(self.job_steps(job).into_iter().map(|step| Step::Of(at, number, step)));
            }
            for id in Id::ALL {
                if replica.unrecorded[id as usize].is_some() {
                    steps.push(Step::Rewrite(at, id));
                }
                let waits = self.rows[id as usize].is_some_and(|row| row.state != RowState::Recorded);
                let is_free = replica.flights[id as usize].is_none();
                if waits && is_free && self.link && protocol != Protocol::DoesNotDrain {
                    steps.push(Step::Drain(at, id));
                }
            }
            if self.left.crashes > 0 {
                let unsynced = if protocol == Protocol::DoesNotSync { 0b111 } else { 0 };
                let written = bits(&replica.jobs, |job| job.stage.is_written()) | unsynced;
                for taken in choices(bits(&replica.jobs, |job| job.wire == Wire::InTransit)) {
                    steps.extend(choices(written).map(|written| Step::Crash { at, taken, written }));
                }
            }
        }
        if !self.link {
            steps.push(Step::LinkBack);
        } else if self.left.losses > 0 {
            let jobs: Vec<Job> = self.replicas.iter().flat_map(|replica| replica.jobs.clone()).collect();
            let taken = choices(bits(&jobs, |job| job.wire == Wire::InTransit));
            steps.extend(taken.map(|taken| Step::LinkLost { taken }));
        }
    }

    fn job_steps(&self, job: &Job) -> Vec<JobStep> {
        let mut steps = Vec::new();
        let mut may = |step, is_possible| {
            if is_possible {
                steps.push(step);
            }
        };
        let (left, on_wire) = (self.left, matches!(job.wire, Wire::InTransit | Wire::Taken));
        let listens = matches!(job.stage, Stage::Published | Stage::Doubt | Stage::Watched);
        let (silent, refusing) = (job.stage == Stage::Published && on_wire, listens && left.refusals > 0);
        may(JobStep::Claim, job.stage == Stage::Queued);
        may(JobStep::ClaimFails, job.stage == Stage::Queued && left.store > 0);
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
                may(JobStep::Write, !written);
                may(JobStep::Sync, written);
                may(JobStep::StoreFails, left.store > 0);
            }
            Stage::Queued | Stage::Claimed | Stage::Published | Stage::Doubt | Stage::Watched => {}
        }
        steps
    }
}

impl Stage {
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
            self.ends(event, Window::Lost);
        }
    }

    fn crash(&mut self, at: usize, taken: u8, written: u8) {
        self.world.left.crashes -= 1;
        for number in 0..self.world.replicas[at].jobs.len() {
            let job = self.world.replicas[at].jobs[number];
            if job.wire == Wire::InTransit && taken & (1 << number) != 0 {
                self.copy(job.event);
            }
            if job.stage.is_written() && written & (1 << number) != 0 {
                self.apply(&job);
            }
        }
        for id in Id::ALL {
            if self.world.unsynced[id as usize] && written & (1 << id as usize) == 0 {
                self.world.rows[id as usize] = None;
            }
            self.world.unsynced[id as usize] = false;
            let row = self.world.rows[id as usize];
            let is_recorded = row.is_some_and(|row| row.state == RowState::Recorded);
            let attempt = &mut self.world.attempts[id as usize];
            match *attempt {
                Attempt::Open => *attempt = Attempt::Ended(Window::BeforeConfirm),
                Attempt::Confirmed if !is_recorded => *attempt = Attempt::Ended(Window::BeforeRecord),
                Attempt::None | Attempt::Confirmed | Attempt::Ended(_) => {}
            }
        }
        for delivery in &mut self.world.deliveries {
            if matches!(delivery, Delivery::Arrived(here) | Delivery::Waiting(here) if *here == at) {
                *delivery = Delivery::Cut;
            }
        }
        self.world.replicas[at] = Replica { runs: false, ..Replica::started() };
    }

    fn job(&mut self, at: usize, number: usize, step: JobStep) {
        let mut job = self.world.replicas[at].jobs.remove(number);
        match step {
            JobStep::Claim => return self.claim(at, job, true),
            JobStep::ClaimFails => {
                self.world.left.store -= 1;
                return self.claim(at, job, false);
            }
            JobStep::TooLate | JobStep::NoLink => {
                self.ends(job.event, Window::Unsent);
                job.stage = Stage::keeping(Keep::Deferred);
            }
            JobStep::Publish => self.publish(at, &mut job),
            JobStep::Take => {
                job.wire = Wire::Taken;
                self.copy(job.event);
            }
            JobStep::Ack => self.ack(at, &mut job),
            JobStep::Nack | JobStep::Return => {
                self.world.left.refusals -= 1;
                self.refuse(&mut job, Window::Refused);
            }
            JobStep::SeeLoss => self.refuse(&mut job, Window::Lost),
            JobStep::Overdue => {
                self.world.left.silences -= 1;
                job.stage = Stage::keeping(Keep::InDoubt);
            }
            JobStep::MinuteOver => job.stage = Stage::keeping(Keep::Release),
            JobStep::ChannelCloses { taken } => self.close(&mut job, taken),
            JobStep::Write => return self.write(at, job),
            JobStep::Sync => {
                self.apply(&job);
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
        let unrecorded = self.world.replicas[at].unrecorded[id as usize];
        let kept =
            self.world.rows[id as usize].filter(|_| answers && self.protocol != Protocol::DoesNotClaim);
        let known = unrecorded.map(|money| Row { money, state: RowState::Recorded }).or(kept);
        match known {
            Some(row) if row.money != money => {
                // `redirect`: its flight stays, until that of the conflict is over.
                self.fly(at, Event::conflict(money), Waiter::Redirect);
            }
            Some(Row { state: RowState::Recorded, .. }) => self.complete(at, &job, Told::Success),
            Some(_) | None => {
                match self.world.attempts[id as usize] {
                    Attempt::None => {}
                    Attempt::Confirmed if !answers => {
                        self.world.repeats[id as usize] = Some(Window::Unchecked);
                    }
                    Attempt::Open | Attempt::Confirmed => self.world.overlapped = true,
                    Attempt::Ended(window) => self.world.repeats[id as usize] = Some(window),
                }
                self.world.attempts[id as usize] = Attempt::Open;
                job.stage = Stage::Claimed;
                self.world.replicas[at].jobs.push(job);
            }
        }
    }

    fn publish(&mut self, at: usize, job: &mut Job) {
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
            self.world.attempts[job.event.id as usize] = Attempt::Confirmed;
        }
        if self.protocol == Protocol::ForgetsFlightBeforeRecord {
            self.complete(at, job, Told::Success);
            job.leads = false;
        }
    }

    /// `give_back`: what was not confirmed is kept.
    fn refuse(&mut self, job: &mut Job, window: Window) {
        if job.leads {
            self.ends(job.event, window);
        }
        job.wire = Wire::Nowhere;
        job.stage = Stage::keeping(Keep::Deferred);
    }

    fn close(&mut self, job: &mut Job, taken: bool) {
        self.world.left.closes -= 1;
        if taken {
            self.copy(job.event);
        }
        let again = job.stage == Stage::Published && !job.alone;
        self.refuse(job, Window::Lost);
        if again {
            job.alone = true;
            job.stage = Stage::Queued;
        }
    }

    fn write(&mut self, at: usize, mut job: Job) {
        if self.protocol == Protocol::DoesNotSync {
            self.apply(&job);
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

    /// What is on the disk then. `Core::commit`: a record replaces whatever there is, a deferral no record.
    fn apply(&mut self, job: &Job) {
        let Event { id, money } = job.event;
        let state = match job.stage {
            Stage::Keeping { to: Keep::InDoubt, .. } => RowState::InDoubt,
            Stage::Keeping { .. } => RowState::Deferred,
            _ => return self.record(job.event),
        };
        let row = &mut self.world.rows[id as usize];
        if row.is_none_or(|row| row.state != RowState::Recorded) {
            *row = Some(Row { money, state });
        }
    }

    fn record(&mut self, Event { id, money }: Event) {
        self.world.rows[id as usize] = Some(Row { money, state: RowState::Recorded });
    }

    /// The store has answered, one way or the other.
    fn written(&mut self, at: usize, mut job: Job, told: Told) {
        let Event { id, money } = job.event;
        match job.stage {
            Stage::Keeping { to, .. } => {
                if told == Told::Kept {
                    self.world.kept[money as usize] = true;
                }
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
                        self.ends(job.event, Window::Released);
                        (job.stage, job.leads) = (Stage::Watched, false);
                    }
                }
                self.world.replicas[at].jobs.push(job);
            }
            _ => {
                if told == Told::Failed {
                    self.world.replicas[at].unrecorded[id as usize] = Some(money);
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
    fn ends(&mut self, event: Event, window: Window) {
        let attempt = &mut self.world.attempts[event.id as usize];
        if *attempt == Attempt::Open {
            *attempt = Attempt::Ended(window);
        }
    }
}

/// With what a flight ends, or what the store has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Success,
    Kept,
    Failed,
}

impl Job {
    fn new(event: Event) -> Self {
        Self { event, stage: Stage::Queued, wire: Wire::Nowhere, leads: true, drained: false, alone: false }
    }
}

impl Stage {
    fn keeping(to: Keep) -> Self {
        Self::Keeping { to, written: false }
    }
}
