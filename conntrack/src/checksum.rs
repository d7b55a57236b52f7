//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

/// The difference that a rewrite makes to a checksum: HC' = ~(~HC + ~m + m') (RFC 1624 equation 3), the sum of all
/// ~m + m' folded to 16 bits. Precomputed when a session is installed, applied to each packet. Applying it never repairs
/// a wrong checksum: it stays wrong by the same amount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChecksumDelta(pub u16);
