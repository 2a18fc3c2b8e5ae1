//! What a TLS connection to the broker believes, and what it shows of itself: files, read anew for each connect.
//!
//! The authorities of `amqp.ca_file` are believed *instead of* the system's: whoever names one wants no other. The
//! broker's certificate must be of the name in `amqp.uri` or `amqp.nodes`; nothing turns that off.

use std::path::{Path, PathBuf};

use lapin::tcp::{RustlsConnector, RustlsConnectorConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

use crate::clock::Timestamp;

/// The files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// `amqp.ca_file`: the authorities that are believed, in PEM. Without it, the system's.
    pub ca_file: Option<PathBuf>,
    /// `amqp.client_certificate_file`: what the gateway shows to the broker, with what is between it and the authority.
    pub client_certificate_file: Option<PathBuf>,
    /// `amqp.client_key_file`: its private key.
    pub client_key_file: Option<PathBuf>,
}

/// What is wrong with the files, by key; and what is odd about them.
pub(super) struct Judgement {
    pub(super) problems: Vec<(&'static str, String)>,
    pub(super) remarks: Vec<String>,
}

impl Tls {
    pub(super) fn is_configured(&self) -> bool {
        self.ca_file.is_some() || self.client_certificate_file.is_some() || self.client_key_file.is_some()
    }

    /// What is needed for a handshake.
    pub(super) fn connector(&self) -> Result<RustlsConnector, String> {
        let store = match &self.ca_file {
            Some(file) => {
                let authorities = certificates(file).map_err(|what| told(CA_FILE, file, &what))?;
                RustlsConnectorConfig::default().with_parsable_certificates(authorities)
            }
            None => RustlsConnectorConfig::new_with_native_certs().map_err(|error| {
                format!("the system's authorities: {error}; amqp.ca_file can name others")
            })?,
        };
        let connector = match (&self.client_certificate_file, &self.client_key_file) {
            (Some(certificate), Some(key)) => {
                let chain =
                    certificates(certificate).map_err(|what| told(CERTIFICATE_FILE, certificate, &what))?;
                let key = private_key(key).map_err(|what| told(KEY_FILE, key, &what))?;
                store.connector_with_single_cert(chain, key)
            }
            _ => store.connector_with_no_client_auth(),
        };
        connector.map_err(|error| format!("amqp: {error}"))
    }

    /// Looks at each file, and whether key and certificate belong together.
    pub(super) fn judge(&self, now: Timestamp) -> Judgement {
        let mut judgement = Judgement { problems: Vec::new(), remarks: Vec::new() };
        let authorities = self.ca_file.as_deref().and_then(|file| judgement.look(CA_FILE, file, now));
        let certificate = &self.client_certificate_file;
        let chain = certificate.as_deref().and_then(|file| judgement.look(CERTIFICATE_FILE, file, now));
        let key = self.client_key_file.as_deref().and_then(|file| match private_key(file) {
            Ok(key) => Some(key),
            Err(what) => judgement.refuse(KEY_FILE, format!("{}: {what}", file.display())),
        });
        match (certificate, &self.client_key_file) {
            (Some(_), None) => {
                let _: Option<()> =
                    judgement.refuse(KEY_FILE, format!("is missing beside {CERTIFICATE_FILE}"));
            }
            (None, Some(_)) => {
                let _: Option<()> =
                    judgement.refuse(CERTIFICATE_FILE, format!("is missing beside {KEY_FILE}"));
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
        if let (Some(chain), Some(key)) = (chain, key) {
            // Any authority will do to see whether the two fit.
            let any = authorities.unwrap_or_else(|| chain.clone());
            let store = RustlsConnectorConfig::default().with_parsable_certificates(any);
            if let Err(error) = store.connector_with_single_cert(chain, key) {
                let _: Option<()> =
                    judgement.refuse(KEY_FILE, format!("does not fit {CERTIFICATE_FILE}: {error}"));
            }
        }
        judgement
    }
}

impl Judgement {
    fn refuse<T>(&mut self, key: &'static str, what: String) -> Option<T> {
        self.problems.push((key, what));
        None
    }

    fn look(
        &mut self,
        key: &'static str,
        file: &Path,
        now: Timestamp,
    ) -> Option<Vec<CertificateDer<'static>>> {
        let certificates = match certificates(file) {
            Ok(certificates) => certificates,
            Err(what) => return self.refuse(key, format!("{}: {what}", file.display())),
        };
        for der in &certificates {
            let Ok(certificate) = Certificate::from_der(der) else {
                return self.refuse(key, format!("{}: holds what is no X.509 certificate", file.display()));
            };
            let ends = certificate.tbs_certificate().validity().not_after.to_unix_duration();
            let left = i64::try_from(ends.as_millis()).unwrap_or(i64::MAX) - now.unix_millis();
            if left < SOON_MILLIS {
                let days = left.div_euclid(DAY_MILLIS);
                let when = if left < 0 { "has ended".to_owned() } else { format!("ends in {days} days") };
                let subject = certificate.tbs_certificate().subject();
                self.remarks.push(format!("{key}: the certificate of {subject} {when}"));
            }
        }
        Some(certificates)
    }
}

/// Every certificate of a PEM file: at least one. Bound: [`MAX_FILE`].
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let content = read(file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
    match found {
        Ok(found) if found.is_empty() => Err("has no certificate in PEM".to_owned()),
        Ok(found) => Ok(found),
        Err(_) => Err("is not in the form of PEM".to_owned()),
    }
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let content = read(file)?;
    // The parser's own words are not passed on: they may quote a key.
    PrivateKeyDer::from_pem_slice(&content).map_err(|_| "has no private key in PEM (unencrypted)".to_owned())
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    let size = std::fs::metadata(file).map_err(|error| error.to_string())?.len();
    if size > MAX_FILE {
        return Err(format!("{size} bytes are more than {MAX_FILE}"));
    }
    std::fs::read(file).map_err(|error| error.to_string())
}

fn told(key: &str, file: &Path, what: &str) -> String {
    format!("{key}: {}: {what}", file.display())
}

const CA_FILE: &str = "amqp.ca_file";
const CERTIFICATE_FILE: &str = "amqp.client_certificate_file";
const KEY_FILE: &str = "amqp.client_key_file";
/// Bound: a system's whole bundle of authorities has some 200 KiB.
const MAX_FILE: u64 = 1 << 20;
const DAY_MILLIS: i64 = 86_400_000;
/// As for Alipay's certificates.
const SOON_MILLIS: i64 = 30 * DAY_MILLIS;
