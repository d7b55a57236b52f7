//! The index: from a hash to the few places where an item may be.
//!
//! A bucketised cuckoo table of 64-byte buckets, each one cache line: twelve one-byte tags, twelve 32-bit values, and a
//! version. An item is in its first bucket, or, when that is full, in its second, which follows from the first and the
//! tag alone (partial-key cuckoo hashing), so that items move without a look at what they stand for. A full pair of
//! buckets is made room in by the shortest chain of moves, found breadth first. With twelve ways nearly all places can
//! be filled; as sized by [`Index::new`], over 80 % of the items are in their first bucket.
//!
//! Readers take no lock. A move writes the copy before it clears the original, and counts the original's bucket's version
//! up in between: a reader that finds nothing, and the versions as before, has truly seen that nothing is there.
//! Writers hold the table's lock, and prove it with `&mut Search`.

use super::bucket::{Bucket, EMPTY, WAYS};
use super::memory::{Pages, Region, prefetch_at};
use crate::sync::{Ordering::*, fence};
use std::io;

/// How often a reader looks again because items moved meanwhile, before it takes the item for absent. A miss costs a trip
/// through the VNF, nothing worse.
const RETRIES: usize = 64;
/// Buckets that a search for room may visit: two roots, 24 after one move, 288 after two, and some of 3456.
const SEARCH: usize = 2048;

/// Where an item may be.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    pub bucket: u32,
    pub tag: u8,
}

/// See the module.
pub(super) struct Index {
    buckets: Region<Bucket>,
    count: u64,
    /// Added to what a tag says about its items' two buckets.
    secret: u32,
}

impl Index {
    /// For `items` items, which fill it to at most 85 %.
    pub fn new(items: usize, pages: Pages, secret: u64) -> io::Result<Self> {
        let count = (items * 100).div_ceil(WAYS * 85) + 16;
        Self::with_buckets(count, pages, secret)
    }

    fn with_buckets(count: usize, pages: Pages, secret: u64) -> io::Result<Self> {
        Ok(Self { buckets: Region::new(count, pages)?, count: count as u64, secret: secret as u32 })
    }

