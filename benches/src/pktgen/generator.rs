//! The loop that sends, receives and checks.

use super::check::Checker;
use super::flows::{self, Session};
use super::link::{BURST, Link};
use super::pace::{Pace, Waited};
use super::permutation::Permutation;
use super::profile::{Expect, Profile};
use super::templates::{Templates, announcements};
use super::trial::{Latency, Load, Outcome, Trial};
use anyhow::Result;
use dpdk::Eal;
use std::time::Duration;

/// Packets handed to a port at once when they are sent at a rate.
const PACED_BURST: usize = 64;
/// With a window: fewer are neither sent nor received, until there are more or time is up.
const LEAST: usize = 64;
/// With a window: the longest that arrived packets wait for others.
const GATHER: Duration = Duration::from_micros(20);
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
        // In the order in which they are sent, so that the generator's own memory is read from front to back.
        let order = Permutation::new(sessions.len() as u64, profile.seed ^ 0x5eed);
        let shuffled: Vec<_> =
            (0..sessions.len() as u64).map(|position| sessions[order.at(position) as usize]).collect();
        Self {
            templates: Templates::new(profile, &shuffled),
            checker: Checker::new(profile, &shuffled, dpdk::tsc_hz(eal)),
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

/// Sends and receives on the calling thread.
pub struct Generator {
    link: Link,
    hz: u64,
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
    /// Ticks that count.
    elapsed: u64,
    /// Of those, until the last packet came back; and how many had been sent by then.
    heard: (u64, u64),
}

/// How far a trial is, in ticks and packets.
#[derive(Clone, Copy, Default)]
struct Mark {
    elapsed: u64,
    busy: u64,
    sent: u64,
    received: u64,
}

impl Generator {
    /// Over a link to the device under test.
    pub fn new(eal: &Eal, link: impl Into<Link>) -> Self {
        Self { link: link.into(), hz: dpdk::tsc_hz(eal) }
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
        self.link.check_room(traffic.templates.longest())?;
        traffic.templates.restart();
        traffic.checker.begin(number);
        for frame in &traffic.announcements {
            self.link.send_one(frame)?;
        }
        let start = dpdk::tsc();
        let mut run = Run {
            traffic,
            trial: number,
            sent: 0,
            refused: 0,
            written_off: 0,
            last_arrival: start,
            elapsed: 0,
            heard: (0, 0),
        };
        let rate = if let Load::Rate(rate) = trial.load { rate } else { 0.0 };
        let (longest, calls_system) = (run.traffic.templates.longest(), self.link.calls_system());
        let mut pace = Pace::new(rate, longest, start, self.hz, calls_system.then(Waited::start));
        let end = self.ticks(trial.duration);
        let warm = self.ticks(trial.warm_up);
        // Stalls stretch a trial, but not without end.
        let latest = start + 3 * end + self.hz;
        let mut before: Option<Mark> = None;
        let (mut busy, mut moved) = (0, 0);
        loop {
            let now = dpdk::tsc();
            let stalled = pace.stalled;
            let step = pace.tick(now, moved);
            run.elapsed = pace.elapsed();
            busy += if moved > 0 { step } else { 0 };
            if pace.stalled > stalled {
                // This thread was held up, and the device perhaps with it.
                run.last_arrival = now;
                run.traffic.checker.held_up(now);
            }
            let all = trial.packets.is_some_and(|most| run.sent >= most) && self.link.waiting() == 0;
            if all || pace.elapsed() >= end || now >= latest {
                break;
            }
            if before.is_none() && pace.elapsed() >= warm {
                before = Some(run.mark(&pace, busy));
            }
            let left = trial.packets.map_or(u64::MAX, |most| most - run.sent);
            moved = match trial.load {
                Load::Rate(_) => {
                    let sent = self.send_due(&mut run, &mut pace, left, now)?;
                    let timely = if calls_system { u64::MAX } else { now + pace.patience(sent) };
                    run.traffic.checker.timely(timely);
                    sent + self.receive(&mut run)
                }
                Load::Window(window) => {
                    let received = self.gather(&mut run, window, now);
                    received + self.send_window(&mut run, window, left, now)?
                }
            };
        }
        let (before, after) = (before.unwrap_or_default(), run.mark(&pace, busy));
        let ticks = (after.elapsed - before.elapsed).max(1) as f64;
        let hz = self.hz as f64;
        let per_second = |packets: u64| packets as f64 / ticks * hz;
        run.sent -= self.link.give_up() as u64;
        let (silent, unanswered) = (run.elapsed - run.heard.0, run.sent > run.heard.1);
        let heard = run.back();
        self.drain(&mut run, trial.drain);
        let silent = if unanswered && run.back() == heard { silent } else { 0 };
        let checker = &run.traffic.checker;
        let counts = checker.counts().clone();
        Ok(Outcome {
            intended_pps: (rate > 0.0).then_some(rate),
            seconds: pace.elapsed() as f64 / self.hz as f64,
            stalled_seconds: pace.stalled as f64 / self.hz as f64,
            sent: run.sent,
            refused: run.refused,
            lost: run.sent.saturating_sub(counts.unique()),
            tx_pps: per_second(after.sent - before.sent),
            rx_pps: per_second(after.received - before.received),
            silent_seconds: silent as f64 / hz,
            disconnected: !self.link.is_connected(),
            generator_busy: (after.busy - before.busy) as f64 / ticks,
            latency_us: Latency::of(checker.latency()),
            latency_at_most_us: Latency::of(&checker.latency_at_most()),
            counts,
        })
    }

    fn ticks(&self, time: Duration) -> u64 {
        (time.as_secs_f64() * self.hz as f64) as u64
    }

    /// Sends what is due; what the port does not take is lost.
    fn send_due(&mut self, run: &mut Run<'_>, pace: &mut Pace, left: u64, now: u64) -> Result<usize> {
        let due = pace.take(PACED_BURST.min(usize::try_from(left).unwrap_or(PACED_BURST)));
        if due == 0 {
            return Ok(0);
        }
        let made = self.link.send(&mut run.traffic.templates, due, now, run.trial)?;
        run.sent += due as u64;
        run.refused += (due - made + self.link.give_up()) as u64;
        Ok(due)
    }

    /// Keeps as many packets on their way as the window says; what the port does not take now it gets the next time.
    fn send_window(&mut self, run: &mut Run<'_>, window: usize, left: u64, now: u64) -> Result<usize> {
        let out = run.sent.saturating_sub(run.back() + run.written_off);
        let room = (window as u64).saturating_sub(out).min(left);
        let room = usize::try_from(room).unwrap_or(BURST).min(BURST);
        let enough = room >= LEAST.min(window) || left < LEAST as u64;
        if !enough && now.saturating_sub(run.last_arrival) > self.ticks(WRITE_OFF) {
            run.written_off += out.saturating_sub(self.link.waiting() as u64);
            run.last_arrival = now;
        }
        if !enough && self.link.waiting() == 0 {
            return Ok(0);
        }
        let made =
            self.link.send(&mut run.traffic.templates, if enough { room } else { 0 }, now, run.trial)?;
        run.sent += made as u64;
        Ok(made)
    }

    /// Receives once it is worth it.
    #[inline]
    fn gather(&mut self, run: &mut Run<'_>, window: usize, now: u64) -> usize {
        let ripe = now.saturating_sub(run.last_arrival) > self.ticks(GATHER);
        if ripe || self.link.has(LEAST.min(window / 4)) { self.receive(run) } else { 0 }
    }

    #[inline]
    fn receive(&mut self, run: &mut Run<'_>) -> usize {
        let before = run.back();
        let count = self.link.receive(&mut run.traffic.checker);
        if count > 0 {
            run.last_arrival = dpdk::tsc();
            if run.back() > before {
                run.heard = (run.elapsed, run.sent);
            }
        }
        count
    }

    /// Receives until all are back, or none has come for `patience`.
    fn drain(&mut self, run: &mut Run<'_>, patience: Duration) {
        let patience = self.ticks(patience);
        let mut last = dpdk::tsc();
        run.traffic.checker.timely(u64::MAX);
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
    fn mark(&self, pace: &Pace, busy: u64) -> Mark {
        let received = self.traffic.checker.counts().received;
        Mark { elapsed: pace.elapsed(), busy, sent: self.sent - self.refused, received }
    }

    /// Packets that are no longer on their way.
    #[inline]
    fn back(&self) -> u64 {
        let counts = self.traffic.checker.counts();
        counts.unique() + counts.wrong
    }
}
