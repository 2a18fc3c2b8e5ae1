//! Where to connect and with what: one node, a master that sentinels name, or a cluster. Read anew before each connect, so
//! that a rotated password and a renewed authority need no restart.
//!
//! No word of an error quotes the URI: it holds a password.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, Pipeline,
    RedisFuture, TlsCertificates, TlsMode, Value,
};

use super::Config;
use super::batch::Spread;
use crate::secret::Secret;

/// What a URI names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Single,
    /// The master of this name.
    Sentinel(String),
    Cluster,
}

/// Where Redis is.
#[derive(Clone)]
pub(super) struct Target {
    kind: Kind,
    /// With the login; of sentinels, with that of the master behind them.
    nodes: Vec<ConnectionInfo>,
    /// The login at the sentinels, where they want one.
    sentinel: Option<ConnectionInfo>,
    tls: Option<TlsCertificates>,
}

/// A connection.
#[derive(Clone)]
pub(super) enum Link {
    Single(MultiplexedConnection, String),
    Cluster(ClusterConnection, String),
}

impl Link {
    pub(super) fn spread(&self) -> Spread {
        match self {
            Self::Single(..) => Spread::Together,
            Self::Cluster(..) => Spread::ByBucket,
        }
    }

    /// For the log.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Single(_, name) | Self::Cluster(_, name) => name,
        }
    }
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(connection, _) => connection.req_packed_command(cmd),
            Self::Cluster(connection, _) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(connection, _) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection, _) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(connection, _) => connection.get_db(),
            Self::Cluster(connection, _) => connection.get_db(),
        }
    }
}

impl Target {
    /// Reads the files that it is made of; one that does not answer holds up one thread for each attempt.
    pub(super) async fn read(config: &Arc<Config>) -> Result<Self, String> {
        let config = Arc::clone(config);
        let reading = tokio::task::spawn_blocking(move || Self::read_now(&config));
        reading.await.unwrap_or_else(|_| Err("its files could not be read".to_owned()))
    }

    pub(super) fn read_now(config: &Config) -> Result<Self, String> {
        let uri = config.uri.read().map_err(|error| format!("store.uri_file: {error}"))?;
        let mut target = Self::parse(&uri).map_err(|what| format!("store.uri {what}"))?;
        let encrypted = target.nodes.iter().any(|node| matches!(node.addr(), ConnectionAddr::TcpTls { .. }));
        if config.ca_file.is_some() && !encrypted {
            return Err(
                "store.ca_file is given, and store.uri is not rediss://, so nothing would be encrypted"
                    .to_owned(),
            );
        }
        let root_cert = config.ca_file.as_deref().map(authorities).transpose()?;
        target.tls = encrypted.then_some(TlsCertificates { client_tls: None, root_cert });
        Ok(target)
    }

