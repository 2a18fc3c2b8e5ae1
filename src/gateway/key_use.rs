//! Which key verified a notification last, and since when anybody has looked: what an operator must know before he
//! removes a key that Alipay has stopped signing with. Kept in memory alone; a restart begins to look anew, and says
//! so.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{PoisonError, RwLock};

use crate::admission::KeyName;
use crate::admission::policy::Policy;
use crate::clock::Timestamp;

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUse {
    /// The key.
    pub key: KeyName,
    /// Whether it is only watched.
    pub is_shadow: bool,
    /// When its certificate ends, if it came in one.
    pub expires_at: Option<Timestamp>,
    /// Since when it is watched.
    pub since: Timestamp,
    /// When it verified something last.
    pub last_at: Option<Timestamp>,
}

/// The keys of the policy in force.
#[derive(Debug, Default)]
pub(super) struct KeyUses(RwLock<BTreeMap<KeyName, Watched>>);

#[derive(Debug)]
struct Watched {
    is_shadow: bool,
    expires_at: Option<Timestamp>,
    since: Timestamp,
    last_millis: AtomicI64,
}

impl KeyUses {
    /// Watches the keys of `policy` from now on. One that was watched before keeps what is known of it, unless it
    /// came out of shadow or went into it.
    pub(super) fn watch(&self, policy: &Policy, now: Timestamp) {
        let mut watched = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *watched);
        for app in policy.apps.values() {
            let full = app.keys.iter().map(|key| (key, false));
            for (key, is_shadow) in app.shadow_keys.iter().map(|key| (key, true)).chain(full) {
                let name = KeyName { app_id: app.app_id.clone(), fingerprint: key.fingerprint().to_owned() };
                let known = before.remove(&name).filter(|known| known.is_shadow == is_shadow);
                let expires_at = key.expires_at();
                let known = known.unwrap_or_else(|| Watched {
                    is_shadow,
                    expires_at,
                    since: now,
                    last_millis: AtomicI64::new(NEVER),
                });
                watched.insert(name, Watched { expires_at, ..known });
            }
        }
    }

    /// Notes that a key verified something.
    pub(super) fn verified(&self, key: &KeyName, now: Timestamp) {
        let watched = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(watched) = watched.get(key) {
            watched.last_millis.store(now.unix_millis(), Ordering::Relaxed);
        }
    }

    /// All that is known, by app and key.
    pub(super) fn list(&self) -> Vec<KeyUse> {
        let watched = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let told = |(key, watched): (&KeyName, &Watched)| {
            let last = watched.last_millis.load(Ordering::Relaxed);
            KeyUse {
                key: key.clone(),
                is_shadow: watched.is_shadow,
                expires_at: watched.expires_at,
                since: watched.since,
                last_at: (last != NEVER).then(|| Timestamp::from_unix_millis(last)),
            }
        };
        watched.iter().map(told).collect()
    }
}

const NEVER: i64 = i64::MIN;
