//! Measures the table on this machine: `cargo run --release -p conntrack --example table [SESSIONS…]`.
//!
//! For each number of sessions (1000, 65536 and 1000000 if none are given): what a lookup costs per packet in bursts of
//! 32 over all flows in random order, with and without rewrite and counting; inserts, one by one and in batches, and
//! removals per second; memory per session. For comparison, the same lookups in a hashbrown map that nobody may write
//! meanwhile. Time is that of the
//! thread on its processor, so that other load disturbs less; cycles are of the clock in /proc/cpuinfo.

use conntrack::table::{BURST, Timeouts};
use conntrack::*;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = std::env::args().skip(1).map(|n| n.parse()).collect::<Result<Vec<u32>, _>>()?;
    let sizes = if arguments.is_empty() { vec![1000, 65_536, 1_000_000] } else { arguments };
    let ghz = clock_ghz();
    println!("clock {ghz:.2} GHz");
    for sessions in sizes {
        measure(sessions, ghz)?;
    }
    Ok(())
}

/// Processor time of this thread.
struct Stopwatch(f64);

impl Stopwatch {
    fn start() -> Self {
        Self(Self::thread_seconds())
    }

    fn seconds(&self) -> f64 {
        Self::thread_seconds() - self.0
    }

    fn thread_seconds() -> f64 {
        let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        schedstat.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1e9
    }
}

fn clock_ghz() -> f64 {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let megahertz =
        cpuinfo.lines().find_map(|line| line.strip_prefix("cpu MHz")?.split_once(": ")?.1.parse().ok());
    megahertz.map_or(1.0, |megahertz: f64| megahertz / 1000.0)
}

fn resident_bytes() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<f64>().ok()).unwrap_or(0.0) * 4096.0
}

fn session(n: u32) -> SessionSpec {
    let client = Ipv4Addr::from_bits(0x0a00_0000 + (n >> 15));
    let public = Ipv4Addr::from_bits(0xcb00_0000 + (n >> 15));
    let server = Ipv4Addr::new(198, 51, 100, 10);
    let tuple = |source: Ipv4Addr| Tuple {
        source: source.into(),
        destination: server.into(),
        source_port: 1024 + (n & 0x7fff) as u16,
        destination_port: 443,
    };
    let macs = MacPair { source: [2, 0, 0, 0, 0, 1], destination: [2, 0, 0, 0, 0, 2] };
    SessionSpec {
        id: SessionId(u64::from(n) + 1),
        in_lif: LifIndex(1),
        out_lif: LifIndex(2),
        protocol: 17,
        original: tuple(client),
        translated: tuple(public),
        l2: Some(L2 { forward: macs, reverse: macs }),
        action: Action::Forward,
        idle_timeout: None,
        hard_timeout: None,
        limit: None,
        owner: 0,
    }
}

fn key(n: u32, reverse: bool) -> FlowKeyV4 {
    let port = 1024 + (n & 0x7fff) as u16;
    let server = Ipv4Addr::new(198, 51, 100, 10);
    if reverse {
        let public = Ipv4Addr::from_bits(0xcb00_0000 + (n >> 15));
        FlowKeyV4::new(LifIndex(2), 17, server, 443, public, port)
    } else {
        FlowKeyV4::new(LifIndex(1), 17, Ipv4Addr::from_bits(0x0a00_0000 + (n >> 15)), port, server, 443)
    }
}

fn measure(sessions: u32, ghz: f64) -> Result<(), Box<dyn std::error::Error>> {
    let timeouts = Timeouts { tcp: 7440, udp: 300, icmp: 60, other: 60 };
    let hash_secret = [0x9d3f_27c1_55e8_a06b, 0x4b1c_8e72_d0f9_3365];
    let config = TableConfig { capacity: sessions, timeouts, readers: 1, hugepages: true, hash_secret };
    let before = resident_bytes();
    let table = SessionTable::new(config)?;
    let specs: Vec<_> = (0..sessions).map(session).collect();
    let own = resident_bytes() - before;

    let started = Stopwatch::start();
    for spec in &specs {
        table.insert(spec, Timestamp(0))?;
    }
    report(sessions, "first inserts", started, sessions, ghz);
    let resident = resident_bytes() - before - own;
    println!(
        "{sessions:>9} sessions: {:.1} bytes per session in a full table, {:.1} resident beyond the requests",
        table.memory_bytes() as f64 / f64::from(sessions),
        resident / f64::from(sessions),
    );

    lookups(&table, sessions, ghz)?;
    shared(&table, &specs, ghz)?;

    let started = Stopwatch::start();
    for spec in &specs {
        table.remove(spec.id, Timestamp(1));
    }
    while table.maintain(Timestamp(1), 4096, &mut |closed| _ = black_box(closed)).more {}
    report(sessions, "removals with report", started, sessions, ghz);
    let started = Stopwatch::start();
    let mut results = Vec::with_capacity(64);
    for specs in specs.chunks(64) {
        results.clear();
        table.insert_batch(specs, Timestamp(2), &mut results);
    }
    report(sessions, "inserts in batches", started, sessions, ghz);
    churn(&table, &specs, ghz);
    ageing(&table, sessions);
    hashbrown_lookups(sessions, ghz);
    Ok(())
}

/// Removes and inserts anew in batches of 256 of a full table.
fn churn(table: &SessionTable, specs: &[SessionSpec], ghz: f64) {
    let rounds = 1_000_000 / specs.len() + 1;
    let started = Stopwatch::start();
    let mut results = Vec::with_capacity(256);
    for _ in 0..rounds {
        for specs in specs.chunks(256) {
            specs.iter().for_each(|spec| assert!(table.remove(spec.id, Timestamp(3))));
            table.maintain(Timestamp(3), 4096, &mut |closed| _ = black_box(closed));
            results.clear();
            table.insert_batch(specs, Timestamp(3), &mut results);
            assert!(results.iter().all(Result::is_ok));
        }
    }
    let sessions = specs.len() as u32;
    report(sessions, "remove + insert pairs", started, sessions * rounds as u32, ghz);
}

