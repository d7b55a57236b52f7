//! The pipeline over captures: real mbufs, no ports, and time is the capture's.

mod output;

pub(crate) use output::Files;
pub use output::{Discard, OutputError};

use crate::capture::Frames;
use crate::config::Sessions;
use crate::frame::Frame;
use arrayvec::ArrayVec;
use conntrack::{Closed, InsertError, SessionSpec, SessionTable, TableConfig, TableStats, Timestamp};
use dpdk::{Eal, EalOptions, Mbuf, Mempool, PoolOptions};
use pipeline::{BURST, Burst, Io, Pipeline, PortIndex, Snapshot, Worker};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Buffers: more than the pipeline ever holds, and enough for the longest frame's chain.
const BUFFERS: u32 = 8191;
/// DPDK's memory, in MiB.
const MEMORY: u32 = 64;
const MILLISECOND: u64 = 1_000_000;
/// While nothing arrives, time goes on in steps of a millisecond for so long, then in larger ones.
const FINE: u64 = 10_000 * MILLISECOND;
const COARSE_STEP: u64 = 100 * MILLISECOND;
/// Sessions that one turn of the table's maintenance handles.
const BUDGET: usize = 65_536;

/// DPDK without hugepages, devices and privileges, and a pool of buffers. One per process.
pub struct Environment {
    pool: Mempool,
    // Dropped last.
    _eal: Eal,
}

/// What runs.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// Ports, LIFs and so on.
    pub pipeline: &'a pipeline::Config,
    /// Size and timeouts of the session table.
    pub sessions: Sessions,
    /// Installed before the first frame.
    pub specs: &'a [SessionSpec],
    /// When to end, after the first frame; None: with the last one. Later frames are left out.
    pub until: Option<Duration>,
    /// Frames of one port and one millisecond that are handled at once, up to [`BURST`]. 1: each frame by itself, so that
    /// rate limits and timeouts see its exact time.
    pub burst: usize,
}

/// Gets what comes out.
pub trait Sink {
    /// A frame that a port sent, `nanos` nanoseconds after 1970.
    fn sent(&mut self, port: PortIndex, nanos: u64, mbuf: &Mbuf) -> Result<(), OutputError>;

    /// A session that closed.
    fn closed(&mut self, closed: &Closed) -> Result<(), OutputError>;

