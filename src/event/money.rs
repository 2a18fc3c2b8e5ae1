//! Amounts in yuan with up to two decimals, compared as decimals and never as floating point.

use std::fmt;

/// An amount in the currency's hundredth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Money(u64);

impl Money {
    /// Reads `88`, `88.8` or `88.88`: digits, and at most two behind a point. No sign, no exponent, no blank,
    /// at most 12 digits before the point. `None` for everything else.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut parts = text.splitn(2, |byte| *byte == b'.');
        let whole = parts.next()?;
        let cents = match parts.next() {
            None => 0,
            Some([tens]) => digit(*tens)? * 10,
            Some([tens, ones]) => digit(*tens)? * 10 + digit(*ones)?,
            Some(_) => return None,
        };
        if whole.is_empty() || whole.len() > MAX_WHOLE_DIGITS {
            return None;
        }
        let yuan = whole.iter().try_fold(0u64, |sum, byte| Some(sum * 10 + digit(*byte)?))?;
        Some(Self(yuan * 100 + cents))
    }

    /// From hundredths.
    pub const fn from_minor(minor: u64) -> Self {
        Self(minor)
    }

    /// In hundredths.
    pub const fn minor(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Money {
    /// Always with two decimals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

fn digit(byte: u8) -> Option<u64> {
    byte.is_ascii_digit().then(|| u64::from(byte - b'0'))
}

/// Alipay's largest amount is 100,000,000.00; twelve digits leave room and cannot overflow.
const MAX_WHOLE_DIGITS: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_decimals() {
        for (text, minor) in
            [("88.88", 8888), ("88.8", 8880), ("88", 8800), ("0.01", 1), ("0.00", 0), ("007.10", 710)]
        {
            assert_eq!(Money::parse(text.as_bytes()).map(Money::minor), Some(minor), "{text}");
        }
        assert_eq!(Money::from_minor(8880).to_string(), "88.80");
        assert_eq!(Money::from_minor(5).to_string(), "0.05");
    }

    #[test]
    fn what_is_not_plainly_an_amount_is_none() {
        for text in [
            "",
            ".",
            ".5",
            "5.",
            "1.234",
            "-1",
            "+1",
            "1e3",
            " 1",
            "1 ",
            "1,00",
            "0x1",
            "1.2.3",
            "1234567890123",
            "１",
        ] {
            assert_eq!(Money::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(Money::parse(b"999999999999.99").map(Money::minor), Some(99_999_999_999_999));
    }
}
