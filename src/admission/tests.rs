//! Admission from outside, without a broker or a store: what each notification means, what is held and what is refused,
//! with a signer that shares no line with the verifier. `tests/it` uses the same signer, so it lies there.

#![expect(unreachable_pub, reason = "what is shared with the tests of the whole program")]

mod attacks;
mod borders;
mod disclosure;
mod verdicts;

#[path = "../../tests/it/support"]
pub(super) mod support {
    pub mod certificate;
    pub mod judge;
    pub mod signer;
}

use super::Event;
use support::judge::{Said, event, judge, now, policy};
use support::signer::Draft;

/// Under the usual policy, a minute after the payment.
fn said(body: &[u8]) -> Said {
    judge(body, &policy(), now())
}

/// Signed and sent.
fn said_of(draft: Draft) -> Said {
    said(&draft.signed().body())
}

/// Its event, signed and sent.
fn event_of(draft: Draft) -> Event {
    event(&draft.signed().body(), &policy(), now())
}
