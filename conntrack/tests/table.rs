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
    assert_eq!(table.stats(), TableStats { capacity: 10, installed: 1, closed: 1, ..TableStats::default() });
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

type Change = fn(&mut SessionSpec);

#[test]
fn contradictions_are_refused() {
    let cases: [(&str, Change); 29] = [
        ("reserved", |s| s.id = SessionId(0)),
        ("idle timeout", |s| s.idle_timeout = Some(0)),
        ("idle timeout", |s| s.idle_timeout = Some((1 << 21) + 1)),
        ("hard timeout", |s| s.hard_timeout = Some(0)),
        ("hard timeout", |s| s.hard_timeout = Some((1 << 21) + 1)),
        ("a rate limit needs", |s| s.limit = Some(RateLimit { packets: 0, bytes: 0, burst_ms: 1 })),
        ("limit's burst", |s| s.limit = Some(RateLimit { packets: 1, bytes: 0, burst_ms: 0 })),
        ("limit's burst", |s| s.limit = Some(RateLimit { packets: 1, bytes: 0, burst_ms: 60_001 })),
        ("all be IPv4", |s| s.translated = session_v6(0).translated),
        ("all be IPv4", |s| s.original.source = v6(1 << 120)),
        ("unicast", |s| s.original.source = v4(0)),
        ("unicast", |s| s.original.source = v4(u32::MAX)),
        ("unicast", |s| s.translated.destination = v4(0xe000_0001)),
        ("missing", |s| s.protocol = 0),
        ("both ports", |s| s.original.source_port = 0),
        ("both ports", |s| s.translated.destination_port = 0),
        ("no destination port", |s| s.protocol = 1),
        ("ICMPv6 with IPv6", |s| s.protocol = 58),
        ("no ports", |s| s.protocol = 47),
        ("extension header", |s| *s = SessionSpec { protocol: 44, ..session_v6(0) }),
        ("ICMPv6 with IPv6", |s| *s = SessionSpec { protocol: 1, ..session_v6(0) }),
        ("cannot be translated", |s| {
            s.protocol = 33;
            for tuple in [&mut s.original, &mut s.translated] {
                (tuple.source_port, tuple.destination_port) = (0, 0);
            }
        }),
        ("collector", |s| s.action = Action::Mirror(v4(0xe000_0001))),
        ("collector", |s| s.action = Action::Snoop(v4(0))),
        ("MAC", |s| s.l2 = Some(l2([1, 0, 0x5e, 0, 0, 1]))),
        ("MAC", |s| s.l2 = Some(l2([0; 6]))),
        ("MAC", |s| s.l2 = Some(l2([0xff; 6]))),
        ("look the same", |s| {
            s.out_lif = s.in_lif;
            s.translated = swapped(&s.original);
        }),
        ("look the same", |s| {
            s.protocol = 50;
            s.out_lif = s.in_lif;
            s.original = tuple(v4(0x0a00_0001), 0, v4(0x0a00_0001), 0);
            s.translated = s.original;
        }),
    ];
    let table = table(4);
    for (wanted, change) in cases {
        let mut spec = session(0);
        change(&mut spec);
        match table.insert(&spec, Timestamp(0)) {
            Err(InsertError::Invalid(reason)) => {
                assert!(reason.contains(wanted), "{reason:?}, not {wanted:?}")
            }
            other => panic!("{wanted}: {other:?}"),
        }
    }
    assert_eq!(table.stats(), TableStats { capacity: 4, rejected: 29, ..TableStats::default() });
}

fn l2(mac: [u8; 6]) -> L2 {
    let good = MacPair { source: [2; 6], destination: [2; 6] };
    L2 { forward: good, reverse: MacPair { destination: mac, ..good } }
}

