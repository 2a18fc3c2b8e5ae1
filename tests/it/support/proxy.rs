//! A TCP proxy before a broker, so that a test can take the connection away without asking the broker.

use std::sync::{Arc, Mutex};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// The proxy. It goes with its owner, and its connections with it.
pub struct Proxy {
    port: u16,
    accepting: AbortHandle,
    open: Arc<Mutex<Vec<AbortHandle>>>,
    /// How often it went dark, and whether it is.
    night: watch::Sender<Night>,
}

/// A connection that saw the light go out is dead for ever, as behind a firewall that has forgotten it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Night {
    Never,
    Now(u64),
    Over(u64),
}

impl Night {
    fn count(self) -> u64 {
        match self {
            Self::Never => 0,
            Self::Now(count) | Self::Over(count) => count,
        }
    }
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
        let night = watch::Sender::new(Night::Never);
        let (target, accepted, nights) = (target.to_owned(), Arc::clone(&open), night.subscribe());
        let accepting = tokio::spawn(async move {
            loop {
                let (inside, _) = listener.accept().await.unwrap();
                let passing = tokio::spawn(pass(inside, target.clone(), nights.clone()));
                accepted.lock().unwrap().push(passing.abort_handle());
            }
        });
        Self { port, accepting: accepting.abort_handle(), open, night }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts every connection that is open. New ones are accepted.
    pub fn cut(&self) {
        self.open.lock().unwrap().drain(..).for_each(|passing| passing.abort());
    }

    /// From now on nothing gets through, and nobody is told: open connections stay open, and so do new ones.
    pub fn go_dark(&self) {
        self.night.send_modify(|night| *night = Night::Now(night.count() + 1));
    }

    /// New connections get through again. Those that were open when it went dark never do.
    pub fn light(&self) {
        self.night.send_modify(|night| *night = Night::Over(night.count()));
    }
}

/// Holds both sockets for as long as nobody cuts it, whatever becomes of the traffic.
async fn pass(mut inside: TcpStream, target: String, mut nights: watch::Receiver<Night>) {
    let begun = *nights.borrow_and_update();
    if matches!(begun, Night::Now(_)) {
        return std::future::pending().await;
    }
    let Ok(mut outside) = TcpStream::connect(&target).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut inside, &mut outside) => return,
        _ = nights.wait_for(|night| night.count() > begun.count()) => {}
    }
    std::future::pending::<()>().await;
    drop((inside, outside));
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}
