//! Attacks and damage, by their numbers in the list that the design was tried against: 1 to 46, 52 and 53, as far as
//! admission decides them (12 is in `tests/it/engines.rs`; 20, 21 and 36, about the query, which admission is never given,
//! and all of them over HTTP, where nothing may be published or recorded, in `tests/it/attacks.rs`).

use alipay_notify_gateway::admission::acceptance::Objection;
use alipay_notify_gateway::admission::form::{Form, FormError};
use alipay_notify_gateway::admission::key_ring::{KeyFault, PublicKey};
use alipay_notify_gateway::admission::policy::SignType;
use alipay_notify_gateway::admission::{Cost, Rejection, Verdict, admit};
use rand::{RngExt as _, SeedableRng as _};
use rsa::pkcs8::{EncodePrivateKey as _, EncodePublicKey as _, LineEnding};
use rsa::signature::{RandomizedSigner as _, SignatureEncoding as _};
use rsa::traits::PublicKeyParts as _;
use rsa::{BoxedUint, PublicKey as RsaPublicKey};

use super::super::key_ring::VERIFICATIONS;
use super::support::certificate::certificate;
use super::support::judge::{DAY, Said, app, event, json, judge, now, policy, policy_of};
use super::support::signer::{
    self, APP, Draft, Hash, OTHER_APP, SELLER, TRADE, Version, alipay, shared, signature, stranger,
};

use super::{event_of, said, said_of};

const PAID: Said = Said::Event("payment.succeeded");
const FORGED: Said = Said::Refused(Rejection::Signature);
const NO_SIGNATURE: Said = Said::Refused(Rejection::NoSignature);
const NOT_A_SIGNATURE: Said = Said::Refused(Rejection::SignatureForm);
const DOUBLED: Said = Said::Refused(Rejection::Malformed(FormError::Doubled));

/// The bytes of a body with something behind it.
fn appended(body: &[u8], more: &str) -> Vec<u8> {
    [body, more.as_bytes()].concat()
}

fn with_signature(signature: &[u8]) -> Said {
    said(&Draft::payment().with_signature(signature).body())
}

// Signature.

#[test]
fn attack_1_and_2_no_signature_and_an_empty_one_are_refused() {
    assert_eq!(said(&Draft::payment().body()), NO_SIGNATURE);
    assert_eq!(said(&Draft::payment().set("sign", "").body()), NO_SIGNATURE);
}

#[test]
fn attack_3_what_is_not_plain_base64_is_refused() {
    let genuine = Draft::payment().signed();
    let sign = String::from_utf8(genuine.get("sign").unwrap().to_vec()).unwrap();
    let url_safe = sign.replace('+', "-").replace('/', "_");
    let mut middle = sign.clone();
    middle.insert(100, '\n');
    for bad in [
        "not base64!".to_owned(),
        // A signature of 256 random bytes has no `+` and no `/` once in about 45,000 runs.
        if url_safe == sign { "-_".to_owned() } else { url_safe },
        middle,
        format!(" {sign}"),
        format!("{sign} "),
        format!("{sign}\n"),
        format!("{sign}="),
        format!("{sign}AAAA"),
        sign.trim_end_matches('=').to_owned(),
        format!("{sign}\0"),
    ] {
        assert_eq!(said(&genuine.clone().set("sign", &bad).body()), NOT_A_SIGNATURE, "{bad:?}");
    }
    assert_eq!(said(&genuine.body()), PAID);
}

#[test]
fn attack_4_a_signature_of_another_length_is_refused() {
    let genuine = Draft::payment().signed().signature();
    for length in [0, 1, 128, 255, 257, 512] {
        let mut signature = genuine.clone();
        signature.resize(length, 0);
        let expected = if length == 0 { NO_SIGNATURE } else { NOT_A_SIGNATURE };
        assert_eq!(with_signature(&signature), expected, "{length}");
    }
    // The same number, written longer.
    assert_eq!(with_signature(&[&[0][..], &genuine].concat()), NOT_A_SIGNATURE);
}

