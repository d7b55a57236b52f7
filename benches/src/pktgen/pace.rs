//! When packets are due.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Longer without a look at the clock, and the generator itself was held up.
const STALL_MICROS: u64 = 200;
/// The same at a rate with a port that makes no system call: to make good what it missed in less would be a burst already. What
/// it did in that time is allowed for on top.
const PACED_STALL_MICROS: u64 = 10;
/// More than a packet takes to make, send, receive and check, beside its bytes.
const PACKET_NANOS: u64 = 200;
/// Bytes for which a nanosecond is enough.
const BYTES_PER_NANO: u64 = 2;

/// What this thread has waited for a core: Linux's account.
#[derive(Debug)]
pub struct Waited {
    schedstat: Option<File>,
    nanos: u64,
}

impl Waited {
    /// From now on.
    pub fn start() -> Self {
        let mut waited = Self { schedstat: File::open("/proc/thread-self/schedstat").ok(), nanos: 0 };
        waited.nanos = waited.read().unwrap_or(0);
        waited
    }

    /// Nanoseconds since the last time; None if the system does not say.
    fn since(&mut self) -> Option<u64> {
        let nanos = self.read()?;
        Some(nanos - std::mem::replace(&mut self.nanos, nanos))
    }

    fn read(&self) -> Option<u64> {
        let mut text = [0; 64];
        let len = self.schedstat.as_ref()?.read_at(&mut text, 0).ok()?;
        std::str::from_utf8(&text[..len]).ok()?.split_whitespace().nth(1)?.parse().ok()
    }
}

/// Counts out packets at a rate, evenly over time. Time in which the generator did not run (its core was taken away) does not
/// count: catching up would be a burst that nobody asked for.
///
/// A long time without a look at the clock says that it did not run; but system calls of a port's driver take long too, and are
/// the generator's own work. There, only what the thread has waited for its core does not count.
#[derive(Debug)]
pub struct Pace {
    per_tick: f64,
    stall: u64,
    packet: u64,
    hz: u64,
    /// With a port that may take its time.
    waited: Option<Waited>,
    last: u64,
    /// Ticks that count.
    elapsed: u64,
    given: u64,
    /// Ticks that did not count.
    pub stalled: u64,
}

impl Pace {
    /// At `rate` packets a second of up to `longest` bytes, from `now` on; 0: no rate.
    pub fn new(rate: f64, longest: usize, now: u64, tsc_hz: u64, waited: Option<Waited>) -> Self {
        let micros = if rate > 0.0 && waited.is_none() { PACED_STALL_MICROS } else { STALL_MICROS };
        let packet = PACKET_NANOS + longest as u64 / BYTES_PER_NANO;
        let [stall, packet] = [micros * 1_000, packet].map(|nanos| tsc_hz / 1_000 * nanos / 1_000_000);
        let per_tick = rate / tsc_hz as f64;
        Self { per_tick, stall, packet, hz: tsc_hz, waited, last: now, elapsed: 0, given: 0, stalled: 0 }
    }

    /// The longest step, in ticks, that is the generator's own work on that many packets.
    #[inline]
    pub fn patience(&self, packets: usize) -> u64 {
        self.stall + packets as u64 * self.packet
    }

    /// Lets time go on to `now`, after work on `packets`; the ticks since the last time, if they count.
    #[inline]
    pub fn tick(&mut self, now: u64, packets: usize) -> u64 {
        let step = now.saturating_sub(self.last);
        self.last = now;
        let lost = if step > self.patience(packets) { self.lost(step) } else { 0 };
        self.stalled += lost;
        self.elapsed += step - lost;
        step - lost
    }

    /// What of a long step the thread did not run.
    #[cold]
    fn lost(&mut self, step: u64) -> u64 {
        let waited = self.waited.as_mut().and_then(Waited::since);
        waited.map_or(step, |nanos| (nanos as f64 / 1e9 * self.hz as f64) as u64).min(step)
    }

    /// Takes the packets that are due, at most `most`; the others stay due.
    #[inline]
    pub fn take(&mut self, most: usize) -> usize {
        let due = ((self.elapsed as f64 * self.per_tick) as u64).saturating_sub(self.given);
        let due = due.min(most as u64);
        self.given += due;
        due as usize
    }

    /// Ticks that have counted.
    #[inline]
    pub fn elapsed(&self) -> u64 {
        self.elapsed
    }
}

#[cfg(test)]
mod tests {
    use super::{Pace, Waited};

    const HZ: u64 = 1_000_000_000;

    #[test]
    fn a_second_has_as_many_packets_as_the_rate_says() {
        for rate in [1.0, 999.5, 1_000_000.0, 14_880_952.0] {
            let mut pace = Pace::new(rate, 64, 0, HZ, None);
            let mut sent = 0;
            for now in (0..=HZ).step_by(10_000) {
                pace.tick(now, 0);
                sent += pace.take(1_000_000);
            }
            assert!((sent as f64 - rate).abs() <= 1.0, "{sent} of {rate}");
        }
    }

    #[test]
    fn a_hold_up_is_not_made_good() {
        let mut pace = Pace::new(1e6, 64, 0, HZ, None);
        pace.tick(20_000, 64);
        pace.tick(40_000, 64);
        assert_eq!(pace.take(1000), 40, "own work");
        pace.tick(50_040_000, 64);
        assert_eq!((pace.take(1000), pace.stalled), (0, 50_000_000));
        pace.tick(50_060_000, 128);
        assert_eq!(pace.take(12), 12);
        assert_eq!(pace.take(12), 8, "what was due stays due");
        assert_eq!(pace.elapsed(), 60_000);
        pace.tick(50_075_000, 0);
        assert_eq!((pace.take(60), pace.stalled), (0, 50_015_000), "not much, but no work");
    }

    #[test]
    fn flat_out_a_moment_is_no_hold_up() {
        let mut pace = Pace::new(0.0, 64, 0, HZ, None);
        pace.tick(150_000, 0);
        assert_eq!((pace.elapsed(), pace.stalled), (150_000, 0));
    }

    #[test]
    fn long_work_is_no_hold_up() {
        let mut pace = Pace::new(1e6, 64, 0, HZ, Some(Waited::start()));
        let begun = std::time::Instant::now();
        while begun.elapsed().as_millis() < 5 {}
        // As if five seconds of work: this thread may have waited for a moment, but not for that long.
        pace.tick(5_000_000_000, 0);
        assert!(pace.elapsed() > 4_000_000_000, "{} ns counted", pace.elapsed());
        assert_eq!(pace.elapsed() + pace.stalled, 5_000_000_000);
    }
}
