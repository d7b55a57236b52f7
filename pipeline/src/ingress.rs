//! Group 0, exits: classify (a LIF's frame, its tag taken off), decap (the underlay), from_kernel (the trap port), drop
//! (`unknown_lif`, `malformed`).
//!
//! Which LIF or tunnel a frame belongs to, by port and tag.

use crate::PortIndex;
use crate::batch::{DropReason, Meta, Next};
use crate::decap;
use crate::lif::{Owner, TAGGED, UNTAGGED};
use crate::packet::Packet;
use crate::wire::ethernet::TAG_LEN;
use crate::worker::Context;

/// What a burst has beside tenants' frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct Others {
    /// Packets on the underlay.
    pub underlay: bool,
    /// Packets of the trap port.
    pub kernel: bool,
}

/// Marks all packets, which arrived on `port`.
#[inline(never)]
pub fn run<P: Packet>(cx: &Context<'_>, port: PortIndex, packets: &mut [P], metas: &mut [Meta]) -> Others {
    for packet in &*packets {
        packet.prefetch();
    }
    let count = packets.len() as u64;
    let mut bytes = 0;
    let mut others = Others::default();
    let (tags, lifs) = (cx.shared.lifs.tags(port), cx.counters.lifs());
    for (packet, meta) in packets.iter_mut().zip(metas) {
        let len = packet.total_len();
        bytes += len as u64;
        // Tags first, and by themselves: so an owner stays where it was read.
        let (in_lif, frame_len) = match tags.tagged(packet.head()) {
            Some(Owner::Lif(lif)) if decap::pop_tag(packet) => (lif, (len - TAG_LEN) as u32),
            Some(Owner::Underlay) => {
                *meta = Meta::of_underlay(TAGGED);
                others.underlay = true;
                continue;
            }
            Some(owner) => {
                others.kernel |= rare(Some((owner, TAGGED)), meta);
                continue;
            }
            None => match tags.untagged(packet.head()) {
                Some((Owner::Lif(lif), UNTAGGED)) => (lif, len as u32),
                Some((Owner::Underlay, UNTAGGED)) => {
                    *meta = Meta::of_underlay(UNTAGGED);
                    others.underlay = true;
                    continue;
                }
                owner => {
                    others.kernel |= rare(owner, meta);
                    continue;
                }
            },
        };
        *meta = Meta::of_tenant(in_lif, frame_len);
        lifs.rx(in_lif, frame_len);
    }
    cx.counters.port_rx(port, count, bytes);
    others
}

/// Marks a frame of the trap port, and one that nobody takes. Whether it is the former.
#[inline(never)]
fn rare(owner: Option<(Owner, u8)>, meta: &mut Meta) -> bool {
    *meta = Meta::default();
    match owner {
        Some((Owner::Kernel, l2)) => (meta.next, meta.l2) = (Next::Kernel, l2),
        Some((Owner::None, _)) => meta.drop(DropReason::UnknownLif),
        _ => meta.drop(DropReason::Malformed),
    }
    meta.next == Next::Kernel
}
