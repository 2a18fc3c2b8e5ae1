//! The CLI's one HTTP client for the admin listener: plain HTTP, with a deadline.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::AUTHORIZATION;
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;

use super::Failure;
use crate::admin::is_plain;
use crate::lifecycle::Tasks;
use crate::secret::{Secret, Source};

/// What `--admin` may be: a URL that names a host and nothing beneath it, of plain HTTP.
pub(super) fn url(text: &str) -> Result<String, String> {
    let uri: Option<Uri> = text.parse().ok();
    let is_one = uri.is_some_and(|uri| {
        let is_bare = uri.path_and_query().is_none_or(|path| path == "/");
        uri.scheme_str() == Some("http") && uri.authority().is_some() && is_bare
    });
    if is_one { Ok(text.to_owned()) } else { Err(format!("{text:?} is not a URL such as {DEFAULT_URL}")) }
}

/// What `--who` and `--reason` may be.
pub(super) fn plain(text: &str) -> Result<String, String> {
    let is_one = is_plain(text);
    is_one.then(|| text.to_owned()).ok_or_else(|| "it has 1 to 200 characters, on one line".to_owned())
}

/// Asks for a path, and gives status and body. Bound: [`DEADLINE`] and [`MAX_BODY`].
pub(super) async fn get(admin: &str, path: &str) -> Result<(StatusCode, Bytes), String> {
    ask(admin, Method::GET, path, None, Bytes::new()).await
}

/// Asks for what is shown only with the token.
pub(super) async fn get_with(admin: &str, path: &str, token: &Secret) -> Result<(StatusCode, Bytes), String> {
    ask(admin, Method::GET, path, Some(token), Bytes::new()).await
}

/// Asks for a change, which needs the token.
pub(super) async fn post(
    admin: &str,
    path: &str,
    token: &Secret,
    body: Bytes,
) -> Result<(StatusCode, Bytes), String> {
    ask(admin, Method::POST, path, Some(token), body).await
}

/// The admin token in a file.
pub(super) fn token(file: &Path) -> Result<Secret, Failure> {
    let token = Source::File(file.to_owned()).read();
    token.map_err(|error| Failure::running(format!("--token-file {}: {error}", file.display())))
}

async fn ask(
    admin: &str,
    method: Method,
    path: &str,
    token: Option<&Secret>,
    body: Bytes,
) -> Result<(StatusCode, Bytes), String> {
    let asked = async {
        let uri: Uri = url(admin)?.parse().map_err(|_| format!("{admin:?} is no URL"))?;
        let authority = uri.authority().ok_or_else(|| format!("{admin:?} names no host"))?;
        let address = (authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80));
        let stream =
            tokio::net::TcpStream::connect(address).await.map_err(|error| format!("{admin}: {error}"))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        Tasks::default().spawn(async move {
            let _ = connection.await;
        });
        let mut request = Request::builder().method(method).uri(path).header("host", authority.as_str());
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        let request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        Ok((status, body))
    };
    tokio::time::timeout(DEADLINE, asked)
        .await
        .unwrap_or_else(|_| Err(format!("{admin} did not answer in time")))
}

/// Where the admin listener is unless the configuration says otherwise.
pub(super) const DEFAULT_URL: &str = "http://127.0.0.1:9090";
/// Longer than the longest answer deadline of the gateway that a release waits for by default.
const DEADLINE: Duration = Duration::from_secs(15);
const MAX_BODY: usize = 16 << 20;
