//! The search: what was done to the content is undone, one mistake at a time and then two, until the digest
//! that Alipay signed comes out. A digest does not come out by chance, so what is found is certain.

use std::collections::BTreeSet;

use encoding_rs::{GB18030, GBK, WINDOWS_1252};

use super::super::cause::Mistake;
use super::super::parameters::{Parameters, decode, decode_escapes};
use super::told;
use crate::admission::key_ring::opening::Opened;
use crate::admission::notification::{self, KNOWN_FIELDS};
use crate::admission::signing_content::Version;

type Candidate = (Mistake, Parameters);
type Candidates = Vec<Candidate>;

/// The mistakes that, undone, give what was signed; none if it is given already.
pub(super) fn search(body: &[u8], start: &Parameters, opened: &Opened) -> Option<(Vec<Mistake>, Version)> {
    if body.len() > MAX_SEARCHED_BYTES {
        return None;
    }
    let mut search = Search { opened, budget_bytes: BUDGET_BYTES };
    if let Some(version) = search.fits(start) {
        return Some((Vec::new(), version));
    }
    if let Some((mistake, version)) = search.one(start) {
        return Some((vec![mistake], version));
    }
    let mut firsts = whole_body(body);
    firsts.extend(everywhere(start));
    for (first, undone) in firsts {
        if let Some(version) = search.fits(&undone) {
            return Some((vec![first], version));
        }
        if let Some((second, version)) = search.one(&undone) {
            return Some((vec![first, second], version));
        }
    }
    None
}

struct Search<'a> {
    opened: &'a Opened,
    budget_bytes: usize,
}

impl Search<'_> {
    fn fits(&mut self, candidate: &Parameters) -> Option<Version> {
        for (version, content) in candidate.contents() {
            // Bound: what is hashed in all.
            self.budget_bytes = self.budget_bytes.saturating_sub(content.len());
            if self.budget_bytes == 0 {
                return None;
            }
            if self.opened.is_of(&content) {
                return Some(version);
            }
        }
        None
    }

    /// One mistake more.
    fn one(&mut self, start: &Parameters) -> Option<(Mistake, Version)> {
        let kinds: [fn(&Parameters) -> Candidates; 10] = [
            everywhere,
            encoded_twice,
            plus_lost,
            plus_won,
            added,
            trimmed,
            padded,
            decoded_twice,
            unescaped,
            emptied,
        ];
        for kind in kinds {
            if self.budget_bytes == 0 {
                return None;
            }
            for (mistake, undone) in kind(start) {
                if let Some(version) = self.fits(&undone) {
                    return Some((mistake, version));
                }
            }
        }
        None
    }
}

/// Done to the body before it was split: it must be read again.
fn whole_body(body: &[u8]) -> Candidates {
    let unescaped = html_unescaped(body);
    let mut candidates = Candidates::new();
    if unescaped != body {
        candidates.push((Mistake::HtmlEscaped, Parameters::lenient(&unescaped)));
    }
    if let Some(unmarked) = body.strip_prefix("\u{feff}".as_bytes()) {
        candidates.push((Mistake::ByteOrderMark, Parameters::lenient(unmarked)));
    }
    candidates
}

