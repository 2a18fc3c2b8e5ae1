//! Alipay's public keys: every format in the wild is read, and every key is judged before it is believed
//! (protocol.md §3). The commonest mistake of all is the app's own key in the place of Alipay's; a private key
//! in the wrong file is the worst. Both are refused by name.

pub mod opening;

use std::fmt;

use base64::Engine as _;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use rsa::PublicKey as RsaPublicKey;
use rsa::pkcs1::{DecodeRsaPrivateKey as _, DecodeRsaPublicKey as _};
use rsa::pkcs8::{
    DecodePrivateKey as _, DecodePublicKey as _, EncodePublicKey as _, PrivateKeyInfoRef,
    SubjectPublicKeyInfoRef,
};
use rsa::traits::PublicKeyParts as _;
use sha2::{Digest as _, Sha256};
use x509_cert::Certificate;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix::BasicConstraints;

use super::policy::SignType;
use super::signature::Verifier;
use crate::clock::Timestamp;

/// A public key that verifies notifications of one app.
#[derive(Debug, Clone)]
pub struct PublicKey {
    spki: Vec<u8>,
    fingerprint: String,
    signature_bytes: usize,
    expires_at: Option<Timestamp>,
    account: Option<String>,
    verifier: Verifier,
}

/// The keys that Alipay shares among all merchants whose `sign_type` is RSA (protocol.md §3; the fingerprints are
/// those of the keys that public integrations have carried since 2013).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shared {
    /// The partner gateway's (mapi), which old apps have too.
    Partner,
    /// The open platform's.
    OpenPlatform,
    /// The sandbox's.
    Sandbox,
}

/// Why a file is not a key that can be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// Neither PEM nor base64 nor DER of a public key or certificate.
    #[error("not a public key or certificate in any known format (PEM, bare base64, X.509)")]
    Unreadable,
    /// A private key.
    #[error(
        "this is a PRIVATE key; put Alipay's public key here, and treat a private key that was pasted \
         somewhere as leaked"
    )]
    Private,
    /// The certificate of the merchant's own app.
    #[error(
        "this is the certificate of the app itself (CN {0}); put Alipay's (alipayCertPublicKey_RSA2.crt) here"
    )]
    OwnCertificate(String),
    /// A certificate authority's certificate.
    #[error("this is a certificate authority's certificate (CN {0}), not the one that signs notifications")]
    Authority(String),
    /// A size that `sign_type` does not have.
    #[error("the key has {bits} bits; {sign_type} keys have {expected}")]
    Size {
        /// Bits of its modulus.
        bits: usize,
        /// The app's.
        sign_type: &'static str,
        /// In words.
        expected: &'static str,
    },
    /// A public exponent that makes forgeries thinkable.
    #[error("the key's public exponent is not 65537")]
    Exponent,
    /// A key of another algorithm than RSA.
    #[error("this is not an RSA key (but EC or SM2, say): only RSA2, and RSA where it is named, is verified")]
    Algorithm,
    /// The engine does not take it.
    #[error("the key is not a sound RSA key")]
    Unsound,
}

