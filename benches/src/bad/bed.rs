//! A pipeline in process, and ports for it.

use crate::{Stand, traffic};
use anyhow::{Context, Result};
use arrayvec::ArrayVec;
use conntrack::table::Timeouts;
use conntrack::{SessionSpec, SessionTable, TableConfig, Timestamp};
use dpdk::{Mbuf, Mempool};
use gateway::frame::Frame;
use pipeline::{BURST, Burst, Config, Io, Pipeline, PortIndex, Worker};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Packets of one run.
pub const PACKETS: usize = 500_000;
/// Of tables and traffic, where nothing else is said.
pub const SESSIONS: u32 = 65_536;

/// One instant for all packets, nanoseconds: no bucket of a limit fills up.
const NOW: u64 = 1_000_000;
/// What keys the tables' hash.
pub const SECRET: [u64; 2] = [0x5851_f42d_4c95_7f2d, 0x1405_7b7e_f767_814f];

/// A pipeline, its table, and one worker of it.
pub struct Bed {
    worker: Worker<Frame>,
    pipeline: Arc<Pipeline>,
    /// What it looks up in.
    pub table: Arc<SessionTable>,
}

impl Bed {
    /// With the configuration of [`traffic`].
    pub fn new(
        stand: &Stand,
        capacity: u32,
        sessions: impl IntoIterator<Item = SessionSpec>,
    ) -> Result<Self> {
        Self::with_config(stand, traffic::config(), capacity, sessions)
    }

    /// With another.
    pub fn with_config(
        stand: &Stand,
        config: Config,
        capacity: u32,
        sessions: impl IntoIterator<Item = SessionSpec>,
    ) -> Result<Self> {
        let table = SessionTable::new(TableConfig {
            capacity,
            timeouts: Timeouts { tcp: 7440, udp: 300, icmp: 60, other: 60 },
            readers: 2,
            hugepages: stand.hugepages,
            hash_secret: SECRET,
        })?;
        for spec in sessions {
            table.insert(&spec, Timestamp(0)).with_context(|| format!("session {}", spec.id.0))?;
        }
        let pipeline = Pipeline::new(config, table.clone(), 1, [3, 4])
            .map_err(|errors| anyhow::anyhow!("configuration: {errors:?}"))?;
        let mut worker = pipeline.worker(0).context("worker 0")?;
        let mut hello: Burst<Frame> = ArrayVec::new();
        hello.push(frame(&stand.pool, &traffic::hello())?);
        worker.process(traffic::UPLINK, &mut hello, 0, &mut Discard(&stand.pool));
        Ok(Self { worker, pipeline, table })
    }

    /// Packets sent on the uplink, and dropped there, so far.
    pub fn sent_and_dropped(&self) -> [u64; 2] {
        let snapshot = self.pipeline.snapshot();
        let uplink = &snapshot.ports[usize::from(traffic::UPLINK.0)];
        [uplink.tx_packets, uplink.tx_dropped]
    }

    /// Every count of packets that is not zero, by name.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let snapshot = self.pipeline.snapshot();
        let groups = [
            ("drop", &snapshot.drops),
            ("trap", &snapshot.traps),
            ("limited", &snapshot.trap_limited),
            ("other", &snapshot.other),
        ];
        let named = groups.iter().flat_map(|(group, counters)| {
            counters.iter().map(move |(name, count)| (format!("{group} {name}"), *count))
        });
        let ports = self.pipeline.config().ports.iter().zip(&snapshot.ports).flat_map(|(port, counters)| {
            let named = |what, count| (format!("{} {what}", port.name), count);
            [named("sent", counters.tx_packets), named("dropped", counters.tx_dropped)]
        });
        named.chain(ports).filter(|(_, count)| *count > 0).collect()
    }

    /// Takes one packet.
    pub fn take(&mut self, pool: &Mempool, bytes: &[u8]) -> Result<()> {
        let mut burst: Burst<Frame> = ArrayVec::new();
        burst.push(frame(pool, bytes)?);
        self.worker.process(traffic::UPLINK, &mut burst, NOW, &mut Discard(pool));
        Ok(())
    }

    /// Cycles per packet of taking `frames` round and round in bursts of `size`.
    pub fn cycles(
        &mut self,
        pool: &Mempool,
        frames: &mut dyn FnMut() -> Vec<u8>,
        size: usize,
        io: &mut impl Io<Frame>,
    ) -> Result<f64> {
        let kinds: Vec<_> = (0..8192).map(|_| frames()).collect();
        let mut burst: Burst<Frame> = ArrayVec::new();
        let (mut cycles, mut done, mut next) = (0, 0, 0);
        while done < PACKETS {
            for _ in 0..size.min(BURST) {
                burst.push(frame(pool, &kinds[next % kinds.len()])?);
                next += 1;
            }
            let begun = dpdk::tsc();
            self.worker.process(traffic::UPLINK, &mut burst, NOW, io);
            if done >= PACKETS / 8 {
                cycles += dpdk::tsc() - begun;
            }
            done += size;
        }
        #[expect(clippy::cast_precision_loss, reason = "a ratio")]
        Ok(cycles as f64 / (done - PACKETS / 8) as f64)
    }
}

fn frame(pool: &Mempool, bytes: &[u8]) -> Result<Frame> {
    Ok(Frame::new(Mbuf::from_slice(pool, bytes).context("the pool is empty")?, ()))
}

/// A port that takes everything.
pub struct Discard<'p>(pub &'p Mempool);

impl Io<Frame> for Discard<'_> {
    fn transmit<const N: usize>(&mut self, _port: PortIndex, packets: &mut ArrayVec<Frame, N>) {
        packets.clear();
    }

    fn allocate(&mut self) -> Option<Frame> {
        self.0.alloc().map(|mbuf| Frame::new(mbuf, ()))
    }

    fn duplicate(&mut self, packet: &Frame, headers: usize) -> Option<Frame> {
        Mbuf::share(self.0, packet.mbuf(), headers).map(|mbuf| Frame::new(mbuf, ()))
    }
}

/// A port that takes nothing.
pub struct Blocked<'p>(pub Discard<'p>);

impl Io<Frame> for Blocked<'_> {
    fn transmit<const N: usize>(&mut self, _port: PortIndex, _packets: &mut ArrayVec<Frame, N>) {}

    fn allocate(&mut self) -> Option<Frame> {
        self.0.allocate()
    }

    fn duplicate(&mut self, packet: &Frame, headers: usize) -> Option<Frame> {
        self.0.duplicate(packet, headers)
    }
}
