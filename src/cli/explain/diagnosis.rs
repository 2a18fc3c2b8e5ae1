//! Why a signature does not verify (protocol.md §8). Known causes are tried one by one: what a receiving
//! framework is known to do to a body is undone, and if the signature verifies then, that was it. Where nothing
//! helps, the likeliest causes are named as what they are: likely.

use super::evidence::Evidence;
use crate::admission::acceptance::is_trade;
use crate::admission::form::{Form, FormError};
use crate::admission::key_ring::PublicKey;
use crate::admission::notification::KNOWN_FIELDS;
use crate::admission::policy::SignType;
use crate::admission::signature;
use crate::admission::signing_content::{Recipe, Version};

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// What is known, or likely, about why it does not verify. Never empty.
pub(super) fn hints(form: &Form, evidence: &Evidence) -> Vec<String> {
    let Some(sign) = form.value("sign") else {
        return vec!["there is no sign parameter: this is not the whole body, or not from Alipay".to_owned()];
    };
    let Some(signature) = signature::decode(sign) else {
        let spaces = sign.contains(&b' ');
        return vec![if spaces {
            "sign holds spaces: its + were decoded twice; capture the body before any framework reads it"
                .to_owned()
        } else {
            "sign is not base64: it was cut short or changed".to_owned()
        }];
    };
    let keys = evidence.keys(form);
    let known: Vec<String> = certain(form, evidence, &keys, &signature);
    if known.is_empty() { likely(form, evidence, &keys, &signature) } else { known }
}

/// Why a body is not even a form.
pub(super) fn of_garbage(body: &[u8], error: FormError) -> Vec<String> {
    let looks = match body.trim_ascii_start().first() {
        Some(b'{') => {
            "this looks like JSON or a dump of a map: capture the raw body, before any framework parses it"
        }
        Some(b'<') => "this looks like XML or HTML: it is not a notification",
        _ => "capture the raw body as it was posted: name=value pairs joined by &, percent-encoded",
    };
    vec![format!("{error}; {looks}")]
}

/// Causes that make it verify when they are undone.
fn certain(form: &Form, evidence: &Evidence, keys: &[&PublicKey], signature: &[u8]) -> Vec<String> {
    let pairs: Pairs = form.parameters().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
    let verifies = |pairs: &Pairs, version: Version| {
        let content = content_of(pairs, version);
        keys.iter().any(|key| key.verifies(&content, signature))
    };
    let mut found = Vec::new();
    if verifies(&pairs, Version::V2) {
        found.push("it verifies with sign_type in the signing content (V2): that is application-gateway traffic, not a trade notification".to_owned());
    }
    for (cause, undo) in MENDS {
        let mended: Pairs = pairs.iter().map(|(name, value)| (name.clone(), undo(name, value))).collect();
        if mended != pairs && verifies(&mended, Version::V1) {
            found.push(format!("it verifies once this is undone: {cause}"));
        }
    }
    found.extend(added_parameters(&pairs, &verifies));
    found.extend(trimmed(&pairs, &verifies));
    found.extend(other_keys(form, evidence, keys, signature));
    found
}

/// Parameters that do not belong: those of a framework, or of the notify URL's own query.
fn added_parameters(pairs: &Pairs, verifies: &dyn Fn(&Pairs, Version) -> bool) -> Option<String> {
    let is_known = |name: &[u8]| {
        KNOWN_FIELDS.iter().any(|known| known.as_bytes() == name) || matches!(name, b"sign" | b"sign_type")
    };
    let unknown: Vec<&[u8]> =
        pairs.iter().map(|(name, _)| name.as_slice()).filter(|name| !is_known(name)).collect();
    let without = |gone: &dyn Fn(&[u8]) -> bool| -> Pairs {
        pairs.iter().filter(|(name, _)| !gone(name)).cloned().collect()
    };
    let say = |names: &[&[u8]]| {
        let names: Vec<_> = names.iter().map(|name| name.escape_ascii().to_string()).collect();
        format!(
            "it verifies without {}: a framework or the notify URL's query added it to what was posted",
            names.join(", ")
        )
    };
    // One alone, any one at all; then all that no notification is known to have.
    let one = pairs
        .iter()
        .map(|(name, _)| name.as_slice())
        .find(|one| verifies(&without(&|name| name == *one), Version::V1));
    if let Some(one) = one {
        return Some(say(&[one]));
    }
    let all = (unknown.len() > 1).then(|| without(&|name| unknown.contains(&name)))?;
    verifies(&all, Version::V1).then(|| say(&unknown))
}

/// Values whose blanks at the ends were taken away.
fn trimmed(pairs: &Pairs, verifies: &dyn Fn(&Pairs, Version) -> bool) -> Option<String> {
    for (at, (name, value)) in pairs.iter().enumerate() {
        for (before, after) in [("", " "), (" ", ""), (" ", " ")] {
            let mut mended = pairs.clone();
            if let Some((_, mended)) = mended.get_mut(at) {
                *mended = [before.as_bytes(), value, after.as_bytes()].concat();
            }
            if verifies(&mended, Version::V1) {
                let name = name.escape_ascii();
                return Some(format!(
                    "it verifies once this is undone: the blank at an end of {name} was trimmed away"
                ));
            }
        }
    }
    None
}