#[test]
fn duplicates_are_told_apart_and_leave_the_first_alone() {
    let table = table(4);
    table.insert(&session(0), Timestamp(0)).unwrap();
    let mut other_tuple = session(1);
    other_tuple.id = session(0).id;
    assert_eq!(table.insert(&other_tuple, Timestamp(0)), Err(InsertError::IdExists(1)));
    let mut same_forward = session(0);
    same_forward.id = SessionId(9);
    same_forward.translated.source_port = 9;
    assert_eq!(table.insert(&same_forward, Timestamp(0)), Err(InsertError::FlowExists(1)));
    let mut same_reverse = session(1);
    same_reverse.translated = session(0).translated;
    assert_eq!(table.insert(&same_reverse, Timestamp(0)), Err(InsertError::FlowExists(1)));
    let mut other_lifs = session(0);
    (other_lifs.id, other_lifs.in_lif, other_lifs.out_lif) = (SessionId(9), LifIndex(3), LifIndex(4));
    assert_eq!(table.insert(&other_lifs, Timestamp(0)), Ok(()));
    assert_eq!(table.get(SessionId(1)).unwrap().spec, session(0));
    assert_eq!(table.stats().active, 2);
}

#[test]
fn batches_answer_each_session() {
    let table = table(40);
    let mut specs: Vec<_> = (0..50).map(session).collect();
    specs[3] = specs[2];
    specs[5].idle_timeout = Some(0);
    let mut results = Vec::new();
    table.insert_batch(&specs, Timestamp(0), &mut results);
    assert_eq!(results.len(), 50);
    assert_eq!(results[3], Err(InsertError::IdExists(3)));
    assert!(matches!(results[5], Err(InsertError::Invalid(_))));
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 40);
    assert!(results[42..].iter().all(|result| *result == Err(InsertError::Full)));
}

#[test]
fn batches_of_any_length_are_as_one_by_one() {
    for length in 0..150 {
        let (batch, single) = (table(120), table(120));
        let mut specs: Vec<_> = (0..length).map(session).collect();
        for at in (9..length as usize).step_by(10) {
            specs[at] = specs[at - 1 - at % 9];
        }
        specs.iter_mut().skip(7).step_by(11).for_each(|spec| spec.idle_timeout = Some(0));
        let mut results = vec![Ok(())];
        batch.insert_batch(&specs, Timestamp(0), &mut results);
        let expected: Vec<_> = specs.iter().map(|spec| single.insert(spec, Timestamp(0))).collect();
        assert_eq!(results[1..], expected, "a batch of {length}");
        assert_eq!(batch.stats(), single.stats());
    }
}

#[test]
fn resets_and_fins_close() {
    let table = table(4);
    let tcp_session = |n| SessionSpec { protocol: 6, ..session(n) };
    for spec in [tcp_session(0), tcp_session(1), tcp_session(2), session(3)] {
        table.insert(&spec, Timestamp(0)).unwrap();
    }
    let mut reader = table.reader().unwrap();
    let mut observe = |spec: &SessionSpec, reverse: bool, flags: u8, now: u64| {
        let burst = reader.enter();
        let mut flows = [None, None];
        burst.lookup_v4(&keys(spec), Timestamp(now), &mut flows);
        let [forward, seen] = flows.map(Option::unwrap);
        if reverse { seen } else { forward }.observe(TcpFlags(flags), Timestamp(now));
        assert_eq!(forward.is_dead(), seen.is_dead());
        forward.is_dead()
    };
    assert!(!observe(&session(3), false, TcpFlags::RST, 1), "UDP has no flags");
    let mut tcp = |n, reverse, flags, now| observe(&tcp_session(n), reverse, flags, now);
    assert!(!tcp(0, false, TcpFlags::SYN, 1));
    assert!(!tcp(0, false, TcpFlags::FIN | TcpFlags::ACK, 1));
    assert!(!tcp(0, false, TcpFlags::FIN | TcpFlags::ACK, 2), "again the same side");
    assert_eq!(table.get(SessionId(1)).unwrap().state, SessionState::Closing1);
    assert!(tcp(0, true, TcpFlags::FIN | TcpFlags::ACK, 3));
    assert_eq!(table.get(SessionId(1)).unwrap().state, SessionState::Closing2);
    assert!(!table.remove(SessionId(1), Timestamp(3)), "closing already");
    assert!(tcp(1, true, TcpFlags::RST, 4));
    // Its tuple is free at once, before anybody maintains.
    let successor = SessionSpec { id: SessionId(77), ..tcp_session(1) };
    assert_eq!(table.insert(&successor, Timestamp(5)), Ok(()));
    let mut closed: Vec<_> = settle(&table, 5).into_iter().map(|c| (c.info.spec.id.0, c.code)).collect();
    closed.sort_by_key(|(id, _)| *id);
    assert_eq!(closed, [(1, CloseCode::FinAck), (2, CloseCode::Rst)]);
    assert_eq!(table.stats().active, 3);
}

