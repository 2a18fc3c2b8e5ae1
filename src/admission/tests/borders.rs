//! Borders between fields that were moved (39 of the attacks): every reading of the same signed bytes says the same, or nothing.

use alipay_notify_gateway::admission::Rejection;
use alipay_notify_gateway::admission::acceptance::{Objection, Waived, accept};
use alipay_notify_gateway::admission::form::{Form, FormError};
use alipay_notify_gateway::admission::policy::SignType;

use super::support::judge::{Said, app, event, now, policy};
use super::support::signer::{APP, Draft, SELLER, Version, alipay};
use super::{said, said_of};

const PAID: Said = Said::Event("payment.succeeded");
const FORGED: Said = Said::Refused(Rejection::Signature);
const DOUBLED: Said = Said::Refused(Rejection::Malformed(FormError::Doubled));

/// Everything that is signed, in its order.
fn signed_names(draft: &Draft) -> Vec<String> {
    let mut names: Vec<String> =
        draft.0.iter().map(|(name, _)| String::from_utf8(name.clone()).unwrap()).collect();
    names.retain(|name| name != "sign" && name != "sign_type");
    names.sort();
    names
}

#[test]
fn attack_39_a_text_that_swallowed_its_neighbours_is_never_announced() {
    for draft in [
        Draft::payment().set("body", "b").set("passback_params", "p"),
        Draft::refund().set("body", "b").set("passback_params", "p"),
        Draft::refund().set("trade_status", "TRADE_CLOSED").set("gmt_close", "2026-11-23 11:00:00"),
    ] {
        let draft = draft.signed();
        let names = signed_names(&draft);
        for (at, eater) in names.iter().enumerate() {
            for count in 1..=4 {
                let eaten = &names[at + 1..(at + 1 + count).min(names.len())];
                if eaten.is_empty() {
                    continue;
                }
                let mut meal = draft.get(eater).unwrap().to_vec();
                let mut moved = draft.clone();
                for name in eaten {
                    meal = [&meal[..], b"&", name.as_bytes(), b"=", draft.get(name).unwrap()].concat();
                    moved = moved.without(name);
                }
                let moved = moved.set(eater, &meal);
                assert_eq!(
                    moved.content(Version::V1),
                    draft.content(Version::V1),
                    "the signature still holds"
                );
                let said = said(&moved.body());
                assert!(!matches!(said, Said::Event(_)), "{eater} swallowed {eaten:?}: {said:?}");
            }
        }
    }
}

#[test]
fn attack_39_a_text_that_swallowed_a_refund_is_held() {
    // Without `receipt_amount`, as refunds are, `passback_params` stands right before `refund_fee`.
    let draft =
        Draft::refund().set("passback_params", "p").without("gmt_refund").without("out_biz_no").signed();
    assert_eq!(said(&draft.body()), Said::Event("payment.refunded"));
    let moved = draft.clone().without("refund_fee").set("passback_params", "p&refund_fee=10.00");
    assert_eq!(moved.content(Version::V1), draft.content(Version::V1));
    assert_eq!(said(&moved.body()), Said::Held(Objection::Ambiguous("refund_fee")));
}

#[test]
fn attack_39_a_text_split_so_that_it_doubles_a_field_is_refused() {
    for name in ["subject", "body", "passback_params"] {
        let draft = Draft::payment().set(name, "x&total_amount=9999.00").signed();
        // As sent, it is a text: every field is there by itself.
        assert_eq!(said(&draft.body()), PAID, "{name}");
        let split = draft.set(name, "x");
        assert_eq!(said(&[&split.body()[..], b"&total_amount=9999.00"].concat()), DOUBLED, "{name}");
        assert_eq!(said(&split.set("total_amount", "9999.00").body()), FORGED, "{name}");
    }
}

