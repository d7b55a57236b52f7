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
use conntrack::table::{Burst, FlowV4, FlowV6};
use conntrack::{L2Rewrite, LifIndex, Rewrite, RewriteFlags, TcpFlags, Timestamp};
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
    let mut done = Done::default();
    // As many of the one as of the other: one check for both.
    let metas = metas.get_mut(..packets.len()).unwrap_or_default();
    burst.take_v4(&keys.v4, cx.timestamp, |number, flow: Option<FlowV4<'_>>| {
        if let Some((packet, meta)) = at(packets, metas, number) {
            one(cx, packet, meta, flow, &mut done, out);
        }
    });
    burst.take_v6(&keys.v6, cx.timestamp, |number, flow: Option<FlowV6<'_>>| {
        if let Some((packet, meta)) = at(packets, metas, number) {
            one(cx, packet, meta, flow, &mut done, out);
        }
    });
    cx.counters.other(Other::Established, done.established);
    cx.counters.other(Other::Related, done.related);
    done.established + done.related == packets.len() as u64
}

#[inline(always)]
fn at<'p, P>(packets: &'p mut [P], metas: &'p mut [Meta], number: u8) -> Option<(&'p mut P, &'p mut Meta)> {
    Some((packets.get_mut(usize::from(number))?, metas.get_mut(usize::from(number))?))
}

#[derive(Default)]
struct Done {
    established: u64,
    related: u64,
}

#[inline(always)]
fn one<P: Packet, F: Flow>(
    cx: &Context<'_>,
    packet: &mut P,
    meta: &mut Meta,
    flow: Option<F>,
    done: &mut Done,
    out: &mut Out<'_, P, impl Io<P>>,
) {
    let Some(flow) = flow else { return meta.trap(TrapClass::New) };
    if flow.flags().any(RewriteFlags::SPECIAL) || !meta.kind.is_plain() {
        return special(cx, packet, meta, flow, done, out);
    }
    established(cx, packet, meta, &flow, done);
}

/// What is not just rewritten and sent on.
#[cold]
fn special<P: Packet, F: Flow>(
    cx: &Context<'_>,
    packet: &mut P,
    meta: &mut Meta,
    flow: F,
    done: &mut Done,
    out: &mut Out<'_, P, impl Io<P>>,
) {
    let (flow, rewrite) = (&flow, &flow.rewrite());
    if rewrite.flags.any(RewriteFlags::DEAD) {
        // It ended since the burst was looked up, by an earlier packet of it.
        return meta.trap(TrapClass::New);
    }
    if rewrite.flags.any(RewriteFlags::POLICED) && !is_within_limit(cx, meta, flow, rewrite.flags) {
        return meta.drop(DropReason::RateLimited);
    }
    if rewrite.flags.any(RewriteFlags::MIRROR) && meta.kind != Kind::Error {
        mirror::run(cx, packet, meta, session_lif(meta, flow, rewrite), flow.collector(), out);
    }
    if rewrite.flags.any(RewriteFlags::DROP) {
        if meta.kind != Kind::Error {
            flow.count(cx.timestamp, session_bytes(meta));
        }
        meta.drop(DropReason::SessionDrop);
    } else if meta.kind == Kind::Error {
        error(cx, packet, meta, flow, rewrite, done);
    } else if meta.kind == Kind::Control {
        flow.observe(meta.tcp_flags, cx.timestamp);
        meta.trap(TrapClass::TcpControl);
    } else {
        established(cx, packet, meta, flow, done);
        if rewrite.flags.any(RewriteFlags::SNOOP) && meta.next == Next::Encap {
            nat::write_macs(packet.head_mut(), rewrite.flags, &flow.l2());
            mirror::run(cx, packet, meta, session_lif(meta, flow, rewrite), flow.collector(), out);
        }
    }
}

/// Takes the packet from its session's rate limit, if it is of those that a session forwards itself.
#[cold]
fn is_within_limit<F: Flow>(cx: &Context<'_>, meta: &Meta, flow: &F, flags: RewriteFlags) -> bool {
    let is_forwarded = !flags.any(RewriteFlags::DROP) && meta.kind.is_plain();
    !is_forwarded || flow.admit(cx.timestamp, session_bytes(meta))
}

