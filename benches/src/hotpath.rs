//! The hot path in process: decap → conntrack and NAT → encap, VLAN → VXLAN, 64-byte frames, one worker.

use crate::Stand;
use crate::traffic;
use crate::uptime::Uptime;
use anyhow::{Context, Result, ensure};
use arrayvec::ArrayVec;
use conntrack::table::Timeouts;
use conntrack::{SessionSpec, SessionTable, TableConfig, Timestamp};
use dpdk::{Eal, Mbuf, Mempool};
use gateway::frame::Frame;
use pipeline::{BURST, Burst, Config, Io, Pipeline, PortIndex, Probe, Worker};
use std::any::Any;
use std::sync::Arc;

/// A table with `sessions` sessions, and a pipeline with one worker on it.
pub struct Bed {
    /// The worker under test.
    pub worker: Worker<Frame>,
    /// What it looks up in.
    pub table: Arc<SessionTable>,
    /// Its worker's time.
    pub uptime: Uptime,
}

impl Bed {
    /// Installs the sessions, and lets the worker learn where the server is.
    pub fn new(eal: &Eal, sessions: u32, hugepages: bool, pool: &Mempool) -> Result<Self> {
        Self::with_room(eal, sessions, 0, hugepages, pool)
    }

    /// The same with room for `room` more.
    pub fn with_room(eal: &Eal, sessions: u32, room: u32, hugepages: bool, pool: &Mempool) -> Result<Self> {
        Self::of(eal, Flow::Forward, sessions, room, hugepages, pool)
    }

    /// The same with what packets of that flow need.
    pub fn of(
        eal: &Eal,
        flow: Flow,
        sessions: u32,
        room: u32,
        hugepages: bool,
        pool: &Mempool,
    ) -> Result<Self> {
        let (table, mut workers) = stand_up(flow, sessions, room, hugepages, pool, 1)?;
        Ok(Self { worker: workers.pop().context("a worker")?, table, uptime: Uptime::start(eal) })
    }
}

/// A table with `sessions` of what `flow` is of and room for `room` more, and a pipeline over its underlay with workers, of
/// which the first has heard where the server is.
pub fn stand_up(
    flow: Flow,
    sessions: u32,
    room: u32,
    hugepages: bool,
    pool: &Mempool,
    workers: usize,
) -> Result<(Arc<SessionTable>, Vec<Worker<Frame>>)> {
    let table = SessionTable::new(TableConfig {
        capacity: (sessions + room).max(1024),
        timeouts: Timeouts { tcp: 7440, udp: 300, icmp: 60, other: 60 },
        readers: workers,
        hugepages,
        hash_secret: [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03],
    })?;
    for session in (0..sessions).map(|n| flow.session(n)) {
        table.insert(&session, Timestamp(0)).with_context(|| format!("session {:?}", session.id))?;
    }
    let pipeline = Pipeline::new(flow.config(), table.clone(), workers, [1, 2])
        .map_err(|errors| anyhow::anyhow!("configuration: {errors:?}"))?;
    let mut workers: Vec<Worker<Frame>> =
        (0..workers).map(|n| pipeline.worker(n)).collect::<Option<_>>().context("the workers")?;
    let mut hello: Burst<Frame> = ArrayVec::new();
    hello.push(Frame::new(Mbuf::from_slice(pool, &flow.hello()).context("the pool is empty")?, ()));
    let worker = workers.first_mut().context("a worker")?;
    worker.process(traffic::UPLINK, &mut hello, 0, &mut Collect { pool, sent: ArrayVec::new() });
    Ok((table, workers))
}

/// Keeps what a worker sends until it is looked at or freed.
pub struct Collect<'p> {
    /// Where duplicates come from.
    pub pool: &'p Mempool,
    /// What was sent on the uplink.
    pub sent: Burst<Frame>,
}

impl Io<Frame> for Collect<'_> {
    fn transmit<const N: usize>(&mut self, _port: PortIndex, packets: &mut ArrayVec<Frame, N>) {
        // A driver takes all of a burst's pointers at once: packet by packet, this would be a stage of its own.
        match (packets as &mut dyn Any).downcast_mut::<Burst<Frame>>() {
            Some(packets) if self.sent.is_empty() => std::mem::swap(&mut self.sent, packets),
            _ => {
                let room = self.sent.remaining_capacity().min(packets.len());
                self.sent.extend(packets.drain(..room));
            }
        }
    }

    fn allocate(&mut self) -> Option<Frame> {
        self.pool.alloc().map(|mbuf| Frame::new(mbuf, ()))
    }

    fn duplicate(&mut self, packet: &Frame, headers: usize) -> Option<Frame> {
        Mbuf::share(self.pool, packet.mbuf(), headers).map(|mbuf| Frame::new(mbuf, ()))
    }
}

