//! Group 2, second half, exits: encap (established, related), trap (`new`, `tcp_control`, `exception`), drop (`session_drop`,
//! `rate_limited`, `bad_checksum`, `unknown_lif`).
//!
//! Seeks the flows of a chunk while others are at work, then takes packet by packet what its flow says.

use crate::batch::{DropReason, Kind, Meta, Next, TrapClass, Way};
use crate::classify::Keys;
use crate::counters::Other;
use crate::egress::Out;
use crate::mirror;
use crate::nat::{self, Applied};
use crate::packet::{Io, Packet};
use crate::related;
use crate::wire::{ethernet, ipv6};
use crate::worker::Context;
use conntrack::table::{Burst, FlowV4, FlowV6, Take};
use conntrack::{L2Index, L2Rewrite, LifIndex, Rewrite, RewriteFlags, TcpFlags, Timestamp};
use std::net::IpAddr;

/// Has the flows of all keys come to the cache, for [`run`].
#[inline(always)]
pub fn seek(burst: &Burst<'_>, keys: &mut Keys) {
    keys.unsettled = [burst.seek_v4(&mut keys.v4), burst.seek_v6(&mut keys.v6)];
}

/// The same for those of them that [`seek`] had to ask for more for.
#[inline(always)]
pub fn settle(burst: &Burst<'_>, keys: &mut Keys) {
    let [v4, v6] = keys.unsettled;
    burst.settle_v4(&mut keys.v4, v4);
    burst.settle_v6(&mut keys.v6, v6);
}

/// Takes the packets that have keys. Whether all of them go to encap.
#[inline(never)]
pub fn run<P: Packet>(
    cx: &Context<'_>,
    burst: &Burst<'_>,
    packets: &mut [P],
    metas: &mut [Meta],
    keys: &Keys,
    out: &mut Out<'_, P, impl Io<P>>,
) -> bool {
    // As many of the one as of the other: one check for both.
    let metas = metas.get_mut(..packets.len()).unwrap_or_default();
    let mut rest = Rest::default();
    let mut chunk = Chunk { cx, packets, metas, out, rest: &mut rest };
    burst.take_v4(&keys.v4, cx.timestamp, &mut chunk);
    burst.take_v6(&keys.v6, cx.timestamp, &mut chunk);
    let asked = keys.v4.len() + keys.v6.len();
    let established = (asked as u64).saturating_sub(rest.related + rest.stayed);
    cx.counters.other(Other::Established, established);
    cx.counters.other(Other::Related, rest.related);
    rest.stayed == 0 && asked == packets.len()
}

/// Of the packets that have keys, those that are not just established: so what most packets are need not be counted.
#[derive(Default)]
struct Rest {
    /// Went to encap as errors of established sessions.
    related: u64,
    /// Did not go to encap.
    stayed: u64,
}

/// The packets that are taken together.
struct Chunk<'c, 'o, P, I> {
    cx: &'c Context<'c>,
    packets: &'c mut [P],
    metas: &'c mut [Meta],
    out: &'c mut Out<'o, P, I>,
    // Elsewhere, since what others can write to is kept in memory.
    rest: &'c mut Rest,
}

impl<P: Packet, I: Io<P>, F: Flow> Take<F> for Chunk<'_, '_, P, I> {
    #[inline(always)]
    fn found(&mut self, number: u8, flow: F) {
        let number = usize::from(number);
        if let (Some(packet), Some(meta)) = (self.packets.get_mut(number), self.metas.get_mut(number)) {
            one(self.cx, packet, meta, flow, self.rest, self.out);
        }
    }

    #[inline(always)]
    fn missing(&mut self, number: u8) {
        self.rest.stayed += 1;
        if let Some(meta) = self.metas.get_mut(usize::from(number)) {
            meta.trap(TrapClass::New);
        }
    }
}

#[inline(always)]
fn one<P: Packet, F: Flow>(
    cx: &Context<'_>,
    packet: &mut P,
    meta: &mut Meta,
    flow: F,
    rest: &mut Rest,
    out: &mut Out<'_, P, impl Io<P>>,
) {
    let flags = flow.flags();
    if flags.any(RewriteFlags::SPECIAL) || !meta.kind.is_plain() {
        special(cx, packet, meta, flow, rest, out);
    } else {
        established(cx, packet, meta, flow, flags, rest);
    }
}

