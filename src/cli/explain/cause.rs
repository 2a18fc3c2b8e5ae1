//! The things that go wrong between Alipay's signing and a verification, in plain words (protocol.md §8).

use std::fmt;

use crate::admission::Rejection;
use crate::admission::acceptance::Objection;
use crate::admission::form::FormError;
use crate::admission::policy::SignType;

/// Something that explains what is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cause {
    /// There is no `sign`.
    NoSign,
    /// `sign` is no base64 as it stands; repaired in this way, it is a signature.
    SignDamaged(&'static str),
    /// `sign` is no base64, and nothing makes it so.
    SignUnreadable,
    /// The signature is longer or shorter than every key given.
    SignLength { bytes: usize, keys: Vec<usize> },
    /// None of the keys made this signature.
    OtherKey { app_id: Option<String> },
    /// A configured app's key made it, and not one of those that were asked.
    KeyOfApp { app_id: String, environment: &'static str },
    /// The key is right and the hash is not.
    OtherHash { signed_with: SignType },
    /// The key is right, and the content is restored by undoing these.
    Undone(Vec<Mistake>),
    /// The key is right, and the content is not what was signed.
    Altered,
    /// Read leniently it verifies; strictly it is no form.
    NotPlain,
    /// The content verifies with `sign_type` in it, which is not done for this kind.
    V2,
    /// A character was replaced when the body was decoded in a wrong charset.
    Replaced(String),
    /// The sandbox's apps have numbers of their own.
    SandboxApp,
}

/// What somebody did to the content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mistake {
    /// `"` became `&quot;`.
    HtmlEscaped,
    /// `&quot;` became `"`.
    HtmlUnescaped(String),
    /// `"` became `\"`.
    Backslashes,
    /// `+` became a space.
    PlusLost(Vec<String>),
    /// A space became `+`.
    SpaceBecamePlus(Vec<String>),
    /// Values were percent-encoded once more.
    EncodedTwice(Vec<String>),
    /// A value was percent-decoded once more.
    DecodedTwice(String),
    /// The whole body was un-escaped, and then split.
    SplitAfterDecoding(Vec<String>),
    /// Bytes in GBK were made UTF-8.
    FromGbk,
    /// Bytes in UTF-8 were made GBK.
    FromUtf8,
    /// UTF-8 was read as Latin-1.
    Mojibake,
    /// White space at an end was cut off.
    Trimmed(String),
    /// White space came to an end.
    Padded(Vec<String>),
    /// Parameters that Alipay did not send.
    Added(Vec<String>),
    /// A parameter with an empty value is missing.
    EmptyLost(String),
    /// Amounts lost their decimals.
    Amounts,
    /// JSON in a value was written anew.
    JsonRewritten,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HtmlEscaped => f.write_str("values were HTML-escaped (`&quot;` for `\"`)"),
            Self::HtmlUnescaped(name) => write!(f, "`{name}` was HTML-unescaped"),
            Self::Backslashes => f.write_str("values were escaped with backslashes (`\\\"` for `\"`)"),
            Self::PlusLost(names) => write!(f, "`+` became a space in {}", list(names)),
            Self::SpaceBecamePlus(names) => write!(f, "a space became `+` in {}", list(names)),
            Self::EncodedTwice(names) => write!(f, "percent-encoded once too often: {}", list(names)),
            Self::DecodedTwice(name) => {
                write!(f, "`{name}` was percent-decoded twice (Alipay signs it as the merchant encoded it)")
            }
            Self::SplitAfterDecoding(names) => write!(
                f,
                "the whole body was decoded before it was split at `&`: {} belong to the value before them",
                list(names)
            ),
            Self::FromGbk => f.write_str("the values were converted from GBK to UTF-8 before verifying"),
            Self::FromUtf8 => f.write_str("the values were converted from UTF-8 to GBK before verifying"),
            Self::Mojibake => f.write_str("the UTF-8 values were read as Latin-1"),
            Self::Trimmed(name) => write!(f, "white space was trimmed from `{name}`"),
            Self::Padded(names) => write!(f, "white space was added to {}", list(names)),
            Self::Added(names) => write!(f, "{} added: Alipay did not send it", list(names)),
            Self::EmptyLost(name) => {
                write!(f, "`{name}` was dropped, which Alipay signed with an empty value")
            }
            Self::Amounts => f.write_str("amounts were read as numbers and lost their decimals"),
            Self::JsonRewritten => f.write_str("the JSON in a value was parsed and written anew"),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSign => f.write_str("There is no `sign`: nothing can be verified. Capture the whole body."),
            Self::SignDamaged(how) => write!(f, "`sign` was damaged on the way: {how}. Capture the raw body."),
            Self::SignUnreadable => f.write_str(
                "`sign` is not base64, and neither restoring `+` nor padding makes it so: it was cut or altered.",
            ),
            Self::SignLength { bytes, keys } => write!(
                f,
                "The signature has {bytes} bytes; {} would have {}: it is cut, or made with a key of another \
                 size (RSA2: 256 bytes, RSA with an old key: 128).",
                if keys.len() == 1 { "one of the key given" } else { "those of the keys given" },
                keys.iter().map(usize::to_string).collect::<Vec<_>>().join(" or ")
            ),
            Self::OtherKey { app_id } => write!(
                f,
                "None of the keys made this signature, or its own bytes were damaged; the content does not \
                 matter here. The commonest reason of all: the app's OWN public key was taken in the place of \
                 ALIPAY's (支付宝公钥, or alipayCertPublicKey_RSA2.crt, in the console of app {}). Then: a \
                 sandbox key for production or the reverse, or a key from before a rotation.",
                app_id.as_deref().unwrap_or("(none named)")
            ),
            Self::KeyOfApp { app_id, environment } => write!(
                f,
                "The key of the configured app {app_id} ({environment}) made this signature, not the key of \
                 the app that the body names: two apps' keys, or their environments, are mixed up."
            ),
            Self::OtherHash { signed_with } => write!(
                f,
                "The key is right, but the signature was made with sign_type {}, not with the one that is \
                 expected. Choose RSA2 in Alipay's console, or name this sign_type in the app's configuration.",
                signed_with.as_str()
            ),
            Self::Undone(mistakes) => {
                f.write_str("The key is right, and the signature verifies once this is undone: ")?;
                let told: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
                write!(f, "{}.", told.join("; and "))
            }
            Self::Altered => f.write_str(
                "The key is right and the signature is whole, but the content is not what Alipay signed: a \
                 value was changed, added or lost, by none of the usual mistakes. If this is not a forgery, \
                 capture the raw request body before any framework has touched it.",
            ),
            Self::NotPlain => f.write_str(
                "The key is right, and the signature verifies, but the capture is not plainly a form: something \
                 was added around it or un-escaped in it. Capture the raw body.",
            ),
            Self::V2 => f.write_str(
                "It verifies with `sign_type` in the signing content (V2), as application-gateway traffic is \
                 signed: such a notification is never a trade, whatever fields it carries, and `serve` does \
                 not announce it as one.",
            ),
            Self::Replaced(name) => write!(
                f,
                "`{name}` holds a replacement character: the body was decoded in a wrong charset, and what was \
                 signed cannot be recovered from this capture. Verify over the raw bytes."
            ),
            Self::SandboxApp => f.write_str(
                "The app's number is one of the sandbox: its notifications need the sandbox's key, and \
                 environment = \"sandbox\".",
            ),
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
