//! Rows of the store, as the tests of the engines write them.

use std::time::Duration;

use alipay_notify_gateway::event::{Digest, EventType, Key, Message, Money};
use alipay_notify_gateway::store::{Cause, Claim, Deferral, Holding, Known, Record, State, Store, held_key};

use super::alipay;

pub const APP: &str = "2021000000000001";

pub fn trade(n: u64) -> String {
    format!("20261123220014273400{n:08}")
}

pub fn key(n: u64) -> Key {
    Key { subject: trade(n), id: format!("{APP}.{}.payment.succeeded", trade(n)) }
}

pub fn digest(amount: &str) -> Digest {
    Digest::of(b"o", Money::parse(amount.as_bytes()), b"", None)
}

pub fn record(n: u64) -> Record {
    let at = alipay::now();
    Record {
        key: key(n),
        app_id: APP.to_owned(),
        event_type: EventType::PaymentSucceeded,
        digest: digest("1.00"),
        notify_id: format!("n{n}"),
        state: State::Recorded,
        at,
        expires_at: at.plus(Duration::from_secs(35 * 86_400)),
    }
}

pub fn deferral(n: u64, state: State) -> Deferral {
    Deferral {
        key: key(n),
        event_type: EventType::PaymentSucceeded,
        digest: digest("1.00"),
        notify_id: format!("n{n}"),
        state,
        cause: Cause::BrokerDown,
        message: Message {
            id: key(n).id,
            event_type: "payment.succeeded".to_owned(),
            app_id: APP.to_owned(),
            subject: trade(n),
            time: "2026-11-23T10:15:31+08:00".to_owned(),
            digest: digest("1.00").short(),
            environment: "production".to_owned(),
            unchecked: false,
            traceparent: None,
            body: "{}".to_owned(),
        },
        at: alipay::now(),
        payment_time: Some(alipay::now()),
    }
}

pub fn holding(n: u64) -> Holding {
    let notify_id = format!("n{n}");
    Holding {
        key: held_key(APP, &notify_id, trade(n)),
        notify_id,
        reason: "seller",
        body: b"app_id=1&x=\xff".to_vec(),
        at: alipay::now(),
        payment_time: None,
    }
}

pub async fn known(store: &dyn Store, n: u64) -> Option<Known> {
    match store.claim(vec![key(n)]).await.unwrap().remove(0) {
        Claim::Granted(known) => known,
        Claim::HeldElsewhere | Claim::Unreadable => panic!("nobody else is here"),
    }
}

pub async fn states(store: &dyn Store, n: u64) -> Vec<State> {
    store.find(trade(n)).await.unwrap().into_iter().map(|row| row.state).collect()
}

/// A payment of this trade with this amount, that waits.
pub fn kept(n: u64, amount: &str) -> Deferral {
    let deferral = deferral(n, State::Deferred);
    let head = format!(r#"{{"event_id":"{}","event_type":"payment.succeeded","#, deferral.key.id);
    let digest = digest(amount);
    let body = format!(r#"{head}"out_trade_no":"o","total_amount":"{amount}"}}"#);
    let message = Message { digest: digest.short(), body, ..deferral.message.clone() };
    Deferral { digest, message, notify_id: format!("n{amount}"), ..deferral }
}