/// What is odd about a key, and no reason to refuse it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark(pub String);

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PublicKey {
    /// Reads the content of a key file (PEM, bare base64, DER, X.509 with the leaf first) and judges the key
    /// for `sign_type`.
    ///
    /// # Errors
    /// The first reason not to believe it.
    pub fn read(content: &[u8], app_id: &str, sign_type: SignType) -> Result<(Self, Vec<Remark>), KeyFault> {
        let mut remarks = Vec::new();
        let (mut expires_at, mut account) = (None, None);
        let key = match Document::read(content)? {
            Document::Key(key) => key,
            Document::Certificate(certificate) => {
                (account, expires_at) = judge_certificate(&certificate, app_id, &mut remarks)?;
                let spki = certificate.tbs_certificate().subject_public_key_info();
                let der = spki.to_der().map_err(|_| KeyFault::Unreadable)?;
                RsaPublicKey::from_public_key_der(&der).map_err(|_| KeyFault::Algorithm)?
            }
        };
        if has_more(content) {
            remarks.push(Remark(
                "only the first key in the file is read: a second one needs a file of its own".to_owned(),
            ));
        }
        judge(&key, sign_type)?;
        let spki = key.to_public_key_der().map_err(|_| KeyFault::Unsound)?.into_vec();
        let fingerprint = Sha256::digest(&spki).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let verifier = Verifier::new(&key, sign_type).ok_or(KeyFault::Unsound)?;
        Ok((Self { spki, fingerprint, signature_bytes: key.size(), expires_at, account, verifier }, remarks))
    }

    /// The first 12 hex digits of the SHA-256 of its SubjectPublicKeyInfo.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// How long a signature of this key is, in bytes.
    pub fn signature_bytes(&self) -> usize {
        self.signature_bytes
    }

    /// When its certificate ends, if it came in one. An expired certificate does not by itself refuse money.
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.expires_at
    }

    /// The account (PID) in the name of its certificate, if it came in one that names it.
    pub fn account(&self) -> Option<&str> {
        self.account.as_deref()
    }

    /// Which of the shared keys it is, if it is one.
    pub fn shared(&self) -> Option<Shared> {
        SHARED.iter().find(|(fingerprint, _)| *fingerprint == self.fingerprint).map(|(_, shared)| *shared)
    }

    /// Whether both believe the same signatures, whatever files they came in.
    pub fn is_same_key(&self, other: &Self) -> bool {
        self.spki == other.spki
    }

    /// Whether this is the public half of a private key, in any of the formats of a private key.
    pub fn is_half_of(&self, private: &[u8]) -> bool {
        let der = std::str::from_utf8(private).ok().and_then(base64_of).unwrap_or_else(|| private.to_vec());
        let key = rsa::PrivateKey::from_pkcs8_der(&der).or_else(|_| rsa::PrivateKey::from_pkcs1_der(&der));
        let spki = key.ok().and_then(|key| key.to_public_key().to_public_key_der().ok());
        spki.is_some_and(|spki| spki.as_bytes() == self.spki)
    }

    /// Whether `signature` is this key's over `content`.
    pub fn verifies(&self, content: &[u8], signature: &[u8]) -> bool {
        #[cfg(test)]
        VERIFICATIONS.with(|count| count.set(count.get() + 1));
        signature.len() == self.signature_bytes && self.verifier.verify(content, signature)
    }
}

/// With what its file says of it: a renewed certificate of the same key is another.
impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.is_same_key(other) && self.expires_at == other.expires_at && self.account == other.account
    }
}

impl Eq for PublicKey {}

enum Document {
    Key(RsaPublicKey),
    Certificate(Box<Certificate>),
}

impl Document {
    /// Strips armour and white space and tries each format (protocol.md §3: people's keys come in one line,
    /// wrapped, tab-indented, with PEM on one line, and without a final newline).
    fn read(content: &[u8]) -> Result<Self, KeyFault> {
        if let Ok(text) = std::str::from_utf8(content) {
            if text.contains("PRIVATE KEY") {
                return Err(KeyFault::Private);
            }
            let der = base64_of(text).ok_or(KeyFault::Unreadable)?;
            return Self::from_der(&der);
        }
        Self::from_der(content)
    }

    fn from_der(der: &[u8]) -> Result<Self, KeyFault> {
        if let Ok(key) = RsaPublicKey::from_public_key_der(der).or_else(|_| RsaPublicKey::from_pkcs1_der(der))
        {
            return Ok(Self::Key(key));
        }
        if let Ok(certificate) = Certificate::from_der(der) {
            return Ok(Self::Certificate(Box::new(certificate)));
        }
        let private =
            PrivateKeyInfoRef::from_der(der).is_ok() || rsa::PrivateKey::from_pkcs1_der(der).is_ok();
        let public = SubjectPublicKeyInfoRef::from_der(der).is_ok();
        Err(match () {
            () if private => KeyFault::Private,
            () if public => KeyFault::Algorithm,
            () => KeyFault::Unreadable,
        })
    }
}