/// Which of a session's flows the packets are of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// From VLAN to VXLAN.
    Forward,
    /// From VXLAN to VLAN.
    Reverse,
    /// From VLAN to VXLAN, of IPv6 sessions.
    ForwardV6,
    /// From VLAN to VXLAN, over an IPv6 underlay.
    ForwardOverV6,
    /// From VXLAN to VLAN, over an IPv6 underlay.
    ReverseOverV6,
}

impl Flow {
    /// What there is to look up.
    pub fn session(self, n: u32) -> SessionSpec {
        if self == Self::ForwardV6 { traffic::session_v6(n) } else { traffic::session(n) }
    }

    fn is_over_v6(self) -> bool {
        matches!(self, Self::ForwardOverV6 | Self::ReverseOverV6)
    }

    fn config(self) -> Config {
        if self.is_over_v6() { traffic::config_over_v6() } else { traffic::config() }
    }

    /// What tells the gateway where the server is.
    fn hello(self) -> Vec<u8> {
        if self.is_over_v6() { traffic::hello_over_v6() } else { traffic::hello() }
    }
}

/// Frames of all sessions, of one size, in one block, visited in a shuffled order that the prefetcher likes.
pub struct Frames {
    flow: Flow,
    bytes: Vec<u8>,
    size: usize,
    next: usize,
}

impl Frames {
    /// Of sessions 0 to `sessions` - 1, shuffled.
    pub fn new(sessions: u32) -> Self {
        Self::of(0..sessions)
    }

    /// Of these sessions, shuffled.
    pub fn of(sessions: std::ops::Range<u32>) -> Self {
        Self::of_flow(Flow::Forward, sessions)
    }

    /// Of one of these sessions' flows.
    pub fn of_flow(flow: Flow, sessions: std::ops::Range<u32>) -> Self {
        let mut order: Vec<u32> = sessions.collect();
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        for i in (1..order.len()).rev() {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            order.swap(i, (random % (i as u64 + 1)) as usize);
        }
        let frame = match flow {
            Flow::Forward | Flow::ForwardOverV6 => traffic::frame,
            Flow::Reverse => traffic::answer,
            Flow::ReverseOverV6 => traffic::answer_over_v6,
            Flow::ForwardV6 => traffic::frame_v6,
        };
        let size = order.first().map_or(0, |n| frame(*n).len());
        Self { flow, bytes: order.into_iter().flat_map(frame).collect(), size, next: 0 }
    }

    /// The next frame, round and round.
    #[inline]
    pub fn next_frame(&mut self) -> &[u8] {
        if self.next >= self.bytes.len() {
            self.next = 0;
        }
        let at = self.next;
        self.next += self.size;
        &self.bytes[at..at + self.size]
    }

    /// Fills `burst` with fresh packets from `pool`.
    #[inline]
    pub fn fill(&mut self, pool: &Mempool, burst: &mut Burst<Frame>) -> Result<()> {
        while !burst.is_full() {
            let mbuf = Mbuf::from_slice(pool, self.next_frame()).context("the pool is empty")?;
            burst.push(Frame::new(mbuf, ()));
        }
        Ok(())
    }
}

/// Packets of one run.
const PACKETS: u64 = 2_000_000;

