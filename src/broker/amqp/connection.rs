//! One connection: where to, how it is made within a deadline, and how it is ended for certain.
//!
//! It is not watched here, and not made again: the supervisor does both.
//!
//! Why the socket is kept a second time: lapin drives a connection from a thread of its own, which waits for
//! ever where the peer accepts TCP and then says nothing in the handshake (the heartbeat starts after it), and
//! where a close waits behind a blocked connection (the heartbeat has been stopped by then). With a broker that
//! hangs, each new attempt would leave a thread, a socket and a mebibyte behind. Shutting the socket down
//! beneath lapin ends all of it, and settles every confirm that is still awaited.

use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::FuturesUnordered;
use lapin::options::ConfirmSelectOptions;
use lapin::tcp::RustlsConnector;
use lapin::types::ShortString;
use lapin::uri::AMQPUri;
use lapin::{AsyncTcpStream, Channel, Connection, ConnectionProperties, ErrorKind};
use tokio::net::lookup_host;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::cork::Cork;
use super::publisher::APP_ID;
use super::target::{Target, is_encrypted};
use crate::broker::LinkError;

/// A connection that has been made. Dropping it cuts the socket.
pub(super) struct Live {
    pub(super) connection: Connection,
    /// Its number: each connection has its own.
    pub(super) generation: u64,
    /// The node, for the log.
    pub(super) at: String,
    condemned: CancellationToken,
    doubted: Arc<Notify>,
    socket: Socket,
    cork: Cork,
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

    /// Resolves when something came back that speaks against the topology.
    pub(super) async fn doubted(&self) {
        self.doubted.notified().await;
    }

    /// For those who see such things.
    pub(super) fn doubt(&self) -> Doubt {
        Doubt(Arc::clone(&self.doubted))
    }

