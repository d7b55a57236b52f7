//! Ports of virtual devices that need no privileges: null, ring, pcap.

mod common;

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use arrayvec::ArrayVec;
use dpdk::{Eal, Error, Mbuf, Mempool, Port, PortOptions, RingMode, SocketId, free_burst, ring};

type Burst = ArrayVec<Mbuf, 32>;

struct Wrapped(Mbuf);

impl From<Mbuf> for Wrapped {
    fn from(mbuf: Mbuf) -> Self {
        Self(mbuf)
    }
}

impl From<Wrapped> for Mbuf {
    fn from(wrapped: Wrapped) -> Self {
        wrapped.0
    }
}

#[test]
fn ports() {
    let eal = common::eal();
    let pool = common::pool(&eal, "ports");
    null_port(&eal, &pool);
    assert_eq!(pool.in_use(), 0);
    ring_ports(&eal, &pool);
    assert_eq!(pool.in_use(), 0);
    pcap_port(&eal, &pool);
    assert_eq!(pool.in_use(), 0);
    memif_ports(&eal, &pool);
    assert_eq!(pool.in_use(), 0);
    bad_requests(&eal, &pool);
    assert_eq!(pool.in_use(), 0);
}

fn null_port(eal: &Eal, pool: &Mempool) {
    let mut port = Port::open(eal, "net_null0,size=80").unwrap();
    assert_eq!((port.device(), port.capabilities().unwrap().driver.as_str()), ("net_null0", "net_null"));
    assert!(matches!(Port::open(eal, "net_null0"), Err(Error::InUse { .. })));
    assert!(port.start().unwrap_err().to_string().contains("net_null0: is not configured"));
    port.configure(&PortOptions { rx_queues: 2, tx_queues: 2, ..PortOptions::default() }, pool).unwrap();
    let (mut rx, mut tx) = port.start().unwrap();
    assert_eq!((rx.len(), tx.len()), (2, 2));
    assert!(matches!(port.stop(), Err(Error::State { .. })), "the queues are still out");

    let mut burst = Burst::new();
    burst.push(Mbuf::from_slice(pool, b"kept").unwrap());
    assert_eq!(rx[1].rx_burst(&mut burst), 31);
    assert_eq!(rx[1].rx_burst(&mut burst), 0, "no room");
    assert_eq!((burst[0].data(), burst[31].pkt_len()), (b"kept".as_slice(), 80));
    assert_eq!(burst[1].port(), port.id());
    assert_eq!((tx[0].tx_burst(&mut burst), burst.len()), (32, 0));
    let stats = port.stats().unwrap();
    assert_eq!((stats.rx_packets, stats.tx_packets), (31, 32));
    assert!(port.xstats().unwrap().contains(&("tx_good_packets".into(), 32)));
    port.reset_stats().unwrap();
    assert_eq!(port.stats().unwrap().rx_packets, 0);
    assert!(port.link().unwrap().up);

    let mac = dpdk::MacAddr([2, 0, 0, 0, 0, 9]);
    port.set_mac(mac).unwrap();
    assert_eq!(port.mac().unwrap(), mac);
    drop((rx, tx));
    port.stop().unwrap();
    port.configure(&PortOptions { mtu: Some(1400), ..PortOptions::default() }, pool).unwrap();
    assert_eq!(port.mtu().unwrap(), 1400);
    let (rx, _) = port.start().unwrap();
    assert_eq!(rx.len(), 1);
    drop(port);
    drop(rx);
    Port::open(eal, "net_null0").expect("a closed device can be opened again");
}

