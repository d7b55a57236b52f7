//! L2 rewrites: out LIF and MACs, kept once for all flows that leave the same way.
//!
//! Writers find a rewrite by its hash and count the flows that use it. It is let go when the last of their sessions is
//! reclaimed, so that no reader can hold it any more. Memory is taken where it is written.
//!
//! A worker may keep what it has made of a rewrite under the rewrite's index for as long as the generation stays the
//! same: places let go are set aside, and the generation moves on before the first of them is used again.

use super::hash::Hasher;
use super::index::{Index, Search};
use super::memory::{Pages, Region};
use crate::LifIndex;
use crate::rewrite::{L2Index, L2Rewrite, Macs};
use crate::sync::{AtomicU64, Ordering::*};
use crossbeam::utils::CachePadded;
use std::{io, mem};

/// Places set aside before they are used again: workers forget all they have made when the generation moves on.
const ASIDE: usize = if cfg!(feature = "shuttle") { 1 } else { 4096 };

/// Bits that [`Users::recent`] goes by.
const RECENT_BITS: u32 = 6;

/// See the module.
pub(super) struct L2Table {
    places: Region<Place>,
    index: Index,
    generation: CachePadded<AtomicU64>,
}

/// A rewrite as two words.
#[derive(Default)]
#[repr(C, align(16))]
pub(super) struct Place {
    macs: AtomicU64,
    /// The MACs' last four bytes; the out LIF above them.
    rest: AtomicU64,
}

/// Who uses which place; kept under the writers' lock.
pub(super) struct Users {
    /// Flows, by place; as long as the places that were ever used.
    flows: Vec<u32>,
    free: Vec<u32>,
    aside: Vec<u32>,
    /// Places asked for lately, by a few bits of what they hold: most sessions leave as others did just before.
    recent: [u32; 1 << RECENT_BITS],
    /// Sessions refused because all places were in use.
    pub rejected: u64,
}

impl Default for Users {
    fn default() -> Self {
        let recent = [0; 1 << RECENT_BITS];
        Self { flows: Vec::new(), free: Vec::new(), aside: Vec::new(), recent, rejected: 0 }
    }
}

impl Users {
    /// Rewrites in use.
    pub fn rewrites(&self) -> usize {
        self.flows.len() - self.free.len() - self.aside.len()
    }
}

impl L2Table {
    pub fn new(capacity: usize, secret: u64) -> io::Result<Self> {
        Ok(Self {
            places: Region::new(capacity, Pages::Sparse)?,
            index: Index::new(capacity, Pages::Sparse, secret)?,
            generation: CachePadded::default(),
        })
    }

    /// Moves on before an index is used for another rewrite than before.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Acquire)
    }

    /// What is under an index that a flow has.
    #[inline(always)]
    pub fn get(&self, index: L2Index) -> L2Rewrite {
        self.places.get(index.0 as usize).map_or_else(L2Rewrite::default, Place::load)
    }

    /// The place of `rewrite`, for one more flow; none if all are in use.
    pub fn acquire(
        &self,
        users: &mut Users,
        search: &mut Search,
        hasher: &Hasher,
        rewrite: &L2Rewrite,
    ) -> Option<L2Index> {
        let [macs, rest] = words(rewrite);
        let recent = (macs ^ rest).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - RECENT_BITS);
        let guess = *users.recent.get(recent as usize)?;
        if let Some(flows) = users.flows.get_mut(guess as usize)
            && *flows > 0
            && self.get(L2Index(guess)) == *rewrite
        {
            *flows += 1;
            return Some(L2Index(guess));
        }
        let place = self.find_or_take(users, search, hasher.hash_2([macs, rest]), rewrite)?;
        *users.recent.get_mut(recent as usize)? = place;
        *users.flows.get_mut(place as usize)? += 1;
        Some(L2Index(place))
    }

    fn find_or_take(
        &self,
        users: &mut Users,
        search: &mut Search,
        hash: u64,
        rewrite: &L2Rewrite,
    ) -> Option<u32> {
        let found = self.index.find(hash, |place| self.get(L2Index(place)) == *rewrite);
        if found.is_some() {
            return found;
        }
        let place = self.take(users)?;
        if !self.index.insert(search, hash, place) {
            users.free.push(place);
            return None;
        }
        self.places.get(place as usize)?.store(rewrite);
        Some(place)
    }

    /// One flow less at `index`, which no reader can hold any more.
    pub fn release(&self, users: &mut Users, search: &mut Search, hasher: &Hasher, index: L2Index) {
        let Some(flows) = users.flows.get_mut(index.0 as usize) else { return };
        *flows = flows.saturating_sub(1);
        if *flows == 0 {
            let place = self.index.first(hasher.hash_2(words(&self.get(index))));
            self.index.remove(search, place, index.0);
            users.aside.push(index.0);
        }
    }

    fn take(&self, users: &mut Users) -> Option<u32> {
        if let Some(place) = users.free.pop() {
            return Some(place);
        }
        let fresh = users.flows.len();
        if fresh < self.places.len() && users.aside.len() < ASIDE {
            users.flows.push(0);
            return Some(fresh as u32);
        }
        mem::swap(&mut users.free, &mut users.aside);
        let place = users.free.pop()?;
        self.generation.fetch_add(1, AcqRel);
        Some(place)
    }
}

