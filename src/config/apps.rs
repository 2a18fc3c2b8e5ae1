//! What admission judges by: `[[apps]]` with their keys and sellers, `[freshness]`, `[event]`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use super::reader::{DAY, MINUTE, NOT_A_FILE, Reader};
use super::source::INLINE;
use crate::admission::key_ring::{PublicKey, Shared};
use crate::admission::policy::{App, Buyer, Policy, SignType};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::event::Environment;
use crate::secret::is_pasted_key;

/// A record must outlive every delivery that could be accepted: Alipay's last comes 25 hours after the first, and its
/// notify_time may be `max_age` old when it arrives.
pub fn is_kept_long_enough(retention: Duration, max_age: Duration) -> bool {
    retention >= max_age + DAY * 2
}

/// What admission judges by.
pub(super) fn policy(reader: &mut Reader) -> Option<Policy> {
    let max_age = reader.duration("freshness.max_age", "24h", MINUTE..=DAY * 3600);
    let retention = reader.duration("store.retention", "35d", DAY..=DAY * 3650);
    if !is_kept_long_enough(retention, max_age) {
        reader.problem("store.retention", "must be at least freshness.max_age and 48 h more");
    }
    let buyers = [("omit", Buyer::Omit), ("mask", Buyer::Mask), ("forward", Buyer::Forward)];
    let buyer = reader.choice("event.buyer", "omit", &buyers).unwrap_or_default();
    let notification = reader.flag("event.notification", true);
    let mut apps = BTreeMap::new();
    let count = reader.tables("apps");
    if count == 0 {
        reader.missing("apps", "there must be at least one [[apps]]");
        return None;
    }
    for index in 0..count {
        let Some(app) = app(reader, index) else { continue };
        if let Some(twice) = apps.insert(app.app_id.clone(), app) {
            reader.problem(&format!("apps[{index}].app_id"), format!("{} is there twice", twice.app_id));
        }
    }
    Some(Policy { apps, max_age, retention, complete_since: Timestamp::default(), buyer, notification })
}

fn app(reader: &mut Reader, index: usize) -> Option<App> {
    let key = |name: &str| format!("apps[{index}].{name}");
    let app_id = reader.text(&key("app_id"));
    match app_id.as_deref() {
        None | Some("") => {
            reader.problem(&key("app_id"), "is required: the app's id at Alipay, 16 digits as a rule");
        }
        // Not quoted: who mixes up the lines may have put a key there.
        Some(id) if id.len() > 32 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
            reader.problem(&key("app_id"), "is to have 1 to 32 letters and digits: 16 digits as a rule");
        }
        Some(_) => {}
    }
    let environments = [("production", Environment::Production), ("sandbox", Environment::Sandbox)];
    let environment = reader.choice(&key("environment"), "production", &environments);
    let sign_type = sign_type(reader, &key("sign_type"));
    let seller_ids = seller_ids(reader, &key("seller_ids"));
    if seller_ids.is_empty() && sign_type == Some(SignType::Rsa) {
        reader.problem(
            &key("seller_ids"),
            "is required with sign_type = \"RSA\": its keys are shared by all merchants",
        );
    } else if seller_ids.is_empty() {
        reader.remark(format!("{} is empty: the seller of a trade is not checked", key("seller_ids")));
    }
    let believed =
        KeyList { app_id: app_id.as_deref().unwrap_or_default(), environment, sign_type, seller_ids };
    let (full_key, shadow_key) = (key("alipay_public_keys"), key("shadow_public_keys"));
    let (full, shadow) = (reader.list(&full_key), reader.list(&shadow_key));
    if full.is_empty() {
        reader.problem(&full_key, "is required: files with Alipay's public keys for this app");
    }
    let keys = believed.read(reader, &full_key, &full);
    let mut shadow_keys = believed.read(reader, &shadow_key, &shadow);
    let listed = shadow_keys.len();
    shadow_keys.retain(|shadow| !keys.iter().any(|key| key.is_same_key(shadow)));
    if shadow_keys.len() < listed {
        reader.remark(format!("{shadow_key} has a key that is believed anyway"));
    }
    let seller_ids = believed.seller_ids;
    Some(App {
        app_id: app_id?,
        environment: environment?,
        seller_ids,
        keys,
        shadow_keys,
        sign_type: sign_type?,
    })
}

