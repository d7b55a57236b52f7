//! Group 1, exits: classify (a tenant's frame), local (on the underlay, but no tunnel packet), drop (`unknown_lif`,
//! `malformed`, `bad_checksum`, `not_for_us`, `outer_fragment`, `ecn_congestion`).
//!
//! Removes tag and outer headers, and for ingress the tag alone, so that every packet begins with the tenant's Ethernet
//! header; learns the VTEP behind the inner source MAC.

use crate::batch::{DropReason, Meta, Next};
use crate::counters::Other;
use crate::ecn;
use crate::neighbors::{Address, Link};
use crate::packet::Packet;
use crate::senders::{Sender, Senders};
use crate::tunnel::{Arrival, Received, Tunnel};
use crate::wire::ethernet::{self, TAG_LEN, is_group};
use crate::wire::{Ethernet, view};
use crate::worker::Context;
use conntrack::LifIndex;

/// Bytes before the tag.
const MACS: usize = 12;

/// Takes the packets marked underlay.
#[inline(never)]
pub fn run<P: Packet>(cx: &Context<'_>, senders: &mut Senders, packets: &mut [P], metas: &mut [Meta]) {
    let Some(tunnel) = &cx.shared.underlay else { return };
    if tunnel.local_ip.is_ipv4() {
        each(cx, tunnel, Tunnel::arrival_v4, senders, packets, metas);
    } else {
        each(cx, tunnel, Tunnel::arrival_v6, senders, packets, metas);
    }
}

/// Takes them with `arrival` for the underlay's family: a loop for each, so that IPv4 does not pay for IPv6's longer address
/// (docs/adr/0007-hot-path.md).
#[inline(never)]
fn each<P: Packet>(
    cx: &Context<'_>,
    tunnel: &Tunnel,
    arrival: impl Fn(&Tunnel, &[u8], usize, usize) -> Option<Arrival> + Copy,
    senders: &mut Senders,
    packets: &mut [P],
    metas: &mut [Meta],
) {
    let lifs = cx.counters.lifs();
    let mut validity = cx.validity();
    for (packet, meta) in packets.iter_mut().zip(metas) {
        if meta.next == Next::Underlay {
            one(cx, tunnel, arrival, senders, &mut validity, packet, meta);
            if meta.next == Next::Classify {
                lifs.rx(meta.in_lif, meta.frame_len);
            }
        }
    }
}

/// Takes one of them: of a sender that was heard of it is only looked at what must be.
#[inline(always)]
fn one<P: Packet>(
    cx: &Context<'_>,
    tunnel: &Tunnel,
    arrival: impl Fn(&Tunnel, &[u8], usize, usize) -> Option<Arrival>,
    senders: &mut Senders,
    validity: &mut u64,
    packet: &mut P,
    meta: &mut Meta,
) {
    let head = packet.head();
    let arrival = arrival(tunnel, head, packet.total_len(), usize::from(meta.l2));
    let usual = arrival.and_then(|arrival| Some((arrival, Sender::of(head, &arrival)?)));
    if let Some((arrival, sender)) = &usual
        && let Some(lif) = senders.lif(sender, *validity)
    {
        return match strip(packet, arrival.headers, arrival.end, arrival.ecn) {
            Ok(()) => arrived(packet, meta, lif),
            Err(reason) => meta.drop(reason),
        };
    }
    let learned = open(cx, tunnel, packet, meta);
    // Learning may have changed it.
    *validity = cx.validity();
    if let (Some((_, sender)), Some(lif)) = (usual, learned) {
        senders.put(&sender, *validity, lif);
    }
}

/// Takes the tag off: the MACs move up to the type.
#[inline(always)]
pub(crate) fn pop_tag(packet: &mut impl Packet) -> bool {
    packet.cut::<MACS, TAG_LEN>()
}

/// Takes one of them, whatever it is; its LIF, if all was learned that there is to be learned from it.
#[inline(never)]
fn open(cx: &Context<'_>, tunnel: &Tunnel, packet: &mut impl Packet, meta: &mut Meta) -> Option<LifIndex> {
    match tunnel.receive(packet.head(), packet.total_len(), usize::from(meta.l2)) {
        Received::Local => meta.next = Next::Local,
        Received::Drop(reason) => meta.drop(reason),
        Received::Frame { vni, source, mac, ecn, headers, end } => {
            let Some(lif) = cx.shared.lifs.by_vni(vni) else {
                meta.drop(DropReason::UnknownLif);
                return None;
            };
            if let Err(reason) = strip(packet, headers, end, ecn) {
                meta.drop(reason);
                return None;
            }
            let learned = learn(cx, lif, packet.head(), source, mac);
            arrived(packet, meta, lif);
            return learned.then_some(lif);
        }
    }
    None
}

/// Cuts the frame out of its tunnel packet.
#[inline(always)]
pub(crate) fn strip(
    packet: &mut impl Packet,
    headers: usize,
    end: usize,
    outer_ecn: u8,
) -> Result<(), DropReason> {
    if packet.total_len() > end && !packet.truncate(end) || !packet.trim_front(headers) {
        return Err(DropReason::Malformed);
    }
    if packet.head().len() < ethernet::LEN {
        return Err(DropReason::Malformed);
    }
    if outer_ecn == ecn::NOT_ECT || ecn::decapsulate(packet.head_mut(), outer_ecn) {
        Ok(())
    } else {
        Err(DropReason::EcnCongestion)
    }
}

#[inline(always)]
fn arrived(packet: &impl Packet, meta: &mut Meta, lif: LifIndex) {
    meta.in_lif = lif;
    meta.frame_len = packet.total_len() as u32;
    meta.next = Next::Classify;
}

/// Learns who is where; false if there was no room for it.
#[inline]
fn learn(cx: &Context<'_>, lif: LifIndex, frame: &[u8], source: Address, outer_mac: [u8; 6]) -> bool {
    let Some(inner) = view::<Ethernet>(frame).map(|ethernet| ethernet.source) else { return true };
    if is_group(&inner) {
        return true;
    }
    let neighbors = &cx.shared.neighbors;
    let known = cx.shared.fdb.lookup(lif, inner, cx.second);
    let vtep = match known.filter(|vtep| neighbors.is(*vtep, Link::Underlay, source)) {
        Some(vtep) => vtep,
        None => match neighbors.find_or_claim(Link::Underlay, source, cx.now_ms) {
            Some(vtep) => vtep,
            None => {
                cx.counters.other(Other::NeighborFull, 1);
                return false;
            }
        },
    };
    neighbors.heard(vtep, outer_mac, cx.now_ms);
    let learned = cx.shared.fdb.learn(lif, inner, vtep, cx.second);
    if !learned {
        cx.counters.other(Other::FdbFull, 1);
    }
    learned
}
