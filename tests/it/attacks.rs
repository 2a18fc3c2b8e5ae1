//! Attacks and damage over HTTP, by their numbers in the list that the design was tried against. Why admission refuses
//! each is asked in `src/admission/tests/attacks.rs`, without a socket; here the running gateway answers each with
//! `fail`, counts it under its reason, publishes nothing and records nothing. 20, 21 and 36 are about the query, which
//! admission is never given; 47 to 51 are in `replays.rs`, 11, 16 and 17 (keys) in `config.rs` too.

use rand::RngExt as _;

use crate::support::alipay::{Notification, private_key};
use crate::support::program::{Program, post};
use crate::support::queue::Queue;
use crate::support::signer::{Draft, Hash, Version, encode, encode_least, encode_percent, shared, stranger};

/// What is sent, under its number, and why it is refused.
struct Attack {
    number: u32,
    body: Vec<u8>,
    reason: &'static str,
}

fn payment() -> Draft {
    let now = Notification::payment_now(1);
    let draft = ["gmt_create", "gmt_payment", "notify_time", "trade_no"]
        .into_iter()
        .fold(Draft::payment(), |draft, name| draft.set(name, now.text(name)));
    draft.set("subject", "1+1 = 2 ?")
}

fn signed(draft: Draft) -> Draft {
    draft.signed_by(private_key(), Hash::Sha256, Version::V1)
}

fn by(draft: Draft, hash: Hash, version: Version) -> Vec<u8> {
    draft.signed_by(private_key(), hash, version).body()
}

fn genuine() -> Draft {
    signed(payment())
}

fn behind(more: &str) -> Vec<u8> {
    [&genuine().body()[..], more.as_bytes()].concat()
}

fn with_sign(sign: impl AsRef<[u8]>) -> Vec<u8> {
    genuine().set("sign", sign).body()
}

fn with_signature(signature: &[u8]) -> Vec<u8> {
    genuine().with_signature(signature).body()
}

fn sign_text() -> String {
    String::from_utf8(genuine().get("sign").unwrap().to_vec()).unwrap()
}

fn flipped(mut bytes: Vec<u8>) -> Vec<u8> {
    let at = rand::rng().random_range(0..bytes.len());
    bytes[at] ^= 1 << rand::rng().random_range(0..8);
    bytes
}

/// A signature's value past the modulus, or next to it.
fn modulus(less: u8) -> Vec<u8> {
    use rsa::traits::PublicKeyParts as _;
    let mut bytes = private_key().to_public_key().n().as_ref().to_be_bytes().to_vec();
    // Odd, being a product of two primes: one less borrows nothing.
    *bytes.last_mut().unwrap() -= less;
    bytes
}

fn of_signatures() -> Vec<(u32, Vec<u8>, &'static str)> {
    let pss = {
        use rsa::signature::{RandomizedSigner as _, SignatureEncoding as _};
        let key = rsa::pss::SigningKey::<sha2::Sha256>::new(private_key().clone());
        key.sign_with_rng(&mut rand::rng(), &payment().content(Version::V1)).to_vec()
    };
    let other = signed(payment().set("total_amount", "0.01")).signature();
    let middle = sign_text().replacen(|_: char| true, "\n", 1);
    vec![
        (1, payment().body(), "no_signature"),
        (2, payment().set("sign", "").body(), "no_signature"),
        (3, with_sign("not base64!"), "signature_form"),
        (3, with_sign(format!("-_{}", &sign_text()[2..])), "signature_form"),
        (3, with_sign(middle), "signature_form"),
        (3, with_sign(format!("{} ", sign_text())), "signature_form"),
        (4, with_signature(&genuine().signature()[1..]), "signature_form"),
        (4, with_signature(&[&[0], &genuine().signature()[..]].concat()), "signature_form"),
        (5, with_signature(&modulus(0)), "signature"),
        (5, with_signature(&[0xff; 256]), "signature"),
        (6, with_signature(&[0; 256]), "signature"),
        (6, with_signature(&[&[0; 255][..], &[1]].concat()), "signature"),
        (6, with_signature(&modulus(1)), "signature"),
        (7, with_signature(&flipped(genuine().signature())), "signature"),
        (8, genuine().set("total_amount", "88.89").body(), "signature"),
        (9, with_signature(&other), "signature"),
        (10, payment().signed_by(stranger(), Hash::Sha256, Version::V1).body(), "signature"),
        (13, with_signature(&pss), "signature"),
        (14, by(payment(), Hash::Sha1, Version::V1), "signature"),
        (15, by(payment(), Hash::Sha512, Version::V1), "signature"),
    ]
}

