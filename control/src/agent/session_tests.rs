use super::super::entry::{Count, Entry, TcpState, Traffic, Tuple, protocol};
use super::super::path::{Path, Side};
use super::*;
use std::net::{IpAddr, SocketAddr};

const PATH: Path = Path {
    inward: Side { lif: 1, own_mac: [2, 0, 0, 0, 0, 1], next_hop_mac: [2, 0, 0, 0, 0, 5] },
    outward: Side { lif: 2, own_mac: [2, 0, 0, 0, 0, 2], next_hop_mac: [2, 0, 0, 0, 0, 9] },
};

pub(in super::super) fn tuple(source: &str, destination: &str) -> Tuple {
    let (source, destination): (SocketAddr, SocketAddr) =
        (source.parse().unwrap(), destination.parse().unwrap());
    Tuple {
        source: source.ip(),
        destination: destination.ip(),
        source_port: source.port(),
        destination_port: destination.port(),
    }
}

pub(in super::super) fn entry(number: u8, original: Tuple, reply: Tuple) -> Entry {
    Entry {
        kernel_id: 77,
        protocol: number,
        original,
        reply,
        status: Status::SeenReply | Status::Assured | Status::Confirmed,
        tcp_state: (number == protocol::TCP).then_some(TcpState::Established),
        mark: 0,
        zone: 0,
        foreign: false,
        timeout: Some(100),
        helper: false,
        traffic: None,
        icmp: None,
    }
}

fn both(number: u8, original: (&str, &str), reply: (&str, &str)) -> v1::Session {
    let entry = entry(number, tuple(original.0, original.1), tuple(reply.0, reply.1));
    session(&entry, &PATH, 9, 120)
}

fn text(tuple: Option<v1::Tuple>) -> (String, String) {
    let tuple = tuple.unwrap();
    let show = |bytes: &[u8], port: u32| {
        let ip = match bytes.len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(bytes).unwrap()),
            _ => IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap()),
        };
        SocketAddr::new(ip, u16::try_from(port).unwrap()).to_string()
    };
    (show(&tuple.source, tuple.source_port), show(&tuple.destination, tuple.destination_port))
}

fn pair(source: &str, destination: &str) -> (String, String) {
    (source.to_owned(), destination.to_owned())
}

#[test]
fn masquerade_translates_the_source() {
    let session =
        both(6, ("10.1.0.5:40000", "198.51.100.10:443"), ("198.51.100.10:443", "203.0.113.1:61000"));
    assert_eq!(text(session.original), pair("10.1.0.5:40000", "198.51.100.10:443"));
    assert_eq!(text(session.translated), pair("203.0.113.1:61000", "198.51.100.10:443"));
    assert_eq!((session.in_lif, session.out_lif, session.protocol), (1, 2, 6));
}

#[test]
fn dnat_translates_the_destination_and_both_together_both() {
    let dnat = both(17, ("198.51.100.9:5000", "203.0.113.1:80"), ("10.1.0.5:8080", "198.51.100.9:5000"));
    assert_eq!(text(dnat.translated), pair("198.51.100.9:5000", "10.1.0.5:8080"));
    let hairpin = both(17, ("10.1.0.6:5000", "203.0.113.1:80"), ("10.1.0.5:8080", "203.0.113.1:7000"));
    assert_eq!(text(hairpin.translated), pair("203.0.113.1:7000", "10.1.0.5:8080"));
}

#[test]
fn without_nat_nothing_is_translated() {
    let session =
        both(6, ("[2001:db8::5]:4000", "[2001:db8:1::1]:80"), ("[2001:db8:1::1]:80", "[2001:db8::5]:4000"));
    assert_eq!(session.translated, None);
    assert_eq!(text(session.original), pair("[2001:db8::5]:4000", "[2001:db8:1::1]:80"));
}

#[test]
fn an_echo_has_its_identifier_as_source_port() {
    let mut echo = entry(1, tuple("10.1.0.5:77", "8.8.8.8:0"), tuple("8.8.8.8:4711", "203.0.113.1:0"));
    echo.icmp = Some((8, 0));
    assert!(echo.is_echo());
    let session = session(&echo, &PATH, 9, 30);
    assert_eq!(text(session.original), pair("10.1.0.5:77", "8.8.8.8:0"));
    assert_eq!(text(session.translated), pair("203.0.113.1:4711", "8.8.8.8:0"));
}

