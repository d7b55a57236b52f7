//! Health, reflection, and statistics to watch: what tools use that know nothing of this gateway.

mod common;

use common::{Gateway, Setup, add, session};
use control::Limits;
use proto::gateway::v1::{Stats, StatsEvent, WatchStatsRequest};
use std::time::Duration;
use tokio::time::timeout;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
use tonic_reflection::pb::v1alpha;

const IN_TIME: Duration = Duration::from_secs(30);
const OURS: [&str; 2] = ["gateway.v1.Gateway", "openoffload.v2.SessionTable"];

/// A shutdown does not wait for its grace to be over where no call is left: it takes no more than [`IN_TIME`].
async fn with_long_grace() -> Gateway {
    let limits = Limits { shutdown: Duration::from_secs(120), ..Default::default() };
    Setup { limits, ..Default::default() }.start().await
}

fn check(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

#[tokio::test]
async fn health_of_the_server_and_each_service() {
    let gateway = Gateway::start().await;
    let mut client = HealthClient::new(gateway.channel().await);
    for service in OURS.into_iter().chain([""]) {
        let health = client.check(check(service)).await.expect("known").into_inner();
        assert_eq!(health.status(), ServingStatus::Serving, "{service:?}");
    }
    let unknown = client.check(check("openoffload.v1alpha5.Activation")).await.expect_err("is a VNF's");
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn whoever_watches_is_told_of_the_shutdown() {
    let gateway = with_long_grace().await;
    let mut client = HealthClient::new(gateway.channel().await);
    let mut health = client.watch(check("")).await.expect("known").into_inner();
    let first = health.message().await.expect("stream").expect("open");
    assert_eq!(first.status(), ServingStatus::Serving);
    // Ends the stream too.
    timeout(IN_TIME, gateway.server.shutdown()).await.expect("no call is left");
    let last = timeout(IN_TIME, health.message()).await.expect("in time").expect("stream").expect("open");
    assert_eq!(last.status(), ServingStatus::NotServing);
    assert!(health.message().await.expect("ends well").is_none());
}

async fn reflect(gateway: &Gateway, ask: MessageRequest) -> MessageResponse {
    let mut client = ServerReflectionClient::new(gateway.channel().await);
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(ask) };
    let answer = client.server_reflection_info(tokio_stream::iter([request])).await.expect("call");
    let answer: ServerReflectionResponse =
        answer.into_inner().message().await.expect("stream").expect("an answer");
    answer.message_response.expect("is set")
}

#[tokio::test]
async fn reflection_lists_what_is_served() {
    let gateway = Gateway::start().await;
    let MessageResponse::ListServicesResponse(list) =
        reflect(&gateway, MessageRequest::ListServices(String::new())).await
    else {
        panic!("another answer");
    };
    let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    let standard = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ];
    let mut expected: Vec<_> = OURS.into_iter().chain(standard).collect();
    expected.sort_unstable();
    assert_eq!(names, expected);
}

#[tokio::test]
async fn reflection_has_every_file_a_client_needs() {
    let gateway = Gateway::start().await;
    for symbol in OURS.into_iter().chain(["grpc.health.v1.Health", "gateway.v1.SessionInfo"]) {
        let ask = MessageRequest::FileContainingSymbol(symbol.to_owned());
        let MessageResponse::FileDescriptorResponse(found) = reflect(&gateway, ask).await else {
            panic!("{symbol} is unknown");
        };
        assert_eq!(found.file_descriptor_proto.len(), 1, "{symbol}");
    }
    let ask = MessageRequest::FileByFilename("google/protobuf/timestamp.proto".to_owned());
    assert!(matches!(reflect(&gateway, ask).await, MessageResponse::FileDescriptorResponse(_)), "an import");
}

#[tokio::test]
async fn reflection_for_older_tools() {
    use v1alpha::server_reflection_client::ServerReflectionClient;
    use v1alpha::server_reflection_request::MessageRequest;
    let gateway = Gateway::start().await;
    let mut client = ServerReflectionClient::new(gateway.channel().await);
    let request = v1alpha::ServerReflectionRequest {
        message_request: Some(MessageRequest::FileContainingSymbol(OURS[1].to_owned())),
        ..Default::default()
    };
    let answer = client.server_reflection_info(tokio_stream::iter([request])).await.expect("call");
    let answer = answer.into_inner().message().await.expect("stream").expect("an answer");
    let found = answer.message_response.expect("is set");
    let found =
        matches!(found, v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(_));
    assert!(found);
}

fn active(event: &StatsEvent) -> u64 {
    let stats: &Stats = event.stats.as_ref().expect("stats");
    stats.sessions.expect("sessions").active
}

#[tokio::test]
async fn statistics_are_watched() {
    let gateway = with_long_grace().await;
    let mut stream = gateway
        .v1()
        .await
        .watch_stats(WatchStatsRequest { interval_ms: 100 })
        .await
        .expect("call")
        .into_inner();
    let first = timeout(IN_TIME, stream.message()).await.expect("at once").expect("stream").expect("open");
    assert_eq!((active(&first), first.missed), (0, 0));
    add(&mut gateway.v2().await, [session(1), session(2)]).await;
    let mut last = first;
    while active(&last) != 2 {
        last = timeout(IN_TIME, stream.message()).await.expect("in time").expect("stream").expect("open");
    }
    assert!(last.stats.expect("stats").other.iter().any(|c| c.name == "closed_dropped"));
    timeout(IN_TIME, gateway.server.shutdown()).await.expect("no call is left");
    let end = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert_eq!(end.expect_err("ended by the server").code(), Code::Unavailable);
}

#[tokio::test]
async fn intervals_are_bounded() {
    let gateway = Gateway::start().await;
    let mut client = gateway.v1().await;
    for interval_ms in [1, 99, 3_600_001, u32::MAX] {
        let refused = client.watch_stats(WatchStatsRequest { interval_ms }).await.expect_err("out of range");
        assert_eq!(refused.code(), Code::InvalidArgument, "{interval_ms}");
    }
}
