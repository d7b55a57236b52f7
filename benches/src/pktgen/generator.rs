//! The loop that sends, receives and checks.

use super::check::{BURST, Checker};
use super::flows::{self, Session};
use super::pace::Pace;
use super::profile::{Expect, Profile};
use super::templates::{Templates, announcements};
use super::trial::{Latency, Load, Outcome, Trial};
use anyhow::{Context, Result};
use arrayvec::ArrayVec;
use dpdk::{Eal, Mbuf, Mempool, RxQueue, TxQueue};
use std::time::Duration;

/// Packets handed to a port at once when they are sent at a rate.
const PACED_BURST: usize = 64;
/// With a window: fewer wait until there is room for more.
const LEAST: usize = 64;
/// With a window: what has not come back for so long is lost.
const WRITE_OFF: Duration = Duration::from_millis(20);

/// What is sent and what is expected: all flows of a profile.
pub struct Traffic {
    templates: Templates,
    checker: Checker,
    announcements: Vec<Vec<u8>>,
    sessions: Vec<Session>,
    trials: u8,
}

impl Traffic {
    /// Of a profile's own sessions.
    pub fn new(eal: &Eal, profile: &Profile) -> Result<Self> {
        Ok(Self::with_sessions(eal, profile, flows::sessions(profile)?))
    }

    /// Of given sessions.
    pub fn with_sessions(eal: &Eal, profile: &Profile, sessions: Vec<Session>) -> Self {
        let learns = matches!(profile.expect, Expect::Session | Expect::Learn);
        Self {
            templates: Templates::new(profile, &sessions),
            checker: Checker::new(profile, &sessions, dpdk::tsc_hz(eal)),
            announcements: if learns { announcements(profile) } else { Vec::new() },
            sessions,
            trials: 0,
        }
    }

    /// The sessions, in order.
    pub fn sessions(&self) -> &[Session] {
        &self.sessions
    }

    /// Directions of sessions, each with frames of its own.
    pub fn flows(&self) -> usize {
        self.templates.flows()
    }
}

/// A transmit queue and the receive queues where packets come back.
pub struct Ports {
    /// To the device under test.
    pub tx: TxQueue,
    /// From it.
    pub rx: Vec<RxQueue>,
}

/// Sends and receives on the calling thread.
pub struct Generator {
    pool: Mempool,
    ports: Ports,
    hz: u64,
    fresh: ArrayVec<Mbuf, BURST>,
    arrived: ArrayVec<Mbuf, BURST>,
}

/// A trial under way.
struct Run<'g> {
    traffic: &'g mut Traffic,
    trial: u8,
    sent: u64,
    refused: u64,
    /// Given up for lost, with a window.
    written_off: u64,
    last_arrival: u64,
}

impl Generator {
    /// Frames are made in buffers of `pool`.
    pub fn new(eal: &Eal, pool: Mempool, ports: Ports) -> Self {
        Self { pool, ports, hz: dpdk::tsc_hz(eal), fresh: ArrayVec::new(), arrived: ArrayVec::new() }
    }

    /// The RFC 9693 way to begin: one packet of each flow at `rate`, until each has come back, at most `attempts` times over.
    /// The last outcome.
    pub fn fill(&mut self, traffic: &mut Traffic, rate: f64, attempts: u32) -> Result<Outcome> {
        let packets = traffic.flows() as u64;
        let seconds = 10.0 + 2.0 * packets as f64 / rate;
        let trial = Trial {
            packets: Some(packets),
            ..Trial::new(Load::Rate(rate), Duration::from_secs_f64(seconds))
        };
        let mut outcome = self.run(traffic, &trial)?;
        for _ in 1..attempts {
            if outcome.lost == 0 {
                break;
            }
            outcome = self.run(traffic, &trial)?;
        }
        Ok(outcome)
    }

    /// Runs one trial.
    pub fn run(&mut self, traffic: &mut Traffic, trial: &Trial) -> Result<Outcome> {
        traffic.trials = traffic.trials.wrapping_add(1);
        let number = traffic.trials;
        traffic.templates.restart();
        traffic.checker.begin(number);
        self.announce(traffic)?;
        let start = dpdk::tsc();
        let mut run =
            Run { traffic, trial: number, sent: 0, refused: 0, written_off: 0, last_arrival: start };
        let rate = if let Load::Rate(rate) = trial.load { rate } else { 0.0 };
        let mut pace = Pace::new(rate, start, self.hz);
        let end = self.ticks(trial.duration);
        let warm = self.ticks(trial.warm_up);
        // Stalls stretch a trial, but not without end.
        let latest = start + 3 * end + self.hz;
        let mut before: Option<(u64, u64, u64)> = None;
        loop {
            let now = dpdk::tsc();
            pace.tick(now);
            let all = trial.packets.is_some_and(|most| run.sent >= most) && self.fresh.is_empty();
            if all || pace.elapsed() >= end || now >= latest {
                break;
            }
            if before.is_none() && pace.elapsed() >= warm {
                before = Some((pace.elapsed(), run.sent - run.refused, run.received()));
            }
            let left = trial.packets.map_or(u64::MAX, |most| most - run.sent);
            match trial.load {
                Load::Rate(_) => self.send_due(&mut run, &mut pace, left, now)?,
                Load::Window(window) => self.send_window(&mut run, window, left, now)?,
            }
            self.receive(&mut run);
        }
        let (begun, sent, received) = before.unwrap_or_default();
        let seconds = (pace.elapsed() - begun).max(1) as f64 / self.hz as f64;
        let (tx_pps, rx_pps) =
            ((run.sent - run.refused - sent) as f64 / seconds, (run.received() - received) as f64 / seconds);
        let held = std::mem::take(&mut self.fresh).len() as u64;
        run.sent -= held;
        self.drain(&mut run, trial.drain);
        let checker = &run.traffic.checker;
        let counts = checker.counts().clone();
        Ok(Outcome {
            intended_pps: (rate > 0.0).then_some(rate),
            seconds: pace.elapsed() as f64 / self.hz as f64,
            stalled_seconds: pace.stalled as f64 / self.hz as f64,
            sent: run.sent,
            refused: run.refused,
            lost: run.sent.saturating_sub(counts.unique()),
            tx_pps,
            rx_pps,
            latency_us: Latency::of(checker.latency()),
            counts,
        })
    }