#[test]
fn attack_5_and_6_values_past_the_modulus_and_the_trivial_ones_are_refused() {
    let modulus = alipay().to_public_key().n().to_be_bytes().to_vec();
    let mut below = modulus.clone();
    *below.last_mut().unwrap() -= 1;
    let mut one = vec![0; 256];
    one[255] = 1;
    for value in [vec![0xff; 256], modulus, below, vec![0; 256], one] {
        assert_eq!(value.len(), 256);
        assert_eq!(with_signature(&value), FORGED);
    }
    // A genuine one with the modulus added, where that still fits.
    let genuine = BoxedUint::from_be_slice(&Draft::payment().signed().signature(), 2048).unwrap();
    let more = genuine.wrapping_add(alipay().to_public_key().n().as_ref());
    if more > genuine {
        assert_eq!(with_signature(&more.to_be_bytes()), FORGED);
    }
}

#[test]
fn attack_7_a_signature_with_any_byte_flipped_is_refused() {
    let genuine = Draft::payment().signed().signature();
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    for at in 0..genuine.len() {
        let mut signature = genuine.clone();
        signature[at] ^= 1 << random.random_range(0..8);
        assert_eq!(with_signature(&signature), FORGED, "byte {at}");
    }
}

#[test]
fn attack_8_a_flipped_bit_of_the_body_means_the_same_or_is_refused() {
    let body = Draft::payment().signed().body();
    let genuine = Form::parse(&body).unwrap();
    let policy = policy();
    let mut refused = 0;
    for at in 0..body.len() {
        let mut flipped = body.clone();
        flipped[at] ^= 1 << (at % 8);
        match judge(&flipped, &policy, now()) {
            Said::Refused(_) => refused += 1,
            // `%2b` is `%2B`: the same form, letter for letter.
            admitted @ (Said::Event(_) | Said::Held(_)) => {
                assert_eq!(Form::parse(&flipped).as_ref(), Ok(&genuine), "byte {at}");
                assert_eq!(admitted, PAID);
            }
        }
    }
    assert!(refused * 10 > body.len() * 9, "{refused} of {}", body.len());
}

#[test]
fn attack_9_a_valid_signature_of_another_message_is_refused() {
    let other = Draft::payment().set("total_amount", "0.01").signed().signature();
    assert_eq!(with_signature(&other), FORGED);
}

#[test]
fn attack_10_a_signature_of_another_key_is_refused() {
    let forged = Draft::payment().signed_by(stranger(), Hash::Sha256, Version::V1);
    assert_eq!(said(&forged.body()), FORGED);
}

#[test]
fn attack_11_a_key_with_a_small_exponent_is_refused_in_configuration() {
    let modulus = alipay().to_public_key().n().as_ref().clone();
    for exponent in [3_u64, 17, 257] {
        let key = RsaPublicKey::new(modulus.clone(), BoxedUint::from(exponent)).unwrap();
        let pem = key.to_public_key_pem(LineEnding::LF).unwrap();
        let read = PublicKey::read(pem.as_bytes(), APP, SignType::Rsa2);
        assert_eq!(read.unwrap_err(), KeyFault::Exponent, "{exponent}");
    }
}

#[test]
fn attack_13_a_pss_signature_is_refused() {
    let content = Draft::payment().content(Version::V1);
    let pss = rsa::pss::SigningKey::<sha2::Sha256>::new(alipay().clone());
    let signature = pss.sign_with_rng(&mut rand::rng(), &content).to_vec();
    assert_eq!(with_signature(&signature), FORGED);
}

#[test]
fn attack_14_and_15_another_hash_under_rsa2_is_refused() {
    let content = Draft::payment().content(Version::V1);
    for hash in [Hash::Sha1, Hash::Sha512] {
        assert_eq!(with_signature(&signature(alipay(), hash, &content)), FORGED, "{hash:?}");
    }
    assert_eq!(with_signature(&signature(alipay(), Hash::Sha256, &content)), PAID);
}

#[test]
fn attack_16_a_key_of_1024_bits_under_rsa2_is_refused_in_configuration() {
    let read = PublicKey::read(signer::pem(shared()).as_bytes(), APP, SignType::Rsa2);
    assert!(matches!(read, Err(KeyFault::Size { bits: 1024, sign_type: "RSA2", .. })));
    // Nor does a signature of that length get anywhere.
    let signed = Draft::payment().signed_by(shared(), Hash::Sha256, Version::V1);
    assert_eq!(said(&signed.body()), NOT_A_SIGNATURE);
}

