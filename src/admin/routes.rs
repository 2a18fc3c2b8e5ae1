//! What the admin listener answers to what.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};
use serde::Serialize;

use super::keys;
use super::orders::{self, Action};
use super::readiness::{Phase, Readiness};
use super::replay;
use super::respond::{self, Answer};
use super::token::{Permission, permission};
use super::trades;
use crate::gateway::{Gateway, Health};
use crate::http::connection::{HasBody, Progress};
use crate::metrics::Metrics;
use crate::secret::Secret;

/// Everything that an answer is made of.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) token: Option<Secret>,
    pub(super) gateway: Arc<Gateway>,
    pub(super) metrics: Metrics,
    pub(super) readiness: Readiness,
}

/// The places of the admin listener.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Live,
    Ready,
    Metrics,
    Version,
    Keys,
    Trade(String),
    /// `/trades/…/release` or `…/drop`.
    Order(Action, String),
    /// `/trades/…/export`.
    Export(String),
    /// `/replay`.
    Replay,
    /// `/events`.
    Events,
    /// `/trades/` and something that no trade number can be.
    NotATrade,
    Nowhere,
}

/// The body of `/readyz`.
#[derive(Debug, Serialize)]
struct ReadinessReport<'a> {
    status: &'static str,
    parts: BTreeMap<&'a str, String>,
}

impl Desk {
    /// Answers one request. Its body is not read, but where something is replayed.
    pub(super) async fn answer(&self, request: Request<Incoming>, progress: &Progress) -> Answer {
        let has_body = if request.body().is_end_stream() { HasBody::No } else { HasBody::Yes };
        progress.began(has_body);
        let (head, body) = request.into_parts();
        let mut answer = self.decide(&head, body).await;
        progress.answered();
        if has_body == HasBody::Yes {
            respond::last(&mut answer);
        }
        answer
    }

    async fn decide(&self, head: &Parts, body: Incoming) -> Answer {
        let place = Place::of(head.uri.path());
        let method = &head.method;
        if method == Method::POST || method == Method::DELETE {
            return self.change(&place, head, body).await;
        }
        if place == Place::Nowhere {
            return nowhere();
        }
        if method != Method::GET && method != Method::HEAD {
            return respond::only_get();
        }
        match place {
            Place::Live => live(self.readiness.stands_still()),
            Place::Ready => self.ready(head.uri.query()),
            Place::Metrics => respond::metrics(self.metrics.render()),
            Place::Version => respond::json(
                StatusCode::OK,
                &BTreeMap::from([("name", env!("CARGO_PKG_NAME")), ("version", env!("CARGO_PKG_VERSION"))]),
            ),
            Place::Keys => keys::answer(&self.gateway),
            Place::Trade(trade_no) => trades::answer(&self.gateway, &trade_no).await,
            Place::NotATrade => respond::text(StatusCode::BAD_REQUEST, "not a trade number\n"),
            Place::Export(trade_no) => match self.refusal(head) {
                Some(refusal) => refusal,
                None => trades::export(&self.gateway, &trade_no).await,
            },
            Place::Events => match self.refusal(head) {
                Some(refusal) => refusal,
                None => respond::json(StatusCode::OK, &self.gateway.seen(after(head.uri.query()))),
            },
            Place::Order(..) | Place::Replay => respond::only_post(),
            Place::Nowhere => nowhere(),
        }
    }

    /// What it is told who does not bring the token.
    fn refusal(&self, head: &Parts) -> Option<Answer> {
        match permission(self.token.as_ref(), &head.headers) {
            Permission::Granted => None,
            Permission::Unauthorized => Some(respond::unauthorized()),
            Permission::Forbidden => Some(respond::text(
                StatusCode::FORBIDDEN,
                "this call is refused: no admin token is configured\n",
            )),
        }
    }

    /// Calls that change something. Whether there is such a call is told only to who may make it.
    async fn change(&self, place: &Place, head: &Parts, body: Incoming) -> Answer {
        if let Some(refusal) = self.refusal(head) {
            return refusal;
        }
        match place {
            Place::Order(action, subject) if head.method == Method::POST => {
                orders::carry_out(&self.gateway, *action, subject, head.uri.query()).await
            }
            Place::Replay if head.method == Method::POST => {
                replay::carry_out(&self.gateway, head.uri.query(), body).await
            }
            Place::Live
            | Place::Ready
            | Place::Metrics
            | Place::Version
            | Place::Keys
            | Place::Trade(_)
            | Place::Order(..)
            | Place::Export(_)
            | Place::Replay
            | Place::Events
            | Place::NotATrade
            | Place::Nowhere => nowhere(),
        }
    }

    fn ready(&self, query: Option<&str>) -> Answer {
        let health = self.gateway.health();
        let (status_code, status) = match self.readiness.phase() {
            Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
            Phase::Ready if health.degraded.is_empty() => (StatusCode::OK, "ready"),
            Phase::Ready => (StatusCode::OK, "degraded"),
            Phase::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        };
        respond::json(status_code, &ReadinessReport { status, parts: parts(&health, shows(query)) })
    }
}

/// Which parts `/readyz` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shows {
    /// Those that are away.
    Faults,
    /// All: `?verbose`.
    All,
}

fn shows(query: Option<&str>) -> Shows {
    let pairs: Vec<(String, String)> =
        query.and_then(|query| serde_urlencoded::from_str(query).ok()).unwrap_or_default();
    if pairs.iter().any(|(name, _)| name == "verbose") { Shows::All } else { Shows::Faults }
}

