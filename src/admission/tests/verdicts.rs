//! What each authentic notification means, what is held and what is refused. The attacks of the same hall are in
//! `attacks.rs`.

use alipay_notify_gateway::admission::acceptance::{Objection, Waived};
use alipay_notify_gateway::admission::form::FormError;
use alipay_notify_gateway::admission::policy::{Buyer, SignType};
use alipay_notify_gateway::admission::{Rejection, Verdict, admit, admit_released};
use alipay_notify_gateway::clock::Timestamp;
use alipay_notify_gateway::event::Environment;

use super::support::judge::{DAY, Said, app, event, json, judge, now, policy, policy_of};
use super::support::signer::{self, APP, Draft, Hash, SELLER, TRADE, Version, alipay, shared};

use super::{event_of, said, said_of};

const MINUTE: std::time::Duration = std::time::Duration::from_secs(60);

fn earlier(by: std::time::Duration) -> Timestamp {
    Timestamp::from_unix_millis(now().unix_millis() - i64::try_from(by.as_millis()).unwrap())
}

// The table of design.md, row by row.

#[test]
fn row_1_a_return_url_query_is_refused_as_what_it_is() {
    let query = Draft::of([
        ("app_id", APP),
        ("method", "alipay.trade.page.pay.return"),
        ("out_trade_no", "R1-0000000000"),
        ("seller_id", SELLER),
        ("sign_type", "RSA2"),
        ("timestamp", "2026-11-23 10:15:32"),
        ("total_amount", "88.88"),
        ("trade_no", TRADE),
        ("version", "1.0"),
    ]);
    assert_eq!(said_of(query.clone()), Said::Refused(Rejection::ReturnUrl));
    // Older ones have no `method`; some of the wap kind do have a status.
    assert_eq!(said_of(query.clone().without("method")), Said::Refused(Rejection::ReturnUrl));
    assert_eq!(
        said_of(query.clone().set("trade_status", "TRADE_SUCCESS").set("notify_type", "trade_status_sync")),
        Said::Refused(Rejection::ReturnUrl)
    );
    // One that nobody signed is a forgery like any other.
    let forged = query.signed().set("total_amount", "0.01");
    assert_eq!(said(&forged.body()), Said::Refused(Rejection::Signature));
}

