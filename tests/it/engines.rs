//! The two engines that verify signatures must give one verdict on every input: a gateway built with the one
//! must not believe what a gateway built with the other refuses. And both must give the right one: on Project
//! Wycheproof's vectors (attack 12), and on paddings made by hand with the private key.

#![cfg(feature = "aws-lc")]

use alipay_notify_gateway::admission::policy::SignType;
use alipay_notify_gateway::admission::signature::{aws_lc, portable};
use rand::{RngExt as _, SeedableRng as _};
use rsa::pkcs8::DecodePublicKey as _;
use rsa::traits::{PrivateKeyParts as _, PublicKeyParts as _};
use rsa::{BoxedUint, PrivateKey, PublicKey};
use wycheproof::TestResult;
use wycheproof::rsa_pkcs1_verify::{TestFlag, TestName, TestSet};

use super::support::signer::{Draft, Hash, Version, alipay, shared, signature, stranger};

/// Both engines with one key.
struct Engines {
    aws_lc: aws_lc::Verifier,
    portable: portable::Verifier,
}

impl Engines {
    fn of(key: &PublicKey, sign_type: SignType) -> Self {
        Self {
            aws_lc: aws_lc::Verifier::new(key, sign_type).unwrap(),
            portable: portable::Verifier::new(key, sign_type).unwrap(),
        }
    }

    /// The one verdict of both.
    fn verdict(&self, content: &[u8], signature: &[u8], what: &str) -> bool {
        let aws_lc = self.aws_lc.verify(content, signature);
        let portable = self.portable.verify(content, signature);
        assert_eq!(aws_lc, portable, "the engines differ on {what}: aws-lc says {aws_lc}");
        aws_lc
    }
}

// Attack 12.

#[test]
fn attack_12_both_engines_judge_wycheproofs_vectors_rightly() {
    let sets = [TestName::Rsa2048Sha256, TestName::Rsa3072Sha256, TestName::Rsa4096Sha256];
    let (mut valid, mut invalid) = (0, 0);
    for name in sets {
        let set = TestSet::load(name).unwrap();
        for group in &set.test_groups {
            let key = PublicKey::from_public_key_der(&group.der).unwrap();
            let engines = Engines::of(&key, SignType::Rsa2);
            for test in &group.tests {
                let what = format!("{name:?} {}: {}", test.tc_id, test.comment);
                let verified = engines.verdict(&test.msg, &test.sig, &what);
                let expected = match test.result {
                    TestResult::Valid => true,
                    TestResult::Invalid => false,
                    // The only acceptable ones lack the NULL in the DigestInfo. RFC 8017 (A.2.4, B.1) lets a
                    // verifier take them; Alipay always writes it, so both engines refuse.
                    TestResult::Acceptable => {
                        assert!(test.flags.contains(&TestFlag::MissingNull), "{what}: {:?}", test.flags);
                        false
                    }
                };
                assert_eq!(verified, expected, "{what}");
                if verified { valid += 1 } else { invalid += 1 }
            }
        }
    }
    assert!(valid > 20 && invalid > 600, "{valid} valid, {invalid} invalid");
}

#[test]
fn attack_12_of_the_vectors_for_other_hashes_only_those_of_ours_verify() {
    // Wycheproof has no set of SHA-1 with PKCS#1 v1.5, but the sets for other hashes hold a few signatures
    // "hashed with the wrong hash", which is now and then one of ours.
    let mut wrongly_ours = 0;
    for name in [TestName::Rsa2048Sha512, TestName::Rsa2048Sha224, TestName::Rsa2048Sha3_256] {
        let set = TestSet::load(name).unwrap();
        for group in &set.test_groups {
            let key = PublicKey::from_public_key_der(&group.der).unwrap();
            for (sign_type, ours) in [(SignType::Rsa2, "with SHA-256 "), (SignType::Rsa, "with SHA-1 ")] {
                let engines = Engines::of(&key, sign_type);
                for test in &group.tests {
                    let what = format!("{name:?} {}: {}", test.tc_id, test.comment);
                    let expected = test.flags.contains(&TestFlag::WrongHash) && test.comment.contains(ours);
                    assert_eq!(engines.verdict(&test.msg, &test.sig, &what), expected, "{what}");
                    wrongly_ours += usize::from(expected);
                }
            }
        }
    }
    assert!(wrongly_ours > 0);
}

// By hand, with the private key.

const SHA256_HEAD: [u8; 19] =
    [0x30, 0x31, 0x30, 0x0d, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 4, 0x20];
const SHA1_HEAD: [u8; 15] = [0x30, 0x21, 0x30, 9, 6, 5, 0x2b, 0x0e, 3, 2, 0x1a, 5, 0, 4, 0x14];

/// `padded` raised to the private exponent: the signature that opens to exactly these bytes.
fn sign_raw(key: &PrivateKey, padded: &[u8]) -> Vec<u8> {
    let modulus = key.n();
    let base = BoxedUint::from_be_slice(padded, modulus.bits_precision()).unwrap();
    base.pow_mod(key.d(), &modulus.as_ref().to_odd().unwrap()).to_be_bytes().to_vec()
}