/// Mistakes that befall all values alike.
fn everywhere(start: &Parameters) -> Candidates {
    let mut candidates = Candidates::new();
    let mut offer = |mistake: Mistake, undone: Option<Parameters>| {
        candidates.extend(undone.map(|undone| (mistake, undone)));
    };
    offer(Mistake::HtmlEscaped, start.mapped(|_, value| Some(html_unescaped(value))));
    offer(Mistake::HtmlEscaped, start.mapped(|_, value| Some(html_unescaped(&html_unescaped(value)))));
    offer(Mistake::Backslashes, start.mapped(|_, value| Some(stripped(value))));
    let torn: Vec<String> =
        start.pairs().skip(1).map(|(name, _)| name).filter(|name| !is_known(name)).map(told).collect();
    if !torn.is_empty() {
        let glued = start.glued(|name| !is_known(name));
        offer(Mistake::SplitAfterDecoding(torn), (glued != *start).then_some(glued));
    }
    // Where nothing is percent-encoded, a plus is no encoded space: it came in the space's place.
    let encoded_names: Vec<&[u8]> =
        start.signed().filter(|(_, value)| value.contains(&b'%')).map(|(name, _)| name).collect();
    if !encoded_names.is_empty() {
        let all = || {
            Mistake::EncodedTwice(match *encoded_names {
                [name] => vec![told(name)],
                _ => vec!["every value".to_owned()],
            })
        };
        offer(all(), start.mapped(|_, value| Some(decode(value))));
        offer(all(), start.mapped(|_, value| Some(decode_escapes(value))));
    }
    offer(Mistake::FromGbk, start.mapped(|_, value| encoded(GBK, value)));
    offer(Mistake::FromGbk, start.mapped(|_, value| encoded(GB18030, value)));
    offer(Mistake::FromUtf8, start.mapped(|_, value| utf8_of_gbk(value)));
    offer(Mistake::Mojibake, start.mapped(|_, value| latin1(value)));
    offer(Mistake::Mojibake, start.mapped(|_, value| encoded(WINDOWS_1252, value)));
    offer(Mistake::Amounts, start.mapped(with_decimals));
    offer(Mistake::JsonRewritten, start.mapped(|_, value| compact_json(value)));
    let padded: Vec<String> = start
        .signed()
        .filter(|(_, value)| value.trim_ascii() != *value)
        .map(|(name, _)| told(name))
        .collect();
    offer(Mistake::Padded(padded), start.mapped(|_, value| Some(value.trim_ascii().to_vec())));
    candidates
}

fn encoded_twice(start: &Parameters) -> Candidates {
    one_by_one(start, |name, value| {
        let ways =
            if value.contains(&b'%') { vec![decode(value), decode_escapes(value)] } else { Vec::new() };
        ways.into_iter().map(|undone| (Mistake::EncodedTwice(vec![told(name)]), undone)).collect()
    })
}

fn decoded_twice(start: &Parameters) -> Candidates {
    one_by_one(start, |name, value| {
        let ways = [
            percent(value, b"-_.~", true, true),
            percent(value, b"-_.*", true, false),
            percent(value, b"-_.!~*'()", true, true),
            percent(value, b"-_.~", false, true),
            percent(value, b"-_.*", false, false),
            percent(value, b"-_.~/:", true, true),
            percent(value, b"-_.", true, false),
            // Only what could not stand in a value otherwise.
            value
                .iter()
                .map(|byte| if *byte == b'%' { "%25".into() } else { vec![*byte] })
                .collect::<Vec<_>>()
                .concat(),
        ];
        ways.into_iter().map(|undone| (Mistake::DecodedTwice(told(name)), undone)).collect()
    })
}

fn trimmed(start: &Parameters) -> Candidates {
    one_by_one(start, |name, value| {
        let around = |before: &[u8], after: &[u8]| [before, value, after].concat();
        let ways: [(&[u8], &[u8]); 9] = [
            (b" ", b""),
            (b"", b" "),
            (b" ", b" "),
            (b"  ", b""),
            (b"", b"  "),
            (b"", b"\n"),
            (b"", b"\r\n"),
            (b"", b"\t"),
            (b"\t", b""),
        ];
        ways.into_iter()
            .map(|(before, after)| (Mistake::Trimmed(told(name)), around(before, after)))
            .collect()
    })
}

fn padded(start: &Parameters) -> Candidates {
    one_by_one(start, |name, value| {
        let ways = [value.trim_ascii(), value.trim_ascii_end(), value.trim_ascii_start()];
        ways.into_iter().map(|undone| (Mistake::Padded(vec![told(name)]), undone.to_vec())).collect()
    })
}

/// The merchant's framework un-escaped what the merchant himself had escaped.
fn unescaped(start: &Parameters) -> Candidates {
    one_by_one(start, |name, value| {
        let quotes: [&[(u8, &str)]; 3] = [
            &[(b'&', "&amp;"), (b'"', "&quot;"), (b'<', "&lt;"), (b'>', "&gt;"), (b'\'', "&#39;")],
            &[(b'"', "&quot;")],
            &[(b'&', "&amp;")],
        ];
        let escape = |table: &[(u8, &str)]| -> Vec<u8> {
            let pieces = value.iter().map(|byte| {
                let found = table.iter().find(|(plain, _)| plain == byte);
                found.map_or_else(|| vec![*byte], |(_, escaped)| escaped.as_bytes().to_vec())
            });
            pieces.collect::<Vec<_>>().concat()
        };
        quotes.into_iter().map(|table| (Mistake::HtmlUnescaped(told(name)), escape(table))).collect()
    })
}

