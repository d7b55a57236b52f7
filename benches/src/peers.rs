//! What one would use instead, beside the gateway: Open vSwitch with DPDK, and Linux with nftables.

use crate::Stand;
use crate::duel::{
    Bench, Contender, Meter, WINDOW, cycles, flat_out, generator_busy, mpps, number, ratios, rounds,
};
use crate::memif::{SIZES, gateway, profile};
use crate::report::median;
use anyhow::{Context, Result, ensure};
use benches::devices::Scratch;
use benches::devices::nftables::{self, Nftables};
use benches::devices::ovs::{self, Ovs};
use benches::pktgen::generator::Traffic;
use benches::pktgen::{Load, Trial};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// First packets of flows a second, where each makes a connection.
const FILL: f64 = 100_000.0;
/// Share of connections that may be missing when the measuring begins.
const MISSING: f64 = 0.001;

/// Ratios to Open vSwitch and nftables; what is not installed is left out, and said so.
pub fn bench(stand: &mut Stand) -> Result<()> {
    for (name, sessions) in SIZES {
        let scratch = Scratch::new(&format!("peers-{name}"))?;
        let mut ours = gateway(stand, &scratch, &profile(sessions)?)?;
        if Path::new("/usr/lib/openvswitch-switch-dpdk").exists() {
            open_vswitch(stand, &mut ours, name, sessions, &scratch).context("Open vSwitch")?;
        } else {
            println!("peers: no Open vSwitch with DPDK here; `scripts/setup.sh bench` installs it");
        }
        if name == "64k" {
            nft(stand, &mut ours, sessions).context("nftables")?;
        }
    }
    Ok(())
}

fn open_vswitch(
    stand: &mut Stand,
    ours: &mut Contender,
    name: &str,
    sessions: u32,
    scratch: &Scratch,
) -> Result<()> {
    let profile = ovs::profile(&profile(sessions)?);
    let switch = Ovs::start(&profile, scratch)?;
    let bench = Bench::connect(stand, &switch.socket, 2)?;
    let traffic = Traffic::new(&stand.eal, &profile)?;
    let process = Some(switch.process.clone());
    let mut theirs = Contender { name: "Open vSwitch", process, bench, traffic, meter: None };
    let filled = theirs.fill(FILL)?;
    ensure!(filled.loss_ratio() <= MISSING, "its connections do not fill up:\n{}", filled.table());
    let (runs, unfair) = rounds(&mut [&mut theirs, ours], &flat_out(), stand.runs)?;
    let conditions = format!(
        "{sessions} sessions, 64 B, ours VLAN to VXLAN, theirs ct(commit,nat) VLAN to VLAN (no tunnel), \
         openvswitch-switch-dpdk {}, same memif, one worker, in turn, {unfair} runs with far or shared cores; \
         generator busy {} with ours",
        ovs::version().unwrap_or_default(),
        generator_busy(&runs[1])
    );
    let [theirs, ours] = [0, 1].map(|position: usize| mpps(&runs[position]));
    stand.report.add(
        format!("peer.ovs_dpdk.ratio.{name}"),
        "ratio",
        ratios(&ours, &theirs),
        conditions.clone(),
    );
    stand.report.add(format!("peer.ovs_dpdk.mpps.{name}"), "Mpps", theirs, conditions);
    Ok(())
}

/// As fast as packets come back, long enough for ticks of a hundredth of a second to tell how busy a core is.
fn long() -> Trial {
    let warm_up = Duration::from_millis(300);
    Trial { warm_up, ..Trial::new(Load::Window(WINDOW), Duration::from_millis(1800)) }
}

fn nft(stand: &mut Stand, ours: &mut Contender, sessions: u32) -> Result<()> {
    let profile = nftables::profile(&profile(sessions)?);
    let kernel = Rc::new(Nftables::start(&profile)?);
    let device = |interface: &str| format!("net_af_packet{},iface={interface},qdisc_bypass=1", number());
    let bench = Bench::open(stand, &[&device(nftables::INSIDE), &device(nftables::OUTSIDE)], 1)?;
    let traffic = Traffic::new(&stand.eal, &profile)?;
    let (meter, hz) = (kernel.clone(), dpdk::tsc_hz(&stand.eal) as f64);
    let meter: Meter = Box::new(move || {
        let (seconds, packets) = meter.work()?;
        Ok((seconds * hz, packets as f64))
    });
    let meter = Some(meter);
    let mut theirs = Contender { name: "nftables", process: None, bench, traffic, meter };
    let filled = theirs.fill(FILL)?;
    ensure!(filled.loss_ratio() <= MISSING, "its connections do not fill up:\n{}", filled.table());
    let connections = kernel.connections()?;
    ensure!(connections >= u64::from(sessions) * 99 / 100, "only {connections} connections are tracked");
    let (before, (_, out_before)) = (Nftables::received_there()?, kernel.work()?);
    let (runs, unfair) = rounds(&mut [&mut theirs, ours], &long(), stand.runs)?;
    let there = Nftables::received_there()?.wrapping_sub(before);
    let out = kernel.work()?.1 - out_before;
    ensure!(
        u64::from(there) >= out * 99 / 100,
        "{out} packets were forwarded, {there} of them on the worker's core: receive packet steering does not work"
    );
    let cycles = cycles(&runs[0]);
    let busy = 100.0 * median(&mpps(&runs[0])) * 1e6 * median(&cycles) / hz;
    let conditions = format!(
        "{sessions} sessions, 64 B, ours VLAN to VXLAN over memif, theirs untagged between veth pairs over af_packet, \
         all forwarding in softirqs on the worker's core, which was busy for {busy:.0} %, {}, in turn, {unfair} runs with far or shared cores",
        nftables::version().unwrap_or_default()
    );
    let [theirs, ours] = [0, 1].map(|position: usize| mpps(&runs[position]));
    stand.report.add("peer.nftables.ratio.64k", "ratio", ratios(&ours, &theirs), conditions.clone());
    stand.report.add("peer.nftables.mpps.64k", "Mpps", theirs, conditions.clone());
    stand.report.add("peer.nftables.cycles.64k", "cycles", cycles, conditions);
    Ok(())
}
