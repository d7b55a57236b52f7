//! gateway.v1 from a client's side.

mod common;

use common::{Gateway, Setup, ids};
use conntrack::{FlowKeyV4, LifIndex};
use proto::gateway::v1::{
    AddSessionsRequest, AddSessionsResponse, AddStatus, CloseCode, DeleteSessionsRequest,
    FlushSessionsRequest, GetSessionRequest, GetStatsRequest, L2, ListLifsRequest, ListSessionsRequest,
    MacPair, RateLimit, Session, SessionFilter, SessionState, Tuple, WatchClosedRequest, closed_event::Event,
    gateway_client::GatewayClient,
};
use std::time::Duration;
use tonic::Code;
use tonic::transport::Channel;

/// A translated TCP session with id `n` and its own addresses.
fn session(n: u32) -> Session {
    let tuple = |network: u32, source_port| Tuple {
        source: (network + n).to_be_bytes().to_vec().into(),
        destination: vec![198, 51, 100, 10].into(),
        source_port,
        destination_port: 443,
    };
    let macs = |last| MacPair {
        source: vec![2, 0, 0, 0, 0, last].into(),
        destination: vec![2, 0, 0, 0, 1, last].into(),
    };
    Session {
        session_id: u64::from(n),
        in_lif: 1,
        out_lif: 2,
        protocol: 6,
        original: Some(tuple(0x0A00_0000, 40_000)),
        translated: Some(tuple(0xCB00_0000, 61_000)),
        l2: Some(L2 { forward: Some(macs(1)), reverse: Some(macs(2)) }),
        idle_timeout: 30,
        // Ignored in requests.
        owner: "unix".to_owned(),
        ..Default::default()
    }
}

async fn add(client: &mut GatewayClient<Channel>, batches: Vec<Vec<Session>>) -> AddSessionsResponse {
    let requests = batches.into_iter().map(|sessions| AddSessionsRequest { sessions });
    client.add_sessions(tokio_stream::iter(requests.collect::<Vec<_>>())).await.expect("call").into_inner()
}

#[tokio::test]
async fn a_translated_session_there_and_back() {
    let gateway = Gateway::start().await;
    let mut client = gateway.v1().await;
    let added = add(&mut client, vec![vec![session(1)]]).await;
    assert_eq!((added.accepted, added.failed), (1, 0));

    let mut reader = gateway.handles.table.reader().expect("reader");
    let now = gateway.handles.clock.now();
    let reverse =
        FlowKeyV4::new(LifIndex(1), 6, [198, 51, 100, 10].into(), 443, [0xCB, 0, 0, 1].into(), 61_000);
    let burst = reader.enter();
    let mut flows = [None];
    burst.lookup_v4(&[reverse], now, &mut flows);
    flows[0].expect("reverse flow").count(now, 60);
    drop(burst);

    let info = client.get_session(GetSessionRequest { session_id: 1 }).await.expect("call").into_inner();
    assert_eq!(info.session, Some(session(1)));
    assert_eq!(info.state(), SessionState::Established);
    let counters = info.counters.expect("counters");
    assert_eq!((counters.in_packets, counters.out_packets, counters.out_bytes), (0, 1, 60));

    let request = DeleteSessionsRequest { session_ids: vec![1, 99] };
    let deleted = client.delete_sessions(request).await.expect("call").into_inner();
    assert_eq!(deleted.unknown, [99]);
    assert_eq!(deleted.closed.len(), 1);
    assert_eq!(deleted.closed[0].close_code(), CloseCode::Deleted);
    assert_eq!(deleted.closed[0].counters, Some(counters));
    let missing = client.get_session(GetSessionRequest { session_id: 1 }).await.expect_err("gone");
    assert_eq!(missing.code(), Code::NotFound);
}

#[tokio::test]
async fn a_session_with_a_hard_timeout_and_a_limit() {
    let gateway = Gateway::start().await;
    let mut client = gateway.v1().await;
    let limit = Some(RateLimit { packets: 5, bytes: 0, burst_ms: 0 });
    let requested = Session { hard_timeout: 3, limit, owner: "somebody else".to_owned(), ..session(1) };
    add(&mut client, vec![vec![requested]]).await;
    let info = client.get_session(GetSessionRequest { session_id: 1 }).await.expect("call").into_inner();
    let session = info.session.expect("session");
    assert_eq!(session.limit, Some(RateLimit { packets: 5, bytes: 0, burst_ms: 1000 }));
    assert_eq!((session.hard_timeout, session.owner.as_str()), (3, "unix"));
    gateway.closed(1).await;
    let records = common::drain(&mut gateway.v2().await).await;
    assert_eq!(records[0].session_close_code(), proto::openoffload::v2::SessionCloseCode::Timeout);
    let (start, end) = (records[0].start_time.expect("start"), records[0].end_time.expect("end"));
    let lived = |at: prost_types::Timestamp| at.seconds * 1000 + i64::from(at.nanos) / 1_000_000;
    assert_eq!(lived(end) - lived(start), 3000);
}

