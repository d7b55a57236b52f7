//! Linux itself: forwarding and nftables' masquerade in a network namespace, between two veth pairs.
//!
//! Both pairs' outer ends are the generator's, over af_packet. The namespace's receive side is steered to the worker's core
//! (RPS), the generator's own receive side to the generator's: so routing, connection tracking, NAT and transmission run on the
//! worker's core alone, as a DPDK worker's do. This kernel needs no VLANs for it: frames are untagged.

use super::WORKER_CORE;
use super::process::output;
use crate::pktgen::Profile;
use crate::pktgen::profile::Expect;
use anyhow::{Context, Result, bail};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The generator's end inside.
pub const INSIDE: &str = "nftin";
/// The generator's end outside.
pub const OUTSIDE: &str = "nftout";
const NAMESPACE: &str = "bench-nft";

/// The namespace with its rules; removed when dropped.
pub struct Nftables {
    /// Settings of the whole machine, to be lowered again behind the namespace.
    raised: Vec<Raised>,
}

/// nftables' and the kernel's versions.
pub fn version() -> Result<String> {
    let nft = output("nft", &["--version"])?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Ok(format!("{}, Linux {}", nft.trim(), kernel.trim()))
}

/// What the kernel makes of a profile's frames: all untagged, ports of its own choice.
pub fn profile(ours: &Profile) -> Profile {
    let mut profile = Profile { expect: Expect::Learn, nat: None, underlay: None, ..ours.clone() };
    for side in [&mut profile.inside, &mut profile.outside] {
        (side.vlan, side.vni) = (None, None);
    }
    profile
}

impl Nftables {
    /// Makes the namespace, with room for the profile's connections: a bucket for each direction, as whoever has so many would set
    /// it.
    pub fn start(profile: &Profile) -> Result<Self> {
        let _ = output("ip", &["netns", "del", NAMESPACE]);
        output("ip", &["netns", "add", NAMESPACE])?;
        let mut made = Self { raised: Vec::new() };
        let (inside, outside) = (&profile.inside, &profile.outside);
        let mut script = String::new();
        for (outer, inner, mac) in [
            (INSIDE, "in0", inside.gateway_mac.to_string()),
            (OUTSIDE, "out0", outside.gateway_mac.to_string()),
        ] {
            script += &format!(
                "ip link add {outer} numtxqueues 1 numrxqueues 1 type veth peer name {inner} netns {NAMESPACE} \
                 numtxqueues 1 numrxqueues 1 address {mac}\n\
                 ip link set {outer} up\nip -n {NAMESPACE} link set {inner} up\n\
                 echo 1 > /sys/class/net/{outer}/queues/rx-0/rps_cpus\n\
                 sysctl -qw net.ipv6.conf.{outer}.disable_ipv6=1\n\
                 ip netns exec {NAMESPACE} sh -c 'echo {worker:x} > /sys/class/net/{inner}/queues/rx-0/rps_cpus'\n",
                worker = 1 << WORKER_CORE
            );
        }
        script += &format!(
            "ip -n {NAMESPACE} addr add 10.1.255.254/16 dev in0\n\
             ip -n {NAMESPACE} addr add 203.0.113.1/24 dev out0\n\
             ip -n {NAMESPACE} neigh add 203.0.113.2 lladdr {out} dev out0\n\
             ip -n {NAMESPACE} route add 198.51.100.0/24 via 203.0.113.2\n\
             ip netns exec {NAMESPACE} sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 \
             net.netfilter.nf_conntrack_udp_timeout=3600 net.netfilter.nf_conntrack_udp_timeout_stream=3600\n",
            out = outside.mac
        );
        run("sh", &["-eu"], &script)?;
        let rules = "table ip nat {\n chain post {\n type nat hook postrouting priority srcnat;\n\
                     oifname \"out0\" meta l4proto udp snat to 203.0.113.10-203.0.113.250:1024-65535\n }\n}\n";
        run("ip", &["netns", "exec", NAMESPACE, "nft", "-f", "-"], rules)?;
        // These are not a namespace's own.
        for name in ["nf_conntrack_max", "nf_conntrack_buckets"] {
            made.raised.extend(Raised::to(name, 2 * u64::from(profile.sessions))?);
        }
        Ok(made)
    }

    /// Seconds that the kernel has worked on the worker's core, and packets that have come out.
    ///
    /// By the scheduler's ticks, a hundredth of a second each.
    pub fn work(&self) -> Result<(f64, u64)> {
        let stat = std::fs::read_to_string("/proc/stat")?;
        let line = stat.lines().find_map(|line| line.strip_prefix(&format!("cpu{WORKER_CORE} ")));
        // proc_stat(5): user, nice, system, idle, iowait, irq, softirq.
        let ticks: Vec<u64> =
            line.unwrap_or_default().split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let [_, _, system, _, _, irq, softirq, ..] = ticks[..] else {
            bail!("/proc/stat has no core {WORKER_CORE}")
        };
        let out = std::fs::read_to_string(format!("/sys/class/net/{OUTSIDE}/statistics/rx_packets"))?;
        Ok(((system + irq + softirq) as f64 / 100.0, out.trim().parse()?))
    }

    /// Packets that the worker's core has received for all of the machine's interfaces, modulo 2^32.
    pub fn received_there() -> Result<u32> {
        let text = std::fs::read_to_string("/proc/net/softnet_stat")?;
        // Hexadecimal: packets first, the core thirteenth.
        let core = |line: &&str| {
            let number = line.split_whitespace().nth(12).map(|core| usize::from_str_radix(core, 16));
            number == Some(Ok(WORKER_CORE))
        };
        let packets = text.lines().find(core).and_then(|line| line.split_whitespace().next());
        let packets = packets.with_context(|| format!("/proc/net/softnet_stat has no core {WORKER_CORE}"))?;
        Ok(u32::from_str_radix(packets, 16)?)
    }

    /// What its connection tracker holds.
    pub fn connections(&self) -> Result<u64> {
        let text =
            output("ip", &["netns", "exec", NAMESPACE, "cat", "/proc/sys/net/netfilter/nf_conntrack_count"])?;
        text.trim().parse().with_context(|| text.clone())
    }
}

/// A setting of the connection tracker; as before when dropped.
struct Raised {
    file: PathBuf,
    before: String,
}

impl Raised {
    /// Raises it if it is below `least`.
    fn to(name: &str, least: u64) -> Result<Option<Self>> {
        let file = Path::new("/proc/sys/net/netfilter").join(name);
        let before = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        if before.trim().parse::<u64>().with_context(|| before.clone())? >= least {
            return Ok(None);
        }
        std::fs::write(&file, least.to_string()).with_context(|| format!("{least} to {}", file.display()))?;
        Ok(Some(Self { file, before }))
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        let _ = std::fs::write(&self.file, &self.before);
    }
}

impl Drop for Nftables {
    fn drop(&mut self) {
        // Takes the pairs with it.
        let _ = output("ip", &["netns", "del", NAMESPACE]);
    }
}

/// Runs a program with text on its standard input.
fn run(program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {program}"))?;
    child.stdin.take().context("standard input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    anyhow::ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
