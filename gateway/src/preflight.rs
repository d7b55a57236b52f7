//! What is wrong only where the gateway runs: a file may be for another machine, and `gateway replay` opens no device.

use crate::config::{Config, Problem, is_pci};
use crate::numa::Machine;
use pipeline::PortIndex;
use pipeline::config::Encapsulation;
use std::net::IpAddr;
use std::path::Path;

/// Outer IPv4 and UDP headers, VXLAN's, and the inner Ethernet header.
const VXLAN_V4: u32 = 20 + 8 + 8 + 14;
/// The same with IPv6 outside.
const VXLAN_V6: u32 = VXLAN_V4 + 20;
/// How the names of DPDK's virtual Ethernet devices begin; the last are the old ones.
const VDEVS: [&str; 3] = ["net_", "virtio_user", "eth_"];

/// What `gateway run` could not start with here. `lcores` says if they are those of the file.
pub fn refused(config: &Config, file: &Path, machine: &Machine, lcores: bool) -> Vec<Problem> {
    let mut problems = devices(config, file);
    if lcores {
        problems.extend(missing_cpus(config, file, machine));
    }
    problems.sort_by_key(|problem| problem.line);
    problems
}

fn devices(config: &Config, file: &Path) -> Vec<Problem> {
    let ports = config.ports.iter().zip(&config.pipeline.ports).zip(&config.lines.ports);
    let strange = ports.filter_map(|((port, named), at)| {
        let name = port.device.split(',').next().unwrap_or_default();
        let known = is_pci(name) || VDEVS.iter().any(|start| name.starts_with(start));
        let message = format!(
            "[[port]] {:?}: device = {:?} is no DPDK device: write a PCI address, or \"net_af_xdp0,iface={name}\" \
             if it is an interface of the kernel's",
            named.name, port.device
        );
        (!known).then(|| Problem { file: file.to_owned(), line: at.device, message })
    });
    strange.collect()
}

fn missing_cpus(config: &Config, file: &Path, machine: &Machine) -> Vec<Problem> {
    let Some(cpus) = machine.cpus() else { return Vec::new() };
    let (eal, lines) = (&config.eal, &config.lines);
    let main = ("main_lcore", eal.main_lcore, lines.main_lcore);
    let workers = eal.workers.iter().zip(&lines.workers).map(|(lcore, line)| ("workers", *lcore, *line));
    let missing = workers.chain([main]).filter(|(_, lcore, _)| !cpus.contains(*lcore));
    let problem = |(key, lcore, line): (_, _, usize)| Problem {
        file: file.to_owned(),
        line,
        message: format!("[eal] {key}: this machine has no CPU {lcore}: write lcores of {cpus}"),
    };
    missing.map(problem).collect()
}

/// Ports whose configured MTU is too small for what LIFs send there.
pub fn small_mtus(config: &Config, file: &Path) -> Vec<Problem> {
    let ports = config.ports.iter().zip(&config.lines.ports).enumerate();
    let small = ports.filter_map(|(position, (port, at))| {
        let (least, lif) = least_mtu(config, PortIndex(u8::try_from(position).ok()?))?;
        let mtu = port.mtu.filter(|mtu| u32::from(*mtu) < least)?;
        let message = format!(
            "[[port]] {:?}: mtu = {mtu} is too small for the packets of LIF {lif:?} and the tunnel around them: \
             write {least} or more, or a smaller mtu for the LIF",
            config.pipeline.ports.get(position)?.name
        );
        Some(Problem { file: file.to_owned(), line: at.mtu, message })
    });
    small.collect()
}

/// What the LIF with the largest packets on this port needs, and its name.
fn least_mtu(config: &Config, port: PortIndex) -> Option<(u32, &str)> {
    let pipeline = &config.pipeline;
    let outer = pipeline.underlay.as_ref().map_or(VXLAN_V4, |underlay| match underlay.local_ip {
        IpAddr::V4(_) => VXLAN_V4,
        IpAddr::V6(_) => VXLAN_V6,
    });
    let lifs = pipeline.lifs.iter().filter_map(|lif| {
        let tunnel = match lif.encapsulation {
            _ if port == pipeline.trap.port => VXLAN_V4,
            _ if port != lif.port => return None,
            Encapsulation::Vxlan(_) => outer,
            Encapsulation::Vlan(_) | Encapsulation::Untagged => 0,
        };
        Some((u32::from(lif.mtu) + tunnel, lif.name.as_str()))
    });
    lifs.max_by_key(|(least, _)| *least)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(from: &str, to: &str) -> Config {
        let good = include_str!("../tests/good.toml");
        assert_eq!(good.matches(from).count(), 1, "{from}");
        Config::parse(Path::new("x.toml"), &good.replace(from, to)).unwrap()
    }

    fn shown(problems: &[Problem]) -> Vec<String> {
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_tunnel_has_room() {
        let found = |from: &str, to: &str| shown(&small_mtus(&config(from, to), Path::new("x.toml")));
        let small = |mtu: u16, least: u16| {
            format!(
                "x.toml:10: [[port]] \"uplink\": mtu = {mtu} is too small for the packets of LIF \"blue\" and the \
                 tunnel around them: write {least} or more, or a smaller mtu for the LIF"
            )
        };
        assert_eq!(found("mtu = 1600", "mtu = 1550"), [""; 0]);
        assert_eq!(found("mtu = 1600", "mtu = 1549"), [small(1549, 1550)]);
        assert_eq!(found("vni = 2000", "vni = 2000\nmtu = 9000"), [small(1600, 9050)]);
        let v6 = "local_ip = \"2001:db8::1\"\nneighbors = []";
        let good = include_str!("../tests/good.toml").replace("mtu = 1600", "mtu = 1569");
        let (start, rest) = good.split_once("local_ip = \"192.0.2.1\"").unwrap();
        let rest = rest.split_once("[[lif]]").unwrap().1.replace("vteps = [\"192.0.2.9\"]", "");
        let text = format!("{start}{v6}\n[[lif]]{rest}");
        let config = Config::parse(Path::new("x.toml"), &text).unwrap();
        assert_eq!(shown(&small_mtus(&config, Path::new("x.toml"))), [small(1569, 1570)]);
    }

    #[test]
    fn the_other_ports_have_room() {
        let found = |from: &str, to: &str| shown(&small_mtus(&config(from, to), Path::new("x.toml")));
        let trap = "device = \"net_af_packet0,iface=trap-gw\"";
        assert_eq!(found(trap, &format!("{trap}\nmtu = 1550")), [""; 0]);
        let small = found(trap, &format!("{trap}\nmtu = 1549"));
        assert!(
            matches!(&small[..], [only] if only.contains("14: [[port]] \"kernel\": mtu = 1549")),
            "{small:?}"
        );
        let jumbo = found("mtu = 1500", "mtu = 1601");
        assert!(
            matches!(&jumbo[..], [only] if only.contains("\"red\"") && only.contains("1601")),
            "{jumbo:?}"
        );
    }

    #[test]
    fn devices_that_are_none() {
        let found = |device: &str| {
            let config = config("net_af_xdp0,iface=up-gw", device);
            shown(&devices(&config, Path::new("x.toml")))
        };
        for device in ["0000:01:00.0", "3b:00.0,arg=1", "net_memif0,role=server", "virtio_user0", "net_tap1"]
        {
            assert_eq!(found(device), [""; 0]);
        }
        assert_eq!(
            found("eth1"),
            ["x.toml:9: [[port]] \"uplink\": device = \"eth1\" is no DPDK device: write a PCI address, or \
              \"net_af_xdp0,iface=eth1\" if it is an interface of the kernel's"]
        );
    }
}
