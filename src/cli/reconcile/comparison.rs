//! What a bill and a store say of the same trades. The store keeps of an announced event only the digest of its money
//! facts, so amounts are compared by making the digest that the bill's own figures would give.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde::Serialize;

use super::bill::{Bill, Kind, Row};
use super::refunds::{self, Refund, forms};
use crate::admission::notification;
use crate::clock::Timestamp;
use crate::event::{Digest, EventType, Money};
use crate::store::{Entry, State};

/// What it is compared by.
pub(super) struct Grounds {
    /// When the store was as it is read.
    pub(super) as_of: Timestamp,
    /// How long it remembers.
    pub(super) retention: Duration,
    /// The apps with their sellers, as far as they are known.
    pub(super) sellers: Vec<(String, BTreeSet<String>)>,
}

/// A bill, and what the store keeps of its trades.
pub(super) struct Comparison<'a> {
    bill: &'a Bill,
    grounds: Grounds,
    /// Every seller that an event of these trades may name; none, too.
    sellers: BTreeSet<String>,
    trades: HashMap<&'a str, Trade<'a>>,
    /// Bound: [`MAX_UNBILLED`].
    unbilled: Vec<Finding>,
    /// How many more there were.
    unlisted: u64,
}

#[derive(Default)]
struct Trade<'a> {
    rows: Vec<&'a Row>,
    /// Bound: what the store keeps of one trade.
    kept: Vec<Kept>,
}

/// What of an entry is compared.
pub(super) struct Kept {
    pub(super) id: String,
    event_type: Option<EventType>,
    state: State,
    digest: Option<Digest>,
    reason: Option<String>,
    first_at: Timestamp,
}

/// What of a line may be said.
enum Verdict {
    Agrees,
    /// Its event is announced, and the figures that it should have cannot be known from the bills that are given.
    AmountUnknown,
    Found(What, String),
}

/// What was found.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// How many lines of the bill were compared, amount and all.
    pub(super) compared: u64,
    /// How many were not, because they are older than the store's memory.
    pub(super) too_old: u64,
    /// How many were not, because their notification may still come.
    pub(super) too_new: u64,
    /// How many are announced, and the amount of the event cannot be compared: refunds whose payment, or an earlier refund
    /// of it, is in no bill given; payments that were first heard of as TRADE_FINISHED, with what was given back by then.
    pub(super) amount_unknown: u64,
    /// How many lines were given more than once, as by a ZIP and its CSV, or by periods that overlap.
    pub(super) repeated: u64,
    /// How many announced payments and refunds were not found in the bill, which could not be read in whole: nothing is said
    /// of them.
    pub(super) not_looked_for: u64,
    /// How many more are announced and not in the bill than there are findings of.
    pub(super) unlisted: u64,
    /// Why no announced payment or refund was looked for in the bill.
    pub(super) why_none_was_looked_for: Option<&'static str>,
    /// What is to be looked at, in the order of the bill.
    pub(super) findings: Vec<Finding>,
}

/// Something that a person has to look at.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Finding {
    pub(super) what: What,
    pub(super) event_type: &'static str,
    pub(super) trade_no: String,
    pub(super) out_trade_no: String,
    pub(super) amount: String,
    pub(super) completed_at: String,
    pub(super) detail: String,
}

/// The kinds of finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum What {
    /// In the bill, and no notification of it was ever seen.
    NeverNotified,
    /// A notification came, and its event is not in the broker.
    Unannounced,
    /// Announced with other money, or another order.
    Differs,
    /// Announced, and in no bill.
    NotInTheBill,
    /// Not announced, because the operator said so.
    Decided,
}

impl What {
    pub(super) const ALL: [Self; 5] =
        [Self::NeverNotified, Self::Unannounced, Self::Differs, Self::NotInTheBill, Self::Decided];
}

impl Report {
    /// Whether nothing is to be done. What the operator has decided is done.
    pub(super) fn is_clean(&self) -> bool {
        self.findings.iter().all(|finding| finding.what == What::Decided)
    }

