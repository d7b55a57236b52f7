//! NUMA: the node that packets and sessions are on, and who reaches for them from another one.

use crate::config::{Config, Eal, LoadError, Problem, interface, is_pci};
use std::fmt;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// A machine as its sysfs shows it.
#[derive(Clone, Debug)]
pub struct Machine {
    sys: PathBuf,
}

/// CPUs as the kernel lists them: 0-3,8.
#[derive(Clone, Debug)]
pub struct Cpus(String);

impl Cpus {
    /// Whether this is one of them.
    pub fn contains(&self, cpu: u16) -> bool {
        ranges(&self.0).any(|range| range.contains(&cpu))
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn ranges(list: &str) -> impl Iterator<Item = RangeInclusive<u16>> {
    list.split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    })
}

/// The node that the configuration names is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "[eal]: numa = {node}: this machine has no memory there: write {}, or leave numa out",
    .nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
)]
pub struct NoNode {
    node: u16,
    nodes: Vec<u16>,
}

/// Somebody who reaches for packets and sessions on another node, which takes longer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Far {
    /// A worker.
    #[error(
        "[eal]: worker {lcore} is on NUMA node {node}, packets and sessions are on {memory}: \
         write workers of one node, and numa = {node} or nothing"
    )]
    Worker {
        /// Its lcore.
        lcore: u16,
        /// Its node.
        node: u16,
        /// That of packets and sessions.
        memory: u16,
    },
    /// A port.
    #[error(
        "[[port]] {name:?}: its device is on NUMA node {node}, packets and sessions are on {memory}: \
         write workers of node {node}, and numa = {node} or nothing"
    )]
    Port {
        /// Its name.
        name: String,
        /// Its device's node.
        node: u16,
        /// That of packets and sessions.
        memory: u16,
    },
}

impl NoNode {
    /// As what is wrong with `file`, at `line`.
    pub fn at(&self, file: &Path, line: usize) -> LoadError {
        LoadError::Problems(vec![Problem { file: file.to_owned(), line, message: self.to_string() }])
    }
}

impl Machine {
    /// The one this runs on.
    pub fn this() -> Self {
        Self { sys: "/sys".into() }
    }

    /// The node for packets and sessions: as configured, else the first worker's; None if that is not known or has no memory.
    pub fn memory(&self, eal: &Eal) -> Result<Option<u16>, NoNode> {
        let nodes = self.nodes();
        match eal.numa {
            Some(node) if !nodes.contains(&node) => Err(NoNode { node, nodes }),
            Some(node) => Ok(Some(node)),
            None => {
                let first = eal.workers.first().and_then(|lcore| self.of_cpu(*lcore));
                Ok(first.filter(|node| nodes.contains(node)))
            }
        }
    }

    /// CPUs that are online; None where sysfs does not tell.
    pub fn cpus(&self) -> Option<Cpus> {
        let list = fs::read_to_string(self.sys.join("devices/system/cpu/online")).ok()?;
        Some(Cpus(list.trim().to_owned()))
    }

    /// A CPU's node.
    pub fn of_cpu(&self, cpu: u16) -> Option<u16> {
        let entries = fs::read_dir(self.sys.join(format!("devices/system/cpu/cpu{cpu}"))).ok()?;
        let mut names = entries.flatten().map(|entry| entry.file_name());
        names.find_map(|name| name.to_str()?.strip_prefix("node")?.parse().ok())
    }

    /// The node of a PCI device, or of the interface that a virtual device takes.
    pub fn of_device(&self, device: &str) -> Option<u16> {
        let name = device.split(',').next()?;
        let file = if is_pci(name) {
            let domain = if name.len() == "00:00.0".len() { "0000:" } else { "" };
            let address = format!("{domain}{name}").to_ascii_lowercase();
            self.sys.join("bus/pci/devices").join(address).join("numa_node")
        } else {
            self.sys.join("class/net").join(interface(device)?).join("device/numa_node")
        };
        // -1 where the firmware does not tell.
        fs::read_to_string(file).ok()?.trim().parse().ok()
    }

    /// Those with memory.
    fn nodes(&self) -> Vec<u16> {
        let list = fs::read_to_string(self.sys.join("devices/system/node/has_memory"));
        let list = list.unwrap_or_else(|_| "0".to_owned());
        ranges(list.trim()).flatten().collect()
    }
}