    fn ticks(&self, time: Duration) -> u64 {
        (time.as_secs_f64() * self.hz as f64) as u64
    }

    fn announce(&mut self, traffic: &Traffic) -> Result<()> {
        for frame in &traffic.announcements {
            let mut burst: ArrayVec<Mbuf, 1> = ArrayVec::new();
            burst.push(Mbuf::from_slice(&self.pool, frame).context("the generator's pool is empty")?);
            self.ports.tx.tx_burst(&mut burst);
        }
        Ok(())
    }

    /// Sends what is due; what the port does not take is lost.
    fn send_due(&mut self, run: &mut Run<'_>, pace: &mut Pace, left: u64, now: u64) -> Result<()> {
        let due = pace.take(PACED_BURST.min(usize::try_from(left).unwrap_or(PACED_BURST)));
        if due == 0 {
            return Ok(());
        }
        self.make(run, due, now)?;
        self.ports.tx.tx_burst(&mut self.fresh);
        run.refused += self.fresh.len() as u64;
        dpdk::free_burst(&mut self.fresh);
        Ok(())
    }

    /// Keeps as many packets on their way as the window says; what the port does not take now it gets the next time.
    fn send_window(&mut self, run: &mut Run<'_>, window: usize, left: u64, now: u64) -> Result<()> {
        let out = run.sent.saturating_sub(run.back() + run.written_off);
        let room = (window as u64).saturating_sub(out).min(left);
        let room = usize::try_from(room).unwrap_or(BURST).min(BURST - self.fresh.len());
        if room >= LEAST.min(window) || left < LEAST as u64 {
            self.make(run, room, now)?;
        } else if now.saturating_sub(run.last_arrival) > self.ticks(WRITE_OFF) {
            run.written_off += out.saturating_sub(self.fresh.len() as u64);
            run.last_arrival = now;
        }
        if !self.fresh.is_empty() {
            self.ports.tx.tx_burst(&mut self.fresh);
        }
        Ok(())
    }

    /// Makes the next `count` frames, behind those that wait.
    #[inline]
    fn make(&mut self, run: &mut Run<'_>, count: usize, now: u64) -> Result<()> {
        let waiting = self.fresh.len();
        if !self.pool.alloc_bulk(count, &mut self.fresh) {
            // All buffers are on their way.
            return Ok(());
        }
        let templates = &mut run.traffic.templates;
        for mbuf in &mut self.fresh[waiting..] {
            let written = templates.write(now, run.trial, |len| mbuf.append(len));
            anyhow::ensure!(written, "a frame is longer than a buffer of the generator's pool");
        }
        run.sent += count as u64;
        Ok(())
    }

    #[inline]
    fn receive(&mut self, run: &mut Run<'_>) -> usize {
        let rx = self.ports.rx.iter_mut();
        let count = rx.map(|queue| queue.rx_burst(&mut self.arrived)).sum();
        if count > 0 {
            let now = dpdk::tsc();
            for mbuf in &mut self.arrived {
                // Frames are looked at in one piece; buffers have room for them.
                if mbuf.nb_segs() > 1 {
                    mbuf.linearize();
                }
                mbuf.prefetch_data();
            }
            run.traffic.checker.burst(now, self.arrived.iter().map(Mbuf::data));
            dpdk::free_burst(&mut self.arrived);
            run.last_arrival = now;
        }
        count
    }

    /// Receives until all are back, or none has come for `patience`.
    fn drain(&mut self, run: &mut Run<'_>, patience: Duration) {
        let patience = self.ticks(patience);
        let mut last = dpdk::tsc();
        while run.back() + run.refused < run.sent {
            if self.receive(run) > 0 {
                last = dpdk::tsc();
            } else if dpdk::tsc().saturating_sub(last) > patience {
                break;
            }
        }
    }
}

impl Run<'_> {
    #[inline]
    fn received(&self) -> u64 {
        self.traffic.checker.counts().received
    }

    /// Packets that are no longer on their way.
    #[inline]
    fn back(&self) -> u64 {
        let counts = self.traffic.checker.counts();
        counts.unique() + counts.wrong
    }
}