#[test]
fn a_held_burst_delays_the_report_and_nothing_else() {
    let table = table(2);
    let (mut busy, mut idle) = (table.reader().unwrap(), table.reader().unwrap());
    table.insert(&session(0), Timestamp(0)).unwrap();
    let [key, _] = keys(&session(0));
    let burst = busy.enter();
    let mut flows = [None];
    burst.lookup_v4(&[key], Timestamp(0), &mut flows);
    let flow = flows[0].unwrap();
    assert!(table.remove(SessionId(1), Timestamp(1)));
    assert!(!hit(&mut idle, key, 1, 1), "out of sight at once");
    assert!(flow.is_dead());
    assert!(settle(&table, 2).is_empty());
    table.insert(&session(0), Timestamp(2)).unwrap();
    flow.count(Timestamp(2), 1000);
    drop(burst);
    let closed = settle(&table, 3);
    assert_eq!(closed.len(), 1);
    assert_eq!((closed[0].info.counters.in_bytes, closed[0].end), (1000, Timestamp(1)));
    assert_eq!(table.get(SessionId(1)).unwrap().counters, Counters::default());
}

#[test]
fn timeouts_of_any_length_are_exact() {
    for (seconds, step) in
        [(1, 1), (2, 7), (255, 999), (7440, 60_000), (86_400, 3_600_000), (1 << 21, 1 << 30)]
    {
        let table = table(3);
        let mut reader = table.reader().unwrap();
        let [key, _] = keys(&session(0));
        let begin = u64::from(u32::MAX) - 5000;
        table.insert(&SessionSpec { idle_timeout: Some(seconds), ..session(0) }, Timestamp(begin)).unwrap();
        let end = begin + 500 + u64::from(seconds) * 1000;
        assert!(hit(&mut reader, key, begin + 500, 1));
        let mut now = begin;
        while now + step < end {
            now += step;
            assert!(settle(&table, now).is_empty(), "{seconds} s, {now}");
        }
        assert!(hit(&mut reader, key, end - 1, 0));
        assert!(!hit(&mut reader, key, end, 0));
        assert!(settle(&table, end - 1).is_empty());
        let closed = settle(&table, end.next_multiple_of(TICK));
        assert_eq!(closed.len(), 1, "{seconds} s");
        assert_eq!((closed[0].end, closed[0].code), (Timestamp(end), CloseCode::Timeout));
    }
}

/// Where time stops, nothing waits for a tick, and what is not due does not end.
#[test]
fn settled_is_to_the_millisecond() {
    for (now, ends) in [(1000, &[][..]), (1001, &[1001]), (1002, &[1001, 1002]), (1009, &[1001, 1002, 1009])]
    {
        let table = table(3);
        for (n, begin) in [(0, 1), (1, 2), (2, 9)] {
            let session = SessionSpec { idle_timeout: Some(1), ..session(n) };
            table.insert(&session, Timestamp(begin)).unwrap();
        }
        let mut closed = Vec::new();
        // The second turn reports what the first has ended.
        for _ in 0..2 {
            table.settle(Timestamp(now), &mut |session| closed.push(session.end.0));
        }
        closed.sort_unstable();
        assert_eq!(closed, ends, "{now}");
        // The others are not lost.
        assert_eq!(closed.len() + settle(&table, 1050).len() + settle(&table, 1050).len(), 3);
    }
}

