//! Each parser on arbitrary bytes: none panics, none claims more than there is. The same harness is property test and fuzz
//! target: `BOLERO_RANDOM_TEST_TIME_MS` says how long.

#![allow(clippy::unwrap_used, clippy::panic)]

use crate::PortIndex;
use crate::batch::{Kind, Meta, Next};
use crate::classify::{self, Keys};
use crate::extension::{self, Walk};
use crate::nat;
use crate::neighbors::{Address, Link};
use crate::packet::{BURST, Packet};
use crate::related;
use crate::testing::Pool;
use crate::tunnel::{Arrival, Inner, Received, Remote, Source, Tunnel, inner_tos, outer_port};
use crate::wire::ethernet;
use bolero::check;
use conntrack::table::Timeouts;
use conntrack::{RewriteFlags, RewriteV4, RewriteV6, SessionTable, TableConfig};
use std::net::IpAddr;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn tunnel(local: IpAddr, vlan: u16) -> Tunnel {
    Tunnel::new(Link::Underlay, PortIndex(0), MAC, vlan, local, 4789)
}

/// A tunnel packet's headers with some bytes overwritten, then anything.
fn outer(ipv6: bool, changes: &[(u8, u8)], rest: &[u8]) -> (Tunnel, Vec<u8>) {
    let local: IpAddr = if ipv6 { "2001:db8::1".parse().unwrap() } else { [192, 0, 2, 1].into() };
    let tunnel = tunnel(local, 0);
    let pool = Pool::new(1);
    let mut packet = pool.packet(rest);
    let outer = tunnel.outer(&Remote { mac: MAC, address: Address::from(local) }, 77);
    assert!(outer.put(&mut packet, Inner { tos: 0, source_port: 50_000 }).is_some());
    let mut bytes = packet.bytes();
    for (at, value) in changes {
        if let Some(byte) = bytes.get_mut(usize::from(*at)) {
            *byte = *value;
        }
    }
    (tunnel, bytes)
}

#[test]
fn tunnel_receive() {
    type Input = (bool, Vec<(u8, u8)>, Vec<u8>, u8, u16);
    check!().with_type::<Input>().for_each(|(ipv6, changes, rest, cut, beyond)| {
        let (tunnel, bytes) = outer(*ipv6, changes, rest);
        let head = &bytes[..bytes.len() - usize::from(*cut).min(bytes.len())];
        let total = head.len() + usize::from(*beyond);
        let received = tunnel.receive(head, total, ethernet::LEN);
        if let Received::Frame { vni, headers, end, .. } = received {
            assert!(vni < 1 << 24 && headers + ethernet::LEN <= end && end <= total);
        }
        if let Some(arrival) = arrival(&tunnel, head, total) {
            assert_arrived(received, arrival);
        }
        let _ = tunnel.receive(rest, rest.len(), 18);
    });
}

fn arrival(tunnel: &Tunnel, head: &[u8], total: usize) -> Option<Arrival> {
    match tunnel.local_ip {
        IpAddr::V4(_) => tunnel.arrival_v4(head, total, ethernet::LEN),
        IpAddr::V6(_) => tunnel.arrival_v6(head, total, ethernet::LEN),
    }
}

/// What is read quickly is what is read carefully.
fn assert_arrived(received: Received, arrival: Arrival) {
    let Received::Frame { vni, source, ecn, headers, end, .. } = received else {
        panic!("{arrival:?} instead of {received:?}")
    };
    let ip = match arrival.source {
        Source::V4(word) => IpAddr::from(word.to_le_bytes()),
        Source::V6([first, second]) => {
            IpAddr::from((u128::from(second) << 64 | u128::from(first)).to_le_bytes())
        }
    };
    assert_eq!((vni, source, ecn), (arrival.vni, Address::from(ip), arrival.ecn));
    assert_eq!((headers, end), (arrival.headers, arrival.end));
}

#[test]
fn encapsulated_is_received() {
    check!().with_type::<(bool, Vec<u8>)>().for_each(|(ipv6, frame)| {
        let (tunnel, bytes) = outer(*ipv6, &[], frame);
        match tunnel.receive(&bytes, bytes.len(), ethernet::LEN) {
            received @ Received::Frame { vni: 77, headers, end, .. } => {
                assert_eq!(&bytes[headers..end], &frame[..]);
                assert_arrived(received, arrival(&tunnel, &bytes, bytes.len()).expect("as usual"));
            }
            other => assert!(frame.len() < ethernet::LEN, "{other:?}"),
        }
    });
}

