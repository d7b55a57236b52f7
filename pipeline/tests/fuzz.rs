//! Whole frames through the pipeline: whatever arrives, every packet is accounted for and none leaks (which
//! `Gateway::process` checks after each burst). `BOLERO_RANDOM_TEST_TIME_MS` says how long.

mod common;
use bolero::check;
use bolero::generator::TypeGenerator;
use common::*;

const SESSIONS: [(u8, &str, &str, &str, &str); 7] = [
    (6, "10.1.0.5:40000", "198.51.100.10:443", "203.0.113.1:61000", "198.51.100.10:443"),
    (17, "10.1.0.5:40000", "198.51.100.10:53", "203.0.113.1:61000", "198.51.100.20:5353"),
    (1, "10.1.0.5:777", "8.8.8.8", "203.0.113.1:888", "8.8.8.8"),
    (6, "[2001:db8::5]:40000", "[2001:db8:1::1]:443", "[2001:db8:f::1]:61000", "[2001:db8:1::1]:443"),
    (58, "[2001:db8::5]:777", "2001:db8:1::1", "[2001:db8:f::1]:888", "2001:db8:1::1"),
    (17, "10.1.0.5:40001", "198.51.100.10:53", "203.0.113.1:61001", "198.51.100.10:53"),
    (17, "[2001:db8::5]:40001", "[2001:db8:1::1]:53", "[2001:db8:f::1]:61001", "[2001:db8:1::1]:53"),
];
/// Those from here on have a rate limit and a hard timeout.
const POLICED: u64 = 6;

/// A gateway that knows sessions, must resolve some neighbours, replicates, and has a port that takes little.
fn gateway() -> Gateway {
    let mut config = config();
    config.underlay.as_mut().unwrap().neighbors.pop();
    config.lifs[1].vteps = vec![VTEP.into(), VTEP2.into()];
    config.trap.limits.exception = 50;
    let gateway = Gateway::with(config);
    for (id, (protocol, a, b, c, d)) in (1..).zip(SESSIONS) {
        let session = routed(id, protocol, tuple(a, b), tuple(c, d));
        let limit = conntrack::RateLimit { packets: 1, bytes: 100, burst_ms: 1000 };
        gateway.install(&match id {
            POLICED.. => {
                conntrack::SessionSpec { limit: Some(limit), hard_timeout: Some(1 << 21), ..session }
            }
            _ => session,
        });
    }
    gateway
}

/// Valid frames of every kind, with the ports they arrive on.
fn seeds() -> Vec<(u8, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (protocol, a, b, c, d) in SESSIONS {
        let (original, translated) = (tuple(a, b), tuple(c, d));
        let there = frame((CLIENT_MAC, GATEWAY_RED), protocol, &original, 64, b"some payload");
        let back = frame((SERVER_MAC, GATEWAY_BLUE), protocol, &swapped(&translated), 64, b"some payload");
        let quoted = frame((GATEWAY_BLUE, SERVER_MAC), protocol, &translated, 63, b"some payload");
        let (kind, at) = if original.source.is_ipv4() { (1, 34) } else { (58, 54) };
        let host = |tuple: &conntrack::Tuple| tuple.source.to_string();
        let to = tuple(&format!("{}:0", bracketed(&host(&swapped(&translated)))), &host(&translated));
        let mut error = frame((SERVER_MAC, GATEWAY_BLUE), kind, &to, 64, &quoted[14..]);
        let unreachable = if kind == 1 { 3 } else { 1 };
        let delta = conntrack::checksum::ChecksumDelta::replace(&[error[at], 0], &[unreachable, 0]);
        let checksum = delta.apply([error[at + 2], error[at + 3]]);
        error[at] = unreachable;
        error[at + 2..at + 4].copy_from_slice(&checksum);
        seeds.push((UPLINK, vlan(100, &there)));
        seeds.push((ACCESS, there.clone()));
        seeds.push((UPLINK, vlan(2, &Outer::from_vtep().wrap(&back))));
        seeds.push((UPLINK, vlan(2, &Outer::from_vtep().wrap(&error))));
        seeds.push((KERNEL, Outer::from_kernel(10100).wrap(&back)));
        seeds.push((KERNEL, Outer::from_kernel(2000).wrap(&there)));
    }
    seeds.push((UPLINK, vlan(2, &arp_request((VTEP_MAC, VTEP), LOCAL))));
    seeds.push((UPLINK, vlan(2, &arp(2, (VTEP2_MAC, VTEP2), (UPLINK_MAC, LOCAL), UPLINK_MAC))));
    seeds.push((KERNEL, arp_request((KERNEL_MAC, TRAP_KERNEL), TRAP_LOCAL)));
    seeds.push((UPLINK, vlan(100, &arp_request((CLIENT_MAC, [10, 1, 0, 5].into()), [10, 1, 0, 1].into()))));
    let ping = tuple(&format!("{VTEP}:9"), &LOCAL.to_string());
    seeds.push((UPLINK, vlan(2, &frame((VTEP_MAC, UPLINK_MAC), 1, &ping, 64, b"ping"))));
    seeds
}

