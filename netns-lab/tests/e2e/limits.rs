//! States that are bad but designed: a full table, a flood.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netns_lab::Netns;
use netns_lab::config::{AgentConfig, GatewayConfig};
use netns_lab::plan::{A, B, BLUE1, GREEN1, RED, RED1, RED2, VIOLET1};
use netns_lab::traffic::ping;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, sendto, socket};

use crate::bench::{Bench, wait};
use crate::udp;

#[test]
fn with_the_table_full_traffic_flows_through_the_vnf() {
    const CAPACITY: u64 = 16;
    const FLOWS: usize = 48;
    let mut bench = Bench::new(GatewayConfig { capacity: CAPACITY, ..Default::default() });
    bench.start_agents(&[A], &AgentConfig::default());
    let server = SocketAddr::new(BLUE1.ipv4().into(), 7000);
    let _echo = udp::Echo::start(bench.ns(&BLUE1), server);
    let own = IpAddr::from(RED1.ipv4());
    let flows: Vec<UdpSocket> = (0..FLOWS).map(|_| udp::connect(bench.ns(&RED1), own, server)).collect();

    let talk = |what: &str| {
        for (number, flow) in flows.iter().enumerate() {
            assert!((0..3).any(|_| udp::exchange(flow, 100)), "{what}: flow {number} gets no answer");
        }
    };
    talk("to begin with");
    wait("the table is full", || {
        talk("while sessions are installed");
        bench.stat("/sessions/rejected") > 0 && bench.stat("/sessions/active") == CAPACITY
    });
    talk("with the table full");
    assert_eq!(bench.stat("/sessions/capacity"), CAPACITY);
    assert!(bench.stat("/sessions/active") <= CAPACITY);

    // Offloaded flows stay what they are.
    let sessions = bench.control().sessions().unwrap();
    let before: u64 = sessions.iter().map(|s| s.packets()).sum();
    talk("some more");
    let after: u64 = bench.control().sessions().unwrap().iter().map(|s| s.packets()).sum();
    assert!(after >= before + CAPACITY, "{before} then {after} packets in the hot path");
}

/// Asks for every address of red as fast as it goes, until told to stop; returns how often.
fn flood(netns: &Netns, from: [u8; 6], stop: &AtomicBool, sent: &AtomicU64) {
    netns
        .enter(|| {
            let raw = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), SockProtocol::EthAll)
                .unwrap();
            let interface = nix::ifaddrs::getifaddrs().unwrap().find(|address| {
                address.interface_name == "eth0"
                    && address.address.as_ref().is_some_and(|a| a.as_link_addr().is_some())
            });
            let interface = *interface.unwrap().address.unwrap().as_link_addr().unwrap();
            let mut target = 0_u8;
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..20 {
                    target = target.wrapping_add(1);
                    let frame = arp_request(from, RED.ipv4(6).octets(), RED.ipv4(target).octets());
                    if sendto(raw.as_raw_fd(), &frame, &interface, MsgFlags::empty()).is_ok() {
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                }
                thread::sleep(Duration::from_millis(1));
            }
        })
        .unwrap();
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// RFC 826: who has `target`? Tell `sender`.
fn arp_request(mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(sender);
    frame.extend([0; 6]);
    frame.extend(target);
    frame
}

#[test]
fn an_arp_flood_in_one_lif_costs_no_other_lif_nor_the_hot_path() {
    const LIMIT_PER_SECOND: u32 = 100;
    let mut bench = Bench::new(GatewayConfig {
        limits: [LIMIT_PER_SECOND, 100_000, 100_000, 1000],
        ..Default::default()
    });
    bench.start_agents(&[A, B], &AgentConfig::default());
    let server = SocketAddr::new(BLUE1.ipv4().into(), 7000);
    let _echo = udp::Echo::start(bench.ns(&BLUE1), server);
    let client = udp::connect(bench.ns(&RED1), RED1.ipv4().into(), server);
    udp::offload(&bench, &client);
    // During the flood nobody in red needs ARP for this flow.
    let vnf = netns_lab::plan::mac(A.mac(&RED));
    bench
        .ns(&RED1)
        .ip(&format!("neigh replace {} lladdr {vnf} dev eth0 nud permanent", RED.ipv4(1)))
        .unwrap();
    let trapped_before = bench.stat("/traps/arp_nd");

    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let start = Instant::now();
    thread::scope(|scope| {
        // Also if something fails: the scope ends with its threads.
        let flood_ends = StopOnDrop(&stop);
        let flooded = bench.ns(&RED2);
        let flooder = scope.spawn(|| flood(flooded, RED2.mac(), &stop, &sent));
        wait("the flood is limited", || bench.stat("/trap_limited/arp_nd") > 1000);
        // Another LIF resolves its neighbours and talks, and so does the flow in the hot path.
        bench.ns(&VIOLET1).ip("neigh flush dev eth0").unwrap();
        let answers = ping(&bench.lab, &VIOLET1, GREEN1.ipv4().into(), 20).unwrap();
        let exchanged = (0..100).filter(|_| udp::exchange(&client, 100)).count();
        drop(flood_ends);
        flooder.join().unwrap();
        assert!(answers >= 15, "{answers} of 20 pings answered in another LIF");
        assert!(exchanged >= 85, "{exchanged} of 100 datagrams came back in the hot path");
    });
    let elapsed = start.elapsed().as_secs_f64();
    let trapped = bench.stat("/traps/arp_nd") - trapped_before;
    let sent = sent.load(Ordering::Relaxed);
    println!("{sent} ARP requests in {elapsed:.1} s, {trapped} trapped");
    // Two LIFs and more have a bucket each; a bucket holds at most a second's worth.
    let most = (elapsed + 2.0) * f64::from(LIMIT_PER_SECOND) * 2.0;
    assert!((trapped as f64) < most, "{trapped} trapped in {elapsed} s");
    assert!(sent > 2 * trapped, "no flood: {sent} sent, {trapped} trapped");

    // The flooded LIF recovers.
    bench.ns(&RED1).ip("neigh flush nud permanent dev eth0").unwrap();
    wait("red resolves again", || ping(&bench.lab, &RED1, RED.ipv4(1).into(), 1).unwrap() == 1);
}
