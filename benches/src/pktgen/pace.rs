//! When packets are due.

/// Longer without a look at the clock, and the generator itself was held up.
const STALL_MICROS: u64 = 200;

/// Counts out packets at a rate, evenly over time. Time in which the generator did not run (its core was taken away) does not
/// count: catching up would be a burst that nobody asked for.
#[derive(Debug)]
pub struct Pace {
    per_tick: f64,
    stall: u64,
    last: u64,
    /// Ticks that count.
    elapsed: u64,
    given: u64,
    /// Ticks that did not count.
    pub stalled: u64,
}

impl Pace {
    /// At `rate` packets a second, from `now` on.
    pub fn new(rate: f64, now: u64, tsc_hz: u64) -> Self {
        let stall = tsc_hz * STALL_MICROS / 1_000_000;
        Self { per_tick: rate / tsc_hz as f64, stall, last: now, elapsed: 0, given: 0, stalled: 0 }
    }

    /// Lets time go on to `now`; the ticks since the last time, if they count.
    #[inline]
    pub fn tick(&mut self, now: u64) -> u64 {
        let step = now.saturating_sub(self.last);
        self.last = now;
        if step > self.stall {
            self.stalled += step;
            return 0;
        }
        self.elapsed += step;
        step
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
    use super::Pace;

    const HZ: u64 = 1_000_000_000;

    #[test]
    fn a_second_has_as_many_packets_as_the_rate_says() {
        for rate in [1.0, 999.5, 1_000_000.0, 14_880_952.0] {
            let mut pace = Pace::new(rate, 0, HZ);
            let mut sent = 0;
            for now in (0..=HZ).step_by(10_000) {
                pace.tick(now);
                sent += pace.take(1_000_000);
            }
            assert!((sent as f64 - rate).abs() <= 1.0, "{sent} of {rate}");
        }
    }

    #[test]
    fn a_hold_up_is_not_made_good() {
        let mut pace = Pace::new(1e6, 0, HZ);
        pace.tick(100_000);
        assert_eq!(pace.take(1000), 100);
        pace.tick(50_100_000);
        assert_eq!((pace.take(1000), pace.stalled), (0, 50_000_000));
        pace.tick(50_200_000);
        assert_eq!(pace.take(60), 60);
        assert_eq!(pace.take(60), 40, "what was due stays due");
        assert_eq!(pace.elapsed(), 200_000);
    }
}
