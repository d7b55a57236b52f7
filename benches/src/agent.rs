//! The offload agent: how long after the kernel has an assured connection the fast path has its session.
//!
//! A namespace with the kernel's real connection table, the agent, and a control server over a real session table; connections
//! come by ctnetlink, evenly. In a process of its own, that may use all cores.

use crate::cores;
use crate::report::Report;
use anyhow::{Context, Result, ensure};
use conntrack::table::Timeouts;
use conntrack::{SessionTable, TableConfig};
use control::agent::AgentConfig;
use control::agent::flood::{Connection, Flood};
use control::{Clock, ClosedLog, Endpoint, Handles, Housekeeper, Limits, Server, ServerConfig};
use nix::sched::{CloneFlags, setns};
use pipeline::config::{Port, Trap};
use pipeline::{Encapsulation, Lif, PortIndex, Snapshot, TrapLimits};
use std::collections::HashMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// The argument that makes this process the one that offloads.
pub const CHILD: &str = "agent-child";
const RATE: u32 = 5_000;
const SECONDS: u32 = 6;
const COUNT: u32 = RATE * SECONDS;
const PATIENCE: Duration = Duration::from_secs(30);

/// The 99th percentile, from a process of its own.
pub fn bench(report: &mut Report, runs: usize) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        println!("agent: left out, it needs root for a network namespace");
        return Ok(());
    }
    let output = Command::new(std::env::current_exe()?).args([CHILD, &runs.to_string()]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let column = |index: usize| -> Vec<f64> {
        text.lines().filter_map(|line| line.split_whitespace().nth(index)?.parse().ok()).collect()
    };
    let conditions = format!(
        "{RATE} new connections/s for {SECONDS} s by ctnetlink, 4,099 hosts to 67; entry made to session in the table; \
         agent, server and kernel share all cores"
    );
    report.add("agent.offload_p50_ms", "ms", column(0), conditions.clone());
    report.add("agent.offload_p99_ms", "ms", column(1), conditions);
    Ok(())
}

/// In the child: prints the median and the 99th percentile of each run, in milliseconds.
pub fn child(runs: usize) -> Result<()> {
    cores::unpin()?;
    for run in 0..runs {
        let mut delays = delays(run)?;
        delays.sort_by(f64::total_cmp);
        let at = |percent: usize| delays[(delays.len() - 1) * percent / 100];
        println!("{:.3} {:.3}", at(50), at(99));
    }
    Ok(())
}

