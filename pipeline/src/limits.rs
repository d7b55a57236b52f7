//! Token buckets of the trap, one per LIF and class, shared by all workers.

use crate::batch::TrapClass;
use crate::config::TrapLimits;
use conntrack::LifIndex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const SECOND: u64 = 1_000_000_000;

/// All buckets. A bucket holds one second's worth and is full at first; its state is one word, the time at which it would be
/// full again (the generic cell rate algorithm), so that taking a token is one compare-and-swap.
#[derive(Debug)]
pub struct Limits {
    /// Nanoseconds per packet; 0 = none pass.
    interval: [u64; TrapClass::COUNT],
    full_at: Box<[[AtomicU64; TrapClass::COUNT]]>,
}

impl Limits {
    /// For `lifs` LIFs.
    pub fn new(limits: &TrapLimits, lifs: usize) -> Self {
        Self {
            interval: [
                interval(limits.new),
                interval(limits.tcp_control),
                interval(limits.arp_nd),
                interval(limits.exception),
            ],
            full_at: (0..lifs).map(|_| Default::default()).collect(),
        }
    }

    /// Takes a token; false if there is none.
    #[inline]
    pub fn take(&self, lif: LifIndex, class: TrapClass, now: u64) -> bool {
        let bucket = self.full_at.get(usize::from(lif.0)).and_then(|b| b.get(class as usize));
        let interval = self.interval.get(class as usize).copied().unwrap_or(0);
        let Some(bucket) = bucket.filter(|_| interval != 0) else { return false };
        take(bucket, interval, now)
    }
}

/// Nanoseconds per packet at so many a second; 0 if none is to pass.
pub fn interval(rate: u32) -> u64 {
    SECOND.checked_div(u64::from(rate)).map_or(0, |nanos| nanos.max(1))
}

/// Takes a token of a bucket that gets one every `interval` nanoseconds and holds one second's worth.
pub fn take(bucket: &AtomicU64, interval: u64, now: u64) -> bool {
    bucket
        .fetch_update(Relaxed, Relaxed, |full_at| {
            let next = full_at.max(now) + interval;
            (next <= now + SECOND).then_some(next)
        })
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_rate() {
        let limits = Limits::new(&TrapLimits { arp_nd: 10, new: 3, tcp_control: 0, exception: 1_000_000 }, 2);
        let passed = |lif, class, now, offered: usize| {
            (0..offered).filter(|_| limits.take(LifIndex(lif), class, now)).count()
        };
        assert_eq!(passed(0, TrapClass::ArpNd, 5, 100), 10);
        assert_eq!(passed(0, TrapClass::ArpNd, SECOND / 2 + 5, 100), 5);
        assert_eq!(passed(0, TrapClass::ArpNd, 100 * SECOND, 100), 10);
        assert_eq!(passed(1, TrapClass::ArpNd, 5, 100), 10, "another LIF has its own");
        assert_eq!(passed(0, TrapClass::New, 5, 100), 3, "another class has its own");
        assert_eq!(passed(0, TrapClass::TcpControl, SECOND, 100), 0);
        assert_eq!(passed(9, TrapClass::New, SECOND, 100), 0, "no such LIF");
        let most = TrapLimits { arp_nd: u32::MAX, new: u32::MAX, tcp_control: u32::MAX, exception: u32::MAX };
        assert!(Limits::new(&most, 1).take(LifIndex(0), TrapClass::New, 0), "faster than the clock");
    }
}
