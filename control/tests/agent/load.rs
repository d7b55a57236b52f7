//! Many connections at once, with a real gateway. `OFFLOAD_CONNECTIONS` (20,000) and `OFFLOAD_RATE` (20,000 new per second) say
//! how many; what is printed is for people.

use super::common;
use super::events::{BEHIND, connection, flood};
use super::netns::{Lab, TRACK_ONLY, may_run};
use super::{Agent, config};
use control::Endpoint;
use control::agent::flood::Connection;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// For anything, on a slow and busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn size(variable: &str) -> u32 {
    std::env::var(variable).ok().map_or(20_000, |text| text.parse().unwrap())
}

struct Stand {
    lab: Lab,
    runtime: Runtime,
    directory: tempfile::TempDir,
    gateway: Option<common::Gateway>,
    count: u32,
}

impl Stand {
    fn new() -> Self {
        let lab = Lab::new(TRACK_ONLY);
        lab.vnf.sh(BEHIND);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut stand = Self { lab, runtime, directory, gateway: None, count: size("OFFLOAD_CONNECTIONS") };
        stand.restart_gateway();
        stand
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("gateway.sock")
    }

    /// The old one goes as if it had crashed.
    fn restart_gateway(&mut self) {
        self.gateway = None;
        let setup = common::Setup {
            capacity: self.count * 2,
            watch: 16_384,
            listen: vec![Endpoint::Unix(self.socket())],
            lifs: [11, 12],
            ..Default::default()
        };
        self.gateway = Some(self.runtime.block_on(setup.start()));
    }

    fn config(&self) -> control::agent::AgentConfig {
        config(&format!("unix:{}", self.socket().display()), "keep_on_exit = true", "")
    }

    fn agent(&self) -> Agent {
        Agent::start(&self.lab, self.config())
    }

    fn active(&self) -> u64 {
        self.gateway.as_ref().unwrap().handles.table.stats().active
    }

    /// Until every connection has its session, with its translation, and there is none besides; how long since `since`.
    fn settled(&self, what: &str, since: Instant) -> Duration {
        let mut took;
        loop {
            took = since.elapsed();
            if self.active() == u64::from(self.count) && self.is_exact() {
                break;
            }
            assert!(took < PATIENCE, "{what}: {} sessions for {} connections", self.active(), self.count);
            std::thread::sleep(Duration::from_millis(2));
        }
        println!("{what}: {took:.2?} for {} connections", self.count);
        took
    }

    /// Ids are made of both tuples: each entry of the kernel has its own session.
    fn is_exact(&self) -> bool {
        let config = self.config();
        let thread = self.lab.vnf.thread(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(control::agent::connections(&config)).unwrap()
        });
        let connections = thread.join().unwrap();
        connections.len() == self.count as usize && connections.iter().all(|connection| connection.in_gateway)
    }
}

/// As [`connection`], from another outer address.
fn moved(number: u32) -> Connection {
    let connection = connection(number);
    Connection { seen: ([10, 130, 255, 1].into(), connection.seen.1), ..connection }
}

#[test]
fn a_flood_of_connections_is_installed_and_reconciled_after_every_restart() {
    if !may_run("flood") {
        return;
    }
    let (mut stand, rate) = (Stand::new(), size("OFFLOAD_RATE"));
    let count = stand.count;
    let agent = stand.agent();
    std::thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    flood(&stand.lab, move |flood| {
        for first in (0..count).step_by(50) {
            let some: Vec<_> = (first..(first + 50).min(count)).map(connection).collect();
            flood.insert(&some).unwrap();
            let due = Duration::from_secs_f64(f64::from(first) / f64::from(rate));
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
    });
    println!("{:.0} new connections per second", f64::from(count) / begun.elapsed().as_secs_f64());
    stand.settled("behind the last of a flood", Instant::now());

    // The gateway alone: all come again.
    stand.restart_gateway();
    stand.settled("gateway restart", Instant::now());

    // The agent alone. Meanwhile some go, and come again with another translation; both must not be there at once.
    let counters = agent.stop();
    println!("{counters}");
    assert_eq!((counters.connects, counters.refused.len()), (2, 0), "{counters}");
    let changed = count / 10;
    flood(&stand.lab, move |flood| {
        for first in (0..changed).step_by(50) {
            let numbers = first..(first + 50).min(changed);
            flood.delete(&numbers.clone().map(connection).collect::<Vec<_>>()).unwrap();
            flood.insert(&numbers.map(moved).collect::<Vec<_>>()).unwrap();
        }
    });
    let agent = stand.agent();
    stand.settled("agent restart, one tenth translated otherwise", Instant::now());

    // Both.
    let counters = agent.stop();
    assert_eq!(counters.adopted + u64::from(changed), u64::from(count), "{counters}");
    assert!(counters.refused.is_empty(), "nothing was tried beside what it replaces: {counters}");
    stand.restart_gateway();
    let agent = stand.agent();
    stand.settled("restart of both", Instant::now());
    flood(&stand.lab, move |flood| {
        for first in (0..changed).step_by(50) {
            let numbers = first..(first + 50).min(changed);
            flood.delete(&numbers.map(moved).collect::<Vec<_>>()).unwrap();
        }
    });
    stand.count -= changed;
    stand.settled("deletion of a tenth", Instant::now());
    agent.stop();
}
