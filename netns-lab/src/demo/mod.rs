//! The demonstration: each flow twice through the same gateway, first with every packet going through the kernel's
//! network function, then with the agent offloading connections; and the figures of both, side by side. Then two flows
//! whose sessions send copies to a collector.

mod copies;
mod flows;
mod kernel;
mod table;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::collector::Collector;
use crate::config::{AgentConfig, GatewayConfig};
use crate::control::Session;
use crate::error::{Error, Result};
use crate::gateway::{Gateway, start_agent};
use crate::lab::Lab;
use crate::process::Process;
use flows::{Flow, Outcome};

/// How long a TCP session's end may take to arrive.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// What to demonstrate with.
#[derive(Debug)]
pub struct Options<'a> {
    /// The gateway's program.
    pub program: &'a Path,
    /// Seconds of each bulk transfer.
    pub seconds: u32,
}

/// One flow's figures, of one of the two runs.
#[derive(Debug, Clone, Default)]
struct Figures {
    outcome: Option<Outcome>,
    kernel_packets: u64,
    hot_packets: u64,
}

impl Figures {
    fn hot_share(&self) -> f64 {
        let all = self.kernel_packets + self.hot_packets;
        if all == 0 { 0.0 } else { self.hot_packets as f64 / all as f64 }
    }
}

/// Runs the demonstration, telling what it does; returns whether all that should be offloaded was.
///
/// # Errors
/// Whatever goes wrong with the lab, the gateway, the agents or the traffic.
pub fn run(options: &Options) -> Result<bool> {
    let start = Instant::now();
    let say = |text: &str| println!("[{:5.1} s] {text}", start.elapsed().as_secs_f32());

    say("laying out the lab: 5 tenants, a fabric, a kernel with 4 bridges and VTEPs, 3 network functions");
    let mut lab = Lab::up()?;
    lab.add_collector()?;
    let collector = Collector::start(&lab)?;
    let config = GatewayConfig::default();
    say(&format!(
        "starting the gateway on DPDK: net_af_xdp uplink, net_af_packet trap port, {}",
        if config.hugepages { "hugepages" } else { "no hugepages" }
    ));
    let mut gateway = Gateway::start(&lab, options.program, &config)?;
    let flows = flows::all(options.seconds);
    let servers = flows.iter().map(|flow| flow.serve(&lab)).collect::<Result<Vec<Option<Process>>>>()?;

    say("each flow twice: through the kernel and nftables, then with the agent beside the network function");
    let config = AgentConfig { protocols: vec!["tcp", "udp", "icmp", "icmpv6"], ..AgentConfig::default() };
    let (mut off, mut on) = (Vec::new(), Vec::new());
    for flow in &flows {
        off.push(run_flow(&lab, &gateway, flow, "off", &say)?);
        let agent = start_agent(&lab, options.program, &flow.vnf, &config)?;
        on.push(run_flow(&lab, &gateway, flow, "on", &say)?);
        wait_for_tcp_ends(&gateway)?;
        agent.stop()?;
    }
    say("a mirrored and a snooped flow: sessions installed by hand, copies to a collector on the underlay");
    let copied = copies::run(&lab, &gateway, &collector)?;
    drop((servers, collector));
    let closed = close_all(&gateway)?;
    let stats = gateway.stats()?;
    if let Some(status) = gateway.ended() {
        return Err(Error::Command {
            command: "gateway".to_owned(),
            status: format!("{status}"),
            output: gateway.log(),
        });
    }
    gateway.stop()?;
    say("done\n");

    table::flows(&flows, &off, &on);
    table::copied(&copied);
    table::closed(&closed);
    table::stats(&stats)?;
    Ok(table::verdict(&flows, &off, &on, &copied))
}

/// Runs a flow, and counts its packets. The two runs of a flow follow each other closely, so that a machine that is busy
/// with other things is so for both.
fn run_flow(lab: &Lab, gateway: &Gateway, flow: &Flow, offload: &str, say: &dyn Fn(&str)) -> Result<Figures> {
    let before = hot_packets(gateway, flow)?;
    let counter = kernel::Counter::new(lab.ns(flow.vnf.name)?, flow)?;
    let outcome = Some(flow.run(lab)?);
    let kernel_packets = counter.packets()?;
    let hot_packets = hot_packets(gateway, flow)? - before;
    let figures = Figures { outcome, kernel_packets, hot_packets };
    say(&format!(
        "  {:<40} {offload:>3} {:>16}  kernel {kernel_packets:>8}  hot path {hot_packets:>8}",
        flow.name,
        table::outcome(&figures),
    ));
    Ok(figures)
}

/// Packets of the sessions that are part of `flow`, or were.
fn hot_packets(gateway: &Gateway, flow: &Flow) -> Result<u64> {
    Ok(gateway.control().all()?.iter().filter(|session| flow.owns(session)).map(Session::packets).sum())
}

/// Lets TCP sessions end with their connections, before the agent takes them along.
fn wait_for_tcp_ends(gateway: &Gateway) -> Result<()> {
    let end = Instant::now() + CLOSE_LIMIT;
    while gateway.control().sessions()?.iter().any(|session| session.protocol == 6) && Instant::now() < end {
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Removes the sessions that are left; returns all that closed.
fn close_all(gateway: &Gateway) -> Result<Vec<Session>> {
    gateway.control().flush()?;
    // The stream of closed sessions is a moment behind.
    let end = Instant::now() + CLOSE_LIMIT;
    let control = gateway.control();
    while (control.closed().len() as u64) + control.lost() < gateway.stats()?.get("/sessions/closed")?
        && Instant::now() < end
    {
        thread::sleep(Duration::from_millis(50));
    }
    Ok(control.closed())
}
