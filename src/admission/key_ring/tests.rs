use rsa::pkcs1::{EncodeRsaPrivateKey as _, EncodeRsaPublicKey as _};
use rsa::pkcs8::{EncodePrivateKey as _, LineEnding};
use rsa::{BoxedUint, PrivateKey};

use super::*;

const APP: &str = "2021000000000001";

fn private(bits: usize) -> PrivateKey {
    PrivateKey::new(&mut rand::rng(), bits).unwrap()
}

fn read(content: impl AsRef<[u8]>) -> Result<PublicKey, KeyFault> {
    PublicKey::read(content.as_ref(), APP, SignType::Rsa2).map(|(key, _)| key)
}

#[test]
fn every_format_in_the_wild_gives_the_same_key() {
    let key = private(2048).to_public_key();
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
    let key = private(2048);
    let pem = key.to_pkcs8_pem(LineEnding::LF).unwrap().to_string();
    let bare: String = pem.lines().filter(|line| !line.starts_with("---")).collect();
    let pkcs1 = key.to_pkcs1_pem(LineEnding::LF).unwrap().to_string();
    let bare_pkcs1: String = pkcs1.lines().filter(|line| !line.starts_with("---")).collect();
    for content in [pem, bare, pkcs1, bare_pkcs1] {
        assert_eq!(read(&content), Err(KeyFault::Private));
    }
}

#[test]
fn a_key_must_have_the_size_of_its_sign_type() {
    let small = private(1024).to_public_key().to_public_key_pem(LineEnding::LF).unwrap();
    assert!(matches!(read(&small), Err(KeyFault::Size { bits: 1024, .. })));
    assert!(PublicKey::read(small.as_bytes(), APP, SignType::Rsa).is_ok());
}

#[test]
fn an_exponent_of_three_is_refused() {
    let modulus = private(2048).to_public_key().n().as_ref().clone();
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
