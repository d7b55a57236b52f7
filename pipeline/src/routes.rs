//! Routers on the underlay: which one leads to an address that is not on its link. Few, so they are looked through.

use crate::config::Route;
use crate::neighbors::{Address, NeighborIndex};
use std::net::IpAddr;

/// All routes, the longest prefixes first.
#[derive(Debug)]
pub struct Routes(Box<[Entry]>);

#[derive(Debug)]
struct Entry {
    to: u128,
    mask: u128,
    via: NeighborIndex,
}

impl Routes {
    /// Each with its router.
    pub fn new(routes: impl Iterator<Item = (Route, NeighborIndex)>) -> Self {
        let mut entries: Vec<Entry> = routes
            .map(|(route, via)| {
                let mask = mask(&route.to, route.prefix);
                Entry { to: Address::from(route.to).bits() & mask, mask, via }
            })
            .collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.mask));
        Self(entries.into())
    }

    /// Whether all addresses are on the link.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The router to an address; None if it is on the link.
    pub fn via(&self, address: Address) -> Option<NeighborIndex> {
        self.0.iter().find(|entry| address.bits() & entry.mask == entry.to).map(|entry| entry.via)
    }
}

/// The mask of a prefix, over IPv4-mapped addresses.
fn mask(ip: &IpAddr, prefix: u8) -> u128 {
    let length = if ip.is_ipv4() { 96 + u32::from(prefix) } else { u32::from(prefix) };
    u128::MAX.checked_shl(128_u32.saturating_sub(length)).unwrap_or(0)
}

/// Whether no bit behind the prefix is set.
pub(crate) fn is_prefix(route: &Route) -> bool {
    let longest = if route.to.is_ipv4() { 32 } else { 128 };
    route.prefix <= longest && Address::from(route.to).bits() & !mask(&route.to, route.prefix) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins() {
        let route = |to: &str, prefix| Route {
            to: to.parse().expect("an address"),
            prefix,
            via: "192.0.2.254".parse().expect("an address"),
        };
        let all =
            [route("0.0.0.0", 0), route("10.9.0.0", 16), route("10.9.1.1", 32), route("2001:db8::", 32)];
        assert!(all.iter().all(is_prefix));
        assert!(!is_prefix(&route("10.9.0.1", 16)) && !is_prefix(&route("10.9.0.0", 33)));
        assert!(!is_prefix(&route("2001:db8::1", 32)) && is_prefix(&route("::", 0)));
        let routes = Routes::new(all.into_iter().zip((0..).map(NeighborIndex)));
        let via =
            |ip: &str| routes.via(ip.parse::<IpAddr>().expect("an address").into()).map(|index| index.0);
        assert_eq!((via("10.9.1.1"), via("10.9.1.2"), via("10.8.0.1")), (Some(2), Some(1), Some(0)));
        assert_eq!((via("2001:db8::9"), via("2001:db9::9")), (Some(3), None), "0.0.0.0/0 is IPv4's alone");
        assert!(Routes::new(std::iter::empty()).is_empty());
    }
}
