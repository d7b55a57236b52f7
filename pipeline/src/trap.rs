//! The trap, exits: egress (on the trap port), drop (`trap_limited`, `no_neighbor`, `no_headroom`, `unknown_lif`).
//!
//! Packets go to the kernel as they arrived, in a tunnel with the VNI of their LIF.

use crate::batch::{DropReason, Meta, Next};
use crate::packet::Packet;
use crate::tunnel::Inner;
use crate::worker::{Context, Due};

/// Takes the packets marked trap.
#[inline]
pub fn run<P: Packet>(cx: &Context<'_>, packets: &mut [P], metas: &mut [Meta], due: &mut Due) {
    for (packet, meta) in packets.iter_mut().zip(metas) {
        if meta.next == Next::Trap
            && let Err(reason) = trap(cx, packet, meta, due)
        {
            meta.drop(reason);
        }
    }
}

fn trap(
    cx: &Context<'_>,
    packet: &mut impl Packet,
    meta: &mut Meta,
    due: &mut Due,
) -> Result<(), DropReason> {
    let lif = cx.shared.lifs.get(meta.in_lif).ok_or(DropReason::UnknownLif)?;
    if !cx.shared.limits.take(meta.in_lif, meta.class, cx.now) {
        cx.counters.trap_limited(meta.class);
        return Err(DropReason::TrapLimited);
    }
    let tunnel = &cx.shared.trap;
    let remote = cx.next_hop(cx.shared.kernel, due).ok_or(DropReason::NoNeighbor)?;
    let inner = Inner::of(packet.head());
    if tunnel.outer(&remote, lif.trap_vni).put(packet, inner).is_none() {
        return Err(DropReason::NoHeadroom);
    }
    cx.counters.trap(meta.class);
    meta.send(tunnel.port);
    Ok(())
}