    pub(super) fn of(&self, what: What) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.what == what)
    }
}

impl<'a> Comparison<'a> {
    pub(super) fn new(bill: &'a Bill, grounds: Grounds) -> Self {
        let mut trades = HashMap::<&str, Trade<'_>>::with_capacity(bill.rows.len());
        for row in &bill.rows {
            trades.entry(&row.trade_no).or_default().rows.push(row);
        }
        let mut sellers = BTreeSet::from([String::new()]);
        sellers.extend(grounds.sellers.iter().flat_map(|(_, sellers)| sellers.iter().cloned()));
        sellers.extend(bill.seller().map(str::to_owned));
        Self { bill, grounds, sellers, trades, unbilled: Vec::new(), unlisted: 0 }
    }

    /// Takes what the store keeps of something.
    pub(super) fn take(&mut self, entry: &Entry) {
        let event_type = entry.event_type.as_deref().and_then(EventType::from_name);
        if let Some(trade) = self.trades.get_mut(entry.key.subject.as_str()) {
            let (id, reason) = (entry.key.id.clone(), entry.reason.clone());
            let (state, digest, first_at) = (entry.state, entry.digest, entry.first_at);
            trade.kept.push(Kept { id, event_type, state, digest, reason, first_at });
        } else if let Some(event_type @ (EventType::PaymentSucceeded | EventType::PaymentRefunded)) =
            event_type
            && entry.state == State::Recorded
        {
            self.miss(&entry.key.subject, &entry.key.id, event_type, entry.first_at);
        }
    }

    /// Notes what is announced and not in the bill, where it should be.
    fn miss(&mut self, trade_no: &str, id: &str, event_type: EventType, announced_at: Timestamp) {
        if self.bill.unread.contains(trade_no) || !self.should_be_billed(trade_no, id, announced_at) {
            return;
        }
        if self.unbilled.len() < MAX_UNBILLED {
            self.unbilled.push(unbilled(trade_no, event_type, announced_at));
        } else {
            self.unlisted += 1;
        }
    }

    /// A payment that was announced before the end of a bill, of a trade that was created after its beginning, was paid in
    /// between; and so was a refund given back. It is told only where its app sells for this account and no other.
    fn should_be_billed(&self, trade_no: &str, id: &str, announced_at: Timestamp) -> bool {
        let app = id.split('.').next().unwrap_or_default();
        let sells_here = self.apps_that_sell_here().any(|id| id == app);
        let created = notification::trade_date(trade_no);
        let within = |created| is_covered(&self.bill.periods, created, announced_at.plus(CLOCKS));
        sells_here && created.is_some_and(within)
    }

    fn apps_that_sell_here(&self) -> impl Iterator<Item = &str> {
        let seller = self.bill.seller();
        let apps = self.grounds.sellers.iter();
        apps.filter(move |(_, sellers)| {
            sellers.len() == 1 && seller.is_some_and(|seller| sellers.contains(seller))
        })
        .map(|(id, _)| id.as_str())
    }