fn of_downgrades() -> Vec<(u32, Vec<u8>, &'static str)> {
    let shared = payment().set("sign_type", "RSA").signed_by(shared(), Hash::Sha1, Version::V1);
    let mut attacks = vec![
        (18, shared.body(), "sign_type"),
        (18, by(payment().set("sign_type", "RSA"), Hash::Sha1, Version::V1), "sign_type"),
        (18, shared.set("sign_type", "RSA2").body(), "signature_form"),
        (19, genuine().without("sign_type").body(), "sign_type"),
        (19, behind("&sign_type=RSA2"), "malformed"),
        (22, genuine().set("alipay_cert_sn", "00").set("total_amount", "0.01").body(), "signature"),
    ];
    for other in ["MD5", "HMAC", "none", "rsa2", "SM2", "RSA2,RSA"] {
        attacks.push((19, genuine().set("sign_type", other).body(), "sign_type"));
    }
    attacks
}

fn of_parsers() -> Vec<(u32, Vec<u8>, &'static str)> {
    let gbk = payment().set("charset", "GBK").set("subject", b"\xb2\xe2&\xca\xd4");
    let swallowed = |name: &str, into: &str| {
        let genuine = genuine();
        let value = String::from_utf8(genuine.get(name).unwrap().to_vec()).unwrap();
        let text =
            format!("{}&{name}={value}", String::from_utf8(genuine.get(into).unwrap().to_vec()).unwrap());
        genuine.without(name).set(into, text).body()
    };
    vec![
        (23, behind("&total_amount=88.88"), "malformed"),
        (23, behind("&total_amount=0.01"), "malformed"),
        (24, behind("&sign=AAAA"), "malformed"),
        (25, behind("&%74otal_amount=0.01"), "malformed"),
        (26, behind("&total_amount[]=0.01"), "signature"),
        (26, behind("&total_amount[0]=0.01"), "signature"),
        (27, [&genuine().body()[..], b";total_amount=0.01"].concat(), "signature_form"),
        (27, genuine().set("version", "1.0;total_amount=0.01").body(), "signature"),
        (29, behind("&a=%"), "malformed"),
        (29, behind("&a=%zz"), "malformed"),
        (29, behind("&a=%0"), "malformed"),
        (30, genuine().set("subject", "1+1\0").body(), "signature"),
        (31, genuine().set("subject", b"\xc0\xaf").body(), "signature"),
        (32, signed(gbk).set("total_amount", "0.01").body(), "signature"),
        (33, ["\u{feff}".as_bytes(), &genuine().body()].concat(), "signature"),
        (34, behind("&=1"), "malformed"),
        (34, behind("&refund"), "malformed"),
        (35, behind("&refund_fee=88.88"), "signature"),
        (38, (0..5_000).map(|n| format!("p{n}=1")).collect::<Vec<_>>().join("&").into_bytes(), "malformed"),
        (39, swallowed("trade_no", "total_amount"), "missing_field"),
    ]
}

fn of_confusions() -> Vec<(u32, Vec<u8>, &'static str)> {
    let trap =
        payment().without("app_id").without("notify_id").without("notify_type").without("out_trade_no");
    let trap = trap.set("service", "alipay.eco.something.notify");
    vec![
        (41, payment().signed_by(stranger(), Hash::Sha256, Version::V1).body(), "signature"),
        (42, signed(payment().set("app_id", "2021999999999999")).body(), "unknown_app"),
        (44, payment().signed_by(stranger(), Hash::Sha256, Version::V1).body(), "signature"),
        (45, by(trap, Hash::Sha256, Version::V2), "no_app_id"),
        (45, by(payment().set("service", "alipay.eco.x"), Hash::Sha256, Version::V2), "signature"),
    ]
}

