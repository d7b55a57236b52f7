//! What cannot be brought about from outside.

use super::*;
use crate::session::{Action, CloseCode, Tuple};
use crate::sync::Ordering::Relaxed;
use crate::{FlowKeyV4, LifIndex};
use std::net::Ipv4Addr;

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);

fn table() -> Arc<SessionTable> {
    let timeouts = Timeouts { tcp: 7440, udp: 300, icmp: 60, other: 60 };
    let config = TableConfig { capacity: 10, timeouts, readers: 1, hugepages: false, hash_secret: [3, 4] };
    SessionTable::new(config).unwrap()
}

fn session(n: u16) -> SessionSpec {
    let tuple =
        Tuple { source: CLIENT.into(), destination: SERVER.into(), source_port: n, destination_port: 53 };
    SessionSpec {
        id: SessionId(n.into()),
        in_lif: LifIndex(1),
        out_lif: LifIndex(2),
        protocol: 17,
        original: tuple,
        translated: tuple,
        l2: None,
        action: Action::Forward,
        idle_timeout: None,
        hard_timeout: None,
        limit: None,
        owner: 0,
    }
}

#[test]
fn packets_are_counted_beyond_32_bits() {
    let table = table();
    table.insert(&session(1), Timestamp(0)).unwrap();
    table.v4.entries[0].hot().packets.store(u32::MAX - 1, Relaxed);
    let mut reader = table.reader().unwrap();
    let burst = reader.enter();
    let mut flows = [None];
    let key = FlowKeyV4::new(LifIndex(1), 17, CLIENT, 1, SERVER, 53);
    burst.lookup_v4(&[key], Timestamp(0), &mut flows);
    (0..5).for_each(|_| flows[0].unwrap().count(Timestamp(0), 1));
    drop(burst);
    let packets = u64::from(u32::MAX) + 4;
    assert_eq!(table.get(SessionId(1)).unwrap().counters.in_packets, packets);
    table.remove(SessionId(1), Timestamp(0));
    let mut closed = Vec::new();
    table.maintain(Timestamp(0), 10, &mut |session| closed.push(*session));
    assert_eq!((closed[0].info.counters.in_packets, closed[0].info.counters.out_packets), (packets, 0));
    table.insert(&session(1), Timestamp(0)).unwrap();
    assert_eq!(table.v4.entries[0].key(), key, "the slot is used again");
    assert_eq!(table.get(SessionId(1)).unwrap().counters.in_packets, 0);
}

/// A reverse flow that finds no room in the index takes the forward flow and the id with it.
#[test]
fn an_insert_that_fails_halfway_leaves_nothing() {
    let table = table();
    table.insert(&session(1), Timestamp(0)).unwrap();
    // Fills the index with what nobody looks up, but for one place.
    let (mut junk, mut full) = (Vec::new(), false);
    while !full {
        let value = 1 << 30 | junk.len() as u32;
        let hash = table.hasher.hash_2([value.into(), 0]);
        full = !table.v4.index.insert(&mut table.write().search, hash, value);
        junk.push((hash, value));
    }
    junk.pop();
    let results: Vec<_> = (2..8).map(|n| table.insert(&session(n), Timestamp(0))).collect();
    let installed = results.iter().filter(|result| result.is_ok()).count();
    assert!(results.contains(&Err(InsertError::Full)));
    assert_eq!(table.stats().active, 1 + installed as u64);
    let mut closed = 0;
    table.maintain(Timestamp(0), 100, &mut |_| closed += 1);
    assert_eq!(closed, 0, "what never was is not reported");
    for (n, result) in (2..).zip(&results) {
        assert_eq!(table.get(SessionId(n)).is_some(), result.is_ok());
    }
    for (hash, value) in junk {
        assert!(table.v4.index.remove(&mut table.write().search, hash, value));
    }
    for (n, result) in (2..).zip(&results) {
        assert_eq!(table.insert(&session(n), Timestamp(0)).is_ok(), result.is_err());
    }
    assert_eq!(table.flush(Timestamp(1)), 7);
    let mut codes = Vec::new();
    table.maintain(Timestamp(1), 100, &mut |session| codes.push(session.code));
    assert_eq!(codes, [CloseCode::Deleted; 7]);
}
