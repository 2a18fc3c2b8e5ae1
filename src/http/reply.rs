//! What is said to the peer. This is the one place where the word `success` is written, and it cannot be
//! written without an [`Announced`] (invariant 1).
//!
//! Alipay reads seven bytes, `success`, as the end of a notification, and anything else as a wish to hear it
//! again. So every other answer is `fail`, which tells nobody anything: why is in the metrics and the log.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};

use crate::failpoint::{self, Point};
use crate::gateway::Reply;
use crate::metrics::{ConnectionRefusal, Outcome};
use crate::publication::Announced;

/// An answer of known length.
pub(super) type Answer = Response<Full<Bytes>>;

/// A request that never reaches the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Another path.
    NotFound,
    /// Another method.
    MethodNotAllowed,
    /// Says of itself that it is no form.
    NotAForm,
    /// The body is longer than `http.max_body`.
    TooLarge,
    /// The body took longer than `http.body_timeout`.
    TooSlow,
    /// The body ended too early.
    CutShort,
    /// All bodies together hold `http.max_bodies`.
    NoRoom,
}

impl Refusal {
    /// How the metrics count it.
    pub(super) const fn outcome(self) -> Outcome {
        match self {
            Self::NotFound | Self::MethodNotAllowed => Outcome::Other,
            Self::NotAForm => Outcome::Rejected,
            Self::TooLarge | Self::TooSlow | Self::CutShort => Outcome::Failed,
            Self::NoRoom => Outcome::Busy,
        }
    }

    /// The limit that it met, which ends its connection.
    pub(super) const fn limit(self) -> Option<ConnectionRefusal> {
        match self {
            Self::TooLarge => Some(ConnectionRefusal::LargeBody),
            Self::TooSlow => Some(ConnectionRefusal::SlowBody),
            Self::NoRoom => Some(ConnectionRefusal::Bodies),
            Self::NotFound | Self::MethodNotAllowed | Self::NotAForm | Self::CutShort => None,
        }
    }

    const fn status(self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotAForm | Self::CutShort => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::NoRoom => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// The gateway's reply, in HTTP.
pub(super) fn of(reply: &Reply) -> Answer {
    match reply {
        Reply::Success(announced) => success(announced),
        Reply::Rejected => fail(StatusCode::BAD_REQUEST),
        Reply::Unavailable => fail(StatusCode::SERVICE_UNAVAILABLE),
        // Whoever sends one behind the other would have each of them read and answered, for nothing.
        Reply::Crowded => last(fail(StatusCode::SERVICE_UNAVAILABLE)),
    }
}

/// The answer to what the gateway never saw.
pub(super) fn refuse(refusal: Refusal) -> Answer {
    let mut answer = fail(refusal.status());
    if refusal == Refusal::MethodNotAllowed {
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    }
    answer
}

/// Says that this is the last answer on its connection.
pub(super) fn last(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

fn success(_proof: &Announced) -> Answer {
    failpoint::reached(Point::Answering);
    text(StatusCode::OK, "success")
}

fn fail(status: StatusCode) -> Answer {
    text(status, "fail")
}

fn text(status: StatusCode, word: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from_static(word.as_bytes())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    answer
}
