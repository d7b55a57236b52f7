//! The graph: what all workers share, and one worker's run over a burst.

use crate::adjacency::Adjacencies;
use crate::batch::{Meta, Metas};
use crate::classify::{self, Keys};
use crate::counters::{Counters, Other, empty_snapshot};
use crate::egress::{self, Out, Outbox};
use crate::fdb::Fdb;
use crate::lif::Lifs;
use crate::limits::Limits;
use crate::neighbors::{Address, Link, NeighborIndex, Neighbors};
use crate::packet::{BURST, CHUNK, Io, PORT_BURST, Packet};
use crate::routes::Routes;
use crate::senders::Senders;
use crate::tunnel::{Remote, Tunnel};
use crate::{Config, ConfigError, PortIndex, Snapshot};
use crate::{decap, encap, from_kernel, ingress, local, lookup, mirror, solicit, trap};
use arrayvec::ArrayVec;
use conntrack::{Reader, SessionTable, Timestamp};
use crossbeam::utils::CachePadded;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Inner MACs that can be learned.
const FDB_ENTRIES: usize = 65_536;
/// Neighbours looked after in one tick.
const NEIGHBORS_PER_TICK: usize = 64;

/// What all workers share: LIFs, neighbours, the forwarding database, the session table, counters.
pub struct Pipeline {
    config: Config,
    sessions: Arc<SessionTable>,
    workers: Box<[CachePadded<Counters>]>,
    taken: Box<[AtomicBool]>,
    pub(crate) lifs: Lifs,
    pub(crate) limits: Limits,
    pub(crate) mirror: mirror::Limit,
    pub(crate) neighbors: Neighbors,
    pub(crate) fdb: Fdb,
    pub(crate) routes: Routes,
    pub(crate) underlay: Option<Tunnel>,
    pub(crate) trap: Tunnel,
    pub(crate) kernel: NeighborIndex,
}

impl Pipeline {
    /// Checks the configuration and takes all memory. `secret` keys hashes of tables that strangers can fill.
    pub fn new(
        config: Config,
        sessions: Arc<SessionTable>,
        workers: usize,
        secret: [u64; 2],
    ) -> Result<Arc<Self>, Vec<ConfigError>> {
        config.validate()?;
        let [fdb_secret, neighbor_secret] = secret;
        let neighbors = Neighbors::new(neighbor_secret);
        let mut errors = Vec::new();
        let mut pin = |link, ip: IpAddr, mac| {
            neighbors.pin(link, ip.into(), mac).unwrap_or_else(|| {
                errors.push(ConfigError::NeighborTableFull(ip));
                NeighborIndex::default()
            })
        };
        let kernel = pin(Link::Trap, config.trap.kernel_ip.into(), config.trap.kernel_mac);
        for neighbor in config.underlay.iter().flat_map(|underlay| &underlay.neighbors) {
            pin(Link::Underlay, neighbor.ip, Some(neighbor.mac));
        }
        let lifs =
            Lifs::new(&config, |lif| lif.vteps.iter().map(|ip| pin(Link::Underlay, *ip, None)).collect());
        let routes = config.underlay.iter().flat_map(|underlay| &underlay.routes);
        let routes = Routes::new(routes.map(|route| (*route, pin(Link::Underlay, route.via, None))));
        if !errors.is_empty() {
            return Err(errors);
        }
        let mac = |port: PortIndex| config.ports.get(usize::from(port.0)).map_or([0; 6], |port| port.mac);
        let underlay = config
            .underlay
            .as_ref()
            .map(|u| Tunnel::new(Link::Underlay, u.port, mac(u.port), u.vlan, u.local_ip, u.udp_port));
        let t = &config.trap;
        let trap = Tunnel::new(Link::Trap, t.port, mac(t.port), 0, t.local_ip.into(), t.udp_port);
        let counters = || CachePadded::new(Counters::new(config.ports.len(), config.lifs.len()));
        Ok(Arc::new(Self {
            workers: (0..workers).map(|_| counters()).collect(),
            taken: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            limits: Limits::new(&config.trap.limits, config.lifs.len()),
            mirror: mirror::Limit::new(config.underlay.as_ref().map_or(0, |u| u.copies), config.lifs.len()),
            routes,
            fdb: Fdb::new(FDB_ENTRIES, fdb_secret),
            lifs,
            neighbors,
            underlay,
            trap,
            kernel,
            sessions,
            config,
        }))
    }

