//! The embedded store.

use std::path::PathBuf;

/// The embedded store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `store.path`.
    pub path: PathBuf,
    /// `store.max_deferred`: rows deferred or in doubt.
    pub max_deferred: u64,
    /// `store.max_held`: rows held.
    pub max_held: u64,
}
