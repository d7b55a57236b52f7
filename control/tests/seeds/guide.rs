//! The implementation guide's sequence of operations, in its order, and the actions it defines.

use crate::common::vnf::{self, Vnf, until};
use crate::common::{Setup, add, drain, ids};
use crate::device::{COLLECTOR, Device, Flow, Segment, copy, retag, untagged};
use proto::openoffload::v1alpha5::InterfaceType;
use proto::openoffload::v2::{
    ActionParameters, ActionType, AddSessionStatus, SessionCloseCode, SessionRequest, SessionState,
};
use std::time::Duration;

const DATA: Segment<'static> = Segment::Data(b"payload");

/// A device that one network function is configured for.
async fn device(vnf: &Vnf) -> Device {
    let (address, _server) = vnf.serve(([127, 0, 0, 1], 0).into()).await;
    let activation = Some(vnf::activation(&[address], Duration::from_secs(60)));
    Device::with(Setup { activation, ..Default::default() }).await
}

async fn attempt(device: &Device, flow: Flow) -> AddSessionStatus {
    add(&mut device.gateway.v2().await, [flow.request()]).await.request_status()
}

#[tokio::test]
async fn guide_step_1_register() {
    let vnf = Vnf::default();
    let _device = device(&vnf).await;
    vnf.registered().await;
    let registered = vnf.0.lock().unwrap().registered.clone();
    assert_eq!(registered.len(), 1);
    // What helps the administrator to choose.
    assert_eq!(registered[0].r#type(), InterfaceType::Software);
    assert!(!registered[0].description.is_empty() && registered[0].session_capacity > 0);
}

#[tokio::test]
async fn guide_step_2_activate() {
    let vnf = Vnf::default();
    let mut device = device(&vnf).await;
    vnf.registered().await;
    let flow = Flow::tcp(1);
    assert_eq!(attempt(&device, flow).await, AddSessionStatus::SessionTableUnavailable);
    assert!(device.traps(&flow.there(DATA)), "all is the network function's until then");
    vnf.activate(Some("red-gateway"));
    until(async || attempt(&device, flow).await == AddSessionStatus::SessionAccepted).await;
    assert!(device.forwards(&flow.there(DATA)));
}

/// The network function sees packets until the session is in force, and from its answer on no payload any more.
#[tokio::test]
async fn guide_step_3_add_session() {
    let mut device = Device::start().await;
    for flow in [Flow::tcp(1), Flow::udp(2), Flow::tcp(3).v6(), Flow::udp(4).v6()] {
        assert!(device.traps(&flow.there(DATA)) && device.traps(&flow.back(DATA)), "in flight");
        assert_eq!(attempt(&device, flow).await, AddSessionStatus::SessionAccepted);
        for _ in 0..100 {
            assert!(device.forwards(&flow.there(DATA)) && device.forwards(&flow.back(DATA)));
        }
    }
}

/// Ended by control flags or by the timeout, the session and its counters come to whoever listens.
#[tokio::test]
async fn guide_step_4_get_closed_sessions() {
    let mut device = Device::start().await;
    let mut client = device.gateway.v2().await;
    let flows = [Flow::tcp(1), Flow::tcp(2), Flow::udp(3), Flow::tcp(4)];
    let mut requests = flows.map(Flow::request);
    requests[2].cache_timeout = 1;
    add(&mut client, requests).await;
    flows[..2].iter().for_each(|flow| assert!(device.forwards(&flow.there(DATA))));
    device.traps(&flows[0].there(Segment::Fin));
    device.traps(&flows[0].back(Segment::Fin));
    device.traps(&flows[1].back(Segment::Rst));
    let mut records = Vec::new();
    until_all(&mut client, &mut records, 3).await;
    records.sort_by_key(|record| record.session_id);
    let codes: Vec<_> =
        records.iter().map(|r| (r.session_id, r.session_close_code(), r.in_packets)).collect();
    assert_eq!(
        codes,
        [(1, SessionCloseCode::Finack, 1), (2, SessionCloseCode::Rst, 1), (3, SessionCloseCode::Timeout, 0)]
    );
    assert!(records.iter().all(|r| r.session_state() == SessionState::Closed));
    assert!(device.forwards(&flows[3].there(DATA)), "the others go on");
}

type Client = proto::openoffload::v2::session_table_client::SessionTableClient<tonic::transport::Channel>;

async fn until_all(
    client: &mut Client,
    records: &mut Vec<proto::openoffload::v2::SessionResponse>,
    count: usize,
) {
    for _ in 0..2000 {
        records.extend(drain(client).await);
        if records.len() >= count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{:?} closed in 10 s", ids(records));
}

async fn with_action(action_type: ActionType) -> (Device, Flow) {
    let device = Device::start().await;
    let flow = Flow::udp(1);
    let action_next_hop = u32::from_le_bytes(COLLECTOR.octets());
    let action =
        Some(ActionParameters { action_type: action_type.into(), action_next_hop, ..Default::default() });
    let added = add(&mut device.gateway.v2().await, [SessionRequest { action, ..flow.request() }]).await;
    assert_eq!(added.request_status(), AddSessionStatus::SessionAccepted);
    (device, flow)
}

#[tokio::test]
async fn guide_action_drop() {
    let (mut device, flow) = with_action(ActionType::Drop).await;
    let seen = device.receive(&flow.there(DATA));
    assert!(seen.sent.is_empty() && seen.trapped.is_empty());
    let drops = device.pipeline.snapshot().drops;
    assert!(drops.contains(&("session_drop", 1)), "{drops:?}");
}

#[tokio::test]
async fn guide_action_forward() {
    let (mut device, flow) = with_action(ActionType::Forward).await;
    assert!(device.forwards(&flow.there(DATA)) && device.forwards(&flow.back(DATA)));
}

#[tokio::test]
async fn guide_actions_mirror_and_snoop() {
    for action in [ActionType::Mirror, ActionType::Snoop] {
        let (mut device, flow) = with_action(action).await;
        let frame = flow.there(DATA);
        let seen = device.receive(&frame);
        assert!(seen.trapped.is_empty());
        let [for_collector, forwarded] = &seen.sent[..] else { panic!("{} packets", seen.sent.len()) };
        let (for_collector, forwarded) =
            if forwarded == &retag(&frame) { (for_collector, forwarded) } else { (forwarded, for_collector) };
        assert_eq!(forwarded, &retag(&frame));
        // Nothing is translated in this API: what is sent is what was received.
        assert_eq!(copy(for_collector), untagged(&frame));
    }
}
