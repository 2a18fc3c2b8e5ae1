//! One connection: where to, how it is made within a deadline, and how it is ended for certain.
//!
//! It is not watched here, and not made again: the supervisor does both.
//!
//! Why the socket is kept a second time: lapin drives a connection from a thread of its own, which waits for
//! ever where the peer accepts TCP and then says nothing in the handshake (the heartbeat starts after it), and
//! where a close waits behind a blocked connection (the heartbeat has been stopped by then). With a broker that
//! hangs, each new attempt would leave a thread, a socket and a mebibyte behind. Shutting the socket down
//! beneath lapin ends all of it, and settles every confirm that is still awaited.

use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::options::ConfirmSelectOptions;
use lapin::tcp::OwnedTLSConfig;
use lapin::types::ShortString;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{AsyncTcpStream, Channel, Connection, ConnectionProperties, ErrorKind};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::publisher::APP_ID;
use crate::broker::LinkError;
use crate::secret::Secret;

/// Where the broker is: one address, or several that are tried in turn.
#[derive(Clone)]
pub(super) struct Addresses(Vec<AMQPUri>);

impl Addresses {
    /// Reads `amqp.uri`. The parser's own words are not passed on: they quote the URI, password and all.
    pub(super) fn parse(uri: &Secret) -> Result<Self, String> {
        let mut addresses = Vec::new();
        for piece in split(uri.expose()) {
            let piece = piece.trim();
            let host = host(piece).ok_or(NOT_A_URI)?;
            let mut address: AMQPUri = piece.parse().map_err(|_quotes_it| NOT_A_URI)?;
            if let Some(ipv6) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
                address.authority.host = ipv6.to_owned();
            }
            if ShortString::try_new(address.vhost.as_str()).is_err() {
                return Err("amqp.uri: the vhost is longer than an AMQP short string".to_owned());
            }
            // lapin would take the broker's: 60 s until a dead peer is noticed, and 8 MiB of buffers.
            address.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
            address.query.frame_max.get_or_insert(FRAME_MAX_BYTES);
            addresses.push(address);
        }
        Ok(Self(addresses))
    }
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
/// and where it finds an IPv6 address: a typing error must not lead there.
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

/// A connection that has been made. Dropping it cuts the socket.
pub(super) struct Live {
    pub(super) connection: Connection,
    /// Its number: each connection has its own.
    pub(super) generation: u64,
    condemned: CancellationToken,
    socket: Socket,
}

impl Live {
    /// Connected, as far as lapin knows.
    pub(super) fn is_connected(&self) -> bool {
        self.connection.status().connected()
    }

    /// The broker takes nothing for now.
    pub(super) fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    /// Resolves when somebody found the connection unfit.
    pub(super) async fn condemned(&self) {
        self.condemned.cancelled().await;
    }

    /// A channel could not be had in time. A blocked connection is not at fault and is kept; any other is
    /// replaced as a whole (design.md, "Blocked is a state, not a fault").
    pub(super) fn no_channel_in_time(&self) {
        if !self.is_blocked() {
            self.condemned.cancel();
        }
    }

    /// A confirm-mode channel. There is no deadline here: the caller has it. Cancel safety: what lapin opens
    /// after the future is gone, it closes again.
    pub(super) async fn open_confirm_channel(&self) -> Result<Channel, lapin::Error> {
        let channel = self.connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(channel)
    }

    /// Says goodbye, and cuts the socket in any case. Bound: `within`.
    pub(super) async fn close(&self, within: Duration) {
        if let Ok(text) = ShortString::try_new("closing") {
            // An error or no answer in time: the broker is told by the socket instead.
            let _ = timeout(within, self.connection.close(200, text)).await;
        }
        self.cut();
    }

    /// Ends it at once: lapin's thread goes, and every confirm that is awaited settles as lost.
    pub(super) fn cut(&self) {
        self.socket.cut();
    }
}

/// Connects to the first address that answers. Bound: [`CONNECT_DEADLINE`] for each.
pub(super) async fn connect(uri: &Secret, generation: u64) -> Result<Live, String> {
    let addresses = Addresses::parse(uri)?;
    let mut failures = Vec::new();
    for address in &addresses.0 {
        let place = format!("{}:{}", address.authority.host, address.authority.port);
        match Box::pin(dial(address.clone(), generation)).await {
            Ok(live) => return Ok(live),
            Err(failure) => failures.push(format!("{place}: {failure}")),
        }
    }
    Err(failures.join("; "))
}

