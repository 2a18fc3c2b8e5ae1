//! Two hundred generated mistakes (protocol.md §8): `explain` names at least 95 of 100, and says of none with certainty
//! what is not so.

use rand::prelude::IndexedRandom as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::explain::{Run, all_changed, changed, decoded, html, judged, text};
use super::support::signer::{self, Draft, Hash, Version, alipay, stranger};

/// What was done to a genuine notification, and what has to be said of it.
struct Mistake {
    name: &'static str,
    says: &'static str,
    /// The damaged body. `None` where the notification has nothing that the mistake could harm.
    make: fn(Draft, &mut StdRng) -> Option<Vec<u8>>,
}

const MISTAKES: [Mistake; 21] = [
    Mistake {
        name: "HTML-escaped",
        says: "HTML-escaped",
        make: |draft, _| {
            differs(&draft.clone().signed(), all_changed(&draft.signed(), |v| html(&text(v)).into()))
        },
    },
    Mistake {
        name: "JSON HTML-escaped",
        says: "HTML-escaped",
        make: |draft, _| {
            let draft = draft.signed();
            differs(&draft, changed(&draft, "fund_bill_list", html))
        },
    },
    Mistake {
        name: "backslashes",
        says: "backslashes",
        make: |draft, _| {
            let draft = draft.signed();
            differs(&draft, all_changed(&draft, |v| text(v).replace('"', "\\\"").into()))
        },
    },
    Mistake {
        name: "plus lost",
        says: "`+` became a space",
        make: |draft, _| {
            let draft = draft.signed();
            differs(&draft, changed(&draft, "subject", |v| v.replace('+', " ")))
        },
    },
    Mistake {
        name: "plus lost everywhere",
        says: "`+` became a space",
        make: |draft, _| {
            let draft = draft.set("body", "1+1").signed();
            differs(&draft, all_changed(&draft, |v| text(v).replace('+', " ").into()))
        },
    },
    Mistake {
        name: "space became plus",
        says: "a space became `+`",
        make: |draft, _| {
            let draft = draft.signed();
            differs(&draft, all_changed(&draft, |v| text(v).replace(' ', "+").into()))
        },
    },
    Mistake {
        name: "encoded twice",
        says: "percent-encoded once too often",
        make: |draft, random| {
            let draft = draft.signed();
            let encode = if random.random() { signer::encode } else { signer::encode_percent };
            differs(&draft, all_changed(&draft, encode))
        },
    },
    Mistake {
        name: "decoded twice",
        says: "`passback_params` was percent-decoded twice",
        make: |draft, random| {
            let inner = format!("order={}&from=商店", random.random_range(0..1000));
            let draft = draft.set("passback_params", signer::encode_percent(inner.as_bytes())).signed();
            let value = decoded(draft.get("passback_params")?);
            differs(&draft, draft.clone().set("passback_params", value))
        },
    },
    Mistake {
        name: "GBK made UTF-8",
        says: "from GBK to UTF-8",
        make: |draft, random| {
            let words = pick(random, &["测试", "商品三件", "会员年费"]);
            let (gbk, _, _) = encoding_rs::GBK.encode(words);
            let draft = draft.set("charset", "GBK").set("subject", gbk).set("body", "plain").signed();
            differs(&draft, draft.clone().set("subject", words))
        },
    },
    Mistake {
        name: "UTF-8 made GBK",
        says: "from UTF-8 to GBK",
        make: |draft, random| {
            let words = pick(random, &["测试", "商品三件", "会员年费"]);
            let draft = draft.set("subject", words).set("body", "plain").signed();
            differs(&draft, draft.clone().set("subject", encoding_rs::GBK.encode(words).0))
        },
    },
    Mistake {
        name: "Latin-1",
        says: "Latin-1",
        make: |draft, _| {
            let draft = draft.set("body", "正文").signed();
            let wide = |v: &[u8]| v.iter().map(|byte| char::from(*byte)).collect::<String>().into_bytes();
            differs(&draft, all_changed(&draft, wide))
        },
    },
    Mistake {
        name: "trimmed",
        says: "trimmed from `subject`",
        make: |draft, random| {
            let blank = pick(random, &[" ", "  ", "\t", " \t"]);
            let subject = text(draft.get("subject")?).trim().to_owned();
            let draft = draft.set("subject", format!("{subject}{blank}")).signed();
            differs(&draft, draft.clone().set("subject", subject))
        },
    },
    Mistake {
        name: "framework parameters",
        says: " added",
        make: |draft, random| {
            let names = [&["s"][..], &["_url"], &["m", "c", "a"], &["order", "from"], &["token"]];
            let added: Vec<String> = pick(random, &names)
                .iter()
                .map(|name| format!("&{name}=%2F{}", random_word(random)))
                .collect();
            Some([&draft.signed().body()[..], added.concat().as_bytes()].concat())
        },
    },
    Mistake {
        name: "empty value lost",
        says: "was dropped",
        make: |draft, random| {
            let name = pick(random, &["body", "passback_params", "gmt_close"]);
            let empty = draft.set(name, "");
            let signature = signer::signature(alipay(), Hash::Sha256, &empty.content_with(Version::V1, true));
            Some(empty.with_signature(&signature).without(name).body())
        },
    },
    Mistake {
        name: "V2",
        says: "V2",
        make: |draft, _| Some(draft.signed_by(alipay(), Hash::Sha256, Version::V2).body()),
    },
    Mistake {
        name: "decimals",
        says: "decimals",
        make: |draft, random| {
            let yuan = random.random_range(1..500);
            let draft = draft.set("total_amount", format!("{yuan}.50")).signed();
            differs(&draft, draft.clone().set("total_amount", format!("{yuan}.5")))
        },
    },
    Mistake {
        name: "JSON written anew",
        says: "JSON in a value",
        make: |draft, random| {
            let draft = draft.signed();
            let colon = pick(random, &[": ", ":"]);
            let comma = if colon == ":" { ", " } else { pick(random, &[", ", ","]) };
            differs(&draft, changed(&draft, "fund_bill_list", |v| v.replace(':', colon).replace(',', comma)))
        },
    },
    Mistake {
        name: "SHA-1",
        says: "sign_type RSA",
        make: |draft, _| Some(draft.signed_by(alipay(), Hash::Sha1, Version::V1).body()),
    },
    Mistake {
        name: "another key",
        says: "OWN public key",
        make: |draft, _| Some(draft.signed_by(stranger(), Hash::Sha256, Version::V1).body()),
    },
    Mistake {
        name: "plus lost in sign",
        says: "each `+` in it became a space",
        make: |draft, _| {
            let draft = draft.signed();
            differs(&draft, changed(&draft, "sign", |v| v.replace('+', " ")))
        },
    },
    Mistake {
        name: "decoded before it was split",
        says: "decoded before it was split",
        make: |draft, random| {
            let word = random_word(random);
            let draft =
                draft.set("passback_params", format!("{word}=1&b={word}")).set("subject", "商品").signed();
            let raw = |(name, value): &(Vec<u8>, Vec<u8>)| match name.as_slice() {
                b"sign" => [name, &b"="[..], &signer::encode(value)].concat(),
                _ => [name, &b"="[..], value].concat(),
            };
            Some(draft.without("body").signed().0.iter().map(raw).collect::<Vec<_>>().join(&b'&'))
        },
    },
];

