//! Memory of the table: taken once, zeroed, shared, never moved. The only module with unsafe code.
#![expect(unsafe_code, reason = "memory-mapped arrays, cache prefetch, vector compare")]

use std::ops::Deref;

/// How to back a [`Region`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pages {
    /// Explicit 2 MiB pages, reserved at once; as [`Pages::Transparent`] where there are none.
    Explicit,
    /// Huge pages where the kernel likes, taken when first written.
    Transparent,
    /// Small pages, taken when first written: for what is hardly ever used.
    Sparse,
}

/// Types that are valid when all their bytes are zero, and equal to their default then.
///
/// # Safety
/// All-zero bytes must be a value of the type, which must not need dropping.
pub(super) unsafe trait Zeroable: Default + Send + Sync {}

#[cfg(not(feature = "shuttle"))]
mod mapped {
    use super::{Pages, Zeroable};
    use memmap2::{Advice, MmapOptions, MmapRaw};
    use std::{io, marker::PhantomData};

    /// A fixed array in memory of its own.
    pub struct Region<T> {
        map: MmapRaw,
        len: usize,
        items: PhantomData<T>,
    }

    impl<T: Zeroable> Region<T> {
        pub fn new(len: usize, pages: Pages) -> io::Result<Self> {
            let bytes = len.max(1).checked_mul(size_of::<T>()).ok_or(io::ErrorKind::OutOfMemory)?;
            Ok(Self { map: map(bytes, pages)?, len, items: PhantomData })
        }

        #[inline]
        pub fn as_slice(&self) -> &[T] {
            // SAFETY: the mapping is page-aligned, holds at least `len` items, lives as long as self, and is never
            // handed out as &mut; anonymous memory starts zeroed, which `Zeroable` makes a valid T; T is Sync, so all
            // later writes go through its atomics.
            unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast(), self.len) }
        }
    }

    fn map(bytes: usize, pages: Pages) -> io::Result<MmapRaw> {
        const HUGE: usize = 2 << 20;
        if pages == Pages::Explicit {
            let rounded = bytes.checked_next_multiple_of(HUGE).ok_or(io::ErrorKind::OutOfMemory)?;
            if let Ok(map) = MmapOptions::new().len(rounded).huge(Some(21)).map_anon() {
                return Ok(map.into());
            }
        }
        let map = MmapOptions::new().len(bytes).no_reserve_swap().map_anon()?;
        let advice = if pages == Pages::Sparse { Advice::NoHugePage } else { Advice::HugePage };
        if bytes >= HUGE {
            // Refused where the kernel has no transparent huge pages: slower, not wrong.
            let _ = map.advise(advice);
        }
        Ok(map.into())
    }
}

#[cfg(feature = "shuttle")]
mod mapped {
    use super::{Pages, Zeroable};

    /// Shuttle's atomics are no plain memory: an ordinary array.
    pub struct Region<T>(Box<[T]>);

    impl<T: Zeroable> Region<T> {
        pub fn new(len: usize, _: Pages) -> std::io::Result<Self> {
            Ok(Self((0..len).map(|_| T::default()).collect()))
        }

        pub fn as_slice(&self) -> &[T] {
            &self.0
        }
    }
}

pub(super) use mapped::Region;

impl<T: Zeroable> Deref for Region<T> {
    type Target = [T];
    #[inline]
    fn deref(&self) -> &[T] {
        self.as_slice()
    }
}

// SAFETY: atomics of zero are zero, and their defaults.
unsafe impl Zeroable for crate::sync::AtomicU64 {}
// SAFETY: as above, for each item.
unsafe impl<T: Zeroable, const N: usize> Zeroable for [T; N] where [T; N]: Default {}
// SAFETY: structs of atomics and arrays of them only, with derived defaults.
unsafe impl Zeroable for super::bucket::Bucket {}
// SAFETY: as above.
unsafe impl Zeroable for super::entry::EntryV4 {}
// SAFETY: as above.
unsafe impl Zeroable for super::entry::EntryV6 {}
// SAFETY: as above.
unsafe impl Zeroable for super::l2::Place {}
// SAFETY: as above.
unsafe impl Zeroable for super::record::Record {}
// SAFETY: as above.
unsafe impl Zeroable for super::extras::Extras {}

/// Asks for all cache lines of `item`.
#[inline(always)]
pub(super) fn prefetch<T>(item: &T) {
    prefetch_lines::<T>(item);
}

/// Asks for all cache lines of `items[index]`, unless there is no such item: for then nothing comes of it.
#[inline(always)]
pub(super) fn prefetch_at<T>(items: &[T], index: usize) {
    prefetch_lines(items.as_ptr().wrapping_add(index));
}

#[inline(always)]
fn prefetch_lines<T>(start: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let mut offset = 0;
        while offset < size_of::<T>() {
            // SAFETY: a prefetch has no effect but on caches, whatever the address; the pointer is not followed.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(start.cast::<i8>().wrapping_add(offset)) };
            offset += 64;
        }
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = start;
}

/// Which of twelve bytes, eight in `low` and four in `high`, lowest first, equal `byte`: as bits.
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
#[inline(always)]
pub(super) fn match_bytes(low: u64, high: u32, byte: u8) -> u32 {
    use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_movemask_epi8, _mm_set_epi64x, _mm_set1_epi8};
    // SAFETY: SSE2 is enabled for the whole build.
    let ways = unsafe {
        let bytes = _mm_set_epi64x(i64::from(high), low as i64);
        _mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(byte as i8)))
    };
    ways as u32 & 0xfff
}

/// Which of twelve bytes, eight in `low` and four in `high`, lowest first, equal `byte`: as bits.
#[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
pub(super) fn match_bytes(low: u64, high: u32, byte: u8) -> u32 {
    match_bytes_portable(low, high, byte)
}

#[cfg(any(test, not(all(target_arch = "x86_64", target_feature = "sse2"))))]
fn match_bytes_portable(low: u64, high: u32, byte: u8) -> u32 {
    let bytes = low.to_le_bytes().into_iter().chain(high.to_le_bytes());
    bytes.enumerate().fold(0, |ways, (way, other)| ways | u32::from(other == byte) << way)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vector_and_portable_compare_agree() {
        bolero::check!().with_type::<(u64, u32, u8)>().for_each(|&(low, high, byte)| {
            for byte in [byte, 0, low as u8, (high >> 24) as u8] {
                assert_eq!(match_bytes(low, high, byte), match_bytes_portable(low, high, byte));
            }
        });
    }
}
