//! A gateway's control side and the agent, to be started again as wanted, in a network namespace of their own.

use anyhow::{Context, Result, ensure};
use conntrack::table::Timeouts;
use conntrack::{SessionTable, TableConfig};
use control::agent::AgentConfig;
use control::{Clock, ClosedLog, Endpoint, Handles, Housekeeper, Limits, Server, ServerConfig};
use nix::sched::{CloneFlags, setns};
use pipeline::config::{Port, Trap};
use pipeline::{Encapsulation, Lif, PortIndex, Snapshot, TrapLimits};
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// A namespace, deleted when dropped.
pub(super) struct Netns(String);

impl Netns {
    fn new(run: &str) -> Result<Self> {
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

    /// A thread in it.
    pub(super) fn thread<T: Send + 'static>(
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
pub(super) struct Stand {
    agent: Option<Agent>,
    gateway: Option<Gateway>,
    pub(super) netns: Netns,
    socket: Socket,
    capacity: u32,
}

/// Ends when dropped, and leaves its sessions.
struct Agent {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// Ends when dropped, as if it had crashed.
struct Gateway {
    handles: Handles,
    _server: Server,
    _housekeeper: Housekeeper,
    _runtime: tokio::runtime::Runtime,
}

/// A path that is removed when dropped.
struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Stand {
    /// For `capacity` sessions; `run` keeps stands apart.
    pub(super) fn start(run: &str, capacity: u32) -> Result<Self> {
        let netns = Netns::new(run)?;
        let socket = Socket(std::env::temp_dir().join(format!("{}.sock", netns.0)));
        let mut stand = Self { agent: None, gateway: None, netns, socket, capacity };
        stand.start_gateway()?;
        stand.start_agent()?;
        Ok(stand)
    }

    pub(super) fn handles(&self) -> &Handles {
        &self.gateway.as_ref().expect("started with the stand").handles
    }

    pub(super) fn stop_agent(&mut self) {
        self.agent = None;
    }

    pub(super) fn start_agent(&mut self) -> Result<()> {
        self.agent = Some(Agent::start(&self.netns, &self.socket)?);
        Ok(())
    }

    /// Ends the one before, which takes its sessions with it. When this returns, the new one listens.
    pub(super) fn start_gateway(&mut self) -> Result<()> {
        self.gateway = None;
        self.gateway = Some(Gateway::start(&self.socket, self.capacity)?);
        Ok(())
    }
}

impl Gateway {
    fn start(socket: &Socket, capacity: u32) -> Result<Self> {
        let handles = handles(capacity)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let config = ServerConfig { listen: vec![Endpoint::Unix(socket.0.clone())], ..Default::default() };
        let limits = Limits { shutdown: Duration::from_millis(500), ..Limits::default() };
        let server = runtime.block_on(Server::start(ServerConfig { limits, ..config }, handles.clone()))?;
        let housekeeper = Housekeeper::start(handles.table.clone(), handles.clock, handles.closed.clone())?;
        Ok(Self { handles, _server: server, _housekeeper: housekeeper, _runtime: runtime })
    }
}

impl Agent {
    fn start(netns: &Netns, socket: &Socket) -> Result<Self> {
        let text = format!(
            "[gateway]\nconnect = \"unix:{}\"\n[offload]\nkeep_on_exit = true\n\
             [[interface]]\nname = \"in0\"\nlif = 1\n[[interface]]\nname = \"out0\"\nlif = 2\n",
            socket.0.display()
        );
        let config = AgentConfig::from_toml(&text, "bench")?;
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = netns.thread(move || {
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
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("agent: {error:#}");
        }
    }
}

fn handles(capacity: u32) -> Result<Handles> {
    let table = SessionTable::new(TableConfig {
        capacity: capacity * 2,
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