/// Keys that were not asked: of another app, or with the other hash.
fn other_keys(form: &Form, evidence: &Evidence, keys: &[&PublicKey], signature: &[u8]) -> Vec<String> {
    let content = Recipe { version: Version::V1, empty_values: false, cert_sn: true }.content(form);
    let mut found = Vec::new();
    for app in evidence.policy.apps.values() {
        let other = app.keys.iter().find(|key| !keys.contains(key) && key.verifies(&content, signature));
        if let Some(key) = other {
            found.push(format!(
                "it verifies with key {} of app {}: the body is for that app, or the keys are mixed up",
                key.fingerprint(),
                app.app_id
            ));
        }
    }
    for (sign_type, hash) in [(SignType::Rsa, "SHA-1 (RSA)"), (SignType::Rsa2, "SHA-256 (RSA2)")] {
        let verified =
            keys.iter().filter_map(|key| key.with(sign_type)).find(|key| key.verifies(&content, signature));
        if verified.is_some() {
            found.push(format!("it verifies with {hash}: sign_type does not say what was used"));
        }
    }
    found
}

/// Where nothing certain is known.
fn likely(form: &Form, evidence: &Evidence, keys: &[&PublicKey], signature: &[u8]) -> Vec<String> {
    let mut hints = Vec::new();
    if keys.is_empty() {
        hints.push(
            "its app_id is not one that is configured, so there is no key to verify it with".to_owned(),
        );
    } else if !keys.iter().any(|key| key.signature_bytes() == signature.len()) {
        let bits = signature.len() * 8;
        hints.push(format!("the signature is of a key of {bits} bits, and the keys given have another size: RSA2 has 2048, RSA 1024"));
    }
    if form.value("app_id").is_none() {
        hints.push("there is no app_id: a notification of the partner interface from before 2016, or no notification".to_owned());
    }
    let sandbox =
        form.parameters().any(|(_, value)| value.windows(11).any(|window| window == b"sandbox.com"));
    if sandbox {
        hints.push(
            "it names sandbox accounts: the sandbox has keys of its own, are they the ones given?".to_owned(),
        );
    }
    let trade = if is_trade(form) { "" } else { " (and it is not a trade notification)" };
    hints.push(format!("most often the key is the app's own public key, where Alipay's (支付宝公钥) must be: compare it with the console{trade}"));
    hints.push("else the body was changed after it was posted: capture the raw bytes, before any framework, and compare the signing content with your own".to_owned());
    let _ = evidence;
    hints
}

fn content_of(pairs: &Pairs, version: Version) -> Vec<u8> {
    let mut signed: Vec<&(Vec<u8>, Vec<u8>)> = pairs
        .iter()
        .filter(|(name, value)| {
            let out = name == b"sign" || (name == b"sign_type" && version == Version::V1);
            !out && !value.is_empty()
        })
        .collect();
    signed.sort();
    let mut content = Vec::new();
    for (name, value) in signed {
        if !content.is_empty() {
            content.push(b'&');
        }
        content.extend_from_slice(name);
        content.push(b'=');
        content.extend_from_slice(value);
    }
    content
}

/// What a framework did, and how it is undone in one value.
type Mend = (&'static str, fn(&[u8], &[u8]) -> Vec<u8>);

const MENDS: [Mend; 6] = [
    ("the values are HTML-escaped (&quot; for a quotation mark)", |_, value| {
        let pairs =
            [("&quot;", "\""), ("&#34;", "\""), ("&#39;", "'"), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")];
        pairs.iter().fold(value.to_vec(), |value, (from, to)| replace(&value, from.as_bytes(), to.as_bytes()))
    }),
    ("the values have backslashes before quotation marks", |_, value| {
        let value = replace(value, b"\\\"", b"\"");
        replace(&replace(&value, b"\\/", b"/"), b"\\\\", b"\\")
    }),
    ("the body was encoded twice, so it must be decoded once more", |_, value| decode(value)),
    ("passback_params was decoded twice: it is signed still percent-encoded", |name, value| {
        if name == b"passback_params" { encode(value) } else { value.to_vec() }
    }),
    ("a plus sign in a text was turned into a space", |name, value| {
        if matches!(name, b"subject" | b"body" | b"passback_params") {
            replace(value, b" ", b"+")
        } else {
            value.to_vec()
        }
    }),
    ("a space in a text was turned into a plus sign", |name, value| {
        if name == b"sign" { value.to_vec() } else { replace(value, b"+", b" ") }
    }),
];

fn replace(value: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, tail)) = rest.split_first() {
        if let Some(behind) = rest.strip_prefix(from) {
            replaced.extend_from_slice(to);
            rest = behind;
        } else {
            replaced.push(*first);
            rest = tail;
        }
    }
    replaced
}

fn decode(value: &[u8]) -> Vec<u8> {
    let body = [b"v=".as_slice(), &replace(value, b"&", b"%26")].concat();
    Form::parse(&body)
        .ok()
        .and_then(|form| form.value("v").map(<[u8]>::to_vec))
        .unwrap_or_else(|| value.to_vec())
}

fn encode(value: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    for &byte in value {
        match byte {
            b'-' | b'_' | b'.' | b'*' => encoded.push(byte),
            b' ' => encoded.push(b'+'),
            _ if byte.is_ascii_alphanumeric() => encoded.push(byte),
            _ => encoded.extend_from_slice(format!("%{byte:02X}").as_bytes()),
        }
    }
    encoded
}
