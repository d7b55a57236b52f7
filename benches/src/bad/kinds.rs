//! Bursts in which every packet is of another kind.

use super::bed::{Bed, Discard, PACKETS, SESSIONS};
use super::frames::{
    but, echo, icmp_v6, on_underlay, on_vlan, outside, tcp, tunnelled, udp, unreachable, untagged,
};
use crate::{Stand, traffic};
use anyhow::{Result, ensure};
use conntrack::{Action, LifIndex, SessionId, SessionSpec, Tuple};
use pipeline::{BURST, Config, Encapsulation, Lif, TrapLimits};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const RED: LifIndex = LifIndex(0);
const BLUE: LifIndex = LifIndex(1);
const GREEN: LifIndex = LifIndex(2);
/// Largest IP packet of the LIF "green".
const GREEN_MTU: u16 = 1280;

/// What one packet counts.
type Counts = &'static [&'static str];

const FORWARDED: Counts = &["other established", "uplink sent"];
const RELATED: Counts = &["other related", "uplink sent"];
const ANSWERED: Counts = &["other consumed", "other originated", "uplink sent"];
const NEW: Counts = &["trap new", "kernel sent"];
const ARP_ND: Counts = &["trap arp_nd", "kernel sent"];
const EXCEPTION: Counts = &["trap exception", "kernel sent"];
const LIMITED: Counts = &["limited tcp_control", "drop trap_limited"];
const MALFORMED: Counts = &["drop malformed"];
const UNKNOWN_LIF: Counts = &["drop unknown_lif"];

/// A kind of packet.
struct Kind {
    name: &'static str,
    frame: Vec<u8>,
    counts: Counts,
}

/// One of each kind in a burst. Every packet must count what its kind counts, and nothing else.
pub fn bench(stand: &mut Stand) -> Result<()> {
    let sessions = Sessions::new();
    let kinds = sessions.kinds();
    ensure!(kinds.len() == BURST, "{} kinds for a burst of {BURST}", kinds.len());
    let specs = (0..SESSIONS).map(traffic::session).chain(sessions.all());
    let mut bed = Bed::with_config(stand, config(), SESSIONS + 16, specs)?;
    for Kind { name, frame, counts } in &kinds {
        let before = bed.counters();
        bed.take(&stand.pool, frame)?;
        let seen = difference(&before, &bed.counters());
        let expected: BTreeMap<_, _> = counts.iter().map(|name| ((*name).to_owned(), 1)).collect();
        ensure!(seen == expected, "{name}: counted as {seen:?}, not {expected:?}");
    }
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for name in kinds.iter().flat_map(|kind| kind.counts) {
        *expected.entry((*name).to_owned()).or_default() += (PACKETS / BURST) as u64;
    }
    let conditions = format!(
        "{BURST} kinds in each burst of {BURST}: tagged, untagged and in tunnels, forwarded, answered, for the kernel, \
         and dropped for {} reasons; each counted as what it is",
        kinds.iter().filter(|kind| kind.counts[0].starts_with("drop")).count()
    );
    super::add(stand, "other_kinds", "cycles/packet", &conditions, &mut |stand| {
        let before = bed.counters();
        let mut turn = kinds.iter().cycle();
        let mut next = || turn.next().map(|kind| kind.frame.clone()).unwrap_or_default();
        let cycles = bed.cycles(&stand.pool, &mut next, BURST, &mut Discard(&stand.pool))?;
        let seen = difference(&before, &bed.counters());
        ensure!(seen == expected, "{PACKETS} packets are counted as {seen:?}, not {expected:?}");
        Ok(cycles)
    })
}

/// What has been counted in between.
fn difference(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let since = |(name, count): (&String, &u64)| {
        (name.clone(), count - before.get(name).copied().unwrap_or_default())
    };
    after.iter().map(since).filter(|(_, count)| *count > 0).collect()
}

