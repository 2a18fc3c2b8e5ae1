//! A gateway between Alipay's asynchronous notifications and a merchant's services: it verifies a
//! notification, announces what it means in RabbitMQ, and says `success` only when the broker has confirmed.
//!
//! In reading order: [`event`] is what is announced; [`admission`] decides from bytes alone what a
//! notification is; [`publication`] makes it safe, through a [`broker`] and a [`store`]; [`gateway`] is the
//! one place with the whole order; [`http`] and [`admin`] are its doors; [`config`], [`app`] and [`cli`] put
//! it together. ARCHITECTURE.md has the map and the invariants.

// The tests' signer and judge (`tests/it/support`) are compiled into the unit tests too, and name this crate from outside.
#[cfg(test)]
extern crate self as alipay_notify_gateway;

pub mod admin;
pub mod admission;
pub mod app;
pub mod broker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod event;
pub mod failpoint;
pub mod gateway;
pub mod http;
pub mod json;
pub mod lifecycle;
pub mod metrics;
pub mod publication;
pub mod secret;
pub mod signer;
pub(crate) mod simulator;
pub mod store;
pub mod telemetry;
