//! The whole truth about connections that were offloaded. The kernel counts what it sees, and takes no corrections: neither a
//! new entry nor an existing one can be given counters (ctnetlink ignores CTA_COUNTERS). So what the gateway forwarded is
//! added up here, and written with the kernel's own count when a connection ends.

use super::entry::{Count, Entry, Traffic, Tuple};
use proto::gateway::v1;
use serde::{Serialize, Serializer};
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The gateway reports a deleted session within milliseconds; after this long a record is written without.
const PATIENCE: Duration = Duration::from_secs(2);
/// Records that wait to be written; more are lost and counted.
const LIMIT: usize = 262_144;
/// The gateway counts the Ethernet header, the kernel does not.
const ETHERNET_HEADER: u64 = 14;

/// A connection: what the kernel saw of it, what the gateway forwarded, and both together.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Record {
    /// IP protocol number.
    pub protocol: u8,
    /// As the first packet arrived.
    #[serde(serialize_with = "side")]
    pub source: (IpAddr, u16),
    /// As the first packet arrived.
    #[serde(serialize_with = "side")]
    pub destination: (IpAddr, u16),
    /// As it left.
    #[serde(serialize_with = "side")]
    pub nat_source: (IpAddr, u16),
    /// As it left.
    #[serde(serialize_with = "side")]
    pub nat_destination: (IpAddr, u16),
    /// Conntrack zone.
    pub zone: u16,
    /// Connection mark.
    pub mark: u32,
    /// The kernel's id of the entry.
    pub conntrack_id: u32,
    /// The gateway's id of its sessions.
    pub session_id: u64,
    /// Seconds since 1970; absent while it lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
    /// Absent without accounting in the kernel.
    pub kernel: Option<Traffic>,
    /// Through the gateway.
    pub offloaded: Traffic,
    /// Both.
    pub total: Traffic,
}

impl Record {
    pub(super) fn new(session_id: u64, entry: &Entry, offloaded: Traffic, ended: Option<u64>) -> Self {
        let ends = |tuple: &Tuple| {
            let port = |port, has| if has { port } else { 0 };
            let source = port(tuple.source_port, entry.has_ports() || entry.is_icmp());
            let destination = port(tuple.destination_port, entry.has_ports());
            ((tuple.source, source), (tuple.destination, destination))
        };
        let (source, destination) = ends(&entry.original);
        let (nat_source, nat_destination) = ends(&entry.translated());
        Self {
            protocol: entry.protocol,
            source,
            destination,
            nat_source,
            nat_destination,
            zone: entry.zone,
            mark: entry.mark,
            conntrack_id: entry.kernel_id,
            session_id,
            ended,
            kernel: entry.traffic,
            offloaded,
            total: entry.traffic.unwrap_or_default() + offloaded,
        }
    }
}

fn side<S: Serializer>((address, port): &(IpAddr, u16), serializer: S) -> Result<S::Ok, S::Error> {
    match port {
        0 => serializer.collect_str(address),
        _ => serializer.collect_str(&SocketAddr::new(*address, *port)),
    }
}

/// A session's counters as the kernel counts.
pub fn traffic(counters: &v1::Counters) -> Traffic {
    let count = |packets: u64, bytes: u64| Count {
        packets,
        bytes: bytes.saturating_sub(packets.saturating_mul(ETHERNET_HEADER)),
    };
    Traffic {
        original: count(counters.in_packets, counters.in_bytes),
        reply: count(counters.out_packets, counters.out_bytes),
    }
}

/// What was forwarded for connections whose sessions have closed.
#[derive(Default)]
pub struct Ledger {
    enabled: bool,
    /// Sums of closed sessions, by session id, while the kernel's entry lives.
    forwarded: HashMap<u64, Traffic>,
    /// Ended connections whose session has yet to be reported.
    leaving: HashMap<u64, Entry>,
    patience: VecDeque<(Instant, u64)>,
    done: Vec<Record>,
    lost: u64,
}

impl Ledger {
    /// One that keeps nothing unless `enabled`.
    pub fn new(enabled: bool) -> Self {
        Self { enabled, ..Self::default() }
    }

