//! A signer of notifications that shares no line with the verifier: written from protocol.md §2 alone. Values
//! are bytes, in any order and any encoding; versions, hashes and keys are the test's choice, right or wrong.

use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::seq::SliceRandom as _;
use rsa::PrivateKey;
use rsa::pkcs1v15::SigningKey;
use rsa::pkcs8::{EncodePrivateKey as _, EncodePublicKey as _, LineEnding};
use rsa::signature::{SignatureEncoding as _, Signer as _};
use sha1::Sha1;
use sha2::{Sha256, Sha512};

pub const APP: &str = "2021000000000001";
pub const OTHER_APP: &str = "2021000000000002";
pub const SELLER: &str = "2088101117955611";
pub const TRADE: &str = "2026112322001427340000000000";

/// The key that plays Alipay's for the app.
pub fn alipay() -> &'static PrivateKey {
    static KEY: OnceLock<PrivateKey> = OnceLock::new();
    KEY.get_or_init(|| PrivateKey::new(&mut rand::rng(), 2048).unwrap())
}

/// A key that is nobody's; or another app's, where a test says so.
pub fn stranger() -> &'static PrivateKey {
    static KEY: OnceLock<PrivateKey> = OnceLock::new();
    KEY.get_or_init(|| PrivateKey::new(&mut rand::rng(), 2048).unwrap())
}

/// A key of 1024 bits, as the shared ones of `sign_type=RSA` are.
pub fn shared() -> &'static PrivateKey {
    static KEY: OnceLock<PrivateKey> = OnceLock::new();
    KEY.get_or_init(|| PrivateKey::new(&mut rand::rng(), 1024).unwrap())
}

pub fn pem(key: &PrivateKey) -> String {
    key.to_public_key().to_public_key_pem(LineEnding::LF).unwrap()
}

pub fn private_pem(key: &PrivateKey) -> String {
    key.to_pkcs8_pem(LineEnding::LF).unwrap().to_string()
}

/// Which of `sign` and `sign_type` are left out of what is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    Sha256,
    Sha1,
    Sha512,
}

/// Named values in the order in which they are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft(pub Vec<(Vec<u8>, Vec<u8>)>);

