//! The four outcomes that need the store (design.md, "Admission"), decided in one function when the claim is
//! there.

use crate::event::{Event, EventType};
use crate::store::{Known, State};

/// What is to be done with an event, now that it is known what is kept under its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resolution {
    /// Publish it.
    Publish,
    /// An equal one was confirmed before, or was returned as one that nobody wants.
    Duplicate,
    /// The operator has decided that it is never announced.
    Dropped,
    /// Too old, and not recorded: a replay, or a wrong clock.
    Hold,
    /// It is another event: announce that one in its place.
    Announce(Box<Event>),
}

/// Decides. The order is the design's.
pub(super) fn resolve(event: &Event, known: Option<&Known>) -> Resolution {
    let same = known.filter(|known| known.digest == event.digest);
    let settled = same.and_then(|known| settled(known.state));
    if event.stale {
        return settled.unwrap_or(Resolution::Hold);
    }
    // TRADE_FINISHED months after the payment is a new notification about the same trade, and perhaps with a
    // refund_fee: its finish, not a second payment and not a conflict. While the payment only waits, it is announced from
    // what is kept of it, and a finish kept in its place would be lost with it.
    // One that nobody wanted has been told of, too: a finish may have a queue where payments have none.
    let anothers = known.is_some_and(|known| was_told_of(known.state) && known.notify_id != event.notify_id);
    if event.finishes && anothers && event.event_type != EventType::TradeFinished {
        return Resolution::Announce(Box::new(event.as_finish()));
    }
    match (known, same) {
        (None, _) if event.late => Resolution::Announce(Box::new(event.as_late())),
        (Some(_), None) => Resolution::Announce(Box::new(event.as_conflict())),
        (None, None) | (_, Some(_)) => settled.unwrap_or(Resolution::Publish),
    }
}

/// Whether the payment has been announced, or will be.
fn was_told_of(state: State) -> bool {
    match state {
        State::Recorded | State::Unrouted | State::Deferred | State::InDoubt => true,
        State::Held | State::Dropped => false,
    }
}

