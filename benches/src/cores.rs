//! How near two cores are: a virtual machine's cores move, and whatever crosses them runs 3 to 4 times slower when far.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const ROUNDS: u64 = 20_000;
/// Round trips below this are "near".
pub const NEAR_NS: f64 = 160.0;

/// Pins the calling thread to `core`.
pub fn pin(core: usize) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &set)
}

/// Lets the calling thread, and those it starts, run on every core there is.
pub fn unpin() -> nix::Result<()> {
    let mut set = CpuSet::new();
    let cores = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default().matches("processor\t").count();
    for core in 0..cores.clamp(1, CpuSet::count()) {
        set.set(core)?;
    }
    sched_setaffinity(Pid::from_raw(0), &set)
}

/// Nanoseconds a cache line takes from core `a` to core `b` and back, the best of five probes; None if a core cannot be had.
pub fn round_trip_ns(a: usize, b: usize) -> Option<f64> {
    let probes: Vec<f64> = (0..5).filter_map(|_| probe(a, b)).collect();
    probes.into_iter().min_by(f64::total_cmp)
}

/// Waits, at most `limit`, until the cores are near, and says so the first time. The last round trip.
pub fn wait_near(a: usize, b: usize, limit: Duration) -> Option<f64> {
    static TOLD: Once = Once::new();
    let start = Instant::now();
    loop {
        let ns = round_trip_ns(a, b)?;
        if ns <= NEAR_NS || start.elapsed() >= limit {
            return Some(ns);
        }
        TOLD.call_once(|| {
            let seconds = limit.as_secs();
            eprintln!(
                "cores {a} and {b} are far ({ns:.0} ns): waiting for near ones, {seconds} s at most each time"
            );
        });
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Time that the thread of the kernel which does a core's deferred network work has waited for that core.
pub fn softirq_waited(core: usize) -> Duration {
    let name = format!("ksoftirqd/{core}\n");
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let read = |process: &std::fs::DirEntry, file| std::fs::read_to_string(process.path().join(file)).ok();
    let thread = processes.into_iter().find(|process| read(process, "comm").is_some_and(|comm| comm == name));
    let waited =
        thread.and_then(|thread| read(&thread, "schedstat")?.split_whitespace().nth(1)?.parse().ok());
    Duration::from_nanos(waited.unwrap_or(0))
}

/// Time that the hypervisor has had a core which had something to do, in hundredths of a second.
pub fn stolen(core: usize) -> Duration {
    ticks_stolen(&std::fs::read_to_string("/proc/stat").unwrap_or_default(), core)
}

/// From /proc/stat; proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal.
fn ticks_stolen(stat: &str, core: usize) -> Duration {
    let line = stat.lines().find_map(|line| line.strip_prefix(&format!("cpu{core} ")));
    let ticks = line.and_then(|line| line.split_whitespace().nth(7)?.parse().ok());
    Duration::from_millis(10 * ticks.unwrap_or(0))
}

fn probe(a: usize, b: usize) -> Option<f64> {
    let ball = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let echo = scope.spawn(|| {
            pin(b).ok()?;
            let mut next = 1;
            while next < 2 * ROUNDS {
                if bounce(&ball, next) {
                    next += 2;
                }
            }
            Some(())
        });
        let serve = scope.spawn(|| {
            pin(a).ok()?;
            let start = Instant::now();
            let mut next = 0;
            while next < 2 * ROUNDS {
                if bounce(&ball, next) {
                    next += 2;
                }
            }
            #[expect(clippy::cast_precision_loss, reason = "small counts")]
            Some(start.elapsed().as_nanos() as f64 / ROUNDS as f64)
        });
        let ns = serve.join().ok()??;
        echo.join().ok()??;
        Some(ns)
    })
}

/// Hits the ball if it is `mine` to hit.
fn bounce(ball: &AtomicU64, mine: u64) -> bool {
    let ours = ball.load(Ordering::Acquire) == mine;
    if ours {
        ball.store(mine + 1, Ordering::Release);
    }
    std::hint::spin_loop();
    ours
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cores_stolen_time_is_its_own() {
        let stat = "cpu  9 9 9 9 9 9 9 99 9 9\ncpu0 1 2 3 4 5 6 7 8 9 10\ncpu1 1 2 3 4 5 6 7 12 9 10\n";
        assert_eq!(ticks_stolen(stat, 0), Duration::from_millis(80));
        assert_eq!(ticks_stolen(stat, 1), Duration::from_millis(120));
        assert_eq!(ticks_stolen(stat, 2), Duration::ZERO);
    }
}
