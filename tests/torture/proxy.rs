//! A TCP proxy between the gateway and its broker, which disturbs the way: the broker itself is not asked.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// How the way is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Open,
    /// Every chunk takes this much longer, in both directions.
    Slow(Duration),
    /// What was open is cut, and what comes is hung up on at once.
    Cut,
    /// Nothing moves and nothing is lost, as when the broker's process is stopped.
    Frozen,
    /// The gateway's words arrive, the broker's do not: publishes are stored, and no confirm is seen.
    Mute,
    /// The broker's words arrive, the gateway's do not.
    Deaf,
    /// The broker's confirms vanish, and nothing else: a broker that is alive and never says that it has something.
    Unconfirmed,
    /// Half-open: what is sent vanishes, and nobody hangs up. Connections that were open never recover.
    Vanishing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToBroker,
    ToGateway,
}

impl Way {
    fn stops(self, direction: Direction) -> bool {
        match self {
            Self::Frozen => true,
            Self::Mute => direction == Direction::ToGateway,
            Self::Deaf => direction == Direction::ToBroker,
            Self::Open | Self::Slow(_) | Self::Cut | Self::Unconfirmed | Self::Vanishing => false,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Slow(_) => "slow",
            Self::Cut => "cut",
            Self::Frozen => "frozen",
            Self::Mute => "mute",
            Self::Deaf => "deaf",
            Self::Unconfirmed => "unconfirmed",
            Self::Vanishing => "vanishing",
        }
    }
}

/// The proxy. It goes with its owner, and its connections with it.
pub struct Proxy {
    port: u16,
    way: watch::Sender<Way>,
    accepting: AbortHandle,
    open: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Proxy {
    /// Before the broker of a URI.
    pub async fn before(amqp: &str) -> Self {
        let target = place(amqp).to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let open: Arc<Mutex<Vec<AbortHandle>>> = Arc::default();
        let (way, seen) = watch::channel(Way::Open);
        let accepted = Arc::clone(&open);
        let accepting = tokio::spawn(async move {
            loop {
                let (gateway, _) = listener.accept().await.unwrap();
                if *seen.borrow() == Way::Cut {
                    continue;
                }
                let passing = tokio::spawn(pass(gateway, target.clone(), seen.clone()));
                let mut open = accepted.lock().unwrap();
                open.retain(|passing| !passing.is_finished());
                open.push(passing.abort_handle());
            }
        });
        Self { port, way, accepting: accepting.abort_handle(), open }
    }

    /// The URI that leads through it.
    pub fn through(&self, amqp: &str) -> String {
        amqp.replace(place(amqp), &format!("127.0.0.1:{}", self.port))
    }

    /// From now on the way is so.
    pub fn set(&self, way: Way) {
        let before = self.way.send_replace(way);
        if way == Way::Cut || before == Way::Vanishing {
            self.open.lock().unwrap().drain(..).for_each(|passing| passing.abort());
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.open.lock().unwrap().drain(..).for_each(|passing| passing.abort());
    }
}

/// Until either side hangs up.
async fn pass(gateway: TcpStream, target: String, way: watch::Receiver<Way>) {
    let Ok(broker) = TcpStream::connect(&target).await else { return };
    gateway.set_nodelay(true).unwrap();
    broker.set_nodelay(true).unwrap();
    let ((from_gateway, to_gateway), (from_broker, to_broker)) = (gateway.into_split(), broker.into_split());
    tokio::select! {
        () = pump(from_gateway, to_broker, Direction::ToBroker, way.clone()) => {}
        () = pump(from_broker, to_gateway, Direction::ToGateway, way) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    direction: Direction,
    mut way: watch::Receiver<Way>,
) {
    let mut chunk = Vec::new();
    while read(&mut from, &mut chunk, direction).await.is_ok() {
        let Ok(now) = way.wait_for(|way| !way.stops(direction)).await.map(|way| *way) else { return };
        if let Way::Slow(by) = now {
            tokio::time::sleep(by).await;
        }
        let vanishes = now == Way::Vanishing || now == Way::Unconfirmed && is_confirm(&chunk);
        if !vanishes && to.write_all(&chunk).await.is_err() {
            return;
        }
    }
}

/// The broker speaks in frames from its first word on; of the gateway's words as much as is there.
async fn read(from: &mut OwnedReadHalf, chunk: &mut Vec<u8>, direction: Direction) -> std::io::Result<()> {
    chunk.clear();
    if direction == Direction::ToBroker {
        chunk.reserve(CHUNK);
        let length = from.read_buf(chunk).await?;
        return if length > 0 { Ok(()) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) };
    }
    let mut head = [0; 7];
    from.read_exact(&mut head).await?;
    let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    chunk.extend_from_slice(&head);
    chunk.resize(head.len() + usize::try_from(length).unwrap() + 1, 0);
    from.read_exact(&mut chunk[head.len()..]).await.map(drop)
}

/// A method frame with `basic.ack`.
fn is_confirm(frame: &[u8]) -> bool {
    frame.first() == Some(&1) && frame.get(7..11) == Some(&[0, 60, 0, 80])
}

const CHUNK: usize = 16 * 1024;

/// `host:port` of a URI.
pub fn place(amqp: &str) -> &str {
    amqp.split('@').nth(1).unwrap().split('/').next().unwrap()
}
