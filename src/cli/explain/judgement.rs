//! What is true of a captured body: whether its signature is authentic under the keys given, whatever else is
//! wrong with it, and what `serve` would do with it, seen for the first time.

use crate::admission::acceptance::{self, Objection};
use crate::admission::form::{Form, FormError};
use crate::admission::key_ring::PublicKey;
use crate::admission::notification::{self, Charset};
use crate::admission::policy::{App, Policy};
use crate::admission::signing_content::{Recipe, Version};
use crate::admission::{self, Rejection, Verdict, signature};
use crate::clock::Timestamp;
use crate::event::Message;

/// What a body is judged by.
#[derive(Debug)]
pub(super) struct Grounds {
    /// As `serve` would have it.
    pub(super) policy: Policy,
    /// Every app that is configured, asked for or not.
    pub(super) apps: Vec<App>,
    /// The keys that can prove something: those of the app, or those of `--key`.
    pub(super) keys: Vec<PublicKey>,
    /// Those, and the ones given that are of another algorithm: they may still tell what was done.
    pub(super) suspects: Vec<PublicKey>,
    /// What is odd about them.
    pub(super) remarks: Vec<String>,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Judgement {
    /// How the signature verified, if it did.
    pub(super) proof: Option<Proof>,
    /// Why `serve` would not announce it; `None` if it would.
    pub(super) reason: Option<Reason>,
    /// What `serve` would announce.
    pub(super) announced: Option<Message>,
    /// The parameters that are signed and how they are joined; `None` if there is no form.
    pub(super) content: Option<Vec<u8>>,
    /// How bytes become text.
    pub(super) charset: Option<Charset>,
}

/// How a signature verified.
#[derive(Debug)]
pub(super) struct Proof {
    /// The key's first 12 digits.
    pub(super) fingerprint: String,
    /// How the content was built.
    pub(super) recipe: Recipe,
}

/// Why `serve` would not announce something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// It would be refused, and forgotten.
    Rejected(Rejection),
    /// It would be refused, and held.
    Held(Objection),
}

impl Reason {
    /// The metric's word.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Rejected(rejection) => rejection.reason(),
            Self::Held(objection) => objection.reason(),
        }
    }
}

/// Judges a body at a time: `at`, else the notification's own, else `now`.
pub(super) fn judge(body: &[u8], grounds: &Grounds, at: Option<Timestamp>, now: Timestamp) -> Judgement {
    let form = match Form::parse(body) {
        Ok(form) => form,
        Err(error) => return malformed(error),
    };
    let at = at.or_else(|| notified_at(&form)).unwrap_or(now);
    let proof = prove(&form, &grounds.keys);
    let recipe = proof.as_ref().map_or_else(|| likeliest(&form), |proof| proof.recipe);
    let (reason, announced) = foresee(admission::admit(body, &grounds.policy, at));
    Judgement {
        content: Some(recipe.content(&form)),
        charset: Some(Charset::of(&form)),
        proof,
        reason,
        announced,
    }
}

fn malformed(error: FormError) -> Judgement {
    let reason = Some(Reason::Rejected(Rejection::Malformed(error)));
    Judgement { proof: None, reason, announced: None, content: None, charset: None }
}

fn notified_at(form: &Form) -> Option<Timestamp> {
    let time = form.value("notify_time").and_then(notification::time);
    // A `msg_method` message has this in its place, and would else be judged years late.
    time.or_else(|| form.value("utc_timestamp").and_then(acceptance::unix_millis))
}

/// The signature alone, in every way in which Alipay may have made it. Nothing else of the form is asked: not
/// its app, nor its `sign_type`, nor whether it is a trade.
fn prove(form: &Form, keys: &[PublicKey]) -> Option<Proof> {
    let signature = signature::decode(form.value("sign")?)?;
    let v2 = admission::may_be_v2(form).then(|| Recipe::worth_trying(form, Version::V2));
    Recipe::worth_trying(form, Version::V1).chain(v2.into_iter().flatten()).find_map(|recipe| {
        let content = recipe.content(form);
        let key = keys.iter().find(|key| key.verifies(&content, &signature))?;
        Some(Proof { fingerprint: key.fingerprint().to_owned(), recipe })
    })
}

fn likeliest(form: &Form) -> Recipe {
    let first = Recipe::worth_trying(form, Version::V1).next();
    first.unwrap_or(Recipe { version: Version::V1, empty_values: false, cert_sn: true })
}

/// What `serve` would make of a verdict with an empty store.
fn foresee(verdict: Verdict) -> (Option<Reason>, Option<Message>) {
    match verdict {
        Verdict::Rejected(rejection, _) => (Some(Reason::Rejected(rejection)), None),
        Verdict::Shadowed(_) => (Some(Reason::Rejected(Rejection::ShadowKey)), None),
        Verdict::Withheld(withheld, _) => (Some(Reason::Held(withheld.objection())), None),
        Verdict::Admitted(admitted, _) => {
            let event = admitted.event();
            match event {
                event if event.stale => (Some(Reason::Held(Objection::Stale)), None),
                event if event.late => (None, Some(Message::of(&event.as_late(), false, None))),
                event => (None, Some(Message::of(event, false, None))),
            }
        }
    }
}
