//! `GET /trades/{trade_no}`: everything that is kept for a trade, as JSON; `…/export`, with the token: with the content of
//! what waits, which holds what `event.buyer` leaves of the buyer, and of a held notification everything.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use serde::Serialize;

use super::respond::{self, Answer};
use crate::event::Message;
use crate::gateway::Gateway;
use crate::store::{Row, State, StoreError, Waiting};

/// What is kept for a trade: nothing is an answer too.
#[derive(Debug, Serialize)]
struct Trade<'a> {
    trade_no: &'a str,
    rows: Vec<Line<'a>>,
}

/// One row, in the words of the contract.
#[derive(Debug, Serialize)]
struct Line<'a> {
    event_id: &'a str,
    event_type: Option<&'a str>,
    state: &'static str,
    digest: Option<String>,
    notify_id: &'a str,
    reason: Option<&'a str>,
    first_at: String,
    at: String,
    attempts: u32,
    /// Of an event that waits, in an export.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message>,
    /// Of a held notification, as it was received, in an export.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

/// Asks the gateway, no longer than [`super::routes::STORE_DEADLINE`].
pub(super) async fn answer(gateway: &Gateway, trade_no: &str) -> Answer {
    in_time(async {
        let rows = gateway.trade(trade_no).await?;
        Ok(respond::json(StatusCode::OK, &Trade { trade_no, rows: rows.iter().map(Line::of).collect() }))
    })
    .await
}

/// The same with the content of what waits. It is logged that it was asked for.
pub(super) async fn export(gateway: &Gateway, trade_no: &str) -> Answer {
    tracing::warn!(target: "audit", action = "export", subject = trade_no, "what is kept of a trade was exported");
    in_time(async {
        let rows = gateway.trade(trade_no).await?;
        let mut lines = Vec::with_capacity(rows.len());
        for row in &rows {
            let mut line = Line::of(row);
            if matches!(row.state, State::Deferred | State::InDoubt | State::Held)
                && let Some(waiting) = gateway.waiting(row.key.clone()).await?
            {
                line.fill(&waiting);
            }
            lines.push(line);
        }
        Ok(respond::json(StatusCode::OK, &Trade { trade_no, rows: lines }))
    })
    .await
}

async fn in_time(asked: impl Future<Output = Result<Answer, StoreError>>) -> Answer {
    match tokio::time::timeout(super::routes::STORE_DEADLINE, asked).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            tracing::warn!(%error, "a trade could not be looked up");
            respond::text(StatusCode::SERVICE_UNAVAILABLE, "the store is away\n")
        }
        Err(_) => respond::text(StatusCode::SERVICE_UNAVAILABLE, "the store did not answer in time\n"),
    }
}

impl<'a> Line<'a> {
    fn of(row: &'a Row) -> Self {
        Self {
            event_id: &row.key.id,
            event_type: row.event_type.as_deref(),
            state: row.state.as_str(),
            digest: row.digest.map(|digest| digest.to_string()),
            notify_id: &row.notify_id,
            reason: row.reason.as_deref(),
            first_at: row.first_at.rfc3339_utc(),
            at: row.at.rfc3339_utc(),
            attempts: row.attempts,
            message: None,
            body_base64: None,
        }
    }

    fn fill(&mut self, waiting: &Waiting) {
        match serde_json::from_slice(&waiting.content) {
            Ok(message) if waiting.state != State::Held => self.message = Some(message),
            Ok(_) | Err(_) => self.body_base64 = Some(STANDARD.encode(&waiting.content)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::event::{Digest, Key};
    use crate::store::State;

    #[test]
    fn a_row_is_shown_in_the_words_of_the_contract() {
        let row = Row {
            key: Key { subject: "T".to_owned(), id: "A.T.payment.succeeded".to_owned() },
            state: State::InDoubt,
            event_type: Some("payment.succeeded".to_owned()),
            digest: Some(Digest::from_bytes([0xab; 32])),
            notify_id: "n".to_owned(),
            reason: Some("in_doubt".to_owned()),
            first_at: Timestamp::from_unix_millis(0),
            at: Timestamp::from_unix_millis(1500),
            attempts: 2,
        };
        let shown = serde_json::to_value(Trade { trade_no: "T", rows: vec![Line::of(&row)] }).unwrap();
        let expected = serde_json::json!({ "trade_no": "T", "rows": [{
            "event_id": "A.T.payment.succeeded", "event_type": "payment.succeeded", "state": "in_doubt",
            "digest": "ab".repeat(32), "notify_id": "n", "reason": "in_doubt",
            "first_at": "1970-01-01T00:00:00Z", "at": "1970-01-01T00:00:01.500Z", "attempts": 2,
        }] });
        assert_eq!(shown, expected);
    }
}
