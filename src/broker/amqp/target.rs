//! Where to connect and with what: the nodes of the broker, the login, and what TLS believes. Read anew before each
//! connect, so that a rotated password and a renewed certificate need no restart.
//!
//! No word of an error quotes the URI: it holds a password.

use std::ops::RangeInclusive;
use std::sync::Arc;

use lapin::tcp::RustlsConnector;
use lapin::types::ShortString;
use lapin::uri::{AMQPScheme, AMQPUri};
use tokio::time::timeout;

use super::Config;
use super::connection::CONNECT_DEADLINE;
use crate::secret::Secret;

/// The nodes, in the order in which they are named, and how TLS is done with them.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) nodes: Vec<AMQPUri>,
    /// `None` where nothing is encrypted.
    pub(super) tls: Option<RustlsConnector>,
}

impl Target {
    /// Reads the files that it is made of. Bound: [`CONNECT_DEADLINE`]; a file on a network that does not answer holds
    /// up one thread for each attempt, and nothing else.
    pub(super) async fn read(config: &Arc<Config>) -> Result<Self, String> {
        let config = Arc::clone(config);
        let reading = tokio::task::spawn_blocking(move || Self::read_now(&config));
        match timeout(CONNECT_DEADLINE, reading).await {
            Ok(read) => read.unwrap_or_else(|_| Err("its files could not be read".to_owned())),
            Err(_elapsed) => Err(format!("its files were not read within {CONNECT_DEADLINE:?}")),
        }
    }

    fn read_now(config: &Config) -> Result<Self, String> {
        let uri = config.uri.read().map_err(|error| format!("amqp.uri_file: {error}"))?;
        let nodes = nodes(&uri, &config.nodes).map_err(|(key, what)| format!("{key} {what}"))?;
        let encrypted = nodes.iter().any(is_encrypted);
        if !encrypted && config.tls.is_configured() {
            return Err(format!("amqp.uri {NOT_ENCRYPTED}"));
        }
        let tls = encrypted.then(|| config.tls.connector()).transpose()?;
        Ok(Self { nodes, tls })
    }
}

/// The nodes that `amqp.uri` and `amqp.nodes` name, each once; or the key that is wrong, and what is wrong with it.
pub(super) fn nodes(uri: &Secret, others: &[String]) -> Result<Vec<AMQPUri>, (&'static str, String)> {
    let mut nodes = Vec::new();
    for piece in split(uri.expose()) {
        nodes.push(node(piece.trim()).map_err(|what| ("amqp.uri", what.to_owned()))?);
    }
    let first = match nodes.as_slice() {
        [only] => only.clone(),
        _ if others.is_empty() => return Ok(nodes),
        _ => {
            return Err(("amqp.nodes", "is given, and amqp.uri names several nodes: one must go".to_owned()));
        }
    };
    for other in others {
        let Some((host, port)) = place(other) else {
            // A URI has a login in it.
            let shown = if other.contains('@') { "a URI".to_owned() } else { format!("{other:?}") };
            return Err(("amqp.nodes", format!("{shown} is not HOST or HOST:PORT")));
        };
        let mut node = first.clone();
        node.authority.host = host.to_owned();
        node.authority.port = port.unwrap_or_else(|| node.scheme.default_port());
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    Ok(nodes)
}

pub(super) fn is_encrypted(node: &AMQPUri) -> bool {
    node.scheme == AMQPScheme::AMQPS
}

/// lapin's parser reads `amqp:/host` and even `amqp:` as the local machine: a typing error must not lead there.
fn node(uri: &str) -> Result<AMQPUri, &'static str> {
    let host = host(uri).ok_or(NOT_A_URI)?;
    let mut node: AMQPUri = uri.parse().map_err(|_quotes_it| NOT_A_URI)?;
    if let Some(ipv6) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        node.authority.host = ipv6.to_owned();
    }
    if ShortString::try_new(node.vhost.as_str()).is_err() {
        return Err("names a virtual host that is longer than an AMQP short string");
    }
    // The parser leaves out what it does not know, so that a typing error would go unseen.
    let query = uri.split('#').next().and_then(|uri| uri.split_once('?')).map_or("", |(_, query)| query);
    let mut names =
        query.split('&').filter_map(|pair| pair.split('=').next()).filter(|name| !name.is_empty());
    if !names.all(|name| NAMES.contains(&name)) {
        return Err(UNKNOWN_NAME);
    }
    // lapin would take the broker's: 60 s until a dead peer is noticed, and 8 MiB of buffers.
    if !HEARTBEATS.contains(node.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS)) {
        return Err("has a heartbeat that is not from 1 to 600 (seconds): a dead line would not be noticed");
    }
    if !FRAMES.contains(node.query.frame_max.get_or_insert(FRAME_MAX_BYTES)) {
        return Err("has a frame_max that is not from 4096, AMQP's least, to 1048576 (bytes)");
    }
    if node.query.channel_max.is_some_and(|most| most != 0 && most < CHANNELS) {
        return Err("has a channel_max below 80 that is not 0 (no bound of ours): each lane has a channel");
    }
    Ok(node)
}

