use base64::engine::general_purpose::STANDARD;
use rsa::BoxedUint;
use rsa::pkcs1::{EncodeRsaPrivateKey as _, EncodeRsaPublicKey as _};
use rsa::pkcs8::{EncodePrivateKey as _, LineEnding};

use super::*;
use crate::admission::tests::support::certificate::{authority, certificate, leaf_of};
use crate::admission::tests::support::signer::{SELLER, alipay, pem, private_pem, shared, stranger};

const APP: &str = "2021000000000001";

fn read(content: impl AsRef<[u8]>) -> Result<PublicKey, KeyFault> {
    PublicKey::read(content.as_ref(), APP, SignType::Rsa2).map(|(key, _)| key)
}

#[test]
fn every_format_in_the_wild_gives_the_same_key() {
    let key = alipay().to_public_key();
    let pem = key.to_public_key_pem(LineEnding::LF).unwrap();
    let body: String = pem.lines().filter(|line| !line.starts_with("---")).collect();
    let expected = read(&pem).unwrap();
    assert_eq!(expected.fingerprint().len(), 12);
    for (name, content) in [
        ("bare base64", body.clone().into_bytes()),
        ("bare base64 without padding", body.trim_end_matches('=').as_bytes().to_vec()),
        ("wrapped base64", body.as_bytes().chunks(64).collect::<Vec<_>>().join(&b'\n')),
        ("CRLF", pem.replace('\n', "\r\n").into_bytes()),
        ("tab-indented", pem.replace('\n', "\n\t").into_bytes()),
        ("no final newline", pem.trim_end().as_bytes().to_vec()),
        ("PEM on one line", pem.replace('\n', "").into_bytes()),
        ("byte-order mark", format!("\u{feff}{body}").into_bytes()),
        ("PKCS#1", key.to_pkcs1_pem(LineEnding::LF).unwrap().into_bytes()),
        ("DER", key.to_public_key_der().unwrap().into_vec()),
    ] {
        assert_eq!(read(&content).as_ref(), Ok(&expected), "{name}");
    }
}

#[test]
fn a_private_key_is_refused_by_name_in_every_format() {
    let key = alipay();
    let pem = key.to_pkcs8_pem(LineEnding::LF).unwrap().to_string();
    let bare: String = pem.lines().filter(|line| !line.starts_with("---")).collect();
    let pkcs1 = key.to_pkcs1_pem(LineEnding::LF).unwrap().to_string();
    let bare_pkcs1: String = pkcs1.lines().filter(|line| !line.starts_with("---")).collect();
    // By its armour alone: what is encrypted cannot be looked into, and behind Alipay's key it is as leaked.
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n".to_owned();
    let behind = format!("{}{encrypted}", self::pem(key));
    for content in [pem, bare, pkcs1, bare_pkcs1, encrypted, behind] {
        assert_eq!(read(&content), Err(KeyFault::Private));
    }
}

#[test]
fn a_key_must_have_the_size_of_its_sign_type() {
    let small = pem(shared());
    assert!(matches!(read(&small), Err(KeyFault::Size { bits: 1024, .. })));
    assert!(PublicKey::read(small.as_bytes(), APP, SignType::Rsa).is_ok());
}

#[test]
fn an_exponent_of_three_is_refused() {
    let modulus = alipay().to_public_key().n().as_ref().clone();
    let weak = RsaPublicKey::new(modulus, BoxedUint::from(3u64)).unwrap();
    assert_eq!(read(weak.to_public_key_pem(LineEnding::LF).unwrap()), Err(KeyFault::Exponent));
}

#[test]
fn garbage_is_refused() {
    for content in
        [&b""[..], b"\xff\xfe", b"hello", b"-----BEGIN PUBLIC KEY-----", b"MIIB", &[0x30, 0x82, 0xff, 0xff]]
    {
        assert_eq!(read(content), Err(KeyFault::Unreadable), "{content:?}");
    }
}

/// `id-ecPublicKey` on SM2's curve, with a point.
fn sm2() -> Vec<u8> {
    [
        &[0x30, 0x59, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8][..],
        SM2,
        &[3, 66, 0],
        &[4; 65],
    ]
    .concat()
}

#[test]
fn a_key_of_another_algorithm_is_refused_by_name() {
    let bare = STANDARD.encode(sm2());
    for content in
        [sm2(), bare.clone().into_bytes(), format!("-----BEGIN PUBLIC KEY-----\n{bare}").into_bytes()]
    {
        assert_eq!(read(content), Err(KeyFault::Algorithm));
    }
    let leaf = leaf_of(&sm2(), &format!("{ALIPAY_NAME}-{SELLER}"), "Ant Financial", "310101000000Z");
    assert_eq!(read(leaf), Err(KeyFault::Algorithm));
    // PKCS#8 of an EC key: version, algorithm, key.
    let algorithm = [&[0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8][..], SM2].concat();
    let private = [&[0x30, 28, 2, 1, 0][..], &algorithm, &[4, 2, 0x30, 0]].concat();
    assert_eq!(read(private), Err(KeyFault::Private));
}

