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

fn lookups(tracker: &mut Tracker) -> Vec<(u64, Entry)> {
    std::iter::from_fn(|| tracker.next_lookup()).collect()
}

/// A whole turn's additions and deletions.
fn batch(tracker: &mut Tracker, now: Instant) -> (Vec<u64>, Vec<Add>) {
    let deletes = tracker.take_deletes(10);
    (deletes, tracker.take_adds(10, now))
}

fn tracker() -> Tracker {
    let policy =
        Policy { protocols: vec![6, 17], min_packets: 0, exclude_mark: None, exclude_ports: Vec::new() };
    let mut tracker = Tracker::new(policy, KernelTimeouts::read(), TAG, Ledger::new(false));
    tracker.online(Vec::new());
    tracker
}

/// Up to the gateway having accepted it.
fn install(tracker: &mut Tracker, entry: &Entry, now: Instant) -> u64 {
    tracker.changed(entry.clone(), now);
    let (id, _) = lookups(tracker).pop().unwrap();
    tracker.looked_up(id, Ok(PATH), now);
    assert_eq!(tracker.take_adds(10, now).len(), 1);
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
    let (id, _) = lookups(&mut tracker).pop().unwrap();
    tracker.looked_up(id, Ok(PATH), now);
    tracker.destroyed(&connection(1), now);
    let (deletes, adds) = batch(&mut tracker, now);
    assert!(adds.is_empty() && deletes.is_empty());
}

#[test]
fn destroyed_while_it_is_added_it_is_deleted_after() {
    let (mut tracker, now) = (tracker(), Instant::now());
    tracker.changed(connection(1), now);
    let (id, _) = lookups(&mut tracker).pop().unwrap();
    tracker.looked_up(id, Ok(PATH), now);
    assert_eq!(tracker.take_adds(10, now).len(), 1);
    tracker.destroyed(&connection(1), now);
    tracker.added(&[id], &v1::AddSessionsResponse { accepted: 1, ..Default::default() }, now);
    assert_eq!(tracker.take_deletes(10), [id]);
    assert!(tracker.installed_ids().is_empty());
}

#[test]
fn half_closed_connections_are_not_begun_but_kept() {
    let (mut tracker, now) = (tracker(), Instant::now());
    let closing = Entry { tcp_state: Some(TcpState::FinWait), ..connection(1) };
    tracker.changed(closing.clone(), now);
    assert!(lookups(&mut tracker).is_empty());
    let id = install(&mut tracker, &connection(2), now);
    tracker.changed(Entry { tcp_state: Some(TcpState::FinWait), ..connection(2) }, now);
    assert!(tracker.take_deletes(10).is_empty());
    assert_eq!(tracker.installed_ids(), [id]);
}

#[test]
fn an_interface_that_is_not_configured_is_told_of_once() {
    let (mut tracker, now) = (tracker(), Instant::now());
    let mut told = Vec::new();
    for (number, interface) in [(1, "eth9"), (2, "eth9"), (3, "eth8")] {
        tracker.changed(connection(number), now);
        let (id, _) = lookups(&mut tracker).pop().unwrap();
        tracker.looked_up(id, Err(PathError::NotConfigured(interface.to_owned())), now);
        told.push(tracker.strangers.len());
    }
    assert_eq!(told, [1, 1, 2]);
    assert_eq!(tracker.counters.skipped["interface_not_configured"], 3);
}

