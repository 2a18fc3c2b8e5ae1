//! Compares what Alipay was answered with what the queue holds, in the words of queue checkers:
//!
//! - *attempted*: authentic notifications that were delivered at least once, however that ended;
//! - *acknowledged*: those of them that were answered `success`;
//! - *lost*: acknowledged, and their event is not in the queue;
//! - *duplicated*: a further copy of an event that is in the queue already, with the same id. *Inside* the documented
//!   windows if an interruption (a kill, a fault of the broker) lies between the two copies so that the gateway cannot
//!   have written down the first, *outside* if none does, or if Alipay had been answered `success` before; inside too if
//!   it says of itself that the store could not be asked;
//! - *unexpected*: in the queue, and nobody attempted it: another id, another type, a forged one;
//! - *recovered*: never acknowledged, and in the queue all the same;
//! - *unannounced*: never acknowledged, answered `fail` at least once, and not in the queue after everything has drained:
//!   what was answered at all was kept;
//! - *merged*: a finish that was never acknowledged, of which nothing but the payment's announcement is in the queue: as
//!   long as nothing is known of the payment, that is what a finish is;
//! - *unheard*: none of the eight deliveries was answered by a living gateway, and it is not in the queue. Nobody's
//!   fault but the killer's;
//! - *false records*: the store says that it was announced, and the queue does not have it;
//! - *forgotten*: acknowledged, and the store does not know.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use crate::alipay::{Answer, Delivery, Kind};
use crate::consumer::Copy;
use crate::gateway::{APP_ID, Life};
use crate::ground::figure;
use crate::moment::Moment;

/// Everything that happened.
#[derive(Debug, Default)]
pub struct Chronicle {
    pub deliveries: Vec<Delivery>,
    /// In the queue's order.
    pub copies: Vec<Copy>,
    pub interruptions: Vec<Interruption>,
    /// The ids that the store has as announced.
    pub recorded: Vec<String>,
}

/// Something after which an event may be announced once more.
#[derive(Debug, Clone)]
pub enum Interruption {
    /// The process died at `at`, and the next one could begin to publish at `until`.
    Kill { what: String, at: Moment, until: Moment },
    /// The broker, or the way to it, was disturbed.
    Fault { what: String, from: Moment, until: Moment },
}

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    pub attempted: usize,
    pub deliveries: usize,
    pub forged: usize,
    pub acknowledged: usize,
    pub copies: usize,
    /// Copies that were announced without asking the store.
    pub unchecked: usize,
    pub lost: Vec<String>,
    /// By what lies between.
    pub inside: BTreeMap<String, usize>,
    pub outside: Vec<String>,
    pub unexpected: Vec<String>,
    pub recovered: usize,
    pub unannounced: Vec<String>,
    pub unheard: usize,
    pub merged: usize,
    pub false_records: Vec<String>,
    pub forgotten: Vec<String>,
}

/// One notification, over all its deliveries.
#[derive(Debug)]
struct Notification {
    kind: Kind,
    notify_id: String,
    payment: String,
    refund: String,
    finish: String,
    is_acknowledged: bool,
    was_answered: bool,
}

/// Between when a copy was published.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: Moment,
    by: Moment,
}

impl Interruption {
    fn explains(&self, first: Span, second: Span) -> bool {
        match self {
            Self::Kill { at, until, .. } => first.from <= *at && second.by >= *until,
            Self::Fault { from, until, .. } => {
                first.by >= from.minus(CONFIRM_TIMEOUT) && first.from <= until.plus(LAG)
            }
        }
    }

    fn what(&self) -> &str {
        match self {
            Self::Kill { what, .. } | Self::Fault { what, .. } => what,
        }
    }
}

/// The kills between the lives of a gateway: each ends when the next process is connected to the broker, which is the
/// first moment at which a copy in the queue can be its own.
pub fn kills(lives: &[Life], what: impl Fn(usize) -> String) -> Vec<Interruption> {
    let connected: Vec<Option<Moment>> = lives.iter().map(Life::connected).collect();
    let next = |life: usize| connected[life + 1..].iter().flatten().next();
    let kill = |life| {
        // The log line comes a moment after the connection.
        let until = next(life).map_or(Moment(i64::MAX), |at| at.minus(MOMENT));
        Interruption::Kill { what: what(life), at: lives[life].ended.unwrap(), until }
    };
    (0..lives.len().saturating_sub(1)).map(kill).collect()
}

