//! What the page sees, as JSON.

use serde_json::{Value, json};

use super::desk::{Desk, name_of};
use super::sale::{Notice, Sale, State};
use crate::clock::{Clock as _, SystemClock};

/// What the simulator is.
pub(super) fn about(desk: &Desk) -> Value {
    json!({
        "app_id": desk.config.merchant.app_id,
        "seller_id": desk.config.merchant.seller_id,
        "time_scale": desk.config.schedule.scale(),
        "deliver_to": desk.config.deliver_to,
        "version": env!("CARGO_PKG_VERSION"),
    })
}

/// The newest trades.
pub(super) fn trades(desk: &Desk) -> Value {
    let book = desk.book();
    let brief = |sale: &Sale| {
        json!({
            "trade_no": sale.trade.trade_no(),
            "out_trade_no": sale.request.out_trade_no,
            "subject": sale.request.subject,
            "total_amount": sale.request.total_amount.to_string(),
            "refunded": sale.refunded().to_string(),
            "status": sale.status,
            "notices": sale.notices.iter().map(brief_notice).collect::<Vec<_>>(),
        })
    };
    json!({ "trades": book.sales.iter().take(MAX_SHOWN).map(brief).collect::<Vec<_>>() })
}

fn brief_notice(notice: &Notice) -> Value {
    json!({ "what": name_of(&notice.fact), "state": notice.state, "deliveries": notice.deliveries.len() })
}

/// One of them. `None` if there is none of that number.
pub(super) fn trade(desk: &Desk, trade_no: &str) -> Option<Value> {
    let mut book = desk.book();
    let sale = book.sale(trade_no)?;
    let refunds = sale.refunds.iter().map(|given| {
        json!({
            "out_biz_no": given.refund.out_biz_no,
            "amount": given.amount.to_string(),
            "refunded": given.refund.refunded.to_string(),
            "at": given.refund.at.rfc3339_beijing(),
        })
    });
    Some(json!({
        "trade_no": sale.trade.trade_no(),
        "out_trade_no": sale.request.out_trade_no,
        "app_id": desk.config.merchant.app_id,
        "method": sale.request.product.method(),
        "subject": sale.request.subject,
        "body": sale.request.body,
        "passback_params": sale.request.passback_params,
        "timeout_express": sale.request.timeout_express,
        "total_amount": sale.request.total_amount.to_string(),
        "refunded": sale.refunded().to_string(),
        "status": sale.status,
        "created_at": sale.trade.created_at().rfc3339_beijing(),
        "paid_at": sale.trade.paid_at().map(|at| at.rfc3339_beijing()),
        "notify_url": desk.config.deliver_to.as_ref().unwrap_or(&sale.request.notify_url),
        "notify_problem": desk.target(&sale.request.notify_url).err(),
        "way_back": desk.way_back(sale),
        "refunds": refunds.collect::<Vec<_>>(),
        "notices": sale.notices.iter().map(notice).collect::<Vec<_>>(),
    }))
}

fn notice(notice: &Notice) -> Value {
    let due_in_ms = match notice.state {
        State::Waiting(at) => Some(at.since(SystemClock.now()).as_millis()),
        State::HeldBack | State::OnTheWay | State::Answered | State::GivenUp | State::Undeliverable => None,
    };
    json!({
        "what": name_of(&notice.fact),
        "notify_id": notice.notify_id,
        "state": notice.state,
        "due_in_ms": due_in_ms.and_then(|millis| u64::try_from(millis).ok()),
        "deliveries": notice.deliveries,
    })
}

/// Bound: of the trades on the first page.
const MAX_SHOWN: usize = 100;
