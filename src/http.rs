//! The public door: `POST {path}` from the internet, two words back.
//!
//! [`listener`] accepts connections and bounds them; `body` reads what is posted, within a size and a time;
//! [`crate::gateway`] decides; `reply` is the one place that writes the word `success`. HTTP/1 only, because
//! that is what Alipay speaks and what a proxy speaks to us.
//!
//! What it is not: it does not look into a notification, trusts no address and no header, and decides
//! nothing about money. Nothing of it survives a crash, and nothing has to: a request that got no answer is
//! delivered again by Alipay.

pub(crate) mod accept;
mod body;
pub(crate) mod connection;
pub mod listener;
mod reply;
mod trace_context;

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
    /// `http.header_timeout`: from the connection (or the end of the request before) to a complete head.
    pub header_timeout: Duration,
    /// `http.body_timeout`: from the head to the complete body.
    pub body_timeout: Duration,
}
