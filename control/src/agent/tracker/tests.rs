use super::super::entry::{TcpState, protocol};
use super::super::path::Side;
use super::super::session::tests::{entry, tuple};
use super::*;

const TAG: u8 = 0xa6;
const PATH: Path = Path {
    inward: Side { lif: 1, own_mac: [2, 0, 0, 0, 0, 1], next_hop_mac: [2, 0, 0, 0, 0, 5] },
    outward: Side { lif: 2, own_mac: [2, 0, 0, 0, 0, 2], next_hop_mac: [2, 0, 0, 0, 0, 9] },
};

fn connection(port: u16) -> Entry {
    let client = format!("10.0.0.1:{port}");
    entry(protocol::TCP, tuple(&client, "10.0.1.1:80"), tuple("10.0.1.1:80", &client))
}

fn tracker() -> Tracker {
    let policy = Policy { protocols: vec![6, 17], min_packets: 0, exclude_mark: None };
    let mut tracker = Tracker::new(policy, KernelTimeouts::read(), TAG);
    tracker.online(Vec::new());
    tracker
}

/// Up to the gateway having accepted it.
fn install(tracker: &mut Tracker, entry: &Entry, now: Instant) -> u64 {
    tracker.changed(entry.clone(), now);
    let (id, _) = tracker.take_lookups(10).pop().unwrap();
    tracker.looked_up(id, Ok(PATH), now);
    let batch = tracker.take_batch(10, now);
    assert_eq!(batch.adds.len(), 1);
    assert!(tracker.confirm(id, entry.clone(), now));
    tracker.added(&[id], &v1::AddSessionsResponse { accepted: 1, ..Default::default() }, now);
    id
}

fn info(id: u64, packets: u64, idle_ms: u64) -> v1::SessionInfo {
    v1::SessionInfo {
        session: Some(v1::Session { session_id: id, ..Default::default() }),
        counters: Some(v1::Counters { in_packets: packets, ..Default::default() }),
        idle_ms,
        ..Default::default()
    }
}

#[test]
fn destroyed_before_it_is_added_it_never_is() {
    let (mut tracker, now) = (tracker(), Instant::now());
    tracker.changed(connection(1), now);
    let (id, _) = tracker.take_lookups(10).pop().unwrap();
    tracker.looked_up(id, Ok(PATH), now);
    tracker.destroyed(&connection(1));
    let batch = tracker.take_batch(10, now);
    assert!(batch.adds.is_empty() && batch.deletes.is_empty());
}

#[test]
fn destroyed_while_it_is_added_it_is_deleted_after() {
    let (mut tracker, now) = (tracker(), Instant::now());
    tracker.changed(connection(1), now);
    let (id, _) = tracker.take_lookups(10).pop().unwrap();
    tracker.looked_up(id, Ok(PATH), now);
    assert_eq!(tracker.take_batch(10, now).adds.len(), 1);
    tracker.destroyed(&connection(1));
    tracker.added(&[id], &v1::AddSessionsResponse { accepted: 1, ..Default::default() }, now);
    assert_eq!(tracker.take_batch(10, now).deletes, [id]);
    assert!(tracker.installed_ids().is_empty());
}

#[test]
fn half_closed_connections_are_not_begun_but_kept() {
    let (mut tracker, now) = (tracker(), Instant::now());
    let closing = Entry { tcp_state: Some(TcpState::FinWait), ..connection(1) };
    tracker.changed(closing.clone(), now);
    assert!(tracker.take_lookups(10).is_empty());
    let id = install(&mut tracker, &connection(2), now);
    tracker.changed(Entry { tcp_state: Some(TcpState::FinWait), ..connection(2) }, now);
    assert!(tracker.take_batch(10, now).deletes.is_empty());
    assert_eq!(tracker.installed_ids(), [id]);
}

#[test]
fn unresolved_neighbours_are_tried_again_with_growing_pauses_and_then_left() {
    let (mut tracker, mut now) = (tracker(), Instant::now());
    let missing = || Err(PathError::Neighbour("10.0.1.1".parse().unwrap()));
    tracker.changed(connection(1), now);
    let mut pauses = Vec::new();
    while let Some((id, _)) = tracker.take_lookups(10).pop() {
        tracker.looked_up(id, missing(), now);
        let Some(next) = tracker.next_tick() else { break };
        pauses.push(next - now);
        now = next;
        tracker.tick(now);
    }
    assert_eq!(pauses.len(), usize::from(ATTEMPTS));
    assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]) && pauses.last() <= Some(&LONGEST_RETRY));
    assert_eq!(tracker.counters.skipped["neighbour_unresolved"], 1);
    // The next comparison begins anew.
    tracker.compare(vec![connection(1)], now, now);
    assert_eq!(tracker.take_lookups(10).len(), 1);
}

