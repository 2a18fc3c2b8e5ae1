//! The simulator's HTTP: the cashier's address, the page, and what its buttons call.
//!
//! The page is static and fills itself in as text; nothing that a link says is ever made into HTML here, but for a refusal,
//! which goes in as JSON in which no `<` is left. A page of somebody else's may send a browser here: so what changes something
//! must be JSON, which a browser sends to another origin only if that allows it; and the name by which we were called must be
//! an address or one of ours, so that no stranger's name can be pointed at this machine.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::desk::{Action, Desk, Release};
use super::request::{self, Refusal, Signatory, Words};
use super::sale::Way;
use super::view;
use crate::event::Money;
use crate::http::accept::Acceptor;
use crate::http::connection;
use crate::lifecycle::{Stopping, Tasks};
use crate::signer::merchant_key::MerchantKey;

type Answer = Response<Full<Bytes>>;

/// What a button may say beside its name.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Order {
    /// Of a refund. Everything that is left, if it is not given.
    amount: Option<String>,
    /// Of a refund.
    out_biz_no: Option<String>,
    /// Do not deliver the notification yet.
    hold: Option<bool>,
}

/// Serves until it is stopped.
pub(super) async fn serve(mut acceptor: Acceptor, desk: Arc<Desk>, stopping: &Stopping, tasks: &Tasks) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let protocol = connection::protocol(MAX_HEAD_BYTES, HEAD_TIMEOUT);
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopping.begun() => return,
            accepted = acceptor.next() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
        let desk = Arc::clone(&desk);
        let service = service_fn(move |request| {
            let desk = Arc::clone(&desk);
            async move { Ok::<_, Infallible>(hardened(answer(&desk, request).await)) }
        });
        let connection = protocol.serve_connection(TokioIo::new(stream), service);
        let stopping = stopping.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = stopping.begun() => {}
                // How a browser's connection ended is no news.
                _ = connection => {}
            }
            drop(permit);
        });
    }
}

async fn answer(desk: &Arc<Desk>, request: Request<Incoming>) -> Answer {
    if !is_called_rightly(desk, &request) {
        return text(
            StatusCode::MISDIRECTED_REQUEST,
            "this simulator is not called so (--called NAME)\n".to_owned(),
        );
    }
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    if path == "/gateway.do" {
        let form = if head.method == Method::POST { read(body).await } else { Some(Bytes::new()) };
        return match form {
            Some(form) => cashier(desk, &head.uri, &form, &head.headers),
            None => text(StatusCode::PAYLOAD_TOO_LARGE, "the form is too large, or too slow\n".to_owned()),
        };
    }
    match (&head.method, path.strip_prefix("/api/")) {
        (&Method::GET, Some(path)) => look(desk, path),
        (&Method::POST, Some(path)) if is_json(&head.headers) => match read(body).await {
            Some(body) => done(order(desk, path, &body)),
            None => text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large, or too slow\n".to_owned()),
        },
        (&Method::POST, Some(_)) => {
            text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-type: application/json\n".to_owned())
        }
        (&Method::GET, None) => page(desk, path),
        _ => text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n".to_owned()),
    }
}

/// A stranger's name that leads here would let a stranger's page read and press everything.
fn is_called_rightly(desk: &Desk, request: &Request<Incoming>) -> bool {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let Some(authority) = host.and_then(|host| host.parse::<hyper::http::uri::Authority>().ok()) else {
        return false;
    };
    let host = authority.host().trim_matches(['[', ']']);
    host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok()
        || desk.config.called.iter().any(|name| name == host)
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    content_type.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// Bound: [`MAX_BODY_BYTES`] within [`BODY_TIMEOUT`].
async fn read(body: Incoming) -> Option<Bytes> {
    let read = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY_BYTES).collect()).await;
    Some(read.ok()?.ok()?.to_bytes())
}

/// A link was opened, or a form posted: the cashier page, or why there is none.
fn cashier(desk: &Desk, uri: &Uri, form: &[u8], headers: &HeaderMap) -> Answer {
    let opened = received(uri.query().unwrap_or_default(), form)
        .and_then(|received| {
            let alipay = desk.config.signer.public_line().ok().and_then(|line| MerchantKey::read(&line).ok());
            let signatory = Signatory {
                app_id: desk.config.merchant.app_id.clone(),
                key: desk.config.merchant_key.clone(),
                alipay,
            };
            request::judge(&received, &signatory)
        })
        .and_then(|request| desk.open(request));
    match opened {
        Ok(trade_no) => {
            let mut answer = text(StatusCode::SEE_OTHER, String::new());
            if let Ok(place) = HeaderValue::from_str(&format!("/cashier/{trade_no}")) {
                answer.headers_mut().insert(LOCATION, place);
            }
            answer
        }
        Err(refusal) => refused(&refusal, headers),
    }
}

fn received(query: &str, form: &[u8]) -> Result<Vec<(String, String)>, Refusal> {
    let unreadable =
        |_| Refusal::new("isv.invalid-parameter", "the parameters are no form", "参数不是合法的表单");
    let mut received: Vec<(String, String)> = serde_urlencoded::from_str(query).map_err(unreadable)?;
    received.extend(serde_urlencoded::from_bytes::<Vec<(String, String)>>(form).map_err(unreadable)?);
    Ok(received)
}

