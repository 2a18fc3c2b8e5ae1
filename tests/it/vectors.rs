//! The facts of Alipay's notifications as signed files: `tests/vectors/README.md` says what each one pins. They
//! were signed with OpenSSL, so nothing here is believed because the same code wrote and read it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use alipay_notify_gateway::admission::key_ring::PublicKey;
use alipay_notify_gateway::admission::policy::{Policy, SignType};
use alipay_notify_gateway::admission::signing_content::{Recipe, Version};
use alipay_notify_gateway::admission::{form::Form, may_be_v2, signature};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::support::judge::{self, Said, event, json, now, policy_of};
use super::support::signer::{APP, alipay, encode};

/// Each file, and what comes of it in the metrics' and the contract's words.
const VECTORS: [(&str, &str); 43] = [
    ("payment", "payment.succeeded"),
    ("payment-redelivered", "payment.succeeded"),
    ("arbitrary-order", "payment.succeeded"),
    ("gbk-bytes", "payment.succeeded"),
    ("leading-and-trailing-spaces", "payment.succeeded"),
    ("percent-encoded-passback", "payment.succeeded"),
    ("ampersand-in-passback", "payment.succeeded"),
    ("star-raw", "payment.succeeded"),
    ("star-encoded", "payment.succeeded"),
    ("plus-in-subject", "payment.succeeded"),
    ("space-as-percent-20", "payment.succeeded"),
    ("html-entity-in-subject", "payment.succeeded"),
    ("charset-absent", "payment.succeeded"),
    ("buyer-id-absent", "payment.succeeded"),
    ("auth-app-id-differs", "payment.succeeded"),
    ("unknown-fields", "payment.succeeded"),
    ("refund-fee-zero-on-payment", "payment.succeeded"),
    ("finished-first-and-alone", "payment.succeeded"),
    ("partial-refund-with-milliseconds", "payment.refunded"),
    ("refund-without-milliseconds", "payment.refunded"),
    ("full-refund-closed", "payment.refunded"),
    ("closed-unpaid", "trade.closed"),
    ("wait-buyer-pay", "trade.pending"),
    ("appended-empty-gmt-refund", "payment.succeeded"),
    ("empty-value-not-signed", "payment.succeeded"),
    ("empty-value-signed", "payment.succeeded"),
    ("cert-sn-signed", "payment.succeeded"),
    ("cert-sn-not-signed", "payment.succeeded"),
    ("invalid-utf8-in-subject", "payment.succeeded"),
    ("odd-content-type", "payment.succeeded"),
    ("agreement-signed", "notification.other"),
    ("freeze-success", "notification.other"),
    ("message-without-notify-type", "notification.other"),
    ("unknown-status", "notification.other"),
    ("gateway-order-v2", "notification.other"),
    ("v2-trap", "refused: no_app_id"),
    ("v2-trap-with-app-id", "refused: signature"),
    ("return-url-query", "refused: return_url"),
    ("sha1-under-rsa2", "refused: signature"),
    ("foreign-seller", "held: seller"),
    ("swallowed-refund-fee", "held: ambiguous"),
    ("split-subject", "refused: malformed"),
    ("tampered-amount", "refused: signature"),
];

/// The files whose signature is nobody's, or not under the hash that the app is pinned to.
const NOT_AUTHENTIC: [&str; 3] = ["sha1-under-rsa2", "split-subject", "tampered-amount"];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

/// The body of a vector.
pub fn read(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(format!("{name}.form"))).unwrap()
}

fn key() -> PublicKey {
    let pem = std::fs::read(folder().join("alipay-public.pem")).unwrap();
    PublicKey::read(&pem, APP, SignType::Rsa2).unwrap().0
}

/// What the vectors are judged by.
pub fn policy() -> Policy {
    let mut app = judge::app(APP, alipay(), SignType::Rsa2);
    app.keys = vec![key()];
    policy_of([app])
}

fn verifies(body: &[u8]) -> bool {
    let (form, key) = (Form::parse(body).unwrap(), key());
    let signature = signature::decode(form.value("sign").unwrap()).unwrap();
    let versions = [Some(Version::V1), may_be_v2(&form).then_some(Version::V2)];
    versions.into_iter().flatten().any(|version| {
        Recipe::worth_trying(&form, version).any(|recipe| key.verifies(&recipe.content(&form), &signature))
    })
}

