//! A minute of everything at once, in process: traffic, a million sessions that expire, 100,000 new ones a second, ageing and
//! statistics; and the longest time that the worker did not poll.

use crate::uptime::Uptime;
use crate::{Stand, traffic};
use anyhow::{Context, Result, ensure};
use arrayvec::ArrayVec;
use conntrack::table::Timeouts;
use conntrack::{SessionSpec, SessionTable, TableConfig, Timestamp};
use dpdk::{Mbuf, Mempool};
use gateway::frame::Frame;
use hdrhistogram::Histogram;
use nix::time::{ClockId, clock_gettime};
use pipeline::{BURST, Burst, Io, Pipeline, PortIndex, Worker};
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const TIME: Duration = Duration::from_secs(60);
/// Of the machine alone.
const QUIET: Duration = Duration::from_secs(20);
/// With traffic throughout.
const BUSY: u32 = 10_000;
/// Installed before, idle, spread so that they end within the minute.
const ENDING: u32 = 1_000_000;
const ADDED_PER_SECOND: u32 = 100_000;
/// Idle seconds of those.
const ADDED_LIVE: u32 = 10;
/// A gap that is looked into, nanoseconds.
const SUSPICIOUS: u64 = 20_000;
/// One that is noted down in the kernel's trace, where that is on, behind all that the kernel did meanwhile.
const LONG: u64 = 100_000;
/// Where to.
const TRACE: &str = "/sys/kernel/tracing/trace_marker";
/// Records that one turn of the housekeeping closes at most, as in the gateway.
const BUDGET: usize = 4096;

/// The soak.
pub fn bench(stand: &mut Stand) -> Result<()> {
    let table = SessionTable::new(TableConfig {
        capacity: BUSY + ENDING + (ADDED_LIVE + 4) * ADDED_PER_SECOND,
        timeouts: Timeouts { tcp: 7440, udp: 300, icmp: 60, other: 60 },
        readers: 2,
        hugepages: stand.hugepages,
        hash_secret: [11, 13],
    })?;
    let install = |sessions: std::ops::Range<u32>, now: Timestamp| -> Result<()> {
        for n in sessions {
            let idle = if n < BUSY { 3600 } else { 1 + n % 58 };
            table.insert(&session(n, idle), now).with_context(|| format!("session {n}"))?;
        }
        Ok(())
    };
    install(0..BUSY, Timestamp(0))?;
    let pipeline = Pipeline::new(traffic::config(), table.clone(), 1, [5, 6])
        .map_err(|errors| anyhow::anyhow!("configuration: {errors:?}"))?;
    let uptime = Uptime::start(&stand.eal);
    let mut worker = pipeline.worker(0).context("worker 0")?;
    // First without any of it: what the machine itself does to a polling thread.
    let quiet = while_polling(stand, &mut worker, uptime, || {
        std::thread::sleep(QUIET);
        Ok(())
    })?;
    install(BUSY..BUSY + ENDING, Timestamp::from_nanos(uptime.nanos()))?;
    let (mut added, mut closed) = (0, 0);
    let polled = while_polling(stand, &mut worker, uptime, || {
        (added, closed) = keep_house(&table, &pipeline, uptime)?;
        Ok(())
    })?;
    let sent = pipeline.snapshot().ports.first().map_or(0, |port| port.tx_packets);
    let offered = quiet.packets + polled.packets;
    ensure!(sent >= offered, "{sent} of {offered} packets left");
    let seconds = TIME.as_secs_f64();
    let conditions = format!(
        "{ENDING} sessions ending within 60 s, {ADDED_PER_SECOND}/s added, {BUSY} with traffic, in process; time in which \
         the worker's core was somebody else's is taken off"
    );
    let alone =
        format!("{} s of the same traffic and nothing else: the machine's own pauses", QUIET.as_secs());
    let micros = |nanos: u64| vec![nanos as f64 / 1e3];
    let report = &mut stand.report;
    for (prefix, polled, conditions) in [("", &polled, &conditions), ("quiet_", &quiet, &alone)] {
        let split = format!(
            "{conditions}; {} pauses longer than {} us, in {} of them the worker kept its core, {} of those with page faults",
            polled.kept + polled.preempted,
            SUSPICIOUS / 1000,
            polled.kept,
            polled.faulted
        );
        let seconds = polled.nanos as f64 / 1e9;
        let mut add = |name: &str, unit: &str, runs: Vec<f64>, conditions: &str| {
            report.add(format!("soak.{prefix}{name}"), unit, runs, conditions);
        };
        add("longest_pause_us", "us", micros(polled.gaps.max()), conditions);
        add("longest_pause_own_us", "us", micros(polled.own.max()), &split);
        add("longest_pause_stolen_us", "us", micros(polled.longest_stolen), &split);
        add("stolen_share", "share", vec![polled.stolen as f64 / polled.nanos as f64], &split);
        add("preempted_per_second", "1/s", vec![polled.preempted as f64 / seconds], conditions);
    }
    let rare = |polled: &Polled| micros(polled.gaps.value_at_quantile(0.999_999));
    report.add("soak.pause_p99_9999_us", "us", rare(&polled), conditions.clone());
    report.add("soak.quiet_pause_p99_9999_us", "us", rare(&quiet), alone);
    report.add("soak.mpps", "Mpps", vec![polled.packets as f64 / seconds / 1e6], conditions.clone());
    report.add("soak.added_per_second", "1/s", vec![added as f64 / seconds], conditions.clone());
    report.add("soak.closed", "sessions", vec![closed as f64], conditions);
    Ok(())
}

