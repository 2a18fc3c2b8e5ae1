//! Admission: from bytes to a verdict. A pure function of the bytes, the time and one immutable [`Policy`]: no
//! I/O, no clock, no panic on any input (design.md, invariant 4).
//!
//! ```text
//! bytes ─▶ Unverified ─▶ Verified ─▶ Accepted ─▶ Admitted(Event)
//! ```
//!
//! Each stage consumes the one before it and has no other constructor, so a wrong order does not compile. An
//! event cannot be read out of what has not been verified:
//!
//! ```compile_fail
//! use alipay_notify_gateway::admission::Unverified;
//! fn peek(unverified: Unverified<'_>) {
//!     unverified.event(); // only Admitted has one
//! }
//! ```
//!
//! What was not verified cannot be accepted:
//!
//! ```compile_fail
//! use alipay_notify_gateway::admission::{Unverified, acceptance::Waived};
//! fn skip(unverified: Unverified<'_>) {
//!     unverified.accept(Waived::Nothing); // only Verified can be accepted
//! }
//! ```
//!
//! Nobody but admission makes an `Admitted`, and nobody copies one:
//!
//! ```compile_fail
//! use alipay_notify_gateway::{admission::Admitted, event::Event};
//! fn forge(event: Event) -> Admitted {
//!     Admitted { event } // private fields
//! }
//! ```
//!
//! ```compile_fail
//! use alipay_notify_gateway::admission::Admitted;
//! fn twice(admitted: &Admitted) -> Admitted {
//!     admitted.clone() // no Clone
//! }
//! ```

pub mod acceptance;
mod borders;
pub mod classification;
mod facts;
pub mod form;
pub mod key_ring;
pub mod notification;
pub mod policy;
pub mod signature;
pub mod signing_content;
mod withheld;

use std::sync::Arc;

use acceptance::{Deciding, Waived};
use form::{Form, FormError};
use key_ring::PublicKey;
use policy::{App, Policy};
use signing_content::{Recipe, Version};
pub use withheld::Withheld;

use crate::clock::Timestamp;
use crate::event::Event;

/// Decides what a body is.
pub fn admit(body: &[u8], policy: &Policy, now: Timestamp) -> Verdict {
    admit_released(body, policy, now, Waived::Nothing, now)
}

/// Decides what a held body is, with what its operator lets pass. Its signature is verified like any other's, with the
/// keys of today; its age is what it was when it was first held, for it grows old while somebody looks into it.
pub fn admit_released(
    body: &[u8],
    policy: &Policy,
    now: Timestamp,
    waived: Waived,
    held_at: Timestamp,
) -> Verdict {
    let form = match Form::parse(body) {
        Ok(form) => form,
        Err(error) => return Verdict::Rejected(Rejection::Malformed(error), Cost::Nothing),
    };
    let verified = match Unverified::new(body, &form).verify(policy) {
        Ok(verified) => verified,
        Err(Unbelieved::Rejected(rejection, cost)) => return Verdict::Rejected(rejection, cost),
        Err(Unbelieved::Shadowed(key)) => return Verdict::Shadowed(key),
    };
    let key = verified.key_name();
    match verified.accept(waived) {
        Ok(accepted) => {
            let mut admitted = accepted.classify(policy, now);
            let was_stale = acceptance::is_stale(Some(admitted.event.notified_at), held_at, policy.max_age);
            Arc::make_mut(&mut admitted.event).stale &= was_stale && waived != Waived::Age;
            Verdict::Admitted(admitted, key)
        }
        Err(Refused::Rejected(rejection)) => Verdict::Rejected(rejection, Cost::Verification),
        Err(Refused::Withheld(withheld)) => Verdict::Withheld(withheld, key),
    }
}

