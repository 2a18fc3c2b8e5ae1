//! Whether a border between fields was moved. The signing content does not escape values (protocol.md §2), so the same signed
//! bytes can be sent as other parameters: a text is split where it holds `&name=`, a field is swallowed by what stands before
//! it, or both. What Alipay signed is one of the readings of these bytes; nobody but Alipay knows which.
//!
//! A split field alone would be doubled, which the form refuses, and one that was swallowed is missing. Split and swallowed at
//! once, nothing is doubled and nothing is missing: so every reading is looked for that is a notification as well (what is
//! signed is sorted, and is complete) and says something else. Its fields need not have the form that ours must have: of other kinds
//! nobody knows it.
//!
//! A text that merely holds `a=1&b=2` is a merchant's, and fine: as fields of their own, its parts would be out of order, or
//! what every notification has would be missing.

use sha2::{Digest as _, Sha256};

use super::acceptance::Objection;
use super::form::Form;
use super::notification::KNOWN_FIELDS;

/// Looks for a border that may have been moved.
///
/// # Errors
/// With the field that it would be about.
pub(super) fn check(form: &Form) -> Result<(), Objection> {
    if form.holders().next().is_none() {
        return Ok(());
    }
    let holders = || form.holders().filter(|(_, (name, _))| is_signed(name) && !is_cert_sn(name));
    // They hold no `&`, so nothing can have been swallowed here.
    let closed = holders().find_map(|(_, (name, _))| named(&CLOSED, name));
    if let Some(name) = closed {
        return Err(Objection::Grammar(name));
    }
    let mut first = None;
    for (at, (swallower, value)) in holders() {
        for known in pieces(value).filter_map(|(name, _)| named(&KNOWN_FIELDS, name)) {
            // A plain word that is a field's name too (`status`, `version`) is a merchant's, if that field cannot have stood
            // there: it lies between the parameter that swallowed it and the next.
            let name = known.as_bytes();
            let can_have = || swallower < name && next_signed(form, at).is_none_or(|next| name < next);
            let fits = named(&PLAIN_WORDS, name).is_none() || can_have();
            // An empty parameter of that name is absent: anyone could have appended it.
            if fits && form.value(known).is_none() {
                return Err(Objection::Ambiguous(known));
            }
            first.get_or_insert(known);
        }
    }
    let Some(first) = first else { return Ok(()) };
    // Whether empty values are signed the SDKs disagree about, so both are read.
    for with_empty in [false, true] {
        if with_empty && !form.has_empty_values() {
            break;
        }
        let tokens = Token::of(form, with_empty);
        let hidden = || tokens.iter().filter(|token| token.is_hidden);
        if Kind::ALL.into_iter().any(|kind| has_other_reading(form, &tokens, kind)) {
            let differing = hidden().filter_map(|token| Some((deciding(token.name)?, token.value)));
            let mut differing = differing.filter(|(field, value)| form.value(field.name) != Some(*value));
            return Err(Objection::Ambiguous(differing.next().map_or(first, |(field, _)| field.name)));
        }
    }
    Ok(())
}

/// Whether it may be one of several readings of what is signed, whatever else is held against it. Of what decides only
/// `passback_params` may hold `&`.
pub(super) fn is_doubtful(form: &Form) -> bool {
    let is_moved = |field: &Deciding| {
        let holds = || form.value(field.name).is_some_and(|value| value.contains(&b'&'));
        field.name != "passback_params" && holds()
    };
    DECIDING.iter().any(is_moved) || check(form).is_err()
}

/// What tells the readings of the same bytes apart: the first bytes of the SHA-256 of all fields that decide. But not of
/// `notify_time`, which is another one in each delivery.
pub(super) fn reading(form: &Form) -> u32 {
    let mut hash = Sha256::new();
    for field in DECIDING.iter().filter(|field| field.name != "notify_time") {
        let value = form.value(field.name).unwrap_or_default();
        hash.update(value.len().to_be_bytes());
        hash.update(value);
    }
    hash.finalize().iter().take(4).fold(0, |reading, byte| reading << 8 | u32::from(*byte))
}

