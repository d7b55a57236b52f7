//! One trial: what to offer, and what came of it.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::time::Duration;

/// How fast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// Packets a second, whatever comes back.
    Rate(f64),
    /// As fast as they come back: at most so many on their way.
    Window(usize),
}

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// How fast.
    pub load: Load,
    /// How long.
    pub duration: Duration,
    /// At most so many packets.
    pub packets: Option<u64>,
    /// Time left out of the rates at the beginning.
    pub warm_up: Duration,
    /// The wait for late packets ends when none has come for so long.
    pub drain: Duration,
}

impl Trial {
    /// Offers `load` for `duration`; the rest as usual.
    pub fn new(load: Load, duration: Duration) -> Self {
        Self { load, duration, packets: None, warm_up: Duration::ZERO, drain: Duration::from_millis(100) }
    }
}

/// What has arrived.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counts {
    /// Packets of this trial, all right; duplicates too.
    pub received: u64,
    /// Of those, seen before.
    pub duplicates: u64,
    /// Of those, behind a later one of their flow.
    pub reordered: u64,
    /// Of those, more than 32 behind: reordered, or duplicates.
    pub too_late: u64,
    /// Of this trial, but wrong: headers, addresses, ports or checksums. They do not count as received.
    pub wrong: u64,
    /// The first wrong packets: what is wrong, and the bytes.
    pub samples: Vec<String>,
    /// Of an earlier trial.
    pub stale: u64,
    /// Not the generator's.
    pub foreign: u64,
    /// Received, but on their way while the generator was held up: when they arrived is not known, and latency is without them.
    pub untimed: u64,
}

/// Wrong packets shown.
const SAMPLES: usize = 3;

impl Counts {
    /// Counts a wrong packet.
    #[cold]
    pub fn wrong(&mut self, what: &str, frame: &[u8]) {
        self.wrong += 1;
        if self.samples.len() < SAMPLES {
            let shown: String = frame.iter().take(128).map(|byte| format!("{byte:02x}")).collect();
            self.samples.push(format!("{what}, {} bytes: {shown}", frame.len()));
        }
    }

    /// Packets that have arrived at least once.
    pub fn unique(&self) -> u64 {
        self.received.saturating_sub(self.duplicates)
    }
}

/// Microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "names say it")]
pub struct Latency {
    pub min: f64,
    pub mean: f64,
    pub p50: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub max: f64,
}

impl Latency {
    /// Of nanoseconds; None of none.
    pub fn of(histogram: &Histogram<u64>) -> Option<Self> {
        if histogram.is_empty() {
            return None;
        }
        let micros = |nanos: u64| nanos as f64 / 1e3;
        Some(Self {
            min: micros(histogram.min()),
            mean: histogram.mean() / 1e3,
            p50: micros(histogram.value_at_quantile(0.5)),
            p99: micros(histogram.value_at_quantile(0.99)),
            p99_9: micros(histogram.value_at_quantile(0.999)),
            max: micros(histogram.max()),
        })
    }
}

/// What came of a trial.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// Packets a second that were to be sent; None: as many as come back.
    pub intended_pps: Option<f64>,
    /// Seconds of sending, without those in which the generator was held up.
    pub seconds: f64,
    /// Seconds in which it was.
    pub stalled_seconds: f64,
    /// Packets that were due.
    pub sent: u64,
    /// Of those, not taken by the port: its queue was full. They count as lost.
    pub refused: u64,
    /// Sent and never seen again.
    pub lost: u64,
    /// What has arrived.
    #[serde(flatten)]
    pub counts: Counts,
    /// Packets sent a second, warm-up left out.
    pub tx_pps: f64,
    /// Packets received a second while sending, warm-up left out.
    pub rx_pps: f64,
    /// Share of that time in which the generator had work: near 1, the generator is the limit and not the device.
    pub generator_busy: f64,
    /// Seconds in which nothing came back at the end, though packets had been sent; 0 if something came after them.
    pub silent_seconds: f64,
    /// The other end of the memif is gone.
    pub disconnected: bool,
    /// From the making of a packet's burst to its arrival; None if nothing arrived.
    pub latency_us: Option<Latency>,
    /// The same with untimed packets, as if they had arrived when they were seen: the most that it can be.
    pub latency_at_most_us: Option<Latency>,
}

/// Silence that a device which forwards does not keep.
const SILENCE: f64 = 1.0;
/// Where to look when nothing comes back.
const LOOK: &str = "see whether the device runs, and has ports, MACs and tags as the profile says; a gateway's `gateway stats` \
                    counts what came, what it dropped and trapped; pktgen answers no ARP: with VXLAN, \
                    [underlay] neighbors needs an entry for it";