fn told(said: Said) -> String {
    match said {
        Said::Event(event_type) => event_type.to_owned(),
        Said::Held(objection) => format!("held: {}", objection.reason()),
        Said::Refused(rejection) => format!("refused: {}", rejection.reason()),
    }
}

#[test]
fn every_vector_verifies_and_means_what_its_table_says() {
    let policy = policy();
    for (name, expected) in VECTORS {
        let body = read(name);
        assert!(!body.ends_with(b"\n"), "{name}");
        assert_eq!(told(judge::judge(&body, &policy, now())), expected, "{name}");
        if name != "split-subject" {
            assert_eq!(verifies(&body), !NOT_AUTHENTIC.contains(&name), "{name}");
        }
    }
}

#[test]
fn no_vector_survives_a_flipped_byte_of_its_signature() {
    let policy = policy();
    for (name, _) in VECTORS.into_iter().filter(|(name, _)| !NOT_AUTHENTIC.contains(name)) {
        let body = read(name);
        let form = Form::parse(&body).unwrap();
        let sign = form.value("sign").unwrap();
        let genuine = STANDARD.decode(sign).unwrap();
        // Every 13th byte and the two ends: a sample of each region of the number.
        for at in (0..genuine.len()).step_by(13).chain([genuine.len() - 1]) {
            let mut flipped = genuine.clone();
            flipped[at] ^= 1 << (at % 8);
            let body = replaced(&body, &encode(sign), &encode(STANDARD.encode(flipped).as_bytes()));
            assert!(!verifies(&body), "{name}, byte {at}");
            let said = judge::judge(&body, &policy, now());
            assert!(matches!(said, Said::Refused(_)), "{name}, byte {at}: {said:?}");
        }
    }
}

fn replaced(body: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = body.windows(from.len()).position(|window| window == from).unwrap();
    [&body[..at], to, &body[at + from.len()..]].concat()
}

#[test]
fn a_redelivery_is_the_same_event_and_another_body() {
    let (first, second) = (read("payment"), read("payment-redelivered"));
    assert_ne!(first, second);
    let (first, second) = (event(&first, &policy(), now()), event(&second, &policy(), now()));
    assert_eq!(
        (first.key(), first.digest, &first.notify_id),
        (second.key(), second.digest, &second.notify_id)
    );
}

#[test]
fn the_texts_of_the_vectors_arrive_unharmed() {
    let subject = |name: &str| json(&event(&read(name), &policy(), now()))["subject"].clone();
    assert_eq!(subject("leading-and-trailing-spaces"), " 测试商品 ");
    assert_eq!(subject("plus-in-subject"), "测试+测试 - 1 + 1");
    assert_eq!(subject("star-raw"), subject("star-encoded"));
    assert_eq!(subject("html-entity-in-subject"), "&quot;T-shirt&quot; &amp; more");
    assert_eq!(subject("space-as-percent-20"), "a b  c");
    assert!(subject("gbk-bytes").as_str().unwrap().starts_with("测试商品 "));
    let passback = |name: &str| json(&event(&read(name), &policy(), now()))["passback_params"].clone();
    assert_eq!(passback("percent-encoded-passback"), "a%3D1%26b%3D%E4%B8%AD");
    assert_eq!(passback("ampersand-in-passback"), "a=1&b=2");
    let lossy = json(&event(&read("invalid-utf8-in-subject"), &policy(), now()));
    assert_eq!(lossy["decoding_lossy"], true);
    let refund = json(&event(&read("partial-refund-with-milliseconds"), &policy(), now()));
    assert_eq!(refund["refund"]["refunded_at"], "2026-11-23T11:00:00.250+08:00");
}

#[test]
fn the_table_of_the_folder_names_every_file_and_what_comes_of_it() {
    let readme = std::fs::read_to_string(folder().join("README.md")).unwrap();
    let files: BTreeSet<String> = std::fs::read_dir(folder())
        .unwrap()
        .filter_map(|entry| {
            entry.unwrap().file_name().into_string().unwrap().strip_suffix(".form").map(str::to_owned)
        })
        .collect();
    let tested: BTreeSet<String> = VECTORS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(files, tested);
    for (name, expected) in VECTORS {
        let row = readme.lines().find(|line| line.starts_with(&format!("| `{name}` |"))).unwrap();
        let outcome = row.rsplit('|').nth(1).unwrap().replace('`', "");
        assert!(outcome.trim().starts_with(expected), "{name}: {outcome}");
    }
}
