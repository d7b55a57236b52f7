//! The bytes of a header that every frame has alike: compared sixteen at a time.

/// Two words: what a vector register holds.
type Block = [u64; 2];
const BLOCK: usize = size_of::<Block>();

/// Bytes up to a length, and which bits of them count.
#[derive(Clone, Debug)]
pub struct Mould {
    blocks: Vec<(Block, Block)>,
}

impl Mould {
    /// Of `header`, without the bytes in `free`. What it is compared with must be up to 15 bytes longer.
    pub fn new(header: &[u8], free: &[std::ops::Range<usize>]) -> Self {
        let counts = |at: usize| at < header.len() && !free.iter().any(|range| range.contains(&at));
        let block = |first: usize| {
            let byte = |at: usize| if counts(at) { header[at] } else { 0 };
            let mask = |at: usize| if counts(at) { 0xff } else { 0 };
            let words = |of: &dyn Fn(usize) -> u8| {
                std::array::from_fn(|n| u64::from_ne_bytes(std::array::from_fn(|at| of(first + 8 * n + at))))
            };
            (words(&byte), words(&mask))
        };
        Self { blocks: (0..header.len()).step_by(BLOCK).map(block).collect() }
    }

    /// Whether all that counts is equal.
    #[inline]
    pub fn matches(&self, data: &[u8]) -> bool {
        let (chunks, _) = data.as_chunks::<BLOCK>();
        let Some(chunks) = chunks.get(..self.blocks.len()) else { return false };
        let mut difference: Block = [0; 2];
        for (bytes, (block, mask)) in chunks.iter().zip(&self.blocks) {
            let (words, _) = bytes.as_chunks::<8>();
            for n in 0..2 {
                difference[n] |= (u64::from_ne_bytes(words[n]) ^ block[n]) & mask[n];
            }
        }
        difference == [0; 2]
    }

    /// What the bytes of a range must be; zeroes where they are free.
    pub fn bytes(&self, range: std::ops::Range<usize>) -> Vec<u8> {
        let bytes =
            self.blocks.iter().flat_map(|(block, _)| block.iter().flat_map(|word| word.to_ne_bytes()));
        bytes.skip(range.start).take(range.len()).collect()
    }

    /// The first byte that differs.
    pub fn difference(&self, data: &[u8]) -> Option<usize> {
        let words = self.blocks.iter().flat_map(|(block, mask)| block.iter().zip(mask));
        let bytes = words.flat_map(|(word, mask)| word.to_ne_bytes().into_iter().zip(mask.to_ne_bytes()));
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
        assert_eq!(mould.bytes(5..8), [5, 6, 7]);
    }
}