/// A direction without packets has a stamp as old as the session, of which 32 bits are kept.
#[test]
fn sessions_of_one_direction_time_out_after_weeks_as_well() {
    for reverse in [false, true] {
        let table = table(3);
        let mut reader = table.reader().unwrap();
        let key = keys(&session(0))[usize::from(reverse)];
        table.insert(&SessionSpec { idle_timeout: Some(300), ..session(0) }, Timestamp(0)).unwrap();
        let mut now = 0;
        while now < (1 << 31) + (1 << 29) {
            now += 200_000;
            assert!(hit(&mut reader, key, now, 1), "{now}");
            assert!(settle(&table, now).is_empty(), "{now}");
        }
        let end = now + 300_000;
        assert_eq!(table.get(session(0).id).unwrap().last_seen, Timestamp(now));
        assert!(!hit(&mut reader, key, end, 0));
        let closed = settle(&table, end.next_multiple_of(TICK));
        assert_eq!(closed.len(), 1);
        assert_eq!((closed[0].end, closed[0].code), (Timestamp(end), CloseCode::Timeout));
    }
}

/// Whatever the traffic, idle timeout and order of lookups and maintenance.
#[test]
fn hard_timeouts_are_exact() {
    for (hard, idle) in [(1, 30), (60, 30), (600, 30), (2, 1 << 21), (1 << 21, 1 << 21)] {
        let table = table(3);
        let mut reader = table.reader().unwrap();
        let begin = u64::from(u32::MAX) - 5000;
        let session = SessionSpec { hard_timeout: Some(hard), idle_timeout: Some(idle), ..session(0) };
        let [key, back] = keys(&session);
        table.insert(&session, Timestamp(begin)).unwrap();
        assert_eq!(table.get(session.id).unwrap().spec, session);
        let end = begin + u64::from(hard) * 1000;
        let step = (u64::from(idle) * 900).min(u64::from(hard) * 170);
        let (mut now, mut packets) = (begin, 0);
        while now + step < end {
            now += step;
            packets += 1;
            assert!(hit(&mut reader, key, now, 1));
            assert!(settle(&table, now).is_empty(), "{hard} s, {now}");
        }
        assert!(hit(&mut reader, back, end - 1, 1));
        assert!(!hit(&mut reader, key, end, 1) && !hit(&mut reader, back, end, 1));
        assert!(settle(&table, end - 1).is_empty());
        let successor = SessionSpec { id: SessionId(9), hard_timeout: None, ..session };
        table.insert(&successor, Timestamp(end)).unwrap();
        let closed = settle(&table, end + 1);
        assert_eq!(closed.len(), 1, "{hard} s");
        assert_eq!((closed[0].end, closed[0].code), (Timestamp(end), CloseCode::Timeout));
        assert_eq!(closed[0].info.counters.in_packets, packets);
        assert_eq!(table.get(successor.id).unwrap().spec, successor);
    }
    let table = table(3);
    table.insert(&SessionSpec { hard_timeout: Some(2), ..session(0) }, Timestamp(5)).unwrap();
    assert!(settle(&table, 2004).is_empty());
    assert_eq!(settle(&table, 2005 + TICK).len(), 1, "without traffic, by the wheel");
}

/// Slots are used again: a session without limit and deadline has none of its predecessors'.
#[test]
fn limits_end_with_their_session() {
    let table = table(1);
    let limit = Some(RateLimit { packets: 2, bytes: 0, burst_ms: 1000 });
    let limited = SessionSpec { limit, ..session(0) };
    for turn in 0..5 {
        let spec = if turn % 2 == 0 { limited } else { session(0) };
        table.insert(&spec, Timestamp(turn)).unwrap();
        let mut reader = table.reader().unwrap();
        let burst = reader.enter();
        let mut flows = [None; 2];
        let keys = keys(&spec);
        burst.lookup_v4(&keys, Timestamp(turn), &mut flows);
        let flows = flows.map(Option::unwrap);
        let passed = (0..50).filter(|n| flows[n % 2].admit(Timestamp(turn), 100)).count();
        assert_eq!(passed, if turn % 2 == 0 { 2 } else { 50 }, "both directions together");
        drop(burst);
        drop(reader);
        assert_eq!(table.get(spec.id).unwrap().spec, spec);
        table.remove(spec.id, Timestamp(turn));
        assert_eq!(settle(&table, turn)[0].info.spec, spec);
    }
}