/// The usual one with an untagged LIF "green", and a kernel that takes everything but control packets.
fn config() -> Config {
    let mut config = traffic::config();
    config.lifs.push(Lif {
        id: 3,
        name: "green".into(),
        port: traffic::UPLINK,
        encapsulation: Encapsulation::Untagged,
        trap_vni: 10_300,
        mtu: GREEN_MTU,
        vteps: vec![],
    });
    let all = u32::MAX;
    config.trap.limits = TrapLimits { arp_nd: all, new: all, tcp_control: 0, exception: all };
    config
}

/// One session of each kind, beside those of the usual traffic.
struct Sessions {
    udp: SessionSpec,
    tcp: SessionSpec,
    echo: SessionSpec,
    udp_v6: SessionSpec,
    tcp_v6: SessionSpec,
    dropped: SessionSpec,
}

impl Sessions {
    fn new() -> Self {
        let of = |n: u32, protocol, lifs: [LifIndex; 2], destination_port| {
            let mut spec = traffic::session(SESSIONS + n);
            spec.id = SessionId(u64::from(SESSIONS + n) + 1);
            [spec.in_lif, spec.out_lif] = lifs;
            spec.protocol = protocol;
            spec.original.destination_port = destination_port;
            spec.translated.destination_port = destination_port;
            spec
        };
        let in_v6 = |mut spec: SessionSpec| {
            let v6 = |ip| if let IpAddr::V4(ip) = ip { IpAddr::V6(site(ip)) } else { ip };
            for tuple in [&mut spec.original, &mut spec.translated] {
                (tuple.source, tuple.destination) = (v6(tuple.source), v6(tuple.destination));
            }
            spec
        };
        Self {
            udp: traffic::session(3),
            tcp: of(1, 6, [RED, GREEN], 443),
            echo: of(2, 1, [RED, BLUE], 0),
            udp_v6: in_v6(of(3, 17, [RED, BLUE], 443)),
            tcp_v6: in_v6(of(4, 6, [GREEN, BLUE], 443)),
            dropped: SessionSpec { action: Action::Drop, ..of(5, 17, [RED, BLUE], 443) },
        }
    }

    /// Those that the usual traffic does not have.
    fn all(&self) -> [SessionSpec; 5] {
        [self.tcp, self.echo, self.udp_v6, self.tcp_v6, self.dropped]
    }

