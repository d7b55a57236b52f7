//! `gateway replay` without the files: a million 64-byte frames of known sessions, on ordinary pages.
//!
//! DPDK starts once per process, with hugepages or without: this bench runs in a process of its own.

use crate::{report, traffic};
use anyhow::{Context, Result, ensure};
use conntrack::table::Timeouts;
use gateway::capture::Frames;
use gateway::config::Sessions;
use gateway::replay::{Discard, Environment, Setup};
use std::process::Command;

const FRAMES: u32 = 1_000_000;
const SESSIONS: u32 = 1_000;
/// The argument that makes this process the one that replays.
pub const CHILD: &str = "replay-child";

/// Mpps of replaying, from a process of its own.
pub fn bench(report: &mut report::Report, runs: usize) -> Result<()> {
    let output = Command::new(std::env::current_exe()?).args([CHILD, &runs.to_string()]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let figures = text.lines().filter_map(|line| line.parse().ok()).collect();
    report.add(
        "replay.mpps",
        "Mpps",
        figures,
        "1 M frames of 64 B, 1000 sessions, one core, 4 KiB pages, net of file reading",
    );
    Ok(())
}

/// In the child: replays `runs` times and prints Mpps, a line each.
pub fn child(runs: usize) -> Result<()> {
    crate::cores::pin(1).or_else(|_| crate::cores::pin(0))?;
    let environment = Environment::start()?;
    let mut frames = Frames::default();
    for n in 0..FRAMES {
        // A million packets per second of the capture's time.
        frames.push(u64::from(n) * 1_000, traffic::UPLINK, &traffic::frame(n % SESSIONS));
    }
    let specs: Vec<_> = (0..SESSIONS).map(traffic::session).collect();
    let sessions =
        Sessions { capacity: 1024, timeouts: Timeouts { tcp: 7440, udp: 300, icmp: 60, other: 60 } };
    let config = traffic::config();
    let setup = Setup { pipeline: &config, sessions, specs: &specs, until: None, burst: pipeline::BURST };
    for _ in 0..runs {
        let outcome = gateway::replay::run(&environment, &setup, &frames, &mut Discard)?;
        let uplink = outcome.counters.ports.first().context("the uplink")?;
        ensure!(uplink.tx_packets == u64::from(FRAMES), "{} frames left", uplink.tx_packets);
        println!("{}", f64::from(FRAMES) / outcome.elapsed.as_secs_f64() / 1e6);
    }
    Ok(())
}
