//! What the gateway answered, counted, and judged by what it promises.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use serde::Serialize;

use crate::signer::notification::Kind;

/// What was answered so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    by_kind: BTreeMap<&'static str, Counts>,
    undelivered: u64,
    broken: Vec<String>,
    latencies_us: Vec<u32>,
}

#[derive(Debug, Default, Clone, Serialize)]
struct Counts {
    sent: u64,
    success: u64,
    fail: u64,
    unanswered: u64,
}

/// All of it, for people and programs.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    sent: u64,
    success: u64,
    fail: u64,
    unanswered: u64,
    seconds: f64,
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Notifications whose last delivery was not answered `success`, forged ones too.
    undelivered: u64,
    by_kind: BTreeMap<&'static str, Counts>,
    /// Answers that were not as promised: at most [`MAX_BROKEN`] of them.
    broken: Vec<String>,
}

impl Tally {
    /// One answer to one delivery. Whether it was as promised is another question: see [`Self::judge`].
    pub(super) fn count(&mut self, kind: Kind, success: Result<bool, &String>, took: Duration) {
        let counts = self.by_kind.entry(kind.as_str()).or_default();
        counts.sent += 1;
        match success {
            Ok(true) => counts.success += 1,
            Ok(false) => counts.fail += 1,
            Err(_) => counts.unanswered += 1,
        }
        self.latencies_us.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }

    /// The last answer to a notification.
    pub(super) fn judge(&mut self, kind: Kind, success: Result<bool, &String>) {
        if success != Ok(true) {
            self.undelivered += 1;
        }
        if success != Ok(kind.is_authentic()) && self.broken.len() < MAX_BROKEN {
            let answer = match success {
                Ok(true) => "success",
                Ok(false) => "not success",
                Err(error) => error.as_str(),
            };
            self.broken.push(format!("{}: {answer}", kind.as_str()));
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        for (kind, counts) in other.by_kind {
            let mine = self.by_kind.entry(kind).or_default();
            mine.sent += counts.sent;
            mine.success += counts.success;
            mine.fail += counts.fail;
            mine.unanswered += counts.unanswered;
        }
        self.undelivered += other.undelivered;
        self.broken.extend(other.broken);
        self.broken.truncate(MAX_BROKEN);
        self.latencies_us.extend(other.latencies_us);
    }

    pub(super) fn summary(mut self, took: Duration) -> Summary {
        self.latencies_us.sort_unstable();
        let count = self.latencies_us.len();
        let quantile = |per_mille: usize| {
            let at = (count * per_mille / 1000).min(count.saturating_sub(1));
            self.latencies_us.get(at).map_or(0.0, |micros| f64::from(*micros) / 1000.0)
        };
        let (p50_ms, p99_ms) = (quantile(500), quantile(990));
        let sum = |of: fn(&Counts) -> u64| self.by_kind.values().map(of).sum::<u64>();
        let sent = sum(|counts| counts.sent);
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let per_second = sent as f64 / took.as_secs_f64();
        Summary {
            sent,
            success: sum(|counts| counts.success),
            fail: sum(|counts| counts.fail),
            unanswered: sum(|counts| counts.unanswered),
            seconds: took.as_secs_f64(),
            per_second,
            p50_ms,
            p99_ms,
            undelivered: self.undelivered,
            by_kind: self.by_kind,
            broken: self.broken,
        }
    }
}

impl Summary {
    pub(super) fn is_as_promised(&self) -> bool {
        self.broken.is_empty()
    }

    pub(super) fn print(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let Self { sent, seconds, per_second, p50_ms, p99_ms, .. } = self;
        writeln!(
            out,
            "{sent} sent in {seconds:.2} s ({per_second:.0} a second), p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms"
        )?;
        writeln!(out, "{:<12} {:>9} {:>9} {:>9} {:>11}", "kind", "sent", "success", "fail", "unanswered")?;
        for (kind, counts) in &self.by_kind {
            let Counts { sent, success, fail, unanswered } = counts;
            writeln!(out, "{kind:<12} {sent:>9} {success:>9} {fail:>9} {unanswered:>11}")?;
        }
        for broken in &self.broken {
            writeln!(out, "NOT AS PROMISED: {broken}")?;
        }
        if self.broken.is_empty() {
            writeln!(out, "every answer was as promised")?;
        }
        Ok(())
    }
}

const MAX_BROKEN: usize = 20;
