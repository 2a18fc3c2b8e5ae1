//! Loads apps, keys, sellers and the listener's certificate again, on SIGHUP and when one of their files changes: all of
//! it or none.
//! What is wrong with the new one is told as at a start, and the old one stays in force, with an alarm, until the files
//! are right.
//!
//! The files are looked at, not watched by the kernel: a mounted secret is exchanged by turning a link, an editor
//! writes beside and renames, and a network's file system tells nobody. A change counts when two looks in a row have
//! seen the same, so that a list that is still being written is not taken for a short one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;

use crate::admission::policy::Policy;
use crate::config::{self, Config, Loaded, Problems, Watched};
use crate::gateway::Gateway;
use crate::http;
use crate::http::tls::{Identity, InForce};
use crate::lifecycle::Stopping;
use crate::metrics::Metrics;

/// Keeps the policy of a gateway true to its files.
#[derive(Debug)]
pub(super) struct Reloader {
    file: Option<PathBuf>,
    running: Config,
    files: Files,
    gateway: Gateway,
    tls: Option<InForce>,
    metrics: Arc<Metrics>,
    refused: Option<Problems>,
}

impl Reloader {
    pub(super) fn new(loaded: Loaded, gateway: Gateway, tls: Option<InForce>, metrics: Arc<Metrics>) -> Self {
        let Loaded { config: running, file, watched, .. } = loaded;
        let files = Files::seen(watched);
        let reloader = Self { file, running, files, gateway, tls, metrics, refused: None };
        reloader.show_certificate();
        reloader
    }

    /// Runs until the gateway stops.
    pub(super) async fn run(mut self, mut hangup: Signal, stopping: Stopping) {
        let mut looks_since_refusal = 0;
        loop {
            let was_told = tokio::select! {
                () = stopping.begun() => return,
                _ = hangup.recv() => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            let now = look(&self.files).await;
            let has_changed = self.files.have_changed(now.clone());
            looks_since_refusal += 1;
            // The files that are wrong may be ones that the last good configuration did not name.
            let is_due_again = self.refused.is_some() && looks_since_refusal >= LOOKS_AFTER_REFUSAL;
            if was_told || has_changed || is_due_again {
                // If it is refused, by these; what is exchanged while they are read is the next change.
                self.files = Files::seen(now);
                self.reload().await;
                looks_since_refusal = 0;
            }
        }
    }

    async fn reload(&mut self) {
        let file = self.file.clone();
        let Ok(loaded) = tokio::task::spawn_blocking(move || config::load(file.as_deref())).await else {
            tracing::error!("the configuration could not be read again");
            return;
        };
        match loaded {
            Ok(loaded) => self.apply(loaded),
            Err(problems) => self.refuse(problems),
        }
    }

    fn apply(&mut self, loaded: Loaded) {
        // What is fresh is what the store may have forgotten: not by a retention that is not in force.
        let (max_age, retention) = (loaded.config.policy.max_age, self.running.policy.retention);
        if !config::is_kept_long_enough(retention, max_age) {
            let problem = "freshness.max_age: is too long for the store.retention that is in force until the next start";
            return self.refuse(Problems(vec![problem.to_owned()]));
        }
        self.remark_what_waits(&loaded.config);
        let mut policy = loaded.config.policy;
        // Publication and the store go by the one that they were started with.
        policy.retention = self.running.policy.retention;
        // Another set of files may be named now.
        self.files = Files::seen(loaded.watched);
        self.refused = None;
        self.metrics.policy_refused.set(0);
        let is_shown = self.exchange_certificate(loaded.config.http.tls);
        let is_believed = self.exchange_policy(policy);
        if is_shown || is_believed {
            for remark in loaded.remarks {
                tracing::warn!(remark, "configuration");
            }
        }
        // Last: who sees it counted finds it in force.
        self.metrics.policy_reloads.with_label_values(&["applied"]).inc();
    }

    /// Says whether it is another one.
    fn exchange_policy(&mut self, policy: Policy) -> bool {
        if policy == self.running.policy {
            tracing::info!("apps, keys and sellers were loaded again, and are the same");
            return false;
        }
        self.tell_apps(&policy);
        let apps = policy.apps.len();
        let keys: usize = policy.apps.values().map(|app| app.keys.len()).sum();
        self.running.policy = policy.clone();
        self.gateway.replace_policy(policy);
        tracing::info!(apps, keys, "another set of apps, keys and sellers is in force");
        true
    }

    /// What comes for an app that is gone is refused as a stranger's: of its series nothing is left to alarm anybody.
    fn tell_apps(&self, new: &Policy) {
        let named = |these: &Policy, those: &Policy| -> Vec<String> {
            let only = these.apps.keys().filter(|app_id| !those.apps.contains_key(*app_id));
            only.take(MAX_NAMED).cloned().collect()
        };
        let (gone, come) = (named(&self.running.policy, new), named(new, &self.running.policy));
        if !gone.is_empty() {
            let apps = gone.join(", ");
            tracing::warn!(
                apps,
                "apps that are no longer configured: what comes for them is refused from now on"
            );
        }
        if !come.is_empty() {
            tracing::info!(apps = come.join(", "), "apps that were not configured before");
        }
    }

    /// Whether there is TLS at all is decided at the start. Says whether it is another one.
    fn exchange_certificate(&mut self, identity: Option<Identity>) -> bool {
        if let (Some(tls), Some(identity)) = (&self.tls, identity)
            && self.running.http.tls.as_ref() != Some(&identity)
        {
            tls.replace(identity.clone());
            self.running.http.tls = Some(identity);
            self.show_certificate();
            tracing::info!("another certificate is shown by the public listener");
            return true;
        }
        false
    }

    fn show_certificate(&self) {
        let ends_at = self.running.http.tls.as_ref().map_or(0, Identity::ends_at);
        self.metrics.tls_certificate_expires.set(ends_at);
    }

    fn refuse(&mut self, problems: Problems) {
        self.metrics.policy_refused.set(1);
        self.metrics.policy_reloads.with_label_values(&["refused"]).inc();
        if self.refused.as_ref() != Some(&problems) {
            for problem in &problems.0 {
                tracing::error!(problem, "configuration refused: what was in force stays in force");
            }
        }
        self.refused = Some(problems);
    }

    /// Only the policy and the certificate are exchanged while it runs.
    fn remark_what_waits(&self, loaded: &Config) {
        let running = &self.running;
        let mut publication = loaded.publication.clone();
        publication.retention = running.publication.retention;
        let is_kept_as_long = loaded.publication.retention == running.publication.retention;
        let sections = [
            ("http", running.failure_budget != loaded.failure_budget || differs(&running.http, &loaded.http)),
            ("admin", running.admin != loaded.admin),
            ("amqp", running.amqp != loaded.amqp),
            ("publication", running.publication != publication),
            ("store", running.store != loaded.store || !is_kept_as_long),
            ("runtime", running.threads != loaded.threads),
            ("shutdown", running.shutdown != loaded.shutdown),
            ("log", running.log != loaded.log),
            ("traces", running.traces != loaded.traces),
        ];
        for (section, _) in sections.iter().filter(|(_, differs)| *differs) {
            tracing::warn!(section, "changed: takes effect at the next start");
        }
    }
}

/// What the watched files were when they were loaded, and what they seemed to be at the last look.
#[derive(Debug)]
struct Files {
    loaded: Vec<Watched>,
    last: Vec<Watched>,
}

impl Files {
    fn seen(now: Vec<Watched>) -> Self {
        Self { last: now.clone(), loaded: now }
    }

