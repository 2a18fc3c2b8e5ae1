//! The public listener: bound when the gateway is built, so that its address is known and a taken port is an
//! error at the start; served when it runs.
//!
//! Connections end by themselves: each has a bounded head, body, answer and silence. When the listener is told
//! to end it takes no more of them, lets those that are in a request finish it, and closes the others.
//!
//! What is in flight in the gateway is not the connection's: a peer that hangs up ends its connection, and
//! what its notification began goes on (`Gateway::notify`).

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::yield_now;
use tokio::time::Instant;
use tokio_util::either::Either;

use super::accept::Acceptor;
use super::body::{BodyFault, Shelf};
use super::connection::{self, HasBody, Progress, Stream, Wire};
use super::give_way::{GIVE_WAY, Sitting};
use super::per_address::{PerAddress, Place};
use super::reply::{self, Answer, Refusal};
use super::tls::InForce;
use super::{Config, proxy_protocol, trace_context};
use crate::gateway::{Delivery, Gateway, Origin, Reply};
use crate::lifecycle::{Stopping, Tasks};
use crate::metrics::{ConnectionRefusal, Metrics, NOT_A_FORM, Retirement};
use crate::publication::{Announced, How};

/// A bound listener that does not serve yet.
#[derive(Debug)]
pub struct Listener {
    config: Config,
    socket: TcpListener,
    addr: SocketAddr,
    tls: Option<InForce>,
}

/// The two steps of stopping, as the listener sees them.
#[derive(Debug, Clone, Default)]
pub struct Signals {
    /// The gateway is stopping: still accept and serve, and let every answer be the last of its connection.
    pub stopping: Stopping,
    /// Accept no more, and finish.
    pub end: Stopping,
}

impl Listener {
    /// Binds `http.listen`.
    ///
    /// # Errors
    /// If the address is taken or not ours.
    pub async fn bind(config: Config) -> io::Result<Self> {
        let socket = listen(config.listen)?;
        let addr = socket.local_addr()?;
        let tls = config.tls.clone().map(InForce::new);
        Ok(Self { config, socket, addr, tls })
    }

    /// The address, with the port that the system chose if the configuration left it open.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where its certificate can be exchanged, if it speaks TLS.
    pub fn tls(&self) -> Option<InForce> {
        self.tls.clone()
    }

    /// Serves until `signals.end`, then until the last connection has ended. There is no deadline for that:
    /// the caller has the grace period.
    pub async fn run(self, gateway: Arc<Gateway>, metrics: Metrics, signals: Signals) {
        let mut acceptor = Acceptor::new(self.socket);
        let door = Arc::new(Door::new(self.config, self.tls, gateway, metrics, signals.stopping));
        let tasks = Tasks::default();
        loop {
            let accepted = tokio::select! {
                biased;
                () = signals.end.begun() => break,
                accepted = acceptor.next() => accepted,
            };
            match accepted {
                Err(error) => door.not_accepted(&error),
                Ok((stream, peer)) => match door.seat(peer.ip()) {
                    Err(refusal) => door.metrics.connection_refused(refusal),
                    Ok(seat) => tasks.spawn(seat.occupy(stream, signals.end.clone())),
                },
            }
            if door.is_nearly_full() {
                // Some of those who were asked to leave do so before the next one comes.
                yield_now().await;
            }
        }
        // Closed before the wait: a peer must find out now that nobody will answer here.
        drop(acceptor);
        tasks.ended().await;
    }
}

/// What every connection of the listener shares.
struct Door {
    config: Config,
    tls: Option<InForce>,
    protocol: http1::Builder,
    /// Bound: `http.max_connections`. One more is closed at once, so that a flood finds a closed door and not a queue
    /// of silence; but before it comes to that, who is silent gives way.
    room: Arc<Semaphore>,
    /// When fewer seats than [`kept_free`](Self::kept_free) are free, somebody silent gives way.
    sitting: Sitting,
    /// Bound: twice those that may have buffers. Who is asked to leave has them until it is his turn, and so many may begin to
    /// speak at once: the others wait for a place.
    buffers: Arc<Semaphore>,
    kept_free: usize,
    per_address: Arc<PerAddress>,
    shelf: Arc<Shelf>,
    gateway: Arc<Gateway>,
    metrics: Metrics,
    stopping: Stopping,
}

