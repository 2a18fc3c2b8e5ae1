//! A local Alipay for `simulate serve`: takes a signed link, shows a cashier page, and sends notifications, signed with a key of
//! its own, on Alipay's schedule until `success`. `request` judges the link, `sale` is one trade, `desk` has all of them and
//! delivers, `door` speaks HTTP, `view` is what the page sees. `client` and `schedule` serve the other forms of `simulate`, too.
//!
//! What it is not: part of the gateway, which knows nothing of it, or fit for the internet: whoever reaches it may pay. It
//! listens on the loopback address unless told otherwise, and delivers to this machine and to hosts that the operator named.
//! Nothing of it survives its end.

pub(crate) mod client;
mod desk;
mod door;
mod request;
mod sale;
pub(crate) mod schedule;
mod view;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::http::accept::Acceptor;
use crate::lifecycle::{Stopping, Tasks};
use crate::signer::Signer;
use crate::signer::merchant_key::MerchantKey;
use crate::signer::notification::Merchant;
use desk::Desk;
use schedule::Schedule;

/// What it is told at its start.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// The names, beside addresses and localhost, by which a browser may call it.
    pub(crate) called: Vec<String>,
    /// Whose links it takes.
    pub(crate) merchant: Merchant,
    /// The app's public key.
    pub(crate) merchant_key: MerchantKey,
    /// The simulated Alipay's key.
    pub(crate) signer: Signer,
    /// When notifications are delivered again.
    pub(crate) schedule: Schedule,
    /// Hosts, beside this machine, to which notifications may go.
    pub(crate) allowed_hosts: Vec<String>,
    /// Where all notifications go, whatever a link says.
    pub(crate) deliver_to: Option<String>,
}

/// A bound simulator that does not serve yet.
#[derive(Debug)]
pub(crate) struct Simulator {
    config: Config,
    socket: TcpListener,
}

impl Simulator {
    /// Binds its address.
    pub(crate) async fn bind(config: Config) -> io::Result<Self> {
        let socket = TcpListener::bind(config.listen).await?;
        Ok(Self { config, socket })
    }

    /// The address, with the port that the system chose if it was left open.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until it is stopped.
    pub(crate) async fn run(self, stopping: Stopping) {
        let tasks = Tasks::default();
        let desk = Desk::new(self.config, stopping.clone(), tasks.clone());
        let acceptor = Acceptor::new(self.socket);
        door::serve(acceptor, Arc::clone(&desk), &stopping, &tasks).await;
        let _ = tokio::time::timeout(desk::GRACE, tasks.ended()).await;
    }
}
