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

    #[tokio::test(start_paused = true)]
    async fn a_connection_does_not_wait_for_the_one_before() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = socket.local_addr().unwrap();
        let mut acceptor = Acceptor::new(socket);
        let began = tokio::time::Instant::now();
        for _ in 0..3 * IN_A_ROW {
            let peer = std::net::TcpStream::connect(to).unwrap();
            acceptor.next().await.unwrap();
            drop(peer);
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[test]
    fn a_connection_that_was_taken_back_costs_no_pause() {
        let gone = io::Error::from(io::ErrorKind::ConnectionAborted);
        assert_eq!(pause_after(Duration::from_secs(1), &gone), Duration::ZERO);
    }
}
