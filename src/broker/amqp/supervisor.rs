//! One task that keeps a connection: connects, declares, watches, and connects again for ever.
//!
//! It does not repair anything that was in flight: lapin settles those confirms as lost when the connection
//! goes, and the lanes open new channels when the link is up again.

use std::fmt;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::Event;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, error, info, warn};

use super::connection::{self, Live};
use super::known::Known;
use super::target::Target;
use super::{CLOSE_DEADLINE, Config, declaration};
use crate::broker::Link;
use crate::lifecycle::Stopping;
use crate::metrics::Metrics;

/// What the supervisor and the users of the connection both see.
pub(super) struct Shared {
    pub(super) config: Arc<Config>,
    link: watch::Sender<Link>,
    view: Mutex<View>,
    known: Known,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct View {
    live: Option<Arc<Live>>,
    /// Why there is no connection: for the log.
    why: String,
    /// What should stand at the broker and does not.
    problems: Vec<String>,
}

impl Shared {
    pub(super) fn new(config: Config, metrics: Arc<Metrics>) -> Self {
        let config = Arc::new(config);
        let (link, known) = (watch::Sender::new(Link::Down), Known::new(&config, &metrics));
        Self { config, link, view: Mutex::default(), known, metrics }
    }

    pub(super) fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    pub(super) fn live(&self) -> Option<Arc<Live>> {
        self.view().live.clone()
    }

    pub(super) fn problems(&self) -> Vec<String> {
        self.view().problems.clone()
    }

    /// The link is up or blocked, as lapin sees it now. `reason` is the broker's word for blocking, if it came.
    fn show(&self, live: &Arc<Live>, reason: Option<&str>) {
        let blocked = live.is_blocked();
        let link = if blocked { Link::Blocked(live.generation) } else { Link::Up(live.generation) };
        self.view().live = Some(Arc::clone(live));
        self.metrics.broker_up.set(1);
        self.metrics.broker_blocked.set(i64::from(blocked));
        let Some(before) = self.change(link) else { return };
        match (before, link) {
            (_, Link::Blocked(generation)) => error!(generation, reason, "the broker takes nothing for now"),
            (Link::Blocked(_), Link::Up(generation)) => info!(generation, "the broker takes events again"),
            (Link::Down | Link::Up(_), Link::Up(generation)) => {
                info!(generation, at = live.at, "connected to the broker");
            }
            (_, Link::Down) => {}
        }
    }

    /// There is no connection, and nobody wants one.
    fn away(&self) -> Option<Link> {
        self.metrics.broker_up.set(0);
        self.metrics.broker_blocked.set(0);
        self.view().live = None;
        self.change(Link::Down)
    }

    /// There is no connection. The same reason is a line in the log once, not at every attempt.
    fn down(&self, why: String) {
        let before = self.away();
        let mut view = self.view();
        if before.is_none() && view.why == why {
            debug!(why, "still no connection to the broker");
        } else {
            error!(why, "no connection to the broker");
        }
        view.why = why;
    }

    /// What stands at the broker now. Logs what is new.
    fn note(&self, problems: Vec<String>) {
        let mut view = self.view();
        for problem in problems.iter().filter(|problem| !view.problems.contains(problem)) {
            error!(problem, "the topology is not complete");
        }
        if problems.is_empty() && !view.problems.is_empty() {
            info!("the topology is complete");
        }
        self.metrics.topology_problems.set(i64::try_from(problems.len()).unwrap_or(i64::MAX));
        view.problems = problems;
    }

    /// The link before, if this changes it.
    fn change(&self, link: Link) -> Option<Link> {
        let mut before = None;
        self.link.send_if_modified(|now| {
            if *now == link {
                return false;
            }
            before = Some(std::mem::replace(now, link));
            true
        });
        before
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("link", &*self.link.borrow()).finish_non_exhaustive()
    }
}

/// The task.
pub(super) struct Supervisor {
    shared: Arc<Shared>,
    stopping: Stopping,
    backoff: Backoff,
    /// Which node is tried first: another one each time, and not the same for all gateways.
    turn: usize,
    /// What was read last, for when a file of it cannot be read.
    target: Option<Target>,
}

impl Supervisor {
    pub(super) fn new(shared: Arc<Shared>, stopping: Stopping, seed: u64) -> Self {
        let turn = usize::try_from(seed >> 32).unwrap_or(0);
        Self { shared, stopping, backoff: Backoff::new(seed), turn, target: None }
    }

    /// Until the gateway stops.
    pub(super) async fn run(mut self) {
        let stopping = self.stopping.clone();
        for generation in 1.. {
            // Cancel safety: a connection that is half made is cut when its future is dropped.
            let connected = tokio::select! {
                biased;
                () = stopping.begun() => break,
                connected = self.connect(generation) => connected,
            };
            let why = match connected {
                Ok(live) => match self.serve(&Arc::new(live)).await {
                    ControlFlow::Break(()) => break,
                    ControlFlow::Continue(why) => why,
                },
                Err(why) => why,
            };
            self.shared.down(why);
            // Bound: [`BACKOFF_CAP`].
            tokio::select! {
                biased;
                () = stopping.begun() => break,
                () = sleep(self.backoff.next()) => {}
            }
        }
        self.shared.away();
    }

