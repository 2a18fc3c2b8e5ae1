//! The cork: what one batch is published with is written together, as `TCP_CORK` does it for one socket's user.
//!
//! lapin writes from a thread of its own and wakes it for each publish; that wrote the first ones and slept again while the
//! rest were still being handed over. A batch of thirty-two was ten wake-ups here, ten segments on the wire and ten reads in the
//! broker, where one does (docs/performance.md). Its thread flushes before it looks what there is to write (`io_loop.rs` of
//! 4.12.3), so a flush is where it waits for whoever holds the cork. It is not a promise: what finds the thread awake already
//! may go in two pieces, TLS writes each of its records by itself, and a later lapin may flush elsewhere.
//!
//! It cannot hang: the cork is held for one poll, which waits for nothing, never across an await; to hold it waits for
//! nobody; and lapin's thread goes on after [`PATIENCE`] in any case.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_util::{AsyncRead, AsyncWrite, Stream};

/// Of one connection. Several lanes may hold it at once.
#[derive(Debug, Clone, Default)]
pub(super) struct Cork(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    let_go: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// How many hold it.
    holders: usize,
    /// Somebody is to be woken when nobody does.
    is_waited_for: bool,
}

/// While it is there, lapin's thread does not flush.
#[must_use]
pub(super) struct Held<'cork>(&'cork Shared);

impl Cork {
    /// Nothing is written to the socket until what is returned is gone.
    pub(super) fn hold(&self) -> Held<'_> {
        self.0.lock().holders += 1;
        Held(&self.0)
    }

    /// Waits for whoever holds it. Bound: `patience`.
    fn wait(&self, patience: Duration) {
        let mut state = self.0.lock();
        if state.holders > 0 {
            state.is_waited_for = true;
            // In time or not, and whoever panicked: what is there is written.
            let _ = self.0.let_go.wait_timeout_while(state, patience, |state| state.holders > 0);
        }
    }

    /// The tokio that this is called in, with sockets that wait for the cork.
    pub(super) fn runtime(&self) -> Runtime<RuntimeParts<Tokio, Sockets>> {
        let tokio = Tokio::current();
        let sockets = Sockets { tokio: tokio.clone(), cork: self.clone() };
        Runtime::new(RuntimeParts::new(tokio, sockets))
    }

    #[cfg(test)]
    pub(super) fn is_held(&self) -> bool {
        self.0.lock().holders > 0
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.holders -= 1;
        if state.holders == 0 && std::mem::take(&mut state.is_waited_for) {
            drop(state);
            self.0.let_go.notify_all();
        }
    }
}

/// tokio's sockets and timers, where the sockets wait for the cork.
#[derive(Debug, Clone)]
pub(super) struct Sockets {
    tokio: Tokio,
    cork: Cork,
}

impl Reactor for Sockets {
    type TcpStream = Corked<<Tokio as Reactor>::TcpStream>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.tokio.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.tokio.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.tokio.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let (connecting, cork) = (self.tokio.tcp_connect_addr(address), self.cork.clone());
        async move { Ok(Corked { socket: connecting.await?, cork }) }
    }
}

/// A socket that is not flushed while the cork is held.
pub(super) struct Corked<S> {
    socket: S,
    cork: Cork,
}

impl AsFd for Corked<<Tokio as Reactor>::TcpStream> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Corked<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Corked<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.cork.wait(PATIENCE);
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(context)
    }
}

/// How long lapin's thread waits before one flush. A batch that takes longer to be handed over goes in pieces.
const PATIENCE: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use std::task::Waker;
    use std::thread;

    use futures_util::io::Cursor;

    use super::*;

    #[test]
    fn who_waits_for_the_cork_is_woken_when_the_last_one_lets_it_go() {
        let cork = Cork::default();
        let (first, last) = (cork.hold(), cork.hold());
        let waiting = thread::spawn({
            let cork = cork.clone();
            move || {
                let began = Instant::now();
                cork.wait(FOREVER);
                (cork.is_held(), began.elapsed() < FOREVER)
            }
        });
        while !cork.0.lock().is_waited_for {
            assert!(!waiting.is_finished(), "it did not wait");
            thread::yield_now();
        }
        drop(first);
        assert!(cork.0.lock().is_waited_for, "one holds it still");
        drop(last);
        assert_eq!(waiting.join().unwrap(), (false, true));
    }

    #[test]
    fn a_cork_that_is_never_let_go_delays_a_flush_and_no_more() {
        let cork = Cork::default();
        let _held = cork.hold();
        let mut corked = Corked { socket: Cursor::new(Vec::new()), cork: cork.clone() };
        let began = Instant::now();
        assert!(Pin::new(&mut corked).poll_flush(&mut Context::from_waker(Waker::noop())).is_ready());
        assert!(began.elapsed() >= PATIENCE);
    }

    /// For a test.
    const FOREVER: Duration = Duration::from_secs(30);
}
