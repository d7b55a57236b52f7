//! A real gateway process between two memifs' ends, beside testpmd on memifs of the same kind.

use crate::Stand;
use crate::duel::{Bench, Contender, flat_out, mpps, ratios, rounds};
use anyhow::{Context, Result};
use benches::devices::Scratch;
use benches::devices::gateway::Gateway;
use benches::devices::testpmd::{self, Mode, Testpmd};
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
    Ok(Contender { name, process: Some(device.process), bench, traffic })
}

/// A gateway on hold, with the profile's sessions.
pub fn gateway(stand: &Stand, scratch: &Scratch, profile: &Profile) -> Result<Contender> {
    let device = Gateway::start(profile, stand.hugepages, scratch, &format!("gateway-{}", profile.sessions))?;
    let list = flows::sessions(profile)?;
    device.install(profile, &list).context("installing sessions")?;
    let bench = Bench::connect(stand, &device.socket, 1)?;
    device.process.pause()?;
    let traffic = Traffic::with_sessions(&stand.eal, profile, list);
    Ok(Contender { name: "gateway", process: Some(device.process.clone()), bench, traffic })
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
        let (outcomes, unfair) = rounds(&mut contenders, &flat_out(), stand.runs)?;
        let conditions = format!(
            "{sessions} sessions, 64 B, VLAN to VXLAN, every reply checked, one worker, memif rings of 1024, \
             testpmd {version} on the same kind of memif in turn, {unfair} runs with far or shared cores"
        );
        let [theirs, ours, io] = [0, 1, 2].map(|position: usize| mpps(&outcomes[position]));
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
        let lost: u64 = outcomes.iter().flatten().map(|outcome| outcome.lost).sum();
        let reordered: u64 = outcomes.iter().flatten().map(|outcome| outcome.counts.reordered).sum();
        println!("{:<44} {lost} lost, {reordered} reordered", format!("memif {name}"));
    }
    Ok(())
}
