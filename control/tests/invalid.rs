//! What is wrong, as a client on the wire sees it: which code, and a message that names the field and says what to send; and
//! that all else in the same stream is served.

mod common;

use common::{Gateway, Setup, add, session};
use proto::Bytes;
use proto::gateway::v1::{
    self, AddSessionsResponse, AddStatus, DeleteSessionsRequest, L2, ListSessionsRequest, MacPair, RateLimit,
    Session, SessionFilter, Tuple, WatchStatsRequest, wire,
};
use proto::openoffload::v2::{
    self, ActionParameters, AddSessionResponse, AddSessionStatus, SessionRequest, Uuid,
};
use tonic::{Code, Status};

/// A session of gateway.v1 that is good.
fn good(n: u64) -> Session {
    let address = |bytes: [u8; 4]| Bytes::copy_from_slice(&bytes);
    Session {
        session_id: n,
        in_lif: 1,
        out_lif: 2,
        protocol: 6,
        original: Some(Tuple {
            source: address([10, 1, 0, n as u8]),
            destination: address([198, 51, 100, 10]),
            source_port: 40_000,
            destination_port: 443,
        }),
        ..Default::default()
    }
}

/// Sends messages that a generated client would not: `wire` is encoded in their place.
async fn stream<M, R>(gateway: &Gateway, method: &'static str, messages: Vec<M>) -> Result<R, Status>
where
    M: prost::Message + 'static,
    R: prost::Message + Default + 'static,
{
    let mut client = tonic::client::Grpc::new(gateway.channel().await);
    client.ready().await.expect("channel");
    let codec = tonic_prost::ProstCodec::<M, R>::default();
    let request = tonic::Request::new(tokio_stream::iter(messages));
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(method);
    client.client_streaming(request, path, codec).await.map(tonic::Response::into_inner)
}

/// A batch, each session as its bytes.
fn batch(sessions: impl IntoIterator<Item = Bytes>) -> wire::AddSessionsRequest {
    wire::AddSessionsRequest { sessions: sessions.into_iter().collect() }
}

fn encoded(session: &Session) -> Bytes {
    prost::Message::encode_to_vec(session).into()
}

const ADD_V1: &str = "/gateway.v1.Gateway/AddSessions";
const ADD_V2: &str = "/openoffload.v2.SessionTable/AddSession";

/// Each is refused by itself, with a message; the good ones between them are installed.
#[tokio::test]
async fn each_bad_session_of_a_batch_is_told_its_field_and_the_remedy() {
    let gateway =
        Setup { underlay: Some("192.0.2.1".parse().expect("address")), ..Default::default() }.start().await;
    let tuple = |change: fn(&mut Tuple)| {
        let mut tuple = good(1).original.expect("present");
        change(&mut tuple);
        Some(tuple)
    };
    let mac = |bytes: &'static [u8]| MacPair { source: bytes.into(), destination: vec![2; 6].into() };
    let v6: Bytes = "2001:db8::1".parse::<std::net::Ipv6Addr>().expect("address").octets().to_vec().into();
    let mirror = |collector: Bytes| Session { action: v1::Action::Mirror.into(), collector, ..good(1) };
    let limit = |packets, burst_ms| Some(RateLimit { packets, bytes: 0, burst_ms });
    use AddStatus::{Invalid, UnknownLif, Unsupported};
    let bad: Vec<(Session, AddStatus, &str, &str)> = vec![
        (Session { session_id: 0, ..good(1) }, Invalid, "session_id", "any value but 0"),
        (Session { in_lif: 77, ..good(1) }, UnknownLif, "in_lif", "LIF 77"),
        (Session { out_lif: u32::MAX, ..good(1) }, UnknownLif, "out_lif", "LIF 4294967295"),
        (Session { protocol: 256, ..good(1) }, Invalid, "protocol", "at most 255"),
        (Session { original: None, ..good(1) }, Invalid, "original", "is missing"),
        (
            Session { original: tuple(|t| t.source = vec![10; 5].into()), ..good(1) },
            Invalid,
            "original.source",
            "4 or 16 bytes",
        ),
        (
            Session { original: tuple(|t| t.destination = vec![2; 16].into()), ..good(1) },
            Invalid,
            "original.destination",
            "of the source's address family",
        ),
        (
            Session { original: tuple(|t| t.source_port = 65_536), ..good(1) },
            Invalid,
            "original.source_port",
            "at most 65535",
        ),
        (
            Session { translated: tuple(|t| t.destination_port = 0), ..good(1) },
            Invalid,
            "translated.destination_port",
            "1 to 65535",
        ),
        (
            Session { translated: tuple(|t| t.source = vec![224, 0, 0, 1].into()), ..good(1) },
            Invalid,
            "translated.source",
            "unicast",
        ),
        (Session { action: 9, ..good(1) }, Invalid, "action", "ACTION_MIRROR"),
        (mirror(Bytes::new()), Invalid, "collector", "4 or 16 bytes"),
        (mirror(v6), Unsupported, "collector", "2001:db8::1"),
        (Session { idle_timeout: 1 << 30, ..good(1) }, Invalid, "idle_timeout", "at most 2097152"),
        (Session { hard_timeout: 1 << 30, ..good(1) }, Invalid, "hard_timeout", "at most 2097152"),
        (Session { limit: limit(0, 0), ..good(1) }, Invalid, "limit", "packets or bytes"),
        (Session { limit: limit(1, 60_001), ..good(1) }, Invalid, "limit.burst_ms", "1 to 60000"),
        (
            Session { l2: Some(L2 { forward: Some(mac(&[2; 6])), reverse: None }), ..good(1) },
            Invalid,
            "l2.reverse",
            "both directions",
        ),
        (
            Session { l2: Some(L2 { forward: Some(mac(&[2; 5])), reverse: Some(mac(&[2; 6])) }), ..good(1) },
            Invalid,
            "l2",
            "6 bytes",
        ),
    ];
    let between = bad.iter().zip(100..).flat_map(|((session, ..), n)| [session.clone(), good(n)]);
    let batches = [v1::AddSessionsRequest { sessions: between.collect() }];
    let added: AddSessionsResponse =
        gateway.v1().await.add_sessions(tokio_stream::iter(batches)).await.expect("OK").into_inner();
    assert_eq!((added.accepted, added.failed), (bad.len() as u64, bad.len() as u64));
    assert_eq!(added.errors.len(), bad.len());
    for (position, (error, (session, status, field, remedy))) in added.errors.iter().zip(&bad).enumerate() {
        assert_eq!((error.index, error.session_id), (2 * position as u64, session.session_id), "{error:?}");
        assert_eq!(error.status(), *status, "{error:?}");
        assert!(error.message.starts_with(&format!("{field}: ")), "{field}: {error:?}");
        assert!(error.message.contains(remedy), "{remedy}: {error:?}");
    }
}

/// Bytes that are no session end the call, which says which they are; what came before them is installed.
#[tokio::test]
async fn bytes_that_are_no_session_are_named_by_position_and_cost_nothing_before_them() {
    let gateway = Gateway::start().await;
    // A field 1 of ten bytes that never end; a source that is longer than its message.
    for (n, broken) in [(0, vec![8, 0xff]), (1, vec![0x2a, 4, 0x0a, 9, 1, 2])] {
        let first = 10 * n + 1;
        let batches = vec![
            batch([encoded(&good(first)), encoded(&good(first + 1))]),
            batch([encoded(&good(first + 2)), broken.into(), encoded(&good(first + 3))]),
            batch([encoded(&good(first + 4))]),
        ];
        let refused = stream::<_, AddSessionsResponse>(&gateway, ADD_V1, batches).await.expect_err("broken");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().starts_with("session 3 of the stream: "), "{}", refused.message());
        let there = |id| gateway.handles.table.get(conntrack::SessionId(id)).is_some();
        let there: Vec<_> = (first..first + 5).map(there).collect();
        assert_eq!(there, [true, true, true, false, false], "as the message says");
    }
}

