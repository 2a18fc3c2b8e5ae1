//! The things that go wrong between Alipay's signing and a verification (protocol.md §8). What they are called is
//! `english`'s and `chinese`'s.

use crate::admission::policy::SignType;

/// Something that explains what is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cause {
    /// There is no `sign`.
    NoSign,
    /// `sign` is no base64 as it stands; repaired in this way, it is a signature.
    SignDamaged(Damage),
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
    /// `sign` is an MD5 digest.
    Md5,
    /// `sign_type` says SM2, which is not verified here.
    Sm2,
    /// The sandbox's apps have numbers of their own.
    SandboxApp,
}

/// What somebody did to the signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Damage {
    /// `+` became a space.
    PlusLost,
    /// White space came into it.
    WhiteSpace,
    /// It was percent-encoded once too often.
    EncodedTwice,
    /// Both.
    EncodedTwiceAndPlusLost,
    /// `-` and `_` stand for `+` and `/`.
    UrlSafe,
    /// `=` is missing.
    PaddingLost,
    /// `=` is missing, and `+` became a space.
    PaddingAndPlusLost,
    /// `-` and `_`, and no `=`.
    UrlSafeWithoutPadding,
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
    /// A byte-order mark came before the body.
    ByteOrderMark,
    /// JSON in a value was written anew.
    JsonRewritten,
}
