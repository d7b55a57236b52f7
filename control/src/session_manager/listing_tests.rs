use super::*;
use crate::session_manager::gateway_v1::live;
use crate::session_manager::tests::{IPV4, context};
use conntrack::{Action, Counters, LifIndex, RateLimit, SessionId, SessionSpec, SessionState};
use prost::Message;
use proto::gateway::v1;
use std::net::{Ipv4Addr, Ipv6Addr};

const V4: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(10, 1, 0, 5)), IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10))];
const V6: [IpAddr; 2] =
    [IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 5)), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Every field has a value.
fn full([source, destination]: [IpAddr; 2], owner: u16) -> SessionInfo {
    let tuple = |source_port| Tuple { source, destination, source_port, destination_port: 443 };
    let macs = |last| MacPair { source: [2, 0, 0, 0, 0, last], destination: [2, 0, 0, 0, 1, last] };
    SessionInfo {
        spec: SessionSpec {
            id: SessionId(u64::MAX),
            in_lif: LifIndex(0),
            out_lif: LifIndex(1),
            protocol: 17,
            original: tuple(127),
            translated: tuple(128),
            l2: Some(L2 { forward: macs(1), reverse: macs(2) }),
            action: Action::Snoop(destination),
            idle_timeout: Some(1 << 21),
            hard_timeout: Some(600),
            limit: Some(RateLimit { packets: 100, bytes: u64::MAX, burst_ms: 50 }),
            owner,
        },
        counters: Counters { in_packets: 1, in_bytes: 300, out_packets: u64::MAX, out_bytes: 1 << 35 },
        state: SessionState::Closing2,
        start: Timestamp(1_234),
        last_seen: Timestamp(5_678),
    }
}

#[test]
fn a_page_is_what_prost_would_write() {
    let context = context(IPV4);
    let enroll = |name: String| context.owners().enroll(&name.into()).expect("room");
    let (short, long) = (enroll("short".to_owned()), enroll("n".repeat(100)));
    let mut sessions = Vec::new();
    for addresses in [V4, V6] {
        for owner in [0, short, long, short] {
            let full = full(addresses, owner);
            let untranslated = SessionSpec { translated: full.spec.original, ..full.spec };
            let plain = SessionSpec {
                l2: None,
                action: Action::Forward,
                idle_timeout: None,
                hard_timeout: None,
                limit: None,
                ..untranslated
            };
            let mirrored = SessionSpec { action: Action::Mirror(addresses[0]), ..untranslated };
            let quiet =
                SessionInfo { counters: Counters::default(), state: SessionState::Established, ..full };
            sessions.extend([
                full,
                SessionInfo { spec: untranslated, state: SessionState::Closing1, ..full },
                SessionInfo { spec: SessionSpec { action: Action::Drop, ..plain }, ..quiet },
                SessionInfo { spec: mirrored, start: Timestamp(0), ..full },
            ]);
        }
    }
    // Seen in the future: idle for zero milliseconds in both, whenever it is looked at.
    let clock = Clock::start();
    sessions.iter_mut().for_each(|info| info.last_seen = Timestamp(u64::MAX));
    for (info, wire) in sessions.iter().zip(page(&sessions, &context, &clock)) {
        let expected = live(info, &context, &clock);
        assert_eq!(v1::SessionInfo::decode(wire.clone()).as_ref(), Ok(&expected));
        assert_eq!(wire, expected.encode_to_vec(), "{info:?}");
    }
}

#[test]
fn idle_times_are_told() {
    let clock = Clock::start();
    std::thread::sleep(std::time::Duration::from_millis(2));
    let info = SessionInfo { last_seen: Timestamp(0), ..full(V4, 0) };
    let wires = page(&[info], &context(IPV4), &clock);
    let told = v1::SessionInfo::decode(wires[0].clone()).expect("a session").idle_ms;
    assert!((2..1000).contains(&told), "{told} ms");
}
