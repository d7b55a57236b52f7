//! Input that nobody hopes for, in process on one core: what it costs, and what it costs the others.

use crate::Stand;
use crate::traffic;
use anyhow::{Context, Result, ensure};
use arrayvec::ArrayVec;
use conntrack::table::Timeouts;
use conntrack::{SessionSpec, SessionTable, TableConfig, Timestamp};
use dpdk::{Mbuf, Mempool};
use gateway::frame::Frame;
use pipeline::{BURST, Burst, Io, Pipeline, PortIndex, Worker};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Packets of one run.
const PACKETS: usize = 500_000;
const SESSIONS: u32 = 65_536;

/// A pipeline, its table, and one worker of it.
struct Bed {
    worker: Worker<Frame>,
    pipeline: Arc<Pipeline>,
    table: Arc<SessionTable>,
}

impl Bed {
    fn new(stand: &Stand, capacity: u32, sessions: impl Iterator<Item = SessionSpec>) -> Result<Self> {
        let table = SessionTable::new(TableConfig {
            capacity,
            timeouts: Timeouts { tcp: 7440, udp: 300, icmp: 60, other: 60 },
            readers: 2,
            hugepages: stand.hugepages,
            hash_secret: [0x5851_f42d_4c95_7f2d, 0x1405_7b7e_f767_814f],
        })?;
        for spec in sessions {
            table.insert(&spec, Timestamp(0)).with_context(|| format!("session {}", spec.id.0))?;
        }
        let pipeline = Pipeline::new(traffic::config(), table.clone(), 1, [3, 4])
            .map_err(|errors| anyhow::anyhow!("configuration: {errors:?}"))?;
        let mut worker = pipeline.worker(0).context("worker 0")?;
        let mut hello: Burst<Frame> = ArrayVec::new();
        hello.push(frame(&stand.pool, &traffic::hello())?);
        worker.process(traffic::UPLINK, &mut hello, 0, &mut Discard(&stand.pool));
        Ok(Self { worker, pipeline, table })
    }

    /// Packets sent on the uplink, dropped there, trapped, and dropped by a limit so far.
    fn counts(&self) -> [u64; 4] {
        let snapshot = self.pipeline.snapshot();
        let uplink = &snapshot.ports[usize::from(traffic::UPLINK.0)];
        [
            uplink.tx_packets,
            uplink.tx_dropped,
            snapshot.traps.iter().map(|(_, count)| count).sum(),
            snapshot.trap_limited.iter().map(|(_, count)| count).sum(),
        ]
    }

    /// Cycles per packet of taking `frames` round and round in bursts of `size`.
    fn cycles(
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
            // One instant for all: no bucket of a limit fills up.
            self.worker.process(traffic::UPLINK, &mut burst, 1_000_000, io);
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
struct Discard<'p>(&'p Mempool);

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
struct Blocked<'p>(Discard<'p>);

impl Io<Frame> for Blocked<'_> {
    fn transmit<const N: usize>(&mut self, _port: PortIndex, _packets: &mut ArrayVec<Frame, N>) {}

    fn allocate(&mut self) -> Option<Frame> {
        self.0.allocate()
    }

    fn duplicate(&mut self, packet: &Frame, headers: usize) -> Option<Frame> {
        self.0.duplicate(packet, headers)
    }
}

/// All of them.
pub fn bench(stand: &mut Stand) -> Result<()> {
    bursts_of_one(stand)?;
    other_kinds(stand)?;
    full_table(stand)?;
    trap_flood(stand)?;
    blocked_port(stand)?;
    hash_flood(stand)
}

/// Numbers below `limit`, shuffled well enough.
fn shuffled(limit: u32) -> impl FnMut() -> u32 {
    let mut n = 0_u32;
    move || {
        n = n.wrapping_add(0x9e37_79b1);
        ((u64::from(n) * u64::from(limit)) >> 32) as u32
    }
}

fn established(limit: u32) -> impl FnMut() -> Vec<u8> {
    let mut next = shuffled(limit);
    move || traffic::frame(next())
}

/// Repeats a measurement into the report.
fn add(
    stand: &mut Stand,
    name: &str,
    unit: &'static str,
    conditions: &str,
    run: &mut dyn FnMut(&Stand) -> Result<f64>,
) -> Result<()> {
    let runs = (0..stand.runs).map(|_| run(stand)).collect::<Result<Vec<_>>>()?;
    stand.report.add(format!("bad.{name}"), unit, runs, conditions);
    Ok(())
}

