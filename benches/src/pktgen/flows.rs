//! The sessions of a profile: tuples before and after translation.

use super::permutation::Permutation;
use super::profile::{Ends, Profile, Protocol};
use anyhow::{Result, ensure};

/// Addresses and ports of one direction. For ICMP the source port is the identifier, and the destination has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "names say it")]
pub struct Tuple {
    pub source: u32,
    pub destination: u32,
    pub source_port: u16,
    pub destination_port: u16,
}

impl Tuple {
    /// As the answer has it.
    pub fn swapped(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }
}

/// A session as its first packet has it, inside and outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Inside.
    pub original: Tuple,
    /// Outside.
    pub translated: Tuple,
}

/// All tuples that two ends can make.
struct Space {
    source: Ends,
    destination: Ends,
    has_destination_port: bool,
}

impl Space {
    fn len(&self) -> Option<u64> {
        let ports = if self.has_destination_port { self.destination.ports.count() } else { 1 };
        let product = self.source.ports.count() * self.source.addresses.count();
        product.checked_mul(ports)?.checked_mul(self.destination.addresses.count())
    }

    /// The source port counts first, then the source address, the destination's port and address.
    fn at(&self, mut number: u64) -> Tuple {
        let mut digit = |base: u64| {
            let digit = number % base;
            number /= base;
            digit
        };
        let source_port = self.source.ports.at(digit(self.source.ports.count()));
        let source = self.source.addresses.at(digit(self.source.addresses.count()));
        let destination_port = match self.has_destination_port {
            true => self.destination.ports.at(digit(self.destination.ports.count())),
            false => 0,
        };
        let destination = self.destination.addresses.at(digit(self.destination.addresses.count()));
        Tuple { source, destination, source_port, destination_port }
    }
}

/// The sessions, in the profile's order.
pub fn sessions(profile: &Profile) -> Result<Vec<Session>> {
    let count = u64::from(profile.sessions);
    let has_destination_port = profile.protocol != Protocol::Icmp;
    let space = Space { source: profile.source, destination: profile.destination, has_destination_port };
    let len = space.len().unwrap_or(u64::MAX);
    ensure!(len >= count, "source and destination make {len} sessions only, {count} are wanted");
    let translations = profile.nat.map(|nat| nat.addresses.count() * nat.ports.count());
    ensure!(
        translations.is_none_or(|most| most >= count),
        "nat: {} pairs of address and port only, {count} sessions are wanted",
        translations.unwrap_or_default()
    );
    let order = profile.random.then(|| Permutation::new(len, profile.seed));
    let session = |n: u64| {
        let original = space.at(order.map_or(n, |order| order.at(n)));
        let mut translated = original;
        if let Some(nat) = profile.nat {
            translated.source_port = nat.ports.at(n % nat.ports.count());
            translated.source = nat.addresses.at(n / nat.ports.count());
        }
        Session { original, translated }
    };
    Ok((0..count).map(session).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pktgen::profile::tests::VLAN_TO_VXLAN;
    use std::collections::HashSet;

    fn profile(change: impl FnOnce(&mut Profile)) -> Profile {
        let mut profile = Profile::parse(VLAN_TO_VXLAN).unwrap();
        change(&mut profile);
        profile
    }

    #[test]
    fn a_range_counts_ports_then_addresses() {
        let all = sessions(&profile(|profile| profile.sessions = 40_000)).unwrap();
        assert_eq!((all[0].original.source, all[0].original.source_port), (0x0a01_0000, 1024));
        assert_eq!((all[32_768].original.source, all[32_768].original.source_port), (0x0a01_0001, 1024));
        assert_eq!((all[1].translated.source, all[1].translated.source_port), (0xcb00_7100, 1025));
    }

    /// RFC 4814, section 4: addresses and ports are drawn from all of the ranges, and no session comes twice.
    #[test]
    fn random_tuples_are_unique_spread_and_reproducible() {
        let random = |seed| {
            sessions(&profile(|profile| {
                (profile.random, profile.seed, profile.sessions) = (true, seed, 50_000);
                profile.destination.ports = "1-49151".parse().unwrap();
            }))
            .unwrap()
        };
        let all = random(1);
        assert_eq!(all, random(1));
        assert_ne!(all, random(2));
        assert_eq!(all.iter().map(|session| session.original).collect::<HashSet<_>>().len(), 50_000);
        assert_eq!(all.iter().map(|session| session.translated).collect::<HashSet<_>>().len(), 50_000);
        let spread = |value: &dyn Fn(&Session) -> u16| {
            let mut classes = [0_f64; 16];
            all.iter().for_each(|session| classes[usize::from(value(session))] += 1.0);
            let expected = all.len() as f64 / 16.0;
            classes.iter().map(|seen| (seen - expected).powi(2) / expected).sum::<f64>()
        };
        // Chi-square with 15 degrees of freedom: 99.9 % of fair draws stay below 37.7.
        assert!(spread(&|session| (session.original.source_port - 1024) / 2048) < 37.7);
        assert!(spread(&|session| (session.original.source >> 12 & 15) as u16) < 37.7);
        assert!(spread(&|session| (session.original.destination_port - 1) / 3072) < 37.7);
    }

    #[test]
    fn more_sessions_than_tuples_are_refused() {
        let few = profile(|profile| profile.nat = Some(profile.destination));
        assert!(sessions(&few).unwrap_err().to_string().contains("1 pairs"));
        let few = profile(|profile| {
            profile.source.addresses = "10.1.0.1".parse().unwrap();
            profile.sessions = 32_769;
            profile.nat = None;
        });
        assert!(sessions(&few).unwrap_err().to_string().contains("32768 sessions only"));
    }
}