/// What admission decided.
#[derive(Debug)]
pub enum Verdict {
    /// It means something, and may be published.
    Admitted(Admitted, KeyName),
    /// It is authentic, and was refused: to be held.
    Withheld(Withheld, KeyName),
    /// It is not authentic, or no notification, and finding that out cost something or nothing.
    Rejected(Rejection, Cost),
    /// Only a key in shadow mode verifies it: [`Rejection::ShadowKey`].
    Shadowed(KeyName),
}

/// What a refusal has cost us, as far as a forger can make us spend it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// A look at the form.
    Nothing,
    /// A signature was verified.
    Verification,
}

/// An event of a verified and accepted notification: the only thing that publication takes.
#[derive(Debug)]
pub struct Admitted {
    event: Arc<Event>,
}

impl Admitted {
    /// The event.
    pub fn event(&self) -> &Arc<Event> {
        &self.event
    }

    /// Gives up the proof for the event.
    pub(crate) fn into_event(self) -> Arc<Event> {
        self.event
    }
}

/// Which key verified it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyName {
    /// The app.
    pub app_id: String,
    /// The first 12 hex digits of the SHA-256 of its SPKI.
    pub fingerprint: String,
}

impl KeyName {
    fn of(app: &App, key: &PublicKey) -> Self {
        Self { app_id: app.app_id.clone(), fingerprint: key.fingerprint().to_owned() }
    }
}

/// Why something is refused that is not known to be authentic, or is no notification. A closed list: it is a
/// label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Not a form.
    #[error("{0}")]
    Malformed(FormError),
    /// The old partner interface, from before apps.
    #[error("this is of the partner interface from before 2016, which has no app_id: it is not supported")]
    Partner,
    /// Nothing says which app it is for.
    #[error("there is no app_id")]
    NoAppId,
    /// Not an app of ours.
    #[error("the app_id is not one that is configured")]
    UnknownApp,
    /// Not the algorithm that the app is pinned to.
    #[error("the sign_type is not the one that the app is pinned to")]
    SignType,
    /// No signature.
    #[error("there is no sign")]
    NoSignature,
    /// A signature that no key of the app could have made.
    #[error("the sign is not base64 of exactly the key's length")]
    SignatureForm,
    /// Something without which nothing can be decided.
    #[error("the field {0} is missing")]
    MissingField(&'static str),
    /// The signature is of a key that is watched and not believed yet.
    #[error("only a key in shadow mode verifies the signature")]
    ShadowKey,
    /// The signature is not of any key of the app.
    #[error("the signature does not verify with any key of the app")]
    Signature,
    /// The browser's way back: authentic, and not a notification.
    #[error("this is a return-URL query, the browser's way back: it is not a notification")]
    ReturnUrl,
}

impl Rejection {
    /// Every reason, as metrics know it; `not_a_form` is counted by the listener.
    pub const REASONS: [&'static str; 12] = [
        "malformed",
        "partner",
        "no_app_id",
        "unknown_app",
        "sign_type",
        "no_signature",
        "signature_form",
        "missing_field",
        "shadow_key",
        "signature",
        "return_url",
        "not_a_form",
    ];

    /// The label.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::Partner => "partner",
            Self::NoAppId => "no_app_id",
            Self::UnknownApp => "unknown_app",
            Self::SignType => "sign_type",
            Self::NoSignature => "no_signature",
            Self::SignatureForm => "signature_form",
            Self::MissingField(_) => "missing_field",
            Self::ShadowKey => "shadow_key",
            Self::Signature => "signature",
            Self::ReturnUrl => "return_url",
        }
    }
}

/// Why a form is not believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unbelieved {
    /// For this, found out at this cost.
    Rejected(Rejection, Cost),
    /// Only this key verifies it, and it is in shadow mode.
    Shadowed(KeyName),
}

/// Before a signature is verified.
impl From<Rejection> for Unbelieved {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection, Cost::Nothing)
    }
}

/// A form, about which nothing else is known.
#[derive(Debug)]
pub struct Unverified<'f> {
    body: &'f [u8],
    form: &'f Form,
}

impl<'f> Unverified<'f> {
    /// A body and the form that was read from it.
    pub fn new(body: &'f [u8], form: &'f Form) -> Self {
        Self { body, form }
    }