/// gRPC's own code for a message that cannot be decoded (statuscodes.md: INTERNAL); the sessions before it stay.
#[tokio::test]
async fn a_message_that_is_none_ends_the_stream_and_costs_nothing_before_it() {
    let gateway = Gateway::start().await;
    add(&mut gateway.v2().await, [session(1)]).await;
    // A text where the session's number belongs.
    let text = Uuid { value: "12345678910".to_owned() };
    let refused =
        stream::<_, AddSessionResponse>(&gateway, ADD_V2, vec![text]).await.expect_err("no session");
    assert_eq!(refused.code(), Code::Internal, "{refused}");
    assert!(refused.message().contains("session_id"), "{}", refused.message());
    // All else goes on.
    assert_eq!(add(&mut gateway.v2().await, [session(2)]).await.error_status, 0);
    assert_eq!(gateway.handles.table.stats().active, 2);
}

/// openoffload.v2 has no room for a message: a status for each, and the call is OK.
#[tokio::test]
async fn each_bad_session_of_a_stream_is_rejected_and_the_others_are_served() {
    let gateway =
        Setup { underlay: Some("192.0.2.1".parse().expect("address")), ..Default::default() }.start().await;
    let v6 = |len: usize| vec![0x20; len];
    let only_v6 = |source: usize, destination: usize| SessionRequest {
        source_ip: 0,
        destination_ip: 0,
        source_ipv6: v6(source),
        destination_ipv6: v6(destination),
        ..session(1)
    };
    let copied = |action_type| {
        let action = ActionParameters { action_type, action_next_hop: 0, action_next_hop_v6: v6(16) };
        SessionRequest { action: Some(action), ..session(1) }
    };
    let bad = [
        only_v6(15, 16),
        only_v6(16, 4),
        only_v6(17, 17),
        SessionRequest { ip_version: v2::IpVersion::Ipv6.into(), ..session(1) },
        SessionRequest { in_lif: 77, ..session(1) },
        SessionRequest { out_lif: -1, ..session(1) },
        copied(v2::ActionType::Mirror.into()),
        copied(v2::ActionType::Snoop.into()),
    ];
    let requests: Vec<_> = bad.iter().zip(100..).flat_map(|(bad, n)| [session(n), bad.clone()]).collect();
    let added = add(&mut gateway.v2().await, requests).await;
    assert_eq!(added.request_status(), AddSessionStatus::SessionRejected);
    assert_eq!(added.error_status, 0xaaaa, "every second one");
    assert_eq!(added.response_error.len(), bad.len());
    let rejected = i32::from(AddSessionStatus::SessionRejected);
    assert!(added.response_error.iter().all(|e| (e.session_id, e.error_status) == (1, rejected)));
    assert_eq!(gateway.handles.table.stats().active, bad.len() as u64);
}

