//! The eight steps that `poc` and `smartnic` have in common, for any flow.

use crate::common::{add, drain, ids};
use crate::device::{BLUE, Device, Flow, Segment, lifs, retag, untagged};
use conntrack::SessionId;
use proto::openoffload::v2::{
    AddSessionStatus, RequestStatus, SessionCloseCode, SessionRequest, SessionResponse, SessionState,
};
use std::time::Duration;

const DATA: Segment<'static> = Segment::Data(b"payload");
/// Seconds: longer than a busy machine makes a test pause.
const TIMEOUT: u32 = 3;

/// The network function has the device offload `flow`, which ends after so many seconds of silence.
async fn offload(device: &Device, flow: Flow, cache_timeout: u32) {
    let request = SessionRequest { cache_timeout, ..flow.request() };
    let added = add(&mut device.gateway.v2().await, [request]).await;
    assert_eq!(added.request_status(), AddSessionStatus::SessionAccepted);
}

/// Bytes of the frame as a session counts them: without the tag.
fn bytes(frame: &[u8]) -> u64 {
    untagged(frame).len() as u64
}

/// What closed, waited for like a network function that polls.
async fn closed(device: &Device) -> SessionResponse {
    let mut client = device.gateway.v2().await;
    for _ in 0..2000 {
        if let Some(record) = drain(&mut client).await.pop() {
            return record;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("nothing closed in 10 s");
}

/// Every packet that arrives is looked at and accounted for, once.
pub async fn a_packet_arrives(flow: Flow) {
    let mut device = Device::start().await;
    for frame in [flow.there(DATA), flow.back(DATA)] {
        let seen = device.receive(&frame);
        assert_eq!(seen.sent.len() + seen.trapped.len(), 1);
    }
    let snapshot = device.pipeline.snapshot();
    assert_eq!(snapshot.ports[0].rx_packets, 2);
    assert_eq!(snapshot.lifs.iter().map(|lif| lif.rx_packets).collect::<Vec<_>>(), [1, 1]);
}

/// A packet of a session is sent out, both ways.
pub async fn a_session_is_looked_up_and_sent_out(flow: Flow) {
    let mut device = Device::start().await;
    offload(&device, flow, 60).await;
    assert!(device.forwards(&flow.there(DATA)) && device.forwards(&flow.back(DATA)));
    assert!(device.traps(&Flow { n: flow.n + 1, ..flow }.there(DATA)), "another flow has no session");
}

/// What has no session goes to the network function.
pub async fn the_unknown_goes_to_the_network_function(flow: Flow) {
    let mut device = Device::start().await;
    assert!(device.traps(&flow.there(DATA)) && device.traps(&flow.back(DATA)));
}

/// What is not offloaded is the network function's own to forward: it sends it on through the device.
pub async fn the_network_function_forwards_what_is_not_offloaded(flow: Flow) {
    let mut device = Device::start().await;
    for _ in 0..3 {
        let frame = flow.there(DATA);
        let (_, packet) = device.receive(&frame).trapped.pop().expect("to the network function");
        let seen = device.network_function_sends(BLUE, &packet);
        assert_eq!((seen.sent, seen.trapped), (vec![retag(&frame)], Vec::new()));
    }
    assert_eq!(device.gateway.handles.table.stats().installed, 0);
}

/// `AddSession` puts the session into the table as it was asked for.
pub async fn the_session_is_added(flow: Flow) {
    let device = Device::start().await;
    offload(&device, flow, 60).await;
    let info = device.gateway.handles.table.get(SessionId(flow.n.into())).expect("in the table");
    let protocol = flow.protocol as u8;
    assert_eq!((info.spec.in_lif, info.spec.out_lif, info.spec.protocol), (lifs().0, lifs().1, protocol));
    assert_eq!((info.spec.original.source_port, info.spec.original.destination_port), (40_000, 443));
    assert_eq!(info.spec.original.source.is_ipv6(), flow.is_v6);
    assert_eq!(info.spec.translated, info.spec.original);
}

/// One timer for both directions, that of the request.
pub async fn a_timer_is_set_for_both_directions(flow: Flow) {
    for frame in [flow.there(DATA), flow.back(DATA)] {
        let mut device = Device::start().await;
        offload(&device, flow, TIMEOUT).await;
        let id = SessionId(flow.n.into());
        let before = device.gateway.handles.table.get(id).expect("there");
        assert_eq!(before.spec.idle_timeout, Some(TIMEOUT));
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(device.forwards(&frame));
        let after = device.gateway.handles.table.get(id).map_or(before.last_seen, |info| info.last_seen);
        assert!(after > before.last_seen, "either direction sets it again");
    }
}

/// Packets in either direction keep the session, silence ends it, and the report has every packet and byte.
pub async fn the_timer_keeps_or_ends_the_session(flow: Flow) {
    let mut device = Device::start().await;
    offload(&device, flow, TIMEOUT).await;
    let (there, back) = (flow.there(DATA), flow.back(DATA));
    let mut sent = [0_u64; 2];
    // Longer than the timeout in all, one direction at a time.
    for (direction, frame) in [&there, &back].into_iter().enumerate() {
        for _ in 0..20 {
            assert!(device.forwards(frame), "a session in use stays");
            sent[direction] += 1;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let record = closed(&device).await;
    assert_eq!(record.session_id, u64::from(flow.n));
    assert_eq!(record.session_close_code(), SessionCloseCode::Timeout);
    assert_eq!((record.in_packets, record.out_packets), (sent[0], sent[1]));
    assert_eq!((record.in_bytes, record.out_bytes), (sent[0] * bytes(&there), sent[1] * bytes(&back)));
    let (start, end) = (record.start_time.expect("start"), record.end_time.expect("end"));
    let millis = |t: prost_types::Timestamp| t.seconds * 1000 + i64::from(t.nanos) / 1_000_000;
    assert!(millis(end) - millis(start) >= 3900 + 1000 * i64::from(TIMEOUT), "so long after the last packet");
    assert_eq!(device.gateway.handles.table.stats().active, 0);
    assert!(device.traps(&there), "the next packet is the network function's again");
}

/// The network function gets the message once, with what it needs to close its own session.
pub async fn the_closed_session_is_received(flow: Flow) {
    let mut device = Device::start().await;
    offload(&device, flow, TIMEOUT).await;
    assert!(device.forwards(&flow.there(DATA)));
    let record = closed(&device).await;
    assert_eq!(record.request_status(), RequestStatus::Accepted);
    assert_eq!(record.session_state(), SessionState::Closed);
    assert_eq!((ids(&[record]), record.in_packets, record.out_packets), (vec![flow.n.into()], 1, 0));
    let mut client = device.gateway.v2().await;
    assert!(drain(&mut client).await.is_empty(), "once and only once");
    let id = proto::openoffload::v2::SessionId { session_id: flow.n.into() };
    let gone = client.get_session(id).await.expect("call").into_inner();
    assert_eq!(gone.request_status(), RequestStatus::RejectedSessionNonexistent);
}
