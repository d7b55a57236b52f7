//! What one would use instead, beside the gateway: Open vSwitch with DPDK, and Linux with nftables; and testpmd with the gateway's
//! own burst size.

use crate::Stand;
use crate::duel::{
    Bench, Contender, Meter, Run, WINDOW, cycles, flat_out, generator_busy, mpps, number, ratios, rounds,
};
use crate::memif::{SIZES, back, gateway, profile, testpmd};
use crate::report::median;
use anyhow::{Context, Result, ensure};
use benches::devices::Scratch;
use benches::devices::nftables::{self, Nftables};
use benches::devices::ovs::{self, Ovs};
use benches::devices::testpmd::Mode;
use benches::output::say;
use benches::pktgen::generator::Traffic;
use benches::pktgen::{Load, Outcome, Trial};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// First packets of flows a second, where each makes a connection.
const FILL: f64 = 100_000.0;
/// Share of connections that may be missing when the measuring begins.
const MISSING: f64 = 0.001;

/// Ratios to Open vSwitch and nftables; what is not installed is left out, and said so.
pub fn bench(stand: &mut Stand) -> Result<()> {
    let scratch = Scratch::new("peers")?;
    let mut swapping = testpmd(stand, Mode::MacswapBurst128, &scratch, &profile(1)?)?;
    for (name, sessions) in SIZES {
        // Peers take long to fill. In a short run each is measured where a target is; for larger bursts of testpmd's there is none.
        let wants = |size| stand.full || name == size;
        let [with_switch, with_kernel] = ["1M", "64k"].map(wants);
        if !with_switch && !with_kernel {
            continue;
        }
        let scratch = Scratch::new(&format!("peers-{name}"))?;
        let profile = profile(sessions)?;
        let mut ours = gateway(stand, &scratch, &profile)?;
        if stand.full {
            swapping.traffic = Traffic::new(&stand.eal, &back(&profile, Mode::Macswap))?;
            larger_bursts(stand, &mut ours, &mut swapping, name, sessions).context("testpmd")?;
        }
        if with_switch && Path::new("/usr/lib/openvswitch-switch-dpdk").exists() {
            open_vswitch(stand, &mut ours, name, sessions, &scratch).context("Open vSwitch")?;
        } else if with_switch {
            say("peers: no Open vSwitch with DPDK here; `scripts/setup.sh bench` installs it");
        }
        if with_kernel {
            nft(stand, &mut ours, name, sessions).context("nftables")?;
        }
    }
    Ok(())
}

/// The gateway takes up to 128 packets from a port at once, testpmd 32 unless told otherwise.
fn larger_bursts(
    stand: &mut Stand,
    ours: &mut Contender,
    theirs: &mut Contender,
    name: &str,
    sessions: u32,
) -> Result<()> {
    let (runs, unfair) = rounds(&mut [theirs, ours], &flat_out(), stand.runs)?;
    let conditions = format!(
        "{sessions} sessions, 64 B, as memif.testpmd_macswap but in bursts of up to 128, as the gateway's, in turn, \
         {unfair} runs with far or shared cores; generator busy {} with testpmd, {} with the gateway",
        generator_busy(&runs[0]),
        generator_busy(&runs[1])
    );
    Pair { name: "peer.testpmd.macswap_burst128", size: name, runs: &runs }.record(stand, &conditions);
    Ok(())
}

/// A peer's runs, and the gateway's between them.
struct Pair<'r> {
    name: &'r str,
    size: &'r str,
    runs: &'r [Vec<Run>],
}

impl Pair<'_> {
    /// Rates, cycles, and the ratios of both.
    fn record(&self, stand: &mut Stand, conditions: &str) {
        let (name, size) = (self.name, self.size);
        let [theirs, ours] = [0, 1].map(|who: usize| mpps(&self.runs[who]));
        let [their_cycles, our_cycles] = [0, 1].map(|who: usize| cycles(&self.runs[who]));
        let by_cycles = ratios(&their_cycles, &our_cycles);
        let busy = format!(
            "{conditions}; what a packet costs the forwarding core, by each one's own account, however fast the generator is"
        );
        let report = &mut stand.report;
        report.add(format!("{name}.ratio.{size}"), "ratio", ratios(&ours, &theirs), conditions);
        report.add(format!("{name}.mpps.{size}"), "Mpps", theirs, conditions);
        report.add(format!("{name}.ratio_by_cycles.{size}"), "ratio", by_cycles, &busy);
        report.add(format!("{name}.cycles.{size}"), "cycles", their_cycles, busy);
    }
}

fn open_vswitch(
    stand: &mut Stand,
    ours: &mut Contender,
    name: &str,
    sessions: u32,
    scratch: &Scratch,
) -> Result<()> {
    let profile = ovs::profile(&profile(sessions)?);
    let switch = Rc::new(Ovs::start(&profile, scratch)?);
    let bench = Bench::connect(stand, &switch.socket, 2)?;
    let traffic = Traffic::new(&stand.eal, &profile)?;
    let process = Some(switch.process.clone());
    let metered = switch.clone();
    let meter: Meter = Box::new(move || {
        let (cycles, packets) = metered.work()?;
        Ok((cycles as f64, packets as f64))
    });
    let meter = Some(meter);
    let mut theirs = Contender { name: "Open vSwitch", process, bench, traffic, meter };
    let filled = theirs.fill(FILL)?;
    if !is_full(&filled, "Open vSwitch", name) {
        return Ok(());
    }
    let (runs, unfair) = rounds(&mut [&mut theirs, ours], &flat_out(), stand.runs)?;
    let conditions = format!(
        "{sessions} sessions, 64 B, ours VLAN to VXLAN, theirs ct(commit,nat) VLAN to VLAN (no tunnel), \
         openvswitch-switch-dpdk {}, same memif, one worker, in turn, {unfair} runs with far or shared cores; \
         generator busy {} with ours",
        ovs::version().unwrap_or_default(),
        generator_busy(&runs[1])
    );
    Pair { name: "peer.ovs_dpdk", size: name, runs: &runs }.record(stand, &conditions);
    Ok(())
}

/// Whether a peer has its connections. On a busy machine it may lose too many first packets: it is left out then, and said so.
fn is_full(filled: &Outcome, peer: &str, size: &str) -> bool {
    let full = filled.loss_ratio() <= MISSING;
    if !full {
        say(format_args!(
            "peers: {peer} is left out at {size}, its connections do not fill up:\n{}",
            filled.table()
        ));
    }
    full
}

/// As fast as packets come back, long enough for ticks of a hundredth of a second to tell how busy a core is.
fn long() -> Trial {
    let warm_up = Duration::from_millis(300);
    Trial { warm_up, ..Trial::new(Load::Window(WINDOW), Duration::from_millis(1800)) }
}

fn nft(stand: &mut Stand, ours: &mut Contender, name: &str, sessions: u32) -> Result<()> {
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
    if !is_full(&filled, "nftables", name) {
        return Ok(());
    }
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
    let busy = 100.0 * median(&mpps(&runs[0])) * 1e6 * median(&cycles(&runs[0])) / hz;
    let conditions = format!(
        "{sessions} sessions, 64 B, ours VLAN to VXLAN over memif, theirs untagged between veth pairs over af_packet, \
         all forwarding in softirqs on the worker's core, which was busy for {busy:.0} %, {}, in turn, {unfair} runs with far or shared cores",
        nftables::version().unwrap_or_default()
    );
    Pair { name: "peer.nftables", size: name, runs: &runs }.record(stand, &conditions);
    Ok(())
}