#[tokio::test]
async fn batches_with_failures_of_every_kind() {
    let gateway = Setup { capacity: 5, ..Default::default() }.start().await;
    let mut client = gateway.v1().await;
    let batches = vec![
        vec![session(1), Session { protocol: 300, ..session(2) }, session(3)],
        vec![],
        vec![
            Session { in_lif: 9, ..session(4) },
            Session { action: 2, collector: vec![10, 0, 0, 1].into(), ..session(5) },
        ],
        vec![Session { session_id: 6, ..session(1) }, Session { session_id: 3, ..session(7) }],
        vec![session(8), session(9), session(10), session(11)],
    ];
    let added = add(&mut client, batches).await;
    assert_eq!((added.accepted, added.failed), (5, 6));
    let errors: Vec<_> = added.errors.iter().map(|e| (e.index, e.session_id, e.status())).collect();
    assert_eq!(
        errors,
        [
            (1, 2, AddStatus::Invalid),
            (3, 4, AddStatus::UnknownLif),
            (4, 5, AddStatus::Unsupported),
            (5, 6, AddStatus::Exists),
            (6, 3, AddStatus::Exists),
            (10, 11, AddStatus::TableFull),
        ]
    );
    assert!(added.errors.iter().all(|e| !e.message.is_empty()));
    assert!(added.errors[1].message.contains("LIF 9"), "{}", added.errors[1].message);
}

#[tokio::test]
async fn icmp_and_other_protocols() {
    let gateway = Gateway::start().await;
    let mut client = gateway.v1().await;
    let v6 = |last| [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last].to_vec();
    let ping = |n: u32, protocol, source: Vec<u8>, destination: Vec<u8>, source_port| Session {
        session_id: u64::from(n),
        protocol,
        original: Some(Tuple {
            source: source.into(),
            destination: destination.into(),
            source_port,
            destination_port: 0,
        }),
        translated: None,
        ..session(n)
    };
    let sessions = vec![
        ping(1, 1, vec![10, 0, 0, 1], vec![8, 8, 8, 8], 77),
        ping(2, 58, v6(1), v6(2), 78),
        ping(3, 47, vec![10, 0, 0, 1], vec![8, 8, 8, 8], 0),
        ping(4, 47, v6(1), v6(2), 0),
    ];
    let added = add(&mut client, vec![sessions.clone()]).await;
    assert_eq!((added.accepted, added.failed), (4, 0), "{added:?}");
    for session in sessions {
        let session_id = session.session_id;
        let info = client.get_session(GetSessionRequest { session_id }).await.expect("call").into_inner();
        assert_eq!(info.session, Some(session));
    }
}

