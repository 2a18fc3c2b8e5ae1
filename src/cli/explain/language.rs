//! In which language `explain` speaks. JSON names, metrics' words and commands are the same in both.

use super::capture::Shape;
use super::cause::Cause;
use super::judgement::Reason;
use super::{chinese, english};
use crate::admission::Rejection;
use crate::admission::acceptance::Objection;
use crate::admission::signing_content::Version;

/// The languages that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Language {
    /// English.
    #[value(name = "en")]
    English,
    /// 简体中文.
    #[value(name = "zh", alias = "zh-CN")]
    Chinese,
}

/// The labels of the screen, with what stands between them and their values.
#[derive(Debug)]
pub(super) struct Labels {
    pub(super) signature: &'static str,
    pub(super) announces: &'static str,
    pub(super) event_id: &'static str,
    pub(super) reason: &'static str,
    pub(super) nothing: &'static str,
    pub(super) not_verified: &'static str,
}

impl Language {
    pub(super) fn labels(self) -> &'static Labels {
        match self {
            Self::English => &english::LABELS,
            Self::Chinese => &chinese::LABELS,
        }
    }

    pub(super) fn authentic(self, fingerprint: &str, version: Version) -> String {
        match self {
            Self::English => english::authentic(fingerprint, version),
            Self::Chinese => chinese::authentic(fingerprint, version),
        }
    }

    pub(super) fn heading(self, bytes: usize, hidden: bool) -> String {
        match self {
            Self::English => english::heading(bytes, hidden),
            Self::Chinese => chinese::heading(bytes, hidden),
        }
    }

    pub(super) fn hidden(self, bytes: usize) -> String {
        match self {
            Self::English => english::hidden(bytes),
            Self::Chinese => chinese::hidden(bytes),
        }
    }

    pub(super) fn of_length(self, characters: usize) -> String {
        match self {
            Self::English => english::of_length(characters),
            Self::Chinese => chinese::of_length(characters),
        }
    }

    pub(super) fn left_out(self, more: usize) -> String {
        match self {
            Self::English => english::left_out(more),
            Self::Chinese => chinese::left_out(more),
        }
    }

    pub(super) fn reason(self, reason: Reason) -> String {
        match self {
            Self::English => english::reason(reason),
            Self::Chinese => chinese::reason(reason),
        }
    }

    pub(super) fn shape(self, shape: Shape) -> &'static str {
        match self {
            Self::English => english::shape(shape),
            Self::Chinese => chinese::shape(shape),
        }
    }

    pub(super) fn cause(self, cause: &Cause) -> String {
        match self {
            Self::English => english::cause(cause),
            Self::Chinese => chinese::cause(cause),
        }
    }

    pub(super) fn advice(self, rejection: Rejection) -> &'static str {
        match self {
            Self::English => english::advice(rejection),
            Self::Chinese => chinese::advice(rejection),
        }
    }

    pub(super) fn held(self, objection: Objection) -> &'static str {
        match self {
            Self::English => english::held(objection),
            Self::Chinese => chinese::held(objection),
        }
    }
}
