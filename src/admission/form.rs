//! The body as a form, byte for byte (protocol.md §2): split at `&`, each piece at its first `=`, `+` is a
//! space, percent-decoding once, to bytes. No charset is involved, nothing is trimmed, and nothing that is
//! not plainly a form is repaired: what a lenient parser repairs is where two parsers differ.

mod decoding;

use std::borrow::Cow;

use decoding::{Decoding, Part};

/// The parameters of a body, decoded once and sorted by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    /// `name=value` of each, without the `&` between them: each is copied as a whole into what is signed.
    decoded: Vec<u8>,
    parameters: Vec<Span>,
    /// By [`Head::place`], or behind it where that is taken: one more than where the parameter stands, or 0. A field is
    /// looked up some sixty times a notification.
    places: [u8; PLACES],
}

/// Where a parameter lies in the decoded bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    head: Head,
    start: usize,
    equals: usize,
    end: usize,
    holds_ampersand: bool,
}

/// The first bytes of a name as a number: names are compared some three hundred times a notification, and hardly
/// two of Alipay's agree in as many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Head(u128);

impl Head {
    /// Inlined, so that the head of a name that we ask for is made when this is compiled.
    #[inline]
    fn of(name: &[u8]) -> Self {
        let mut first = [0; 16];
        for (to, from) in first.iter_mut().zip(name) {
            *to = *from;
        }
        Self(u128::from_be_bytes(first))
    }

    /// Of the first bytes of what stands here; there are enough of others behind it.
    fn at(bytes: &[u8], length: usize) -> Self {
        let first = bytes.first_chunk::<16>().copied().unwrap_or_default();
        let behind = 8 * 16_usize.saturating_sub(length);
        let mask = u32::try_from(behind).ok().and_then(|behind| u128::MAX.checked_shl(behind)).unwrap_or(0);
        Self(u128::from_be_bytes(first) & mask)
    }

    /// Where it is looked for first. (Fibonacci hashing, Knuth.)
    const fn place(self) -> usize {
        let folded = (self.0 >> 64) as u64 ^ self.0 as u64;
        (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - PLACES.trailing_zeros())) as usize
    }
}

/// Why a body is not a form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// Nothing was sent.
    #[error("the body is empty")]
    Empty,
    /// A piece without `=`, or with nothing before it.
    #[error("a parameter has no name, or no `=`")]
    Nameless,
    /// A name that holds `&` or `=`, encoded: a border between fields could hide in it.
    #[error("a parameter's name holds `&` or `=`")]
    BadName,
    /// `%` without two hex digits behind it.
    #[error("a `%` is not followed by two hex digits")]
    BadEscape,
    /// Two parameters have the same name after decoding: parsers disagree on which one counts.
    #[error("a parameter is given twice")]
    Doubled,
    /// More than [`MAX_PARAMETERS`].
    #[error("there are too many parameters")]
    TooMany,
}

