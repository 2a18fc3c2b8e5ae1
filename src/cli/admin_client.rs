//! The CLI's one HTTP client for the admin listener: a GET, plain HTTP, with a deadline.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;

use crate::lifecycle::Tasks;

/// Asks for a path, and gives status and body. Bound: [`DEADLINE`] and [`MAX_BODY`].
pub(super) async fn get(admin: &str, path: &str) -> Result<(StatusCode, Bytes), String> {
    let asked = async {
        let uri: Uri = admin.parse().map_err(|_| format!("{admin:?} is not a URL such as {DEFAULT_URL}"))?;
        if uri.scheme_str() != Some("http") {
            return Err(format!("{admin:?} is not a URL such as {DEFAULT_URL}"));
        }
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
        let request = Request::get(path).header("host", authority.as_str()).body(Empty::<Bytes>::new());
        let request = request.map_err(|error| error.to_string())?;
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
const DEADLINE: Duration = Duration::from_secs(5);
const MAX_BODY: usize = 16 << 20;
