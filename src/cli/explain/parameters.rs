//! A captured body read as leniently as can be, in its own order, with everything that the strict form refuses
//! still in it. Only the diagnosis looks at it: what is believed was read by `admission::form`.

use crate::admission::signing_content::Version;

/// Names and values, decoded, in the order of the capture. A piece without `=` has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parameters(Vec<(Vec<u8>, Option<Vec<u8>>)>);

impl Parameters {
    /// Reads a form, and repairs what is not one.
    pub(super) fn lenient(body: &[u8]) -> Self {
        let pieces = body.split(|byte| *byte == b'&').filter(|piece| !piece.is_empty());
        Self(pieces.take(MAX_PARAMETERS).map(read_piece).collect())
    }

    /// The value of the first parameter of that name, unless it is empty.
    pub(super) fn value(&self, name: &str) -> Option<&[u8]> {
        let found = self.0.iter().find(|(found, _)| found == name.as_bytes());
        found.and_then(|(_, value)| value.as_deref()).filter(|value| !value.is_empty())
    }

    /// Every name with its value.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(name, value)| (name.as_slice(), value.as_deref().unwrap_or_default()))
    }

    /// Every name that is signed, with its value.
    pub(super) fn signed(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.pairs().filter(|(name, _)| !matches!(*name, b"sign" | b"sign_type"))
    }

    /// With other values; `sign` and `sign_type` stay. `None` if nothing changes.
    pub(super) fn mapped(&self, change: impl Fn(&[u8], &[u8]) -> Option<Vec<u8>>) -> Option<Self> {
        let mut changed = self.clone();
        for (name, value) in &mut changed.0 {
            if matches!(name.as_slice(), b"sign" | b"sign_type") {
                continue;
            }
            if let Some(value) = value
                && let Some(other) = change(name, value)
            {
                *value = other;
            }
        }
        (changed != *self).then_some(changed)
    }

    /// With another value of the one parameter.
    pub(super) fn with(&self, name: &[u8], value: &[u8]) -> Self {
        let mut changed = self.clone();
        match changed.0.iter_mut().find(|(found, _)| found == name) {
            Some((_, old)) => *old = Some(value.to_vec()),
            None => changed.0.push((name.to_vec(), Some(value.to_vec()))),
        }
        changed
    }

    /// Without the parameters that `leave` names.
    pub(super) fn without(&self, leave: impl Fn(&[u8]) -> bool) -> Self {
        Self(self.0.iter().filter(|(name, _)| !leave(name)).cloned().collect())
    }

    /// Joins what `is_torn_off` names to the value before it, with the `&` that tore it off.
    pub(super) fn glued(&self, is_torn_off: impl Fn(&[u8]) -> bool) -> Self {
        let mut glued: Vec<(Vec<u8>, Option<Vec<u8>>)> = Vec::with_capacity(self.0.len());
        // To what is not signed nothing can be joined, nor to what could not be joined itself: that would merely leave
        // it out.
        let mut holds = false;
        for (name, value) in &self.0 {
            if !is_torn_off(name) || glued.is_empty() {
                holds = !matches!(name.as_slice(), b"sign" | b"sign_type");
            }
            match glued.last_mut() {
                Some((_, Some(before))) if is_torn_off(name) && holds => {
                    before.push(b'&');
                    before.extend_from_slice(name);
                    if let Some(value) = value {
                        before.push(b'=');
                        before.extend_from_slice(value);
                    }
                }
                _ => glued.push((name.clone(), value.clone())),
            }
        }
        Self(glued)
    }

    /// Every content that Alipay may have signed if these were the parameters (protocol.md §2).
    pub(super) fn contents(&self) -> impl Iterator<Item = (Version, Vec<u8>)> {
        let has_empty = self.pairs().any(|(_, value)| value.is_empty());
        let has_cert_sn = self.value("alipay_cert_sn").is_some();
        let mut sorted: Vec<_> = self.pairs().collect();
        sorted.sort_by_key(|(name, _)| *name);
        let ways = [(false, true), (true, true), (false, false), (true, false)];
        let ways = ways.into_iter().filter(move |(empty, sn)| (has_empty || !*empty) && (has_cert_sn || *sn));
        [Version::V1, Version::V2].into_iter().flat_map(move |version| {
            let sorted = sorted.clone();
            ways.clone().map(move |(empty, sn)| (version, content(&sorted, version, empty, sn)))
        })
    }

    /// As a form that the strict reader reads as exactly these.
    pub(super) fn to_body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for (name, value) in self.pairs() {
            if !body.is_empty() {
                body.push(b'&');
            }
            encode_onto(&mut body, name);
            body.push(b'=');
            encode_onto(&mut body, value);
        }
        body
    }
}

