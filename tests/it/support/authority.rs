//! An authority of the tests' own, and certificates that it signs.

use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// The authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new(name: &str) -> Self {
        Self::ending_in(name, 3650)
    }

    /// One whose certificate ends in so many days, or has.
    pub fn ending_in(name: &str, days: i64) -> Self {
        let mut params = ending_in(name, days);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate that nobody but itself speaks for, which ends in so many days, or has; and its key, both in PEM.
    pub fn self_signed(name: &str, days: i64) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = ending_in(name, days).self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// Its certificate, in PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for a name (of a host, or of a client), and its key, both in PEM.
    pub fn issue(&self, name: &str) -> (String, String) {
        let mut params = named(name);
        params.subject_alt_names = CertificateParams::new([name.to_owned()]).unwrap().subject_alt_names;
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

fn ending_in(name: &str, days: i64) -> CertificateParams {
    let mut params = named(name);
    let now = SystemTime::now();
    let span = Duration::from_secs(days.unsigned_abs() * 86_400 + 3600);
    params.not_after = if days < 0 { now - span } else { now + span }.into();
    params
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
