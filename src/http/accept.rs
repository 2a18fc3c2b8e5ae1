//! Accepting connections, for both doors. It never gives up: what makes `accept` fail is either the peer's
//! (a connection that was gone before it was taken) or passes (no file descriptor left), and a listener that
//! ended because of it would turn a short shortage into an outage.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::yield_now;

/// A listening socket that backs off when it fails.
#[derive(Debug)]
pub(crate) struct Acceptor {
    socket: TcpListener,
    pause: Duration,
    in_a_row: u32,
}

impl Acceptor {
    pub(crate) fn new(socket: TcpListener) -> Self {
        Self { socket, pause: Duration::ZERO, in_a_row: 0 }
    }

    /// The next connection and its peer, or why there was none this time: the caller counts it and asks again, and the
    /// pause is made here.
    ///
    /// Cancel safety: nothing is lost; a connection that was not returned is still in the kernel's queue.
    pub(crate) async fn next(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        if !self.pause.is_zero() {
            // Not for no time at all: a timer is never ready at once, and this would be a thousand connections a second.
            tokio::time::sleep(self.pause).await;
        } else if self.in_a_row >= IN_A_ROW {
            self.in_a_row = 0;
            yield_now().await;
        }
        self.in_a_row += 1;
        match self.socket.accept().await {
            Ok((stream, peer)) => {
                self.pause = Duration::ZERO;
                // An answer is one small write. A socket that cannot be told so still works.
                let _ = stream.set_nodelay(true);
                Ok((stream, peer))
            }
            Err(error) => {
                self.pause = pause_after(self.pause, &error);
                Err(error)
            }
        }
    }
}

/// Bound: so many are taken before those that were taken before have their turn, so that a flood of connections (or of
/// TLS handshakes, each some hundreds of microseconds) makes nobody's turn long.
const IN_A_ROW: u32 = 16;

/// Bound: from 10 ms, doubling, to at most 1 s between two tries. A connection that the peer took back says
/// nothing about the next one.
fn pause_after(pause: Duration, error: &io::Error) -> Duration {
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        return Duration::ZERO;
    }
    (pause * 2).clamp(Duration::from_millis(10), Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_shortage_of_descriptors_backs_off_and_a_bound_is_kept() {
        let shortage = io::Error::from_raw_os_error(24);
        let mut pause = Duration::ZERO;
        let mut pauses = Vec::new();
        for _ in 0..10 {
            pause = pause_after(pause, &shortage);
            pauses.push(pause.as_millis());
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000]);
    }

    #[tokio::test]
    async fn a_connection_does_not_wait_for_the_one_before_until_so_many_have_come_in_a_row() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = socket.local_addr().unwrap();
        let peers = [(); IN_A_ROW as usize + 1].map(|()| std::net::TcpStream::connect(to).unwrap());
        let mut acceptor = Acceptor::new(socket);
        acceptor.next().await.unwrap();
        for nth in 1..IN_A_ROW {
            assert!(acceptor.next().now_or_never().is_some_and(|accepted| accepted.is_ok()), "{nth}");
        }
        assert!(acceptor.next().now_or_never().is_none(), "others have their turn");
        acceptor.next().await.unwrap();
        drop(peers);
    }

    #[test]
    fn a_connection_that_was_taken_back_costs_no_pause() {
        let gone = io::Error::from(io::ErrorKind::ConnectionAborted);
        assert_eq!(pause_after(Duration::from_secs(1), &gone), Duration::ZERO);
    }
}
