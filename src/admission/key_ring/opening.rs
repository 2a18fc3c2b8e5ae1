//! What a signature says about itself: whether a key made it at all, and over which digest. For `explain`
//! alone, which tells with it a wrong key from an altered content. Nothing is ever believed because of it:
//! verification is [`PublicKey::verifies`].

use rsa::pkcs8::DecodePublicKey as _;
use rsa::traits::PublicKeyParts as _;
use rsa::{BoxedUint, PublicKey as RsaPublicKey};

use super::PublicKey;
use crate::admission::policy::SignType;
use crate::admission::signature;

/// The digest inside a signature that one key made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    hash: SignType,
    digest: Vec<u8>,
}

impl Opened {
    /// The algorithm of which it is.
    pub fn hash(&self) -> SignType {
        self.hash
    }

    /// Whether it is the digest of `content`.
    pub fn is_of(&self, content: &[u8]) -> bool {
        signature::digest(content, self.hash) == self.digest
    }
}

impl PublicKey {
    /// The digest that `signature` was made over, if this key made it (RFC 8017, §8.2.2, with the roles turned
    /// round). `None` for anything that is not padded exactly as PKCS#1 v1.5 pads.
    pub fn open(&self, signature: &[u8]) -> Option<Opened> {
        if signature.len() != self.signature_bytes {
            return None;
        }
        let key = RsaPublicKey::from_public_key_der(&self.spki).ok()?;
        let modulus = key.n();
        let signed = BoxedUint::from_be_slice(signature, modulus.bits_precision()).ok()?;
        if signed >= *modulus.as_ref() {
            return None;
        }
        // Every key here has the exponent 65537 = 2^16 + 1.
        let power = (0..16).fold(signed.clone(), |power, _| power.square_mod_vartime(modulus));
        let opened = power.mul_mod(&signed, modulus).to_be_bytes();
        let padded = opened.strip_prefix(&[0, 1])?;
        let digest_info = padded.get(padded.iter().position(|byte| *byte != 0xff)?..)?.strip_prefix(&[0])?;
        // How much filling there is follows from the lengths of the key and of what is found here.
        [(SignType::Rsa2, &SHA256[..], 32), (SignType::Rsa, &SHA1[..], 20)].into_iter().find_map(
            |(hash, prefix, length)| {
                let digest = digest_info.strip_prefix(prefix).filter(|digest| digest.len() == length)?;
                Some(Opened { hash, digest: digest.to_vec() })
            },
        )
    }
}

/// The head of a DigestInfo of SHA-256 (RFC 8017, §9.2, note 1).
const SHA256: [u8; 19] = [
    0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00,
    0x04, 0x20,
];
/// The head of a DigestInfo of SHA-1.
const SHA1: [u8; 15] =
    [0x30, 0x21, 0x30, 0x09, 0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a, 0x05, 0x00, 0x04, 0x14];

#[cfg(test)]
mod tests {
    use rsa::PrivateKey;

    use super::*;
    use crate::admission::tests::support::signer::{self, Hash, alipay, stranger};

    fn public(key: &PrivateKey) -> PublicKey {
        PublicKey::read(signer::pem(key).as_bytes(), signer::APP, SignType::Rsa2).unwrap().0
    }

    #[test]
    fn a_signature_opens_with_its_own_key_and_tells_hash_and_digest() {
        let public = public(alipay());
        let opened = public.open(&signer::signature(alipay(), Hash::Sha256, b"abc")).unwrap();
        assert_eq!(opened.hash(), SignType::Rsa2);
        assert!(opened.is_of(b"abc") && !opened.is_of(b"abd"));
        let opened = public.open(&signer::signature(alipay(), Hash::Sha1, b"abc")).unwrap();
        assert_eq!(opened.hash(), SignType::Rsa);
        assert!(opened.is_of(b"abc") && !opened.is_of(b"abd"));
    }

    #[test]
    fn what_another_key_made_or_nobody_does_not_open() {
        let (public, other) = (public(alipay()), public(stranger()));
        let mut signature = signer::signature(alipay(), Hash::Sha256, b"abc");
        assert_eq!(other.open(&signature), None);
        signature[100] ^= 1;
        assert_eq!(public.open(&signature), None);
        for odd in [&[0u8; 256][..], &[0xff; 256], &[1; 255], &[]] {
            assert_eq!(public.open(odd), None);
        }
    }
}
