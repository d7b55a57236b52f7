//! IPv4 (RFC 791).

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of a header without options.
pub const LEN: usize = 20;
/// The don't-fragment bit of [`Ipv4::fragment`].
pub const DF: u16 = 0x4000;

/// An IPv4 header without its options.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Ipv4 {
    /// Version and header length in words.
    pub version_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Header and payload.
    pub total_len: U16,
    /// Of the datagram.
    pub id: U16,
    /// Flags and fragment offset.
    pub fragment: U16,
    /// Time to live.
    pub ttl: u8,
    /// Of the payload.
    pub protocol: u8,
    /// Of the header.
    pub checksum: U16,
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
}

impl Ipv4 {
    /// 4, if it is IPv4.
    #[inline]
    pub const fn version(&self) -> u8 {
        self.version_ihl >> 4
    }

    /// Bytes of the header with its options.
    #[inline]
    pub const fn header_len(&self) -> usize {
        (self.version_ihl & 0xf) as usize * 4
    }

    /// Whether it is a fragment: more follow, or it is not the first.
    #[inline]
    pub const fn is_fragment(&self) -> bool {
        self.fragment.get() & 0x3fff != 0
    }

    /// Both addresses, source first.
    #[inline(always)]
    pub fn addresses(&self) -> [u8; 8] {
        let ([a, b, c, d], [e, f, g, h]) = (self.source, self.destination);
        [a, b, c, d, e, f, g, h]
    }

    /// Whether the checksum over the 20 bytes (no options) is right: their sum as 16-bit words is a multiple of 0xffff, in
    /// whatever byte order (RFC 1071 section 2), and so is that of their 32-bit words. It is never 0: the version is not.
    #[inline(always)]
    pub fn has_right_checksum(&self) -> bool {
        let bytes = self.as_bytes();
        let mut sum = 0u64;
        for word in bytes.chunks_exact(4) {
            if let Ok(word) = word.try_into() {
                sum += u64::from(u32::from_ne_bytes(word));
            }
        }
        sum.is_multiple_of(0xffff)
    }
}

/// Whether a header that begins with these two little-endian words is of version 4, without options, and not of a fragment.
#[inline(always)]
pub const fn is_plain(first: u32, second: u32) -> bool {
    // The low bits of the fragment's offset are in the second of its bytes.
    const FRAGMENT: u32 = 0xff3f << 16;
    first as u8 == 0x45 && second & FRAGMENT == 0
}

/// Of a header without options, in little-endian words: right if the sum of its words, of whatever size and byte order, is a multiple of 0xffff
/// (RFC 1071 section 2), which carries are added to. It is never 0: the version is not.
#[inline(always)]
pub const fn sum_is_right(first: u32, second: u32, third: u32, addresses: u64) -> bool {
    let (sum, carry) = addresses.overflowing_add(first as u64 + second as u64 + third as u64);
    (sum + carry as u64).is_multiple_of(0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use conntrack::checksum::checksum;

    #[test]
    fn header_sums_are_those_of_rfc_1071() {
        bolero::check!().with_type::<([u8; 20], bool)>().for_each(|(header, repair)| {
            let mut header = *header;
            header[0] = 0x45;
            if *repair {
                header[10..12].fill(0);
                let sum = checksum(&[&header]);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
            let addresses = u64::from(word(12)) | u64::from(word(16)) << 32;
            let is_right = sum_is_right(word(0), word(4), word(8), addresses);
            assert_eq!(is_right, checksum(&[&header]) == 0, "{header:?}");
            assert!(is_right || !repair);
        });
    }
}
