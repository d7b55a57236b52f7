use super::*;
use conntrack::{Action, Counters, LifIndex, SessionInfo, SessionSpec, SessionState, Timestamp, Tuple};
use std::net::{IpAddr, Ipv4Addr};

fn record(id: u64) -> Closed {
    let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    let tuple = Tuple { source: address, destination: address, source_port: 1, destination_port: 2 };
    let spec = SessionSpec {
        id: SessionId(id),
        in_lif: LifIndex(0),
        out_lif: LifIndex(1),
        protocol: 6,
        original: tuple,
        translated: tuple,
        l2: None,
        action: Action::Forward,
        idle_timeout: None,
        hard_timeout: None,
        limit: None,
        owner: 0,
    };
    let info = SessionInfo {
        spec,
        counters: Counters::default(),
        state: SessionState::Established,
        start: Timestamp(0),
        last_seen: Timestamp(0),
    };
    Closed { info, code: CloseCode::Deleted, end: Timestamp(1) }
}

fn report(log: &ClosedLog, ids: std::ops::Range<u64>) {
    log.report(&ids.map(record).collect::<Vec<_>>());
}

fn drain_all(log: &Arc<ClosedLog>) -> Vec<u64> {
    let mut drain = Drain::new(log.clone(), None, usize::MAX);
    let mut ids = Vec::new();
    loop {
        let batch = drain.next_batch(3);
        if batch.is_empty() {
            drain.confirm();
            return ids;
        }
        ids.extend(batch.iter().map(|r| r.info.spec.id.0));
    }
}

#[test]
fn drains_once_in_order() {
    let log = ClosedLog::new(100, 1);
    report(&log, 0..10);
    assert_eq!(drain_all(&log), (0..10).collect::<Vec<_>>());
    assert!(drain_all(&log).is_empty());
}

/// A record of another owner.
fn of(owner: u16, ids: std::ops::Range<u64>) -> Vec<Closed> {
    let mut records: Vec<_> = ids.map(record).collect();
    records.iter_mut().for_each(|record| record.info.spec.owner = owner);
    records
}

#[test]
fn owners_drain_their_own() {
    let log = ClosedLog::new(100, 1);
    log.report(&[of(7, 0..5), of(8, 10..12), of(7, 5..8)].concat());
    let ids = |batch: &[Closed]| batch.iter().map(|r| r.info.spec.id.0).collect::<Vec<_>>();
    let mut drain = Drain::new(log.clone(), Some(7), usize::MAX);
    assert_eq!(ids(drain.next_batch(6)), [0, 1, 2, 3, 4, 5]);
    assert_eq!(log.len(), 4);
    drop(drain);
    assert_eq!(log.len(), 10, "a broken drain loses nothing");
    let mut drain = Drain::new(log.clone(), Some(7), usize::MAX);
    assert_eq!(ids(drain.next_batch(100)), [0, 1, 2, 3, 4, 5, 6, 7]);
    drain.confirm();
    assert!(Drain::new(log.clone(), Some(9), usize::MAX).next_batch(100).is_empty());
    assert_eq!(drain_all(&log), [10, 11]);
    assert!(log.is_empty());
}

/// One who never reads does not cost the others their records.
#[test]
fn the_oldest_of_whoever_has_the_most_are_dropped() {
    let log = ClosedLog::new(10, 1);
    log.report(&of(1, 0..3));
    log.report(&of(2, 100..1000));
    assert_eq!((log.len(), log.dropped()), (10, 893));
    log.report(&of(3, 5000..5004));
    assert_eq!((log.len(), log.dropped()), (10, 897));
    let ids = |owner| {
        let mut drain = Drain::new(log.clone(), Some(owner), usize::MAX);
        drain.next_batch(100).iter().map(|r| r.info.spec.id.0).collect::<Vec<_>>()
    };
    assert_eq!((ids(1), ids(2), ids(3)), (vec![0, 1, 2], vec![997, 998, 999], vec![5000, 5001, 5002, 5003]));
}

