//! Group 3, exits: egress (on the out LIF's port), drop (`no_neighbor`, `no_vtep`, `no_headroom`, `unknown_lif`).
//!
//! Makes of a frame what its out LIF wants: nothing, a tag, or a tunnel packet to the VTEP behind the destination MAC; frames
//! for everybody, or for nobody known, are replicated to all the LIF's VTEPs, the original to the last of them.

use crate::PortIndex;
use crate::adjacency::{self, Adjacencies, Headers};
use crate::batch::{DropReason, Meta, Next};
use crate::config::Encapsulation;
use crate::counters::Other;
use crate::egress::Out;
use crate::fdb;
use crate::lif::Entry;
use crate::nat;
use crate::packet::{Io, Packet};
use crate::tunnel::{Inner, Outer, Tunnel};
use crate::wire::ethernet::{self, TAG_LEN, is_group};
use crate::wire::{Ethernet, view};
use crate::worker::Context;
use conntrack::table::Burst;
use conntrack::{L2Rewrite, LifIndex, RewriteFlags};

/// Takes the packets marked encap; `burst` is that in which their flows were found.
#[inline(always)]
pub fn run<P: Packet>(
    cx: &Context<'_>,
    burst: &Burst<'_>,
    adjacencies: &mut Adjacencies,
    packets: &mut [P],
    metas: &mut [Meta],
    out: &mut Out<'_, P, impl Io<P>>,
) {
    // After their lookup: what a place of a session's L2 rewrite was before is not taken for theirs.
    let validity = cx.validity();
    if !put_known(cx, adjacencies, validity, packets, metas) {
        resolve(cx, burst, adjacencies, validity, packets, metas, out);
    }
}

/// Takes all others.
#[cold]
fn resolve<P: Packet>(
    cx: &Context<'_>,
    burst: &Burst<'_>,
    adjacencies: &mut Adjacencies,
    validity: u64,
    packets: &mut [P],
    metas: &mut [Meta],
    out: &mut Out<'_, P, impl Io<P>>,
) {
    for (packet, meta) in packets.iter_mut().zip(metas).filter(|(_, meta)| meta.next == Next::Encap) {
        match leave(cx, burst, adjacencies, validity, packet, meta, out) {
            Ok((lif, port)) => {
                cx.counters.lifs().tx(lif, meta.frame_len);
                meta.send(port);
            }
            Err(reason) => meta.drop(reason),
        }
    }
}

/// Takes the packets of flows whose headers are known. Whether no others are left.
#[inline(never)]
fn put_known<P: Packet>(
    cx: &Context<'_>,
    adjacencies: &Adjacencies,
    validity: u64,
    packets: &mut [P],
    metas: &mut [Meta],
) -> bool {
    let lifs = cx.counters.lifs();
    let mut all = true;
    for (packet, meta) in packets.iter_mut().zip(metas) {
        if meta.next == Next::Encap
            && meta.outer_port != 0
            && let Some(headers) = adjacencies.way(meta.way, validity)
        {
            if headers.put(packet, Inner { tos: meta.tos, source_port: meta.outer_port }).is_some() {
                meta.send(headers.port);
                lifs.tx(headers.lif, meta.frame_len);
            } else {
                meta.drop(DropReason::NoHeadroom);
            }
        } else {
            all &= meta.next != Next::Encap;
        }
    }
    all
}