#[inline(always)]
fn established<P: Packet, F: Flow>(
    cx: &Context<'_>,
    packet: &mut P,
    meta: &mut Meta,
    flow: &F,
    done: &mut Done,
) {
    if meta.ip_len > cx.shared.lifs.least_mtu() && !fits(cx, meta, &flow.l2()) {
        return;
    }
    let frame = packet.head_mut();
    // Only now, when there are registers for it.
    let rewrite = flow.rewrite();
    match F::apply(frame, meta, &rewrite) {
        Applied::Done => {
            flow.count(cx.timestamp, session_bytes(meta));
            done.established += 1;
            // Where the headers are not that simple, the port is found in the packet.
            let is_plain = !F::IS_V6 || usize::from(meta.l4) == ethernet::LEN + ipv6::LEN;
            meta.outer_port = if is_plain { rewrite.outer_port } else { 0 };
            if rewrite.flags.any(RewriteFlags::ROUTED) {
                meta.way = Way::of(rewrite.l2);
                meta.next = Next::Encap;
            } else {
                leave(meta, &flow.l2());
            }
        }
        Applied::Expired | Applied::Short => meta.trap(TrapClass::Exception),
    }
}

#[cold]
fn error<P: Packet, F: Flow>(
    cx: &Context<'_>,
    packet: &mut P,
    meta: &mut Meta,
    flow: &F,
    rewrite: &Rewrite<F::Address>,
    done: &mut Done,
) {
    if !related::checksum_is_right(packet, meta, F::IS_V6) {
        return meta.drop(related::WRONG);
    }
    let l2 = flow.l2();
    if !fits(cx, meta, &l2) {
        return;
    }
    match F::apply_error(packet.head_mut(), meta, rewrite) {
        Applied::Done => {
            nat::write_macs(packet.head_mut(), rewrite.flags, &l2);
            done.related += 1;
            leave(meta, &l2);
        }
        Applied::Expired | Applied::Short => meta.trap(TrapClass::Exception),
    }
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

#[inline(always)]
fn leave(meta: &mut Meta, l2: &L2Rewrite) {
    meta.out_lif = l2.out_lif;
    meta.next = Next::Encap;
}

/// The LIF of the session's own direction.
fn session_lif<F: Flow>(meta: &Meta, flow: &F, rewrite: &Rewrite<F::Address>) -> LifIndex {
    if rewrite.flags.any(RewriteFlags::REVERSE) { flow.l2().out_lif } else { meta.in_lif }
}

/// What a session counts: the tenant's frame without padding.
#[inline(always)]
fn session_bytes(meta: &Meta) -> u32 {
    ethernet::LEN as u32 + meta.ip_len
}

/// A flow of either family.
trait Flow {
    type Address;
    const IS_V6: bool;
    fn flags(&self) -> RewriteFlags;
    fn rewrite(&self) -> Rewrite<Self::Address>;
    fn l2(&self) -> L2Rewrite;
    fn count(&self, now: Timestamp, bytes: u32);
    fn admit(&self, now: Timestamp, bytes: u32) -> bool;
    fn observe(&self, flags: TcpFlags, now: Timestamp);
    fn collector(&self) -> Option<IpAddr>;
    fn apply(frame: &mut [u8], meta: &Meta, rewrite: &Rewrite<Self::Address>) -> Applied;
    fn apply_error(frame: &mut [u8], meta: &Meta, rewrite: &Rewrite<Self::Address>) -> Applied;
}

macro_rules! flow {
    ($flow:ident, $address:ty, $is_v6:literal, $apply:path, $apply_error:path) => {
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
            fn apply(frame: &mut [u8], meta: &Meta, rewrite: &Rewrite<Self::Address>) -> Applied {
                $apply(frame, meta, rewrite)
            }
            fn apply_error(frame: &mut [u8], meta: &Meta, rewrite: &Rewrite<Self::Address>) -> Applied {
                $apply_error(frame, meta, rewrite)
            }
        }
    };
}

flow!(FlowV4, [u8; 4], false, nat::apply_v4, related::apply_v4);
flow!(FlowV6, [u8; 16], true, nat::apply_v6, related::apply_v6);
