//! Rewrites as the table hands them out, applied to packets: checksums against full recomputation, there and back again.
#![cfg(not(feature = "shuttle"))]

mod common;
use bolero::{TypeGenerator, check};
use common::*;
use conntrack::checksum::{TTL_STEP, checksum};
use conntrack::*;
use std::net::IpAddr;

#[derive(Debug, TypeGenerator)]
struct Case {
    protocol: u8,
    v6: bool,
    addresses: [u32; 4],
    ports: [u16; 4],
    /// Which parts are translated.
    translate: u8,
    payload: Vec<u8>,
    /// XORed into the transport checksum.
    error: u16,
}

/// A packet as far as translation sees it: what checksums cover.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Packet {
    source: Vec<u8>,
    destination: Vec<u8>,
    source_port: [u8; 2],
    destination_port: [u8; 2],
    rest: Vec<u8>,
    header_sum: u16,
    sum: u16,
}

impl Case {
    fn protocol(&self) -> u8 {
        match (self.protocol % 5, self.v6) {
            (0, _) => 6,
            (1, _) => 17,
            (2, false) => 1,
            (2, true) => 58,
            (3, _) => 132,
            _ => 47,
        }
    }

    fn has_ports(&self) -> bool {
        matches!(self.protocol(), 6 | 17)
    }

    fn address(&self, n: usize) -> IpAddr {
        let bits = self.addresses[n];
        if self.v6 {
            v6(0x2001_0db8_u128 << 96 | u128::from(bits) << 40 | 1)
        } else {
            // 1.0.0.0 to 127.255.255.255.
            v4((bits >> 1).max(1 << 24))
        }
    }

    fn spec(&self) -> SessionSpec {
        let port = |n: usize, used: bool| if used { self.ports[n].max(1) } else { 0 };
        let ports = self.has_ports();
        let query = matches!(self.protocol(), 1 | 58);
        let pick =
            |bit: u8, changed: usize, same: usize| if self.translate & bit != 0 { changed } else { same };
        let original = tuple(self.address(0), port(0, ports || query), self.address(1), port(1, ports));
        let translated = tuple(
            self.address(pick(1, 2, 0)),
            port(pick(2, 2, 0), ports || query),
            self.address(pick(4, 3, 1)),
            port(pick(8, 3, 1), ports),
        );
        let spec = session(0);
        SessionSpec { protocol: self.protocol(), original, translated, ..spec }
    }

    fn packet(&self, t: &Tuple) -> Packet {
        let mut packet = Packet {
            source: bytes(t.source),
            destination: bytes(t.destination),
            source_port: t.source_port.to_be_bytes(),
            destination_port: t.destination_port.to_be_bytes(),
            rest: self.payload.clone(),
            header_sum: 0,
            sum: 0,
        };
        packet.header_sum = packet.right_header_sum();
        packet.sum = packet.right_sum(self.protocol()) ^ self.error;
        packet
    }
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

impl Packet {
    fn right_header_sum(&self) -> u16 {
        checksum(&[&[0x45, 0, 0, 99, 64, self.rest.len() as u8], &self.source, &self.destination])
    }

    fn right_sum(&self, protocol: u8) -> u16 {
        let pseudo = [&self.source[..], &self.destination, &[0, protocol]].concat();
        let ports = [self.source_port, self.destination_port].concat();
        match protocol {
            6 | 17 | 58 => checksum(&[&pseudo, &ports, &self.rest]),
            1 => checksum(&[&[8, 0], &ports, &self.rest]),
            _ => 0x1234,
        }
    }

    fn write<A: Into<IpAddr> + Copy>(&self, rewrite: &Rewrite<A>, protocol: u8) -> Self {
        Self {
            source: bytes(rewrite.source.into()),
            destination: bytes(rewrite.destination.into()),
            source_port: rewrite.source_port,
            destination_port: rewrite.destination_port,
            rest: self.rest.clone(),
            header_sum: u16::from_be_bytes(addresses(rewrite).apply(self.header_sum.to_be_bytes())),
            sum: u16::from_be_bytes(match protocol {
                17 => rewrite.l4_delta.apply_udp(self.sum.to_be_bytes()),
                _ => rewrite.l4_delta.apply(self.sum.to_be_bytes()),
            }),
        }
    }

    /// The answer: the same packet the other way.
    fn answer(&self) -> Self {
        Self {
            source: self.destination.clone(),
            destination: self.source.clone(),
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..self.clone()
        }
    }
}

/// The difference to the header checksum without the TTL's, which is 99 here throughout.
fn addresses<A>(rewrite: &Rewrite<A>) -> ChecksumDelta {
    let routed = rewrite.flags.any(RewriteFlags::ROUTED);
    if routed { rewrite.l3_delta.and(TTL_STEP.inverse()) } else { rewrite.l3_delta }
}

/// How far a checksum is off, in one's complement.
fn off(packet: &Packet, protocol: u8) -> i32 {
    (i32::from(packet.sum) - i32::from(packet.right_sum(protocol))).rem_euclid(0xffff)
}

#[test]
fn packets_are_translated_there_and_back() {
    check!().with_type::<Case>().for_each(|case| {
        let spec = case.spec();
        let protocol = case.protocol();
        let table = table(1);
        if let Err(reason) = table.insert(&spec, Timestamp(0)) {
            let same = spec.in_lif == spec.out_lif && spec.original == swapped(&spec.translated);
            assert!(same, "{reason}: {spec:?}");
            return;
        }
        let info = table.get(spec.id).unwrap();
        assert_eq!(info.spec, spec);
        let mut reader = table.reader().unwrap();
        let burst = reader.enter();
        let packet = case.packet(&spec.original);
        macro_rules! through {
            ($lookup:ident, $keys:expr) => {{
                let mut flows = [None; 2];
                burst.$lookup(&$keys, Timestamp(0), &mut flows);
                let [forward, reverse] = flows.map(|flow| flow.unwrap().rewrite());
                assert_eq!(addresses(&forward).inverse(), addresses(&reverse));
                assert_eq!(forward.l4_delta.inverse(), reverse.l4_delta);
                let there = packet.write(&forward, protocol);
                (there.clone(), there.answer().write(&reverse, protocol))
            }};
        }
        let (there, back) =
            if case.v6 { through!(lookup_v6, keys_v6(&spec)) } else { through!(lookup_v4, keys(&spec)) };
        let expected = case.packet(&spec.translated);
        assert_eq!((&there.source, &there.destination), (&expected.source, &expected.destination));
        assert_eq!(
            (there.source_port, there.destination_port),
            (expected.source_port, expected.destination_port)
        );
        assert_eq!(there.header_sum, there.right_header_sum());
        let no_sum = protocol == 17 && packet.sum == 0;
        if no_sum {
            assert_eq!(there.sum, 0);
        } else {
            assert_eq!(off(&there, protocol), off(&packet, protocol), "as wrong as before, or as right");
        }
        if case.error == 0 && !no_sum && protocol != 17 {
            assert_eq!(there.sum, there.right_sum(protocol));
        }
        let mut back = back.answer();
        if packet.sum == 0xffff && back.sum == 0 {
            // The other zero: not what a sender writes but for UDP, and just as right.
            assert_ne!(protocol, 17);
            back.sum = 0xffff;
        }
        assert_eq!(back, packet);
    });
}
