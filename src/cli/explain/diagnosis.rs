//! Why a body does not verify. A signature that opens with a key tells the digest of what was signed, so the
//! key is known to be right or wrong before anything is guessed about the content; and what is then guessed is
//! proven by that digest, or not said. What cannot be proven is worded as what it is: the likeliest reason.

mod undoing;

use super::cause::{Cause, Damage};
use super::parameters::{Parameters, decode_escapes};
use crate::admission::key_ring::PublicKey;
use crate::admission::key_ring::opening::Opened;
use crate::admission::policy::{App, SignType};
use crate::admission::signature;
use crate::admission::signing_content::Version;

/// What the diagnosis goes by.
#[derive(Debug)]
pub(super) struct Evidence<'a> {
    /// The capture.
    pub(super) body: &'a [u8],
    /// The keys that did not verify it.
    pub(super) keys: &'a [PublicKey],
    /// The hash that they verify with.
    pub(super) sign_type: SignType,
    /// Every configured app.
    pub(super) apps: Vec<&'a App>,
}

/// Every cause that was found, the surest first. Never empty.
pub(super) fn diagnose(evidence: &Evidence<'_>) -> Vec<Cause> {
    let parameters = Parameters::lenient(evidence.body);
    let Some(sign) = parameters.value("sign") else { return vec![Cause::NoSign] };
    let mut causes = Vec::new();
    if parameters.value("sign_type") == Some(b"SM2") {
        causes.push(Cause::Sm2);
    }
    if sign.len() == 32 && sign.iter().all(u8::is_ascii_hexdigit) {
        causes.push(Cause::Md5);
        return causes;
    }
    let Some((repair, signature)) = read_signature(sign, evidence) else {
        causes.push(Cause::SignUnreadable);
        return causes;
    };
    causes.extend(repair.map(Cause::SignDamaged));
    match evidence.keys.iter().find_map(|key| key.open(&signature)) {
        Some(opened) => diagnose_content(evidence, &parameters, &opened, &mut causes),
        None => diagnose_key(evidence, &parameters, &signature, &mut causes),
    }
    causes
}

/// `sign` as bytes, and what had to be done to it.
fn read_signature(sign: &[u8], evidence: &Evidence<'_>) -> Option<(Option<Damage>, Vec<u8>)> {
    let plus: Vec<u8> = sign.iter().map(|byte| if *byte == b' ' { b'+' } else { *byte }).collect();
    let tight: Vec<u8> = sign.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let standard = |bytes: &[u8]| -> Vec<u8> {
        let swapped = bytes.iter().map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            other => *other,
        });
        swapped.collect()
    };
    let attempts = [
        (None, sign.to_vec()),
        (Some(Damage::PlusLost), plus.clone()),
        (Some(Damage::WhiteSpace), tight),
        (Some(Damage::EncodedTwice), decode_escapes(sign)),
        (Some(Damage::EncodedTwiceAndPlusLost), decode_escapes(&plus)),
        (Some(Damage::UrlSafe), standard(sign)),
        (Some(Damage::PaddingLost), padded(sign)),
        (Some(Damage::PaddingAndPlusLost), padded(&plus)),
        (Some(Damage::UrlSafeWithoutPadding), padded(&standard(sign))),
    ];
    let mut readable: Vec<_> =
        attempts.into_iter().filter_map(|(how, text)| Some((how, signature::decode(&text)?))).collect();
    let opens = |bytes: &[u8]| {
        let all = evidence.apps.iter().flat_map(|app| &app.keys);
        evidence.keys.iter().chain(all).any(|key| key.open(bytes).is_some())
    };
    // A repair is believed only if what comes out is somebody's signature.
    let best = readable.iter().position(|(how, bytes)| how.is_none() || opens(bytes))?;
    Some(readable.swap_remove(best))
}

fn padded(sign: &[u8]) -> Vec<u8> {
    let mut padded: Vec<u8> = sign.iter().copied().filter(|byte| *byte != b'=').collect();
    while !padded.len().is_multiple_of(4) {
        padded.push(b'=');
    }
    padded
}

/// No key opens it: the content is beside the point.
fn diagnose_key(evidence: &Evidence<'_>, parameters: &Parameters, signature: &[u8], causes: &mut Vec<Cause>) {
    let owner = evidence.apps.iter().find(|app| app.keys.iter().any(|key| key.open(signature).is_some()));
    if let Some(app) = owner {
        let environment = app.environment.as_str();
        causes.push(Cause::KeyOfApp { app_id: app.app_id.clone(), environment });
        return;
    }
    let mut sizes: Vec<usize> = evidence.keys.iter().map(PublicKey::signature_bytes).collect();
    sizes.sort_unstable();
    sizes.dedup();
    if !sizes.is_empty() && !sizes.contains(&signature.len()) {
        causes.push(Cause::SignLength { bytes: signature.len(), keys: sizes });
        return;
    }
    let app_id = parameters.value("app_id").and_then(|id| String::from_utf8(id.to_vec()).ok());
    // The sandbox's newer apps are 9021…; older ones cannot be told from production's by their number.
    if app_id.as_deref().is_some_and(|id| id.starts_with("9021")) {
        causes.push(Cause::SandboxApp);
    }
    let printable = app_id.filter(|id| id.len() <= 32 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    causes.push(Cause::OtherKey { app_id: printable });
}

/// A key opens it: what was signed is known by its digest.
fn diagnose_content(
    evidence: &Evidence<'_>,
    parameters: &Parameters,
    opened: &Opened,
    causes: &mut Vec<Cause>,
) {
    if opened.hash() != evidence.sign_type {
        causes.push(Cause::OtherHash { signed_with: opened.hash() });
    }
    let Some((mistakes, version)) = undoing::search(evidence.body, parameters, opened) else {
        let replaced = parameters.signed().find(|(_, value)| was_replaced(value));
        causes.extend(replaced.map(|(name, _)| Cause::Replaced(told(name))));
        causes.push(Cause::Altered);
        return;
    };
    if !mistakes.is_empty() {
        causes.push(Cause::Undone(mistakes));
    }
    let is_gateway_traffic = parameters.value("service").or_else(|| parameters.value("method")).is_some();
    if version == Version::V2 && !is_gateway_traffic {
        causes.push(Cause::V2);
    }
    if causes.is_empty() {
        causes.push(Cause::NotPlain);
    }
}

fn was_replaced(value: &[u8]) -> bool {
    let text = std::str::from_utf8(value).unwrap_or_default();
    text.contains('\u{fffd}') || text.contains("锟斤拷") || text.contains("???")
}

/// A name for people: it may be anything at all.
fn told(name: &[u8]) -> String {
    let plain = name.iter().map(|byte| match byte {
        b' '..=b'~' => char::from(*byte),
        _ => '·',
    });
    plain.take(MAX_NAME).collect()
}

/// Bound: how much of a name is shown.
const MAX_NAME: usize = 40;