/// Cancel safety: when the future is dropped, so is `socket`, which ends what lapin has begun.
async fn dial(address: AMQPUri, generation: u64) -> Result<Live, String> {
    let deadline = Instant::now() + CONNECT_DEADLINE;
    let socket = Socket::default();
    let keeper = socket.keeper();
    let runtime = lapin::runtime::default_runtime().map_err(|error| words(&error))?;
    let connecting = Connection::connector(
        address,
        runtime,
        async move |address: AMQPUri, runtime| {
            let connecting = async {
                let (host, port) = (address.authority.host.clone(), address.authority.port);
                let plain = AsyncTcpStream::connect(&runtime, runtime.to_socket_addrs((host, port))).await?;
                if let AsyncTcpStream::Plain(stream) = &plain {
                    keeper.keep(stream.get_ref().as_fd())?;
                }
                match address.scheme {
                    AMQPScheme::AMQP => Ok(plain),
                    AMQPScheme::AMQPS => {
                        plain.into_tls(&address.authority.host, OwnedTLSConfig::default().as_ref()).await
                    }
                }
            };
            let in_time = timeout_at(deadline, connecting).await;
            in_time
                .unwrap_or_else(|_elapsed| Err(std::io::ErrorKind::TimedOut.into()))
                .map_err(lapin::Error::from)
        },
        properties(),
    );
    match timeout_at(deadline, connecting).await {
        Ok(Ok(connection)) => {
            Ok(Live { connection, generation, condemned: CancellationToken::new(), socket })
        }
        Ok(Err(error)) => Err(words(&error)),
        Err(_elapsed) => Err(format!("no connection within {CONNECT_DEADLINE:?}")),
    }
}

/// What an error says, for a log line: without the "protocol error" in front of the broker's own words.
pub(super) fn words(error: &lapin::Error) -> String {
    if let ErrorKind::ProtocolError(told) = error.kind() {
        return told.get_message().to_string();
    }
    error.to_string()
}

/// A short string holds 255 bytes, and lapin's own conversion panics past them.
pub(super) fn short(text: &str) -> Result<ShortString, LinkError> {
    ShortString::try_new(text).map_err(|_| LinkError::new("longer than an AMQP short string"))
}

fn properties() -> ConnectionProperties {
    let mut properties = ConnectionProperties::default().with_connection_name(APP_ID.into());
    for (name, value) in [("product", APP_ID), ("version", env!("CARGO_PKG_VERSION"))] {
        if let Ok(name) = short(name) {
            properties = properties.with_client_property(name, value.into());
        }
    }
    properties
}

/// The socket beneath a connection, which can be cut whatever lapin is waiting for. Cut when dropped.
#[derive(Default)]
struct Socket(Keeper);

/// Where the connecting side leaves the socket. It may come after the cut.
#[derive(Clone, Default)]
struct Keeper(Arc<Mutex<Kept>>);

#[derive(Default)]
enum Kept {
    #[default]
    NotYet,
    Open(std::net::TcpStream),
    Cut,
}

impl Socket {
    fn keeper(&self) -> Keeper {
        self.0.clone()
    }

    fn cut(&self) {
        let kept = std::mem::replace(&mut *self.0.lock(), Kept::Cut);
        if let Kept::Open(stream) = kept {
            // It may be gone already: that is what is wanted.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.cut();
    }
}

impl Keeper {
    fn keep(&self, socket: std::os::fd::BorrowedFd<'_>) -> Result<(), std::io::Error> {
        let mut kept = self.lock();
        if matches!(*kept, Kept::Cut) {
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        *kept = Kept::Open(std::net::TcpStream::from(socket.try_clone_to_owned()?));
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const NOT_A_URI: &str = "amqp.uri is not of the form amqp[s]://user:password@host:port/vhost";
/// Bound: DNS, TCP, TLS and AMQP's handshake together.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// A dead peer is noticed within twice this.
const HEARTBEAT_SECONDS: u16 = 10;
/// lapin holds buffers of 64 × this for a connection.
const FRAME_MAX_BYTES: u32 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeat_and_frame_size_are_ours_unless_the_uri_says_otherwise() {
        let addresses = Addresses::parse(&Secret::new(
            "amqp://u:a,b@one:1/%2f,amqps://two/v?heartbeat=30&frame_max=131072, amqp://[::1]:9/",
        ))
        .unwrap();
        let [one, two, three] = addresses.0.as_slice() else { panic!("three") };
        assert_eq!((one.authority.host.as_str(), one.authority.userinfo.password.as_str()), ("one", "a,b"));
        assert_eq!((one.query.heartbeat, one.query.frame_max), (Some(10), Some(16_384)));
        assert_eq!((two.query.heartbeat, two.query.frame_max), (Some(30), Some(131_072)));
        assert_eq!((three.authority.host.as_str(), three.authority.port), ("::1", 9));
    }
}
