//! Copies for a collector, exits: egress. The packet itself goes on whatever becomes of its copy.
//!
//! A copy travels over the underlay in a tunnel of its own, with the VNI of the LIF the packet arrived on (the trap's where
//! the LIF has none). A mirror session copies what it receives, a snoop session what it sends.

use crate::batch::Meta;
use crate::config::Encapsulation;
use crate::counters::Other;
use crate::egress::Out;
use crate::limits::take;
use crate::neighbors::Link;
use crate::packet::{Io, Packet};
use crate::tunnel::Inner;
use crate::worker::Context;
use conntrack::LifIndex;
use std::net::IpAddr;
use std::sync::atomic::AtomicU64;

/// Copies per second and LIF: collectors are slower than the gateway, and the underlay is shared.
pub const RATE: u64 = 100_000;

/// The copies' token buckets.
#[derive(Debug)]
pub struct Limit(Box<[AtomicU64]>);

impl Limit {
    /// For `lifs` LIFs.
    pub fn new(lifs: usize) -> Self {
        Self((0..lifs).map(|_| AtomicU64::new(0)).collect())
    }

    fn take(&self, lif: LifIndex, now: u64) -> bool {
        self.0.get(usize::from(lif.0)).is_some_and(|bucket| take(bucket, 1_000_000_000 / RATE, now))
    }
}

/// Sends a copy of the packet as it is now.
#[cold]
pub fn run<P: Packet>(
    cx: &Context<'_>,
    packet: &P,
    meta: &Meta,
    collector: Option<IpAddr>,
    out: &mut Out<'_, P, impl Io<P>>,
) {
    let what = if !cx.shared.mirror.take(meta.in_lif, cx.now) {
        Other::MirrorLimited
    } else if copy(cx, packet, meta, collector, out).is_some() {
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
    collector: Option<IpAddr>,
    out: &mut Out<'_, P, impl Io<P>>,
) -> Option<()> {
    let tunnel = cx.shared.underlay.as_ref()?;
    let collector = collector.filter(|ip| ip.is_ipv4() == tunnel.local_ip.is_ipv4())?;
    let lif = cx.shared.lifs.get(meta.in_lif)?;
    let vni = match lif.encapsulation {
        Encapsulation::Vxlan(vni) => vni,
        _ => lif.trap_vni,
    };
    let neighbor = cx.shared.neighbors.find_or_claim(Link::Underlay, collector.into(), cx.now_ms)?;
    let remote = cx.next_hop(neighbor, out.due)?;
    let mut copy = out.io.duplicate(packet)?;
    if !tunnel.outer(&remote, vni).put(&mut copy, Inner::of(packet.head())) {
        return None;
    }
    out.send(cx, tunnel.port, copy);
    Some(())
}
