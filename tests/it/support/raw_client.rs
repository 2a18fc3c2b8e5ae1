//! Bytes on a socket: what no HTTP client would send, and exactly what came back.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::PATIENCE;

/// One connection.
#[derive(Debug)]
pub struct RawClient {
    stream: TcpStream,
    received: Vec<u8>,
}

/// An answer with a Content-Length.
#[derive(Debug)]
pub struct RawAnswer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

/// How the peer ended the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// In order.
    Closed,
    /// By a reset, which may have discarded what was not read yet.
    Reset,
}

impl RawClient {
    pub async fn connect(addr: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(addr).await.unwrap(), received: Vec::new() }
    }

    /// From another address of this machine: all of 127.0.0.0/8 is.
    pub async fn connect_from(source: Ipv4Addr, addr: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((source, 0).into()).unwrap();
        Self { stream: socket.connect(addr).await.unwrap(), received: Vec::new() }
    }

    /// By a socket that has hardly room for what comes back.
    pub async fn connect_narrow(addr: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        Self { stream: socket.connect(addr).await.unwrap(), received: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.unwrap();
    }

    /// For sending to a peer that may have closed already.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// Says that nothing more will be sent.
    pub async fn finish_sending(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Waits for the next answer and leaves what follows it for the next call.
    pub async fn answer(&mut self) -> RawAnswer {
        tokio::time::timeout(PATIENCE, self.next_answer(HasBody::Yes)).await.expect("no answer in time")
    }

    /// The answer to a HEAD: it tells a length and has no body.
    pub async fn answer_to_head(&mut self) -> RawAnswer {
        tokio::time::timeout(PATIENCE, self.next_answer(HasBody::No)).await.expect("no answer in time")
    }

    /// Waits for exactly these bytes.
    pub async fn expect(&mut self, bytes: &[u8]) {
        let read = async {
            while self.received.len() < bytes.len() {
                self.read_on().await;
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect("nothing in time");
        let came: Vec<u8> = self.received.drain(..bytes.len()).collect();
        assert_eq!(came.escape_ascii().to_string(), bytes.escape_ascii().to_string());
    }

    /// Reads to the end: what had not been taken as an answer, and how it ended.
    pub async fn rest(&mut self) -> (Vec<u8>, End) {
        let read = async {
            loop {
                match self.read_more().await {
                    Ok(0) => break End::Closed,
                    Ok(_) => {}
                    Err(_) => break End::Reset,
                }
            }
        };
        let end = tokio::time::timeout(PATIENCE, read).await.expect("the peer did not close in time");
        (std::mem::take(&mut self.received), end)
    }

    /// Reads to the end, however long it takes.
    pub async fn until_closed(&mut self) {
        while self.read_more().await.is_ok_and(|read| read > 0) {}
    }

    async fn next_answer(&mut self, has_body: HasBody) -> RawAnswer {
        let head_end = loop {
            if let Some(at) = self.received.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            self.read_on().await;
        };
        let head: Vec<u8> = self.received.drain(..head_end).collect();
        let head = String::from_utf8(head).unwrap();
        let length = match has_body {
            HasBody::Yes => header(&head, "content-length").expect("no length").parse().unwrap(),
            HasBody::No => 0,
        };
        while self.received.len() < length {
            self.read_on().await;
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        RawAnswer { status, head, body: self.received.drain(..length).collect() }
    }

    async fn read_on(&mut self) {
        let read = self.read_more().await.unwrap();
        assert_ne!(read, 0, "closed in the middle: {:?}", self.received.escape_ascii().to_string());
    }

    async fn read_more(&mut self) -> io::Result<usize> {
        self.stream.read_buf(&mut self.received).await
    }
}

impl RawAnswer {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// Is it the last on its connection?
    pub fn is_last(&self) -> bool {
        self.header("connection") == Some("close")
    }
}

/// Whether an answer has the body whose length it tells.
#[derive(Debug, Clone, Copy)]
enum HasBody {
    Yes,
    No,
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
