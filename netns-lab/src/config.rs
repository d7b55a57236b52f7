//! Configurations of the gateway and the agents for a lab.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::plan::{self, Encapsulation, LIFS, VNFS, Vnf, mac};

/// What a test may want to differ in the gateway's configuration.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// lcores of the workers.
    pub workers: Vec<u16>,
    /// lcore of everything else.
    pub main_lcore: u16,
    /// Further EAL arguments.
    pub eal_args: Vec<&'static str>,
    /// Microseconds that an idle worker sleeps, for workers that share a core.
    pub idle_sleep_us: u32,
    /// The uplink's device.
    pub uplink: &'static str,
    /// The trap port's device.
    pub trap: &'static str,
    /// Whether memory comes from hugepages.
    pub hugepages: bool,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Sessions the table holds.
    pub capacity: u64,
    /// Default idle timeouts in seconds: TCP, UDP, ICMP, other.
    pub timeouts: [u32; 4],
    /// Trapped packets per second and LIF: ARP and ND, new, TCP control, exceptions.
    pub limits: [u32; 4],
    /// Whether the neighbours on the underlay and the trap link are given, rather than asked for.
    pub static_neighbors: bool,
    /// More lines for `[underlay]`, each with its end.
    pub underlay: &'static str,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        let memory_mib = 512;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        GatewayConfig {
            workers: vec![u16::from(cores > 1)],
            main_lcore: 0,
            eal_args: Vec::new(),
            idle_sleep_us: 0,
            uplink: "net_af_xdp0,iface=up-gw",
            trap: "net_af_packet0,iface=trap-gw",
            hugepages: free_hugepages_mib() >= u64::from(memory_mib),
            memory_mib,
            capacity: 65_536,
            timeouts: [7440, 300, 60, 60],
            limits: [1000, 100_000, 100_000, 1000],
            static_neighbors: false,
            underlay: "",
        }
    }
}

impl GatewayConfig {
    /// Two workers with a queue each of both ports; the second shares the core of everything else.
    pub fn two_workers() -> Self {
        GatewayConfig {
            workers: vec![1, 2],
            eal_args: vec!["--lcores=0@0,1@1,2@0"],
            idle_sleep_us: 100,
            uplink: "net_af_packet1,iface=up-gw,qpairs=2",
            trap: "net_af_packet0,iface=trap-gw,qpairs=2",
            ..GatewayConfig::default()
        }
    }

