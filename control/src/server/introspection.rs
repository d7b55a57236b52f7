//! The standard services beside our own: health (`grpc.health.v1`), and reflection (`grpc.reflection.v1` and, for older
//! tools, `v1alpha`).

use proto::gateway::v1::wire::gateway_server::GatewayServer;
use proto::openoffload::v2::session_table_server::SessionTableServer;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;
use tonic_health::{ServingStatus, pb};
use tonic_reflection::server::{Builder, Error, v1, v1alpha};

/// Names of what is served here; the empty one is the server as a whole (gRPC health checking protocol).
const SERVICES: [&str; 2] = [
    <SessionTableServer<super::openoffload_v2::Service> as NamedService>::NAME,
    <GatewayServer<super::gateway_v1::Service> as NamedService>::NAME,
];
const WHOLE: &str = "";
/// Longest request to either: a name.
const MAX_REQUEST: usize = 16 << 10;

/// Health, which says SERVING from now on, and what ends that.
pub(super) async fn health() -> (HealthServer<impl Health>, HealthReporter) {
    let (reporter, health) = tonic_health::server::health_reporter();
    for service in SERVICES {
        reporter.set_service_status(service, ServingStatus::Serving).await;
    }
    (health.max_decoding_message_size(MAX_REQUEST), reporter)
}

/// At `stop` says NOT_SERVING to whoever watches, and ends their streams.
pub(super) async fn end_with(stop: CancellationToken, mut reporter: HealthReporter) {
    stop.cancelled().await;
    for service in SERVICES.into_iter().chain([WHOLE]) {
        reporter.set_service_status(service, ServingStatus::NotServing).await;
        reporter.clear_service_status(service).await;
    }
}

/// Reflection as `grpc.reflection.v1` has it.
pub(super) fn reflection() -> Result<v1::ServerReflectionServer<impl v1::ServerReflection>, Error> {
    Ok(descriptions().build_v1()?.max_decoding_message_size(MAX_REQUEST))
}

/// The same for older tools.
pub(super) fn reflection_v1alpha()
-> Result<v1alpha::ServerReflectionServer<impl v1alpha::ServerReflection>, Error> {
    Ok(descriptions().build_v1alpha()?.max_decoding_message_size(MAX_REQUEST))
}

/// All services that are served here.
fn descriptions() -> Builder<'static> {
    let builder = Builder::configure()
        .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
        .with_service_name("grpc.health.v1.Health")
        .with_service_name("grpc.reflection.v1.ServerReflection")
        .with_service_name("grpc.reflection.v1alpha.ServerReflection");
    SERVICES.into_iter().fold(builder, Builder::with_service_name)
}
