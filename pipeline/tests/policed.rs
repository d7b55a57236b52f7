//! Sessions with a rate limit or a hard timeout.

mod common;
use common::*;
use conntrack::{Action, RateLimit, SessionSpec, Timestamp};
use pipeline::testing::{Buffer, Pool, Ports};
use pipeline::{Burst, PortIndex, Worker};

fn limited(protocol: u8, limit: RateLimit) -> SessionSpec {
    let (original, translated) =
        (tuple("10.1.0.5:40000", "198.51.100.10:443"), tuple("203.0.113.1:61000", "198.51.100.10:443"));
    SessionSpec { limit: Some(limit), ..routed(7, protocol, original, translated) }
}

fn forward(spec: &SessionSpec, body: &[u8]) -> Vec<u8> {
    vlan(100, &frame((CLIENT_MAC, GATEWAY_RED), spec.protocol, &spec.original, 64, body))
}

fn counted(gateway: &Gateway) -> u64 {
    let counters = gateway.sessions.get(conntrack::SessionId(7)).unwrap().counters;
    counters.in_packets + counters.out_packets
}

#[test]
fn packets_over_the_limit_are_dropped_and_counted() {
    let spec = limited(17, RateLimit { packets: 10, bytes: 0, burst_ms: 1000 });
    let mut gateway = Gateway::new();
    gateway.install(&spec);
    gateway.receive_all(UPLINK, &vec![forward(&spec, b"x"); 64]);
    assert_eq!((gateway.io.take(UPLINK).len(), gateway.drops("rate_limited")), (10, 54));
    assert_eq!(counted(&gateway), 10, "the session counts what it forwards");
    gateway.now += SECOND / 2;
    gateway.receive_all(UPLINK, &vec![forward(&spec, b"x"); 64]);
    assert_eq!((gateway.io.take(UPLINK).len(), gateway.drops("rate_limited")), (5, 54 + 59));
    assert_eq!(gateway.other("established"), 15);
}

#[test]
fn bytes_are_those_the_session_counts() {
    // 14 of Ethernet, 20 of IPv4, 8 of UDP.
    let spec = limited(17, RateLimit { packets: 0, bytes: 1042, burst_ms: 2000 });
    let mut gateway = Gateway::new();
    gateway.install(&spec);
    gateway.receive_all(UPLINK, &vec![forward(&spec, &[0; 1000]); 32]);
    assert_eq!((gateway.io.take(UPLINK).len(), gateway.drops("rate_limited")), (2, 30));
    for _ in 0..10 {
        gateway.now += SECOND;
        gateway.receive_all(UPLINK, &vec![forward(&spec, &[0; 1000]); 32]);
        assert_eq!(gateway.io.take(UPLINK).len(), 1);
    }
}

#[test]
fn a_mirror_gets_no_copy_of_what_is_over_the_limit() {
    let limit = RateLimit { packets: 3, bytes: 0, burst_ms: 1000 };
    let mut gateway = Gateway::new();
    let spec = SessionSpec { action: Action::Mirror(VTEP2.into()), ..limited(17, limit) };
    gateway.install(&spec);
    gateway.receive_all(UPLINK, &vec![forward(&spec, b"x"); 20]);
    assert_eq!((gateway.other("mirrored"), gateway.other("established")), (3, 3));
    assert_eq!(gateway.drops("rate_limited"), 17);
}

/// The end of a connection is for the kernel to see, however much the connection sent.
#[test]
fn tcp_control_is_not_limited() {
    let spec = limited(6, RateLimit { packets: 1, bytes: 0, burst_ms: 1 });
    let mut gateway = Gateway::new();
    gateway.install(&spec);
    gateway.receive_all(UPLINK, &vec![forward(&spec, b"x"); 5]);
    assert_eq!(gateway.drops("rate_limited"), 4);
    gateway.receive(UPLINK, &vlan(100, &with_flags(0x04, &spec.original)));
    assert_eq!((gateway.traps("tcp_control"), gateway.drops("rate_limited")), (1, 4));
}

#[test]
fn a_hard_timeout_ends_a_session_in_use() {
    let limit = RateLimit { packets: 1_000_000, bytes: 0, burst_ms: 1000 };
    let spec = SessionSpec { hard_timeout: Some(3), ..limited(17, limit) };
    let mut gateway = Gateway::new();
    gateway.install(&spec);
    let mut sent = 0;
    let begin = gateway.now;
    while gateway.now < begin + 3 * SECOND {
        gateway.receive(UPLINK, &forward(&spec, b"x"));
        sent += gateway.io.take(UPLINK).len() as u64;
        gateway.now += SECOND / 10;
    }
    assert_eq!(sent, 30);
    gateway.receive(UPLINK, &forward(&spec, b"x"));
    assert_eq!((gateway.io.take(UPLINK).len(), gateway.traps("new")), (0, 1));
    let mut closed = Vec::new();
    let now = Timestamp::from_nanos(gateway.now);
    gateway.sessions.maintain(now, 100, &mut |session| closed.push(*session));
    assert_eq!((closed.len(), closed[0].info.counters.in_packets), (1, 30));
    assert_eq!(closed[0].end, Timestamp::from_nanos(begin + 3 * SECOND));
}

/// Each worker has one direction; what both forward together is the limit, to the packet.
#[test]
fn two_workers_share_a_limit() {
    let spec = limited(17, RateLimit { packets: 500, bytes: 0, burst_ms: 1000 });
    let gateway = Gateway::with_workers(config(), 2);
    gateway.install(&spec);
    let there = forward(&spec, b"there");
    let back = frame((SERVER_MAC, GATEWAY_BLUE), 17, &swapped(&spec.translated), 64, b"back");
    let back = vlan(2, &Outer::from_vtep().wrap(&back));
    let second = gateway.pipeline.worker(1).unwrap();
    let Gateway { worker: first, pipeline, now, .. } = gateway;
    let run = |mut worker: Worker<Buffer>, frame: &[u8]| {
        let pool = Pool::new(1000);
        let mut io = Ports::new(3, pool.clone());
        for _ in 0..500 {
            let mut packets: Burst<Buffer> = (0..pipeline::BURST).map(|_| pool.packet(frame)).collect();
            worker.process(PortIndex(UPLINK), &mut packets, now, &mut io);
        }
        io.take(UPLINK).len()
    };
    let sent: usize = std::thread::scope(|scope| {
        let threads = [scope.spawn(|| run(first, &there)), scope.spawn(|| run(second, &back))];
        threads.map(|thread| thread.join().unwrap()).iter().sum()
    });
    assert_eq!(sent, 500);
    let limited = count(&pipeline.snapshot().drops, "rate_limited");
    assert_eq!(limited, 2 * 500 * pipeline::BURST as u64 - 500);
}
