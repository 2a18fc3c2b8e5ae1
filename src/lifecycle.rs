//! Tasks that shutdown can wait for, and the word that shutdown has begun.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
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

    /// A future that goes on in a task of its own if it is dropped before its end: a client that hangs up
    /// stops nothing. As long as it is awaited it costs no task.
    pub fn finish<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> Finish<T> {
        Finish { future: Some(Box::pin(future)), tasks: self.clone() }
    }

    /// Resolves when no more will be spawned and everything has ended. There is no deadline here: the caller
    /// has the grace period.
    pub async fn ended(&self) {
        self.0.close();
        self.0.wait().await;
    }
}

/// See [`Tasks::finish`].
pub struct Finish<T: Send + 'static> {
    future: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    tasks: Tasks,
}

impl<T: Send + 'static> Future for Finish<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        // Polled after its end it stays pending, as a fused future does.
        let Some(future) = self.future.as_mut() else { return Poll::Pending };
        let outcome = std::task::ready!(future.as_mut().poll(context));
        self.future = None;
        Poll::Ready(outcome)
    }
}

impl<T: Send + 'static> Drop for Finish<T> {
    fn drop(&mut self) {
        if let Some(future) = self.future.take() {
            self.tasks.spawn(async move {
                let _ = future.await;
            });
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::sync::{Notify, oneshot};

    #[tokio::test]
    async fn what_is_dropped_before_its_end_goes_on_in_a_task() {
        let tasks = Tasks::default();
        let go_on = Arc::new(Notify::new());
        let (done, is_done) = oneshot::channel();
        let waiting = Arc::clone(&go_on);
        let mut finish = tasks.finish(async move {
            waiting.notified().await;
            done.send(()).ok();
        });
        assert!(futures_util::poll!(&mut finish).is_pending());
        drop(finish);
        go_on.notify_one();
        is_done.await.unwrap();
        tasks.ended().await;
    }
}
