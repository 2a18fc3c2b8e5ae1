//! `POST /replay`: an operator feeds a captured body through the gateway again. It is the one call here that has a body,
//! which is read only from who brought the token. `reason` and `who` are query parameters.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::StatusCode;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};

use super::orders;
use super::respond::{self, Answer};
use crate::gateway::{Gateway, Replayed};

#[derive(Debug, Deserialize)]
struct Query {
    reason: String,
    who: String,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Told {
    outcome: &'static str,
    event_id: Option<String>,
    detail: String,
}

/// Does it, and says what came of it: 200 announced now or before, 409 held or not authentic, 503 kept until the broker takes
/// it, or not now.
pub(super) async fn carry_out(gateway: &Gateway, query: Option<&str>, body: Incoming) -> Answer {
    let query = query.and_then(|query| serde_urlencoded::from_str::<Query>(query).ok());
    let Some(query) = query.filter(|query| orders::is_plain(&query.reason) && orders::is_plain(&query.who))
    else {
        return respond::text(
            StatusCode::BAD_REQUEST,
            "say why and who: ?reason=…&who=…, up to 200 characters each; the captured body is the request's body\n",
        );
    };
    let read = tokio::time::timeout(BODY_DEADLINE, Limited::new(body, MAX_BODY).collect()).await;
    let body: Bytes = match read {
        Ok(Ok(whole)) => whole.to_bytes(),
        Ok(Err(_)) => {
            return respond::text(StatusCode::PAYLOAD_TOO_LARGE, "cut short, or larger than 1 MiB\n");
        }
        Err(_) => return respond::text(StatusCode::REQUEST_TIMEOUT, "the body did not come in time\n"),
    };
    let (status, outcome, event_id, detail) = match gateway.replay(body, query.who, query.reason).await {
        Replayed::Announced(id) => (StatusCode::OK, "announced", Some(id), String::new()),
        Replayed::Known(id) => (StatusCode::OK, "known", Some(id), "nothing was published".to_owned()),
        Replayed::Held(why) => (StatusCode::CONFLICT, "held", None, why),
        Replayed::Rejected(why) => (StatusCode::CONFLICT, "rejected", None, why),
        Replayed::Kept(why) => (StatusCode::SERVICE_UNAVAILABLE, "kept", None, format!("{why}. {KEPT}")),
        Replayed::NotNow(why) => (StatusCode::SERVICE_UNAVAILABLE, "not_now", None, why),
    };
    respond::json(status, &Told { outcome, event_id, detail })
}

const KEPT: &str =
    "The gateway keeps it and announces it by itself; nothing is to be done (see it with: trade TRADE_NO)";
/// Bound: a captured body. Alipay's have some 1,000 bytes.
const MAX_BODY: usize = 1 << 20;
/// Bound: for it to come.
const BODY_DEADLINE: Duration = Duration::from_secs(10);
