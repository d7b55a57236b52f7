//! What cannot be brought about from outside.

use super::*;
use crate::session::{Action, CloseCode, L2, MacPair, Tuple};
use crate::sync::Ordering::Relaxed;
use crate::{FlowKeyV4, LifIndex};
use std::collections::{HashMap, HashSet};
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

/// The places of `count` flows whose two buckets are all the same pair, as nobody finds them who does not know the secret; with
/// one tag, the very worst, or with any. `twice`: of a tag whose items have the same bucket twice.
fn crowd(table: &SessionTable, count: usize, one_tag: bool, twice: bool) -> Vec<SessionSpec> {
    let places_of = |spec: &SessionSpec| places(table, &key(spec));
    // Enough for some hundred of each pair of buckets and tag.
    let all = || (0..12_000_000).map(masqueraded);
    let mut tags = HashMap::new();
    let mut is_wanted = |&([a, b], tag): &([u32; 2], u8)| {
        (a == b) == twice && (one_tag || *tags.entry([a, b]).or_insert(tag) != tag)
    };
    let ([a, b], tag) = all().map(|spec| places_of(&spec)).find(|place| is_wanted(place)).unwrap();
    let crowd = all().filter(|spec| {
        let (pair, own_tag) = places_of(spec);
        pair == [a, b] && (own_tag == tag || !one_tag)
    });
    let crowd: Vec<_> = crowd.take(count).collect();
    assert_eq!(crowd.len(), count);
    let tags: HashSet<_> = crowd.iter().map(|spec| places_of(spec).1).collect();
    assert_eq!(tags.len() == 1, one_tag);
    crowd
}

/// The two buckets of a flow, the lower first, and its tag.
fn places(table: &SessionTable, key: &FlowKeyV4) -> ([u32; 2], u8) {
    let first = table.v4.index.first(EntryV4::hash(&table.hasher, key));
    let other = table.v4.index.other(first).bucket;
    ([first.bucket.min(other), first.bucket.max(other)], first.tag)
}

fn key(spec: &SessionSpec) -> FlowKeyV4 {
    let Tuple { source, source_port, destination_port, .. } = spec.original;
    FlowKeyV4::new(LifIndex(1), 17, address(source), source_port, SERVER, destination_port)
}

fn reverse_key(spec: &SessionSpec) -> FlowKeyV4 {
    let Tuple { source, source_port, destination_port, .. } = spec.translated;
    FlowKeyV4::new(LifIndex(2), 17, SERVER, destination_port, address(source), source_port)
}

fn address(ip: std::net::IpAddr) -> Ipv4Addr {
    if let std::net::IpAddr::V4(ip) = ip { ip } else { Ipv4Addr::UNSPECIFIED }
}

/// Number `n` of many, each translated to something else.
fn masqueraded(n: u32) -> SessionSpec {
    let tuple = |network: u32| Tuple {
        source: Ipv4Addr::from_bits(network | n >> 10).into(),
        source_port: 1024 + (n & 1023) as u16,
        ..session(1).original
    };
    SessionSpec {
        id: SessionId(u64::from(n) + 1),
        original: tuple(0x0a00_0000),
        translated: tuple(0x2c00_0000),
        ..session(1)
    }
}

/// Whether workers find these sessions, and each with its own rewrite; all of them, or none.
fn are_found(table: &Arc<SessionTable>, specs: &[SessionSpec]) -> bool {
    let keys: Vec<_> = specs.iter().map(key).collect();
    let mut reader = table.reader().unwrap();
    let burst = reader.enter();
    let mut flows = vec![None; keys.len()];
    burst.lookup_v4(&keys, Timestamp(0), &mut flows);
    for (spec, flow) in specs.iter().zip(&flows).filter_map(|(spec, flow)| Some((spec, flow.as_ref()?))) {
        let rewrite = flow.rewrite();
        let Tuple { source, source_port, .. } = spec.translated;
        assert_eq!((Ipv4Addr::from(rewrite.source), u16::from_be_bytes(rewrite.source_port)), {
            (address(source), source_port)
        });
        assert_eq!(flow.session(), spec.id);
    }
    let found = flows.iter().flatten().count();
    assert!(found == 0 || found == flows.len(), "{found} of {} are found", flows.len());
    found > 0
}

/// A pair of buckets takes as many as it has places, other sessions make room for them, and what is beyond that is refused: no
/// move helps, since all of them have the same two places.
#[test]
fn all_sessions_in_one_bucket() {
    for (one_tag, twice) in [(false, false), (true, false), (true, true)] {
        let room = if twice { bucket::WAYS } else { 2 * bucket::WAYS };
        let table = SessionTable::new(TableConfig { capacity: 1000, ..config() }).unwrap();
        let crowd = crowd(&table, room + 2, one_tag, twice);
        // Sessions before and after, none with a flow that can be in that pair only: it would not make room.
        let (pair, _) = places(&table, &key(&crowd[0]));
        let makes_room = |key| !places(&table, &key).0.iter().all(|bucket| pair.contains(bucket));
        let others = (20_000_000..).map(masqueraded);
        let others = others.filter(|spec| makes_room(key(spec)) && makes_room(reverse_key(spec)));
        let others: Vec<_> = others.take(900).collect();
        let insert = |specs: &[SessionSpec]| {
            for spec in specs {
                assert_eq!(table.insert(spec, Timestamp(0)), Ok(()), "session {}", spec.id.0);
            }
        };
        insert(&others[..800]);
        insert(&crowd[..room]);
        assert_eq!(table.stats().rejected, 0);
        for spec in &crowd[room..] {
            assert_eq!(table.insert(spec, Timestamp(0)), Err(InsertError::Full));
            assert!(table.get(spec.id).is_none() && !are_found(&table, &[*spec]));
        }
        insert(&others[800..]);
        let stats = table.stats();
        assert_eq!((stats.active, stats.rejected), (900 + room as u64, 2));
        assert!(are_found(&table, &crowd[..room]) && are_found(&table, &others));
        // One goes, one comes; and the other is still one too many.
        assert!(table.remove(crowd[5].id, Timestamp(0)));
        assert!(!are_found(&table, &crowd[5..6]));
        insert(&crowd[room..=room]);
        assert_eq!(table.insert(&crowd[room + 1], Timestamp(0)), Err(InsertError::Full));
        let there: Vec<_> = (0..=room).filter(|n| *n != 5).map(|n| crowd[n]).collect();
        assert!(are_found(&table, &there) && are_found(&table, &others));
        for spec in &there {
            assert!(table.remove(spec.id, Timestamp(0)));
        }
        insert(&crowd[room + 1..]);
        assert!(are_found(&table, &crowd[room + 1..]) && are_found(&table, &others));
    }
}