/// Whether something stands before a parameter that could have been a text which held it.
pub(super) fn may_be_of_a_text(form: &Form, name: &str) -> bool {
    let mut before = form.parameters().take_while(|(other, _)| *other < name.as_bytes());
    before.any(|(name, value)| {
        let is_text = matches!(name, b"body" | b"passback_params") || named(&KNOWN_FIELDS, name).is_none();
        is_text && is_signed(name) && !is_cert_sn(name) && !value.is_empty()
    })
}

/// A part of what is signed between two `&`.
struct Token<'a> {
    /// Before the first `=`; empty where there is none, which is no name.
    name: &'a [u8],
    value: &'a [u8],
    /// It is inside the value of a parameter, as this was sent.
    is_hidden: bool,
}

impl<'a> Token<'a> {
    /// All, in their order. Without `alipay_cert_sn`, which is no part of a text and may be signed or not.
    fn of(form: &'a Form, with_empty: bool) -> Vec<Self> {
        let mut tokens = Vec::new();
        for (name, value) in form.parameters() {
            if !is_signed(name) || is_cert_sn(name) || (value.is_empty() && !with_empty) {
                continue;
            }
            let mut parts = value.split(|byte| *byte == b'&');
            tokens.push(Self { name, value: parts.next().unwrap_or_default(), is_hidden: false });
            tokens.extend(parts.map(|part| {
                let (name, value) = parameter(part).unwrap_or((&[], part));
                Self { name, value, is_hidden: true }
            }));
        }
        tokens
    }

    fn is_hidden_field(&self) -> bool {
        self.is_hidden && named(&KNOWN_FIELDS, self.name).is_some()
    }
}

/// What a reading may be: each has other fields that it cannot be without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `notify_type` says so.
    Trade,
    /// `notify_type` says something else.
    Other,
    /// `msg_method` says what.
    Message,
    /// `method` says what: the query of a return URL, or traffic of the application gateway.
    Call,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Trade, Self::Other, Self::Message, Self::Call];

    /// Whether a field can be what a token says.
    fn takes(self, field: &Deciding, value: &[u8]) -> bool {
        let is_of_trade = value == b"trade_status_sync";
        (field.has_form)(value) && (field.name != "notify_type" || is_of_trade == (self == Self::Trade))
    }
}

/// What is known of a reading, as far as it was read: whether it takes a field out of a value, and whether it says something
/// else in a field that decides. Both together are what is looked for.
type Told = usize;
const TAKES_OUT: Told = 1;
const DIFFERS: Told = 2;
const ALL_TOLD: usize = 4;