/// A packet crosses two port pairs; a full ring leaves the rest with the sender.
fn ring_ports(eal: &Eal, pool: &Mempool) {
    let (to_b, from_a) = ring(eal, "a-b", 64, RingMode::Single, SocketId::ANY).unwrap();
    let (to_a, from_b) = ring(eal, "b-a", 64, RingMode::Multi, SocketId::ANY).unwrap();
    assert!(to_b.try_clone().is_none() && from_b.try_clone().is_some());
    let mut a = Port::from_rings(eal, "a", vec![from_b], vec![to_b]).unwrap();
    let mut b = Port::from_rings(eal, "b", vec![from_a], vec![to_a]).unwrap();
    a.configure(&PortOptions { mtu: Some(9000), ..PortOptions::default() }, pool).unwrap();
    b.configure(&PortOptions::default(), pool).unwrap();
    let (mut a_rx, mut a_tx) = a.start().unwrap();
    let (mut b_rx, mut b_tx) = b.start().unwrap();

    let jumbo: Vec<u8> = (0..9014).map(|n| n as u8).collect();
    let mut burst = Burst::new();
    burst.push(Mbuf::from_slice(pool, b"there").unwrap());
    burst.push(Mbuf::from_slice(pool, &jumbo).unwrap());
    assert_eq!(a_tx[0].tx_burst(&mut burst), 2);
    assert_eq!(b_rx[0].rx_burst(&mut burst), 2);
    assert_eq!(burst[0].data(), b"there");
    assert_eq!(b_tx[0].tx_burst(&mut burst), 2);
    assert_eq!(a_rx[0].rx_burst(&mut burst), 2);
    assert_eq!(burst[1].segments().flatten().copied().collect::<Vec<u8>>(), jumbo);
    free_burst(&mut burst);

    // What wraps an mbuf stays where it is, and what is not taken is whole.
    let mut wrapped: ArrayVec<Wrapped, 32> = ArrayVec::new();
    let frames = (0..3).map(|n| Wrapped(Mbuf::from_slice(pool, &[n]).unwrap()));
    wrapped.extend(frames);
    assert_eq!((a_tx[0].tx_burst(&mut wrapped), wrapped.len()), (3, 0));
    wrapped.push(Wrapped(Mbuf::from_slice(pool, b"mine").unwrap()));
    assert_eq!(b_rx[0].rx_burst(&mut wrapped), 3);
    let data: Vec<&[u8]> = wrapped.iter().map(|packet| packet.0.data()).collect();
    assert_eq!(data, [b"mine".as_slice(), &[0], &[1], &[2]]);
    drop(wrapped);

    for (round, taken) in [(0, 32), (32, 31), (63, 0)] {
        burst.clear();
        (0..32).for_each(|n| burst.push(Mbuf::from_slice(pool, &[round + n]).unwrap()));
        if round == 32 {
            let mut wrapped: ArrayVec<_, 32> = burst.drain(..).map(Wrapped).collect();
            assert_eq!(a_tx[0].tx_burst(&mut wrapped), taken);
            burst.extend(wrapped.drain(..).map(Mbuf::from));
        } else {
            assert_eq!(a_tx[0].tx_burst(&mut burst), taken);
        }
        assert_eq!(burst.len(), 32 - taken);
        assert_eq!(
            burst.iter().map(|packet| packet.data()[0]).next(),
            (taken < 32).then_some(round + taken as u8)
        );
    }
    drop(burst);
    assert_eq!(pool.in_use(), 63, "left in the ring");
}

