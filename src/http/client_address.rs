//! Whose request it is, as far as that can be known: the peer of the connection; or, where the peer is a proxy of ours
//! (`http.trusted_proxies`), whom the proxy names.
//!
//! What it is for: budgets, and one line in the log. It is never a reason to believe anything, and nobody is refused
//! because of it: Alipay documents no addresses.

use std::net::{IpAddr, SocketAddr};

use hyper::header::HeaderMap;
use ipnet::IpNet;

/// `http.trusted_proxies`: whose word about a client's address is taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// From networks (`10.0.0.0/8`) and single addresses.
    ///
    /// # Errors
    /// The first that is neither.
    pub fn read(list: &[String]) -> Result<Self, String> {
        let network = |text: &String| {
            let address = || text.parse::<IpAddr>().map(IpNet::from);
            text.parse::<IpNet>().or_else(|_| address()).map(canonical).map_err(|_| text.clone())
        };
        list.iter().map(network).collect::<Result<_, _>>().map(Self)
    }

    /// Whether everybody is one, so that everybody may say who he is.
    pub fn is_everybody(&self) -> bool {
        self.0.iter().any(|network| network.prefix_len() == 0)
    }

    pub(super) fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Who sent a request that came over a connection of `sender`: he himself, or the right-most hop of
    /// `X-Forwarded-For` that is not a proxy of ours. What stands left of that hop was written by it, and may be
    /// anything. What cannot be read ends the search, at the last hop that is known.
    ///
    /// Bound: 100 headers within `http.max_header`.
    pub(super) fn client(&self, sender: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut known = sender.to_canonical();
        if !self.contain(known) {
            return known;
        }
        let values = headers.get_all("x-forwarded-for");
        let mut hops = values.iter().rev().flat_map(|value| value.as_bytes().rsplit(|&byte| byte == b','));
        while self.contain(known) {
            let Some(hop) = hops.next().and_then(address) else { break };
            known = hop;
        }
        known
    }
}

/// IPv4 as IPv6 writes it (`::ffff:127.0.0.1`) is IPv4, as it is of whoever connects.
fn canonical(network: IpNet) -> IpNet {
    let length = network.prefix_len().checked_sub(MAPPED);
    let short = length.filter(|_| network.addr().to_canonical().is_ipv4() && network.addr().is_ipv6());
    short.and_then(|length| IpNet::new(network.addr().to_canonical(), length).ok()).unwrap_or(network)
}

/// The bits of `::ffff:0:0/96`.
const MAPPED: u8 = 96;

/// An address, with a port or without.
fn address(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    bare.parse().ok().or_else(with_port).map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies() -> TrustedProxies {
        TrustedProxies::read(&["10.0.0.0/8".to_owned(), "::1".to_owned(), "192.0.2.7".to_owned()]).unwrap()
    }

    /// Who the client is, of a request from `sender` with these values of the header.
    fn client(sender: &str, values: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in values {
            headers
                .append("x-forwarded-for", hyper::header::HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        proxies().client(sender.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn the_word_of_a_stranger_is_not_taken() {
        assert_eq!(client("203.0.113.9", &["198.51.100.1"]), "203.0.113.9");
        assert_eq!(client("192.0.2.8", &["198.51.100.1"]), "192.0.2.8");
    }

    #[test]
    fn the_right_most_hop_that_is_no_proxy_of_ours_is_the_client() {
        assert_eq!(client("10.1.2.3", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("10.1.2.3", &["6.6.6.6, 198.51.100.1,10.9.9.9 , 192.0.2.7"]), "198.51.100.1");
        // Several headers are one list, in their order.
        assert_eq!(client("::1", &["6.6.6.6", "198.51.100.1", "10.9.9.9"]), "198.51.100.1");
        assert_eq!(client("::ffff:10.1.2.3", &["::ffff:198.51.100.1"]), "198.51.100.1");
    }

    #[test]
    fn where_all_are_proxies_the_first_is_the_client_and_without_a_header_the_peer() {
        assert_eq!(client("10.1.2.3", &["10.0.0.1, 10.0.0.2"]), "10.0.0.1");
        assert_eq!(client("10.1.2.3", &[]), "10.1.2.3");
    }

    #[test]
    fn what_cannot_be_read_ends_the_search_at_the_last_known_hop() {
        for odd in ["unknown", "_hidden", "", "1.2.3", "198.51.100.1:port", "\u{fffd}", "1.2.3.4 5.6.7.8"] {
            assert_eq!(client("10.1.2.3", &[&format!("198.51.100.1, {odd}")]), "10.1.2.3", "{odd:?}");
            assert_eq!(client("10.1.2.3", &[&format!("{odd}, 10.7.7.7")]), "10.7.7.7", "{odd:?}");
        }
    }

    #[test]
    fn a_network_of_ipv4_may_be_written_as_ipv6_writes_it() {
        let list = ["::ffff:10.0.0.0/104", "::ffff:127.0.0.1", "2001:db8::/32"].map(str::to_owned);
        let proxies = TrustedProxies::read(&list).unwrap();
        for (address, is_one) in [
            ("10.9.9.9", true),
            ("127.0.0.1", true),
            ("127.0.0.2", false),
            ("2001:db8::1", true),
            ("::1", false),
        ] {
            assert_eq!(proxies.contain(address.parse().unwrap()), is_one, "{address}");
        }
    }

    #[test]
    fn a_port_and_brackets_do_no_harm() {
        for hop in ["198.51.100.1:4711", " 198.51.100.1 "] {
            assert_eq!(client("10.1.2.3", &[hop]), "198.51.100.1");
        }
        for hop in ["2001:db8::5", "[2001:db8::5]", "[2001:db8::5]:4711"] {
            assert_eq!(client("10.1.2.3", &[hop]), "2001:db8::5");
        }
    }

    #[test]
    fn what_is_no_network_is_named() {
        assert_eq!(TrustedProxies::read(&["10.0.0.0/33".to_owned()]), Err("10.0.0.0/33".to_owned()));
        assert!(TrustedProxies::read(&["::/0".to_owned()]).unwrap().is_everybody());
    }
}