#[test]
fn each_attack_by_its_number_is_answered_fail_counted_and_leaves_nothing_behind() {
    let program = Program::start("attacks");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut queue = runtime.block_on(Queue::bound(&program.exchange, &["#"]));
    let all = [of_signatures(), of_downgrades(), of_parsers(), of_confusions()].concat();
    let attacks = all.into_iter().map(|(number, body, reason)| Attack { number, body, reason });
    for Attack { number, body, reason } in attacks {
        let counter = format!("rejections_total{{reason=\"{reason}\"}}");
        let before = program.metric(&counter);
        let answer = program.post(&body);
        assert!(answer.is_fail(400), "attack {number}: {answer:?} to {}", body.escape_ascii());
        assert!(program.metric(&counter) > before, "attack {number} is not counted as {reason}");
    }
    assert_eq!(program.outcome("held") + program.outcome("announced"), 0.0);
    assert!(program.rows(Notification::payment_now(1).trade_no()).is_empty());
    assert_eq!(runtime.block_on(queue.published(&program, 2)).len(), 0);
    assert!(!program.log().contains("panicked"), "{}", program.log());
    // 38: more than the cap is not even read to its end.
    let too_long = (0..10_000).map(|n| format!("p{n}=1")).collect::<Vec<_>>().join("&");
    assert!(program.post(too_long.as_bytes()).is_fail(413));
    assert_eq!(program.outcome("failed"), 1.0);
    // What they were made of is accepted, however it is encoded (28) and ordered (40).
    for encode in [encode, encode_percent, encode_least] {
        let body = genuine().shuffled(&mut rand::rng()).body_with(encode);
        assert!(program.post(&body).is_success(), "{}", body.escape_ascii());
    }
}

#[test]
fn attack_37_what_is_no_form_is_refused_by_its_type() {
    let program = Program::start("no-form");
    for kind in ["multipart/form-data; boundary=x", "application/json"] {
        let request =
            String::from_utf8(crate::support::program::request("/alipay/notify", &genuine().body()))
                .unwrap()
                .replace("application/x-www-form-urlencoded; charset=utf-8", kind);
        let answer = crate::support::program::exchange(program.http, request.as_bytes()).unwrap();
        assert!(answer.is_fail(400), "{kind}: {answer:?}");
    }
    assert_eq!(program.metric("rejections_total{reason=\"not_a_form\"}"), 2.0);
    assert_eq!(program.outcome("announced"), 0.0);
    assert!(program.rows(Notification::payment_now(1).trade_no()).is_empty());
}

#[test]
fn attacks_20_21_and_36_nothing_in_the_query_is_ever_read() {
    let program = Program::start("query");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut queue = runtime.block_on(Queue::bound(&program.exchange, &["#"]));
    let text = |bytes: &[u8]| String::from_utf8(encode(bytes)).unwrap();
    let refused = [
        // 20: the hash, beside a signature made with it.
        (
            "sign_type=RSA".to_owned(),
            by(payment().without("sign_type"), Hash::Sha1, Version::V1),
            "sign_type",
        ),
        // 21: the signature, and the fields in the body.
        (format!("sign={}", text(genuine().get("sign").unwrap())), payment().body(), "no_signature"),
        // 36: a field that was signed; and the whole of it.
        (
            format!("trade_no={}", text(payment().get("trade_no").unwrap())),
            genuine().without("trade_no").body(),
            "missing_field",
        ),
        ("subject=1%2B1+%3D+2+?".to_owned(), genuine().without("subject").body(), "signature"),
        (String::from_utf8(genuine().body()).unwrap(), b"a=1".to_vec(), "no_app_id"),
    ];
    for (query, body, reason) in refused {
        let counter = format!("rejections_total{{reason=\"{reason}\"}}");
        let before = program.metric(&counter);
        let answer = post(program.http, &format!("/alipay/notify?{query}"), &body).unwrap();
        assert!(answer.is_fail(400), "{query}: {answer:?}");
        assert!(program.metric(&counter) > before, "{query} is not counted as {reason}");
    }
    assert_eq!(program.outcome("announced"), 0.0);
    assert!(program.rows(Notification::payment_now(1).trade_no()).is_empty());
    assert_eq!(runtime.block_on(queue.published(&program, 2)).len(), 0);
    // Nor does it spoil what is genuine.
    let query = "/alipay/notify?refund_fee=1.00&sign_type=MD5&total_amount=0.01&app_id=1";
    assert!(post(program.http, query, &genuine().body()).unwrap().is_success());
}
