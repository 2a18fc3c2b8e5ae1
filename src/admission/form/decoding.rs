//! The bytes of a body, decoded once: percent-escapes and `+`, as far as the next border. What they mean is the form's.

use super::FormError;

/// What of a parameter is being decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Name,
    Value,
}

/// A body on its way into decoded bytes, which are never more than it has.
pub(super) struct Decoding<'b> {
    /// Longer than what is decoded by [`SLACK`] at least.
    decoded: Vec<u8>,
    length: usize,
    rest: &'b [u8],
    ampersands: usize,
}

impl<'b> Decoding<'b> {
    pub(super) fn of(body: &'b [u8]) -> Self {
        Self { decoded: vec![0; body.len() + SLACK], length: 0, rest: body, ampersands: 0 }
    }

    /// How much is decoded.
    pub(super) const fn length(&self) -> usize {
        self.length
    }

    /// How many `&` were decoded: those that were escaped.
    pub(super) const fn ampersands(&self) -> usize {
        self.ampersands
    }

    /// What is decoded, and [`SLACK`] or more that means nothing behind it.
    pub(super) fn with_slack(&self) -> &[u8] {
        &self.decoded
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.decoded.truncate(self.length);
        self.decoded
    }

    /// Decodes as far as the end of a name (`=`) or of a value (`&`), and says which border it was: none at the end of
    /// the body.
    pub(super) fn run(&mut self, part: Part) -> Result<Option<u8>, FormError> {
        loop {
            self.copy_plain();
            let Some((&byte, behind)) = self.rest.split_first() else { return Ok(None) };
            match byte {
                b'%' => {
                    self.unescape(part)?;
                    continue;
                }
                b'+' => self.push(b' '),
                b'&' | b'=' if byte == b'&' || part == Part::Name => {
                    self.rest = behind;
                    return Ok(Some(byte));
                }
                byte => self.push(byte),
            }
            self.rest = behind;
        }
    }

    /// Decodes all escapes that stand here: one seldom comes alone.
    fn unescape(&mut self, part: Part) -> Result<(), FormError> {
        while let Some((b'%', behind)) = self.rest.split_first() {
            let [high, low, behind @ ..] = behind else { return Err(FormError::BadEscape) };
            let (high, low) = hex(*high).zip(hex(*low)).ok_or(FormError::BadEscape)?;
            self.rest = behind;
            let byte = high << 4 | low;
            if part == Part::Name && matches!(byte, b'&' | b'=') {
                return Err(FormError::BadName);
            }
            self.ampersands += usize::from(byte == b'&');
            self.push(byte);
        }
        Ok(())
    }

    /// Copies eight bytes at a time, as far as the first that may mean something: most runs are shorter than what wider
    /// instructions are worth, and finding them and copying them apart took twice the instructions.
    fn copy_plain(&mut self) {
        let (mut rest, mut length) = (self.rest, self.length);
        let decoded = self.decoded.as_mut_slice();
        while let Some((word, behind)) = rest.split_first_chunk::<8>()
            && let Some(to) = decoded.get_mut(length..).and_then(|to| to.first_chunk_mut::<8>())
        {
            *to = *word;
            let plain = plain_bytes(u64::from_le_bytes(*word));
            length += plain;
            if plain < 8 {
                rest = rest.get(plain..).unwrap_or_default();
                break;
            }
            rest = behind;
        }
        (self.rest, self.length) = (rest, length);
    }

    pub(super) fn push(&mut self, byte: u8) {
        if let Some(to) = self.decoded.get_mut(self.length) {
            *to = byte;
            self.length += 1;
        }
    }
}

/// How many bytes come before the first `&`, `=`, `+` or `%`, the first byte being the lowest. ("Determine if a word has
/// a zero byte", S. E. Anderson, Bit Twiddling Hacks: it errs only behind a byte that is one.)
const fn plain_bytes(word: u64) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const fn equal(word: u64, byte: u8) -> u64 {
        (word ^ (ONES * byte as u64)).wrapping_sub(ONES)
    }
    let borders = equal(word, b'&') | equal(word, b'=') | equal(word, b'+') | equal(word, b'%');
    (borders & !word & (ONES << 7)).trailing_zeros() as usize / 8
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// What [`Decoding::copy_plain`] may write behind what is decoded, and a form read there: it looks at the first 16 bytes of a name.
const SLACK: usize = 16;
