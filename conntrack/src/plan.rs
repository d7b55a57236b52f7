//! From a session as requested to its two flows: validation, keys and rewrites.

use crate::LifIndex;
use crate::checksum::{ChecksumDelta, TTL_STEP};
use crate::entropy::{outer_port_v4, outer_port_v6};
use crate::key::{FlowKeyV4, FlowKeyV6};
use crate::rewrite::{L2Index, L2Rewrite, Macs, Rewrite, RewriteFlags};
use crate::session::{Action, L2, MacPair, RateLimit, SessionSpec, Tuple};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IP protocol numbers (IANA) that the table treats apart.
pub(crate) mod protocol {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const DCCP: u8 = 33;
    pub const AH: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const UDP_LITE: u8 = 136;
    /// Hop-by-hop, routing, fragment and destination options: headers before a payload, never the payload (RFC 8200).
    pub const IPV6_EXTENSIONS: [u8; 4] = [0, 43, 44, 60];
}

/// Longest timeout, in seconds.
pub(crate) const MAX_TIMEOUT: u32 = 1 << 21;
/// Most that a rate limit's bucket holds, in milliseconds' worth.
const MAX_BURST_MS: u32 = 60_000;

/// One direction: what to find and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Half<K, A> {
    pub key: K,
    /// But for its [`L2Index`], which only the table can give.
    pub rewrite: Rewrite<A>,
    pub l2: L2Rewrite,
}

/// Both directions: the request's own, then the reverse.
pub(crate) type Flows<K, A> = [Half<K, A>; 2];

/// Of either family.
pub(crate) enum Plan {
    V4(Flows<FlowKeyV4, [u8; 4]>),
    V6(Flows<FlowKeyV6, [u8; 16]>),
}

/// The flows of `spec`, or what is wrong with it.
pub(crate) fn plan(spec: &SessionSpec) -> Result<Plan, &'static str> {
    validate(spec)?;
    let (original, translated) = (&spec.original, &spec.translated);
    match (original.source, original.destination, translated.source, translated.destination) {
        (IpAddr::V4(s), IpAddr::V4(d), IpAddr::V4(ns), IpAddr::V4(nd)) => {
            Ok(Plan::V4(flows(spec, [s, d, ns, nd].map(|a| a.octets()))?))
        }
        (IpAddr::V6(s), IpAddr::V6(d), IpAddr::V6(ns), IpAddr::V6(nd)) => {
            Ok(Plan::V6(flows(spec, [s, d, ns, nd].map(|a| a.octets()))?))
        }
        _ => Err("addresses must all be IPv4 or all IPv6"),
    }
}

/// What differs between the families.
trait Address: Copy + PartialEq + AsRef<[u8]> {
    type Key: PartialEq + Copy;
    fn key(lif: LifIndex, protocol: u8, end: &End<Self>) -> Self::Key;
    fn outer_port(source: Self, destination: Self, ports: [u8; 4], protocol: u8) -> u16;
}

/// Addresses and ports of a packet, in network order.
#[derive(Clone, Copy, PartialEq)]
struct End<A> {
    source: A,
    destination: A,
    source_port: u16,
    destination_port: u16,
}

impl<A: Copy> End<A> {
    /// Source and destination port, as in a packet.
    fn ports(&self) -> [u8; 4] {
        let ([a, b], [c, d]) = (self.source_port.to_be_bytes(), self.destination_port.to_be_bytes());
        [a, b, c, d]
    }

    fn swapped(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }
}

impl Address for [u8; 4] {
    type Key = FlowKeyV4;
    fn key(lif: LifIndex, protocol: u8, end: &End<Self>) -> FlowKeyV4 {
        let (source, destination) = (Ipv4Addr::from(end.source), Ipv4Addr::from(end.destination));
        FlowKeyV4::new(lif, protocol, source, end.source_port, destination, end.destination_port)
    }
    fn outer_port(source: Self, destination: Self, ports: [u8; 4], protocol: u8) -> u16 {
        outer_port_v4(source, destination, ports, protocol)
    }
}

