//! What a body is judged by: keys, given or configured, and whether its signature is of one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use super::{Failure, unfit};
use crate::admission::form::Form;
use crate::admission::key_ring::PublicKey;
use crate::admission::policy::{App, Buyer, Policy, SignType};
use crate::admission::signing_content::{Recipe, Version};
use crate::admission::{may_be_v2, signature};
use crate::event::Environment;

/// The keys.
#[derive(Debug)]
pub(super) struct Evidence {
    pub(super) policy: Policy,
    /// Keys given without a configuration: they need no app.
    pub(super) alone: Vec<PublicKey>,
}

/// That a signature is authentic, and how it was made.
#[derive(Debug)]
pub(super) struct Authenticity {
    pub(super) key: String,
    pub(super) is_v2: bool,
    recipe: Recipe,
}

impl Evidence {
    /// Keys alone: one app of any name, no seller, the hash of the body's own `sign_type`.
    pub(super) fn of_keys(
        files: &[PathBuf],
        app_id: Option<&str>,
        form: Option<&Form>,
    ) -> Result<Self, Failure> {
        let value =
            |name| form.and_then(|form| form.value(name)).and_then(|value| std::str::from_utf8(value).ok());
        let app_id = app_id.or(value("app_id")).unwrap_or("0").to_owned();
        let sign_type = if value("sign_type") == Some("RSA") { SignType::Rsa } else { SignType::Rsa2 };
        let mut keys = Vec::with_capacity(files.len());
        for file in files {
            let content = std::fs::read(file).map_err(|error| unfit(file, error))?;
            let (key, _) =
                PublicKey::read(&content, &app_id, sign_type).map_err(|fault| unfit(file, fault))?;
            keys.push(key);
        }
        let app = App {
            app_id: app_id.clone(),
            environment: Environment::Production,
            seller_ids: BTreeSet::new(),
            keys: keys.clone(),
            sign_type,
        };
        let policy = Policy {
            apps: BTreeMap::from([(app_id, app)]),
            max_age: Duration::from_secs(24 * 3600),
            retention: Duration::from_secs(35 * 86_400),
            buyer: Buyer::Omit,
            notification: true,
        };
        Ok(Self { policy, alone: keys })
    }

    /// Whether the signature is of one of the keys that count, under V1, or V2 for whatever carries `service` or
    /// `method`: the V2 trap too, which is authentic and no notification.
    pub(super) fn authenticity(&self, form: &Form) -> Option<Authenticity> {
        let signature = signature::decode(form.value("sign")?)?;
        let keys = self.keys(form);
        let v2 = may_be_v2(form).then(|| Recipe::worth_trying(form, Version::V2));
        Recipe::worth_trying(form, Version::V1).chain(v2.into_iter().flatten()).find_map(|recipe| {
            let content = recipe.content(form);
            let key = keys.iter().find(|key| key.verifies(&content, &signature))?;
            let is_v2 = recipe.version == Version::V2;
            Some(Authenticity { key: key.fingerprint().to_owned(), is_v2, recipe })
        })
    }

    /// What was signed, or what should have been.
    pub(super) fn signing_content(&self, form: &Form, authenticity: Option<&Authenticity>) -> Vec<u8> {
        let usual = Recipe { version: Version::V1, empty_values: false, cert_sn: true };
        authenticity.map_or(usual, |authenticity| authenticity.recipe).content(form)
    }

    /// The keys of the app that the body claims, or those that were given.
    pub(super) fn keys(&self, form: &Form) -> Vec<&PublicKey> {
        if !self.alone.is_empty() {
            return self.alone.iter().collect();
        }
        self.claimed(form).map(|app| app.keys.iter().collect()).unwrap_or_default()
    }

    /// The app that the body claims to be for.
    pub(super) fn claimed(&self, form: &Form) -> Option<&App> {
        let claimed = std::str::from_utf8(form.value("app_id")?).ok()?;
        self.policy.apps.get(claimed)
    }
}
