//! Alipay's side of a delivery: a POST on a connection that is kept, and the answer.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::lifecycle::Tasks;

/// Where notifications go.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    host: String,
    port: u16,
    authority: String,
    path: String,
}

/// A connection to it, opened when it is needed.
#[derive(Debug)]
pub(crate) struct Client {
    target: Target,
    sender: Option<SendRequest<Full<Bytes>>>,
    tasks: Tasks,
}

/// What Alipay was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl Answer {
    /// Status 200 and exactly seven bytes.
    pub(crate) fn is_success(&self) -> bool {
        self.status == StatusCode::OK && self.body.as_ref() == b"success"
    }
}

impl Target {
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|_| format!("{url:?} is not a URL"))?;
        match (uri.scheme_str(), uri.authority()) {
            (Some("http"), Some(authority)) => Ok(Self {
                host: authority.host().trim_matches(['[', ']']).to_owned(),
                port: authority.port_u16().unwrap_or(80),
                authority: authority.to_string(),
                path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
            }),
            _ => Err(format!("{url:?} is not a URL such as http://127.0.0.1:8080/alipay/notify")),
        }
    }
}

impl Target {
    /// The host that it leads to.
    pub(super) fn host(&self) -> &str {
        &self.host
    }
}

impl Client {
    pub(crate) fn new(target: Target) -> Self {
        Self { target, sender: None, tasks: Tasks::default() }
    }

    /// Delivers a body. Bound: [`DEADLINE`].
    pub(crate) async fn deliver(&mut self, body: Bytes, traceparent: Option<&str>) -> Result<Answer, String> {
        let delivered = tokio::time::timeout(DEADLINE, self.try_deliver(body, traceparent)).await;
        let answer = delivered.unwrap_or_else(|_| Err(format!("no answer within {DEADLINE:?}")));
        if answer.is_err() {
            self.sender = None;
        }
        answer
    }

    async fn try_deliver(&mut self, body: Bytes, traceparent: Option<&str>) -> Result<Answer, String> {
        let mut request = Request::post(&self.target.path)
            .header("host", &self.target.authority)
            .header("user-agent", "Mozilla/4.0")
            .header("content-type", "application/x-www-form-urlencoded; charset=utf-8");
        // Alipay sends none; whatever stands before the gateway may.
        if let Some(traceparent) = traceparent {
            request = request.header("traceparent", traceparent);
        }
        let request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
        let sender = self.connected().await?;
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        Ok(Answer { status, body: body.map_err(|error| error.to_string())?.to_bytes() })
    }

    async fn connected(&mut self) -> Result<&mut SendRequest<Full<Bytes>>, String> {
        let usable = match &mut self.sender {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !usable {
            let address = (self.target.host.as_str(), self.target.port);
            let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
            stream.set_nodelay(true).map_err(|error| error.to_string())?;
            let opened = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
            let (sender, connection) = opened.map_err(|error| error.to_string())?;
            self.tasks.spawn(async move {
                let _ = connection.await;
            });
            self.sender = Some(sender);
        }
        self.sender.as_mut().ok_or_else(|| "no connection".to_owned())
    }
}

/// Longer than any answer deadline of the gateway.
const DEADLINE: Duration = Duration::from_secs(70);
/// An answer has seven bytes; whoever sends more is not a gateway.
const MAX_ANSWER: usize = 64 * 1024;
