//! openoffload.v2 as clients use it, bad input included.

mod common;

use common::vnf::until;
use common::{Gateway, Setup, add, drain, ids, session};
use conntrack::TcpFlags;
use control::{Handles, Housekeeper, Limits};
use proto::openoffload::v2::session_table_client::SessionTableClient;
use proto::openoffload::v2::{
    self, ActionParameters, AddSessionStatus, RequestStatus, SessionCloseCode, SessionRequest,
    SessionRequestArgs, SessionState,
};
use std::time::Duration;
use tonic::Code;

fn id(session_id: u64) -> v2::SessionId {
    v2::SessionId { session_id }
}

#[tokio::test]
async fn the_life_of_a_session() {
    let gateway = Gateway::start().await;
    let mut client = gateway.v2().await;
    let request = SessionRequest { session_id: 12_345_678_910, ..session(1) };
    let added = add(&mut client, [request]).await;
    assert_eq!(added.request_status(), AddSessionStatus::SessionAccepted);
    assert_eq!((added.error_status, added.response_error.len()), (0, 0));
    assert!(added.start_time.is_some());

    let mut reader = gateway.handles.table.reader().expect("reader");
    gateway.traffic(&mut reader, 1, 5, &[]);
    let live = client.get_session(id(12_345_678_910)).await.expect("call").into_inner();
    assert_eq!(live.request_status(), RequestStatus::Accepted);
    assert_eq!(live.session_state(), SessionState::Established);
    assert_eq!(live.session_close_code(), SessionCloseCode::NotClosed);
    assert_eq!((live.in_packets, live.in_bytes, live.out_packets, live.out_bytes), (5, 500, 5, 500));
    assert!(live.start_time.is_some() && live.end_time.is_none());

    gateway.traffic(&mut reader, 1, 2, &[]);
    let deleted = client.delete_session(id(12_345_678_910)).await.expect("call").into_inner();
    assert_eq!(deleted.request_status(), RequestStatus::Accepted);
    assert_eq!(deleted.session_state(), SessionState::Closed);
    assert_eq!((deleted.session_id, deleted.in_packets, deleted.out_bytes), (12_345_678_910, 7, 700));
    assert!(deleted.end_time.is_some());
    let gone = client.get_session(id(12_345_678_910)).await.expect("call").into_inner();
    assert_eq!(gone.request_status(), RequestStatus::RejectedSessionNonexistent);
}

#[tokio::test]
async fn the_unknown_is_answered_with_ok() {
    let gateway = Gateway::start().await;
    let mut client = gateway.v2().await;
    for unknown in [0, 77, u64::MAX] {
        for response in [
            client.get_session(id(unknown)).await.expect("OK").into_inner(),
            client.delete_session(id(unknown)).await.expect("OK").into_inner(),
        ] {
            assert_eq!(response.session_id, unknown);
            assert_eq!(response.request_status(), RequestStatus::RejectedSessionNonexistent);
        }
    }
}

#[tokio::test]
async fn streams_of_any_length() {
    let gateway = Gateway::start().await;
    let mut client = gateway.v2().await;
    let mut next = 1;
    for length in [0, 1, 64, 65, 10_000] {
        let added = add(&mut client, (next..next + length).map(session)).await;
        assert_eq!(added.request_status(), AddSessionStatus::SessionAccepted);
        assert_eq!((added.error_status, added.response_error.len()), (0, 0));
        next += length;
    }
    assert_eq!(gateway.handles.table.stats().active, 10_130);
}

#[tokio::test]
async fn one_bad_session_never_costs_the_others() {
    let gateway = Gateway::start().await;
    let mut client = gateway.v2().await;
    let bad = [3, 63, 64, 69];
    let requests = (0..70).map(move |n| {
        let port = if bad.contains(&n) { 65_536 } else { 443 };
        SessionRequest { destination_port: port, ..session(n + 1) }
    });
    let added = add(&mut client, requests).await;
    assert_eq!(added.request_status(), AddSessionStatus::SessionRejected);
    assert_eq!(added.error_status, 1 << 3 | 1 << 63);
    let failed: Vec<_> = added.response_error.iter().map(|e| (e.session_id, e.error_status)).collect();
    let rejected = i32::from(AddSessionStatus::SessionRejected);
    assert_eq!(failed, [(4, rejected), (64, rejected), (65, rejected), (70, rejected)]);
    assert_eq!(gateway.handles.table.stats().active, 66);
}

