//! Two flows that are copied to a collector: sessions that somebody else than the agent installs.

use std::fs;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::collector::{Collector, Copy};
use crate::error::{Error, Result};
use crate::gateway::Gateway;
use crate::lab::Lab;
use crate::plan::{A, BLUE, BLUE1, COLLECTOR, RED, RED1, mac};
use crate::traffic::{DNS_ADDRESS, dns_query};

/// Queries of each flow.
const QUERIES: u32 = 20;
/// How long copies may take to arrive, and the collector's MAC to be known.
const LIMIT: Duration = Duration::from_secs(10);

/// What became of a flow.
#[derive(Debug, Clone)]
pub(super) struct Copied {
    pub(super) name: &'static str,
    /// Answers of so many queries.
    pub(super) answers: (u32, u32),
    /// The session's packets, both ways.
    pub(super) packets: u64,
    /// Those the collector got, with the right VNI and source address.
    pub(super) copies: u64,
    /// The client's address in copies of its queries, and of the answers.
    pub(super) client: [Ipv4Addr; 2],
}

/// Runs both.
pub(super) fn run(lab: &Lab, gateway: &Gateway, collector: &Collector) -> Result<Vec<Copied>> {
    let (own, mapped) = (RED1.ipv4(), BLUE.ipv4(A.number));
    Ok(vec![
        one(lab, gateway, collector, ("DNS, mirrored as received", "mirror", 1, [own, mapped]))?,
        one(lab, gateway, collector, ("DNS, snooped as sent", "snoop", 2, [mapped, own]))?,
    ])
}

fn one(
    lab: &Lab,
    gateway: &Gateway,
    collector: &Collector,
    (name, action, number, client): (&'static str, &str, u16, [Ipv4Addr; 2]),
) -> Result<Copied> {
    let (id, port) = (900_000 + u64::from(number), 5400 + number);
    let file = lab.directory().join("copies.jsonl");
    fs::write(&file, format!("{}\n", session(id, port, action)))
        .map_err(Error::io(file.display().to_string()))?;
    gateway.client(&["sessions", "add", &file.to_string_lossy()])?;
    let ask = || dns_query(lab, &RED1, BLUE1.ipv4().into(), 53, port);
    let end = Instant::now() + LIMIT;
    // The collector's MAC is asked for when the first copy is due.
    let first = collector.copies().len();
    while collector.copies().len() == first && Instant::now() < end {
        ask()?;
        thread::sleep(Duration::from_millis(20));
    }
    let packets = || -> Result<u64> {
        let sessions = gateway.control().all()?;
        Ok(sessions.iter().filter(|session| session.id == id).map(|session| session.packets()).sum())
    };
    let (before, first) = (packets()?, settled(gateway, collector)?);
    let mut answers = 0;
    for _ in 0..QUERIES {
        answers += u32::from(ask().is_ok_and(|answer| answer == DNS_ADDRESS));
    }
    let packets = packets()? - before;
    let end = Instant::now() + LIMIT;
    let copies = || {
        let all = collector.copies();
        all.iter().skip(first).filter(|copy| is_right(copy, client)).count() as u64
    };
    while copies() < packets && Instant::now() < end {
        thread::sleep(Duration::from_millis(20));
    }
    Ok(Copied { name, answers: (answers, QUERIES), packets, copies: copies(), client })
}

/// As VNF A would forward it.
fn session(id: u64, port: u16, action: &str) -> serde_json::Value {
    json!({
        "session_id": id, "in_lif": RED.id, "out_lif": BLUE.id, "protocol": "udp",
        "source": format!("{}:{port}", RED1.ipv4()),
        "destination": format!("{}:53", BLUE1.ipv4()),
        "action": action, "collector": COLLECTOR.to_string(), "timeout": 60,
        "nat": {"source": format!("{}:{}", BLUE.ipv4(A.number), 56_600 + port)},
        "l2": {"forward": {"source": mac(A.mac(&BLUE)), "destination": mac(BLUE1.mac())},
               "reverse": {"source": mac(A.mac(&RED)), "destination": mac(RED1.mac())}},
    })
}

/// How many copies there are once all that the gateway has sent are there.
fn settled(gateway: &Gateway, collector: &Collector) -> Result<usize> {
    let end = Instant::now() + LIMIT;
    loop {
        let count = collector.copies().len();
        if gateway.stats()?.get("/other/mirrored")? == count as u64 || Instant::now() >= end {
            return Ok(count);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// In red's network, a query or an answer with the client's address before or behind NAT.
fn is_right(copy: &Copy, client: [Ipv4Addr; 2]) -> bool {
    let address = |at: usize| copy.frame.get(at..at + 4).unwrap_or_default();
    let pair = (address(26), address(30));
    let ([query, answer], server) = (client.map(|ip| ip.octets()), BLUE1.ipv4().octets());
    copy.vni == RED.trap_vni && ([(&query[..], &server[..]), (&server, &answer)].contains(&pair))
}
