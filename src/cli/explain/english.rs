//! The words of `explain` in English.

use super::capture::Shape;
use super::cause::{Cause, Damage, Mistake};
use super::judgement::Reason;
use super::language::Labels;
use crate::admission::Rejection;
use crate::admission::acceptance::Objection;
use crate::admission::form::FormError;
use crate::admission::signing_content::Version;

/// The labels of the screen.
pub(super) const LABELS: Labels = Labels {
    signature: "signature   ",
    announces: "announces   ",
    event_id: "event id    ",
    reason: "reason      ",
    nothing: "nothing",
    not_verified: "does NOT verify",
};

/// How the signature verified.
pub(super) fn authentic(fingerprint: &str, version: Version) -> String {
    let version = match version {
        Version::V1 => "V1: without sign and sign_type",
        Version::V2 => "V2: without sign",
    };
    format!("authentic, by key {fingerprint} ({version})")
}

/// Above the signing content.
pub(super) fn heading(bytes: usize, hidden: bool) -> String {
    let hidden = if hidden { ", who the buyer is hidden" } else { "" };
    format!("signing content, {bytes} bytes, joined with `&` (escaped here{hidden}):")
}

/// In the place of a buyer's data.
pub(super) fn hidden(bytes: usize) -> String {
    format!("({bytes} bytes, hidden)")
}

/// Behind the beginning of a long value.
pub(super) fn of_length(characters: usize) -> String {
    format!("({characters} characters)")
}

/// Behind as many lines as a screen has.
pub(super) fn left_out(more: usize) -> String {
    format!("({more} more, in the JSON)")
}

/// Why nothing is announced.
pub(super) fn reason(reason: Reason) -> String {
    match reason {
        Reason::Rejected(rejection) => rejection.to_string(),
        Reason::Held(objection) => objection.to_string(),
    }
}

/// What was captured, where it is not a body.
pub(super) fn shape(shape: Shape) -> &'static str {
    match shape {
        Shape::Request => "This was read from a whole request: what comes behind its head was judged.",
        Shape::Json => {
            "This was read from JSON, which is not what Alipay sends: the parameters in it were judged as if they had \
             come in a form."
        }
        Shape::Dump => {
            "This was read from a program's dump, which is not what Alipay sends: the parameters in it were judged as \
             if they had come in a form."
        }
        Shape::Encoded => {
            "The whole body was percent-encoded once more, as programs do that write it into a log: decoded once, it was \
             judged. Alipay does not send it so."
        }
        Shape::LogLine => "This was read from a line of a log: what looks like the body in it was judged.",
    }
}

fn damaged(damage: Damage) -> &'static str {
    match damage {
        Damage::PlusLost => "each `+` in it became a space",
        Damage::WhiteSpace => "white space came into it",
        Damage::EncodedTwice => "it was percent-encoded once too often",
        Damage::EncodedTwiceAndPlusLost => {
            "it was percent-encoded once too often, and each `+` became a space"
        }
        Damage::UrlSafe => "it was put into the URL-safe alphabet",
        Damage::PaddingLost => "its padding was lost",
        Damage::PaddingAndPlusLost => "its padding was lost and each `+` became a space",
        Damage::UrlSafeWithoutPadding => "it was put into the URL-safe alphabet, without padding",
    }
}

/// What was done to the content.
fn mistake(mistake: &Mistake) -> String {
    match mistake {
        Mistake::HtmlEscaped => "values were HTML-escaped (`&quot;` for `\"`)".to_owned(),
        Mistake::HtmlUnescaped(name) => format!("`{name}` was HTML-unescaped"),
        Mistake::Backslashes => "values were escaped with backslashes (`\\\"` for `\"`)".to_owned(),
        Mistake::PlusLost(names) => format!("`+` became a space in {}", list(names)),
        Mistake::SpaceBecamePlus(names) => format!("a space became `+` in {}", list(names)),
        Mistake::EncodedTwice(names) => format!("percent-encoded once too often: {}", list(names)),
        Mistake::DecodedTwice(name) => {
            format!("`{name}` was percent-decoded twice (Alipay signs it as the merchant encoded it)")
        }
        Mistake::SplitAfterDecoding(names) => format!(
            "the whole body was decoded before it was split at `&`: {} belong to the value before them",
            list(names)
        ),
        Mistake::FromGbk => "the values were converted from GBK to UTF-8 before verifying".to_owned(),
        Mistake::FromUtf8 => "the values were converted from UTF-8 to GBK before verifying".to_owned(),
        Mistake::Mojibake => "the UTF-8 values were read as Latin-1".to_owned(),
        Mistake::Trimmed(name) => format!("white space was trimmed from `{name}`"),
        Mistake::Padded(names) => format!("white space was added to {}", list(names)),
        Mistake::Added(names) => format!("{} added: Alipay did not send it", list(names)),
        Mistake::EmptyLost(name) => {
            format!("`{name}` was dropped, which Alipay signed with an empty value")
        }
        Mistake::Amounts => "amounts were read as numbers and lost their decimals".to_owned(),
        Mistake::ByteOrderMark => "a byte-order mark was put before the body".to_owned(),
        Mistake::JsonRewritten => "the JSON in a value was parsed and written anew".to_owned(),
    }
}

fn wrong_length(bytes: usize, keys: &[usize]) -> String {
    format!(
        "The signature has {bytes} bytes; {} would have {}: it is cut, or made with a key of another size (RSA2: 256 \
         bytes, RSA with an old key: 128).",
        if keys.len() == 1 { "one of the key given" } else { "those of the keys given" },
        keys.iter().map(usize::to_string).collect::<Vec<_>>().join(" or ")
    )
}