    fn parse(uri: &Secret) -> Result<Self, &'static str> {
        let (scheme, rest) = uri.expose().split_once("://").ok_or(NOT_A_URI)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        // A fragment would turn the check of certificates off.
        if rest.contains('#') || query.contains('#') {
            return Err("has a '#': in a password it is written %23");
        }
        let (login, rest) = rest.rsplit_once('@').map_or((None, rest), |(login, rest)| (Some(login), rest));
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (plain, kind) = match scheme {
            "redis" | "rediss" => (scheme, Kind::Single),
            "redis-cluster" => ("redis", Kind::Cluster),
            "rediss-cluster" => ("rediss", Kind::Cluster),
            "redis-sentinel" => ("redis", Kind::Sentinel(String::new())),
            "rediss-sentinel" => ("rediss", Kind::Sentinel(String::new())),
            _ => return Err(NOT_A_URI),
        };
        let (kind, database) = match kind {
            Kind::Single => (kind, path),
            Kind::Cluster if path.is_empty() => (kind, ""),
            Kind::Cluster => return Err("names a database, and a cluster has none but 0"),
            Kind::Sentinel(_) => {
                let (master, database) = path.split_once('/').unwrap_or((path, ""));
                if master.is_empty() {
                    return Err("names no master: redis-sentinel://HOST:26379,HOST:26379/MASTER");
                }
                (Kind::Sentinel(master.to_owned()), database)
            }
        };
        let at = |login: Option<&str>, host: &str, database: &str| {
            let login = login.map(|login| format!("{login}@")).unwrap_or_default();
            let port = if kind.is_sentinel() && !has_port(host) { ":26379" } else { "" };
            node(&format!("{plain}://{login}{host}{port}/{database}"))
        };
        let nodes: Vec<_> =
            hosts.split(',').map(|host| at(login, host.trim(), database)).collect::<Result<_, _>>()?;
        if kind == Kind::Single && nodes.len() > 1 {
            return Err("names several nodes: redis-cluster:// or redis-sentinel:// is meant");
        }
        let sentinel = match (&kind, query.split_once('=')) {
            (Kind::Sentinel(_), Some(("sentinel_login", login))) if !login.contains('&') => {
                Some(at(Some(login), "sentinel", "")?)
            }
            (_, None) if query.is_empty() => None,
            _ => return Err("has a query that is none of ours"),
        };
        Ok(Self { kind, nodes, sentinel, tls: None })
    }

    /// Connects, and sees that it is let in.
    pub(super) async fn connect(&self) -> Result<Link, String> {
        let name = self.name();
        let told = |error: redis::RedisError| error.to_string();
        Ok(match &self.kind {
            Kind::Single => {
                let first = self.nodes.first().ok_or(NOT_A_URI)?;
                Link::Single(self.open(first).await?, name)
            }
            Kind::Sentinel(_) => {
                let master = self.master().await?;
                let config = connection_config();
                let connection = master.get_multiplexed_async_connection_with_config(&config).await;
                let at = master.get_connection_info().addr().to_string();
                Link::Single(connection.map_err(told)?, format!("{at} by {name}"))
            }
            Kind::Cluster => {
                let connection = self.cluster()?.get_async_connection().await.map_err(told)?;
                Link::Cluster(connection, name)
            }
        })
    }

    /// A connection to each node that keeps something, with its name.
    pub(super) async fn keepers(&self) -> Result<Vec<(String, MultiplexedConnection)>, String> {
        if self.kind != Kind::Cluster {
            return match self.connect().await? {
                Link::Single(connection, name) => Ok(vec![(name, connection)]),
                Link::Cluster(..) => Ok(Vec::new()),
            };
        }
        let mut failure = String::new();
        for node in &self.nodes {
            match self.masters(node).await {
                Ok(masters) => return Ok(masters),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// As one node of the cluster names them.
    async fn masters(&self, by: &ConnectionInfo) -> Result<Vec<(String, MultiplexedConnection)>, String> {
        let told = |error: redis::RedisError| error.to_string();
        let mut asked = self.open(by).await?;
        let slots: Vec<Vec<Value>> =
            redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut asked).await.map_err(told)?;
        let mut places: Vec<(String, u16)> = Vec::new();
        for range in slots {
            let Some(Value::Array(master)) = range.into_iter().nth(2) else { continue };
            let mut fields = master.into_iter();
            let (Some(Value::BulkString(host)), Some(Value::Int(port))) = (fields.next(), fields.next())
            else {
                continue;
            };
            let place =
                (String::from_utf8(host).unwrap_or_default(), u16::try_from(port).unwrap_or_default());
            if !places.contains(&place) {
                places.push(place);
            }
        }
        let mut masters = Vec::with_capacity(places.len());
        for (host, port) in places {
            let addr = if self.tls.is_some() {
                ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
            } else {
                ConnectionAddr::Tcp(host, port)
            };
            masters.push((addr.to_string(), self.open(&by.clone().set_addr(addr)).await?));
        }
        Ok(masters)
    }

    async fn open(&self, node: &ConnectionInfo) -> Result<MultiplexedConnection, String> {
        let client = match &self.tls {
            Some(tls) => Client::build_with_tls(node.clone(), tls.clone()),
            None => Client::open(node.clone()),
        };
        let told = |error: redis::RedisError| error.to_string();
        let client = client.map_err(told)?;
        client.get_multiplexed_async_connection_with_config(&connection_config()).await.map_err(told)
    }

    fn cluster(&self) -> Result<ClusterClient, String> {
        let mut builder = ClusterClientBuilder::new(self.nodes.clone())
            .connection_timeout(CONNECT_TIMEOUT)
            .response_timeout(RESPONSE_TIMEOUT)
            .overall_response_timeout(Some(RESPONSE_TIMEOUT))
            .tcp_settings(tcp())
            .retries(2)
            .min_retry_wait(20)
            .max_retry_wait(100);
        if let Some(tls) = &self.tls {
            builder = builder.certs(tls.clone());
        }
        builder.build().map_err(|error| error.to_string())
    }

    /// Asks the sentinels.
    async fn master(&self) -> Result<Client, String> {
        let told = |error: redis::RedisError| error.to_string();
        let Kind::Sentinel(service) = &self.kind else { return Err(NOT_A_URI.to_owned()) };
        let addresses = self.nodes.iter().map(|node| node.addr().clone());
        let mut builder = SentinelClientBuilder::new(addresses, service, SentinelServerType::Master)
            .map_err(told)?
            .set_client_to_redis_tcp_settings(tcp())
            .set_client_to_sentinel_tcp_settings(tcp());
        if let Some(settings) = self.nodes.first().map(ConnectionInfo::redis_settings) {
            builder = builder.set_client_to_redis_db(settings.db());
            if let Some(username) = settings.username() {
                builder = builder.set_client_to_redis_username(username);
            }
            if let Some(password) = settings.password() {
                builder = builder.set_client_to_redis_password(password);
            }
        }
        if let Some(settings) = self.sentinel.as_ref().map(ConnectionInfo::redis_settings) {
            if let Some(username) = settings.username() {
                builder = builder.set_client_to_sentinel_username(username);
            }
            if let Some(password) = settings.password() {
                builder = builder.set_client_to_sentinel_password(password);
            }
        }
        if let Some(tls) = &self.tls {
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_redis_certificates(tls.clone())
                .set_client_to_sentinel_tls_mode(TlsMode::Secure)
                .set_client_to_sentinel_certificates(tls.clone());
        }
        builder.build().map_err(told)?.async_get_client().await.map_err(told)
    }

    fn name(&self) -> String {
        let nodes: Vec<String> = self.nodes.iter().map(|node| node.addr().to_string()).collect();
        match &self.kind {
            Kind::Single => nodes.join(", "),
            Kind::Sentinel(master) => format!("the sentinels of {master} at {}", nodes.join(", ")),
            Kind::Cluster => format!("the cluster of {}", nodes.join(", ")),
        }
    }
}

impl Kind {
    fn is_sentinel(&self) -> bool {
        matches!(self, Self::Sentinel(_))
    }
}

/// The crate's parser takes a host that is missing for this machine.
fn node(uri: &str) -> Result<ConnectionInfo, &'static str> {
    let host = uri.rsplit_once('@').or_else(|| uri.split_once("://")).map_or("", |(_, rest)| rest);
    if host.starts_with([':', '/']) {
        return Err(NOT_A_URI);
    }
    let node = uri.into_connection_info().map_err(|_quotes_it| NOT_A_URI)?;
    Ok(node.set_tcp_settings(tcp()))
}

