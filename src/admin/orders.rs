//! `POST /trades/{subject}/release` and `…/drop`: what an operator decides about what waits. `reason` and `who` are
//! query parameters, and `id` where more than one thing waits under the subject.

use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use super::respond::{self, Answer};
use super::routes::STORE_DEADLINE;
use crate::event::Key;
use crate::gateway::{Done, Gateway, Order};
use crate::store::State;

/// What can be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Announce a held notification.
    Release,
    /// Never announce what waits.
    Drop,
}

impl Action {
    pub(super) fn from_name(name: &str) -> Option<Self> {
        match name {
            "release" => Some(Self::Release),
            "drop" => Some(Self::Drop),
            _ => None,
        }
    }
}

#[derive(Debug, Deserialize)]
struct Query {
    reason: String,
    who: String,
    id: Option<String>,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Told<'a> {
    outcome: &'static str,
    id: &'a str,
    detail: String,
}

/// Does it, and says what came of it: 200 done, 404 nothing waits, 409 it cannot be done, 503 not now.
pub(super) async fn carry_out(
    gateway: &Gateway,
    action: Action,
    subject: &str,
    query: Option<&str>,
) -> Answer {
    let query = query.and_then(|query| serde_urlencoded::from_str::<Query>(query).ok());
    let Some(query) = query.filter(|query| is_plain(&query.reason) && is_plain(&query.who)) else {
        return respond::text(
            StatusCode::BAD_REQUEST,
            "say why and who: ?reason=…&who=…, up to 200 characters each, and id=… where more than one thing waits\n",
        );
    };
    let id = match query.id {
        Some(id) => id,
        None => match only_one(gateway, subject).await {
            Ok(id) => id,
            Err(answer) => return answer,
        },
    };
    let key = Key { subject: subject.to_owned(), id: id.clone() };
    let order = Order { key, reason: query.reason, who: query.who };
    let done = match action {
        Action::Release => gateway.release(order).await,
        Action::Drop => gateway.drop_waiting(order).await,
    };
    let (status, outcome, detail) = match done {
        Ok(Done::Announced(event_id)) => (StatusCode::OK, "announced", event_id),
        Ok(Done::Dropped) => (StatusCode::OK, "dropped", String::new()),
        Ok(Done::NothingWaits) => (StatusCode::NOT_FOUND, "nothing_waits", String::new()),
        Ok(Done::Impossible(why)) => (StatusCode::CONFLICT, "impossible", why),
        Ok(Done::NotNow(why)) => (StatusCode::SERVICE_UNAVAILABLE, "not_now", why),
        Err(error) => {
            tracing::warn!(%error, "an operator's order could not be carried out");
            (StatusCode::SERVICE_UNAVAILABLE, "not_now", "the store is away".to_owned())
        }
    };
    respond::json(status, &Told { outcome, id: &id, detail })
}

/// Whether it can be a reason, or a name. The command line refuses before it asks what would be refused here.
pub(crate) fn is_plain(text: &str) -> bool {
    let length = text.trim().chars().count();
    (1..=MAX_CHARACTERS).contains(&length) && !text.chars().any(char::is_control)
}

/// The id of the one thing that waits under a subject.
async fn only_one(gateway: &Gateway, subject: &str) -> Result<String, Answer> {
    let Ok(Ok(rows)) = tokio::time::timeout(STORE_DEADLINE, gateway.trade(subject)).await else {
        return Err(respond::text(StatusCode::SERVICE_UNAVAILABLE, "the store is away\n"));
    };
    let waits = |state| matches!(state, State::Deferred | State::InDoubt | State::Held);
    let mut waiting = rows.into_iter().filter(|row| waits(row.state)).map(|row| row.key.id);
    match (waiting.next(), waiting.next()) {
        (Some(id), None) => Ok(id),
        (Some(_), Some(_)) => Err(respond::text(
            StatusCode::CONFLICT,
            "more than one thing waits under this number: name one of them with id=…\n",
        )),
        (None, _) => {
            let told = Told { outcome: "nothing_waits", id: "", detail: String::new() };
            Err(respond::json(StatusCode::NOT_FOUND, &told))
        }
    }
}

/// Bound: of a reason, and of a name.
const MAX_CHARACTERS: usize = 200;
