//! The table under a scheduler that tries interleavings: `cargo test -p conntrack --features shuttle`.
#![cfg(feature = "shuttle")]

mod common;
use common::*;
use conntrack::*;
use shuttle::{check_pct, check_random, thread};
use std::collections::HashMap;
use std::sync::Arc;

/// Sessions of one tuple, told apart by what they translate to.
fn nth(n: u16) -> SessionSpec {
    let mut spec = session(0);
    spec.id = SessionId(u64::from(n) + 1);
    spec.protocol = 6;
    spec.translated.source_port = 2000 + n;
    let macs = |direction| MacPair { source: [2, 0, 0, direction, 0, n as u8], destination: [2; 6] };
    spec.l2 = Some(L2 { forward: macs(1), reverse: macs(2) });
    spec
}

/// Runs `test` under two schedulers: at random, and with few but unlucky switches.
fn explore(test: fn()) {
    check_random(test, 1500);
    check_pct(test, 1500, 3);
}

/// A flow in hand stays as it was found, whatever becomes of its session and slot, MACs included; what was kept of them in a
/// generation is right throughout it; and the report of each session has exactly what was counted on it.
#[test]
fn flows_in_hand_stay_and_counters_are_exact() {
    explore(|| {
        let table = table(2);
        table.insert(&nth(0), Timestamp(0)).unwrap();
        let [key, _] = keys(&nth(0));
        let mut reader = table.reader().unwrap();
        let worker = thread::spawn(move || {
            let table = Arc::clone(reader.table());
            let mut counted: HashMap<u16, u64> = HashMap::new();
            let mut kept = HashMap::new();
            for now in 1..4 {
                let burst = reader.enter();
                let mut flows = [None; 2];
                burst.lookup_v4(&[key, key], Timestamp(now), &mut flows);
                let generation = table.l2_generation();
                for flow in flows.iter().flatten() {
                    let before = flow.rewrite();
                    let l2 = *kept.entry((before.l2, generation)).or_insert_with(|| burst.l2(before.l2));
                    flow.count(Timestamp(now), 10);
                    thread::yield_now();
                    let after = flow.rewrite();
                    assert_eq!((before.source, before.source_port), (after.source, after.source_port));
                    assert_eq!((before.l2, l2), (after.l2, flow.l2()));
                    let n = u16::from_be_bytes(before.source_port) - 2000;
                    assert_eq!(l2.macs, Macs::new([2; 6], [2, 0, 0, 1, 0, n as u8]));
                    *counted.entry(u16::from_be_bytes(before.source_port)).or_default() += 1;
                }
            }
            counted
        });
        let mut closed = Vec::new();
        for n in 0..4 {
            assert!(table.remove(nth(n).id, Timestamp(5)));
            table.maintain(Timestamp(5), 10, &mut |session| closed.push(*session));
            // Slots run out while the worker holds a burst.
            while let Err(reason) = table.insert(&nth(n + 1), Timestamp(5)) {
                assert_eq!(reason, InsertError::Full);
                table.maintain(Timestamp(5), 10, &mut |session| closed.push(*session));
                thread::yield_now();
            }
        }
        let counted = worker.join().unwrap();
        assert!(table.remove(nth(4).id, Timestamp(6)));
        closed.extend(settle(&table, 6));
        assert_eq!(closed.len(), 5, "each is reported once");
        for session in closed {
            let port = session.info.spec.translated.source_port;
            let packets = counted.get(&port).copied().unwrap_or(0);
            let expected =
                Counters { in_packets: packets, in_bytes: 10 * packets, out_packets: 0, out_bytes: 0 };
            assert_eq!(session.info.counters, expected, "{port}");
        }
    });
}

/// RSTs on both directions, a removal, maintenance and a successor, all at once: each session is reported once, and the
/// successor is untouched.
#[test]
fn ends_are_reported_once() {
    explore(|| {
        let table = table(2);
        table.insert(&nth(0), Timestamp(0)).unwrap();
        let workers: Vec<_> = keys(&nth(0))
            .into_iter()
            .map(|key| {
                let mut reader = table.reader().unwrap();
                thread::spawn(move || {
                    let burst = reader.enter();
                    let mut flows = [None];
                    burst.lookup_v4(&[key], Timestamp(1), &mut flows);
                    let mut ended = 0;
                    // Of the first session only; the forward flow of the second has the same key.
                    if let [Some(flow)] = flows
                        && flow.rewrite().source_port != 2001u16.to_be_bytes()
                    {
                        flow.observe(TcpFlags(TcpFlags::RST), Timestamp(1));
                        assert!(flow.is_dead());
                        ended += 1;
                    }
                    ended
                })
            })
            .collect();
        let remover = {
            let table = Arc::clone(&table);
            thread::spawn(move || {
                let mut closed = Vec::new();
                let removed = table.remove(nth(0).id, Timestamp(1));
                table.maintain(Timestamp(1), 10, &mut |session| closed.push(*session));
                (removed, closed)
            })
        };
        // Succeeds once the first is gone, and again and again tells who is in the way until then.
        let mut inserted = table.insert(&nth(1), Timestamp(1));
        let (removed, mut closed) = remover.join().unwrap();
        let ended: u32 = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
        closed.extend(settle(&table, 1));
        if inserted.is_err() {
            assert_eq!(inserted, Err(InsertError::FlowExists(1)));
            inserted = table.insert(&nth(1), Timestamp(1));
        }
        assert_eq!(inserted, Ok(()));
        closed.extend(settle(&table, 1));
        let first: Vec<_> = closed.iter().filter(|session| session.info.spec.id == nth(0).id).collect();
        assert_eq!(first.len(), 1);
        assert!(removed || ended > 0);
        assert_eq!(first[0].code, if removed { CloseCode::Deleted } else { CloseCode::Rst });
    });
}

/// Several writers: ids and tuples are given once, capacity holds, nothing is lost.
#[test]
fn writers_keep_the_count() {
    explore(|| {
        let table = table(2);
        let writers: Vec<_> = (0..3u32)
            .map(|n| {
                let table = Arc::clone(&table);
                thread::spawn(move || {
                    let mut done = (0, 0);
                    for session in [session(n), session((n + 1) % 3)] {
                        done.0 += u64::from(table.insert(&session, Timestamp(0)).is_ok());
                        done.1 += u64::from(table.remove(session.id, Timestamp(0)));
                        table.maintain(Timestamp(0), 1, &mut |_| {});
                        assert!(table.stats().active <= 2);
                    }
                    done
                })
            })
            .collect();
        let (mut inserted, mut removed) = (0, 0);
        for writer in writers {
            let done = writer.join().unwrap();
            inserted += done.0;
            removed += done.1;
        }
        settle(&table, 0);
        let stats = table.stats();
        assert_eq!((stats.installed, stats.closed), (inserted, removed));
        assert_eq!(stats.active, inserted - removed);
    });
}