/// Only what really harms it is a mistake.
fn differs(genuine: &Draft, damaged: Draft) -> Option<Vec<u8>> {
    (genuine.0 != damaged.0).then(|| damaged.body())
}

fn pick<T: Copy>(random: &mut StdRng, of: &[T]) -> T {
    *of.choose(random).unwrap()
}

fn random_word(random: &mut StdRng) -> String {
    (0..random.random_range(2..9)).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect()
}

/// A notification as merchants make them: with what they put into free texts.
fn any(random: &mut StdRng) -> Draft {
    let subjects = [
        "测试商品 + 1",
        "iPhone 15+ 手机壳",
        "A & B",
        "\"引号\" 与 <标签>",
        "一加 9 Pro",
        "1+1=2 ",
        "C++ 入门",
    ];
    let bodies = [r#"{"k":"v w"}"#, "一段 说明", "a+b c", r#"[{"id":1,"n":"甲"}]"#];
    let bills = [
        r#"[{"amount":"88.88","fundChannel":"ALIPAYACCOUNT"}]"#,
        r#"[{"amount":"80.00","fundChannel":"PCREDIT"},{"amount":"8.88","fundChannel":"COUPON"}]"#,
    ];
    let number = random.random_range(0..1_000_000_000u64);
    let mut draft = Draft::payment()
        .set("subject", pick(random, &subjects))
        .set("out_trade_no", format!("O-{number}"))
        .set("notify_id", format!("20261123002221015320014273{number:010}"))
        .set("fund_bill_list", pick(random, &bills));
    if random.random() {
        draft = draft.set("body", pick(random, &bodies));
    }
    draft.shuffled(random)
}

#[test]
fn at_least_95_of_100_generated_mistakes_are_named_and_none_is_misnamed() {
    let mut random = StdRng::seed_from_u64(SEED);
    let (mut named, mut made, mut told) = (0, 0, Vec::new());
    while made < CASES {
        let mistake = &MISTAKES[made % MISTAKES.len()];
        let draft = any(&mut random);
        let Some(body) = (mistake.make)(draft, &mut random) else { continue };
        made += 1;
        let run = judged(&body);
        assert_eq!(run.code, 65, "{} verifies: {}", mistake.name, body.escape_ascii());
        if run.hints().contains(mistake.says) {
            named += 1;
        } else {
            told.push(format!("{}: {}\n  {}", mistake.name, run.hints(), body.escape_ascii()));
        }
        assert!(!is_certain_of_another(&run, mistake), "{}: {}", mistake.name, run.hints());
    }
    assert!(named * 100 >= CASES * 95, "{named} of {CASES}\n{}", told.join("\n"));
}

/// What is said with "verifies once this is undone" is proved by the digest inside the signature; it has to be what was
/// done.
fn is_certain_of_another(run: &Run, mistake: &Mistake) -> bool {
    run.hints().contains("once this is undone") && !run.hints().contains(mistake.says)
}

const CASES: usize = 200;
const SEED: u64 = 20_261_124;
