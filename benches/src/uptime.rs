//! The time that workers are told.

use dpdk::Eal;

/// Nanoseconds since something was stood up, by the TSC: all cores have the same. Whoever uses a session table keeps one of these
/// along with it: were time to begin anew with each run, all flows of the run before would look idle for as long as can be.
#[derive(Clone, Copy)]
pub struct Uptime {
    origin: u64,
    hz: u64,
}

impl Uptime {
    /// Time begins.
    pub fn start(eal: &Eal) -> Self {
        Self { origin: dpdk::tsc(), hz: dpdk::tsc_hz(eal) }
    }

    /// Nanoseconds since.
    #[inline]
    pub fn nanos(&self) -> u64 {
        let ticks = u128::from(dpdk::tsc().saturating_sub(self.origin));
        u64::try_from(ticks * 1_000_000_000 / u128::from(self.hz)).unwrap_or(u64::MAX)
    }
}
