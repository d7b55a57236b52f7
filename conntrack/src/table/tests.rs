//! What cannot be brought about from outside.

use super::*;
use crate::session::{Action, CloseCode, L2, MacPair, Tuple};
use crate::sync::Ordering::Relaxed;
use crate::{FlowKeyV4, LifIndex};
use std::net::Ipv4Addr;

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);

fn config() -> TableConfig {
    let timeouts = Timeouts { tcp: 7440, udp: 300, icmp: 60, other: 60 };
    TableConfig { capacity: 10, timeouts, readers: 1, hugepages: false, hash_secret: [3, 4] }
}

fn table() -> Arc<SessionTable> {
    SessionTable::new(config()).unwrap()
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
        assert!(table.v4.index.remove(&mut table.write().search, table.v4.index.first(hash), value));
    }
    for (n, result) in (2..).zip(&results) {
        assert_eq!(table.insert(&session(n), Timestamp(0)).is_ok(), result.is_err());
    }
    assert_eq!(table.flush(Timestamp(1)), 7);
    let mut codes = Vec::new();
    table.maintain(Timestamp(1), 100, &mut |session| codes.push(session.code));
    assert_eq!(codes, [CloseCode::Deleted; 7]);
}

#[test]
fn macs_beyond_the_limit_are_refused_until_others_are_let_go() {
    let table = Arc::new(SessionTable::build(config(), 3).unwrap());
    let insert = |n: u16, macs: Option<[u8; 2]>| {
        let pair = |last| MacPair { source: [2; 6], destination: [2, 0, 0, 0, 0, last] };
        let l2 = macs.map(|[forward, reverse]| L2 { forward: pair(forward), reverse: pair(reverse) });
        table.insert(&SessionSpec { l2, ..session(n) }, Timestamp(0))
    };
    insert(1, Some([1, 2])).unwrap();
    assert_eq!(insert(2, Some([3, 4])), Err(InsertError::L2Full));
    assert_eq!(table.stats().l2_rewrites, 2, "neither of its two is kept");
    insert(3, Some([3, 2])).unwrap();
    assert_eq!(insert(4, None), Err(InsertError::L2Full), "out LIFs alone count too");
    let mut reader = table.reader().unwrap();
    let burst = reader.enter();
    let mut flows = [None];
    burst.lookup_v4(&[FlowKeyV4::new(LifIndex(1), 17, CLIENT, 1, SERVER, 53)], Timestamp(0), &mut flows);
    let (flow, generation) = (flows[0].unwrap(), table.l2_generation());
    let before = flow.l2();
    assert!(table.remove(SessionId(1), Timestamp(0)));
    table.maintain(Timestamp(0), 10, &mut |_| panic!("a reader has it"));
    assert_eq!(insert(5, Some([5, 2])), Err(InsertError::L2Full), "a reader has the one it would take");
    assert_eq!((flow.l2(), table.l2_generation()), (before, generation));
    drop(burst);
    assert_eq!(table.maintain(Timestamp(0), 10, &mut |_| {}).closed, 1);
    assert_eq!(table.stats().l2_rewrites, 2);
    insert(5, Some([5, 2])).unwrap();
    assert_ne!(table.l2_generation(), generation, "an index stands for something else");
    let macs = |id| table.get(SessionId(id)).unwrap().spec.l2.unwrap();
    let last = |id| [macs(id).forward, macs(id).reverse].map(|pair| pair.destination[5]);
    assert_eq!((last(3), last(5)), ([3, 2], [5, 2]));
    let stats = table.stats();
    assert_eq!((stats.l2_rewrites, stats.l2_rejected, stats.rejected), (3, 3, 3));
}