    /// Worker `index`'s half, to be moved to its thread; each index once. None for any other index, and if the session table
    /// has no reader left.
    pub fn worker<P: Packet>(self: &Arc<Self>, index: usize) -> Option<Worker<P>> {
        if self.taken.get(index)?.swap(true, Ordering::AcqRel) {
            return None;
        }
        Some(Worker {
            shared: self.clone(),
            index,
            reader: self.sessions.reader().ok()?,
            metas: [Meta::default(); PORT_BURST],
            keys: Box::default(),
            senders: Senders::new(),
            adjacencies: Adjacencies::new(),
            outbox: Outbox::new(self.config.ports.len()),
            due: Due::new(),
            cursor: 0,
        })
    }

    /// All workers' counters.
    pub fn snapshot(&self) -> Snapshot {
        let mut sum = empty_snapshot(self.config.ports.len(), self.config.lifs.len());
        for counters in &self.workers {
            counters.add_to(&mut sum);
        }
        sum
    }

    /// As given.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The link with that name, if it is configured.
    pub(crate) fn tunnel(&self, link: Link) -> Option<&Tunnel> {
        match link {
            Link::Underlay => self.underlay.as_ref(),
            Link::Trap => Some(&self.trap),
        }
    }
}

/// Neighbours to solicit when all that was received together has passed: one for each packet, if none is replicated.
pub(crate) type Due = ArrayVec<NeighborIndex, PORT_BURST>;

/// What the stages see beside the burst.
pub struct Context<'a> {
    pub(crate) shared: &'a Pipeline,
    pub(crate) counters: &'a Counters,
    /// Nanoseconds.
    pub(crate) now: u64,
    /// Milliseconds.
    pub(crate) now_ms: u64,
    /// Seconds.
    pub(crate) second: u64,
    /// For conntrack.
    pub(crate) timestamp: Timestamp,
}

impl<'a> Context<'a> {
    /// Of worker `index` at `now`, nanoseconds.
    #[inline(always)]
    fn new(shared: &'a Pipeline, index: usize, now: u64) -> Option<Self> {
        Some(Self {
            shared,
            counters: shared.workers.get(index)?,
            now,
            now_ms: now / 1_000_000,
            second: now / 1_000_000_000,
            timestamp: Timestamp::from_nanos(now),
        })
    }

    /// What stands for the present state of the forwarding database, the neighbours and the sessions' L2 rewrites: differs
    /// when a MAC has moved, a neighbour changed or a rewrite's place was used again, and every second.
    #[inline]
    pub(crate) fn validity(&self) -> u64 {
        let shared = self.shared;
        let changes = shared.fdb.moves() + shared.neighbors.changes() + shared.sessions.l2_generation();
        changes << 32 | self.second & 0xffff_ffff
    }

    /// Where a packet to a neighbour goes; notes it down in `due` if it is to be solicited.
    #[inline(always)]
    pub(crate) fn next_hop(&self, index: NeighborIndex, due: &mut Due) -> Option<Remote> {
        let found = self.shared.neighbors.resolve(index, self.now_ms)?;
        if found.solicit {
            // If there is no room, it will be due again in a second.
            let _ = due.try_push(index);
        }
        let address: Address = found.address;
        found.mac.map(|mac| Remote { mac, address })
    }

    /// Where a tunnel packet to a VTEP goes: to itself, or to the router that a route names.
    #[inline(always)]
    pub(crate) fn underlay_hop(&self, vtep: NeighborIndex, due: &mut Due) -> Option<Remote> {
        if self.shared.routes.is_empty() { self.next_hop(vtep, due) } else { self.routed(vtep, due) }
    }

    #[cold]
    fn routed(&self, vtep: NeighborIndex, due: &mut Due) -> Option<Remote> {
        let address = self.shared.neighbors.address(vtep)?;
        match self.shared.routes.via(address) {
            Some(router) => self.next_hop(router, due).map(|hop| Remote { address, ..hop }),
            None => self.next_hop(vtep, due),
        }
    }
}

/// Watches packets pass the stages, to measure them. `()` watches nothing and costs nothing.
pub trait Probe {
    /// The burst has passed this stage.
    fn passed(&mut self, stage: &'static str);
}

impl Probe for () {
    #[inline]
    fn passed(&mut self, _stage: &'static str) {}
}

/// One worker's run through the stages. Times are nanoseconds since an origin common to all workers.
pub struct Worker<P> {
    shared: Arc<Pipeline>,
    index: usize,
    reader: Reader,
    metas: Metas,
    keys: Box<[Keys; CHUNKS]>,
    senders: Senders,
    adjacencies: Adjacencies,
    outbox: Outbox<P>,
    due: Due,
    cursor: usize,
}

impl<P: Packet> Worker<P> {
    /// Takes packets received together on `port`, at most [`PORT_BURST`], all the way; `packets` is empty afterwards, every packet
    /// sent, trapped or dropped under a reason.
    #[inline]
    pub fn process<const N: usize>(
        &mut self,
        port: PortIndex,
        packets: &mut ArrayVec<P, N>,
        now: u64,
        io: &mut impl Io<P>,
    ) {
        self.process_watched(port, packets, now, io, &mut ());
    }