#[test]
fn a_full_table_holds_additions_back_longer_each_time() {
    let (mut tracker, mut now) = (tracker(), Instant::now());
    tracker.changed(connection(1), now);
    let (id, _) = tracker.take_lookups(10).pop().unwrap();
    tracker.looked_up(id, Ok(PATH), now);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        assert_eq!(tracker.take_batch(10, now).adds.len(), 1);
        let status = v1::AddStatus::TableFull.into();
        let error = v1::AddError { session_id: id, status, ..Default::default() };
        tracker.added(&[id], &v1::AddSessionsResponse { errors: vec![error], failed: 1, accepted: 0 }, now);
        assert!(tracker.take_batch(10, now).adds.is_empty());
        let next = tracker.next_tick().unwrap();
        pauses.push(next - now);
        now = next;
        tracker.tick(now);
    }
    assert_eq!(pauses[0], FULL_RETRY);
    assert!(pauses[7] > pauses[0] * 10, "{pauses:?}");
    assert_eq!(tracker.counters.refused["table_full"], 8);
}

#[test]
fn only_new_traffic_keeps_the_kernels_entry_alive() {
    let (mut tracker, now) = (tracker(), Instant::now());
    let id = install(&mut tracker, &connection(1), now);
    let established = tracker.timeouts.of(&connection(1), true);
    tracker.listed(vec![info(id, 3, 7_900)]);
    assert_eq!(tracker.take_refreshes(10), [(id, connection(1), established - 7)]);
    tracker.listed(vec![info(id, 3, 9_000)]);
    assert!(tracker.take_refreshes(10).is_empty());
    tracker.listed(vec![info(id, 4, 0)]);
    assert_eq!(tracker.take_refreshes(10).len(), 1);
}

#[test]
fn what_the_list_lacks_has_closed_and_what_it_has_too_much_is_deleted() {
    let (mut tracker, now) = (tracker(), Instant::now());
    let id = install(&mut tracker, &connection(1), now);
    let (stray, foreign) = (u64::from(TAG) << 56 | 5, 7);
    let later = now + Duration::from_secs(1);
    tracker.listed(vec![info(stray, 0, 0), info(foreign, 0, 0)]);
    tracker.list_complete(later, later);
    assert_eq!(tracker.take_batch(10, later).deletes, [stray]);
    assert!(!tracker.installed_ids().contains(&id));
    // A list asked for before the session was installed says nothing about it.
    let id = install(&mut tracker, &connection(2), later);
    tracker.list_complete(now, later);
    assert!(tracker.installed_ids().contains(&id));
}

#[test]
fn a_comparison_older_than_a_connection_does_not_end_it() {
    let (mut tracker, now) = (tracker(), Instant::now());
    let later = now + Duration::from_secs(1);
    let id = install(&mut tracker, &connection(1), later);
    tracker.compare(Vec::new(), now, later);
    assert_eq!(tracker.installed_ids(), [id]);
    tracker.compare(Vec::new(), later + Duration::from_secs(1), later + Duration::from_secs(1));
    assert_eq!(tracker.take_batch(10, later).deletes, [id]);
}

#[test]
fn a_session_found_with_another_path_is_replaced_and_deletions_go_first() {
    let (mut tracker, now) = (tracker(), Instant::now());
    let id = install(&mut tracker, &connection(1), now);
    tracker.recheck_paths(now);
    let (again, _) = tracker.take_lookups(10).pop().unwrap();
    let moved = Path { outward: Side { next_hop_mac: [2, 0, 0, 0, 0, 0x77], ..PATH.outward }, ..PATH };
    tracker.looked_up(again, Ok(moved), now);
    let batch = tracker.take_batch(10, now);
    assert_eq!((batch.deletes, batch.adds.len()), (vec![id], 1));
    assert_eq!(tracker.counters.rerouted, 1);
}

#[test]
fn offline_nothing_is_gathered() {
    let (mut tracker, now) = (tracker(), Instant::now());
    install(&mut tracker, &connection(1), now);
    tracker.offline();
    tracker.changed(connection(2), now);
    assert!(tracker.take_lookups(10).is_empty() && tracker.installed_ids().is_empty());
}
