//! Each section of the configuration. A value that is wrong is noted and replaced by a harmless one, so that what follows
//! can be checked as well; nothing made from such a file is ever used.

use super::document::{At, Problems, Section};
use super::{Config, Control, Eal, Log, Port, Sessions, Tls, rules};
use super::{activation, value};
use conntrack::table::{MAX_CAPACITY, Timeouts};
use control::Endpoint;
use pipeline::PortIndex;
use pipeline::config::{Encapsulation, Lif, Route, StaticNeighbor, Trap, TrapLimits, Underlay};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

/// Where things stand, for rules that look at several of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines {
    pub(crate) workers: Vec<usize>,
    pub(crate) main_lcore: usize,
    pub(crate) numa: usize,
    pub(crate) ports: Vec<PortLines>,
    pub(super) underlay: usize,
    pub(super) neighbors: Vec<usize>,
    pub(super) routes: Vec<usize>,
    pub(super) lifs: Vec<LifLines>,
    pub(super) trap: usize,
    pub(super) listen: Vec<usize>,
    pub(super) plaintext: usize,
    pub(super) admins: usize,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct PortLines {
    pub(super) name: usize,
    pub(crate) device: usize,
    pub(crate) mtu: usize,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct LifLines {
    pub(super) id: usize,
    pub(super) name: usize,
    pub(super) encapsulation: usize,
    pub(super) trap_vni: usize,
    pub(super) mtu: usize,
    pub(super) vteps: Vec<usize>,
}

const VNI: std::ops::RangeInclusive<i64> = 1..=0xff_ffff;
const VXLAN_PORT: u16 = 4789;

/// In the place of a port that is missing or unknown.
pub(super) const NO_PORT: PortIndex = PortIndex(u8::MAX);

/// The whole file.
pub(super) fn config(root: &Section<'_>, file: &Path, problems: &Problems) -> Option<Config> {
    let mut lines = Lines::default();
    let eal = eal(root, &mut lines);
    let (ports, pipeline_ports) = ports(root, &mut lines, problems);
    let names = pipeline_ports.iter().map(|port| port.name.as_str()).collect::<Vec<_>>();
    let underlay = underlay(root, &names, &mut lines);
    let lifs = lifs(root, &names, &mut lines, problems);
    let trap = trap(root, &names, &mut lines, problems);
    let sessions = sessions(root);
    let control = control(root, file, &mut lines);
    let activation = activation::activation(root, file, &sessions, problems);
    let log = log(root);
    let pipeline = pipeline::Config { ports: pipeline_ports, underlay, lifs, trap };
    let config = Config { eal, ports, pipeline, sessions, control, activation, log, lines };
    rules::check(&config, root, &config.lines, problems);
    Some(config)
}

fn take<T>(at: Option<At<T>>, line: &mut usize) -> Option<T> {
    at.map(|at| {
        *line = at.line;
        at.value
    })
}

fn value_or<T>(at: Option<At<T>>, default: T) -> T {
    at.map_or(default, |at| at.value)
}

fn eal(root: &Section<'_>, lines: &mut Lines) -> Eal {
    const LCORE: &str = "an lcore from 0 to 1023";
    let mut eal = Eal {
        workers: vec![1],
        main_lcore: 0,
        hugepages: true,
        memory_mib: 512,
        idle_sleep_us: 0,
        numa: None,
    };
    (lines.main_lcore, lines.workers) = (1, vec![1]);
    let Some(section) = root.table("eal", "[eal]") else { return eal };
    lines.main_lcore = section.line;
    lines.workers = vec![section.line];
    if let Some(workers) = section.list("workers", LCORE, false, value::integer(0..=1023)) {
        lines.workers = workers.iter().map(|at| at.line).collect();
        eal.workers = workers.into_iter().map(|at| at.value).collect();
    }
    let main = section.optional("main_lcore", LCORE, value::integer(0..=1023));
    eal.main_lcore = take(main, &mut lines.main_lcore).unwrap_or(0);
    eal.hugepages = value_or(section.optional("hugepages", "true or false", value::boolean), true);
    let mib = section.optional("memory_mib", "MiB from 64 to 1048576", value::integer(64..=1_048_576));
    eal.memory_mib = value_or(mib, 512);
    let sleep = section.optional("idle_sleep_us", "microseconds from 0 to 10000", value::integer(0..=10_000));
    eal.idle_sleep_us = value_or(sleep, 0);
    // Those that DPDK knows (RTE_MAX_NUMA_NODES).
    let numa = section.optional("numa", "a NUMA node from 0 to 31", value::integer(0..=31));
    eal.numa = take(numa, &mut lines.numa);
    section.finish();
    eal
}

fn ports(
    root: &Section<'_>,
    lines: &mut Lines,
    problems: &Problems,
) -> (Vec<Port>, Vec<pipeline::config::Port>) {
    const DESCRIPTORS: &str = "a power of two from 256 to 4096";
    const DEFAULT_DESCRIPTORS: u16 = 1024;
    let sections = root.tables("port", "[[port]]", "[[port]]");
    if sections.is_empty() && !root.has("port") {
        problems.rule(1, "no port: write [[port]] with name = \"uplink\" and device = \"…\"");
    }
    let (mut ports, mut pipeline_ports) = (Vec::new(), Vec::new());
    for (position, mut section) in sections.into_iter().enumerate() {
        let mut at = PortLines { name: section.line, device: section.line, mtu: section.line };
        let name = take(section.required("name", value::NAME, value::name), &mut at.name);
        if let Some(name) = &name {
            section.title = format!("[[port]] {name:?}");
        }
        let device = take(section.required("device", value::DEVICE, value::device), &mut at.device);
        let mtu = section.optional("mtu", "bytes from 68 to 65535", value::integer(68..=65535));
        let mtu = take(mtu, &mut at.mtu);
        let mac = section.optional("mac", value::MAC, value::mac).map(|at| at.value);
        let power = |n: &u16| n.is_power_of_two();
        // At least twice `pipeline::PORT_BURST`, so that what is handed over at once finds room.
        let descriptors = |v: &_| value::integer(256..=4096)(v).filter(power);
        let rx = section.optional("rx_descriptors", DESCRIPTORS, descriptors);
        let tx = section.optional("tx_descriptors", DESCRIPTORS, descriptors);
        section.finish();
        lines.ports.push(at);
        ports.push(Port {
            device: device.unwrap_or_default(),
            mtu,
            mac,
            rx_descriptors: value_or(rx, DEFAULT_DESCRIPTORS),
            tx_descriptors: value_or(tx, DEFAULT_DESCRIPTORS),
        });
        let mac = mac.unwrap_or_else(|| default_mac(position));
        pipeline_ports.push(pipeline::config::Port { name: name.unwrap_or_default(), mac });
    }
    (ports, pipeline_ports)
}

/// 02:00:00:00:00:01 plus `position`.
fn default_mac(position: usize) -> [u8; 6] {
    let [.., a, b] = (position as u64 + 1).to_be_bytes();
    [2, 0, 0, 0, a, b]
}

/// The port a `port` key names.
fn port(section: &Section<'_>, names: &[&str]) -> Option<PortIndex> {
    let named = names.iter().filter(|name| !name.is_empty());
    let quoted = named.map(|name| format!("{name:?}")).collect::<Vec<_>>().join(" or ");
    let expected = if quoted.is_empty() { "the name of a [[port]]".to_owned() } else { quoted };
    let find = |value: &toml::de::DeValue<'_>| {
        let wanted = value.as_str().filter(|wanted| !wanted.is_empty())?;
        let position = names.iter().position(|name| *name == wanted)?;
        u8::try_from(position).ok().map(PortIndex)
    };
    section.required("port", &expected, find).map(|at| at.value)
}

