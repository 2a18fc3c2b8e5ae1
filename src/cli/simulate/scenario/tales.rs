//! The stories. Each step is one delivery (or one thing that happens to the broker), and what the promise says of it.

/// A story.
#[derive(Debug)]
pub(super) struct Tale {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) steps: &'static [Step],
}

/// One step.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) title: &'static str,
    pub(super) scene: Scene,
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scene {
    /// Alipay (or somebody who would like to be) delivers.
    Told(What, Manner, Promise),
    /// The broker takes nothing more.
    Broken,
    /// It does again, and the gateway announces this by itself.
    Mended(&'static str),
}

/// What is told of the trade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Paid,
    /// The same, of another amount: what cannot be.
    PaidMore,
    HalfRefunded,
    AllRefunded,
    Finished,
    Closed,
}

/// How it is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Once,
    EightAtOnce,
    InGbk,
    /// Another amount than the one that was signed.
    Forged,
    /// Signed with a key that nobody knows.
    ByAStranger,
    /// Signed with Alipay's next key.
    ByTheNextKey,
    /// Two days late.
    Expired,
}

/// What the promise says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Promise {
    /// `success`, and this event.
    Announced(&'static str),
    /// `success`, and no event: it is known.
    Known,
    /// Not `success`, and no event.
    Refused,
}

use Manner::{ByAStranger, ByTheNextKey, EightAtOnce, Expired, Forged, InGbk, Once};
use Promise::{Announced, Known, Refused};
use Scene::{Broken, Mended, Told};
use What::{AllRefunded, Closed, Finished, HalfRefunded, Paid, PaidMore};

impl Tale {
    pub(super) fn needs_next_key(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.scene, Told(_, ByTheNextKey, _)))
    }

    pub(super) fn needs_commands(&self) -> bool {
        self.steps.iter().any(|step| step.scene == Broken)
    }
}

const fn step(title: &'static str, scene: Scene) -> Step {
    Step { title, scene }
}

const PAID: Promise = Announced("payment.succeeded");
const REFUNDED: Promise = Announced("payment.refunded");

pub(super) const TALES: [Tale; 9] = [
    Tale {
        name: "double-payment",
        about: "one payment, and three things that look like a second one",
        steps: &[
            step("a buyer pays", Told(Paid, Once, PAID)),
            step("Alipay delivers it again", Told(Paid, Once, Known)),
            step("and eight times at once", Told(Paid, EightAtOnce, Known)),
            step("half is given back: it is TRADE_SUCCESS, too", Told(HalfRefunded, Once, REFUNDED)),
            step("months later: TRADE_FINISHED", Told(Finished, Once, Announced("trade.finished"))),
        ],
    },
    Tale {
        name: "racing",
        about: "eight first deliveries of one payment at once",
        steps: &[
            step("a buyer pays, and eight deliveries race", Told(Paid, EightAtOnce, PAID)),
            step("a ninth comes", Told(Paid, Once, Known)),
        ],
    },
    Tale {
        name: "refund-first",
        about: "a refund that arrives before its payment",
        steps: &[
            step("half is given back of what nobody has heard of", Told(HalfRefunded, Once, REFUNDED)),
            step("then the payment arrives", Told(Paid, Once, PAID)),
            step("the refund comes again", Told(HalfRefunded, Once, Known)),
            step("the rest is given back", Told(AllRefunded, Once, REFUNDED)),
        ],
    },
    Tale {
        name: "unpaid",
        about: "a trade that nobody paid in time",
        steps: &[
            step("it is closed", Told(Closed, Once, Announced("trade.closed"))),
            step("and told again", Told(Closed, Once, Known)),
        ],
    },
    Tale {
        name: "conflict",
        about: "the same payment with another amount, signed by Alipay",
        steps: &[
            step("a buyer pays", Told(Paid, Once, PAID)),
            step("Alipay says that it was more", Told(PaidMore, Once, Announced("payment.conflict"))),
            step("and says so again", Told(PaidMore, Once, Known)),
        ],
    },
    Tale {
        name: "forgeries",
        about: "somebody who would like to have paid",
        steps: &[
            step("an amount is changed on the way", Told(Paid, Forged, Refused)),
            step("a stranger signs", Told(Paid, ByAStranger, Refused)),
            step("a genuine one, two days old, of a trade that is not known", Told(Paid, Expired, Refused)),
            step("the genuine one is none the worse for it", Told(Paid, Once, PAID)),
        ],
    },
    Tale {
        name: "gbk",
        about: "a merchant whose charset is GBK",
        steps: &[
            step("a buyer pays, told in GBK", Told(Paid, InGbk, PAID)),
            step("again, in UTF-8", Told(Paid, Once, Known)),
        ],
    },
    Tale {
        name: "key-rotation",
        about: "Alipay changes its key while both are configured (--next-key)",
        steps: &[
            step("a buyer pays, signed with the old key", Told(Paid, Once, PAID)),
            step("half is given back, signed with the next one", Told(HalfRefunded, ByTheNextKey, REFUNDED)),
            step("the payment again, signed with the next one", Told(Paid, ByTheNextKey, Known)),
            step("a stranger's key is neither", Told(Finished, ByAStranger, Refused)),
        ],
    },
    Tale {
        name: "broker-outage",
        about: "a payment while the broker takes nothing (--break, --mend)",
        steps: &[
            step("the broker takes nothing more", Broken),
            step("a buyer pays: Alipay is asked to come again", Told(Paid, Once, Refused)),
            step("the broker is back: the gateway announces it by itself", Mended("payment.succeeded")),
            step("Alipay comes again", Told(Paid, Once, Known)),
        ],
    },
];
