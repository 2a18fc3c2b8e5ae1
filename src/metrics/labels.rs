//! The closed lists of label values. Every value has its series from the start, so that one that never happened is 0 and not
//! absent.

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An event was confirmed for this request (a conflict apart).
    Announced,
    /// It had been recorded, was dropped, or another request of the same facts was answered for it.
    Duplicate,
    /// A `payment.conflict` was confirmed for this request.
    Conflict,
    /// 503, and the event is kept.
    Deferred,
    /// 400, authentic, and kept.
    Held,
    /// 400, not kept.
    Rejected,
    /// 503 without deferral.
    Busy,
    /// 408, 413 or a body cut short.
    Failed,
    /// 404 or 405.
    Other,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 9] = [
        Self::Announced,
        Self::Duplicate,
        Self::Conflict,
        Self::Deferred,
        Self::Held,
        Self::Rejected,
        Self::Busy,
        Self::Failed,
        Self::Other,
    ];

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Announced => "announced",
            Self::Duplicate => "duplicate",
            Self::Conflict => "conflict",
            Self::Deferred => "deferred",
            Self::Held => "held",
            Self::Rejected => "rejected",
            Self::Busy => "busy",
            Self::Failed => "failed",
            Self::Other => "other",
        }
    }
}

/// What the broker made of a publish, as `events_total{result}` counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishResult {
    /// Confirmed.
    Confirmed,
    /// Returned as unroutable, of a type that somebody should want.
    Returned,
    /// Refused.
    Nacked,
    /// No confirm in time.
    InDoubt,
    /// Returned as unroutable, of a type that the operator ignores.
    Unrouted,
    /// Confirmed, and published without asking the store (counted beside `confirmed`).
    Unchecked,
}

impl PublishResult {
    /// Every result.
    pub const ALL: [Self; 6] =
        [Self::Confirmed, Self::Returned, Self::Nacked, Self::InDoubt, Self::Unrouted, Self::Unchecked];

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Returned => "returned",
            Self::Nacked => "nacked",
            Self::InDoubt => "in_doubt",
            Self::Unrouted => "unrouted",
            Self::Unchecked => "unchecked",
        }
    }
}

/// A stage of a notification, as `stage_duration_seconds{stage}` times it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// From the bytes to `Admitted`.
    Admission,
    /// Asking the store.
    Claim,
    /// From the first publish of the batch to the event's confirm.
    Publish,
    /// From the confirm to the record.
    Record,
}

impl Stage {
    /// Every stage.
    pub const ALL: [Self; 4] = [Self::Admission, Self::Claim, Self::Publish, Self::Record];

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admission => "admission",
            Self::Claim => "claim",
            Self::Publish => "publish",
            Self::Record => "record",
        }
    }
}

/// Why a connection was refused or ended by the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionRefusal {
    /// `http.max_connections` are open.
    Full,
    /// The address has `http.max_connections_per_address` open.
    FullForAddress,
    /// A trusted proxy's connection that does not begin with the header of the PROXY protocol.
    ProxyHeader,
    /// No TLS, or not in time.
    Handshake,
    /// The head did not come in time.
    SlowHead,
    /// hyper refused the head: too large, or not HTTP/1.
    BadHead,
    /// A body is longer than `http.max_body`.
    LargeBody,
    /// A body did not come within `http.body_timeout`.
    SlowBody,
    /// All bodies together hold `http.max_bodies`, and this one gave way.
    Bodies,
    /// The peer did not read its answers.
    SlowReader,
    /// `accept` failed (out of file descriptors, most likely).
    Accept,
}

impl ConnectionRefusal {
    /// Every reason.
    pub const ALL: [Self; 11] = [
        Self::Full,
        Self::FullForAddress,
        Self::ProxyHeader,
        Self::Handshake,
        Self::SlowHead,
        Self::BadHead,
        Self::LargeBody,
        Self::SlowBody,
        Self::Bodies,
        Self::SlowReader,
        Self::Accept,
    ];

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::FullForAddress => "full_for_address",
            Self::ProxyHeader => "proxy_header",
            Self::Handshake => "handshake",
            Self::SlowHead => "slow_head",
            Self::BadHead => "bad_head",
            Self::LargeBody => "large_body",
            Self::SlowBody => "slow_body",
            Self::Bodies => "bodies",
            Self::SlowReader => "slow_reader",
            Self::Accept => "accept",
        }
    }
}

/// What became of a span, as `trace_spans_total{result}` counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanFate {
    /// The collector took it.
    Exported,
    /// The collector was away, too slow, or refused it.
    Failed,
    /// There was no room for it.
    Dropped,
}

impl SpanFate {
    /// Every fate.
    pub const ALL: [Self; 3] = [Self::Exported, Self::Failed, Self::Dropped];

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exported => "exported",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// What a connection has used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retirement {
    /// `http.max_requests_per_connection`.
    Requests,
    /// `http.max_connection_age`.
    Age,
    /// The door is nearly full, and it was silent for longest.
    Room,
}

impl Retirement {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::Requests, Self::Age, Self::Room];

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Age => "age",
            Self::Room => "room",
        }
    }
}

/// What became of verifying at low priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LowPriorityResult {
    /// It is authentic.
    Verified,
    /// It is not.
    Rejected,
    /// Too many waited.
    NoRoom,
    /// It was not reached before its answer deadline.
    Late,
}

impl LowPriorityResult {
    /// Every result.
    pub const ALL: [Self; 4] = [Self::Verified, Self::Rejected, Self::NoRoom, Self::Late];

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Rejected => "rejected",
            Self::NoRoom => "no_room",
            Self::Late => "late",
        }
    }
}
