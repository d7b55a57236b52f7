//! From a kernel entry and its path to a session of the gateway.

use super::entry::{Entry, Tuple, protocol};
use super::path::{Path, Side};
use netlink_packet_netfilter::conntrack::Status;
use proto::Bytes;
use proto::gateway::v1;
use std::net::IpAddr;

/// TCP's idle time in the gateway at most: RFC 5382 requirement 5 asks for 2 h 4 min.
const TCP_IDLE_LIMIT: u32 = 7440;
const TAG_SHIFT: u32 = 56;

/// The gateway's id of `entry`: `tag` in the top byte, below it a hash of what the kernel knows the entry by. So an agent
/// that starts again finds its sessions, a successor with the same addresses has another id, and other clients' ids are told
/// apart by the tag.
pub fn session_id(entry: &Entry, tag: u8) -> u64 {
    let mut hash = Fnv::new();
    hash.write(&[entry.protocol]);
    hash.write(&entry.kernel_id.to_be_bytes());
    hash.write(&entry.zone.to_be_bytes());
    for tuple in [&entry.original, &entry.reply] {
        hash.write(&address_bytes(tuple.source));
        hash.write(&address_bytes(tuple.destination));
        hash.write(&tuple.source_port.to_be_bytes());
        hash.write(&tuple.destination_port.to_be_bytes());
    }
    (u64::from(tag) << TAG_SHIFT) | (hash.finish() >> 8).max(1)
}

/// Whether `session_id` is of the agent with `tag`.
pub fn is_own(session_id: u64, tag: u8) -> bool {
    session_id >> TAG_SHIFT == u64::from(tag)
}

/// The session that does for `entry` what the kernel does, along `path`. `kernel_timeout`: what the kernel gives the entry.
pub fn session(entry: &Entry, path: &Path, id: u64, kernel_timeout: u32) -> v1::Session {
    let translated = entry.translated();
    let original =
        if entry.has_ports() { entry.original } else { Tuple { destination_port: 0, ..entry.original } };
    v1::Session {
        session_id: id,
        in_lif: path.inward.lif,
        out_lif: path.outward.lif,
        protocol: u32::from(entry.protocol),
        original: Some(tuple(&original)),
        translated: (translated != original).then(|| tuple(&translated)),
        l2: Some(v1::L2 { forward: Some(macs(&path.outward)), reverse: Some(macs(&path.inward)) }),
        action: v1::Action::Forward.into(),
        collector: Bytes::new(),
        idle_timeout: idle_timeout(entry.protocol, kernel_timeout),
        ..Default::default()
    }
}

/// Shorter than the kernel's, so that the gateway always closes first and the kernel decides last.
fn idle_timeout(number: u8, kernel_timeout: u32) -> u32 {
    let limit = if number == protocol::TCP { TCP_IDLE_LIMIT } else { u32::MAX };
    (kernel_timeout / 4 * 3).clamp(1, limit)
}

/// Why an entry is not offloaded, whatever its path.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Ineligible {
    /// Not yet: no answer seen, the handshake not complete.
    Unanswered,
    /// TCP is closing.
    Closing,
    /// The protocol is not in the configuration, or not one the gateway can follow.
    Protocol,
    /// A helper reads or changes the payload.
    Helper,
    /// The mark excludes it.
    Mark,
    /// A port excludes it.
    Port,
    /// The kernel's own flow table has it.
    KernelOffload,
    /// The kernel is about to drop it, or never tracked it.
    Untracked,
    /// A zone of one direction, or a tuple that has no expression in a session.
    Foreign,
    /// Fewer packets than the operator asks for.
    FewPackets,
}

impl Ineligible {
    /// The name of its counter.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unanswered => "unanswered",
            Self::Closing => "closing",
            Self::Protocol => "protocol",
            Self::Helper => "helper",
            Self::Mark => "mark",
            Self::Port => "port",
            Self::KernelOffload => "kernel_offload",
            Self::Untracked => "untracked",
            Self::Foreign => "foreign",
            Self::FewPackets => "few_packets",
        }
    }

    /// A decision to remember; the others settle themselves, or concern what was never ours to offload.
    pub(super) fn is_worth_keeping(self) -> bool {
        matches!(self, Self::Helper | Self::Mark | Self::Port | Self::KernelOffload | Self::Foreign)
    }
}

