//! Group 3, exits: egress (on the out LIF's port), drop (`no_neighbor`, `no_vtep`, `no_headroom`, `unknown_lif`).
//!
//! Makes of a frame what its out LIF wants: nothing, a tag, or a tunnel packet to the VTEP behind the destination MAC; frames
//! for everybody, or for nobody known, are replicated to all the LIF's VTEPs, the original to the last of them.

use crate::batch::{DropReason, Meta, Metas, Next};
use crate::config::Encapsulation;
use crate::counters::Other;
use crate::egress::Out;
use crate::lif::Entry;
use crate::neighbors::NeighborIndex;
use crate::packet::{Io, Packet};
use crate::tunnel::{Remote, Tunnel, entropy, inner_tos};
use crate::wire::ethernet::{TAG_LEN, ethertype, is_group};
use crate::wire::{Ethernet, view};
use crate::worker::Context;

/// Takes the packets marked encap.
#[inline]
pub fn run<P: Packet>(
    cx: &Context<'_>,
    packets: &mut [P],
    metas: &mut Metas,
    out: &mut Out<'_, P, impl Io<P>>,
) {
    for (packet, meta) in packets.iter_mut().zip(metas) {
        if meta.next != Next::Encap {
            continue;
        }
        let Some(lif) = cx.shared.lifs.get(meta.out_lif) else {
            meta.drop(DropReason::UnknownLif);
            continue;
        };
        let done = match lif.encapsulation {
            Encapsulation::Untagged => Ok(()),
            Encapsulation::Vlan(vlan) => push_tag(packet, vlan),
            Encapsulation::Vxlan(vni) => match &cx.shared.underlay {
                Some(tunnel) => tunnel_to(cx, tunnel, lif, vni, packet, meta, out),
                None => Err(DropReason::UnknownLif),
            },
        };
        match done {
            Ok(()) => {
                cx.counters.lif_tx(meta.out_lif, meta.frame_len);
                meta.send(lif.port);
            }
            Err(reason) => meta.drop(reason),
        }
    }
}

#[inline]
fn push_tag(packet: &mut impl Packet, vlan: u16) -> Result<(), DropReason> {
    let head = packet.prepend(TAG_LEN).ok_or(DropReason::NoHeadroom)?;
    let start = head.first_chunk_mut::<16>().ok_or(DropReason::NoHeadroom)?;
    start.copy_within(TAG_LEN.., 0);
    let [a, b] = ethertype::VLAN.to_be_bytes();
    let [c, d] = vlan.to_be_bytes();
    if let Some(tag) = start.last_chunk_mut::<TAG_LEN>() {
        *tag = [a, b, c, d];
    }
    Ok(())
}

#[inline]
fn tunnel_to<P: Packet>(
    cx: &Context<'_>,
    tunnel: &Tunnel,
    lif: &Entry,
    vni: u32,
    packet: &mut P,
    meta: &Meta,
    out: &mut Out<'_, P, impl Io<P>>,
) -> Result<(), DropReason> {
    let frame = packet.head();
    let destination = view::<Ethernet>(frame).ok_or(DropReason::Malformed)?.destination;
    let flow = Flow { vni, tos: inner_tos(frame), entropy: entropy(frame) };
    let known = match is_group(&destination) {
        true => None,
        false => cx.shared.fdb.lookup(meta.out_lif, destination, cx.second),
    };
    let remote = match known {
        Some(vtep) => cx.next_hop(vtep, out.due).ok_or(DropReason::NoNeighbor)?,
        None => replicate(cx, tunnel, &lif.vteps, flow, packet, out)?,
    };
    flow.encapsulate(tunnel, packet, &remote)
}

#[derive(Clone, Copy)]
struct Flow {
    vni: u32,
    tos: u8,
    entropy: u16,
}

impl Flow {
    #[inline]
    fn encapsulate(
        self,
        tunnel: &Tunnel,
        packet: &mut impl Packet,
        remote: &Remote,
    ) -> Result<(), DropReason> {
        match tunnel.encapsulate(packet, remote, self.vni, self.tos, self.entropy) {
            true => Ok(()),
            false => Err(DropReason::NoHeadroom),
        }
    }
}

/// Sends copies to all `vteps` that can be reached but the last, which is returned for the original.
#[cold]
fn replicate<P: Packet>(
    cx: &Context<'_>,
    tunnel: &Tunnel,
    vteps: &[NeighborIndex],
    flow: Flow,
    packet: &P,
    out: &mut Out<'_, P, impl Io<P>>,
) -> Result<Remote, DropReason> {
    let mut last: Option<Remote> = None;
    let mut unreachable = 0;
    for vtep in vteps {
        let Some(remote) = cx.next_hop(*vtep, out.due) else {
            unreachable += 1;
            continue;
        };
        if let Some(previous) = last.replace(remote) {
            let copy = out.io.duplicate(packet).and_then(|mut copy| {
                flow.encapsulate(tunnel, &mut copy, &previous).ok()?;
                Some(copy)
            });
            match copy {
                Some(copy) => {
                    cx.counters.other(Other::Replicated, 1);
                    out.send(cx, tunnel.port, copy);
                }
                None => cx.counters.other(Other::ReplicaFailed, 1),
            }
        }
    }
    match last {
        Some(remote) => {
            cx.counters.other(Other::ReplicaFailed, unreachable);
            Ok(remote)
        }
        None if vteps.is_empty() => Err(DropReason::NoVtep),
        None => Err(DropReason::NoNeighbor),
    }
}
