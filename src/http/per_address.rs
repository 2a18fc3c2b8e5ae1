//! How many connections one address may have at once (`http.max_connections_per_address`). Off by default, and never
//! for a trusted proxy: behind one, all traffic has its address.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::gateway::Origin;

/// The open connections of each address.
#[derive(Debug)]
pub(super) struct PerAddress {
    max: usize,
    /// Bound: an entry for each open connection at most.
    open: Mutex<HashMap<Origin, usize>>,
}

/// A connection's place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    of: Arc<PerAddress>,
    origin: Origin,
}

impl PerAddress {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, open: Mutex::default() })
    }

    /// `None` if the address has as many as it may.
    pub(super) fn place(self: &Arc<Self>, origin: Origin) -> Option<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(origin).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(Place { of: Arc::clone(self), origin })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.of.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.origin) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.origin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        Origin::from(text.parse::<std::net::IpAddr>().unwrap())
    }

    #[test]
    fn one_address_does_not_take_the_places_of_another_and_leaves_nothing_behind() {
        let all = PerAddress::new(2);
        let first = all.place(origin("198.51.100.1")).unwrap();
        let second = all.place(origin("198.51.100.1")).unwrap();
        assert!(all.place(origin("198.51.100.1")).is_none());
        let other = all.place(origin("198.51.100.2")).unwrap();
        drop(first);
        let third = all.place(origin("198.51.100.1")).unwrap();
        drop((second, other, third));
        assert!(all.open.lock().unwrap().is_empty());
    }
}