/// What is not just rewritten and sent on.
#[cold]
fn special<P: Packet, F: Flow>(
    cx: &Context<'_>,
    packet: &mut P,
    meta: &mut Meta,
    flow: F,
    rest: &mut Rest,
    out: &mut Out<'_, P, impl Io<P>>,
) {
    let rewrite = &flow.rewrite();
    if rewrite.flags.any(RewriteFlags::DEAD) {
        // It ended since the burst was looked up, by an earlier packet of it.
        rest.stayed += 1;
        return meta.trap(TrapClass::New);
    }
    if rewrite.flags.any(RewriteFlags::POLICED) && !is_within_limit(cx, meta, flow, rewrite.flags) {
        rest.stayed += 1;
        return meta.drop(DropReason::RateLimited);
    }
    if rewrite.flags.any(RewriteFlags::MIRROR) && meta.kind != Kind::Error {
        mirror::run(cx, packet, meta, session_lif(meta, flow, rewrite), flow.collector(), out);
    }
    if rewrite.flags.any(RewriteFlags::DROP) {
        if meta.kind != Kind::Error {
            flow.count(cx.timestamp, session_bytes(meta));
        }
        rest.stayed += 1;
        meta.drop(DropReason::SessionDrop);
    } else if meta.kind == Kind::Error {
        error(cx, packet, meta, flow, rewrite, rest);
    } else if meta.kind == Kind::Control {
        flow.observe(meta.tcp_flags, cx.timestamp);
        rest.stayed += 1;
        meta.trap(TrapClass::TcpControl);
    } else {
        established(cx, packet, meta, flow, rewrite.flags, rest);
        if rewrite.flags.any(RewriteFlags::SNOOP) && meta.next == Next::Encap {
            nat::write_macs(packet.head_mut(), rewrite.flags, &flow.l2());
            mirror::run(cx, packet, meta, session_lif(meta, flow, rewrite), flow.collector(), out);
        }
    }
}

/// Takes the packet from its session's rate limit, if it is of those that a session forwards itself.
#[cold]
fn is_within_limit<F: Flow>(cx: &Context<'_>, meta: &Meta, flow: F, flags: RewriteFlags) -> bool {
    let is_forwarded = !flags.any(RewriteFlags::DROP) && meta.kind.is_plain();
    !is_forwarded || flow.admit(cx.timestamp, session_bytes(meta))
}

#[inline(always)]
fn established<P: Packet, F: Flow>(
    cx: &Context<'_>,
    packet: &mut P,
    meta: &mut Meta,
    flow: F,
    flags: RewriteFlags,
    rest: &mut Rest,
) {
    if meta.ip_len > cx.shared.lifs.least_mtu() && !fits(cx, meta, &flow.l2()) {
        rest.stayed += 1;
        return;
    }
    let applied = match flags.any(RewriteFlags::ROUTED) {
        true => rewrite(packet, meta, flow, flags),
        false => rewrite_bridged(packet, meta, flow, flags),
    };
    match applied {
        Applied::Done => {
            flow.count(cx.timestamp, session_bytes(meta));
            meta.next = Next::Encap;
        }
        Applied::Expired | Applied::Short => {
            rest.stayed += 1;
            meta.trap(TrapClass::Exception);
        }
    }
}

/// The same, out of the way of the registers of packets that are routed.
#[inline(never)]
fn rewrite_bridged<P: Packet, F: Flow>(
    packet: &mut P,
    meta: &mut Meta,
    flow: F,
    flags: RewriteFlags,
) -> Applied {
    rewrite(packet, meta, flow, flags)
}

/// The packet's bytes, and where it goes.
#[inline(always)]
fn rewrite<P: Packet, F: Flow>(packet: &mut P, meta: &mut Meta, flow: F, flags: RewriteFlags) -> Applied {
    let applied = F::apply(packet.head_mut(), meta, flags, flow);
    if applied == Applied::Done {
        // Where the headers are not that simple, the port is found in the packet.
        let is_plain = !F::IS_V6 || usize::from(meta.l4) == ethernet::LEN + ipv6::LEN;
        meta.outer_port = if is_plain { flow.outer_port() } else { 0 };
        if flags.any(RewriteFlags::ROUTED) {
            meta.way = Way::of(flow.l2_index());
        } else {
            meta.out_lif = flow.l2().out_lif;
        }
    }
    applied
}

