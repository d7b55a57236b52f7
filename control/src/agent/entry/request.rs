//! Requests that ask for an entry, or change it.

use super::{Entry, TcpState, cta, protocol};
use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple, Protocol, Status,
    TCPFlags, Tuple as TupleAttribute,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};

/// linux/netfilter/nf_conntrack_tcp.h
const IP_CT_TCP_FLAG_BE_LIBERAL: u8 = 0x08;

impl Entry {
    /// Makes the kernel accept any sequence number both ways, and gives the entry `timeout` seconds: it will miss most of
    /// the connection's packets, and must not take the FIN at its end for an invalid one.
    pub(in super::super) fn make_liberal(&self, timeout: u32) -> NetlinkMessage<NetfilterMessage> {
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
    pub(in super::super) fn set_timeout(&self, timeout: u32) -> NetlinkMessage<NetfilterMessage> {
        let mut attributes = self.identity();
        attributes.push(ConntrackAttribute::CtaTimeout(timeout));
        self.request(ConntrackMessage::New(attributes), NLM_F_ACK)
    }

    /// As [`Self::set_timeout`], and marks the entry as one that must not be dropped early.
    pub(in super::super) fn set_assured(&self, timeout: u32) -> NetlinkMessage<NetfilterMessage> {
        let mut attributes = self.identity();
        attributes.push(ConntrackAttribute::CtaTimeout(timeout));
        // The kernel refuses to take bits away.
        attributes.push(ConntrackAttribute::CtaStatus(self.status | Status::Assured));
        self.request(ConntrackMessage::New(attributes), NLM_F_ACK)
    }

    /// Makes `state` the connection's TCP state, for `timeout` seconds.
    pub(in super::super) fn set_tcp_state(
        &self,
        state: TcpState,
        timeout: u32,
    ) -> NetlinkMessage<NetfilterMessage> {
        let mut attributes = self.identity();
        let info = ProtoInfo::TCP(vec![ProtoInfoTCP::State(state.to_kernel())]);
        attributes.push(ConntrackAttribute::CtaProtoInfo(vec![info]));
        attributes.push(ConntrackAttribute::CtaTimeout(timeout));
        self.request(ConntrackMessage::New(attributes), NLM_F_ACK)
    }

    /// Asks for the entry as it is now.
    pub(in super::super) fn get(&self) -> NetlinkMessage<NetfilterMessage> {
        self.request(ConntrackMessage::Get(self.identity()), NLM_F_ACK)
    }

    /// Asks for the whole table.
    pub(in super::super) fn dump() -> NetlinkMessage<NetfilterMessage> {
        message(NetfilterProtoFamily::Unspec, ConntrackMessage::Get(Vec::new()), NLM_F_DUMP)
    }

    fn identity(&self) -> Vec<ConntrackAttribute> {
        let mut attributes = vec![ConntrackAttribute::CtaTupleOrig(self.emit_original())];
        if self.zone != 0 {
            attributes.push(ConntrackAttribute::Other(DefaultNla::new(
                cta::ZONE,
                self.zone.to_be_bytes().to_vec(),
            )));
        }
        attributes
    }

    fn emit_original(&self) -> Vec<TupleAttribute> {
        let tuple = &self.original;
        let mut proto = vec![ProtoTuple::Protocol(Protocol::from(self.protocol))];
        if let Some((kind, code)) = self.icmp {
            let (id_attribute, kind_attribute, code_attribute) = if self.protocol == protocol::ICMP {
                (cta::proto::ICMP_ID, cta::proto::ICMP_TYPE, cta::proto::ICMP_CODE)
            } else {
                (cta::proto::ICMPV6_ID, cta::proto::ICMPV6_TYPE, cta::proto::ICMPV6_CODE)
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
