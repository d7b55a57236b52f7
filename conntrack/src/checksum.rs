//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

/// The difference that a rewrite makes to a checksum: HC' = ~(~HC + ~m + m') (RFC 1624 equation 3), the sum of all
/// ~m + m' folded to 16 bits. Precomputed when a session is installed, applied to each packet. Applying it never repairs
/// a wrong checksum: it stays wrong by the same amount.
///
/// One's complement has two zeros. Here "no difference" is always 0, never 0xffff, so that a rewrite that changes nothing
/// leaves every checksum bit for bit, and one that changes something never makes the zero that a sender would not.
///
/// Words are read as the machine reads them, without swapping bytes: the sum does not depend on it (RFC 1071 section 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChecksumDelta(pub u16);

impl ChecksumDelta {
    /// The difference made by writing `new` over `old`. Both start at an even offset of what is summed, and are of the
    /// same even length (a last odd byte counts as if a zero followed).
    pub fn replace(old: &[u8], new: &[u8]) -> Self {
        let old = Self(fold(old.chunks(2).map(|word| u32::from(!ne_word(word))).sum()));
        let new = Self(fold(new.chunks(2).map(|word| u32::from(ne_word(word))).sum()));
        old.and(new)
    }

    /// Both differences together.
    pub fn and(self, other: Self) -> Self {
        match fold(u32::from(self.0) + u32::from(other.0)) {
            0xffff => Self(0),
            sum => Self(sum),
        }
    }

    /// What undoes this difference.
    pub fn inverse(self) -> Self {
        if self.0 == 0 { self } else { Self(!self.0) }
    }

    /// A checksum field after the rewrite.
    #[inline(always)]
    pub const fn apply(self, checksum: [u8; 2]) -> [u8; 2] {
        // Equation 4 of RFC 1624: the same as equation 3, complemented. No second borrow: after one, at least 1 is left.
        let (rest, borrow) = u16::from_ne_bytes(checksum).overflowing_sub(self.0);
        rest.wrapping_sub(borrow as u16).to_ne_bytes()
    }

    /// The same for UDP (RFC 768): 0 means that the sender computed none and stays 0; a sum that comes out as 0 is sent
    /// as 0xffff.
    #[inline(always)]
    pub const fn apply_udp(self, checksum: [u8; 2]) -> [u8; 2] {
        if u16::from_ne_bytes(checksum) == 0 {
            return checksum;
        }
        let sum = u16::from_ne_bytes(self.apply(checksum));
        sum.wrapping_sub((sum == 0) as u16).to_ne_bytes()
    }
}

/// The difference made by a TTL one less, the upper byte of its word: ~m + m' (RFC 1624).
pub const TTL_STEP: ChecksumDelta = ChecksumDelta(u16::from_ne_bytes([0xfe, 0xff]));

/// The checksum of `parts` one after the other, each of even length but the last (RFC 1071): what belongs in a zeroed
/// checksum field, as big-endian value. Over data with its checksum in place it is 0 if that is right.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        let mut words = part.chunks_exact(4);
        for word in &mut words {
            sum += u64::from(u32::from_be_bytes(word.try_into().unwrap_or_default()));
        }
        sum += words.remainder().chunks(2).map(|word| u64::from(be_word(word))).sum::<u64>();
    }
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    !fold(sum as u32)
}

#[inline]
const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

fn ne_word(bytes: &[u8]) -> u16 {
    match *bytes {
        [first, second, ..] => u16::from_ne_bytes([first, second]),
        [first] => u16::from_ne_bytes([first, 0]),
        [] => 0,
    }
}

fn be_word(bytes: &[u8]) -> u16 {
    match *bytes {
        [high, low, ..] => u16::from_be_bytes([high, low]),
        [high] => u16::from_be_bytes([high, 0]),
        [] => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bolero::check;

    /// RFC 1071 section 4.1, literally, beside ours.
    fn rfc1071(data: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in data.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
        }
        !(sum as u16)
    }

    #[test]
    fn checksum_agrees_with_rfc1071() {
        assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
        check!().with_type::<Vec<u8>>().for_each(|data| {
            assert_eq!(checksum(&[data]), rfc1071(data));
            let cut = data.len() / 4 * 2;
            assert_eq!(checksum(&[&data[..cut], &data[cut..]]), rfc1071(data));
        });
    }

    #[test]
    fn rfc1624_examples() {
        // RFC 1624 section 4: HC = 0xdd2f, m = 0x5555, m' = 0x3285, HC' must be 0x0000.
        let delta = ChecksumDelta::replace(&[0x55, 0x55], &[0x32, 0x85]);
        assert_eq!(delta.apply([0xdd, 0x2f]), [0, 0]);
        assert_eq!(delta.apply_udp([0xdd, 0x2f]), [0xff, 0xff]);
        assert_eq!(delta.apply_udp([0, 0]), [0, 0]);
        assert_eq!(TTL_STEP, ChecksumDelta::replace(&[64, 17], &[63, 17]));
    }

    #[test]
    fn incremental_equals_full_recomputation() {
        let apply = |delta: ChecksumDelta, sum: u16| u16::from_be_bytes(delta.apply(sum.to_be_bytes()));
        let apply_udp =
            |delta: ChecksumDelta, sum: u16| u16::from_be_bytes(delta.apply_udp(sum.to_be_bytes()));
        check!().with_type::<([u8; 12], [u8; 12], Vec<u8>, u16)>().for_each(|(old, new, rest, error)| {
            let delta = ChecksumDelta::replace(old, new);
            let right = rfc1071(&[&old[..], rest].concat());
            let after = rfc1071(&[&new[..], rest].concat());
            // All-zero data is the one case with a checksum of 0xffff; no packet with an IP header is.
            if right != 0xffff && after != 0xffff {
                assert_eq!(apply(delta, right), after);
            }
            // Neither repaired nor broken: wrong by the same amount, modulo 0xffff.
            let wrong = right ^ error;
            let off = |have: u16, should: u16| (i32::from(have) - i32::from(should)).rem_euclid(0xffff);
            assert_eq!(off(apply(delta, wrong), after), off(wrong, right));
            if wrong != 0 {
                assert_eq!(off(apply_udp(delta, wrong), after), off(wrong, right));
                assert_ne!(apply_udp(delta, wrong), 0);
            }
        });
    }

    #[test]
    fn there_and_back() {
        check!().with_type::<([u8; 12], [u8; 12], [u8; 2])>().for_each(|(old, new, checksum)| {
            let there = ChecksumDelta::replace(old, new);
            let back = ChecksumDelta::replace(new, old);
            assert_eq!(back, there.inverse());
            assert_eq!(there.and(back), ChecksumDelta::default());
            let restored = back.apply(there.apply(*checksum));
            assert!(restored == *checksum || (*checksum == [0xff; 2] && restored == [0; 2]));
            assert_eq!(back.apply_udp(there.apply_udp(*checksum)), *checksum);
            assert_eq!(ChecksumDelta::replace(old, old).apply(*checksum), *checksum);
        });
    }
}
