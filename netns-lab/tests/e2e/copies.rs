//! Mirror and snoop, at a collector's real socket.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use netns_lab::Netns;
use netns_lab::collector::Collector;
use netns_lab::config::GatewayConfig;
use netns_lab::plan::{A, BLUE, BLUE1, COLLECTOR, FAR_COLLECTOR, FAR_ROUTE, RED, RED1, mac};
use netns_lab::traffic::ping;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use serde_json::json;

use crate::bench::{Bench, wait};
use crate::udp;

const SERVER_PORT: u16 = 7000;
const MAPPED_PORT: u16 = 61_000;

/// Frames that pass a host's interface, both ways, with these UDP ports.
struct Sniffer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Vec<u8>>>>,
}

impl Sniffer {
    fn start(netns: &Netns, ports: [u16; 2]) -> Self {
        let open =
            || socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), SockProtocol::EthAll).unwrap();
        let raw: OwnedFd = netns.enter(open).unwrap();
        setsockopt(&raw, sockopt::ReceiveTimeout, &TimeVal::new(0, 50_000)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let (mut frames, mut buffer) = (Vec::new(), vec![0; 65_536]);
            // What is there when it is told to stop is still read.
            loop {
                let last = stopped.load(Ordering::Relaxed);
                while let Ok(length) = recv(raw.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                    frames.extend(
                        buffer.get(..length).filter(|frame| is_udp(frame, ports)).map(<[u8]>::to_vec),
                    );
                }
                if last {
                    return frames;
                }
            }
        });
        Sniffer { stop, thread: Some(thread) }
    }

    /// What passed, split by whether it came from `mac`.
    fn finish(mut self, mac: [u8; 6]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap().into_iter().partition(|frame| frame[6..12] == mac)
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn is_udp(frame: &[u8], ports: [u16; 2]) -> bool {
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    frame.len() > 42
        && frame[12..15] == [8, 0, 0x45]
        && frame[23] == 17
        && ports.contains(&port(34))
        && ports.contains(&port(36))
}

/// Installs the flow of a client socket in red to an echo server in blue, as VNF A would forward it.
fn install(bench: &Bench, id: u64, client: SocketAddr, action: &str, collector: Ipv4Addr) {
    let session = json!({
        "session_id": id, "in_lif": RED.id, "out_lif": BLUE.id, "protocol": "udp",
        "source": client.to_string(),
        "destination": format!("{}:{SERVER_PORT}", BLUE1.ipv4()),
        "action": action, "collector": collector.to_string(), "timeout": 300,
        "nat": {"source": format!("{}:{}", BLUE.ipv4(A.number), MAPPED_PORT)},
        "l2": {"forward": {"source": mac(A.mac(&BLUE)), "destination": mac(BLUE1.mac())},
               "reverse": {"source": mac(A.mac(&RED)), "destination": mac(RED1.mac())}},
    });
    let file = bench.lab.directory().join("sessions.jsonl");
    std::fs::write(&file, format!("{session}\n")).unwrap();
    bench.gateway().client(&["sessions", "add", &file.to_string_lossy()]).unwrap();
}

struct Stand {
    collector: Collector,
    client: UdpSocket,
    _echo: udp::Echo,
    bench: Bench,
}

/// Client, echo server and collector, with a session between them whose copies arrive.
fn ready(underlay: &'static str, action: &str, address: Ipv4Addr) -> Stand {
    let mut bench = Bench::new(GatewayConfig { underlay, ..Default::default() });
    bench.lab.add_collector().unwrap();
    let collector = Collector::start(&bench.lab).unwrap();
    // Everybody knows everybody's MAC afterwards, the gateway included.
    assert!(ping(&bench.lab, &RED1, BLUE1.ipv4().into(), 2).unwrap() > 0);
    let server = SocketAddr::new(BLUE1.ipv4().into(), SERVER_PORT);
    let echo = udp::Echo::start(bench.ns(&BLUE1), server);
    let client = udp::connect(bench.ns(&RED1), RED1.ipv4().into(), server);
    install(&bench, 7, client.local_addr().unwrap(), action, address);
    wait("the collector's MAC is known", || udp::exchange(&client, 10) && !collector.copies().is_empty());
    Stand { collector, client, _echo: echo, bench }
}

/// Exchanges datagrams and compares what the collector gets with what passed the hosts' interfaces.
fn compare(action: &str, address: Ipv4Addr) {
    const COUNT: usize = 20;
    let stand = ready(FAR_ROUTE, action, address);
    let Stand { bench, collector, client, .. } = &stand;
    let port = client.local_addr().unwrap().port();
    let settled = || {
        let stat = |name| bench.stat(&format!("/other/{name}"));
        collector.copies().len() as u64 == stat("mirrored") && stat("mirror_limited") == 0
    };
    wait("all copies so far are there", settled);
    let before = collector.copies().len();
    let red = Sniffer::start(bench.ns(&RED1), [port, SERVER_PORT]);
    let blue = Sniffer::start(bench.ns(&BLUE1), [MAPPED_PORT, SERVER_PORT]);
    for number in 0..COUNT {
        assert!(udp::comes_back(client, 1 + number * 70), "the original of datagram {number} is lost");
    }
    wait("a copy of each packet, both ways", || collector.copies().len() >= before + 2 * COUNT);
    let (red_sent, red_received) = red.finish(RED1.mac());
    let (blue_sent, blue_received) = blue.finish(BLUE1.mac());
    let mut expected = match action {
        "mirror" => [red_sent, blue_sent].concat(),
        _ => [blue_received, red_received].concat(),
    };
    let copies = collector.copies().split_off(before);
    assert!(copies.iter().all(|copy| (copy.to, copy.vni) == (address, RED.trap_vni)), "{copies:?}");
    let mut frames: Vec<Vec<u8>> = copies.into_iter().map(|copy| copy.frame).collect();
    frames.sort();
    expected.sort();
    assert_eq!(expected.len(), 2 * COUNT);
    assert!(frames == expected, "{frames:02x?}\n{expected:02x?}");
}

#[test]
fn a_mirrored_packet_reaches_the_collector_as_it_was_received() {
    compare("mirror", COLLECTOR);
}

#[test]
fn a_snooped_packet_reaches_a_collector_behind_a_router_as_it_was_sent() {
    compare("snoop", FAR_COLLECTOR);
}

#[test]
fn copies_beyond_the_limit_are_counted_and_cost_no_packet() {
    const COUNT: u64 = 500;
    let stand = ready("copies = 50\n", "mirror", COLLECTOR);
    let Stand { bench, collector, client, .. } = &stand;
    let packets = || bench.control().sessions().unwrap()[0].packets();
    let stat = |name: &str| bench.stat(&format!("/other/{name}"));
    for number in 0..COUNT {
        assert!(udp::comes_back(client, 100), "datagram {number}");
    }
    assert!(packets() >= 2 * COUNT);
    assert!(stat("mirror_limited") > 0);
    let all = || stat("mirrored") + stat("mirror_limited") + stat("mirror_failed");
    assert_eq!(all(), packets(), "each packet has a copy, or a reason why not");
    wait("those within the limit arrive", || collector.copies().len() as u64 == stat("mirrored"));
}
