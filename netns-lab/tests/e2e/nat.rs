//! Real traffic through nftables' NAT and through the hot path.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use netns_lab::config::{AgentConfig, GatewayConfig};
use netns_lab::plan::{A, B, BLUE, BLUE1, C, GREEN1, Host, RED, RED1, RED2, VIOLET1};
use netns_lab::traffic::{self, DNS_ADDRESS, Iperf, ping};

use crate::bench::{Bench, LIMIT, wait};
use crate::udp;

#[test]
fn ping_crosses_vlan_and_vxlan_in_both_families() {
    let bench = Bench::with_agents(&[A, B, C]);
    for (from, to) in [(RED1, BLUE1), (VIOLET1, GREEN1), (RED2, VIOLET1), (GREEN1, RED1)] {
        for address in [IpAddr::from(to.ipv4()), to.ipv6().into()] {
            assert_eq!(ping(&bench.lab, &from, address, 3).unwrap(), 3, "{} pings {address}", from.name);
        }
    }
    // The largest packets there are, which nothing on the way may fragment.
    let argv = ["ping", "-n", "-c", "1", "-W", "5", "-M", "do", "-s", "1472", "198.51.100.10"];
    bench.ns(&RED1).run(&argv, LIMIT).unwrap();
}

/// iperf3 from `from` to `to`; most packets must go through the hot path.
fn bulk(bench: &Bench, from: &Host, to: IpAddr, server: &Host, reverse: bool) {
    let _server = traffic::iperf_server(&bench.lab, server, 5201).unwrap();
    let trapped_before =
        bench.stat("/traps/new") + bench.stat("/traps/tcp_control") + bench.stat("/traps/exception");
    let known: Vec<u64> = bench.sessions(|_| true).iter().map(|s| s.id).collect();
    let result = Iperf { reverse, ..Iperf::tcp(to, 5201, 3) }.run(&bench.lab, from).unwrap();
    let trapped =
        bench.stat("/traps/new") + bench.stat("/traps/tcp_control") + bench.stat("/traps/exception")
            - trapped_before;
    let own = bench.sessions(|s| !known.contains(&s.id) && s.destination == SocketAddr::new(to, 5201));
    let hot: u64 = own.iter().map(|s| s.packets()).sum();
    println!(
        "{} to {to}: {:.0} Mbit/s, {hot} hot, {trapped} trapped",
        from.name,
        result.bits_per_second / 1e6
    );
    assert!(hot > 1000 && hot > 9 * trapped, "{hot} packets in the hot path, {trapped} trapped: {own:?}");
    // The data is what iperf3 received; acknowledgements go the other way.
    let bytes: u64 = own.iter().map(|s| if reverse { s.out_bytes } else { s.in_bytes }).sum();
    assert!(bytes > result.bytes / 2, "{bytes} of {} bytes in the hot path", result.bytes);
}

#[test]
fn tcp_bulk_from_vlan_to_vxlan_is_offloaded() {
    let bench = Bench::with_agents(&[A]);
    bulk(&bench, &RED1, BLUE1.ipv4().into(), &BLUE1, false);
    bulk(&bench, &RED1, BLUE1.ipv4().into(), &BLUE1, true);
    bulk(&bench, &RED1, BLUE1.ipv6().into(), &BLUE1, false);
}

#[test]
fn tcp_bulk_from_vxlan_to_vlan_and_routed_is_offloaded() {
    let bench = Bench::with_agents(&[B, C]);
    bulk(&bench, &VIOLET1, GREEN1.ipv4().into(), &GREEN1, false);
    bulk(&bench, &RED2, VIOLET1.ipv4().into(), &VIOLET1, false);
}

/// The directions of a session arrive at different workers: both find it in the one table.
#[test]
fn two_workers_forward_the_same_sessions() {
    let mut bench = Bench::new(GatewayConfig::two_workers());
    bench.start_agents(&[A, B, C], &AgentConfig::default());
    for (from, to) in [(RED1, BLUE1), (VIOLET1, GREEN1)] {
        assert_eq!(ping(&bench.lab, &from, to.ipv4().into(), 3).unwrap(), 3);
    }
    for turn in 0..3 {
        bulk(&bench, &RED1, BLUE1.ipv4().into(), &BLUE1, turn % 2 == 1);
    }
    assert!(bench.gateway().log().contains("workers=2"), "{}", bench.gateway().log());
}

