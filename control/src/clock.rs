//! The gateway's clock: milliseconds and nanoseconds since its start, and what time of day that was.

use conntrack::Timestamp;
use std::time::{Duration, Instant, SystemTime};

/// A monotonic clock with an origin. Copies share the origin, so that all threads agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    wall: SystemTime,
}

impl Clock {
    /// Starts now.
    pub fn start() -> Self {
        Self::from_origin(Instant::now(), SystemTime::now())
    }

    /// With an origin that was `origin` on the monotonic clock and `wall` on the calendar.
    pub fn from_origin(origin: Instant, wall: SystemTime) -> Self {
        Self { origin, wall }
    }

    /// Milliseconds since the origin.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.now_nanos())
    }

    /// Nanoseconds since the origin.
    pub fn now_nanos(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The time of day at `time`, as the system's clock had it at the origin: it does not follow later steps of that clock,
    /// so that a session's start reads the same each time.
    pub fn wall(&self, time: Timestamp) -> SystemTime {
        self.wall.checked_add(Duration::from_millis(time.as_millis())).unwrap_or(self.wall)
    }

    /// [`Self::wall`] as protobuf has it.
    pub fn proto(&self, time: Timestamp) -> prost_types::Timestamp {
        self.wall(time).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_day_follows_the_origin() {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let clock = Clock::from_origin(Instant::now(), wall);
        assert_eq!(clock.wall(Timestamp(2_500)), wall + Duration::from_millis(2_500));
        let proto = clock.proto(Timestamp(2_500));
        assert_eq!((proto.seconds, proto.nanos), (1_002, 500_000_000));
    }

    #[test]
    fn time_does_not_run_backwards() {
        let clock = Clock::start();
        let first = clock.now_nanos();
        assert!(clock.now_nanos() >= first);
    }
}
