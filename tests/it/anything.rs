//! Admission given anything: it never panics, believes nothing that was not signed, and whatever it admits can
//! be put on the wire. Seeded, so that a failure comes back; the seed and the input are in its message.

use std::panic::{AssertUnwindSafe, catch_unwind};

use alipay_notify_gateway::admission::form::Form;
use alipay_notify_gateway::admission::policy::Policy;
use alipay_notify_gateway::admission::signing_content::{Recipe, Version};
use alipay_notify_gateway::admission::{Verdict, admit};
use alipay_notify_gateway::clock::Timestamp;
use alipay_notify_gateway::event::{Event, Message};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::support::judge::{now, policy};
use super::support::signer::{APP, Draft, Hash, SELLER, Version as SignedAs, alipay};

/// Bound: a few seconds in a build without optimisation.
const MUTATIONS: u64 = 20_000;
/// Bound: each costs a signature, about a millisecond.
const SIGNED: u64 = 1_500;

/// Names and values that mean something somewhere, and some that mean trouble.
const WORDS: [&[u8]; 30] = [
    b"app_id",
    b"sign",
    b"sign_type",
    b"notify_id",
    b"notify_time",
    b"notify_type",
    b"trade_status",
    b"trade_no",
    b"total_amount",
    b"gmt_refund",
    b"refund_fee",
    b"charset",
    b"method",
    b"service",
    b"msg_method",
    b"subject",
    b"alipay_cert_sn",
    b"=",
    b"&",
    b"%",
    b"%00",
    b"%26",
    b"%3D",
    b"+",
    b"\0",
    b"\xff\xfe",
    b"\xe2\x80\xa8",
    b"2026-11-23 10:15:32",
    b"99999999999999999999",
    b"TRADE_FINISHED",
];

/// The verdict; a panic is told with what caused it.
fn verdict(body: &[u8], policy: &Policy, now: Timestamp, seed: u64) -> Verdict {
    catch_unwind(AssertUnwindSafe(|| admit(body, policy, now)))
        .unwrap_or_else(|_| panic!("seed {seed}: admission panicked on {}", body.escape_ascii()))
}

pub fn mutated(body: &[u8], random: &mut StdRng) -> Vec<u8> {
    let mut body = body.to_vec();
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..=body.len());
        let word = WORDS[random.random_range(0..WORDS.len())];
        match random.random_range(0..8) {
            0 if at < body.len() => body[at] ^= 1 << random.random_range(0..8),
            1 if at < body.len() => body[at] = random.random(),
            2 => body.truncate(at),
            3 => drop(body.splice(at..at, word.iter().copied())),
            4 => {
                let end = (at + random.random_range(0..40)).min(body.len());
                body.drain(at..end);
            }
            5 => {
                let mut pieces: Vec<Vec<u8>> = body.split(|byte| *byte == b'&').map(<[u8]>::to_vec).collect();
                let (a, b) = (random.random_range(0..pieces.len()), random.random_range(0..pieces.len()));
                if random.random() {
                    pieces.swap(a, b)
                } else {
                    pieces.push(pieces[a].clone())
                }
                body = pieces.join(&b'&');
            }
            6 => body.extend_from_slice(&[b"&", word, b"=", word].concat()),
            _ => {
                let end = (at + 8).min(body.len());
                random.fill(&mut body[at..end]);
            }
        }
    }
    body
}

#[test]
fn no_mutation_of_a_body_panics_or_is_believed() {
    let drafts = [Draft::payment(), Draft::refund(), Draft::payment().set("notify_type", "dut_user_sign")];
    let bodies: Vec<Vec<u8>> = drafts.map(|draft| draft.signed().body()).to_vec();
    let contents: Vec<Vec<u8>> = bodies.iter().map(|body| content(body)).collect();
    let (mut believed, mut refused) = (0, 0);
    let policy = policy();
    for seed in 0..MUTATIONS {
        let mut random = StdRng::seed_from_u64(seed);
        let from = random.random_range(0..bodies.len());
        let body = mutated(&bodies[from], &mut random);
        match verdict(&body, &policy, now(), seed) {
            Verdict::Rejected(..) | Verdict::Shadowed(_) => refused += 1,
            // Whatever is more than refused has a genuine signature: it says what was signed, byte for byte.
            Verdict::Admitted(..) | Verdict::Withheld(..) => {
                believed += 1;
                assert_eq!(content(&body), contents[from], "seed {seed}: {}", body.escape_ascii());
            }
        }
    }
    assert!(believed > 0 && refused > MUTATIONS / 2, "{believed} believed, {refused} refused");
}

