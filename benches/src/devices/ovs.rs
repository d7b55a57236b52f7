//! Open vSwitch with DPDK: its userspace datapath with connection tracking and source NAT.
//!
//! It gets the easier job: from VLAN to VLAN, no tunnel. One pass through `ct(commit,nat)` for new and known connections alike
//! (the fewest recirculations that NAT can have), its poll-mode thread on the worker's core.

use super::process::{Process, Scratch, output};
use super::{WORKER_CORE, memif_server};
use crate::pktgen::Profile;
use crate::pktgen::profile::Expect;
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
const SWITCH: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
/// The tag that its frames leave with.
const VLAN_OUT: u16 = 200;

/// A running switch.
pub struct Ovs {
    /// To be paused and resumed.
    pub process: Rc<Process>,
    /// The memif's socket. The switch opens two transmit queues.
    pub socket: String,
    control: PathBuf,
    _database: Process,
}

/// The package that has it.
pub fn version() -> Result<String> {
    output("dpkg-query", &["-W", "-f=${Version}", "openvswitch-switch-dpdk"])
}

/// What the switch makes of a profile's frames: the other tag instead of a tunnel, ports of its own choice.
pub fn profile(ours: &Profile) -> Profile {
    let mut profile = Profile { expect: Expect::Learn, nat: None, ..ours.clone() };
    (profile.outside.vlan, profile.outside.vni) = (Some(VLAN_OUT), None);
    profile
}

impl Ovs {
    /// Starts one in a folder of its own: database, switch, bridge, flows.
    pub fn start(profile: &Profile, scratch: &Scratch) -> Result<Self> {
        let socket = format!("benches-ovs-{}", std::process::id());
        let (database, control) = (scratch.path("ovs.db"), scratch.path("ovs.ctl"));
        let remote = format!("unix:{}", scratch.path("ovsdb.sock").display());
        let path = |path: &PathBuf| path.display().to_string();
        output("ovsdb-tool", &["create", &path(&database), SCHEMA])?;
        let mut command = Command::new("ovsdb-server");
        command.arg(&database).arg(format!("--remote=p{remote}")).arg("--unixctl=none");
        let mut server = Process::start(command, scratch, "ovsdb")?;
        let listening = scratch.path("ovsdb.sock");
        server.wait_until(Duration::from_secs(10), |_| listening.exists())?;
        let vsctl = |arguments: &[&str]| {
            let mut all = vec![format!("--db={remote}"), "--timeout=60".into()];
            all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
            output("ovs-vsctl", &all)
        };
        let extra =
            format!("--no-pci --in-memory --no-telemetry --file-prefix=benches-ovs-{}", std::process::id());
        vsctl(&["--no-wait", "init"])?;
        vsctl(&[
            "--no-wait",
            "set",
            "Open_vSwitch",
            ".",
            "other_config:dpdk-init=true",
            "other_config:dpdk-lcore-mask=0x1",
            &format!("other_config:pmd-cpu-mask={:#x}", 1 << WORKER_CORE),
            "other_config:dpdk-socket-mem=64",
            "other_config:per-port-memory=true",
            &format!("other_config:dpdk-extra=\"{extra}\""),
        ])?;
        let mut command = Command::new(SWITCH);
        command.arg(&remote).arg(format!("--unixctl={}", control.display()));
        command.env("OVS_RUNDIR", scratch.path("")).env("OVS_LOGDIR", scratch.path(""));
        let mut process = Process::start(command, scratch, "vswitchd")?;
        process.wait_until(Duration::from_secs(60), |_| control.exists())?;
        vsctl(&["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev", "fail_mode=secure"])
            .with_context(|| process.log())?;
        let device = format!("options:dpdk-devargs=\"{}\"", memif_server(0, &socket));
        vsctl(&[
            "add-port",
            "br0",
            "p0",
            "--",
            "set",
            "Interface",
            "p0",
            "type=dpdk",
            &device,
            "ofport_request=1",
        ])
        .with_context(|| process.log())?;
        let switch = Self { process: Rc::new(process), socket, control, _database: server };
        switch.timeouts(&vsctl)?;
        switch.flows(profile, scratch)?;
        Ok(switch)
    }

