//! What a bill and a store say of the same trades. The store keeps of an announced event only the digest of its money
//! facts, so amounts are compared by making the digest that the bill's own figures would give.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde::Serialize;

use super::bill::{Bill, Kind, Row};
use crate::admission::notification;
use crate::clock::Timestamp;
use crate::event::{Digest, EventId, EventType, Money};
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
    unbilled: Vec<Finding>,
}

#[derive(Default)]
struct Trade<'a> {
    rows: Vec<&'a Row>,
    /// Bound: what the store keeps of one trade.
    kept: Vec<Kept>,
}

/// What of an entry is compared.
struct Kept {
    id: String,
    event_type: Option<EventType>,
    state: State,
    digest: Option<Digest>,
    reason: Option<String>,
}

/// What was found.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// How many lines of the bill were compared.
    pub(super) compared: u64,
    /// How many were not, because they are older than the store's memory.
    pub(super) too_old: u64,
    /// How many were not, because their notification may still come.
    pub(super) too_new: u64,
    /// How many are announced, and of refunds whose payment is in no bill given: their amounts cannot be compared.
    pub(super) amount_unknown: u64,
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
        Self { bill, grounds, sellers, trades, unbilled: Vec::new() }
    }

    /// Takes what the store keeps of something.
    pub(super) fn take(&mut self, entry: &Entry) {
        let event_type = entry.event_type.as_deref().and_then(EventType::from_name);
        if let Some(trade) = self.trades.get_mut(entry.key.subject.as_str()) {
            let (id, reason) = (entry.key.id.clone(), entry.reason.clone());
            trade.kept.push(Kept { id, event_type, state: entry.state, digest: entry.digest, reason });
        } else if event_type == Some(EventType::PaymentSucceeded)
            && self.unbilled.len() < MAX_UNBILLED
            && self.should_be_billed(entry)
        {
            self.unbilled.push(unbilled(entry));
        }
    }

    /// A payment that was announced before the end of a bill, of a trade that was created after its beginning, was paid in
    /// between. It is told only where its app sells for this account and no other.
    fn should_be_billed(&self, entry: &Entry) -> bool {
        let app = entry.key.id.split('.').next().unwrap_or_default();
        let sells_here = self.grounds.sellers.iter().any(|(id, sellers)| {
            id == app && sellers.len() == 1 && sellers.first().map(String::as_str) == self.bill.seller()
        });
        let created = notification::trade_date(&entry.key.subject);
        let within = |(from, until): &(Timestamp, Timestamp)| {
            created.is_some_and(|created| created >= *from) && entry.first_at.plus(CLOCKS) < *until
        };
        entry.state == State::Recorded && sells_here && self.bill.periods.iter().any(within)
    }

    pub(super) fn report(mut self) -> Report {
        let mut report = Report::default();
        // In the order of the bill, each trade once.
        for row in &self.bill.rows {
            if let Some(trade) = self.trades.remove(row.trade_no.as_str()) {
                self.look_at(&trade, &mut report);
            }
        }
        report.findings.append(&mut self.unbilled);
        report
    }

    fn look_at(&self, trade: &Trade<'a>, report: &mut Report) {
        for row in &trade.rows {
            if row.completed_at.plus(self.grounds.retention) < self.grounds.as_of {
                report.too_old += 1;
                continue;
            }
            let finding = match row.kind {
                Kind::Payment => self.payment(row, trade),
                Kind::Refund => self.refund(row, trade, &mut report.amount_unknown),
            };
            // Alipay's first deliveries are minutes apart.
            let is_new = row.completed_at.plus(PATIENCE) > self.grounds.as_of;
            if is_new && finding.as_ref().is_some_and(|(what, _)| *what == What::NeverNotified) {
                report.too_new += 1;
                continue;
            }
            report.compared += 1;
            report.findings.extend(finding.map(|(what, detail)| finding_of(row, what, detail)));
        }
    }

    fn payment(&self, row: &Row, trade: &Trade<'_>) -> Option<(What, String)> {
        let of = |event_type| trade.kept.iter().find(|kept| kept.event_type == Some(event_type));
        if let Some(kept) = of(EventType::PaymentSucceeded).or_else(|| of(EventType::PaymentLate)) {
            let fees = std::iter::once(Money::default()).chain(refunded(trade));
            return self.judge(kept, Some((row, row.amount, fees.collect())), trade, &mut 0);
        }
        if let Some(held) = trade.kept.iter().find(|kept| kept.state == State::Held) {
            return Some((What::Unannounced, waits(held)));
        }
        if trade.kept.iter().any(|kept| kept.event_type.is_none() && kept.state == State::Dropped) {
            return Some((What::Decided, "what was held of it was dropped by the operator".to_owned()));
        }
        let others: BTreeSet<&str> =
            trade.kept.iter().filter_map(|kept| kept.event_type.map(EventType::as_str)).collect();
        let others: Vec<&str> = others.into_iter().collect();
        let detail = if others.is_empty() {
            "nothing of this trade was ever seen".to_owned()
        } else {
            format!("of this trade there is only {}", others.join(", "))
        };
        Some((What::NeverNotified, detail))
    }

    fn refund(&self, row: &Row, trade: &Trade<'_>, amount_unknown: &mut u64) -> Option<(What, String)> {
        let of_type = || trade.kept.iter().filter(|kept| kept.event_type == Some(EventType::PaymentRefunded));
        let is_this = |kept: &&Kept| {
            let app = kept.id.split('.').next().unwrap_or_default();
            bytes(&row.request_no)
                .iter()
                .any(|request_no| EventId::of_refund(app, &row.trade_no, request_no).as_str() == kept.id)
        };
        // A notification without out_biz_no has an id that the bill cannot tell.
        let unnamed = || of_type().find(|kept| kept.id.contains(".payment.refunded.at-"));
        let Some(kept) = of_type().find(is_this).or_else(unnamed) else {
            let held = trade.kept.iter().find(|kept| kept.state == State::Held);
            return Some(held.map_or_else(
                || {
                    (
                        What::NeverNotified,
                        format!("no notification of the refund {} was seen", row.request_no),
                    )
                },
                |held| (What::Unannounced, waits(held)),
            ));
        };
        let payment = trade.rows.iter().find(|row| row.kind == Kind::Payment);
        let figures = payment.map(|payment| {
            // The figure is the total so far by Alipay's documents, and this refund's by others.
            let fees = std::iter::once(row.amount).chain(refunded(trade));
            (row, payment.amount, fees.collect())
        });
        self.judge(kept, figures, trade, amount_unknown)
    }

    fn judge(
        &self,
        kept: &Kept,
        figures: Option<(&Row, Money, Vec<Money>)>,
        trade: &Trade<'_>,
        amount_unknown: &mut u64,
    ) -> Option<(What, String)> {
        match kept.state {
            State::Deferred | State::InDoubt | State::Held => return Some((What::Unannounced, waits(kept))),
            State::Unrouted => {
                return Some((What::Decided, "its type is in amqp.ignore: no queue wanted it".to_owned()));
            }
            State::Dropped => {
                let reason = kept.reason.as_deref().unwrap_or("no reason is kept");
                return Some((What::Decided, format!("dropped by the operator: {reason}")));
            }
            State::Recorded => {}
        }
        let Some((row, total, fees)) = figures else {
            *amount_unknown += 1;
            return None;
        };
        let agrees = |kept: &Kept| {
            self.sellers.iter().any(|seller| {
                bytes(&row.out_trade_no).iter().any(|number| {
                    fees.iter().any(|fee| {
                        kept.digest == Some(Digest::of(number, Some(total), seller.as_bytes(), Some(*fee)))
                    })
                })
            })
        };
        if agrees(kept) {
            return None;
        }
        let mut conflicts =
            trade.kept.iter().filter(|kept| kept.event_type == Some(EventType::PaymentConflict));
        let detail = if conflicts.any(agrees) {
            "amount, order number or seller of the event are not the bill's; those of its payment.conflict are"
        } else {
            "amount, order number or seller of the event are not the bill's"
        };
        Some((What::Differs, detail.to_owned()))
    }
}