/// What is signed of a body without its empty values and an unsigned `alipay_cert_sn`.
fn content(body: &[u8]) -> Vec<u8> {
    Recipe { version: Version::V1, empty_values: false, cert_sn: false }.content(&Form::parse(body).unwrap())
}

#[test]
fn no_noise_panics_or_is_believed() {
    let policy = policy();
    for seed in 0..MUTATIONS {
        let mut random = StdRng::seed_from_u64(seed);
        let mut body = Vec::new();
        while random.random_range(0..12) != 0 {
            if random.random() {
                body.extend_from_slice(WORDS[random.random_range(0..WORDS.len())]);
            } else {
                body.push(random.random());
            }
        }
        assert!(matches!(verdict(&body, &policy, now(), seed), Verdict::Rejected(..)), "seed {seed}");
    }
}

#[test]
fn nothing_that_is_signed_panics_and_all_that_is_admitted_can_go_on_the_wire() {
    let (mut admitted, mut held) = (0, 0);
    let policy = policy();
    for seed in 0..SIGNED {
        let mut random = StdRng::seed_from_u64(seed);
        let mut draft = if random.random() { Draft::payment() } else { Draft::refund() };
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..draft.0.len());
            match random.random_range(0..6) {
                0 => drop(draft.0.remove(at)),
                1 => draft.0[at].1 = WORDS[random.random_range(0..WORDS.len())].to_vec(),
                2 => draft.0[at].1 = (0..random.random_range(0..200)).map(|_| random.random()).collect(),
                3 => draft.0[at].1.push(random.random()),
                4 => {
                    draft =
                        draft.set("charset", ["GBK", "UTF-16", "big5", "", "x"][random.random_range(0..5)])
                }
                _ => {
                    let statuses = ["TRADE_CLOSED", "TRADE_FINISHED", "WAIT_BUYER_PAY", "OTHER"];
                    draft = draft.set("trade_status", statuses[random.random_range(0..4)]);
                }
            }
        }
        // These alone would hide everything behind them.
        let draft = draft.set("app_id", APP).set("sign_type", "RSA2").set("seller_id", SELLER);
        let body = draft.signed_by(alipay(), Hash::Sha256, SignedAs::V1).body();
        let at = Timestamp::from_unix_millis(now().unix_millis() + random.random_range(0..5_000_000_000));
        match verdict(&body, &policy, at, seed) {
            Verdict::Rejected(..) | Verdict::Shadowed(_) => {}
            Verdict::Withheld(withheld, _) => {
                held += 1;
                assert!(!withheld.subject().is_empty());
            }
            Verdict::Admitted(event, _) => {
                admitted += 1;
                for event in
                    [Event::clone(event.event()), event.event().as_late(), event.event().as_conflict()]
                {
                    let message = Message::of(&event, false, None);
                    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._%-".contains(&byte);
                    assert!(message.id.len() <= 200, "seed {seed}: {}", message.id);
                    assert!(message.id.bytes().all(plain), "seed {seed}: {}", message.id);
                    let json: serde_json::Value = serde_json::from_str(&message.body)
                        .unwrap_or_else(|error| panic!("seed {seed}: {error}: {}", message.body));
                    assert_eq!(json["event_id"], message.id, "seed {seed}");
                }
            }
        }
    }
    assert!(admitted > SIGNED / 5 && held > SIGNED / 20, "{admitted} admitted, {held} held");
}
