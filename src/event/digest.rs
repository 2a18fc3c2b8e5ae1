//! The money facts of a notification in 32 bytes. Two notifications with the same key and the same digest say
//! the same; with another digest they contradict each other.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::Money;

/// SHA-256 over `out_trade_no`, `total_amount`, `seller_id`, `refund_fee`, each followed by a line feed
/// (design.md, "Admission"). Amounts have two decimals; an absent `refund_fee` counts as 0.00, so that the
/// ordinary payments that carry `refund_fee=0.00` and those that carry none agree; any other absent field is
/// an empty line.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of these facts.
    pub fn of(
        out_trade_no: &[u8],
        total_amount: Option<Money>,
        seller_id: &[u8],
        refund_fee: Option<Money>,
    ) -> Self {
        let total_amount = total_amount.map(Money::decimal).unwrap_or_default();
        let refund_fee = refund_fee.unwrap_or_default().decimal();
        let mut lines = Vec::with_capacity(USUAL_BYTES);
        for line in [out_trade_no, total_amount.as_bytes(), seller_id, refund_fee.as_bytes()] {
            lines.extend_from_slice(line);
            lines.push(b'\n');
        }
        Self(Sha256::digest(lines).into())
    }

    /// From the bytes that a store kept.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// For a store to keep.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 16 hex digits, as ids and headers carry it.
    pub fn short(&self) -> String {
        hex(&self.0, 8)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0, self.0.len()))
    }
}

/// The first bytes in lower-case hex. By hand, because it is on the way of every notification several times and
/// formatting byte by byte took 3 % of all its instructions.
fn hex(bytes: &[u8], count: usize) -> String {
    let digit = |half: u8| if half < 10 { b'0' + half } else { b'a' + half - 10 };
    let digits: Vec<u8> =
        bytes.iter().take(count).flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
    String::from_utf8(digits).unwrap_or_default()
}

/// Of an order number of 32 characters.
const USUAL_BYTES: usize = 96;

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_refund_is_a_refund_of_nothing() {
        let amount = Money::parse(b"88.88");
        assert_eq!(
            Digest::of(b"o", amount, b"s", None),
            Digest::of(b"o", amount, b"s", Money::parse(b"0.00"))
        );
        assert_ne!(
            Digest::of(b"o", amount, b"s", None),
            Digest::of(b"o", amount, b"s", Money::parse(b"0.01"))
        );
    }

    #[test]
    fn the_digest_is_the_documented_one() {
        // printf '%s\n' R1-0000000000 88.88 2088101117955611 0.00 | sha256sum
        let digest = Digest::of(b"R1-0000000000", Money::parse(b"88.88"), b"2088101117955611", None);
        assert_eq!(digest.to_string(), "7dab9c7c49625803ab09bb8783dbc228443f1f22a76a296fe705f669479379ce");
        assert_eq!(digest.short().len(), 16);
    }
}