    /// The one field that may be looked at before the signature: it selects the keys.
    pub fn claimed_app_id(&self) -> Option<&'f [u8]> {
        self.form.value("app_id")
    }

    /// Cheap checks first, then RSA: a forger should cost us less than we cost him.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn verify(self, policy: &'f Policy) -> Result<Verified<'f>, Unbelieved> {
        let app = match self.claimed_app(policy) {
            Ok(app) => app,
            Err(rejection) => return Err(self.refuse_slowly(policy, rejection)),
        };
        let signature = match self.claimed_signature(app) {
            Ok(signature) => signature,
            Err(rejection) => return Err(self.refuse_slowly(policy, rejection)),
        };
        let is_return_url = is_return_url(self.form);
        if !is_return_url {
            check_required(self.form, app)?;
        }
        if let Some(key) = find_key(self.form, &app.keys, &signature) {
            return Ok(Verified { body: self.body, form: self.form, app, key, is_return_url });
        }
        Err(match find_key(self.form, &app.shadow_keys, &signature) {
            Some(watched) => Unbelieved::Shadowed(KeyName::of(app, watched)),
            None => Unbelieved::Rejected(Rejection::Signature, Cost::Verification),
        })
    }

    /// An unknown app takes as long as a forged signature, and so does a known one with the `sign_type` of another: nobody
    /// learns from the time of an answer which apps there are. It costs no more than what a forger can have anyway, by
    /// naming one that is known.
    fn refuse_slowly(&self, policy: &Policy, rejection: Rejection) -> Unbelieved {
        let claimed = self.form.value("sign_type");
        let mut apps = policy.apps.values();
        let decoy = apps.find(|app| claimed == Some(app.sign_type.as_str().as_bytes()));
        let decoy = decoy.filter(|_| matches!(rejection, Rejection::UnknownApp | Rejection::SignType));
        if let Some(decoy) = decoy
            && let Ok(signature) = self.claimed_signature(decoy)
            && (is_return_url(self.form) || check_required(self.form, decoy).is_ok())
        {
            let _ = find_key(self.form, &decoy.keys, &signature);
            let _ = find_key(self.form, &decoy.shadow_keys, &signature);
            return Unbelieved::Rejected(rejection, Cost::Verification);
        }
        rejection.into()
    }

    fn claimed_app<'p>(&self, policy: &'p Policy) -> Result<&'p App, Rejection> {
        let Some(claimed) = self.claimed_app_id() else {
            // `notify_data` is the XML of the wireless partner interface.
            let is_notification =
                ["notify_id", "notify_data"].iter().any(|name| self.form.value(name).is_some());
            let partner = is_notification && self.form.value("sign").is_some();
            return Err(if partner { Rejection::Partner } else { Rejection::NoAppId });
        };
        let app = std::str::from_utf8(claimed).ok().and_then(|claimed| policy.apps.get(claimed));
        app.ok_or(Rejection::UnknownApp)
    }

    /// `sign_type` is itself unsigned under V1, so it chooses nothing: it must be the app's own.
    fn claimed_signature(&self, app: &App) -> Result<Vec<u8>, Rejection> {
        if self.form.value("sign_type") != Some(app.sign_type.as_str().as_bytes()) {
            return Err(Rejection::SignType);
        }
        let sign = self.form.value("sign").ok_or(Rejection::NoSignature)?;
        let signature = signature::decode(sign).ok_or(Rejection::SignatureForm)?;
        let mut keys = app.keys.iter().chain(&app.shadow_keys);
        let possible = keys.any(|key| key.signature_bytes() == signature.len());
        if possible { Ok(signature) } else { Err(Rejection::SignatureForm) }
    }
}

/// A form with a signature of one of the app's keys over exactly its bytes.
#[derive(Debug)]
pub struct Verified<'f> {
    body: &'f [u8],
    form: &'f Form,
    app: &'f App,
    key: &'f PublicKey,
    is_return_url: bool,
}

