//! One connection, as both doors serve it: hyper's HTTP/1 with every wait and buffer bounded, on a socket
//! that knows two things which hyper leaves to its caller.
//!
//! *A peer that does not read* would hold its connection for ever: a write that makes no progress for
//! `http.write_timeout` ends it. *An answer that comes before the request was read* (413, 408, 404) would be
//! lost: closing a socket with unread bytes resets it, and a reset may discard what the peer has not read
//! yet. So closing says it first (FIN), then reads and discards for a moment.

use std::convert::Infallible;
use std::error::Error as _;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncRead as _;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};
use tokio_util::either::Either;

use super::tls::TlsStream;
use crate::lifecycle::Stopping;
use crate::metrics::ConnectionRefusal;

/// How both doors speak HTTP/1.
///
/// A peer that has finished sending may still read (`half_close`): it cannot be told from one that hung up,
/// and neither may stop what its request began.
pub(crate) fn protocol(max_header: usize, header_timeout: Duration) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        // Bound: a head that is slower than this is ended without an answer. It is also how long an idle
        // connection is kept.
        .header_read_timeout(header_timeout)
        // Bound: a larger head is answered 431. More than 100 headers are, too: that is hyper's default,
        // and to set it would move the header table from the stack to the heap.
        .max_header_size(max_header)
        // Bound: what is read ahead of one connection. hyper panics below its own minimum.
        .max_buf_size(max_header.max(MIN_BUFFER_BYTES))
        .keep_alive(true)
        .half_close(true);
    http
}

/// Serves a connection to its end. When `end` begins, or it is `max_age` old or asked to leave, an idle one is closed and one in a request
/// finishes it; one that has sent half a head has a moment for the other half, and at the end so has half a body, so that no
/// stranger holds the gateway's end back.
pub(crate) async fn serve<S>(
    connection: http1::Connection<Wire, S>,
    max_age: Duration,
    end: &Stopping,
    progress: &Progress,
) -> hyper::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<Full<Bytes>>, Error = Infallible>,
{
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        () = end.begun() => {}
        served = connection.as_mut() => return served,
        // Half a head gets no moment: it is what a hoarder has.
        () = progress.asked_to_leave() => if !progress.in_request.load(Ordering::Relaxed) { return Ok(()) },
        () = tokio::time::sleep(max_age) => progress.has_aged.store(true, Ordering::Relaxed),
    }
    connection.as_mut().graceful_shutdown();
    // Bound: two looks without a request; a request has its own bounds.
    let mut looks = 0;
    while looks < 2 {
        match tokio::time::timeout(HALF_HEAD, connection.as_mut()).await {
            Ok(served) => return served,
            Err(_) => {
                // Nothing has begun of what waits for its body: at the end it has the same moment as half a head.
                let is_half = end.has_begun() && progress.leaves_body_unread();
                let is_begun = progress.in_request.load(Ordering::Relaxed) && !is_half;
                looks = if is_begun { 0 } else { looks + 1 };
            }
        }
    }
    Ok(())
}

/// What ended a connection, as far as the gateway ended it: `None` if the peer left, or stayed silent between
/// two requests.
pub(crate) fn refusal(error: &hyper::Error, progress: &Progress) -> Option<ConnectionRefusal> {
    if error.is_timeout() {
        return (!progress.idle.load(Ordering::Relaxed)).then_some(ConnectionRefusal::SlowHead);
    }
    if error.is_parse() {
        return Some(ConnectionRefusal::BadHead);
    }
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    io.is_some_and(|io| io.kind() == io::ErrorKind::TimedOut).then_some(ConnectionRefusal::SlowReader)
}