/// Lookups while another thread removes and inserts at full speed, and what that thread achieves.
fn shared(table: &Arc<SessionTable>, specs: &[SessionSpec], ghz: f64) -> Result<(), TableError> {
    let keys = random_keys(specs.len() as u32);
    let mut reader = table.reader()?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let started = Stopwatch::start();
            let mut pairs = 0;
            let mut results = Vec::with_capacity(64);
            for specs in specs.chunks(64).cycle() {
                if stop.load(Relaxed) {
                    break;
                }
                specs.iter().for_each(|spec| assert!(table.remove(spec.id, Timestamp(1))));
                let mut installed = 0;
                // Full only while the reader is kept off its core in the middle of a burst.
                while installed < specs.len() {
                    table.maintain(Timestamp(1), 4096, &mut |closed| _ = black_box(closed));
                    results.clear();
                    table.insert_batch(specs, Timestamp(1), &mut results);
                    installed += results.iter().filter(|result| result.is_ok()).count();
                }
                pairs += installed;
            }
            (started.seconds(), pairs)
        });
        let started = Stopwatch::start();
        let mut found = 0;
        for keys in keys.chunks(BURST) {
            let burst = reader.enter();
            let mut flows = [None; BURST];
            burst.lookup_v4(keys, Timestamp(1), &mut flows);
            found += flows.iter().flatten().count();
        }
        let what = format!("lookup beside a writer ({found} of {PACKETS} found)");
        report(specs.len() as u32, &what, started, PACKETS as u32, ghz);
        stop.store(true, Relaxed);
        if let Ok((seconds, pairs)) = writer.join() {
            report_seconds(
                specs.len() as u32,
                "remove + insert pairs of that writer",
                seconds,
                pairs as u32,
                ghz,
            );
        }
    });
    Ok(())
}

/// All sessions time out: what their end costs.
fn ageing(table: &SessionTable, sessions: u32) {
    let started = Stopwatch::start();
    let mut now = 0;
    let mut closed = 0;
    while closed < sessions {
        now += 1;
        closed += table.maintain(Timestamp(now), 4096, &mut |closed| _ = black_box(closed)).closed as u32;
    }
    let share = started.seconds() / (now as f64 / 1000.0);
    println!(
        "{sessions:>9} sessions: ageing in {} s, maintained each millisecond: {:.3} % of a core",
        now / 1000,
        share * 100.0
    );
}

const PACKETS: usize = 1 << 22;

/// Both flows of all sessions, as packets bring them: at random.
fn random_keys(sessions: u32) -> Vec<FlowKeyV4> {
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    (0..PACKETS)
        .map(|_| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            key((((random >> 32) * u64::from(sessions)) >> 32) as u32, random & 1 == 1)
        })
        .collect()
}

/// What a plain map costs: a pair of lookup and copy of the rewrite at a time.
fn hashbrown_lookups(sessions: u32, ghz: f64) {
    let mut map = hashbrown::HashMap::with_capacity(sessions as usize * 2);
    for n in 0..sessions {
        map.insert(key(n, false), RewriteV4::default());
        map.insert(key(n, true), RewriteV4::default());
    }
    let keys = random_keys(sessions);
    let started = Stopwatch::start();
    for key in &keys {
        black_box(map.get(key).copied());
    }
    report(sessions, "hashbrown lookup + rewrite", started, PACKETS as u32, ghz);
}

fn lookups(table: &Arc<SessionTable>, sessions: u32, ghz: f64) -> Result<(), TableError> {
    let keys = random_keys(sessions);
    let mut reader = table.reader()?;
    let (plain, whole) = (("lookup", false), ("lookup + rewrite + count", true));
    for (what, count) in [plain, whole, plain, whole, plain, whole] {
        let started = Stopwatch::start();
        let mut found = 0;
        for keys in keys.chunks(BURST) {
            let burst = reader.enter();
            let mut flows = [None; BURST];
            burst.lookup_v4(keys, Timestamp(1), &mut flows);
            for flow in flows.iter().flatten() {
                found += 1;
                if count {
                    black_box(flow.rewrite());
                    flow.count(Timestamp(1), 64);
                }
            }
        }
        assert_eq!(found, PACKETS);
        report(sessions, what, started, PACKETS as u32, ghz);
    }
    let misses: Vec<_> = (0..PACKETS as u32 / 4).map(|n| key(n.wrapping_add(1 << 30), false)).collect();
    let started = Stopwatch::start();
    for keys in misses.chunks(BURST) {
        let burst = reader.enter();
        let mut flows = [None; BURST];
        burst.lookup_v4(keys, Timestamp(1), &mut flows);
        assert!(flows.iter().all(Option::is_none));
    }
    report(sessions, "lookup of what is not there", started, misses.len() as u32, ghz);
    Ok(())
}

fn report(sessions: u32, what: &str, started: Stopwatch, times: u32, ghz: f64) {
    report_seconds(sessions, what, started.seconds(), times, ghz);
}

fn report_seconds(sessions: u32, what: &str, seconds: f64, times: u32, ghz: f64) {
    if seconds < 0.02 {
        // The kernel brings the thread's time up to date every few milliseconds.
        println!("{sessions:>9} sessions: {what}: too short to tell");
        return;
    }
    let each = seconds * 1e9 / f64::from(times);
    println!(
        "{sessions:>9} sessions: {what}: {each:.1} ns = {:.0} cycles each, {:.2} million/s",
        each * ghz,
        1e3 / each
    );
}
