//! VXLAN (RFC 7348).

use zerocopy::byteorder::network_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of the header.
pub const LEN: usize = 8;

/// A VXLAN header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Vxlan {
    /// The I flag and reserved bits.
    pub flags: U32,
    /// The VNI in the upper 24 bits, reserved below.
    pub vni: U32,
}

impl Vxlan {
    /// The header of a frame in `vni`.
    #[inline]
    pub const fn new(vni: u32) -> Self {
        Self { flags: U32::new(0x0800_0000), vni: U32::new(vni << 8) }
    }

    /// The VNI; None without the I flag. Reserved bits are ignored (RFC 7348 section 5).
    #[inline]
    pub const fn vni(&self) -> Option<u32> {
        if self.flags.get() & 0x0800_0000 != 0 { Some(self.vni.get() >> 8) } else { None }
    }
}
