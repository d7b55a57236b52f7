//! Ports on kernel interfaces: af_packet, af_xdp and tap on veths of the test's own network namespace. Needs root.

mod common;

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use arrayvec::ArrayVec;
use dpdk::{Eal, EalOptions, Mbuf, Mempool, PoolOptions, Port, PortOptions, RxQueue};

/// Runs the test again in a network namespace that ends with it.
#[test]
fn interfaces() {
    const INSIDE: &str = "DPDK_TEST_NAMESPACE";
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "interfaces", "--nocapture"]).env(INSIDE, "1");
    let probe = Command::new("unshare").args(["--net", "true"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: network namespaces need root");
        return;
    }
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let own = format!("dpdk-{}", child.id());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let left = std::fs::read_dir("/var/run/dpdk").into_iter().flatten().flatten();
    assert!(left.into_iter().all(|entry| entry.file_name() != own.as_str()), "{own} was left behind");
}

fn inside() {
    for pair in ["a", "x", "c", "m"] {
        let (near, far) = (format!("{pair}0"), format!("{pair}1"));
        ip(&["link", "add", &near, "mtu", "1500", "type", "veth", "peer", "name", &far]);
        for device in [&near, &far] {
            // No router solicitations among the test's frames.
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6"), "1").unwrap();
            ip(&["link", "set", device, "up"]);
        }
    }
    dpdk::set_log_sink(|_| {});
    let eal = Eal::init(&EalOptions { memory_mib: 192, ..common::options() }).unwrap();
    let pool = Mempool::new(&eal, &PoolOptions { name: "interfaces", ..PoolOptions::default() }).unwrap();
    there_and_back(&eal, &pool, "net_af_packet0,iface=a0", "net_af_packet1,iface=a1");
    assert_eq!(pool.in_use(), 0);
    // net_af_xdp does not give its fill ring's buffers back.
    let xdp =
        Mempool::new(&eal, &PoolOptions { name: "xdp", count: 4095, ..PoolOptions::default() }).unwrap();
    there_and_back(&eal, &xdp, "net_af_xdp0,iface=x0", "net_af_packet1,iface=x1");
    assert!((2048..2048 + 32).contains(&xdp.in_use()), "{}", xdp.in_use());
    chains_over_af_xdp(&eal, &pool);
    assert_eq!(pool.in_use(), 0);
    too_few_queues(&eal, &pool);
    assert_eq!(pool.in_use(), 0);
    too_few_buffers(&eal);
    mtu(&eal, &pool);
    assert_eq!(pool.in_use(), 0);
}

fn there_and_back(eal: &Eal, pool: &Mempool, one: &str, other: &str) {
    let mut one = Port::open(eal, one).unwrap();
    let mut other = Port::open(eal, other).unwrap();
    one.configure(&PortOptions::default(), pool).unwrap();
    other.configure(&PortOptions::default(), pool).unwrap();
    let (mut one_rx, mut one_tx) = one.start().unwrap();
    let (mut other_rx, mut other_tx) = other.start().unwrap();
    assert!(one.link().unwrap().up && one.capabilities().unwrap().if_index > 0);
    for len in [60, 1514] {
        for (tx, rx) in [(&mut one_tx[0], &mut other_rx[0]), (&mut other_tx[0], &mut one_rx[0])] {
            let mut frame = vec![0x5a_u8; len];
            frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5]);
            let mut burst = ArrayVec::<Mbuf, 32>::new();
            burst.push(Mbuf::from_slice(pool, &frame).unwrap());
            assert_eq!(tx.tx_burst(&mut burst), 1, "{}", one.device());
            let got =
                receive(rx).unwrap_or_else(|| panic!("{} {}: nothing came", one.device(), other.device()));
            assert_eq!(got.segments().flatten().copied().collect::<Vec<u8>>(), frame);
        }
    }
    assert_eq!(one.stats().unwrap().rx_packets, 2);
}

/// The driver would send the first buffer of a chain and what lies behind it, and a clone as something else.
fn chains_over_af_xdp(eal: &Eal, pool: &Mempool) {
    let umem =
        Mempool::new(eal, &PoolOptions { name: "umem", count: 4095, ..PoolOptions::default() }).unwrap();
    let mut xdp = Port::open(eal, "net_af_xdp0,iface=c0").unwrap();
    let mut peer = Port::open(eal, "net_af_packet1,iface=c1").unwrap();
    xdp.configure(&PortOptions::default(), &umem).unwrap();
    peer.configure(&PortOptions::default(), pool).unwrap();
    let (_rx, mut tx) = xdp.start().unwrap();
    let (mut rx, _tx) = peer.start().unwrap();
    let in_use = umem.in_use();
    let frame = |fill: u8| [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5][..], &[fill; 1000]].concat();
    for of in [pool, &umem] {
        let mut burst = ArrayVec::<Mbuf, 32>::new();
        let mut chain = Mbuf::from_slice(of, &frame(1)[..20]).unwrap();
        chain.chain(Mbuf::from_slice(of, &frame(1)[20..]).unwrap()).unwrap();
        let original = Mbuf::from_slice(of, &frame(2)).unwrap();
        let shared = Mbuf::share(of, &original, 64).unwrap();
        assert_eq!((original.refcnt(), shared.nb_segs()), (2, 2));
        let jumbo = Mbuf::from_slice(of, &[0x5a; 4000]).unwrap();
        burst.extend([jumbo, chain, shared, original]);
        assert_eq!(tx[0].tx_burst(&mut burst), 3);
        assert_eq!((burst.len(), burst[0].pkt_len()), (1, 4000), "what cannot be sent stays");
        for fill in [1, 2, 2] {
            let got = receive(&mut rx[0]).expect("it comes");
            assert_eq!(got.data(), frame(fill));
        }
    }
    drop((_rx, tx, xdp));
    assert!(umem.in_use() <= in_use + 32, "{} of {in_use} at first", umem.in_use());
}