#[test]
fn classify_and_rewrite() {
    type Input = (u8, Vec<u8>, u8, u16);
    let table = SessionTable::new(TableConfig {
        capacity: 1,
        timeouts: Timeouts { tcp: 1, udp: 1, icmp: 1, other: 1 },
        readers: 1,
        hugepages: false,
        hash_secret: [1, 2],
    })
    .unwrap();
    check!().with_type::<Input>().for_each(|(family, bytes, cut, beyond)| {
        let pool = Pool::new(1);
        let mut bytes = bytes.clone();
        match (family % 4, bytes.len() >= 34) {
            (0, true) => likely_v4(&mut bytes),
            (1, true) => likely_v6(&mut bytes),
            _ => {}
        }
        let cut = bytes.len().saturating_sub(usize::from(*cut) % 64);
        let packet = pool.segments(&[&bytes[..cut], &bytes[cut..]]);
        let mut metas = [Meta::default(); BURST];
        metas[0].next = Next::Classify;
        metas[0].frame_len = (packet.total_len() + usize::from(beyond % 2)) as u32;
        let mut keys = Keys::default();
        let mut reader = table.reader().unwrap();
        classify::run(&reader.enter(), std::slice::from_ref(&packet), &mut metas, &mut keys);
        let meta = metas[0];
        assert_eq!(keys.v4.len() + keys.v6.len(), usize::from(meta.next == Next::Lookup));
        if meta.next != Next::Lookup {
            return;
        }
        assert!(meta.ip_len as usize + ethernet::LEN <= meta.frame_len as usize);
        let _ = related::checksum_is_right(&packet, &meta, !keys.v6.is_empty());
        let flags = RewriteFlags(RewriteFlags::ROUTED | RewriteFlags::TRANSLATE);
        let (v4, v6) = (RewriteV4 { flags, ..Default::default() }, RewriteV6 { flags, ..Default::default() });
        let mut packet = packet;
        match (keys.v4.is_empty(), meta.kind == Kind::Error) {
            (false, false) => _ = nat::apply_v4(packet.head_mut(), &meta, flags, &v4),
            (false, true) => _ = related::apply_v4(packet.head_mut(), &meta, &v4),
            (true, false) => _ = nat::apply_v6(packet.head_mut(), &meta, flags, &v6),
            (true, true) => _ = related::apply_v6(packet.head_mut(), &meta, &v6),
        }
        let end = ethernet::LEN + meta.ip_len as usize;
        let after = packet.bytes();
        assert_eq!(after[end.min(after.len())..], bytes[end.min(bytes.len())..], "beyond the packet");
    });
}

/// Makes it likely that bytes pass as IPv4: what follows is then reached.
fn likely_v4(bytes: &mut [u8]) {
    let len = (bytes.len() - ethernet::LEN) as u16;
    bytes[12..14].copy_from_slice(&[8, 0]);
    bytes[14] = 0x45;
    bytes[16..18].copy_from_slice(&len.to_be_bytes());
    bytes[20] &= 0x40;
    bytes[21] = 0;
    bytes[23] = [1, 6, 17, 1][usize::from(bytes[23] % 4)];
    bytes[24..26].fill(0);
    if bytes[23] == 1 && bytes.len() > 50 {
        bytes[34] = [3, 11, 12, 8][usize::from(bytes[34] % 4)];
        bytes[42] = 0x45;
    }
    let sum = conntrack::checksum::checksum(&[&bytes[14..34]]);
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
}

fn likely_v6(bytes: &mut [u8]) {
    bytes[12..14].copy_from_slice(&[0x86, 0xdd]);
    bytes[14] = 0x60;
    let len = bytes.len().saturating_sub(54) as u16;
    bytes[18..20].copy_from_slice(&len.to_be_bytes());
    bytes[20] = [0, 6, 17, 58, 60, 43, 44, 58][usize::from(bytes[20] % 8)];
    if bytes[20] == 58 && bytes.len() > 62 {
        bytes[54] = [1, 2, 3, 4, 128, 135][usize::from(bytes[54] % 6)];
        bytes[62] = 0x60;
    }
}

#[test]
fn extension_headers() {
    check!().with_type::<(Vec<u8>, u8, u16)>().for_each(|(bytes, next, end)| {
        let end = usize::from(*end);
        if let Walk::Upper(_, offset) = extension::walk(bytes, *next, 0, end) {
            assert!(offset <= end);
        }
    });
}

#[test]
fn small_views() {
    check!().for_each(|bytes| {
        let _ = (inner_tos(bytes), outer_port(bytes));
        let mut copy = bytes.to_vec();
        if let Some((outer, frame)) = copy.split_first_mut() {
            let _ = crate::ecn::decapsulate(frame, *outer);
        }
    });
}