#[cold]
fn error<P: Packet, F: Flow>(
    cx: &Context<'_>,
    packet: &mut P,
    meta: &mut Meta,
    flow: F,
    rewrite: &Rewrite<F::Address>,
    rest: &mut Rest,
) {
    let l2 = flow.l2();
    if !related::checksum_is_right(packet, meta, F::IS_V6) {
        meta.drop(related::WRONG);
    } else if fits(cx, meta, &l2) {
        if F::apply_error(packet.head_mut(), meta, rewrite) == Applied::Done {
            nat::write_macs(packet.head_mut(), rewrite.flags, &l2);
            meta.out_lif = l2.out_lif;
            meta.next = Next::Encap;
            rest.related += 1;
            return;
        }
        meta.trap(TrapClass::Exception);
    }
    rest.stayed += 1;
}

/// Whether the out LIF takes a packet of that size; marks it otherwise.
#[inline(always)]
fn fits(cx: &Context<'_>, meta: &mut Meta, l2: &L2Rewrite) -> bool {
    match cx.shared.lifs.get(l2.out_lif) {
        Some(lif) if meta.ip_len <= lif.mtu => return true,
        Some(_) => meta.trap(TrapClass::Exception),
        None => meta.drop(DropReason::UnknownLif),
    }
    false
}

/// The LIF of the session's own direction.
fn session_lif<F: Flow>(meta: &Meta, flow: F, rewrite: &Rewrite<F::Address>) -> LifIndex {
    if rewrite.flags.any(RewriteFlags::REVERSE) { flow.l2().out_lif } else { meta.in_lif }
}

/// What a session counts: the tenant's frame without padding.
#[inline(always)]
fn session_bytes(meta: &Meta) -> u32 {
    ethernet::LEN as u32 + meta.ip_len
}

/// A flow of either family.
trait Flow: Copy {
    type Address;
    const IS_V6: bool;
    fn flags(&self) -> RewriteFlags;
    fn rewrite(&self) -> Rewrite<Self::Address>;
    fn outer_port(&self) -> u16;
    fn l2_index(&self) -> L2Index;
    fn l2(&self) -> L2Rewrite;
    fn count(&self, now: Timestamp, bytes: u32);
    fn admit(&self, now: Timestamp, bytes: u32) -> bool;
    fn observe(&self, flags: TcpFlags, now: Timestamp);
    fn collector(&self) -> Option<IpAddr>;
    fn apply(frame: &mut [u8], meta: &Meta, flags: RewriteFlags, flow: Self) -> Applied;
    fn apply_error(frame: &mut [u8], meta: &Meta, rewrite: &Rewrite<Self::Address>) -> Applied;
}

macro_rules! flow {
    ($flow:ident, $address:ty, $is_v6:literal, $apply:ident, $apply_error:path) => {
        impl Flow for $flow<'_> {
            type Address = $address;
            const IS_V6: bool = $is_v6;
            #[inline(always)]
            fn flags(&self) -> RewriteFlags {
                $flow::flags(self)
            }
            #[inline(always)]
            fn rewrite(&self) -> Rewrite<Self::Address> {
                $flow::rewrite(self)
            }
            #[inline(always)]
            fn outer_port(&self) -> u16 {
                $flow::outer_port(self)
            }
            #[inline(always)]
            fn l2_index(&self) -> L2Index {
                $flow::l2_index(self)
            }
            #[inline(always)]
            fn l2(&self) -> L2Rewrite {
                $flow::l2(self)
            }
            #[inline(always)]
            fn count(&self, now: Timestamp, bytes: u32) {
                $flow::count(self, now, bytes);
            }
            fn admit(&self, now: Timestamp, bytes: u32) -> bool {
                $flow::admit(self, now, bytes)
            }
            fn observe(&self, flags: TcpFlags, now: Timestamp) {
                $flow::observe(self, flags, now);
            }
            fn collector(&self) -> Option<IpAddr> {
                $flow::collector(self)
            }
            #[inline(always)]
            fn apply(frame: &mut [u8], meta: &Meta, flags: RewriteFlags, flow: Self) -> Applied {
                nat::$apply(frame, meta, flags, &flow)
            }
            fn apply_error(frame: &mut [u8], meta: &Meta, rewrite: &Rewrite<Self::Address>) -> Applied {
                $apply_error(frame, meta, rewrite)
            }
        }
    };
}

flow!(FlowV4, [u8; 4], false, apply_v4, related::apply_v4);
flow!(FlowV6, [u8; 16], true, apply_v6, related::apply_v6);
