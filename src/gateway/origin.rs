//! What a budget is charged to.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// An IPv4 address; of an IPv6 address its first 64 bits, because whoever has one has all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin(IpAddr);

impl From<IpAddr> for Origin {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(network) => write!(f, "{network}/64"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_with_many_addresses_is_one() {
        let shown = |text: &str| Origin::from(text.parse::<IpAddr>().unwrap()).to_string();
        assert_eq!(shown("198.51.100.1"), "198.51.100.1");
        assert_eq!(shown("::ffff:198.51.100.1"), "198.51.100.1");
        assert_eq!(shown("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        assert_eq!(shown("2001:db8:1:2::"), "2001:db8:1:2::/64");
    }
}
