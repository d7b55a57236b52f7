//! How long after a restart of the gateway, the agent or both every connection has its session again, and no other.

use super::stand::Stand;
use super::{PATIENCE, connection};
use anyhow::{Result, ensure};
use control::agent::flood::{Connection, Flood};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

const COUNT: u32 = 100_000;
/// Connections that end, and come again with another translation, while no agent looks.
const CHANGED: u32 = COUNT / 10;
/// Connections in a message to the kernel.
const BATCH: usize = 100;

/// What is started again.
pub(super) const NAMES: [&str; 3] = ["gateway", "agent", "both"];

pub(super) fn conditions(name: &str) -> String {
    let meanwhile =
        if name == "gateway" { "" } else { ", a tenth of them translated otherwise while no agent runs" };
    format!(
        "{COUNT} connections{meanwhile}; start to the table's being exact, no session added that is not; agent, \
         server and kernel share all cores"
    )
}

/// Prints each figure's name with the seconds it took.
pub(super) fn run(runs: usize) -> Result<()> {
    let mut stand = Stand::start("restart", COUNT)?;
    let (all, none): (Vec<_>, _) = ((0..COUNT).map(connection).collect(), Vec::new());
    change(&stand, none, all.clone())?;
    let mut wanted = Wanted(all.iter().map(|connection| (connection.client, connection.seen)).collect());
    settled(&stand, &wanted, u64::from(COUNT))?;
    for run in 0..runs {
        stand.start_gateway()?;
        let took = settled(&stand, &wanted, u64::from(COUNT))?;
        println!("gateway {took:.3}");

        stand.stop_agent();
        wanted.change(&stand, run * 2)?;
        let (begun, installed) = (Instant::now(), stand.handles().table.stats().installed);
        stand.start_agent()?;
        settled(&stand, &wanted, installed + u64::from(CHANGED))?;
        println!("agent {:.3}", begun.elapsed().as_secs_f64());

        stand.stop_agent();
        wanted.change(&stand, run * 2 + 1)?;
        let begun = Instant::now();
        stand.start_gateway()?;
        stand.start_agent()?;
        settled(&stand, &wanted, u64::from(COUNT))?;
        println!("both {:.3}", begun.elapsed().as_secs_f64());
    }
    Ok(())
}

/// The translation of each connection, by its client.
struct Wanted(HashMap<(Ipv4Addr, u16), (Ipv4Addr, u16)>);

impl Wanted {
    /// A tenth of the connections end, and come again from another outer address.
    fn change(&mut self, stand: &Stand, turn: usize) -> Result<()> {
        let outer = Ipv4Addr::from(0x0a83_0000 + turn as u32);
        let (mut old, mut new) = (Vec::new(), Vec::new());
        for connection in (0..CHANGED).map(connection) {
            let Some(seen) = self.0.get_mut(&connection.client) else { continue };
            old.push(Connection { seen: *seen, ..connection });
            seen.0 = outer;
            new.push(Connection { seen: *seen, ..connection });
        }
        change(stand, old, new)
    }

    /// Whether the sessions are these connections' and no others.
    fn is_there(&self, stand: &Stand) -> bool {
        let (table, mut sessions, mut cursor) = (&stand.handles().table, Vec::new(), 0);
        loop {
            cursor = table.list(cursor, 10_000, &mut sessions);
            if cursor == 0 {
                break;
            }
        }
        let right = |info: &conntrack::SessionInfo| {
            let (original, translated) = (&info.spec.original, &info.spec.translated);
            let IpAddr::V4(client) = original.source else { return false };
            self.0.get(&(client, original.source_port)).is_some_and(|seen| {
                translated.source == IpAddr::V4(seen.0) && translated.source_port == seen.1
            })
        };
        sessions.len() == self.0.len() && sessions.iter().all(right)
    }
}

/// In the kernel's table.
fn change(stand: &Stand, old: Vec<Connection>, new: Vec<Connection>) -> Result<()> {
    let thread = stand.netns.thread(move || -> Result<()> {
        let mut flood = Flood::open()?;
        old.chunks(BATCH).try_for_each(|some| flood.delete(some))?;
        Ok(new.chunks(BATCH).try_for_each(|some| flood.insert(some))?)
    });
    thread.join().map_err(|_| anyhow::anyhow!("the flood panicked"))?
}

/// Seconds until the sessions are the wanted ones, after `installed` were ever installed in this table: then none was that is
/// not wanted, not even for a while.
fn settled(stand: &Stand, wanted: &Wanted, installed: u64) -> Result<f64> {
    let begun = Instant::now();
    loop {
        let stats = stand.handles().table.stats();
        if stats.active == u64::from(COUNT) && stats.installed >= installed && wanted.is_there(stand) {
            let seconds = begun.elapsed().as_secs_f64();
            let installed_now = stand.handles().table.stats().installed;
            ensure!(installed_now == installed, "{installed_now} sessions installed, {installed} wanted");
            return Ok(seconds);
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "{} sessions, {} ever, for {COUNT} connections",
            stats.active,
            stats.installed
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}