    fn why_none_is_looked_for(&self) -> Option<&'static str> {
        let Bill { periods, names, .. } = self.bill;
        if self.bill.seller().is_none() {
            Some("no bill names its account (账号)")
        } else if periods.is_empty() || periods.len() < names.len() {
            Some("a bill does not name its period (起始日期)")
        } else if self.apps_that_sell_here().next().is_none() {
            Some("no app of the configuration has the bill's account as its only seller (apps[].seller_ids)")
        } else {
            None
        }
    }

    pub(super) fn report(mut self) -> Report {
        let why_none_was_looked_for = self.why_none_is_looked_for();
        let mut report = Report { why_none_was_looked_for, ..Report::default() };
        // In the order of the bill, each trade once.
        for row in &self.bill.rows {
            if let Some(trade) = self.trades.remove(row.trade_no.as_str()) {
                self.look_at(trade, &mut report);
            }
        }
        if self.bill.names_every_trade {
            report.findings.append(&mut self.unbilled);
            report.unlisted = self.unlisted;
        } else {
            report.not_looked_for = self.unbilled.len() as u64 + self.unlisted;
        }
        report
    }

    fn look_at(&mut self, trade: Trade<'a>, report: &mut Report) {
        let Trade { mut rows, kept } = trade;
        let given = rows.len();
        rows.sort();
        rows.dedup();
        report.repeated += (given - rows.len()) as u64;
        let paid = rows.iter().copied().find(|row| row.kind == Kind::Payment);
        let mut refunds = refunds::of(&rows);
        let events = kept.iter().filter(|kept| kept.event_type == Some(EventType::PaymentRefunded));
        let mut left = refunds::answer(&mut refunds, events.collect(), |refund, event| {
            paid.is_some_and(|paid| self.agrees(event, refund.row, paid.amount, &refund.figures))
        });
        let fees: BTreeSet<Money> = refunds
            .iter()
            .flat_map(|refund| refund.figures.iter().copied())
            .chain([Money::default()])
            .collect();
        for row in rows.iter().filter(|row| row.kind == Kind::Payment) {
            self.note(row, || self.payment(row, &kept, &fees), report);
        }
        for refund in &refunds {
            self.note(refund.row, || self.refund(refund, paid, &kept, &mut left), report);
        }
        // Where a line has no event, an event without a line may be its own: that line is told.
        if refunds.iter().all(|refund| refund.event.is_some()) {
            let trade_no = rows.first().map(|row| row.trade_no.as_str()).unwrap_or_default();
            for event in left.iter().filter(|event| event.state == State::Recorded) {
                self.miss(trade_no, &event.id, EventType::PaymentRefunded, event.first_at);
            }
        }
    }

    /// What a line is found to be, where it is neither too old nor too new to say.
    fn note(&self, row: &Row, verdict: impl FnOnce() -> Verdict, report: &mut Report) {
        if row.completed_at.plus(self.grounds.retention) < self.grounds.as_of {
            report.too_old += 1;
            return;
        }
        // Alipay's first deliveries are minutes apart.
        let is_new = row.completed_at.plus(PATIENCE) > self.grounds.as_of;
        match verdict() {
            Verdict::Found(What::NeverNotified, _) if is_new => report.too_new += 1,
            Verdict::AmountUnknown => report.amount_unknown += 1,
            Verdict::Agrees => report.compared += 1,
            Verdict::Found(what, detail) => {
                report.compared += 1;
                report.findings.push(finding_of(row, what, detail));
            }
        }
    }

    fn payment(&self, row: &Row, kept: &[Kept], fees: &BTreeSet<Money>) -> Verdict {
        let of = |event_type| kept.iter().find(|kept| kept.event_type == Some(event_type));
        if let Some(event) = of(EventType::PaymentSucceeded).or_else(|| of(EventType::PaymentLate)) {
            let verdict = self.judge(event, row, row.amount, fees, kept);
            // Heard of when Alipay no longer tells of a payment, it is the TRADE_FINISHED, with what was given back by then.
            let is_finish = row.completed_at.plus(LAST_TRY) < event.first_at;
            let is_fee_known = self.has_every_line_of(row)
                && is_covered(&self.bill.periods, row.completed_at, event.first_at);
            return match verdict {
                Verdict::Found(What::Differs, _) if is_finish && !is_fee_known => Verdict::AmountUnknown,
                verdict @ (Verdict::Agrees | Verdict::AmountUnknown | Verdict::Found(..)) => verdict,
            };
        }
        if let Some(held) = kept.iter().find(|kept| kept.state == State::Held) {
            return Verdict::Found(What::Unannounced, waits(held));
        }
        if kept.iter().any(was_held_and_dropped) {
            return Verdict::Found(What::Unannounced, HELD_AND_DROPPED.to_owned());
        }
        let others: BTreeSet<&str> =
            kept.iter().filter_map(|kept| kept.event_type.map(EventType::as_str)).collect();
        let others: Vec<&str> = others.into_iter().collect();
        let detail = if others.is_empty() {
            "nothing of this trade was ever seen".to_owned()
        } else {
            format!("of this trade there is only {}", others.join(", "))
        };
        Verdict::Found(What::NeverNotified, detail)
    }

    /// `left`: the refund events of the trade that answer for no line.
    fn refund(
        &self,
        refund: &Refund<'_>,
        paid: Option<&Row>,
        kept: &[Kept],
        left: &mut Vec<&Kept>,
    ) -> Verdict {
        let row = refund.row;
        let is_total_known = paid.is_some_and(|paid| self.has_all_between(paid, row, left));
        let Some(event) = refund.event else {
            if let Some(held) = kept.iter().find(|kept| kept.state == State::Held) {
                return Verdict::Found(What::Unannounced, waits(held));
            }
            if kept.iter().any(was_held_and_dropped) {
                return Verdict::Found(What::Unannounced, HELD_AND_DROPPED.to_owned());
            }
            // One without a number may be this one's, where the total that it should bear is not known; and no other's.
            let may_be = |event: &&Kept| refunds::fee_of_unnamed(event).is_some_and(|fee| fee >= row.amount);
            let unnamed = left.iter().position(may_be);
            if let Some(at) = unnamed.filter(|_| !is_total_known) {
                left.remove(at);
                return Verdict::AmountUnknown;
            }
            let detail = format!("no notification of the refund {} was seen", row.request_no);
            return Verdict::Found(What::NeverNotified, detail);
        };
        if event.state != State::Recorded {
            return unsettled(event);
        }
        let Some(paid) = paid else { return Verdict::AmountUnknown };
        match self.judge(event, row, paid.amount, &refund.figures, kept) {
            Verdict::Found(What::Differs, _) if !is_total_known => Verdict::AmountUnknown,
            verdict @ (Verdict::Agrees | Verdict::AmountUnknown | Verdict::Found(..)) => verdict,
        }
    }

    /// Whether the bills given have every refund from a payment to one of its refunds.
    fn has_all_between(&self, paid: &Row, refund: &Row, left: &[&Kept]) -> bool {
        if !self.has_every_line_of(paid) {
            return false;
        }
        let periods = &self.bill.periods;
        let is_within =
            |row: &Row| periods.iter().any(|(from, until)| (*from..*until).contains(&row.completed_at));
        if is_within(paid) && is_within(refund) {
            return is_covered(periods, paid.completed_at, refund.completed_at);
        }
        // The bills do not say. An event without its line may be of an earlier refund, as late as Alipay's last try.
        !left.iter().any(|event| event.first_at < refund.completed_at.plus(LAST_TRY))
    }

    /// Whether the bills given could be read, as far as its trade goes.
    fn has_every_line_of(&self, row: &Row) -> bool {
        self.bill.names_every_trade && !self.bill.unread.contains(&row.trade_no)
    }

    fn judge(&self, event: &Kept, row: &Row, total: Money, fees: &BTreeSet<Money>, kept: &[Kept]) -> Verdict {
        if event.state != State::Recorded {
            return unsettled(event);
        }
        if self.agrees(event, row, total, fees) {
            return Verdict::Agrees;
        }
        let mut conflicts = kept.iter().filter(|kept| kept.event_type == Some(EventType::PaymentConflict));
        let names_no_fee =
            row.kind == Kind::Refund && self.agrees(event, row, total, &[Money::default()].into());
        let detail = if names_no_fee {
            "the event names no refund_fee (or 0.00), so that nobody was told how much was given back"
        } else if conflicts.any(|conflict| self.agrees(conflict, row, total, fees)) {
            "amount, order number or seller of the event are not the bill's; those of its payment.conflict are"
        } else {
            "amount, order number or seller of the event are not the bill's"
        };
        Verdict::Found(What::Differs, detail.to_owned())
    }

    /// Whether an event has the money facts that the bill's figures make.
    fn agrees(&self, event: &Kept, row: &Row, total: Money, fees: &BTreeSet<Money>) -> bool {
        forms(&row.out_trade_no).iter().any(|number| {
            self.sellers.iter().any(|seller| {
                fees.iter().any(|fee| {
                    event.digest == Some(Digest::of(number, Some(total), seller.as_bytes(), Some(*fee)))
                })
            })
        })
    }
}