    fn kinds(&self) -> Vec<Kind> {
        let kind = |name, frame, counts| Kind { name, frame, counts };
        let plain = || udp(&self.udp.original);
        let (answer, answer_v6) = (back(&self.udp), back(&self.udp_v6));
        let reply = tunnelled(&udp(&answer));
        let stranger = traffic::session(2 * SESSIONS).original;
        let from_gateway = traffic::config().underlay.map(|underlay| underlay.local_ip);
        let ping = Tuple {
            source: [192, 0, 2, 9].into(),
            destination: from_gateway.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
            source_port: 7,
            destination_port: 0,
        };
        let mut arp = traffic::frame(0);
        (arp[16], arp[17]) = (0x08, 0x06);
        let mut lldp = untagged(&plain());
        lldp[..6].copy_from_slice(&[0x01, 0x80, 0xc2, 0, 0, 0x0e]);
        (lldp[12], lldp[13]) = (0x88, 0xcc);
        let mut other_vlan = on_vlan(&plain());
        other_vlan[15] = 99;
        let with_options = but(plain(), |packet| {
            // One word of "no operation".
            packet.splice(20..20, [1; 4]);
            packet[0] = 0x46;
            packet[3] += 4;
        });
        let mut fragment_v6 = udp(&self.udp_v6.original);
        // A fragment header (44) as the first of two.
        fragment_v6.splice(40..40, [17, 0, 0, 1, 0, 0, 0, 9]);
        (fragment_v6[5], fragment_v6[6]) = (fragment_v6[5] + 8, 44);
        let mut nonsense = tcp(&self.tcp.original, false, &[]);
        // SYN and FIN.
        nonsense[33] = 0x03;
        let mut wrong_sum = plain();
        wrong_sum[10] ^= 0xff;
        vec![
            kind("UDP, VLAN to VXLAN", on_vlan(&plain()), FORWARDED),
            kind("UDP, VXLAN to VLAN", reply.clone(), FORWARDED),
            kind("TCP, VLAN to untagged", on_vlan(&tcp(&self.tcp.original, false, &[])), FORWARDED),
            kind("TCP, untagged to VLAN", untagged(&tcp(&back(&self.tcp), false, &[])), FORWARDED),
            kind("ping", on_vlan(&echo(&self.echo.original)), FORWARDED),
            kind("ICMP error", tunnelled(&unreachable(&answer, &udp(&self.udp.translated))), RELATED),
            kind("UDP over IPv6", on_vlan(&udp(&self.udp_v6.original)), FORWARDED),
            kind("TCP over IPv6", untagged(&tcp(&self.tcp_v6.original, false, &[])), FORWARDED),
            kind("ICMPv6 error", tunnelled(&unreachable(&answer_v6, &udp(&self.udp_v6.translated))), RELATED),
            kind("new flow", on_vlan(&udp(&stranger)), NEW),
            kind(
                "multicast of a protocol without ports",
                on_vlan(&but(plain(), |packet| {
                    packet[9] = 89;
                    packet[16..20].copy_from_slice(&[224, 0, 0, 5]);
                })),
                NEW,
            ),
            kind("ARP of the tenant", arp, ARP_ND),
            kind("Neighbor Solicitation", on_vlan(&icmp_v6(&self.udp_v6.original, 135, &[0; 16])), ARP_ND),
            kind("LLDP", lldp, EXCEPTION),
            kind("first fragment", on_vlan(&but(plain(), |packet| packet[6] = 0x20)), EXCEPTION),
            kind("last fragment", on_vlan(&but(plain(), |packet| packet[7] = 0x10)), EXCEPTION),
            kind("TTL 1", on_vlan(&but(plain(), |packet| packet[8] = 1)), EXCEPTION),
            kind("options", on_vlan(&with_options), EXCEPTION),
            kind("fragment over IPv6", on_vlan(&fragment_v6), EXCEPTION),
            kind(
                "too long for the LIF",
                on_vlan(&tcp(&self.tcp.original, false, &[0; GREEN_MTU as usize])),
                EXCEPTION,
            ),
            kind("FIN over the limit", on_vlan(&tcp(&self.tcp.original, true, &[])), LIMITED),
            kind("wrong checksum", on_vlan(&wrong_sum), &["drop bad_checksum"]),
            kind("from loopback", on_vlan(&but(plain(), |packet| packet[12] = 127)), &["drop martian"]),
            kind("cut short", on_vlan(&plain())[..30].to_vec(), MALFORMED),
            kind("longer than its frame", on_vlan(&but(plain(), |packet| packet[3] = 0xff)), MALFORMED),
            kind("SYN and FIN", on_vlan(&nonsense), MALFORMED),
            kind("unknown VLAN", other_vlan, UNKNOWN_LIF),
            kind("unknown VNI", outside(&reply, |packet| packet[34] ^= 0x80), UNKNOWN_LIF),
            kind("of a session that drops", on_vlan(&udp(&self.dropped.original)), &["drop session_drop"]),
            kind("ping to the gateway", on_underlay(&echo(&ping)), ANSWERED),
            kind(
                "fragment of a tunnel packet",
                outside(&reply, |packet| packet[6] = 0x20),
                &["drop outer_fragment"],
            ),
            kind(
                "congestion that cannot be told",
                outside(&reply, |packet| packet[1] |= 3),
                &["drop ecn_congestion"],
            ),
        ]
    }
}

/// The tuple of answers, as they arrive.
fn back(spec: &SessionSpec) -> Tuple {
    let Tuple { source, destination, source_port, destination_port } = spec.translated;
    Tuple {
        source: destination,
        destination: source,
        source_port: destination_port,
        destination_port: source_port,
    }
}

/// An IPv6 address that ends in an IPv4 one.
fn site(ip: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(ip.to_bits()))
}
