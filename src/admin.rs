//! The operators' door.

use std::net::SocketAddr;

use crate::secret::Secret;

/// The admin listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `admin.listen`.
    pub listen: SocketAddr,
    /// `admin.token` or `admin.token_file`: without one, changing calls are refused.
    pub token: Option<Secret>,
}
