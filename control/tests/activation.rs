//! The device's side of activation, against a VNF that serves it.

mod common;

use common::vnf::{self, Vnf, until};
use common::{Gateway, Setup, add, session};
use control::Limits;
use proto::gateway::v1;
use proto::openoffload::v1alpha5::InterfaceType;
use proto::openoffload::v2::{AddSessionStatus, RequestStatus, SessionId};
use std::net::SocketAddr;
use std::time::Duration;

async fn gateway(vnfs: &[SocketAddr], hold: Duration) -> Gateway {
    let activation = Some(vnf::activation(vnfs, hold));
    let limits = Limits { shutdown: Duration::from_secs(5), ..Limits::default() };
    Setup { activation, limits, ..Default::default() }.start().await
}

const LONG: Duration = Duration::from_secs(60);

fn any_port() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

/// The status of an attempt to install session `n`.
async fn attempt(gateway: &Gateway, n: u32) -> AddSessionStatus {
    add(&mut gateway.v2().await, [session(n)]).await.request_status()
}

#[tokio::test]
async fn serves_once_activated_and_no_more_when_deactivated() {
    let vnf = Vnf::default();
    let (address, _server) = vnf.serve(any_port()).await;
    let gateway = gateway(&[address], LONG).await;
    vnf.registered().await;
    let device = vnf.0.lock().unwrap().registered[0].clone();
    assert_eq!(device.r#type(), InterfaceType::Software);
    assert_eq!((device.description.as_str(), device.session_capacity), ("software, rack 7", 20_000));
    assert_eq!(
        (device.session_rate, device.tcp_session_timeout, device.udp_session_timeout),
        (i32::MAX, 7440, 300)
    );

    let refused = add(&mut gateway.v2().await, [session(1), session(2)]).await;
    assert_eq!(refused.request_status(), AddSessionStatus::SessionTableUnavailable);
    assert_eq!((refused.error_status, refused.response_error.len()), (0b11, 2));
    let batch =
        v1::AddSessionsRequest { sessions: vec![v1::Session { session_id: 5, ..Default::default() }] };
    let refused =
        gateway.v1().await.add_sessions(tokio_stream::iter([batch])).await.expect("call").into_inner();
    assert_eq!(refused.errors[0].status(), v1::AddStatus::Unavailable);
    assert!(refused.errors[0].message.contains("activate"), "{}", refused.errors[0].message);
    assert_eq!(gateway.handles.table.stats().active, 0);

    vnf.activate(Some("blue-gateway"));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(attempt(&gateway, 1).await, AddSessionStatus::SessionTableUnavailable, "another device");

    vnf.activate(Some("red-gateway"));
    until(async || attempt(&gateway, 1).await == AddSessionStatus::SessionAccepted).await;

    vnf.activate(None);
    until(async || attempt(&gateway, 2).await == AddSessionStatus::SessionTableUnavailable).await;
    let kept = gateway.v2().await.get_session(SessionId { session_id: 1 }).await.expect("call").into_inner();
    assert_eq!(kept.request_status(), RequestStatus::Accepted, "what was installed stays");
}

#[tokio::test]
async fn one_of_several_vnfs_is_enough() {
    let (one, two) = (Vnf::default(), Vnf::default());
    let (first, _server) = one.serve(any_port()).await;
    let (second, _server) = two.serve(any_port()).await;
    let gateway = gateway(&[first, second], LONG).await;
    one.registered().await;
    two.registered().await;
    assert_eq!(attempt(&gateway, 1).await, AddSessionStatus::SessionTableUnavailable);
    two.activate(Some("red-gateway"));
    until(async || attempt(&gateway, 1).await == AddSessionStatus::SessionAccepted).await;
}

#[tokio::test]
async fn deregisters_on_shutdown() {
    let vnf = Vnf::default();
    let (address, _server) = vnf.serve(any_port()).await;
    let gateway = gateway(&[address], LONG).await;
    vnf.registered().await;
    gateway.server.shutdown().await;
    assert!(vnf.names().is_empty(), "{:?}", vnf.names());
}

#[tokio::test]
async fn a_vnf_that_comes_late_is_found() {
    let vnf = Vnf::default();
    let (address, server) = vnf.serve(any_port()).await;
    server.abort();
    assert!(server.await.is_err());
    let gateway = gateway(&[address], LONG).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(vnf.names().is_empty());
    vnf.activate(Some("red-gateway"));
    let (_, _server) = vnf.serve(address).await;
    vnf.registered().await;
    until(async || attempt(&gateway, 1).await == AddSessionStatus::SessionAccepted).await;
}

/// A VNF whose memory is lost with its process.
#[tokio::test]
async fn a_vnf_that_forgets_is_told_again() {
    let vnf = Vnf::default();
    let (address, _server) = vnf.serve(any_port()).await;
    let _gateway = gateway(&[address], LONG).await;
    vnf.registered().await;
    *vnf.0.lock().unwrap() = vnf::State::default();
    vnf.registered().await;
}

/// Connections already open live on when a tonic server's task is aborted, hence a server of its own runtime.
#[test]
fn an_activation_holds_for_a_while_without_the_vnf() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let here = runtime();
    for hold in [LONG, Duration::from_millis(300)] {
        let (there, vnf) = (runtime(), Vnf::default());
        let (address, _server) = there.block_on(vnf.serve(any_port()));
        vnf.activate(Some("red-gateway"));
        here.block_on(async {
            let gateway = gateway(&[address], hold).await;
            until(async || attempt(&gateway, 1).await == AddSessionStatus::SessionAccepted).await;
            there.shutdown_background();
            if hold == LONG {
                tokio::time::sleep(Duration::from_secs(1)).await;
                assert_eq!(attempt(&gateway, 2).await, AddSessionStatus::SessionAccepted);
            } else {
                until(async || attempt(&gateway, 2).await == AddSessionStatus::SessionTableUnavailable).await;
            }
        });
    }
}
