//! What the tests share.

pub mod alipay;
pub mod amqp_peer;
pub mod authority;
pub mod broker;
pub mod certificate;
#[cfg(feature = "otlp")]
pub mod collector;
pub mod doors;
pub mod fakes;
pub mod faults;
pub mod judge;
pub mod naive;
pub mod orders;
pub mod program;
pub mod proxy;
pub mod queue;
pub mod rabbit;
pub mod raw_client;
pub mod redis;
pub mod rows;
pub mod signer;
pub mod tls_client;

use std::future::Future;
use std::time::Duration;

/// Waits until `condition` holds, asking it again and again.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let patience = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, patience).await.is_ok(), "never happened: {what}");
}

/// Runs a test that blocks, too: on one thread its consumers would wait for it.
pub fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(test);
}

/// Bound: how long a test waits for anything before it fails.
pub const PATIENCE: Duration = Duration::from_secs(10);