impl Place {
    #[inline(always)]
    fn load(&self) -> L2Rewrite {
        let rest = self.rest.load(Relaxed);
        L2Rewrite {
            macs: Macs::from_words(self.macs.load(Relaxed), rest as u32),
            out_lif: LifIndex((rest >> 32) as u16),
        }
    }

    fn store(&self, rewrite: &L2Rewrite) {
        let [macs, rest] = words(rewrite);
        self.macs.store(macs, Relaxed);
        self.rest.store(rest, Relaxed);
    }
}

fn words(rewrite: &L2Rewrite) -> [u64; 2] {
    let (first, last) = rewrite.macs.words();
    [first, u64::from(rewrite.out_lif.0) << 32 | u64::from(last)]
}

#[cfg(not(feature = "shuttle"))]
const _: () = assert!(size_of::<Place>() == 16);

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;
    use bolero::check;
    use std::collections::HashMap;

    /// Acquires and releases agree with a counting map; what a worker keeps under index and generation is never wrong.
    #[test]
    fn agrees_with_a_counting_map() {
        const CAPACITY: usize = 5;
        check!().with_type::<Vec<(u8, bool)>>().with_max_len(4096).for_each(|operations| {
            let table = L2Table::new(CAPACITY, 7).unwrap();
            let (mut users, mut search, hasher) = (Users::default(), Search::new(), Hasher::new([1, 2]));
            let mut model: HashMap<L2Rewrite, (L2Index, u32)> = HashMap::new();
            let mut kept = HashMap::new();
            for &(n, acquire) in operations {
                let n = n % 8;
                let macs = Macs::new([2, 0, 0, 0, 0, n / 2], [2, 0, 0, 0, 0, 0xff]);
                let rewrite = L2Rewrite { macs, out_lif: LifIndex((n % 2).into()) };
                if acquire {
                    let index = table.acquire(&mut users, &mut search, &hasher, &rewrite);
                    let has_room = model.len() < CAPACITY || model.contains_key(&rewrite);
                    assert_eq!(index.is_some(), has_room);
                    if let Some(index) = index {
                        let (place, count) = model.entry(rewrite).or_insert((index, 0));
                        assert_eq!(*place, index);
                        *count += 1;
                    }
                } else if let Some((index, count)) = model.get_mut(&rewrite) {
                    table.release(&mut users, &mut search, &hasher, *index);
                    *count -= 1;
                    if *count == 0 {
                        model.remove(&rewrite);
                    }
                }
                assert_eq!(users.rewrites(), model.len());
                for (rewrite, (index, _)) in &model {
                    assert_eq!(table.get(*index), *rewrite);
                    let made = kept.entry((*index, table.generation())).or_insert(*rewrite);
                    assert_eq!(made, rewrite, "the index is used for something else in the same generation");
                }
            }
        });
    }
}
