//! Routes just looked up, for the next connection between the same hosts.

use super::Hop;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Routes may change without a notification (ICMP redirects, sysctls), so nothing is kept for long.
const LIFE: Duration = Duration::from_secs(1);
const LIMIT: usize = 65_536;

/// Both ends of a connection, and its mark.
type Key = (IpAddr, IpAddr, u32);

/// Routes there and back.
pub(super) struct RouteCache {
    routes: HashMap<Key, (Hop, Hop)>,
    since: Instant,
    /// Counts invalidations: an answer to a question of before one is not kept.
    epoch: u64,
    /// A rule looks at protocols or ports.
    port_rules: bool,
    /// So does the choice between next hops.
    port_hash: bool,
}

impl RouteCache {
    pub fn new() -> Self {
        Self {
            routes: HashMap::new(),
            since: Instant::now(),
            epoch: 0,
            port_rules: false,
            port_hash: hashes_ports(),
        }
    }

    /// The routes between client and server, if known, and else the epoch to hand to `insert`.
    pub fn get(&mut self, key: Key, now: Instant) -> Result<(Hop, Hop), u64> {
        if now.saturating_duration_since(self.since) > LIFE {
            self.port_hash = hashes_ports();
            self.since = now;
            self.clear();
        }
        self.routes.get(&key).copied().ok_or(self.epoch)
    }

    /// Keeps the routes `back` to the client and `out` to the server, asked for in `epoch`.
    pub fn insert(&mut self, key: Key, hops: (Hop, Hop), epoch: u64) {
        if epoch == self.epoch && !self.port_rules && !self.port_hash && self.routes.len() < LIMIT {
            self.routes.insert(key, hops);
        }
    }

    /// Something changed.
    pub fn clear(&mut self) {
        self.routes.clear();
        self.epoch += 1;
    }

    /// From now on ports matter: nothing is kept.
    pub fn ports_matter(&mut self) {
        self.port_rules = true;
        self.clear();
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

    #[test]
    fn answers_of_before_a_change_are_not_kept() {
        let mut cache = RouteCache::new();
        cache.port_hash = false;
        let (a, b): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let hops = (Hop { interface: 1, address: a }, Hop { interface: 2, address: b });
        let now = cache.since;
        let epoch = cache.get((a, b, 0), now).unwrap_err();
        cache.clear();
        cache.insert((a, b, 0), hops, epoch);
        let epoch = cache.get((a, b, 0), now).unwrap_err();
        cache.insert((a, b, 0), hops, epoch);
        assert_eq!(cache.get((a, b, 0), now), Ok(hops));
        assert!(cache.get((b, a, 0), now).is_err() && cache.get((a, b, 1), now).is_err());
        assert!(cache.get((a, b, 0), now + LIFE * 2).is_err());
    }

    #[test]
    fn nothing_is_kept_where_ports_matter() {
        let mut cache = RouteCache::new();
        let a: IpAddr = "10.0.0.1".parse().unwrap();
        let hop = Hop { interface: 1, address: a };
        cache.ports_matter();
        let epoch = cache.get((a, a, 0), cache.since).unwrap_err();
        cache.insert((a, a, 0), (hop, hop), epoch);
        assert!(cache.get((a, a, 0), cache.since).is_err());
    }
}