fn settled(state: State) -> Option<Resolution> {
    match state {
        State::Recorded | State::Unrouted => Some(Resolution::Duplicate),
        State::Dropped => Some(Resolution::Dropped),
        // Not announced yet: this delivery is another chance to.
        State::Deferred | State::InDoubt | State::Held => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::event::{Digest, Environment, EventId, Money};

    fn digest(amount: &str) -> Digest {
        Digest::of(b"o", Money::parse(amount.as_bytes()), b"", None)
    }

    fn payment() -> Event {
        Event {
            event_type: EventType::PaymentSucceeded,
            id: EventId::of_trade("1", "2026112322001427340000000000", EventType::PaymentSucceeded),
            digest: digest("1.00"),
            notify_id: "n1".to_owned(),
            environment: Environment::Production,
            business_time: Timestamp::default(),
            payment_time: None,
            notified_at: Timestamp::default(),
            finishes: false,
            stale: false,
            late: false,
            facts: r#""app_id":"1""#.to_owned(),
        }
    }

    fn known(state: State, amount: &str, notify_id: &str) -> Known {
        Known { state, digest: digest(amount), notify_id: notify_id.to_owned() }
    }

    fn announced_as(resolution: Resolution) -> Option<EventType> {
        match resolution {
            Resolution::Announce(event) => Some(event.event_type),
            Resolution::Publish | Resolution::Duplicate | Resolution::Dropped | Resolution::Hold => None,
        }
    }

    #[test]
    fn what_is_not_known_is_published() {
        assert_eq!(resolve(&payment(), None), Resolution::Publish);
    }

    #[test]
    fn what_is_recorded_with_the_same_money_is_a_duplicate() {
        for state in [State::Recorded, State::Unrouted] {
            assert_eq!(resolve(&payment(), Some(&known(state, "1.00", "n1"))), Resolution::Duplicate);
        }
        assert_eq!(resolve(&payment(), Some(&known(State::Dropped, "1.00", "n1"))), Resolution::Dropped);
    }

    #[test]
    fn what_only_waits_is_published() {
        for state in [State::Deferred, State::InDoubt] {
            assert_eq!(resolve(&payment(), Some(&known(state, "1.00", "n1"))), Resolution::Publish);
        }
    }

    #[test]
    fn other_money_under_the_same_key_is_a_conflict_whatever_the_state() {
        for state in State::ALL {
            let resolution = resolve(&payment(), Some(&known(state, "2.00", "n1")));
            assert_eq!(announced_as(resolution), Some(EventType::PaymentConflict), "{state:?}");
        }
    }

    #[test]
    fn a_finish_of_a_recorded_payment_is_a_finish_even_with_other_money() {
        let event = Event { finishes: true, notify_id: "n2".to_owned(), ..payment() };
        for (amount, state) in
            [("1.00", State::Recorded), ("2.00", State::Recorded), ("1.00", State::Unrouted)]
        {
            let resolution = resolve(&event, Some(&known(state, amount, "n1")));
            assert_eq!(announced_as(resolution), Some(EventType::TradeFinished), "{amount} {state:?}");
        }
        // A re-delivery of the finish that was itself the payment.
        assert_eq!(resolve(&event, Some(&known(State::Recorded, "1.00", "n2"))), Resolution::Duplicate);
    }

    #[test]
    fn a_finish_of_a_payment_that_is_kept_is_a_finish_and_its_own_is_published_again() {
        let event = Event { finishes: true, notify_id: "n2".to_owned(), ..payment() };
        for state in [State::Deferred, State::InDoubt] {
            let resolution = resolve(&event, Some(&known(state, "1.00", "n1")));
            assert_eq!(announced_as(resolution), Some(EventType::TradeFinished), "{state:?}");
            assert_eq!(resolve(&event, Some(&known(state, "1.00", "n2"))), Resolution::Publish);
        }
    }

    #[test]
    fn a_stale_one_is_a_duplicate_if_recorded_and_held_if_not() {
        let event = Event { stale: true, ..payment() };
        assert_eq!(resolve(&event, Some(&known(State::Recorded, "1.00", "n1"))), Resolution::Duplicate);
        assert_eq!(resolve(&event, Some(&known(State::Recorded, "2.00", "n1"))), Resolution::Hold);
        assert_eq!(resolve(&event, Some(&known(State::Deferred, "1.00", "n1"))), Resolution::Hold);
        assert_eq!(resolve(&event, None), Resolution::Hold);
        let finish = Event { stale: true, finishes: true, notify_id: "n2".to_owned(), ..payment() };
        assert_eq!(resolve(&finish, Some(&known(State::Recorded, "2.00", "n1"))), Resolution::Hold);
    }

    #[test]
    fn a_late_payment_is_a_duplicate_if_recorded_and_late_if_not() {
        let event = Event { late: true, ..payment() };
        assert_eq!(resolve(&event, Some(&known(State::Recorded, "1.00", "n1"))), Resolution::Duplicate);
        assert_eq!(announced_as(resolve(&event, None)), Some(EventType::PaymentLate));
        let conflict = resolve(&event, Some(&known(State::Recorded, "2.00", "n1")));
        assert_eq!(announced_as(conflict), Some(EventType::PaymentConflict));
    }

    #[test]
    fn nothing_is_announced_in_its_own_place() {
        // It would wait for its own flight, for ever.
        for event_type in EventType::ALL {
            let id = EventId::of_trade("1", "2026112322001427340000000000", event_type);
            let of_type = Event { event_type, id, ..payment() };
            for (finishes, late, state) in [true, false].into_iter().flat_map(|finishes| {
                [true, false]
                    .into_iter()
                    .flat_map(move |late| State::ALL.map(|state| (finishes, late, state)))
            }) {
                let event = Event { finishes, late, ..of_type.clone() };
                for amount in ["1.00", "2.00"] {
                    if let Resolution::Announce(other) = resolve(&event, Some(&known(state, amount, "n2"))) {
                        assert_ne!(
                            other.key(),
                            event.key(),
                            "{event_type:?} {finishes} {late} {state:?} {amount}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_announced_in_its_place_is_not_resolved_away_again() {
        let late = Event { late: true, finishes: true, ..payment() };
        for event in [late.as_late(), late.as_finish(), late.as_conflict()] {
            assert_eq!(resolve(&event, None), Resolution::Publish);
        }
    }
}