/// What the socket and the service of one connection tell each other.
#[derive(Debug)]
pub(crate) struct Progress {
    unread: AtomicBool,
    in_request: AtomicBool,
    idle: AtomicBool,
    requests: AtomicUsize,
    has_aged: AtomicBool,
    opened: Instant,
    /// When the last request was answered, in milliseconds since it was opened.
    silent_since: AtomicU64,
    has_buffers: AtomicBool,
    has_brought_news: AtomicBool,
    is_asked_to_leave: AtomicBool,
    asked_to_leave: Notify,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            unread: AtomicBool::default(),
            in_request: AtomicBool::default(),
            idle: AtomicBool::default(),
            requests: AtomicUsize::default(),
            has_aged: AtomicBool::default(),
            opened: Instant::now(),
            silent_since: AtomicU64::default(),
            has_buffers: AtomicBool::default(),
            has_brought_news: AtomicBool::default(),
            is_asked_to_leave: AtomicBool::default(),
            asked_to_leave: Notify::default(),
        }
    }
}

impl Progress {
    /// A head has arrived, and it announces a body or not.
    pub(crate) fn began(&self, has_body: HasBody) {
        self.in_request.store(true, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.unread.store(has_body == HasBody::Yes, Ordering::Relaxed);
    }

    /// The body was read to its end.
    pub(crate) fn body_complete(&self) {
        self.unread.store(false, Ordering::Relaxed);
    }

    /// The request is answered: what follows is silence, or the next one.
    pub(crate) fn answered(&self) {
        let silent_since = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.silent_since.store(silent_since, Ordering::Relaxed);
        self.in_request.store(false, Ordering::Relaxed);
        self.idle.store(true, Ordering::Relaxed);
    }

    /// Since when it is in no request; `None` if it is in one, or leaves already. Half a head is no request.
    pub(crate) fn silent_since(&self) -> Option<Instant> {
        let stays = !self.in_request.load(Ordering::Relaxed) && !self.is_asked_to_leave();
        stays.then(|| self.opened + Duration::from_millis(self.silent_since.load(Ordering::Relaxed)))
    }

    /// Its first byte has come: from now on it has buffers. Says whether it had.
    pub(crate) fn grows(&self) -> bool {
        self.has_buffers.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn has_buffers(&self) -> bool {
        self.has_buffers.load(Ordering::Relaxed)
    }

    /// It has brought something genuine that nobody had brought before.
    pub(crate) fn brought_news(&self) {
        self.has_brought_news.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_brought_news(&self) -> bool {
        self.has_brought_news.load(Ordering::Relaxed)
    }

    /// Asks it to leave as one that is too old does: it is closed, unless a request has begun meanwhile, which is finished.
    pub(crate) fn ask_to_leave(&self) {
        self.is_asked_to_leave.store(true, Ordering::Relaxed);
        // Remembered, if nobody waits for it yet.
        self.asked_to_leave.notify_one();
    }

    pub(crate) fn is_asked_to_leave(&self) -> bool {
        self.is_asked_to_leave.load(Ordering::Relaxed)
    }

    pub(crate) async fn asked_to_leave(&self) {
        self.asked_to_leave.notified().await;
    }

    /// Is there some of the request's body that nobody read?
    pub(crate) fn leaves_body_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed)
    }

    /// How many requests there were.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Did it become too old?
    pub(crate) fn has_aged(&self) -> bool {
        self.has_aged.load(Ordering::Relaxed)
    }

    fn heard(&self) {
        self.idle.store(false, Ordering::Relaxed);
    }
}

/// Whether a request announced a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HasBody {
    /// It did.
    Yes,
    /// It did not.
    No,
}

/// What a connection is made of, below HTTP.
pub(crate) type Stream = Either<TcpStream, TlsStream>;

/// The stream under hyper.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TokioIo<Stream>,
    progress: Arc<Progress>,
    write_timeout: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    lingering: Option<Lingering>,
}

/// A connection that has said its last word and listens for a moment longer.
#[derive(Debug)]
struct Lingering {
    until: Pin<Box<Sleep>>,
    allowance_bytes: usize,
    wanted: bool,
}

impl Wire {
    /// Bound: `write_timeout` is how long a write may make no progress. An answer is about 100 bytes, so it is met only
    /// by a peer that sends request after request and never reads.
    pub(crate) fn new(stream: Stream, write_timeout: Duration, progress: Arc<Progress>) -> Self {
        Self { stream: TokioIo::new(stream), progress, write_timeout, stalled: None, lingering: None }
    }