fn emptied(start: &Parameters) -> Candidates {
    let missing =
        KNOWN_FIELDS.iter().filter(|name| !start.pairs().any(|(found, _)| found == name.as_bytes()));
    missing.map(|name| (Mistake::EmptyLost((*name).to_owned()), start.with(name.as_bytes(), b""))).collect()
}

/// Parameters that the merchant's own URL or framework brought: every set of unknown names, then any one, then
/// any two.
fn added(start: &Parameters) -> Candidates {
    let mut unknown: Vec<&[u8]> =
        start.pairs().map(|(name, _)| name).filter(|name| !is_known(name)).collect();
    unknown.sort_by_key(|name| !FRAMEWORKS.contains(name));
    let every = unknown.clone();
    unknown.truncate(MAX_SUBSET);
    let all: Vec<&[u8]> = start.signed().map(|(name, _)| name).collect();
    let sets = (1..1_u32 << unknown.len()).map(|mask| chosen(&unknown, mask)).chain([every]);
    let ones = all.iter().map(|name| vec![*name]);
    let twos = all
        .iter()
        .enumerate()
        .flat_map(|(at, first)| all.iter().skip(at + 1).take(MAX_PAIRED).map(|second| vec![*first, *second]));
    let sets = sets.chain(ones).chain(twos.take(MAX_PAIRS));
    sets.map(|set| {
        let names = set.iter().map(|name| told(name)).collect();
        (Mistake::Added(names), start.without(|name| set.contains(&name)))
    })
    .collect()
}

fn plus_lost(start: &Parameters) -> Candidates {
    switched(start, b' ', b'+', Mistake::PlusLost)
}

fn plus_won(start: &Parameters) -> Candidates {
    switched(start, b'+', b' ', Mistake::SpaceBecamePlus)
}

/// Every way in which some of the `from` may have been a `to`. A time has one space and never a plus, so its
/// own is no question.
fn switched(start: &Parameters, from: u8, to: u8, mistake: fn(Vec<String>) -> Mistake) -> Candidates {
    let mut places = Vec::new();
    let mut certain = Vec::new();
    for (name, value) in start.signed() {
        let found = value.iter().enumerate().filter(|(_, byte)| **byte == from).map(|(at, _)| (name, at));
        let as_spaces: Vec<u8> = value.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
        match notification::time(&as_spaces) {
            None => places.extend(found),
            Some(_) if from == b'+' => certain.extend(found),
            Some(_) => {}
        }
    }
    let every = places.clone();
    places.truncate(MAX_SUBSET);
    let masks = (0..1_u32 << places.len()).map(|mask| chosen(&places, mask));
    masks
        .chain([every])
        .map(|set| set.into_iter().chain(certain.iter().copied()).collect::<BTreeSet<_>>())
        .filter(|set| !set.is_empty())
        .filter_map(|set| {
            let undone = start.mapped(|name, value| {
                let switched = value
                    .iter()
                    .enumerate()
                    .map(|(at, byte)| if set.contains(&(name, at)) { to } else { *byte });
                Some(switched.collect())
            });
            let mut names: Vec<String> = set.iter().map(|(name, _)| told(name)).collect();
            names.dedup();
            Some((mistake(names), undone?))
        })
        .collect()
}

fn one_by_one(start: &Parameters, ways: impl Fn(&[u8], &[u8]) -> Vec<(Mistake, Vec<u8>)>) -> Candidates {
    start
        .signed()
        .filter(|(_, value)| !value.is_empty())
        .flat_map(|(name, value)| {
            let ways = ways(name, value).into_iter().filter(move |(_, undone)| undone.as_slice() != value);
            ways.map(move |(mistake, undone)| (mistake, start.with(name, &undone)))
        })
        .collect()
}

fn chosen<T: Copy>(from: &[T], mask: u32) -> Vec<T> {
    from.iter().enumerate().filter(|(at, _)| mask >> at & 1 == 1).map(|(_, item)| *item).collect()
}

fn is_known(name: &[u8]) -> bool {
    let also: [&[u8]; 3] = [b"sign", b"sign_type", b"alipay_cert_sn"];
    also.contains(&name) || KNOWN_FIELDS.iter().any(|known| known.as_bytes() == name)
}