/// Whether the same bytes, read as other parameters, are a notification of this kind that takes a known field out of a value
/// and differs in what decides.
///
/// One pass over the tokens. A reading is where parameters begin: their names ascend, and what lies between two of them belongs
/// to the first, if it may hold `&`. Of readings that are equal in what is told and in how many of the fields that decide have
/// been passed, the one whose last parameter has the least name can go on wherever the others can; so it alone is kept.
fn has_other_reading(form: &Form, tokens: &[Token<'_>], kind: Kind) -> bool {
    // What passing over these fields means; nothing if the kind cannot be without one of them.
    let pass = |from: usize, to: usize, told: Told| {
        let passed = DECIDING.get(from..to)?;
        let differs = passed.iter().any(|field| form.value(field.name).is_some());
        let lacks = passed.iter().any(|field| field.required_of.contains(&kind));
        (!lacks).then_some(if differs { told | DIFFERS } else { told })
    };
    // By how many of DECIDING are called no more than the last parameter: its name, if it may hold what follows.
    let mut open: [[Option<&[u8]>; ALL_TOLD]; FIELDS + 1] = [[None; ALL_TOLD]; FIELDS + 1];
    // The last token began a parameter that holds no `&`: what follows begins the next.
    let mut closed: Option<(&[u8], usize, [bool; ALL_TOLD])> = None;
    for (at, token) in tokens.iter().enumerate() {
        let (mut reached, before) =
            ([false; ALL_TOLD], DECIDING.partition_point(|field| field.name.as_bytes() < token.name));
        let field = deciding(token.name);
        let may_begin = !token.name.is_empty() && field.is_none_or(|field| kind.takes(field, token.value));
        let mut reach = |passed: usize, told: Told| {
            if let Some(flag) = pass(passed, before, told).and_then(|told| reached.get_mut(told)) {
                *flag = true;
            }
        };
        if may_begin && at == 0 {
            reach(0, 0);
        }
        if may_begin {
            for (passed, least) in open.iter().enumerate() {
                let earlier =
                    least.iter().enumerate().filter(|(_, name)| name.is_some_and(|name| name < token.name));
                earlier.for_each(|(told, _)| reach(passed, told));
            }
            if let Some((_, passed, told)) = closed.filter(|(name, ..)| *name < token.name) {
                told.iter()
                    .enumerate()
                    .filter(|(_, reached)| **reached)
                    .for_each(|(told, _)| reach(passed, told));
            }
        }
        closed = None;
        let mut own = if token.is_hidden_field() { TAKES_OUT } else { 0 };
        if token.is_hidden && field.is_some_and(|field| form.value(field.name) != Some(token.value)) {
            own |= DIFFERS;
        }
        let after = before + usize::from(field.is_some());
        let mut now = [false; ALL_TOLD];
        for (told, _) in reached.iter().enumerate().filter(|(_, reached)| **reached) {
            if let Some(flag) = now.get_mut(told | own) {
                *flag = true;
            }
        }
        if named(&CLOSED, token.name).is_some() {
            closed = now.contains(&true).then_some((token.name, after, now));
            continue;
        }
        for (told, _) in now.iter().enumerate().filter(|(_, reached)| **reached) {
            if let Some(least) = open.get_mut(after).and_then(|open| open.get_mut(told)) {
                *least = Some(least.map_or(token.name, |name| name.min(token.name)));
            }
        }
    }
    let ends = |passed: usize, told: Told| pass(passed, DECIDING.len(), told) == Some(TAKES_OUT | DIFFERS);
    let of_closed = closed.is_some_and(|(_, passed, told)| {
        told.iter().enumerate().any(|(told, reached)| *reached && ends(passed, told))
    });
    of_closed
        || open.iter().enumerate().any(|(passed, least)| {
            least.iter().enumerate().any(|(told, name)| name.is_some() && ends(passed, told))
        })
}

/// A field that decides: what is announced, or what whoever takes the event may do for whom.
struct Deciding {
    name: &'static str,
    required_of: &'static [Kind],
    /// Whether a value may be this field's.
    has_form: fn(&[u8]) -> bool,
}

fn deciding(name: &[u8]) -> Option<&'static Deciding> {
    DECIDING.iter().find(|field| field.name.as_bytes() == name)
}

const FIELDS: usize = 21;
/// By name.
static DECIDING: [Deciding; FIELDS] = [
    field("app_id", &Kind::ALL, is_something),
    field("auth_app_id", &[], is_something),
    field("buyer_id", &[], is_something),
    field("buyer_open_id", &[], is_something),
    field("gmt_create", &[], is_something),
    field("gmt_payment", &[], is_something),
    field("gmt_refund", &[], is_something),
    field("method", &[Kind::Call], is_of_a_call),
    field("msg_method", &[Kind::Message], is_of_a_call),
    field("notify_id", &[Kind::Trade, Kind::Other, Kind::Message], is_something),
    field("notify_time", &[Kind::Trade], is_something),
    field("notify_type", &[Kind::Trade, Kind::Other], is_something),
    field("out_biz_no", &[], is_something),
    field("out_trade_no", &[Kind::Trade], is_something),
    field("passback_params", &[], is_something),
    field("refund_fee", &[], is_something),
    field("seller_id", &[Kind::Trade], is_something),
    field("total_amount", &[Kind::Trade], is_something),
    field("trade_no", &[Kind::Trade], is_something),
    field("trade_status", &[Kind::Trade], is_something),
    field("trans_currency", &[], is_something),
];

