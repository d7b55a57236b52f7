//! Pages of gateway.v1 `ListSessions`: written as bytes straight from what the table reports, as prost would write
//! [`live`](super::gateway_v1::live). A million sessions are listed without a message in memory for each.

use super::{Context, gateway_v1};
use crate::Clock;
use conntrack::{L2, MacPair, SessionInfo, Timestamp, Tuple};
use proto::Bytes;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of a session with IPv4 addresses; more are taken as needed.
const USUAL: usize = 160;

/// `sessions` as `gateway.v1.SessionInfo`s on the wire.
pub fn page(sessions: &[SessionInfo], context: &Context, clock: &Clock) -> Vec<Bytes> {
    let mut writer = Writer { wire: Vec::with_capacity(sessions.len() * USUAL) };
    let (mut owner, mut name): (u16, Arc<str>) = (0, context.owners().name(0));
    let now = clock.now();
    let mut range = |info: &SessionInfo| -> Range<usize> {
        if info.spec.owner != owner {
            (owner, name) = (info.spec.owner, context.owners().name(info.spec.owner));
        }
        let start = writer.wire.len();
        writer.info(info, context, &name, clock, now);
        start..writer.wire.len()
    };
    let ranges: Vec<_> = sessions.iter().map(&mut range).collect();
    let wire = Bytes::from(writer.wire);
    ranges.into_iter().map(|range| wire.slice(range)).collect()
}

/// Writes fields as proto3 has them: those with their default value are left out.
struct Writer {
    wire: Vec<u8>,
}

impl Writer {
    fn info(&mut self, info: &SessionInfo, context: &Context, owner: &str, clock: &Clock, now: Timestamp) {
        self.message(1, |session| session.session(info, context, owner));
        let counters = &info.counters;
        self.message(2, |writer| {
            writer.number(1, counters.in_packets);
            writer.number(2, counters.in_bytes);
            writer.number(3, counters.out_packets);
            writer.number(4, counters.out_bytes);
        });
        self.number(3, gateway_v1::state(info.state) as u64);
        let start = clock.proto(info.start);
        self.message(4, |writer| {
            writer.number(1, start.seconds.cast_unsigned());
            writer.number(2, i64::from(start.nanos).cast_unsigned());
        });
        self.number(5, now.since(info.last_seen));
    }

    fn session(&mut self, info: &SessionInfo, context: &Context, owner: &str) {
        let spec = &info.spec;
        self.number(1, spec.id.0);
        self.number(2, context.lif_id(spec.in_lif).into());
        self.number(3, context.lif_id(spec.out_lif).into());
        self.number(4, spec.protocol.into());
        self.message(5, |writer| writer.tuple(&spec.original));
        if spec.translated != spec.original {
            self.message(6, |writer| writer.tuple(&spec.translated));
        }
        if let Some(L2 { forward, reverse }) = &spec.l2 {
            self.message(7, |writer| {
                writer.message(1, |writer| writer.macs(forward));
                writer.message(2, |writer| writer.macs(reverse));
            });
        }
        let (action, collector) = gateway_v1::action_and_collector(spec.action);
        self.number(8, action as u64);
        if let Some(collector) = collector {
            self.address(9, collector);
        }
        self.number(10, spec.idle_timeout.unwrap_or_default().into());
        self.number(11, spec.hard_timeout.unwrap_or_default().into());
        if let Some(limit) = &spec.limit {
            self.message(12, |writer| {
                writer.number(1, limit.packets.into());
                writer.number(2, limit.bytes);
                writer.number(3, limit.burst_ms.into());
            });
        }
        self.bytes(13, owner.as_bytes());
    }

    fn tuple(&mut self, tuple: &Tuple) {
        self.address(1, tuple.source);
        self.address(2, tuple.destination);
        self.number(3, tuple.source_port.into());
        self.number(4, tuple.destination_port.into());
    }

    fn macs(&mut self, pair: &MacPair) {
        self.bytes(1, &pair.source);
        self.bytes(2, &pair.destination);
    }

    fn address(&mut self, field: u8, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.bytes(field, &v4.octets()),
            IpAddr::V6(v6) => self.bytes(field, &v6.octets()),
        }
    }

    fn number(&mut self, field: u8, value: u64) {
        if value != 0 {
            self.wire.push(field << 3);
            self.varint(value);
        }
    }

    fn bytes(&mut self, field: u8, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.wire.push(field << 3 | 2);
            self.varint(bytes.len() as u64);
            self.wire.extend_from_slice(bytes);
        }
    }

    /// A message in a field; its length is known when it is written.
    fn message(&mut self, field: u8, fill: impl FnOnce(&mut Self)) {
        self.wire.extend_from_slice(&[field << 3 | 2, 0]);
        let start = self.wire.len();
        fill(self);
        let length = self.wire.len() - start;
        if length < 0x80 {
            self.wire[start - 1] = length as u8;
        } else {
            // Rare: IPv6, or an owner with a long name. The length takes more bytes than were kept for it.
            let body = self.wire.split_off(start);
            self.wire.pop();
            self.varint(length as u64);
            self.wire.extend_from_slice(&body);
        }
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.wire.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.wire.push(value as u8);
    }
}

#[cfg(test)]
#[path = "listing_tests.rs"]
mod tests;
