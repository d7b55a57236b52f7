//! Benchmarks of the gateway, and their report.
//!
//! Figures are medians of several runs; machines are shared and noisy, so compare within one report only.
#![forbid(unsafe_code)]

mod agent;
mod bad;
mod cores;
mod duel;
mod hotpath;
mod instructions;
mod latency;
mod memif;
mod peers;
mod soak;
mod replay;
mod report;
mod rings;
mod rpc;
mod table;
mod traffic;
mod uptime;
mod workers;

use anyhow::{Context, Result};
use clap::Parser;
use dpdk::{Eal, EalOptions, Mempool, PoolOptions};
use report::Report;
use std::path::PathBuf;
use std::time::Duration;

/// Measures the gateway.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Options {
    #[command(subcommand)]
    command: Option<report::Command>,
    /// Where the JSON report goes.
    #[arg(long, default_value = "target/bench/report.json")]
    output: PathBuf,
    /// The long benches too (16 million sessions).
    #[arg(long)]
    full: bool,
    /// Runs per figure; the median counts.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Only benches whose name starts with one of these: hotpath, instructions, rings, memif, latency, bad, soak, peers,
    /// workers, table, replay, rpc, agent.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// A file of instructions per packet that no stage may exceed.
    #[arg(long)]
    budget: Option<PathBuf>,
}

impl Options {
    fn wants(&self, bench: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| bench.starts_with(name.as_str()))
    }
}

/// What the benches share.
struct Stand {
    eal: Eal,
    pool: Mempool,
    hugepages: bool,
    runs: usize,
    full: bool,
    report: Report,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some(replay::CHILD) => return replay::child(arguments.next().context("runs")?.parse()?),
        Some(instructions::CHILD) => {
            let packets = arguments.next().context("packets")?.parse()?;
            return instructions::child(packets, &arguments.next().context("flow")?);
        }
        Some(rpc::CHILD) => return rpc::child(arguments),
        Some(table::CHILD) => return table::child(arguments),
        Some(agent::CHILD) => return agent::child(arguments.next().context("runs")?.parse()?),
        _ => {}
    }
    let options = Options::parse();
    if let Some(command) = &options.command {
        std::process::exit(command.run());
    }
    let two_cores = std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
    let near = two_cores.then(|| cores::wait_near(0, 1, Duration::from_secs(30))).flatten();
    let hugepages = free_hugepages() >= 128;
    let eal = Eal::init(&EalOptions {
        main_lcore: 0,
        workers: if two_cores { vec![1] } else { vec![] },
        hugepages,
        memory_mib: 128,
        pin_main: true,
        ..EalOptions::default()
    })?;
    let pool = Mempool::new(
        &eal,
        &PoolOptions { name: "bench", count: 16_383, cache: 512, ..PoolOptions::default() },
    )?;
    let report = Report::new(dpdk::tsc_hz(&eal), near);
    println!(
        "machine: {} ({} cores), {} hugepages",
        report.machine.cpu, report.machine.cores, report.machine.hugepages
    );
    if let Some(ns) = near {
        println!("cores 0 and 1: {ns:.0} ns for a line's round trip");
    }
    let mut stand = Stand { eal, pool, hugepages, runs: options.runs.max(1), full: options.full, report };
    let hotpath = |stand: &mut Stand, long| match options.wants("hotpath") {
        true => hotpath::bench(stand, long).context("hotpath"),
        false => Ok(()),
    };
    let full = options.full;
    hotpath(&mut stand, full)?;
    if options.wants("instructions") {
        instructions::bench(&mut stand.report, options.budget.as_deref()).context("instructions")?;
    }
    if options.wants("rings") && two_cores {
        rings::bench(&mut stand).context("rings")?;
    }
    if options.wants("memif") && two_cores {
        memif::bench(&mut stand).context("memif")?;
    }
    if options.wants("latency") && two_cores {
        latency::bench(&mut stand).context("latency")?;
    }
    hotpath(&mut stand, false)?;
    if options.wants("bad") {
        bad::bench(&mut stand).context("bad input")?;
    }
    if options.wants("soak") && two_cores && stand.full {
        soak::bench(&mut stand).context("soak")?;
    }
    if options.wants("peers") && two_cores {
        peers::bench(&mut stand).context("peers")?;
    }
    hotpath(&mut stand, false)?;
    if options.wants("workers") && two_cores {
        workers::bench(&mut stand).context("workers")?;
    }
    if options.wants("table") {
        table::bench(&mut stand).context("table")?;
    }
    hotpath(&mut stand, false)?;
    if options.wants("replay") {
        replay::bench(&mut stand.report, stand.runs).context("replay")?;
    }
    if options.wants("rpc") && two_cores {
        rpc::bench(&mut stand).context("rpc")?;
    }
    if options.wants("agent") {
        agent::bench(&mut stand.report, stand.runs).context("agent")?;
    }
    hotpath(&mut stand, full)?;
    stand.report.write(&options.output)
}

fn free_hugepages() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("HugePages_Free:"));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}