    /// A connection with an exchange to publish to. Bound: the deadlines of connecting and of declaring.
    async fn connect(&mut self, generation: u64) -> Result<Live, String> {
        self.turn = self.turn.wrapping_add(1);
        let target = self.target().await?;
        let live = connection::connect(&target, self.turn, generation).await?;
        let declared = declaration::declare(&live, &self.shared.config, &self.shared.known).await;
        if !live.is_connected() {
            return Err("the connection was lost while declaring".to_owned());
        }
        self.shared.note(declared.problems);
        if declared.usable {
            return Ok(live);
        }
        live.close(GOODBYE).await;
        Err("there is no exchange to publish to".to_owned())
    }

    /// Where to connect now. A file that is being replaced, or was deleted by mistake, does not keep a gateway from a
    /// broker whose login is still the same.
    async fn target(&mut self) -> Result<Target, String> {
        match Target::read(&self.shared.config).await {
            Ok(target) => self.target = Some(target),
            Err(why) if self.target.is_some() => warn!(why, "connecting with what was read before"),
            Err(why) => return Err(why),
        }
        self.target.clone().ok_or_else(|| "nothing was read".to_owned())
    }

    /// Keeps the connection until it is lost, found unfit, or no longer wanted. Says why it went, or breaks.
    async fn serve(&mut self, live: &Arc<Live>) -> ControlFlow<(), String> {
        let since = Instant::now();
        let why = tokio::select! {
            biased;
            () = self.stopping.begun() => None,
            why = self.watch(live) => Some(why),
            never = self.recheck(live) => match never {},
        };
        let Some(why) = why else {
            self.shared.away();
            live.close(CLOSE_DEADLINE).await;
            return ControlFlow::Break(());
        };
        // Whoever still holds it is not kept waiting, and what was in flight settles as lost.
        live.cut();
        if since.elapsed() >= BACKOFF_CAP {
            self.backoff.reset();
        }
        ControlFlow::Continue(why)
    }

    /// Shows the link as it changes; returns why the connection is no good any more. lapin's events are only
    /// the occasion to look: it sends some for channels too, and none where the broker closes without an error,
    /// so there is a tick beside them.
    async fn watch(&self, live: &Arc<Live>) -> String {
        let mut events = pin!(live.connection.events_listener());
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reason = None;
        loop {
            if !live.is_connected() {
                return "the connection was lost".to_owned();
            }
            self.shared.show(live, reason.as_deref());
            let event = tokio::select! {
                biased;
                () = live.condemned() => return "the connection gave no channel in time".to_owned(),
                event = events.next() => event,
                _ = tick.tick() => continue,
            };
            match event {
                Some(Event::ConnectionBlocked(told)) => reason = Some(told),
                Some(Event::ConnectionUnblocked) => reason = None,
                Some(Event::Error(error)) if !live.is_connected() => return connection::words(&error),
                Some(Event::Error(error)) => {
                    debug!(error = connection::words(&error), "a channel was closed");
                }
                Some(Event::Connected | Event::SendFlow(_) | _) => {}
                None => return "the connection ended".to_owned(),
            }
        }
    }

    /// Declares and looks again every minute, and when something came back that should not have; never returns. Not
    /// while the broker blocks: it would not answer.
    async fn recheck(&self, live: &Live) -> std::convert::Infallible {
        loop {
            // Bound: what is returned again and again makes it look this often.
            sleep(LOOK_GAP).await;
            let _ = timeout(self.shared.config.look_every, live.doubted()).await;
            if live.is_blocked() {
                continue;
            }
            let declared = declaration::declare(live, &self.shared.config, &self.shared.known).await;
            if live.is_connected() && !live.is_blocked() {
                self.shared.note(declared.problems);
            }
        }
    }
}

/// Jittered waits that double, up to a cap.
struct Backoff {
    rng: StdRng,
    step: u32,
}

impl Backoff {
    fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), step: 0 }
    }

    /// Between half the step's wait and all of it, so that gateways that lost one broker do not return as one.
    fn next(&mut self) -> Duration {
        let ceiling = FIRST_WAIT.saturating_mul(1 << self.step.min(16)).min(BACKOFF_CAP);
        self.step = self.step.saturating_add(1);
        ceiling.mul_f64(self.rng.random_range(0.5..=1.0))
    }

    const fn reset(&mut self) {
        self.step = 0;
    }
}

const FIRST_WAIT: Duration = Duration::from_millis(100);
const BACKOFF_CAP: Duration = Duration::from_secs(2);
/// How soon a loss that lapin sends no event for is seen.
const TICK: Duration = Duration::from_millis(500);
/// Between two looks at the topology.
const LOOK_GAP: Duration = Duration::from_secs(1);
/// Bound: for closing a connection that cannot be used.
const GOODBYE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_back_off_grows_to_two_seconds_and_no_further() {
        let mut backoff = Backoff::new(7);
        let waits: Vec<_> = (0..40).map(|_| backoff.next()).collect();
        assert!(waits[0] >= FIRST_WAIT / 2 && waits[0] <= FIRST_WAIT, "{waits:?}");
        assert!(waits[5..].iter().all(|wait| *wait >= BACKOFF_CAP / 2 && *wait <= BACKOFF_CAP), "{waits:?}");
        assert!(waits[5..].windows(2).any(|pair| pair[0] != pair[1]), "{waits:?}");
        backoff.reset();
        assert!(backoff.next() <= FIRST_WAIT);
    }

    #[test]
    fn the_same_seed_waits_the_same() {
        let waits = |seed| {
            let mut backoff = Backoff::new(seed);
            (0..5).map(|_| backoff.next()).collect::<Vec<_>>()
        };
        assert_eq!(waits(1), waits(1));
        assert_ne!(waits(1), waits(2));
    }
}
