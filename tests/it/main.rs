//! One binary for all integration tests: one link instead of twenty.

#![expect(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests may fail loudly, and spawn"
)]

mod admin;
mod anything;
mod attacks;
mod backlog;
mod cli;
mod config;
mod end_to_end;
mod engines;
mod explain;
mod fuzzed;
mod limits;
mod metrics;
mod mistakes;
mod operator;
#[path = "../../fuzz/src/properties.rs"]
mod properties;
mod publication;
mod rabbitmq;
mod reload;
mod replays;
mod scripted_broker;
mod scripted_lanes;
mod shutdown;
mod store_conformance;
mod support;
mod vectors;
