//! What the hot path leaves to the kernel, and what nobody should get.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};

use netns_lab::plan::{A, BLUE1, RED1, UNDERLAY_GATEWAY, UNDERLAY_VTEP};
use netns_lab::traffic::ping;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Ipv4RecvErr;

use crate::bench::{Bench, LIMIT, wait};
use crate::udp;

fn offloaded(bench: &Bench) -> (udp::Echo, UdpSocket) {
    let server = SocketAddr::new(BLUE1.ipv4().into(), 7000);
    let echo = udp::Echo::start(bench.ns(&BLUE1), server);
    let client = udp::connect(bench.ns(&RED1), RED1.ipv4().into(), server);
    udp::offload(bench, &client);
    (echo, client)
}

#[test]
fn fragments_of_an_offloaded_flow_arrive() {
    let bench = Bench::with_agents(&[A]);
    let (echo, client) = offloaded(&bench);
    let hot = udp::session(&bench, &client).unwrap().packets();
    // Three fragments, the last two without ports; the answer too.
    let sent: Vec<u8> = (0..4000_u32).map(|i| (i % 251) as u8).collect();
    let mut received = vec![0; 8000];
    wait("a datagram in fragments comes back", || {
        client.send(&sent).unwrap();
        client.recv(&mut received).is_ok_and(|length| received[..length] == sent)
    });
    assert_eq!(echo.peers().len(), 1, "one mapping for whole packets and fragments: {:?}", echo.peers());
    assert!(bench.stat("/traps/exception") > 0);
    assert!(udp::comes_back(&client, 100));
    assert!(udp::session(&bench, &client).is_none_or(|s| s.packets() > hot));

    let argv = ["ping", "-n", "-c", "2", "-W", "5", "-s", "6000", "198.51.100.10"];
    bench.ns(&RED1).run(&argv, LIMIT).unwrap();
}

#[test]
fn a_packet_whose_ttl_runs_out_is_answered_by_the_kernel() {
    let bench = Bench::with_agents(&[A]);
    let (_echo, client) = offloaded(&bench);
    client.set_ttl(1).unwrap();
    // Without it a UDP socket is told of unreachable ports only.
    setsockopt(&client, Ipv4RecvErr, &true).unwrap();
    let before = bench.stat("/traps/exception");
    wait("time exceeded", || {
        let mut buffer = [0; 16];
        let errors = [client.send(b"too short a life").err(), client.recv(&mut buffer).err()];
        errors.into_iter().flatten().any(|error| error.kind() == ErrorKind::HostUnreachable)
    });
    assert!(bench.stat("/traps/exception") > before);
    client.set_ttl(64).unwrap();
    wait("the flow goes on", || udp::exchange(&client, 100));
}

/// Nonsense from the underlay is counted, and hurts nobody.
#[test]
fn malformed_and_unknown_frames_are_dropped_and_counted() {
    let bench = Bench::with_agents(&[A]);
    let (_echo, client) = offloaded(&bench);
    let vtep = bench.lab.ns("vtep").unwrap();
    // The kernel's own VTEP has the port 4789; a sender needs none of its own.
    let socket = udp::bind(vtep, SocketAddr::new(UNDERLAY_VTEP.into(), 0));
    socket.connect(SocketAddr::new(UNDERLAY_GATEWAY.into(), 4789)).unwrap();
    let frame = [[0xff; 6].as_slice(), &[2, 0, 0, 9, 9, 9], &[0x08, 0x00], &[0; 46]].concat();
    let vxlan = |flags: u8, vni: u32, inner: &[u8]| {
        let mut packet = vec![flags, 0, 0, 0];
        packet.extend((vni << 8).to_be_bytes());
        packet.extend(inner);
        packet
    };
    // No I flag; a VNI of nobody; no inner frame; half a VXLAN header; an inner IPv4 packet that is none.
    let nonsense = [
        vxlan(0, 2000, &frame),
        vxlan(8, 2001, &frame),
        vxlan(8, 2000, &[]),
        vxlan(8, 2000, &frame[..13]),
        vec![8, 0, 0],
        vec![],
        vxlan(8, 2000, &frame),
    ];
    let drops =
        || ["unknown_lif", "malformed", "bad_checksum"].map(|reason| bench.stat(&format!("/drops/{reason}")));
    let before = drops();
    for _ in 0..10 {
        for packet in &nonsense {
            socket.send(packet).unwrap();
        }
    }
    let expected = 10 * nonsense.len() as u64;
    let dropped = || drops().iter().sum::<u64>() - before.iter().sum::<u64>();
    wait("all of it is dropped", || dropped() >= expected);
    assert!(drops()[0] >= before[0] + 10, "the unknown VNI is an unknown LIF");
    assert!(udp::comes_back(&client, 100));
    assert_eq!(ping(&bench.lab, &RED1, BLUE1.ipv4().into(), 3).unwrap(), 3);
}