impl Outcome {
    /// Lost packets as a share of those sent.
    pub fn loss_ratio(&self) -> f64 {
        if self.sent == 0 { 0.0 } else { self.lost as f64 / self.sent as f64 }
    }

    /// Why the device must be dead, or have died; None if it seems to live.
    pub fn verdict(&self) -> Option<String> {
        let Self { sent, seconds, silent_seconds, .. } = self;
        if self.disconnected {
            let since = (seconds - silent_seconds).max(0.0);
            return Some(format!(
                "the memif's server went away; the last packet came back after {since:.1} s of {seconds:.1}"
            ));
        }
        if *sent > 0 && self.counts.received + self.counts.wrong == 0 {
            let taken = sent.saturating_sub(self.refused);
            return Some(format!("nothing came back: {sent} packets were due, {taken} of them sent; {LOOK}"));
        }
        (*silent_seconds >= SILENCE).then(|| {
            format!(
                "nothing came back in the last {silent_seconds:.1} s of {seconds:.1}, though packets were sent; {LOOK}"
            )
        })
    }

    /// For people.
    pub fn table(&self) -> String {
        let Self { counts, .. } = self;
        let latency = self.latency_us.map_or("-".into(), |l| {
            format!("p50 {:.1}  p99 {:.1}  p99.9 {:.1}  max {:.1}", l.p50, l.p99, l.p99_9, l.max)
        });
        let mpps = |pps: f64| format!("{:.3} Mpps", pps / 1e6);
        let mut rows = vec![
            ("sent", format!("{} in {:.3} s, {}", self.sent, self.seconds, mpps(self.tx_pps))),
            ("received", format!("{}, {}", counts.received, mpps(self.rx_pps))),
            (
                "lost",
                format!(
                    "{} ({:.5} %), of those not taken by the port {}",
                    self.lost,
                    100.0 * self.loss_ratio(),
                    self.refused
                ),
            ),
            (
                "order",
                format!(
                    "{} reordered, {} duplicates, {} too late to tell",
                    counts.reordered, counts.duplicates, counts.too_late
                ),
            ),
            ("wrong", counts.wrong.to_string()),
            ("others", format!("{} of earlier trials, {} foreign", counts.stale, counts.foreign)),
            ("generator", format!("{:.1} % busy", 100.0 * self.generator_busy)),
            ("latency, µs", latency),
        ];
        if self.stalled_seconds > 0.0 {
            rows.push((
                "held up",
                format!(
                    "{:.6} s: this machine's doing, not the tested one's; latency without {} packets that were on their way",
                    self.stalled_seconds, counts.untimed
                ),
            ));
        }
        rows.extend(counts.samples.iter().map(|sample| ("wrong packet", sample.clone())));
        rows.iter().map(|(name, value)| format!("{name:<13} {value}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(sent: u64, received: u64, silent_seconds: f64) -> Outcome {
        let counts = Counts { received, ..Counts::default() };
        Outcome { sent, seconds: 10.0, silent_seconds, counts, ..Outcome::default() }
    }

    #[test]
    fn a_dead_device_is_told_from_a_lossy_one() {
        let verdict = |outcome: Outcome| outcome.verdict().unwrap_or_default();
        assert_eq!(verdict(outcome(0, 0, 0.0)), "");
        assert_eq!(verdict(outcome(1_000, 1, 0.9)), "");
        let none = verdict(Outcome { refused: 900, ..outcome(1_000, 0, 10.0) });
        assert!(none.starts_with("nothing came back: 1000 packets were due, 100 of them sent"), "{none}");
        let died = verdict(outcome(1_000, 500, 2.5));
        assert!(died.starts_with("nothing came back in the last 2.5 s of 10.0"), "{died}");
        let gone = verdict(Outcome { disconnected: true, ..outcome(1_000, 500, 2.5) });
        assert!(gone.contains("server went away") && gone.contains("after 7.5 s of 10.0"), "{gone}");
        let wrong = Counts { wrong: 5, ..Counts::default() };
        assert_eq!(verdict(Outcome { counts: wrong, ..outcome(5, 0, 0.0) }), "", "told as wrong");
    }

    #[test]
    fn no_sample_is_no_latency() {
        let none = Outcome::default().table();
        assert!(none.lines().any(|line| line.starts_with("latency") && line.ends_with(" -")), "{none}");
        let one =
            Outcome { latency_us: Some(Latency { p50: 7.5, ..Latency::default() }), ..Outcome::default() };
        assert!(one.table().contains("p50 7.5"), "{}", one.table());
    }
}