fn pcap_port(eal: &Eal, pool: &Mempool) {
    let dir = std::env::temp_dir().join(format!("dpdk-test-{}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    let (input, output) = (dir.join("in.pcap"), dir.join("out.pcap"));
    let frames = [vec![1_u8; 60], vec![2_u8; 1514], vec![3_u8; 5000]];
    fs::write(&input, pcap(&frames)).unwrap();
    let device = format!("net_pcap0,rx_pcap={},tx_pcap={}", input.display(), output.display());
    let mut port = Port::open(eal, &device).unwrap();
    port.configure(&PortOptions { mtu: Some(6000), ..PortOptions::default() }, pool).unwrap();
    let (mut rx, mut tx) = port.start().unwrap();
    let mut burst = Burst::new();
    assert_eq!(rx[0].rx_burst(&mut burst), 3);
    assert_eq!(burst[2].nb_segs(), 3);
    for (packet, frame) in burst.iter().zip(&frames) {
        assert_eq!(packet.segments().flatten().copied().collect::<Vec<u8>>(), *frame);
    }
    assert_eq!(tx[0].tx_burst(&mut burst), 3);
    drop((rx, tx, port));
    assert_eq!(frames_of(&output), frames);
    fs::remove_dir_all(&dir).unwrap();
}

/// Shared memory between two ports, as between two processes; jumbo frames cross it in chains of ring entries.
fn memif_ports(eal: &Eal, pool: &Mempool) {
    let dir = std::env::temp_dir();
    let name = format!("dpdk-memif-{}.sock", std::process::id());
    // Spelled in two ways: the driver lets a process have one role on a socket's path.
    let device = |number, role, dot| {
        format!("net_memif{number},role={role},socket={}/{dot}{name},socket-abstract=no", dir.display())
    };
    let mut client = Port::open(eal, &device(0, "client", "./")).unwrap();
    client.configure(&PortOptions::default(), pool).unwrap();
    let error = client.start().unwrap_err().to_string();
    assert!(error.contains("port net_memif0: start: ") && error.contains("memif_connect_client"), "{error}");

    let mut server = Port::open(eal, &device(1, "server", "")).unwrap();
    server.configure(&PortOptions::default(), pool).unwrap();
    let (mut server_rx, _server_tx) = server.start().unwrap();
    let (_client_rx, mut client_tx) = client.start().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !(client.link().unwrap().up && server.link().unwrap().up) {
        assert!(Instant::now() < deadline, "the two never connected");
        thread::sleep(Duration::from_millis(1));
    }
    let jumbo: Vec<u8> = (0..5000).map(|n| (n % 251) as u8).collect();
    let mut burst = Burst::new();
    burst.push(Mbuf::from_slice(pool, b"small").unwrap());
    burst.push(Mbuf::from_slice(pool, &jumbo).unwrap());
    assert_eq!(client_tx[0].tx_burst(&mut burst), 2);
    while burst.len() < 2 {
        assert!(Instant::now() < deadline, "nothing came");
        server_rx[0].rx_burst(&mut burst);
    }
    assert_eq!(burst[0].data(), b"small");
    assert_eq!(burst[1].segments().flatten().copied().collect::<Vec<u8>>(), jumbo);
    // One after the other: the driver frees what belongs to a connection twice if both ends close it at once.
    drop((burst, _client_rx, client_tx, client));
    while server.link().unwrap().up {
        assert!(Instant::now() < deadline, "the server never noticed");
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(50));
    drop((server_rx, _server_tx, server));
    assert!(!dir.join(name).exists());
}

fn bad_requests(eal: &Eal, pool: &Mempool) {
    let open = |device: &str| Port::open(eal, device).unwrap_err().to_string();
    assert!(open("net_nonsense0").starts_with("device net_nonsense0: "), "{}", open("net_nonsense0"));
    let missing = open("net_pcap1,rx_pcap=/nonexistent.pcap");
    assert!(missing.contains("/nonexistent.pcap: No such file"), "{missing}");
    let interface = open("net_af_packet0,iface=none-such0");
    assert!(interface.contains("none-such0"), "{interface}");
    assert!(matches!(Port::open(eal, "net_null\x001"), Err(Error::Nul(_))));
    assert!(open("").starts_with("device "), "{}", open(""));

    let (to, from) = ring(eal, "one", 64, RingMode::Single, SocketId::ANY).unwrap();
    let mut port = Port::from_rings(eal, "one", vec![from], vec![to]).unwrap();
    let two = PortOptions { rx_queues: 2, ..PortOptions::default() };
    let error = port.configure(&two, pool).unwrap_err().to_string();
    assert!(error.contains("port one (net_ring) has 1 rx queue(s), 2 are needed"), "{error}");
    let error = ring(eal, "odd", 63, RingMode::Single, SocketId::ANY).unwrap_err().to_string();
    assert!(error.starts_with("ring odd: Invalid argument"), "{error}");
}

fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65535, 1] {
        file.extend(word.to_ne_bytes());
    }
    for frame in frames {
        for word in [0, 0, frame.len() as u32, frame.len() as u32] {
            file.extend(word.to_ne_bytes());
        }
        file.extend(frame);
    }
    file
}

fn frames_of(path: &Path) -> Vec<Vec<u8>> {
    let file = fs::read(path).unwrap();
    let mut rest = &file[24..];
    let mut frames = Vec::new();
    while rest.len() >= 16 {
        let len = u32::from_ne_bytes(rest[8..12].try_into().unwrap()) as usize;
        frames.push(rest[16..16 + len].to_vec());
        rest = &rest[16 + len..];
    }
    frames
}