#[test]
fn attack_39_a_text_that_was_split_and_the_genuine_fields_swallowed_is_held() {
    let all = "buyer_id=1&buyer_logon_id=1&charset=utf-8&fund_bill_list=1&gmt_create=2026-11-23 10:15:30&\
               gmt_payment=2026-11-23 10:15:31&invoice_amount=1&notify_id=1&notify_time=2026-11-23 10:15:32&\
               notify_type=trade_status_sync&out_trade_no=ANOTHER";
    // What is in the text; what the parameter is called behind it, which swallows.
    for (text, fakes, swallower) in [
        ("subject", "total_amount=9999.00", "total_b"),
        ("subject", "total_amount=88.88&trade_no=2026112322001427340000000099", "trade_o"),
        (
            "subject",
            "total_amount=88.88&trade_no=2026112322001427340000000099&trade_status=TRADE_CLOSED",
            "u",
        ),
        ("store_id", "subject=y&total_amount=9999.00", "total_b"),
        ("passback_params", "refund_fee=5.00", "refund_g"),
        (
            "passback_params",
            "receipt_amount=88.88&seller_id=2088101117955611&total_amount=9999.00",
            "total_b",
        ),
        ("body", all, "p"),
    ] {
        let held = format!("x&{fakes}&{swallower}=");
        // Another text, which holds what is called less than any that could have swallowed it.
        let other = if text == "passback_params" { "subject" } else { "passback_params" };
        let draft = Draft::payment().set(other, "k&a=1");
        let genuine = draft.set(text, &held).without("point_amount").signed();
        // As Alipay sent it, it is a merchant's text, or holds what looks like a missing field.
        let as_sent = said(&genuine.body());
        assert!(
            as_sent == PAID || matches!(as_sent, Said::Held(Objection::Ambiguous(_))),
            "{text}: {as_sent:?}"
        );
        let names = signed_names(&genuine);
        let behind = names.iter().filter(|name| text < name.as_str() && name.as_str() < swallower);
        let (mut moved, mut meal) = (genuine.clone().set(text, "x"), String::new());
        for name in behind {
            let eaten = String::from_utf8(genuine.get(name).unwrap().to_vec()).unwrap();
            meal = format!("{meal}&{name}={eaten}");
            moved = moved.without(name);
        }
        for fake in fakes.split('&') {
            let (name, value) = fake.split_once('=').unwrap();
            moved = moved.set(name, value);
        }
        let moved = moved.set(swallower, meal);
        assert_eq!(moved.content(Version::V1), genuine.content(Version::V1), "the same bytes are signed");
        let said = said(&moved.body());
        assert!(matches!(said, Said::Held(Objection::Ambiguous(_))), "{text}, {swallower}: {said:?}");
    }
}

#[test]
fn attack_39_a_merchants_text_that_repeats_fields_of_the_notification_is_his_text() {
    for name in ["body", "passback_params", "subject", "store_id", "terminal_id"] {
        for text in [
            "x&total_amount=9999.00",
            "x&out_trade_no=ANOTHER&total_amount=9999.00",
            "a=1&trade_no=2026112322001427340000000099&trade_status=TRADE_CLOSED",
            "a=1&b=2&z=3",
            "app_id=1&seller_id=2088101117955611&notify_id=5",
            "x&gmt_payment=2026-11-23 10:15:31&total_amount=1",
        ] {
            let draft = Draft::payment().set("body", "b").set("passback_params", "p").set(name, text);
            assert_eq!(said_of(draft), PAID, "{name}={text}");
        }
    }
}

#[test]
fn attack_39_an_unknown_field_swallowed_by_what_says_the_kind_is_held_and_not_announced_as_another_kind() {
    for (swallower, unknown) in
        [("trade_status", "trade_type"), ("notify_type", "open_id"), ("trans_currency", "trans_kind")]
    {
        let genuine = Draft::payment().set("trans_currency", "CNY").set(unknown, "x1").signed();
        assert_eq!(said(&genuine.body()), PAID, "{unknown}");
        let value = [genuine.get(swallower).unwrap(), b"&", unknown.as_bytes(), b"=x1"].concat();
        let moved = genuine.clone().without(unknown).set(swallower, value);
        assert_eq!(moved.content(Version::V1), genuine.content(Version::V1), "the same bytes are signed");
        assert_eq!(said(&moved.body()), Said::Held(Objection::Grammar(swallower)));
    }
}

#[test]
fn attack_39_the_time_of_a_message_is_not_hidden_in_the_text_before_it() {
    let message = Draft::of([
        ("app_id", APP),
        ("biz_content", "{}"),
        ("charset", "utf-8"),
        ("msg_method", "alipay.x.changed"),
        ("notify_id", "n1"),
        ("sign_type", "RSA2"),
        ("title", "t"),
        ("utc_timestamp", "1732500000000"),
        ("version", "1.1"),
    ])
    .signed();
    assert!(event(&message.body(), &policy(), now()).stale);
    let moved = message.clone().without("utc_timestamp").set("title", "t&utc_timestamp=1732500000000");
    assert_eq!(moved.content(Version::V1), message.content(Version::V1), "the same bytes are signed");
    assert_eq!(said(&moved.body()), Said::Held(Objection::Ambiguous("utc_timestamp")));
}

