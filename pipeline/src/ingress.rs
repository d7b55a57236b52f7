//! Group 0, exits: decap (a LIF's tag, or the underlay), from_kernel (the trap port), drop (`unknown_lif`, `malformed`).
//!
//! Which LIF or tunnel a frame belongs to, by port and tag.

use crate::PortIndex;
use crate::batch::{DropReason, Meta, Metas, Next};
use crate::lif::Owner;
use crate::packet::Packet;
use crate::worker::Context;

/// Marks all packets, which arrived on `port`. Whether none is for a tunnel or the gateway itself: all are tenants' frames.
#[inline(never)]
pub fn run<P: Packet>(cx: &Context<'_>, port: PortIndex, packets: &[P], metas: &mut Metas) -> bool {
    for packet in packets {
        packet.prefetch();
    }
    let mut bytes = 0;
    let mut only_tenants = true;
    let tags = cx.shared.lifs.tags(port);
    for (packet, meta) in packets.iter().zip(metas) {
        *meta = Meta::default();
        bytes += packet.total_len() as u64;
        match tags.owner(packet.head()) {
            None => meta.drop(DropReason::Malformed),
            Some((Owner::None, _)) => meta.drop(DropReason::UnknownLif),
            Some((owner, l2)) => {
                meta.l2 = l2;
                match owner {
                    Owner::Lif(lif) => {
                        meta.in_lif = lif;
                        meta.next = Next::Untag;
                    }
                    Owner::Underlay => {
                        meta.next = Next::Underlay;
                        only_tenants = false;
                    }
                    _ => {
                        meta.next = Next::Kernel;
                        only_tenants = false;
                    }
                }
            }
        }
    }
    cx.counters.port_rx(port, packets.len() as u64, bytes);
    only_tenants
}
