//! TLS on the public listener, for those who have nothing before it that ends TLS (`http.tls_certificate_file`). Off by
//! default. TLS 1.2 and 1.3 with rustls, HTTP/1.1 only; no client certificates: the signature of a notification is what
//! is believed.
//!
//! The certificate is exchanged while the gateway runs: whoever begins a handshake gets the one that is in force.
//!
//! *A message that never ends* would be kept for ever: rustls holds up to 64 KiB of one handshake message, in as many
//! records as its sender likes, before the handshake has ended and after it. So what is read of a peer until something
//! comes of it is bounded below rustls.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll, ready};

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncBufRead as _, AsyncRead, AsyncReadExt as _, AsyncWrite, Join, ReadBuf, Take, join};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::{Error, ServerConfig};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

/// A connection inside of TLS. In a box: most doors have no TLS, and their connections should not be as large.
#[derive(Debug)]
pub(crate) struct TlsStream(Box<tokio_rustls::server::TlsStream<Bounded>>);

/// What is below TLS: it ends where nothing has come of [`UNTIL_SOMETHING_BYTES`].
type Bounded = Join<Take<OwnedReadHalf>, OwnedWriteHalf>;

impl TlsStream {
    /// The handshake has ended, or something of HTTP was read: as much may be read anew.
    fn something_came(&mut self) {
        self.0.get_mut().0.reader_mut().set_limit(UNTIL_SOMETHING_BYTES);
    }
}

impl AsyncRead for TlsStream {
    /// What has come next. (The stream's own function reads on until the buffer is full, however many records that takes, so
    /// that nobody could tell whether something came.)
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let came = ready!(Pin::new(&mut self.0).poll_fill_buf(cx))?;
        let read = came.len().min(buffer.remaining());
        buffer.put_slice(came.split_at(read).0);
        Pin::new(&mut self.0).consume(read);
        self.something_came();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A certificate with what leads to its authority, and its private key: they fit.
#[derive(Clone)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
    config: Arc<ServerConfig>,
    ends_at: i64,
}

/// Which of the two files is wrong, and how. Never a word of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// `http.tls_certificate_file`.
    Certificate(String),
    /// `http.tls_key_file`.
    Key(String),
}

impl Identity {
    /// From two files in PEM.
    ///
    /// # Errors
    /// Which of them is wrong.
    pub fn read(certificate: &[u8], key: &[u8]) -> Result<Self, Fault> {
        let of_certificate = |what: &str| Fault::Certificate(what.to_owned());
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
        let chain = chain.map_err(|_| of_certificate("is not in the form of PEM"))?;
        let first = chain.first().ok_or_else(|| of_certificate("has no certificate in PEM"))?;
        let parsed = Certificate::from_der(first);
        let parsed = parsed.map_err(|_| of_certificate("holds what is no X.509 certificate"))?;
        let ends = parsed.tbs_certificate().validity().not_after.to_unix_duration();
        // The parser's own words are not passed on: they may quote a key.
        let key = PrivateKeyDer::from_pem_slice(key);
        let key = key.map_err(|_| Fault::Key("has no private key in PEM (unencrypted)".to_owned()))?;
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| unfit(&error))?;
        let config = builder.with_no_client_auth().with_single_cert(chain.clone(), key.clone_key());
        let mut config = config.map_err(|error| unfit(&error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let ends_at = i64::try_from(ends.as_secs()).unwrap_or(i64::MAX);
        Ok(Self { chain, key: Arc::new(key), config: Arc::new(config), ends_at })
    }

    /// When the certificate ends, in Unix seconds.
    pub const fn ends_at(&self) -> i64 {
        self.ends_at
    }
}

fn unfit(error: &Error) -> Fault {
    Fault::Key(format!("does not fit http.tls_certificate_file: {error}"))
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.chain == other.chain && self.key == other.key
    }
}

impl Eq for Identity {}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("ends_at", &self.ends_at).finish_non_exhaustive()
    }
}

/// The identity that is in force.
#[derive(Debug, Clone)]
pub struct InForce(Arc<RwLock<Identity>>);

impl InForce {
    pub(super) fn new(identity: Identity) -> Self {
        Self(Arc::new(RwLock::new(identity)))
    }

    /// Shows another from now on. Connections that are open keep what they have.
    pub fn replace(&self, identity: Identity) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    /// A handshake. The caller has the deadline.
    ///
    /// # Errors
    /// If the peer speaks no TLS that we speak.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream> {
        let config = Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner).config);
        let (reader, writer) = stream.into_split();
        let bounded = join(reader.take(UNTIL_SOMETHING_BYTES), writer);
        let mut stream = TlsStream(Box::new(TlsAcceptor::from(config).accept(bounded).await?));
        stream.something_came();
        Ok(stream)
    }
}

/// Bound: a hello has 2 KiB, with keys against quantum computers. A record has up to 16 KiB and 261 bytes, and rustls
/// reads at most 4 KiB of what follows with it.
const UNTIL_SOMETHING_BYTES: u64 = 24 * 1024;
