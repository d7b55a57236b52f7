//! One entry of the kernel's connection table, as ctnetlink tells it, and the requests that change one.

use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla,
    NlaBuffer, NlasIterator,
};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple, Protocol, Status,
    TCPFlags, Tuple as TupleAttribute,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
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

// linux/netfilter/nfnetlink_conntrack.h: what the library leaves as plain attributes.
const CTA_HELP: u16 = 5;
const CTA_COUNTERS_ORIG: u16 = 9;
const CTA_COUNTERS_REPLY: u16 = 10;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_PROTO_ICMP_ID: u16 = 4;
const CTA_PROTO_ICMP_TYPE: u16 = 5;
const CTA_PROTO_ICMP_CODE: u16 = 6;
const CTA_PROTO_ICMPV6_ID: u16 = 7;
const CTA_PROTO_ICMPV6_TYPE: u16 = 8;
const CTA_PROTO_ICMPV6_CODE: u16 = 9;
const CTA_COUNTERS_PACKETS: u16 = 1;
// linux/netfilter/nf_conntrack_tcp.h
const IP_CT_TCP_FLAG_BE_LIBERAL: u8 = 0x08;

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
    /// Packets both ways; absent without accounting, and from most events.
    pub packets: Option<u64>,
    /// ICMP type and code of the original direction.
    pub icmp: Option<(u8, u8)>,
}

impl Entry {
    /// Reads a ctnetlink message; `None` where it does not describe a connection.
    pub fn parse(attributes: &[ConntrackAttribute]) -> Option<Self> {
        let (mut original, mut reply) = (None, None);
        let mut entry = EntryParts::default();
        for attribute in attributes {
            match attribute {
                ConntrackAttribute::CtaTupleOrig(tuple) => original = parse_tuple(tuple),
                ConntrackAttribute::CtaTupleReply(tuple) => reply = parse_tuple(tuple),
                other => entry.take(other),
            }
        }
        let (original, reply) = (original?, reply?);
        Some(Self {
            kernel_id: entry.kernel_id?,
            protocol: original.protocol,
            original: original.tuple,
            reply: reply.tuple,
            status: entry.status.unwrap_or(Status::empty()),
            tcp_state: entry.tcp_state,
            mark: entry.mark,
            zone: entry.zone,
            foreign: original.foreign || reply.foreign,
            timeout: entry.timeout,
            helper: entry.helper,
            packets: entry.packets,
            icmp: original.icmp,
        })
    }

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

    /// Begun by an echo request.
    pub fn is_echo(&self) -> bool {
        match self.protocol {
            protocol::ICMP => matches!(self.icmp, Some((ICMP_ECHO_REQUEST, _))),
            protocol::ICMPV6 => matches!(self.icmp, Some((ICMPV6_ECHO_REQUEST, _))),
            _ => false,
        }
    }

    /// Makes the kernel accept any sequence number both ways, and gives the entry `timeout` seconds: it will miss most of
    /// the connection's packets, and must not take the FIN at its end for an invalid one.
    pub(super) fn make_liberal(&self, timeout: u32) -> NetlinkMessage<NetfilterMessage> {
        let liberal = || {
            // Built by the parser because the type is non-exhaustive.
            TCPFlags::parse(&[IP_CT_TCP_FLAG_BE_LIBERAL; 2])
        };
        let mut flags = Vec::with_capacity(2);
        if let (Ok(original), Ok(reply)) = (liberal(), liberal()) {
            flags.push(ProtoInfoTCP::OriginalFlags(original));
            flags.push(ProtoInfoTCP::ReplyFlags(reply));
        }
        let mut attributes = self.identity();
        attributes.push(ConntrackAttribute::CtaProtoInfo(vec![ProtoInfo::TCP(flags)]));
        attributes.push(ConntrackAttribute::CtaTimeout(timeout));
        self.request(ConntrackMessage::New(attributes), NLM_F_ACK)
    }

    /// Lets the entry live `timeout` more seconds.
    pub(super) fn set_timeout(&self, timeout: u32) -> NetlinkMessage<NetfilterMessage> {
        let mut attributes = self.identity();
        attributes.push(ConntrackAttribute::CtaTimeout(timeout));
        self.request(ConntrackMessage::New(attributes), NLM_F_ACK)
    }

    /// Asks for the entry as it is now.
    pub(super) fn get(&self) -> NetlinkMessage<NetfilterMessage> {
        self.request(ConntrackMessage::Get(self.identity()), NLM_F_ACK)
    }

    /// Asks for the whole table.
    pub(super) fn dump() -> NetlinkMessage<NetfilterMessage> {
        message(NetfilterProtoFamily::Unspec, ConntrackMessage::Get(Vec::new()), NLM_F_DUMP)
    }

    fn identity(&self) -> Vec<ConntrackAttribute> {
        let mut attributes = vec![ConntrackAttribute::CtaTupleOrig(self.emit_original())];
        if self.zone != 0 {
            attributes
                .push(ConntrackAttribute::Other(DefaultNla::new(CTA_ZONE, self.zone.to_be_bytes().to_vec())));
        }
        attributes
    }