fn has_port(host: &str) -> bool {
    host.rsplit_once(']').map_or(host, |(_, port)| port).contains(':')
}

fn tcp() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

fn connection_config() -> AsyncConnectionConfig {
    // Bound: what is on its way is bounded by the line's room.
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT))
}

/// Bound: [`MAX_FILE`].
fn authorities(file: &Path) -> Result<Vec<u8>, String> {
    let told = |what: &str| format!("store.ca_file: {}: {what}", file.display());
    let size = std::fs::metadata(file).map_err(|error| told(&error.to_string()))?.len();
    if size > MAX_FILE {
        return Err(told("is too large"));
    }
    let pem = std::fs::read(file).map_err(|error| told(&error.to_string()))?;
    // The parser takes a file without any certificate for the system's authorities.
    if pem.windows(BEGIN.len()).any(|bytes| bytes == BEGIN) {
        Ok(pem)
    } else {
        Err(told("has no certificate in PEM"))
    }
}

const NOT_A_URI: &str = "is not a URI such as redis://USER:PASSWORD@HOST:6379/0";
const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
/// Bound: a system's whole bundle of authorities has some 200 KiB.
const MAX_FILE: u64 = 1 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Above the line's own deadline, which lets go of the connection.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(1500);

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(uri: &str) -> Result<(Kind, Vec<String>), &'static str> {
        let target = Target::parse(&Secret::new(uri))?;
        Ok((target.kind, target.nodes.iter().map(|node| node.addr().to_string()).collect()))
    }

    #[test]
    fn a_node_sentinels_and_a_cluster_are_told_apart_by_the_scheme() {
        assert_eq!(parsed("redis://h").unwrap(), (Kind::Single, vec!["h:6379".to_owned()]));
        let (kind, nodes) = parsed("redis-sentinel://:pw@a,b:1,[::1]/mymaster/3").unwrap();
        assert_eq!(kind, Kind::Sentinel("mymaster".to_owned()));
        assert_eq!(nodes[..2], ["a:26379", "b:1"]);
        assert!(nodes[2].ends_with(":26379"), "{nodes:?}");
        let (kind, nodes) = parsed("rediss-cluster://u:p@a:1,b:2").unwrap();
        assert_eq!((kind, nodes.len()), (Kind::Cluster, 2));
    }

    #[test]
    fn the_login_is_decoded_and_that_of_the_sentinels_is_their_own() {
        let target =
            Target::parse(&Secret::new("redis-sentinel://us%40r:p%2Fw@a,b/m/2?sentinel_login=s:t%3D"))
                .unwrap();
        let settings = target.nodes[1].redis_settings();
        assert_eq!((settings.username(), settings.password(), settings.db()), (Some("us@r"), Some("p/w"), 2));
        let sentinel = target.sentinel.unwrap();
        let settings = sentinel.redis_settings();
        assert_eq!((settings.username(), settings.password()), (Some("s"), Some("t=")));
    }

    #[test]
    fn what_is_no_uri_is_not_taken_for_one() {
        for uri in [
            "",
            "h",
            "redis:",
            "redis://",
            "redis:///0",
            "redis://:6379",
            "redis://u:p@/0",
            "redis://h/x",
            "redis://h:99999",
            "http://h",
            "redis://a,b",
            "redis-cluster://a/1",
            "redis-sentinel://a",
            "redis-sentinel://a/",
            "rediss://h#insecure",
            "rediss://h/?x=1#insecure",
            "redis://h?x=1",
            "redis-cluster://a,,b",
            "redis+unix:///x",
        ] {
            assert!(parsed(uri).is_err(), "{uri}");
        }
    }
}