/// The base64 between the first pair of armour lines, or of everything if there is no armour.
fn base64_of(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_start_matches('\u{feff}');
    let inside = match text.split_once("-----BEGIN") {
        None => text,
        Some((_, rest)) => rest.split_once("-----")?.1.split("-----END").next()?,
    };
    let compact: Vec<u8> = inside.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&ALPHABET, config).decode(compact).ok()
}

/// Whether a key or a certificate stands behind the first that is no link of the chain above it: somebody who rotates may
/// think that both are believed.
fn has_more(content: &[u8]) -> bool {
    let text = std::str::from_utf8(content).unwrap_or_default();
    text.match_indices("-----BEGIN").skip(1).any(|(at, _)| {
        let der = text.get(at..).and_then(base64_of).unwrap_or_default();
        !Certificate::from_der(&der).is_ok_and(|certificate| is_authority(&certificate))
    })
}

fn judge(key: &RsaPublicKey, sign_type: SignType) -> Result<(), KeyFault> {
    let bits = key.n().bit_width() as usize;
    let (sizes, expected): (&[usize], _) = match sign_type {
        SignType::Rsa2 => (&[2048, 3072, 4096], "2048"),
        SignType::Rsa => (&[1024, 2048], "1024 or 2048"),
    };
    if !sizes.contains(&bits) {
        return Err(KeyFault::Size { bits, sign_type: sign_type.as_str(), expected });
    }
    // e = 3 lets a cube root pass for a signature where padding is checked carelessly (attacks.md 11). Every
    // key of Alipay's that was ever seen has 65537.
    let exponent = key.e().to_be_bytes_trimmed_vartime();
    if exponent.as_ref() == [1, 0, 1] { Ok(()) } else { Err(KeyFault::Exponent) }
}

fn judge_certificate(
    certificate: &Certificate,
    app_id: &str,
    remarks: &mut Vec<Remark>,
) -> Result<(Option<String>, Option<Timestamp>), KeyFault> {
    let subject = certificate.tbs_certificate().subject();
    let name = subject.common_name().ok().flatten().map(|name| name.value().into_owned()).unwrap_or_default();
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    // Alipay's leaf: `支付宝(中国)网络技术有限公司-<PID>`; the app's own: `<PID>-<APPID>`.
    if let Some((account, app)) = name.split_once('-')
        && is_number(account)
        && is_number(app)
    {
        return Err(KeyFault::OwnCertificate(name));
    }
    if is_authority(certificate) {
        return Err(KeyFault::Authority(name));
    }
    if !name.starts_with(ALIPAY_NAME) {
        remarks.push(Remark(format!("app {app_id}: the certificate's name {name:?} is not Alipay's")));
    }
    let account = name.rsplit_once('-').map(|(_, account)| account.to_owned()).filter(|id| is_number(id));
    let ends = certificate.tbs_certificate().validity().not_after.to_unix_duration();
    let ends = Timestamp::from_unix_millis(i64::try_from(ends.as_millis()).unwrap_or(i64::MAX));
    Ok((account, Some(ends)))
}

/// `alipayRootCert.crt`, and whatever stands behind the leaf in a chain: Alipay's leaf is neither an authority nor of
/// its own making.
fn is_authority(certificate: &Certificate) -> bool {
    let certificate = certificate.tbs_certificate();
    let constraints = certificate.get_extension::<BasicConstraints>().ok().flatten();
    constraints.is_some_and(|(_, constraints)| constraints.ca)
        || certificate.subject() == certificate.issuer()
}

const SHARED: [(&str, Shared); 3] = [
    ("ce187c187219", Shared::Partner),
    ("fa58f09666e8", Shared::OpenPlatform),
    ("f95fbb9545e7", Shared::Sandbox),
];
/// How the CN of Alipay's own leaf certificates begins, in production and in the sandbox.
const ALIPAY_NAME: &str = "支付宝(中国)网络技术有限公司";

#[cfg(test)]
thread_local! {
    /// How many signatures were verified by this thread: what a stranger can make us spend.
    pub(crate) static VERIFICATIONS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

#[cfg(test)]
mod tests;