impl FromIterator<(Vec<u8>, Vec<u8>)> for Parameters {
    fn from_iter<I: IntoIterator<Item = (Vec<u8>, Vec<u8>)>>(pairs: I) -> Self {
        Self(pairs.into_iter().take(MAX_PARAMETERS).map(|(name, value)| (name, Some(value))).collect())
    }
}

/// Decodes `+` and percent escapes; what is no escape stays as it is.
pub(super) fn decode(encoded: &[u8]) -> Vec<u8> {
    let spaced: Vec<u8> = encoded.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    decode_escapes(&spaced)
}

/// Decodes percent escapes alone.
pub(super) fn decode_escapes(encoded: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    loop {
        match rest {
            [] => return decoded,
            [b'%', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                decoded.push(nibble(*high) << 4 | nibble(*low));
                rest = after;
            }
            [byte, after @ ..] => {
                decoded.push(*byte);
                rest = after;
            }
        }
    }
}

fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        letter => (letter | 0x20) - b'a' + 10,
    }
}

fn read_piece(piece: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    let mut halves = piece.splitn(2, |byte| *byte == b'=');
    let name = halves.next().unwrap_or_default();
    (decode(name), halves.next().map(decode))
}

fn content(sorted: &[(&[u8], &[u8])], version: Version, empty: bool, cert_sn: bool) -> Vec<u8> {
    let mut content = Vec::new();
    for (name, value) in sorted {
        let left_out = match *name {
            b"sign" => true,
            b"sign_type" => version == Version::V1,
            b"alipay_cert_sn" => !cert_sn,
            _ => false,
        };
        if left_out || (value.is_empty() && !empty) {
            continue;
        }
        if !content.is_empty() {
            content.push(b'&');
        }
        content.extend_from_slice(name);
        content.push(b'=');
        content.extend_from_slice(value);
    }
    content
}

fn encode_onto(body: &mut Vec<u8>, bytes: &[u8]) {
    for &byte in bytes {
        match byte {
            b' ' => body.push(b'+'),
            b'-' | b'_' | b'.' | b'*' => body.push(byte),
            _ if byte.is_ascii_alphanumeric() => body.push(byte),
            _ => body.extend_from_slice(format!("%{byte:02X}").as_bytes()),
        }
    }
}

/// Bound: as many as the strict form takes.
const MAX_PARAMETERS: usize = crate::admission::form::MAX_PARAMETERS;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::form::Form;

    #[test]
    fn what_is_not_a_form_is_still_read() {
        let read = Parameters::lenient(b"&a=1&b&c=%zz%4&a=2&");
        let pairs: Vec<_> = read.pairs().collect();
        assert_eq!(pairs, [(&b"a"[..], &b"1"[..]), (b"b", b""), (b"c", b"%zz%4"), (b"a", b"2")]);
    }

    #[test]
    fn a_form_written_out_is_the_same_form() {
        let body = b"b=+%2B%26%3D&a=%c4%e3*&%3C=%25";
        let again = Parameters::lenient(body).to_body();
        assert_eq!(
            Form::parse(&again).unwrap().parameters().collect::<Vec<_>>(),
            {
                let form = Form::parse(body).unwrap();
                form.parameters().map(|(name, value)| (name.to_vec(), value.to_vec())).collect::<Vec<_>>()
            }
            .iter()
            .map(|(name, value)| (name.as_slice(), value.as_slice()))
            .collect::<Vec<_>>()
        );
    }

    #[test]
    fn what_was_torn_off_is_joined_with_all_its_bytes() {
        let read = Parameters::lenient(b"p=a=1&b=2&c&d=3").glued(|name| name != b"d");
        assert_eq!(read.value("p"), Some(&b"a=1&b=2&c"[..]));
        assert_eq!(read.value("d"), Some(&b"3"[..]));
    }

    #[test]
    fn what_was_torn_off_is_joined_to_no_other_of_its_kind_and_not_to_the_signature() {
        let read = Parameters::lenient(b"d=3&sign=x&a=1&b=2");
        assert_eq!(read.glued(|name| name == b"a" || name == b"b"), read);
    }
}
