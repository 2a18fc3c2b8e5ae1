//! What the tests stand on.

pub(crate) mod doors;
pub(crate) mod raw_client;

use std::future::Future;
use std::time::Duration;

/// Waits until `condition` holds, asking it again and again: never a fixed sleep.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let patience = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, patience).await.is_ok(), "never happened: {what}");
}

/// Bound: how long a test waits for anything before it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