#[test]
fn dns_over_udp_is_answered_and_offloaded() {
    let bench = Bench::with_agents(&[A]);
    let _server = traffic::dns_server(&bench.lab, &BLUE1).unwrap();
    let server: IpAddr = BLUE1.ipv4().into();
    // Many clients: one connection each.
    for _ in 0..5 {
        assert_eq!(traffic::dns_query(&bench.lab, &RED1, server, 53, 0).unwrap(), DNS_ADDRESS);
    }
    // One that goes on asking.
    let source = SocketAddr::new(RED1.ipv4().into(), 5300);
    wait("the queries are offloaded", || {
        assert_eq!(traffic::dns_query(&bench.lab, &RED1, server, 53, 5300).unwrap(), DNS_ADDRESS);
        !bench.sessions(|s| s.source == source && s.in_packets > 1 && s.out_packets > 1).is_empty()
    });
}

#[test]
fn a_udp_flows_source_is_the_vnfs_before_and_after_offload() {
    let bench = Bench::with_agents(&[A]);
    for (own, server, seen) in [
        (IpAddr::from(RED1.ipv4()), IpAddr::from(BLUE1.ipv4()), IpAddr::from(BLUE.ipv4(A.number))),
        (RED1.ipv6().into(), BLUE1.ipv6().into(), BLUE.ipv6(A.number).into()),
    ] {
        let echo = udp::Echo::start(bench.ns(&BLUE1), SocketAddr::new(server, 7000));
        let client = udp::connect(bench.ns(&RED1), own, SocketAddr::new(server, 7000));
        let session = udp::offload(&bench, &client);
        assert_eq!((session.in_lif, session.out_lif), (u32::from(RED.id), u32::from(BLUE.id)));
        // One mapping, whichever way the packets went.
        let peers = echo.peers();
        assert_eq!(peers.len(), 1, "{peers:?}");
        assert_eq!(peers[0].ip(), seen);
        assert!(udp::comes_back(&client, 1), "a short datagram");
        assert!(udp::comes_back(&client, 1400), "a long datagram");
    }
}

/// Every byte arrives as it was sent, both ways, on a connection forwarded from outside.
#[test]
fn a_forwarded_port_reaches_the_tenant() {
    let bench = Bench::with_agents(&[A]);
    for (bind, to) in [
        (IpAddr::from(RED1.ipv4()), IpAddr::from(BLUE.ipv4(A.number))),
        (RED1.ipv6().into(), BLUE.ipv6(A.number).into()),
    ] {
        let listener = bench.ns(&RED1).enter(|| TcpListener::bind((bind, 80))).unwrap().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, peer) = listener.accept().unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            let mut buffer = vec![0; 64 << 10];
            loop {
                match stream.read(&mut buffer).unwrap() {
                    0 => return peer,
                    length => stream.write_all(&buffer[..length]).unwrap(),
                }
            }
        });
        let to = SocketAddr::new(to, 8080);
        let connect = || TcpStream::connect_timeout(&to, LIMIT);
        let mut stream = bench.ns(&BLUE1).enter(connect).unwrap().unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let own = stream.local_addr().unwrap();
        let mut round = 0_u32;
        let mut offloaded = false;
        wait("the forwarded connection is offloaded", || {
            let sent: Vec<u8> =
                (0..50_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 ^ round as u8).collect();
            stream.write_all(&sent).unwrap();
            let mut received = vec![0; sent.len()];
            stream.read_exact(&mut received).unwrap();
            assert!(received == sent, "round {round}: bytes changed on the way");
            round += 1;
            let own =
                bench.sessions(|s| s.source == own && s.destination == to && s.in_lif == u32::from(BLUE.id));
            // Some rounds more, through the hot path.
            let before = offloaded;
            offloaded = own
                .iter()
                .any(|s| s.out_lif == u32::from(RED.id) && s.in_packets > 100 && s.out_packets > 100);
            before && offloaded
        });
        drop(stream);
        assert_eq!(server.join().unwrap(), own, "a forwarded port keeps the client's address");
    }
}
