//! Who gives way when the door is nearly full: the connections that have been in no request for longest. A hoarder's are
//! older than that of somebody who connects to say something, so that whoever fills the door keeps only himself out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::connection::Progress;

/// The open connections.
#[derive(Debug)]
pub(super) struct Sitting {
    /// Bound: `http.max_connections`.
    seats: Mutex<Seats>,
}

#[derive(Debug)]
struct Seats {
    taken: HashMap<u64, Arc<Progress>>,
    next: u64,
    looked_at: Option<Instant>,
}

impl Sitting {
    pub(super) fn new() -> Self {
        Self { seats: Mutex::new(Seats { taken: HashMap::new(), next: 0, looked_at: None }) }
    }

    /// Notes a connection. What it is told to [`leave`](Self::leave) by.
    pub(super) fn enter(&self, progress: Arc<Progress>) -> u64 {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        seats.next += 1;
        let number = seats.next;
        seats.taken.insert(number, progress);
        number
    }

    pub(super) fn leave(&self, number: u64) {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner).taken.remove(&number);
    }

    /// Tells some, which are in no request, to give way: those that have been silent for longest. Not more often than
    /// every [`PAUSE`], because it looks at all of them.
    pub(super) fn make_room(&self, for_so_many: usize, now: Instant) {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        if seats.looked_at.is_some_and(|at| now.saturating_duration_since(at) < PAUSE) {
            return;
        }
        seats.looked_at = Some(now);
        let mut silent: Vec<(Instant, &Arc<Progress>)> =
            seats.taken.values().filter_map(|progress| Some((progress.silent_since()?, progress))).collect();
        let count = for_so_many.min(silent.len());
        if count > 0 && count < silent.len() {
            silent.select_nth_unstable_by_key(count, |(since, _)| *since);
        }
        silent.iter().take(count).for_each(|(_, progress)| progress.ask_to_leave());
    }
}

/// Bound: between two looks at all connections.
const PAUSE: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::super::connection::HasBody;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn those_who_were_in_no_request_for_longest_give_way_and_nobody_in_one_does() {
        let sitting = Sitting::new();
        let mut seats = Vec::new();
        for _ in 0..5 {
            let progress = Arc::new(Progress::default());
            sitting.enter(Arc::clone(&progress));
            seats.push(progress);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        seats[0].began(HasBody::Yes);
        seats[1].began(HasBody::No);
        seats[1].answered();
        sitting.make_room(2, Instant::now());
        let asked = || seats.iter().map(|seat| seat.is_asked_to_leave()).collect::<Vec<_>>();
        assert_eq!(asked(), [false, false, true, true, false]);
        sitting.make_room(2, Instant::now());
        assert_eq!(asked(), [false, false, true, true, false], "not again at once");
        tokio::time::advance(PAUSE).await;
        sitting.make_room(9, Instant::now());
        assert_eq!(asked(), [false, true, true, true, true]);
    }

    #[tokio::test]
    async fn who_has_left_is_forgotten() {
        let sitting = Sitting::new();
        let progress = Arc::new(Progress::default());
        let number = sitting.enter(Arc::clone(&progress));
        sitting.leave(number);
        sitting.make_room(1, Instant::now());
        assert!(!progress.is_asked_to_leave());
        assert_eq!(Arc::strong_count(&progress), 1);
    }
}
