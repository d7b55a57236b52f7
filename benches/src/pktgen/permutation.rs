//! Numbers below a limit in a pseudo-random order, each exactly once, without storing them: a Feistel network over the next
//! power of four, walked until it lands below the limit (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).

/// A shuffle of 0 to `len` - 1, the same for the same seed.
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    len: u64,
    half: u32,
    keys: [u64; 6],
}

impl Permutation {
    /// Of `len` numbers.
    pub fn new(len: u64, seed: u64) -> Self {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        let mut state = seed;
        let keys = std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(state)
        });
        Self { len, half: bits.div_ceil(2).max(1), keys }
    }

    /// Where `position` goes; positions from `len` on begin again.
    pub fn at(&self, position: u64) -> u64 {
        if self.len <= 1 {
            return 0;
        }
        let mut value = position % self.len;
        loop {
            value = self.round_trip(value);
            if value < self.len {
                return value;
            }
        }
    }

    fn round_trip(&self, value: u64) -> u64 {
        let mask = (1 << self.half) - 1;
        let (mut left, mut right) = (value >> self.half, value & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half | right
    }
}

/// A good mixer of 64 bits: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::Permutation;
    use std::collections::HashSet;

    #[test]
    fn every_number_comes_once() {
        for len in [1, 2, 3, 5, 64, 1000, 65_536, 100_003] {
            let shuffle = Permutation::new(len, 7);
            let seen: HashSet<u64> = (0..len).map(|position| shuffle.at(position)).collect();
            assert_eq!(seen.len() as u64, len);
            assert!(seen.iter().all(|value| *value < len));
        }
    }

    #[test]
    fn the_seed_decides_the_order() {
        let order =
            |seed| (0..100).map(|position| Permutation::new(1 << 40, seed).at(position)).collect::<Vec<_>>();
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
        assert_ne!(order(1), (0..100).collect::<Vec<u64>>());
    }

    /// RFC 4814, section 4: each value is as likely as any other. Chi-square over 256 classes of 65,536 draws of a space far
    /// larger: 99.9 % of fair ones stay below 330.
    #[test]
    fn draws_are_uniform() {
        let (len, draws) = (1_u64 << 44, 65_536_u64);
        for seed in [1, 2, 3] {
            let shuffle = Permutation::new(len, seed);
            let mut classes = [0_f64; 256];
            for position in 0..draws {
                classes[(shuffle.at(position) >> 36) as usize] += 1.0;
            }
            let expected = draws as f64 / 256.0;
            let chi: f64 = classes.iter().map(|seen| (seen - expected).powi(2) / expected).sum();
            assert!(chi < 330.0, "seed {seed}: {chi}");
        }
    }
}