    /// Time spent on things that are not counted as processing.
    fn spent(&self) -> Duration {
        Duration::ZERO
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub struct Report {
    /// The pipeline's counters.
    pub counters: Snapshot,
    /// The session table's.
    pub table: TableStats,
    /// Frames that entered.
    pub frames: u64,
    /// Wall-clock time of processing: buffers filled, pipeline run, output handed over.
    pub elapsed: Duration,
    /// Sessions of the set-up that the table refused: position and reason.
    pub rejected: Vec<(usize, InsertError)>,
    /// Buffers that did not come back to their pool: 0, or the gateway has a leak.
    pub leaked: u32,
}

/// Why a replay failed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// DPDK does not start.
    #[error(transparent)]
    Dpdk(#[from] dpdk::Error),
    /// No session table.
    #[error(transparent)]
    Table(#[from] conntrack::TableError),
    /// The pipeline refuses its configuration.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Config(Vec<pipeline::ConfigError>),
    /// The pipeline gives no worker.
    #[error("the pipeline has no worker: its session table has no reader left")]
    NoWorker,
    /// Every buffer is in use.
    #[error("frame {0}: no buffer is left")]
    NoBuffer(usize),
    /// What comes out cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

impl Environment {
    /// Starts DPDK: once per process.
    pub fn start() -> Result<Self, ReplayError> {
        let options = EalOptions { hugepages: false, memory_mib: MEMORY, ..EalOptions::default() };
        let eal = Eal::init(&options)?;
        let pool =
            Mempool::new(&eal, &PoolOptions { name: "replay", count: BUFFERS, ..PoolOptions::default() })?;
        Ok(Self { pool, _eal: eal })
    }
}

/// Takes `frames` through a pipeline of one worker.
pub fn run(
    environment: &Environment,
    setup: &Setup<'_>,
    frames: &Frames,
    sink: &mut impl Sink,
) -> Result<Report, ReplayError> {
    // Nobody chooses addresses to attack a replay; the same input gives the same run.
    const SECRET: [u64; 2] = [0x0067_6174_6577_6179, 0x7265_706c_6179];
    let table = SessionTable::new(TableConfig {
        capacity: setup.sessions.capacity,
        timeouts: setup.sessions.timeouts,
        readers: 1,
        hugepages: false,
        hash_secret: SECRET,
    })?;
    let insert = |spec| table.insert(spec, Timestamp(0)).err();
    let rejected =
        (0..).zip(setup.specs).filter_map(|(i, spec)| insert(spec).map(|error| (i, error))).collect();
    let pipeline =
        Pipeline::new(setup.pipeline.clone(), table.clone(), 1, SECRET).map_err(ReplayError::Config)?;
    let before = environment.pool.in_use();
    let mut replay = Replay {
        worker: pipeline.worker(0).ok_or(ReplayError::NoWorker)?,
        table: table.clone(),
        io: Capture {
            pool: environment.pool.clone(),
            now: 0,
            sent: setup.pipeline.ports.iter().map(|_| Vec::new()).collect(),
        },
        origin: frames.get(0).map_or(0, |first| first.nanos),
        due: 0,
        last: 0,
        sink,
    };
    let start = Instant::now();
    let frames = replay.play(setup, frames)?;
    let elapsed = start.elapsed().saturating_sub(replay.sink.spent());
    drop(replay);
    Ok(Report {
        counters: pipeline.snapshot(),
        table: table.stats(),
        frames,
        elapsed,
        rejected,
        leaked: environment.pool.in_use().saturating_sub(before),
    })
}

struct Replay<'s, S> {
    worker: Worker<Frame<u64>>,
    table: Arc<SessionTable>,
    io: Capture,
    /// The first frame's time.
    origin: u64,
    /// When time-driven work is next to be done. This and all below: nanoseconds after the origin.
    due: u64,
    /// The last frame's time.
    last: u64,
    sink: &'s mut S,
}

impl<S: Sink> Replay<'_, S> {
    /// All frames, and time to the end; the number of frames.
    fn play(&mut self, setup: &Setup<'_>, frames: &Frames) -> Result<u64, ReplayError> {
        let until = setup.until.map(|until| u64::try_from(until.as_nanos()).unwrap_or(u64::MAX));
        let most = setup.burst.clamp(1, BURST);
        let mut packets = Burst::new();
        let mut position = 0;
        while let Some(first) = frames.get(position) {
            let now = first.nanos - self.origin;
            if until.is_some_and(|until| now > until) {
                break;
            }
            let mut last = now;
            while let Some(frame) = frames.get(position) {
                let at = frame.nanos - self.origin;
                let same = frame.port == first.port && at / MILLISECOND == now / MILLISECOND;
                if packets.len() == most || !same || until.is_some_and(|until| at > until) {
                    break;
                }
                let mbuf =
                    Mbuf::from_slice(&self.io.pool, frame.bytes).ok_or(ReplayError::NoBuffer(position))?;
                packets.push(Frame::new(mbuf, at));
                (position, last) = (position + 1, at);
            }
            self.advance(now)?;
            self.io.now = now;
            self.worker.process(first.port, &mut packets, now, &mut self.io);
            self.hand_over()?;
            self.last = last;
        }
        let end = until.unwrap_or(self.last);
        self.advance(end)?;
        self.finish(end)?;
        Ok(position as u64)
    }

    /// Does what is due by time until `now`.
    #[inline]
    fn advance(&mut self, now: u64) -> Result<(), ReplayError> {
        while self.due <= now {
            let due = self.due;
            self.step(due)?;
            let quiet = due.saturating_sub(self.last) >= FINE;
            self.due = due + if quiet { COARSE_STEP } else { MILLISECOND };
        }
        // A coarse step may have gone too far for what comes behind it.
        self.due = self.due.min(now - now % MILLISECOND + MILLISECOND);
        Ok(())
    }

    fn step(&mut self, now: u64) -> Result<(), ReplayError> {
        self.maintain(now)?;
        self.io.now = now;
        self.worker.tick(now, &mut self.io);
        self.hand_over()
    }

    fn maintain(&mut self, now: u64) -> Result<(), ReplayError> {
        let Self { table, sink, .. } = self;
        let mut outcome = Ok(());
        loop {
            let work = table.maintain(Timestamp::from_nanos(now), BUDGET, &mut |closed| {
                if outcome.is_ok() {
                    outcome = sink.closed(closed);
                }
            });
            if !work.more {
                return Ok(outcome?);
            }
        }
    }

    /// Ends what times out by `now`, to the millisecond.
    fn settle(&mut self, now: u64) -> Result<(), ReplayError> {
        let Self { table, sink, .. } = self;
        let mut outcome = Ok(());
        table.settle(Timestamp::from_nanos(now), &mut |closed| {
            if outcome.is_ok() {
                outcome = sink.closed(closed);
            }
        });
        Ok(outcome?)
    }

    /// Ends what is due, and gives the sessions that ended with the last frames the quiescent points it takes to report them.
    fn finish(&mut self, now: u64) -> Result<(), ReplayError> {
        const TURNS: usize = 4;
        self.settle(now)?;
        for _ in 0..TURNS {
            self.step(now)?;
        }
        self.maintain(now)
    }

    /// Hands what was sent to the sink, in the order of time, then frees it.
    #[inline]
    fn hand_over(&mut self) -> Result<(), ReplayError> {
        for (port, sent) in (0..).map(PortIndex).zip(&mut self.io.sent) {
            if sent.len() > 1 {
                // Frames that were handled at once leave as if they had been handled one by one.
                sent.sort_by_key(|frame| frame.tag);
            }
            for frame in sent.drain(..) {
                self.sink.sent(port, self.origin + frame.tag, frame.mbuf())?;
            }
        }
        Ok(())
    }
}

/// Ports that take everything. A frame's tag is its time.
struct Capture {
    pool: Mempool,
    now: u64,
    sent: Vec<Vec<Frame<u64>>>,
}

impl Io<Frame<u64>> for Capture {
    fn transmit<const N: usize>(&mut self, port: PortIndex, packets: &mut ArrayVec<Frame<u64>, N>) {
        match self.sent.get_mut(usize::from(port.0)) {
            Some(sent) => sent.extend(packets.drain(..)),
            None => packets.clear(),
        }
    }

    fn allocate(&mut self) -> Option<Frame<u64>> {
        self.pool.alloc().map(|mbuf| Frame::new(mbuf, self.now))
    }

    fn duplicate(&mut self, packet: &Frame<u64>, headers: usize) -> Option<Frame<u64>> {
        Mbuf::share(&self.pool, packet.mbuf(), headers).map(|mbuf| Frame::new(mbuf, packet.tag))
    }
}