    /// [`Self::process`] under the eyes of `probe`.
    #[inline(always)]
    pub fn process_watched<const N: usize>(
        &mut self,
        port: PortIndex,
        packets: &mut ArrayVec<P, N>,
        now: u64,
        io: &mut impl Io<P>,
        probe: &mut impl Probe,
    ) {
        const { assert!(N <= PORT_BURST) };
        let Self { shared, index, metas, outbox, due, reader, keys, senders, adjacencies, .. } = self;
        let Some(cx) = &Context::new(shared, *index, now) else { return packets.clear() };
        let out = &mut Out { outbox, io, due };
        for (packets, metas) in packets.chunks_mut(BURST).zip(metas.chunks_mut(BURST)) {
            let others = ingress::run(cx, port, packets, metas);
            probe.passed("ingress");
            if others.underlay {
                decap::run(cx, senders, packets, metas);
            }
            probe.passed("decap");
            if others.kernel {
                from_kernel::run(cx, packets, metas);
            }
            if others.underlay || others.kernel {
                local::run(cx, port, packets, metas);
            }
            probe.passed("from_kernel, local");
            let burst = &reader.enter();
            // A chunk is classified in one step, sought in the next, settled in a third and taken in a fourth: what it has asked
            // memory for comes while other chunks are at work.
            let chunks = packets.len().div_ceil(CHUNK);
            for step in 0..chunks + 3 {
                let [found, settled, sought] = [3, 2, 1].map(|behind| step.wrapping_sub(behind));
                if let Some((packets, metas, keys)) = chunk(packets, metas, keys, step) {
                    classify::run(burst, packets, metas, keys);
                    probe.passed("classify");
                }
                if sought < chunks
                    && let Some(keys) = keys.get_mut(sought)
                {
                    lookup::seek(burst, keys);
                    probe.passed("seek");
                }
                if settled < chunks
                    && let Some(keys) = keys.get_mut(settled)
                {
                    lookup::settle(burst, keys);
                    probe.passed("settle");
                }
                if let Some((packets, metas, keys)) = chunk(packets, metas, keys, found) {
                    let all_forwarded = lookup::run(cx, burst, packets, metas, keys, out);
                    probe.passed("lookup");
                    if !all_forwarded {
                        trap::run(cx, packets, metas, out.due);
                    }
                    probe.passed("trap");
                    encap::run(cx, burst, adjacencies, packets, metas, out);
                    probe.passed("encap");
                }
            }
        }
        egress::run(cx, packets, metas, out);
        probe.passed("egress");
        solicit::run(cx, out);
        probe.passed("solicit");
        out.flush(cx);
        probe.passed("flush");
    }

    /// Counts time in which this worker had packets: nanoseconds from poll to poll.
    #[inline]
    pub fn count_busy(&self, nanos: u64) {
        if let Some(counters) = self.shared.workers.get(self.index) {
            counters.other(Other::BusyNanos, nanos);
        }
    }

    /// What is due by time (ARP and ND of the gateway's own, ageing): bounded work, to be called every millisecond or so,
    /// also when nothing arrives.
    pub fn tick(&mut self, now: u64, io: &mut impl Io<P>) {
        let Self { shared, index, reader, outbox, due, cursor, .. } = self;
        let Some(cx) = &Context::new(shared, *index, now) else { return };
        // A quiescent point, so that an idle worker does not keep the session table's memory.
        drop(reader.enter());
        *cursor = shared.neighbors.maintain(*cursor, NEIGHBORS_PER_TICK, cx.now_ms, |index| {
            let _ = due.try_push(index);
        });
        let out = &mut Out { outbox, io, due };
        solicit::run(cx, out);
        out.flush(cx);
    }
}

/// The packets that go from classify to encap together as number `at`, and what is known of them; None if there are no such.
#[inline(always)]
fn chunk<'w, P>(
    packets: &'w mut [P],
    metas: &'w mut [Meta],
    keys: &'w mut [Keys; CHUNKS],
    at: usize,
) -> Option<(&'w mut [P], &'w mut [Meta], &'w mut Keys)> {
    let keys = keys.get_mut(at)?;
    Some((packets.chunks_mut(CHUNK).nth(at)?, metas.chunks_mut(CHUNK).nth(at)?, keys))
}

/// Of a burst at most.
const CHUNKS: usize = BURST / CHUNK;
const _: () = assert!(BURST.is_multiple_of(CHUNK));