fn bursts_of_one(stand: &mut Stand) -> Result<()> {
    let mut bed = Bed::new(stand, SESSIONS, (0..SESSIONS).map(traffic::session))?;
    add(stand, "bursts_of_one", "cycles/packet", "bursts of 1 packet, 65536 sessions", &mut |stand| {
        bed.cycles(&stand.pool, &mut established(SESSIONS), 1, &mut Discard(&stand.pool))
    })
}

/// One of each kind in turn: no two in a burst take the same way.
fn other_kinds(stand: &mut Stand) -> Result<()> {
    let mut bed = Bed::new(stand, SESSIONS, (0..SESSIONS).map(traffic::session))?;
    let change = |at: usize, byte: u8| {
        let mut frame = traffic::frame(3);
        frame[at] = byte;
        frame
    };
    let mut arp = traffic::frame(0);
    (arp[16], arp[17]) = (0x08, 0x06);
    let kinds = [
        traffic::frame(1),
        traffic::hello(),
        arp,
        // Another VLAN, IP version 6 in an IPv4 frame, wrong header length, wrong total length, a fragment, TTL 0, another
        // protocol, a martian, a wrong checksum; and one cut short.
        change(15, 99),
        change(18, 0x65),
        change(18, 0x41),
        change(21, 0xff),
        change(24, 0x20),
        change(26, 0),
        change(27, 132),
        change(30, 127),
        change(28, 0xee),
        traffic::frame(2)[..30].to_vec(),
        traffic::frame(4),
    ];
    let conditions =
        format!("{} kinds in turn, most of them malformed or for the kernel, bursts of {BURST}", kinds.len());
    add(stand, "other_kinds", "cycles/packet", &conditions, &mut |stand| {
        let mut n = 0;
        let mut next = || {
            n += 1;
            kinds[n % kinds.len()].clone()
        };
        bed.cycles(&stand.pool, &mut next, BURST, &mut Discard(&stand.pool))
    })
}

fn full_table(stand: &mut Stand) -> Result<()> {
    let mut bed = Bed::new(stand, SESSIONS, (0..SESSIONS).map(traffic::session))?;
    // Until it takes no more.
    let mut next = SESSIONS;
    while bed.table.insert(&traffic::session(next), Timestamp(0)).is_ok() {
        next += 1;
        ensure!(next < 4 * SESSIONS, "a table of {SESSIONS} has taken {next}");
    }
    let conditions = format!("a table of {SESSIONS} with {next} sessions, traffic of all of them");
    add(stand, "full_table", "cycles/packet", &conditions, &mut |stand| {
        bed.cycles(&stand.pool, &mut established(next), BURST, &mut Discard(&stand.pool))
    })?;
    add(stand, "full_table.refusals", "ns", "one insert that a full table refuses", &mut |_| {
        let begun = std::time::Instant::now();
        for n in 0..10_000 {
            ensure!(
                bed.table.insert(&traffic::session(next + n), Timestamp(0)).is_err(),
                "a full table took one"
            );
        }
        Ok(begun.elapsed().as_nanos() as f64 / 10_000.0)
    })
}

/// New flows at 5 Mpps, nearly all over the limit, beside established ones: how much of its packets a second the worker keeps
/// for the established.
fn trap_flood(stand: &mut Stand) -> Result<()> {
    const FLOOD: f64 = 5e6;
    let mut bed = Bed::new(stand, SESSIONS, (0..SESSIONS).map(traffic::session))?;
    let hz = dpdk::tsc_hz(&stand.eal) as f64;
    let (mut new, mut left, mut lost) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..stand.runs {
        let io = &mut Discard(&stand.pool);
        let alone = bed.cycles(&stand.pool, &mut established(SESSIONS), BURST, io)?;
        let mut stranger = shuffled(10_000_000);
        let mut flood = || traffic::frame(SESSIONS + stranger());
        let cost = bed.cycles(&stand.pool, &mut flood, BURST, io)?;
        // Half and half in each burst; every one of the established must get through.
        let [before, _, _, _] = bed.counts();
        let (mut turn, mut known) = (false, established(SESSIONS));
        let mut mixed = || {
            turn = !turn;
            if turn { known() } else { flood() }
        };
        bed.cycles(&stand.pool, &mut mixed, BURST, io)?;
        let [after, _, _, _] = bed.counts();
        let offered = PACKETS.div_ceil(BURST) * BURST / 2;
        lost.push(1.0 - (after - before) as f64 / offered as f64);
        new.push(cost);
        left.push((hz - FLOOD * cost) / alone / 1e6);
    }
    stand.report.add("bad.trap_flood", "cycles/packet", new, "new flows of one LIF, over the limit");
    stand.report.add(
        "bad.trap_flood.established_lost",
        "share",
        lost,
        "half of each burst new flows, half established",
    );
    let conditions =
        "established packets that one worker has cycles for beside 5 Mpps of new flows over the limit";
    stand.report.add("bad.trap_flood.established_mpps", "Mpps", left, conditions);
    Ok(())
}