/// Has a worker poll on its core while `work` runs on this one.
fn while_polling(
    stand: &Stand,
    worker: &mut Worker<Frame>,
    uptime: Uptime,
    work: impl FnOnce() -> Result<()>,
) -> Result<Polled> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let polling = scope.spawn(|| {
            crate::cores::pin(1)?;
            let _registered = dpdk::register_thread(&stand.eal)?;
            poll(worker, &stand.pool, uptime, &stop)
        });
        let worked = work();
        stop.store(true, Ordering::Relaxed);
        let polled = polling.join().map_err(|_| anyhow::anyhow!("the worker panicked"))?;
        worked.and(polled)
    })
}

fn session(n: u32, idle: u32) -> SessionSpec {
    SessionSpec { idle_timeout: Some(idle), ..traffic::session(n) }
}

/// Adds, ages, and reads statistics, as the control side does; how many were added, and how many have closed.
fn keep_house(table: &SessionTable, pipeline: &Pipeline, uptime: Uptime) -> Result<(u64, u64)> {
    let (mut added, mut closed, mut looked) = (0_u32, 0_u64, 0);
    let begun = uptime.nanos();
    loop {
        let nanos = uptime.nanos();
        let (elapsed, now) = (nanos - begun, Timestamp::from_nanos(nanos));
        if elapsed >= TIME.as_nanos() as u64 {
            return Ok((added.into(), closed));
        }
        let due = (elapsed as f64 / 1e9 * f64::from(ADDED_PER_SECOND)) as u32;
        while added < due {
            let n = BUSY + ENDING + added;
            table.insert(&session(n, ADDED_LIVE), now).with_context(|| format!("session {n}"))?;
            added += 1;
        }
        while table.maintain(now, BUDGET, &mut |_| closed += 1).more {}
        if elapsed - looked > 1_000_000_000 {
            looked = elapsed;
            std::hint::black_box((pipeline.snapshot(), table.stats()));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

struct Polled {
    packets: u64,
    /// Nanoseconds that it lasted.
    nanos: u64,
    /// Nanoseconds from poll to poll, without those in which the thread waited for its core.
    gaps: Histogram<u64>,
    /// The same without what the hypervisor took, only of those in which the thread kept its core.
    own: Histogram<u64>,
    /// Nanoseconds of suspicious gaps in which the hypervisor had the core,
    stolen: u64,
    /// and the most in one of them.
    longest_stolen: u64,
    /// Suspicious gaps in which the thread kept its core,
    kept: u64,
    /// of those with page faults,
    faulted: u64,
    /// and suspicious gaps in which it lost its core to another thread.
    preempted: u64,
}

impl Polled {
    fn new() -> Result<Self> {
        let histogram = || Histogram::new_with_bounds(1, 60_000_000_000, 3);
        Ok(Self {
            packets: 0,
            nanos: 0,
            gaps: histogram()?,
            own: histogram()?,
            stolen: 0,
            longest_stolen: 0,
            kept: 0,
            faulted: 0,
            preempted: 0,
        })
    }

    /// A gap that was looked into.
    #[cold]
    fn look_into(&mut self, gap: u64, before: &Disturbed, after: &Disturbed) {
        let unwaited = gap.saturating_sub(after.waited - before.waited);
        let stolen = after.stolen_since(before).min(unwaited);
        self.stolen += stolen;
        self.longest_stolen = self.longest_stolen.max(stolen);
        self.gaps.saturating_record(unwaited);
        if after.switches == before.switches {
            self.own.saturating_record(unwaited - stolen);
            self.kept += 1;
            self.faulted += u64::from(after.faults != before.faults);
        } else {
            self.preempted += 1;
        }
    }
}

fn poll(worker: &mut Worker<Frame>, pool: &Mempool, uptime: Uptime, stop: &AtomicBool) -> Result<Polled> {
    let frames: Vec<_> = (0..BUSY).map(traffic::frame).collect();
    let mut io = Sink(pool.clone());
    let mut burst: Burst<Frame> = ArrayVec::new();
    let to_frame = |bytes: &[u8]| {
        Ok::<_, anyhow::Error>(Frame::new(Mbuf::from_slice(pool, bytes).context("the pool is empty")?, ()))
    };
    burst.push(to_frame(&traffic::hello())?);
    worker.process(traffic::UPLINK, &mut burst, uptime.nanos(), &mut io);
    let mut polled = Polled::new()?;
    let mut trace = File::options().write(true).open(TRACE).ok();
    let (mut next, mut disturbed, begun) = (0, Disturbed::now()?, uptime.nanos());
    let mut last = begun;
    while !stop.load(Ordering::Relaxed) {
        while !burst.is_full() {
            burst.push(to_frame(&frames[next])?);
            next = (next + 1) % frames.len();
        }
        let now = uptime.nanos();
        worker.process(traffic::UPLINK, &mut burst, now, &mut io);
        polled.packets += BURST as u64;
        let end = uptime.nanos();
        let gap = end - last;
        last = end;
        if gap > SUSPICIOUS {
            if gap > LONG
                && let Some(trace) = &mut trace
            {
                // In one write, which is one line there; refused while nobody traces.
                let _ = trace.write_all(format!("a pause of {gap} ns until now\n").as_bytes());
            }
            polled.look_into(gap, &disturbed, &Disturbed::now()?);
            // What happens during a look belongs to no gap.
            disturbed = Disturbed::now()?;
            last = uptime.nanos();
        } else {
            polled.gaps.saturating_record(gap);
            polled.own.saturating_record(gap);
        }
    }
    polled.nanos = last - begun;
    Ok(polled)
}

/// What the system, and whoever gives it its cores, have done to this thread so far.
struct Disturbed {
    /// Nanoseconds that it could have run and had no core.
    waited: u64,
    /// Times that it was taken off its core.
    switches: u64,
    /// Page faults.
    faults: u64,
    /// Nanoseconds by the clock,
    wall: u64,
    /// and those that the thread has run. The scheduler's clock stands still while a hypervisor has the core
    /// (CONFIG_PARAVIRT_TIME_ACCOUNTING).
    ran: u64,
}

impl Disturbed {
    fn now() -> Result<Self> {
        let read =
            |file: &str| std::fs::read_to_string(format!("/proc/thread-self/{file}")).unwrap_or_default();
        let number = |text: Option<&str>| text.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let nanos = |clock| -> Result<u64> {
            let time = clock_gettime(clock)?;
            Ok(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
        };
        loop {
            let (status, stat, schedstat) = (read("status"), read("stat"), read("schedstat"));
            let (wall, ran) =
                (nanos(ClockId::CLOCK_MONOTONIC_RAW)?, nanos(ClockId::CLOCK_THREAD_CPUTIME_ID)?);
            let waited = |text: &str| number(text.split_whitespace().nth(1));
            let switches = status.lines().find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"));
            // proc_pid_stat(5): minflt is field 10; the name, which may hold spaces, is field 2.
            let faults = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(7));
            let now = Self {
                waited: waited(&schedstat),
                switches: number(switches),
                faults: number(faults),
                wall,
                ran,
            };
            // Taken off its core amid the look, what it says does not belong together.
            if waited(&read("schedstat")) == now.waited {
                return Ok(now);
            }
        }
    }

    /// Nanoseconds since `before` in which the thread neither ran nor waited for its core: somebody else had the core itself.
    fn stolen_since(&self, before: &Self) -> u64 {
        let away = (self.wall - before.wall).saturating_sub(self.ran - before.ran);
        away.saturating_sub(self.waited - before.waited)
    }
}

/// A port that takes everything.
struct Sink(Mempool);

impl Io<Frame> for Sink {
    fn transmit<const N: usize>(&mut self, _port: PortIndex, packets: &mut ArrayVec<Frame, N>) {
        packets.clear();
    }

    fn allocate(&mut self) -> Option<Frame> {
        self.0.alloc().map(|mbuf| Frame::new(mbuf, ()))
    }

    fn duplicate(&mut self, packet: &Frame, headers: usize) -> Option<Frame> {
        Mbuf::share(&self.0, packet.mbuf(), headers).map(|mbuf| Frame::new(mbuf, ()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disturbed(waited: u64, switches: u64, wall: u64, ran: u64) -> Disturbed {
        Disturbed { waited, switches, faults: 0, wall, ran }
    }

    #[test]
    fn what_the_hypervisor_takes_is_told_apart() {
        let before = disturbed(7, 1, 1_000_000, 500);
        let mut polled = Polled::new().unwrap();
        // 4 ms since the last look, of those a gap of 3 ms; 2.5 ms neither run nor waited.
        polled.look_into(3_000_000, &before, &disturbed(7, 1, 5_000_000, 1_500_500));
        assert_eq!((polled.stolen, polled.longest_stolen, polled.kept), (2_500_000, 2_500_000, 1));
        assert!(polled.gaps.equivalent(polled.gaps.max(), 3_000_000));
        assert!(polled.own.equivalent(polled.own.max(), 500_000));
    }

    #[test]
    fn waiting_for_the_core_is_not_stolen() {
        let before = disturbed(0, 1, 0, 0);
        let mut polled = Polled::new().unwrap();
        // A gap of 5 ms: 1 ms run, 3 ms another thread, 1 ms stolen.
        polled.look_into(5_000_000, &before, &disturbed(3_000_000, 2, 5_000_000, 1_000_000));
        assert_eq!((polled.stolen, polled.kept, polled.preempted), (1_000_000, 0, 1));
        assert!(polled.gaps.equivalent(polled.gaps.max(), 2_000_000));
        assert!(polled.own.is_empty());
    }

    #[test]
    fn no_more_is_stolen_than_the_gap_is_long() {
        let before = disturbed(0, 1, 0, 0);
        let mut polled = Polled::new().unwrap();
        polled.look_into(30_000, &before, &disturbed(0, 1, 90_000, 10_000));
        assert_eq!(polled.stolen, 30_000);
        // Clocks that drift apart: more run than passed.
        polled.look_into(30_000, &before, &disturbed(0, 1, 30_000, 30_100));
        assert_eq!(polled.stolen, 30_000);
        assert!(polled.own.equivalent(polled.own.max(), 30_000));
    }
}