impl Chronicle {
    pub fn check(&self) -> Report {
        let notifications = self.notifications();
        let queue = self.queue();
        let authentic = || notifications.values().filter(|notification| notification.kind != Kind::Forged);
        let mut report = Report {
            attempted: authentic().count(),
            deliveries: self.deliveries.len(),
            forged: notifications.len() - authentic().count(),
            acknowledged: authentic().filter(|notification| notification.is_acknowledged).count(),
            copies: self.copies.len(),
            unchecked: self.copies.iter().filter(|copy| copy.unchecked).count(),
            ..Report::default()
        };
        for notification in authentic() {
            let is_there = notification.is_in(&queue);
            match (notification.is_acknowledged, is_there) {
                (true, true) => {}
                (true, false) => report.lost.push(notification.notify_id.clone()),
                (false, true) => report.recovered += 1,
                (false, false) if notification.is_merged_in(&queue) => report.merged += 1,
                (false, false) if !notification.was_answered => report.unheard += 1,
                (false, false) => report.unannounced.push(notification.notify_id.clone()),
            }
        }
        let expected: BTreeSet<&str> = authentic().flat_map(Notification::events).collect();
        report.unexpected =
            queue.keys().filter(|id| !expected.contains(*id)).map(|id| (*id).to_owned()).collect();
        self.judge_repeats(&queue, &mut report);
        self.judge_records(&queue, authentic(), &mut report);
        report
    }

    fn notifications(&self) -> BTreeMap<&str, Notification> {
        let mut notifications: BTreeMap<&str, Notification> = BTreeMap::new();
        for delivery in &self.deliveries {
            let of = |event: String| format!("{APP_ID}.{}.{event}", delivery.trade_no);
            let notification = notifications.entry(&delivery.notify_id).or_insert_with(|| Notification {
                kind: delivery.kind,
                notify_id: delivery.notify_id.clone(),
                payment: of("payment.succeeded".to_owned()),
                refund: of(format!("payment.refunded.{}-1", delivery.out_trade_no)),
                finish: of("trade.finished".to_owned()),
                is_acknowledged: false,
                was_answered: false,
            });
            notification.was_answered |= delivery.answer != Answer::None;
            notification.is_acknowledged |= delivery.answer == Answer::Success;
        }
        notifications
    }

    fn queue(&self) -> HashMap<&str, Vec<&Copy>> {
        let mut queue: HashMap<&str, Vec<&Copy>> = HashMap::new();
        for copy in &self.copies {
            let copies = queue.entry(&copy.message_id).or_default();
            // Handed out twice by the broker is not announced twice, unless it is.
            if !(copy.redelivered && copies.iter().any(|other| other.traceparent == copy.traceparent)) {
                copies.push(copy);
            }
        }
        queue
    }

    fn judge_repeats(&self, queue: &HashMap<&str, Vec<&Copy>>, report: &mut Report) {
        let by_context: HashMap<&str, &Delivery> =
            self.deliveries.iter().map(|delivery| (delivery.traceparent.as_str(), delivery)).collect();
        let succeeded = self.first_successes();
        for (id, copies) in queue {
            for pair in copies.windows(2) {
                let (first, second) = (pair[0], pair[1]);
                let (earlier, later) = (span(first, &by_context), span(second, &by_context));
                let was_answered = succeeded.get(*id).is_some_and(|at| *at < later.from);
                let between = self.between(earlier, later).filter(|_| !was_answered);
                // One that says that the store was not asked may repeat anything.
                match between.map(Interruption::what).or(second.unchecked.then_some("a store that was away"))
                {
                    Some(what) => *report.inside.entry(what.to_owned()).or_default() += 1,
                    None => report.outside.push(format!("{id} answered={was_answered} {first:?} {second:?}")),
                }
            }
        }
    }

    /// What explains a second copy: a death before anything else.
    fn between(&self, first: Span, second: Span) -> Option<&Interruption> {
        let explains = |between: &&Interruption| between.explains(first, second);
        let is_kill = |between: &&Interruption| matches!(between, Interruption::Kill { .. });
        let (mut kills, mut all) = (self.interruptions.iter().filter(is_kill), self.interruptions.iter());
        kills.find(explains).or_else(|| all.find(explains))
    }

    /// When Alipay was first answered `success` for an event.
    fn first_successes(&self) -> HashMap<String, Moment> {
        let mut successes: HashMap<String, Moment> = HashMap::new();
        for delivery in self.deliveries.iter().filter(|delivery| delivery.answer == Answer::Success) {
            let event = match delivery.kind {
                Kind::Payment | Kind::Redelivery => "payment.succeeded".to_owned(),
                Kind::Refund => format!("payment.refunded.{}-1", delivery.out_trade_no),
                // Which of two events it stands for, the store decided.
                Kind::Finish | Kind::Forged => continue,
            };
            let first = successes.entry(format!("{APP_ID}.{}.{event}", delivery.trade_no));
            first.and_modify(|at| *at = (*at).min(delivery.ended)).or_insert(delivery.ended);
        }
        successes
    }