/// Whether the periods leave nothing out from one moment to another.
fn is_covered(periods: &[(Timestamp, Timestamp)], from: Timestamp, to: Timestamp) -> bool {
    let mut at = from;
    while at <= to {
        let next = periods
            .iter()
            .filter(|(from, until)| (*from..*until).contains(&at))
            .map(|(_, until)| *until)
            .max();
        match next {
            Some(next) => at = next,
            None => return false,
        }
    }
    true
}

/// What an event is that is not in the broker.
fn unsettled(event: &Kept) -> Verdict {
    match event.state {
        State::Deferred | State::InDoubt | State::Held => Verdict::Found(What::Unannounced, waits(event)),
        State::Unrouted => {
            Verdict::Found(What::Decided, "its type is in amqp.ignore: no queue wanted it".to_owned())
        }
        State::Dropped => {
            let reason = event.reason.as_deref().unwrap_or("no reason is kept");
            Verdict::Found(What::Decided, format!("dropped by the operator: {reason}"))
        }
        State::Recorded => Verdict::Agrees,
    }
}

/// What is held has no type, so nobody knows what of its trade was dropped with it: an earlier notification, perhaps.
fn was_held_and_dropped(kept: &Kept) -> bool {
    kept.event_type.is_none() && kept.state == State::Dropped
}

