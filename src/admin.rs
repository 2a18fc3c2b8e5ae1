//! The operators' door: is the process alive, is it ready, what does it count, what became of a trade.
//!
//! It has a listener, a thread and a runtime of its own, and is the last to stop, so that it still answers
//! when the public door is full or the rest is stuck: that is when somebody looks. It reads; calls that
//! change something need the token.
//!
//! What it is not: it decides nothing, and it knows no store and no broker; it asks the gateway. Nothing of
//! it survives a crash.

mod keys;
mod orders;
mod readiness;
mod replay;
mod respond;
mod routes;
mod token;
mod trades;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use hyper::service::service_fn;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;
use tokio_util::either::Either;

pub use keys::KeyReport;
pub(crate) use orders::is_plain;
pub use readiness::{Phase, Readiness};
pub(crate) use routes::is_trade_no;
pub use token::can_be_brought;

use crate::gateway::Gateway;
use crate::http::accept::Acceptor;
use crate::http::connection::{self, Progress, Wire};
use crate::lifecycle::{Stopping, Tasks};
use crate::metrics::Metrics;
use crate::secret::Secret;

/// The admin listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `admin.listen`.
    pub listen: SocketAddr,
    /// `admin.token` or `admin.token_file`: without one, changing calls are refused.
    pub token: Option<Secret>,
}

/// A bound admin listener that does not serve yet.
#[derive(Debug)]
pub struct Admin {
    token: Option<Secret>,
    socket: std::net::TcpListener,
    addr: SocketAddr,
}

/// The admin listener's thread. Dropping it lets the thread end without waiting for it.
#[derive(Debug)]
pub struct AdminHandle {
    end: Stopping,
    ended: oneshot::Receiver<()>,
}

impl Admin {
    /// Binds `admin.listen`. Needs no runtime.
    ///
    /// # Errors
    /// If the address is taken or not ours.
    pub fn bind(config: Config) -> io::Result<Self> {
        let socket = std::net::TcpListener::bind(config.listen)?;
        socket.set_nonblocking(true)?;
        let addr = socket.local_addr()?;
        Ok(Self { token: config.token, socket, addr })
    }

    /// The address, with the port that the system chose if the configuration left it open.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves in a thread of its own until the handle says otherwise.
    ///
    /// # Errors
    /// If the thread or its runtime cannot be had.
    pub fn run(
        self,
        gateway: Arc<Gateway>,
        metrics: Metrics,
        readiness: Readiness,
    ) -> io::Result<AdminHandle> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (end, (ended_says, ended)) = (Stopping::default(), oneshot::channel());
        let desk = Arc::new(routes::Desk { token: self.token, gateway, metrics, readiness });
        let (socket, end_of_thread) = (self.socket, end.clone());
        thread::Builder::new().name("admin".to_owned()).spawn(move || {
            if let Err(error) = runtime.block_on(serve(socket, desk, end_of_thread)) {
                tracing::error!(%error, "the admin listener could not be served");
            }
            // Nobody may be waiting any more.
            let _ = ended_says.send(());
        })?;
        Ok(AdminHandle { end, ended })
    }
}

impl AdminHandle {
    /// Takes no more requests, gives those that are being answered a second, and resolves when the thread is
    /// done.
    pub async fn stop(mut self) {
        self.end.begin();
        // An error is a thread that is gone already.
        let _ = (&mut self.ended).await;
    }
}

impl Drop for AdminHandle {
    fn drop(&mut self) {
        self.end.begin();
    }
}

async fn serve(socket: std::net::TcpListener, desk: Arc<routes::Desk>, end: Stopping) -> io::Result<()> {
    let mut acceptor = Acceptor::new(TcpListener::from_std(socket)?);
    let protocol = connection::protocol(MAX_HEADER_BYTES, HEADER_TIMEOUT);
    let (room, tasks) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), Tasks::default());
    // Bound: one for each connection.
    let mut seats = Vec::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = end.begun() => break,
            accepted = acceptor.next() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => Either::Left(stream),
            Err(error) => {
                tracing::warn!(%error, "an admin connection could not be accepted");
                continue;
            }
        };
        seats.retain(|seat: &Weak<Progress>| seat.strong_count() > 0);
        let Some(permit) = place(&room, &seats).await else { continue };
        let progress = Arc::new(Progress::default());
        seats.push(Arc::downgrade(&progress));
        let (desk, of_service, seated) = (Arc::clone(&desk), Arc::clone(&progress), Arc::clone(&room));
        let service = service_fn(move |request| {
            let (desk, progress, room) = (Arc::clone(&desk), Arc::clone(&of_service), Arc::clone(&seated));
            async move {
                let mut answer = desk.answer(request, &progress).await;
                // Nobody keeps the probes out by asking one thing behind the other, either.
                if room.available_permits() == 0 {
                    respond::last(&mut answer);
                }
                Ok(answer)
            }
        });
        let wire = Wire::new(stream, WRITE_TIMEOUT, Arc::clone(&progress));
        let connection = protocol.serve_connection(wire, service);
        let end = end.clone();
        tasks.spawn(async move {
            // How an operator's connection ended is no news.
            let _ = connection::serve(connection, MAX_AGE, &end, &progress).await;
            drop(permit);
        });
    }
    drop(acceptor);
    let _ = timeout(GRACE, tasks.ended()).await;
    Ok(())
}

/// A place for one more. Where all are taken, whoever has been silent for longest gives way, so that nobody keeps the probes
/// out by connecting and saying nothing; and who is answered leaves. Bound: [`LEAVE`].
async fn place(room: &Arc<Semaphore>, seats: &[Weak<Progress>]) -> Option<OwnedSemaphorePermit> {
    let room = Arc::clone(room);
    if room.available_permits() == 0 {
        let seated = seats.iter().filter_map(Weak::upgrade);
        let silent = seated.filter_map(|progress| Some((progress.silent_since()?, progress)));
        if let Some((_, longest)) = silent.min_by_key(|(since, _)| *since) {
            longest.ask_to_leave();
        }
    }
    timeout(LEAVE, room.acquire_owned()).await.ok()?.ok()
}

/// Bound: scrapers, probes and a few people.
const MAX_CONNECTIONS: usize = 64;
/// Bound: a request's head. Bodies are not read at all, but for `replay`'s, from who brings the token.
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// Bound: a head, and the silence between two requests. Longer than a usual scrape interval, so that a
/// scraper keeps its connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// Bound: how long an answer may make no progress.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bound: how old a connection may become.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// Bound: how long a place is waited for that somebody leaves: who was asked to has nothing to finish.
const LEAVE: Duration = Duration::from_millis(100);
/// Bound: how long stopping waits for answers.
const GRACE: Duration = Duration::from_secs(1);
