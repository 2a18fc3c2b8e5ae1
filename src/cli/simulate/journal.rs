//! `--journal`: one JSON line for each delivery, written before the next one begins, so that what Alipay was answered
//! can be compared with what the queue holds, whatever died meanwhile.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::cli::Failure;
use crate::clock::Timestamp;
use crate::signer::notification::Notification;
use crate::simulator::client::Answer;

/// The open file. Nothing is buffered here: a line is one write.
pub(super) struct Journal(Mutex<File>);

/// A delivery and what came of it. Times are milliseconds since 1970.
#[derive(Debug, Serialize)]
struct Line<'a> {
    kind: &'static str,
    trade_no: &'a str,
    out_trade_no: &'a str,
    notify_id: &'a str,
    /// 1 to 8.
    attempt: u32,
    /// The trace context that it carried: the event that it leads to has it too.
    traceparent: &'a str,
    began: i64,
    ended: i64,
    /// `success`, `fail` (anything else that was answered) or `none`.
    answer: &'static str,
    status: Option<u16>,
    error: Option<&'a str>,
}

/// One delivery, as it was made.
pub(super) struct Delivered<'a> {
    pub(super) notification: &'a Notification,
    pub(super) attempt: u32,
    pub(super) traceparent: &'a str,
    pub(super) began: Timestamp,
    pub(super) ended: Timestamp,
    pub(super) answer: &'a Result<Answer, String>,
}

impl Journal {
    pub(super) fn create(path: &Path) -> Result<Self, Failure> {
        let file = File::options().create(true).append(true).open(path);
        file.map(|file| Self(Mutex::new(file)))
            .map_err(|error| Failure::running(format!("--journal {}: {error}", path.display())))
    }

    pub(super) fn note(&self, delivered: &Delivered<'_>) -> std::io::Result<()> {
        let notification = delivered.notification;
        let (answer, status, error) = match delivered.answer {
            Ok(answer) if answer.is_success() => ("success", Some(answer.status.as_u16()), None),
            Ok(answer) => ("fail", Some(answer.status.as_u16()), None),
            Err(error) => ("none", None, Some(error.as_str())),
        };
        let line = Line {
            kind: notification.kind().as_str(),
            trade_no: notification.field("trade_no"),
            out_trade_no: notification.field("out_trade_no"),
            notify_id: notification.field("notify_id"),
            attempt: delivered.attempt,
            traceparent: delivered.traceparent,
            began: delivered.began.unix_millis(),
            ended: delivered.ended.unix_millis(),
            answer,
            status,
            error,
        };
        let mut text = serde_json::to_string(&line)?;
        text.push('\n');
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(text.as_bytes())
    }
}
