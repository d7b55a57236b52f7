//! Reading ctnetlink messages, straight from their bytes: there are several for each connection.

use super::{Count, Entry, TcpState, Traffic, Tuple, cta};
use netlink_packet_core::{NlaBuffer, NlasIterator};
use netlink_packet_netfilter::conntrack::Status;
use std::net::IpAddr;

/// struct nfgenmsg before the attributes.
const GENERIC_HEADER: usize = 4;

impl Entry {
    /// Reads a message of ctnetlink from behind its netlink header; `None` where it does not describe a connection.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let (mut original, mut reply, mut kernel_id) = (None, None, None);
        let (mut status, mut tcp_state, mut timeout) = (Status::empty(), None, None);
        let (mut mark, mut zone, mut helper) = (0, 0, false);
        let mut traffic = None;
        for attribute in attributes(message.get(GENERIC_HEADER..)?) {
            let value = attribute.value();
            match attribute.kind() {
                cta::TUPLE_ORIG => original = parse_tuple(value),
                cta::TUPLE_REPLY => reply = parse_tuple(value),
                cta::STATUS => status = Status::from_bits_retain(be(value)? as u32),
                cta::PROTOINFO => tcp_state = parse_tcp_state(value),
                cta::HELP => helper = true,
                cta::TIMEOUT => timeout = Some(be(value)? as u32),
                cta::MARK => mark = be(value)? as u32,
                cta::COUNTERS_ORIG => {
                    traffic.get_or_insert_with(Traffic::default).original = parse_count(value)
                }
                cta::COUNTERS_REPLY => {
                    traffic.get_or_insert_with(Traffic::default).reply = parse_count(value)
                }
                cta::ID => kernel_id = be(value).map(|id| id as u32),
                cta::ZONE => zone = be(value)? as u16,
                _ => {}
            }
        }
        let (original, reply) = (original?, reply?);
        Some(Self {
            kernel_id: kernel_id?,
            protocol: original.protocol,
            original: original.tuple,
            reply: reply.tuple,
            status,
            tcp_state,
            mark,
            zone,
            foreign: original.foreign || reply.foreign,
            timeout,
            helper,
            traffic,
            icmp: original.icmp,
        })
    }
}

struct ParsedTuple {
    tuple: Tuple,
    protocol: u8,
    icmp: Option<(u8, u8)>,
    foreign: bool,
}

fn parse_tuple(bytes: &[u8]) -> Option<ParsedTuple> {
    let (mut source, mut destination, mut protocol) = (None, None, None);
    let (mut source_port, mut destination_port, mut foreign) = (0, 0, false);
    let (mut icmp_type, mut icmp_code) = (None, None);
    for part in attributes(bytes) {
        match part.kind() {
            cta::tuple::IP => {
                for address in attributes(part.value()) {
                    match address.kind() {
                        cta::ip::V4_SRC | cta::ip::V6_SRC => source = parse_address(address.value()),
                        cta::ip::V4_DST | cta::ip::V6_DST => destination = parse_address(address.value()),
                        _ => foreign = true,
                    }
                }
            }
            cta::tuple::PROTO => {
                for field in attributes(part.value()) {
                    let number = be(field.value());
                    match field.kind() {
                        cta::proto::NUM => protocol = number.map(|number| number as u8),
                        cta::proto::SRC_PORT | cta::proto::ICMP_ID | cta::proto::ICMPV6_ID => {
                            source_port = number? as u16
                        }
                        cta::proto::DST_PORT => destination_port = number? as u16,
                        cta::proto::ICMP_TYPE | cta::proto::ICMPV6_TYPE => icmp_type = Some(number? as u8),
                        cta::proto::ICMP_CODE | cta::proto::ICMPV6_CODE => icmp_code = Some(number? as u8),
                        _ => foreign = true,
                    }
                }
            }
            // A zone of this direction only, or something newer.
            _ => foreign = true,
        }
    }
    let tuple = Tuple { source: source?, destination: destination?, source_port, destination_port };
    Some(ParsedTuple { tuple, protocol: protocol?, icmp: icmp_type.zip(icmp_code), foreign })
}

fn parse_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn parse_tcp_state(bytes: &[u8]) -> Option<TcpState> {
    let tcp = attributes(bytes).find(|info| info.kind() == cta::protoinfo::TCP)?;
    let state = attributes(tcp.value()).find(|field| field.kind() == cta::protoinfo::TCP_STATE)?;
    be(state.value()).map(|state| TcpState::from_kernel(state as u8))
}

fn parse_count(bytes: &[u8]) -> Count {
    let mut count = Count::default();
    for field in attributes(bytes) {
        match field.kind() {
            cta::counters::PACKETS => count.packets = be(field.value()).unwrap_or(0),
            cta::counters::BYTES => count.bytes = be(field.value()).unwrap_or(0),
            _ => {}
        }
    }
    count
}

fn attributes(bytes: &[u8]) -> impl Iterator<Item = NlaBuffer<&[u8]>> {
    NlasIterator::new(bytes).map_while(Result::ok)
}

fn be(bytes: &[u8]) -> Option<u64> {
    (bytes.len() <= 8).then(|| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}
