//! What must hold for any input: each function is the body of a fuzz target, and of a property test on stable
//! (`tests/it/fuzzed.rs`). Each asserts something against a reading of its own, written without a look at the gateway's.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use alipay_notify_gateway::admission::form::{Form, MAX_PARAMETERS};
use alipay_notify_gateway::admission::key_ring::PublicKey;
use alipay_notify_gateway::admission::policy::{App, Buyer, Policy, SignType};
use alipay_notify_gateway::admission::signing_content::{Recipe, Version};
use alipay_notify_gateway::admission::{Verdict, admit};
use alipay_notify_gateway::cli::explain_json;
use alipay_notify_gateway::clock::Timestamp;
use alipay_notify_gateway::event::{Environment, Event, Message};
use alipay_notify_gateway::signer::Signer;

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// The form agrees with a naive reader, byte for byte, and says the same when it is written and read again.
pub fn form(data: &[u8]) {
    let read = Form::parse(data);
    let naive = naive_form(data);
    let pairs = read.as_ref().ok().map(pairs_of);
    assert_eq!(pairs, naive, "{}", data.escape_ascii());
    let (Ok(form), Some(pairs)) = (read, naive) else { return };
    let decoded: usize = form.parameters().map(|(name, value)| name.len() + value.len()).sum();
    assert!(decoded <= data.len());
    let again = Form::parse(&written(&pairs)).expect("what was read can be written and read");
    assert_eq!(pairs_of(&again), pairs);
    for (name, value) in &pairs {
        let Ok(name) = std::str::from_utf8(name) else { continue };
        assert!(form.has(name));
        assert_eq!(form.value(name), (!value.is_empty()).then_some(value.as_slice()));
    }
}

/// The signing content is what protocol.md §2 says, in every recipe, and what was moved over a border is held.
pub fn signing_content(data: &[u8]) {
    let Ok(form) = Form::parse(data) else { return };
    for version in [Version::V1, Version::V2] {
        for (empty_values, cert_sn) in [(false, false), (false, true), (true, false), (true, true)] {
            let content = Recipe { version, empty_values, cert_sn }.content(&form);
            let expected: Vec<Vec<u8>> = pairs_of(&form)
                .into_iter()
                .filter(|(name, value)| {
                    name != b"sign"
                        && (version == Version::V2 || name != b"sign_type")
                        && (cert_sn || name != b"alipay_cert_sn")
                        && (empty_values || !value.is_empty())
                })
                .map(|(name, value)| [&name[..], b"=", &value].concat())
                .collect();
            assert_eq!(content, expected.join(&b'&'));
        }
    }
    let worth: Vec<Recipe> = Recipe::worth_trying(&form, Version::V1).collect();
    assert!((1..=4).contains(&worth.len()));
}