/// What acceptance may answer beside yes.
#[derive(Debug)]
pub enum Refused {
    /// Authentic, and no notification.
    Rejected(Rejection),
    /// Authentic, and to be held.
    Withheld(Withheld),
}

impl<'f> Verified<'f> {
    /// The key that verified it.
    pub fn key_name(&self) -> KeyName {
        KeyName::of(self.app, self.key)
    }

    /// Checks what an authentic notification must have before it may mean anything.
    ///
    /// # Errors
    /// A return-URL query is rejected; everything else that is refused here is withheld.
    pub fn accept(self, waived: Waived) -> Result<Accepted<'f>, Refused> {
        if self.is_return_url {
            return Err(Refused::Rejected(Rejection::ReturnUrl));
        }
        match acceptance::accept(self.form, self.app, waived) {
            Ok(deciding) => Ok(Accepted { body: self.body, form: self.form, app: self.app, deciding }),
            Err(objection) => Err(Refused::Withheld(Withheld::of(self.form, self.app, objection))),
        }
    }
}

/// A notification that may mean something.
#[derive(Debug)]
pub struct Accepted<'f> {
    body: &'f [u8],
    form: &'f Form,
    app: &'f App,
    deciding: Deciding<'f>,
}

impl Accepted<'_> {
    /// Says what it means.
    pub fn classify(self, policy: &Policy, now: Timestamp) -> Admitted {
        let event = classification::classify(self.body, self.form, &self.deciding, self.app, policy, now);
        Admitted { event: Arc::new(event) }
    }
}

/// The browser's way back (protocol.md §5): recognised before anything else is asked of it, because it lacks
/// some of what a notification must have.
fn is_return_url(form: &Form) -> bool {
    form.value("method").is_some_and(|method| method.ends_with(b".return"))
        || form.value("notify_id").is_none()
}

/// Without these nothing can be decided (design.md, "Admission"). A `msg_method` message has no `notify_type`
/// and no `notify_time` (protocol.md §5): refused, it would be repeated for 25 hours.
fn check_required(form: &Form, app: &App) -> Result<(), Rejection> {
    let of_trade: &[&'static str] = match () {
        () if form.value("msg_method").is_some() => &[],
        () if !acceptance::is_trade(form) => &["notify_type", "notify_time"],
        () if app.seller_ids.is_empty() => {
            &["notify_time", "trade_no", "out_trade_no", "trade_status", "total_amount"]
        }
        () => &["notify_time", "trade_no", "out_trade_no", "trade_status", "total_amount", "seller_id"],
    };
    let missing = of_trade.iter().find(|name| form.value(name).is_none());
    missing.map_or(Ok(()), |name| Err(Rejection::MissingField(name)))
}

/// The key of which `signature` is over this form, in any way in which Alipay may have built what it signed.
/// Bound: 4 recipes, or 8 for what is neither a trade nor without `service` and `method`, times the app's keys.
fn find_key<'k>(form: &Form, keys: &'k [PublicKey], signature: &[u8]) -> Option<&'k PublicKey> {
    let v1 = Recipe::worth_trying(form, Version::V1);
    // The V2 trap (protocol.md §2): a real V2 callback carries trade_status and total_amount, and is signed
    // with a key that every merchant shares. A trade is never tried under V2.
    let may_be_v2 = may_be_v2(form) && !acceptance::is_trade(form) && form.value("trade_status").is_none();
    let v2 = may_be_v2.then(|| Recipe::worth_trying(form, Version::V2));
    v1.chain(v2.into_iter().flatten()).find_map(|recipe| {
        let content = recipe.content(form);
        keys.iter().find(|key| key.verifies(&content, signature))
    })
}

/// Application-gateway traffic, which is signed with `sign_type` in it.
pub fn may_be_v2(form: &Form) -> bool {
    form.value("service").is_some() || form.value("method").is_some()
}

#[cfg(test)]
mod tests;
