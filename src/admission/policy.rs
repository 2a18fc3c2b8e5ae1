//! What admission judges by: one immutable snapshot. A reload swaps the whole of it or none.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::key_ring::PublicKey;
use crate::clock::Timestamp;
use crate::event::Environment;

/// Apps, keys and limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// By app_id.
    pub apps: BTreeMap<String, App>,
    /// `freshness.max_age`: an older `notify_time` is a replay, or a wrong clock.
    pub max_age: Duration,
    /// `store.retention`: a payment older than this cannot be proven to be new.
    pub retention: Duration,
    /// Since when nothing has been forgotten, whatever `store.retention` was meanwhile: nor can one older than this.
    pub complete_since: Timestamp,
    /// `event.buyer`.
    pub buyer: Buyer,
    /// `event.notification`: whether the event carries every received parameter.
    pub notification: bool,
}

/// One Alipay app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// Its id, as Alipay sends it.
    pub app_id: String,
    /// Its world.
    pub environment: Environment,
    /// The sellers whose trades it announces. Empty: not checked.
    pub seller_ids: BTreeSet<String>,
    /// Alipay's public keys for it; several while rotating.
    pub keys: Vec<PublicKey>,
    /// Keys that are watched and not believed: what only they verify is refused, and counted.
    pub shadow_keys: Vec<PublicKey>,
    /// The one signature algorithm that is accepted.
    pub sign_type: SignType,
}

/// The signature algorithms (protocol.md §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignType {
    /// SHA-256 with RSA PKCS#1 v1.5.
    Rsa2,
    /// SHA-1 with RSA PKCS#1 v1.5, with keys that all merchants share.
    Rsa,
}

impl SignType {
    /// The name in a notification and in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rsa2 => "RSA2",
            Self::Rsa => "RSA",
        }
    }
}

/// What becomes of a buyer's data in the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Buyer {
    /// Left out.
    #[default]
    Omit,
    /// Made unreadable, but present.
    Mask,
    /// Forwarded as received.
    Forward,
}
