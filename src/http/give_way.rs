//! Who gives way when the door is nearly full, or too much of its memory is taken: the connections that have been in no
//! request for longest. A hoarder's are older than that of somebody who connects to say something, so that whoever fills
//! the door keeps only himself out. Where he comes ever anew, that of a proxy which keeps it for the next notification
//! would be older than his; so those that have brought something genuine and new go last. Where too few are silent, those that are in
//! a request leave after its answer, unless they have brought something: who sends one request behind the other is never silent.
//!
//! A connection that has said nothing costs a tenth of one that has (HTTP has buffers, and so has TLS), so those have a
//! bound of their own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::connection::Progress;

/// The open connections.
#[derive(Debug)]
pub(super) struct Sitting {
    /// Bound: `http.max_buffered_connections`. More are let in, and others leave for them: those that are in a request
    /// when that is over, which has bounds of its own.
    max_with_buffers: usize,
    /// Bound: `http.max_connections`.
    seats: Mutex<Seats>,
}

#[derive(Debug, Default)]
struct Seats {
    taken: HashMap<u64, Arc<Progress>>,
    with_buffers: usize,
    next: u64,
    looked_at: Option<Instant>,
    looked_at_buffers: Option<Instant>,
    /// How many have got buffers since.
    since_looked: usize,
}

impl Sitting {
    pub(super) fn new(max_with_buffers: usize) -> Self {
        Self { max_with_buffers, seats: Mutex::default() }
    }

    /// Notes a connection. What it is told to [`leave`](Self::leave) by.
    pub(super) fn enter(&self, progress: Arc<Progress>) -> u64 {
        let mut seats = self.lock();
        seats.next += 1;
        let number = seats.next;
        seats.taken.insert(number, progress);
        number
    }

    pub(super) fn leave(&self, number: u64) {
        let mut seats = self.lock();
        if seats.taken.remove(&number).is_some_and(|progress| progress.has_buffers()) {
            seats.with_buffers -= 1;
        }
    }

    /// The first byte of a connection has come, that sits here. If too many have said something, as many give way, and an
    /// eighth of those that may at the least.
    pub(super) fn grows(&self, progress: &Progress, now: Instant) {
        let mut seats = self.lock();
        if progress.grows() {
            return;
        }
        seats.with_buffers += 1;
        seats.since_looked += 1;
        let eighth = (self.max_with_buffers / GIVE_WAY).max(1);
        let has_grown = seats.since_looked >= eighth;
        if seats.with_buffers > self.max_with_buffers
            && (is_due(&mut seats.looked_at_buffers, now) || has_grown)
        {
            seats.since_looked = 0;
            let with_buffers = || seats.taken.values().filter(|progress| progress.has_buffers());
            let leaving = with_buffers().filter(|progress| progress.is_asked_to_leave()).count();
            let silent = with_buffers().filter(|progress| progress.silent_since().is_some()).count();
            // Who was asked in a request may leave late: nobody else is asked for him.
            let too_many = seats.with_buffers.saturating_sub(leaving + self.max_with_buffers);
            let some = if too_many > 0 { too_many.max(eighth) } else { 0 };
            // Where nearly all are in requests, the last eighth stays: who came just now has not said yet what for.
            seats.ask(some, silent.saturating_sub(eighth), Progress::has_buffers);
        }
    }

