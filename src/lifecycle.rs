//! Tasks that shutdown can wait for, and the word that shutdown has begun.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shutdown {
    /// `shutdown.delay`: how long to go on accepting after becoming unready, so that load balancers notice.
    pub delay: Duration,
    /// `shutdown.grace`: how long what is in flight may take after that.
    pub grace: Duration,
}

/// The only way to spawn. What is spawned here is waited for when the gateway stops.
#[derive(Debug, Clone, Default)]
pub struct Tasks(TaskTracker);

impl Tasks {
    /// Runs `future` in a task of its own on the current runtime.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(future);
    }

    /// Resolves when no more will be spawned and everything has ended. There is no deadline here: the caller
    /// has the grace period.
    pub async fn ended(&self) {
        self.0.close();
        self.0.wait().await;
    }
}

/// Says once, to everyone, that the gateway is stopping.
#[derive(Debug, Clone, Default)]
pub struct Stopping(CancellationToken);

impl Stopping {
    /// Begins to stop. Saying it again changes nothing.
    pub fn begin(&self) {
        self.0.cancel();
    }

    /// Has it begun?
    pub fn has_begun(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Resolves when it has begun.
    pub async fn begun(&self) {
        self.0.cancelled().await;
    }
}