/// All who are on another node than `memory`, by the nodes of lcores and of ports by position.
pub fn far(
    config: &Config,
    memory: u16,
    lcore_node: impl Fn(u16) -> Option<u16>,
    port_node: impl Fn(usize) -> Option<u16>,
) -> Vec<Far> {
    let elsewhere = |node: &u16| *node != memory;
    let workers = config.eal.workers.iter().filter_map(|lcore| {
        let node = lcore_node(*lcore).filter(elsewhere)?;
        Some(Far::Worker { lcore: *lcore, node, memory })
    });
    let ports = config.pipeline.ports.iter().enumerate().filter_map(|(position, port)| {
        let node = port_node(position).filter(elsewhere)?;
        Some(Far::Port { name: port.name.clone(), node, memory })
    });
    workers.chain(ports).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two nodes of two CPUs each, a third without memory; a NIC on the second.
    fn machine() -> (tempfile::TempDir, Machine) {
        let dir = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let file = dir.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        write("devices/system/node/has_memory", "0-1\n");
        for (cpu, node) in [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2)] {
            write(&format!("devices/system/cpu/cpu{cpu}/node{node}/x"), "");
            write(&format!("devices/system/cpu/cpu{cpu}/topology/x"), "");
        }
        write("bus/pci/devices/0000:3b:00.0/numa_node", "1\n");
        write("bus/pci/devices/0000:01:00.0/numa_node", "-1\n");
        write("class/net/eth1/device/numa_node", "0\n");
        let machine = Machine { sys: dir.path().to_owned() };
        (dir, machine)
    }

    fn config(eal: &str) -> Config {
        let text = format!(
            "[eal]\n{eal}\n[[port]]\nname = \"nic\"\ndevice = \"3B:00.0,arg=1\"\n[[port]]\nname = \"xdp\"\n\
             device = \"net_af_xdp0,queue_count=2,iface=eth1\"\n[[port]]\nname = \"kernel\"\ndevice = \"net_null0\"\n\
             [trap]\nport = \"kernel\"\nlocal_ip = \"169.254.10.1\"\nkernel_ip = \"169.254.10.2\"\n"
        );
        Config::parse(Path::new("x.toml"), &text).unwrap()
    }

    fn memory(machine: &Machine, eal: &str) -> Result<Option<u16>, NoNode> {
        machine.memory(&config(eal).eal)
    }

    fn found(machine: &Machine, eal: &str) -> Vec<Far> {
        let config = config(eal);
        let port = |position: usize| machine.of_device(&config.ports[position].device);
        let memory = machine.memory(&config.eal).unwrap().unwrap();
        far(&config, memory, |lcore| machine.of_cpu(lcore), port)
    }

    #[test]
    fn memory_is_the_first_workers_unless_configured() {
        let (_dir, machine) = machine();
        assert_eq!(memory(&machine, "workers = [1, 2]"), Ok(Some(0)));
        assert_eq!(memory(&machine, "workers = [2, 1]"), Ok(Some(1)));
        assert_eq!(memory(&machine, "workers = [2, 1]\nnuma = 0"), Ok(Some(0)));
        assert_eq!(memory(&machine, "workers = [4]"), Ok(None), "a node without memory");
        assert_eq!(memory(&machine, "workers = [9]"), Ok(None), "no such CPU");
        let error = memory(&machine, "numa = 7").unwrap_err();
        assert_eq!(
            error.at(Path::new("x.toml"), 2).to_string(),
            "x.toml:2: [eal]: numa = 7: this machine has no memory there: write 0 or 1, or leave numa out"
        );
        assert!(memory(&machine, "numa = 2").is_err());
    }

    #[test]
    fn who_is_far_is_named() {
        let (_dir, machine) = machine();
        let nic = |memory| Far::Port { name: "nic".to_owned(), node: 1, memory };
        let xdp = |memory| Far::Port { name: "xdp".to_owned(), node: 0, memory };
        assert_eq!(found(&machine, "workers = [1]"), [nic(0)]);
        assert_eq!(found(&machine, "workers = [2, 3]"), [xdp(1)]);
        let worker = Far::Worker { lcore: 1, node: 0, memory: 1 };
        assert_eq!(found(&machine, "workers = [2, 1]"), [worker, xdp(1)]);
        assert_eq!(
            found(&machine, "workers = [1]")[0].to_string(),
            "[[port]] \"nic\": its device is on NUMA node 1, packets and sessions are on 0: \
             write workers of node 1, and numa = 1 or nothing"
        );
    }

    #[test]
    fn devices_that_do_not_tell_are_nowhere() {
        let (_dir, machine) = machine();
        assert_eq!(machine.of_device("0000:3b:00.0"), Some(1));
        for device in
            ["01:00.0", "02:00.0", "net_null0", "net_vhost0,iface=/run/x.sock", "net_af_packet0,iface=eth9"]
        {
            assert_eq!(machine.of_device(device), None, "{device}");
        }
    }
}