#[test]
fn attack_17_private_keys_the_apps_own_certificate_and_garbage_are_refused_by_name() {
    let read = |content: &[u8]| PublicKey::read(content, APP, SignType::Rsa2).map(|_| ());
    let private = alipay().to_pkcs8_pem(LineEnding::LF).unwrap();
    assert_eq!(read(private.as_bytes()), Err(KeyFault::Private));
    let own = "2088101117955611-2021000000000001";
    let certificate_of =
        |subject: &str| certificate(alipay(), subject, "Ant Financial Certification Authority");
    assert_eq!(read(&certificate_of(own)), Err(KeyFault::OwnCertificate(own.to_owned())));
    let root = "Ant Financial Certification Authority R1 Root";
    let root_certificate = certificate(alipay(), root, root);
    assert_eq!(read(&root_certificate), Err(KeyFault::Authority(root.to_owned())));
    for garbage in
        [&b"garbage"[..], b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", b"", b"\0"]
    {
        assert_eq!(read(garbage), Err(KeyFault::Unreadable));
    }
    // Alipay's own leaf gives the same key as the bare one.
    let leaf = certificate_of("支付宝(中国)网络技术有限公司-2088101117955611");
    let (key, remarks) = PublicKey::read(&leaf, APP, SignType::Rsa2).unwrap();
    assert!(key.is_same_key(&app(APP, alipay(), SignType::Rsa2).keys[0]));
    assert_eq!(remarks, []);
    assert!(key.expires_at().is_some());
    let (_, remarks) = PublicKey::read(&certificate_of("somebody"), APP, SignType::Rsa2).unwrap();
    assert_eq!(remarks.len(), 1);
}

// Downgrade and stripping.

#[test]
fn attack_18_a_valid_sha1_signature_of_the_shared_key_is_refused() {
    let forged = Draft::payment().set("sign_type", "RSA").signed_by(shared(), Hash::Sha1, Version::V1);
    assert_eq!(said(&forged.body()), Said::Refused(Rejection::SignType));
    // sign_type is not signed under V1: saying RSA2 over it changes nothing.
    assert_eq!(said(&forged.set("sign_type", "RSA2").body()), NOT_A_SIGNATURE);
    let with_the_apps_key = Draft::payment().signed_by(alipay(), Hash::Sha1, Version::V1);
    assert_eq!(said(&with_the_apps_key.clone().body()), FORGED);
    assert_eq!(said(&with_the_apps_key.set("sign_type", "RSA").body()), Said::Refused(Rejection::SignType));
}

#[test]
fn attack_19_any_other_sign_type_is_refused() {
    let genuine = Draft::payment().signed();
    for other in ["MD5", "HMAC", "none", "", "rsa2", "RSA2 ", "RSA2\0", "SM2", "RSA256"] {
        let body = genuine.clone().set("sign_type", other).body();
        assert_eq!(said(&body), Said::Refused(Rejection::SignType), "{other:?}");
    }
    assert_eq!(said(&genuine.clone().without("sign_type").body()), Said::Refused(Rejection::SignType));
    for doubled in ["&sign_type=RSA2", "&sign_type=RSA", "&%73ign_type=RSA2"] {
        assert_eq!(said(&appended(&genuine.body(), doubled)), DOUBLED, "{doubled}");
    }
}

#[test]
fn attack_22_a_certificate_number_changes_nothing() {
    let number = "9d5ab0e8b7ef1c0f4b9f4a6a2f1a3b7c";
    // Signed with it, as some SDKs have it; or put there by anyone.
    assert_eq!(said_of(Draft::payment().set("alipay_cert_sn", number)), PAID);
    let genuine = Draft::payment().signed().body();
    assert_eq!(said(&appended(&genuine, &format!("&alipay_cert_sn={number}"))), PAID);
    let forged =
        Draft::payment().set("alipay_cert_sn", number).signed_by(stranger(), Hash::Sha256, Version::V1);
    assert_eq!(said(&forged.body()), FORGED);
}

// Parser differences.

#[test]
fn attack_23_a_doubled_total_amount_is_refused() {
    let genuine = Draft::payment().signed().body();
    for amount in ["88.88", "9999.00", ""] {
        let more = format!("total_amount={amount}");
        assert_eq!(said(&appended(&genuine, &format!("&{more}"))), DOUBLED, "{amount}");
        assert_eq!(
            said(&appended(format!("{more}&").as_bytes(), std::str::from_utf8(&genuine).unwrap())),
            DOUBLED
        );
    }
}

#[test]
fn attack_24_a_doubled_sign_is_refused() {
    let genuine = Draft::payment().signed();
    let sign = signer::encode(genuine.get("sign").unwrap());
    let again = format!("&sign={}", String::from_utf8(sign).unwrap());
    for more in [again.as_str(), "&sign=QUJD", "&sign="] {
        assert_eq!(said(&appended(&genuine.body(), more)), DOUBLED, "{more}");
    }
}

#[test]
fn attack_25_a_name_percent_encoded_beside_the_plain_one_is_refused() {
    let genuine = Draft::payment().signed().body();
    for more in ["&%74otal_amount=9999.00", "&total%5Famount=9999.00", "&%74%6f%74%61%6c_amount=9999.00"] {
        assert_eq!(said(&appended(&genuine, more)), DOUBLED, "{more}");
    }
}

#[test]
fn attack_26_brackets_behind_a_name_are_another_name() {
    let genuine = Draft::payment().signed().body();
    for more in ["&total_amount[]=9999.00", "&total_amount[0]=9999.00", "&total_amount%5B%5D=9999.00"] {
        assert_eq!(said(&appended(&genuine, more)), FORGED, "{more}");
    }
}

#[test]
fn attack_27_a_semicolon_separates_nothing() {
    let genuine = Draft::payment().signed();
    assert_eq!(said(&appended(&genuine.body(), ";total_amount=9999.00")), NOT_A_SIGNATURE);
    let tail = Draft(genuine.0.iter().rev().cloned().collect()).body();
    assert_eq!(said(&appended(&tail, ";total_amount=9999.00")), FORGED);
    assert_eq!(said_of(Draft::payment().set("subject", "a;total_amount=9999.00")), PAID);
}

#[test]
fn attack_28_plus_percent_20_and_a_raw_space_are_one_space() {
    let genuine = Draft::payment().set("subject", " a  b + c ").signed();
    for body in
        [genuine.body(), genuine.body_with(signer::encode_percent), genuine.body_with(signer::encode_least)]
    {
        let event = event(&body, &policy(), now());
        assert_eq!(json(&event)["subject"], " a  b + c ");
    }
}

#[test]
fn attack_29_a_broken_escape_is_refused() {
    let genuine = Draft::payment().signed().body();
    for more in ["&x=%", "&x=%zz", "&x=%0", "&x=%0g", "&%=1", "&x=%%30"] {
        let broken = Said::Refused(Rejection::Malformed(FormError::BadEscape));
        assert_eq!(said(&appended(&genuine, more)), broken, "{more}");
    }
}

#[test]
fn attack_30_and_31_odd_bytes_pass_in_free_text_and_are_held_in_a_field_that_decides() {
    let odd: [(&[u8], bool); 8] = [
        (b"a\0b", false),
        (b"a\r\nb", false),
        ("a\u{2028}b".as_bytes(), false),
        (b"a\x1b[2Jb", false),
        // Overlong, cut short, a surrogate, and no UTF-8 at all.
        (b"\xc0\xaf", true),
        (b"\xe6\xb5", true),
        (b"\xed\xa0\x80", true),
        (b"\xff\xfe", true),
    ];
    for (value, lossy) in odd {
        for name in ["subject", "body", "passback_params"] {
            let event = event_of(Draft::payment().set(name, value));
            assert_eq!(event.event_type.as_str(), "payment.succeeded");
            assert_eq!(json(&event).get("decoding_lossy").is_some(), lossy, "{name} {value:?}");
        }
        for name in ["out_trade_no", "out_biz_no", "notify_id", "total_amount"] {
            let said = said_of(Draft::payment().set(name, value));
            assert_eq!(said, Said::Held(Objection::Grammar(name)), "{value:?}");
        }
    }
}

#[test]
fn attack_22_what_nobody_signed_changes_no_text_and_no_name_of_the_event() {
    // Without a charset all values say which it is.
    let genuine = Draft::payment().without("charset").set("out_trade_no", "订单").signed().body();
    for more in ["&alipay_cert_sn=%FF", "&%FF=&%FE="] {
        let event = event(&appended(&genuine, more), &policy(), now());
        assert_eq!(json(&event)["out_trade_no"], "订单", "{more}");
        // Not as a parsed object, which would have forgotten the first of two.
        assert!(!event.facts.contains("\u{fffd}") || more.contains("cert_sn"), "{}", event.facts);
    }
}

#[test]
fn attack_32_a_lead_byte_does_not_swallow_the_separator_behind_it() {
    // Written out, `&` behind a lead byte of GBK separates: whatever a GBK-aware parser thinks.
    let draft = Draft::payment().set("charset", "GBK").set("subject", b"\xb2").signed();
    let last = Draft(draft.0.iter().filter(|(name, _)| name != b"subject").cloned().collect());
    let body = [&b"subject=\xb2&"[..], &last.body()].concat();
    assert_eq!(said(&body), PAID);
    // Encoded, it is a byte of the text.
    for value in [&b"\xb2&x"[..], b"\xb2=x", b"\xb2&"] {
        let event = event_of(Draft::payment().set("charset", "GBK").set("subject", value));
        assert_eq!(json(&event)["decoding_lossy"], true);
    }
}

#[test]
fn attack_33_a_byte_order_mark_and_an_unknown_charset_are_text_like_any_other() {
    let event = event_of(Draft::payment().set("subject", "\u{feff}a"));
    assert_eq!(json(&event)["subject"], "\u{feff}a");
    assert_eq!(said_of(Draft::payment().set("charset", "x-klingon")), PAID);
    assert_eq!(said_of(Draft::payment().set("charset", "UTF-16")), PAID);
    assert_eq!(
        said_of(Draft::payment().set("out_trade_no", "\u{feff}R1")),
        Said::Held(Objection::Grammar("out_trade_no"))
    );
    // In front of the body it makes another name of the first.
    let body = Draft(
        vec![(b"app_id".to_vec(), APP.into())]
            .into_iter()
            .chain(Draft::payment().without("app_id").0)
            .collect(),
    )
    .signed()
    .body();
    assert_eq!(said(&body), PAID);
    let marked = [&b"\xef\xbb\xbf"[..], &body].concat();
    assert_eq!(said(&marked), Said::Refused(Rejection::Partner));
}

#[test]
fn attack_34_nameless_parameters_are_refused_and_unsigned_empty_ones_change_nothing() {
    let genuine = Draft::payment().signed().body();
    for more in ["&=1", "&x", "&", "&&", "&=", "&%20", "&gmt_refund"] {
        let nameless = Said::Refused(Rejection::Malformed(FormError::Nameless));
        assert_eq!(said(&appended(&genuine, more)), nameless, "{more}");
    }
    let plain = event(&genuine, &policy(), now());
    for more in
        ["&gmt_refund=", "&refund_fee=", "&out_biz_no=", "&gmt_refund=&refund_fee=&out_biz_no=", "&x="]
    {
        let with = event(&appended(&genuine, more), &policy(), now());
        assert_eq!((with.event_type, with.key(), with.digest), (plain.event_type, plain.key(), plain.digest));
    }
    // Nor can a refund be made a payment by them.
    let refund = Draft::refund().signed().body();
    assert_eq!(said(&appended(&refund, "&gmt_refund=")), DOUBLED);
}

#[test]
fn attack_35_an_unsigned_extra_field_is_refused() {
    let genuine = Draft::payment().signed().body();
    for more in ["&x=1", "&gmt_refund=2026-11-23+11%3A00%3A00", "&refund_fee=1.00", "&s=/index/notify"] {
        assert_eq!(said(&appended(&genuine, more)), FORGED, "{more}");
    }
    for name in ["gmt_payment", "buyer_id", "subject", "version"] {
        assert_eq!(said(&Draft::payment().signed().without(name).body()), FORGED, "{name}");
    }
}

#[test]
fn attack_37_what_is_no_form_is_refused() {
    let json = br#"{"app_id":"2021000000000001","trade_status":"TRADE_SUCCESS"}"#;
    let multipart =
        b"--x\r\nContent-Disposition: form-data; name=\"app_id\"\r\n\r\n2021000000000001\r\n--x--\r\n";
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x4b\x04\0\x43\xbe\xb7\xe8\x01\0\0\0";
    for body in [&json[..], multipart, gzip] {
        assert!(matches!(said(body), Said::Refused(_)), "{body:?}");
    }
}

#[test]
fn attack_38_ten_thousand_parameters_are_refused_and_a_long_value_is_judged() {
    let genuine = Draft::payment().signed().body();
    let many: String = (0..10_000).map(|n| format!("&p{n}=1")).collect();
    assert_eq!(said(&appended(&genuine, &many)), Said::Refused(Rejection::Malformed(FormError::TooMany)));
    let long = "x".repeat(1 << 20);
    assert_eq!(said_of(Draft::payment().set("body", &long)), PAID);
    assert_eq!(said(&appended(&genuine, &format!("&y={long}"))), FORGED);
}

#[test]
fn attack_40_any_order_of_the_parameters_passes() {
    let mut random = rand::rngs::StdRng::seed_from_u64(40);
    let signed = Draft::payment().signed();
    for _ in 0..50 {
        assert_eq!(said(&signed.clone().shuffled(&mut random).body()), PAID);
    }
}

// Confusion.

#[test]
fn attack_41_the_notification_of_one_app_is_not_anothers() {
    let two = policy_of([app(APP, alipay(), SignType::Rsa2), app(OTHER_APP, stranger(), SignType::Rsa2)]);
    let crossed = Draft::payment().set("app_id", OTHER_APP).signed_by(alipay(), Hash::Sha256, Version::V1);
    assert_eq!(judge(&crossed.body(), &two, now()), FORGED);
    let right = Draft::payment().set("app_id", OTHER_APP).signed_by(stranger(), Hash::Sha256, Version::V1);
    assert_eq!(judge(&right.body(), &two, now()), PAID);
    // The key is app_id's, whatever auth_app_id says.
    let third_party = Draft::payment().set("auth_app_id", OTHER_APP).signed();
    assert_eq!(judge(&third_party.body(), &two, now()), PAID);
}

#[test]
fn attack_42_an_unknown_app_is_refused() {
    for app_id in ["2021000000000009", "2021000000000001 ", "%", "\0", "2021000000000001\n"] {
        let said = said_of(Draft::payment().set("app_id", app_id));
        assert_eq!(said, Said::Refused(Rejection::UnknownApp), "{app_id:?}");
    }
}

#[test]
fn attack_42_an_unknown_app_costs_the_verifications_of_a_forged_signature() {
    let key = app(APP, alipay(), SignType::Rsa2).keys.remove(0);
    let mut three = app(APP, alipay(), SignType::Rsa2);
    three.keys = vec![key; 3];
    let policy = policy_of(vec![three]);
    let forged = Draft::payment().signed_by(stranger(), Hash::Sha256, Version::V1).body();
    let unknown = Draft::payment().set("app_id", "2021000000000009");
    let unknown = unknown.signed_by(stranger(), Hash::Sha256, Version::V1).body();
    let cost = |body: &[u8], expected: Said| {
        VERIFICATIONS.set(0);
        assert_eq!(judge(body, &policy, now()), expected);
        VERIFICATIONS.get()
    };
    let of_forged = cost(&forged, FORGED);
    assert!(of_forged >= 3, "{of_forged}");
    assert_eq!(cost(&unknown, Said::Refused(Rejection::UnknownApp)), of_forged);
}

#[test]
fn attack_42_nothing_takes_less_time_because_apps_have_different_algorithms() {
    let first = app("1021000000000000", alipay(), SignType::Rsa);
    let policy = policy_of(vec![first, app(APP, alipay(), SignType::Rsa2)]);
    let forged = Draft::payment().signed_by(stranger(), Hash::Sha256, Version::V1).body();
    let cost = |app_id: &str, expected: Rejection| {
        let draft = Draft::payment().set("app_id", app_id);
        let body = draft.signed_by(stranger(), Hash::Sha256, Version::V1).body();
        VERIFICATIONS.set(0);
        assert_eq!(judge(&body, &policy, now()), Said::Refused(expected));
        VERIFICATIONS.get()
    };
    VERIFICATIONS.set(0);
    assert_eq!(judge(&forged, &policy, now()), FORGED);
    let of_forged = VERIFICATIONS.get();
    assert!(of_forged >= 1);
    assert_eq!(cost("2021000000000009", Rejection::UnknownApp), of_forged);
    assert_eq!(cost("1021000000000000", Rejection::SignType), of_forged);
}

#[test]
fn attack_66_only_what_cost_a_verification_is_charged_for_one() {
    let policy = policy_of(vec![app(APP, alipay(), SignType::Rsa2)]);
    let signed = |draft: Draft| draft.signed_by(stranger(), Hash::Sha256, Version::V1);
    let forged = || signed(Draft::payment());
    for (draft, reason) in [
        (forged(), "signature"),
        (signed(Draft::payment().set("app_id", "2021000000000009")), "unknown_app"),
        (forged().set("app_id", "2021000000000009").set("sign", "short"), "unknown_app"),
        (forged().set("app_id", "2021000000000009").set("sign_type", "RSA"), "unknown_app"),
        (forged().set("sign_type", "RSA"), "sign_type"),
        (forged().set("sign", "short"), "signature_form"),
    ] {
        VERIFICATIONS.set(0);
        let Verdict::Rejected(rejection, cost) = admit(&draft.body(), &policy, now()) else {
            panic!("{reason}")
        };
        assert_eq!(rejection.reason(), reason);
        assert_eq!(cost == Cost::Verification, VERIFICATIONS.get() > 0, "{reason}");
    }
}

#[test]
fn attack_43_a_foreign_seller_is_held() {
    for seller in ["2088000000000000", "2088101117955611 ", "20881011179556110"] {
        assert_eq!(said_of(Draft::payment().set("seller_id", seller)), Said::Held(Objection::Seller));
    }
}

#[test]
fn attack_44_the_sandboxs_key_is_not_productions() {
    let forged = Draft::payment().signed_by(stranger(), Hash::Sha256, Version::V1);
    assert_eq!(said(&forged.body()), FORGED);
}

/// A real V2 callback in shape: everything that makes a payment, signed with a key that all merchants share.
fn trap() -> Draft {
    Draft::of([
        ("seller_id", SELLER),
        ("service", "alipay.eco.something.notify"),
        ("sign_type", "RSA2"),
        ("total_amount", "88.88"),
        ("trade_no", TRADE),
        ("trade_status", "TRADE_SUCCESS"),
    ])
}

#[test]
fn attack_45_the_v2_trap_is_no_payment() {
    let by_v2 = |draft: Draft| said(&draft.signed_by(alipay(), Hash::Sha256, Version::V2).body());
    assert_eq!(by_v2(trap()), Said::Refused(Rejection::NoAppId));
    assert_eq!(by_v2(trap().set("app_id", APP)), FORGED);
    let dressed = trap()
        .set("app_id", APP)
        .set("notify_id", "n-1")
        .set("notify_time", "2026-11-23 10:15:32")
        .set("out_trade_no", "R1-0000000000");
    assert_eq!(by_v2(dressed.clone()), Said::Refused(Rejection::MissingField("notify_type")));
    // In every dress of a trade it would have to be signed under V1.
    assert_eq!(by_v2(dressed.clone().set("notify_type", "trade_status_sync")), FORGED);
    assert_eq!(by_v2(dressed.clone().set("notify_type", "eco_notify")), FORGED);
    assert_eq!(
        by_v2(dressed.set("notify_type", "eco_notify").without("trade_status")),
        Said::Event("notification.other")
    );
}

#[test]
fn attack_46_an_unpaid_trade_and_an_unknown_status_are_no_payment() {
    assert_eq!(said_of(Draft::payment().set("trade_status", "WAIT_BUYER_PAY")), Said::Event("trade.pending"));
    assert_eq!(said_of(Draft::payment().set("trade_status", "TRADE_WON")), Said::Event("notification.other"));
    // A frozen deposit says SUCCESS.
    let frozen = Draft::payment().set("notify_type", "fund_auth_freeze").set("status", "SUCCESS");
    assert_eq!(said_of(frozen), Said::Event("notification.other"));
}

// Replay.

#[test]
fn attack_52_a_delivery_older_than_max_age_is_marked_stale() {
    let body = Draft::payment().signed().body();
    let stale = event(&body, &policy(), now().plus(DAY));
    assert!(stale.stale);
    // It still says what it is, so that publication can find its record.
    assert_eq!(stale.key(), event(&body, &policy(), now()).key());
}

#[test]
fn attack_53_a_notify_time_in_the_future_passes() {
    for time in ["2026-11-23 10:17:00", "2026-12-23 10:15:32", "2099-01-01 00:00:00"] {
        let event = event_of(Draft::payment().set("notify_time", time));
        assert_eq!(event.event_type.as_str(), "payment.succeeded");
        assert!(!event.stale, "{time}");
    }
}
