//! The floor: a plain program with the gateway's crates and none of its work. It reads with hyper, verifies with
//! aws-lc-rs, publishes with lapin, awaits the confirm and answers. No dedup, no store, no limits, no metrics,
//! no classification, no attribution of returns: it would lose money. `benches/run.sh` measures the gateway
//! against it.
//!
//! Usage: floor LISTEN PUBLIC_KEY.der AMQP_URI EXCHANGE

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a yardstick, not a product: it may fall over"
)]

use std::convert::Infallible;
use std::sync::Arc;

use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use tokio::sync::{Mutex, mpsc, oneshot};

type Waiting = (Bytes, oneshot::Sender<bool>);

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [listen, key, uri, exchange] = &arguments[..] else { return };
    let key = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, std::fs::read(key).unwrap()).unwrap();
    let key = Arc::new(key);
    let connection = Connection::connect(uri, ConnectionProperties::default()).await.unwrap();
    let (sender, receiver) = mpsc::channel::<Waiting>(4096);
    let receiver = Arc::new(Mutex::new(receiver));
    for _ in 0..LANES {
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        tokio::spawn(lane(channel, Arc::clone(&receiver), exchange.clone()));
    }
    let listener = tokio::net::TcpListener::bind(listen).await.unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (key, sender) = (Arc::clone(&key), sender.clone());
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, Arc::clone(&key), sender.clone()));
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    request: Request<hyper::body::Incoming>,
    key: Arc<ParsedPublicKey>,
    lanes: mpsc::Sender<Waiting>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let (content, signature) = signed(&body);
    if key.verify_sig(&content, &signature).is_err() {
        return Ok(response(StatusCode::BAD_REQUEST, "fail"));
    }
    let (sender, confirmed) = oneshot::channel();
    lanes.send((body, sender)).await.unwrap();
    Ok(match confirmed.await {
        Ok(true) => response(StatusCode::OK, "success"),
        _ => response(StatusCode::SERVICE_UNAVAILABLE, "fail"),
    })
}

fn response(status: StatusCode, word: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(word.as_bytes())));
    *response.status_mut() = status;
    response
}

async fn lane(channel: Channel, receiver: Arc<Mutex<mpsc::Receiver<Waiting>>>, exchange: String) {
    let mut batch = Vec::with_capacity(MAX_BATCH);
    loop {
        if receiver.lock().await.recv_many(&mut batch, MAX_BATCH).await == 0 {
            return;
        }
        let properties = BasicProperties::default().with_delivery_mode(2);
        let publishes = batch.iter().map(|(body, _)| {
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            channel.basic_publish(
                exchange.as_str().into(),
                "payment.succeeded".into(),
                options,
                body,
                properties.clone(),
            )
        });
        let published = join_all(publishes).await;
        let confirms = join_all(published.into_iter().map(Result::unwrap)).await;
        for ((_, waiting), confirm) in batch.drain(..).zip(confirms) {
            let _ = waiting.send(matches!(confirm, Ok(Confirmation::Ack(None))));
        }
    }
}

/// The signing content (V1) and the signature.
fn signed(body: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut parameters: Vec<(&[u8], Vec<u8>)> = Vec::with_capacity(32);
    let mut signature = Vec::new();
    for piece in body.split(|byte| *byte == b'&') {
        let equals = piece.iter().position(|byte| *byte == b'=').unwrap_or(0);
        let (name, value) = (&piece[..equals], decode(&piece[equals + 1..]));
        match name {
            b"sign" => signature = STANDARD.decode(value).unwrap_or_default(),
            b"sign_type" => {}
            _ => parameters.push((name, value)),
        }
    }
    parameters.sort_unstable();
    let mut content = Vec::with_capacity(1024);
    for (name, value) in parameters {
        if !content.is_empty() {
            content.push(b'&');
        }
        content.extend_from_slice(name);
        content.push(b'=');
        content.extend_from_slice(&value);
    }
    (content, signature)
}

fn decode(encoded: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut at = 0;
    while at < encoded.len() {
        match encoded[at] {
            b'+' => decoded.push(b' '),
            b'%' => {
                let digit = |byte: u8| (byte as char).to_digit(16).unwrap_or(0) as u8;
                decoded.push(digit(encoded[at + 1]) << 4 | digit(encoded[at + 2]));
                at += 2;
            }
            byte => decoded.push(byte),
        }
        at += 1;
    }
    decoded
}

const LANES: usize = 4;
const MAX_BATCH: usize = 64;
