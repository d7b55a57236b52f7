//! Two workers on one pipeline and one table, each with its own ports' queues.

mod common;
use common::*;
use pipeline::testing::{Buffer, Pool, Ports};
use pipeline::{Burst, PortIndex, Worker};

const BURSTS: u64 = 2_000;

/// Sends `frame` over and over; how many packets left on the uplink.
fn run(mut worker: Worker<Buffer>, frame: &[u8]) -> u64 {
    let pool = Pool::new(1000);
    let mut io = Ports::new(3, pool.clone());
    let mut sent = 0;
    for burst in 0..BURSTS {
        let now = burst * 1_000_000;
        let mut packets: Burst<Buffer> = (0..pipeline::BURST).map(|_| pool.packet(frame)).collect();
        worker.process(PortIndex(UPLINK), &mut packets, now, &mut io);
        worker.tick(now, &mut io);
        sent += io.take(UPLINK).len() as u64;
        io.take(KERNEL);
    }
    assert_eq!(pool.live(), 0);
    sent
}

#[test]
fn two_workers_share_sessions_and_neighbours() {
    let (original, translated) =
        (tuple("10.1.0.5:40000", "198.51.100.10:53"), tuple("203.0.113.1:61000", "198.51.100.10:53"));
    let gateway = Gateway::with_workers(config(), 2);
    gateway.install(&routed(7, 17, original, translated));
    let there = vlan(100, &frame((CLIENT_MAC, GATEWAY_RED), 17, &original, 64, b"there"));
    let back = frame((SERVER_MAC, GATEWAY_BLUE), 17, &swapped(&translated), 64, b"back");
    let back = vlan(2, &Outer::from_vtep().wrap(&back));
    let second = gateway.pipeline.worker(1).unwrap();
    assert!(gateway.pipeline.worker::<Buffer>(1).is_none(), "each index once");
    assert!(gateway.pipeline.worker::<Buffer>(2).is_none(), "no such index");
    let Gateway { worker: first, pipeline, sessions, .. } = gateway;
    let sent = std::thread::scope(|scope| {
        let first = scope.spawn(|| run(first, &there));
        let second = scope.spawn(|| run(second, &back));
        first.join().unwrap() + second.join().unwrap()
    });
    let each = BURSTS * pipeline::BURST as u64;
    assert_eq!(sent, 2 * each);
    let snapshot = pipeline.snapshot();
    assert_eq!(count(&snapshot.other, "established"), 2 * each);
    assert_eq!(snapshot.ports[0].rx_packets, 2 * each);
    assert_eq!(snapshot.ports[0].tx_packets, 2 * each);
    let counters = sessions.get(conntrack::SessionId(7)).unwrap().counters;
    assert_eq!((counters.in_packets, counters.out_packets), (each, each));
}
