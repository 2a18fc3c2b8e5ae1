//! Tasks that shutdown can wait for, the word that shutdown has begun, and what a supervisor is told of both.

mod supervisor;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use supervisor::Supervisor;

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

    /// As [`spawn`](Self::spawn), for a task without which others would wait for ever: if it panics the process ends, at
    /// once and without a word to anybody. That is safe at any point (docs/reliability.md, "Crash points"); a gateway
    /// that goes on without the task that was to answer is not.
    pub fn spawn_vital(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.spawn(async move {
            if AssertUnwindSafe(future).catch_unwind().await.is_err() {
                std::process::abort();
            }
        });
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

/// As [`Tasks::spawn_vital`], for what runs in a thread of its own.
pub fn vital(work: impl FnOnce()) {
    if std::panic::catch_unwind(AssertUnwindSafe(work)).is_err() {
        std::process::abort();
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
            self.tasks.spawn(ABANDONED.scope((), async move {
                let _ = future.await;
            }));
        }
    }
}

tokio::task_local! {
    static ABANDONED: ();
}

/// Whether what runs here goes on though nobody waits for it any more; see [`Tasks::finish`].
pub fn is_abandoned() -> bool {
    ABANDONED.try_with(|()| ()).is_ok()
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

    /// Run by the test below in a process of its own.
    #[tokio::test]
    async fn a_vital_task_that_panics() {
        if std::env::args().all(|argument| argument != IN_A_PROCESS_OF_ITS_OWN) {
            return;
        }
        Tasks::default().spawn_vital(async { panic!("on purpose") });
        // Bound: where the process is not ended, the test below is to fail, not to wait for ever.
        tokio::time::sleep(Duration::from_secs(20)).await;
    }

    #[test]
    fn a_panic_in_a_vital_task_ends_the_process() {
        use std::os::unix::process::ExitStatusExt as _;

        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "lifecycle::tests::a_vital_task_that_panics", IN_A_PROCESS_OF_ITS_OWN])
            .output()
            .unwrap();
        assert_eq!(child.status.signal(), Some(6), "{child:?}");
    }

    /// A second filter for the test runner, which matches no test.
    const IN_A_PROCESS_OF_ITS_OWN: &str = "in-a-process-of-its-own";

    #[tokio::test]
    async fn what_is_dropped_before_its_end_goes_on_in_a_task() {
        let tasks = Tasks::default();
        let go_on = Arc::new(Notify::new());
        let (done, is_done) = oneshot::channel();
        let waiting = Arc::clone(&go_on);
        let mut finish = tasks.finish(async move {
            let before = is_abandoned();
            waiting.notified().await;
            done.send((before, is_abandoned())).ok();
        });
        assert!(futures_util::poll!(&mut finish).is_pending());
        drop(finish);
        go_on.notify_one();
        assert_eq!(is_done.await.unwrap(), (false, true));
        tasks.ended().await;
    }
}