    /// The gateway's configuration file for `lab`.
    pub fn toml(&self, lab: &Lab) -> String {
        let mut text = String::new();
        let [tcp, udp, icmp, other] = self.timeouts;
        let [arp_nd, new, tcp_control, exception] = self.limits;
        let neighbors = match self.static_neighbors {
            true => format!(
                "neighbors = [{{ ip = \"{}\", mac = \"{}\" }}]\n",
                plan::UNDERLAY_VTEP,
                mac(plan::UNDERLAY_VTEP_MAC)
            ),
            false => String::new(),
        };
        let kernel_mac = match self.static_neighbors {
            true => format!("kernel_mac = \"{}\"\n", mac(plan::TRAP_KERNEL_MAC)),
            false => String::new(),
        };
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "[eal]\n\
             workers = {workers:?}\n\
             main_lcore = {main_lcore}\n\
             hugepages = {hugepages}\n\
             memory_mib = {memory_mib}\n\
             idle_sleep_us = {idle_sleep_us}\n\n\
             [[port]]\n\
             name = \"uplink\"\n\
             device = \"{uplink}\"\n\
             mtu = {mtu}\n\n\
             [[port]]\n\
             name = \"kernel\"\n\
             device = \"{trap}\"\n\
             mtu = {mtu}\n\n\
             [underlay]\n\
             port = \"uplink\"\n\
             vlan = {vlan}\n\
             local_ip = \"{underlay}\"\n\
             udp_port = 4789\n\
             {neighbors}{more}\n",
            workers = self.workers,
            main_lcore = self.main_lcore,
            hugepages = self.hugepages,
            memory_mib = self.memory_mib,
            idle_sleep_us = self.idle_sleep_us,
            uplink = self.uplink,
            trap = self.trap,
            mtu = plan::CARRIER_MTU,
            vlan = plan::UNDERLAY_VLAN,
            underlay = plan::UNDERLAY_GATEWAY,
            more = self.underlay,
        );
        for lif in &LIFS {
            let encapsulation = match lif.encapsulation {
                Encapsulation::Vlan(vid) => format!("vlan = {vid}"),
                Encapsulation::Vni(vni) => format!("vni = {vni}\nvteps = [\"{}\"]", plan::UNDERLAY_VTEP),
            };
            let _ = write!(
                text,
                "[[lif]]\nid = {}\nname = \"{}\"\nport = \"uplink\"\n{encapsulation}\ntrap_vni = {}\nmtu = {}\n\n",
                lif.id,
                lif.name,
                lif.trap_vni,
                plan::TENANT_MTU,
            );
        }
        let _ = write!(
            text,
            "[trap]\n\
             port = \"kernel\"\n\
             local_ip = \"{local}\"\n\
             kernel_ip = \"{kernel}\"\n\
             {kernel_mac}\
             udp_port = 4789\n\
             limits = {{ arp_nd = {arp_nd}, new = {new}, tcp_control = {tcp_control}, exception = {exception} }}\n\n\
             [sessions]\n\
             capacity = {capacity}\n\
             timeout = {{ tcp = {tcp}, udp = {udp}, icmp = {icmp}, other = {other} }}\n\n\
             [control]\n\
             listen = [\"{endpoint}\"]\n",
            local = plan::TRAP_GATEWAY,
            kernel = plan::TRAP_KERNEL,
            capacity = self.capacity,
            endpoint = endpoint(lab),
        );
        text
    }

    /// Writes the gateway's configuration into the lab's directory.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, lab: &Lab) -> Result<PathBuf> {
        write(&lab.directory().join("gateway.toml"), &self.toml(lab))
    }
}

/// Where the lab's gateway serves its control interface.
pub fn endpoint(lab: &Lab) -> String {
    format!("unix:{}", lab.directory().join("gateway.sock").display())
}

/// What a test may want to differ in an agent's configuration.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Protocols to offload, by name.
    pub protocols: Vec<&'static str>,
    /// How often the kernel's entries of live sessions are kept from expiring, in seconds.
    pub refresh_seconds: u32,
}

impl Default for AgentConfig {
    fn default() -> Self {
        AgentConfig { protocols: vec!["tcp", "udp"], refresh_seconds: 2 }
    }
}

impl AgentConfig {
    /// The configuration file of the agent beside `vnf`.
    pub fn toml(&self, lab: &Lab, vnf: &Vnf) -> String {
        // Agents of one gateway number their sessions apart.
        let tag = 1 + VNFS.iter().position(|other| other.name == vnf.name).unwrap_or(VNFS.len());
        let mut text = format!(
            "[gateway]\nconnect = \"{}\"\n\n\
             [offload]\nprotocols = {:?}\nsession_tag = {tag}\nrefresh_seconds = {}\nresync_seconds = 5\n",
            endpoint(lab),
            self.protocols,
            self.refresh_seconds,
        );
        for (device, lif) in vnf.interfaces {
            let _ = write!(text, "\n[[interface]]\nname = \"{device}\"\nlif = {}\n", lif.id);
        }
        text
    }

    /// Writes the configuration of the agent beside `vnf` into the lab's directory.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, lab: &Lab, vnf: &Vnf) -> Result<PathBuf> {
        write(&lab.directory().join(format!("agent-{}.toml", vnf.name)), &self.toml(lab, vnf))
    }
}

fn write(path: &Path, text: &str) -> Result<PathBuf> {
    fs::write(path, text).map_err(Error::io(format!("write {}", path.display())))?;
    Ok(path.to_owned())
}

/// Free memory in hugepages of 2 MiB.
fn free_hugepages_mib() -> u64 {
    let free =
        fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").unwrap_or_default();
    free.trim().parse::<u64>().unwrap_or(0) * 2
}
