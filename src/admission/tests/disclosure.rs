//! What an event tells of the buyer or user.

use alipay_notify_gateway::admission::policy::Buyer;

use super::event_of;
use super::support::judge::{event, json, now, policy};
use super::support::signer::{APP, Draft};

#[test]
fn the_buyer_is_left_out_masked_or_forwarded_as_configured() {
    let draft = Draft::payment()
        .set("buyer_open_id", "065Zv7fXXXXXXXXXXXXXXXXXXXXXXXXX")
        .set("payer_user_id", "2088000000000016")
        .set("buyer_pay_amount", "80.00");
    let body = draft.signed().body();
    let with = |buyer: Buyer| {
        let mut policy = policy();
        policy.buyer = buyer;
        json(&event(&body, &policy, now()))
    };
    let (omitted, masked, forwarded) = (with(Buyer::Omit), with(Buyer::Mask), with(Buyer::Forward));
    let text = omitted.to_string();
    for secret in
        ["2088000000000016", "abc***@example.com", "065Zv7f", "buyer_id", "buyer_logon_id", "payer_"]
    {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    assert_eq!(masked["buyer_id"], "************0016");
    assert_eq!(masked["notification"]["buyer_id"], "************0016");
    assert_eq!(masked["notification"]["payer_user_id"], "************0016");
    assert_eq!(masked["buyer_pay_amount"], "80.00", "an amount tells nobody who he is");
    assert_eq!(masked["notification"]["buyer_logon_id"], "**************.com");
    assert!(!masked.to_string().contains("2088000000000016"));
    assert_eq!(forwarded["buyer_id"], "2088000000000016");
    assert_eq!(forwarded["buyer_open_id"], "065Zv7fXXXXXXXXXXXXXXXXXXXXXXXXX");
    assert_eq!(forwarded["notification"]["buyer_logon_id"], "abc***@example.com");
}

#[test]
fn the_user_of_other_kinds_is_left_out_too() {
    let agreement = Draft::of([
        ("alipay_logon_id", "199******01"),
        ("alipay_user_id", "2088000000000016"),
        ("app_id", APP),
        ("external_logon_id", "199******02"),
        ("external_user_id", "2088000000000017"),
        ("login_token", "T0KEN"),
        ("notify_id", "n-4"),
        ("notify_time", "2026-11-23 10:15:32"),
        ("notify_type", "dut_user_sign"),
        ("real_name", "N4ME"),
        ("sign_type", "RSA2"),
        ("zm_open_id", "268800000000001"),
    ]);
    let text = json(&event_of(agreement)).to_string();
    for secret in ["208800000000001", "268800000000001", "199******0", "T0KEN", "N4ME"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

#[test]
fn the_user_in_the_content_of_a_message_is_left_out_masked_or_forwarded_too() {
    let message = |content: &str| {
        Draft::of([
            ("app_id", APP),
            ("biz_content", content),
            ("charset", "UTF-8"),
            ("msg_method", "alipay.open.app.message.something"),
            ("notify_id", "n-5"),
            ("sign_type", "RSA2"),
            ("utc_timestamp", "1795400132000"),
        ])
    };
    let told = |content: &str, buyer: Buyer| {
        let mut policy = policy();
        policy.buyer = buyer;
        let event = json(&event(&message(content).signed().body(), &policy, now()));
        event["notification"].get("biz_content").map(|told| told.as_str().unwrap().to_owned())
    };
    let personal = r#"{"b":1, "user_id":"2088000000000016", "list":[{"logon_id":42},{"open_id":"x","a":[{}]}],
        "data":"{\"user_id\":\"2088000000000016\",\"c\":2}"}"#;
    let omitted = r#"{"b":1,"data":"{\"c\":2}","list":[{},{"a":[{}]}]}"#;
    assert_eq!(told(personal, Buyer::Omit).unwrap(), omitted);
    let masked = r#"{"b":1,"data":"{\"c\":2,\"user_id\":\"************0016\"}","#.to_owned()
        + r#""list":[{"logon_id":"**"},{"a":[{}],"open_id":"*"}],"user_id":"************0016"}"#;
    assert_eq!(told(personal, Buyer::Mask).unwrap(), masked);
    assert_eq!(told(personal, Buyer::Forward).unwrap(), personal);
    let amount = r#"{"buyer_pay_amount":"80.00","buyer_id":"2088000000000016"}"#;
    let masked = r#"{"buyer_id":"************0016","buyer_pay_amount":"80.00"}"#;
    assert_eq!(told(amount, Buyer::Mask).unwrap(), masked);
    for impersonal in [r#"{"b": 1.50, "a":[{"x":{}}], "s":"[smile] \"hi\" {0}"}"#, "user_id", "{}"] {
        assert_eq!(told(impersonal, Buyer::Omit).unwrap(), impersonal, "as it was received");
    }
    let deep = format!("{}1{}", r#"{"a":"#.repeat(200), "}".repeat(200));
    // As texts in texts, of which each doubles what has to be escaped.
    let within = |levels| {
        (0..levels).fold(r#"{"user_id":"2088000000000016","b":1}"#.to_owned(), |inner, _| {
            serde_json::json!({ "t": inner }).to_string()
        })
    };
    let shown = told(&within(2), Buyer::Omit).unwrap();
    assert!(shown.contains("t\\\":") && !shown.contains("user_id"), "{shown}");
    let string = serde_json::to_string(&within(0)).unwrap();
    assert!(!told(&string, Buyer::Omit).unwrap().contains("user_id"));
    for unreadable in
        [r#"{"user_id":"2088000000000016","nick":"\ud83d"}"#, r#"[{"a":1},"#, &deep, &within(3), &within(9)]
    {
        assert_eq!(told(unreadable, Buyer::Omit), None, "nobody knows whom it names");
        assert!(!told(unreadable, Buyer::Mask).unwrap().contains("208800000000"));
        assert_eq!(told(unreadable, Buyer::Forward).unwrap(), unreadable);
    }
}
