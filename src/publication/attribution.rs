//! What the confirms of one batch mean for each of its events.
//!
//! lapin hands a `basic.return` to whichever confirm completes next, not to the one of the returned message,
//! and RabbitMQ coalesces acks. So a confirm that carries a returned message says nothing about its own until
//! every confirm of the batch has been resolved by the broker; and an `Ack` that carries none is the proof
//! only if no confirm of the batch carries this event's id (design.md, "Why a batch, and never a shared
//! channel"). It relies on the order that [`Confirms`](crate::broker::Confirms) promises: lapin queues a
//! return before it resolves that message's own confirm, so whoever took it was resolved earlier and is in
//! the same settled view or an earlier one.

use crate::broker::{Confirm, Settled};

/// The confirms of one batch, as they come in.
#[derive(Debug)]
pub(super) struct Attribution {
    events: Vec<Attributed>,
}

#[derive(Debug)]
struct Attributed {
    id: String,
    confirm: Option<Confirm>,
    /// Some confirm of the batch carried this event's id.
    returned: bool,
    decided: bool,
}

/// What became of one event of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    /// The broker has it, in at least one queue.
    Confirmed,
    /// No queue took it.
    Returned,
    /// The broker refused it.
    Nacked,
    /// The channel or connection went before the broker said anything that decides.
    Lost,
    /// It was never handed to the connection.
    Unsent,
}

impl Attribution {
    /// A batch with these message ids, in its order.
    pub(super) fn of(ids: impl IntoIterator<Item = String>) -> Self {
        let events = ids
            .into_iter()
            .map(|id| Attributed { id, confirm: None, returned: false, decided: false })
            .collect();
        Self { events }
    }

    /// Takes a settled view and says what it decides.
    pub(super) fn settle(&mut self, view: Vec<Settled>) -> Vec<(usize, Verdict)> {
        for Settled { index, confirm } in view {
            if let Confirm::Ack(Some(carried)) | Confirm::Nack(Some(carried)) = &confirm
                && let Some(event) = self.events.iter_mut().find(|event| event.id == *carried)
            {
                event.returned = true;
            }
            if let Some(event) = self.events.get_mut(index)
                && event.confirm.is_none()
            {
                event.confirm = Some(confirm);
            }
        }
        let standing = self.standing();
        let undecided = self.events.iter_mut().enumerate().filter(|(_, event)| !event.decided);
        undecided
            .filter_map(|(index, event)| {
                let verdict = event.verdict(standing)?;
                event.decided = true;
                Some((index, verdict))
            })
            .collect()
    }

    /// Whether every event is decided.
    pub(super) fn is_complete(&self) -> bool {
        self.events.iter().all(|event| event.decided)
    }

    fn standing(&self) -> Standing {
        let open = self.events.iter().any(|event| event.confirm.is_none());
        let gone = self.events.iter().any(|event| match event.confirm {
            Some(Confirm::Lost | Confirm::NotRequested) => true,
            Some(Confirm::Ack(_) | Confirm::Nack(_) | Confirm::Unsent) | None => false,
        });
        match (open, gone) {
            (true, _) => Standing::Open,
            (false, true) => Standing::Broken,
            (false, false) => Standing::Resolved,
        }
    }
}

/// How far the batch as a whole is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Some confirm is still to come.
    Open,
    /// Nothing more will come, and the broker did not resolve every one: a return may have been lost with
    /// the channel.
    Broken,
    /// The broker has resolved every confirm.
    Resolved,
}

