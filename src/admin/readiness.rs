//! Where the gateway is in its life. Ready means listening, configured and not stopping. A broker or a store
//! that is away makes it *degraded*, which is still ready: were it unready, the load balancer would turn
//! deliveries away and the backlog would never see them (design.md, "Readiness").

use std::sync::Arc;

use tokio::sync::watch;

use crate::metrics::Metrics;

/// The phases, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not all is bound and built yet.
    Starting,
    /// Listening.
    Ready,
    /// On the way out. There is no way back.
    Stopping,
}

/// The phase as the composition root sets it and `/readyz` shows it; the metric `ready` follows it.
#[derive(Debug, Clone)]
pub struct Readiness {
    phase: Arc<watch::Sender<Phase>>,
    metrics: Metrics,
}

impl Readiness {
    /// Starting.
    pub fn new(metrics: &Metrics) -> Self {
        metrics.ready.set(0);
        Self { phase: Arc::new(watch::Sender::new(Phase::Starting)), metrics: metrics.clone() }
    }

    /// Goes on to `phase`. Going back is no move at all: a start that completes while the gateway is already
    /// stopping does not make it ready.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let onwards = phase > *current;
            if onwards {
                *current = phase;
                self.metrics.ready.set(i64::from(phase == Phase::Ready));
            }
            onwards
        });
    }

    /// The phase.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stopping_does_not_become_ready() {
        let metrics = Metrics::new(&[], &[]).unwrap();
        let readiness = Readiness::new(&metrics);
        assert_eq!((readiness.phase(), metrics.ready.get()), (Phase::Starting, 0));
        readiness.enter(Phase::Ready);
        assert_eq!((readiness.phase(), metrics.ready.get()), (Phase::Ready, 1));
        readiness.enter(Phase::Stopping);
        readiness.enter(Phase::Ready);
        assert_eq!((readiness.phase(), metrics.ready.get()), (Phase::Stopping, 0));
    }
}
