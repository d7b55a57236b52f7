//! The same flows in our table and in others, one after the other, in a process of its own.
//!
//! In a process of its own, because glibc asks for huge pages only if it is told to when a process starts, and tables on 4 KiB
//! pages would miss the TLB with each lookup.

use super::rivals::{Dash, Hashbrown, Own, Rival, Rte, flows};
use crate::{Stand, cores, traffic};
use anyhow::{Context, Result, bail, ensure};
use benches::output::say;
use conntrack::FlowKeyV4;
use conntrack::table::BURST;
use dpdk::{Eal, EalOptions};
use std::collections::BTreeMap;
use std::process::{Command, Stdio};

/// The argument that makes this process the one that compares.
pub const CHILD: &str = "table-child";

/// Lookups of one run: so many that with 16 million sessions each finds cold memory.
const LOOKUPS: usize = 1 << 22;
/// With fewer sessions, what any table takes would count more than what each flow takes.
const FEW: u32 = 10_000;
/// Memory for 16 million sessions in the largest of the tables, KiB.
const ROOM: u64 = 9 << 20;

/// What is measured of a table: the end of the figure's name, its unit, and what it is.
const MEASURED: [(&str, &str, &str); 4] = [
    (
        "lookup_cycles",
        "cycles",
        "a flow looked up and its rewrite copied, bursts of 32 random flows of both directions",
    ),
    (
        "insert_per_second",
        "1/s",
        "sessions (two flows each) put into a new table one by one, memory fresh from the kernel",
    ),
    (
        "bytes_per_flow",
        "bytes",
        "all that lookups need, rewrites included; ours with its half of all that a session is",
    ),
    ("load_at_refusal", "share", "of the sessions or flows that it is made for, when the first is refused"),
];

/// Runs it for each number of sessions and adds the figures: ours as `table.*`, others' as `peer.*`.
pub fn bench(stand: &mut Stand) -> Result<()> {
    let mut sizes =
        vec![("1k", 1_000, stand.runs), ("64k", 65_536, stand.runs), ("1M", 1_000_000, stand.runs)];
    if stand.full {
        sizes.push(("16M", 16_000_000, 1));
    }
    for (size, sessions, runs) in sizes {
        if sessions > 1_000_000 && available_kib() < ROOM {
            say(format_args!(
                "table: 16 million sessions in other tables left out, they need {} GiB",
                ROOM >> 20
            ));
            continue;
        }
        let output = Command::new(std::env::current_exe()?)
            .args([CHILD, &sessions.to_string(), &runs.to_string(), &stand.hugepages.to_string()])
            .env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
            .stderr(Stdio::inherit())
            .output()?;
        ensure!(output.status.success(), "{size} sessions: {}", String::from_utf8_lossy(&output.stdout));
        let pages = if stand.hugepages { "2 MiB pages" } else { "ordinary pages" };
        for (name, values) in parse(&String::from_utf8(output.stdout)?)? {
            let (table, what) = name.split_once(' ').context("a table and what was measured")?;
            let (what, unit, words) =
                MEASURED.into_iter().find(|(name, ..)| *name == what).with_context(|| what.to_owned())?;
            let group = if table == Own::NAME { "table".into() } else { format!("peer.{table}") };
            let conditions = format!("{sessions} sessions, {words}; one core, {pages}, tables in turn");
            stand.report.add(format!("{group}.{what}.{size}"), unit, values, conditions);
        }
    }
    Ok(())
}

