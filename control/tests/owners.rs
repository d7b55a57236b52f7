//! Clients told apart by their certificates act on their own sessions.

mod common;

use common::pki::{Pki, any_port};
use common::{Gateway, Setup, add, drain, ids, session};
use control::client::{self, ClientTls, Target};
use proto::gateway::v1::gateway_client::GatewayClient;
use proto::gateway::v1::{
    DeleteSessionsRequest, FlushSessionsRequest, GetSessionRequest, ListSessionsRequest,
};
use proto::openoffload::v2::session_table_client::SessionTableClient;
use proto::openoffload::v2::{AddSessionStatus, RequestStatus, SessionId};
use tonic::transport::Channel;

struct Client {
    v1: GatewayClient<Channel>,
    v2: SessionTableClient<Channel>,
}

impl Client {
    fn new(channel: Channel) -> Self {
        Self { v1: GatewayClient::new(channel.clone()), v2: SessionTableClient::new(channel) }
    }

    async fn over(gateway: &Gateway, tls: Option<ClientTls>) -> Self {
        let target = Target { endpoint: gateway.server.endpoints()[1].clone(), tls };
        Self::new(client::connect(&target).await.expect("connection"))
    }

    async fn delete(&mut self, session_id: u64) -> RequestStatus {
        let deleted = self.v2.delete_session(SessionId { session_id }).await.expect("call").into_inner();
        assert_eq!(deleted.session_id, session_id);
        deleted.request_status()
    }

    async fn flush(&mut self) -> u64 {
        self.v1.flush_sessions(FlushSessionsRequest {}).await.expect("call").into_inner().removed
    }

    async fn owner(&mut self, session_id: u64) -> Option<String> {
        let info = self.v1.get_session(GetSessionRequest { session_id }).await.ok()?.into_inner();
        Some(info.session?.owner)
    }
}

async fn mutual(pki: &Pki, admins: &[&str]) -> Gateway {
    ["vnf-a", "vnf-b", "boss"].iter().for_each(|name| pki.issue(name));
    let admins = admins.iter().map(ToString::to_string).collect();
    Setup { listen: vec![any_port()], tls: Some(pki.server(true)), admins, ..Default::default() }
        .start()
        .await
}

#[tokio::test]
async fn nobody_removes_or_replaces_anothers_sessions() {
    let pki = Pki::new();
    let gateway = mutual(&pki, &["boss"]).await;
    let mut a = Client::over(&gateway, Some(pki.client_named("vnf-a"))).await;
    let mut b = Client::over(&gateway, Some(pki.client_named("vnf-b"))).await;
    add(&mut a.v2, [session(1), session(2)]).await;
    add(&mut b.v2, [session(3), session(4)]).await;

    assert_eq!(b.delete(1).await, RequestStatus::Rejected);
    let request = DeleteSessionsRequest { session_ids: vec![1, 3, 99, 2] };
    let deleted = b.v1.delete_sessions(request).await.expect("call").into_inner();
    let closed: Vec<_> = deleted.closed.iter().map(|c| c.session.as_ref().expect("session")).collect();
    assert_eq!(closed.iter().map(|s| (s.session_id, s.owner.as_str())).collect::<Vec<_>>(), [(3, "vnf-b")]);
    assert_eq!((deleted.unknown, deleted.refused), (vec![99], vec![1, 2]));
    assert_eq!(gateway.counter("foreign_refused").await, 3);
    let replaced = add(&mut b.v2, [session(1)]).await;
    assert_eq!(replaced.request_status(), AddSessionStatus::SessionAlreadyExists);
    assert_eq!((b.flush().await, b.flush().await), (1, 0));
    assert_eq!(gateway.handles.table.stats().active, 2);

    // Reading is open.
    assert_eq!(b.owner(1).await.as_deref(), Some("vnf-a"));
    let listed = b.v1.list_sessions(ListSessionsRequest::default()).await.expect("call").into_inner();
    assert_eq!(listed.sessions.len(), 2);
    assert_eq!(gateway.counter("owners").await, 2);
    // Its own, a client removes as ever.
    assert_eq!(a.delete(1).await, RequestStatus::Accepted);
    assert_eq!(a.delete(1).await, RequestStatus::RejectedSessionNonexistent);
    assert_eq!(a.flush().await, 1);
}

