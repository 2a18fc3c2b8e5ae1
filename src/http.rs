//! The public door.

use std::net::SocketAddr;
use std::time::Duration;

/// The listener's bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `http.listen`.
    pub listen: SocketAddr,
    /// `http.path`.
    pub path: String,
    /// `http.max_body`, bytes.
    pub max_body: usize,
    /// `http.max_connections`.
    pub max_connections: usize,
    /// `http.max_header`, bytes of a request's head.
    pub max_header: usize,
    /// `http.header_timeout`: from the first byte (or the end of the request before) to a complete head.
    pub header_timeout: Duration,
    /// `http.body_timeout`: from the head to the complete body.
    pub body_timeout: Duration,
}