    fn progress_or_deadline<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let within = self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(within)));
        stalled.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Reads and discards until the peer closes, or the time or the allowance is over.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let unread = self.progress.leaves_body_unread();
        let lingering = self.lingering.get_or_insert_with(|| Lingering {
            until: Box::pin(tokio::time::sleep(LINGER)),
            allowance_bytes: LINGER_BYTES,
            wanted: unread,
        });
        let mut scratch = [0; 4096];
        loop {
            let mut buffer = tokio::io::ReadBuf::new(&mut scratch);
            match Pin::new(self.stream.inner_mut()).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    lingering.wanted = true;
                    let read = buffer.filled().len();
                    match lingering.allowance_bytes.checked_sub(read) {
                        Some(left) => lingering.allowance_bytes = left,
                        None => return Poll::Ready(()),
                    }
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending if lingering.wanted => return lingering.until.as_mut().poll(cx),
                Poll::Pending => return Poll::Ready(()),
            }
        }
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        self.progress.heard();
        Poll::Ready(read)
    }
}

impl Write for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.progress_or_deadline(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.progress_or_deadline(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Inside of TLS, what was written may still be with us.
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.progress_or_deadline(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
            ready!(self.progress_or_deadline(cx, shut))?;
        }
        self.poll_linger(cx).map(Ok)
    }
}

/// Between two looks at a connection that is to end and is in no request.
const HALF_HEAD: Duration = Duration::from_millis(500);
/// Bound: how long a closing connection waits for the peer to have read its answer and closed.
const LINGER: Duration = Duration::from_secs(1);
/// Bound: how much it discards meanwhile.
const LINGER_BYTES: usize = 1 << 20;
/// hyper refuses a smaller buffer.
const MIN_BUFFER_BYTES: usize = 8192;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;

    /// A wire, and the peer at its other end.
    async fn wire() -> (Wire, TcpStream, Arc<Progress>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let progress = Arc::new(Progress::default());
        let stream = Either::Left(listener.accept().await.unwrap().0);
        (Wire::new(stream, WRITE_TIMEOUT, Arc::clone(&progress)), peer, progress)
    }

    const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

    async fn shut_down(wire: &mut Wire) -> Duration {
        let began = Instant::now();
        poll_fn(|cx| Pin::new(&mut *wire).poll_shutdown(cx)).await.unwrap();
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_without_progress_has_a_deadline() {
        let (mut wire, _peer, _) = wire().await;
        let began = Instant::now();
        let error = loop {
            match poll_fn(|cx| Pin::new(&mut wire).poll_write(cx, &[0; 4096])).await {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= WRITE_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_was_read_to_its_end_closes_at_once() {
        let (mut wire, _peer, progress) = wire().await;
        progress.began(HasBody::Yes);
        progress.body_complete();
        assert_eq!(shut_down(&mut wire).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_stays_silent_is_waited_for_within_a_bound() {
        let (mut wire, _peer, progress) = wire().await;
        progress.began(HasBody::Yes);
        let waited = shut_down(&mut wire).await;
        assert!((LINGER..LINGER * 2).contains(&waited), "{waited:?}");
    }

    #[tokio::test]
    async fn a_peer_that_does_not_stop_sending_is_heard_within_a_bound() {
        let (mut wire, mut peer, progress) = wire().await;
        progress.began(HasBody::Yes);
        let sent = async {
            let mut sent = 0;
            while let Ok(written) = tokio::io::AsyncWriteExt::write(&mut peer, &[0; 65_536]).await {
                sent += written;
            }
            sent
        };
        let ended = async {
            shut_down(&mut wire).await;
            drop(wire);
        };
        // What the kernel holds for both ends comes on top.
        let (sent, ()) = tokio::join!(sent, ended);
        assert!((LINGER_BYTES..LINGER_BYTES + (32 << 20)).contains(&sent), "{sent}");
    }
}