const HELD_AND_DROPPED: &str = "something that was held of this trade was dropped by the operator: `alipay.trade.query` \
                                tells whether it was this";

fn waits(kept: &Kept) -> String {
    format!("{}: {}", kept.state.as_str(), kept.reason.as_deref().unwrap_or("no reason is kept"))
}

fn finding_of(row: &Row, what: What, detail: String) -> Finding {
    let event_type = match row.kind {
        Kind::Payment => EventType::PaymentSucceeded,
        Kind::Refund => EventType::PaymentRefunded,
    };
    Finding {
        what,
        event_type: event_type.as_str(),
        trade_no: row.trade_no.clone(),
        out_trade_no: row.out_trade_no.clone(),
        amount: row.amount.to_string(),
        completed_at: row.completed_at.rfc3339_beijing(),
        detail,
    }
}

fn unbilled(trade_no: &str, event_type: EventType, announced_at: Timestamp) -> Finding {
    Finding {
        what: What::NotInTheBill,
        event_type: event_type.as_str(),
        trade_no: trade_no.to_owned(),
        out_trade_no: String::new(),
        amount: String::new(),
        completed_at: announced_at.rfc3339_beijing(),
        detail: "announced at the time that is given; the bill of that time does not have it".to_owned(),
    }
}

/// How many findings there are of each kind.
pub(super) fn counts(report: &Report) -> BTreeMap<What, usize> {
    What::ALL.into_iter().map(|what| (what, report.of(what).count())).collect()
}

/// How long a notification may take that nobody needs to miss: Alipay's first three deliveries.
const PATIENCE: Duration = Duration::from_secs(30 * 60);
/// Alipay's last delivery of a notification, by its schedule.
const LAST_TRY: Duration = Duration::from_secs(25 * 3600);
/// How far two clocks may be apart.
const CLOCKS: Duration = Duration::from_secs(5 * 60);
/// Bound: announced payments and refunds that no bill has, each as a finding.
const MAX_UNBILLED: usize = 10_000;

#[cfg(test)]
mod tests;