#[tokio::test]
async fn bad_input_is_rejected_and_disturbs_nothing() {
    let gateway = Gateway::start().await;
    let mut client = gateway.v2().await;
    add(&mut client, [session(1)]).await;
    let v6 = || vec![0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let action = |action_type| Some(ActionParameters { action_type, ..Default::default() });
    let no_v4 = || SessionRequest { source_ip: 0, destination_ip: 0, ..session(2) };
    let bad = [
        SessionRequest { session_id: 0, ..session(2) },
        SessionRequest { in_lif: 3, ..session(2) },
        SessionRequest { out_lif: -5, ..session(2) },
        SessionRequest { in_lif: i32::MAX, ..session(2) },
        SessionRequest { source_port: 65_536, ..session(2) },
        SessionRequest { destination_port: u32::MAX, ..session(2) },
        SessionRequest { source_port: 0, ..session(2) },
        SessionRequest { source_ip: 0, ..session(2) },
        SessionRequest { destination_ip: 0, ..session(2) },
        SessionRequest { ip_version: 1, ..session(2) },
        SessionRequest { ip_version: 99, ..session(2) },
        SessionRequest { source_ipv6: v6(), destination_ipv6: v6(), ..session(2) },
        SessionRequest { source_ipv6: vec![1; 15], destination_ipv6: v6(), ..no_v4() },
        SessionRequest { source_ipv6: v6(), destination_ipv6: vec![1; 4], ..no_v4() },
        SessionRequest { source_ipv6: v6(), ..no_v4() },
        no_v4(),
        SessionRequest { protocol_id: 0, ..session(2) },
        SessionRequest { protocol_id: 1, ..session(2) },
        SessionRequest { protocol_id: 300, ..session(2) },
        SessionRequest { action: None, ..session(2) },
        SessionRequest { action: action(17), ..session(2) },
        SessionRequest { action: action(2), ..session(2) },
        SessionRequest { cache_timeout: u32::MAX, ..session(2) },
        SessionRequest::default(),
    ];
    for request in bad {
        let added = add(&mut client, [request.clone()]).await;
        assert_eq!(added.request_status(), AddSessionStatus::SessionRejected, "{request:?}");
        assert_eq!(added.error_status, 1);
        assert_eq!(added.response_error[0].session_id, request.session_id);
    }
    assert_eq!(gateway.handles.table.stats().active, 1);
    let first = client.get_session(id(1)).await.expect("call").into_inner();
    assert_eq!(first.session_state(), SessionState::Established);
}

#[tokio::test]
async fn ipv6_sessions_of_clients_that_leave_the_version_unset() {
    let gateway =
        Setup { underlay: Some("2001:db8::1".parse().expect("address")), ..Default::default() }.start().await;
    let mut client = gateway.v2().await;
    let address = |last| vec![0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    let base = SessionRequest {
        source_ip: 0,
        destination_ip: 0,
        source_ipv6: address(1),
        destination_ipv6: address(2),
        ..session(1)
    };
    let mirror = ActionParameters { action_type: 2, action_next_hop_v6: address(9), action_next_hop: 0 };
    let requests = [
        base.clone(),
        SessionRequest { session_id: 2, ip_version: 1, source_port: 2, ..base.clone() },
        SessionRequest { session_id: 3, protocol_id: 17, action: Some(mirror), ..base },
    ];
    let added = add(&mut client, requests).await;
    assert_eq!(added.request_status(), AddSessionStatus::SessionAccepted);
    let mirrored = gateway.handles.table.get(conntrack::SessionId(3)).expect("session").spec;
    assert_eq!(mirrored.original.source.to_string(), "2001:db8::1");
    assert!(matches!(mirrored.action, conntrack::Action::Mirror(to) if to.to_string() == "2001:db8::9"));
}

#[tokio::test]
async fn copies_are_refused_where_there_is_no_underlay() {
    let gateway = Gateway::start().await;
    let mut client = gateway.v2().await;
    let snoop = ActionParameters { action_type: 3, action_next_hop: 0x0100_000A, ..Default::default() };
    let added = add(&mut client, [SessionRequest { action: Some(snoop), ..session(1) }]).await;
    assert_eq!(added.request_status(), AddSessionStatus::SessionRejected);
}

#[tokio::test]
async fn duplicates_leave_the_first_as_it_is() {
    let gateway = Gateway::start().await;
    let mut client = gateway.v2().await;
    add(&mut client, [session(1)]).await;
    let same_id = SessionRequest { session_id: 1, ..session(2) };
    let same_tuple = SessionRequest { session_id: 2, ..session(1) };
    for request in [session(1), same_id, same_tuple] {
        let added = add(&mut client, [request]).await;
        assert_eq!(added.request_status(), AddSessionStatus::SessionAlreadyExists);
    }
    let kept = gateway.handles.table.get(conntrack::SessionId(1)).expect("session").spec;
    assert_eq!(kept.original.source.to_string(), "10.0.0.1");
    assert_eq!(gateway.handles.table.stats().active, 1);
    assert_eq!(add(&mut client, [SessionRequest { session_id: 2, ..session(2) }]).await.error_status, 0);
}

#[tokio::test]
async fn a_full_table_is_a_status() {
    let gateway = Setup { capacity: 100, ..Default::default() }.start().await;
    let mut client = gateway.v2().await;
    let added = add(&mut client, (1..=103).map(session)).await;
    assert_eq!(added.request_status(), AddSessionStatus::SessionTableFull);
    let failed: Vec<_> = added.response_error.iter().map(|e| e.session_id).collect();
    assert_eq!(failed, [101, 102, 103]);
    assert!(
        added.response_error.iter().all(|e| e.error_status == i32::from(AddSessionStatus::SessionTableFull))
    );
    assert_eq!(gateway.handles.table.stats().active, 100);
    client.delete_session(id(5)).await.expect("call");
    assert_eq!(add(&mut client, [session(101)]).await.request_status(), AddSessionStatus::SessionAccepted);
}

#[tokio::test]
async fn closed_sessions_are_drained_once() {
    let gateway = Gateway::start().await;
    let mut client = gateway.v2().await;
    assert!(drain(&mut client).await.is_empty(), "ends well though nothing has closed");
    let timed_out = SessionRequest { cache_timeout: 1, ..session(4) };
    add(&mut client, [session(1), session(2), session(3), timed_out]).await;
    let mut reader = gateway.handles.table.reader().expect("reader");
    gateway.traffic(&mut reader, 1, 3, &[TcpFlags(TcpFlags::RST)]);
    gateway.traffic(&mut reader, 2, 4, &[TcpFlags(TcpFlags::FIN | TcpFlags::ACK)]);
    client.delete_session(id(3)).await.expect("call");
    gateway.closed(4).await;

    let mut records = drain(&mut client).await;
    records.sort_by_key(|record| record.session_id);
    let seen: Vec<_> =
        records.iter().map(|r| (r.session_id, r.session_close_code(), r.in_packets, r.out_bytes)).collect();
    assert_eq!(
        seen,
        [
            (1, SessionCloseCode::Rst, 3, 300),
            (2, SessionCloseCode::Finack, 4, 400),
            (3, SessionCloseCode::UnknownCloseCode, 0, 0),
            (4, SessionCloseCode::Timeout, 0, 0),
        ]
    );
    for record in &records {
        assert_eq!(record.session_state(), SessionState::Closed);
        assert_eq!(record.request_status(), RequestStatus::Accepted);
        assert!(record.start_time.is_some() && record.end_time.is_some());
    }
    assert!(drain(&mut client).await.is_empty());
}

/// What a client reads at each FIN, whoever sends the first, and at RST; and what it drains when the session is gone.
#[tokio::test]
async fn a_session_reads_as_closing_until_it_is_closed() {
    use SessionState::{Closed, Closing1, Closing2, Established};
    const FIN: u8 = TcpFlags::FIN | TcpFlags::ACK;
    let mut gateway = Setup { housekeeping: false, ..Default::default() }.start().await;
    let mut client = gateway.v2().await;
    add(&mut client, (1..=3).map(session)).await;
    let mut reader = gateway.handles.table.reader().expect("reader");
    let steps = [
        (1, false, TcpFlags::ACK, Established),
        (1, false, FIN, Closing1),
        (1, false, FIN, Closing1),
        (1, true, TcpFlags::ACK, Closing1),
        (1, true, FIN, Closing2),
        (2, true, FIN, Closing1),
        (2, false, FIN, Closing2),
        (3, false, FIN, Closing1),
        (3, true, TcpFlags::RST, Closing2),
    ];
    for (n, reverse, flags, state) in steps {
        gateway.observe(&mut reader, n, reverse, flags);
        let read = client.get_session(id(n.into())).await.expect("call").into_inner();
        assert_eq!((read.session_id, read.session_state()), (n.into(), state));
        assert_eq!(read.session_close_code(), SessionCloseCode::NotClosed);
        assert!(read.end_time.is_none());
    }
    let args = SessionRequestArgs::default();
    let all = client.get_all_sessions(args).await.expect("call").into_inner().session_info;
    assert_eq!(all.iter().map(|session| session.session_state()).collect::<Vec<_>>(), [Closing2; 3]);

    let Handles { table, clock, closed, .. } = gateway.handles.clone();
    gateway.housekeeper = Some(Housekeeper::start(table, clock, closed).expect("thread"));
    gateway.closed(3).await;
    let gone = client.get_session(id(1)).await.expect("call").into_inner();
    assert_eq!(gone.request_status(), RequestStatus::RejectedSessionNonexistent);
    let mut records = drain(&mut client).await;
    records.sort_by_key(|record| record.session_id);
    let codes = [SessionCloseCode::Finack, SessionCloseCode::Finack, SessionCloseCode::Rst];
    for (record, code) in records.iter().zip(codes) {
        assert_eq!((record.session_state(), record.session_close_code()), (Closed, code));
    }
    assert_eq!(records.len(), 3);
}

#[tokio::test]
async fn a_stream_broken_halfway_loses_nothing() {
    let gateway = Gateway::start().await;
    let mut client = gateway.v2().await;
    add(&mut client, (1..=5000).map(session)).await;
    gateway.handles.table.flush(gateway.handles.clock.now());
    gateway.closed(5000).await;
    // It takes little more than it reads: however late it breaks off, the server has not sent all.
    let channel = tonic::transport::Endpoint::from_shared(gateway.server.endpoints()[0].to_string());
    let narrow = channel.expect("address").initial_stream_window_size(16 << 10).connect().await;
    let mut narrow = SessionTableClient::new(narrow.expect("connection"));
    for seen in [1, 10, 3000] {
        let mut stream =
            narrow.get_closed_sessions(SessionRequestArgs::default()).await.expect("call").into_inner();
        for _ in 0..seen {
            assert!(stream.message().await.expect("record").is_some());
        }
        drop(stream);
        gateway.closed(5000).await;
    }
    assert_eq!(ids(&drain(&mut client).await), (1..=5000).collect::<Vec<_>>());
    assert!(drain(&mut client).await.is_empty());
}

#[tokio::test]
async fn a_reader_with_a_short_deadline_gets_all_in_pieces() {
    // On a busy machine a call may be late, and what it was given is gone: all again.
    'again: for _ in 0..10 {
        let gateway = Gateway::start().await;
        let mut client = gateway.v2().await;
        add(&mut client, (1..=3000).map(session)).await;
        gateway.handles.table.flush(gateway.handles.clock.now());
        gateway.closed(3000).await;
        let mut seen = Vec::new();
        for _ in 0..100 {
            let mut request = tonic::Request::new(SessionRequestArgs::default());
            request.set_timeout(Duration::from_millis(100));
            let mut stream = match client.get_closed_sessions(request).await {
                Err(status) if matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded) => {
                    continue 'again;
                }
                answer => answer.expect("call").into_inner(),
            };
            let mut records = Vec::new();
            while let Some(record) = stream.message().await.expect("stream ends with OK") {
                records.push(record.session_id);
            }
            assert!(records.len() <= 400);
            seen.extend(records);
        }
        seen.sort_unstable();
        assert_eq!(seen, (1..=3000).collect::<Vec<_>>());
        return;
    }
    panic!("each time a call took longer than 100 ms");
}

