//! A worker's own memory of what it found out, so that it need not find it out for each packet.
//!
//! Each item is kept with the [`validity`](crate::worker::Context::validity) it was found under, and holds no longer.

/// Where to keep what has that key: its bits, mixed.
#[inline(always)]
pub fn spread(key: u64) -> usize {
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize
}

/// A direct-mapped cache of `N` (a power of two) items.
#[derive(Debug)]
pub struct Cache<T, const N: usize> {
    slots: Box<[Slot<T>; N]>,
}

#[derive(Debug)]
#[repr(align(64))]
struct Slot<T> {
    key: u64,
    validity: u64,
    item: T,
}

/// No item's key.
const NONE: u64 = u64::MAX;

impl<T: Default, const N: usize> Cache<T, N> {
    /// Empty.
    #[expect(clippy::unreachable, reason = "as many are collected as the array has")]
    pub fn new() -> Self {
        let empty = |_| Slot { key: NONE, validity: 0, item: T::default() };
        // Collected, as an array of this size may be too much for a stack.
        let Ok(slots) = (0..N).map(empty).collect::<Box<[_]>>().try_into() else {
            unreachable!("{N} slots");
        };
        Self { slots }
    }

    /// What is kept under `key`, if it still holds.
    #[inline(always)]
    pub fn get(&self, position: usize, key: u64, validity: u64) -> Option<&T> {
        let slot = self.slots.get(position % N)?;
        (slot.key == key && slot.validity == validity).then_some(&slot.item)
    }

    /// Keeps an item in place of what was there.
    pub fn put(&mut self, position: usize, key: u64, validity: u64, item: T) {
        if let Some(slot) = self.slots.get_mut(position % N) {
            *slot = Slot { key, validity, item };
        }
    }
}
