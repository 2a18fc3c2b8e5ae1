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

    /// Always with two decimals. By hand, because every notification has several, and the formatter takes four times the
    /// instructions.
    pub fn decimal(self) -> String {
        let mut text = String::with_capacity(USUAL_BYTES);
        let mut unit = 100;
        while self.0 / 10 >= unit {
            unit *= 10;
        }
        while unit > 0 {
            text.push(char::from(b'0' + u8::try_from(self.0 / unit % 10).unwrap_or(0)));
            if unit == 100 {
                text.push('.');
            }
            unit /= 10;
        }
        text
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.decimal())
    }
}

fn digit(byte: u8) -> Option<u64> {
    byte.is_ascii_digit().then(|| u64::from(byte - b'0'))
}

/// Alipay's largest amount is 100,000,000.00; twelve digits leave room and cannot overflow.
const MAX_WHOLE_DIGITS: usize = 12;
const USUAL_BYTES: usize = MAX_WHOLE_DIGITS + 3;

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
        for (minor, text) in [
            (8880, "88.80"),
            (5, "0.05"),
            (0, "0.00"),
            (99, "0.99"),
            (100, "1.00"),
            (999, "9.99"),
            (1000, "10.00"),
            (10_000_000_001, "100000000.01"),
            (u64::MAX, "184467440737095516.15"),
        ] {
            assert_eq!(Money::from_minor(minor).to_string(), text);
        }
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
