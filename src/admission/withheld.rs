//! What is authentic and was refused, and under which name it is held.

use super::acceptance::Objection;
use super::form::Form;
use super::policy::App;
use super::{borders, notification};
use crate::clock::Timestamp;

/// An authentic notification that was refused: the only thing that publication holds.
#[derive(Debug)]
pub struct Withheld {
    app_id: String,
    notify_id: String,
    subject: String,
    payment_time: Option<Timestamp>,
    objection: Objection,
    /// Which of the readings of what is signed it is, where there may be several.
    reading: Reading,
}

/// Which reading of what is signed is withheld.
#[derive(Debug, Clone, Copy)]
enum Reading {
    /// The only one.
    Plain,
    /// One of several, which an operator may choose.
    Of(u32),
    /// One of several, against which something else speaks, too: it cannot be released.
    Hopeless,
}

impl Withheld {
    pub(super) fn of(form: &Form, app: &App, objection: Objection) -> Self {
        let charset = notification::Charset::of(form);
        let notify_id = charset.text(form.value("notify_id").unwrap_or_default()).0.into_owned();
        let trade_no = form.value("trade_no").and_then(notification::trade_no);
        let subject = trade_no.map_or_else(|| notify_id.clone(), str::to_owned);
        // What Alipay says of a refund, or months later of a trade's end, names the payment's time as well, and has a schedule of its own.
        let announces_payment =
            form.value("trade_status") == Some(b"TRADE_SUCCESS") && form.value("gmt_refund").is_none();
        let payment_time =
            form.value("gmt_payment").filter(|_| announces_payment).and_then(notification::time);
        let reading = match objection {
            Objection::Ambiguous(_) => Reading::Of(borders::reading(form)),
            Objection::Grammar(_) | Objection::Seller | Objection::Stale if borders::is_doubtful(form) => {
                Reading::Hopeless
            }
            Objection::Grammar(_) | Objection::Seller | Objection::Stale => Reading::Plain,
        };
        Self { app_id: app.app_id.clone(), notify_id, subject, payment_time, objection, reading }
    }

    /// The app it is of.
    pub fn app_id(&self) -> &str {
        &self.app_id
    }

    /// `notify_id` as text, whatever its form.
    pub fn notify_id(&self) -> &str {
        &self.notify_id
    }

    /// What it is held as: its `notify_id`, so that a re-delivery replaces it. Of what can be read in two ways each has a row
    /// of its own: whoever sends the other one is not to exchange what an operator has looked at. Those that no release takes
    /// share one, because anybody with one signed body can make tens of thousands of them.
    pub fn held_as(&self) -> String {
        match self.reading {
            Reading::Plain => self.notify_id.clone(),
            Reading::Of(reading) => format!("{}-{reading:08x}", self.notify_id),
            Reading::Hopeless => format!("{}-other", self.notify_id),
        }
    }

    /// `trade_no` if it has the form of one, else `notify_id`.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// When the buyer paid, if that can be read, and a payment is what it tells.
    pub fn payment_time(&self) -> Option<Timestamp> {
        self.payment_time
    }

    /// Why.
    pub fn objection(&self) -> Objection {
        self.objection
    }
}
