//! The bytes of a header that every frame has alike: compared eight at a time.

/// Bytes up to a length, and which bits of them count.
#[derive(Clone, Debug)]
pub struct Mould {
    words: Vec<(u64, u64)>,
}

impl Mould {
    /// Of `header`, without the bytes in `free`. What it is compared with must be up to 7 bytes longer.
    pub fn new(header: &[u8], free: &[std::ops::Range<usize>]) -> Self {
        let counts = |at: usize| !free.iter().any(|range| range.contains(&at));
        let word = |first: usize| {
            let (mut bytes, mut mask) = ([0; 8], [0; 8]);
            for at in first..header.len().min(first + 8) {
                if counts(at) {
                    (bytes[at - first], mask[at - first]) = (header[at], 0xff);
                }
            }
            (u64::from_ne_bytes(bytes), u64::from_ne_bytes(mask))
        };
        Self { words: (0..header.len()).step_by(8).map(word).collect() }
    }

    /// Whether all that counts is equal.
    #[inline]
    pub fn matches(&self, data: &[u8]) -> bool {
        let (chunks, _) = data.as_chunks::<8>();
        if chunks.len() < self.words.len() {
            return false;
        }
        let mut difference = 0;
        for (bytes, (word, mask)) in chunks.iter().zip(&self.words) {
            difference |= (u64::from_ne_bytes(*bytes) ^ word) & mask;
        }
        difference == 0
    }

    /// The first byte that differs.
    pub fn difference(&self, data: &[u8]) -> Option<usize> {
        let bytes =
            self.words.iter().flat_map(|(word, mask)| word.to_ne_bytes().into_iter().zip(mask.to_ne_bytes()));
        bytes.zip(data).position(|((byte, mask), other)| (byte ^ other) & mask != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::Mould;

    #[test]
    fn only_what_counts_is_compared() {
        let header: Vec<u8> = (0..13).collect();
        let mould = Mould::new(&header, &[3..5, 12..13]);
        let mut data: Vec<u8> = (0..20).collect();
        assert!(mould.matches(&data));
        for free in [3, 4, 12, 13, 19] {
            data[free] ^= 0x80;
            assert!(mould.matches(&data) && mould.difference(&data).is_none(), "{free}");
        }
        for fixed in [0, 2, 5, 11] {
            data[fixed] ^= 1;
            assert!(!mould.matches(&data));
            assert_eq!(mould.difference(&data), Some(fixed));
            data[fixed] ^= 1;
        }
        assert!(!mould.matches(&data[..15]), "too short to say");
    }
}
