//! RSA PKCS#1 v1.5 verification, by one of two engines that give the same verdict on every input: `aws-lc-rs`
//! in the default build, `rsa` with `sha2` otherwise, and as the oracle in the tests.
//!
//! Not here: which hash (the app's pinned `sign_type` decides, never the notification) and which key.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::policy::SignType;

#[cfg(feature = "aws-lc")]
pub use aws_lc::Verifier;
#[cfg(not(feature = "aws-lc"))]
pub use portable::Verifier;

/// Decodes `sign`: standard alphabet, padded, nothing else in it. `None` if it is not that.
pub fn decode(sign: &[u8]) -> Option<Vec<u8>> {
    STANDARD.decode(sign).ok()
}

/// The digest of `content`, for [`Opened`](super::key_ring::opening::Opened): verification makes its own.
pub fn digest(content: &[u8], hash: SignType) -> Vec<u8> {
    match hash {
        SignType::Rsa2 => Sha256::digest(content).to_vec(),
        SignType::Rsa => Sha1::digest(content).to_vec(),
    }
}

/// `aws-lc-rs`, with the key parsed once.
#[cfg(feature = "aws-lc")]
pub mod aws_lc {
    use aws_lc_rs::signature::{
        ParsedPublicKey, RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256,
    };
    use rsa::PublicKey as RsaPublicKey;
    use rsa::pkcs1::EncodeRsaPublicKey as _;

    use super::SignType;

    /// A key, ready to verify with one hash.
    #[derive(Debug, Clone)]
    pub struct Verifier(ParsedPublicKey);

    impl Verifier {
        /// `None` if this engine does not take the key.
        pub fn new(key: &RsaPublicKey, sign_type: SignType) -> Option<Self> {
            let der = key.to_pkcs1_der().ok()?;
            let parsed = match sign_type {
                SignType::Rsa2 => ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, der.as_bytes()),
                SignType::Rsa => {
                    ParsedPublicKey::new(&RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY, der.as_bytes())
                }
            };
            parsed.ok().map(Self)
        }

        /// Whether `signature` is this key's over `content`.
        pub fn verify(&self, content: &[u8], signature: &[u8]) -> bool {
            self.0.verify_sig(content, signature).is_ok()
        }
    }
}

/// `rsa` with `sha2` or `sha1`.
pub mod portable {
    use rsa::PublicKey as RsaPublicKey;
    use rsa::pkcs1v15::{Signature, VerifyingKey};
    use rsa::signature::Verifier as _;
    use sha1::Sha1;
    use sha2::Sha256;

    use super::SignType;

    /// A key, ready to verify with one hash.
    #[derive(Debug, Clone)]
    pub enum Verifier {
        /// RSA2.
        Sha256(VerifyingKey<Sha256>),
        /// RSA.
        Sha1(VerifyingKey<Sha1>),
    }

    impl Verifier {
        /// `Some` always: the signature matches the other engine's.
        pub fn new(key: &RsaPublicKey, sign_type: SignType) -> Option<Self> {
            Some(match sign_type {
                SignType::Rsa2 => Self::Sha256(VerifyingKey::new(key.clone())),
                SignType::Rsa => Self::Sha1(VerifyingKey::new(key.clone())),
            })
        }

        /// Whether `signature` is this key's over `content`.
        pub fn verify(&self, content: &[u8], signature: &[u8]) -> bool {
            let Ok(signature) = Signature::try_from(signature) else { return false };
            match self {
                Self::Sha256(key) => key.verify(content, &signature).is_ok(),
                Self::Sha1(key) => key.verify(content, &signature).is_ok(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rsa::traits::PublicKeyParts as _;

    use super::portable::Verifier as Portable;
    use super::*;
    use crate::admission::tests::support::signer::{Hash, alipay, shared, signature, stranger};

    #[test]
    fn only_plain_padded_base64_is_decoded() {
        assert_eq!(decode(b"AP+/"), Some(vec![0, 0xff, 0xbf]));
        for bad in [&b"AP+"[..], b"AP-_", b"AP+/ ", b"A P+/", b"AP+/=", b"\xff"] {
            assert_eq!(decode(bad), None);
        }
    }

    #[test]
    fn each_engine_takes_what_the_key_signed_with_its_hash_and_nothing_else() {
        for (key, hash, other, sign_type) in [
            (alipay(), Hash::Sha256, Hash::Sha1, SignType::Rsa2),
            (shared(), Hash::Sha1, Hash::Sha256, SignType::Rsa),
            (alipay(), Hash::Sha1, Hash::Sha256, SignType::Rsa),
        ] {
            let public = key.to_public_key();
            let engine = Portable::new(&public, sign_type).unwrap();
            let default = Verifier::new(&public, sign_type).unwrap();
            for (signature, content, expected) in [
                (signature(key, hash, b"abc"), b"abc", true),
                (signature(key, hash, b"abc"), b"abd", false),
                (signature(key, other, b"abc"), b"abc", false),
                (signature(stranger(), hash, b"abc"), b"abc", false),
                (vec![0; key.to_public_key().size()], b"abc", false),
                (Vec::new(), b"abc", false),
            ] {
                assert_eq!(
                    engine.verify(content, &signature),
                    expected,
                    "portable, {sign_type:?}, {signature:?}"
                );
                assert_eq!(
                    default.verify(content, &signature),
                    expected,
                    "default, {sign_type:?}, {signature:?}"
                );
            }
        }
    }
}
