//! The way back, exits: encap (for the LIF of the VNI), local (no tunnel packet), drop (`unknown_lif`, `malformed`,
//! `bad_checksum`, `not_for_us`, `outer_fragment`, `ecn_congestion`). Never the trap: nothing can loop.

use crate::batch::{DropReason, Meta, Next};
use crate::counters::Other;
use crate::decap::strip;
use crate::neighbors::Link;
use crate::packet::Packet;
use crate::tunnel::Received;
use crate::wire::ethernet::ethertype;
use crate::wire::{Ethernet, view};
use crate::worker::Context;

/// Takes the packets marked kernel.
#[inline]
pub fn run<P: Packet>(cx: &Context<'_>, packets: &mut [P], metas: &mut [Meta]) {
    for (packet, meta) in packets.iter_mut().zip(metas) {
        if meta.next == Next::Kernel {
            open(cx, packet, meta);
        }
    }
}

fn open(cx: &Context<'_>, packet: &mut impl Packet, meta: &mut Meta) {
    match cx.shared.trap.receive(packet.head(), packet.total_len(), usize::from(meta.l2)) {
        Received::Local => meta.next = Next::Local,
        Received::Drop(reason) => meta.drop(reason),
        Received::Frame { vni, source, mac, ecn, headers, end } => {
            let Some(lif) = cx.shared.lifs.by_trap_vni(vni) else { return meta.drop(DropReason::UnknownLif) };
            if let Err(reason) = strip(packet, headers, end, ecn) {
                return meta.drop(reason);
            }
            if view::<Ethernet>(packet.head()).is_none_or(|e| ethertype::is_tag(e.ethertype.get())) {
                return meta.drop(DropReason::UnknownLif);
            }
            if cx.shared.neighbors.is(cx.shared.kernel, Link::Trap, source) {
                cx.shared.neighbors.heard(cx.shared.kernel, mac, cx.now_ms);
            }
            meta.out_lif = lif;
            meta.frame_len = packet.total_len() as u32;
            meta.next = Next::Encap;
            cx.counters.other(Other::FromKernel, 1);
        }
    }
}