fn blocked_port(stand: &mut Stand) -> Result<()> {
    let mut bed = Bed::new(stand, SESSIONS, (0..SESSIONS).map(traffic::session))?;
    let [_, before, _, _] = bed.counts();
    add(
        stand,
        "blocked_port",
        "cycles/packet",
        "the uplink takes no packet, all are dropped and counted",
        &mut |stand| {
            let mut io = Blocked(Discard(&stand.pool));
            bed.cycles(&stand.pool, &mut established(SESSIONS), BURST, &mut io)
        },
    )?;
    let [_, after, _, _] = bed.counts();
    let offered = (stand.runs * PACKETS.div_ceil(BURST) * BURST) as u64;
    ensure!(after - before == offered, "{} of {offered} packets are counted as dropped", after - before);
    // And it goes on as soon as the port does.
    let [before, _, _, _] = bed.counts();
    bed.cycles(&stand.pool, &mut established(SESSIONS), BURST, &mut Discard(&stand.pool))?;
    let [after, _, _, _] = bed.counts();
    ensure!(after > before, "nothing is sent after a port was blocked");
    Ok(())
}

/// Sessions whose addresses and ports differ in few bits, as somebody would choose them who wants them in one bucket but does
/// not know the secret.
fn hash_flood(stand: &mut Stand) -> Result<()> {
    type Choice = fn(u32) -> (u32, u16);
    let choices: [(&str, Choice); 4] = [
        ("low bits of the port", |n| (n >> 8, (n & 0xff) as u16 + 1)),
        ("high bits of the port", |n| (n >> 8, ((n & 0xff) << 8) as u16 | 1)),
        ("high bits of the address", |n| (n << 16, 7)),
        ("one bit each", |n| (n.rotate_left(16) ^ n, n.wrapping_mul(0x101) as u16 | 1)),
    ];
    let spec = |choice: Choice| {
        move |n: u32| {
            let mut spec = traffic::session(n);
            let (address, port) = choice(n);
            spec.original.source =
                Ipv4Addr::from(0x0a00_0000 ^ address & 0x00ff_ffff ^ (address >> 24 << 3)).into();
            spec.original.source_port = port;
            spec
        }
    };
    let (mut slowest, mut runs) = ("", Vec::new());
    let mut plain = Bed::new(stand, SESSIONS, (0..SESSIONS).map(traffic::session))?;
    let io = &mut Discard(&stand.pool);
    let usual = plain.cycles(&stand.pool, &mut established(SESSIONS), BURST, io)?;
    drop(plain);
    for (name, choice) in choices {
        let mut seen = std::collections::HashSet::new();
        let chosen: Vec<_> = (0..SESSIONS)
            .map(spec(choice))
            .filter(|spec| seen.insert((spec.original.source, spec.original.source_port)))
            .collect();
        let frames: Vec<_> = chosen.iter().map(|spec| traffic::frame_of(&spec.original)).collect();
        let mut bed = Bed::new(stand, SESSIONS, chosen.into_iter())?;
        let mut next = shuffled(frames.len() as u32);
        let mut flood = || frames[next() as usize].clone();
        let cycles = (0..stand.runs)
            .map(|_| bed.cycles(&stand.pool, &mut flood, BURST, io))
            .collect::<Result<Vec<_>>>()?;
        let [sent, _, _, _] = bed.counts();
        ensure!(sent > 0, "nothing of {name} got through");
        let ratios: Vec<_> = cycles.iter().map(|cycles| cycles / usual).collect();
        if crate::report::median(&ratios) > crate::report::median(&runs) {
            (slowest, runs) = (name, ratios);
        }
    }
    let conditions = format!("slowest of four ways to choose 65536 tuples ({slowest}) ÷ tuples counted up");
    stand.report.add("bad.hash_flood", "ratio", runs, conditions);
    Ok(())
}
