//! What the stages know of each packet of a burst, and which stage it goes to next.

use crate::PortIndex;
use crate::packet::PORT_BURST;
use conntrack::{L2Index, LifIndex, TcpFlags};

/// The stage a packet goes to next. Every stage takes the packets that are marked for it, and marks each for a later one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Next {
    /// `egress`, to be dropped under [`Meta::reason`].
    #[default]
    Drop,
    /// `decap`: underlay.
    Underlay,
    /// `from_kernel`.
    Kernel,
    /// `local`.
    Local,
    /// `classify`.
    Classify,
    /// `lookup`: has a key.
    Lookup,
    /// `trap`, as [`Meta::class`].
    Trap,
    /// `encap`, as [`Meta::way`] or for [`Meta::out_lif`].
    Encap,
    /// `egress`, to be sent on [`Meta::port`].
    Send,
    /// `egress`, used up here: an ARP reply to the gateway, for one.
    Consumed,
}

/// Why a packet was dropped. Each has a counter of its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum DropReason {
    /// Its port, tag or VNI belongs to no LIF.
    #[default]
    UnknownLif,
    /// A header is cut short, contradicts itself, or claims more than there is.
    Malformed,
    /// An IPv4 header checksum, or that of an ICMP error of a session, is wrong.
    BadChecksum,
    /// The next hop's MAC is not known (yet).
    NoNeighbor,
    /// The session says so.
    SessionDrop,
    /// Over the trap's rate limit.
    TrapLimited,
    /// A source or destination address that no packet on a wire may have.
    Martian,
    /// On the underlay or the trap link, to somebody else.
    NotForUs,
    /// On the underlay or the trap link, to the gateway, but nothing it serves.
    NotVxlan,
    /// A fragment of a tunnel packet.
    OuterFragment,
    /// Congestion experienced outside, no ECN inside (RFC 6040 section 4.2).
    EcnCongestion,
    /// The LIF has no VTEP to send it to.
    NoVtep,
    /// No headroom for the tunnel headers.
    NoHeadroom,
    /// Over its session's rate limit.
    RateLimited,
}

impl DropReason {
    /// How many there are.
    pub const COUNT: usize = 14;
    /// The counters' names.
    pub const NAMES: [&str; Self::COUNT] = [
        "unknown_lif",
        "malformed",
        "bad_checksum",
        "no_neighbor",
        "session_drop",
        "trap_limited",
        "martian",
        "not_for_us",
        "not_vxlan",
        "outer_fragment",
        "ecn_congestion",
        "no_vtep",
        "no_headroom",
        "rate_limited",
    ];
}

/// Why a packet goes to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum TrapClass {
    /// Of no session.
    #[default]
    New,
    /// SYN, FIN or RST of a session.
    TcpControl,
    /// ARP, Neighbor Discovery, multicast listeners.
    ArpNd,
    /// Needs more than a rewrite: TTL, MTU, options, fragments, other protocols than IP.
    Exception,
}

impl TrapClass {
    /// How many there are.
    pub const COUNT: usize = 4;
    /// The counters' names.
    pub const NAMES: [&str; Self::COUNT] = ["new", "tcp_control", "arp_nd", "exception"];
}

/// What follows the inner IP header, as far as a rewrite cares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// No ports and no checksum to update.
    #[default]
    Other,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// An ICMP or ICMPv6 query: the identifier is the source port.
    Request,
    /// An ICMP or ICMPv6 reply: the identifier is the destination port.
    Reply,
    /// TCP with SYN, FIN or RST: the VNF must see it.
    Control,
    /// An ICMP or ICMPv6 error, looked up by the packet it quotes.
    Error,
}

impl Kind {
    /// Whether a rewrite is all it takes, unless its flow wants more.
    #[inline(always)]
    pub fn is_plain(self) -> bool {
        self < Self::Control
    }
}

/// Out LIF and MACs of a routed flow, by their place in the session table, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way(u32);

impl Way {
    /// That of a flow.
    #[inline(always)]
    pub fn of(index: L2Index) -> Self {
        Self(index.0.wrapping_add(1))
    }

    /// The place.
    #[inline(always)]
    pub fn index(self) -> Option<L2Index> {
        self.0.checked_sub(1).map(L2Index)
    }

    /// A number for it; 0 if it is none.
    #[inline(always)]
    pub fn number(self) -> u32 {
        self.0
    }
}

/// One packet's metadata: half a cache line. In the order it is first written, so that what is not known yet is zeroed at once.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(32))]
pub struct Meta {
    /// Where it goes next.
    pub next: Next,
    /// Why, if dropped.
    pub reason: DropReason,
    /// Why, if trapped.
    pub class: TrapClass,
    /// Of the inner packet.
    pub kind: Kind,
    /// Bytes of the tenant's frame.
    pub frame_len: u32,
    /// Where it arrived.
    pub in_lif: LifIndex,
    /// Where it leaves, unless its flow says it.
    pub out_lif: LifIndex,
    /// Bytes of the inner IP packet.
    pub ip_len: u32,
    /// What its flow says of where and how it leaves.
    pub way: Way,
    /// Offset of what follows the inner IP header.
    pub l4: u16,
    /// Of an ICMP error: offset of what follows the quoted IP header.
    pub quoted_l4: u16,
    /// Outer UDP source port for the flow; 0 where the flow is not known.
    pub outer_port: u16,
    /// The port it is sent on.
    pub port: PortIndex,
    /// Of a TCP packet.
    pub tcp_flags: TcpFlags,
    /// DSCP and ECN of the inner packet.
    pub tos: u8,
    /// Of an ICMPv6 error: protocol of the quoted packet.
    pub quoted_protocol: u8,
    /// Bytes of Ethernet header and tag before the outer IP header.
    pub l2: u8,
    reserved: u8,
}

const _: () = assert!(size_of::<Meta>() == 32);

impl Meta {
    /// Of a tenant's frame, nothing known of it yet.
    #[inline(always)]
    pub fn of_tenant(in_lif: LifIndex, frame_len: u32) -> Self {
        Self { next: Next::Classify, in_lif, frame_len, ..Self::default() }
    }

    /// Of a packet on the underlay, `l2` bytes before its network header.
    #[inline(always)]
    pub fn of_underlay(l2: u8) -> Self {
        Self { next: Next::Underlay, l2, ..Self::default() }
    }

    /// Marks it dropped.
    #[inline]
    pub fn drop(&mut self, reason: DropReason) {
        self.next = Next::Drop;
        self.reason = reason;
    }

    /// Marks it for the trap.
    #[inline]
    pub fn trap(&mut self, class: TrapClass) {
        self.next = Next::Trap;
        self.class = class;
    }

    /// Marks it to be sent as it is.
    #[inline]
    pub fn send(&mut self, port: PortIndex) {
        self.next = Next::Send;
        self.port = port;
    }
}

/// The metadata of packets received together.
pub type Metas = [Meta; PORT_BURST];
