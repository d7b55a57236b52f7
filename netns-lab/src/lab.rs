//! The lab itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Uid;

use crate::cleanup;
use crate::command::{SETUP_LIMIT, need_program};
use crate::error::{Error, Result};
use crate::netns::Netns;
use crate::plan::{self, CARRIER_MTU, Encapsulation, HOSTS, Host, LIFS, Lif, TENANT_MTU, VNFS, Vnf, mac};
use crate::tagger::{Tagger, UPLINK_INDEX};

/// No IPv6 of its own on a namespace's interfaces, and no packet filter on its bridges.
const QUIET: [(&str, &str); 2] =
    [("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1")];
/// Addresses are usable at once; errors are answered at once.
const HOST: [(&str, &str); 4] = [
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv6/icmp/ratelimit", "0"),
];
const ROUTER: [(&str, &str); 6] = [
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
];

/// A lab that is up; dropping it takes it down.
#[derive(Debug)]
pub struct Lab {
    id: String,
    directory: PathBuf,
    // In the order they were made; removed in reverse.
    namespaces: Vec<Netns>,
    kept: bool,
}

impl Lab {
    /// Makes a lab that belongs to this process. Labs whose owners died are removed first.
    ///
    /// # Errors
    /// [`Error::NotRoot`], [`Error::Missing`] without clang, [`Error::Command`] from `ip`, `tc`, `nft` or `ethtool`.
    /// Nothing is left behind.
    pub fn up() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        need_root()?;
        need_programs()?;
        cleanup::remove_dead();
        let id = format!("{}{}", cleanup::owner(), COUNT.fetch_add(1, Ordering::Relaxed));
        Lab::build(id)
    }

    /// Makes a lab with a name, which stays until [`Lab::down`].
    ///
    /// # Errors
    /// As [`Lab::up`]; [`Error::BadName`], [`Error::Exists`].
    pub fn up_named(name: &str) -> Result<Self> {
        need_root()?;
        need_programs()?;
        check_name(name)?;
        if cleanup::labs().iter().any(|lab| lab == name) {
            return Err(Error::Exists(name.to_owned()));
        }
        let mut lab = Lab::build(name.to_owned())?;
        lab.kept = true;
        lab.namespaces.iter_mut().for_each(Netns::keep);
        Ok(lab)
    }

    /// A lab made by [`Lab::up_named`], in whatever process.
    ///
    /// # Errors
    /// [`Error::NoLab`].
    pub fn open(name: &str) -> Result<Self> {
        let names = cleanup::namespaces(name);
        if names.is_empty() {
            return Err(Error::NoLab(name.to_owned()));
        }
        let role = |full: &String| full.rsplit('-').next().unwrap_or_default().to_owned();
        let namespaces = names.iter().map(|full| Netns::open(full, &role(full))).collect();
        Ok(Lab { id: name.to_owned(), directory: cleanup::directory(name), namespaces, kept: true })
    }

    /// Takes down a lab made by [`Lab::up_named`], with every process in its namespaces.
    ///
    /// # Errors
    /// [`Error::NoLab`].
    pub fn down(name: &str) -> Result<()> {
        need_root()?;
        check_name(name)?;
        if !cleanup::labs().iter().any(|lab| lab == name) {
            return Err(Error::NoLab(name.to_owned()));
        }
        cleanup::remove(name);
        Ok(())
    }

    /// Its id: a name, or one that says which process it belongs to.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its directory, for configurations, sockets and logs. Removed with the lab.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// All its namespaces.
    pub fn namespaces(&self) -> &[Netns] {
        &self.namespaces
    }

    /// The namespace of `role`: `gw`, `kernel`, `fabric`, `vtep`, a host's name or a VNF's.
    ///
    /// # Errors
    /// [`Error::NoNamespace`].
    pub fn ns(&self, role: &str) -> Result<&Netns> {
        let found = self.namespaces.iter().find(|netns| netns.role() == role);
        found.ok_or_else(|| Error::NoNamespace(role.to_owned()))
    }

    /// Makes another namespace in the lab, set up as a host but without interfaces.
    ///
    /// # Errors
    /// As [`Lab::up`].
    pub fn add_host(&mut self, role: &str) -> Result<&Netns> {
        self.add(role, &HOST)?;
        self.ns(role)
    }

    /// Makes the namespace `collector`: a machine on the underlay, and by another interface behind the tenants' VTEP.
    ///
    /// # Errors
    /// As [`Lab::up`].
    pub fn add_collector(&mut self) -> Result<&Netns> {
        self.add("collector", &HOST)?;
        let (vtep, collector) = (self.ns("vtep")?, self.ns("collector")?);
        // What comes by one interface may have left from an address behind the other.
        collector.sysctl(&[("ipv4/conf/all/rp_filter", "0"), ("ipv4/conf/default/rp_filter", "0")])?;
        vtep.sysctl(&[("ipv4/ip_forward", "1")])?;
        let name = collector.name();
        vtep.ip(&format!(
            "link add near netns {name} link underlay mtu {CARRIER_MTU} type macvlan mode bridge"
        ))?;
        collector.ip(&format!("addr add {}/24 dev near", plan::COLLECTOR))?;
        collector.ip("link set near up")?;
        self.veth((vtep, "far", ""), (collector, "far", [2, 0, 0, 0, 9, 77]), CARRIER_MTU)?;
        let [a, b, c, _] = plan::FAR_COLLECTOR.octets();
        vtep.ip(&format!("addr add {a}.{b}.{c}.1/24 dev far"))?;
        collector.ip(&format!("addr add {}/24 dev far", plan::FAR_COLLECTOR))?;
        Ok(collector)
    }

    fn build(id: String) -> Result<Self> {
        let directory = cleanup::directory(&id);
        let mut lab = Lab { id, directory, namespaces: Vec::new(), kept: false };
        {
            let _alive = cleanup::gate();
            fs::create_dir_all(&lab.directory).map_err(Error::io(lab.directory.display().to_string()))?;
        }
        lab.make_namespaces()?;
        lab.make_links()?;
        lab.make_fabric()?;
        lab.make_kernel()?;
        for vnf in &VNFS {
            lab.make_vnf(vnf)?;
        }
        for host in &HOSTS {
            lab.make_host(host)?;
        }
        lab.wait_for_ports()?;
        Ok(lab)
    }

    fn add(&mut self, role: &str, sysctls: &[(&str, &str)]) -> Result<()> {
        self.namespaces.push(Netns::create(&self.id, role)?);
        self.ns(role)?.sysctl(sysctls)
    }

    fn make_namespaces(&mut self) -> Result<()> {
        for role in ["gw", "kernel", "fabric", "vtep"] {
            self.add(role, &QUIET)?;
        }
        for host in &HOSTS {
            self.add(host.name, &HOST)?;
        }
        for vnf in &VNFS {
            self.add(vnf.name, &HOST)?;
            self.ns(vnf.name)?.sysctl(&ROUTER)?;
        }
        Ok(())
    }

    /// The gateway's two links, with one queue each: AF_XDP sees only the queue it is bound to.
    fn make_links(&self) -> Result<()> {
        let (gw, fabric, kernel) = (self.ns("gw")?, self.ns("fabric")?, self.ns("kernel")?);
        let uplink = format!("index {UPLINK_INDEX}");
        self.veth((fabric, "up-fab", &uplink), (gw, "up-gw", plan::UPLINK_MAC), CARRIER_MTU)?;
        self.veth((gw, "trap-gw", ""), (kernel, "trap-k", plan::TRAP_KERNEL_MAC), CARRIER_MTU)?;
        gw.ip(&format!("link set trap-gw address {}", mac(plan::TRAP_GATEWAY_MAC)))?;
        kernel.ip(&format!("addr add {}/30 dev trap-k", plan::TRAP_KERNEL))?;
        Ok(())
    }

    /// The physical network: a segment per VLAN, and a VTEP on the underlay VLAN.
    fn make_fabric(&self) -> Result<()> {
        let tagger = Tagger::compile(&self.directory)?;
        let (fabric, vtep) = (self.ns("fabric")?, self.ns("vtep")?);
        tagger.attach_uplink(fabric, "up-fab")?;

        let index = format!("index {}", Tagger::index(plan::UNDERLAY_VLAN));
        self.veth((fabric, "underlay", &index), (vtep, "underlay", plan::UNDERLAY_VTEP_MAC), CARRIER_MTU)?;
        tagger.attach_vlan(fabric, "underlay")?;
        vtep.ip(&format!("addr add {}/24 dev underlay", plan::UNDERLAY_VTEP))?;

        for lif in &LIFS {
            match lif.encapsulation {
                Encapsulation::Vlan(vid) => {
                    let (device, port) = (format!("vlan{vid}"), format!("port{vid}"));
                    let index = format!("index {}", Tagger::index(vid));
                    bridge(fabric, lif.name)?;
                    self.veth(
                        (fabric, &device, &index),
                        (fabric, &port, [2, 0, 0, lif.id, 1, 0]),
                        TENANT_MTU,
                    )?;
                    tagger.attach_vlan(fabric, &device)?;
                    fabric.ip(&format!("link set {port} master {}", lif.name))?;
                }
                Encapsulation::Vni(vni) => {
                    bridge(vtep, lif.name)?;
                    let ends = (plan::UNDERLAY_VTEP, plan::UNDERLAY_GATEWAY);
                    vxlan(vtep, vni, "underlay", ends, lif.name)?;
                }
            }
        }
        Ok(())
    }

    /// The kernel behind the trap port: a bridge and a VTEP per LIF.
    fn make_kernel(&self) -> Result<()> {
        let kernel = self.ns("kernel")?;
        for lif in &LIFS {
            let name = format!("br{}", lif.trap_vni);
            bridge(kernel, &name)?;
            vxlan(kernel, lif.trap_vni, "trap-k", (plan::TRAP_KERNEL, plan::TRAP_GATEWAY), &name)?;
        }
        Ok(())
    }

    fn make_vnf(&self, vnf: &Vnf) -> Result<()> {
        let (netns, kernel) = (self.ns(vnf.name)?, self.ns("kernel")?);
        for (device, lif) in vnf.interfaces {
            self.veth((kernel, device, ""), (netns, device, vnf.mac(lif)), TENANT_MTU)?;
            kernel.ip(&format!("link set {device} master br{}", lif.trap_vni))?;
            address(netns, device, lif, vnf.number)?;
        }
        let rules = self.directory.join(format!("{}.nft", vnf.name));
        fs::write(&rules, vnf.ruleset).map_err(Error::io(rules.display().to_string()))?;
        netns.run(&["nft", "-f", &rules.to_string_lossy()], SETUP_LIMIT)?;
        // There once something in the namespace uses connection tracking.
        netns.sysctl(&[("netfilter/nf_conntrack_acct", "1")])
    }

    fn make_host(&self, host: &Host) -> Result<()> {
        let segment = match host.lif.encapsulation {
            Encapsulation::Vlan(_) => self.ns("fabric")?,
            Encapsulation::Vni(_) => self.ns("vtep")?,
        };
        let netns = self.ns(host.name)?;
        self.veth((segment, host.name, ""), (netns, "eth0", host.mac()), TENANT_MTU)?;
        segment.ip(&format!("link set {} master {}", host.name, host.lif.name))?;
        address(netns, "eth0", &host.lif, host.number)?;
        for vnf in &VNFS {
            for (_, to) in vnf.routes.iter().filter(|(from, _)| *from == host.lif) {
                let prefix = |text: String| if to.is_some() { text } else { "default".to_owned() };
                let to = to.unwrap_or(host.lif);
                let via = (host.lif.ipv4(vnf.number), host.lif.ipv6(vnf.number));
                netns.ip(&format!("route add {} via {}", prefix(format!("{}/24", to.ipv4(0))), via.0))?;
                netns.ip(&format!("-6 route add {} via {}", prefix(format!("{}/64", to.ipv6(0))), via.1))?;
            }
        }
        Ok(())
    }

    /// Waits until every bridge forwards on every port: the kernel looks at new links only now and then.
    fn wait_for_ports(&self) -> Result<()> {
        let end = Instant::now() + SETUP_LIMIT;
        for role in ["fabric", "vtep", "kernel"] {
            let netns = self.ns(role)?;
            loop {
                let links = netns.run(&["bridge", "link"], SETUP_LIMIT)?;
                let Some(port) = links.lines().find(|line| !line.contains("state forwarding")) else { break };
                if Instant::now() > end {
                    let detail = format!(": {port}");
                    return Err(Error::Timeout {
                        what: format!("bridges of {role}"),
                        limit: SETUP_LIMIT,
                        detail,
                    });
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    /// A veth pair, up, without offloads: (namespace, name, more arguments) and (namespace, name, MAC).
    fn veth(&self, one: (&Netns, &str, &str), two: (&Netns, &str, [u8; 6]), mtu: u16) -> Result<()> {
        let queues = "numtxqueues 1 numrxqueues 1";
        one.0.ip(&format!(
            "link add {} {} mtu {mtu} {queues} type veth peer name {} netns {} address {} mtu {mtu} {queues}",
            one.1,
            one.2,
            two.1,
            two.0.name(),
            mac(two.2),
        ))?;
        for (netns, device) in [(one.0, one.1), (two.0, two.1)] {
            netns.no_offloads(device)?;
            netns.ip(&format!("link set {device} up"))?;
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        while let Some(netns) = self.namespaces.pop() {
            drop(netns);
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn need_root() -> Result<()> {
    if Uid::effective().is_root() { Ok(()) } else { Err(Error::NotRoot) }
}

fn need_programs() -> Result<()> {
    let needed = [("ip", "iproute2"), ("tc", "iproute2"), ("ethtool", "ethtool"), ("nft", "nftables")];
    needed.iter().try_for_each(|(program, package)| need_program(program, package))
}

fn check_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
    if starts && name.len() <= 16 && name.chars().all(good) {
        Ok(())
    } else {
        Err(Error::BadName(name.to_owned()))
    }
}

/// A bridge that forwards at once and asks nobody anything.
fn bridge(netns: &Netns, name: &str) -> Result<()> {
    netns.ip(&format!("link add {name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"))?;
    // Bridged frames are none of the packet filter's business.
    if netns.enter(|| Path::new("/proc/sys/net/bridge").exists())? {
        netns.sysctl(&[("bridge/bridge-nf-call-iptables", "0"), ("bridge/bridge-nf-call-ip6tables", "0")])?;
    }
    netns.ip(&format!("link set {name} up"))?;
    Ok(())
}

/// A VTEP of one VNI with one remote, as a port of `bridge`.
fn vxlan(
    netns: &Netns,
    vni: u32,
    device: &str,
    ends: (std::net::Ipv4Addr, std::net::Ipv4Addr),
    bridge: &str,
) -> Result<()> {
    let (local, remote) = ends;
    netns.ip(&format!(
        "link add vx{vni} mtu {TENANT_MTU} type vxlan id {vni} dev {device} local {local} remote {remote} dstport 4789 \
         nolearning noudpcsum"
    ))?;
    netns.ip(&format!("link set vx{vni} master {bridge} up"))?;
    Ok(())
}

fn address(netns: &Netns, device: &str, lif: &Lif, number: u8) -> Result<()> {
    netns.ip(&format!("addr add {}/24 dev {device}", lif.ipv4(number)))?;
    netns.ip(&format!("addr add {}/64 dev {device} nodad", lif.ipv6(number)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_fit_for_namespaces() {
        for good in ["lab", "a", "lab0"] {
            check_name(good).unwrap();
        }
        for bad in ["", "0lab", "Lab", "a-b", "../x", "abcdefghijklmnopq"] {
            assert!(matches!(check_name(bad), Err(Error::BadName(_))), "{bad}");
        }
    }
}