/// Why it does not verify.
pub(super) fn cause(cause: &Cause) -> String {
    match cause {
        Cause::NoSign => "There is no `sign`: nothing can be verified. Capture the whole body.".to_owned(),
        Cause::SignDamaged(damage) => {
            format!("`sign` was damaged on the way: {}. Capture the raw body.", damaged(*damage))
        }
        Cause::SignUnreadable => {
            "`sign` is not base64, and neither restoring `+` nor padding makes it so: it was cut or altered."
                .to_owned()
        }
        Cause::SignLength { bytes, keys } => wrong_length(*bytes, keys),
        Cause::OtherKey { app_id } => format!(
            "None of the keys made this signature, or its own bytes were damaged; the content does not \
                 matter here. The commonest reason of all: the app's OWN public key was taken in the place of \
                 ALIPAY's (支付宝公钥, or alipayCertPublicKey_RSA2.crt, in the console of app {}). Then: a \
                 sandbox key for production or the reverse, or a key from before a rotation.",
            app_id.as_deref().unwrap_or("(none named)")
        ),
        Cause::KeyOfApp { app_id, environment } => format!(
            "The key of the configured app {app_id} ({environment}) made this signature, and no key of the app that \
                 it is judged for: it is that app's notification, or two apps' keys or environments are mixed up."
        ),
        Cause::OtherHash { signed_with } => format!(
            "The key is right, but the signature was made with sign_type {}, not with the one that is \
                 expected. Choose RSA2 in Alipay's console, or name this sign_type in the app's configuration.",
            signed_with.as_str()
        ),
        Cause::Undone(mistakes) => {
            let told: Vec<String> = mistakes.iter().map(mistake).collect();
            format!(
                "The key is right, and the signature verifies once this is undone: {}.",
                told.join("; and ")
            )
        }
        Cause::Altered => {
            "The key is right and the signature is whole, but the content is not what Alipay signed: a \
                 value was changed, added or lost, by none of the usual mistakes. If this is not a forgery, \
                 capture the raw request body before any framework has touched it."
                .to_owned()
        }
        Cause::NotPlain => {
            "The key is right, and the signature verifies, but the capture is not plainly a form: something \
                 was added around it or un-escaped in it. Capture the raw body."
                .to_owned()
        }
        Cause::V2 => {
            "It verifies with `sign_type` in the signing content (V2), as application-gateway traffic is \
                 signed: such a notification is never a trade, whatever fields it carries, and `serve` does \
                 not announce it as one."
                .to_owned()
        }
        Cause::Replaced(name) => format!(
            "`{name}` holds a replacement character: the body was decoded in a wrong charset, and what was \
                 signed cannot be recovered from this capture. Verify over the raw bytes."
        ),
        Cause::Md5 => {
            "`sign` is an MD5 digest, made with a secret shared by Alipay and the merchant, as the old partner interface \
             had it: no public key verifies it."
                .to_owned()
        }
        Cause::Sm2 => {
            "The body says sign_type SM2: this gateway verifies RSA2, and RSA where it is named. Choose RSA2 in Alipay's \
             console."
                .to_owned()
        }
        Cause::SandboxApp => {
            "The app's number is one of the sandbox: its notifications need the sandbox's key, and \
                 environment = \"sandbox\"."
                .to_owned()
        }
    }
}

/// What to do about a reason for which nothing is announced.
pub(super) fn advice(rejection: Rejection) -> &'static str {
    match rejection {
        Rejection::Malformed(error) => malformed(error),
        Rejection::Partner => {
            "Move the integration to an app (app_id); the partner interface is not supported."
        }
        Rejection::NoAppId => "A notification of an app names its app_id: was the whole body captured?",
        Rejection::UnknownApp => "Add the app under [[apps]], or leave its notify URL off this gateway.",
        Rejection::SignType => {
            "sign_type itself is unsigned, so it chooses nothing: pin the right one for the app (sign_type = \
             \"RSA2\", or \"RSA\" only by naming it)."
        }
        Rejection::NoSignature => "Every notification has a `sign`: was the whole body captured?",
        Rejection::SignatureForm => "`sign` must be plain base64 of exactly the key's length.",
        Rejection::MissingField(_) => "Alipay always sends this field: a part of the body is missing.",
        Rejection::ShadowKey => {
            "Alipay signs with the key that is in shadow_public_keys: move it to alipay_public_keys, and keep the \
             old one beside it for 26 h."
        }
        Rejection::Signature => "`serve` does not take this signature for a notification of this kind.",
        Rejection::ReturnUrl => {
            "The browser brings this to return_url; payment is announced by the notification to notify_url, \
             which is another request."
        }
    }
}

fn malformed(error: FormError) -> &'static str {
    match error {
        FormError::Empty => "Give the body of the POST request, in a FILE or on standard input.",
        FormError::Nameless | FormError::BadName | FormError::BadEscape => {
            "The raw body of the request is needed, still percent-encoded, as Alipay sent it."
        }
        FormError::Doubled => {
            "Alipay sends each name once: query parameters were merged into the body, or somebody is trying."
        }
        FormError::TooMany => "No real notification has a tenth of this many.",
    }
}

/// What to do about a notification that is held.
pub(super) fn held(objection: Objection) -> &'static str {
    match objection {
        Objection::Seller => "Name the seller in the app's seller_ids if it is yours.",
        Objection::Grammar(_) | Objection::Ambiguous(_) => {
            "The signature is genuine, and what the field says is not certain: look at the trade in Alipay's \
             console, then release or drop it."
        }
        Objection::Stale => {
            "Each genuine delivery has a new notify_time: this one was kept and sent again, or a clock is wrong."
        }
    }
}

fn list(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}
