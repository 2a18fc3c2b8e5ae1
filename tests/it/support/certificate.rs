//! Just enough DER to write a certificate: the shapes of Alipay's and of an app's own. The signature on it is
//! nobody's: keys are configured, and a chain proves nothing about a notification.

use rsa::PrivateKey;
use rsa::pkcs8::EncodePublicKey as _;

/// A certificate of `key` for `subject`, issued by `issuer`.
pub fn certificate(key: &PrivateKey, subject: &str, issuer: &str) -> Vec<u8> {
    certificate_until(key, subject, issuer, END)
}

/// The same that ends at `end` (a `UTCTime`).
pub fn certificate_until(key: &PrivateKey, subject: &str, issuer: &str, end: &str) -> Vec<u8> {
    let spki = key.to_public_key().to_public_key_der().unwrap().into_vec();
    leaf_of(&spki, subject, issuer, end)
}

/// The same of a key of any algorithm.
pub fn leaf_of(spki: &[u8], subject: &str, issuer: &str, end: &str) -> Vec<u8> {
    certificate_of(spki, subject, issuer, end, &[])
}

/// A certificate of an authority, which says so.
pub fn authority(spki: &[u8], subject: &str, issuer: &str) -> Vec<u8> {
    let constraints = sequence(&[&[1, 1, 0xff]]);
    let extension = sequence(&[&[6, 3, 0x55, 0x1d, 0x13], &[1, 1, 0xff], &tagged(4, &constraints)]);
    certificate_of(spki, subject, issuer, END, &tagged(0xa3, &sequence(&[&extension])))
}

fn certificate_of(spki: &[u8], subject: &str, issuer: &str, end: &str, extensions: &[u8]) -> Vec<u8> {
    let sha256_rsa = sequence(&[&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 0x0b], &[5, 0]]);
    let validity = sequence(&[&tagged(0x17, b"260101000000Z"), &tagged(0x17, end.as_bytes())]);
    let tbs = sequence(&[
        &tagged(0xa0, &[2, 1, 2]),
        &[2, 1, 7],
        &sha256_rsa,
        &name(issuer),
        &validity,
        &name(subject),
        spki,
        extensions,
    ]);
    sequence(&[&tbs, &sha256_rsa, &tagged(3, &[0; 257])])
}

fn name(common_name: &str) -> Vec<u8> {
    let attribute = sequence(&[&[6, 3, 0x55, 4, 3], &tagged(0x0c, common_name.as_bytes())]);
    sequence(&[&tagged(0x31, &attribute)])
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tagged(0x30, &parts.concat())
}

fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let head = match length {
        0..128 => vec![tag, u8::try_from(length).unwrap()],
        128..256 => vec![tag, 0x81, u8::try_from(length).unwrap()],
        _ => vec![tag, 0x82, u8::try_from(length >> 8).unwrap(), u8::try_from(length & 0xff).unwrap()],
    };
    [head, content.to_vec()].concat()
}

const END: &str = "310101000000Z";