impl Door {
    fn new(
        config: Config,
        tls: Option<InForce>,
        gateway: Arc<Gateway>,
        metrics: Metrics,
        stopping: Stopping,
    ) -> Self {
        let shelf = Shelf {
            max_bytes: config.max_body,
            max_bytes_of_all: config.max_bodies,
            max_unfinished: config.unfinished_bodies(),
            within: config.body_timeout,
            places: Mutex::default(),
            metrics: metrics.clone(),
        };
        Self {
            tls,
            protocol: connection::protocol(config.max_header, config.header_timeout),
            room: Arc::new(Semaphore::new(config.max_connections)),
            sitting: Sitting::new(config.buffered_connections()),
            buffers: Arc::new(Semaphore::new(2 * config.buffered_connections())),
            kept_free: if config.max_connections < FEW { 0 } else { config.max_connections / KEPT_FREE },
            per_address: PerAddress::new(config.max_connections_per_address),
            shelf: Arc::new(shelf),
            config,
            gateway,
            metrics,
            stopping,
        }
    }

    fn is_nearly_full(&self) -> bool {
        self.room.available_permits() < self.kept_free
    }

    /// A seat for a connection of this peer.
    fn seat(self: &Arc<Self>, peer: IpAddr) -> Result<Seat, ConnectionRefusal> {
        let room = Arc::clone(&self.room).try_acquire_owned();
        if self.is_nearly_full() {
            self.sitting.make_room(self.config.max_connections / GIVE_WAY, Instant::now());
        }
        let room = room.map_err(|_| ConnectionRefusal::Full)?;
        let is_bounded =
            self.config.max_connections_per_address > 0 && !self.config.trusted_proxies.contain(peer);
        let place = if is_bounded {
            let place = self.per_address.place(Origin::from(peer));
            Some(place.ok_or(ConnectionRefusal::FullForAddress)?)
        } else {
            None
        };
        self.metrics.connections.inc();
        let progress = Arc::new(Progress::default());
        let number = self.sitting.enter(Arc::clone(&progress));
        Ok(Seat { door: Arc::clone(self), peer, progress, number, _room: room, _place: place })
    }

    /// What comes before HTTP: who the peer speaks for, TLS, and silence. What only some need is in boxes, so that a
    /// connection that is silent is small.
    async fn open(
        &self,
        mut stream: TcpStream,
        peer: IpAddr,
        progress: &Progress,
    ) -> Result<(Stream, IpAddr, OwnedSemaphorePermit), ConnectionRefusal> {
        let mut sender = peer;
        if self.config.proxy_protocol && self.config.trusted_proxies.contain(peer) {
            let source =
                Box::pin(within(self.config.header_timeout, proxy_protocol::source(&mut stream))).await;
            sender = source.ok_or(ConnectionRefusal::ProxyHeader)?.unwrap_or(peer);
        }
        // HTTP and TLS have buffers from the start on: somebody who says nothing gets none. (`readable` may be wrong.)
        let (allowed, too_slow) = match &self.tls {
            None => (self.config.header_timeout, ConnectionRefusal::SlowHead),
            Some(_) => (self.config.handshake_timeout, ConnectionRefusal::Handshake),
        };
        let began = Instant::now();
        within(allowed, stream.peek(&mut [0])).await.ok_or(too_slow)?;
        self.sitting.grows(progress, Instant::now());
        let place = async { Arc::clone(&self.buffers).acquire_owned().await.map_err(io::Error::other) };
        let place = Box::pin(within(PLACE_PATIENCE, place)).await.ok_or(ConnectionRefusal::Full)?;
        let Some(tls) = &self.tls else { return Ok((Either::Left(stream), sender, place)) };
        let left = allowed.saturating_sub(began.elapsed());
        let encrypted = Box::pin(within(left, tls.accept(stream))).await;
        Ok((Either::Right(encrypted.ok_or(too_slow)?), sender, place))
    }