/// Whatever fields are signed: no panic; and what is admitted is an event that can go on the wire, says what the fields
/// say, and holds no border that was moved.
pub fn fields(data: &[u8]) {
    let mut pairs = genuine();
    pairs.extend(naive_form(data).unwrap_or_default());
    pairs.insert(b"app_id".to_vec(), APP.into());
    pairs.insert(b"sign_type".to_vec(), b"RSA2".to_vec());
    pairs.remove(&b"sign"[..]);
    pairs.remove(&b"alipay_cert_sn"[..]);
    if pairs.len() >= MAX_PARAMETERS {
        return;
    }
    let content: Vec<Vec<u8>> = pairs
        .iter()
        .filter(|(name, value)| *name != b"sign_type" && !value.is_empty())
        .map(|(name, value)| [&name[..], b"=", value].concat())
        .collect();
    pairs.insert(b"sign".to_vec(), signer().sign(&content.join(&b'&')).into_bytes());
    let body = written(&pairs);
    let event = match admit(&body, policy(), now()) {
        Verdict::Admitted(admitted, _) => Event::clone(admitted.event()),
        Verdict::Withheld(withheld, _) => return assert!(!withheld.subject().is_empty()),
        Verdict::Rejected(rejection, _) => {
            assert_ne!(rejection.reason(), "signature", "{}", body.escape_ascii());
            return;
        }
        Verdict::Shadowed(_) => unreachable!("there is no key in shadow"),
    };
    for event in [event.as_late(), event.as_conflict(), event.clone()] {
        let message = Message::of(&event, false, None);
        assert!(message.id.len() <= 200, "{}", message.id);
        assert!(message.id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._%-".contains(&byte)));
        let json: serde_json::Value = serde_json::from_str(&message.body).expect("JSON");
        assert_eq!(json["event_id"], message.id.as_str());
        assert_eq!(json["event_type"], message.event_type.as_str());
        assert!(json.get("buyer_id").is_none() && json["notification"].get("buyer_id").is_none());
        if let Some(amount) = json["total_amount"].as_str() {
            let received = &pairs[&b"total_amount"[..]];
            assert_eq!(naive_money(received).as_deref(), Some(amount), "{}", received.escape_ascii());
        }
    }
    // Two forms of one signature: if both pass, they say the same.
    for other in other_readings(&pairs) {
        if let Verdict::Admitted(admitted, _) = admit(&written(&other), policy(), now()) {
            let other = admitted.event();
            let says =
                |event: &Event| (event.event_type, event.id.clone(), event.digest, event.stale, event.late);
            assert_eq!(says(other), says(&event), "a border was moved: {}", body.escape_ascii());
        }
    }
}

/// The forms of which the same bytes are signed, with a border of one value moved.
fn other_readings(pairs: &Pairs) -> Vec<Pairs> {
    let content = |pairs: &Pairs| -> Vec<u8> {
        let signed = pairs.iter().filter(|(name, value)| {
            ![&b"sign"[..], b"sign_type"].contains(&name.as_slice()) && !value.is_empty()
        });
        signed.map(|(name, value)| [&name[..], b"=", value].concat()).collect::<Vec<_>>().join(&b'&')
    };
    let mut readings = Vec::new();
    for (name, value) in pairs.iter().filter(|(_, value)| value.contains(&b'&')) {
        for at in (0..value.len()).filter(|at| value[*at] == b'&') {
            let (head, tail) = (&value[..at], &value[at + 1..]);
            let whole = vec![tail];
            let pieces: Vec<&[u8]> = tail.split(|byte| *byte == b'&').collect();
            for tails in [whole, pieces] {
                let mut other = pairs.clone();
                other.insert(name.clone(), head.to_vec());
                let fits = tails.iter().all(|tail| {
                    let Some(equals) = tail.iter().position(|byte| *byte == b'=') else { return false };
                    let value = tail[equals + 1..].to_vec();
                    other.insert(tail[..equals].to_vec(), value).is_none_or(|before| before.is_empty())
                });
                if fits && content(&other) == content(pairs) {
                    readings.push(other);
                }
            }
        }
    }
    readings
}

/// Whatever is given for a key: a private key is never one, and what is one says the same when it is read again.
pub fn keys(data: &[u8]) {
    for sign_type in [SignType::Rsa2, SignType::Rsa] {
        let Ok((key, _)) = PublicKey::read(data, APP, sign_type) else { continue };
        // In DER the words mean nothing: they can be bytes of a modulus (found by this target).
        assert!(!std::str::from_utf8(data).is_ok_and(|text| text.contains("PRIVATE KEY")));
        assert!(!key.is_half_of(data));
        assert_eq!(key.fingerprint().len(), 12);
        let sizes: &[usize] = if sign_type == SignType::Rsa2 { &[256, 384, 512] } else { &[128, 256] };
        assert!(sizes.contains(&key.signature_bytes()));
        assert!(!key.verifies(data, &vec![0; key.signature_bytes()]));
        assert!(!key.verifies(data, &vec![1; key.signature_bytes()]));
        let (again, _) = PublicKey::read(data, "another", sign_type).expect("the app's id does not matter");
        assert_eq!(key, again);
    }
}

/// Whatever was captured: one object of JSON with the members of the contract, bounded, with a hint where nothing
/// verified; and nothing is announced that did not verify.
pub fn explain(data: &[u8]) {
    let printed = explain_json(data, PUBLIC.as_bytes()).expect("the key is good");
    let page: serde_json::Value = serde_json::from_slice(&printed).expect("JSON");
    let verified = page["verified"].as_bool().expect("verified is true or false");
    let hints = page["hints"].as_array().expect("hints are a list");
    assert!(verified || !hints.is_empty(), "{}", data.escape_ascii());
    assert_eq!(page["event"].is_null(), page["event_type"].is_null());
    assert_eq!(page["event"].is_null(), page["event_id"].is_null());
    assert_eq!(page["event"].is_null(), page["reason"].is_string());
    assert!(verified || page["event"].is_null(), "{}", data.escape_ascii());
    assert!(printed.len() <= 40 * data.len() + 16_384, "{} of {}", printed.len(), data.len());
}

fn pairs_of(form: &Form) -> Pairs {
    form.parameters().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
}

/// protocol.md §2, read a byte at a time. `None` for what is no form, or has a name twice.
pub fn naive_form(data: &[u8]) -> Option<Pairs> {
    let mut pairs = Pairs::new();
    let pieces: Vec<&[u8]> = data.split(|byte| *byte == b'&').collect();
    if pieces.len() > MAX_PARAMETERS {
        return None;
    }
    for piece in pieces {
        let at = piece.iter().position(|byte| *byte == b'=')?;
        let name = naive_decode(&piece[..at])?;
        let value = naive_decode(&piece[at + 1..])?;
        if name.is_empty()
            || name.contains(&b'&')
            || name.contains(&b'=')
            || pairs.insert(name, value).is_some()
        {
            return None;
        }
    }
    Some(pairs)
}

fn naive_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'+' => decoded.push(b' '),
            b'%' => {
                let digits = std::str::from_utf8(text.get(at + 1..at + 3)?).ok()?;
                if digits.starts_with('+') {
                    return None;
                }
                decoded.push(u8::from_str_radix(digits, 16).ok()?);
                at += 2;
            }
            byte => decoded.push(byte),
        }
        at += 1;
    }
    Some(decoded)
}

