//! A client that speaks TLS to the public door.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
pub use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::PATIENCE;
use super::authority::Authority;
use super::program::request;

/// The versions of TLS that are tried.
#[derive(Debug, Clone, Copy)]
pub enum Version {
    Tls12,
    Tls13,
}

/// What a client that believes this authority is configured with.
pub fn believing(authority: &Authority, version: Version) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let versions = match version {
        Version::Tls12 => [&TLS12],
        Version::Tls13 => [&TLS13],
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_protocol_versions(&versions).unwrap();
    builder.with_root_certificates(roots).with_no_client_auth()
}

/// Connects, says something in the clear, and shakes hands.
pub async fn connect(
    addr: SocketAddr,
    first: &[u8],
    config: ClientConfig,
) -> io::Result<TlsStream<TcpStream>> {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(first).await?;
    shake(stream, config).await
}

/// Connects by a socket that has hardly room for what comes back.
pub async fn connect_narrow(addr: SocketAddr, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    shake(socket.connect(addr).await.unwrap(), config).await
}

async fn shake(stream: TcpStream, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("gateway").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Posts a body and reads to the end, which is to come in order.
pub async fn deliver(stream: &mut TlsStream<TcpStream>, body: &[u8]) -> String {
    stream.write_all(&request("/alipay/notify", body)).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("no end");
    read.unwrap();
    String::from_utf8(answer).unwrap()
}
