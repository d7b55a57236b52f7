//! Group 3, exits: egress (on the out LIF's port), drop (`no_neighbor`, `no_vtep`, `no_headroom`, `unknown_lif`).
//!
//! Makes of a frame what its out LIF wants: nothing, a tag, or a tunnel packet to the VTEP behind the destination MAC; frames
//! for everybody, or for nobody known, are replicated to all the LIF's VTEPs, the original to the last of them.

use crate::PortIndex;
use crate::adjacency::Adjacencies;
use crate::batch::{DropReason, Meta, Metas, Next};
use crate::config::Encapsulation;
use crate::counters::{Other, Run};
use crate::egress::Out;
use crate::fdb;
use crate::lif::Entry;
use crate::packet::{Io, Packet};
use crate::tunnel::{Inner, Outer, Tunnel};
use crate::wire::ethernet::{self, TAG_LEN, ethertype, is_group};
use crate::wire::{Ethernet, view};
use crate::worker::Context;

/// Takes the packets marked encap.
#[inline(never)]
pub fn run<P: Packet>(
    cx: &Context<'_>,
    adjacencies: &mut Adjacencies,
    packets: &mut [P],
    metas: &mut Metas,
    out: &mut Out<'_, P, impl Io<P>>,
) {
    let validity = cx.validity();
    let mut sent = Run::default();
    for (packet, meta) in packets.iter_mut().zip(metas) {
        if meta.next != Next::Encap {
            continue;
        }
        let done = match adjacent(adjacencies, validity, packet, meta) {
            Some((outer, inner)) => {
                outer.put(packet, inner).then_some(outer.port).ok_or(DropReason::NoHeadroom)
            }
            None => leave(cx, adjacencies, validity, packet, meta, out),
        };
        match done {
            Ok(port) => {
                if let Some(run) = sent.add(meta.out_lif, meta.frame_len) {
                    cx.counters.lif_tx(run);
                }
                meta.send(port);
            }
            Err(reason) => meta.drop(reason),
        }
    }
    cx.counters.lif_tx(sent);
}

/// The headers of a flow's packet, if they are known already.
#[inline(always)]
fn adjacent<'a>(
    adjacencies: &'a Adjacencies,
    validity: u64,
    packet: &impl Packet,
    meta: &Meta,
) -> Option<(&'a Outer, Inner)> {
    let start = *view::<[u8; 8]>(packet.head())?;
    let outer = adjacencies.get(fdb::key_of(meta.out_lif, start), validity)?;
    (meta.outer_port != 0).then_some((outer, Inner { tos: meta.tos, source_port: meta.outer_port }))
}

/// All others; the port to send on.
#[inline(never)]
fn leave<P: Packet>(
    cx: &Context<'_>,
    adjacencies: &mut Adjacencies,
    validity: u64,
    packet: &mut P,
    meta: &Meta,
    out: &mut Out<'_, P, impl Io<P>>,
) -> Result<PortIndex, DropReason> {
    let lif = cx.shared.lifs.get(meta.out_lif).ok_or(DropReason::UnknownLif)?;
    match lif.encapsulation {
        Encapsulation::Untagged => {}
        Encapsulation::Vlan(vlan) => push_tag(packet, vlan)?,
        Encapsulation::Vxlan(vni) => {
            let tunnel = cx.shared.underlay.as_ref().ok_or(DropReason::UnknownLif)?;
            let inner = Inner::of(packet.head());
            let network = Network { cx, tunnel, lif, vni };
            let outer = network.resolve(adjacencies, validity, packet, meta, inner, out)?;
            if !outer.put(packet, inner) {
                return Err(DropReason::NoHeadroom);
            }
        }
    }
    Ok(lif.port)
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

/// The VXLAN network a packet leaves on.
struct Network<'a, 'c> {
    cx: &'a Context<'c>,
    tunnel: &'a Tunnel,
    lif: &'a Entry,
    vni: u32,
}

impl Network<'_, '_> {
    /// The headers to the VTEP behind the destination MAC; where there is none known, or several, after copies to all but
    /// the last.
    fn resolve<P: Packet>(
        &self,
        adjacencies: &mut Adjacencies,
        validity: u64,
        packet: &P,
        meta: &Meta,
        inner: Inner,
        out: &mut Out<'_, P, impl Io<P>>,
    ) -> Result<Outer, DropReason> {
        let destination = view::<Ethernet>(packet.head()).ok_or(DropReason::Malformed)?.destination;
        let key = fdb::key(meta.out_lif, destination);
        if let Some(outer) = adjacencies.get(key, validity) {
            return Ok(outer.clone());
        }
        let known = match is_group(&destination) {
            true => None,
            false => self.cx.shared.fdb.lookup(meta.out_lif, destination, self.cx.second),
        };
        let Some(vtep) = known else { return self.replicate(packet, inner, out) };
        let remote = self.cx.underlay_hop(vtep, out.due).ok_or(DropReason::NoNeighbor)?;
        let outer = self.tunnel.outer(&remote, self.vni);
        adjacencies.put(key, validity, &outer);
        Ok(outer)
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
                match copy.and_then(|mut copy| previous.put(&mut copy, inner).then_some(copy)) {
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