impl Form {
    /// Reads a body.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(body: &[u8]) -> Result<Self, FormError> {
        if body.is_empty() {
            return Err(FormError::Empty);
        }
        let mut decoding = Decoding::of(body);
        let mut parameters = Vec::with_capacity(USUAL_PARAMETERS);
        loop {
            // Bound: refuse before decoding the rest of a body that is all separators.
            if parameters.len() == MAX_PARAMETERS {
                return Err(FormError::TooMany);
            }
            let (start, ampersands) = (decoding.length(), decoding.ampersands());
            if decoding.run(Part::Name)? != Some(b'=') {
                return Err(FormError::Nameless);
            }
            let equals = decoding.length();
            let head = match decoding.with_slack().get(start..) {
                Some(bytes) if equals > start => Head::at(bytes, equals - start),
                Some(_) | None => return Err(FormError::Nameless),
            };
            decoding.push(b'=');
            let border = decoding.run(Part::Value)?;
            let holds_ampersand = decoding.ampersands() > ampersands;
            parameters.push(Span { head, start, equals, end: decoding.length(), holds_ampersand });
            if border.is_none() {
                break;
            }
        }
        let decoded = decoding.finish();
        parameters.sort_unstable_by_key(|span| span.head);
        if parameters.windows(2).any(|two| matches!(two, [a, b] if a.head == b.head)) {
            parameters.sort_unstable_by(|a, b| a.name(&decoded).cmp(b.name(&decoded)));
            if parameters.windows(2).any(|two| matches!(two, [a, b] if a.name(&decoded) == b.name(&decoded)))
            {
                return Err(FormError::Doubled);
            }
        }
        let places = if parameters.len() > MAX_PLACED { [0; PLACES] } else { places(&parameters) };
        Ok(Self { decoded, parameters, places })
    }

    /// All parameters as (name, value), in the order of their names' bytes, those with empty values too.
    pub fn parameters(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.parameters.iter().map(|span| (span.name(&self.decoded), span.value(&self.decoded)))
    }

    /// All of them as (name, value, `name=value`), the last as it is signed.
    pub fn signed(&self) -> impl Iterator<Item = (&[u8], &[u8], &[u8])> {
        let decoded = &self.decoded;
        self.parameters.iter().map(|span| {
            (span.name(decoded), span.value(decoded), decoded.get(span.start..span.end).unwrap_or_default())
        })
    }

    /// Those whose value holds `&`, which is where a border between fields could have been, and where they stand among
    /// all: hardly one does. No name holds one.
    pub fn holders(&self) -> impl Iterator<Item = (usize, (&[u8], &[u8]))> {
        let holders = self.parameters.iter().enumerate().filter(|(_, span)| span.holds_ampersand);
        holders.map(|(at, span)| (at, (span.name(&self.decoded), span.value(&self.decoded))))
    }

    /// The value of a parameter that is present and not empty. An empty value is absent for everything but
    /// the signature: anyone on the path could append one without breaking it (protocol.md §2).
    #[inline(always)]
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        let value = self.find(name)?.value(&self.decoded);
        (!value.is_empty()).then_some(value)
    }

    /// All parameters as (name, value) like [`parameters`](Self::parameters), as text, if every one is UTF-8. Looked at in
    /// one go, which takes a fraction of looking at each.
    pub fn texts(&self) -> Option<Vec<(Cow<'_, str>, Cow<'_, str>)>> {
        let all = std::str::from_utf8(&self.decoded).ok()?;
        let mut texts = Vec::with_capacity(self.parameters.len());
        for span in &self.parameters {
            let (name, value) = (all.get(span.start..span.equals)?, all.get(span.equals + 1..span.end)?);
            texts.push((name.into(), value.into()));
        }
        Some(texts)
    }

    /// Where a parameter stands among all [`parameters`](Self::parameters).
    #[inline(always)]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.search(Head::of(name.as_bytes()), name.as_bytes())
    }

    /// Inlined, so that where a name is looked for first is known when this is compiled; a mere hint is not taken.
    #[inline(always)]
    fn search(&self, head: Head, name: &[u8]) -> Option<usize> {
        if self.parameters.len() > MAX_PLACED {
            return self.search_all(head, name);
        }
        let mut place = head.place();
        // Bound: half of the places are free.
        loop {
            let at = usize::from(self.places.get(place)?.checked_sub(1)?);
            if self.parameters.get(at)?.is(head, name, &self.decoded) {
                return Some(at);
            }
            place = (place + 1) % PLACES;
        }
    }

    #[cold]
    fn search_all(&self, head: Head, name: &[u8]) -> Option<usize> {
        self.parameters.iter().position(|span| span.is(head, name, &self.decoded))
    }

    /// Whether a parameter is there, even an empty one.
    #[inline]
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Whether any value is empty.
    pub fn has_empty_values(&self) -> bool {
        self.parameters.iter().any(|span| span.equals + 1 == span.end)
    }

    #[inline(always)]
    fn find(&self, name: &str) -> Option<&Span> {
        self.parameters.get(self.position(name)?)
    }
}

impl Span {
    #[inline]
    fn is(&self, head: Head, name: &[u8], decoded: &[u8]) -> bool {
        // A name that is no longer than its head is the same.
        let is_whole = name.len() <= size_of::<Head>() && self.equals - self.start == name.len();
        self.head == head && (is_whole || self.name(decoded) == name)
    }