fn bracketed(ip: &str) -> String {
    if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() }
}

/// What happens to a seed on its way.
#[derive(Clone, Debug, TypeGenerator)]
enum Change {
    Set(u8, u8),
    Flip(u8, u8),
    Cut(u8),
    Grow(u8),
    Repeat(u8),
    FixOuter,
    FixInner,
}

fn change(bytes: &mut Vec<u8>, change: &Change) {
    let l2 = if bytes.get(12) == Some(&0x81) { 18 } else { 14 };
    match change {
        Change::Set(at, value) => {
            if let Some(byte) = bytes.get_mut(usize::from(*at)) {
                *byte = *value;
            }
        }
        Change::Flip(at, bit) => {
            if let Some(byte) = bytes.get_mut(usize::from(*at)) {
                *byte ^= 1 << (bit % 8);
            }
        }
        Change::Cut(n) => bytes.truncate(bytes.len().saturating_sub(usize::from(*n))),
        Change::Grow(n) => bytes.resize(bytes.len() + usize::from(*n), 0xee),
        Change::Repeat(at) => {
            let at = usize::from(*at).min(bytes.len());
            let tail = bytes[at..].to_vec();
            bytes.extend(tail);
            bytes.truncate(2000);
        }
        Change::FixOuter => fix(bytes, l2),
        Change::FixInner => fix(bytes, l2 + 50),
    }
}

