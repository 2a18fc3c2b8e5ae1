//! Signing, as Alipay does it for `simulate`, and as a merchant does it for `keygen` and `pay-link`: keys, signing
//! content, forms. Written from protocol.md §2 and apart from `admission`, so that the one can find a mistake in the
//! other.
//!
//! Never part of `serve`.

pub mod merchant_key;
pub mod notification;
pub mod page_pay;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rsa::PrivateKey;
use rsa::pkcs1::{DecodeRsaPrivateKey as _, EncodeRsaPrivateKey as _};
use rsa::pkcs1v15::SigningKey;
use rsa::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, EncodePublicKey as _, LineEnding};
use rsa::signature::{SignatureEncoding as _, Signer as _};
use rsa::traits::PublicKeyParts as _;
use sha2::Sha256;

/// A private key that signs as Alipay does (RSA2).
#[derive(Clone)]
pub struct Signer {
    key: PrivateKey,
    signing: SigningKey<Sha256>,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// Neither PKCS#8 nor PKCS#1, neither PEM nor bare base64.
    #[error("not an RSA private key (PKCS#8 or PKCS#1, PEM or bare base64)")]
    Unreadable,
    /// The machine has no randomness, or a key cannot be written down.
    #[error("no key could be made: {0}")]
    Unmade(String),
}

impl Signer {
    /// Makes a key of 2048 bits.
    ///
    /// # Errors
    /// If the machine has no randomness.
    pub fn generate() -> Result<Self, SignerError> {
        let key = PrivateKey::new(&mut rand::rng(), 2048)
            .map_err(|error| SignerError::Unmade(error.to_string()))?;
        Ok(Self::of(key))
    }

    /// Reads a key.
    ///
    /// # Errors
    /// If it is none.
    pub fn read(text: &str) -> Result<Self, SignerError> {
        let der = der(text).ok_or(SignerError::Unreadable)?;
        let key = PrivateKey::from_pkcs8_der(&der).or_else(|_| PrivateKey::from_pkcs1_der(&der));
        key.map(Self::of).map_err(|_| SignerError::Unreadable)
    }

    /// The private key, PKCS#8 PEM.
    ///
    /// # Errors
    /// If it cannot be written down.
    pub fn private_pem(&self) -> Result<String, SignerError> {
        let pem =
            self.key.to_pkcs8_pem(LineEnding::LF).map_err(|error| SignerError::Unmade(error.to_string()))?;
        Ok(pem.to_string())
    }

    /// The private key, PKCS#1 PEM: what the SDKs of Node.js, Python, PHP and Go want.
    ///
    /// # Errors
    /// If it cannot be written down.
    pub fn private_pkcs1_pem(&self) -> Result<String, SignerError> {
        let pem =
            self.key.to_pkcs1_pem(LineEnding::LF).map_err(|error| SignerError::Unmade(error.to_string()))?;
        Ok(pem.to_string())
    }

    /// The public key as Alipay's console wants it: base64 on one line, without armour.
    ///
    /// # Errors
    /// If it cannot be written down.
    pub fn public_line(&self) -> Result<String, SignerError> {
        let der = self.key.to_public_key().to_public_key_der();
        der.map(|der| STANDARD.encode(der.as_bytes())).map_err(|error| SignerError::Unmade(error.to_string()))
    }

    /// The public key, PEM.
    ///
    /// # Errors
    /// If it cannot be written down.
    pub fn public_pem(&self) -> Result<String, SignerError> {
        let pem = self.key.to_public_key().to_public_key_pem(LineEnding::LF);
        pem.map_err(|error| SignerError::Unmade(error.to_string()))
    }

    /// How long the key is.
    pub fn bits(&self) -> usize {
        self.key.size() * 8
    }

    /// The signature over `content`, in base64.
    pub fn sign(&self, content: &[u8]) -> String {
        STANDARD.encode(self.signing.sign(content).to_bytes())
    }

    fn of(key: PrivateKey) -> Self {
        Self { signing: SigningKey::new(key.clone()), key }
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer(***)")
    }
}

/// What is inside of a PEM, or of bare base64.
fn der(text: &str) -> Option<Vec<u8>> {
    let inside = match text.split_once("-----BEGIN") {
        // A byte order mark is no base64.
        None => text.trim_start_matches('\u{feff}'),
        Some((_, rest)) => rest.split_once("-----").and_then(|(_, rest)| rest.split("-----END").next())?,
    };
    let compact: String = inside.chars().filter(|character| !character.is_whitespace()).collect();
    STANDARD.decode(compact).ok()
}

/// The bytes that Alipay signs (V1): everything but `sign` and `sign_type`, by name, empty values left out.
pub fn signing_content(fields: &[(String, String)]) -> String {
    let mut signed: Vec<&(String, String)> = fields
        .iter()
        .filter(|(name, value)| name != "sign" && name != "sign_type" && !value.is_empty())
        .collect();
    signed.sort();
    signed.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_written_down_is_read_again() {
        let signer = Signer::generate().unwrap();
        let pem = signer.private_pem().unwrap();
        let bare: String = pem.lines().filter(|line| !line.starts_with("---")).collect();
        let windows = format!("\u{feff}{}", pem.replace('\n', "\r\n"));
        let marked = format!("\u{feff}{bare}\r\n");
        for text in [pem, bare, signer.private_pkcs1_pem().unwrap(), windows, marked] {
            assert_eq!(Signer::read(&text).unwrap().sign(b"x"), signer.sign(b"x"));
        }
        assert!(Signer::read("hello").is_err());
        assert!(Signer::read(&signer.public_pem().unwrap()).is_err());
    }

    #[test]
    fn the_content_is_sorted_and_leaves_out_what_is_not_signed() {
        let fields = [("b", "2"), ("sign_type", "RSA2"), ("a", " 1 "), ("c", ""), ("sign", "x")];
        let fields: Vec<_> = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        assert_eq!(signing_content(&fields), "a= 1 &b=2");
    }
}