fn replaced(value: &[u8], table: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut undone = Vec::with_capacity(value.len());
    let mut rest = value;
    while let [byte, after @ ..] = rest {
        let found = table.iter().find_map(|(from, to)| Some((rest.strip_prefix(*from)?, to)));
        match found {
            Some((behind, to)) => {
                undone.extend_from_slice(to);
                rest = behind;
            }
            None => {
                undone.push(*byte);
                rest = after;
            }
        }
    }
    undone
}

fn html_unescaped(value: &[u8]) -> Vec<u8> {
    replaced(
        value,
        &[
            (b"&quot;", b"\""),
            (b"&#34;", b"\""),
            (b"&#034;", b"\""),
            (b"&#x22;", b"\""),
            (b"&amp;", b"&"),
            (b"&#38;", b"&"),
            (b"&lt;", b"<"),
            (b"&gt;", b">"),
            (b"&#39;", b"'"),
            (b"&#039;", b"'"),
            (b"&#x27;", b"'"),
            (b"&apos;", b"'"),
            (b"&#47;", b"/"),
            (b"&#x2F;", b"/"),
            (b"&#61;", b"="),
            (b"&#x3D;", b"="),
            (b"&nbsp;", b" "),
        ],
    )
}

fn stripped(value: &[u8]) -> Vec<u8> {
    replaced(value, &[(b"\\\"", b"\""), (b"\\'", b"'"), (b"\\/", b"/"), (b"\\\\", b"\\")])
}

fn encoded(encoding: &'static encoding_rs::Encoding, value: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(value).ok().filter(|text| !text.is_ascii())?;
    let (bytes, _, lossy) = encoding.encode(text);
    (!lossy).then(|| bytes.into_owned())
}

fn utf8_of_gbk(value: &[u8]) -> Option<Vec<u8>> {
    let text = GB18030.decode_without_bom_handling_and_without_replacement(value)?;
    Some(text.into_owned().into_bytes())
}

fn latin1(value: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(value).ok().filter(|text| !text.is_ascii())?;
    text.chars().map(|character| u8::try_from(u32::from(character)).ok()).collect()
}

fn with_decimals(name: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    let is_amount = name.ends_with(b"_amount") || name.ends_with(b"_fee");
    let amount = crate::event::Money::parse(value).filter(|_| is_amount)?;
    Some(amount.to_string().into_bytes())
}

/// JSON without the blanks between its parts. `None` for what is not an array or an object.
fn compact_json(value: &[u8]) -> Option<Vec<u8>> {
    if !matches!(value.first(), Some(b'[' | b'{')) {
        return None;
    }
    let mut compact = Vec::with_capacity(value.len());
    let (mut quoted, mut escaped) = (false, false);
    for &byte in value {
        if quoted || !byte.is_ascii_whitespace() {
            compact.push(byte);
        }
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
    }
    Some(compact)
}

/// Percent-encodes all but letters, digits and `plain`.
fn percent(value: &[u8], plain: &[u8], upper: bool, percent_space: bool) -> Vec<u8> {
    let pieces = value.iter().map(|byte| match byte {
        b' ' if !percent_space => vec![b'+'],
        byte if byte.is_ascii_alphanumeric() || plain.contains(byte) => vec![*byte],
        byte if upper => format!("%{byte:02X}").into_bytes(),
        byte => format!("%{byte:02x}").into_bytes(),
    });
    pieces.collect::<Vec<_>>().concat()
}

/// Names under which PHP and other frameworks hand on their own routing.
const FRAMEWORKS: [&[u8]; 12] =
    [b"s", b"m", b"c", b"a", b"g", b"r", b"q", b"_url", b"url", b"route", b"XDEBUG_SESSION_START", b"_"];
/// Bound: sets are tried of this many things, 2 to this power of them.
const MAX_SUBSET: usize = 10;
/// Bound: with how many of those behind it each parameter is paired.
const MAX_PAIRED: usize = 40;
/// Bound: pairs in all.
const MAX_PAIRS: usize = 800;
/// Bound: what one diagnosis hashes, about a second's work.
const BUDGET_BYTES: usize = 256 << 20;
/// Bound: of a longer capture nothing is searched; real bodies have 600 to 1,300 bytes, and thousands of
/// variants of one are made.
const MAX_SEARCHED_BYTES: usize = 16 << 10;
