//! Several devices measured in turn by one generator, under one condition: cores near, and nobody had to wait for one.

use crate::report::median;
use crate::{Stand, cores};
use anyhow::{Context, Result, ensure};
use benches::devices::{Process, WORKER_CORE, memif_client};
use benches::pktgen::generator::Traffic;
use benches::pktgen::{Generator, Load, Outcome, Ports, Trial};
use dpdk::{Mempool, PoolOptions, Port, PortOptions};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Packets on their way: less than a ring of 1024 holds, so that none is dropped for want of room in it.
pub const WINDOW: usize = 1000;
/// How long a run waits for near cores.
const PATIENCE: Duration = Duration::from_secs(20);
/// Share of a run in which a device may have waited for its core, and in which a hypervisor may have had either core.
const HELD_UP: f64 = 0.02;

/// The generator's core and the device's.
const CORES: [usize; 2] = [0, WORKER_CORE];

/// The generator's ports to a device.
pub struct Bench {
    generator: Generator,
    /// Dropped behind the queues.
    _ports: Vec<Port>,
}

impl Bench {
    /// Connects to a device that listens on a memif, and sends on so many queues.
    pub fn connect(stand: &Stand, socket: &str, rx_queues: u16) -> Result<Self> {
        let memif = memif_client(socket, rx_queues, 0)?;
        Ok(Self { generator: Generator::new(&stand.eal, memif), _ports: Vec::new() })
    }

    /// Opens devices: frames go out by the first, and come back by the last.
    pub fn open(stand: &Stand, devices: &[&str], rx_queues: u16) -> Result<Self> {
        let name = format!("duel{}", number());
        let pool = PoolOptions { name: &name, count: 8191, cache: 512, ..PoolOptions::default() };
        let pool = Mempool::new(&stand.eal, &pool)?;
        let (mut ports, mut all_rx, mut all_tx) = (Vec::new(), Vec::new(), Vec::new());
        for device in devices {
            let mut port = Port::open(&stand.eal, device)?;
            port.configure(&PortOptions { rx_queues, ..PortOptions::default() }, &pool)?;
            let (rx, tx) = port.start()?;
            all_rx.push(rx);
            all_tx.extend(tx);
            wait_for_link(&port)?;
            ports.push(port);
        }
        let tx = all_tx.into_iter().next().context("no transmit queue")?;
        let rx = all_rx.pop().context("no receive queue")?;
        Ok(Self { generator: Generator::new(&stand.eal, Ports::new(tx, rx, pool)), _ports: ports })
    }
}