/// A comma may stand in a password: only one before another scheme separates.
fn split(uris: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for (comma, _) in uris.match_indices(',') {
        let after = uris.get(comma + 1..).unwrap_or_default().trim_start();
        if after.starts_with("amqp://") || after.starts_with("amqps://") {
            pieces.push(uris.get(start..comma).unwrap_or_default());
            start = comma + 1;
        }
    }
    pieces.push(uris.get(start..).unwrap_or_default());
    pieces
}

/// The host as it is written. lapin's parser takes `localhost` where it finds none (`amqp:/host`, `amqp://:5672`)
/// and where it finds an IPv6 address.
fn host(uri: &str) -> Option<&str> {
    let rest = uri.strip_prefix("amqp://").or_else(|| uri.strip_prefix("amqps://"))?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let place = authority.rsplit('@').next()?;
    let host = match place.split_once(']') {
        Some((address, _port)) => place.get(..=address.len())?,
        None => place.split(':').next()?,
    };
    (!host.is_empty()).then_some(host)
}

/// A node as `amqp.nodes` names it: a host, and a port where it is not the scheme's own.
fn place(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) };
            (host, port)
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let of_a_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || !host.chars().all(of_a_host) {
        return None;
    }
    match port.map(str::parse) {
        None => Some((host, None)),
        Some(Ok(port)) if port > 0 => Some((host, Some(port))),
        Some(_) => None,
    }
}

pub(super) const NOT_A_URI: &str = "is not a URI such as amqp://USER:PASSWORD@HOST:5672/%2f";
pub(super) const NOT_ENCRYPTED: &str = "is not amqps://, so nothing would be encrypted";
/// A dead peer is noticed within twice this.
const HEARTBEAT_SECONDS: u16 = 10;
/// lapin holds buffers of 64 × this for a connection.
const FRAME_MAX_BYTES: u32 = 16 * 1024;
/// What the query of a URI may name.
const NAMES: [&str; 4] = ["heartbeat", "frame_max", "channel_max", "auth_mechanism"];
const UNKNOWN_NAME: &str =
    "has something in its query that is none of heartbeat, frame_max, channel_max, auth_mechanism";
const HEARTBEATS: RangeInclusive<u16> = 1..=600;
/// AMQP 0-9-1, `frame-min-size`: both sides must take so much. Bound: 64 MiB of buffers.
const FRAMES: RangeInclusive<u32> = 4096..=1 << 20;
/// The most that `amqp.lanes` may be, and those that declare and look.
const CHANNELS: u16 = 80;

#[cfg(test)]
mod tests {
    use super::*;

