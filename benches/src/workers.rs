//! What workers cost each other, and what a writer costs them: two cores on one session table.

use crate::hotpath::{Flow, Frames, rate, stand_up};
use crate::report::median;
use crate::uptime::Uptime;
use crate::{Stand, cores, traffic};
use anyhow::{Context, Result};
use conntrack::{SessionSpec, SessionTable, Timestamp};
use dpdk::Mempool;
use gateway::frame::Frame;
use pipeline::Worker;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

const SESSIONS: u32 = 1_000_000;
const SECONDS: f64 = 1.0;
/// Sessions at a time that the writer puts in and takes out, beside those that packets use.
const BATCH: usize = 64;
/// Those that it works through, again and again.
const CHURN: usize = 3200 * BATCH;
/// Those that live meanwhile if the oldest are taken out: 100,000, in batches.
const RESIDENT: usize = 1563 * BATCH;
/// The writer is at rest in one slice of a run and at work in the next; the last one is at rest again.
const SLICE_SECONDS: f64 = 0.05;
const SLICES: usize = 41;

/// A worker with its half of the sessions.
struct Half {
    pool: Mempool,
    worker: Worker<Frame>,
    frames: Frames,
    uptime: Uptime,
}

impl Half {
    fn run(&mut self, seconds: f64) -> Result<f64> {
        rate(&self.pool, &mut self.worker, &mut self.frames, self.uptime, seconds)
    }
}

/// The second worker's gain, and what the first loses to a writer at full speed.
pub fn bench(stand: &mut Stand) -> Result<()> {
    let (table, workers) =
        stand_up(Flow::Forward, SESSIONS, 2 * CHURN as u32, stand.hugepages, &stand.pool, 2)?;
    let uptime = Uptime::start(&stand.eal);
    let middle = SESSIONS / 2;
    let mut halves = workers.into_iter().zip([0..middle, middle..SESSIONS]).map(|(worker, sessions)| Half {
        pool: stand.pool.clone(),
        worker,
        frames: Frames::of(sessions),
        uptime,
    });
    let (mut here, mut there) = halves.next().zip(halves.next()).context("two workers")?;
    let mut speedups = Vec::new();
    let mut at_once = Written::new("taken out again at once");
    let mut oldest = Written::new(&format!("the oldest of {RESIDENT} taken out"));
    for _ in 0..stand.runs {
        cores::wait_near(0, 1, Duration::from_secs(20));
        cores::pin(0)?;
        let alone_here = here.run(SECONDS)?;
        let (alone_there, back) = beside(stand, there, None)?;
        let (together, back) = beside(stand, back, Some(&mut here))?;
        speedups.push(together / ((alone_here + alone_there) / 2.0));
        there = with_writer(stand, back, Churn::new(&table, 0), &mut at_once)?;
        there = with_writer(stand, there, Churn::new(&table, RESIDENT), &mut oldest)?;
    }
    let conditions = format!("{SESSIONS} sessions on one table, each worker on a core with half of them");
    stand.report.add("workers.second_speedup", "ratio", speedups, conditions);
    for (suffix, written) in [("", at_once), ("_fifo", oldest)] {
        let conditions = format!(
            "one writer, batches of {BATCH} put in and {}, while a worker forwards at full rate, {SESSIONS} others there; \
             each run has {} slices of {} ms with the writer between slices without it",
            written.order,
            SLICES / 2,
            1000.0 * SLICE_SECONDS
        );
        let rate = format!("table.insert_delete{suffix}_per_second");
        stand.report.add(rate, "1/s", written.rates, conditions.clone());
        let loss = "the median of each run's slices, each held against its two neighbours";
        stand.report.add(
            format!("table.reader_loss{suffix}"),
            "share",
            written.losses,
            format!("{conditions}, {loss}"),
        );
    }
    Ok(())
}

/// What runs with a writer have shown.
struct Written {
    /// In which order sessions go, for conditions.
    order: String,
    /// Sessions put in and taken out a second.
    rates: Vec<f64>,
    /// What share the worker has lost by it.
    losses: Vec<f64>,
}

impl Written {
    fn new(order: &str) -> Self {
        Self { order: order.to_owned(), rates: Vec::new(), losses: Vec::new() }
    }
}

/// Packets a second of `half` on the second core, and of `here` on this one if given; both begin together.
fn beside(stand: &Stand, mut half: Half, here: Option<&mut Half>) -> Result<(f64, Half)> {
    let lcore = stand.eal.worker_lcores().first().copied().context("a worker lcore")?;
    let other = stand.eal.launch(lcore, move || {
        let rate = half.run(SECONDS);
        (rate, half)
    })?;
    let here = here.map_or(Ok(0.0), |here| here.run(SECONDS))?;
    let (there, half) = other.join()?;
    Ok((here + there?, half))
}

/// A writer's sessions: as many are put in as are taken out, which are those put in longest ago, `resident` sessions back.
struct Churn<'t> {
    table: &'t SessionTable,
    specs: Vec<SessionSpec>,
    resident: usize,
    next: usize,
    results: Vec<Result<(), conntrack::InsertError>>,
}

