//! Alipay, as the tests play it: notifications signed with a key of their own, built from protocol.md §2 and
//! without a line of the verifier.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::OnceLock;
use std::time::Duration;

use alipay_notify_gateway::admission::key_ring::PublicKey;
use alipay_notify_gateway::admission::policy::{App, Buyer, Policy, SignType};
use alipay_notify_gateway::clock::{Clock as _, SystemClock, Timestamp};
use alipay_notify_gateway::event::Environment;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rsa::PrivateKey;
use rsa::pkcs1v15::SigningKey;
use rsa::pkcs8::{EncodePrivateKey as _, EncodePublicKey as _, LineEnding};
use rsa::signature::{SignatureEncoding as _, Signer as _};
use sha2::Sha256;

pub const APP_ID: &str = "2021000000000001";
pub const SELLER_ID: &str = "2088101117955611";
/// Where it delivers from.
pub const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
pub const TRADE_NO: &str = "2026112322001427340000000000";

/// A minute after the payment of [`Notification::payment`].
pub fn now() -> Timestamp {
    Timestamp::from_beijing((2026, 11, 23), (10, 16, 31, 0)).unwrap()
}

/// Alipay's key in these tests: made once for each run.
pub fn private_key() -> &'static PrivateKey {
    static KEY: OnceLock<PrivateKey> = OnceLock::new();
    KEY.get_or_init(|| PrivateKey::new(&mut rand::rng(), 2048).unwrap())
}

pub fn public_pem() -> String {
    private_key().to_public_key().to_public_key_pem(LineEnding::LF).unwrap()
}

/// One app with one seller and one key.
pub fn policy() -> Policy {
    let (key, _) = PublicKey::read(public_pem().as_bytes(), APP_ID, SignType::Rsa2).unwrap();
    let app = App {
        app_id: APP_ID.to_owned(),
        environment: Environment::Production,
        seller_ids: BTreeSet::from([SELLER_ID.to_owned()]),
        keys: vec![key],
        shadow_keys: Vec::new(),
        sign_type: SignType::Rsa2,
    };
    Policy {
        apps: BTreeMap::from([(APP_ID.to_owned(), app)]),
        max_age: Duration::from_secs(24 * 3600),
        retention: Duration::from_secs(35 * 86_400),
        complete_since: Timestamp::default(),
        buyer: Buyer::Omit,
        notification: true,
    }
}

/// A notification before it is signed.
#[derive(Debug, Clone)]
pub struct Notification(BTreeMap<String, Vec<u8>>);

impl Notification {
    /// An ordinary payment.
    pub fn payment() -> Self {
        let fields = [
            ("app_id", APP_ID),
            ("auth_app_id", APP_ID),
            ("buyer_id", "2088000000000017"),
            ("buyer_logon_id", "186****0000"),
            ("buyer_pay_amount", "88.88"),
            ("charset", "utf-8"),
            ("fund_bill_list", r#"[{"amount":"88.88","fundChannel":"ALIPAYACCOUNT"}]"#),
            ("gmt_create", "2026-11-23 10:15:30"),
            ("gmt_payment", "2026-11-23 10:15:31"),
            ("invoice_amount", "88.88"),
            ("notify_id", "2026112300222101532001427340000001"),
            ("notify_time", "2026-11-23 10:15:32"),
            ("notify_type", "trade_status_sync"),
            ("out_trade_no", "R1-0000000000"),
            ("point_amount", "0.00"),
            ("receipt_amount", "88.88"),
            ("seller_id", SELLER_ID),
            ("sign_type", "RSA2"),
            ("subject", "测试商品 + 1"),
            ("total_amount", "88.88"),
            ("trade_no", TRADE_NO),
            ("trade_status", "TRADE_SUCCESS"),
            ("version", "1.0"),
        ];
        Self(fields.into_iter().map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).collect())
    }

    /// A payment of this minute, for the real binary, which has the machine's clock.
    pub fn payment_now(trade: u64) -> Self {
        let now = SystemClock.now().alipay();
        let date: String = now.chars().filter(char::is_ascii_digit).take(8).collect();
        Self::payment()
            .trade(&format!("{date}22001427{trade:012}"))
            .set("gmt_create", &now)
            .set("gmt_payment", &now)
            .set("notify_time", &now)
    }

    pub fn set(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.0.insert(name.to_owned(), value.as_ref().to_vec());
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.0.remove(name);
        self
    }

    /// Another trade: number, order and notification of its own.
    pub fn trade(self, trade_no: &str) -> Self {
        self.set("trade_no", trade_no)
            .set("out_trade_no", format!("R-{trade_no}"))
            .set("notify_id", format!("n{trade_no}"))
    }

    pub fn text(&self, name: &str) -> &str {
        std::str::from_utf8(&self.0[name]).unwrap()
    }

    pub fn trade_no(&self) -> &str {
        std::str::from_utf8(&self.0["trade_no"]).unwrap()
    }

    pub fn event_id(&self, event_type: &str) -> String {
        format!("{APP_ID}.{}.{event_type}", self.trade_no())
    }

    /// The signed body.
    pub fn body(&self) -> Vec<u8> {
        self.body_by(private_key())
    }

    /// Signed with another key.
    pub fn body_by(&self, key: &PrivateKey) -> Vec<u8> {
        self.signed(|content| SigningKey::<Sha256>::new(key.clone()).sign(content).to_vec())
    }

    /// As [`Self::body`], by an engine that signs in a fraction of the time: where there are many.
    #[cfg(feature = "aws-lc")]
    pub fn body_quickly(&self) -> Vec<u8> {
        static KEY: OnceLock<aws_lc_rs::rsa::KeyPair> = OnceLock::new();
        let key = KEY.get_or_init(|| {
            let der = private_key().to_pkcs8_der().unwrap();
            aws_lc_rs::rsa::KeyPair::from_pkcs8(der.as_bytes()).unwrap()
        });
        self.signed(|content| {
            let mut signature = vec![0; key.public_modulus_len()];
            let random = aws_lc_rs::rand::SystemRandom::new();
            key.sign(&aws_lc_rs::signature::RSA_PKCS1_SHA256, &random, content, &mut signature).unwrap();
            signature
        })
    }

    fn signed(&self, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> Vec<u8> {
        let mut content = Vec::new();
        for (name, value) in &self.0 {
            if name == "sign_type" {
                continue;
            }
            if !content.is_empty() {
                content.push(b'&');
            }
            content.extend_from_slice(name.as_bytes());
            content.push(b'=');
            content.extend_from_slice(value);
        }
        let signature = sign(&content);
        let mut body = String::new();
        for (name, value) in &self.0 {
            body.push_str(&format!("{name}={}&", encode(value)));
        }
        body.push_str(&format!("sign={}", encode(STANDARD.encode(signature).as_bytes())));
        body.into_bytes()
    }
}

/// As Alipay encodes: a space is `+`, `*` is left as it is.
pub fn encode(value: &[u8]) -> String {
    let mut encoded = String::new();
    for &byte in value {
        match byte {
            b' ' => encoded.push('+'),
            b'-' | b'_' | b'.' | b'*' => encoded.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}
