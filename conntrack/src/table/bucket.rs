//! A bucket of the index.

use super::memory::match_bytes;
use crate::sync::{AtomicU32, AtomicU64, Ordering::*};

/// Items per bucket.
pub(super) const WAYS: usize = 12;
/// The tag of a way that holds nothing.
pub(super) const EMPTY: u8 = 0;

/// One cache line. Tags are in two words, so that they are read whole.
#[derive(Default)]
#[repr(C, align(64))]
pub(super) struct Bucket {
    tags_low: AtomicU64,
    tags_high: AtomicU32,
    /// How many items were moved to their other bucket.
    pub version: AtomicU32,
    pub values: [AtomicU32; WAYS],
}

#[cfg(not(feature = "shuttle"))]
const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    /// The ways whose tag is `tag`, as bits.
    #[inline(always)]
    pub fn matching(&self, tag: u8) -> u32 {
        match_bytes(self.tags_low.load(Acquire), self.tags_high.load(Acquire), tag)
    }

    #[inline]
    pub fn scan(&self, tag: u8, mut wanted: impl FnMut(u32) -> bool) -> Option<(usize, u32)> {
        let mut ways = self.matching(tag);
        while ways != 0 {
            let way = ways.trailing_zeros() as usize;
            ways &= ways - 1;
            if let Some(value) = self.values.get(way).map(|value| value.load(Acquire))
                && wanted(value)
            {
                return Some((way, value));
            }
        }
        None
    }

    pub fn vacancy(&self) -> Option<usize> {
        let ways = self.matching(EMPTY);
        (ways != 0).then(|| ways.trailing_zeros() as usize)
    }

    pub fn tag(&self, way: usize) -> u8 {
        if way < 8 {
            (self.tags_low.load(Relaxed) >> (8 * way)) as u8
        } else {
            (self.tags_high.load(Relaxed) >> (8 * (way - 8))) as u8
        }
    }

    pub fn set_tag(&self, way: usize, tag: u8) {
        if way < 8 {
            let others = self.tags_low.load(Relaxed) & !(0xff << (8 * way));
            self.tags_low.store(others | u64::from(tag) << (8 * way), Release);
        } else {
            let shift = 8 * (way - 8);
            let others = self.tags_high.load(Relaxed) & !(0xff << shift);
            self.tags_high.store(others | u32::from(tag) << shift, Release);
        }
    }

    pub fn put(&self, way: usize, tag: u8, value: u32) {
        if let Some(place) = self.values.get(way) {
            place.store(value, Release);
            self.set_tag(way, tag);
        }
    }
}
