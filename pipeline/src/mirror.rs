//! Copies for a collector, exits: egress. The packet itself goes on whatever becomes of its copy.
//!
//! A copy travels over the underlay in a tunnel of its own, with the VNI of the session's in LIF (the trap's where it has
//! none), to the collector itself or the router on the way there. A mirror session copies what it receives, a
//! snoop session what it sends.

use crate::batch::Meta;
use crate::config::Encapsulation;
use crate::counters::Other;
use crate::egress::Out;
use crate::limits::{interval, take};
use crate::neighbors::Link;
use crate::packet::{Io, Packet};
use crate::tunnel::{Inner, Remote};
use crate::worker::Context;
use conntrack::LifIndex;
use std::net::IpAddr;
use std::sync::atomic::AtomicU64;

/// The last byte of a TCP or UDP header that a rewrite changes, and some.
const L4_HEADER: usize = 20;

/// The copies' token buckets, one per LIF: collectors are slower than the gateway, and the underlay is shared.
#[derive(Debug)]
pub struct Limit {
    /// Nanoseconds per copy; 0 = none pass.
    interval: u64,
    full_at: Box<[AtomicU64]>,
}

impl Limit {
    /// `rate` copies per second for each of `lifs` LIFs.
    pub fn new(rate: u32, lifs: usize) -> Self {
        Self { interval: interval(rate), full_at: (0..lifs).map(|_| AtomicU64::new(0)).collect() }
    }

    fn take(&self, lif: LifIndex, now: u64) -> bool {
        let bucket = self.full_at.get(usize::from(lif.0)).filter(|_| self.interval != 0);
        bucket.is_some_and(|bucket| take(bucket, self.interval, now))
    }
}

/// Sends a copy of the packet as it is now; `lif` is its session's in LIF.
#[cold]
pub fn run<P: Packet>(
    cx: &Context<'_>,
    packet: &P,
    meta: &Meta,
    lif: LifIndex,
    collector: Option<IpAddr>,
    out: &mut Out<'_, P, impl Io<P>>,
) {
    let what = if !cx.shared.mirror.take(meta.in_lif, cx.now) {
        Other::MirrorLimited
    } else if copy(cx, packet, meta, lif, collector, out).is_some() {
        Other::Mirrored
    } else {
        Other::MirrorFailed
    };
    cx.counters.other(what, 1);
}

fn copy<P: Packet>(
    cx: &Context<'_>,
    packet: &P,
    meta: &Meta,
    lif: LifIndex,
    collector: Option<IpAddr>,
    out: &mut Out<'_, P, impl Io<P>>,
) -> Option<()> {
    let tunnel = cx.shared.underlay.as_ref()?;
    let collector = collector.filter(|ip| ip.is_ipv4() == tunnel.local_ip.is_ipv4())?;
    let lif = cx.shared.lifs.get(lif)?;
    let vni = match lif.encapsulation {
        Encapsulation::Vxlan(vni) => vni,
        _ => lif.trap_vni,
    };
    let address = collector.into();
    let hop = match cx.shared.routes.via(address) {
        Some(router) => router,
        None => cx.shared.neighbors.find_or_claim(Link::Underlay, address, cx.now_ms)?,
    };
    let remote = Remote { address, ..cx.next_hop(hop, out.due)? };
    let mut copy = out.io.duplicate(packet, usize::from(meta.l4) + L4_HEADER)?;
    tunnel.outer(&remote, vni).put(&mut copy, Inner::of(packet.head()))?;
    out.send(cx, tunnel.port, copy);
    Some(())
}
