//! The keyed hash of flows and session ids.
//!
//! Two rounds of multiply and fold (64 × 64 → 128 bits, high half XOR low half), as in wyhash and foldhash, each over
//! words XORed with a secret: about ten cycles, and several keys of a burst overlap. One round alone lets an attacker
//! who guesses one secret word zero the product; the second hides the first's output behind further secrets, and hash
//! values never leave the process. The secrets come from the caller's random 128 bits by splitmix64.

/// Hashes with the table's secrets.
pub(super) struct Hasher {
    secret: [u64; 6],
}

impl Hasher {
    pub fn new(seed: [u64; 2]) -> Self {
        let mut state = seed[0];
        let mut secret = [0; 6];
        for (i, word) in secret.iter_mut().enumerate() {
            if i == 3 {
                state ^= seed[1];
            }
            *word = splitmix64(&mut state) ^ seed[1].rotate_left(11 * i as u32);
        }
        Self { secret }
    }

    /// Of an IPv4 key.
    #[inline]
    pub fn hash_2(&self, [a, b]: [u64; 2]) -> u64 {
        let [s0, s1, s2, s3, ..] = self.secret;
        fold(fold(a ^ s0, b ^ s1) ^ s2, s3)
    }

    /// Of an IPv6 key.
    #[inline]
    pub fn hash_5(&self, [a, b, c, d, e]: [u64; 5]) -> u64 {
        let [s0, s1, s2, s3, s4, s5] = self.secret;
        let first = fold(a ^ s0, b ^ s1) ^ fold(c ^ s2, d ^ s3).rotate_left(32);
        fold(first ^ s4, e ^ s5)
    }

    /// Of a session id.
    #[inline]
    pub fn hash_1(&self, id: u64) -> u64 {
        let [.., s3, s4, s5] = self.secret;
        fold(fold(id ^ s4, s5) ^ s3, s4)
    }
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