#[test]
fn a_second_key_in_a_file_is_remarked_on_and_a_chain_is_not() {
    let remarks = |content: String| PublicKey::read(content.as_bytes(), APP, SignType::Rsa2).unwrap().1.len();
    let block = |der: Vec<u8>| {
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der))
    };
    let (one, other) = (pem(alipay()), pem(stranger()));
    let leaf = |key| block(certificate(key, &format!("{ALIPAY_NAME}-{SELLER}"), "Ant Financial"));
    let spki = alipay().to_public_key().to_public_key_der().unwrap().into_vec();
    let above = block(authority(&spki, "Ant Financial", "ROOTCA"));
    assert_eq!(remarks(format!("{one}{other}")), 1);
    assert_eq!(remarks(format!("{}{}", leaf(alipay()), leaf(stranger()))), 1);
    assert_eq!(remarks(format!("{}{above}{}", leaf(alipay()), leaf(stranger()))), 1);
    assert_eq!(remarks(format!("{one}{above}")), 0);
    assert_eq!(remarks(format!("{}{above}{above}", leaf(alipay()))), 0);
}

#[test]
fn alipays_leaf_names_the_account_and_its_end() {
    let leaf = certificate(alipay(), &format!("{ALIPAY_NAME}-{SELLER}"), "Ant Financial");
    let (key, remarks) = PublicKey::read(&leaf, APP, SignType::Rsa2).unwrap();
    assert_eq!((key.account(), remarks.as_slice()), (Some(SELLER), &[][..]));
    assert_eq!(key.expires_at().map(Timestamp::rfc3339_utc).as_deref(), Some("2031-01-01T00:00:00Z"));
    assert!(key.is_same_key(&read(pem(alipay())).unwrap()));
    assert_eq!(
        (read(pem(alipay())).unwrap().account(), read(pem(alipay())).unwrap().expires_at()),
        (None, None)
    );
    // A name without a number names no account.
    let nameless = certificate(alipay(), ALIPAY_NAME, "Ant Financial");
    assert_eq!(read(&nameless).unwrap().account(), None);
}

#[test]
fn a_certificate_of_another_name_is_remarked_on() {
    let other = certificate(alipay(), "example-x", "Ant Financial");
    let (key, remarks) = PublicKey::read(&other, APP, SignType::Rsa2).unwrap();
    assert_eq!(key.account(), None);
    let remark = remarks.first().unwrap().to_string();
    assert!(remark.contains(APP) && remark.contains("example-x"), "{remark}");
}

#[test]
fn the_apps_own_certificate_is_refused_by_its_name() {
    let name = format!("{SELLER}-{APP}");
    let own = certificate(alipay(), &name, "Ant Financial");
    assert_eq!(read(&own), Err(KeyFault::OwnCertificate(name)));
    for other in ["2088x-2021", "2088-2021x", "-2021", "2088-"] {
        assert!(read(certificate(alipay(), other, "Ant Financial")).is_ok(), "{other}");
    }
}

#[test]
fn an_authoritys_certificate_is_refused_by_its_name() {
    let spki = alipay().to_public_key().to_public_key_der().unwrap().into_vec();
    for (subject, issuer) in [("ROOTCA", "ROOTCA"), ("Ant Financial Class 2 R1", "ROOTCA")] {
        let refused = Err(KeyFault::Authority(subject.to_owned()));
        assert_eq!(read(authority(&spki, subject, issuer)), refused, "{subject}");
    }
    // The first one in alipayRootCert.crt has a key of SM2.
    assert_eq!(read(authority(&sm2(), "ROOTCA", "ROOTCA")), Err(KeyFault::Authority("ROOTCA".to_owned())));
    assert_eq!(read(certificate(alipay(), "self", "self")), Err(KeyFault::Authority("self".to_owned())));
}

/// The curve of SM2.
const SM2: &[u8] = &[0x2a, 0x81, 0x1c, 0xcf, 0x55, 1, 0x82, 0x2d];

#[test]
fn the_shared_keys_are_known_by_their_fingerprints() {
    let mut key = read(pem(alipay())).unwrap();
    assert_eq!(key.shared(), None);
    for (fingerprint, shared) in SHARED {
        key.fingerprint = fingerprint.to_owned();
        assert_eq!(key.shared(), Some(shared));
    }
}

#[test]
fn a_key_knows_its_private_half_in_every_format() {
    let key = read(pem(alipay())).unwrap();
    let pkcs1 = alipay().to_pkcs1_pem(LineEnding::LF).unwrap().to_string();
    let der = alipay().to_pkcs8_der().unwrap().as_bytes().to_vec();
    for private in [private_pem(alipay()).into_bytes(), pkcs1.into_bytes(), der] {
        assert!(key.is_half_of(&private));
    }
    for other in [private_pem(stranger()).into_bytes(), pem(alipay()).into_bytes(), b"x".to_vec()] {
        assert!(!key.is_half_of(&other));
    }
}

#[test]
fn a_signature_has_the_keys_length() {
    assert_eq!(read(pem(alipay())).unwrap().signature_bytes(), 256);
    let short = PublicKey::read(pem(shared()).as_bytes(), APP, SignType::Rsa).unwrap().0;
    assert_eq!(short.signature_bytes(), 128);
    assert_ne!(short, read(pem(alipay())).unwrap());
}
