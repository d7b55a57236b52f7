//! A worker's clock.

use control::Clock;

/// How long it goes by the TSC alone, nanoseconds: an error of 0.2 % in the TSC's rate, as DPDK measures it on virtual machines, then
/// comes to 2 µs.
const TRUSTED: u64 = 1_000_000;

/// The gateway's clock for a worker, which reads it with each burst: it goes by the TSC, and is set by the system's each
/// millisecond. The system's takes longer to read, and first waits for all loads under way.
pub(super) struct WorkerClock {
    clock: Clock,
    /// Nanoseconds of a tick, in 2^-32.
    scale: u64,
    /// [`TRUSTED`] in ticks.
    trusted: u64,
    /// When it was set: ticks, and nanoseconds.
    set: (u64, u64),
    last: u64,
}

impl WorkerClock {
    /// On a thread that stays on its core, whose TSC counts `hz` a second.
    pub fn new(clock: Clock, hz: u64) -> Self {
        let hz = hz.max(1);
        let scale = u64::try_from((1_000_000_000_u128 << 32) / u128::from(hz)).unwrap_or(u64::MAX);
        let trusted = u64::try_from(u128::from(hz) * u128::from(TRUSTED) / 1_000_000_000).unwrap_or(u64::MAX);
        let mut new = Self { clock, scale, trusted, set: (0, 0), last: 0 };
        new.set();
        new
    }

    /// Nanoseconds since the gateway's origin; never less than before.
    #[inline]
    pub fn now_nanos(&mut self) -> u64 {
        self.at(dpdk::tsc())
    }

    #[inline]
    fn at(&mut self, tsc: u64) -> u64 {
        let (ticks, nanos) = self.set;
        // A TSC that went back, as after a suspend, is as one that is far ahead.
        let ticks = tsc.wrapping_sub(ticks);
        let now = if ticks < self.trusted { nanos + ((ticks * self.scale) >> 32) } else { self.set() };
        self.last = self.last.max(now);
        self.last
    }

    #[cold]
    fn set(&mut self) -> u64 {
        // In this order: if the thread is held up in between, time is behind until it is set again, and not ahead.
        let now = self.clock.now_nanos();
        self.set = (dpdk::tsc(), now);
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const GHZ: u64 = 1_000_000_000;

    #[test]
    fn goes_by_the_tsc_for_a_millisecond() {
        for (hz, ticks) in
            [(GHZ, 500_000), (2 * GHZ, 1_000_000), (2_600_000_000, 1_300_000), (24_000_000, 12_000)]
        {
            let mut clock = WorkerClock::new(Clock::start(), hz);
            let (tsc, nanos) = clock.set;
            assert_eq!(clock.at(tsc), nanos);
            let passed = clock.at(tsc + ticks) - nanos;
            assert!((499_990..=500_000).contains(&passed), "{passed} ns after {ticks} ticks of {hz} Hz");
        }
    }

    #[test]
    fn is_set_by_the_system_then() {
        let system = Clock::start();
        for far in [1_000_000, 1 << 60, u64::MAX] {
            let mut clock = WorkerClock::new(system, GHZ);
            let (tsc, nanos) = clock.set;
            std::thread::sleep(Duration::from_millis(5));
            // The last is a TSC that has gone back by one.
            let now = clock.at(tsc.wrapping_add(far));
            assert!(now >= nanos + 5_000_000 && now <= system.now_nanos(), "{nanos} to {now}");
        }
    }

    #[test]
    fn never_goes_back() {
        let mut clock = WorkerClock::new(Clock::start(), GHZ);
        let (tsc, _) = clock.set;
        // As if this took no time: a TSC that is said to be slower than it is.
        let ahead = clock.at(tsc + 999_999);
        let set = clock.at(tsc + 1_000_000);
        assert!(set >= ahead);
        let (tsc, _) = clock.set;
        assert!(clock.at(tsc + 1) >= set);
        assert!(clock.at(tsc - 1) >= set, "nor for a TSC that does");
    }
}
