//! The session table: memory per session, and writes.

use crate::{Stand, traffic};
use anyhow::Result;
use conntrack::table::Timeouts;
use conntrack::{SessionTable, TableConfig, Timestamp};
use std::time::Instant;

/// Sessions installed and removed per second by one writer, and bytes per session.
pub fn bench(stand: &mut Stand) -> Result<()> {
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
    let conditions = format!("{} sessions in and out, one writer, no reader", specs.len());
    stand.report.add("table.insert_delete_per_second", "1/s", runs, conditions);
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    let bytes = table.memory_bytes() as f64 / f64::from(sessions);
    stand.report.add(
        format!("table.bytes_per_session.{name}"),
        "bytes",
        vec![bytes],
        "IPv4; index, flows, records, wheel",
    );
    Ok(())
}