    /// One request. Exactly one outcome is counted: by the gateway for what reaches it, here for the rest.
    async fn answer(&self, request: Request<Incoming>, sender: IpAddr, progress: &Progress) -> Answer {
        let arrived = Instant::now();
        let (head, body) = request.into_parts();
        progress.began(if body.is_end_stream() { HasBody::No } else { HasBody::Yes });
        let refused = self.refuses(&head);
        let traceparent = trace_context::traceparent(&head.headers);
        let client = self.config.trusted_proxies.client(sender, &head.headers);
        let is_encoded = head.headers.contains_key(TRANSFER_ENCODING);
        // Its hundred headers are not kept while a body drips, nor what they were read into.
        drop(head);
        let received = match refused {
            Some(refusal) => Err(refusal),
            None => self.receive(body, progress).await,
        };
        let answer = match received {
            Ok(body) => {
                let reply = self.gateway.notify(Delivery { body, client, arrived, traceparent }).await;
                if let Reply::Success(announced) = &reply
                    && is_news(announced)
                {
                    progress.brought_news();
                }
                reply::of(&reply)
            }
            Err(refusal) => self.refuse(refusal),
        };
        progress.answered();
        if is_encoded || self.is_last(progress) { reply::last(answer) } else { answer }
    }

    fn refuse(&self, refusal: Refusal) -> Answer {
        self.metrics.notification(refusal.outcome());
        if refusal == Refusal::NotAForm {
            self.metrics.rejections.with_label_values(&[NOT_A_FORM]).inc();
        }
        if let Some(limit) = refusal.limit() {
            self.metrics.connection_refused(limit);
        }
        reply::refuse(refusal)
    }

    /// Whether the connection ends with this answer (it does after a `Transfer-Encoding`, too). What follows a body that
    /// was not read, or that a proxy may have measured in another way, might be taken for a request (request smuggling):
    /// nothing is read behind it.
    fn is_last(&self, progress: &Progress) -> bool {
        let is_used_up = progress.requests() >= self.config.max_requests_per_connection;
        if is_used_up {
            self.metrics.connection_retired(Retirement::Requests);
        }
        is_used_up
            || progress.has_aged()
            || progress.is_asked_to_leave()
            || self.stopping.has_begun()
            || progress.leaves_body_unread()
    }

    /// Why this is no notification, as far as its head tells. The query is ignored: it is never part of what is signed.
    fn refuses(&self, head: &Parts) -> Option<Refusal> {
        if head.uri.path() != self.config.path {
            Some(Refusal::NotFound)
        } else if head.method != Method::POST {
            Some(Refusal::MethodNotAllowed)
        } else {
            cannot_be_a_form(&head.headers).then_some(Refusal::NotAForm)
        }
    }

    /// The body of what may be a notification.
    async fn receive(&self, body: Incoming, progress: &Progress) -> Result<bytes::Bytes, Refusal> {
        let body = self.shelf.read(body).await.map_err(|fault| match fault {
            BodyFault::TooLarge => Refusal::TooLarge,
            BodyFault::TooSlow => Refusal::TooSlow,
            BodyFault::CutShort => Refusal::CutShort,
            BodyFault::NoRoom => Refusal::NoRoom,
        })?;
        progress.body_complete();
        Ok(body)
    }

    fn not_accepted(&self, error: &io::Error) {
        self.metrics.connection_refused(ConnectionRefusal::Accept);
        tracing::warn!(%error, "a connection could not be accepted");
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").field("config", &self.config).finish_non_exhaustive()
    }
}

/// What a connection takes up, for as long as it lives, however it ends.
#[derive(Debug)]
struct Seat {
    door: Arc<Door>,
    peer: IpAddr,
    progress: Arc<Progress>,
    /// In [`Sitting`].
    number: u64,
    _room: OwnedSemaphorePermit,
    _place: Option<Place>,
}

impl Seat {
    /// One connection, from accept to close.
    async fn occupy(self, stream: TcpStream, end: Stopping) {
        let opening = self.door.open(stream, self.peer, &self.progress);
        let opened = tokio::select! {
            biased;
            () = end.begun() => return,
            () = self.progress.asked_to_leave() => return,
            opened = opening => opened,
        };
        match opened {
            Ok((stream, sender, _buffers)) => Box::pin(self.serve(stream, sender, &end)).await,
            Err(refusal) => self.door.metrics.connection_refused(refusal),
        }
    }

