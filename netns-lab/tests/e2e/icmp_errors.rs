//! ICMP errors about offloaded flows reach the host that sent the packet in question, on both sides of the NAT.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use netns_lab::plan::{A, BLUE, BLUE1, RED1};
use netns_lab::traffic::{Iperf, iperf_server};

use crate::bench::{Bench, LIMIT, wait};
use crate::udp;

/// Sends until the socket is told that nobody listens.
fn refused(socket: &UdpSocket) {
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    wait("port unreachable", || {
        let mut buffer = [0; 16];
        let sent = socket.send(b"anybody?").err();
        let received = socket.recv(&mut buffer).err();
        [sent, received].into_iter().flatten().any(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
}

fn families() -> [(IpAddr, IpAddr); 2] {
    [(RED1.ipv4().into(), BLUE1.ipv4().into()), (RED1.ipv6().into(), BLUE1.ipv6().into())]
}

#[test]
fn port_unreachable_reaches_the_client_behind_the_nat() {
    let bench = Bench::with_agents(&[A]);
    for (client, server) in families() {
        let echo = udp::Echo::start(bench.ns(&BLUE1), SocketAddr::new(server, 7000));
        let socket = udp::connect(bench.ns(&RED1), client, SocketAddr::new(server, 7000));
        udp::offload(&bench, &socket);
        drop(echo);
        refused(&socket);
    }
}

#[test]
fn port_unreachable_reaches_the_server_outside() {
    let bench = Bench::with_agents(&[A]);
    for (client, server) in families() {
        let socket = udp::connect(bench.ns(&RED1), client, SocketAddr::new(server, 7001));
        let echo = udp::Echo::start(bench.ns(&BLUE1), SocketAddr::new(server, 7001));
        udp::offload(&bench, &socket);
        let mapped = echo.peers()[0];
        drop(echo);
        // The server again, as a socket that talks to the mapped address only; and the client goes.
        let outside = udp::bind(bench.ns(&BLUE1), SocketAddr::new(server, 7001));
        outside.connect(mapped).unwrap();
        drop(socket);
        refused(&outside);
    }
}

/// Behind the server's router is a link with a small MTU: the router's "fragmentation needed" must find its way to the
/// tenant, who then sends smaller packets.
#[test]
fn fragmentation_needed_reaches_the_tenant() {
    const FAR: &str = "198.18.0.2";
    let mut bench = Bench::with_agents(&[A]);
    let far = bench.lab.add_host("far").unwrap();
    let (far, name) = (far.role().to_owned(), far.name().to_owned());
    let router = bench.ns(&BLUE1);
    router.sysctl(&[("ipv4/ip_forward", "1")]).unwrap();
    router.ip(&format!("link add small mtu 1280 type veth peer name eth0 mtu 1280 netns {name}")).unwrap();
    router.ip("addr add 198.18.0.1/24 dev small").unwrap();
    router.ip("link set small up").unwrap();
    let far_ns = bench.lab.ns(&far).unwrap();
    far_ns.ip(&format!("addr add {FAR}/24 dev eth0")).unwrap();
    far_ns.ip("link set eth0 up").unwrap();
    far_ns.ip("route add default via 198.18.0.1").unwrap();
    // Segments as large as if the far link's MTU were unknown at its own end: so the router has to complain.
    far_ns.ip("route change 198.18.0.0/24 dev eth0 src 198.18.0.2 advmss 1460").unwrap();
    far_ns.ip("route change default via 198.18.0.1 advmss 1460").unwrap();
    let a = bench.lab.ns(A.name).unwrap();
    a.ip(&format!("route add 198.18.0.0/24 via {}", BLUE1.ipv4())).unwrap();

    let host = netns_lab::plan::Host { name: "far", lif: BLUE, number: 0 };
    let _server = iperf_server(&bench.lab, &host, 5201).unwrap();
    let result = Iperf::tcp(FAR.parse().unwrap(), 5201, 2).run(&bench.lab, &RED1).unwrap();
    assert!(result.bytes > 100_000, "{result:?}");
    let route = bench.ns(&RED1).ip(&format!("route get {FAR}")).unwrap();
    assert!(route.contains("mtu 1280"), "the tenant has not learnt the path's MTU: {route}");

    // The same for a flow that is in the hot path when the path turns out too narrow.
    bench.ns(&RED1).ip("route flush cache").unwrap();
    let echo = udp::Echo::start(bench.lab.ns(&far).unwrap(), SocketAddr::new(FAR.parse().unwrap(), 7000));
    let client =
        udp::connect(bench.ns(&RED1), RED1.ipv4().into(), SocketAddr::new(FAR.parse().unwrap(), 7000));
    udp::offload(&bench, &client);
    let argv = ["ip", "route", "get", FAR];
    assert!(!bench.ns(&RED1).run(&argv, LIMIT).unwrap().contains("mtu 1280"));
    wait("the tenant learns the path's MTU", || {
        // The first is too large, with DF set; what is sent once the error is there is fragmented by the sender.
        udp::exchange(&client, 1400);
        bench.ns(&RED1).run(&argv, LIMIT).unwrap().contains("mtu 1280")
    });
    drop(echo);
}