/// Names of devices and pools are unique in a process.
pub fn number() -> usize {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

fn wait_for_link(port: &Port) -> Result<()> {
    let start = Instant::now();
    while !port.link()?.up {
        ensure!(start.elapsed() < Duration::from_secs(10), "no link on {}", port.device());
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A device with its traffic; only one runs at a time. The device goes before the ports to it.
pub struct Contender {
    /// For messages.
    pub name: &'static str,
    /// The device, if it is a process: the kernel cannot be paused, and does nothing while it gets nothing.
    pub process: Option<Rc<Process>>,
    /// The generator's ports to it.
    pub bench: Bench,
    /// What it gets.
    pub traffic: Traffic,
    /// What it says of its own work.
    pub meter: Option<Meter>,
}

/// Cycles that a device has spent on packets, and how many packets those were.
pub type Meter = Box<dyn Fn() -> Result<(f64, f64)>>;

/// A run and its circumstances.
pub struct Run {
    /// What came of it.
    pub outcome: Outcome,
    /// Near cores before and after, nobody held up.
    pub fair: bool,
    /// Cycles per packet that the device spent, by its own account; idle polls do not count.
    pub cycles: Option<f64>,
}

impl Contender {
    /// One trial with this device alone awake.
    pub fn trial(&mut self, trial: &Trial) -> Result<Run> {
        let before = cores::wait_near(0, 1, PATIENCE);
        cores::pin(0)?;
        let (waited, stolen) = (self.waited(), CORES.map(cores::stolen));
        let start = Instant::now();
        let (outcome, cycles) = self.awake(|bench, traffic, meter| {
            let work = || meter.map(|meter| meter()).transpose();
            let before = work()?;
            let outcome = bench.generator.run(traffic, trial)?;
            let cycles =
                before.zip(work()?).map(|(before, after)| (after.0 - before.0) / (after.1 - before.1));
            Ok((outcome, cycles))
        })?;
        let elapsed = start.elapsed();
        let (waited_after, stolen_after) = (self.waited(), CORES.map(cores::stolen));
        let after = cores::round_trip_ns(0, 1);
        cores::pin(0)?;
        ensure!(outcome.counts.wrong == 0, "{} sent wrong packets:\n{}", self.name, outcome.table());
        ensure!(outcome.counts.received > 0, "{} sent nothing back:\n{}", self.name, outcome.table());
        let near = [before, after].iter().flatten().all(|ns| *ns <= cores::NEAR_NS);
        let too_long = |before: Duration, after: Duration| {
            after.saturating_sub(before).as_secs_f64() > HELD_UP * elapsed.as_secs_f64()
        };
        let stolen = stolen.into_iter().zip(stolen_after).any(|(before, after)| too_long(before, after));
        // At a rate, what the generator misses is neither made good nor timed.
        let generator_held_up =
            outcome.intended_pps.is_none() && outcome.stalled_seconds > HELD_UP * outcome.seconds;
        let held_up = stolen || too_long(waited, waited_after) || generator_held_up;
        Ok(Run { outcome, fair: near && !held_up, cycles })
    }

    /// First packets of all flows, with this device alone awake.
    pub fn fill(&mut self, rate: f64) -> Result<Outcome> {
        self.awake(|bench, traffic, _| bench.generator.fill(traffic, rate, 5))
    }

    /// Time that the device's busiest thread has waited for a core; the kernel's, if it is the device.
    fn waited(&self) -> Duration {
        match &self.process {
            Some(process) => process.scheduled().1,
            None => cores::softirq_waited(WORKER_CORE),
        }
    }

    fn awake<T>(
        &mut self,
        work: impl FnOnce(&mut Bench, &mut Traffic, Option<&Meter>) -> Result<T>,
    ) -> Result<T> {
        if let Some(process) = &self.process {
            process.resume()?;
        }
        let done = work(&mut self.bench, &mut self.traffic, self.meter.as_ref());
        if let Some(process) = &self.process {
            process.pause()?;
        }
        done
    }
}

/// All contenders in turn, `runs` times; unfair rounds are repeated, as long as there is patience for it. By contender, the
/// runs; and how many rounds were unfair after all.
pub fn rounds(
    contenders: &mut [&mut Contender],
    trial: &Trial,
    runs: usize,
) -> Result<(Vec<Vec<Run>>, usize)> {
    rounds_at(contenders, &vec![*trial; contenders.len()], runs)
}

/// The same, each with its own trial.
pub fn rounds_at(
    contenders: &mut [&mut Contender],
    trials: &[Trial],
    runs: usize,
) -> Result<(Vec<Vec<Run>>, usize)> {
    let mut kept: Vec<Vec<Run>> = contenders.iter().map(|_| Vec::new()).collect();
    let mut unfair: Vec<Vec<Run>> = Vec::new();
    for _ in 0..3 * runs {
        let with_trials = contenders.iter_mut().zip(trials);
        let round =
            with_trials.map(|(contender, trial)| contender.trial(trial)).collect::<Result<Vec<_>>>()?;
        let fair = round.iter().all(|run| run.fair);
        if fair {
            kept.iter_mut().zip(round).for_each(|(kept, run)| kept.push(run));
        } else {
            unfair.push(round);
        }
        if kept.first().is_none_or(|kept| kept.len() >= runs) {
            break;
        }
    }
    let missing = runs.saturating_sub(kept.first().map_or(0, Vec::len)).min(unfair.len());
    for round in unfair.into_iter().take(missing) {
        kept.iter_mut().zip(round).for_each(|(kept, run)| kept.push(run));
    }
    Ok((kept, missing))
}

/// As fast as packets come back. Shorter than the 0.95 of each second that Linux leaves to threads with a real-time priority, so
/// that such a bench is not throttled in the middle of it.
pub fn flat_out() -> Trial {
    let warm_up = Duration::from_millis(150);
    Trial { warm_up, ..Trial::new(Load::Window(WINDOW), Duration::from_millis(750)) }
}

/// Millions of packets that came back, per second.
pub fn mpps(runs: &[Run]) -> Vec<f64> {
    runs.iter().map(|run| run.outcome.rx_pps / 1e6).collect()
}

/// Cycles per packet by the device's own account; empty if it gives none.
pub fn cycles(runs: &[Run]) -> Vec<f64> {
    runs.iter().filter_map(|run| run.cycles).collect()
}

/// How busy the generator was in the median run, for conditions.
pub fn generator_busy(runs: &[Run]) -> String {
    let shares: Vec<_> = runs.iter().map(|run| 100.0 * run.outcome.generator_busy).collect();
    format!("{:.0} %", median(&shares))
}

/// Ratio of two contenders, round by round.
pub fn ratios(ours: &[f64], theirs: &[f64]) -> Vec<f64> {
    ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect()
}
