//! The integration tests, in one binary: linking is what they cost most.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected ends there"
)]

mod support;

mod admin;
mod limits;
mod metrics;