const fn field(name: &'static str, required_of: &'static [Kind], has_form: fn(&[u8]) -> bool) -> Deciding {
    Deciding { name, required_of, has_form }
}

/// As all names of calls and messages (`alipay.…`, `ant.…`, `zhima.…`): merchants' own words have no dots.
fn is_of_a_call(value: &[u8]) -> bool {
    value.contains(&b'.') && value.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
}

fn is_something(value: &[u8]) -> bool {
    !value.is_empty()
}

/// Fields that never hold `&`: ids, amounts, times and words. What may is a text, a list in JSON, an address, and whatever is not
/// known.
const CLOSED: [&str; 36] = [
    "app_id",
    "auth_app_id",
    "buyer_id",
    "buyer_open_id",
    "buyer_pay_amount",
    "charge_amount",
    "charge_flags",
    "charset",
    "discount_amount",
    "gmt_close",
    "gmt_create",
    "gmt_payment",
    "gmt_refund",
    "invoice_amount",
    "mdiscount_amount",
    "merchant_app_id",
    "method",
    "msg_method",
    "notify_id",
    "notify_time",
    "notify_type",
    "point_amount",
    "receipt_amount",
    "refund_fee",
    "refund_status",
    "seller_id",
    "send_back_fee",
    "send_pay_date",
    "service",
    "settlement_id",
    "total_amount",
    "trade_no",
    "trade_status",
    "trans_currency",
    "utc_timestamp",
    "version",
];
/// Names of fields that merchants use in texts of their own, and that decide nothing about money.
const PLAIN_WORDS: [&str; 8] =
    ["body", "charset", "method", "service", "status", "subject", "timestamp", "version"];