    /// Whether they differ from what was loaded, and have not changed since the last look: nobody is writing any more.
    fn have_changed(&mut self, now: Vec<Watched>) -> bool {
        let settled = self.last == now;
        self.last = now;
        settled && self.last != self.loaded
    }
}

/// Whether there is more between the two than another certificate.
fn differs(running: &http::Config, loaded: &http::Config) -> bool {
    let mut loaded = loaded.clone();
    if running.tls.is_some() && loaded.tls.is_some() {
        loaded.tls.clone_from(&running.tls);
    }
    *running != loaded
}

/// The files may lie on a network that does not answer: then only this waits.
async fn look(files: &Files) -> Vec<Watched> {
    let paths: Vec<PathBuf> = files.loaded.iter().map(|file| file.path.clone()).collect();
    let looked = tokio::task::spawn_blocking(move || paths.into_iter().map(Watched::look).collect()).await;
    looked.unwrap_or_else(|_| files.loaded.clone())
}

/// A change is in force within two of these.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A refused configuration is read again this many looks later, though no file that is known has changed.
const LOOKS_AFTER_REFUSAL: u32 = 15;
/// Bound: apps that a line names.
const MAX_NAMED: usize = 20;

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn stamped(stamp: Option<(u64, u64, Option<SystemTime>)>) -> Vec<Watched> {
        vec![Watched { path: PathBuf::new(), stamp }]
    }

    fn of_length(length: u64) -> Vec<Watched> {
        stamped(Some((1, length, None)))
    }

    #[test]
    fn a_file_that_is_still_being_written_is_not_loaded_until_two_looks_agree() {
        let mut files = Files::seen(of_length(10));
        let looks = [10, 0, 5, 9, 9, 10, 10];
        let loads = looks.map(|length| files.have_changed(of_length(length)));
        assert_eq!(loads, [false, false, false, false, true, false, false]);
    }

    #[test]
    fn a_file_that_came_back_as_it_was_loaded_is_no_change() {
        let mut files = Files::seen(of_length(10));
        assert!([0, 10, 10].into_iter().all(|length| !files.have_changed(of_length(length))));
        assert!(
            !files.have_changed(stamped(None)) && files.have_changed(stamped(None)),
            "one that is gone is a change"
        );
    }
}