fn udp_port(section: &Section<'_>) -> u16 {
    value_or(section.optional("udp_port", "a port from 1 to 65535", value::integer(1..=65535)), VXLAN_PORT)
}

fn underlay(root: &Section<'_>, names: &[&str], lines: &mut Lines) -> Option<Underlay> {
    let section = root.table("underlay", "[underlay]")?;
    lines.underlay = section.line;
    let port = port(&section, names);
    let vlan = section.optional("vlan", "a VLAN from 1 to 4094, or 0 for untagged", value::integer(0..=4094));
    let local_ip = section.required("local_ip", "\"IP\", the gateway's VTEP address", value::ip);
    let udp_port = udp_port(&section);
    let mut neighbors = Vec::new();
    for neighbor in section.tables("neighbors", "[underlay] neighbors", "[{ ip = \"…\", mac = \"…\" }]") {
        let ip = neighbor.required("ip", "\"IP\" of the neighbour", value::ip);
        let mac = neighbor.required("mac", value::MAC, value::mac);
        if let Some(ip) = ip {
            lines.neighbors.push(ip.line);
            neighbors.push(StaticNeighbor { ip: ip.value, mac: value_or(mac, [0; 6]) });
        }
        neighbor.finish();
    }
    let routes = routes(&section, lines);
    let copies = "packets per second and LIF from 0 to 4294967295";
    let copies = section.optional("copies", copies, value::integer(0..=i64::from(u32::MAX)));
    section.finish();
    Some(Underlay {
        port: port.unwrap_or(NO_PORT),
        vlan: value_or(vlan, 0),
        local_ip: value_or(local_ip, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        udp_port,
        neighbors,
        routes,
        copies: value_or(copies, 100_000),
    })
}

fn routes(underlay: &Section<'_>, lines: &mut Lines) -> Vec<Route> {
    let mut routes = Vec::new();
    for route in underlay.tables("routes", "[underlay] routes", "[{ to = \"IP/LENGTH\", via = \"IP\" }]") {
        let to = route.required("to", "\"IP/LENGTH\", such as \"10.9.0.0/16\"", value::prefix);
        let via = route.required("via", "\"IP\" of a router on the underlay's link", value::ip);
        if let (Some(to), Some(via)) = (to, via) {
            lines.routes.push(to.line);
            let (At { value: (to, prefix), .. }, via) = (to, via.value);
            routes.push(Route { to, prefix, via });
        }
        route.finish();
    }
    routes
}

fn lifs(root: &Section<'_>, names: &[&str], lines: &mut Lines, problems: &Problems) -> Vec<Lif> {
    let mut lifs = Vec::new();
    for (position, section) in (0..).zip(root.tables("lif", "[[lif]]", "[[lif]]")) {
        let (lif, at) = lif(position, section, names, problems);
        lines.lifs.push(at);
        lifs.push(lif);
    }
    lifs
}

/// What is missing or wrong is replaced by what no other LIF can have, so that the rest still takes part in the rules.
fn lif(position: u32, mut section: Section<'_>, names: &[&str], problems: &Problems) -> (Lif, LifLines) {
    let line = section.line;
    let mut at =
        LifLines { id: line, name: line, encapsulation: line, trap_vni: line, mtu: line, vteps: vec![] };
    let name = take(section.required("name", value::NAME, value::name), &mut at.name);
    if let Some(name) = &name {
        section.title = format!("[[lif]] {name:?}");
    }
    let id = section.required("id", "a number from 1 to 2147483647", value::integer(1..=i64::from(i32::MAX)));
    let id = take(id, &mut at.id);
    let port = port(&section, names);
    let encapsulation = encapsulation(&section, &mut at.encapsulation, problems);
    at.trap_vni = at.encapsulation;
    const TRAP_VNI: &str = "a VNI from 1 to 16777215, the one the kernel sees";
    let own_vni = match encapsulation {
        Some(Encapsulation::Vxlan(vni)) => Some(vni),
        _ => None,
    };
    let given = match section.has("vni") {
        true => section.optional("trap_vni", TRAP_VNI, value::integer(VNI)),
        false => section.required("trap_vni", TRAP_VNI, value::integer(VNI)),
    };
    let trap_vni = take(given, &mut at.trap_vni).or(own_vni);
    let mtu = section.optional("mtu", "bytes from 68 to 9216", value::integer(68..=9216));
    let mtu = take(mtu, &mut at.mtu).unwrap_or(1500);
    let vteps = section.list("vteps", "\"IP\" of a VTEP", true, value::ip).unwrap_or_default();
    at.vteps = vteps.iter().map(|vtep| vtep.line).collect();
    if let (Some(Encapsulation::Vlan(_) | Encapsulation::Untagged), Some(line)) =
        (encapsulation, at.vteps.first())
    {
        let message = format!("{}: vteps is for VXLAN LIFs: leave it out, or write vni = N", section.title);
        problems.rule(*line, message);
    }
    section.finish();
    let vteps = vteps.into_iter().map(|vtep| vtep.value).collect();
    let lif = Lif {
        id: id.unwrap_or(u32::MAX - position),
        name: name.unwrap_or_else(|| format!("number {}", position + 1)),
        port: port.unwrap_or(NO_PORT),
        encapsulation: encapsulation.unwrap_or(Encapsulation::Vlan(u16::MAX - position as u16)),
        trap_vni: trap_vni.unwrap_or(u32::MAX - position),
        mtu,
        vteps,
    };
    (lif, at)
}

fn encapsulation(section: &Section<'_>, line: &mut usize, problems: &Problems) -> Option<Encapsulation> {
    const ONE: &str = "exactly one of vlan = N, vni = N, untagged = true";
    let vlan = section.optional("vlan", "a VLAN from 1 to 4094", value::integer(1..=4094));
    let vni = section.optional("vni", "a VNI from 1 to 16777215", value::integer(VNI));
    let only_true = |value: &_| value::boolean(value).filter(|untagged| *untagged);
    let untagged = section.optional("untagged", "untagged = true, or leave it out", only_true);
    match ["vlan", "vni", "untagged"].iter().filter(|key| section.has(key)).count() {
        0 => problems.rule(section.line, format!("{}: encapsulation is missing: write {ONE}", section.title)),
        1 => {}
        _ => {
            let at = [
                vlan.as_ref().map(|at| at.line),
                vni.as_ref().map(|at| at.line),
                untagged.as_ref().map(|at| at.line),
            ];
            let last = at.into_iter().flatten().max().unwrap_or(section.line);
            problems.rule(last, format!("{}: more than one encapsulation: write {ONE}", section.title));
        }
    }
    let vlan = vlan.map(|at| At { value: Encapsulation::Vlan(at.value), line: at.line });
    let vni = vni.map(|at| At { value: Encapsulation::Vxlan(at.value), line: at.line });
    let untagged = untagged.map(|at| At { value: Encapsulation::Untagged, line: at.line });
    take(vlan.or(vni).or(untagged), line)
}

fn trap(root: &Section<'_>, names: &[&str], lines: &mut Lines, problems: &Problems) -> Trap {
    let defaults = TrapLimits { arp_nd: 1000, new: 100_000, tcp_control: 100_000, exception: 1000 };
    let mut trap = Trap {
        port: NO_PORT,
        local_ip: Ipv4Addr::UNSPECIFIED,
        kernel_ip: Ipv4Addr::UNSPECIFIED,
        kernel_mac: None,
        udp_port: VXLAN_PORT,
        limits: defaults,
    };
    let Some(section) = root.table("trap", "[trap]") else {
        if !root.has("trap") {
            problems.rule(1, "[trap] is missing: write [trap] with port, local_ip and kernel_ip");
        }
        return trap;
    };
    lines.trap = section.line;
    trap.port = port(&section, names).unwrap_or(NO_PORT);
    let local = section.required("local_ip", "\"IPv4\", the gateway's end of the trap link", value::ipv4);
    let kernel = section.required("kernel_ip", "\"IPv4\", the kernel's end of the trap link", value::ipv4);
    trap.local_ip = value_or(local, Ipv4Addr::UNSPECIFIED);
    trap.kernel_ip = value_or(kernel, Ipv4Addr::UNSPECIFIED);
    trap.kernel_mac = section.optional("kernel_mac", value::MAC, value::mac).map(|at| at.value);
    trap.udp_port = udp_port(&section);
    if let Some(limits) = section.table("limits", "[trap] limits") {
        let limit = |key, default| {
            let expected = "packets per second from 0 to 4294967295";
            value_or(limits.optional(key, expected, value::integer(0..=i64::from(u32::MAX))), default)
        };
        trap.limits = TrapLimits {
            arp_nd: limit("arp_nd", defaults.arp_nd),
            new: limit("new", defaults.new),
            tcp_control: limit("tcp_control", defaults.tcp_control),
            exception: limit("exception", defaults.exception),
        };
        limits.finish();
    }
    section.finish();
    trap
}

fn sessions(root: &Section<'_>) -> Sessions {
    // The table's own bounds: conntrack::TableConfig::capacity, SessionSpec::idle_timeout.
    const CAPACITY: std::ops::RangeInclusive<i64> = 1..=MAX_CAPACITY as i64;
    const SECONDS: std::ops::RangeInclusive<i64> = 1..=(1 << 21);
    let defaults = Timeouts { tcp: 7440, udp: 300, icmp: 60, other: 60 };
    let mut sessions = Sessions { capacity: 1_000_000, timeouts: defaults };
    let Some(section) = root.table("sessions", "[sessions]") else { return sessions };
    let expected = format!("sessions from 1 to {MAX_CAPACITY}");
    let capacity = section.optional("capacity", &expected, value::integer(CAPACITY));
    sessions.capacity = value_or(capacity, sessions.capacity);
    if let Some(timeouts) = section.table("timeout", "[sessions] timeout") {
        let timeout = |key, default| {
            value_or(timeouts.optional(key, "seconds from 1 to 2097152", value::integer(SECONDS)), default)
        };
        sessions.timeouts = Timeouts {
            tcp: timeout("tcp", defaults.tcp),
            udp: timeout("udp", defaults.udp),
            icmp: timeout("icmp", defaults.icmp),
            other: timeout("other", defaults.other),
        };
        timeouts.finish();
    }
    section.finish();
    sessions
}

fn control(root: &Section<'_>, file: &Path, lines: &mut Lines) -> Control {
    let default = Endpoint::Unix(crate::DEFAULT_SOCKET.into());
    let mut control = Control { listen: vec![default], tls: None, plaintext: false, admins: Vec::new() };
    let Some(section) = root.table("control", "[control]") else { return control };
    (lines.plaintext, lines.listen) = (section.line, vec![section.line]);
    if let Some(listen) = section.list("listen", value::LISTEN, false, value::listen) {
        lines.listen = listen.iter().map(|at| at.line).collect();
        control.listen = listen.into_iter().map(|at| at.value).collect();
    }
    let base = file.parent().unwrap_or(Path::new(""));
    if let Some(tls) = section.table("tls", "[control] tls") {
        let line = tls.line;
        let path = |value: &_| value::text(value).map(|path| base.join(path));
        let cert = tls.required("cert", "\"FILE\", a PEM certificate chain", path);
        let key = tls.required("key", "\"FILE\", the certificate's PEM private key", path);
        let client_ca = tls.optional("client_ca", "\"FILE\", a PEM certificate", path);
        tls.finish();
        control.tls = Some(Tls {
            cert: value_or(cert, base.to_owned()),
            key: value_or(key, base.to_owned()),
            client_ca: client_ca.map(|at| at.value),
            line,
        });
    }
    if let Some(admins) = section.list("admins", "\"NAME\", as in a client's certificate", true, value::text)
    {
        lines.admins = admins.first().map_or(section.line, |at| at.line);
        control.admins = admins.into_iter().map(|at| at.value).collect();
    }
    let plaintext = section.optional("plaintext", "true or false", value::boolean);
    control.plaintext = take(plaintext, &mut lines.plaintext).unwrap_or(false);
    section.finish();
    control
}

fn log(root: &Section<'_>) -> Log {
    let mut log = Log { level: tracing::Level::INFO };
    if let Some(section) = root.table("log", "[log]") {
        let expected = "\"error\", \"warn\", \"info\", \"debug\" or \"trace\"";
        let level = section.optional("level", expected, |value| value.as_str()?.parse().ok());
        log.level = value_or(level, log.level);
        section.finish();
    }
    log
}
