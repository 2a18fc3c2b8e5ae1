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
use std::net::SocketAddr;
use std::sync::Arc;

use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::accept::Acceptor;
use super::body::{self, BodyFault};
use super::connection::{self, HasBody, Progress, Wire};
use super::reply::{self, Answer, Refusal};
use super::{Config, trace_context};
use crate::gateway::{Delivery, Gateway};
use crate::lifecycle::{Stopping, Tasks};
use crate::metrics::{ConnectionRefusal, Metrics, NOT_A_FORM};

/// A bound listener that does not serve yet.
#[derive(Debug)]
pub struct Listener {
    config: Config,
    socket: TcpListener,
    addr: SocketAddr,
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
        let socket = TcpListener::bind(config.listen).await?;
        let addr = socket.local_addr()?;
        Ok(Self { config, socket, addr })
    }

    /// The address, with the port that the system chose if the configuration left it open.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until `signals.end`, then until the last connection has ended. There is no deadline for that:
    /// the caller has the grace period.
    pub async fn run(self, gateway: Arc<Gateway>, metrics: Metrics, signals: Signals) {
        let protocol = connection::protocol(self.config.max_header, self.config.header_timeout);
        // Bound: `http.max_connections`. One more is closed at once, so that a flood finds a closed door and
        // not a queue of silence.
        let room = Arc::new(Semaphore::new(self.config.max_connections));
        let door = Arc::new(Door { config: self.config, gateway, metrics, stopping: signals.stopping });
        let mut acceptor = Acceptor::new(self.socket);
        let tasks = Tasks::default();
        loop {
            let accepted = tokio::select! {
                biased;
                () = signals.end.begun() => break,
                accepted = acceptor.next() => accepted,
            };
            match (accepted, Arc::clone(&room).try_acquire_owned()) {
                (Err(error), _) => door.not_accepted(&error),
                (Ok(_), Err(_)) => door.metrics.connection_refused(ConnectionRefusal::Full),
                (Ok(stream), Ok(permit)) => {
                    let connection = door.serve(&protocol, stream, signals.end.clone());
                    tasks.spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
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
    gateway: Arc<Gateway>,
    metrics: Metrics,
    stopping: Stopping,
}

impl Door {
    /// One connection, from accept to close.
    fn serve(
        self: &Arc<Self>,
        protocol: &http1::Builder,
        stream: TcpStream,
        end: Stopping,
    ) -> impl Future<Output = ()> + Send + use<> {
        let progress = Arc::new(Progress::default());
        let wire = Wire::new(stream, Arc::clone(&progress));
        let open = OpenConnection::count(self);
        let (door, of_service) = (Arc::clone(self), Arc::clone(&progress));
        let service = service_fn(move |request| {
            let (door, progress) = (Arc::clone(&door), Arc::clone(&of_service));
            async move { Ok::<_, Infallible>(door.answer(request, &progress).await) }
        });
        let connection = protocol.serve_connection(wire, service);
        async move {
            if let Err(error) = connection::serve(connection, &end, &progress).await
                && let Some(refusal) = connection::refusal(&error, &progress)
            {
                open.0.metrics.connection_refused(refusal);
            }
        }
    }

    /// One request. Exactly one outcome is counted: by the gateway for what reaches it, here for the rest.
    async fn answer(&self, request: Request<Incoming>, progress: &Progress) -> Answer {
        let arrived = Instant::now();
        let (head, body) = request.into_parts();
        progress.began(if body.is_end_stream() { HasBody::No } else { HasBody::Yes });
        let answer = match self.receive(&head, body, progress).await {
            Ok(body) => {
                let traceparent = trace_context::traceparent(&head.headers);
                reply::of(&self.gateway.notify(Delivery { body, arrived, traceparent }).await)
            }
            Err(refusal) => {
                self.metrics.notification(refusal.outcome());
                if refusal == Refusal::NotAForm {
                    self.metrics.rejections.with_label_values(&[NOT_A_FORM]).inc();
                }
                reply::refuse(refusal)
            }
        };
        progress.answered();
        // What follows a body that was not read, or that a proxy may have measured in another way, might be
        // taken for a request (request smuggling): nothing is read behind it.
        let ends = self.stopping.has_begun()
            || head.headers.contains_key(TRANSFER_ENCODING)
            || progress.leaves_body_unread();
        if ends { reply::last(answer) } else { answer }
    }

    /// The body of what may be a notification. The query is ignored: it is never part of what is signed.
    async fn receive(
        &self,
        head: &Parts,
        body: Incoming,
        progress: &Progress,
    ) -> Result<bytes::Bytes, Refusal> {
        if head.uri.path() != self.config.path {
            return Err(Refusal::NotFound);
        }
        if head.method != Method::POST {
            return Err(Refusal::MethodNotAllowed);
        }
        if cannot_be_a_form(&head.headers) {
            return Err(Refusal::NotAForm);
        }
        let read = body::read(body, self.config.max_body, self.config.body_timeout).await;
        let body = read.map_err(|fault| match fault {
            BodyFault::TooLarge => Refusal::TooLarge,
            BodyFault::TooSlow => Refusal::TooSlow,
            BodyFault::CutShort => Refusal::CutShort,
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

/// Shows a connection in the metrics for as long as it lives, however it ends.
#[derive(Debug)]
struct OpenConnection(Arc<Door>);

impl OpenConnection {
    fn count(door: &Arc<Door>) -> Self {
        door.metrics.connections.inc();
        Self(Arc::clone(door))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.metrics.connections.dec();
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