impl Address for [u8; 16] {
    type Key = FlowKeyV6;
    fn key(lif: LifIndex, protocol: u8, end: &End<Self>) -> FlowKeyV6 {
        let (source, destination) = (Ipv6Addr::from(end.source), Ipv6Addr::from(end.destination));
        FlowKeyV6::new(lif, protocol, source, end.source_port, destination, end.destination_port)
    }
    fn outer_port(source: Self, destination: Self, ports: [u8; 4], protocol: u8) -> u16 {
        outer_port_v6(source, destination, ports, protocol)
    }
}

fn flows<A: Address>(spec: &SessionSpec, addresses: [A; 4]) -> Result<Flows<A::Key, A>, &'static str> {
    let [source, destination, new_source, new_destination] = addresses;
    let end = |tuple: &Tuple, source, destination| End {
        source,
        destination,
        source_port: tuple.source_port,
        destination_port: tuple.destination_port,
    };
    let before = end(&spec.original, source, destination);
    let after = end(&spec.translated, new_source, new_destination);
    let deltas = Deltas::new(spec.protocol, &before, &after);
    let forward = Half {
        key: A::key(spec.in_lif, spec.protocol, &before),
        rewrite: rewrite(spec, &before, &after, deltas, 0),
        l2: l2_rewrite(spec.out_lif, spec.l2.map(|l2| l2.forward)),
    };
    let (before, after) = (after.swapped(), before.swapped());
    let reverse = Half {
        key: A::key(spec.out_lif, spec.protocol, &before),
        rewrite: rewrite(spec, &before, &after, deltas.inverse(), RewriteFlags::REVERSE),
        l2: l2_rewrite(spec.in_lif, spec.l2.map(|l2| l2.reverse)),
    };
    if forward.key == reverse.key {
        return Err("both directions of the session look the same");
    }
    Ok([forward, reverse])
}

/// What a translation does to checksums.
#[derive(Clone, Copy)]
struct Deltas {
    l3: ChecksumDelta,
    l4: ChecksumDelta,
}

impl Deltas {
    fn new<A: Address>(protocol: u8, before: &End<A>, after: &End<A>) -> Self {
        let l3 = ChecksumDelta::replace(before.source.as_ref(), after.source.as_ref())
            .and(ChecksumDelta::replace(before.destination.as_ref(), after.destination.as_ref()));
        let ports = ChecksumDelta::replace(&before.ports(), &after.ports());
        let l4 = match protocol {
            protocol::TCP | protocol::UDP | protocol::ICMPV6 => l3.and(ports),
            protocol::ICMP => ports,
            _ => ChecksumDelta::default(),
        };
        Self { l3, l4 }
    }

    /// Of the way back.
    fn inverse(self) -> Self {
        Self { l3: self.l3.inverse(), l4: self.l4.inverse() }
    }
}

fn l2_rewrite(out_lif: LifIndex, macs: Option<MacPair>) -> L2Rewrite {
    let macs = macs.map_or_else(Macs::default, |macs| Macs::new(macs.destination, macs.source));
    L2Rewrite { macs, out_lif }
}

fn outer_port<A: Address>(protocol: u8, after: &End<A>) -> u16 {
    let ports = if matches!(protocol, protocol::TCP | protocol::UDP) { after.ports() } else { [0; 4] };
    A::outer_port(after.source, after.destination, ports, protocol)
}

fn rewrite<A: Address>(
    spec: &SessionSpec,
    before: &End<A>,
    after: &End<A>,
    deltas: Deltas,
    direction: u16,
) -> Rewrite<A> {
    let mut flags = direction;
    if before != after {
        flags |= RewriteFlags::TRANSLATE;
    }
    if spec.l2.is_some() {
        flags |= RewriteFlags::ROUTED;
    }
    if spec.hard_timeout.is_some() || spec.limit.is_some() {
        flags |= RewriteFlags::POLICED;
    }
    flags |= match spec.action {
        Action::Forward => 0,
        Action::Drop => RewriteFlags::DROP,
        Action::Mirror(_) => RewriteFlags::MIRROR,
        Action::Snoop(_) => RewriteFlags::SNOOP,
    };
    Rewrite {
        source: after.source,
        destination: after.destination,
        source_port: after.source_port.to_be_bytes(),
        destination_port: after.destination_port.to_be_bytes(),
        l3_delta: if spec.l2.is_some() { deltas.l3.and(TTL_STEP) } else { deltas.l3 },
        l4_delta: deltas.l4,
        outer_port: outer_port(spec.protocol, after),
        l2: L2Index::default(),
        flags: RewriteFlags(flags),
    }
}