    /// A session has closed; reported once for each.
    pub fn closed(&mut self, id: u64, counters: &v1::Counters) {
        if !self.enabled {
            return;
        }
        let sum = self.forwarded.entry(id).or_default();
        *sum = *sum + traffic(counters);
        if let Some(entry) = self.leaving.remove(&id) {
            self.finish(id, &entry);
        }
    }

    /// A kernel entry is gone. `in_gateway`: its session still has to close.
    pub fn ended(&mut self, id: u64, entry: &Entry, in_gateway: bool, now: Instant) {
        if !self.enabled {
            return;
        }
        if in_gateway {
            self.leaving.insert(id, entry.clone());
            self.patience.push_back((now + PATIENCE, id));
        } else if self.forwarded.contains_key(&id) {
            self.finish(id, entry);
        }
    }

    /// Finishes what has waited too long.
    pub fn tick(&mut self, now: Instant) {
        while let Some((until, id)) = self.patience.front().copied()
            && until <= now
        {
            self.patience.pop_front();
            if let Some(entry) = self.leaving.remove(&id) {
                self.finish(id, &entry);
            }
        }
    }

    fn finish(&mut self, id: u64, entry: &Entry) {
        let offloaded = self.forwarded.remove(&id).unwrap_or_default();
        if self.done.len() >= LIMIT {
            self.lost += 1;
            return;
        }
        let ended = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.done.push(Record::new(id, entry, offloaded, Some(ended)));
    }

    /// Whether something is to be written.
    pub fn has_records(&self) -> bool {
        !self.done.is_empty()
    }

    /// What is to be written.
    pub fn take(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.done)
    }

    /// Puts back what could not be written.
    pub fn put_back(&mut self, mut records: Vec<Record>) {
        records.append(&mut self.done);
        self.lost += records.len().saturating_sub(LIMIT) as u64;
        records.truncate(LIMIT);
        self.done = records;
    }

    /// Records lost because they could not be written for too long.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::super::session::tests::{entry, tuple};
    use super::*;

    fn ended() -> Entry {
        let count = |packets, bytes| Count { packets, bytes };
        let mut entry =
            entry(6, tuple("10.0.0.1:1000", "10.0.1.1:80"), tuple("10.0.1.1:80", "10.0.1.254:2000"));
        entry.traffic = Some(Traffic { original: count(3, 180), reply: count(2, 120) });
        entry
    }

    const FORWARDED: v1::Counters =
        v1::Counters { in_packets: 10, in_bytes: 1140, out_packets: 20, out_bytes: 2280 };

    #[test]
    fn every_session_of_a_connection_counts_without_ethernet_headers() {
        let (mut ledger, now) = (Ledger::new(true), Instant::now());
        ledger.closed(7, &FORWARDED);
        ledger.ended(7, &ended(), true, now);
        assert!(ledger.take().is_empty(), "its last session has not been reported");
        ledger.closed(7, &FORWARDED);
        let record = ledger.take().pop().unwrap();
        assert_eq!(record.offloaded.original, Count { packets: 20, bytes: 2000 });
        assert_eq!(record.total.original, Count { packets: 23, bytes: 2180 });
        assert_eq!(record.total.reply, Count { packets: 42, bytes: 4120 });
        let json = serde_json::to_value(&record).unwrap();
        assert_eq!(
            (&json["source"], &json["nat_source"]),
            (&"10.0.0.1:1000".into(), &"10.0.1.254:2000".into())
        );
        assert_eq!(json["kernel"]["reply"]["bytes"], 120);
    }

    #[test]
    fn what_is_never_reported_is_written_all_the_same_and_what_was_not_offloaded_is_not() {
        let (mut ledger, now) = (Ledger::new(true), Instant::now());
        ledger.ended(7, &ended(), true, now);
        ledger.ended(8, &ended(), false, now);
        ledger.tick(now);
        assert!(ledger.take().is_empty());
        ledger.tick(now + PATIENCE);
        let records = ledger.take();
        assert_eq!((records.len(), records[0].session_id, records[0].offloaded), (1, 7, Traffic::default()));
        ledger.closed(9, &FORWARDED);
        ledger.ended(9, &ended(), false, now);
        assert_eq!(ledger.take().len(), 1, "its session had closed before");
    }
}