/// In place, or one a line in a file; `#` begins a comment.
fn seller_ids(reader: &mut Reader, key: &str) -> BTreeSet<String> {
    let mut ids: BTreeSet<String> = reader.list(key).into_iter().collect();
    let file_key = format!("{key}_file");
    if let Some(file) = reader.file_name(&file_key) {
        let content = reader.watched_file(&file, MAX_SELLER_FILE);
        let text = content.and_then(|content| String::from_utf8(content).map_err(|error| error.to_string()));
        match text {
            Ok(text) => ids.extend(
                text.trim_start_matches('\u{feff}')
                    .lines()
                    .filter_map(|line| line.split('#').next().map(str::trim))
                    .filter(|id| !id.is_empty())
                    .map(str::to_owned),
            ),
            Err(error) => reader.problem(&file_key, format!("{file}: {error}")),
        }
        // An empty list means that nothing is checked. Nobody means that by an empty file.
        if ids.is_empty() {
            reader.problem(&file_key, format!("{file} names no seller"));
        }
    }
    for id in ids.iter().filter(|id| id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_digit())) {
        // A line of what is no list of sellers may be one of a key.
        let shown = if id.len() > MAX_SHOWN { "what is longer than any" } else { id };
        reader.problem(key, format!("{shown:?} is not a seller's id (2088…, digits)"));
    }
    ids
}

fn sign_type(reader: &mut Reader, key: &str) -> Option<SignType> {
    let text = reader.text_or(key, "RSA2");
    match text.as_str() {
        "RSA2" => Some(SignType::Rsa2),
        "RSA" => {
            reader.remark(format!("{key} is RSA: SHA-1, with keys that all merchants share"));
            Some(SignType::Rsa)
        }
        "SM2" => {
            reader.problem(key, "SM2 is not supported: no capture of it is known to verify against");
            None
        }
        other => {
            reader.problem(key, format!("{other:?} is not one of RSA2, RSA"));
            None
        }
    }
}

/// What the keys of an app are judged by.
struct KeyList<'a> {
    app_id: &'a str,
    environment: Option<Environment>,
    sign_type: Option<SignType>,
    seller_ids: BTreeSet<String>,
}

impl KeyList<'_> {
    fn read(&self, reader: &mut Reader, key: &str, entries: &[String]) -> Vec<PublicKey> {
        let mut keys: Vec<PublicKey> = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            if is_pasted_key(entry) && !entry.starts_with(INLINE) {
                // A private one is called by its name, too; neither is quoted.
                let read = PublicKey::read(entry.as_bytes(), self.app_id, SignType::Rsa2);
                let fault = read.err().map(|fault| format!(" ({fault})")).unwrap_or_default();
                reader.problem(&format!("{key}[{index}]"), format!("{NOT_A_FILE}{fault}"));
                continue;
            }
            let (name, content) = match entry.strip_prefix(INLINE) {
                Some(inline) => ("ALIPAY_PUBLIC_KEY".to_owned(), Ok(inline.as_bytes().to_vec())),
                None => (format!("{key}[{index}] ({entry})"), reader.watched_file(entry, MAX_KEY_FILE)),
            };
            let sign_type = self.sign_type.unwrap_or(SignType::Rsa2);
            let read = content.and_then(|content| {
                PublicKey::read(&content, self.app_id, sign_type).map_err(|fault| fault.to_string())
            });
            match read {
                Ok((public, remarks)) => {
                    for remark in remarks {
                        reader.remark(format!("{name}: {remark}"));
                    }
                    self.judge(reader, &name, &public);
                    if !entry.starts_with(INLINE) {
                        remark_private_half(reader, &name, &public, entry);
                    }
                    match keys.iter_mut().find(|key| key.is_same_key(&public)) {
                        None => keys.push(public),
                        Some(twin) => {
                            reader.remark(format!("{name}: the same key is there twice"));
                            // Of an old certificate and its renewal the later end counts.
                            if public.expires_at() > twin.expires_at() {
                                *twin = public;
                            }
                        }
                    }
                }
                // Whoever has named a file as everywhere else is told how; what he wrote may be a secret, and is not shown.
                Err(fault) if entry.starts_with(INLINE) => {
                    reader.problem(&name, format!("{fault} (a file is named with @ before it: @FILE)"));
                }
                Err(fault) => reader.problem(&name, fault),
            }
        }
        keys
    }

    fn judge(&self, reader: &mut Reader, name: &str, key: &PublicKey) {
        if let Some(end) = key.expires_at() {
            let now = SystemClock.now();
            if end < now {
                reader.remark(format!("{name}: its certificate ended at {}", end.rfc3339_utc()));
            } else if end.since(now) < DAY * 30 {
                reader.remark(format!("{name}: its certificate ends at {}", end.rfc3339_utc()));
            }
        }
        let foreign =
            key.account().filter(|id| !self.seller_ids.is_empty() && !self.seller_ids.contains(*id));
        if let Some(account) = foreign {
            reader.remark(format!(
                "{name}: its certificate is for the account {account}, which is none of the app's seller_ids"
            ));
        }
        match (self.sign_type, key.shared()) {
            // Whoever has a sandbox account could announce payments that never were.
            (_, Some(Shared::Sandbox)) if self.environment == Some(Environment::Production) => {
                reader.problem(
                    name,
                    "this is the sandbox's shared key, and the app's environment is production",
                );
            }
            (Some(SignType::Rsa), None) => reader.remark(format!(
                "{name}: {} is none of the three keys that Alipay is known to share among RSA merchants",
                key.fingerprint()
            )),
            (_, Some(shared)) => {
                reader.remark(format!("{name}: {} is {}", key.fingerprint(), words_for(shared)));
            }
            (_, None) => {}
        }
    }
}