#[tokio::test]
async fn listed_by_cursor_and_flushed() {
    let gateway = Setup { capacity: 30_000, ..Default::default() }.start().await;
    let mut client = gateway.v1().await;
    let batches = (0..25).map(|batch| (1..=1000).map(|n| session(batch * 1000 + n)).collect()).collect();
    assert_eq!(add(&mut client, batches).await.accepted, 25_000);
    for limit in [0, 7_000, u32::MAX] {
        let (mut seen, mut cursor) = (Vec::new(), 0);
        loop {
            let request = ListSessionsRequest { cursor, limit, filter: None };
            let page = client.list_sessions(request).await.expect("under 4 MiB").into_inner();
            seen.extend(page.sessions.iter().filter_map(|s| s.session.as_ref()).map(|s| s.session_id));
            cursor = page.next_cursor;
            if cursor == 0 {
                break;
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (1..=25_000).collect::<Vec<_>>());
    }
    let flushed = client.flush_sessions(FlushSessionsRequest {}).await.expect("call").into_inner();
    assert_eq!(flushed.removed, 25_000);
    gateway.closed(25_000).await;
    let empty = client.list_sessions(ListSessionsRequest::default()).await.expect("call").into_inner();
    assert_eq!((empty.sessions.len(), empty.next_cursor), (0, 0));
}

#[tokio::test]
async fn many_are_deleted_at_once() {
    let gateway = Gateway::start().await;
    let mut client = gateway.v1().await;
    add(&mut client, vec![(1..=10_000).map(session).collect()]).await;
    let request = DeleteSessionsRequest { session_ids: (1..=10_000).collect() };
    let deleted = client.delete_sessions(request).await.expect("call").into_inner();
    assert_eq!((deleted.closed.len(), deleted.unknown.len()), (10_000, 0));
    let request = DeleteSessionsRequest { session_ids: (1..=10_001).collect() };
    let refused = client.delete_sessions(request).await.expect_err("too many");
    assert_eq!(refused.code(), Code::InvalidArgument);
}

/// The record comes by the housekeeper; without one the removal still ends, with what was last known.
#[tokio::test]
async fn a_late_report_does_not_hold_a_removal_up() {
    let gateway = Setup { housekeeping: false, ..Default::default() }.start().await;
    let mut client = gateway.v1().await;
    add(&mut client, vec![vec![session(1)]]).await;
    let request = DeleteSessionsRequest { session_ids: vec![1] };
    let deleted = client.delete_sessions(request).await.expect("call").into_inner();
    assert_eq!(deleted.closed.len(), 1);
    assert_eq!(deleted.closed[0].session, Some(session(1)));
}

#[tokio::test]
async fn closed_sessions_are_watched_and_still_drained() {
    let gateway = Gateway::start().await;
    let mut client = gateway.v1().await;
    add(&mut client, vec![(1..=100).map(session).collect()]).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        streams.push(client.watch_closed(WatchClosedRequest {}).await.expect("call").into_inner());
    }
    client.flush_sessions(FlushSessionsRequest {}).await.expect("call");
    for mut stream in streams {
        let mut seen = Vec::new();
        while seen.len() < 100 {
            match stream.message().await.expect("stream").expect("open").event {
                Some(Event::Closed(closed)) => {
                    assert_eq!(closed.close_code(), CloseCode::Deleted);
                    let closed = closed.session.expect("session");
                    assert_eq!(closed, session(closed.session_id as u32));
                    seen.push(closed.session_id);
                }
                other => panic!("{other:?}"),
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (1..=100).collect::<Vec<_>>());
    }
    let drained = common::drain(&mut gateway.v2().await).await;
    assert_eq!(ids(&drained), (1..=100).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_slow_listener_is_told_what_it_lost() {
    let gateway = Setup { watch: 64, ..Default::default() }.start().await;
    let mut client = gateway.v1().await;
    add(&mut client, vec![(1..=20_000).map(session).collect()]).await;
    let mut stream = gateway.v1().await.watch_closed(WatchClosedRequest {}).await.expect("call").into_inner();
    client.flush_sessions(FlushSessionsRequest {}).await.expect("call");
    gateway.closed(20_000).await;
    let (mut closed, mut lost) = (0, 0);
    while closed + lost < 20_000 {
        let next = tokio::time::timeout(Duration::from_secs(10), stream.message()).await.expect("in time");
        match next.expect("stream").expect("open").event.expect("event") {
            Event::Closed(_) => closed += 1,
            Event::Lost(n) => lost += n,
        }
    }
    assert_eq!(closed + lost, 20_000);
    assert!(lost > 0, "the buffer has 64 records");
}

#[tokio::test]
async fn statistics_and_lifs() {
    let gateway = Gateway::start().await;
    let mut client = gateway.v1().await;
    add(&mut client, vec![vec![session(1), session(1)]]).await;
    let stats = client.get_stats(GetStatsRequest {}).await.expect("call").into_inner();
    assert_eq!((stats.ports[0].name.as_str(), stats.ports[0].rx_packets), ("uplink", 5));
    let lifs: Vec<_> = stats.lifs.iter().map(|l| (l.name.as_str(), l.id, l.rx_packets)).collect();
    assert_eq!(lifs, [("red", 1, 3), ("blue", 2, 0)]);
    assert_eq!((stats.drops[0].name.as_str(), stats.drops[0].value), ("unknown_lif", 2));
    let sessions = stats.sessions.expect("sessions");
    assert_eq!(
        (sessions.capacity, sessions.active, sessions.installed, sessions.rejected),
        (20_000, 1, 1, 1)
    );
    assert!(stats.other.iter().any(|c| c.name == "closed_dropped" && c.value == 0));

    let lifs = client.list_lifs(ListLifsRequest {}).await.expect("call").into_inner().lifs;
    let lifs: Vec<_> = lifs
        .iter()
        .map(|l| (l.id, l.name.as_str(), l.port.as_str(), l.encapsulation.as_str(), l.trap_vni, l.mtu))
        .collect();
    assert_eq!(
        lifs,
        [(1, "red", "uplink", "vlan 100", 10_001, 1500), (2, "blue", "uplink", "vni 2000", 10_002, 1500)]
    );
}

#[tokio::test]
async fn a_filtered_list_finds_all_of_them_and_nothing_else() {
    const ALL: u32 = 5000;
    let gateway = Setup { capacity: ALL, ..Default::default() }.start().await;
    let mut client = gateway.v1().await;
    let sessions = (1..=ALL).map(|n| Session { protocol: if n % 1000 == 0 { 17 } else { 6 }, ..session(n) });
    let sessions: Vec<Session> = sessions.collect();
    add(&mut client, sessions.chunks(1000).map(<[Session]>::to_vec).collect()).await;
    let mut found = async |filter: SessionFilter, limit| {
        let (mut found, mut cursor, mut answers) = (Vec::new(), 0, 0);
        loop {
            let request = ListSessionsRequest { cursor, limit, filter: Some(filter.clone()) };
            let page = client.list_sessions(request).await.expect("call").into_inner();
            found.extend(page.sessions.iter().map(|info| info.session.as_ref().expect("session").session_id));
            (cursor, answers) = (page.next_cursor, answers + 1);
            if cursor == 0 {
                found.sort_unstable();
                return (found, answers);
            }
        }
    };
    let udp = SessionFilter { protocol: Some(17), ..Default::default() };
    assert_eq!(found(udp.clone(), 0).await, (vec![1000, 2000, 3000, 4000, 5000], 1));
    let (ids, answers) = found(udp, 2).await;
    assert_eq!(ids, [1000, 2000, 3000, 4000, 5000]);
    assert!(answers >= 3, "{answers}");
    let nat = SessionFilter { nat: vec![0xCB, 0, 0, 77].into(), ..Default::default() };
    assert_eq!(found(nat, 0).await.0, [77]);
    let prefix = SessionFilter { address: vec![10, 0, 1, 0].into(), prefix: Some(24), ..Default::default() };
    assert_eq!(found(prefix, 100).await.0, (256..512).collect::<Vec<u64>>());
    assert!(found(SessionFilter { port: Some(1), ..Default::default() }, 0).await.0.is_empty());
    assert_eq!(found(SessionFilter::default(), 0).await.0.len(), ALL as usize);
    let wrong = SessionFilter { lif: 9, ..Default::default() };
    let request = ListSessionsRequest { filter: Some(wrong), ..Default::default() };
    let refused = client.list_sessions(request).await.expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("filter: lif: "), "{}", refused.message());
}

#[tokio::test]
async fn statistics_tell_a_full_table_a_backlog_and_who_listens() {
    let gateway = Setup { capacity: 3, ..Default::default() }.start().await;
    let mut client = gateway.v1().await;
    let value = {
        let client = client.clone();
        async move |name: &str| {
            let stats = client.clone().get_stats(GetStatsRequest {}).await.expect("call").into_inner();
            let found = stats.other.iter().find(|counter| counter.name == name);
            found.unwrap_or_else(|| panic!("no counter {name}")).value
        }
    };
    for name in ["closed_watchers", "add_streams", "closed_waiting", "closed_dropped"] {
        assert_eq!(value(name).await, 0, "{name}");
    }
    let twice = vec![session(1), session(1), session(2), session(3), session(4), session(5)];
    let wrong = vec![Session { in_lif: 9, ..session(6) }, Session { protocol: 256, ..session(7) }];
    add(&mut client, vec![twice, wrong, vec![Session { action: 2, ..session(8) }]]).await;
    let expected = [
        ("rejected_full", 2),
        ("rejected_l2_full", 0),
        ("rejected_exists", 1),
        ("rejected_invalid", 1),
        ("rejected_unknown_lif", 1),
        ("rejected_unsupported", 1),
        ("rejected_inactive", 0),
    ];
    for (name, expected) in expected {
        assert_eq!(value(name).await, expected, "{name}");
    }
    let stats = client.get_stats(GetStatsRequest {}).await.expect("call").into_inner();
    let sessions = stats.sessions.expect("sessions");
    assert_eq!((sessions.capacity, sessions.active, sessions.rejected), (3, 3, 6));
    let watch = client.watch_closed(WatchClosedRequest {}).await.expect("call");
    assert_eq!(value("closed_watchers").await, 1);
    let (to, from) = tokio::sync::mpsc::channel(1);
    let mut adder = client.clone();
    let adding =
        tokio::spawn(
            async move { adder.add_sessions(tokio_stream::wrappers::ReceiverStream::new(from)).await },
        );
    to.send(AddSessionsRequest::default()).await.expect("stream");
    while value("add_streams").await != 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(to);
    adding.await.expect("task").expect("call");
    assert_eq!(value("add_streams").await, 0);
    client.flush_sessions(FlushSessionsRequest {}).await.expect("call");
    gateway.closed(3).await;
    assert_eq!(value("closed_waiting").await, 3);
    drop(watch);
    assert!(value("seconds_since_add").await < 600);
}