impl Draft {
    pub fn of<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// A payment, in no particular order.
    pub fn payment() -> Self {
        Self::of([
            ("gmt_create", "2026-11-23 10:15:30"),
            ("charset", "utf-8"),
            ("gmt_payment", "2026-11-23 10:15:31"),
            ("notify_time", "2026-11-23 10:15:32"),
            ("subject", "测试商品 + 1"),
            ("buyer_id", "2088000000000016"),
            ("buyer_logon_id", "abc***@example.com"),
            ("invoice_amount", "88.88"),
            ("version", "1.0"),
            ("notify_id", "2026112300222101532001427340000001"),
            ("fund_bill_list", r#"[{"amount":"88.88","fundChannel":"ALIPAYACCOUNT"}]"#),
            ("notify_type", "trade_status_sync"),
            ("out_trade_no", "R1-0000000000"),
            ("total_amount", "88.88"),
            ("trade_status", "TRADE_SUCCESS"),
            ("trade_no", TRADE),
            ("auth_app_id", APP),
            ("receipt_amount", "88.88"),
            ("point_amount", "0.00"),
            ("app_id", APP),
            ("sign_type", "RSA2"),
            ("seller_id", SELLER),
        ])
    }

    /// A partial refund: TRADE_SUCCESS, as Alipay really says.
    pub fn refund() -> Self {
        Self::payment()
            .without("receipt_amount")
            .without("point_amount")
            .without("fund_bill_list")
            .set("gmt_refund", "2026-11-23 11:00:00.250")
            .set("refund_fee", "10.00")
            .set("out_biz_no", "refund-1")
            .set("notify_id", "2026112300222110000001427340000002")
    }

    pub fn set(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref().to_vec();
        match self.0.iter_mut().find(|(found, _)| found == name.as_bytes()) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.into(), value)),
        }
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.0.retain(|(found, _)| found != name.as_bytes());
        self
    }

    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(found, _)| found == name.as_bytes()).map(|(_, value)| value.as_slice())
    }

    pub fn shuffled(mut self, random: &mut impl rand::Rng) -> Self {
        self.0.shuffle(random);
        self
    }

    /// What is signed: sorted by name, `name=value` joined by `&`; empty values are left out.
    pub fn content(&self, version: Version) -> Vec<u8> {
        self.content_with(version, false)
    }

    /// As some SDKs do it: with the empty values.
    pub fn content_with(&self, version: Version, empty_values: bool) -> Vec<u8> {
        let mut signed: Vec<_> = self
            .0
            .iter()
            .filter(|(name, _)| name != b"sign" && (name != b"sign_type" || version == Version::V2))
            .filter(|(_, value)| empty_values || !value.is_empty())
            .collect();
        signed.sort_by(|a, b| a.0.cmp(&b.0));
        let pieces: Vec<Vec<u8>> =
            signed.into_iter().map(|(name, value)| [name.as_slice(), b"=", value].concat()).collect();
        pieces.join(&b'&')
    }

    /// Signed as Alipay signs an ordinary notification.
    pub fn signed(self) -> Self {
        self.signed_by(alipay(), Hash::Sha256, Version::V1)
    }

    pub fn signed_by(self, key: &PrivateKey, hash: Hash, version: Version) -> Self {
        let signature = signature(key, hash, &self.content(version));
        self.with_signature(&signature)
    }

    pub fn with_signature(self, signature: &[u8]) -> Self {
        self.set("sign", STANDARD.encode(signature))
    }

    /// The signature that it carries.
    pub fn signature(&self) -> Vec<u8> {
        STANDARD.decode(self.get("sign").unwrap()).unwrap()
    }

    /// As Alipay sends it.
    pub fn body(&self) -> Vec<u8> {
        self.body_with(encode)
    }

    pub fn body_with(&self, encode: fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
        let pieces: Vec<Vec<u8>> =
            self.0.iter().map(|(name, value)| [&encode(name)[..], b"=", &encode(value)].concat()).collect();
        pieces.join(&b'&')
    }
}

pub fn signature(key: &PrivateKey, hash: Hash, content: &[u8]) -> Vec<u8> {
    match hash {
        Hash::Sha256 => SigningKey::<Sha256>::new(key.clone()).sign(content).to_vec(),
        Hash::Sha1 => SigningKey::<Sha1>::new(key.clone()).sign(content).to_vec(),
        Hash::Sha512 => SigningKey::<Sha512>::new(key.clone()).sign(content).to_vec(),
    }
}

/// As Java's URLEncoder does: a space is `+`, and `*` is left alone.
pub fn encode(bytes: &[u8]) -> Vec<u8> {
    escape(bytes, b"-_.*", b"+")
}

/// A space is `%20`, and `*` is `%2A`.
pub fn encode_percent(bytes: &[u8]) -> Vec<u8> {
    escape(bytes, b"-_.", b"%20")
}

/// Only what must be escaped is; a space is a space.
pub fn encode_least(bytes: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    for &byte in bytes {
        match byte {
            b'%' | b'&' | b'+' | b'=' => encoded.extend_from_slice(format!("%{byte:02x}").as_bytes()),
            _ => encoded.push(byte),
        }
    }
    encoded
}

fn escape(bytes: &[u8], plain: &[u8], space: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    for &byte in bytes {
        match byte {
            b' ' => encoded.extend_from_slice(space),
            _ if byte.is_ascii_alphanumeric() || plain.contains(&byte) => encoded.push(byte),
            _ => encoded.extend_from_slice(format!("%{byte:02X}").as_bytes()),
        }
    }
    encoded
}
