//! What an accepted notification means (design.md, the table in "Admission"; the first row that fits wins).
//! Consumers decide on the event type, so this is the one place that reads a status.

use super::acceptance::{self, Deciding, Status, Trade};
use super::facts;
use super::form::Form;
use super::notification;
use super::policy::{App, Policy};
use crate::clock::Timestamp;
use crate::event::{Digest, Event, EventId, EventType, Money};

/// The event of an accepted notification, as far as it can be known without the store.
pub fn classify(
    body: &[u8],
    form: &Form,
    deciding: &Deciding<'_>,
    app: &App,
    policy: &Policy,
    now: Timestamp,
) -> Event {
    let notified_at = deciding.notify_time.unwrap_or(now);
    let stale = acceptance::is_stale(deciding.notify_time, now, policy.max_age);
    let Some(trade) = &deciding.trade else {
        let event_type = EventType::NotificationOther;
        let trade_no = form.value("trade_no").and_then(notification::trade_no);
        let subject = trade_no.unwrap_or(deciding.notify_id);
        return Event {
            event_type,
            id: EventId::of_notification(&app.app_id, subject, deciding.notify_id),
            digest: Digest::of(b"", None, b"", None),
            notify_id: deciding.notify_id.to_owned(),
            environment: app.environment,
            business_time: notified_at,
            payment_time: None,
            notified_at,
            finishes: false,
            stale,
            late: false,
            facts: facts::render(body, form, deciding, event_type, app, policy, notified_at),
        };
    };
    let payment_time = payment_time(trade);
    let is_old =
        payment_time.is_none_or(|at| now.since(at) >= policy.retention || at < policy.complete_since);
    let event_type = event_type(trade, payment_time.is_some() && is_old);
    Event {
        event_type,
        id: event_id(trade, event_type, app),
        digest: digest(trade),
        notify_id: deciding.notify_id.to_owned(),
        environment: app.environment,
        business_time: business_time(form, trade, event_type, notified_at),
        payment_time,
        notified_at,
        finishes: trade.status == Status::Finished && event_type == EventType::PaymentSucceeded,
        stale,
        late: event_type == EventType::PaymentSucceeded && is_old,
        facts: facts::render(body, form, deciding, event_type, app, policy, notified_at),
    }
}

/// The table. `is_old`: the payment is known to be older than the retention.
fn event_type(trade: &Trade<'_>, is_old: bool) -> EventType {
    let refunded = trade.gmt_refund.is_some() || trade.refund_fee.is_some_and(|fee| fee > Money::default());
    match trade.status {
        Status::WaitBuyerPay => EventType::TradePending,
        // Never a refund, whatever refund fields it carries (protocol.md §5).
        Status::Finished if !is_old => EventType::PaymentSucceeded,
        Status::Finished => EventType::TradeFinished,
        Status::Success | Status::Closed if refunded => EventType::PaymentRefunded,
        Status::Closed => EventType::TradeClosed,
        Status::Success => EventType::PaymentSucceeded,
    }
}

/// `gmt_payment`, else `gmt_create`, else the date in `trade_no`. `None` where even that is no date: then
/// nobody can say how old the payment is.
fn payment_time(trade: &Trade<'_>) -> Option<Timestamp> {
    trade.gmt_payment.or(trade.gmt_create).or_else(|| notification::trade_date(trade.trade_no))
}

fn event_id(trade: &Trade<'_>, event_type: EventType, app: &App) -> EventId {
    if event_type != EventType::PaymentRefunded {
        return EventId::of_trade(&app.app_id, trade.trade_no, event_type);
    }
    match (trade.out_biz_no, trade.gmt_refund) {
        (Some(out_biz_no), _) => EventId::of_refund(&app.app_id, trade.trade_no, out_biz_no),
        (None, gmt_refund) => {
            let at = gmt_refund.map_or(&b""[..], |(received, _)| received);
            let fee = trade.refund_fee.unwrap_or_default().minor();
            EventId::of_refund_at(&app.app_id, trade.trade_no, at, fee)
        }
    }
}

fn digest(trade: &Trade<'_>) -> Digest {
    let seller_id = trade.seller_id.unwrap_or_default().as_bytes();
    Digest::of(trade.out_trade_no, Some(trade.total_amount), seller_id, trade.refund_fee)
}

/// When it happened: paid, refunded, closed, else notified.
fn business_time(form: &Form, trade: &Trade<'_>, event_type: EventType, notified_at: Timestamp) -> Timestamp {
    let happened = match event_type {
        EventType::PaymentSucceeded | EventType::PaymentLate | EventType::PaymentConflict => {
            trade.gmt_payment
        }
        EventType::PaymentRefunded => trade.gmt_refund.map(|(_, at)| at),
        // Decides nothing, so one that is no time is no reason to refuse.
        EventType::TradeClosed => form.value("gmt_close").and_then(notification::time),
        EventType::TradePending | EventType::TradeFinished | EventType::NotificationOther => None,
    };
    happened.unwrap_or(notified_at)
}