#[test]
fn a_drain_ends_though_more_closes() {
    let log = ClosedLog::new(100, 1);
    report(&log, 0..4);
    let mut drain = Drain::new(log.clone(), None, usize::MAX);
    assert_eq!(drain.next_batch(3).len(), 3);
    report(&log, 4..20);
    assert_eq!(drain.next_batch(3).len(), 1);
    assert!(drain.next_batch(3).is_empty());
    drain.confirm();
    drop(drain);
    assert_eq!(drain_all(&log), (4..20).collect::<Vec<_>>());
}

#[test]
fn a_broken_drain_loses_nothing() {
    let log = ClosedLog::new(100, 1);
    report(&log, 0..10);
    let mut drain = Drain::new(log.clone(), None, usize::MAX);
    assert_eq!(drain.next_batch(7).len(), 7);
    report(&log, 10..12);
    drop(drain);
    assert_eq!(drain_all(&log), (0..12).collect::<Vec<_>>());
}

#[test]
fn two_drains_share() {
    let log = ClosedLog::new(100, 1);
    report(&log, 0..10);
    let mut a = Drain::new(log.clone(), None, usize::MAX);
    let mut b = Drain::new(log.clone(), None, usize::MAX);
    assert_eq!(a.next_batch(6).len(), 6);
    assert_eq!(b.next_batch(6).len(), 4);
    assert!(a.next_batch(6).is_empty());
    a.confirm();
    drop((a, b));
    assert_eq!(drain_all(&log), (6..10).collect::<Vec<_>>());
}

#[test]
fn a_drain_takes_no_more_than_its_limit() {
    let log = ClosedLog::new(100, 1);
    report(&log, 0..10);
    let mut drain = Drain::new(log.clone(), None, 4);
    assert_eq!(drain.next_batch(100).len(), 4);
    assert!(drain.next_batch(100).is_empty());
    drain.confirm();
    assert_eq!(log.len(), 6);
}

#[test]
fn the_oldest_go_when_nobody_reads() {
    let log = ClosedLog::new(5, 1);
    report(&log, 0..3);
    report(&log, 3..8);
    assert_eq!(log.dropped(), 3);
    report(&log, 8..20);
    assert_eq!(log.dropped(), 15);
    assert_eq!(drain_all(&log), (15..20).collect::<Vec<_>>());
}

#[test]
fn records_out_with_a_reader_count_against_the_capacity() {
    let log = ClosedLog::new(5, 1);
    report(&log, 0..4);
    let mut drain = Drain::new(log.clone(), None, usize::MAX);
    assert_eq!(drain.next_batch(4).len(), 4);
    report(&log, 4..7);
    assert_eq!(log.dropped(), 2);
    drop(drain);
    assert_eq!(drain_all(&log), [0, 1, 2, 3, 6]);
}

#[test]
fn whoever_removes_gets_the_record() {
    let log = ClosedLog::new(5, 1);
    let (to, mut from) = mpsc::unbounded_channel();
    assert!(!log.removed(SessionId(7), &to, || false));
    assert!(log.removed(SessionId(7), &to, || true));
    let mut timed_out = record(7);
    timed_out.code = CloseCode::Timeout;
    log.report(&[timed_out, record(8), record(7)]);
    assert_eq!(from.try_recv().map(|r| r.code), Ok(CloseCode::Deleted));
    assert!(from.try_recv().is_err());
    assert_eq!(log.len(), 3);
    assert!(lock(&log.waiters).is_empty());
}

#[test]
fn a_late_listener_is_told_what_it_lost() {
    let log = ClosedLog::new(5, 4);
    let mut watcher = log.watch();
    report(&log, 0..10);
    assert_eq!(watcher.try_recv(), Err(broadcast::error::TryRecvError::Lagged(6)));
    assert_eq!(watcher.try_recv().map(|r| r.info.spec.id.0), Ok(6));
}
