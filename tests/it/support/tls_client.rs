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
use tokio_rustls::rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use tokio_rustls::rustls::crypto::cipher::{OutboundChunks, OutboundPlainMessage};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    ClientConfig, ConnectionTrafficSecrets, ContentType, ProtocolVersion, RootCertStore, SupportedCipherSuite,
};

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
    believing_by(aws_lc_rs::default_provider(), authority, version)
}

fn believing_by(provider: CryptoProvider, authority: &Authority, version: Version) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let versions = match version {
        Version::Tls12 => [&TLS12],
        Version::Tls13 => [&TLS13],
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
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

/// Shakes hands, asks something, and then begins a message of TLS of 64 KiB, which it does not end: 48 KB of it, in three records.
pub async fn unfinished_message(addr: SocketAddr, authority: &Authority) -> TcpStream {
    let SupportedCipherSuite::Tls13(suite) = TLS13_AES_128_GCM_SHA256 else {
        unreachable!("it is of TLS 1.3")
    };
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![TLS13_AES_128_GCM_SHA256];
    let mut config = believing_by(provider, authority, Version::Tls13);
    config.enable_secret_extraction = true;
    let mut stream = connect(addr, b"", config).await.unwrap();
    stream.write_all(b"POST /alipay/notify HTTP/1.1\r\ncontent-length: 3\r\n\r\na=b").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"fail") {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "{answer:?}");
    }
    let (mut stream, session) = stream.into_inner();
    let (sent, secrets) = session.dangerous_extract_secrets().unwrap().tx;
    let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else {
        unreachable!("it is the only suite")
    };
    let mut encrypter = suite.aead_alg.encrypter(key, iv);
    let mut encrypted = |number: u64, part: &[u8]| {
        let (typ, version) = (ContentType::Handshake, ProtocolVersion::TLSv1_2);
        let plain = OutboundPlainMessage { typ, version, payload: OutboundChunks::Single(part) };
        encrypter.encrypt(plain, number).unwrap().encode()
    };
    // The numbers of what was sent are used up: it refuses to begin with another than 0.
    (0..sent).for_each(|number| drop(encrypted(number, b"")));
    let mut message = b"\x18\0\xff\xf0".to_vec();
    message.resize(48_000, b'a');
    for (number, part) in (sent..).zip(message.chunks(16_000)) {
        let _ = stream.write_all(&encrypted(number, part)).await;
    }
    stream
}

/// Posts a body and reads to the end, which is to come in order.
pub async fn deliver(stream: &mut TlsStream<TcpStream>, body: &[u8]) -> String {
    stream.write_all(&request("/alipay/notify", body)).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("no end");
    read.unwrap();
    String::from_utf8(answer).unwrap()
}