/// `?after=N`: what is shown of the events begins behind that number.
fn after(query: Option<&str>) -> Option<u64> {
    let pairs: Vec<(String, String)> =
        query.and_then(|query| serde_urlencoded::from_str(query).ok()).unwrap_or_default();
    pairs.into_iter().find(|(name, _)| name == "after").and_then(|(_, number)| number.parse().ok())
}

/// A part with several faults names them all.
fn parts(health: &Health, shows: Shows) -> BTreeMap<&str, String> {
    let mut parts = BTreeMap::<&str, String>::new();
    for (part, reason) in &health.degraded {
        let reasons = parts.entry(part).or_default();
        if !reasons.is_empty() {
            reasons.push_str("; ");
        }
        reasons.push_str(reason);
    }
    if shows == Shows::All {
        for part in PARTS {
            parts.entry(part).or_insert_with(|| "ok".to_owned());
        }
    }
    parts
}

fn nowhere() -> Answer {
    respond::text(StatusCode::NOT_FOUND, "not found\n")
}

impl Place {
    fn of(path: &str) -> Self {
        match path {
            "/livez" | "/healthz" => Self::Live,
            "/readyz" => Self::Ready,
            "/metrics" => Self::Metrics,
            "/version" => Self::Version,
            "/keys" => Self::Keys,
            "/replay" => Self::Replay,
            "/events" => Self::Events,
            _ => match path.strip_prefix("/trades/").map(|rest| rest.split_once('/').unwrap_or((rest, ""))) {
                Some((segment, "")) if !path.ends_with('/') || segment.is_empty() => {
                    trade_no(segment).map_or(Self::NotATrade, Self::Trade)
                }
                Some((segment, "export")) => trade_no(segment).map_or(Self::NotATrade, Self::Export),
                Some((segment, action)) => Action::from_name(action).map_or(Self::Nowhere, |action| {
                    trade_no(segment).map_or(Self::NotATrade, |subject| Self::Order(action, subject))
                }),
                None => Self::Nowhere,
            },
        }
    }
}

/// A trade number, or the `notify_id` that stands for one where there is no trade: printable ASCII, as Alipay
/// writes both.
fn trade_no(segment: &str) -> Option<String> {
    percent_decoded(segment).filter(|decoded| is_trade_no(decoded))
}

/// The command line refuses before it asks what would be refused here.
pub(crate) fn is_trade_no(text: &str) -> bool {
    (1..=MAX_TRADE_NO_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A `+` is a plus: this is a path, not a form.
fn percent_decoded(segment: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut hex = || char::from(bytes.next()?).to_digit(16);
        let (high, low) = (hex()?, hex()?);
        decoded.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(decoded).ok()
}

/// The parts that can be away, by the names that [`Health`] uses.
const PARTS: [&str; 2] = ["broker", "store"];
/// Bound: how long a look-up may take.
pub(super) const STORE_DEADLINE: Duration = Duration::from_secs(5);
/// Bound: Alipay's documents give `trade_no` 64 characters and `notify_id` 128.
const MAX_TRADE_NO_BYTES: usize = 128;

fn live(stands_still: bool) -> Answer {
    if stands_still {
        respond::text(StatusCode::SERVICE_UNAVAILABLE, "who serves stands still\n")
    } else {
        respond::text(StatusCode::OK, "alive\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_who_serves_stands_still_nobody_is_told_that_it_is_alive() {
        assert_eq!([true, false].map(|stands_still| live(stands_still).status().as_u16()), [503, 200]);
    }

    #[test]
    fn a_trade_number_is_decoded_once() {
        assert_eq!(Place::of("/trades/2026112322001427340000000000"), trade("2026112322001427340000000000"));
        assert_eq!(Place::of("/trades/a%2Fb+%253D"), trade("a/b+%3D"));
    }

    #[test]
    fn what_no_trade_number_can_be_is_refused() {
        let long = format!("/trades/{}", "1".repeat(129));
        for path in
            ["/trades/", "/trades/%", "/trades/%0", "/trades/%zz", "/trades/%+1", "/trades/a%20b", &long]
        {
            assert_eq!(Place::of(path), Place::NotATrade, "{path}");
        }
        for path in ["/trades/%00", "/trades/a%0d%0ab", "/trades/%ff", "/trades/%E6%94%AF", "/trades/é"] {
            assert_eq!(Place::of(path), Place::NotATrade, "{path}");
        }
    }

    #[test]
    fn near_misses_lead_nowhere() {
        for path in ["", "/", "/livez/", "/Livez", "//livez", "/trades", "/trades/1/2", "/metrics%20"] {
            assert_eq!(Place::of(path), Place::Nowhere, "{path}");
        }
    }

    #[test]
    fn a_part_with_two_faults_names_both_and_verbose_names_all_parts() {
        let degraded = vec![("store", "unchecked".to_owned()), ("store", "a damaged file".to_owned())];
        let health = Health { degraded };
        let faults = parts(&health, shows(Some("verbos=1")));
        assert_eq!(faults, BTreeMap::from([("store", "unchecked; a damaged file".to_owned())]));
        let all = parts(&health, shows(Some("a=b&verbose")));
        assert_eq!(all.get("broker").map(String::as_str), Some("ok"));
        assert_eq!(all.len(), 2);
    }

    fn trade(trade_no: &str) -> Place {
        Place::Trade(trade_no.to_owned())
    }
}