    fn emit_original(&self) -> Vec<TupleAttribute> {
        let tuple = &self.original;
        let mut proto = vec![ProtoTuple::Protocol(Protocol::from(self.protocol))];
        if let Some((kind, code)) = self.icmp {
            let (id_attribute, kind_attribute, code_attribute) = if self.protocol == protocol::ICMP {
                (CTA_PROTO_ICMP_ID, CTA_PROTO_ICMP_TYPE, CTA_PROTO_ICMP_CODE)
            } else {
                (CTA_PROTO_ICMPV6_ID, CTA_PROTO_ICMPV6_TYPE, CTA_PROTO_ICMPV6_CODE)
            };
            proto.push(ProtoTuple::Other(DefaultNla::new(
                id_attribute,
                tuple.source_port.to_be_bytes().to_vec(),
            )));
            proto.push(ProtoTuple::Other(DefaultNla::new(kind_attribute, vec![kind])));
            proto.push(ProtoTuple::Other(DefaultNla::new(code_attribute, vec![code])));
        } else {
            proto.push(ProtoTuple::SourcePort(tuple.source_port));
            proto.push(ProtoTuple::DestinationPort(tuple.destination_port));
        }
        vec![
            TupleAttribute::Ip(vec![
                IPTuple::SourceAddress(tuple.source),
                IPTuple::DestinationAddress(tuple.destination),
            ]),
            TupleAttribute::Proto(proto),
        ]
    }

    fn request(&self, inner: ConntrackMessage, flags: u16) -> NetlinkMessage<NetfilterMessage> {
        let family = if self.original.source.is_ipv4() {
            NetfilterProtoFamily::IPv4
        } else {
            NetfilterProtoFamily::IPv6
        };
        message(family, inner, flags)
    }
}

fn message(
    family: NetfilterProtoFamily,
    inner: ConntrackMessage,
    flags: u16,
) -> NetlinkMessage<NetfilterMessage> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let body = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), inner);
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(body));
    message.finalize();
    message
}

#[derive(Default)]
struct EntryParts {
    kernel_id: Option<u32>,
    status: Option<Status>,
    tcp_state: Option<TcpState>,
    mark: u32,
    zone: u16,
    timeout: Option<u32>,
    helper: bool,
    packets: Option<u64>,
}

impl EntryParts {
    fn take(&mut self, attribute: &ConntrackAttribute) {
        match attribute {
            ConntrackAttribute::CtaStatus(status) => self.status = Some(*status),
            ConntrackAttribute::CtaTimeout(seconds) => self.timeout = Some(*seconds),
            ConntrackAttribute::CtaMark(mark) => self.mark = *mark,
            ConntrackAttribute::CtaProtoInfo(infos) => {
                for info in infos {
                    let ProtoInfo::TCP(parts) = info else { continue };
                    for part in parts {
                        if let ProtoInfoTCP::State(state) = part {
                            self.tcp_state = Some(TcpState::from_kernel(*state));
                        }
                    }
                }
            }
            ConntrackAttribute::Other(nla) => self.take_plain(nla),
            _ => {}
        }
    }

    fn take_plain(&mut self, nla: &DefaultNla) {
        match nla.kind() {
            CTA_ID => self.kernel_id = read_be(nla).map(|value| value as u32),
            CTA_ZONE => self.zone = read_be(nla).unwrap_or(0) as u16,
            CTA_HELP => self.helper = true,
            CTA_COUNTERS_ORIG | CTA_COUNTERS_REPLY => {
                if let Some(packets) = read_packets(nla) {
                    self.packets = Some(self.packets.unwrap_or(0).saturating_add(packets));
                }
            }
            _ => {}
        }
    }
}

struct ParsedTuple {
    tuple: Tuple,
    protocol: u8,
    icmp: Option<(u8, u8)>,
    foreign: bool,
}

fn parse_tuple(attributes: &[TupleAttribute]) -> Option<ParsedTuple> {
    let (mut source, mut destination, mut protocol) = (None, None, None);
    let (mut source_port, mut destination_port, mut foreign) = (0, 0, false);
    let (mut icmp_type, mut icmp_code) = (None, None);
    for attribute in attributes {
        match attribute {
            TupleAttribute::Ip(parts) => {
                for part in parts {
                    match part {
                        IPTuple::SourceAddress(address) => source = Some(*address),
                        IPTuple::DestinationAddress(address) => destination = Some(*address),
                        _ => foreign = true,
                    }
                }
            }
            TupleAttribute::Proto(parts) => {
                for part in parts {
                    match part {
                        ProtoTuple::Protocol(number) => protocol = Some(u8::from(*number)),
                        ProtoTuple::SourcePort(port) => source_port = *port,
                        ProtoTuple::DestinationPort(port) => destination_port = *port,
                        ProtoTuple::Other(nla) => match nla.kind() {
                            CTA_PROTO_ICMP_ID | CTA_PROTO_ICMPV6_ID => source_port = read_be(nla)? as u16,
                            CTA_PROTO_ICMP_TYPE | CTA_PROTO_ICMPV6_TYPE => {
                                icmp_type = Some(read_be(nla)? as u8)
                            }
                            CTA_PROTO_ICMP_CODE | CTA_PROTO_ICMPV6_CODE => {
                                icmp_code = Some(read_be(nla)? as u8)
                            }
                            _ => foreign = true,
                        },
                        _ => foreign = true,
                    }
                }
            }
            _ => foreign = true,
        }
    }
    let tuple = Tuple { source: source?, destination: destination?, source_port, destination_port };
    Some(ParsedTuple { tuple, protocol: protocol?, icmp: icmp_type.zip(icmp_code), foreign })
}

fn value(nla: &DefaultNla) -> Vec<u8> {
    let mut bytes = vec![0; nla.value_len()];
    nla.emit_value(&mut bytes);
    bytes
}

fn read_be(nla: &DefaultNla) -> Option<u64> {
    be(&value(nla))
}

fn be(bytes: &[u8]) -> Option<u64> {
    (bytes.len() <= 8).then(|| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

fn read_packets(nla: &DefaultNla) -> Option<u64> {
    let bytes = value(nla);
    NlasIterator::new(bytes.as_slice())
        .flatten()
        .find(|nested: &NlaBuffer<&[u8]>| nested.kind() == CTA_COUNTERS_PACKETS)
        .and_then(|nested| be(nested.value()))
}