impl Attributed {
    fn verdict(&self, standing: Standing) -> Option<Verdict> {
        match self.confirm.as_ref()? {
            Confirm::Ack(None) if self.returned => Some(Verdict::Returned),
            Confirm::Ack(None) => Some(Verdict::Confirmed),
            Confirm::Ack(Some(carried)) if *carried == self.id => Some(Verdict::Returned),
            Confirm::Ack(Some(_)) => match standing {
                Standing::Open => None,
                Standing::Broken => Some(if self.returned { Verdict::Returned } else { Verdict::Lost }),
                Standing::Resolved if self.returned => Some(Verdict::Returned),
                Standing::Resolved => Some(Verdict::Confirmed),
            },
            Confirm::Nack(_) => Some(Verdict::Nacked),
            Confirm::Lost | Confirm::NotRequested => Some(Verdict::Lost),
            Confirm::Unsent => Some(Verdict::Unsent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(size: usize) -> Attribution {
        Attribution::of((1..=size).map(|n| n.to_string()))
    }

    /// Confirms by number from 1, as the scripts of the issue write them.
    fn view(confirms: &[(usize, Confirm)]) -> Vec<Settled> {
        confirms.iter().map(|(n, confirm)| Settled { index: n - 1, confirm: confirm.clone() }).collect()
    }

    fn ack(carried: Option<&str>) -> Confirm {
        Confirm::Ack(carried.map(str::to_owned))
    }

    #[test]
    fn an_ack_that_carries_nothing_confirms() {
        let mut batch = batch(2);
        assert_eq!(batch.settle(view(&[(1, ack(None))])), [(0, Verdict::Confirmed)]);
        assert!(!batch.is_complete());
        assert_eq!(batch.settle(view(&[(2, ack(None))])), [(1, Verdict::Confirmed)]);
        assert!(batch.is_complete());
    }

    #[test]
    fn two_returns_and_one_ack_decide_nothing_for_the_one_that_carries_anothers() {
        // return(1) return(3) ack(3), and then nothing: lapin gives confirm 3 the return of 1.
        let mut batch = batch(3);
        assert_eq!(batch.settle(view(&[(3, ack(Some("1")))])), []);
        assert!(batch.events.iter().all(|event| !event.decided));
    }

    #[test]
    fn a_return_that_an_earlier_ack_took_still_counts_for_its_own() {
        // return(2) ack(1) ack(2): confirm 1 carries 2, confirm 2 carries nothing.
        let mut batch = batch(2);
        let verdicts = batch.settle(view(&[(1, ack(Some("2"))), (2, ack(None))]));
        assert_eq!(verdicts, [(0, Verdict::Confirmed), (1, Verdict::Returned)]);
    }

    #[test]
    fn one_that_carries_anothers_waits_for_the_whole_batch() {
        let mut batch = batch(3);
        assert_eq!(batch.settle(view(&[(1, ack(Some("2"))), (2, ack(None))])), [(1, Verdict::Returned)]);
        assert_eq!(batch.settle(view(&[(3, ack(None))])), [(0, Verdict::Confirmed), (2, Verdict::Confirmed)]);
    }

    #[test]
    fn swapped_returns_are_both_returned() {
        let mut batch = batch(2);
        let verdicts = batch.settle(view(&[(2, ack(Some("1"))), (1, ack(Some("2")))]));
        assert_eq!(verdicts, [(0, Verdict::Returned), (1, Verdict::Returned)]);
    }

    #[test]
    fn a_channel_that_closes_before_every_return_was_seen_confirms_nothing_on_trust() {
        // return(1) return(3) ack(3) close: the return of 3 went with the channel.
        let mut batch = batch(3);
        assert_eq!(batch.settle(view(&[(3, ack(Some("1")))])), []);
        let verdicts = batch.settle(view(&[(1, Confirm::Lost), (2, Confirm::Lost)]));
        assert_eq!(verdicts, [(0, Verdict::Lost), (1, Verdict::Lost), (2, Verdict::Lost)]);
    }

    #[test]
    fn a_nack_is_a_refusal_and_what_it_carries_is_returned() {
        let mut batch = batch(3);
        let verdicts =
            batch.settle(view(&[(1, Confirm::Nack(Some("2".to_owned()))), (2, ack(None)), (3, ack(None))]));
        assert_eq!(verdicts, [(0, Verdict::Nacked), (1, Verdict::Returned), (2, Verdict::Confirmed)]);
    }

    #[test]
    fn a_return_of_an_unknown_message_confirms_its_carrier_only_with_the_batch() {
        let mut batch = batch(2);
        assert_eq!(batch.settle(view(&[(1, ack(Some("")))])), []);
        assert_eq!(batch.settle(view(&[(2, ack(None))])), [(0, Verdict::Confirmed), (1, Verdict::Confirmed)]);
    }

    #[test]
    fn a_channel_without_confirms_confirms_nothing() {
        let mut batch = batch(1);
        assert_eq!(batch.settle(view(&[(1, Confirm::NotRequested)])), [(0, Verdict::Lost)]);
    }
}