    fn places(uri: &str, others: &[&str]) -> Result<Vec<String>, &'static str> {
        let others: Vec<String> = others.iter().map(|&other| other.to_owned()).collect();
        let nodes = nodes(&Secret::new(uri), &others).map_err(|(key, _)| key)?;
        Ok(nodes.iter().map(|node| format!("{} {}", node.authority.host, node.authority.port)).collect())
    }

    #[test]
    fn heartbeat_and_frame_size_are_ours_unless_the_uri_says_otherwise() {
        let uri =
            "amqp://u:a,b@one:1/%2f,amqps://two/v?heartbeat=30&frame_max=131072, amqp://[::1]:9/".to_owned();
        let nodes = nodes(&Secret::new(uri), &[]).unwrap();
        let [one, two, three] = nodes.as_slice() else { panic!("three") };
        assert_eq!((one.authority.host.as_str(), one.authority.userinfo.password.as_str()), ("one", "a,b"));
        assert_eq!((one.query.heartbeat, one.query.frame_max), (Some(10), Some(16_384)));
        assert_eq!((two.query.heartbeat, two.query.frame_max), (Some(30), Some(131_072)));
        assert_eq!((three.authority.host.as_str(), three.authority.port), ("::1", 9));
    }

    #[test]
    fn other_nodes_share_the_login_of_the_uri_and_each_is_named_once() {
        let uri = "amqps://u:p@one/v";
        let named = places(uri, &["one", "two", "two:5671", "three:7", "[fe80::1]", "[::1]:9"]);
        assert_eq!(named.unwrap(), ["one 5671", "two 5671", "three 7", "fe80::1 5671", "::1 9"]);
        let nodes = nodes(&Secret::new(uri), &["two".to_owned()]).unwrap();
        assert_eq!((nodes[1].authority.userinfo.password.as_str(), nodes[1].vhost.as_str()), ("p", "v"));
    }

    #[test]
    fn what_is_no_node_is_not_taken_for_one() {
        for other in
            ["", ":1", "h:", "h:0", "h:99999", "h:x", "a b", "amqp://h", "u:p@h", "[::1", "[]", "[::1]9"]
        {
            assert_eq!(places("amqp://one", &[other]), Err("amqp.nodes"), "{other}");
        }
        assert_eq!(places("amqp://one,amqp://two", &["three"]), Err("amqp.nodes"));
    }

    #[test]
    fn what_is_no_amqp_uri_is_not_taken_for_one() {
        for uri in [
            "",
            "amqp",
            "amqp:",
            "amqp:pw",
            "amqp:/host",
            "amqp://",
            "amqp:///vhost",
            "amqp://u:p@/vhost",
            "amqp://u:p@:5672/vhost",
            "amqp://u:p@h:99999/",
            "http://user:pw@h/",
            "user:pw@host",
            "amqp://one,amqp://",
        ] {
            assert_eq!(places(uri, &[]), Err("amqp.uri"), "{uri}");
        }
        for uri in ["amqp://localhost", "amqps://u:p@h:5671/%2f?heartbeat=5", "amqp://one,amqp://two"] {
            assert!(places(uri, &[]).is_ok(), "{uri}");
        }
    }

    #[test]
    fn what_the_query_says_is_known_and_can_be_kept() {
        for query in [
            "hartbeat=30",
            "heartbeat=10&verify=verify_none",
            "cacertfile=/ca.pem",
            // Ours is the deadline of connecting.
            "connection_timeout=3000",
            "heartbeat=0",
            "heartbeat=601",
            "heartbeat=x",
            "frame_max=0",
            "frame_max=4095",
            "frame_max=1048577",
            "channel_max=79",
        ] {
            assert_eq!(places(&format!("amqp://one/%2f?{query}"), &[]), Err("amqp.uri"), "{query}");
            // Of the second one, too.
            assert_eq!(places(&format!("amqp://one,amqp://two/v?{query}"), &[]), Err("amqp.uri"), "{query}");
        }
        for query in [
            "",
            "&",
            "heartbeat=1&frame_max=4096&channel_max=80",
            "heartbeat=600&frame_max=1048576&channel_max=0#x?y",
            "auth_mechanism=external",
        ] {
            assert!(places(&format!("amqp://one/%2f?{query}"), &[]).is_ok(), "{query}");
        }
    }
}