/// What was given back after each refund of the trade, one by one and together.
fn refunded(trade: &Trade<'_>) -> Vec<Money> {
    let mut refunds: Vec<&Row> = trade.rows.iter().copied().filter(|row| row.kind == Kind::Refund).collect();
    refunds.sort_by_key(|row| row.completed_at);
    let totals = refunds.iter().scan(0u64, |total, row| {
        *total = total.saturating_add(row.amount.minor());
        Some(Money::from_minor(*total))
    });
    totals.collect()
}

/// A merchant's number as a notification may have carried it: the digest is made of the bytes.
fn bytes(number: &str) -> Vec<Vec<u8>> {
    let mut forms = vec![number.as_bytes().to_vec()];
    if !number.is_ascii() {
        forms.push(encoding_rs::GBK.encode(number).0.into_owned());
    }
    forms
}

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

fn unbilled(entry: &Entry) -> Finding {
    Finding {
        what: What::NotInTheBill,
        event_type: EventType::PaymentSucceeded.as_str(),
        trade_no: entry.key.subject.clone(),
        out_trade_no: String::new(),
        amount: String::new(),
        completed_at: entry.first_at.rfc3339_beijing(),
        detail: "announced at the time that is given; the bill of that time does not have it".to_owned(),
    }
}

/// How many findings there are of each kind.
pub(super) fn counts(report: &Report) -> BTreeMap<What, usize> {
    What::ALL.into_iter().map(|what| (what, report.of(what).count())).collect()
}

/// How long a notification may take that nobody needs to miss: Alipay's first three deliveries.
const PATIENCE: Duration = Duration::from_secs(30 * 60);
/// How far two clocks may be apart.
const CLOCKS: Duration = Duration::from_secs(5 * 60);
/// Bound: announced payments that no bill has.
const MAX_UNBILLED: usize = 10_000;
