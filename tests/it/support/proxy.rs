//! A TCP proxy before a broker, so that a test can take the connection away without asking the broker.

use std::sync::{Arc, Mutex};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// The proxy. It goes with its owner, and its connections with it.
pub struct Proxy {
    port: u16,
    accepting: AbortHandle,
    open: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Proxy {
    /// Listens on a port of its own and passes everything on to `target` (`host:port`).
    pub async fn to(target: &str) -> Self {
        Self::at(0, target).await
    }

    /// On a port of the test's choice.
    pub async fn at(port: u16, target: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let open: Arc<Mutex<Vec<AbortHandle>>> = Arc::default();
        let (target, accepted) = (target.to_owned(), Arc::clone(&open));
        let accepting = tokio::spawn(async move {
            loop {
                let (mut inside, _) = listener.accept().await.unwrap();
                let target = target.clone();
                let passing = tokio::spawn(async move {
                    let mut outside = TcpStream::connect(&target).await.unwrap();
                    let _ = copy_bidirectional(&mut inside, &mut outside).await;
                });
                accepted.lock().unwrap().push(passing.abort_handle());
            }
        });
        Self { port, accepting: accepting.abort_handle(), open }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts every connection that is open. New ones are accepted.
    pub fn cut(&self) {
        self.open.lock().unwrap().drain(..).for_each(|passing| passing.abort());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}