    /// Bytes taken when full.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.buckets)
    }

    /// The first place of an item.
    #[inline(always)]
    pub fn first(&self, hash: u64) -> Place {
        let bucket = ((hash & 0xffff_ffff) * self.count) >> 32;
        let tag = (hash >> 56) as u8;
        Place { bucket: bucket as u32, tag: tag + u8::from(tag == EMPTY) }
    }

    /// An item's other place: its own inverse.
    #[inline]
    pub fn other(&self, Place { bucket, tag }: Place) -> Place {
        // Multiples of the golden ratio: spread evenly over the buckets, whatever the secret.
        let spread = u64::from(u32::from(tag).wrapping_mul(0x9e37_79b9).wrapping_add(self.secret));
        let sum = ((spread * self.count) >> 32) as u32;
        let other = if sum >= bucket { sum - bucket } else { (sum + self.count as u32) - bucket };
        Place { bucket: other, tag }
    }

    /// The buckets, for what a burst does with them.
    #[inline(always)]
    pub fn buckets(&self) -> Buckets<'_> {
        Buckets(&self.buckets)
    }

    /// The value that is under `hash` and `wanted`.
    pub fn find(&self, hash: u64, mut wanted: impl FnMut(u32) -> bool) -> Option<u32> {
        let place = self.first(hash);
        let first = self.buckets.get(place.bucket as usize)?;
        // Most of what is there is here: the other bucket would be a wait for memory.
        if let Some((_, value)) = first.scan(place.tag, &mut wanted) {
            return Some(value);
        }
        let other = self.buckets.get(self.other(place).bucket as usize)?;
        for _ in 0..RETRIES {
            let versions = (first.version.load(Acquire), other.version.load(Acquire));
            for bucket in [first, other] {
                if let Some((_, value)) = bucket.scan(place.tag, &mut wanted) {
                    return Some(value);
                }
            }
            fence(Acquire);
            if versions == (first.version.load(Relaxed), other.version.load(Relaxed)) {
                break;
            }
        }
        None
    }

    /// Adds `value` under `hash`. False if there is no room for it, which takes a table much fuller than made for.
    pub fn insert(&self, search: &mut Search, hash: u64, value: u32) -> bool {
        let place = self.first(hash);
        for place in [place, self.other(place)] {
            if let Some(bucket) = self.buckets.get(place.bucket as usize)
                && let Some(way) = bucket.vacancy()
            {
                bucket.put(way, place.tag, value);
                return true;
            }
        }
        // A chain that crosses itself comes apart halfway: harmless, and the next search sees what has moved.
        for _ in 0..3 {
            match search.make_room(self, place) {
                Outcome::Room(bucket, way) => {
                    if let Some(bucket) = self.buckets.get(bucket as usize) {
                        bucket.put(way, place.tag, value);
                        return true;
                    }
                }
                Outcome::Crossed => {}
                Outcome::None => break,
            }
        }
        false
    }

    /// Moves `place`, one of `value`'s two, on to the other if it is not there, and asks for that.
    pub fn locate(&self, place: &mut Place, value: u32) {
        let bucket = self.buckets.get(place.bucket as usize);
        if bucket.is_some_and(|bucket| bucket.scan(place.tag, |other| other == value).is_none()) {
            *place = self.other(*place);
            self.buckets().prefetch(*place);
        }
    }

    /// Takes `value`, one of whose two places is `place`, out.
    pub fn remove(&self, _lock: &mut Search, place: Place, value: u32) -> bool {
        for place in [place, self.other(place)] {
            if let Some(bucket) = self.buckets.get(place.bucket as usize)
                && let Some((way, _)) = bucket.scan(place.tag, |other| other == value)
            {
                bucket.set_tag(way, EMPTY);
                return true;
            }
        }
        false
    }

    /// Moves the item at `from`'s `way` to the vacant `to`. False if its other bucket is not that one (any more).
    fn relocate(&self, from: (u32, usize), to: (u32, usize)) -> bool {
        let (Some(source), Some(target)) =
            (self.buckets.get(from.0 as usize), self.buckets.get(to.0 as usize))
        else {
            return false;
        };
        let tag = source.tag(from.1);
        if tag == EMPTY || self.other(Place { bucket: from.0, tag }).bucket != to.0 {
            return false;
        }
        let Some(value) = source.values.get(from.1).map(|value| value.load(Relaxed)) else { return false };
        target.put(to.1, tag, value);
        source.version.store(source.version.load(Relaxed).wrapping_add(1), Release);
        source.set_tag(from.1, EMPTY);
        true
    }
}

/// The buckets of an index.
#[derive(Clone, Copy)]
pub(super) struct Buckets<'i>(&'i [Bucket]);

impl<'i> Buckets<'i> {
    /// Asks for the place's cache line.
    #[inline(always)]
    pub fn prefetch(self, place: Place) {
        prefetch_at(self.0, place.bucket as usize);
    }

    /// The values at `place` under its tag: guesses, to be verified.
    #[inline(always)]
    pub fn guesses(self, place: Place) -> Guesses<'i> {
        let bucket = self.0.get(place.bucket as usize);
        Guesses { bucket, ways: bucket.map_or(0, |bucket| bucket.matching(place.tag)) }
    }
}

/// See [`Buckets::guesses`]. Of what is in the bucket the first is wrong in one of fifty cases.
pub(super) struct Guesses<'b> {
    bucket: Option<&'b Bucket>,
    ways: u32,
}

impl Guesses<'_> {
    /// Whether there is another one.
    #[inline(always)]
    pub fn more(&self) -> bool {
        self.ways != 0
    }
}

impl Iterator for Guesses<'_> {
    type Item = u32;

    #[inline(always)]
    fn next(&mut self) -> Option<u32> {
        let value = self.bucket?.values.get(self.ways.trailing_zeros() as usize)?;
        self.ways &= self.ways.wrapping_sub(1);
        Some(value.load(Acquire))
    }
}