/// Milliseconds from entry to session, of each connection.
fn delays(run: usize) -> Result<Vec<f64>> {
    let stand = Stand::start(run)?;
    let clock = stand.handles.clock;
    let flood = stand.netns.thread(move || -> Result<Vec<u64>> {
        let (mut flood, begun) = (Flood::open()?, Instant::now());
        let mut made = Vec::with_capacity(COUNT as usize);
        for number in 0..COUNT {
            let due = Duration::from_secs(1) * number / RATE;
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
            made.push(clock.now_nanos());
            flood.insert(&[connection(number)])?;
        }
        Ok(made)
    });
    let made = flood.join().map_err(|_| anyhow::anyhow!("the flood panicked"))??;
    let (table, begun) = (&stand.handles.table, Instant::now());
    while table.stats().active < u64::from(COUNT) {
        let active = table.stats().active;
        ensure!(begun.elapsed() < PATIENCE, "{active} sessions for {COUNT} connections");
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut sessions = Vec::new();
    let mut cursor = 0;
    loop {
        cursor = table.list(cursor, 10_000, &mut sessions);
        if cursor == 0 {
            break;
        }
    }
    let start: HashMap<(IpAddr, u16), u64> = sessions
        .iter()
        .map(|info| ((info.spec.original.source, info.spec.original.source_port), info.start.as_millis()))
        .collect();
    let delay = |(number, made): (u32, u64)| {
        let (client, port) = connection(number).client;
        // Starts are whole milliseconds, rounded down: the end of that millisecond counts.
        let ready = (start.get(&(client.into(), port))? + 1) * 1_000_000;
        #[expect(clippy::cast_precision_loss, reason = "a duration")]
        Some(ready.saturating_sub(made) as f64 / 1e6)
    };
    let delays: Option<Vec<f64>> = (0..).zip(made).map(delay).collect();
    delays.context("a connection without its session")
}

/// Each with hosts, and pairs of hosts, of its own for a long time.
fn connection(number: u32) -> Connection {
    let host = |network: u32, number: u32| Ipv4Addr::from(network | number);
    let port = 1024 + (number % 60_000) as u16;
    Connection {
        client: (host(0x0a60_0000, number % 4099), port),
        server: (host(0x0a70_0000, number % 67), 80),
        seen: (host(0x0a82_0000, number / 60_000), port),
    }
}

/// A namespace, deleted when dropped.
struct Netns(String);

impl Netns {
    fn new(run: usize) -> Result<Self> {
        let name = format!("oabench{}-{run}", std::process::id());
        sh(&format!("ip netns add {name}"))?;
        let netns = Self(name);
        let ns = &netns.0;
        sh(&format!("ip netns exec {ns} sysctl -qw net.ipv4.ip_forward=1"))?;
        for (name, network, host, behind) in
            [("in0", "10.81.0", 5, "10.96.0.0/12"), ("out0", "10.82.0", 9, "10.112.0.0/12")]
        {
            sh(&format!(
                "ip -n {ns} link add {name} type veth peer name {name}-peer
                 ip -n {ns} link set {name}-peer up
                 ip -n {ns} addr add {network}.1/24 dev {name}
                 ip -n {ns} link set {name} up
                 ip -n {ns} neigh add {network}.{host} lladdr 02:00:00:00:00:0{host} dev {name} nud permanent
                 ip -n {ns} route add {behind} via {network}.{host}"
            ))?;
        }
        Ok(netns)
    }

    fn thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> JoinHandle<Result<T>> {
        let path = Path::new("/var/run/netns").join(&self.0);
        std::thread::spawn(move || {
            setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?;
            work()
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // What is left of it is only a name.
        let _ = sh(&format!("ip netns del {}", self.0));
    }
}

fn sh(script: &str) -> Result<()> {
    let output = Command::new("sh").args(["-ec", script]).output()?;
    ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A control server, and an agent in its namespace. The agent ends first.
struct Stand {
    stop: Option<oneshot::Sender<()>>,
    agent: Option<JoinHandle<Result<()>>>,
    netns: Netns,
    handles: Handles,
    _server: Server,
    _housekeeper: Housekeeper,
    _runtime: tokio::runtime::Runtime,
    _socket: Socket,
}

/// A path that is removed when dropped.
struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Stand {
    fn start(run: usize) -> Result<Self> {
        let netns = Netns::new(run)?;
        let socket = Socket(std::env::temp_dir().join(format!("{}.sock", netns.0)));
        let handles = handles()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let config = ServerConfig { listen: vec![Endpoint::Unix(socket.0.clone())], ..Default::default() };
        let limits = Limits { shutdown: Duration::from_millis(500), ..Limits::default() };
        let server = runtime.block_on(Server::start(ServerConfig { limits, ..config }, handles.clone()))?;
        let housekeeper = Housekeeper::start(handles.table.clone(), handles.clock, handles.closed.clone())?;
        let text = format!(
            "[gateway]\nconnect = \"unix:{}\"\n[offload]\nkeep_on_exit = true\n\
             [[interface]]\nname = \"in0\"\nlif = 1\n[[interface]]\nname = \"out0\"\nlif = 2\n",
            socket.0.display()
        );
        let config = AgentConfig::from_toml(&text, "bench")?;
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let agent = netns.thread(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
            let shutdown = async {
                let _ = stopped.await;
            };
            let ready = move || {
                let _ = ready.send(());
            };
            runtime.block_on(control::agent::run_with_ready(config, ready, shutdown))?;
            Ok(())
        });
        is_ready.recv().context("the agent has not started")?;
        Ok(Self {
            stop: Some(stop),
            agent: Some(agent),
            netns,
            handles,
            _server: server,
            _housekeeper: housekeeper,
            _runtime: runtime,
            _socket: socket,
        })
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(Ok(Err(error))) = self.agent.take().map(JoinHandle::join) {
            eprintln!("agent: {error:#}");
        }
    }
}

fn handles() -> Result<Handles> {
    let table = SessionTable::new(TableConfig {
        capacity: COUNT * 2,
        timeouts: Timeouts { tcp: 7440, udp: 300, icmp: 60, other: 60 },
        readers: 1,
        hugepages: false,
        hash_secret: [7, 11],
    })?;
    let lif = |id: u16| Lif {
        id: id.into(),
        name: format!("lif{id}"),
        port: PortIndex(0),
        encapsulation: Encapsulation::Vlan(100 + id),
        trap_vni: id.into(),
        mtu: 1500,
        vteps: Vec::new(),
    };
    let config = pipeline::Config {
        ports: vec![Port { name: "uplink".to_owned(), mac: [2, 0, 0, 0, 0, 1] }],
        underlay: None,
        lifs: vec![lif(1), lif(2)],
        trap: Trap {
            port: PortIndex(0),
            local_ip: Ipv4Addr::new(169, 254, 10, 1),
            kernel_ip: Ipv4Addr::new(169, 254, 10, 2),
            kernel_mac: None,
            udp_port: 4789,
            limits: TrapLimits { arp_nd: 1, new: 1, tcp_control: 1, exception: 1 },
        },
    };
    let snapshot = || Snapshot {
        ports: Vec::new(),
        lifs: Vec::new(),
        drops: Vec::new(),
        traps: Vec::new(),
        trap_limited: Vec::new(),
        other: Vec::new(),
    };
    Ok(Handles {
        table,
        config: Arc::new(config),
        snapshot: Arc::new(snapshot),
        clock: Clock::start(),
        closed: ClosedLog::new(1 << 18, 1 << 14),
    })
}