#[test]
fn owners_remove_their_own() {
    let table = table(10);
    for n in 0..10 {
        table.insert(&SessionSpec { owner: (n % 3) as u16, ..session(n) }, Timestamp(0)).unwrap();
    }
    assert!(!table.remove_of(1, session(0).id, Timestamp(1)), "of another");
    assert!(table.remove_of(0, session(0).id, Timestamp(1)));
    assert!(!table.remove_of(0, session(0).id, Timestamp(1)), "gone");
    assert_eq!(table.flush_of(2, Timestamp(1)), 3);
    assert_eq!(table.flush_of(7, Timestamp(1)), 0);
    let mut left = Vec::new();
    table.list(0, 100, &mut left);
    assert_eq!(left.iter().map(|info| info.spec.owner).collect::<Vec<_>>(), [1, 0, 1, 0, 1, 0]);
    assert_eq!(settle(&table, 1).len(), 4);
    assert_eq!(table.flush(Timestamp(2)), 6);
}

#[test]
fn defaults_are_per_protocol() {
    let table = table(5);
    for (protocol, seconds) in [(6, 7440), (17, 300), (1, 60), (47, 60)] {
        let mut spec =
            SessionSpec { id: SessionId(protocol), idle_timeout: None, ..session(protocol as u32) };
        spec.protocol = protocol as u8;
        if !matches!(protocol, 6 | 17) {
            spec.original.destination_port = 0;
            spec.translated.destination_port = 0;
        }
        if protocol == 47 {
            spec.original.source_port = 0;
            spec.translated.source_port = 0;
        }
        table.insert(&spec, Timestamp(0)).unwrap();
        assert_eq!(table.get(spec.id).unwrap().spec.idle_timeout, Some(seconds));
    }
}

#[test]
fn a_page_at_a_time_sees_each_that_stays_once() {
    let table = table(3000);
    for n in 0..2000 {
        table.insert(&if n % 3 == 0 { session_v6(n) } else { session(n) }, Timestamp(0)).unwrap();
    }
    let (mut seen, mut cursor, mut turn) = (Vec::new(), 0, 0);
    loop {
        cursor = table.list(cursor, 64, &mut seen);
        if cursor == 0 {
            break;
        }
        // Every even one stays; odd ones go, and new ones come, in between.
        for n in turn * 30..(turn + 1) * 30 {
            table.remove(SessionId(u64::from(n * 2 % 2000) + 2), Timestamp(1));
            table.insert(&session(10_000 + n), Timestamp(1)).unwrap();
        }
        settle(&table, 1);
        turn += 1;
    }
    let mut stayed: Vec<_> =
        seen.iter().map(|info| info.spec.id.0).filter(|id| id % 2 == 1 && *id <= 2000).collect();
    stayed.sort_unstable();
    assert_eq!(stayed, (0..1000).map(|n| n * 2 + 1).collect::<Vec<_>>());
}

#[test]
fn nonsense_configurations_are_refused() {
    let good =
        TableConfig { capacity: 10, timeouts: TIMEOUTS, readers: 1, hugepages: true, hash_secret: [0, 0] };
    let make = SessionTable::new;
    assert!(matches!(make(TableConfig { capacity: 0, ..good }), Err(TableError::Capacity(0))));
    assert!(matches!(make(TableConfig { capacity: u32::MAX, ..good }), Err(TableError::Capacity(_))));
    let timeouts = conntrack::table::Timeouts { udp: 0, ..TIMEOUTS };
    assert!(matches!(make(TableConfig { timeouts, ..good }), Err(TableError::Timeout(0))));
    let table = make(good).unwrap();
    let reader = table.reader().unwrap();
    assert!(matches!(table.reader(), Err(TableError::TooManyReaders(1))));
    drop(reader);
    assert!(table.reader().is_ok(), "free again");
}
