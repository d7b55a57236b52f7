//! The table through its public interface.
#![cfg(not(feature = "shuttle"))]

mod common;
use common::*;
use conntrack::*;

#[test]
fn a_session_lives_and_is_reported() {
    let table = table(10);
    let mut reader = table.reader().unwrap();
    let spec = session(0);
    let [forward, reverse] = keys(&spec);
    table.insert(&spec, Timestamp(1000)).unwrap();
    assert!(hit(&mut reader, forward, 2000, 100));
    assert!(hit(&mut reader, reverse, 3000, 60));
    assert!(hit(&mut reader, reverse, 3500, 60));
    let info = table.get(spec.id).unwrap();
    assert_eq!(info.spec, spec);
    assert_eq!((info.start, info.last_seen), (Timestamp(1000), Timestamp(3500)));
    assert!(settle(&table, 33_499).is_empty());
    assert!(hit(&mut reader, forward, 33_499, 0));
    assert!(!hit(&mut reader, forward, 33_500, 0), "expired, though nobody noticed yet");
    let closed = settle(&table, 40_000);
    assert_eq!(closed.len(), 1);
    assert_eq!(closed[0].code, CloseCode::Timeout);
    assert_eq!(closed[0].end, Timestamp(33_500));
    let counters = Counters { in_packets: 1, in_bytes: 100, out_packets: 2, out_bytes: 120 };
    assert_eq!(closed[0].info, SessionInfo { counters, ..info });
    assert_eq!(table.get(spec.id), None);
    assert!(settle(&table, 50_000).is_empty());
    assert_eq!(table.stats(), TableStats { capacity: 10, active: 0, installed: 1, rejected: 0, closed: 1 });
}

#[test]
fn fills_to_exactly_capacity() {
    for capacity in [1, 7, 100, 3000, 100_000] {
        let table = table(capacity);
        for n in 0..capacity {
            let spec = if n % 10 == 9 { session_v6(n) } else { session(n) };
            table.insert(&spec, Timestamp(0)).unwrap();
        }
        for n in capacity..capacity + 10 {
            assert_eq!(table.insert(&session(n), Timestamp(0)), Err(InsertError::Full));
        }
        assert!(table.remove(SessionId(1), Timestamp(1)));
        assert_eq!(table.insert(&session(capacity), Timestamp(1)), Ok(()), "a slot at once for one removed");
        assert_eq!(table.insert(&session(0), Timestamp(1)), Err(InsertError::Full));
        let mut reader = table.reader().unwrap();
        for n in (1..=capacity).filter(|n| n % 10 != 9) {
            assert!(keys(&session(n)).into_iter().all(|key| hit(&mut reader, key, 1, 0)), "{n}");
        }
        assert_eq!(table.stats().active, u64::from(capacity));
        assert_eq!(table.flush(Timestamp(2)), u64::from(capacity));
        assert_eq!(settle(&table, 2).len(), capacity as usize + 1);
    }
}
