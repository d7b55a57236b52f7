//! Sessions as clients describe them and as the table reports them.

use crate::{LifIndex, Timestamp};
use std::net::IpAddr;

/// Chosen by the client; any value but 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Addresses and ports of a packet. Ports are 0 where the protocol has none; for ICMP and ICMPv6 queries `source_port` is
/// the identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Source address.
    pub source: IpAddr,
    /// Destination address; of the same family.
    pub destination: IpAddr,
    /// Source port or identifier.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
}

/// MAC addresses to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MacPair {
    /// Source.
    pub source: [u8; 6],
    /// Destination.
    pub destination: [u8; 6],
}

/// MACs per direction. A session with them is routed: TTL or hop limit goes down by one each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct L2 {
    /// Of packets that leave on `out_lif`.
    pub forward: MacPair,
    /// Of packets that leave on `in_lif`.
    pub reverse: MacPair,
}

/// What happens to the packets of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Action {
    /// Rewrite and forward.
    #[default]
    Forward,
    /// Count and drop.
    Drop,
    /// Forward, and send the packet as received to the collector.
    Mirror(IpAddr),
    /// Forward, and send the packet as sent to the collector.
    Snoop(IpAddr),
}

/// How much of a session's traffic passes, both directions together. Token buckets, full at the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// Packets per second; 0 = any number.
    pub packets: u32,
    /// Bytes per second, as [`Counters`] count them; 0 = any number.
    pub bytes: u64,
    /// What may pass at once after a pause: the milliseconds' worth of either rate that the buckets hold. 1 to 60,000.
    pub burst_ms: u32,
}

/// A session to install.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionSpec {
    /// The client's id for it.
    pub id: SessionId,
    /// Where packets with the `original` tuple arrive.
    pub in_lif: LifIndex,
    /// Where they leave; the reverse flow arrives there with `translated` swapped.
    pub out_lif: LifIndex,
    /// IP protocol number (IANA).
    pub protocol: u8,
    /// As packets arrive on `in_lif`.
    pub original: Tuple,
    /// As they leave on `out_lif`; equal to `original` where nothing is translated.
    pub translated: Tuple,
    /// Absent: bump in the wire, MACs and TTL stay.
    pub l2: Option<L2>,
    /// What to do.
    pub action: Action,
    /// Seconds without a packet either way; None = the table's default for the protocol. At most 2^21.
    pub idle_timeout: Option<u32>,
    /// Seconds from its start to its end, whatever its traffic; None = no such end. At most 2^21.
    pub hard_timeout: Option<u32>,
    /// What passes; None = everything.
    pub limit: Option<RateLimit>,
    /// Who installed it, as the control side numbers its clients; 0 = nobody in particular.
    pub owner: u16,
}

/// Where a session is in its life (openoffload.v2 `SessionState`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionState {
    /// Forwarding.
    #[default]
    Established,
    /// One FIN seen.
    Closing1,
    /// FINs seen both ways, or RST; about to be reported closed.
    Closing2,
}

/// Why a session closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCode {
    /// FINs were seen both ways.
    FinAck,
    /// A RST was seen.
    Rst,
    /// No packet either way for its idle timeout, or its hard timeout is over.
    Timeout,
    /// A client removed it.
    Deleted,
}

/// Packets and bytes of a session. Bytes are those of the tenant's Ethernet frame without tags, tunnel headers and padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets of the request's own direction.
    pub in_packets: u64,
    /// Bytes of the request's own direction.
    pub in_bytes: u64,
    /// Packets of the reverse direction.
    pub out_packets: u64,
    /// Bytes of the reverse direction.
    pub out_bytes: u64,
}

/// A live session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// As installed (`idle_timeout` is the one in force).
    pub spec: SessionSpec,
    /// So far.
    pub counters: Counters,
    /// As observed.
    pub state: SessionState,
    /// When it was installed.
    pub start: Timestamp,
    /// The last packet either way; `start` if there was none.
    pub last_seen: Timestamp,
}

/// A session that has ended, with final counters: every packet forwarded is in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// As it was.
    pub info: SessionInfo,
    /// Why.
    pub code: CloseCode,
    /// When.
    pub end: Timestamp,
}
