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
