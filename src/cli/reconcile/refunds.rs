//! The refunds of one trade in a bill: which figures the event of each may bear, and which event answers for it. An event
//! answers for one refund, so that one that came cannot hide another that never did.

use std::collections::BTreeSet;

use super::bill::{Kind, Row};
use super::comparison::Kept;
use crate::event::{EventId, Money};

/// A refund, and what its event may say was given back.
pub(super) struct Refund<'t> {
    pub(super) row: &'t Row,
    /// The total so far by Alipay's documents, and this refund's own by others. Of refunds in the same second nobody can
    /// tell the order.
    pub(super) figures: BTreeSet<Money>,
    /// The event that answers for it.
    pub(super) event: Option<&'t Kept>,
}

/// The refunds among the rows, which are in the order of their time.
pub(super) fn of<'t>(rows: &[&'t Row]) -> Vec<Refund<'t>> {
    let rows: Vec<&Row> = rows.iter().copied().filter(|row| row.kind == Kind::Refund).collect();
    let (mut refunds, mut before) = (Vec::with_capacity(rows.len()), 0u64);
    for second in rows.chunk_by(|one, next| one.completed_at == next.completed_at) {
        for (at, row) in second.iter().enumerate() {
            let mut totals = BTreeSet::from([before.saturating_add(row.amount.minor())]);
            // Bound: MAX_IN_A_SECOND, so that a made-up bill cannot make this long.
            let others = second.iter().enumerate().filter(|(other, _)| *other != at);
            for (_, other) in others.take(MAX_IN_A_SECOND) {
                let with_it: Vec<u64> =
                    totals.iter().map(|total| total.saturating_add(other.amount.minor())).collect();
                totals.extend(with_it);
            }
            let figures = totals.into_iter().map(Money::from_minor).chain([row.amount]).collect();
            refunds.push(Refund { row, figures, event: None });
        }
        before = second.iter().fold(before, |total, row| total.saturating_add(row.amount.minor()));
    }
    refunds
}

/// Gives each refund the event that answers for it, and returns the events that answer for none. First by the refund's
/// number; then what bears no number goes to the refund of its second, and then where its figure fits: a notification
/// without `out_biz_no`, and a line without 退款批次号, for which `agrees` tells whether an event fits.
pub(super) fn answer<'t>(
    refunds: &mut [Refund<'t>],
    events: Vec<&'t Kept>,
    agrees: impl Fn(&Refund<'t>, &Kept) -> bool,
) -> Vec<&'t Kept> {
    let mut left = events;
    let mut take = |refund: &mut Refund<'t>, fits: &dyn Fn(&Refund<'t>, &Kept) -> bool| {
        if refund.event.is_none() {
            let at = left.iter().position(|event| fits(refund, event));
            refund.event = at.map(|at| left.remove(at));
        }
    };
    refunds.iter_mut().for_each(|refund| take(refund, &bears_its_number));
    for refund in refunds.iter_mut() {
        // One that names no fee is nobody's by its figure.
        take(refund, &|refund, event| {
            fee_of_unnamed(event).is_some_and(|fee| fee == Money::default() || refund.figures.contains(&fee))
                && is_of_its_second(refund, event)
        });
    }
    for refund in refunds.iter_mut() {
        take(refund, &|refund, event| {
            fee_of_unnamed(event).is_some_and(|fee| refund.figures.contains(&fee))
                || (refund.row.request_no.is_empty() && agrees(refund, event))
        });
    }
    left
}

fn bears_its_number(refund: &Refund<'_>, event: &Kept) -> bool {
    let app = event.id.split('.').next().unwrap_or_default();
    !refund.row.request_no.is_empty()
        && forms(&refund.row.request_no)
            .iter()
            .any(|number| EventId::of_refund(app, &refund.row.trade_no, number).as_str() == event.id)
}

/// Whether it was given back in the second that the line says: the id of an event without a number has it.
fn is_of_its_second(refund: &Refund<'_>, event: &Kept) -> bool {
    let app = event.id.split('.').next().unwrap_or_default();
    let second = refund.row.completed_at.alipay();
    let id = EventId::of_refund_at(app, &refund.row.trade_no, second.as_bytes(), 0);
    id.as_str().strip_suffix("-0").is_some_and(|start| event.id.starts_with(start))
}

/// The figure of a refund that bears no number: its id ends in it.
pub(super) fn fee_of_unnamed(event: &Kept) -> Option<Money> {
    let (_, part) = event.id.split_once(".payment.refunded.at-")?;
    part.rsplit('-').next()?.parse().ok().map(Money::from_minor)
}

/// A merchant's number as a notification may have carried it: digest and id are made of the bytes.
pub(super) fn forms(number: &str) -> Vec<Vec<u8>> {
    let mut forms = vec![number.as_bytes().to_vec()];
    if !number.is_ascii() {
        forms.push(encoding_rs::GBK.encode(number).0.into_owned());
    }
    forms
}

/// Alipay takes no two at once; a second may hold a few.
const MAX_IN_A_SECOND: usize = 8;