/// The breadth-first search for room; owned by whoever may write.
pub(super) struct Search {
    visited: Vec<Step>,
}

/// A bucket that the item in `way` of the bucket of step `parent` could move to.
#[derive(Clone, Copy)]
struct Step {
    bucket: u32,
    parent: Option<u16>,
    way: u8,
}

enum Outcome {
    Room(u32, usize),
    Crossed,
    None,
}

impl Search {
    pub fn new() -> Self {
        Self { visited: Vec::with_capacity(SEARCH) }
    }

    fn make_room(&mut self, index: &Index, place: Place) -> Outcome {
        self.visited.clear();
        for root in [place, index.other(place)] {
            self.visited.push(Step { bucket: root.bucket, parent: None, way: 0 });
        }
        let mut next = 0;
        while let Some(step) = self.visited.get(next).copied() {
            let Some(bucket) = index.buckets.get(step.bucket as usize) else { break };
            for way in 0..WAYS {
                let other = index.other(Place { bucket: step.bucket, tag: bucket.tag(way) }).bucket;
                let Some(target) = index.buckets.get(other as usize) else { continue };
                if other == step.bucket {
                    continue;
                }
                if let Some(vacancy) = target.vacancy() {
                    return self.shift(index, next, way, (other, vacancy));
                }
                if self.visited.len() < SEARCH {
                    self.visited.push(Step { bucket: other, parent: Some(next as u16), way: way as u8 });
                }
            }
            next += 1;
        }
        Outcome::None
    }