fn written(pairs: &Pairs) -> Vec<u8> {
    let encode = |bytes: &[u8]| bytes.iter().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let pieces = pairs.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value)));
    pieces.collect::<Vec<_>>().join("&").into_bytes()
}

/// Yuan with two decimals, as the contract wants them. `None` for what is no plain amount.
fn naive_money(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, cents) = text.split_once('.').unwrap_or((text, "00"));
    let digits = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    if !digits(whole) || whole.len() > 12 || !digits(cents) || cents.len() > 2 {
        return None;
    }
    let whole = whole.trim_start_matches('0');
    Some(format!("{}.{cents:0<2}", if whole.is_empty() { "0" } else { whole }))
}

/// A payment to which the data is added, and over which it wins.
fn genuine() -> Pairs {
    let fields = [
        ("notify_type", "trade_status_sync"),
        ("notify_id", "2026112300222101532001427340000001"),
        ("notify_time", "2026-11-23 10:15:32"),
        ("trade_no", "2026112322001427340000000000"),
        ("out_trade_no", "R1-0000000000"),
        ("trade_status", "TRADE_SUCCESS"),
        ("total_amount", "88.88"),
        ("seller_id", SELLER),
        ("buyer_id", "2088000000000016"),
        ("gmt_payment", "2026-11-23 10:15:31"),
    ];
    fields.into_iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn policy() -> &'static Policy {
    static POLICY: OnceLock<Policy> = OnceLock::new();
    POLICY.get_or_init(|| {
        let (key, _) = PublicKey::read(PUBLIC.as_bytes(), APP, SignType::Rsa2).expect("a good key");
        let app = App {
            app_id: APP.to_owned(),
            environment: Environment::Production,
            seller_ids: [SELLER.to_owned()].into(),
            keys: vec![key],
            shadow_keys: Vec::new(),
            sign_type: SignType::Rsa2,
        };
        Policy {
            apps: [(APP.to_owned(), app)].into(),
            max_age: Duration::from_secs(24 * 3600),
            retention: Duration::from_secs(35 * 86_400),
            complete_since: Timestamp::default(),
            buyer: Buyer::Omit,
            notification: true,
        }
    })
}

fn signer() -> &'static Signer {
    static SIGNER: OnceLock<Signer> = OnceLock::new();
    SIGNER.get_or_init(|| Signer::read(PRIVATE).expect("a good key"))
}

fn now() -> Timestamp {
    Timestamp::from_beijing((2026, 11, 23), (10, 16, 31, 0)).expect("a good time")
}

const APP: &str = "2021000000000001";
const SELLER: &str = "2088101117955611";
const PUBLIC: &str = include_str!("../../tests/vectors/alipay-public.pem");
const PRIVATE: &str = include_str!("../../tests/vectors/test-signing-key.pem");