/// Cycles per packet over sessions, and by stage at 1,000 sessions: half of the runs that other figures have, since it is
/// called at several times of a report, for a machine has quick and slow minutes. `whole` adds what no target names: answers
/// and IPv6, and 16 million sessions, if the long benches are wanted.
pub fn bench(stand: &mut Stand, whole: bool) -> Result<()> {
    let mut sizes = vec![("1k", 1_000), ("64k", 65_536), ("1M", 1_000_000)];
    if whole && stand.full {
        sizes.push(("16M", 16_000_000));
    }
    for (name, sessions) in sizes {
        let mut bed = Bed::new(&stand.eal, sessions, stand.hugepages, &stand.pool)?;
        let mut frames = Frames::new(sessions);
        let mut runs = Vec::new();
        let mut stages: Vec<(&'static str, Vec<f64>)> = Vec::new();
        run(&stand.pool, &mut bed, &mut frames, PACKETS / 4, &mut Total::default())?;
        for _ in 0..stand.runs.div_ceil(2) {
            let mut total = Total::default();
            run(&stand.pool, &mut bed, &mut frames, PACKETS, &mut total)?;
            runs.push(total.per_packet());
            if sessions == 1_000 {
                let mut watch = Watch::new();
                run(&stand.pool, &mut bed, &mut frames, PACKETS / 4, &mut watch)?;
                watch.record(&mut stages);
            }
        }
        let pages = if stand.hugepages { "hugepages" } else { "4 KiB pages" };
        let conditions = |what| format!("{sessions} sessions, {what}, bursts of {BURST}, one core, {pages}");
        let forth = conditions("64 B, VLAN to VXLAN");
        stand.report.add(format!("hotpath.cycles_per_packet.{name}"), "cycles", runs, forth);
        for (stage, runs) in stages {
            stand.report.add(
                format!("hotpath.stage.{stage}"),
                "cycles",
                runs,
                "1000 sessions, cost of the clock taken off",
            );
        }
        if !whole || !matches!(name, "1k" | "1M") {
            continue;
        }
        let runs = other_runs(stand, &mut bed, Flow::Reverse, sessions)?;
        let back = conditions("64 B, VXLAN to VLAN");
        stand.report.add(format!("hotpath.reverse_cycles_per_packet.{name}"), "cycles", runs, back);
        drop(bed);
        let mut others = vec![(Flow::ForwardV6, "ipv6", "IPv6, 84 B, VLAN to VXLAN")];
        if name == "1k" {
            others.push((Flow::ForwardOverV6, "over_ipv6", "64 B, VLAN to VXLAN over IPv6"));
            others.push((Flow::ReverseOverV6, "reverse_over_ipv6", "64 B, VXLAN over IPv6 to VLAN"));
        }
        for (flow, figure, what) in others {
            let mut bed = Bed::of(&stand.eal, flow, sessions, 0, stand.hugepages, &stand.pool)?;
            let runs = other_runs(stand, &mut bed, flow, sessions)?;
            let conditions = conditions(what);
            stand.report.add(
                format!("hotpath.{figure}_cycles_per_packet.{name}"),
                "cycles",
                runs,
                conditions,
            );
        }
    }
    Ok(())
}

/// Cycles per packet of another flow.
fn other_runs(stand: &Stand, bed: &mut Bed, flow: Flow, sessions: u32) -> Result<Vec<f64>> {
    let mut frames = Frames::of_flow(flow, 0..sessions);
    run(&stand.pool, bed, &mut frames, PACKETS / 4, &mut Total::default())?;
    let mut one = || {
        let mut total = Total::default();
        run(&stand.pool, bed, &mut frames, PACKETS, &mut total)?;
        Ok(total.per_packet())
    };
    (0..stand.runs.div_ceil(2)).map(|_| one()).collect()
}

/// Sums the time of bursts.
trait Clock: Probe {
    fn start(&mut self);
    fn stop(&mut self, packets: u64);
}

#[derive(Default)]
struct Total {
    begun: u64,
    cycles: u64,
    packets: u64,
}

impl Total {
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    fn per_packet(&self) -> f64 {
        self.cycles as f64 / self.packets as f64
    }
}

impl Probe for Total {
    #[inline]
    fn passed(&mut self, _stage: &'static str) {}
}

impl Clock for Total {
    fn start(&mut self) {
        self.begun = dpdk::tsc();
    }

    fn stop(&mut self, packets: u64) {
        self.cycles += dpdk::tsc() - self.begun;
        self.packets += packets;
    }
}

/// Time by stage, of all chunks of a burst together, less what reading the clock costs.
struct Watch {
    last: u64,
    clock: u64,
    stages: Vec<(&'static str, u64)>,
    packets: u64,
}

impl Watch {
    fn new() -> Self {
        let clock =
            (0..1000).map(|_| dpdk::tsc().wrapping_neg().wrapping_add(dpdk::tsc())).min().unwrap_or(0);
        Self { last: 0, clock, stages: Vec::new(), packets: 0 }
    }

    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    fn record(&self, into: &mut Vec<(&'static str, Vec<f64>)>) {
        for (position, (stage, cycles)) in self.stages.iter().enumerate() {
            if into.len() <= position {
                into.push((stage, Vec::new()));
            }
            into[position].1.push(*cycles as f64 / self.packets as f64);
        }
    }
}

impl Probe for Watch {
    fn passed(&mut self, stage: &'static str) {
        let cycles = (dpdk::tsc() - self.last).saturating_sub(self.clock);
        match self.stages.iter_mut().find(|(name, _)| *name == stage) {
            Some((_, sum)) => *sum += cycles,
            None => self.stages.push((stage, cycles)),
        }
        self.last = dpdk::tsc();
    }
}

impl Clock for Watch {
    fn start(&mut self) {
        self.last = dpdk::tsc();
    }

    fn stop(&mut self, packets: u64) {
        self.packets += packets;
    }
}

/// Takes `packets` packets through the worker, under `clock`, generator and freeing left out; every sent frame is checked to
/// be NATed and encapsulated.
fn run(
    pool: &Mempool,
    bed: &mut Bed,
    frames: &mut Frames,
    packets: u64,
    clock: &mut impl Clock,
) -> Result<()> {
    let mut io = Collect { pool, sent: ArrayVec::new() };
    let mut burst: Burst<Frame> = ArrayVec::new();
    for _ in 0..packets / BURST as u64 {
        frames.fill(pool, &mut burst)?;
        let now = bed.uptime.nanos();
        clock.start();
        bed.worker.process_watched(traffic::UPLINK, &mut burst, now, &mut io, clock);
        clock.stop(BURST as u64);
        check(&io.sent, frames.flow)?;
        io.sent.clear();
    }
    Ok(())
}

/// Takes packets through the worker until `stop`, or for `seconds`; packets per second of its own time. Every frame sent is
/// checked; what makes and frees the packets counts too, so only ratios of such rates say something.
pub fn rate(
    pool: &Mempool,
    worker: &mut Worker<Frame>,
    frames: &mut Frames,
    uptime: Uptime,
    seconds: f64,
) -> Result<f64> {
    let mut io = Collect { pool, sent: ArrayVec::new() };
    let mut burst: Burst<Frame> = ArrayVec::new();
    let begun = uptime.nanos();
    let mut packets = 0u64;
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    loop {
        frames.fill(pool, &mut burst)?;
        let now = uptime.nanos();
        let so_far = (now - begun) as f64 / 1e9;
        if so_far >= seconds {
            return Ok(packets as f64 / so_far);
        }
        worker.process(traffic::UPLINK, &mut burst, now, &mut io);
        check(&io.sent, frames.flow)?;
        io.sent.clear();
        packets += BURST as u64;
    }
}

/// Takes `packets` packets through the worker, time standing still; what the pipeline takes is that of [`counted`].
pub fn counted_run(pool: &Mempool, bed: &mut Bed, frames: &mut Frames, packets: u64) -> Result<()> {
    let mut io = Collect { pool, sent: ArrayVec::new() };
    let mut burst: Burst<Frame> = ArrayVec::new();
    for _ in 0..packets / BURST as u64 {
        frames.fill(pool, &mut burst)?;
        counted(bed, &mut burst, &mut io);
        check(&io.sent, frames.flow)?;
        io.sent.clear();
    }
    Ok(())
}

#[inline(never)]
fn counted(bed: &mut Bed, burst: &mut Burst<Frame>, io: &mut Collect<'_>) {
    bed.worker.process(traffic::UPLINK, burst, 0, io);
}

/// Each of a full burst left NATed: inside VLAN 2, IP, UDP, VXLAN 2000, or on VLAN 100.
fn check(sent: &[Frame], flow: Flow) -> Result<()> {
    ensure!(sent.len() == BURST, "{} of {BURST} packets left", sent.len());
    for frame in sent {
        let data = frame.mbuf().data();
        let (len, vlan, ip) = match flow {
            Flow::Forward => (60 + 54, 2, 54 + 14),
            Flow::ForwardOverV6 => (60 + 74, 2, 74 + 14),
            Flow::Reverse | Flow::ReverseOverV6 => (64, 100, 18),
            Flow::ForwardV6 => (80 + 54, 2, 54 + 14),
        };
        ensure!(data.len() == len, "a packet left with {} bytes", data.len());
        ensure!(data[12..16] == [0x81, 0, 0, vlan], "not in VLAN {vlan}");
        let ip = &data[ip..ip + 40];
        let translated = match flow {
            Flow::Forward | Flow::ForwardOverV6 => ip[12..14] == [0xcb, 0],
            Flow::Reverse | Flow::ReverseOverV6 => ip[16..18] == [10, 1],
            Flow::ForwardV6 => ip[8..14] == [0x20, 1, 0xd, 0xb8, 0, 0xb],
        };
        ensure!(translated, "not translated: {ip:02x?}");
        ensure!(flow == Flow::ForwardV6 || checksum(&ip[..20]) == 0, "wrong inner IPv4 checksum");
    }
    Ok(())
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