fn words_for(shared: Shared) -> &'static str {
    match shared {
        Shared::Partner => "the partner gateway's key, which all merchants share",
        Shared::OpenPlatform => "the open platform's RSA key, which all merchants share",
        Shared::Sandbox => "the sandbox's RSA key, which all merchants share",
    }
}

/// The private half of Alipay's key is with Alipay. Where it lies beside the public one, the key is the app's own (the
/// commonest mistake of all), or `simulate`'s. Bound: [`MAX_BESIDE`] files.
fn remark_private_half(reader: &mut Reader, name: &str, key: &PublicKey, entry: &str) {
    let path = reader.path(entry);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(files) = std::fs::read_dir(folder) else { return };
    for file in files.flatten().take(MAX_BESIDE) {
        let small = file.metadata().is_ok_and(|about| about.is_file() && about.len() <= MAX_KEY_FILE);
        let half = small && std::fs::read(file.path()).is_ok_and(|content| key.is_half_of(&content));
        if half {
            reader.remark(format!(
                "{name}: its private half lies beside it ({}): this is a key of your own, not Alipay's, unless you \
                 are playing with `simulate`",
                file.file_name().to_string_lossy()
            ));
        }
    }
}

/// A consumer that trusts one exchange must not be paid from the sandbox.
pub(super) fn check_apps(reader: &mut Reader, policy: &Policy) {
    let mixed = reader.flag("amqp.mix_environments", false);
    let sandboxes = policy.apps.values().filter(|app| app.environment == Environment::Sandbox).count();
    if sandboxes > 0 && sandboxes < policy.apps.len() && !mixed {
        reader.problem(
            "apps[].environment",
            "production and sandbox on one exchange: set amqp.mix_environments = true if you mean it",
        );
    }
    // An RSA2 key belongs to one app (protocol.md §3): the same in two places is one of them in the wrong place.
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    for app in policy.apps.values().filter(|app| app.sign_type == SignType::Rsa2) {
        for key in &app.keys {
            if let Some(other) = owners.insert(key.fingerprint(), &app.app_id) {
                let (fingerprint, app_id) = (key.fingerprint(), &app.app_id);
                reader.remark(format!(
                    "apps {other} and {app_id} have the same key {fingerprint}: Alipay's RSA2 keys belong to one app"
                ));
            }
        }
    }
}

/// Bound: no key or certificate chain is larger.
const MAX_KEY_FILE: u64 = 64 * 1024;
/// Bound: some 60,000 sellers.
const MAX_SELLER_FILE: u64 = 1 << 20;
/// Bound: what is said of a seller's id that is none. Theirs have 16 digits.
const MAX_SHOWN: usize = 32;
/// Bound: files beside a key that are looked at.
const MAX_BESIDE: usize = 64;