/// A call that is wrong as a whole.
#[tokio::test]
async fn bad_arguments_of_a_call_are_invalid_argument_with_field_and_remedy() {
    let gateway = Gateway::start().await;
    let client = gateway.v1().await;
    let filter = |filter| ListSessionsRequest { filter: Some(filter), ..Default::default() };
    let default = SessionFilter::default;
    let filters = [
        (SessionFilter { lif: 77, ..default() }, "filter: lif: ", "LIF 77"),
        (SessionFilter { address: vec![1; 5].into(), ..default() }, "filter: address: ", "4 or 16 bytes"),
        (
            SessionFilter { address: vec![1; 4].into(), prefix: Some(33), ..default() },
            "filter: prefix: ",
            "at most 32",
        ),
        (SessionFilter { nat: vec![1; 3].into(), ..default() }, "filter: nat: ", "4 or 16 bytes"),
        (SessionFilter { protocol: Some(256), ..default() }, "filter: protocol: ", "at most 255"),
        (SessionFilter { state: Some(3), ..default() }, "filter: state: ", "live sessions"),
        (SessionFilter { port: Some(65_536), ..default() }, "filter: port: ", "at most 65535"),
    ];
    let check = |refused: Status, start: &str, remedy: &str| {
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().starts_with(start), "{start}: {}", refused.message());
        assert!(refused.message().contains(remedy), "{remedy}: {}", refused.message());
    };
    for (wrong, start, remedy) in filters {
        let refused = client.clone().list_sessions(filter(wrong)).await.expect_err("refused");
        check(refused, start, remedy);
    }
    for interval_ms in [99, 3_600_001] {
        let refused =
            client.clone().watch_stats(WatchStatsRequest { interval_ms }).await.expect_err("refused");
        check(refused, "interval_ms", "100 to 3600000");
    }
    let session_ids = vec![1; 10_001];
    let refused = client.clone().delete_sessions(DeleteSessionsRequest { session_ids }).await;
    check(refused.expect_err("refused"), "10001 ids", "at most 10000");
}