    /// What holds back its writes.
    pub(super) fn cork(&self) -> Cork {
        self.cork.clone()
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

/// Connects to the first node that answers. They are tried in turn, beginning with another one at each `turn`. Bound:
/// [`CONNECT_DEADLINE`], and a [`PATIENCE`] for each node but the first.
pub(super) async fn connect(target: &Target, turn: usize, generation: u64) -> Result<Live, String> {
    let tls = target.tls.as_ref();
    let attempt = |node| connect_to(node, tls, turn, generation).boxed();
    let tries = in_turn(&target.nodes, turn).map(attempt);
    let again = in_turn(&target.nodes, turn).cycle().map(attempt);
    let others = u32::try_from(target.nodes.len().saturating_sub(1)).unwrap_or(u32::MAX);
    first_of(tries, again, Instant::now() + CONNECT_DEADLINE + PATIENCE.saturating_mul(others)).await
}

/// Connects to one node, at whichever of its addresses answers. Its name is looked up anew each time.
pub(super) async fn connect_to(
    node: &AMQPUri,
    tls: Option<&RustlsConnector>,
    turn: usize,
    generation: u64,
) -> Result<Live, String> {
    let (host, port) = (node.authority.host.as_str(), node.authority.port);
    let place = place(node);
    let found = match timeout(CONNECT_DEADLINE, lookup_host((host, port))).await {
        Ok(Ok(found)) => found.take(MAX_ADDRESSES).collect::<Vec<_>>(),
        Ok(Err(error)) => return Err(format!("{place}: {error}")),
        Err(_elapsed) => {
            return Err(format!("{place}: the name was not resolved within {CONNECT_DEADLINE:?}"));
        }
    };
    let tries = in_turn(&found, turn).map(|address| dial(node, *address, tls, generation).boxed());
    let until = Instant::now() + CONNECT_DEADLINE * 2;
    first_of(tries, std::iter::empty(), until).await.map_err(|what| format!("{place}: {what}"))
}

/// A node, as a log line names it.
pub(super) fn place(node: &AMQPUri) -> String {
    format!("{}:{}", node.authority.host, node.authority.port)
}

/// All of them, beginning somewhere else with each turn.
fn in_turn<T>(all: &[T], turn: usize) -> impl Iterator<Item = &T> + Clone {
    let start = turn.checked_rem(all.len()).unwrap_or(0);
    all.iter().cycle().skip(start).take(all.len())
}

/// The first success. Each of `tries` is begun when the one before has failed, or has been silent for [`PATIENCE`]: a
/// node that is frozen or behind a dead route does not hold up the next. Where all are silent, one of `again` is begun
/// now and then beside them: what was lost on a dead route stays lost when the route is back. The others are dropped.
async fn first_of<'a, T>(
    mut tries: impl Iterator<Item = BoxFuture<'a, Result<T, String>>>,
    mut again: impl Iterator<Item = BoxFuture<'a, Result<T, String>>>,
    until: Instant,
) -> Result<T, String> {
    let mut begun = FuturesUnordered::new();
    let mut failures = Vec::new();
    let mut patience = PATIENCE;
    begun.extend(tries.next());
    loop {
        // Bound: `until`.
        match timeout_at(until.min(Instant::now() + patience), begun.next()).await {
            Ok(Some(Ok(first))) => return Ok(first),
            Ok(Some(Err(failure))) => {
                begun.extend(tries.next());
                failures.push(failure);
            }
            Ok(None) if failures.is_empty() => return Err("there is no address".to_owned()),
            Ok(None) => break,
            Err(_elapsed) if Instant::now() >= until => {
                failures.push("no answer in time".to_owned());
                break;
            }
            Err(_elapsed) => match tries.next() {
                Some(next) => begun.push(next),
                None => {
                    patience = LONG_PATIENCE;
                    begun.extend(again.next());
                }
            },
        }
    }
    failures.dedup();
    Err(failures.join("; "))
}

/// Cancel safety: when the future is dropped, so is `socket`, which ends what lapin has begun.
async fn dial(
    node: &AMQPUri,
    address: SocketAddr,
    tls: Option<&RustlsConnector>,
    generation: u64,
) -> Result<Live, String> {
    let deadline = Instant::now() + CONNECT_DEADLINE;
    let (socket, cork) = (Socket::default(), Cork::default());
    let (keeper, tls) = (socket.keeper(), tls.filter(|_| is_encrypted(node)).cloned());
    let connecting = Connection::connector(
        node.clone(),
        cork.runtime(),
        async move |node: AMQPUri, runtime| {
            let connecting = async {
                let plain = AsyncTcpStream::connect(&runtime, address).await?;
                if let AsyncTcpStream::Plain(stream) = &plain {
                    keeper.keep(stream.as_fd())?;
                }
                match &tls {
                    Some(tls) => plain.into_rustls(tls, &node.authority.host).await,
                    None => Ok(plain),
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
        Ok(Ok(connection)) => Ok(Live {
            connection,
            generation,
            at: place(node),
            condemned: CancellationToken::new(),
            doubted: Notify::new().into(),
            socket,
            cork,
        }),
        Ok(Err(error)) => Err(words(&error)),
        Err(_elapsed) => Err(format!("no connection within {CONNECT_DEADLINE:?}")),
    }
}

/// Tells the supervisor to look at the topology before the minute is over: a message was returned, or a channel closed.
#[derive(Default)]
pub(super) struct Doubt(Arc<Notify>);

impl Doubt {
    pub(super) fn raise(&self) {
        self.0.notify_one();
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

/// Bound: TCP, TLS and AMQP's handshake together; also looking up a name.
pub(super) const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long a silent address is waited for before the next is tried beside it.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long all are waited for before one is tried a second time.
const LONG_PATIENCE: Duration = Duration::from_secs(2);
/// Bound: addresses of one name.
const MAX_ADDRESSES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::{pending, ready};

    /// What a try comes to, and nothing at all.
    fn told(what: Result<u8, &str>) -> BoxFuture<'static, Result<u8, String>> {
        ready(what.map_err(str::to_owned)).boxed()
    }

    fn silence() -> BoxFuture<'static, Result<u8, String>> {
        pending().boxed()
    }

    async fn raced(
        tries: Vec<BoxFuture<'static, Result<u8, String>>>,
        again: Vec<BoxFuture<'static, Result<u8, String>>>,
    ) -> (Result<u8, String>, u128) {
        let began = Instant::now();
        let first = first_of(tries.into_iter(), again.into_iter(), began + CONNECT_DEADLINE).await;
        (first, began.elapsed().as_millis())
    }

    #[test]
    fn each_turn_begins_with_another_and_leaves_none_out() {
        let turns: Vec<Vec<&u8>> = (0..4).map(|turn| in_turn(&[1, 2, 3], turn).collect()).collect();
        assert_eq!(turns, [[&1, &2, &3], [&2, &3, &1], [&3, &1, &2], [&1, &2, &3]]);
        assert_eq!(in_turn::<u8>(&[], 7).count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_makes_way_at_once_and_silence_after_a_second() {
        assert_eq!(raced(vec![told(Err("no")), told(Ok(2))], vec![]).await, (Ok(2), 0));
        assert_eq!(raced(vec![silence(), told(Ok(2))], vec![told(Ok(3))]).await, (Ok(2), 1000));
        let all = vec![silence(), told(Err("no")), silence(), told(Ok(4))];
        assert_eq!(raced(all, vec![]).await, (Ok(4), 2000));
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_are_silent_one_is_tried_again_and_there_is_an_end() {
        assert_eq!(raced(vec![silence()], vec![silence(), told(Ok(3))]).await, (Ok(3), 3000));
        let told_of = Err("no answer in time".to_owned());
        assert_eq!(raced(vec![silence()], vec![]).await, (told_of, 5000));
        assert_eq!(
            raced(vec![told(Err("no")), told(Err("no"))], vec![told(Ok(3))]).await,
            (Err("no".to_owned()), 0)
        );
        assert_eq!(raced(vec![], vec![]).await, (Err("there is no address".to_owned()), 0));
    }
}
