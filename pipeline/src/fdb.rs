//! Which VTEP an inner MAC lives behind: learned from received frames, aged, bounded, without locks.
//!
//! An entry is two words. The key (LIF and MAC) is claimed by compare-and-swap; the value carries the VTEP, the second it was
//! last seen, and a tag of the key, so that a reader that meets a slot between its two stores sees that they do not belong
//! together. Sets of four entries are one cache line; in a full set the aged give way, and if there is none, nothing is
//! learned: broadcast and replication still reach everybody.

use crate::neighbors::NeighborIndex;
use conntrack::LifIndex;
use std::sync::atomic::{AtomicU64, Ordering::*};

/// Seconds after which a MAC that sent nothing is forgotten.
pub const AGE: u64 = 300;
const WAYS: usize = 4;
const SECONDS: u64 = 0xff_ffff;

#[derive(Debug, Default)]
#[repr(align(64))]
struct Set([(AtomicU64, AtomicU64); WAYS]);

/// The forwarding database.
#[derive(Debug)]
pub struct Fdb {
    sets: Box<[Set]>,
    secret: u64,
    moves: AtomicU64,
}

impl Fdb {
    /// Room for about `capacity` MACs.
    pub fn new(capacity: usize, secret: u64) -> Self {
        let sets = (capacity / WAYS).next_power_of_two();
        Self { sets: (0..sets).map(|_| Set::default()).collect(), secret, moves: AtomicU64::new(0) }
    }

    /// The VTEP behind `mac`, if it was heard of within [`AGE`].
    #[inline]
    pub fn lookup(&self, lif: LifIndex, mac: [u8; 6], second: u64) -> Option<NeighborIndex> {
        let key = key(lif, mac);
        let hash = self.hash(key);
        let (_, value) = self.set(hash)?.iter().find(|(slot, _)| slot.load(Relaxed) == key)?;
        let value = value.load(Relaxed);
        (value >> 40 == hash >> 40 && age(value, second) <= AGE).then_some(NeighborIndex(value as u16))
    }

    /// Notes that `mac` was heard from behind `vtep`; false if there is no room. Writes only news, and once a second.
    #[inline]
    pub fn learn(&self, lif: LifIndex, mac: [u8; 6], vtep: NeighborIndex, second: u64) -> bool {
        let key = key(lif, mac);
        let hash = self.hash(key);
        let new = hash >> 40 << 40 | (second & SECONDS) << 16 | u64::from(vtep.0);
        let Some(set) = self.set(hash) else { return false };
        if let Some((_, value)) = set.iter().find(|(slot, _)| slot.load(Relaxed) == key) {
            let old = value.load(Relaxed);
            if old != new {
                value.store(new, Relaxed);
                if old as u16 != new as u16 {
                    self.moves.fetch_add(1, Release);
                }
            }
            return true;
        }
        for (slot, value) in set {
            let old = slot.load(Relaxed);
            let free = old == 0 || age(value.load(Relaxed), second) > AGE;
            if free && slot.compare_exchange(old, key, Relaxed, Relaxed).is_ok() {
                value.store(new, Relaxed);
                return true;
            }
        }
        false
    }

    /// How often a MAC moved from one VTEP to another: what was looked up before may be wrong after.
    #[inline]
    pub fn moves(&self) -> u64 {
        self.moves.load(Acquire)
    }

    fn set(&self, hash: u64) -> Option<&[(AtomicU64, AtomicU64); WAYS]> {
        self.sets.get(hash as usize & (self.sets.len() - 1)).map(|set| &set.0)
    }

    fn hash(&self, key: u64) -> u64 {
        let product = u128::from(key ^ self.secret) * 0x9e37_79b9_7f4a_7c15;
        (product >> 64) as u64 ^ product as u64
    }
}

/// What a MAC of a LIF is found by. Never 0: the top bit is set.
#[inline(always)]
pub fn key(lif: LifIndex, mac: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = mac;
    key_of(lif, [a, b, c, d, e, f, 0, 0])
}

/// The same of the first eight bytes of a frame, which begin with its destination.
#[inline(always)]
pub fn key_of(lif: LifIndex, start: [u8; 8]) -> u64 {
    1 << 63 | u64::from(lif.0) << 48 | u64::from_be_bytes(start) >> 16
}

fn age(value: u64, second: u64) -> u64 {
    second.wrapping_sub(value >> 16) & SECONDS
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIF: LifIndex = LifIndex(3);

    #[test]
    fn learns_moves_and_forgets() {
        let fdb = Fdb::new(64, 7);
        let mac = [2, 0, 0, 0, 0, 1];
        assert_eq!(fdb.lookup(LIF, mac, 0), None);
        assert!(fdb.learn(LIF, mac, NeighborIndex(5), 10));
        assert_eq!(fdb.lookup(LIF, mac, 10 + AGE), Some(NeighborIndex(5)));
        assert_eq!(fdb.lookup(LIF, mac, 11 + AGE), None);
        assert_eq!(fdb.lookup(LifIndex(4), mac, 10), None, "another LIF is another network");
        assert!(fdb.learn(LIF, mac, NeighborIndex(6), 12));
        assert_eq!(fdb.lookup(LIF, mac, 12), Some(NeighborIndex(6)));
    }

    #[test]
    fn bounded_and_the_aged_give_way() {
        let fdb = Fdb::new(64, 7);
        let mac = |i: u16| [2, 0, 0, 0, (i >> 8) as u8, i as u8];
        let learned = (0..1000).filter(|i| fdb.learn(LIF, mac(*i), NeighborIndex(*i), 1)).count();
        assert_eq!(learned, 64);
        for i in (0..1000).filter(|i| fdb.lookup(LIF, mac(*i), 1).is_some()) {
            assert_eq!(fdb.lookup(LIF, mac(i), 1), Some(NeighborIndex(i)));
        }
        assert!(!fdb.learn(LIF, [4; 6], NeighborIndex(1), 1 + AGE));
        assert!(fdb.learn(LIF, [4; 6], NeighborIndex(1), 2 + AGE));
    }
}
