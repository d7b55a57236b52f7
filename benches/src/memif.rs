//! A real gateway process between two memifs' ends, beside testpmd on memifs of the same kind.

use crate::Stand;
use crate::duel::{Bench, Contender, Run, cycles, flat_out, generator_busy, mpps, ratios, rounds};
use crate::report::Report;
use anyhow::{Context, Result};
use benches::devices::Scratch;
use benches::devices::gateway::Gateway;
use benches::devices::testpmd::{self, Mode, Testpmd};
use benches::output::say;
use benches::pktgen::generator::Traffic;
use benches::pktgen::profile::Expect;
use benches::pktgen::{Profile, flows};

/// What the benches send: VLAN 100 to VXLAN 2000, masqueraded and routed, UDP in 64-byte frames.
pub fn profile(sessions: u32) -> Result<Profile> {
    let mut profile = Profile::parse(include_str!("../../share/bench/vlan-to-vxlan.toml"))?;
    profile.sessions = sessions;
    Ok(profile)
}

/// The same frames, coming back with their MACs swapped or as they are.
pub fn back(profile: &Profile, mode: Mode) -> Profile {
    let expect = if mode == Mode::Io { Expect::Same } else { Expect::Macswap };
    Profile { expect, nat: None, ..profile.clone() }
}

/// Names and sizes of session tables.
pub const SIZES: [(&str, u32); 3] = [("1k", 1_000), ("64k", 65_536), ("1M", 1_000_000)];

/// A testpmd on hold. It gets its traffic with each size.
pub fn testpmd(stand: &Stand, mode: Mode, scratch: &Scratch, profile: &Profile) -> Result<Contender> {
    let device = Testpmd::start(mode, stand.hugepages, scratch)?;
    let bench = Bench::connect(stand, &device.socket, 1)?;
    device.process.pause()?;
    let name = if mode == Mode::Io { "testpmd io" } else { "testpmd macswap" };
    let traffic = Traffic::new(&stand.eal, &back(profile, mode))?;
    let process = device.process.clone();
    let meter = Box::new(move || {
        let (cycles, packets) = testpmd::work(&process)?;
        Ok((cycles as f64, packets as f64))
    });
    Ok(Contender { name, process: Some(device.process), bench, traffic, meter: Some(meter) })
}

/// A gateway on hold, with the profile's sessions.
pub fn gateway(stand: &Stand, scratch: &Scratch, profile: &Profile) -> Result<Contender> {
    let device = Gateway::start(profile, stand.hugepages, scratch, &format!("gateway-{}", profile.sessions))?;
    let list = flows::sessions(profile)?;
    device.install(profile, &list).context("installing sessions")?;
    let bench = Bench::connect(stand, &device.socket, 1)?;
    device.process.pause()?;
    let traffic = Traffic::with_sessions(&stand.eal, profile, list);
    let (process, per_nano) = (device.process.clone(), dpdk::tsc_hz(&stand.eal) as f64 / 1e9);
    let meter = Box::new(move || {
        let (nanos, packets) = device.work()?;
        Ok((nanos as f64 * per_nano, packets as f64))
    });
    Ok(Contender { name: "gateway", process: Some(process), bench, traffic, meter: Some(meter) })
}

/// What the devices' own cores spend on a packet, whatever the generator does.
fn record_cycles(report: &mut Report, name: &str, runs: &[Vec<Run>]) {
    let conditions = "TSC cycles of the forwarding core, polls without packets left out, by the device's own account \
                      (testpmd --record-core-cycles, the gateway's worker_busy_ns), in the runs of memif.mpps";
    let [macswap, gateway, io] = [0, 1, 2].map(|position: usize| cycles(&runs[position]));
    report.add(format!("memif.cycles_ratio.{name}"), "ratio", ratios(&macswap, &gateway), conditions);
    report.add(format!("memif.cycles.gateway.{name}"), "cycles", gateway, conditions);
    report.add(format!("memif.cycles.testpmd.{name}"), "cycles", macswap, conditions);
    report.add(format!("memif.cycles.testpmd_io.{name}"), "cycles", io, conditions);
}

/// Throughput and its ratio to testpmd's.
pub fn bench(stand: &mut Stand) -> Result<()> {
    let scratch = Scratch::new("memif")?;
    let few = profile(1)?;
    let mut macswap = testpmd(stand, Mode::Macswap, &scratch, &few)?;
    let mut io = testpmd(stand, Mode::Io, &scratch, &few)?;
    let version = testpmd::version().unwrap_or_default();
    for (name, sessions) in SIZES {
        let profile = profile(sessions)?;
        macswap.traffic = Traffic::new(&stand.eal, &back(&profile, Mode::Macswap))?;
        io.traffic = Traffic::new(&stand.eal, &back(&profile, Mode::Io))?;
        let mut gateway = gateway(stand, &scratch, &profile)?;
        let mut contenders = [&mut macswap, &mut gateway, &mut io];
        let (runs, unfair) = rounds(&mut contenders, &flat_out(), stand.runs)?;
        let conditions = format!(
            "{sessions} sessions, 64 B, VLAN to VXLAN, every reply checked, one worker, memif rings of 1024, \
             testpmd {version} on the same kind of memif in turn, {unfair} runs with far or shared cores; \
             generator busy {} with testpmd, {} with the gateway: where near 100 %, it is the limit",
            generator_busy(&runs[0]),
            generator_busy(&runs[1])
        );
        let [theirs, ours, io] = [0, 1, 2].map(|position: usize| mpps(&runs[position]));
        let report = &mut stand.report;
        report.add(
            format!("memif.ratio_to_testpmd.{name}"),
            "ratio",
            ratios(&ours, &theirs),
            conditions.clone(),
        );
        report.add(format!("memif.mpps.{name}"), "Mpps", ours, conditions.clone());
        report.add(format!("memif.testpmd_macswap.mpps.{name}"), "Mpps", theirs, conditions.clone());
        report.add(format!("memif.testpmd_io.mpps.{name}"), "Mpps", io, conditions);
        record_cycles(report, name, &runs);
        let outcomes = || runs.iter().flatten().map(|run| &run.outcome);
        let lost: u64 = outcomes().map(|outcome| outcome.lost).sum();
        let reordered: u64 = outcomes().map(|outcome| outcome.counts.reordered).sum();
        say(format_args!("{:<44} {lost} lost, {reordered} reordered", format!("memif {name}")));
    }
    Ok(())
}
