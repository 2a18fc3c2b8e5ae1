//! Crash points: the places between two steps at which a build with the feature `failpoints` can die, as by
//! `kill -9`, to show what is left then (tests/torture). Never part of what is shipped: without the feature
//! [`reached`] is empty, and nothing reads the variable.
//!
//! `GATEWAY_FAILPOINT=confirmed_unrecorded:3` dies when that point is reached for the third time. It is a variable
//! that `config` reads, and no key, so that the shipped program has no name for it. The crate `fail` would do most of
//! this, but its actions end in a panic, which is caught and unwound, and not in SIGKILL.

/// A crash point, named after what has been done; those of a drained event are its own. In the order of publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// Taken out of the queue, and the store not asked.
    Unclaimed,
    /// Asked, and nothing published.
    ClaimedUnpublished,
    /// The broker stored it, and the confirm was not looked at.
    PublishedUnconfirmed,
    /// Confirmed, and not given to the store.
    ConfirmedUnrecorded,
    /// Written into a transaction, and not committed.
    StoreMidCommit,
    /// Recorded, and nobody told.
    RecordedUnanswered,
    /// The word `success` is made, and not sent.
    Answering,
    /// The broker did not take it, and the store was not asked to keep it.
    Deferring,
    /// Kept, and nobody told.
    DeferredUnanswered,
    /// The confirm is overdue, and the store not asked to keep it.
    InDoubt,
    /// Kept as in doubt, and nobody told.
    InDoubtUnanswered,
    /// In doubt for long enough, and not released.
    DoubtOver,
    /// Taken out of the store to be published again.
    Draining,
    /// As [`Self::PublishedUnconfirmed`].
    DrainedUnconfirmed,
    /// Drained and confirmed, and its row not rewritten.
    DrainedUnrecorded,
}

impl Point {
    /// Every point.
    pub const ALL: [Self; 15] = [
        Self::Unclaimed,
        Self::ClaimedUnpublished,
        Self::PublishedUnconfirmed,
        Self::ConfirmedUnrecorded,
        Self::StoreMidCommit,
        Self::RecordedUnanswered,
        Self::Answering,
        Self::Deferring,
        Self::DeferredUnanswered,
        Self::InDoubt,
        Self::InDoubtUnanswered,
        Self::DoubtOver,
        Self::Draining,
        Self::DrainedUnconfirmed,
        Self::DrainedUnrecorded,
    ];

    /// Its name in `GATEWAY_FAILPOINT`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unclaimed => "unclaimed",
            Self::ClaimedUnpublished => "claimed_unpublished",
            Self::PublishedUnconfirmed => "published_unconfirmed",
            Self::ConfirmedUnrecorded => "confirmed_unrecorded",
            Self::StoreMidCommit => "store_mid_commit",
            Self::RecordedUnanswered => "recorded_unanswered",
            Self::Answering => "answering",
            Self::Deferring => "deferring",
            Self::DeferredUnanswered => "deferred_unanswered",
            Self::InDoubt => "in_doubt",
            Self::InDoubtUnanswered => "in_doubt_unanswered",
            Self::DoubtOver => "doubt_over",
            Self::Draining => "draining",
            Self::DrainedUnconfirmed => "drained_unconfirmed",
            Self::DrainedUnrecorded => "drained_unrecorded",
        }
    }
}

/// A point is passed. In what is shipped this is nothing.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(crate) const fn reached(_: Point) {}

#[cfg(feature = "failpoints")]
pub(crate) use armed::{arm, reached};

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    use super::Point;

    /// Where to die, and how many passes are left.
    static ARMED: OnceLock<(Point, AtomicU32)> = OnceLock::new();

    /// Takes `GATEWAY_FAILPOINT` out of an environment.
    ///
    /// # Errors
    /// If it names no point and no pass.
    pub(crate) fn arm(environment: &[(String, String)]) -> Result<(), String> {
        let Some((_, text)) = environment.iter().find(|(name, _)| name == VARIABLE) else { return Ok(()) };
        let parsed = text.split_once(':').and_then(|(name, pass)| {
            let point = Point::ALL.into_iter().find(|point| point.as_str() == name)?;
            Some((point, AtomicU32::new(pass.parse().ok().filter(|pass| *pass > 0)?)))
        });
        let armed = parsed.ok_or_else(|| format!("{VARIABLE}: {text:?} is not such as answering:1"))?;
        // A second load of the configuration is a reload: the first word stands.
        let _ = ARMED.set(armed);
        Ok(())
    }

    /// A point is passed, perhaps for the last time.
    pub(crate) fn reached(point: Point) {
        let Some((armed, passes)) = ARMED.get() else { return };
        if *armed == point && passes.fetch_sub(1, Ordering::Relaxed) == 1 {
            let _ = kill_process(getpid(), Signal::Kill);
            // The signal is on its way: nothing of this thread comes after it.
            loop {
                std::thread::park();
            }
        }
    }

    const VARIABLE: &str = "GATEWAY_FAILPOINT";
}
