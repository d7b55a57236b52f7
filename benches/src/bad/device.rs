//! A gateway process with sessions, and whether it counts what it was sent.

use super::bed::SESSIONS;
use super::source::{Outcome, Rates, Source};
use crate::{Stand, cores, memif};
use anyhow::{Context, Result, ensure};
use benches::devices::{Scratch, gateway::Gateway};
use benches::pktgen::flows;
use proto::gateway::v1;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Share of a run in which the worker may have waited for its core.
const HELD_UP: f64 = 0.02;
/// How long the last packets may take to be counted.
const PATIENCE: Duration = Duration::from_secs(5);

/// A gateway and its traffic.
pub struct Device {
    gateway: Gateway,
    source: Source,
    _scratch: Scratch,
}

/// A run that adds up.
pub struct Run {
    pub outcome: Outcome,
    pub counts: Counts,
    /// Near cores, and the worker had its own.
    pub fair: bool,
}

/// What the gateway counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    pub received: u64,
    pub established: u64,
    /// Sent on the uplink, and not taken by it.
    pub sent: u64,
    pub dropped: u64,
    /// Of new flows: to the kernel, and over the limit.
    pub trapped: u64,
    pub limited: u64,
    /// Sent on the kernel's port, and not taken by it.
    pub to_kernel: u64,
    pub not_to_kernel: u64,
}

impl Device {
    /// With its worker on core 1 and nobody behind its trap port, which takes everything.
    pub fn start(stand: &Stand, name: &str) -> Result<Self> {
        let scratch = Scratch::new(name)?;
        let profile = memif::profile(SESSIONS)?;
        let gateway = Gateway::start(&profile, stand.hugepages, &scratch, name)?;
        gateway.install(&profile, &flows::sessions(&profile)?).context("installing sessions")?;
        let source = Source::connect(stand, &gateway.socket)?;
        Ok(Self { gateway, source, _scratch: scratch })
    }

    /// One run; all packets must be accounted for.
    pub fn run(&mut self, rates: Rates, seconds: f64, silence: Range<f64>) -> Result<Run> {
        self.gateway.process.pause()?;
        let near = cores::wait_near(0, 1, Duration::from_secs(10)).is_none_or(|ns| ns <= cores::NEAR_NS);
        self.gateway.process.resume()?;
        cores::pin(0)?;
        let (before, waited) = (Counts::of(&self.gateway.stats()?)?, self.waited());
        let mut outcome = self.source.run(rates, seconds, silence)?;
        let fair = near && (self.waited() - waited).as_secs_f64() <= HELD_UP * seconds;
        let ended = Instant::now();
        loop {
            // On a busy machine the worker may not have come to the last ones yet.
            self.source.drain(&mut outcome.back)?;
            let counts = Counts::of(&self.gateway.stats()?)?.since(before);
            match counts.add_up(&outcome) {
                Ok(()) => return Ok(Run { outcome, counts, fair }),
                Err(error) if ended.elapsed() > PATIENCE => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Time that the worker was ready to run and had no core.
    fn waited(&self) -> Duration {
        self.gateway.process.scheduled().1
    }
}

impl Counts {
    fn of(stats: &v1::Stats) -> Result<Self> {
        let [uplink, kernel] = &stats.ports[..] else { anyhow::bail!("{} ports", stats.ports.len()) };
        let named = |counters: &[v1::Counter], name: &str| {
            let counter = counters.iter().find(|counter| counter.name == name);
            counter.map(|counter| counter.value).with_context(|| format!("the gateway does not count {name}"))
        };
        Ok(Self {
            received: uplink.rx_packets,
            established: named(&stats.other, "established")?,
            sent: uplink.tx_packets,
            dropped: uplink.tx_dropped,
            trapped: named(&stats.traps, "new")?,
            limited: named(&stats.trap_limited, "new")?,
            to_kernel: kernel.tx_packets,
            not_to_kernel: kernel.tx_dropped,
        })
    }

    /// Every packet that the gateway took is counted, as what it was.
    fn add_up(&self, outcome: &Outcome) -> Result<()> {
        let (known, unknown, back) = (outcome.known.taken, outcome.unknown.taken, outcome.received());
        ensure!(self.received == known + unknown, "{known} + {unknown} packets were sent: {self:?}");
        ensure!(self.established == known, "{known} packets were of sessions: {self:?}");
        ensure!(self.trapped + self.limited == unknown, "{unknown} packets were of none: {self:?}");
        ensure!(self.sent == back && self.sent + self.dropped == known, "{back} came back: {self:?}");
        let all_to_kernel = self.to_kernel == self.trapped && self.not_to_kernel == 0;
        ensure!(all_to_kernel, "the kernel's port was held up: {self:?}");
        Ok(())
    }

    fn since(self, before: Self) -> Self {
        Self {
            received: self.received - before.received,
            established: self.established - before.established,
            sent: self.sent - before.sent,
            dropped: self.dropped - before.dropped,
            trapped: self.trapped - before.trapped,
            limited: self.limited - before.limited,
            to_kernel: self.to_kernel - before.to_kernel,
            not_to_kernel: self.not_to_kernel - before.not_to_kernel,
        }
    }
}