#[test]
fn attack_39_a_text_that_names_a_field_which_is_missing_is_held_and_any_other_passes() {
    for name in ["subject", "body", "passback_params"] {
        for ambiguous in ["x&refund_fee=1.00", "&gmt_refund=2026-11-23 11:00:00", "a&b&out_biz_no=1"] {
            let said = said_of(Draft::payment().set(name, ambiguous));
            assert!(matches!(said, Said::Held(Objection::Ambiguous(_))), "{name}={ambiguous}: {said:?}");
        }
        for merchants in
            ["a=1&b=2", "x&trade_no=1", "refund_fee=1.00", "a&refund_fee", "%26refund_fee=1", "&"]
        {
            assert_eq!(said_of(Draft::payment().set(name, merchants)), PAID, "{name}={merchants}");
        }
    }
}

/// The same signed bytes: what stands between `swallower` and the text is hidden in its value, what the text holds are fields of
/// their own, and the last of them, which the text names and leaves empty, hides the genuine fields of those names.
fn resplit(draft: &Draft, swallower: &str, last: Option<(&str, &[&str])>) -> (Draft, Draft) {
    let names = signed_names(draft);
    let of = |name: &str| names.iter().position(|other| other == name).unwrap();
    let between = names[of(swallower) + 1..of("subject")].to_vec();
    let eaten = last.map_or(&[][..], |(_, eaten)| eaten);
    let fake = |name: &str| match name {
        "total_amount" => "9999.00".to_owned(),
        "trade_no" => "2026112322001427340000000099".to_owned(),
        "trade_status" => "TRADE_SUCCESS".to_owned(),
        "seller_id" => SELLER.to_owned(),
        "notify_id" | "out_trade_no" | "out_biz_no" | "subject" => "ANOTHER".to_owned(),
        "refund_fee" => "5.00".to_owned(),
        _ => String::from_utf8(draft.get(name).unwrap().to_vec()).unwrap(),
    };
    let mut fakes: Vec<&str> = between.iter().map(String::as_str).collect();
    if last.is_none() {
        fakes.push("subject");
    }
    fakes.extend(eaten);
    let mut text = "x".to_owned();
    for name in &fakes {
        text = format!("{text}&{name}={}", fake(name));
    }
    if let Some((name, _)) = last {
        text = format!("{text}&{name}=");
    }
    let genuine = draft.clone().set("subject", &text);
    let hidden = |names: &mut dyn Iterator<Item = &str>| {
        let pair = |name: &str| [b"&", name.as_bytes(), b"=", draft.get(name).unwrap()].concat();
        names.flat_map(pair).collect::<Vec<u8>>()
    };
    let value =
        [draft.get(swallower).unwrap(), &hidden(&mut between.iter().map(String::as_str)), b"&subject=x"];
    let mut moved = draft.clone().without("subject").set(swallower, value.concat());
    for name in &fakes {
        moved = moved.set(name, fake(name));
    }
    if let Some((name, eaten)) = last {
        moved = moved.set(name, hidden(&mut eaten.iter().copied()));
    }
    (genuine, moved)
}

/// A trade that nobody has paid.
fn unpaid(status: &str) -> Draft {
    let of_a_payment = [
        "gmt_payment",
        "receipt_amount",
        "fund_bill_list",
        "invoice_amount",
        "buyer_pay_amount",
        "point_amount",
    ];
    let unpaid = of_a_payment.iter().fold(Draft::payment(), |draft, name| draft.without(name));
    unpaid.set("trade_status", status)
}

