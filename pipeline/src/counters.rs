//! Counters of one worker: plain stores by their one owner, read by anyone.

use crate::PortIndex;
use crate::batch::{DropReason, TrapClass};
use crate::stats::{LifCounters, PortCounters, Snapshot};
use conntrack::LifIndex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owner may.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// As it is now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Packets and bytes.
#[derive(Debug, Default)]
pub struct Pair {
    packets: Counter,
    bytes: Counter,
}

impl Pair {
    /// Adds `packets` of `bytes` together.
    #[inline]
    pub fn add(&self, packets: u64, bytes: u64) {
        self.packets.add(packets);
        self.bytes.add(bytes);
    }
}

/// A cache line of its own: what lies beside it may be another worker's.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Traffic {
    rx: Pair,
    tx: Pair,
    tx_dropped: Counter,
}

/// What is counted beside ports, LIFs, drops and traps.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub enum Other {
    /// Forwarded by a session.
    Established,
    /// ICMP errors forwarded by a session.
    Related,
    /// From the kernel to a LIF.
    FromKernel,
    /// Copies made for further VTEPs.
    Replicated,
    /// Copies not made: pool empty, no headroom, or next hop unknown.
    ReplicaFailed,
    /// Packets of the gateway's own: ARP, ND, answers.
    Originated,
    /// Received packets used up here.
    Consumed,
    /// Copies for collectors.
    Mirrored,
    /// Copies for collectors not made: over the limit.
    MirrorLimited,
    /// Copies for collectors not made: pool empty or collector unknown.
    MirrorFailed,
    /// Own packets not made: pool empty.
    NoBuffer,
    /// Neighbours not remembered: no room.
    NeighborFull,
    /// Inner MACs not learned: no room.
    FdbFull,
    /// Nanoseconds in which the worker had packets.
    BusyNanos,
}

impl Other {
    const COUNT: usize = 14;
    const NAMES: [&str; Self::COUNT] = [
        "established",
        "related",
        "from_kernel",
        "replicated",
        "replica_failed",
        "originated",
        "consumed",
        "mirrored",
        "mirror_limited",
        "mirror_failed",
        "no_buffer",
        "neighbor_full",
        "fdb_full",
        "worker_busy_ns",
    ];
}

/// One worker's counters.
#[derive(Debug)]
pub struct Counters {
    ports: Box<[Traffic]>,
    lifs: Box<[Traffic]>,
    drops: [Counter; DropReason::COUNT],
    traps: [Counter; TrapClass::COUNT],
    trap_limited: [Counter; TrapClass::COUNT],
    other: [Counter; Other::COUNT],
}

impl Counters {
    /// All zero.
    pub fn new(ports: usize, lifs: usize) -> Self {
        Self {
            ports: (0..ports).map(|_| Traffic::default()).collect(),
            lifs: (0..lifs).map(|_| Traffic::default()).collect(),
            drops: Default::default(),
            traps: Default::default(),
            trap_limited: Default::default(),
            other: Default::default(),
        }
    }

    /// Received on a port.
    #[inline]
    pub fn port_rx(&self, port: PortIndex, packets: u64, bytes: u64) {
        if let Some(counters) = self.ports.get(usize::from(port.0)) {
            counters.rx.add(packets, bytes);
        }
    }

    /// Taken, and not taken, by a port.
    #[inline]
    pub fn port_tx(&self, port: PortIndex, packets: u64, bytes: u64, dropped: u64) {
        if let Some(counters) = self.ports.get(usize::from(port.0)) {
            counters.tx.add(packets, bytes);
            counters.tx_dropped.add(dropped);
        }
    }

    /// Those of LIFs, for stages that count packet by packet: asked for once, their place stays in registers.
    #[inline(always)]
    pub fn lifs(&self) -> Lifs<'_> {
        Lifs(&self.lifs)
    }

    /// A packet was dropped.
    #[inline]
    pub fn drop(&self, reason: DropReason) {
        if let Some(counter) = self.drops.get(reason as usize) {
            counter.add(1);
        }
    }

    /// A packet was trapped.
    #[inline]
    pub fn trap(&self, class: TrapClass) {
        if let Some(counter) = self.traps.get(class as usize) {
            counter.add(1);
        }
    }

    /// A packet was over the trap's limit (and is counted as drop too).
    #[inline]
    pub fn trap_limited(&self, class: TrapClass) {
        if let Some(counter) = self.trap_limited.get(class as usize) {
            counter.add(1);
        }
    }

    /// `n` of something else.
    #[inline]
    pub fn other(&self, what: Other, n: u64) {
        if let Some(counter) = self.other.get(what as usize) {
            counter.add(n);
        }
    }

    /// Adds these to `sum`, which has room for as many ports and LIFs.
    pub fn add_to(&self, sum: &mut Snapshot) {
        for (to, from) in sum.ports.iter_mut().zip(&self.ports) {
            to.rx_packets += from.rx.packets.get();
            to.rx_bytes += from.rx.bytes.get();
            to.tx_packets += from.tx.packets.get();
            to.tx_bytes += from.tx.bytes.get();
            to.tx_dropped += from.tx_dropped.get();
        }
        for (to, from) in sum.lifs.iter_mut().zip(&self.lifs) {
            to.rx_packets += from.rx.packets.get();
            to.rx_bytes += from.rx.bytes.get();
            to.tx_packets += from.tx.packets.get();
            to.tx_bytes += from.tx.bytes.get();
        }
        add_named(&mut sum.drops, &self.drops);
        add_named(&mut sum.traps, &self.traps);
        add_named(&mut sum.trap_limited, &self.trap_limited);
        add_named(&mut sum.other, &self.other);
    }
}

/// The counters of all LIFs.
#[derive(Clone, Copy, Debug)]
pub struct Lifs<'c>(&'c [Traffic]);

impl Lifs<'_> {
    /// A tenant's frame arrived.
    #[inline(always)]
    pub fn rx(self, lif: LifIndex, bytes: u32) {
        if let Some(counters) = self.0.get(usize::from(lif.0)) {
            counters.rx.add(1, bytes.into());
        }
    }

    /// A frame left for a tenant.
    #[inline(always)]
    pub fn tx(self, lif: LifIndex, bytes: u32) {
        if let Some(counters) = self.0.get(usize::from(lif.0)) {
            counters.tx.add(1, bytes.into());
        }
    }
}

/// A snapshot of nothing, with every name.
pub fn empty_snapshot(ports: usize, lifs: usize) -> Snapshot {
    let named = |names: &[&'static str]| names.iter().map(|name| (*name, 0)).collect();
    Snapshot {
        ports: vec![PortCounters::default(); ports],
        lifs: vec![LifCounters::default(); lifs],
        drops: named(&DropReason::NAMES),
        traps: named(&TrapClass::NAMES),
        trap_limited: named(&TrapClass::NAMES),
        other: named(&Other::NAMES),
    }
}

fn add_named(sum: &mut [(&'static str, u64)], counters: &[Counter]) {
    for ((_, to), from) in sum.iter_mut().zip(counters) {
        *to += from.get();
    }
}
