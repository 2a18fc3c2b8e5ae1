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

// Where `attribution` looks for it.
use alipay_notify_gateway::broker;

mod admin;
mod anything;
mod attacks;
#[path = "../../src/publication/attribution.rs"]
mod attribution;
mod backlog;
mod breaker;
mod broker_faults;
mod cli;
mod config;
mod consumer_check;
mod consumers;
mod contract;
mod desk;
mod end_to_end;
mod engines;
mod explain;
mod forgeries;
mod fuzzed;
mod hygiene;
mod limits;
mod manuals;
mod merchant;
mod metrics;
mod mistakes;
mod operator;
#[path = "../../fuzz/src/properties.rs"]
mod properties;
mod proxied;
mod public_door;
mod publication;
mod rabbitmq;
mod reconcile;
mod reload;
mod replays;
mod replicas;
mod scenarios;
mod scripted_broker;
mod scripted_lanes;
mod scripted_orders;
mod shared_backlog;
mod shared_store;
mod shutdown;
mod simulate;
mod store_conformance;
mod store_faults;
mod store_file;
mod support;
mod tls_door;
#[cfg(feature = "otlp")]
mod traces;
mod vectors;
