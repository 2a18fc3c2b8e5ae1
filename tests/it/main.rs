//! One binary for all integration tests: one link instead of twenty.

#![expect(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    reason = "tests may fail loudly, and spawn"
)]

mod publication;
mod support;