fn named(names: &[&'static str], name: &[u8]) -> Option<&'static str> {
    names.iter().copied().find(|known| known.as_bytes() == name)
}

/// The name of the first signed parameter behind this one that counts.
fn next_signed(form: &Form, at: usize) -> Option<&[u8]> {
    let mut behind = form.parameters().skip(at + 1);
    behind
        .find(|(name, value)| is_signed(name) && !value.is_empty() && !is_cert_sn(name))
        .map(|(name, _)| name)
}

/// Whatever else is left out of what is signed.
fn is_signed(name: &[u8]) -> bool {
    !matches!(name, b"sign" | b"sign_type")
}

fn is_cert_sn(name: &[u8]) -> bool {
    name == b"alipay_cert_sn"
}

/// What stands behind an `&` in a value and looks like a parameter.
fn pieces(value: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    value.split(|byte| *byte == b'&').skip(1).filter_map(parameter)
}

fn parameter(part: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, value) = part.split_at_checked(part.iter().position(|byte| *byte == b'=')?)?;
    (!name.is_empty()).then_some((name, value.get(1..)?))
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    #[test]
    fn lists_that_are_searched_by_name_are_in_its_order() {
        assert!(DECIDING.is_sorted_by(|one, other| one.name < other.name) && CLOSED.is_sorted());
        assert!(CLOSED.iter().all(|name| KNOWN_FIELDS.contains(name)));
        // What decides and is not closed is the merchant's own.
        let open: Vec<&str> =
            DECIDING.iter().map(|field| field.name).filter(|name| !CLOSED.contains(name)).collect();
        assert_eq!(open, ["out_biz_no", "out_trade_no", "passback_params"]);
    }

    /// By trying every reading.
    fn tried(form: &Form, tokens: &[Token<'_>], kind: Kind) -> bool {
        let begins = |reading: u32, at: usize| at == 0 || reading >> (at - 1) & 1 == 1;
        (0..1_u32 << (tokens.len() - 1)).any(|reading| {
            let first: Vec<usize> = (0..tokens.len()).filter(|at| begins(reading, *at)).collect();
            let is_read = |name: &str| first.iter().any(|at| tokens[*at].name == name.as_bytes());
            let ends = |nth: usize| first.get(nth + 1).copied().unwrap_or(tokens.len());
            let is_one = first.iter().enumerate().all(|(nth, &at)| {
                let Token { name, value, .. } = tokens[at];
                let holds_none = ends(nth) == at + 1;
                !name.is_empty()
                    && first.get(nth + 1).is_none_or(|next| name < tokens[*next].name)
                    && (named(&CLOSED, name).is_none() || holds_none)
                    && deciding(name).is_none_or(|field| kind.takes(field, value))
            });
            let takes_out = first.iter().any(|at| tokens[*at].is_hidden_field());
            let differs = DECIDING.iter().any(|field| {
                let read = first.iter().find(|at| tokens[**at].name == field.name.as_bytes());
                match read {
                    Some(&at) => tokens[at].is_hidden && form.value(field.name) != Some(tokens[at].value),
                    None => form.value(field.name).is_some(),
                }
            });
            is_one
                && takes_out
                && differs
                && DECIDING.iter().all(|field| !field.required_of.contains(&kind) || is_read(field.name))
        })
    }

    #[test]
    fn other_readings_are_found_exactly_where_there_are_some() {
        let mut random = rand::rngs::StdRng::seed_from_u64(39);
        let names = [
            "app_id",
            "body",
            "gmt_create",
            "h",
            "method",
            "msg_method",
            "n",
            "notify_id",
            "notify_type",
            "o",
            "out_biz_no",
            "subject",
            "z",
        ];
        let mut found = [0; 2];
        for _ in 0..500 {
            let mut value = |name: &str| {
                let values: &[&str] = match name {
                    "gmt_create" => &["2026-11-23 10:15:30"],
                    "method" | "msg_method" => &["alipay.x", "alipay.y"],
                    "notify_type" => &["dut_user_sign", "fund_auth_freeze", "trade_status_sync"],
                    _ => &["1", "2", ""],
                };
                values[random.random_range(0..values.len())].to_owned()
            };
            let values: Vec<String> = names.iter().map(|name| value(name)).collect();
            let others: Vec<String> = names.iter().map(|name| value(name)).collect();
            let (mut body, mut count) = (String::from("sign=s"), 0);
            for (at, name) in names.iter().enumerate() {
                let often = matches!(*name, "app_id" | "notify_id" | "notify_type" | "body");
                if !random.random_bool(if often { 0.9 } else { 0.25 }) {
                    continue;
                }
                body = format!("{body}&{name}={}", values[at].replace(' ', "+"));
                count += 1;
                while CLOSED.binary_search(name).is_err() && count < 9 && random.random_bool(0.6) {
                    let hidden = random.random_range(0..names.len());
                    let equals = if random.random_bool(0.9) { "%3D" } else { "" };
                    body = format!("{body}%26{}{equals}{}", names[hidden], others[hidden].replace(' ', "+"));
                    count += 1;
                }
            }
            let form = Form::parse(body.as_bytes()).unwrap();
            for with_empty in [false, true] {
                let tokens = Token::of(&form, with_empty);
                for kind in Kind::ALL.into_iter().filter(|_| !tokens.is_empty()) {
                    let is_there = has_other_reading(&form, &tokens, kind);
                    assert_eq!(is_there, tried(&form, &tokens, kind), "{kind:?} {body}");
                    found[usize::from(is_there)] += 1;
                }
            }
        }
        assert!(found[0] > 1000 && found[1] > 50, "{found:?}");
    }
}