    fn judge_records<'a>(
        &self,
        queue: &HashMap<&str, Vec<&Copy>>,
        authentic: impl Iterator<Item = &'a Notification>,
        report: &mut Report,
    ) {
        let recorded: BTreeSet<&str> = self.recorded.iter().map(String::as_str).collect();
        let absent = recorded.iter().filter(|id| !queue.contains_key(**id));
        report.false_records = absent.map(|id| (*id).to_owned()).collect();
        let is_known = |notification: &&Notification| match notification.kind {
            Kind::Finish => notification.events().any(|id| recorded.contains(id)),
            Kind::Payment | Kind::Redelivery | Kind::Refund | Kind::Forged => {
                notification.events().all(|id| recorded.contains(id))
            }
        };
        let acknowledged = authentic.filter(|notification| notification.is_acknowledged);
        let forgotten = acknowledged.filter(|notification| !is_known(notification));
        report.forgotten = forgotten.map(|notification| notification.notify_id.clone()).collect();
    }
}

/// Not before its delivery began, nor before the second that it bears; not after that second, nor after it was seen.
fn span(copy: &Copy, by_context: &HashMap<&str, &Delivery>) -> Span {
    let of = copy.traceparent.as_deref().and_then(|context| by_context.get(context));
    let from = of.map_or(copy.published, |of| copy.published.max(of.began));
    Span { from, by: copy.arrived.min(copy.published.plus(SECOND)) }
}

impl Notification {
    /// The events that it may lead to.
    fn events(&self) -> impl Iterator<Item = &str> {
        let (first, second) = match self.kind {
            Kind::Payment | Kind::Redelivery => (Some(&self.payment), None),
            Kind::Refund => (Some(&self.refund), None),
            // Of a payment that is not recorded it is the payment's announcement.
            Kind::Finish => (Some(&self.payment), Some(&self.finish)),
            Kind::Forged => (None, None),
        };
        first.into_iter().chain(second).map(String::as_str)
    }

    fn is_merged_in(&self, queue: &HashMap<&str, Vec<&Copy>>) -> bool {
        self.kind == Kind::Finish && queue.contains_key(self.payment.as_str())
    }

    fn is_in(&self, queue: &HashMap<&str, Vec<&Copy>>) -> bool {
        match self.kind {
            Kind::Payment | Kind::Redelivery | Kind::Refund => self.events().all(|id| queue.contains_key(id)),
            // The payment's announcement is the finish's only if it came of it.
            Kind::Finish => {
                let payment = queue.get(self.payment.as_str());
                queue.contains_key(self.finish.as_str())
                    || payment
                        .is_some_and(|copies| copies.iter().any(|copy| copy.notify_id == self.notify_id))
            }
            Kind::Forged => false,
        }
    }
}

impl Report {
    /// Whether the promise was kept.
    pub fn is_clean(&self) -> bool {
        [&self.lost, &self.outside, &self.unexpected, &self.unannounced, &self.false_records, &self.forgotten]
            .iter()
            .all(|broken| broken.is_empty())
    }

    /// In one line.
    pub fn summary(&self) -> String {
        format!(
            "{} notifications, {} acknowledged, {} copies, {} duplicates inside the windows, {} recovered, {} unheard",
            self.attempted,
            self.acknowledged,
            self.copies,
            self.inside(),
            self.recovered,
            self.unheard
        )
    }

    /// Its figures.
    pub fn tell(&self, run: &str, seed: u64) {
        figure(run, "seed", seed);
        figure(run, "notifications attempted", self.attempted);
        figure(run, "deliveries", self.deliveries);
        figure(run, "forged", self.forged);
        figure(run, "acknowledged", self.acknowledged);
        figure(run, "copies in the queue", self.copies);
        figure(run, "announced unchecked", self.unchecked);
        figure(run, "lost", self.lost.len());
        figure(run, "duplicated inside the windows", self.inside());
        figure(run, "duplicated outside", self.outside.len());
        figure(run, "unexpected", self.unexpected.len());
        figure(run, "recovered", self.recovered);
        figure(run, "merged", self.merged);
        figure(run, "unheard", self.unheard);
        figure(run, "unannounced, false records, forgotten", self.broken_otherwise());
    }

    fn broken_otherwise(&self) -> usize {
        self.unannounced.len() + self.false_records.len() + self.forgotten.len()
    }

    pub fn inside(&self) -> usize {
        self.inside.values().sum()
    }

    /// What is broken, or nothing.
    pub fn complaints(&self) -> String {
        let named = [
            ("lost", &self.lost),
            ("duplicated outside the windows", &self.outside),
            ("unexpected", &self.unexpected),
            ("unannounced", &self.unannounced),
            ("false records", &self.false_records),
            ("forgotten", &self.forgotten),
        ];
        let broken = named.iter().filter(|(_, broken)| !broken.is_empty());
        let lines = broken.map(|(name, broken)| {
            format!(
                "{name}: {}\n  {}",
                broken.len(),
                broken.iter().take(20).cloned().collect::<Vec<_>>().join("\n  ")
            )
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// `amqp.confirm_timeout`, and a second: how long before a fault what it disturbs may have been published.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(4);
/// How much later than a fault is over it is felt at the most.
const LAG: Duration = Duration::from_secs(1);
const SECOND: Duration = Duration::from_millis(999);
const MOMENT: Duration = Duration::from_millis(20);

#[cfg(test)]
#[path = "checker/tests.rs"]
mod tests;
