//! The public door: `POST {path}` from the internet, two words back.
//!
//! [`listener`] accepts connections and bounds them; `connection` is one of them, from its first byte (of the PROXY
//! protocol, of TLS) on; `body` reads what is posted, within a size and a time; [`crate::gateway`] decides; `reply` is
//! the one place that writes the word `success`. HTTP/1 only, because that is what Alipay speaks and what a proxy speaks
//! to us.
//!
//! What it is not: it does not look into a notification, trusts no address and no header, and decides
//! nothing about money. Nothing of it survives a crash, and nothing has to: a request that got no answer is
//! delivered again by Alipay.

pub(crate) mod accept;
mod body;
pub mod client_address;
pub(crate) mod connection;
mod give_way;
pub mod listener;
mod per_address;
mod proxy_protocol;
mod reply;
pub mod tls;
mod trace_context;

use std::net::SocketAddr;
use std::time::Duration;

use body::CONNECTION_BYTES;
use client_address::TrustedProxies;
use tls::Identity;

/// The listener's bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `http.listen`.
    pub listen: SocketAddr,
    /// `http.path`.
    pub path: String,
    /// `http.max_body`, bytes.
    pub max_body: usize,
    /// `http.max_bodies`, bytes of all bodies that are waited for.
    pub max_bodies: usize,
    /// `http.max_connections`.
    pub max_connections: usize,
    /// `http.max_buffered_connections`: of those, how many may have said something; half as many inside of TLS.
    pub max_buffered_connections: usize,
    /// `http.max_connections_per_address`; 0 is no bound.
    pub max_connections_per_address: usize,
    /// `http.max_requests_per_connection`.
    pub max_requests_per_connection: usize,
    /// `http.max_connection_age`.
    pub max_connection_age: Duration,
    /// `http.max_header`, bytes of a request's head.
    pub max_header: usize,
    /// `http.header_timeout`: from the first byte (or the end of the request before) to a complete head, and from the
    /// connection to the first byte.
    pub header_timeout: Duration,
    /// `http.body_timeout`: from the head to the complete body.
    pub body_timeout: Duration,
    /// `http.write_timeout`: how long a write may make no progress.
    pub write_timeout: Duration,
    /// `http.handshake_timeout`: from the connection to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// `http.trusted_proxies`.
    pub trusted_proxies: TrustedProxies,
    /// `http.proxy_protocol`: connections of trusted proxies begin with its header.
    pub proxy_protocol: bool,
    /// `http.tls_certificate_file` and `http.tls_key_file`.
    pub tls: Option<Identity>,
}

impl Config {
    /// How many bodies may be waited for: as many as fit into `http.max_bodies`, and half of the seats at the most, because they
    /// give way to one another alone.
    pub(crate) fn unfinished_bodies(&self) -> usize {
        (self.max_bodies / CONNECTION_BYTES).min(self.seats().div_ceil(2))
    }

    /// How many requests may wait at low priority, each of which keeps its seat: a quarter of them.
    pub(crate) fn requests_at_low_priority(&self) -> usize {
        self.seats().div_ceil(4)
    }

    /// How many connections can be in a request.
    fn seats(&self) -> usize {
        self.buffered_connections().min(self.max_connections)
    }

    /// How many connections may have buffers. Inside of TLS each has a record in both forms beside HTTP's, and counts twice.
    pub(crate) const fn buffered_connections(&self) -> usize {
        match self.tls {
            None => self.max_buffered_connections,
            Some(_) => self.max_buffered_connections.div_ceil(2),
        }
    }
}
