//! Admission's verdict in a few words, so that a test can say what it expects.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use alipay_notify_gateway::admission::acceptance::Objection;
use alipay_notify_gateway::admission::key_ring::PublicKey;
use alipay_notify_gateway::admission::policy::{App, Buyer, Policy, SignType};
use alipay_notify_gateway::admission::{Rejection, Verdict, admit};
use alipay_notify_gateway::clock::Timestamp;
use alipay_notify_gateway::event::{Environment, Event, Message};
use rsa::PrivateKey;

use super::signer::{self, APP, SELLER};

pub const DAY: Duration = Duration::from_secs(86_400);

/// A minute after the payment of [`Draft::payment`].
pub fn now() -> Timestamp {
    Timestamp::from_beijing((2026, 11, 23), (10, 16, 31, 0)).unwrap()
}

pub fn app(app_id: &str, key: &PrivateKey, sign_type: SignType) -> App {
    let (key, _) = PublicKey::read(signer::pem(key).as_bytes(), app_id, sign_type).unwrap();
    App {
        app_id: app_id.to_owned(),
        environment: Environment::Production,
        seller_ids: BTreeSet::from([SELLER.to_owned()]),
        keys: vec![key],
        shadow_keys: Vec::new(),
        sign_type,
    }
}

pub fn policy_of(apps: impl IntoIterator<Item = App>) -> Policy {
    Policy {
        apps: apps.into_iter().map(|app| (app.app_id.clone(), app)).collect::<BTreeMap<_, _>>(),
        max_age: DAY,
        retention: 35 * DAY,
        complete_since: Timestamp::default(),
        buyer: Buyer::Omit,
        notification: true,
    }
}

/// One app with one seller and one key.
pub fn policy() -> Policy {
    policy_of([app(APP, signer::alipay(), SignType::Rsa2)])
}

/// What admission says, as the tests spell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Event(&'static str),
    Held(Objection),
    Refused(Rejection),
}

pub fn judge(body: &[u8], policy: &Policy, now: Timestamp) -> Said {
    match admit(body, policy, now) {
        Verdict::Admitted(admitted, _) => Said::Event(admitted.event().event_type.as_str()),
        Verdict::Withheld(withheld, _) => Said::Held(withheld.objection()),
        Verdict::Rejected(rejection, _) => Said::Refused(rejection),
        Verdict::Shadowed(_) => Said::Refused(Rejection::ShadowKey),
    }
}

/// The event of a body that must be admitted.
pub fn event(body: &[u8], policy: &Policy, now: Timestamp) -> Event {
    match admit(body, policy, now) {
        Verdict::Admitted(admitted, _) => Event::clone(admitted.event()),
        other @ (Verdict::Withheld(..) | Verdict::Rejected(..) | Verdict::Shadowed(_)) => {
            panic!("not admitted: {other:?}")
        }
    }
}

/// The JSON that would go on the wire.
pub fn json(event: &Event) -> serde_json::Value {
    serde_json::from_str(&Message::of(event, false, None).body).unwrap()
}
