//! One entry of the kernel's connection table, as ctnetlink tells it.

mod parse;
mod request;

use netlink_packet_netfilter::conntrack::Status;
use std::net::IpAddr;

/// IP protocol numbers the agent tells apart.
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
}

/// linux/netfilter/nfnetlink_conntrack.h: the attributes, nested ones in modules.
mod cta {
    pub const TUPLE_ORIG: u16 = 1;
    pub const TUPLE_REPLY: u16 = 2;
    pub const STATUS: u16 = 3;
    pub const PROTOINFO: u16 = 4;
    pub const HELP: u16 = 5;
    pub const TIMEOUT: u16 = 7;
    pub const MARK: u16 = 8;
    pub const COUNTERS_ORIG: u16 = 9;
    pub const COUNTERS_REPLY: u16 = 10;
    pub const ID: u16 = 12;
    pub const ZONE: u16 = 18;
    pub mod tuple {
        pub const IP: u16 = 1;
        pub const PROTO: u16 = 2;
    }
    pub mod ip {
        pub const V4_SRC: u16 = 1;
        pub const V4_DST: u16 = 2;
        pub const V6_SRC: u16 = 3;
        pub const V6_DST: u16 = 4;
    }
    pub mod proto {
        pub const NUM: u16 = 1;
        pub const SRC_PORT: u16 = 2;
        pub const DST_PORT: u16 = 3;
        pub const ICMP_ID: u16 = 4;
        pub const ICMP_TYPE: u16 = 5;
        pub const ICMP_CODE: u16 = 6;
        pub const ICMPV6_ID: u16 = 7;
        pub const ICMPV6_TYPE: u16 = 8;
        pub const ICMPV6_CODE: u16 = 9;
    }
    pub mod protoinfo {
        pub const TCP: u16 = 1;
        pub const TCP_STATE: u16 = 1;
    }
    pub mod counters {
        pub const PACKETS: u16 = 1;
        pub const BYTES: u16 = 2;
    }
}

const ICMP_ECHO_REQUEST: u8 = 8;
const ICMPV6_ECHO_REQUEST: u8 = 128;

/// Addresses and ports of one direction. For ICMP the source port is the identifier; 0 where a protocol has none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tuple {
    /// Where the packets come from.
    pub source: IpAddr,
    /// Where they go.
    pub destination: IpAddr,
    /// Host order.
    pub source_port: u16,
    /// Host order.
    pub destination_port: u16,
}

impl Tuple {
    /// The tuple of a packet that answers one of this tuple.
    pub fn swapped(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }
}

/// The kernel's TCP states (nf_conntrack_tcp.h); only those after the handshake matter here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TcpState {
    /// Before the handshake is complete.
    Opening,
    /// Data may flow.
    Established,
    /// The originator's FIN has been seen.
    FinWait,
    /// The responder's FIN has been seen.
    CloseWait,
    /// FINs both ways.
    LastAck,
    /// All acknowledged.
    TimeWait,
    /// Reset, or a state unknown here.
    Closed,
}

impl TcpState {
    /// The kernel's numbers (TCP_CONNTRACK_*).
    fn from_kernel(state: u8) -> Self {
        match state {
            0..=2 | 9 => Self::Opening,
            3 => Self::Established,
            4 => Self::FinWait,
            5 => Self::CloseWait,
            6 => Self::LastAck,
            7 => Self::TimeWait,
            _ => Self::Closed,
        }
    }

    fn to_kernel(self) -> u8 {
        match self {
            Self::Opening => 1,
            Self::Established => 3,
            Self::FinWait => 4,
            Self::CloseWait => 5,
            Self::LastAck => 6,
            Self::TimeWait => 7,
            Self::Closed => 8,
        }
    }
}

/// Packets, and their bytes from the IP header on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What has passed, each way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Traffic {
    /// In the direction of the first packet.
    pub original: Count,
    /// Against it.
    pub reply: Count,
}

impl Traffic {
    /// Packets both ways.
    pub fn packets(&self) -> u64 {
        self.original.packets.saturating_add(self.reply.packets)
    }
}

impl std::ops::Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            packets: self.packets.saturating_add(other.packets),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

impl std::ops::Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { original: self.original + other.original, reply: self.reply + other.reply }
    }
}

/// A connection in the kernel's table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The kernel's own id: the same for as long as the entry lives, another for its successor.
    pub kernel_id: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// As the first packet arrived.
    pub original: Tuple,
    /// As replies arrive: after translation.
    pub reply: Tuple,
    /// IPS_* bits.
    pub status: Status,
    /// Present in events that change it, and in dumps.
    pub tcp_state: Option<TcpState>,
    /// Connection mark.
    pub mark: u32,
    /// Conntrack zone.
    pub zone: u16,
    /// A zone for one direction only, or a tuple the agent cannot express.
    pub foreign: bool,
    /// Seconds left.
    pub timeout: Option<u32>,
    /// A helper (ALG) looks into it.
    pub helper: bool,
    /// What has passed; absent without accounting, and from all events but the last.
    pub traffic: Option<Traffic>,
    /// ICMP type and code of the original direction.
    pub icmp: Option<(u8, u8)>,
}

impl Entry {
    /// The original tuple as it leaves towards the destination: the reply's, swapped. ICMP keeps its identifier as source.
    pub fn translated(&self) -> Tuple {
        let swapped = self.reply.swapped();
        if self.is_icmp() {
            Tuple { source_port: self.reply.source_port, destination_port: 0, ..swapped }
        } else {
            swapped
        }
    }

    /// ICMP or ICMPv6.
    pub fn is_icmp(&self) -> bool {
        matches!(self.protocol, protocol::ICMP | protocol::ICMPV6)
    }

    /// TCP or UDP.
    pub fn has_ports(&self) -> bool {
        matches!(self.protocol, protocol::TCP | protocol::UDP)
    }

    /// Begun by an echo request.
    pub fn is_echo(&self) -> bool {
        match self.protocol {
            protocol::ICMP => matches!(self.icmp, Some((ICMP_ECHO_REQUEST, _))),
            protocol::ICMPV6 => matches!(self.icmp, Some((ICMPV6_ECHO_REQUEST, _))),
            _ => false,
        }
    }
}
