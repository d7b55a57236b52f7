//! The Python simulator's three windows: a firewall that begins, offloads and polls, and a tool that watches.

use crate::common::{Setup, add, drain, ids};
use crate::device::{Device, Flow, Segment};
use proto::openoffload::v2::{
    AddSessionStatus, SessionCloseCode, SessionRequestArgs, SessionResponse, SessionState,
};

const DATA: Segment<'static> = Segment::Data(b"payload");

fn page(page_size: u32, page: u32) -> SessionRequestArgs {
    SessionRequestArgs { page_size, page, start_session: 0 }
}

async fn all(device: &Device, args: SessionRequestArgs) -> Vec<SessionResponse> {
    let mut client = device.gateway.v2().await;
    client.get_all_sessions(args).await.expect("call").into_inner().session_info
}

/// Ten IPv4 and ten IPv6 sessions, one by one, at a device that holds 18.
async fn firewall() -> (Device, Vec<Flow>, Vec<AddSessionStatus>) {
    let device = Device::with(Setup { capacity: 18, ..Default::default() }).await;
    let flows: Vec<_> = (1..=20).map(|n| if n <= 10 { Flow::tcp(n) } else { Flow::tcp(n).v6() }).collect();
    let mut client = device.gateway.v2().await;
    let mut statuses = Vec::new();
    for flow in &flows {
        statuses.push(add(&mut client, [flow.request()]).await.request_status());
    }
    (device, flows, statuses)
}

/// A firewall that has just begun asks for what it offloaded before.
#[tokio::test]
async fn simulator_step_1_get_all_sessions_of_an_earlier_life() {
    let device = Device::start().await;
    assert!(all(&device, page(0, 0)).await.is_empty());
    add(&mut device.gateway.v2().await, [Flow::tcp(1).request(), Flow::tcp(2).v6().request()]).await;
    assert_eq!(ids(&all(&device, page(0, 0)).await), [1, 2]);
}

#[tokio::test]
async fn simulator_step_2_add_sessions_until_the_table_is_full() {
    let (mut device, flows, statuses) = firewall().await;
    assert!(statuses[..18].iter().all(|status| *status == AddSessionStatus::SessionAccepted));
    assert!(statuses[18..].iter().all(|status| *status == AddSessionStatus::SessionTableFull));
    for flow in &flows[..18] {
        assert!(device.forwards(&flow.there(DATA)) && device.forwards(&flow.back(DATA)));
    }
    assert!(
        flows[18..].iter().all(|flow| device.traps(&flow.there(DATA))),
        "the firewall goes on with those"
    );
}

#[tokio::test]
async fn simulator_step_3_get_closed_sessions_and_go_on() {
    let (mut device, flows, _) = firewall().await;
    for flow in &flows[3..5] {
        assert!(device.forwards(&flow.there(DATA)));
        assert!(device.traps(&flow.there(Segment::Fin)) && device.traps(&flow.back(Segment::Fin)));
    }
    device.gateway.closed(2).await;
    let mut client = device.gateway.v2().await;
    let closed = drain(&mut client).await;
    assert_eq!(ids(&closed), [4, 5]);
    assert!(closed.iter().all(|s| (s.session_close_code(), s.in_packets) == (SessionCloseCode::Finack, 1)));
    let again = add(&mut client, flows[18..].iter().map(|flow| flow.request()).collect::<Vec<_>>()).await;
    assert_eq!(again.request_status(), AddSessionStatus::SessionAccepted, "there is room again");
    assert!(flows[18..].iter().all(|flow| device.forwards(&flow.there(DATA))));
}

#[tokio::test]
async fn simulator_step_4_watch_all_sessions_and_the_second_five() {
    let (mut device, flows, _) = firewall().await;
    for flow in &flows[..18] {
        (0..flow.n).for_each(|_| assert!(device.forwards(&flow.there(DATA))));
        assert!(device.forwards(&flow.back(Segment::Data(b"longer payload"))));
    }
    let sessions = all(&device, page(0, 0)).await;
    assert_eq!(ids(&sessions), (1..=18).collect::<Vec<_>>());
    for session in &sessions {
        let flow = flows[session.session_id as usize - 1];
        let bytes = |frame: Vec<u8>| frame.len() as u64 - 4;
        assert_eq!((session.in_packets, session.out_packets), (u64::from(flow.n), 1));
        assert_eq!(session.in_bytes, u64::from(flow.n) * bytes(flow.there(DATA)));
        assert_eq!(session.out_bytes, bytes(flow.back(Segment::Data(b"longer payload"))));
        assert_eq!(session.session_state(), SessionState::Established);
        assert_eq!(session.session_close_code(), SessionCloseCode::NotClosed);
    }
    let second = all(&device, page(5, 2)).await;
    assert_eq!(ids(&second), ids(&sessions[5..10]));
}