#[tokio::test]
async fn the_log_is_bounded_when_nobody_reads() {
    let gateway = Setup { log: 100, ..Default::default() }.start().await;
    let mut client = gateway.v2().await;
    add(&mut client, (1..=250).map(session)).await;
    gateway.handles.table.flush(gateway.handles.clock.now());
    gateway.closed(100).await;
    assert_eq!(gateway.handles.closed.dropped(), 150);
    assert_eq!(drain(&mut client).await.len(), 100);
}

#[tokio::test]
async fn pages_and_cursors() {
    let gateway = Gateway::start().await;
    let mut client = gateway.v2().await;
    add(&mut client, (1..=25).map(session)).await;
    let all = client.get_all_sessions(SessionRequestArgs::default()).await.expect("call").into_inner();
    assert_eq!(ids(&all.session_info), (1..=25).collect::<Vec<_>>());
    assert_eq!(all.next_key, 0);

    let mut by_page = Vec::new();
    for (page, expected) in [(1, 10), (2, 10), (3, 5), (4, 0), (u32::MAX, 0)] {
        let args = SessionRequestArgs { page_size: 10, page, start_session: 0 };
        let sessions = client.get_all_sessions(args).await.expect("call").into_inner();
        assert_eq!(sessions.session_info.len(), expected);
        assert_eq!(sessions.next_key == 0, page >= 3);
        by_page.extend(sessions.session_info);
    }
    assert_eq!(ids(&by_page), (1..=25).collect::<Vec<_>>());

    // A page of its own accord, from a connection that has not walked there.
    let args = SessionRequestArgs { page_size: 10, page: 3, start_session: 0 };
    let third = gateway.v2().await.get_all_sessions(args).await.expect("call").into_inner();
    assert_eq!(ids(&third.session_info), ids(&by_page[20..]));

    let mut by_cursor = Vec::new();
    let mut start_session = 0;
    loop {
        let args = SessionRequestArgs { page_size: 5, page: 0, start_session };
        let sessions = client.get_all_sessions(args).await.expect("call").into_inner();
        by_cursor.extend(sessions.session_info);
        start_session = sessions.next_key;
        if start_session == 0 {
            break;
        }
    }
    assert_eq!(ids(&by_cursor), (1..=25).collect::<Vec<_>>());
}

