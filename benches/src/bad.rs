//! Input that nobody hopes for: what it costs, and what it costs the others.

mod bed;
mod frames;
mod kinds;
mod crowd;
mod device;
mod source;
mod flood;
mod stalled;

use crate::{Stand, traffic};
use anyhow::{Result, ensure};
use bed::{Bed, Blocked, Discard, PACKETS, SESSIONS};
use conntrack::Timestamp;
use pipeline::BURST;
use std::net::Ipv4Addr;

/// All of them.
pub fn bench(stand: &mut Stand) -> Result<()> {
    bursts_of_one(stand)?;
    kinds::bench(stand)?;
    full_table(stand)?;
    new_flows(stand)?;
    blocked_port(stand)?;
    hash_flood(stand)?;
    crowd::bench(stand)?;
    // With a gateway on a core of its own.
    if !stand.eal.worker_lcores().is_empty() {
        flood::bench(stand)?;
        stalled::bench(stand)?;
    }
    Ok(())
}

/// Numbers below `limit`, shuffled well enough.
fn shuffled(limit: u32) -> impl FnMut() -> u32 {
    let mut n = 0_u32;
    move || {
        n = n.wrapping_add(0x9e37_79b1);
        ((u64::from(n) * u64::from(limit)) >> 32) as u32
    }
}

fn established(limit: u32) -> impl FnMut() -> Vec<u8> {
    let mut next = shuffled(limit);
    move || traffic::frame(next())
}

/// Repeats a measurement into the report.
fn add(
    stand: &mut Stand,
    name: &str,
    unit: &'static str,
    conditions: &str,
    run: &mut dyn FnMut(&Stand) -> Result<f64>,
) -> Result<()> {
    let runs = (0..stand.runs).map(|_| run(stand)).collect::<Result<Vec<_>>>()?;
    stand.report.add(format!("bad.{name}"), unit, runs, conditions);
    Ok(())
}

fn bursts_of_one(stand: &mut Stand) -> Result<()> {
    let mut bed = Bed::new(stand, SESSIONS, (0..SESSIONS).map(traffic::session))?;
    add(stand, "bursts_of_one", "cycles/packet", "bursts of 1 packet, 65536 sessions", &mut |stand| {
        bed.cycles(&stand.pool, &mut established(SESSIONS), 1, &mut Discard(&stand.pool))
    })
}

fn full_table(stand: &mut Stand) -> Result<()> {
    let mut bed = Bed::new(stand, SESSIONS, (0..SESSIONS).map(traffic::session))?;
    // Until it takes no more.
    let mut next = SESSIONS;
    while bed.table.insert(&traffic::session(next), Timestamp(0)).is_ok() {
        next += 1;
        ensure!(next < 4 * SESSIONS, "a table of {SESSIONS} has taken {next}");
    }
    let conditions = format!("a table of {SESSIONS} with {next} sessions, traffic of all of them");
    add(stand, "full_table", "cycles/packet", &conditions, &mut |stand| {
        bed.cycles(&stand.pool, &mut established(next), BURST, &mut Discard(&stand.pool))
    })?;
    add(stand, "full_table.refusals", "ns", "one insert that a full table refuses", &mut |_| {
        let begun = std::time::Instant::now();
        for n in 0..10_000 {
            ensure!(
                bed.table.insert(&traffic::session(next + n), Timestamp(0)).is_err(),
                "a full table took one"
            );
        }
        Ok(begun.elapsed().as_nanos() as f64 / 10_000.0)
    })
}

/// What a new flow over the limit costs. What it costs the others is [`flood`]'s.
fn new_flows(stand: &mut Stand) -> Result<()> {
    let mut bed = Bed::new(stand, SESSIONS, (0..SESSIONS).map(traffic::session))?;
    let mut stranger = shuffled(10_000_000);
    add(stand, "trap_flood", "cycles/packet", "new flows of one LIF, over the limit", &mut |stand| {
        let mut flood = || traffic::frame(SESSIONS + stranger());
        bed.cycles(&stand.pool, &mut flood, BURST, &mut Discard(&stand.pool))
    })
}

