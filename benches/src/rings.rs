//! The hot path between two cores: a generator on the main lcore, the worker on its own, rings in between.

use crate::Stand;
use crate::cores;
use crate::hotpath::{Bed, Frames};
use crate::traffic;
use anyhow::{Context, Result, ensure};
use arrayvec::ArrayVec;
use dpdk::{Consumer, Mbuf, Mempool, Producer, RingMode, SocketId};
use gateway::frame::Frame;
use pipeline::{BURST, Burst, Io, PortIndex};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(1);
const RING: u32 = 1024;

/// Mpps through one worker.
pub fn bench(stand: &mut Stand) -> Result<()> {
    for (name, sessions) in [("1k", 1_000), ("1M", 1_000_000)] {
        let mut runs = Vec::new();
        let mut far = 0;
        let mut bed = Some(Bed::new(&stand.eal, sessions, stand.hugepages, &stand.pool)?);
        let mut frames = Frames::new(sessions);
        for turn in 0..stand.runs {
            let before = cores::wait_near(0, 1, Duration::from_secs(20));
            let (mpps, used) =
                run(stand, bed.take().context("a bed")?, &mut frames, &format!("{name}-{turn}"))?;
            bed = Some(used);
            let after = cores::round_trip_ns(0, 1);
            let near = [before, after].iter().flatten().all(|&ns| ns <= cores::NEAR_NS);
            far += usize::from(!near);
            runs.push(mpps);
        }
        cores::pin(0)?;
        let conditions = format!(
            "{sessions} sessions, 64 B, VLAN to VXLAN, generator and worker on a core each, {far} runs with far cores"
        );
        stand.report.add(format!("hotpath.mpps.{name}"), "Mpps", runs, conditions);
    }
    Ok(())
}

/// The worker's ports: what it sends goes back to the generator.
struct RingIo {
    pool: Mempool,
    out: Producer,
}

impl Io<Frame> for RingIo {
    fn transmit<const N: usize>(&mut self, _port: PortIndex, packets: &mut ArrayVec<Frame, N>) {
        let mut mbufs: ArrayVec<Mbuf, N> = packets.drain(..).map(Frame::into_mbuf).collect();
        self.out.enqueue_burst(&mut mbufs);
        packets.extend(mbufs.into_iter().map(|mbuf| Frame::new(mbuf, ())));
    }

    fn allocate(&mut self) -> Option<Frame> {
        self.pool.alloc().map(|mbuf| Frame::new(mbuf, ()))
    }

    fn duplicate(&mut self, packet: &Frame, headers: usize) -> Option<Frame> {
        Mbuf::share(&self.pool, packet.mbuf(), headers).map(|mbuf| Frame::new(mbuf, ()))
    }
}

fn run(stand: &Stand, mut bed: Bed, frames: &mut Frames, name: &str) -> Result<(f64, Bed)> {
    let (mut to_worker, from_generator) =
        dpdk::ring(&stand.eal, &format!("in-{name}"), RING, RingMode::Single, SocketId::ANY)?;
    let (to_generator, mut from_worker) =
        dpdk::ring(&stand.eal, &format!("out-{name}"), RING, RingMode::Single, SocketId::ANY)?;
    let stop = Arc::new(AtomicBool::new(false));
    let lcore = stand.eal.worker_lcores().first().copied().context("a worker lcore")?;
    let worker = {
        let stop = stop.clone();
        let io = RingIo { pool: stand.pool.clone(), out: to_generator };
        stand.eal.launch(lcore, move || {
            forward(&mut bed, from_generator, io, &stop);
            bed
        })?
    };
    let mut received = 0;
    let warm = Instant::now() + WINDOW / 4;
    generate(&stand.pool, frames, &mut to_worker, &mut from_worker, warm, &mut received)?;
    received = 0;
    let start = Instant::now();
    generate(&stand.pool, frames, &mut to_worker, &mut from_worker, start + WINDOW, &mut received)?;
    let seconds = start.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    let bed = worker.join()?;
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    Ok((received as f64 / seconds / 1e6, bed))
}

fn forward(bed: &mut Bed, mut input: Consumer, mut io: RingIo, stop: &AtomicBool) {
    let mut mbufs: ArrayVec<Mbuf, BURST> = ArrayVec::new();
    let mut burst: Burst<Frame> = ArrayVec::new();
    while !stop.load(Ordering::Relaxed) {
        if input.dequeue_burst(&mut mbufs) > 0 {
            burst.extend(mbufs.drain(..).map(|mbuf| Frame::new(mbuf, ())));
            let now = bed.uptime.nanos();
            bed.worker.process(traffic::UPLINK, &mut burst, now, &mut io);
        }
    }
}

/// Keeps the worker's ring full until `end` and counts what comes back; every packet is as long as an encapsulated one.
fn generate(
    pool: &Mempool,
    frames: &mut Frames,
    to: &mut Producer,
    from: &mut Consumer,
    end: Instant,
    received: &mut u64,
) -> Result<()> {
    let mut fresh: ArrayVec<Mbuf, 64> = ArrayVec::new();
    let mut done: ArrayVec<Mbuf, 64> = ArrayVec::new();
    while Instant::now() < end {
        for _ in 0..64 {
            if fresh.is_empty() && pool.alloc_bulk(64, &mut fresh) {
                for mbuf in &mut fresh {
                    mbuf.append(64).context("room in a buffer")?.copy_from_slice(frames.next_frame());
                }
            }
            to.enqueue_burst(&mut fresh);
            from.dequeue_burst(&mut done);
            *received += done.len() as u64;
            ensure!(
                done.iter().all(|mbuf| mbuf.pkt_len() == 60 + 54),
                "a packet came back without its tunnel"
            );
            dpdk::free_burst(&mut done);
        }
    }
    Ok(())
}
