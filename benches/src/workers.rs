//! What workers cost each other, and what a writer costs them: two cores on one session table.

use crate::hotpath::{Frames, rate, stand_up};
use crate::uptime::Uptime;
use crate::{Stand, cores, traffic};
use anyhow::{Context, Result};
use conntrack::{SessionTable, Timestamp};
use dpdk::Mempool;
use gateway::frame::Frame;
use pipeline::Worker;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

const SESSIONS: u32 = 1_000_000;
const SECONDS: f64 = 1.0;
/// Sessions that the writer puts in and takes out, beside those that packets use.
const CHURN: u32 = 100_000;

/// A worker with its half of the sessions.
struct Half {
    pool: Mempool,
    worker: Worker<Frame>,
    frames: Frames,
    uptime: Uptime,
}

impl Half {
    fn run(&mut self) -> Result<f64> {
        rate(&self.pool, &mut self.worker, &mut self.frames, self.uptime, SECONDS)
    }
}

/// The second worker's gain, and what the first loses to a writer at full speed.
pub fn bench(stand: &mut Stand) -> Result<()> {
    let (table, workers) = stand_up(SESSIONS, CHURN, stand.hugepages, &stand.pool, 2)?;
    let uptime = Uptime::start(&stand.eal);
    let middle = SESSIONS / 2;
    let mut halves = workers.into_iter().zip([0..middle, middle..SESSIONS]).map(|(worker, sessions)| Half {
        pool: stand.pool.clone(),
        worker,
        frames: Frames::of(sessions),
        uptime,
    });
    let (mut here, mut there) = halves.next().zip(halves.next()).context("two workers")?;
    let (mut speedups, mut losses, mut writes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..stand.runs {
        cores::wait_near(0, 1, Duration::from_secs(20));
        cores::pin(0)?;
        let (alone_here, none) = (here.run()?, None);
        let (alone_there, back) = beside(stand, there, none)?;
        let together = {
            let (other, back) = beside(stand, back, Some(&mut here))?;
            there = back;
            other
        };
        speedups.push(together.total / ((alone_here + alone_there.total) / 2.0));
        let (share, rate, back) = with_writer(stand, there, &table, alone_there.total)?;
        there = back;
        losses.push(share);
        writes.push(rate);
    }
    let conditions = format!("{SESSIONS} sessions on one table, each worker on a core with half of them");
    stand.report.add("workers.second_speedup", "ratio", speedups, conditions);
    let conditions = format!(
        "one writer, sessions in and out in batches of 64, while a worker forwards at full rate, {SESSIONS} others there"
    );
    stand.report.add("table.insert_delete_per_second", "1/s", writes, conditions.clone());
    stand.report.add("table.reader_loss", "share", losses, conditions);
    Ok(())
}

/// What ran in a window.
struct Rates {
    total: f64,
}

/// `half` on the second core, and `here` on this one if given; both begin together.
fn beside(stand: &Stand, mut half: Half, here: Option<&mut Half>) -> Result<(Rates, Half)> {
    let lcore = stand.eal.worker_lcores().first().copied().context("a worker lcore")?;
    let other = stand.eal.launch(lcore, move || {
        let rate = half.run();
        (rate, half)
    })?;
    let here = here.map_or(Ok(0.0), Half::run)?;
    let (there, half) = other.join()?;
    Ok((Rates { total: here + there? }, half))
}

/// What share of `alone` the half loses while this core writes, and how many sessions a second that puts in and takes out.
fn with_writer(
    stand: &Stand,
    mut half: Half,
    table: &Arc<SessionTable>,
    alone: f64,
) -> Result<(f64, f64, Half)> {
    let specs: Vec<_> = (SESSIONS..SESSIONS + CHURN).map(traffic::session).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let lcore = stand.eal.worker_lcores().first().copied().context("a worker lcore")?;
    let other = {
        let stop = stop.clone();
        stand.eal.launch(lcore, move || {
            let rate = half.run();
            stop.store(true, Relaxed);
            (rate, half)
        })?
    };
    let mut results = Vec::with_capacity(64);
    let mut pairs = 0usize;
    let start = Instant::now();
    for specs in specs.chunks(64).cycle() {
        if stop.load(Relaxed) {
            break;
        }
        results.clear();
        table.insert_batch(specs, Timestamp(0), &mut results);
        pairs += results.iter().filter(|result| result.is_ok()).count();
        for spec in specs {
            table.remove(spec.id, Timestamp(0));
        }
        table.maintain(Timestamp(0), 256, &mut |_| {});
    }
    let seconds = start.elapsed().as_secs_f64();
    let (rate, half) = other.join()?;
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    Ok((1.0 - rate? / alone, pairs as f64 / seconds, half))
}