fn blocked_port(stand: &mut Stand) -> Result<()> {
    let mut bed = Bed::new(stand, SESSIONS, (0..SESSIONS).map(traffic::session))?;
    let [_, before] = bed.sent_and_dropped();
    add(
        stand,
        "blocked_port",
        "cycles/packet",
        "the uplink takes no packet, all are dropped and counted",
        &mut |stand| {
            let mut io = Blocked(Discard(&stand.pool));
            bed.cycles(&stand.pool, &mut established(SESSIONS), BURST, &mut io)
        },
    )?;
    let [_, after] = bed.sent_and_dropped();
    let offered = (stand.runs * PACKETS.div_ceil(BURST) * BURST) as u64;
    ensure!(after - before == offered, "{} of {offered} packets are counted as dropped", after - before);
    // And it goes on as soon as the port does.
    let [before, _] = bed.sent_and_dropped();
    bed.cycles(&stand.pool, &mut established(SESSIONS), BURST, &mut Discard(&stand.pool))?;
    let [after, _] = bed.sent_and_dropped();
    ensure!(after > before, "nothing is sent after a port was blocked");
    Ok(())
}

/// Sessions whose addresses and ports differ in few bits, as somebody would choose them who wants them in one bucket but does
/// not know the secret.
fn hash_flood(stand: &mut Stand) -> Result<()> {
    type Choice = fn(u32) -> (u32, u16);
    let choices: [(&str, Choice); 4] = [
        ("low bits of the port", |n| (n >> 8, (n & 0xff) as u16 + 1)),
        ("high bits of the port", |n| (n >> 8, ((n & 0xff) << 8) as u16 | 1)),
        ("high bits of the address", |n| (n << 16, 7)),
        ("one bit each", |n| (n.rotate_left(16) ^ n, n.wrapping_mul(0x101) as u16 | 1)),
    ];
    let spec = |choice: Choice| {
        move |n: u32| {
            let mut spec = traffic::session(n);
            let (address, port) = choice(n);
            spec.original.source =
                Ipv4Addr::from(0x0a00_0000 ^ address & 0x00ff_ffff ^ (address >> 24 << 3)).into();
            spec.original.source_port = port;
            spec
        }
    };
    let (mut slowest, mut runs) = ("", Vec::new());
    let mut plain = Bed::new(stand, SESSIONS, (0..SESSIONS).map(traffic::session))?;
    let io = &mut Discard(&stand.pool);
    let usual = plain.cycles(&stand.pool, &mut established(SESSIONS), BURST, io)?;
    drop(plain);
    for (name, choice) in choices {
        let mut seen = std::collections::HashSet::new();
        let chosen: Vec<_> = (0..SESSIONS)
            .map(spec(choice))
            .filter(|spec| seen.insert((spec.original.source, spec.original.source_port)))
            .collect();
        let frames: Vec<_> = chosen.iter().map(|spec| traffic::frame_of(&spec.original)).collect();
        let mut bed = Bed::new(stand, SESSIONS, chosen)?;
        let mut next = shuffled(frames.len() as u32);
        let mut flood = || frames[next() as usize].clone();
        let cycles = (0..stand.runs)
            .map(|_| bed.cycles(&stand.pool, &mut flood, BURST, io))
            .collect::<Result<Vec<_>>>()?;
        let [sent, _] = bed.sent_and_dropped();
        ensure!(sent > 0, "nothing of {name} got through");
        let ratios: Vec<_> = cycles.iter().map(|cycles| cycles / usual).collect();
        if crate::report::median(&ratios) > crate::report::median(&runs) {
            (slowest, runs) = (name, ratios);
        }
    }
    let conditions = format!("slowest of four ways to choose 65536 tuples ({slowest}) ÷ tuples counted up");
    stand.report.add("bad.hash_flood", "ratio", runs, conditions);
    Ok(())
}
