//! What few sessions have: a collector, a hard deadline, a rate limit. The memory is taken only where it is written.
//!
//! A session's [`RewriteFlags`] say which parts of its extras hold: MIRROR and SNOOP the collector, POLICED the deadline
//! and the limit; the rest is of the slot's earlier sessions.
//!
//! [`RewriteFlags`]: crate::RewriteFlags

use crate::Timestamp;
use crate::session::{RateLimit, SessionSpec};
use crate::sync::{AtomicU32, AtomicU64, Ordering::*};

/// No deadline.
pub(super) const NEVER: u64 = u64::MAX;

/// One per slot. Written before the session's flows are published, but for the buckets.
#[derive(Default)]
#[repr(C, align(64))]
pub(super) struct Extras {
    collector: [AtomicU64; 2],
    /// Milliseconds.
    deadline: AtomicU64,
    bytes: Bucket,
    packets: Bucket,
    /// Milliseconds.
    burst: AtomicU32,
}

impl Extras {
    pub fn set_collector(&self, address: u128) {
        let [high, low] = &self.collector;
        high.store((address >> 64) as u64, Relaxed);
        low.store(address as u64, Relaxed);
    }

    pub fn collector(&self) -> u128 {
        let [high, low] = &self.collector;
        u128::from(high.load(Relaxed)) << 64 | u128::from(low.load(Relaxed))
    }

    /// Of a session that is policed.
    pub fn police(&self, spec: &SessionSpec, start: Timestamp) {
        let deadline = spec.hard_timeout.map_or(NEVER, |seconds| start.0 + u64::from(seconds) * 1000);
        self.deadline.store(deadline, Relaxed);
        let limit = spec.limit.unwrap_or_default();
        self.packets.open(limit.packets.into());
        self.bytes.open(limit.bytes);
        self.burst.store(limit.burst_ms, Relaxed);
    }

    /// When the session ends whatever its traffic, in milliseconds.
    pub fn deadline(&self) -> u64 {
        self.deadline.load(Relaxed)
    }

    /// The seconds that make the deadline of a session that began at `start`.
    pub fn hard_timeout(&self, start: Timestamp) -> Option<u32> {
        let deadline = self.deadline();
        (deadline != NEVER).then(|| (deadline.saturating_sub(start.0) / 1000) as u32)
    }

    pub fn limit(&self) -> Option<RateLimit> {
        let limit = RateLimit {
            packets: self.packets.rate.load(Relaxed) as u32,
            bytes: self.bytes.rate.load(Relaxed),
            burst_ms: self.burst.load(Relaxed),
        };
        (limit != RateLimit::default()).then_some(limit)
    }

    /// Takes a packet of `bytes` from both buckets, or from neither.
    pub fn admit(&self, now: Timestamp, bytes: u32) -> bool {
        let now = now.0.saturating_mul(MILLISECOND);
        let burst = u64::from(self.burst.load(Relaxed)) * MILLISECOND;
        let Some(cost) = self.packets.take(1, now, burst) else { return false };
        if self.bytes.take(bytes.into(), now, burst).is_some() {
            return true;
        }
        self.packets.give_back(cost);
        false
    }
}

/// Buckets reckon in sixteenths of a nanosecond: fine enough for a small packet at 100 Gbit/s, and 36 years in a word.
const MILLISECOND: u64 = 16_000_000;
const SECOND: u64 = 1000 * MILLISECOND;

/// A token bucket as one word, the time at which it is full again (the generic cell rate algorithm), so
/// that workers share it without a lock.
#[derive(Default)]
#[repr(C)]
struct Bucket {
    /// Tokens per second; 0 = no limit.
    rate: AtomicU64,
    full_at: AtomicU64,
}

impl Bucket {
    fn open(&self, rate: u64) {
        self.rate.store(rate, Relaxed);
        self.full_at.store(0, Relaxed);
    }

    /// Takes `tokens` from the bucket, which holds what comes in the time `burst`. More than it can hold are taken when it
    /// is full, and paid for later. The time they cost.
    fn take(&self, tokens: u64, now: u64, burst: u64) -> Option<u64> {
        let rate = self.rate.load(Relaxed);
        if rate == 0 {
            return Some(0);
        }
        let cost = tokens.saturating_mul(SECOND) / rate;
        self.full_at
            .fetch_update(Relaxed, Relaxed, |full_at| {
                let next = full_at.max(now).saturating_add(cost);
                (next - now <= burst.max(cost)).then_some(next)
            })
            .ok()
            .map(|_| cost)
    }

    fn give_back(&self, cost: u64) {
        self.full_at.fetch_sub(cost, Relaxed);
    }
}

#[cfg(not(feature = "shuttle"))]
const _: () = assert!(size_of::<Extras>() == 64);

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    fn extras(packets: u32, bytes: u64, burst_ms: u32) -> Extras {
        let extras = Extras::default();
        extras.packets.open(packets.into());
        extras.bytes.open(bytes);
        extras.burst.store(burst_ms, Relaxed);
        extras
    }

    fn passed(extras: &Extras, now: u64, bytes: u32, offered: usize) -> usize {
        (0..offered).filter(|_| extras.admit(Timestamp(now), bytes)).count()
    }

    #[test]
    fn burst_then_rate() {
        let extras = extras(3, 0, 1000);
        assert_eq!(passed(&extras, 7, 60, 100), 3);
        assert_eq!(passed(&extras, 350, 60, 100), 1);
        assert_eq!(passed(&extras, 100_000, 60, 100), 3, "no more than a burst is saved up");
    }

    #[test]
    fn bytes_are_paid_for_in_the_long_run() {
        let extras = extras(0, 10_000, 100);
        assert_eq!(passed(&extras, 0, 1500, 100), 1, "larger than the bucket, and not stuck");
        let later: usize = (1..=3000).map(|now| passed(&extras, now, 1500, 5)).sum();
        assert_eq!(later, 20, "3 seconds' worth");
    }

    #[test]
    fn a_packet_over_one_limit_costs_nothing_of_the_other() {
        let extras = extras(4, 100, 1000);
        assert_eq!(passed(&extras, 0, 100, 50), 1);
        assert_eq!(passed(&extras, 0, 1, 50), 0, "no bytes left");
        extras.bytes.open(0);
        assert_eq!(passed(&extras, 0, 100, 50), 3);
    }

    #[test]
    fn threads_share_a_bucket_exactly() {
        let extras = extras(1000, 0, 1000);
        let passed: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| passed(&extras, 0, 60, 2000))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(passed, 1000);
    }

    #[test]
    fn no_number_overflows() {
        for (packets, bytes, burst) in [(u32::MAX, u64::MAX, u32::MAX), (1, 1, 1)] {
            let extras = extras(packets, bytes, burst);
            assert_eq!(passed(&extras, 1 << 47, u32::MAX, 1), 1);
            extras.admit(Timestamp(u64::MAX), u32::MAX);
        }
    }
}
