//! A lab with a gateway, and agents where a test wants them.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use netns_lab::config::{AgentConfig, GatewayConfig};
use netns_lab::control::{Control, Session};
use netns_lab::gateway::{Gateway, Stats, find_program, start_agent};
use netns_lab::plan::{Host, Vnf};
use netns_lab::{Lab, Netns, Process, cleanup};

/// What must happen soon gets this long: the machine may be slow, and busy with other things.
pub const LIMIT: Duration = Duration::from_secs(30);

/// One test at a time: each needs the machine's cores.
static SERIAL: Mutex<()> = Mutex::new(());

/// To be held while a test uses the machine.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    SERIAL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything a test runs on. Parts go in this order.
pub struct Bench {
    agents: Vec<Process>,
    gateway: Option<Gateway>,
    pub lab: Lab,
    config: GatewayConfig,
    program: PathBuf,
    _serial: MutexGuard<'static, ()>,
}

impl Bench {
    /// A lab with a running gateway and no agents.
    pub fn new(config: GatewayConfig) -> Self {
        let serial = one_at_a_time();
        cleanup::on_signals();
        let program = find_program().unwrap();
        let lab = Lab::up().unwrap();
        let gateway = None;
        let mut bench = Bench { agents: Vec::new(), gateway, lab, config, program, _serial: serial };
        bench.start_gateway();
        bench
    }

    /// A lab with a gateway as it is by default, and the agents of `vnfs`.
    pub fn with_agents(vnfs: &[Vnf]) -> Self {
        let mut bench = Bench::new(GatewayConfig::default());
        bench.start_agents(vnfs, &AgentConfig::default());
        bench
    }

    pub fn start_agents(&mut self, vnfs: &[Vnf], config: &AgentConfig) {
        for vnf in vnfs {
            self.agents.push(start_agent(&self.lab, &self.program, vnf, config).unwrap());
        }
    }

    pub fn start_gateway(&mut self) {
        self.gateway = Some(Gateway::start(&self.lab, &self.program, &self.config).unwrap());
    }

    /// The gateway, gone without a word.
    pub fn kill_gateway(&mut self) {
        self.gateway.take().unwrap().kill();
    }

    pub fn kill_agents(&mut self) {
        self.agents.drain(..).for_each(Process::kill);
    }

    pub fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().unwrap()
    }

    pub fn control(&self) -> &Control {
        self.gateway().control()
    }

    pub fn stats(&self) -> Stats {
        self.gateway().stats().unwrap()
    }

    /// One counter of the gateway's statistics.
    pub fn stat(&self, path: &str) -> u64 {
        self.stats().get(path).unwrap()
    }

    /// Sessions that live or lived and fit `own`.
    pub fn sessions(&self, own: impl Fn(&Session) -> bool) -> Vec<Session> {
        let mut sessions = self.control().all().unwrap();
        sessions.retain(own);
        sessions
    }

    pub fn ns(&self, host: &Host) -> &Netns {
        self.lab.ns(host.name).unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        for agent in &self.agents {
            eprintln!("--- {}\n{}", agent.log().display(), agent.output());
        }
        if let Some(gateway) = &self.gateway {
            eprintln!("--- gateway\n{}", gateway.log());
            match gateway.stats() {
                Ok(stats) => eprintln!("--- stats\n{}", stats.0),
                Err(error) => eprintln!("--- no stats: {error}"),
            }
        }
    }
}

/// Waits until `holds`.
pub fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < end, "not within {} s: {what}", LIMIT.as_secs());
        thread::sleep(Duration::from_millis(50));
    }
}
