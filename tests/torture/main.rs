//! Real crashes: the real program under `kill -9`, with a real broker, `simulate` as Alipay on an accelerated schedule,
//! and a checker that compares what Alipay was answered with what the queue holds. Short here; `tests/torture.sh` runs
//! it at length.

#![expect(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "tests may fail loudly, spawn, and tell what they found"
)]

mod alipay;
mod broker_faults;
mod checker;
mod consumer;
mod gateway;
mod ground;
mod kills;
mod moment;
mod named_points;
mod outage;
mod proxy;