impl<'t> Churn<'t> {
    /// With the first `resident` sessions in the table; a multiple of the batch.
    fn new(table: &'t SessionTable, resident: usize) -> Self {
        let specs = (SESSIONS..SESSIONS + CHURN as u32).map(traffic::session).collect();
        let mut churn = Self { table, specs, resident, next: 0, results: Vec::with_capacity(BATCH) };
        while churn.next < resident {
            churn.put();
        }
        churn
    }

    fn put(&mut self) {
        self.results.clear();
        self.table.insert_batch(&self.specs[self.next..self.next + BATCH], Timestamp(0), &mut self.results);
        self.next = (self.next + BATCH) % self.specs.len();
    }

    /// Takes out the batch that was put in `back` sessions ago; how many were there.
    fn take(&self, back: usize) -> usize {
        let first = (self.next + self.specs.len() - back) % self.specs.len();
        let specs = &self.specs[first..first + BATCH];
        specs.iter().filter(|spec| self.table.remove(spec.id, Timestamp(0))).count()
    }

    /// A batch in and a batch out; how many were taken out.
    fn turn(&mut self) -> usize {
        self.put();
        let taken = self.take(self.resident + BATCH);
        self.table.maintain(Timestamp(0), 4 * BATCH, &mut |_| {});
        taken
    }
}

impl Drop for Churn<'_> {
    fn drop(&mut self) {
        for back in (BATCH..=self.resident).step_by(BATCH) {
            self.take(back);
        }
        while self.table.maintain(Timestamp(0), usize::MAX, &mut |_| {}).more {}
    }
}

/// The half forwards on the second core, and this core writes in every other slice.
fn with_writer(stand: &Stand, mut half: Half, mut churn: Churn<'_>, into: &mut Written) -> Result<Half> {
    let slice = Arc::new(AtomicUsize::new(0));
    let lcore = stand.eal.worker_lcores().first().copied().context("a worker lcore")?;
    let other = {
        let slice = slice.clone();
        stand.eal.launch(lcore, move || {
            let slices = (0..SLICES).map(|number| {
                slice.store(number, Relaxed);
                half.run(SLICE_SECONDS)
            });
            let rates: Result<Vec<f64>> = slices.collect();
            slice.store(SLICES, Relaxed);
            (rates, half)
        })?
    };
    let (mut written, mut seconds) = (0, Duration::ZERO);
    loop {
        match slice.load(Relaxed) {
            SLICES => break,
            number if is_written(number) => {
                let start = Instant::now();
                written += churn.turn();
                seconds += start.elapsed();
            }
            _ => std::hint::spin_loop(),
        }
    }
    let (rates, half) = other.join()?;
    into.rates.push(written as f64 / seconds.as_secs_f64());
    into.losses.push(median(&losses(&rates?)));
    Ok(half)
}

fn is_written(slice: usize) -> bool {
    slice % 2 == 1
}

/// What each slice with a writer has lost of the mean of its neighbours, which had none.
fn losses(rates: &[f64]) -> Vec<f64> {
    let with_neighbours = rates.windows(3).enumerate().filter(|(first, _)| is_written(first + 1));
    with_neighbours.map(|(_, rates)| 1.0 - rates[1] / f64::midpoint(rates[0], rates[2])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use conntrack::TableConfig;
    use conntrack::table::Timeouts;

    #[test]
    fn slices_with_a_writer_are_held_against_their_neighbours() {
        // A machine that gets slower all the time, and a tenth that is lost to the writer.
        let rates = [100.0, 81.0, 80.0, 63.0, 60.0];
        let lost = losses(&rates);
        assert_eq!(lost.len(), 2);
        assert!(lost.iter().all(|lost| (lost - 0.1).abs() < 1e-9), "{lost:?}");
        assert_eq!(losses(&[1.0; SLICES]).len(), SLICES / 2);
    }

    #[test]
    fn the_oldest_go_and_so_many_stay() {
        for resident in [0, 2 * BATCH] {
            let table = SessionTable::new(TableConfig {
                capacity: 4096,
                timeouts: Timeouts { tcp: 7440, udp: 300, icmp: 60, other: 60 },
                readers: 1,
                hugepages: false,
                hash_secret: [1, 2],
            })
            .unwrap();
            let mut churn = Churn::new(&table, resident);
            for turn in 0..10 {
                assert_eq!(churn.turn(), BATCH, "turn {turn} with {resident}");
                let mut live = Vec::new();
                table.list(0, 4096, &mut live);
                assert_eq!(live.len(), resident);
                let oldest = traffic::session(SESSIONS + ((turn + 1) * BATCH) as u32).id;
                assert_eq!(live.iter().map(|info| info.spec.id).min(), (resident > 0).then_some(oldest));
            }
            drop(churn);
            let mut live = Vec::new();
            table.list(0, 4096, &mut live);
            assert!(live.is_empty());
        }
    }
}
