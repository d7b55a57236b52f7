//! Logical interfaces, as conntrack sees them.

/// Position of a logical interface in the gateway's table of LIFs: dense, small, and part of every flow key. The id that
/// the configuration and the APIs use is mapped to it at the edge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LifIndex(pub u16);