fn refused(refusal: &Refusal, headers: &HeaderMap) -> Answer {
    let wants_html = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    if wants_html.is_some_and(|accept| accept.contains("text/html")) {
        let json = serde_json::to_string(refusal).unwrap_or_default().replace('<', "\\u003c");
        let page = INDEX.replacen(NO_REFUSAL, &format!(">{json}<"), 1);
        return typed(StatusCode::BAD_REQUEST, "text/html; charset=utf-8", page);
    }
    let mut said = format!("{}: {}\n", refusal.code, refusal.problem.en);
    for hint in &refusal.hints {
        said.push_str(&format!("  {}\n", hint.en));
    }
    if let Some(content) = &refusal.string_to_sign {
        said.push_str(&format!("the string to verify is:\n{content}\n"));
    }
    text(StatusCode::BAD_REQUEST, said)
}

fn look(desk: &Desk, path: &str) -> Answer {
    match path {
        "about" => json(StatusCode::OK, &view::about(desk)),
        "trades" => json(StatusCode::OK, &view::trades(desk)),
        _ => match path.strip_prefix("trades/").and_then(|trade_no| view::trade(desk, trade_no)) {
            Some(trade) => json(StatusCode::OK, &trade),
            None => text(StatusCode::NOT_FOUND, "not found\n".to_owned()),
        },
    }
}

/// `trades/NUMBER/pay|close|finish|refund|reverse`, `trades/NUMBER/notices/INDEX/send|again|gbk|forged|expired`.
fn order(desk: &Arc<Desk>, path: &str, body: &[u8]) -> Result<(), Words> {
    let wrong = || Words::new("there is no such button", "没有这个按钮");
    let order: Order = match body {
        [] => Order::default(),
        body => {
            let wrong = |error: serde_json::Error| {
                let (line, column) = (error.line(), error.column());
                Words::new(
                    error.to_string(),
                    format!("请求体不是所要的 JSON：第 {line} 行第 {column} 列有误"),
                )
            };
            serde_json::from_slice(body).map_err(wrong)?
        }
    };
    let release = if order.hold == Some(true) { Release::Later } else { Release::Now };
    let mut words = path.split('/');
    let (Some("trades"), Some(trade_no), Some(what)) = (words.next(), words.next(), words.next()) else {
        return Err(wrong());
    };
    let action = match what {
        "pay" => Action::Pay,
        "close" => Action::Close,
        "finish" => Action::Finish,
        "refund" => Action::Refund { amount: amount(order.amount)?, out_biz_no: order.out_biz_no },
        "reverse" => return desk.reverse(trade_no),
        "notices" => {
            let (index, way) = (words.next().and_then(|index| index.parse().ok()), words.next());
            return match (index, way) {
                (Some(index), Some("send")) => desk.send(trade_no, index),
                (Some(index), Some(way)) => {
                    desk.trick(trade_no, index, Way::from_name(way).ok_or_else(wrong)?)
                }
                _ => Err(wrong()),
            };
        }
        _ => return Err(wrong()),
    };
    desk.act(trade_no, action, release)
}

fn amount(text: Option<String>) -> Result<Option<Money>, Words> {
    let Some(text) = text else { return Ok(None) };
    Money::parse(text.as_bytes()).map(Some).ok_or_else(|| {
        Words::new(format!("{text:?} is not an amount such as 1.50"), format!("“{text}” 不是金额，例如 1.50"))
    })
}

fn done(outcome: Result<(), Words>) -> Answer {
    match outcome {
        Ok(()) => json(StatusCode::OK, &serde_json::json!({ "done": true })),
        Err(words) => json(StatusCode::CONFLICT, &serde_json::json!({ "done": false, "why": words })),
    }
}

fn page(desk: &Desk, path: &str) -> Answer {
    let is_page = path == "/" || path.starts_with("/cashier/");
    match path {
        _ if is_page => typed(StatusCode::OK, "text/html; charset=utf-8", INDEX.to_owned()),
        "/desk.css" => typed(StatusCode::OK, "text/css; charset=utf-8", STYLE.to_owned()),
        "/desk.js" => typed(StatusCode::OK, "text/javascript; charset=utf-8", SCRIPT.to_owned()),
        "/alipay-public.pem" => text(StatusCode::OK, desk.config.signer.public_pem().unwrap_or_default()),
        _ => text(StatusCode::NOT_FOUND, "not found\n".to_owned()),
    }
}

fn text(status: StatusCode, text: String) -> Answer {
    typed(status, "text/plain; charset=utf-8", text)
}

fn json(status: StatusCode, value: &Value) -> Answer {
    typed(status, "application/json", format!("{value}\n"))
}

fn typed(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

fn hardened(mut answer: Answer) -> Answer {
    for (name, value) in HEADERS {
        answer.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    answer
}

const HEADERS: [(&str, &str); 5] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
];
const INDEX: &str = include_str!("desk.html");
const STYLE: &str = include_str!("desk.css");
const SCRIPT: &str = include_str!("desk.js");
/// Where a refusal goes in the page.
const NO_REFUSAL: &str = ">null<";
/// Bound: a browser or two, and tests.
const MAX_CONNECTIONS: usize = 64;
/// Bound: a request's head; a link has at most some kilobytes.
const MAX_HEAD_BYTES: usize = 32 * 1024;
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Bound: a posted form.
const MAX_BODY_BYTES: usize = 64 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