/// One of them: LIF and port to send on.
#[inline(never)]
fn leave<P: Packet>(
    cx: &Context<'_>,
    burst: &Burst<'_>,
    adjacencies: &mut Adjacencies,
    validity: u64,
    packet: &mut P,
    meta: &Meta,
    out: &mut Out<'_, P, impl Io<P>>,
) -> Result<(LifIndex, PortIndex), DropReason> {
    let l2 = match meta.way.index() {
        Some(index) => burst.l2(index),
        None => L2Rewrite { out_lif: meta.out_lif, ..Default::default() },
    };
    let index = l2.out_lif;
    let lif = cx.shared.lifs.get(index).ok_or(DropReason::UnknownLif)?;
    if meta.way.index().is_some() {
        nat::write_macs(packet.head_mut(), RewriteFlags(RewriteFlags::ROUTED), &l2);
    }
    match lif.encapsulation {
        Encapsulation::Untagged => {
            adjacencies.put_way(meta.way, validity, Headers::untagged(index, lif.port, l2.macs));
        }
        Encapsulation::Vlan(vlan) => {
            adjacencies.put_way(meta.way, validity, Headers::vlan(index, lif.port, l2.macs, vlan));
            push_tag(packet, vlan)?;
        }
        Encapsulation::Vxlan(vni) => {
            let tunnel = cx.shared.underlay.as_ref().ok_or(DropReason::UnknownLif)?;
            let inner = Inner::of(packet.head());
            let network = Network { cx, tunnel, index, lif, vni };
            let (outer, known) = network.resolve(adjacencies, validity, packet, inner, out)?;
            outer.put(packet, inner).ok_or(DropReason::NoHeadroom)?;
            if known {
                adjacencies.put_way(meta.way, validity, Headers::vxlan(index, l2.macs, outer));
            }
        }
    }
    Ok((index, lif.port))
}

#[inline]
fn push_tag(packet: &mut impl Packet, vlan: u16) -> Result<(), DropReason> {
    let head = packet.prepend(TAG_LEN).ok_or(DropReason::NoHeadroom)?;
    let start = head.first_chunk_mut::<16>().ok_or(DropReason::NoHeadroom)?;
    start.copy_within(TAG_LEN.., 0);
    if let Some(tag) = start.last_chunk_mut::<TAG_LEN>() {
        *tag = adjacency::tag(vlan);
    }
    Ok(())
}

/// The VXLAN network a packet leaves on.
struct Network<'a, 'c> {
    cx: &'a Context<'c>,
    tunnel: &'a Tunnel,
    index: LifIndex,
    lif: &'a Entry,
    vni: u32,
}

impl Network<'_, '_> {
    /// The headers to the VTEP behind the destination MAC, and whether it is known; where there is none known, or several,
    /// after copies to all but the last.
    fn resolve<P: Packet>(
        &self,
        adjacencies: &mut Adjacencies,
        validity: u64,
        packet: &P,
        inner: Inner,
        out: &mut Out<'_, P, impl Io<P>>,
    ) -> Result<(Outer, bool), DropReason> {
        let destination = view::<Ethernet>(packet.head()).ok_or(DropReason::Malformed)?.destination;
        let key = fdb::key(self.index, destination);
        if let Some(outer) = adjacencies.destination(key, validity) {
            return Ok((outer.clone(), true));
        }
        let known = match is_group(&destination) {
            true => None,
            false => self.cx.shared.fdb.lookup(self.index, destination, self.cx.second),
        };
        let Some(vtep) = known else { return Ok((self.replicate(packet, inner, out)?, false)) };
        let remote = self.cx.underlay_hop(vtep, out.due).ok_or(DropReason::NoNeighbor)?;
        let outer = self.tunnel.outer(&remote, self.vni);
        adjacencies.put_destination(key, validity, &outer);
        Ok((outer, true))
    }

    /// Sends copies to all VTEPs that can be reached but the last, which is returned for the original.
    fn replicate<P: Packet>(
        &self,
        packet: &P,
        inner: Inner,
        out: &mut Out<'_, P, impl Io<P>>,
    ) -> Result<Outer, DropReason> {
        let cx = self.cx;
        let mut last: Option<Outer> = None;
        let mut unreachable = 0;
        for vtep in &self.lif.vteps {
            let Some(remote) = cx.underlay_hop(*vtep, out.due) else {
                unreachable += 1;
                continue;
            };
            if let Some(previous) = last.replace(self.tunnel.outer(&remote, self.vni)) {
                let copy = out.io.duplicate(packet, ethernet::LEN);
                match copy.and_then(|mut copy| previous.put(&mut copy, inner).is_some().then_some(copy)) {
                    Some(copy) => {
                        cx.counters.other(Other::Replicated, 1);
                        out.send(cx, self.tunnel.port, copy);
                    }
                    None => cx.counters.other(Other::ReplicaFailed, 1),
                }
            }
        }
        match last {
            Some(outer) => {
                cx.counters.other(Other::ReplicaFailed, unreachable);
                Ok(outer)
            }
            None if self.lif.vteps.is_empty() => Err(DropReason::NoVtep),
            None => Err(DropReason::NoNeighbor),
        }
    }
}
