//! A merchant's public key, as Alipay has it from its console: verifies the requests that the merchant signed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rsa::PublicKey;
use rsa::pkcs1::{DecodeRsaPrivateKey as _, DecodeRsaPublicKey as _};
use rsa::pkcs1v15::{Signature, VerifyingKey};
use rsa::pkcs8::{DecodePrivateKey as _, DecodePublicKey as _};
use rsa::signature::Verifier as _;
use rsa::traits::PublicKeyParts as _;
use sha1::Sha1;
use sha2::Sha256;

/// The key.
#[derive(Debug, Clone)]
pub struct MerchantKey {
    bytes: usize,
    sha256: VerifyingKey<Sha256>,
    sha1: VerifyingKey<Sha1>,
}

/// Why there is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MerchantKeyError {
    /// No public key.
    #[error("not an RSA public key (PEM, or base64 on one line)")]
    Unreadable,
    /// A private key, which nobody but the merchant may have.
    #[error("this is a PRIVATE key; the public one belongs here (keygen writes it as app-public.pem)")]
    Private,
}

impl MerchantKey {
    /// Reads a key.
    ///
    /// # Errors
    /// If it is none, or a private one.
    pub fn read(text: &str) -> Result<Self, MerchantKeyError> {
        let der = super::der(text).ok_or(MerchantKeyError::Unreadable)?;
        if rsa::PrivateKey::from_pkcs8_der(&der).is_ok() || rsa::PrivateKey::from_pkcs1_der(&der).is_ok() {
            return Err(MerchantKeyError::Private);
        }
        let key = PublicKey::from_public_key_der(&der).or_else(|_| PublicKey::from_pkcs1_der(&der));
        let key = key.map_err(|_| MerchantKeyError::Unreadable)?;
        let (sha256, sha1) = (VerifyingKey::new(key.clone()), VerifyingKey::new(key.clone()));
        Ok(Self { bytes: key.size(), sha256, sha1 })
    }

    /// How long a signature of this key is, in bytes.
    pub fn signature_bytes(&self) -> usize {
        self.bytes
    }

    /// Whether `sign`, in base64, is the RSA2 signature over `content`.
    pub fn verifies(&self, content: &[u8], sign: &str) -> bool {
        signature(sign).is_some_and(|signature| self.sha256.verify(content, &signature).is_ok())
    }

    /// Whether it is the signature with SHA-1, which `sign_type=RSA` means.
    pub fn verifies_sha1(&self, content: &[u8], sign: &str) -> bool {
        signature(sign).is_some_and(|signature| self.sha1.verify(content, &signature).is_ok())
    }
}

fn signature(sign: &str) -> Option<Signature> {
    let bytes = STANDARD.decode(sign).ok()?;
    Signature::try_from(bytes.as_slice()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signer::Signer;

    #[test]
    fn a_merchants_signature_verifies_with_each_format_of_the_public_key_and_with_no_other() {
        let (signer, stranger) = (Signer::generate().unwrap(), Signer::generate().unwrap());
        let sign = signer.sign(b"app_id=1");
        for text in [signer.public_pem().unwrap(), signer.public_line().unwrap()] {
            let key = MerchantKey::read(&text).unwrap();
            assert!(key.verifies(b"app_id=1", &sign) && !key.verifies(b"app_id=2", &sign));
            assert!(!key.verifies_sha1(b"app_id=1", &sign));
            assert!(!key.verifies(b"app_id=1", &stranger.sign(b"app_id=1")));
            assert!(!key.verifies(b"app_id=1", "not base64"));
        }
    }

    #[test]
    fn a_private_key_is_refused_by_name() {
        let signer = Signer::generate().unwrap();
        for text in [signer.private_pem().unwrap(), signer.private_pkcs1_pem().unwrap()] {
            assert_eq!(MerchantKey::read(&text).unwrap_err(), MerchantKeyError::Private);
        }
        assert_eq!(MerchantKey::read("hello").unwrap_err(), MerchantKeyError::Unreadable);
    }
}