/// `00 01 FF … 00 info`, as long as the key, with as much filling as there is room for.
fn padded(size: usize, info: &[u8]) -> Vec<u8> {
    [&[0, 1][..], &vec![0xff; size - 3 - info.len()], &[0], info].concat()
}

#[test]
fn both_engines_take_the_one_right_padding_and_no_other() {
    use sha2::Digest as _;
    let content = b"a=1&b=2";
    let sha256 = sha2::Sha256::digest(content).to_vec();
    let sha1 = sha1::Sha1::digest(content).to_vec();
    for (key, sign_type, head, digest) in [
        (alipay(), SignType::Rsa2, &SHA256_HEAD[..], &sha256),
        (alipay(), SignType::Rsa, &SHA1_HEAD[..], &sha1),
        (shared(), SignType::Rsa, &SHA1_HEAD[..], &sha1),
    ] {
        let size = key.size();
        let engines = Engines::of(&key.to_public_key(), sign_type);
        let info = [head, digest].concat();
        let right = padded(size, &info);
        let verdict = |name: &str, bytes: &[u8]| engines.verdict(content, &sign_raw(key, bytes), name);
        assert!(verdict("the right one", &right));
        let change = |at: usize, to: u8| {
            let mut changed = right.clone();
            changed[at] = to;
            changed
        };
        let without_null = [
            &[0x30, head[1] - 2, 0x30, head[3] - 2][..],
            &head[4..head.len() - 4],
            &head[head.len() - 2..],
            digest,
        ]
        .concat();
        let garbage = |fill: usize| {
            // Bleichenbacher's of 2006: little filling, and garbage behind the digest.
            let start = [&[0, 1][..], &vec![0xff; fill], &[0], &info].concat();
            [start.clone(), vec![0x55; size - start.len()]].concat()
        };
        let long_length = [&[0x30, 0x81, head[1]][..], &head[2..], digest].concat();
        for (name, bytes) in [
            ("block type 0", change(1, 0)),
            ("block type 2", change(1, 2)),
            ("a first byte", change(0, 1)),
            ("a hole in the filling", change(10, 0)),
            ("another filling", change(10, 0xfe)),
            ("no separator", change(size - info.len() - 1, 0xff)),
            ("a changed digest", change(size - 1, right[size - 1] ^ 1)),
            ("a changed algorithm", change(size - digest.len() - 5, right[size - digest.len() - 5] ^ 1)),
            ("no NULL", padded(size, &without_null)),
            ("a length in long form", padded(size, &long_length)),
            ("no DigestInfo", padded(size, digest)),
            ("garbage behind 8 bytes of filling", garbage(8)),
            ("garbage behind no filling", garbage(0)),
            ("a digest twice", padded(size, &[&info[..], digest].concat())),
            ("a digest cut short", padded(size, &info[..info.len() - 1])),
            ("nothing", vec![0; size]),
        ] {
            assert!(!verdict(name, &bytes), "{name}");
        }
    }
}

// Against each other.

#[test]
fn both_engines_say_the_same_of_thousands_of_mutations() {
    let mutations = super::fuzzed::cases(MUTATIONS);
    let mut random = rand::rngs::StdRng::seed_from_u64(12);
    let content = Draft::payment().content(Version::V1);
    let cases = [
        (alipay(), SignType::Rsa2, Hash::Sha256),
        (alipay(), SignType::Rsa, Hash::Sha1),
        (shared(), SignType::Rsa, Hash::Sha1),
    ];
    let (mut taken, mut refused) = (0, 0);
    for (key, sign_type, hash) in cases {
        let engines = Engines::of(&key.to_public_key(), sign_type);
        let genuine = signature(key, hash, &content);
        let others = [
            signature(stranger(), Hash::Sha256, &content),
            signature(key, Hash::Sha512, &content),
            key.n().to_be_bytes().to_vec(),
        ];
        for _ in 0..mutations {
            let mut signature = genuine.clone();
            let mut content = content.clone();
            match random.random_range(0..8) {
                0 => {}
                1 => {
                    let at = random.random_range(0..signature.len());
                    signature[at] ^= 1 << random.random_range(0..8);
                }
                2 => random.fill(&mut signature[..]),
                3 => {
                    let (from, to) = (random.random_range(0..signature.len()), random.random_range(0..=255));
                    signature[from..].fill(to);
                }
                4 => signature.resize(random.random_range(0..=genuine.len() + 2), 0),
                5 => signature = others[random.random_range(0..others.len())].clone(),
                6 => {
                    let at = random.random_range(0..content.len());
                    content[at] ^= 1 << random.random_range(0..8);
                }
                _ => content.truncate(random.random_range(0..content.len())),
            }
            let what = format!("{sign_type:?}: {signature:02x?} over {content:02x?}");
            if engines.verdict(&content, &signature, &what) { taken += 1 } else { refused += 1 }
        }
    }
    assert!(taken > mutations / 8 && refused > mutations, "{taken} taken, {refused} refused");
}

/// Bound: for each of three keys; a few seconds with the slower engine.
const MUTATIONS: u64 = 3000;