    fn name<'a>(&self, decoded: &'a [u8]) -> &'a [u8] {
        decoded.get(self.start..self.equals).unwrap_or_default()
    }

    fn value<'a>(&self, decoded: &'a [u8]) -> &'a [u8] {
        decoded.get(self.equals + 1..self.end).unwrap_or_default()
    }
}

/// See [`Form::places`].
fn places(parameters: &[Span]) -> [u8; PLACES] {
    let mut places = [0; PLACES];
    for (span, number) in parameters.iter().zip(1..) {
        let mut place = span.head.place();
        while places.get(place).is_some_and(|taken| *taken != 0) {
            place = (place + 1) % PLACES;
        }
        if let Some(free) = places.get_mut(place) {
            *free = number;
        }
    }
    places
}

/// Real notifications have 20 to 35 parameters.
const USUAL_PARAMETERS: usize = 32;
/// Bound: no real notification comes near it.
pub const MAX_PARAMETERS: usize = 256;
/// A power of two, and so many that hardly one is not where it is looked for first.
const PLACES: usize = 128;
/// Bound: more are not placed, because a stranger could choose names of which each is in the other's way, and to place
/// hundreds of them would take longer than a signature. They are looked for one by one.
const MAX_PLACED: usize = PLACES / 2;

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

    fn pairs(body: &[u8]) -> Result<Pairs, FormError> {
        Ok(Form::parse(body)?.parameters().map(|(name, value)| (name.to_vec(), value.to_vec())).collect())
    }

    fn pair(name: &[u8], value: &[u8]) -> (Vec<u8>, Vec<u8>) {
        (name.to_vec(), value.to_vec())
    }

    #[test]
    fn parameters_come_sorted_by_name_bytes_whatever_their_order() {
        assert_eq!(pairs(b"b=2&a=1&B=3"), Ok(vec![pair(b"B", b"3"), pair(b"a", b"1"), pair(b"b", b"2")]));
    }

    #[test]
    fn values_are_decoded_once_and_to_bytes() {
        assert_eq!(pairs(b"a=%2B+%252F%C4%e3*%2A"), Ok(vec![pair(b"a", b"+ %2F\xc4\xe3**")]));
        assert_eq!(pairs(b"a= x\xff "), Ok(vec![pair(b"a", b" x\xff ")]));
    }

    #[test]
    fn a_piece_is_split_at_its_first_equals() {
        assert_eq!(pairs(b"a=b=c&d=="), Ok(vec![pair(b"a", b"b=c"), pair(b"d", b"=")]));
        assert_eq!(pairs(b"a=1;b=2"), Ok(vec![pair(b"a", b"1;b=2")]));
    }

    #[test]
    fn what_is_not_plainly_a_form_is_refused() {
        for (body, error) in [
            (&b""[..], FormError::Empty),
            (b"a", FormError::Nameless),
            (b"=1", FormError::Nameless),
            (b"a=1&", FormError::Nameless),
            (b"&a=1", FormError::Nameless),
            (b"a=1&&b=2", FormError::Nameless),
            (b"a=%", FormError::BadEscape),
            (b"a=%0", FormError::BadEscape),
            (b"a=%zz", FormError::BadEscape),
            (b"a=%0z", FormError::BadEscape),
            (b"%=1", FormError::BadEscape),
            (b"gmt_payment%3Dx%26gmt_refund=1", FormError::BadName),
            (b"a%26b=1", FormError::BadName),
        ] {
            assert_eq!(Form::parse(body), Err(error), "{body:?}");
        }
    }

    #[test]
    fn a_name_may_come_once_however_it_is_written() {
        for body in ["a=1&a=1", "a=1&b=0&a=2", "total_amount=1&%74otal_amount=1", "a=&a=1"] {
            assert_eq!(Form::parse(body.as_bytes()), Err(FormError::Doubled), "{body}");
        }
        assert!(Form::parse(b"a=1&A=1&a[]=1&a[0]=1").is_ok());
    }

    #[test]
    fn an_empty_value_is_there_and_absent() {
        let form = Form::parse(b"a=&b=1").unwrap();
        assert!(form.has("a") && form.has_empty_values());
        assert_eq!(form.value("a"), None);
        assert_eq!(form.value("b"), Some(&b"1"[..]));
        assert_eq!(form.value("c"), None);
    }

    #[test]
    fn texts_are_the_parameters_where_each_is_utf8_by_itself() {
        let form = Form::parse("b=%E9%80%80&a=1&c=".as_bytes()).unwrap();
        assert_eq!(
            form.texts(),
            Some(
                [("a", "1"), ("b", "退"), ("c", "")]
                    .map(|(name, value)| (name.into(), value.into()))
                    .to_vec()
            )
        );
        assert_eq!(form.position("b"), Some(1));
        // Joined, name and value would be a character that neither has.
        for body in ["a%E9=%80%80", "a=%E9&%80%80=1", "a=%FF"] {
            assert_eq!(Form::parse(body.as_bytes()).unwrap().texts(), None, "{body}");
        }
    }

    #[test]
    fn an_ampersand_is_seen_in_any_value() {
        for (body, has) in [("a=1&b=2", false), ("a=x%26b%3D1&c=2", true), ("a=1&b=%26", true)] {
            assert_eq!(Form::parse(body.as_bytes()).unwrap().holders().next().is_some(), has, "{body}");
        }
    }

    #[test]
    fn a_border_is_seen_wherever_it_stands_in_a_word() {
        for at in 0..20 {
            let text = "x".repeat(at);
            for (escaped, plain) in [
                ("+", &b" "[..]),
                ("%41", b"A"),
                ("=", b"="),
                ("%00", b"\0"),
                ("\u{fffd}", "\u{fffd}".as_bytes()),
            ] {
                let value = [text.as_bytes(), plain, text.as_bytes()].concat();
                let name = format!("n{text}");
                let body = format!("{name}={text}{escaped}{text}&m={text}");
                let (first, second) = (pair(b"m", text.as_bytes()), pair(name.as_bytes(), &value));
                assert_eq!(pairs(body.as_bytes()), Ok(vec![first, second]), "{body}");
            }
        }
    }

    #[test]
    fn names_are_told_apart_behind_their_first_sixteen_bytes() {
        let body = "alipay_open_id_of_a=1&alipay_open_id_of_b=2&alipay_open_id_of=3&alipay_open_id_o=4&alipay_open_id_=5";
        let form = Form::parse(body.as_bytes()).unwrap();
        for (name, value) in [
            ("alipay_open_id_of_a", &b"1"[..]),
            ("alipay_open_id_of_b", b"2"),
            ("alipay_open_id_of", b"3"),
            ("alipay_open_id_o", b"4"),
            ("alipay_open_id_", b"5"),
        ] {
            assert_eq!(form.value(name), Some(value), "{name}");
        }
        assert!(!form.has("alipay_open_id") && !form.has("alipay_open_id_of_") && !form.has(""));
    }

    #[test]
    fn each_parameter_is_found_by_its_name_however_many_there_are() {
        for count in [1, 2, 25, MAX_PLACED, MAX_PLACED + 1, MAX_PARAMETERS] {
            // The heads of some are the same, and those of others ask for the same place.
            let names = || (0..count).map(|n| format!("{}{n}", ["p", "the_first_sixteen_of_"][n % 2]));
            let body = names().map(|name| format!("{name}=of_{name}")).collect::<Vec<_>>().join("&");
            let form = Form::parse(body.as_bytes()).unwrap();
            for name in names() {
                assert_eq!(form.value(&name), Some(format!("of_{name}").as_bytes()), "{count}");
            }
            assert!(!form.has("p") && !form.has("the_first_sixteen_of_") && !form.has("p256"));
        }
    }

    #[test]
    fn the_number_of_parameters_is_bounded() {
        let body = |count: usize| (0..count).map(|n| format!("p{n}=1")).collect::<Vec<_>>().join("&");
        assert!(Form::parse(body(MAX_PARAMETERS).as_bytes()).is_ok());
        assert_eq!(Form::parse(body(MAX_PARAMETERS + 1).as_bytes()), Err(FormError::TooMany));
    }
}
