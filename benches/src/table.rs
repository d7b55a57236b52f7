//! The session table: memory per session, writes, and what else flows could be looked up in.

mod compare;
mod rivals;

pub use compare::{CHILD, child};

use crate::{Stand, traffic};
use anyhow::Result;
use conntrack::table::Timeouts;
use conntrack::{SessionSpec, SessionTable, TableConfig, Timestamp};
use std::time::Instant;

/// All of it.
pub fn bench(stand: &mut Stand) -> Result<()> {
    alone(stand)?;
    compare::bench(stand)
}

/// Sessions installed and removed per second by one writer, and bytes per session.
fn alone(stand: &mut Stand) -> Result<()> {
    let (name, sessions) = if stand.full { ("16M", 16_000_000) } else { ("1M", 1_000_000) };
    let table = SessionTable::new(TableConfig {
        capacity: sessions,
        timeouts: Timeouts { tcp: 7440, udp: 300, icmp: 60, other: 60 },
        readers: 1,
        hugepages: stand.hugepages,
        hash_secret: [3, 5],
    })?;
    let specs: Vec<_> = (0..sessions.min(1_000_000)).map(traffic::session).collect();
    let mut runs = Vec::new();
    for _ in 0..stand.runs {
        let start = Instant::now();
        for spec in &specs {
            table.insert(spec, Timestamp(0))?;
        }
        for spec in &specs {
            table.remove(spec.id, Timestamp(0));
        }
        while table.maintain(Timestamp(0), usize::MAX, &mut |_| {}).more {}
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        runs.push(specs.len() as f64 / start.elapsed().as_secs_f64());
    }
    let conditions = format!("{} sessions in, then out, one by one, no reader", specs.len());
    stand.report.add("table.insert_delete_alone_per_second", "1/s", runs, conditions);
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    let bytes = table.memory_bytes() as f64 / f64::from(sessions);
    stand.report.add(
        format!("table.bytes_per_session.{name}"),
        "bytes",
        vec![bytes],
        "IPv4; index, flows, records, wheel",
    );
    let mut now = 0;
    let shares = (0..stand.runs).map(|_| ageing(&table, sessions, &mut now)).collect::<Result<_>>()?;
    stand.report.add(
        format!("ageing.core_share.{name}"),
        "share",
        shares,
        format!("{sessions} sessions that time out within 300 s, looked after every millisecond"),
    );
    Ok(())
}

/// Fills the table with sessions that are never used again and lets all of them time out: time spent over time that passed.
/// `now` goes on, in milliseconds.
fn ageing(table: &SessionTable, sessions: u32, now: &mut u64) -> Result<f64> {
    for n in 0..sessions {
        let spec = SessionSpec { idle_timeout: Some(1 + n % 300), ..traffic::session(n) };
        table.insert(&spec, Timestamp(*now))?;
    }
    let (begin, mut closed) = (*now, 0);
    let start = Instant::now();
    while closed < sessions as usize {
        *now += 1;
        closed += table.maintain(Timestamp(*now), usize::MAX, &mut |_| {}).closed;
    }
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    Ok(start.elapsed().as_secs_f64() / ((*now - begin) as f64 / 1000.0))
}