#[tokio::test]
async fn admins_and_local_clients_remove_all() {
    let pki = Pki::new();
    let gateway = mutual(&pki, &["boss"]).await;
    let mut a = Client::over(&gateway, Some(pki.client_named("vnf-a"))).await;
    add(&mut a.v2, [session(1), session(2), session(3)]).await;
    let mut boss = Client::over(&gateway, Some(pki.client_named("boss"))).await;
    assert_eq!(boss.delete(1).await, RequestStatus::Accepted);
    let mut local = Client::new(gateway.channel().await);
    assert_eq!(local.delete(2).await, RequestStatus::Accepted);
    add(&mut local.v2, [session(4)]).await;
    assert_eq!(a.owner(4).await.as_deref(), Some("unix"));
    assert_eq!(a.delete(4).await, RequestStatus::Rejected);
    assert_eq!(boss.flush().await, 2);

    add(&mut a.v2, [session(5)]).await;
    gateway.server.set_admins(Vec::new());
    assert_eq!(boss.delete(5).await, RequestStatus::Rejected, "no admin any more");
    gateway.server.set_admins(vec!["boss".to_owned()]);
    assert_eq!(boss.delete(5).await, RequestStatus::Accepted);
}

#[tokio::test]
async fn closed_sessions_are_drained_by_their_owner() {
    let pki = Pki::new();
    let gateway = mutual(&pki, &["boss"]).await;
    let mut a = Client::over(&gateway, Some(pki.client_named("vnf-a"))).await;
    let mut b = Client::over(&gateway, Some(pki.client_named("vnf-b"))).await;
    let mut boss = Client::over(&gateway, Some(pki.client_named("boss"))).await;
    add(&mut a.v2, [session(1), session(2)]).await;
    add(&mut b.v2, [session(3)]).await;
    assert_eq!(boss.flush().await, 3);
    gateway.closed(3).await;
    assert!(drain(&mut boss.v2).await.is_empty(), "an admin does not take what others wait for");
    assert_eq!(ids(&drain(&mut b.v2).await), [3]);
    assert_eq!(ids(&drain(&mut a.v2).await), [1, 2]);
    assert_eq!(gateway.handles.closed.len(), 0);
}

#[tokio::test]
async fn without_a_client_ca_all_are_equal() {
    let pki = Pki::new();
    let tls = [None, Some(pki.server(false))];
    for tls in tls {
        let client = tls.as_ref().map(|_| pki.client(false));
        let plaintext = tls.is_none();
        let setup = Setup { listen: vec![any_port()], tls, plaintext, ..Default::default() };
        let gateway = setup.start().await;
        let mut local = Client::new(gateway.channel().await);
        let mut remote = Client::over(&gateway, client).await;
        add(&mut local.v2, [session(1)]).await;
        add(&mut remote.v2, [session(2), session(3)]).await;
        assert_eq!(remote.owner(2).await.as_deref(), Some(""));
        assert_eq!(remote.delete(1).await, RequestStatus::Accepted);
        assert_eq!(local.delete(2).await, RequestStatus::Accepted);
        assert_eq!(local.flush().await, 1);
        gateway.closed(3).await;
        assert_eq!(ids(&drain(&mut remote.v2).await), [1, 2, 3]);
    }
}

/// A client that came before certificates were asked for has none, and may do no more than its own afterwards.
#[tokio::test]
async fn a_client_ca_that_comes_later_holds_for_all() {
    let pki = Pki::new();
    pki.issue("vnf-a");
    let setup = Setup { listen: vec![any_port()], tls: Some(pki.server(false)), ..Default::default() };
    let gateway = setup.start().await;
    let mut early = Client::over(&gateway, Some(pki.client(false))).await;
    add(&mut early.v2, [session(1)]).await;
    gateway.server.reload_tls(&pki.server(true)).expect("good files");
    let mut a = Client::over(&gateway, Some(pki.client_named("vnf-a"))).await;
    add(&mut a.v2, [session(2)]).await;
    assert_eq!(early.delete(2).await, RequestStatus::Rejected);
    assert_eq!(a.delete(1).await, RequestStatus::Rejected);
    assert_eq!(
        (early.delete(1).await, a.delete(2).await),
        (RequestStatus::Accepted, RequestStatus::Accepted)
    );
}
