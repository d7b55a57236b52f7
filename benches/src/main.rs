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
mod plan;
mod soak;
mod replay;
mod report;
mod rings;
mod rpc;
mod table;
mod traffic;
mod uptime;
mod workers;

use anyhow::{Context, Result, ensure};
use benches::output::say;
use clap::Parser;
use dpdk::{Eal, EalOptions, Mempool, PoolOptions};
use instructions::Budget;
use report::Report;
use std::path::PathBuf;
use std::process::ExitCode;
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
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    #[arg(long, value_delimiter = ',', help = format!("Only benches whose name starts with one of these: {}", plan::names()))]
    only: Vec<String>,
    /// A file of instructions per packet that no stage may exceed.
    #[arg(long)]
    budget: Option<PathBuf>,
}

/// What the benches share.
struct Stand {
    eal: Eal,
    pool: Mempool,
    hugepages: bool,
    runs: usize,
    full: bool,
    budget: Option<Budget>,
    report: Report,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("benches: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
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
    let benches = plan::plan(&options.only, two_cores, options.full)?;
    let budget = options.budget.as_deref().map(Budget::load).transpose()?;
    let counted = benches.iter().any(|bench| bench.name == instructions::NAME);
    ensure!(
        budget.is_none() || counted,
        "--budget is held against the bench instructions, which --only leaves out"
    );
    Report::check_file("--output", &options.output)?;
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
    let machine = &report.machine;
    say(format_args!("machine: {} ({} cores), {} hugepages", machine.cpu, machine.cores, machine.hugepages));
    if let Some(ns) = near {
        say(format_args!("cores 0 and 1: {ns:.0} ns for a line's round trip"));
    }
    let runs = usize::from(options.runs);
    let mut stand = Stand { eal, pool, hugepages, runs, full: options.full, budget, report };
    for bench in benches {
        (bench.run)(&mut stand).context(bench.name)?;
    }
    stand.report.write(&options.output)?;
    say(format_args!("report: {}", options.output.display()));
    Ok(())
}

fn free_hugepages() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("HugePages_Free:"));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}
