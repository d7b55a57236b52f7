//! Group 0, exits: classify (a LIF's frame, its tag taken off), decap (the underlay), from_kernel (the trap port), drop
//! (`unknown_lif`, `malformed`).
//!
//! Which LIF or tunnel a frame belongs to, by port and tag.

use crate::PortIndex;
use crate::batch::{DropReason, Meta, Next};
use crate::decap;
use crate::lif::Owner;
use crate::packet::Packet;
use crate::wire::ethernet::{self, TAG_LEN};
use crate::worker::Context;

/// Bytes before the network header of a frame without tag.
const UNTAGGED: u8 = ethernet::LEN as u8;

/// Marks all packets, which arrived on `port`. Whether none is for a tunnel or the gateway itself: all are tenants' frames.
#[inline(never)]
pub fn run<P: Packet>(cx: &Context<'_>, port: PortIndex, packets: &mut [P], metas: &mut [Meta]) -> bool {
    for packet in &*packets {
        packet.prefetch();
    }
    let count = packets.len() as u64;
    let mut bytes = 0;
    let mut only_tenants = true;
    let (tags, lifs) = (cx.shared.lifs.tags(port), cx.counters.lifs());
    for (packet, meta) in packets.iter_mut().zip(metas) {
        let len = packet.total_len();
        bytes += len as u64;
        let (in_lif, frame_len) = if let Some(lif) = tags.tagged_lif(packet.head())
            && decap::pop_tag(packet)
        {
            (lif, (len - TAG_LEN) as u32)
        } else if let Some((Owner::Lif(lif), UNTAGGED)) = tags.owner(packet.head()) {
            (lif, len as u32)
        } else {
            only_tenants &= not_a_lif(tags.owner(packet.head()), meta);
            continue;
        };
        *meta = Meta::of_tenant(in_lif, frame_len);
        lifs.rx(in_lif, frame_len);
    }
    cx.counters.port_rx(port, count, bytes);
    only_tenants
}

/// Marks a frame that no LIF takes. Whether nobody else does either.
#[inline(never)]
fn not_a_lif(owner: Option<(Owner, u8)>, meta: &mut Meta) -> bool {
    *meta = Meta::default();
    match owner {
        None | Some((Owner::Lif(_), _)) => meta.drop(DropReason::Malformed),
        Some((Owner::None, _)) => meta.drop(DropReason::UnknownLif),
        Some((Owner::Underlay, l2)) => (meta.next, meta.l2) = (Next::Underlay, l2),
        Some((Owner::Kernel, l2)) => (meta.next, meta.l2) = (Next::Kernel, l2),
    }
    meta.next == Next::Drop
}