#[test]
fn unresolved_neighbours_are_tried_again_with_growing_pauses_and_then_left() {
    let (mut tracker, mut now) = (tracker(), Instant::now());
    let missing = || Err(PathError::Neighbour("10.0.1.1".parse().unwrap()));
    tracker.changed(connection(1), now);
    let mut pauses = Vec::new();
    while let Some((id, _)) = lookups(&mut tracker).pop() {
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
    tracker.compare(vec![connection(1)], now);
    tracker.compare_complete(now, now);
    assert_eq!(lookups(&mut tracker).len(), 1);
}

#[test]
fn a_full_table_holds_additions_back_longer_each_time() {
    let (mut tracker, mut now) = (tracker(), Instant::now());
    tracker.changed(connection(1), now);
    let (id, _) = lookups(&mut tracker).pop().unwrap();
    tracker.looked_up(id, Ok(PATH), now);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        assert_eq!(tracker.take_adds(10, now).len(), 1);
        let status = v1::AddStatus::TableFull.into();
        let error = v1::AddError { session_id: id, status, ..Default::default() };
        tracker.added(&[id], &v1::AddSessionsResponse { errors: vec![error], failed: 1, accepted: 0 }, now);
        assert!(tracker.take_adds(10, now).is_empty());
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
    let refresh = tracker.take_refreshes(10, now).pop().unwrap();
    assert_eq!((refresh.id, refresh.timeout, refresh.assure), (id, established - 7, false));
    tracker.listed(vec![info(id, 3, 9_000)]);
    assert!(tracker.take_refreshes(10, now).is_empty());
    tracker.listed(vec![info(id, 4, 0)]);
    assert_eq!(tracker.take_refreshes(10, now).len(), 1);
}

#[test]
fn what_the_list_lacks_has_closed_and_what_it_has_too_much_is_deleted() {
    let (mut tracker, now) = (tracker(), Instant::now());
    let id = install(&mut tracker, &connection(1), now);
    let (stray, foreign) = (u64::from(TAG) << 56 | 5, 7);
    let later = now + Duration::from_secs(1);
    tracker.listed(vec![info(stray, 0, 0), info(foreign, 0, 0)]);
    tracker.list_complete(later, later);
    assert_eq!(tracker.take_deletes(10), [stray]);
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
    tracker.compare_complete(now, later);
    assert_eq!(tracker.installed_ids(), [id]);
    tracker.compare_complete(later + Duration::from_secs(1), later + Duration::from_secs(1));
    assert_eq!(tracker.take_deletes(10), [id]);
}

#[test]
fn a_session_found_with_another_path_is_replaced_once_the_first_is_gone() {
    let (mut tracker, now) = (tracker(), Instant::now());
    let id = install(&mut tracker, &connection(1), now);
    tracker.recheck_paths(now);
    let (again, _) = lookups(&mut tracker).pop().unwrap();
    let moved = Path { outward: Side { next_hop_mac: [2, 0, 0, 0, 0, 0x77], ..PATH.outward }, ..PATH };
    tracker.looked_up(again, Ok(moved), now);
    let (deletes, adds) = batch(&mut tracker, now);
    assert_eq!((deletes, adds.len()), (vec![id], 0), "its flows are not free yet");
    tracker.deleted(&[id], &v1::DeleteSessionsResponse::default());
    let adds = tracker.take_adds(10, now);
    assert_eq!(adds[0].session.l2.as_ref().unwrap().forward.as_ref().unwrap().destination[5], 0x77);
    assert_eq!(tracker.counters.rerouted, 1);
}

#[test]
fn offline_nothing_is_gathered() {
    let (mut tracker, now) = (tracker(), Instant::now());
    install(&mut tracker, &connection(1), now);
    tracker.offline();
    tracker.changed(connection(2), now);
    assert!(lookups(&mut tracker).is_empty() && tracker.installed_ids().is_empty());
}

fn closed(id: u64, code: v1::CloseCode, packets: u64) -> v1::ClosedSession {
    v1::ClosedSession {
        session: Some(v1::Session { session_id: id, idle_timeout: 90, ..Default::default() }),
        counters: Some(v1::Counters { out_packets: packets, ..Default::default() }),
        close_code: code.into(),
        ..Default::default()
    }
}

#[test]
fn a_reset_gives_the_entry_little_time_and_then_its_state_unless_packets_go_on() {
    let (mut tracker, now) = (tracker(), Instant::now());
    let id = install(&mut tracker, &connection(1), now);
    tracker.closed(&closed(id, v1::CloseCode::Rst, 5), now);
    let close = tracker.timeouts.of_state(TcpState::Closed);
    assert_eq!(tracker.take_refreshes(10, now)[0].timeout, close);
    assert!(tracker.take_settling(10, now).is_empty(), "the RST may not have reached the kernel yet");
    let later = tracker.next_settling().unwrap();
    let (_, entry, code) = tracker.take_settling(10, later).pop().unwrap();
    let unaware = Entry { timeout: Some(close - 1), ..entry.clone() };
    assert_eq!(tracker.settled_state(&unaware, code), Some((TcpState::Closed, close - 1)));
    let alive = Entry { timeout: Some(close + 1), ..entry.clone() };
    assert_eq!(tracker.settled_state(&alive, code), None);
    let aware = Entry { timeout: Some(close - 1), tcp_state: Some(TcpState::Closed), ..entry };
    assert_eq!(tracker.settled_state(&aware, code), None);
}

#[test]
fn a_timeout_leaves_the_entry_the_rest_of_its_time_if_the_kernel_did_not_know() {
    let (mut tracker, now) = (tracker(), Instant::now());
    let established = tracker.timeouts.of_state(TcpState::Established);
    let id = install(&mut tracker, &connection(1), now);
    tracker.listed(vec![info(id, 5, 0)]);
    assert_eq!(tracker.take_refreshes(10, now).len(), 1);
    tracker.closed(&closed(id, v1::CloseCode::Timeout, 5), now);
    assert!(tracker.take_refreshes(10, now).is_empty());
    let id = install(&mut tracker, &connection(2), now);
    tracker.closed(&closed(id, v1::CloseCode::Timeout, 5), now);
    assert_eq!(tracker.take_refreshes(10, now)[0].timeout, established - 90);
    // Nobody has seen packets since: it rests.
    let told = Entry { timeout: Some(established - 90), ..connection(2) };
    tracker.changed(told, now);
    assert!(lookups(&mut tracker).is_empty());
}

#[test]
fn udp_that_goes_on_becomes_assured() {
    let (mut tracker, now) = (tracker(), Instant::now());
    let mut entry = entry(17, tuple("10.0.0.1:1", "10.0.1.1:53"), tuple("10.0.1.1:53", "10.0.0.1:1"));
    entry.status = Status::SeenReply | Status::Confirmed;
    let id = install(&mut tracker, &entry, now);
    tracker.listed(vec![info(id, 1, 0)]);
    assert!(!tracker.take_refreshes(10, now)[0].assure, "an answer makes no stream");
    let later = now + UDP_STREAM;
    tracker.listed(vec![info(id, 2, 0)]);
    let refresh = tracker.take_refreshes(10, later).pop().unwrap();
    assert!(refresh.assure);
    tracker.refreshed(&refresh, later);
    tracker.listed(vec![info(id, 3, 0)]);
    assert!(!tracker.take_refreshes(10, later)[0].assure);
}

/// The same tuple with another translation is another session: only after the first has left, and others do not wait.
#[test]
fn what_needs_the_flows_of_a_leaving_session_waits_for_its_end() {
    let (mut tracker, now) = (tracker(), Instant::now());
    let first = install(&mut tracker, &connection(1), now);
    tracker.destroyed(&connection(1), now);
    let successor = Entry { kernel_id: 78, reply: tuple("10.0.1.1:80", "10.0.1.254:9"), ..connection(1) };
    for entry in [&successor, &connection(2)] {
        tracker.changed(entry.clone(), now);
    }
    for (id, _) in lookups(&mut tracker) {
        tracker.looked_up(id, Ok(PATH), now);
    }
    let (deletes, adds) = batch(&mut tracker, now);
    assert_eq!(deletes, [first]);
    assert_eq!(adds.iter().map(|add| add.entry.clone()).collect::<Vec<_>>(), [connection(2)]);
    tracker.deleted(&deletes, &v1::DeleteSessionsResponse::default());
    assert_eq!(tracker.take_adds(10, now)[0].entry, successor);
}

#[test]
fn a_connection_that_has_changed_its_mind_is_not_added() {
    let (mut tracker, now) = (tracker(), Instant::now());
    tracker.changed(connection(1), now);
    let (id, _) = lookups(&mut tracker).pop().unwrap();
    tracker.looked_up(id, Ok(PATH), now);
    tracker.changed(Entry { tcp_state: Some(TcpState::FinWait), ..connection(1) }, now);
    assert!(tracker.take_adds(10, now).is_empty());
    assert_eq!(tracker.counters.skipped["closing"], 1);
}

/// Only the event that brings the helper tells of it.
#[test]
fn a_helper_once_seen_stays() {
    let (mut tracker, now) = (tracker(), Instant::now());
    tracker.changed(Entry { helper: true, status: Status::Confirmed, ..connection(1) }, now);
    tracker.changed(connection(1), now);
    assert!(lookups(&mut tracker).is_empty());
}

/// The agent starts again, and finds a session of a connection that has come back with another translation.
#[test]
fn what_the_gateway_had_is_compared_before_anything_is_added() {
    let (mut tracker, now) = (tracker(), Instant::now());
    let stale = install(&mut tracker, &connection(1), now);
    let session = tracker.connections[&stale].session.clone().unwrap();
    tracker.online(vec![v1::SessionInfo { session: Some(session), ..Default::default() }]);
    let successor = Entry { kernel_id: 78, reply: tuple("10.0.1.1:80", "10.0.1.254:9"), ..connection(1) };
    tracker.compare(vec![successor], now);
    let (id, _) = lookups(&mut tracker).pop().unwrap();
    tracker.looked_up(id, Ok(PATH), now);
    assert!(batch(&mut tracker, now).1.is_empty() && tracker.waiting_adds() == 0);
    tracker.compare_complete(now, now);
    let (deletes, adds) = batch(&mut tracker, now);
    assert_eq!((deletes.as_slice(), adds.len()), (&[stale][..], 0));
    tracker.deleted(&deletes, &v1::DeleteSessionsResponse::default());
    assert_eq!(tracker.take_adds(10, now)[0].id, id);
}

#[test]
fn a_recheck_of_all_takes_turns_with_new_connections() {
    let (mut tracker, now) = (tracker(), Instant::now());
    for port in 1..=5 {
        install(&mut tracker, &connection(port), now);
    }
    tracker.recheck_paths(now);
    tracker.next_lookup().unwrap();
    for port in 6..=7 {
        tracker.changed(connection(port), now);
    }
    assert!(tracker.rechecks_paths());
    let ports: Vec<u16> = lookups(&mut tracker).iter().map(|(_, entry)| entry.original.source_port).collect();
    let places = [6, 7].map(|port| ports.iter().position(|&p| p == port).unwrap());
    assert!(places[0] <= 1 && places[1] <= 3, "{ports:?}");
    assert_eq!(ports.len(), 6);
    assert!(!tracker.rechecks_paths());
}