#[test]
fn row_2_what_is_not_about_a_trade_is_announced_as_another_kind() {
    let other = |pairs: &[(&str, &str)]| {
        let start = Draft::of([
            ("app_id", APP),
            ("charset", "utf-8"),
            ("notify_id", "n-1"),
            ("notify_time", "2026-11-23 10:15:32"),
            ("sign_type", "RSA2"),
        ]);
        pairs.iter().fold(start, |draft, (name, value)| draft.set(name, value))
    };
    for draft in [
        other(&[("notify_type", "dut_user_sign"), ("agreement_no", "2026"), ("status", "NORMAL")]),
        other(&[("notify_type", "dut_user_unsign"), ("agreement_no", "2026"), ("status", "UNSIGN")]),
        // SUCCESS is not a payment: money was frozen, and is still the buyer's.
        other(&[
            ("notify_type", "fund_auth_freeze"),
            ("status", "SUCCESS"),
            ("total_freeze_amount", "88.88"),
        ]),
        other(&[("notify_type", "fund_auth_unfreeze"), ("status", "SUCCESS")]),
        other(&[("notify_type", "open_app_auth_notify"), ("biz_content", r#"{"detail":{}}"#)]),
        // Even with the fields of a payment.
        other(&[
            ("notify_type", "something_new"),
            ("trade_status", "TRADE_SUCCESS"),
            ("total_amount", "1.00"),
        ]),
    ] {
        let event = event_of(draft.clone());
        assert_eq!(event.event_type.as_str(), "notification.other", "{draft:?}");
        assert_eq!(event.id.as_str(), format!("{APP}.notification.n-1"));
        assert_eq!(event.key().subject, "n-1");
        assert_eq!(event.payment_time, None);
        let json = json(&event);
        assert_eq!(json.get("notify_type").is_some(), draft.get("notify_type").is_some());
        assert!(json.get("trade_no").is_none() && json.get("total_amount").is_none(), "{json}");
    }
}

#[test]
fn row_2_a_status_that_we_do_not_know_is_another_kind_and_no_payment() {
    for status in ["TRADE_SOMETHING", "trade_success", "TRADE_SUCCESS ", "TRADE_PENDING"] {
        let event = event_of(Draft::payment().set("trade_status", status));
        assert_eq!(event.event_type.as_str(), "notification.other", "{status}");
        // Whatever it means, it is about that trade.
        let told = json(&event);
        assert_eq!((event.id.subject(), &told["trade_no"]), (TRADE, &TRADE.into()), "{status}");
        assert_eq!(
            (&told["trade_status"], &told["total_amount_minor"]),
            (&status.into(), &8888.into()),
            "{status}"
        );
    }
}

#[test]
fn row_2_gateway_traffic_is_verified_under_v2_and_is_another_kind() {
    let order = Draft::of([
        ("app_id", APP),
        ("commodity_order_id", "2026112300000018079639"),
        ("method", "alipay.open.servicemarket.order.notify"),
        ("notify_id", "n-2"),
        ("notify_time", "2026-11-23 10:15:32"),
        ("notify_type", "servicemarket_order_notify"),
        ("sign_type", "RSA2"),
    ]);
    let v2 = order.clone().signed_by(alipay(), Hash::Sha256, Version::V2);
    assert_eq!(said(&v2.body()), Said::Event("notification.other"));
    let v1 = order.signed_by(alipay(), Hash::Sha256, Version::V1);
    assert_eq!(said(&v1.body()), Said::Event("notification.other"));
    // What carries neither `service` nor `method` is never tried under V2.
    let plain = Draft::payment().set("notify_type", "dut_user_sign").without("trade_status");
    let v2 = plain.signed_by(alipay(), Hash::Sha256, Version::V2);
    assert_eq!(said(&v2.body()), Said::Refused(Rejection::Signature));
}

#[test]
fn row_2_a_message_without_notify_type_and_time_is_announced() {
    let message = Draft::of([
        ("app_id", APP),
        ("biz_content", r#"{"a":"1"}"#),
        ("charset", "UTF-8"),
        ("msg_method", "alipay.open.app.message.something"),
        ("notify_id", "n-3"),
        ("sign_type", "RSA2"),
        ("utc_timestamp", "1795400132000"),
        ("version", "1.1"),
    ]);
    let event = event_of(message.clone());
    assert_eq!(event.event_type.as_str(), "notification.other");
    assert_eq!(event.notified_at.rfc3339_utc(), "2026-11-23T02:15:32Z");
    // Without even that, it is of now.
    assert_eq!(event_of(message.without("utc_timestamp")).notified_at, now());
}

#[test]
fn row_3_an_unpaid_trade_is_pending() {
    let pending = Draft::payment().set("trade_status", "WAIT_BUYER_PAY").without("gmt_payment");
    let event = event_of(pending);
    assert_eq!(event.event_type.as_str(), "trade.pending");
    assert_eq!(event.id.as_str(), format!("{APP}.{TRADE}.trade.pending"));
}

#[test]
fn row_4_a_young_finish_is_a_payment_whatever_refund_fields_it_carries() {
    let finished = Draft::payment().set("trade_status", "TRADE_FINISHED");
    for draft in [
        finished.clone(),
        finished.clone().set("refund_fee", "0.00"),
        finished.clone().set("refund_fee", "10.00"),
        finished.clone().set("refund_fee", "10.00").set("gmt_refund", "2026-11-23 11:00:00"),
    ] {
        let event = event_of(draft);
        assert_eq!(event.event_type.as_str(), "payment.succeeded");
        assert!(event.finishes && !event.late);
        assert!(json(&event).get("refund").is_none());
    }
    // The same identity as the TRADE_SUCCESS before it.
    assert_eq!(event_of(finished).key(), event_of(Draft::payment()).key());
}

#[test]
fn row_4_and_5_the_payments_age_against_the_retention_decides_what_a_finish_is() {
    let paid_at = Timestamp::from_beijing((2026, 11, 23), (10, 15, 31, 0)).unwrap();
    let finish = Draft::payment().set("trade_status", "TRADE_FINISHED").without("notify_time");
    for (age, expected) in [
        (34 * DAY, "payment.succeeded"),
        (35 * DAY - MINUTE, "payment.succeeded"),
        (35 * DAY, "trade.finished"),
        (90 * DAY, "trade.finished"),
    ] {
        let at = paid_at.plus(age);
        let body = finish.clone().set("notify_time", at.alipay()).signed().body();
        let event = event(&body, &policy(), at);
        assert_eq!(event.event_type.as_str(), expected, "{age:?}");
        // What is its own finish has nothing to look for in its place.
        assert_eq!(event.finishes, expected == "payment.succeeded");
        assert!(!event.late && !event.stale);
    }
}

#[test]
fn row_6_a_refund_is_one_by_its_fields_and_not_by_its_status() {
    for (draft, is_refund) in [
        (Draft::refund(), true),
        (Draft::refund().set("trade_status", "TRADE_CLOSED").set("refund_fee", "88.88"), true),
        (Draft::refund().without("gmt_refund"), true),
        (Draft::refund().without("refund_fee"), true),
        (Draft::payment().set("refund_fee", "0.01"), true),
        (Draft::payment().set("refund_fee", "0.00"), false),
        (Draft::payment().set("refund_fee", "0"), false),
        (Draft::payment().set("out_biz_no", "not-a-refund"), false),
        // An empty one is absent: anybody could have appended it.
        (Draft::payment().set("gmt_refund", "").set("refund_fee", ""), false),
    ] {
        let event = event_of(draft.clone());
        let expected = if is_refund { "payment.refunded" } else { "payment.succeeded" };
        assert_eq!(event.event_type.as_str(), expected, "{draft:?}");
        assert_eq!(json(&event).get("refund").is_some(), is_refund);
    }
}

#[test]
fn row_6_a_refund_is_one_at_any_age() {
    let at = now().plus(400 * DAY);
    let body = Draft::refund().set("notify_time", at.alipay()).signed().body();
    let event = event(&body, &policy(), at);
    assert_eq!(event.event_type.as_str(), "payment.refunded");
    assert!(!event.late && !event.stale);
}

#[test]
fn row_7_a_trade_that_ended_unpaid_is_closed() {
    let closed = Draft::payment().set("trade_status", "TRADE_CLOSED").without("gmt_payment");
    let event = event_of(closed.clone().set("gmt_close", "2026-11-23 10:16:00").set("refund_fee", "0.00"));
    assert_eq!(event.event_type.as_str(), "trade.closed");
    assert_eq!(event.business_time.alipay(), "2026-11-23 10:16:00");
    // A `gmt_close` that is no time decides nothing.
    let event = event_of(closed.set("gmt_close", "yesterday"));
    assert_eq!(event.business_time, event.notified_at);
}

#[test]
fn row_8_a_success_is_a_payment_and_late_when_it_is_older_than_the_retention() {
    let at = now().plus(36 * DAY);
    let body = Draft::payment().set("notify_time", at.alipay()).signed().body();
    let event = event(&body, &policy(), at);
    assert_eq!(event.event_type.as_str(), "payment.succeeded");
    assert!(event.late && !event.finishes);
    let late = event.as_late();
    assert_eq!(late.event_type.as_str(), "payment.late");
    assert_eq!(late.id.as_str(), format!("{APP}.{TRADE}.payment.late"));
    assert!(!event_of(Draft::payment()).late);
}

#[test]
fn a_payments_time_is_gmt_payment_else_gmt_create_else_the_date_in_trade_no() {
    let time = |draft: Draft| event_of(draft).payment_time.map(Timestamp::alipay);
    let draft = Draft::payment();
    assert_eq!(time(draft.clone()).as_deref(), Some("2026-11-23 10:15:31"));
    let draft = draft.without("gmt_payment");
    assert_eq!(time(draft.clone()).as_deref(), Some("2026-11-23 10:15:30"));
    let draft = draft.without("gmt_create");
    assert_eq!(time(draft.clone()).as_deref(), Some("2026-11-23 00:00:00"));
    // Where even that is no date, nobody can say how old it is: late, never plainly succeeded.
    let event = event_of(draft.set("trade_no", "9999999922001427340000000000"));
    assert_eq!(event.payment_time, None);
    assert!(event.late);
}

// Ids, digest and the event.

#[test]
fn a_redelivery_has_the_same_key_and_digest_and_another_signature() {
    let first = Draft::payment().signed();
    let second = Draft::payment().set("notify_time", "2026-11-23 10:19:32").signed();
    assert_ne!(first.get("sign"), second.get("sign"));
    let (first, second) =
        (event(&first.body(), &policy(), now()), event(&second.body(), &policy(), now().plus(4 * MINUTE)));
    assert_eq!(
        (first.key(), first.digest, &first.notify_id),
        (second.key(), second.digest, &second.notify_id)
    );
}

#[test]
fn every_money_fact_is_in_the_digest_and_nothing_else_is() {
    let digest = |draft: Draft| event_of(draft).digest;
    let plain = digest(Draft::payment());
    for same in [
        Draft::payment().set("refund_fee", "0.00"),
        Draft::payment().set("subject", "another"),
        Draft::payment().set("notify_id", "another").set("gmt_payment", "2026-11-23 10:15:33"),
        Draft::payment().set("trade_status", "TRADE_FINISHED"),
    ] {
        assert_eq!(digest(same), plain);
    }
    for other in [
        Draft::payment().set("total_amount", "88.89"),
        Draft::payment().set("out_trade_no", "R2-0000000000"),
        Draft::refund(),
    ] {
        assert_ne!(digest(other), plain);
    }
    // One amount in two spellings is one amount.
    let spelled = |amount: &str| digest(Draft::payment().set("total_amount", amount));
    assert_eq!(spelled("88.80"), spelled("88.8"));
    assert_eq!(spelled("88.00"), spelled("88"));
}

#[test]
fn two_refunds_of_one_trade_are_two_events_by_number_and_else_by_time_and_fee() {
    let id = |draft: Draft| event_of(draft).id.as_str().to_owned();
    let prefix = format!("{APP}.{TRADE}.payment.refunded");
    assert_eq!(id(Draft::refund()), format!("{prefix}.refund-1"));
    assert_eq!(id(Draft::refund().set("out_biz_no", "退 2")), format!("{prefix}.%E9%80%80%202"));
    let unnumbered = Draft::refund().without("out_biz_no");
    assert_eq!(id(unnumbered.clone()), format!("{prefix}.at-2026-11-23%2011%3A00%3A00%2E250-1000"));
    assert_eq!(id(unnumbered.clone().without("gmt_refund")), format!("{prefix}.at--1000"));
    assert_eq!(
        id(unnumbered.without("refund_fee")),
        format!("{prefix}.at-2026-11-23%2011%3A00%3A00%2E250-0")
    );
}

#[test]
fn the_event_carries_what_the_notification_has_and_nothing_that_it_lacks() {
    let event = event_of(Draft::payment().set("passback_params", "a=1&b=2").set("body", " x "));
    let json = json(&event);
    for (name, value) in [
        ("event_id", format!("{APP}.{TRADE}.payment.succeeded")),
        ("event_type", "payment.succeeded".to_owned()),
        ("app_id", APP.to_owned()),
        ("auth_app_id", APP.to_owned()),
        ("environment", "production".to_owned()),
        ("trade_no", TRADE.to_owned()),
        ("out_trade_no", "R1-0000000000".to_owned()),
        ("trade_status", "TRADE_SUCCESS".to_owned()),
        ("seller_id", SELLER.to_owned()),
        ("currency", "CNY".to_owned()),
        ("total_amount", "88.88".to_owned()),
        ("receipt_amount", "88.88".to_owned()),
        ("paid_at", "2026-11-23T10:15:31+08:00".to_owned()),
        ("notified_at", "2026-11-23T10:15:32+08:00".to_owned()),
        ("notify_id", "2026112300222101532001427340000001".to_owned()),
        ("subject", "测试商品 + 1".to_owned()),
        ("body", " x ".to_owned()),
        ("passback_params", "a=1&b=2".to_owned()),
    ] {
        assert_eq!(json[name], value, "{name}");
    }
    assert_eq!(json["total_amount_minor"], 8888);
    for absent in ["refund", "decoding_lossy", "raw_body", "buyer_open_id", "buyer_id"] {
        assert!(json.get(absent).is_none(), "{absent}");
    }
    assert_eq!(event.business_time.alipay(), "2026-11-23 10:15:31");
}

#[test]
fn a_refund_says_how_much_and_when() {
    let json = json(&event_of(Draft::refund()));
    assert_eq!(
        json["refund"],
        serde_json::json!({
            "out_biz_no": "refund-1",
            "refund_fee": "10.00",
            "refund_fee_minor": 1000,
            "refunded_at": "2026-11-23T11:00:00.250+08:00",
        })
    );
    assert_eq!(json["trade_status"], "TRADE_SUCCESS");
    assert_eq!(json["total_amount"], "88.88");
}

#[test]
fn hundredths_are_given_for_yuan_only() {
    let json = json(&event_of(Draft::refund().set("trans_currency", "USD")));
    assert_eq!(json["currency"], "USD");
    assert_eq!(json["total_amount"], "88.88");
    assert!(json.get("total_amount_minor").is_none());
    assert!(json["refund"].get("refund_fee_minor").is_none());
}

#[test]
fn amounts_have_two_decimals_whatever_they_came_with() {
    for (sent, told, minor) in [("88.88", "88.88", 8888), ("88.8", "88.80", 8880), ("88", "88.00", 8800)] {
        let json = json(&event_of(Draft::payment().set("total_amount", sent).set("receipt_amount", sent)));
        assert_eq!((&json["total_amount"], &json["receipt_amount"]), (&told.into(), &told.into()));
        assert_eq!(json["total_amount_minor"], minor);
    }
    // An amount that decides nothing travels as it came.
    let json = json(&event_of(Draft::payment().set("receipt_amount", "a lot")));
    assert_eq!(json["receipt_amount"], "a lot");
}

#[test]
fn the_notification_travels_whole_or_not_at_all() {
    let signed = Draft::payment().set("something_new", "kept").signed();
    let with = json(&event(&signed.body(), &policy(), now()));
    let sign = String::from_utf8(signed.get("sign").unwrap().to_vec()).unwrap();
    assert_eq!(with["notification"]["sign"], sign);
    assert_eq!(with["notification"]["sign_type"], "RSA2");
    assert_eq!(with["notification"]["something_new"], "kept");
    let mut policy = policy();
    policy.notification = false;
    assert!(json(&event(&signed.body(), &policy, now())).get("notification").is_none());
}

#[test]
fn gbk_is_verified_as_bytes_and_told_as_text() {
    let draft = Draft::payment().set("charset", "GBK").set("subject", b"\xb2\xe2\xca\xd4 \xaf\xe4");
    let json = json(&event_of(draft));
    let subject = json["subject"].as_str().unwrap();
    assert!(subject.starts_with("测试 "), "{subject}");
    assert!(json.get("decoding_lossy").is_none(), "a user-defined character of GBK is not lost");
}

#[test]
fn what_decoding_loses_is_said_and_kept_where_the_buyer_may_be() {
    let body = Draft::payment().set("subject", b"a\xffb").signed().body();
    let lossy = json(&event(&body, &policy(), now()));
    assert_eq!(lossy["subject"], "a\u{fffd}b");
    assert_eq!(lossy["decoding_lossy"], true);
    assert!(lossy.get("raw_body").is_none(), "it holds the buyer");
    let mut policy = policy();
    policy.buyer = Buyer::Forward;
    let forwarded = json(&event(&body, &policy, now()));
    use base64::Engine as _;
    let raw = base64::engine::general_purpose::STANDARD.decode(forwarded["raw_body"].as_str().unwrap());
    assert_eq!(raw.unwrap(), body);
}

#[test]
fn a_notification_of_2016_without_charset_version_and_auth_app_id_is_one() {
    let old = Draft::payment().without("charset").without("version").without("auth_app_id");
    assert_eq!(said_of(old), Said::Event("payment.succeeded"));
}

#[test]
fn what_the_store_may_have_forgotten_is_late_though_the_retention_was_raised_since() {
    let mut policy = policy();
    let payment = Draft::payment().signed().body();
    let finish = Draft::payment().set("trade_status", "TRADE_FINISHED").signed().body();
    assert!(!event(&payment, &policy, now()).late);
    assert_eq!(judge(&finish, &policy, now()), Said::Event("payment.succeeded"));
    // Paid at 10:15:31.
    policy.complete_since = now();
    assert!(event(&payment, &policy, now()).late);
    assert_eq!(judge(&finish, &policy, now()), Said::Event("trade.finished"));
}

#[test]
fn the_environment_is_the_apps() {
    let mut app = app(APP, alipay(), SignType::Rsa2);
    app.environment = Environment::Sandbox;
    let event = event(&Draft::payment().signed().body(), &policy_of([app]), now());
    assert_eq!(json(&event)["environment"], "sandbox");
}

// What is authentic and held.

#[test]
fn another_sellers_trade_is_held_and_an_app_without_sellers_asks_for_none() {
    let foreign = Draft::payment().set("seller_id", "2088000000000000");
    assert_eq!(said_of(foreign.clone()), Said::Held(Objection::Seller));
    let mut open = app(APP, alipay(), SignType::Rsa2);
    open.seller_ids.clear();
    let open = policy_of([open]);
    assert_eq!(judge(&foreign.signed().body(), &open, now()), Said::Event("payment.succeeded"));
    let none = Draft::payment().without("seller_id").signed().body();
    assert_eq!(judge(&none, &open, now()), Said::Event("payment.succeeded"));
}

#[test]
fn another_kind_is_asked_for_its_seller_only_if_it_names_one_or_the_key_is_shared() {
    let kind = Draft::payment().set("notify_type", "dut_user_sign").without("trade_status");
    assert_eq!(said_of(kind.clone().without("seller_id")), Said::Event("notification.other"));
    assert_eq!(said_of(kind.clone().set("seller_id", "2088000000000000")), Said::Held(Objection::Seller));
    let rsa = policy_of([app(APP, shared(), SignType::Rsa)]);
    let by_shared_key = |draft: Draft| {
        let signed = draft.set("sign_type", "RSA").signed_by(shared(), Hash::Sha1, Version::V1);
        judge(&signed.body(), &rsa, now())
    };
    assert_eq!(by_shared_key(kind.clone()), Said::Event("notification.other"));
    assert_eq!(by_shared_key(kind.without("seller_id")), Said::Held(Objection::Seller));
    assert_eq!(by_shared_key(Draft::payment()), Said::Event("payment.succeeded"));
}

#[test]
fn a_deciding_field_without_its_form_is_held_by_name() {
    for (name, value) in [
        ("notify_id", "a b"),
        ("notify_id", "a\0"),
        ("notify_time", "2026-11-23T10:15:32"),
        ("notify_time", "2026-02-30 10:15:32"),
        ("trade_no", "2026-1123"),
        ("trade_no", "202611232200142734000000000a"),
        ("out_trade_no", "a\nb"),
        ("out_trade_no", "a&b"),
        ("total_amount", "88.888"),
        ("total_amount", "-88.88"),
        ("total_amount", "８８"),
        ("total_amount", "1e3"),
        ("total_amount", " 88.88"),
        ("refund_fee", "ten"),
        ("gmt_create", "today"),
        ("gmt_payment", "0000-00-00 00:00:00"),
        ("gmt_refund", "2026-11-23"),
        ("out_biz_no", "a\u{2028}b"),
    ] {
        let said = said_of(Draft::payment().set(name, value));
        assert!(
            matches!(said, Said::Held(Objection::Grammar(held)) if held == name),
            "{name}={value:?}: {said:?}"
        );
    }
    // With sellers configured a strange one is a strange seller; without, it has no form.
    let mut open = app(APP, alipay(), SignType::Rsa2);
    open.seller_ids.clear();
    let body = Draft::payment().set("seller_id", "2088x").signed().body();
    assert_eq!(judge(&body, &policy_of([open]), now()), Said::Held(Objection::Grammar("seller_id")));
}

#[test]
fn what_is_held_is_named_for_the_operator() {
    let held = |draft: Draft| match admit(&draft.signed().body(), &policy(), now()) {
        Verdict::Withheld(withheld, key) => (withheld, key),
        other @ (Verdict::Admitted(..) | Verdict::Rejected(..) | Verdict::Shadowed(_)) => panic!("{other:?}"),
    };
    let (withheld, key) = held(Draft::payment().set("seller_id", "2088000000000000"));
    assert_eq!(withheld.app_id(), APP);
    assert_eq!(withheld.notify_id(), "2026112300222101532001427340000001");
    assert_eq!(withheld.subject(), TRADE);
    assert_eq!(key.app_id, APP);
    assert_eq!(key.fingerprint.len(), 12);
    let (withheld, _) = held(Draft::payment().set("trade_no", "none"));
    assert_eq!(withheld.subject(), "2026112300222101532001427340000001");
}

#[test]
fn an_old_delivery_is_stale_only_past_max_age_and_one_from_the_future_is_not() {
    let body = Draft::payment().signed().body();
    let notified = Timestamp::from_beijing((2026, 11, 23), (10, 15, 32, 0)).unwrap();
    let at = |now: Timestamp| event(&body, &policy(), now).stale;
    assert!(!at(notified.plus(DAY)));
    assert!(at(notified.plus(DAY + std::time::Duration::from_millis(1))));
    assert!(!at(earlier(400 * DAY)));
}

// What is not authentic.

#[test]
fn each_reason_to_refuse_has_its_name() {
    let signed = || Draft::payment().signed();
    for (body, expected) in [
        (b"".to_vec(), Rejection::Malformed(FormError::Empty)),
        (b"hello".to_vec(), Rejection::Malformed(FormError::Nameless)),
        (signed().without("app_id").without("notify_id").body(), Rejection::NoAppId),
        (signed().without("app_id").body(), Rejection::Partner),
        (signed().set("app_id", "2021000000000009").body(), Rejection::UnknownApp),
        (signed().set("app_id", b"\xff").body(), Rejection::UnknownApp),
        (signed().set("sign_type", "RSA").body(), Rejection::SignType),
        (signed().without("sign").body(), Rejection::NoSignature),
        (signed().set("sign", "QUJD").body(), Rejection::SignatureForm),
        (signed().set("total_amount", "0.01").body(), Rejection::Signature),
    ] {
        assert_eq!(said(&body), Said::Refused(expected));
        assert!(Rejection::REASONS.contains(&expected.reason()));
    }
}

#[test]
fn a_missing_required_field_is_named_even_where_the_signature_holds() {
    for name in ["notify_time", "trade_no", "out_trade_no", "trade_status", "total_amount", "seller_id"] {
        for draft in [Draft::payment().without(name), Draft::payment().set(name, "")] {
            assert_eq!(said_of(draft), Said::Refused(Rejection::MissingField(name)));
        }
    }
    assert_eq!(
        said_of(Draft::payment().without("notify_type")),
        Said::Refused(Rejection::MissingField("notify_type"))
    );
}

#[test]
fn a_partner_notification_of_before_2016_is_refused_by_name() {
    let partner = Draft::of([
        ("notify_id", "x"),
        ("notify_time", "2014-11-23 10:15:32"),
        ("notify_type", "trade_status_sync"),
        ("out_trade_no", "1"),
        ("price", "1.00"),
        ("sign_type", "RSA"),
        ("total_fee", "1.00"),
        ("trade_no", "2014112300000000"),
        ("trade_status", "TRADE_SUCCESS"),
    ]);
    let signed = partner.signed_by(shared(), Hash::Sha1, Version::V1);
    assert_eq!(said(&signed.body()), Said::Refused(Rejection::Partner));
    let wireless = Draft::of([
        ("notify_data", "<notify><trade_no>2014112300000000</trade_no></notify>"),
        ("sec_id", "0001"),
        ("service", "alipay.wap.trade.create.direct"),
        ("v", "1.0"),
    ]);
    let signed = wireless.signed_by(shared(), Hash::Sha1, Version::V1);
    assert_eq!(said(&signed.body()), Said::Refused(Rejection::Partner));
}

#[test]
fn while_keys_rotate_any_of_the_apps_keys_verifies_and_is_named() {
    let mut rotating = app(APP, signer::stranger(), SignType::Rsa2);
    let ours = app(APP, alipay(), SignType::Rsa2).keys.remove(0);
    rotating.keys.push(ours.clone());
    let Verdict::Admitted(_, key) = admit(&Draft::payment().signed().body(), &policy_of([rotating]), now())
    else {
        panic!("not admitted");
    };
    assert_eq!(key.fingerprint, ours.fingerprint());
}

#[test]
fn a_key_in_shadow_is_counted_and_not_believed() {
    let mut watching = app(APP, signer::stranger(), SignType::Rsa2);
    watching.shadow_keys = app(APP, alipay(), SignType::Rsa2).keys;
    let watched = watching.shadow_keys[0].fingerprint().to_owned();
    let policy = policy_of([watching]);
    let body = Draft::payment().signed().body();
    let Verdict::Shadowed(key) = admit(&body, &policy, now()) else { panic!("not shadowed") };
    assert_eq!((key.app_id.as_str(), key.fingerprint), (APP, watched));
    let altered = Draft::payment().signed().set("total_amount", "1.00").body();
    assert_eq!(judge(&altered, &policy, now()), Said::Refused(Rejection::Signature));
    let believed = Draft::payment().signed_by(signer::stranger(), Hash::Sha256, Version::V1).body();
    assert_eq!(judge(&believed, &policy, now()), Said::Event("payment.succeeded"));
}

#[test]
fn a_text_with_the_name_of_a_field_that_cannot_have_stood_there_is_a_merchants() {
    for text in ["uid=5&status=1", "order=7&timestamp=1700000000", "a=1&service=vip", "id=3&method=alipay"] {
        let draft = Draft::payment().set("passback_params", text);
        assert_eq!(said_of(draft), Said::Event("payment.succeeded"), "{text}");
    }
    // `subject` does lie between `seller_id` and `total_amount`, and `version` is the last: these may have been.
    for (name, text, hidden) in [
        ("passback_params", "x&point_amount=1", "point_amount"),
        ("seller_id", "2088101117955611", ""),
        ("trade_status", "TRADE_SUCCESS", ""),
        ("voucher_detail_list", "[]&version=2.0", ""),
        ("subject", "x&timestamp=1", "timestamp"),
    ] {
        let draft = Draft::payment().without(hidden).set(name, text).signed();
        // An empty or unsigned parameter, which anyone can add, changes nothing.
        for added in ["", "&pb=", "&subjecu=", "&alipay_cert_sn=1"] {
            let body = [&draft.body()[..], added.as_bytes()].concat();
            let expected = match hidden {
                "" => Said::Event("payment.succeeded"),
                hidden => Said::Held(Objection::Ambiguous(hidden)),
            };
            assert_eq!(said(&body), expected, "{name}={text} {added}");
        }
    }
}

#[test]
fn an_operator_lets_pass_one_objection_and_no_other() {
    let foreign = Draft::payment().set("seller_id", "2088000000000042").signed().body();
    let ambiguous = Draft::payment().set("subject", "x&refund_fee=1.00").signed().body();
    let old = Draft::payment().set("notify_time", "2026-01-02 03:04:05").signed().body();
    let odd = Draft::payment().set("total_amount", "88,88").signed().body();
    let passes_later = |body: &[u8], reason: &str, held_at| match admit_released(
        body,
        &policy(),
        now(),
        Waived::of(reason),
        held_at,
    ) {
        Verdict::Admitted(admitted, _) => !admitted.event().stale,
        Verdict::Withheld(..) => false,
        Verdict::Rejected(rejection, _) => panic!("{rejection}"),
        Verdict::Shadowed(key) => panic!("{key:?}"),
    };
    let passes = |body: &[u8], reason: &str| passes_later(body, reason, now());
    let in_time = Timestamp::from_beijing((2026, 1, 2), (4, 0, 0, 0)).unwrap();
    for reason in Objection::REASONS {
        assert_eq!(passes(&foreign, reason), reason == "seller", "{reason}");
        assert_eq!(passes(&ambiguous, reason), reason == "ambiguous", "{reason}");
        // Its age is of when it was held: it grows old while somebody looks into it.
        assert_eq!(passes(&old, reason), reason == "stale", "{reason}");
        assert!(passes_later(&old, reason, in_time), "{reason}");
        assert!(!passes(&odd, reason), "{reason}");
    }
}

#[test]
fn the_seller_is_never_let_pass_where_all_merchants_share_the_key() {
    let policy = policy_of([app(APP, shared(), SignType::Rsa)]);
    let draft = Draft::payment().set("sign_type", "RSA").set("seller_id", "2088000000000042");
    let body = draft.signed_by(shared(), Hash::Sha1, Version::V1).body();
    let verdict = admit_released(&body, &policy, now(), Waived::Seller, now());
    assert!(
        matches!(&verdict, Verdict::Withheld(held, _) if held.objection() == Objection::Seller),
        "{verdict:?}"
    );
}

#[test]
fn what_is_released_must_verify_like_any_other() {
    let forged = Draft::payment().signed().set("seller_id", "2088000000000042").body();
    let verdict = admit_released(&forged, &policy(), now(), Waived::Seller, now());
    assert!(matches!(verdict, Verdict::Rejected(Rejection::Signature, _)), "{verdict:?}");
}

#[test]
fn an_app_pinned_to_rsa_takes_sha1_and_not_sha256() {
    let rsa = policy_of([app(APP, alipay(), SignType::Rsa)]);
    let draft = Draft::payment().set("sign_type", "RSA");
    let sha1 = draft.clone().signed_by(alipay(), Hash::Sha1, Version::V1);
    assert_eq!(judge(&sha1.body(), &rsa, now()), Said::Event("payment.succeeded"));
    let sha256 = draft.signed();
    assert_eq!(judge(&sha256.body(), &rsa, now()), Said::Refused(Rejection::Signature));
}

#[test]
fn empty_values_verify_whether_they_were_signed_or_not() {
    let draft = Draft::payment().set("body", "").set("passback_params", "");
    let without = signer::signature(alipay(), Hash::Sha256, &draft.content(Version::V1));
    let with = signer::signature(alipay(), Hash::Sha256, &draft.content_with(Version::V1, true));
    assert_ne!(without, with);
    for signature in [without, with] {
        let body = draft.clone().with_signature(&signature).body();
        assert_eq!(said(&body), Said::Event("payment.succeeded"));
        assert!(json(&event(&body, &policy(), now())).get("body").is_none(), "an empty value is absent");
    }
}