#[test]
fn attack_39_fields_that_were_hidden_in_any_value_and_others_put_in_their_place_are_held() {
    let app = app(APP, alipay(), SignType::Rsa2);
    let passes = |draft: &Draft| accept(&Form::parse(&draft.body()).unwrap(), &app, Waived::Nothing).is_ok();
    let paid = Draft::payment();
    let mut tried = 0;
    for kind in [paid, unpaid("WAIT_BUYER_PAY"), unpaid("TRADE_CLOSED"), Draft::refund()] {
        for more in [
            &[][..],
            &["body"],
            &["passback_params"],
            &["body", "passback_params"],
            &["biz_type", "open_extra"],
        ] {
            let draft = more.iter().fold(kind.clone(), |draft, name| draft.set(name, "b"));
            assert!(passes(&draft), "{more:?}");
            let names = signed_names(&draft);
            for swallower in names.iter().take_while(|name| *name != "subject") {
                for last in [
                    None,
                    Some(("total_amountz", &["total_amount"][..])),
                    Some(("trade_statusz", &["total_amount", "trade_no", "trade_status"])),
                ] {
                    let (genuine, moved) = resplit(&draft, swallower, last);
                    assert_eq!(
                        moved.content(Version::V1),
                        genuine.content(Version::V1),
                        "the same bytes are signed"
                    );
                    assert!(!passes(&moved), "{swallower}, {last:?}: {}", genuine.body().escape_ascii());
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 800, "{tried}");
}

#[test]
fn attack_39_what_is_no_trade_is_not_made_one() {
    let fakes = "notify_id=1&notify_time=2026-11-23 10:15:32&notify_type=trade_status_sync&out_trade_no=B&\
                 seller_id=2088101117955611&total_amount=9999&trade_no=2026112322001427340000000099&\
                 trade_status=TRADE_SUCCESS&trade_statusz=";
    let agreement = Draft::of([
        ("agreement_no", "20265623000000000001"),
        ("app_id", APP),
        ("external_logon_id", &format!("x&{fakes}")),
        ("invalid_time", "2115-02-01 00:00:00"),
        ("notify_id", "n1"),
        ("notify_time", "2026-11-23 10:15:32"),
        ("notify_type", "dut_user_sign"),
        ("sign_type", "RSA2"),
        ("status", "NORMAL"),
    ])
    .signed();
    let mut moved = agreement.clone().set("external_logon_id", "x");
    let mut eaten = String::new();
    for name in ["invalid_time", "notify_id", "notify_time", "notify_type", "status"] {
        eaten =
            format!("{eaten}&{name}={}", String::from_utf8(agreement.get(name).unwrap().to_vec()).unwrap());
        moved = moved.without(name);
    }
    for fake in fakes.split('&').filter_map(|fake| fake.split_once('=')) {
        moved = moved.set(fake.0, fake.1);
    }
    let moved = moved.set("trade_statusz", eaten);
    assert_eq!(moved.content(Version::V1), agreement.content(Version::V1), "the same bytes are signed");
    assert!(matches!(said(&moved.body()), Said::Held(Objection::Ambiguous(_))), "{:?}", said(&moved.body()));
}

#[test]
fn attack_39_a_message_is_not_made_a_trade_whoever_its_method_is_of() {
    // Nothing that the message has is missing.
    let fakes = "msg_method=y&notify_id=1&notify_time=2026-11-23 10:15:32&notify_type=trade_status_sync&out_trade_no=B&\
                 seller_id=2088101117955611&total_amount=9999&trade_no=2026112322001427340000000099&\
                 trade_status=TRADE_SUCCESS";
    for method in ["alipay.merchant.changed", "ant.merchant.expand.shop.save.rejected", "zhima.credit.x"] {
        let message = Draft::of([
            ("app_id", APP),
            ("kind", "1"),
            ("msg_method", method),
            ("notify_id", "n1"),
            ("reason", &format!("x&{fakes}")),
            ("sign_type", "RSA2"),
            ("utc_timestamp", "1732500000000"),
        ]);
        let hidden = format!("1&msg_method={method}&notify_id=n1&reason=x");
        let moved = message.clone().without("reason").set("kind", hidden);
        let fakes = fakes.split('&').filter_map(|fake| fake.split_once('='));
        let moved = fakes.fold(moved, |moved, (name, value)| moved.set(name, value));
        assert_eq!(moved.content(Version::V1), message.content(Version::V1), "the same bytes are signed");
        let app = app(APP, alipay(), SignType::Rsa2);
        let accepted = accept(&Form::parse(&moved.body()).unwrap(), &app, Waived::Nothing).map(|_| ());
        assert_eq!(accepted, Err(Objection::Ambiguous("msg_method")), "{method}");
    }
}

#[test]
fn attack_39_a_seller_is_not_put_in_the_place_of_another() {
    let theirs = "2088999999999999";
    let genuine =
        Draft::payment().set("seller_id", theirs).set("subject", format!("x&seller_id={SELLER}&subject=y"));
    let genuine = genuine.set("seller_email", "s@example.com").signed();
    assert_eq!(said(&genuine.body()), Said::Held(Objection::Seller));
    let email = format!("s@example.com&seller_id={theirs}&subject=x");
    let moved = genuine.clone().set("seller_email", email).set("seller_id", SELLER).set("subject", "y");
    assert_eq!(moved.content(Version::V1), genuine.content(Version::V1), "the same bytes are signed");
    assert_eq!(said(&moved.body()), Said::Held(Objection::Ambiguous("seller_id")));
}

#[test]
fn attack_39_nothing_hides_in_the_number_of_a_certificate() {
    let number = "d41d8cd98f00b204e9800998ecf8427e";
    let refund = Draft::refund().set("alipay_cert_sn", number).signed();
    assert_eq!(said(&refund.body()), Said::Event("payment.refunded"));
    for last in [None, Some(("trade_statusz", &["total_amount", "trade_no", "trade_status"][..]))] {
        let (genuine, moved) = resplit(&refund, "alipay_cert_sn", last);
        let genuine = genuine.signed();
        assert_eq!(
            moved.content(Version::V1),
            genuine.content(Version::V1),
            "the same bytes would be signed"
        );
        let moved = moved.set("sign", genuine.get("sign").unwrap());
        assert_eq!(said(&moved.body()), FORGED, "{last:?}");
    }
    // An unsigned one changes nothing.
    assert_eq!(
        said(&[&Draft::payment().signed().body()[..], b"&alipay_cert_sn=1%26app_id%3D2"].concat()),
        PAID
    );
}

#[test]
fn attack_39_a_trade_that_was_never_paid_is_not_made_a_refund_by_splitting_a_text() {
    let closed = unpaid("TRADE_CLOSED");
    let genuine = closed.clone().set("passback_params", "x&refund_fee=5.00").signed();
    let split = genuine.clone().set("passback_params", "x").set("refund_fee", "5.00");
    assert_eq!(split.content(Version::V1), genuine.content(Version::V1), "the same bytes are signed");
    for body in [genuine.body(), split.body()] {
        assert_eq!(said(&body), Said::Held(Objection::Ambiguous("refund_fee")));
    }
    // Other fields that were split off, too, may lie between.
    let two =
        closed.clone().set("passback_params", "x").set("point_amount", "0.00").set("refund_fee", "88.88");
    assert_eq!(said_of(two), Said::Held(Objection::Ambiguous("refund_fee")));
    // What was paid may be refunded, and so may what says when.
    for (name, value) in [("gmt_payment", "2026-11-23 10:15:31"), ("gmt_refund", "2026-11-23 11:00:00.000")] {
        let refund = closed.clone().set("passback_params", "x").set("refund_fee", "5.00").set(name, value);
        assert_eq!(said_of(refund), Said::Event("payment.refunded"), "{name}");
    }
}

#[test]
fn attack_39_what_the_merchant_gave_along_is_not_exchanged() {
    let draft = Draft::payment().set("passback_params", "user%3D5");
    let names = signed_names(&draft);
    let behind = names.iter().filter(|name| ("body".."passback_paramsz").contains(&name.as_str()));
    // In the text everything is as in the notification, but for what was given along.
    let (mut text, mut hidden) = ("x".to_owned(), String::new());
    for name in behind {
        let value = String::from_utf8(draft.get(name).unwrap().to_vec()).unwrap();
        hidden = format!("{hidden}&{name}={value}");
        text = format!("{text}&{name}={}", if name == "passback_params" { "user%3D6" } else { &value });
    }
    let genuine = draft.clone().set("body", format!("{text}&passback_paramsz="));
    let moved = draft.set("body", "x").set("passback_params", "user%3D6").set("passback_paramsz", hidden);
    assert_eq!(moved.content(Version::V1), genuine.content(Version::V1), "the same bytes are signed");
    let app = app(APP, alipay(), SignType::Rsa2);
    let accepted = accept(&Form::parse(&moved.body()).unwrap(), &app, Waived::Nothing).map(|_| ());
    assert_eq!(accepted, Err(Objection::Ambiguous("passback_params")));
}