    /// Tells some to give way.
    pub(super) fn make_room(&self, for_so_many: usize, now: Instant) {
        let mut seats = self.lock();
        if is_due(&mut seats.looked_at, now) {
            seats.ask(for_so_many, for_so_many, |_| true);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seats {
    /// Of the silent, not more than `silent_at_most`: those that never brought anything genuine and new before the others, and of
    /// each those that have been silent for longest. Then of those that are in a request and never brought anything; but bodies
    /// that are waited for give way to one another alone: who is asked and stays for long would let one more come.
    fn ask(&self, so_many: usize, silent_at_most: usize, among: impl Fn(&Progress) -> bool) {
        let of_them = || self.taken.values().filter(|progress| among(progress));
        let rank = |progress: &Progress| Some((progress.has_brought_news(), progress.silent_since()?));
        let mut silent: Vec<((bool, Instant), &Arc<Progress>)> =
            of_them().filter_map(|progress| Some((rank(progress)?, progress))).collect();
        let count = so_many.min(silent_at_most).min(silent.len());
        if count > 0 && count < silent.len() {
            silent.select_nth_unstable_by_key(count, |(rank, _)| *rank);
        }
        silent.iter().take(count).for_each(|(_, progress)| progress.ask_to_leave());
        let busy = |progress: &&Arc<Progress>| {
            let is_whole = progress.silent_since().is_none() && !progress.leaves_body_unread();
            is_whole && !progress.is_asked_to_leave() && !progress.has_brought_news()
        };
        of_them().filter(busy).take(so_many - count).for_each(|progress| progress.ask_to_leave());
    }
}

/// Not more often than every [`PAUSE`], because it looks at all of them.
fn is_due(looked_at: &mut Option<Instant>, now: Instant) -> bool {
    let is_due = looked_at.is_none_or(|at| now.saturating_duration_since(at) >= PAUSE);
    if is_due {
        *looked_at = Some(now);
    }
    is_due
}

/// Of how many may sit, so many give way at once that looking for them costs each who comes little.
pub(super) const GIVE_WAY: usize = 8;
/// Bound: between two looks at all connections, unless an eighth of those that may have buffers has come meanwhile.
const PAUSE: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::super::connection::HasBody;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn those_who_were_in_no_request_for_longest_give_way_before_anybody_in_one_does() {
        let sitting = Sitting::new(2);
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
        sitting.make_room(2, Instant::now());
        assert_eq!(asked(), [false, true, true, true, true]);
        tokio::time::advance(PAUSE).await;
        sitting.make_room(2, Instant::now());
        assert_eq!(asked(), [false, true, true, true, true], "its body is waited for");
        seats[0].body_complete();
        tokio::time::advance(PAUSE).await;
        sitting.make_room(2, Instant::now());
        assert_eq!(asked(), [true; 5], "it leaves after its answer");
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_one_request_behind_the_other_leaves_after_an_answer_unless_he_has_brought_something() {
        let sitting = Sitting::new(8);
        let mut seats = Vec::new();
        for nth in 0..12 {
            tokio::time::advance(PAUSE).await;
            let progress = Arc::new(Progress::default());
            sitting.enter(Arc::clone(&progress));
            if nth < 2 {
                progress.brought_news();
            }
            progress.began(HasBody::Yes);
            progress.body_complete();
            sitting.grows(&progress, Instant::now());
            seats.push(progress);
        }
        let asked = seats.iter().filter(|seat| seat.is_asked_to_leave()).count();
        assert_eq!(asked, 4, "one for each that came too much");
        assert!(seats[..2].iter().all(|seat| !seat.is_asked_to_leave()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_brought_something_genuine_gives_way_after_the_others() {
        let sitting = Sitting::new(2);
        let seats: Vec<_> = (0..4).map(|_| Arc::new(Progress::default())).collect();
        for seat in &seats {
            sitting.enter(Arc::clone(seat));
        }
        seats[0].brought_news();
        tokio::time::advance(Duration::from_secs(1)).await;
        seats[1..].iter().for_each(|seat| seat.answered());
        let asked = || seats.iter().filter(|seat| seat.is_asked_to_leave()).count();
        sitting.make_room(3, Instant::now());
        assert_eq!((asked(), seats[0].is_asked_to_leave()), (3, false), "it was silent for longest");
        tokio::time::advance(PAUSE).await;
        sitting.make_room(1, Instant::now());
        assert_eq!(asked(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn of_those_that_have_said_something_only_so_many_stay() {
        let sitting = Sitting::new(2);
        let mut seats = Vec::new();
        for _ in 0..6 {
            let progress = Arc::new(Progress::default());
            let number = sitting.enter(Arc::clone(&progress));
            seats.push((number, progress));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let asked = || seats.iter().map(|(_, seat)| seat.is_asked_to_leave()).collect::<Vec<_>>();
        let grows = |nth: usize| sitting.grows(&seats[nth].1, Instant::now());
        grows(1);
        seats[1].1.began(HasBody::Yes);
        grows(2);
        grows(2);
        assert_eq!(asked(), [false; 6], "there is room for two");
        grows(3);
        assert_eq!(asked(), [false, false, true, false, false, false], "who is silent or in a request stays");
        sitting.leave(seats[2].0);
        sitting.leave(seats[1].0);
        tokio::time::advance(PAUSE).await;
        grows(4);
        assert_eq!(asked(), [false, false, true, false, false, false], "two have left");
        grows(5);
        assert_eq!(asked(), [false, false, true, true, false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn where_nearly_all_are_in_requests_the_last_who_came_may_still_say_what_for() {
        let sitting = Sitting::new(16);
        let mut seats = Vec::new();
        let mut came = |has_body: Option<HasBody>| {
            let progress = Arc::new(Progress::default());
            sitting.enter(Arc::clone(&progress));
            if let Some(has_body) = has_body {
                progress.began(has_body);
            }
            sitting.grows(&progress, Instant::now());
            seats.push(progress);
        };
        (0..16).for_each(|_| came(Some(HasBody::Yes)));
        for _ in 0..4 {
            tokio::time::advance(PAUSE).await;
            came(None);
        }
        let asked = |seat: &Arc<Progress>| seat.is_asked_to_leave();
        assert_eq!(seats[16..].iter().map(asked).collect::<Vec<_>>(), [true, true, false, false]);
        assert!(!seats[..16].iter().any(asked), "bodies that are waited for have a bound of their own");
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_looked_at_in_its_course() {
        let sitting = Sitting::new(16);
        let seats: Vec<_> = (0..40).map(|_| Arc::new(Progress::default())).collect();
        for seat in &seats {
            sitting.enter(Arc::clone(seat));
            sitting.grows(seat, Instant::now());
        }
        let staying = seats.iter().filter(|seat| !seat.is_asked_to_leave()).count();
        assert!((15..=17).contains(&staying), "{staying} of 16, without a moment between them");
    }

    #[tokio::test]
    async fn who_has_left_is_forgotten() {
        let sitting = Sitting::new(2);
        let progress = Arc::new(Progress::default());
        let number = sitting.enter(Arc::clone(&progress));
        sitting.leave(number);
        sitting.make_room(1, Instant::now());
        assert!(!progress.is_asked_to_leave());
        assert_eq!(Arc::strong_count(&progress), 1);
    }
}
