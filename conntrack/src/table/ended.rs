//! The slots of sessions that workers saw end: added by any worker without a lock, taken by the writer.
//!
//! A bit per slot, and above it levels of bits that say which words of the level below have any, up to a single word: an
//! eighth of a byte per slot, no room to run out of, and the next slot is found in as many steps as there are levels.
//!
//! Why none is lost: who sets the first bit of a word goes on to set the word's own bit above, and a writer takes that before
//! it takes the word. So a bit that is set after its word was taken finds the word empty, and is announced again.
//!
//! A slot says that a session in it may have ended. The session may have been retired since by other means, and the slot be
//! used again: the writer looks at the session's state.

use super::memory::{Pages, Region};
use crate::sync::{AtomicU64, Ordering::*};
use std::io;

/// See the module.
pub(super) struct Ended {
    /// The lowest first.
    levels: Vec<Region<AtomicU64>>,
}

/// What a writer has taken, level by level, and not gone into yet: the number of a word and what is left of it.
pub(super) type Taken = Vec<(usize, u64)>;

impl Ended {
    pub fn new(slots: usize) -> io::Result<Self> {
        let mut levels = Vec::new();
        let mut items = slots;
        while items > 1 || levels.is_empty() {
            items = items.div_ceil(64);
            levels.push(Region::new(items, Pages::Sparse)?);
        }
        Ok(Self { levels })
    }

    /// Nothing taken yet.
    pub fn none(&self) -> Taken {
        vec![(0, 0); self.levels.len()]
    }

    pub fn memory_bytes(&self) -> usize {
        self.levels.iter().map(|level| size_of_val(&**level)).sum()
    }

    pub fn add(&self, slot: u32) {
        let mut position = slot as usize;
        for level in &self.levels {
            let Some(word) = level.get(position / 64) else { return };
            if word.fetch_or(1 << (position % 64), AcqRel) != 0 {
                return;
            }
            position /= 64;
        }
    }

    /// Takes a slot, what was taken before first.
    pub fn take(&self, taken: &mut Taken) -> Option<u32> {
        loop {
            let Some(level) = taken.iter().position(|&(_, bits)| bits != 0) else {
                let (top, taken) = (self.levels.last()?.first()?, taken.last_mut()?);
                if top.load(Relaxed) == 0 {
                    return None;
                }
                *taken = (0, top.swap(0, AcqRel));
                continue;
            };
            let (word, bits) = taken.get_mut(level)?;
            let position = *word * 64 + bits.trailing_zeros() as usize;
            *bits &= *bits - 1;
            let Some(below) = level.checked_sub(1) else { return Some(position as u32) };
            *taken.get_mut(below)? = (position, self.levels.get(below)?.get(position)?.swap(0, AcqRel));
        }
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;
    use bolero::check;
    use std::collections::BTreeSet;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn agrees_with_a_set() {
        const SLOTS: usize = 300_000;
        check!().with_type::<Vec<(u32, u8)>>().with_max_len(2048).for_each(|operations| {
            let ended = Ended::new(SLOTS).unwrap();
            let (mut taken, mut model) = (ended.none(), BTreeSet::new());
            for &(slot, take) in operations {
                ended.add(slot % SLOTS as u32);
                model.insert(slot % SLOTS as u32);
                for _ in 0..take % 4 {
                    // A slot added again while its word is taken comes twice.
                    if let Some(slot) = ended.take(&mut taken) {
                        model.remove(&slot);
                    } else {
                        assert!(model.is_empty());
                    }
                }
            }
            while let Some(slot) = ended.take(&mut taken) {
                model.remove(&slot);
            }
            assert!(model.is_empty());
        });
    }

    /// Threads add all slots, each many times, and count; each slot is taken after it was last added.
    #[test]
    fn threads_lose_none() {
        const SLOTS: u32 = 5000;
        let (ended, added) = (Ended::new(SLOTS as usize).unwrap(), AtomicU32::new(0));
        let mut last = vec![0; SLOTS as usize];
        let counts: Vec<_> = (0..SLOTS).map(|_| AtomicU32::new(0)).collect();
        std::thread::scope(|scope| {
            for first in [0, 1, 2] {
                let (ended, added, counts) = (&ended, &added, &counts);
                scope.spawn(move || {
                    for n in 0..SLOTS * 20 {
                        let slot = (n * 7919 + first * 61) % SLOTS;
                        counts[slot as usize].fetch_add(1, Release);
                        ended.add(slot);
                    }
                    added.fetch_add(1, Release);
                });
            }
            let mut taken = ended.none();
            loop {
                let finished = added.load(Acquire) == 3;
                while let Some(slot) = ended.take(&mut taken) {
                    last[slot as usize] = counts[slot as usize].load(Acquire);
                }
                if finished {
                    break;
                }
            }
        });
        for (last, count) in last.iter().zip(&counts) {
            assert_eq!(*last, count.load(Acquire));
        }
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod interleavings {
    use super::*;
    use shuttle::sync::atomic::AtomicU32;
    use std::sync::Arc;

    /// Two workers add slots of one word, and of two words, while a writer takes: each is taken after it was last added.
    #[test]
    fn none_is_lost() {
        let test = || {
            let ended = Arc::new(Ended::new(5000).unwrap());
            let counts: Arc<Vec<AtomicU32>> = Arc::new((0..3).map(|_| AtomicU32::new(0)).collect());
            let slots = [7, 8, 4500];
            let workers: Vec<_> = (0..2)
                .map(|_| {
                    let (ended, counts) = (Arc::clone(&ended), Arc::clone(&counts));
                    shuttle::thread::spawn(move || {
                        for (slot, count) in slots.into_iter().zip(counts.iter()) {
                            count.fetch_add(1, AcqRel);
                            ended.add(slot);
                        }
                    })
                })
                .collect();
            let (mut taken, mut last) = (ended.none(), [0; 3]);
            let mut take_all = || {
                while let Some(slot) = ended.take(&mut taken) {
                    let n = slots.iter().position(|&other| other == slot).unwrap();
                    last[n] = counts[n].load(Acquire);
                }
            };
            (0..3).for_each(|_| take_all());
            workers.into_iter().for_each(|worker| worker.join().unwrap());
            take_all();
            assert_eq!(last, [2; 3]);
        };
        shuttle::check_random(test, 3000);
        shuttle::check_pct(test, 3000, 3);
    }
}