/// What the operator lets the agent offload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// IP protocol numbers.
    pub protocols: Vec<u8>,
    /// Packets both ways before a connection is worth it; 0 = at once.
    pub min_packets: u64,
    /// Connections with `mark & mask == value` stay in the kernel: (value, mask).
    pub exclude_mark: Option<(u32, u32)>,
    /// TCP and UDP connections to one of these stay in the kernel, before or after translation: (first, last).
    pub exclude_ports: Vec<(u16, u16)>,
}

impl Policy {
    /// Whether `entry` may be offloaded now. A TCP entry of unknown state passes if it is assured: ask the kernel.
    pub fn judge(&self, entry: &Entry) -> Result<(), Ineligible> {
        let status = entry.status;
        if !self.protocols.contains(&entry.protocol) || (entry.is_icmp() && !entry.is_echo()) {
            return Err(Ineligible::Protocol);
        }
        if entry.foreign {
            return Err(Ineligible::Foreign);
        }
        if status.intersects(Status::Dying | Status::Template | Status::Untracked) {
            return Err(Ineligible::Untracked);
        }
        if status.contains(Status::Offload) {
            return Err(Ineligible::KernelOffload);
        }
        if entry.helper || status.intersects(Status::Helper | Status::SeqAdjust) {
            return Err(Ineligible::Helper);
        }
        if self.exclude_mark.is_some_and(|(value, mask)| entry.mark & mask == value) {
            return Err(Ineligible::Mark);
        }
        if entry.has_ports() && self.excludes_port(entry) {
            return Err(Ineligible::Port);
        }
        if !status.contains(Status::SeenReply) {
            return Err(Ineligible::Unanswered);
        }
        if entry.traffic.is_some_and(|traffic| traffic.packets() < self.min_packets) {
            return Err(Ineligible::FewPackets);
        }
        if entry.protocol == protocol::TCP {
            return judge_tcp(entry);
        }
        let has_ports = entry.original.source_port != 0 || entry.original.destination_port != 0;
        let ports_allowed = entry.protocol == protocol::UDP || entry.is_icmp();
        if has_ports && !ports_allowed { Err(Ineligible::Foreign) } else { Ok(()) }
    }
}

impl Policy {
    fn excludes_port(&self, entry: &Entry) -> bool {
        let ports = [entry.original.destination_port, entry.translated().destination_port];
        self.exclude_ports.iter().any(|(first, last)| ports.iter().any(|port| (first..=last).contains(&port)))
    }
}

fn judge_tcp(entry: &Entry) -> Result<(), Ineligible> {
    use super::entry::TcpState::{Established, Opening};
    match entry.tcp_state {
        Some(Opening) => Err(Ineligible::Unanswered),
        _ if !entry.status.contains(Status::Assured) => Err(Ineligible::Unanswered),
        None | Some(Established) => Ok(()),
        Some(_) => Err(Ineligible::Closing),
    }
}

fn tuple(tuple: &Tuple) -> v1::Tuple {
    v1::Tuple {
        source: address_bytes(tuple.source),
        destination: address_bytes(tuple.destination),
        source_port: u32::from(tuple.source_port),
        destination_port: u32::from(tuple.destination_port),
    }
}

fn macs(side: &Side) -> v1::MacPair {
    let copy = |mac: &[u8; 6]| Bytes::copy_from_slice(mac);
    v1::MacPair { source: copy(&side.own_mac), destination: copy(&side.next_hop_mac) }
}

fn address_bytes(address: IpAddr) -> Bytes {
    match address {
        IpAddr::V4(address) => Bytes::copy_from_slice(&address.octets()),
        IpAddr::V6(address) => Bytes::copy_from_slice(&address.octets()),
    }
}

/// FNV-1a, 64 bits, with a final mix: the same in every release, unlike the standard library's hasher.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed ^ (mixed >> 33)
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
pub(super) mod tests;