    async fn serve(&self, stream: Stream, sender: IpAddr, end: &Stopping) {
        let (door, progress) = (&self.door, Arc::clone(&self.progress));
        let wire = Wire::new(stream, door.config.write_timeout, Arc::clone(&progress));
        let of_service = Arc::clone(&progress);
        let service = service_fn(move |request| {
            let (door, progress) = (Arc::clone(door), Arc::clone(&of_service));
            async move { Ok::<_, Infallible>(door.answer(request, sender, &progress).await) }
        });
        let connection = door.protocol.serve_connection(wire, service);
        let served = connection::serve(connection, door.config.max_connection_age, end, &progress).await;
        if progress.has_aged() {
            door.metrics.connection_retired(Retirement::Age);
        }
        if let Err(error) = served
            && let Some(refusal) = connection::refusal(&error, &progress)
        {
            door.metrics.connection_refused(refusal);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.progress.is_asked_to_leave() {
            self.door.metrics.connection_retired(Retirement::Room);
        }
        self.door.sitting.leave(self.number);
        self.door.metrics.connections.dec();
    }
}

/// With buffers in the system that are bounded for each connection. Left to itself it holds megabytes of answers for a
/// peer that does not read, and of requests for one that does not wait.
fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// What succeeds in time.
async fn within<T>(time: Duration, work: impl Future<Output = io::Result<T>>) -> Option<T> {
    tokio::time::timeout(time, work).await.ok()?.ok()
}

/// Bound: answers that the system holds for a peer (Linux doubles it): some hundreds.
const SEND_BUFFER_BYTES: u32 = 16 * 1024;
/// Bound: what the system takes of a peer ahead of us.
const RECEIVE_BUFFER_BYTES: u32 = 64 * 1024;
/// Of `http.max_connections`, a 64th is kept free; where less is free, an eighth gives way.
const KEPT_FREE: usize = 64;
/// Bound: how long who begins to speak waits for a place. They are all taken where requests wait for a broker, and then it is no
/// use to wait with them.
const PLACE_PATIENCE: Duration = Duration::from_secs(1);
/// A door of fewer is full when it is full.
const FEW: usize = 256;
/// Bound: connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// What nobody had brought before. Whoever has seen one notification can repeat it as often as he likes, and be answered
/// `success`; only Alipay has new ones.
fn is_news(announced: &Announced) -> bool {
    match announced.how() {
        How::Confirmed(_) | How::Unrouted => true,
        How::Followed | How::Recorded | How::Dropped => false,
    }
}

/// Only what says of itself that it is something else. Alipay's Content-Type has been seen odd and absent
/// (protocol.md), so it is no proof of anything, and the signature decides.
fn cannot_be_a_form(headers: &HeaderMap) -> bool {
    let other_type = headers.get_all(CONTENT_TYPE).iter().any(|value| {
        let kind = value.as_bytes().split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
        let multipart = kind.get(..10).is_some_and(|start| start.eq_ignore_ascii_case(b"multipart/"));
        multipart || kind.eq_ignore_ascii_case(b"application/json")
    });
    let encoded = headers.get_all(CONTENT_ENCODING).iter().any(|value| {
        value.as_bytes().split(|&byte| byte == b',').any(|coding| {
            let coding = coding.trim_ascii();
            !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity")
        })
    });
    other_type || encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.append(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn a_connection_that_says_nothing_is_small() {
        let size = size_of_future(Seat::occupy);
        assert!(size <= 2048, "{size} bytes");
    }

    /// Of what a task is made of, without making one.
    fn size_of_future<F: Future>(_: impl FnOnce(Seat, TcpStream, Stopping) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn odd_and_absent_types_may_be_forms() {
        assert!(!cannot_be_a_form(&HeaderMap::new()));
        for value in ["", "text/html; charset=utf-8", "application/x-www-form-urlencoded", "multipart", "?"] {
            assert!(!cannot_be_a_form(&with("content-type", value)), "{value:?}");
        }
        for value in ["", "identity", "Identity, identity"] {
            assert!(!cannot_be_a_form(&with("content-encoding", value)), "{value:?}");
        }
    }

    #[test]
    fn what_says_that_it_is_something_else_is_no_form() {
        for value in
            ["multipart/form-data; boundary=x", "Multipart/Mixed", " application/JSON ;charset=utf-8"]
        {
            assert!(cannot_be_a_form(&with("content-type", value)), "{value:?}");
        }
        for value in ["gzip", "identity, br", "x"] {
            assert!(cannot_be_a_form(&with("content-encoding", value)), "{value:?}");
        }
    }
}