fn available_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Values by name, of lines of a name and a value.
fn parse(text: &str) -> Result<BTreeMap<String, Vec<f64>>> {
    let mut figures: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for line in text.lines() {
        let (name, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
        figures.entry(name.to_owned()).or_default().push(value.parse().with_context(|| line.to_owned())?);
    }
    Ok(figures)
}

/// In the child: prints a line for each value.
pub fn child(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let mut next = || arguments.next().context("sessions, runs, hugepages");
    let (sessions, runs, hugepages) = (next()?.parse()?, next()?.parse()?, next()?.parse()?);
    let core = u32::from(cores::pin(1).is_ok());
    let eal = Eal::init(&EalOptions {
        main_lcore: core,
        hugepages,
        memory_mib: if hugepages { 64 } else { 1024 },
        pin_main: true,
        ..EalOptions::default()
    })?;
    let course = Course { sessions, hugepages, flows: random_flows(sessions) };
    for _ in 0..runs {
        course.run::<Own>(&eal)?;
        course.run::<Rte<false>>(&eal)?;
        course.run::<Rte<true>>(&eal)?;
        course.run::<Hashbrown>(&eal)?;
        course.run::<Dash>(&eal)?;
    }
    // Maps that grow refuse nothing: they stop everything meanwhile.
    if sessions == 65_536 {
        let own = fill(&mut Own::new(&eal, hugepages, sessions)?, 2 * sessions);
        print(Own::NAME, "load_at_refusal", f64::from(own) / f64::from(sessions));
        let rte = fill(&mut Rte::<false>::with_entries(&eal, 2 * sessions)?, 2 * sessions);
        print(Rte::<false>::NAME, "load_at_refusal", f64::from(rte) / f64::from(sessions));
    }
    Ok(())
}

fn print(table: &str, what: &str, value: f64) {
    println!("{table} {what} {value}");
}

/// Puts sessions in until one is refused; how many were taken.
fn fill(table: &mut impl Rival, most: u32) -> u32 {
    (0..most).find(|n| !table.insert(&traffic::session(*n))).unwrap_or(most)
}

/// Flows as packets bring them: of both directions of all sessions, at random.
fn random_flows(sessions: u32) -> Vec<FlowKeyV4> {
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let session = ((random >> 32) * u64::from(sessions)) >> 32;
        flows(&traffic::session(session as u32))[(random & 1) as usize]
    };
    (0..LOOKUPS).map(|_| next()).collect()
}

/// What each table is put through.
struct Course {
    sessions: u32,
    hugepages: bool,
    flows: Vec<FlowKeyV4>,
}

impl Course {
    #[expect(clippy::cast_precision_loss, reason = "ratios")]
    fn run<R: Rival>(&self, eal: &Eal) -> Result<()> {
        let mut table = R::new(eal, self.hugepages, self.sessions).context(R::NAME)?;
        let begun = dpdk::tsc();
        let taken = fill(&mut table, self.sessions);
        let seconds = (dpdk::tsc() - begun) as f64 / dpdk::tsc_hz(eal) as f64;
        if taken < self.sessions {
            bail!("{} takes {taken} of {} sessions", R::NAME, self.sessions);
        }
        print(R::NAME, "insert_per_second", f64::from(taken) / seconds);
        if taken >= FEW {
            print(R::NAME, "bytes_per_flow", table.bytes() as f64 / (2.0 * f64::from(taken)));
        }
        let keys: Vec<_> = self.flows.iter().map(R::key).collect();
        look_up(&mut table, &keys[..LOOKUPS / 8])?;
        let begun = dpdk::tsc();
        look_up(&mut table, &keys)?;
        print(R::NAME, "lookup_cycles", (dpdk::tsc() - begun) as f64 / LOOKUPS as f64);
        Ok(())
    }
}

/// All of them, in bursts; each must be found.
fn look_up<R: Rival>(table: &mut R, keys: &[R::Key]) -> Result<()> {
    let found: usize = keys.chunks(BURST).map(|keys| table.lookup(keys)).sum();
    ensure!(found == keys.len(), "{}: {found} of {} flows are found", R::NAME, keys.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_gathered_by_name() {
        let figures =
            parse("own lookup_cycles 20.5\nown lookup_cycles 21\ndashmap lookup_cycles 90\n").unwrap();
        assert_eq!(figures["own lookup_cycles"], [20.5, 21.0]);
        assert_eq!(figures["dashmap lookup_cycles"], [90.0]);
        assert!(parse("own lookup_cycles many\n").is_err());
    }

    #[test]
    fn flows_are_of_both_directions_and_of_all_sessions() {
        let flows = random_flows(4);
        let different: std::collections::HashSet<_> = flows.iter().collect();
        assert_eq!(different.len(), 8);
    }
}