#[test]
fn macs_are_those_of_each_side() {
    let l2 = both(6, ("10.0.0.1:1", "10.0.1.1:2"), ("10.0.1.1:2", "10.0.0.1:1")).l2.unwrap();
    let (forward, reverse) = (l2.forward.unwrap(), l2.reverse.unwrap());
    assert_eq!(
        (forward.source, forward.destination),
        (vec![2, 0, 0, 0, 0, 2].into(), vec![2, 0, 0, 0, 0, 9].into())
    );
    assert_eq!(
        (reverse.source, reverse.destination),
        (vec![2, 0, 0, 0, 0, 1].into(), vec![2, 0, 0, 0, 0, 5].into())
    );
}

#[test]
fn the_gateway_times_out_before_the_kernel() {
    assert_eq!(idle_timeout(6, 432_000), TCP_IDLE_LIMIT);
    assert_eq!(idle_timeout(17, 120), 90);
    assert!((1..3).contains(&idle_timeout(17, 2)));
    assert_eq!(idle_timeout(17, 0), 1);
}

#[test]
fn ids_carry_the_tag_and_tell_successors_apart() {
    let first = entry(6, tuple("10.0.0.1:1", "10.0.1.1:2"), tuple("10.0.1.1:2", "10.0.0.1:1"));
    let successor = Entry { kernel_id: 78, ..first.clone() };
    let changed = Entry { tcp_state: Some(TcpState::FinWait), timeout: None, mark: 3, ..first.clone() };
    let id = session_id(&first, 0xa6);
    assert_eq!(id >> 56, 0xa6);
    assert!(is_own(id, 0xa6) && !is_own(id, 0xa7));
    assert_ne!(id, session_id(&successor, 0xa6));
    assert_eq!(id, session_id(&changed, 0xa6));
    // Part of the contract between releases: an upgraded agent finds its sessions.
    assert_eq!(id, 0xa6a0_2934_0e27_f9ef);
}

#[test]
fn the_policy_knows_what_stays_in_the_kernel() {
    let policy = Policy {
        protocols: vec![6, 17, 1],
        min_packets: 3,
        exclude_mark: Some((0x10, 0xf0)),
        exclude_ports: vec![(5, 9)],
    };
    let good = entry(6, tuple("10.0.0.1:1", "10.0.1.1:2"), tuple("10.0.1.1:2", "10.0.0.1:1"));
    assert_eq!(policy.judge(&good), Ok(()));
    let judge = |change: &dyn Fn(&mut Entry)| {
        let mut entry = good.clone();
        change(&mut entry);
        policy.judge(&entry).unwrap_err()
    };
    assert_eq!(judge(&|e| e.status = Status::Confirmed), Ineligible::Unanswered);
    assert_eq!(judge(&|e| e.status = Status::SeenReply), Ineligible::Unanswered);
    assert_eq!(judge(&|e| e.tcp_state = Some(TcpState::Opening)), Ineligible::Unanswered);
    assert_eq!(judge(&|e| e.tcp_state = Some(TcpState::FinWait)), Ineligible::Closing);
    assert_eq!(judge(&|e| e.protocol = 47), Ineligible::Protocol);
    assert_eq!(judge(&|e| e.protocol = 1), Ineligible::Protocol);
    assert_eq!(judge(&|e| e.mark = 0x1a), Ineligible::Mark);
    assert_eq!(judge(&|e| e.original.destination_port = 7), Ineligible::Port);
    assert_eq!(judge(&|e| e.reply.source_port = 9), Ineligible::Port);
    assert_eq!(judge(&|e| e.helper = true), Ineligible::Helper);
    assert_eq!(judge(&|e| e.status |= Status::Helper), Ineligible::Helper);
    assert_eq!(judge(&|e| e.status |= Status::Offload), Ineligible::KernelOffload);
    assert_eq!(judge(&|e| e.status |= Status::Dying), Ineligible::Untracked);
    assert_eq!(judge(&|e| e.foreign = true), Ineligible::Foreign);
    assert_eq!(
        judge(
            &|e| e.traffic = Some(Traffic { original: Count { packets: 2, bytes: 0 }, ..Default::default() })
        ),
        Ineligible::FewPackets
    );
}
