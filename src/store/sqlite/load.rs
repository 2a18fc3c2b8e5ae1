//! How much waits, and whether there is room for more: counted at open and kept with each change, so that no write has
//! to count. What no queue takes has a bound of its own, so that one missing binding cannot fill the backlog.

use std::collections::HashMap;

use super::Config;
use crate::store::State;

/// What waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Load {
    /// Deferred or in doubt, and not returned.
    deferred: u64,
    /// Returned as unroutable.
    returned: u64,
    /// Of all that is deferred, in doubt or returned.
    deferred_bytes: u64,
    returned_bytes: u64,
    held: u64,
    held_bytes: u64,
}

/// A row, as far as the load knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Weight {
    pub(super) state: State,
    pub(super) is_returned: bool,
    pub(super) bytes: u64,
}

/// The load, its bounds, and the held notifications by the id of their row, so that a record of an ordinary
/// notification does not pay for a delete. Bound: `store.max_held`.
pub(super) struct Books {
    pub(super) load: Load,
    pub(super) held: HashMap<String, String>,
    config: Config,
}

impl Books {
    pub(super) fn new(config: &Config) -> Self {
        Self { load: Load::default(), held: HashMap::new(), config: config.clone() }
    }

    /// The same bounds, and nothing that waits.
    pub(super) fn emptied(&self) -> Self {
        Self::new(&self.config)
    }

    /// Whether something is deferred or in doubt.
    pub(super) fn has_deferred(&self) -> bool {
        self.load.deferred + self.load.returned > 0
    }

    /// Whether there is room for a row that is not there yet.
    pub(super) fn has_room_for(&self, new: Weight) -> bool {
        let (load, config) = (&self.load, &self.config);
        match (new.state, new.is_returned) {
            (State::Deferred | State::InDoubt, true) => {
                load.returned < config.max_returned
                    && load.returned_bytes + new.bytes <= config.max_deferred_bytes / 2
                    && load.deferred_bytes + new.bytes <= config.max_deferred_bytes
            }
            (State::Deferred | State::InDoubt, false) => {
                load.deferred < config.max_deferred
                    && load.deferred_bytes + new.bytes <= config.max_deferred_bytes
            }
            (State::Held, _) => {
                load.held < config.max_held && load.held_bytes + new.bytes <= config.max_held_bytes
            }
            (State::Recorded | State::Unrouted | State::Dropped, _) => true,
        }
    }
}

impl Load {
    pub(super) fn add(&mut self, weight: Weight) {
        self.shift(weight, u64::saturating_add);
    }

    pub(super) fn remove(&mut self, weight: Weight) {
        self.shift(weight, u64::saturating_sub);
    }

    fn shift(&mut self, weight: Weight, by: fn(u64, u64) -> u64) {
        let Weight { state, is_returned, bytes } = weight;
        match state {
            State::Deferred | State::InDoubt => {
                self.deferred_bytes = by(self.deferred_bytes, bytes);
                if is_returned {
                    self.returned = by(self.returned, 1);
                    self.returned_bytes = by(self.returned_bytes, bytes);
                } else {
                    self.deferred = by(self.deferred, 1);
                }
            }
            State::Held => {
                self.held = by(self.held, 1);
                self.held_bytes = by(self.held_bytes, bytes);
            }
            State::Recorded | State::Unrouted | State::Dropped => {}
        }
    }

    /// How much of each bound is used, by the name of its key.
    pub(super) fn used(&self, config: &Config) -> [(&'static str, f64); 5] {
        #[expect(clippy::cast_precision_loss, reason = "a ratio for a gauge")]
        let ratio = |used: u64, bound: u64| used as f64 / bound.max(1) as f64;
        [
            ("max_deferred", ratio(self.deferred, config.max_deferred)),
            ("max_returned", ratio(self.returned, config.max_returned)),
            ("max_deferred_bytes", ratio(self.deferred_bytes, config.max_deferred_bytes)),
            ("max_held", ratio(self.held, config.max_held)),
            ("max_held_bytes", ratio(self.held_bytes, config.max_held_bytes)),
        ]
    }
}
