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
use crate::tunnel::{Received, Tunnel};
use crate::wire::ethernet::{self, TAG_LEN, is_group};
use crate::wire::{Ethernet, view};
use crate::worker::Context;
use conntrack::LifIndex;

/// Bytes before the tag.
const MACS: usize = 12;

/// Takes the packets marked underlay.
#[inline(never)]
pub fn run<P: Packet>(cx: &Context<'_>, packets: &mut [P], metas: &mut [Meta]) {
    let Some(tunnel) = &cx.shared.underlay else { return };
    for (packet, meta) in packets.iter_mut().zip(metas) {
        if meta.next != Next::Underlay {
            continue;
        }
        open(cx, tunnel, packet, meta);
        if meta.next == Next::Classify {
            cx.counters.lifs().rx(meta.in_lif, meta.frame_len);
        }
    }
}

/// Takes the tag off: the MACs move up to the type.
#[inline(always)]
pub(crate) fn pop_tag(packet: &mut impl Packet) -> bool {
    packet.cut::<MACS, TAG_LEN>()
}

#[inline]
fn open(cx: &Context<'_>, tunnel: &Tunnel, packet: &mut impl Packet, meta: &mut Meta) {
    match tunnel.receive(packet.head(), packet.total_len(), usize::from(meta.l2)) {
        Received::Local => meta.next = Next::Local,
        Received::Drop(reason) => meta.drop(reason),
        Received::Frame { vni, source, mac, ecn, headers, end } => {
            let Some(lif) = cx.shared.lifs.by_vni(vni) else { return meta.drop(DropReason::UnknownLif) };
            if let Err(reason) = strip(packet, headers, end, ecn) {
                return meta.drop(reason);
            }
            learn(cx, lif, packet.head(), source, mac);
            meta.in_lif = lif;
            arrived(packet, meta);
        }
    }
}

/// Cuts the frame out of its tunnel packet.
#[inline]
pub(crate) fn strip(
    packet: &mut impl Packet,
    headers: usize,
    end: usize,
    outer_ecn: u8,
) -> Result<(), DropReason> {
    if packet.total_len() > end && !packet.truncate(end) || !packet.trim_front(headers) {
        return Err(DropReason::Malformed);
    }
    let frame = packet.head_mut();
    if frame.len() < ethernet::LEN {
        return Err(DropReason::Malformed);
    }
    if ecn::decapsulate(frame, outer_ecn) { Ok(()) } else { Err(DropReason::EcnCongestion) }
}

#[inline(always)]
fn arrived(packet: &impl Packet, meta: &mut Meta) {
    meta.frame_len = packet.total_len() as u32;
    meta.next = Next::Classify;
}

#[inline]
fn learn(cx: &Context<'_>, lif: LifIndex, frame: &[u8], source: Address, outer_mac: [u8; 6]) {
    let Some(inner) = view::<Ethernet>(frame).map(|ethernet| ethernet.source) else { return };
    if is_group(&inner) {
        return;
    }
    let neighbors = &cx.shared.neighbors;
    let known = cx.shared.fdb.lookup(lif, inner, cx.second);
    let vtep = match known.filter(|vtep| neighbors.is(*vtep, Link::Underlay, source)) {
        Some(vtep) => vtep,
        None => match neighbors.find_or_claim(Link::Underlay, source, cx.now_ms) {
            Some(vtep) => vtep,
            None => return cx.counters.other(Other::NeighborFull, 1),
        },
    };
    neighbors.heard(vtep, outer_mac, cx.now_ms);
    if !cx.shared.fdb.learn(lif, inner, vtep, cx.second) {
        cx.counters.other(Other::FdbFull, 1);
    }
}
