//! Where the gateway is in its life. Ready means listening, configured and not stopping. A broker or a store
//! that is away makes it *degraded*, which is still ready: were it unready, the load balancer would turn
//! deliveries away and the backlog would never see them (design.md, "Readiness").

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

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
    /// When who serves had time to say so last.
    got_on: Arc<watch::Sender<Instant>>,
    metrics: Metrics,
}

impl Readiness {
    /// Starting.
    pub fn new(metrics: &Metrics) -> Self {
        metrics.ready.set(0);
        let (phase, got_on) = (watch::Sender::new(Phase::Starting), watch::Sender::new(Instant::now()));
        Self { phase: Arc::new(phase), got_on: Arc::new(got_on), metrics: metrics.clone() }
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

    /// Says that who serves gets on, for as long as its runtime has time for it.
    pub async fn get_on(self) {
        loop {
            self.got_on.send_replace(Instant::now());
            tokio::time::sleep(SIGN_EVERY).await;
        }
    }

    /// Whether it has not for [`STANDSTILL`]: the admin listener has a thread of its own, and would answer for ever.
    pub fn stands_still(&self) -> bool {
        self.got_on.borrow().elapsed() > STANDSTILL
    }

    /// The phase.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }
}

const SIGN_EVERY: Duration = Duration::from_secs(1);
/// As long as systemd's watchdog waits (deploy/systemd).
const STANDSTILL: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_serves_stands_still_where_nothing_says_that_he_gets_on() {
        let readiness = Readiness::new(&Metrics::new(&[], &[]).unwrap());
        let _ = tokio::time::timeout(STANDSTILL * 10, readiness.clone().get_on()).await;
        assert!(!readiness.stands_still());
        tokio::time::sleep(STANDSTILL + SIGN_EVERY).await;
        assert!(readiness.stands_still());
    }

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
