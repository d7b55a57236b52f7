//! Routes just looked up, for the next connection of the same hosts.

use super::Hop;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Routes may change without a notification (ICMP redirects, sysctls), so nothing is kept for long.
const LIFE: Duration = Duration::from_secs(5);
const LIMIT: usize = 262_144;

/// Both ends of a connection, and its mark.
type Key = (IpAddr, IpAddr, u32);

/// What routes depend on, from little to much.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Depends {
    /// The destination alone.
    Destination,
    /// Also the source, the interface or the mark, by rules; or the choice between next hops.
    Pair,
    /// Also ports.
    Ports,
}

/// Routes by destination where nothing else matters, else routes there and back.
pub(super) struct RouteCache {
    hosts: HashMap<IpAddr, Hop>,
    pairs: HashMap<Key, (Hop, Hop)>,
    since: Instant,
    /// Counts invalidations: an answer to a question of before one is not kept.
    epoch: u64,
    /// By rules and next hops, as far as known.
    depends: Depends,
    /// The choice between next hops depends on ports, if there is one.
    port_hash: bool,
}

/// What is known of a connection's routes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Known {
    /// Back to the client and out to the server.
    Both(Hop, Hop),
    /// Each by its destination alone; the epoch is for [`RouteCache::insert_host`].
    Hosts(Option<Hop>, Option<Hop>, u64),
    /// Nothing; the epoch is for [`RouteCache::insert`].
    Nothing(u64),
}

impl RouteCache {
    /// Until all rules and routes have been seen, routes are taken to depend on both ends.
    pub fn new() -> Self {
        Self {
            hosts: HashMap::new(),
            pairs: HashMap::new(),
            since: Instant::now(),
            epoch: 0,
            depends: Depends::Pair,
            port_hash: hashes_ports(),
        }
    }

    /// The routes between client and server, as far as known.
    pub fn get(&mut self, key: Key, now: Instant) -> Known {
        if now.saturating_duration_since(self.since) > LIFE {
            self.port_hash = hashes_ports();
            self.since = now;
            self.clear();
        }
        if self.depends == Depends::Destination {
            match (self.hosts.get(&key.0).copied(), self.hosts.get(&key.1).copied()) {
                (Some(back), Some(out)) => Known::Both(back, out),
                (back, out) => Known::Hosts(back, out, self.epoch),
            }
        } else {
            self.pairs.get(&key).map_or(Known::Nothing(self.epoch), |(back, out)| Known::Both(*back, *out))
        }
    }

    /// Keeps the routes `back` to the client and `out` to the server, asked for in `epoch`.
    pub fn insert(&mut self, key: Key, hops: (Hop, Hop), epoch: u64) {
        let alike = self.depends < Depends::Ports && !self.port_hash;
        if epoch == self.epoch && alike && self.pairs.len() < LIMIT {
            self.pairs.insert(key, hops);
        }
    }

    /// Keeps the route to `host`, asked for in `epoch`.
    pub fn insert_host(&mut self, host: IpAddr, hop: Hop, epoch: u64) {
        if epoch == self.epoch && self.depends == Depends::Destination && self.hosts.len() < LIMIT {
            self.hosts.insert(host, hop);
        }
    }

    /// Something changed.
    pub fn clear(&mut self) {
        self.hosts.clear();
        self.pairs.clear();
        self.epoch += 1;
    }

    /// All rules and routes have been seen: they depend on so much, or more, as [`Self::at_least`] said meanwhile.
    pub fn set(&mut self, depends: Depends) {
        self.depends = depends;
        self.clear();
    }

    /// A rule or route was seen that depends on so much.
    pub fn at_least(&mut self, depends: Depends) {
        if depends > self.depends {
            self.set(depends);
        }
    }
}

fn hashes_ports() -> bool {
    ["ipv4", "ipv6"].iter().any(|family| {
        let path = format!("/proc/sys/net/{family}/fib_multipath_hash_policy");
        std::fs::read_to_string(path).is_ok_and(|policy| policy.trim() != "0")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> (IpAddr, IpAddr, (Hop, Hop)) {
        let (a, b): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        (a, b, (Hop { interface: 1, address: a }, Hop { interface: 2, address: b }))
    }

    #[test]
    fn answers_of_before_a_change_are_not_kept() {
        let mut cache = RouteCache::new();
        cache.port_hash = false;
        let (a, b, hops) = hosts();
        let now = cache.since;
        let Known::Nothing(epoch) = cache.get((a, b, 0), now) else { panic!() };
        cache.clear();
        cache.insert((a, b, 0), hops, epoch);
        let Known::Nothing(epoch) = cache.get((a, b, 0), now) else { panic!() };
        cache.insert((a, b, 0), hops, epoch);
        assert_eq!(cache.get((a, b, 0), now), Known::Both(hops.0, hops.1));
        assert!(matches!(cache.get((b, a, 0), now), Known::Nothing(_)));
        assert!(matches!(cache.get((a, b, 1), now), Known::Nothing(_)));
        assert!(matches!(cache.get((a, b, 0), now + LIFE * 2), Known::Nothing(_)));
    }

    #[test]
    fn nothing_is_kept_where_ports_matter() {
        let mut cache = RouteCache::new();
        cache.port_hash = false;
        let (a, b, hops) = hosts();
        cache.at_least(Depends::Ports);
        cache.at_least(Depends::Pair);
        let Known::Nothing(epoch) = cache.get((a, b, 0), cache.since) else { panic!() };
        cache.insert((a, b, 0), hops, epoch);
        assert!(matches!(cache.get((a, b, 0), cache.since), Known::Nothing(_)));
    }

    #[test]
    fn where_only_destinations_matter_each_host_is_asked_for_once() {
        let mut cache = RouteCache::new();
        let (a, b, (back, out)) = hosts();
        cache.set(Depends::Destination);
        let now = cache.since;
        let Known::Hosts(None, None, epoch) = cache.get((a, b, 0), now) else { panic!() };
        cache.insert_host(a, back, epoch);
        assert_eq!(cache.get((a, b, 0), now), Known::Hosts(Some(back), None, epoch));
        cache.insert_host(b, out, epoch);
        assert_eq!(cache.get((a, b, 7), now), Known::Both(back, out));
        assert_eq!(cache.get((b, a, 0), now), Known::Both(out, back));
        cache.at_least(Depends::Pair);
        assert!(matches!(cache.get((a, b, 0), now), Known::Nothing(_)));
    }
}
