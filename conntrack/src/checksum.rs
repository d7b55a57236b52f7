//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

/// The difference that a rewrite makes to a checksum: HC' = ~(~HC + ~m + m') (RFC 1624 equation 3), the sum of all
/// ~m + m' folded to 16 bits. Precomputed when a session is installed, applied to each packet. Applying it never repairs
/// a wrong checksum: it stays wrong by the same amount.
///
/// One's complement has two zeros. Here "no difference" is always 0, never 0xffff, so that a rewrite that changes nothing
/// leaves every checksum bit for bit, and one that changes something never makes the zero that a sender would not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChecksumDelta(pub u16);

impl ChecksumDelta {
    /// The difference made by writing `new` over `old`. Both start at an even offset of what is summed, and are of the
    /// same even length (a last odd byte counts as if a zero followed).
    pub fn replace(old: &[u8], new: &[u8]) -> Self {
        let old = Self(fold(old.chunks(2).map(|word| u32::from(!be_word(word))).sum()));
        let new = Self(fold(new.chunks(2).map(|word| u32::from(be_word(word))).sum()));
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

    /// A checksum field (its two bytes read as big-endian) after the rewrite.
    #[inline]
    pub const fn apply(self, checksum: u16) -> u16 {
        !fold(!checksum as u32 + self.0 as u32)
    }

    /// The same for UDP (RFC 768): 0 means that the sender computed none and stays 0; a sum that comes out as 0 is sent
    /// as 0xffff.
    #[inline]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 {
            return 0;
        }
        match self.apply(checksum) {
            0 => 0xffff,
            sum => sum,
        }
    }
}

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
        assert_eq!(delta.apply(0xdd2f), 0x0000);
        assert_eq!(delta.apply_udp(0xdd2f), 0xffff);
        assert_eq!(delta.apply_udp(0), 0);
    }

    #[test]
    fn incremental_equals_full_recomputation() {
        check!().with_type::<([u8; 12], [u8; 12], Vec<u8>, u16)>().for_each(|(old, new, rest, error)| {
            let delta = ChecksumDelta::replace(old, new);
            let right = rfc1071(&[&old[..], rest].concat());
            let after = rfc1071(&[&new[..], rest].concat());
            // All-zero data is the one case with a checksum of 0xffff; no packet with an IP header is.
            if right != 0xffff && after != 0xffff {
                assert_eq!(delta.apply(right), after);
            }
            // Neither repaired nor broken: wrong by the same amount, modulo 0xffff.
            let wrong = right ^ error;
            let off = |have: u16, should: u16| (i32::from(have) - i32::from(should)).rem_euclid(0xffff);
            assert_eq!(off(delta.apply(wrong), after), off(wrong, right));
            if wrong != 0 {
                assert_eq!(off(delta.apply_udp(wrong), after), off(wrong, right));
                assert_ne!(delta.apply_udp(wrong), 0);
            }
        });
    }

    #[test]
    fn there_and_back() {
        check!().with_type::<([u8; 12], [u8; 12], u16)>().for_each(|(old, new, checksum)| {
            let there = ChecksumDelta::replace(old, new);
            let back = ChecksumDelta::replace(new, old);
            assert_eq!(back, there.inverse());
            assert_eq!(there.and(back), ChecksumDelta::default());
            let restored = back.apply(there.apply(*checksum));
            assert!(restored == *checksum || (*checksum == 0xffff && restored == 0));
            assert_eq!(back.apply_udp(there.apply_udp(*checksum)), *checksum);
            assert_eq!(ChecksumDelta::replace(old, old).apply(*checksum), *checksum);
        });
    }
}
