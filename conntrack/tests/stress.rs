//! Threads at full speed on one table: a worker, a writer that inserts, removes and reuses, and a thread that maintains and
//! lists. Also what a memory checker runs: `CONNTRACK_STRESS_ROUNDS=20 valgrind target/debug/deps/stress-…`.
#![cfg(not(feature = "shuttle"))]

mod common;
use common::*;
use conntrack::*;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;

const SESSIONS: u32 = 500;
/// Sessions below this number stay all the time.
const STAY: u32 = 100;

/// Session `n` in its `turn`-th life: same tuple, other translation.
fn life(n: u32, turn: u32) -> SessionSpec {
    let mut spec = session(n);
    spec.id = SessionId((u64::from(turn) << 32) + u64::from(n) + 1);
    spec.translated.source = v4(0x3000_0000 + (turn << 10) + n);
    spec
}

/// Looks all sessions up again and again, counts a packet on each it finds, checks that what it holds stays. The packets
/// by translated address.
fn work(table: &Arc<SessionTable>, stop: &AtomicBool, bursts: &AtomicU64) -> HashMap<[u8; 4], u64> {
    let mut reader = table.reader().unwrap();
    let mut counted = HashMap::new();
    let all: Vec<_> = (0..SESSIONS).map(|n| keys(&life(n, 0))[0]).collect();
    while !stop.load(Relaxed) {
        for (i, keys) in all.chunks(32).enumerate() {
            let burst = reader.enter();
            let mut flows = [None; 32];
            burst.lookup_v4(keys, Timestamp(1), &mut flows);
            let before: Vec<_> = flows.iter().flatten().map(|flow| flow.rewrite().source).collect();
            for (j, flow) in flows.iter().enumerate().take(keys.len()) {
                assert!(flow.is_some() || i * 32 + j >= STAY as usize, "one that stays was missed");
                if let Some(flow) = flow {
                    flow.count(Timestamp(1), 100);
                    *counted.entry(flow.rewrite().source).or_default() += 1;
                }
            }
            let after: Vec<_> = flows.iter().flatten().map(|flow| flow.rewrite().source).collect();
            assert_eq!(before, after);
            bursts.fetch_add(1, Relaxed);
        }
    }
    counted
}

#[test]
fn counters_are_exact_while_slots_are_reused() {
    let rounds = std::env::var("CONNTRACK_STRESS_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(400);
    let table = table(SESSIONS);
    for n in 0..SESSIONS {
        table.insert(&life(n, 0), Timestamp(0)).unwrap();
    }
    let (stop, bursts, closed) = (AtomicBool::new(false), AtomicU64::new(0), Mutex::new(Vec::new()));
    let counted = thread::scope(|scope| {
        // One worker only: a direction belongs to one.
        let worker = scope.spawn(|| work(&table, &stop, &bursts));
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                table.maintain(Timestamp(1), 100, &mut |session| closed.lock().unwrap().push(*session));
                let mut listed = Vec::new();
                let mut cursor = 0;
                loop {
                    cursor = table.list(cursor, 50, &mut listed);
                    if cursor == 0 {
                        break;
                    }
                }
                let stay = listed.iter().filter(|info| info.spec.id.0 <= u64::from(STAY)).count();
                assert_eq!(stay, STAY as usize);
            }
        });
        for turn in 1..=rounds {
            let seen = bursts.load(Relaxed);
            for n in STAY..SESSIONS {
                assert!(table.remove(life(n, turn - 1).id, Timestamp(1)));
                // Slots run out when the worker is not scheduled for long.
                while table.insert(&life(n, turn), Timestamp(1)) == Err(InsertError::Full) {
                    thread::yield_now();
                }
            }
            while bursts.load(Relaxed) == seen {
                thread::yield_now();
            }
        }
        stop.store(true, Relaxed);
        worker.join().unwrap()
    });
    let mut closed = closed.into_inner().unwrap();
    table.flush(Timestamp(1));
    closed.extend(settle(&table, 1));
    assert_eq!(closed.len() as u64, table.stats().installed);
    let mut reported = HashMap::new();
    for session in &closed {
        if let std::net::IpAddr::V4(address) = session.info.spec.translated.source {
            assert_eq!(session.info.counters.in_bytes, 100 * session.info.counters.in_packets);
            if session.info.counters.in_packets > 0 {
                assert_eq!(reported.insert(address.octets(), session.info.counters.in_packets), None);
            }
        }
    }
    assert_eq!(reported, counted);
}
