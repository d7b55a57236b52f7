//! RSTs that are not what they seem, in the hot path, the kernel's connection tracking and the peers.

use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use netns_lab::Netns;
use netns_lab::plan::{A, BLUE1, RED1};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, socket,
};
use proto::gateway::v1::CloseCode;

use crate::bench::{Bench, LIMIT, wait};
use crate::tcp::Transfer;

/// TCP's header without options.
const HEADER: usize = 20;
const RST: u8 = 4;

/// A segment without data, as raw sockets take it.
fn segment(from: SocketAddrV4, to: SocketAddrV4, sequence: u32, flags: u8) -> [u8; HEADER] {
    let mut segment = [0; HEADER];
    segment[0..2].copy_from_slice(&from.port().to_be_bytes());
    segment[2..4].copy_from_slice(&to.port().to_be_bytes());
    segment[4..8].copy_from_slice(&sequence.to_be_bytes());
    segment[12] = (HEADER as u8 / 4) << 4;
    segment[13] = flags;
    // RFC 9293 section 3.1, with the pseudo header in front.
    let pseudo = [&from.ip().octets()[..], &to.ip().octets(), &[0, 6, 0, HEADER as u8], &segment].concat();
    let sum: u32 = pseudo.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    segment
}

/// Sends a segment from a host, whatever its sockets think of it.
fn forge(netns: &Netns, to: SocketAddrV4, segment: &[u8]) {
    netns
        .enter(|| {
            let raw =
                socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Tcp).unwrap();
            let [a, b, c, d] = to.ip().octets();
            sendto(raw.as_raw_fd(), segment, &SockaddrIn::new(a, b, c, d, 0), MsgFlags::empty()).unwrap();
        })
        .unwrap();
}

/// The sequence number of a segment that a host is just sending.
fn sequence(netns: &Netns, mac: [u8; 6], from: SocketAddrV4) -> u32 {
    let open =
        || socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), SockProtocol::EthAll).unwrap();
    let raw = netns.enter(open).unwrap();
    let mut frame = [0; 2048];
    loop {
        let length = recv(raw.as_raw_fd(), &mut frame, MsgFlags::empty()).unwrap();
        let is_tcp = length >= 54 && frame[12..15] == [8, 0, 0x45] && frame[23] == 6;
        if is_tcp && frame[6..12] == mac && frame[34..36] == from.port().to_be_bytes() {
            return u32::from_be_bytes([frame[38], frame[39], frame[40], frame[41]]);
        }
    }
}

/// Seconds left and state of the kernel's entry in VNF A.
fn entry(bench: &Bench, port: u16) -> (u32, String) {
    let argv = ["conntrack", "-L", "-p", "tcp", "--orig-port-src", &port.to_string()];
    let listed = bench.lab.ns(A.name).unwrap().run(&argv, LIMIT).unwrap();
    let mut words = listed.split_whitespace().skip(2);
    let seconds = words.next().and_then(|seconds| seconds.parse().ok()).unwrap_or_default();
    (seconds, words.next().unwrap_or_default().to_owned())
}

/// RSTs that VNF A's packet filter has dropped.
fn invalid(bench: &Bench) -> u64 {
    let argv = ["nft", "-j", "list", "counter", "inet", "strict", "invalid"];
    let listed = bench.lab.ns(A.name).unwrap().run(&argv, LIMIT).unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let counters = listed["nftables"].as_array().unwrap();
    counters.iter().find_map(|item| item["counter"]["packets"].as_u64()).unwrap()
}

/// Whoever knows addresses and ports can send an RST, and the gateway cannot tell: it knows no sequence numbers. The kernel and
/// the peer can (RFC 5961), so that it ends a session and no connection.
#[test]
fn a_forged_reset_costs_the_session_and_not_the_connection() {
    let bench = Bench::with_agents(&[A]);
    let strict = "add table inet strict; add counter inet strict invalid; \
                  add chain inet strict forward { type filter hook forward priority 0; }; \
                  add rule inet strict forward tcp flags & rst == rst ct state invalid counter name invalid drop";
    bench.lab.ns(A.name).unwrap().run(&["nft", strict], LIMIT).unwrap();
    // Behind what the kernel saw acknowledged: out of window to the kernel. Ahead of it: in doubt to the kernel, and out of
    // place to the peer.
    for (number, ahead, dropped) in [(0, 0_u32.wrapping_sub(3 << 29), 1), (1, 1 << 29, 0)] {
        let to = SocketAddrV4::new(BLUE1.ipv4(), 7000 + number);
        let transfer = Transfer::start(bench.ns(&RED1), bench.ns(&BLUE1), to.into());
        let own = |s: &netns_lab::control::Session| s.destination == SocketAddr::from(to);
        wait("the transfer is offloaded", || {
            bench.sessions(own).iter().any(|s| s.in_packets > 1000 && s.out_packets > 100)
        });
        let SocketAddr::V4(from) = bench.sessions(own)[0].source else { panic!("IPv4") };
        assert_eq!(*from.ip(), RED1.ipv4());
        assert_eq!(invalid(&bench), 0);

        let sequence = sequence(bench.ns(&RED1), RED1.mac(), from).wrapping_add(ahead);
        forge(bench.ns(&RED1), to, &segment(from, to, sequence, RST));
        wait("the session is closed", || {
            bench.control().closed().iter().any(|s| own(s) && s.closed == Some(CloseCode::Rst))
        });
        wait("the kernel has judged it", || invalid(&bench) == dropped);
        // The agent has cut the entry's time to that of CLOSE, 10 s; the next packets through the kernel give it back.
        wait("the entry lives on", || entry(&bench, from.port()).0 > 60);
        thread::sleep(Duration::from_secs(2));
        let (seconds, state) = entry(&bench, from.port());
        assert!(seconds > 60 && state == "ESTABLISHED", "{seconds} s, {state}");
        // Each byte is compared.
        transfer.finish();
        bench.lab.ns(A.name).unwrap().run(&["nft", "reset", "counters"], LIMIT).unwrap();
    }
}