/// Of 15,000 sessions each third goes between the pages, from the first on, and others come: those that live throughout are
/// seen once.
#[tokio::test]
async fn paging_while_sessions_come_and_go() {
    let gateway = Gateway::start().await;
    let mut client = gateway.v2().await;
    add(&mut client, (1..=15_000).map(session)).await;
    let lives = |id: &u64| *id <= 15_000 && !id.is_multiple_of(3);
    let (mut gone, mut new) = (0, 15_000);
    for by_page in [true, false] {
        let (mut seen, mut page, mut start_session) = (Vec::new(), 1, 0);
        loop {
            let args =
                SessionRequestArgs { page_size: 500, page: if by_page { page } else { 0 }, start_session };
            let sessions = client.get_all_sessions(args).await.expect("call").into_inner();
            seen.extend(ids(&sessions.session_info).into_iter().filter(lives));
            if sessions.next_key == 0 {
                break;
            }
            start_session = if by_page { 0 } else { sessions.next_key };
            page += 1;
            for _ in 0..80 {
                gone += 3;
                let table = &gateway.handles.table;
                table.remove(conntrack::SessionId(gone), gateway.handles.clock.now());
            }
            add(&mut client, (new + 1..=new + 50).map(session)).await;
            new += 50;
        }
        seen.sort_unstable();
        assert_eq!(seen, (1..=15_000).filter(lives).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn no_answer_is_larger_than_clients_take() {
    let gateway = Setup { capacity: 60_000, ..Default::default() }.start().await;
    let mut client = gateway.v2().await;
    // The longest ids there are.
    let long = |n: u32| SessionRequest { session_id: u64::MAX - u64::from(n), ..session(n) };
    add(&mut client, (1..=60_000).map(long)).await;
    let (mut total, mut start_session) = (0, 0);
    loop {
        let args = SessionRequestArgs { page_size: 0, page: 0, start_session };
        // tonic's client, too, takes 4 MiB at most by default.
        let sessions = client.get_all_sessions(args).await.expect("under 4 MiB").into_inner();
        total += sessions.session_info.len();
        start_session = sessions.next_key;
        if start_session == 0 {
            break;
        }
    }
    assert_eq!(total, 60_000);
}

#[tokio::test]
async fn a_stream_that_never_ends_is_ended() {
    let limits = Limits { stream_idle: Duration::from_millis(200), ..Default::default() };
    let gateway = Setup { limits, ..Default::default() }.start().await;
    let mut client = gateway.v2().await;
    let (to, from) = tokio::sync::mpsc::channel(1);
    to.send(session(1)).await.expect("open");
    let call = client.add_session(tokio_stream::wrappers::ReceiverStream::new(from));
    let status = tokio::time::timeout(Duration::from_secs(5), call).await.expect("ended").expect_err("idle");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(gateway.handles.table.stats().active, 1, "what came stays");
    drop(to);
}

#[tokio::test]
async fn streams_at_once_are_bounded() {
    let limits = Limits { add_streams: 2, ..Default::default() };
    let gateway = Setup { limits, ..Default::default() }.start().await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut client = gateway.v2().await;
        let (to, from) = tokio::sync::mpsc::channel(1);
        let number = 1 + open.len() as u32;
        to.send(session(number)).await.expect("open");
        let call = tokio::spawn(async move {
            client
                .add_session(tokio_stream::wrappers::ReceiverStream::new(from))
                .await
                .map(|r| r.into_inner())
        });
        open.push((to, call));
    }
    while gateway.handles.table.stats().active < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut client = gateway.v2().await;
    let refused = client.add_session(tokio_stream::iter([session(9)])).await.expect_err("no slot");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    for (to, call) in open {
        drop(to);
        let added = call.await.expect("task").expect("call");
        assert_eq!(added.request_status(), AddSessionStatus::SessionAccepted);
    }
    assert_eq!(add(&mut client, [session(9)]).await.error_status, 0);
}

/// A client that goes away, or whose deadline passes, in the middle of its stream: what it had sent stays, and its slot is
/// free again.
#[tokio::test]
async fn streams_that_are_cancelled_or_late_keep_what_came_and_free_their_slot() {
    let limits = Limits { add_streams: 1, ..Default::default() };
    let gateway = Setup { limits, ..Default::default() }.start().await;
    for (n, deadline) in [(1, None), (2, Some(Duration::from_secs(3)))] {
        let (to, from) = tokio::sync::mpsc::channel(1);
        to.send(session(n)).await.expect("open");
        let mut request = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(from));
        if let Some(deadline) = deadline {
            request.set_timeout(deadline);
        }
        let mut client = gateway.v2().await;
        let call = tokio::spawn(async move { client.add_session(request).await });
        until(async || gateway.handles.table.stats().active == u64::from(n)).await;
        if deadline.is_some() {
            let status = call.await.expect("task").expect_err("late");
            assert!(matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded), "{status}");
        } else {
            call.abort();
        }
        let mut again = gateway.v2().await;
        let mut tries = 0;
        while let Err(status) = again.add_session(tokio_stream::iter([])).await {
            assert_eq!(status.code(), Code::ResourceExhausted);
            tries += 1;
            assert!(tries < 1000, "the slot is never given back");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(to);
    }
    assert_eq!(gateway.handles.table.stats().active, 2);
}

#[tokio::test]
async fn failures_named_are_bounded() {
    let limits = Limits { response_errors: 10, ..Default::default() };
    let gateway = Setup { limits, ..Default::default() }.start().await;
    let added = add(&mut gateway.v2().await, (0..100).map(|_| SessionRequest::default())).await;
    assert_eq!(added.error_status, u64::MAX);
    assert_eq!(added.response_error.len(), 10);
}

#[tokio::test]
async fn an_oversized_message_is_refused() {
    let gateway = Gateway::start().await;
    let mut client = gateway.v2().await;
    let huge = SessionRequest { source_ipv6: vec![1; 1 << 20], ..session(1) };
    let refused = client.add_session(tokio_stream::iter([huge])).await.expect_err("too large");
    assert_eq!(refused.code(), Code::OutOfRange);
    assert_eq!(add(&mut client, [session(1)]).await.error_status, 0);
}
