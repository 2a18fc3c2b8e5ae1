//! `GET /keys`: which of Alipay's keys verified something, and when last, as JSON. `check --connect` reads it, to say
//! which key is safe to remove.

use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use super::respond::{self, Answer};
use crate::gateway::{Gateway, KeyUse};

/// One key. Times are RFC 3339 in UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyReport {
    /// The app.
    pub app_id: String,
    /// The first 12 hex digits of the SHA-256 of its SPKI.
    pub key: String,
    /// Whether it is only watched.
    pub shadow: bool,
    /// Since when it is watched: the gateway's start, or the reload that brought it.
    pub since: String,
    /// When it verified something last.
    pub last_at: Option<String>,
    /// For how many seconds it has verified nothing.
    pub idle_seconds: u64,
    /// When its certificate ends.
    pub expires_at: Option<String>,
}

pub(super) fn answer(gateway: &Gateway) -> Answer {
    let now = gateway.now();
    let told = |known: KeyUse| KeyReport {
        idle_seconds: now.since(known.last_at.unwrap_or(known.since)).as_secs(),
        app_id: known.key.app_id,
        key: known.key.fingerprint,
        shadow: known.is_shadow,
        since: known.since.rfc3339_utc(),
        last_at: known.last_at.map(|at| at.rfc3339_utc()),
        expires_at: known.expires_at.map(|at| at.rfc3339_utc()),
    };
    let keys: Vec<KeyReport> = gateway.keys().into_iter().map(told).collect();
    respond::json(StatusCode::OK, &keys)
}