    /// Moves along the chain that ends at step `last`, its far end first; the place that becomes vacant in a root.
    fn shift(&self, index: &Index, last: usize, way: usize, mut vacancy: (u32, usize)) -> Outcome {
        let (mut at, mut way) = (last, way);
        while let Some(step) = self.visited.get(at) {
            if !index.relocate((step.bucket, way), vacancy) {
                return Outcome::Crossed;
            }
            vacancy = (step.bucket, way);
            match step.parent {
                Some(parent) => (at, way) = (usize::from(parent), usize::from(step.way)),
                None => return Outcome::Room(vacancy.0, vacancy.1),
            }
        }
        Outcome::None
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;
    use crate::table::hash::Hasher;
    use std::collections::HashMap;

    fn index(buckets: usize) -> Index {
        Index::with_buckets(buckets, Pages::Transparent, 0x7f4a_7c15).unwrap()
    }

    #[test]
    fn other_is_its_own_inverse() {
        for buckets in [1, 2, 17, 1000, 1 << 20] {
            let index = index(buckets);
            for hash in (0..5000u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
                let place = index.first(hash);
                let other = index.other(place);
                assert!((other.bucket as usize) < buckets);
                assert_eq!(index.other(other).bucket, place.bucket);
            }
        }
    }

    /// How full an index of `buckets` gets before the first refusal.
    fn load_at_first_refusal(buckets: usize, seed: u64) -> f64 {
        let (index, mut search) = (index(buckets), Search::new());
        let hasher = Hasher::new([seed, !seed]);
        let mut items = 0;
        while index.insert(&mut search, hasher.hash_2([u64::from(items), 7]), items) {
            items += 1;
        }
        for item in 0..items {
            assert_eq!(
                index.find(hasher.hash_2([u64::from(item), 7]), |value| value == item),
                Some(item),
                "an item was lost"
            );
        }
        f64::from(items) / (buckets * WAYS) as f64
    }

    #[test]
    fn fills_beyond_95_percent_before_it_refuses() {
        for (buckets, seed) in [(64, 1), (1000, 2), (1000, 3), (20_000, 4), (100_000, 5)] {
            let load = load_at_first_refusal(buckets, seed);
            assert!(load >= 0.95, "{buckets} buckets: {load}");
        }
    }

    #[test]
    fn as_sized_it_never_refuses() {
        for items in [1u32, 10, 48, 100, 1000, 100_000] {
            for seed in 0..20 {
                let index = Index::new(items as usize, Pages::Transparent, seed).unwrap();
                let (mut search, hasher) = (Search::new(), Hasher::new([seed, 99]));
                for item in 0..items {
                    assert!(index.insert(&mut search, hasher.hash_1(item.into()), item), "{items} {item}");
                }
                if items > 1000 {
                    break;
                }
            }
        }
    }

    /// Tuples as an attacker picks them: one address pair, ports counting up, or only high bits that differ. No bucket may
    /// attract more than chance brings.
    #[test]
    fn chosen_tuples_spread_as_random_ones() {
        let hasher = Hasher::new([0x0bad_5eed, 0xfeed_f00d]);
        let buckets = 1 << 12;
        let index = index(buckets);
        let patterns: [fn(u64) -> [u64; 2]; 4] = [
            |n| [0x0808_0808_0a00_0001, 0x0006_0001_01bb_0000 | n],
            |n| [0x0808_0808_0a00_0001, 0x0006_0001 << 32 | n << 16],
            |n| [n << 48, 17],
            |n| [n, n.rotate_left(32)],
        ];
        for pattern in patterns {
            let mut count: HashMap<u32, u32> = HashMap::new();
            let mut pairs: HashMap<(u32, u8), u32> = HashMap::new();
            for place in (0..1 << 16).map(|n| index.first(hasher.hash_2(pattern(n)))) {
                *count.entry(place.bucket).or_default() += 1;
                *pairs.entry((place.bucket, place.tag)).or_default() += 1;
            }
            // 16 expected, standard deviation 4; pairs: 1/16 expected.
            assert!(count.values().all(|&n| n < 50), "{:?}", count.values().max());
            assert!(pairs.values().all(|&n| n < 8), "{:?}", pairs.values().max());
        }
    }

    #[test]
    fn random_inserts_and_removals_agree_with_a_map() {
        bolero::check!().with_type::<Vec<(u8, bool)>>().with_max_len(4096).for_each(|operations| {
            let (index, mut search) = (index(12), Search::new());
            let hasher = Hasher::new([1, 2]);
            let mut model = HashMap::new();
            for &(item, insert) in operations {
                let hash = hasher.hash_1(item.into());
                if insert && !model.contains_key(&item) {
                    // 144 places for up to 256 items.
                    if index.insert(&mut search, hash, item.into()) {
                        model.insert(item, ());
                    }
                } else {
                    let removed = index.remove(&mut search, index.first(hash), item.into());
                    assert_eq!(removed, model.remove(&item).is_some());
                }
                for item in 0..=255u8 {
                    let found = index.find(hasher.hash_1(item.into()), |value| value == u32::from(item));
                    assert_eq!(found.is_some(), model.contains_key(&item));
                }
            }
        });
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod interleavings {
    use super::*;
    use std::sync::Arc;

    /// An item that stays is found at every moment, however often it is moved between its two buckets.
    #[test]
    fn what_stays_is_always_found() {
        let test = || {
            let (hash, value) = (7 << 56 | 1, 42);
            let index = Arc::new(Index::with_buckets(16, Pages::Sparse, 5).unwrap());
            assert!(index.insert(&mut Search::new(), hash, value));
            let reader = {
                let index = Arc::clone(&index);
                shuttle::thread::spawn(move || {
                    for _ in 0..2 {
                        assert_eq!(index.find(hash, |other| other == value), Some(value));
                    }
                })
            };
            let first = index.first(hash);
            let (mut from, mut to) = (first.bucket, index.other(first).bucket);
            assert_ne!(from, to);
            for _ in 0..4 {
                assert!(index.relocate((from, 0), (to, 0)));
                (from, to) = (to, from);
            }
            reader.join().unwrap();
        };
        shuttle::check_random(test, 5000);
        shuttle::check_pct(test, 5000, 3);
    }
}