    /// No connection ends while others are measured.
    fn timeouts(&self, vsctl: &dyn Fn(&[&str]) -> Result<String>) -> Result<()> {
        let datapath = ["--id=@d", "create", "Datapath", "datapath_version=0", "--"];
        let set = ["set", "Open_vSwitch", ".", "datapaths:netdev=@d"];
        vsctl(&[&datapath[..], &set].concat())?;
        let timeouts = ["udp_first=36000", "udp_single=36000", "udp_multiple=36000"];
        vsctl(&[&["add-zone-tp", "netdev", "zone=1"], &timeouts[..]].concat())?;
        let target = self.control.display().to_string();
        output("ovs-appctl", &["-t", &target, "dpctl/ct-set-maxconns", "3000000"])?;
        Ok(())
    }

    fn flows(&self, profile: &Profile, scratch: &Scratch) -> Result<()> {
        let out = &profile.outside;
        let text = format!(
            "table=0,priority=10,in_port=1,dl_vlan={},ip actions=pop_vlan,\
             ct(commit,zone=1,nat(src=203.0.113.0-203.0.113.255:1024-65535),table=1)\n\
             table=1,priority=10,ip actions=dec_ttl,set_field:{}->eth_src,set_field:{}->eth_dst,\
             push_vlan:0x8100,set_field:{}->vlan_vid,in_port\n",
            profile.inside.vlan.unwrap_or_default(),
            out.gateway_mac,
            out.mac,
            0x1000 | VLAN_OUT,
        );
        let file = scratch.path("flows");
        std::fs::write(&file, text)?;
        let bridge = format!("unix:{}", scratch.path("br0.mgmt").display());
        output("ovs-ofctl", &["-O", "OpenFlow13", "add-flows", &bridge, &file.display().to_string()])?;
        Ok(())
    }

    /// TSC cycles that its poll-mode thread has spent on packets, and how many have arrived there.
    pub fn work(&self) -> Result<(u64, u64)> {
        let target = self.control.display().to_string();
        let text = output("ovs-appctl", &["-t", &target, "dpif-netdev/pmd-stats-show"])?;
        worked(&text).with_context(|| format!("pmd-stats-show is not as expected:\n{text}"))
    }

    /// What its connection tracker holds.
    pub fn connections(&self) -> Result<u64> {
        let target = self.control.display().to_string();
        let text = output("ovs-appctl", &["-t", &target, "dpctl/ct-get-nconns"])?;
        text.trim().parse().with_context(|| text.clone())
    }
}

/// Processing cycles and packets of the worker's core.
fn worked(text: &str) -> Option<(u64, u64)> {
    let own = text.split("pmd thread ").find(|part| {
        let heading = part.lines().next().unwrap_or_default();
        heading.ends_with(&format!("core_id {WORKER_CORE}:"))
    })?;
    let number = |label: &str| {
        let value = own.lines().find_map(|line| line.trim().strip_prefix(label))?;
        value.split_whitespace().next()?.parse().ok()
    };
    Some((number("processing cycles:")?, number("packets received:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(core: usize, packets: u64, cycles: u64) -> String {
        format!(
            "pmd thread numa_id 0 core_id {core}:\n  packets received: {packets}\n  packet recirculations: 7\n  \
             idle cycles: 5 (50.00%)\n  processing cycles: {cycles} (50.00%)\n  avg cycles per packet: 9.9 (1/2)\n"
        )
    }

    #[test]
    fn the_workers_cycles_are_read() {
        let main = "main thread:\n  packets received: 9\n  processing cycles: 9 (1.00%)\n";
        let text = thread(11, 1, 2) + &thread(WORKER_CORE, 30, 4_000) + main;
        assert_eq!(worked(&text), Some((4_000, 30)));
        assert_eq!(worked(&thread(11, 1, 2)), None);
        assert_eq!(worked(main), None);
    }
}
