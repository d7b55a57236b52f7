//! The offload agent: how long after the kernel has an assured connection the fast path has its session, and how long after
//! a restart all are there again.
//!
//! A namespace with the kernel's real connection table, the agent, and a control server over a real session table; connections
//! come by ctnetlink. In a process of its own, that may use all cores.

mod restart;
mod stand;

use crate::cores;
use crate::report::Report;
use anyhow::{Context, Result, ensure};
use benches::output::say;
use control::agent::flood::{Connection, Flood};
use stand::Stand;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::{Duration, Instant};

/// The argument that makes this process the one that offloads.
pub const CHILD: &str = "agent-child";
const RATE: u32 = 5_000;
const SECONDS: u32 = 6;
const COUNT: u32 = RATE * SECONDS;
const PATIENCE: Duration = Duration::from_secs(30);

/// All figures, from a process of its own.
pub fn bench(report: &mut Report, runs: usize) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        say("agent: left out, it needs root for a network namespace");
        return Ok(());
    }
    let output = Command::new(std::env::current_exe()?).args([CHILD, &runs.to_string()]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    // Lines of a figure's name and its values.
    let figure = |name: &str| -> Vec<f64> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(name));
        lines.flat_map(str::split_whitespace).filter_map(|value| value.parse().ok()).collect()
    };
    let conditions = format!(
        "{RATE} new connections/s for {SECONDS} s by ctnetlink, 4,099 hosts to 67; entry made to session in the table; \
         agent, server and kernel share all cores"
    );
    report.add("agent.offload_p50_ms", "ms", figure("p50"), conditions.clone());
    report.add("agent.offload_p99_ms", "ms", figure("p99"), conditions);
    for name in restart::NAMES {
        let values = figure(name);
        report.add(format!("agent.restart_{name}_seconds"), "s", values, restart::conditions(name));
    }
    Ok(())
}

/// In the child: prints a line for each value.
pub fn child(runs: usize) -> Result<()> {
    cores::unpin()?;
    for run in 0..runs {
        let mut delays = delays(run)?;
        delays.sort_by(f64::total_cmp);
        let at = |percent: usize| delays[(delays.len() - 1) * percent / 100];
        println!("p50 {:.3}\np99 {:.3}", at(50), at(99));
    }
    restart::run(runs)
}

/// Milliseconds from entry to session, of each connection.
fn delays(run: usize) -> Result<Vec<f64>> {
    let stand = Stand::start(&run.to_string(), COUNT)?;
    let clock = stand.handles().clock;
    let flood = stand.netns.thread(move || -> Result<Vec<u64>> {
        let (mut flood, begun) = (Flood::open()?, Instant::now());
        let mut made = Vec::with_capacity(COUNT as usize);
        for number in 0..COUNT {
            let due = Duration::from_secs(1) * number / RATE;
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
            made.push(clock.now_nanos());
            flood.insert(&[connection(number)])?;
        }
        Ok(made)
    });
    let made = flood.join().map_err(|_| anyhow::anyhow!("the flood panicked"))??;
    let (table, begun) = (&stand.handles().table, Instant::now());
    while table.stats().active < u64::from(COUNT) {
        let active = table.stats().active;
        ensure!(begun.elapsed() < PATIENCE, "{active} sessions for {COUNT} connections");
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut sessions = Vec::new();
    let mut cursor = 0;
    loop {
        cursor = table.list(cursor, 10_000, &mut sessions);
        if cursor == 0 {
            break;
        }
    }
    let start: HashMap<(IpAddr, u16), u64> = sessions
        .iter()
        .map(|info| ((info.spec.original.source, info.spec.original.source_port), info.start.as_millis()))
        .collect();
    let delay = |(number, made): (u32, u64)| {
        let (client, port) = connection(number).client;
        // Starts are whole milliseconds, rounded down: the end of that millisecond counts.
        let ready = (start.get(&(client.into(), port))? + 1) * 1_000_000;
        #[expect(clippy::cast_precision_loss, reason = "a duration")]
        Some(ready.saturating_sub(made) as f64 / 1e6)
    };
    let delays: Option<Vec<f64>> = (0..).zip(made).map(delay).collect();
    delays.context("a connection without its session")
}

/// Each with hosts, and pairs of hosts, of its own for a long time.
fn connection(number: u32) -> Connection {
    let host = |network: u32, number: u32| Ipv4Addr::from(network | number);
    let port = 1024 + (number % 60_000) as u16;
    Connection {
        client: (host(0x0a60_0000, number % 4099), port),
        server: (host(0x0a70_0000, number % 67), 80),
        seen: (host(0x0a82_0000, number / 60_000), port),
    }
}