fn validate(spec: &SessionSpec) -> Result<(), &'static str> {
    if spec.id.0 == 0 {
        return Err("session id 0 is reserved");
    }
    if spec.idle_timeout.is_some_and(|seconds| !(1..=MAX_TIMEOUT).contains(&seconds)) {
        return Err("idle timeout must be 1 to 2097152 seconds");
    }
    if spec.hard_timeout.is_some_and(|seconds| !(1..=MAX_TIMEOUT).contains(&seconds)) {
        return Err("hard timeout must be 1 to 2097152 seconds");
    }
    if let Some(RateLimit { packets, bytes, burst_ms }) = spec.limit {
        if packets == 0 && bytes == 0 {
            return Err("a rate limit needs packets or bytes per second");
        }
        if !(1..=MAX_BURST_MS).contains(&burst_ms) {
            return Err("a rate limit's burst must be 1 to 60000 milliseconds");
        }
    }
    for tuple in [&spec.original, &spec.translated] {
        validate_tuple(spec.protocol, tuple)?;
    }
    if matches!(spec.protocol, protocol::DCCP | protocol::UDP_LITE | protocol::AH)
        && (spec.original.source != spec.translated.source
            || spec.original.destination != spec.translated.destination)
    {
        return Err("DCCP, UDP-Lite and AH protect their addresses: cannot be translated");
    }
    if let Some(L2 { forward, reverse }) = spec.l2 {
        for mac in [forward.source, forward.destination, reverse.source, reverse.destination] {
            if mac[0] & 1 != 0 || mac == [0; 6] {
                return Err("MAC addresses must be unicast and not zero");
            }
        }
    }
    match spec.action {
        Action::Mirror(collector) | Action::Snoop(collector) if !is_host(collector) => {
            Err("the collector must be a unicast address")
        }
        _ => Ok(()),
    }
}

fn validate_tuple(number: u8, tuple: &Tuple) -> Result<(), &'static str> {
    if tuple.source.is_ipv4() != tuple.destination.is_ipv4() {
        return Err("addresses must all be IPv4 or all IPv6");
    }
    if !is_host(tuple.source) || !is_host(tuple.destination) {
        return Err("addresses must be unicast and not unspecified");
    }
    let v4 = tuple.source.is_ipv4();
    match number {
        0 => Err("the protocol is missing"),
        _ if !v4 && protocol::IPV6_EXTENSIONS.contains(&number) => {
            Err("an IPv6 extension header is not a protocol")
        }
        protocol::TCP | protocol::UDP if tuple.source_port == 0 || tuple.destination_port == 0 => {
            Err("TCP and UDP need both ports")
        }
        protocol::TCP | protocol::UDP => Ok(()),
        protocol::ICMP if !v4 => Err("ICMP goes with IPv4 addresses, ICMPv6 with IPv6"),
        protocol::ICMPV6 if v4 => Err("ICMP goes with IPv4 addresses, ICMPv6 with IPv6"),
        protocol::ICMP | protocol::ICMPV6 if tuple.destination_port != 0 => {
            Err("an ICMP session has its identifier as source port, and no destination port")
        }
        protocol::ICMP | protocol::ICMPV6 => Ok(()),
        _ if tuple.source_port != 0 || tuple.destination_port != 0 => Err("the protocol has no ports"),
        _ => Ok(()),
    }
}

/// Whether one host can have `address`.
fn is_host(address: IpAddr) -> bool {
    let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    !address.is_unspecified() && !address.is_multicast() && !broadcast
}