/// Makes an IPv4 header checksum right, so that changes get past it.
fn fix(bytes: &mut [u8], at: usize) {
    if let Some(header) = bytes.get_mut(at..at + 20) {
        header[10..12].fill(0);
        let sum = conntrack::checksum::checksum(&[header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

#[test]
fn arbitrary_frames() {
    let mut gateway = gateway();
    check!().with_type::<(u8, Vec<u8>, u8)>().for_each(|(port, bytes, cut)| {
        let cut = usize::from(*cut).min(bytes.len());
        let mut burst = pipeline::Burst::new();
        burst.push(gateway.pool.packet(bytes));
        burst.push(gateway.pool.segments(&[&bytes[..cut], &[], &bytes[cut..]]));
        gateway.now += 1_000_000;
        gateway.process(port % 3, burst);
        gateway.io.sent.iter_mut().for_each(Vec::clear);
    });
}

#[test]
fn mutated_frames() {
    let seeds = seeds();
    let mut gateway = gateway();
    type Input = Vec<(u8, Vec<Change>, Option<u8>, u16)>;
    let mut most = 0;
    check!().with_type::<Input>().for_each(|frames| {
        for port in [UPLINK, KERNEL, ACCESS] {
            let mut packets = Vec::new();
            // An input alone has too few for more than one hand-over.
            let times = 1 + frames.len() % 8;
            for (seed, changes, cut, pause) in frames.iter().cycle().take(frames.len() * times) {
                let (own_port, bytes) = &seeds[usize::from(*seed) % seeds.len()];
                if *own_port != port {
                    continue;
                }
                let mut bytes = bytes.clone();
                changes.iter().take(6).for_each(|c| change(&mut bytes, c));
                let cut = cut.map_or(bytes.len(), usize::from).min(bytes.len());
                packets.push(gateway.pool.segments(&[&bytes[..cut], &bytes[cut..]]));
                gateway.now += u64::from(*pause) * 1000;
            }
            gateway.io.room[usize::from(port)] = if frames.len() % 5 == 0 { 3 } else { usize::MAX };
            most = most.max(packets.len());
            gateway.process_all(port, packets);
            gateway.tick();
            gateway.io.sent.iter_mut().for_each(Vec::clear);
        }
    });
    assert!(gateway.other("established") > 0 && gateway.other("related") > 0, "the seeds reach everything");
    assert!(most > pipeline::PORT_BURST, "{most} packets together at most: one hand-over");
    assert!(gateway.drops("rate_limited") > 0, "and more than policed sessions let pass");
}

/// Where the transport checksum of `frame()`'s packets is.
fn checksum_at(protocol: u8, ipv6: bool) -> usize {
    let l4 = if ipv6 { 54 } else { 34 };
    l4 + match protocol {
        6 => 16,
        17 => 6,
        _ => 2,
    }
}

fn swap_ends(bytes: &mut [u8], protocol: u8, ipv6: bool) {
    let (at, len) = if ipv6 { (22, 16) } else { (26, 4) };
    let (a, b) = bytes[at..at + 2 * len].split_at_mut(len);
    a.swap_with_slice(b);
    let l4 = if ipv6 { 54 } else { 34 };
    match protocol {
        6 | 17 => {
            let (a, b) = bytes[l4..l4 + 4].split_at_mut(2);
            a.swap_with_slice(b);
        }
        1 => bytes[l4] = if bytes[l4] == 8 { 0 } else { 8 },
        _ => bytes[l4] ^= 1,
    }
}

fn offset(have: u16, should: u16) -> i32 {
    (i32::from(have) - i32::from(should)).rem_euclid(0xffff)
}

/// Out and in again restores the packet; on the way its checksums are right if they were, and wrong by the same amount if not.
#[test]
fn there_and_back_again() {
    type Input = (u8, [u16; 4], [u8; 4], Vec<u8>, u16);
    check!().with_type::<Input>().for_each(|(which, ports, hosts, payload, error)| {
        let ipv6 = which & 1 != 0;
        let protocol = [6, 17, if ipv6 { 58 } else { 1 }][usize::from(which >> 1) % 3];
        let query = !matches!(protocol, 6 | 17);
        let address = |net: u8, host: u8| match ipv6 {
            true => format!("[2001:db8:{net:x}::{host:x}]"),
            false => format!("10.{net}.0.{host}"),
        };
        let mut original =
            tuple(&format!("{}:1", address(1, hosts[0])), &format!("{}:1", address(2, hosts[1])));
        let mut translated =
            tuple(&format!("{}:1", address(3, hosts[2])), &format!("{}:1", address(4, hosts[3])));
        (original.source_port, translated.source_port) = (ports[0].max(1), ports[1].max(1));
        let far = |port: u16| if query { 0 } else { port.max(1) };
        (original.destination_port, translated.destination_port) = (far(ports[2]), far(ports[3]));

        let mut gateway = Gateway::new();
        gateway.install(&bumped(1, protocol, original, translated));
        let payload = &payload[..payload.len().min(1000)];
        let mut sent = frame((CLIENT_MAC, SERVER_MAC), protocol, &original, 9, payload);
        let mut expected = frame((CLIENT_MAC, SERVER_MAC), protocol, &translated, 9, payload);
        let at = checksum_at(protocol, ipv6);
        let read = |bytes: &[u8]| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let right = read(&sent);
        let wrong = right ^ error;
        sent[at..at + 2].copy_from_slice(&wrong.to_be_bytes());

        let (_, out) = unwrap(&untag(2, &gateway.forward(UPLINK, &vlan(100, &sent), UPLINK)));
        if protocol == 17 && wrong == 0 {
            assert_eq!(read(&out), 0);
        } else {
            assert_eq!(offset(read(&out), read(&expected)), offset(wrong, right));
        }
        let checksum = [out[at], out[at + 1]];
        expected[at..at + 2].copy_from_slice(&checksum);
        assert_eq!(out, expected, "nothing but the translation");

        let mut back = out;
        swap_ends(&mut back, protocol, ipv6);
        let out = gateway.forward(UPLINK, &vlan(2, &Outer::from_vtep().wrap(&back)), UPLINK);
        let mut restored = untag(100, &out);
        swap_ends(&mut restored, protocol, ipv6);
        if wrong == 0xffff && read(&restored) == 0 {
            restored[at..at + 2].fill(0xff);
        }
        assert_eq!(restored, sent);
    });
}