fn receive(rx: &mut RxQueue) -> Option<Mbuf> {
    let mut burst = ArrayVec::<Mbuf, 1>::new();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(30) {
        if rx.rx_burst(&mut burst) > 0 {
            return burst.pop();
        }
        std::thread::yield_now();
    }
    None
}

/// Two workers, one queue.
fn too_few_queues(eal: &Eal, pool: &Mempool) {
    let two = PortOptions { rx_queues: 2, tx_queues: 2, ..PortOptions::default() };
    let mut packet = Port::open(eal, "net_af_packet0,iface=m0").unwrap();
    let error = packet.configure(&two, pool).unwrap_err().to_string();
    assert!(
        error.contains("net_af_packet0 (net_af_packet) has 1 rx queue(s), 2 are needed: add qpairs=N"),
        "{error}"
    );
    drop(packet);
    let mut packet = Port::open(eal, "net_af_packet0,iface=m0,qpairs=2").unwrap();
    packet.configure(&two, pool).unwrap();
    drop(packet);
    let mut xdp = Port::open(eal, "net_af_xdp0,iface=m0").unwrap();
    let error = xdp.configure(&two, pool).unwrap_err().to_string();
    assert!(
        error.contains("net_af_xdp0 (net_af_xdp) has 1 rx queue(s), 2 are needed: give the interface"),
        "{error}"
    );
    drop(xdp);
    let error = Port::open(eal, "net_af_xdp0,iface=m0,queue_count=2").unwrap_err().to_string();
    assert!(error.contains("device net_af_xdp0,iface=m0,queue_count=2: "), "{error}");
    assert!(error.contains("queue"), "{error}");
}

fn too_few_buffers(eal: &Eal) {
    let small = common::pool(eal, "small");
    let mut xdp = Port::open(eal, "net_af_xdp0,iface=m0").unwrap();
    let error = xdp.configure(&PortOptions::default(), &small).unwrap_err().to_string();
    assert!(error.contains("takes 2048 buffers to start with, mempool small has 1023 free"), "{error}");
}

fn mtu(eal: &Eal, pool: &Mempool) {
    let mut port = Port::open(eal, "net_af_packet0,iface=m0").unwrap();
    port.configure(&PortOptions { mtu: Some(1600), ..PortOptions::default() }, pool).unwrap();
    assert_eq!(port.mtu().unwrap(), 1600);
    assert!(ip(&["link", "show", "m0"]).contains(" mtu 1600 "));
    let error = port.configure(&PortOptions { mtu: Some(9000), ..PortOptions::default() }, pool).unwrap_err();
    assert!(
        error.to_string().contains("cannot chain buffers: MTU 9000 needs a data room of 9026 bytes"),
        "{error}"
    );
    let error = port.configure(&PortOptions { mtu: Some(10), ..PortOptions::default() }, pool).unwrap_err();
    assert!(error.to_string().contains("MTU 10 is outside 46 to"), "{error}");
    drop(port);
    let wide =
        Mempool::new(eal, &PoolOptions { name: "wide", data_room: 4096, ..PoolOptions::default() }).unwrap();
    let mut port = Port::open(eal, "net_af_packet0,iface=m0").unwrap();
    let jumbo = PortOptions { mtu: Some(2000), ..PortOptions::default() };
    let error = port.configure(&jumbo, &wide).unwrap_err().to_string();
    assert!(
        error.contains("MTU 2000 needs ring frames of 2098 bytes, they have 2048: add framesz=N"),
        "{error}"
    );
    drop(port);
    let mut port = Port::open(eal, "net_af_packet0,iface=m0,framesz=4096,blocksz=4096,framecnt=256").unwrap();
    port.configure(&jumbo, &wide).unwrap();
    drop(port);
    let xdp =
        Mempool::new(eal, &PoolOptions { name: "xdp-mtu", count: 4095, ..PoolOptions::default() }).unwrap();
    let mut port = Port::open(eal, "net_af_xdp0,iface=m0").unwrap();
    port.configure(&PortOptions { mtu: Some(1600), ..PortOptions::default() }, &xdp).unwrap();
    assert!(ip(&["link", "show", "m0"]).contains(" mtu 1600 "));
}

fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
