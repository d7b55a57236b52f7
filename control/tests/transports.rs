//! Endpoints, TLS, and what an unwanted client can use up.

mod common;

use common::pki::{Pki, any_port};
use common::{Gateway, Setup, add, handles, http2, session};
use control::client::{self, ClientTls, Target};
use control::{Endpoint, Limits, Server, ServerConfig, ServerError, TlsFiles};
use proto::gateway::v1::AddSessionsRequest;
use proto::gateway::v1::gateway_client::GatewayClient;
use proto::openoffload::v2::session_table_client::SessionTableClient;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

async fn start(listen: Vec<Endpoint>, tls: Option<TlsFiles>) -> Gateway {
    Setup { listen, tls, ..Default::default() }.start().await
}

async fn refused(listen: Vec<Endpoint>, tls: Option<TlsFiles>, plaintext: bool) -> ServerError {
    let config = ServerConfig { listen, tls, plaintext, ..Default::default() };
    match Server::start(config, handles(10, 10, 1)).await {
        Ok(_) => panic!("must not start"),
        Err(error) => error,
    }
}

/// Installs a session over `target`.
async fn works(target: &Target) -> Result<(), String> {
    let channel = client::connect(target).await.map_err(|error| error.to_string())?;
    let mut client = SessionTableClient::new(channel);
    let response = client.add_session(tokio_stream::iter([session(1)])).await.map_err(|s| s.to_string())?;
    assert_eq!(response.into_inner().error_status, 0);
    Ok(())
}

#[tokio::test]
async fn tcp_in_the_clear_must_be_asked_for() {
    let error = refused(vec![any_port()], None, false).await;
    assert!(matches!(error, ServerError::Plaintext(_)), "{error}");
    assert!(error.to_string().contains("control.plaintext = true"), "{error}");
    assert!(matches!(refused(Vec::new(), None, true).await, ServerError::NoEndpoint));

    let gateway = Setup { listen: vec![any_port()], plaintext: true, ..Default::default() }.start().await;
    works(&gateway.server.endpoints()[1].clone().into()).await.expect("plain TCP");
}

#[tokio::test]
async fn both_services_on_every_endpoint() {
    let listen = vec![any_port(), Endpoint::Tcp(([0, 0, 0, 0, 0, 0, 0, 1], 0).into())];
    let gateway = Setup { listen, plaintext: true, ..Default::default() }.start().await;
    assert_eq!(gateway.server.endpoints().len(), 3);
    for (n, endpoint) in (1..).zip(gateway.server.endpoints()) {
        let channel = client::connect(&endpoint.clone().into()).await.expect("connection");
        add(&mut SessionTableClient::new(channel.clone()), [session(n)]).await;
        let mut v1 = proto::gateway::v1::gateway_client::GatewayClient::new(channel);
        let stats = v1.get_stats(proto::gateway::v1::GetStatsRequest {}).await.expect("call").into_inner();
        assert_eq!(stats.sessions.expect("sessions").active, u64::from(n));
    }
}

#[tokio::test]
async fn tls() {
    let pki = Pki::new();
    let gateway = start(vec![any_port()], Some(pki.server(false))).await;
    let endpoint = gateway.server.endpoints()[1].clone();
    let target = Target { endpoint: endpoint.clone(), tls: Some(pki.client(false)) };
    works(&target).await.expect("TLS");
    assert!(works(&endpoint.clone().into()).await.is_err(), "no plain text on a TLS port");
    let stranger = Pki::new();
    let distrusting = Target { endpoint, tls: Some(stranger.client(false)) };
    assert!(works(&distrusting).await.is_err(), "another CA");
}

#[tokio::test]
async fn mutual_tls() {
    let pki = Pki::new();
    let gateway = start(vec![any_port()], Some(pki.server(true))).await;
    let endpoint = gateway.server.endpoints()[1].clone();
    let anonymous = Target { endpoint: endpoint.clone(), tls: Some(pki.client(false)) };
    assert!(works(&anonymous).await.is_err(), "no certificate");
    let stranger = Pki::new();
    let identity = stranger.client(true).identity;
    let strange =
        Target { endpoint: endpoint.clone(), tls: Some(ClientTls { identity, ..pki.client(false) }) };
    assert!(works(&strange).await.is_err(), "a certificate of another CA");
    assert_eq!(gateway.counter("tls_handshake_failed").await, 2);
    assert_eq!(gateway.handles.table.stats().active, 0);
    works(&Target { endpoint, tls: Some(pki.client(true)) }).await.expect("mutual TLS");
}

/// One self-signed certificate, marked as a CA, is both the peer and the other side's only root.
#[tokio::test]
async fn self_signed_certificates_that_are_their_own_root() {
    let pki = Pki::new();
    for name in ["own-server", "own-client", "stranger"] {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("key");
        pki.write(&format!("{name}.crt"), &params.self_signed(&key).expect("certificate").pem());
        pki.write(&format!("{name}.key"), &key.serialize_pem());
    }
    let files = TlsFiles {
        cert: pki.path("own-server.crt"),
        key: pki.path("own-server.key"),
        client_ca: Some(pki.path("own-client.crt")),
    };
    let gateway = start(vec![any_port()], Some(files)).await;
    let endpoint = gateway.server.endpoints()[1].clone();
    let target = |ca: &str, name: &str, server_name: Option<&str>| Target {
        endpoint: endpoint.clone(),
        tls: Some(ClientTls {
            ca: pki.path(ca),
            identity: Some((pki.path(&format!("{name}.crt")), pki.path(&format!("{name}.key")))),
            server_name: server_name.map(str::to_owned),
        }),
    };
    assert!(works(&target("own-server.crt", "stranger", None)).await.is_err(), "another client");
    assert!(works(&target("stranger.crt", "own-client", None)).await.is_err(), "another server");
    assert!(works(&target("own-server.crt", "own-client", Some("elsewhere"))).await.is_err(), "another name");
    works(&target("own-server.crt", "own-client", None)).await.expect("pinned both ways");
}

/// `openssl x509 -req` without extensions makes X.509 v1, which clients of this API have long used for their servers.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_the_first_version_serves() {
    let pki = Pki::new();
    let openssl = |arguments: &str| {
        let arguments = arguments.split(' ');
        std::process::Command::new("openssl")
            .args(arguments)
            .current_dir(pki.dir.path())
            .stdin(std::process::Stdio::null())
            .output()
    };
    let request = "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout v1.key -out v1.csr -subj /CN=localhost";
    let Ok(made) = openssl(request) else {
        eprintln!("SKIPPED: there is no openssl to make such a certificate");
        return;
    };
    assert!(made.status.success(), "{made:?}");
    let signed = openssl("x509 -req -in v1.csr -signkey v1.key -out v1.crt -days 2").expect("openssl");
    assert!(signed.status.success(), "{signed:?}");
    let files = TlsFiles { cert: pki.path("v1.crt"), key: pki.path("v1.key"), client_ca: None };
    let mixed = TlsFiles { key: pki.path("server.key"), ..files.clone() };
    assert!(matches!(refused(vec![any_port()], Some(mixed), false).await, ServerError::KeyMismatch { .. }));
    let gateway = start(vec![any_port()], Some(files)).await;
    let address = gateway.server.endpoints()[1].to_string();
    let client = format!("s_client -connect {address} -CAfile v1.crt -verify_return_error -alpn h2 -brief");
    let shaken = tokio::task::block_in_place(|| openssl(&client)).expect("openssl");
    assert!(shaken.status.success(), "{shaken:?}");
}

/// As SIGHUP does it: new connections see the new files, connections that are there live on, and broken files change
/// nothing.
#[tokio::test]
async fn tls_files_are_swapped_under_way() {
    let (old, new) = (Pki::new(), Pki::new());
    let gateway = start(vec![any_port()], Some(old.server(true))).await;
    let endpoint = gateway.server.endpoints()[1].clone();
    let target = |pki: &Pki| Target { endpoint: endpoint.clone(), tls: Some(pki.client(true)) };
    let mut open = SessionTableClient::new(client::connect(&target(&old)).await.expect("connection"));
    add(&mut open, [session(1)]).await;

    for broken in [
        TlsFiles { key: new.path("client.key"), ..new.server(true) },
        TlsFiles { cert: new.path("absent.crt"), ..new.server(true) },
    ] {
        let error = gateway.server.reload_tls(&broken).expect_err("broken").to_string();
        assert!(error.contains(".key") || error.contains(".crt"), "{error}");
        assert!(works(&target(&new)).await.is_err());
        add(&mut SessionTableClient::new(client::connect(&target(&old)).await.expect("as before")), []).await;
    }
    gateway.server.reload_tls(&new.server(true)).expect("good files");
    assert!(works(&target(&old)).await.is_err(), "neither its CA nor its certificate counts any more");
    let mut fresh = SessionTableClient::new(client::connect(&target(&new)).await.expect("new connection"));
    assert_eq!(add(&mut fresh, [session(3)]).await.error_status, 0);
    assert_eq!(add(&mut open, [session(2)]).await.error_status, 0, "the old connection lives on");
}

#[tokio::test]
async fn bad_tls_files_are_named() {
    let pki = Pki::new();
    pki.issue("other");
    pki.write("empty", "");
    pki.write("garbage.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let path = |name| pki.path(name);
    let good = || pki.server(false);
    let cases = [
        (TlsFiles { cert: path("absent"), ..good() }, "absent"),
        (TlsFiles { key: path("absent"), ..good() }, "absent"),
        (TlsFiles { cert: path("empty"), ..good() }, "empty"),
        (TlsFiles { key: path("empty"), ..good() }, "empty"),
        (TlsFiles { key: path("server.crt"), ..good() }, "server.crt"),
        (TlsFiles { cert: path("garbage.crt"), ..good() }, "garbage.crt"),
        (TlsFiles { key: path("other.key"), ..good() }, "other.key"),
        (TlsFiles { client_ca: Some(path("absent")), ..good() }, "absent"),
        (TlsFiles { client_ca: Some(path("empty")), ..good() }, "empty"),
        (TlsFiles { client_ca: Some(path("garbage.crt")), ..good() }, "garbage.crt"),
    ];
    let socket = Endpoint::Unix(path("never.sock"));
    for (files, named) in cases {
        let error = refused(vec![socket.clone()], Some(files), false).await.to_string();
        assert!(error.contains(named), "{error}");
        assert!(!path("never.sock").exists(), "nothing listens before all is checked");
    }
}

#[tokio::test]
async fn unix_sockets_are_private_and_go_with_the_server() {
    let gateway = Gateway::start().await;
    let path = gateway.dir.path().join("control.sock");
    let metadata = fs::metadata(&path).expect("socket");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    gateway.server.shutdown().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_nothing_else() {
    let dir = TempDir::new().expect("directory");
    let path = dir.path().join("stale.sock");
    let unix = |path: &Path| vec![Endpoint::Unix(path.to_owned())];
    drop(std::os::unix::net::UnixListener::bind(&path).expect("socket"));
    assert!(path.exists());
    let gateway = start(unix(&path), None).await;
    works(&Endpoint::Unix(path.clone()).into()).await.expect("replaced");

    assert!(matches!(refused(unix(&path), None, false).await, ServerError::InUse(_)));
    client::connect(&Endpoint::Unix(path.clone()).into()).await.expect("the first one still answers");
    drop(gateway);

    let file = dir.path().join("precious");
    fs::write(&file, "data").expect("file");
    assert!(matches!(refused(unix(&file), None, false).await, ServerError::NotASocket(_)));
    assert_eq!(fs::read_to_string(&file).expect("still there"), "data");
    let nowhere = dir.path().join("absent").join("x.sock");
    assert!(matches!(refused(unix(&nowhere), None, false).await, ServerError::Listen { .. }));
}

#[tokio::test]
async fn a_port_in_use_leaves_nothing_behind() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let taken = Endpoint::Tcp(other.local_addr().expect("address"));
    let dir = TempDir::new().expect("directory");
    let path = dir.path().join("first.sock");
    let error = refused(vec![Endpoint::Unix(path.clone()), taken.clone()], None, true).await;
    assert!(error.to_string().contains(&taken.to_string()), "{error}");
    assert!(!path.exists());
}

#[tokio::test]
async fn a_client_that_says_nothing_is_dropped() {
    let limits = Limits { handshake: Duration::from_millis(200), ..Default::default() };
    let pki = Pki::new();
    for tls in [None, Some(pki.server(false))] {
        let listen = vec![any_port()];
        let gateway = Setup { limits, listen, plaintext: true, tls, ..Default::default() }.start().await;
        let Endpoint::Tcp(address) = gateway.server.endpoints()[1] else { panic!("TCP") };
        for said in [&b""[..], b"PRI * HTTP"] {
            let mut stream = tokio::net::TcpStream::connect(address).await.expect("connection");
            stream.write_all(said).await.expect("sent");
            let mut rest = Vec::new();
            let end = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
            assert!(end.is_ok(), "the server closes it");
        }
    }
}

/// Strangers take the slots of the endpoint they come to; the unix socket, which the operator and the agent use, stays open.
#[tokio::test]
async fn connections_are_bounded_per_endpoint() {
    let limits = Limits { connections: 2, ..Default::default() };
    let gateway =
        Setup { limits, listen: vec![any_port()], plaintext: true, ..Default::default() }.start().await;
    let Endpoint::Tcp(address) = gateway.server.endpoints()[1] else { panic!("TCP") };
    let mut strangers = Vec::new();
    for _ in 0..2 {
        let mut stranger = tokio::net::TcpStream::connect(address).await.expect("connection");
        stranger.write_all(b"PRI").await.expect("sent");
        strangers.push(stranger);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut third = tokio::net::TcpStream::connect(address).await.expect("accepted by the kernel");
    let closed =
        tokio::time::timeout(Duration::from_secs(5), third.read(&mut [0; 64])).await.expect("closed");
    assert!(matches!(closed, Ok(0) | Err(_)));
    assert_eq!(add(&mut gateway.v2().await, [session(1)]).await.error_status, 0);
    assert_eq!(gateway.counter("connections_refused").await, 1);
    drop(strangers);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let again = client::connect(&gateway.server.endpoints()[1].clone().into()).await.expect("a slot is free");
    assert_eq!(add(&mut SessionTableClient::new(again), [session(2)]).await.error_status, 0);
}

#[tokio::test]
async fn calls_at_once_are_bounded_per_connection() {
    let limits = Limits { calls_per_connection: 2, ..Default::default() };
    let gateway = Setup { limits, ..Default::default() }.start().await;
    let client = GatewayClient::new(gateway.channel().await);
    let watch = async || {
        let mut client = client.clone();
        client.watch_closed(proto::gateway::v1::WatchClosedRequest {}).await.expect("call").into_inner()
    };
    let (first, _second) = (watch().await, watch().await);
    let mut waiting = client.clone();
    let mut third =
        tokio::spawn(async move { waiting.get_stats(proto::gateway::v1::GetStatsRequest {}).await });
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut third).await.is_err(), "waits its turn");
    assert_eq!(gateway.counter("closed_waiting").await, 0, "another connection has its own");
    drop(first);
    third.await.expect("task").expect("a call has ended");
}

#[tokio::test]
async fn calls_per_second_are_bounded_per_connection() {
    let limits = Limits { calls_per_second: 2, ..Default::default() };
    let gateway = Setup { limits, ..Default::default() }.start().await;
    let mut client = gateway.v2().await;
    let (mut done, mut refused) = (0_u64, 0_u64);
    for _ in 0..200 {
        let id = proto::openoffload::v2::SessionId { session_id: 1 };
        match client.get_session(id).await {
            Ok(_) => done += 1,
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted);
                assert!(status.message().contains("2 calls a second"), "{status}");
                refused += 1;
            }
        }
        if done >= 2 && refused > 0 {
            break;
        }
    }
    assert!(done >= 2 && refused > 0, "{done} done, {refused} refused");
    assert_eq!(gateway.counter("calls_refused").await, refused, "another connection has its own");
    // Adding goes on within one call, however many sessions it brings.
    let added = add(&mut gateway.v2().await, (1..=1000).map(session)).await;
    assert_eq!(added.error_status, 0);
}

/// However many connections it makes.
#[tokio::test]
async fn a_client_has_its_share_of_streams_and_leaves_the_others() {
    let limits = Limits { add_streams_per_client: 2, ..Default::default() };
    let gateway =
        Setup { limits, listen: vec![any_port()], plaintext: true, ..Default::default() }.start().await;
    let stranger = async || {
        let target = gateway.server.endpoints()[1].clone().into();
        SessionTableClient::new(client::connect(&target).await.expect("connection"))
    };
    let mut open = Vec::new();
    for n in 1..=2 {
        let (to, from) = tokio::sync::mpsc::channel(1);
        to.send(session(n)).await.expect("open");
        let mut client = stranger().await;
        let stream = tokio_stream::wrappers::ReceiverStream::new(from);
        open.push((to, tokio::spawn(async move { client.add_session(stream).await })));
    }
    while gateway.handles.table.stats().active < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut client = stranger().await;
    let refused = client.add_session(tokio_stream::iter([session(3)])).await.expect_err("its share");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("of at most 2 at once"), "{refused}");
    let mut v1 = GatewayClient::new(
        client::connect(&gateway.server.endpoints()[1].clone().into()).await.expect("connection"),
    );
    let batch = AddSessionsRequest { sessions: Vec::new() };
    let refused = v1.add_sessions(tokio_stream::iter([batch])).await.expect_err("of both services");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(add(&mut gateway.v2().await, [session(3)]).await.error_status, 0, "another client's");
    assert_eq!((gateway.counter("add_streams").await, gateway.counter("add_streams_refused").await), (2, 2));
    for (to, call) in open {
        drop(to);
        call.await.expect("task").expect("its answer");
    }
    assert_eq!(add(&mut client, [session(4)]).await.error_status, 0);
}

/// As C++ and Go clients send sessions: each in a DATA frame of its own, as many as flow control allows; over one connection
/// for all threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn sessions_may_come_one_to_a_frame_and_by_many_streams() {
    const SESSIONS: u32 = 5_000;
    for calls in [1, 8] {
        let gateway = Setup { capacity: 50_000, ..Default::default() }.start().await;
        let path = gateway.dir.path().join("control.sock");
        let mut stream = tokio::net::UnixStream::connect(path).await.expect("connection");
        stream.write_all(&http2::preface()).await.expect("sent");
        assert_ne!(stream.read(&mut [0; 1024]).await.expect("the server's settings"), 0);
        let mut bytes = http2::acknowledgment();
        for call in 0..calls {
            bytes.extend(http2::call(call, "/openoffload.v2.SessionTable/AddSession"));
        }
        for n in 0..SESSIONS {
            for call in 0..calls {
                bytes.extend(http2::message(call, &session(1 + n * calls + call), n + 1 == SESSIONS));
            }
        }
        stream.write_all(&bytes).await.expect("the connection stays");
        for _ in 0..1000 {
            if gateway.handles.table.stats().active == u64::from(SESSIONS * calls) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(gateway.handles.table.stats().active, u64::from(SESSIONS * calls), "{calls} streams");
    }
}

#[tokio::test]
async fn oversized_headers_are_refused() {
    let gateway = Gateway::start().await;
    let mut client = gateway.v1().await;
    let mut request = tonic::Request::new(proto::gateway::v1::GetStatsRequest {});
    request.metadata_mut().insert("x-large", "x".repeat(64 << 10).parse().expect("ASCII"));
    client.get_stats(request).await.expect_err("64 KiB of headers");
    gateway.counter("closed_waiting").await;
}

#[tokio::test]
async fn shutdown_ends_streams() {
    let limits = Limits { shutdown: Duration::from_secs(120), ..Default::default() };
    let gateway = Setup { limits, ..Default::default() }.start().await;
    let mut watch = gateway.v1().await;
    let mut events =
        watch.watch_closed(proto::gateway::v1::WatchClosedRequest {}).await.expect("call").into_inner();
    let (to, from) = tokio::sync::mpsc::channel(1);
    to.send(session(1)).await.expect("open");
    let mut adder = gateway.v2().await;
    let call =
        tokio::spawn(
            async move { adder.add_session(tokio_stream::wrappers::ReceiverStream::new(from)).await },
        );
    while gateway.handles.table.stats().active < 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let began = std::time::Instant::now();
    gateway.server.shutdown().await;
    assert!(began.elapsed() < Duration::from_secs(30), "took {:?}", began.elapsed());
    assert_eq!(events.message().await.expect_err("ended").code(), Code::Unavailable);
    assert_eq!(call.await.expect("task").expect_err("ended").code(), Code::Unavailable);
    drop(to);
}

/// A connection whose client neither reads nor ends cannot hold the shutdown up.
#[tokio::test]
async fn shutdown_does_not_wait_for_a_stalled_client() {
    let limits = Limits { shutdown: Duration::from_millis(200), ..Default::default() };
    let gateway = Setup { limits, ..Default::default() }.start().await;
    let path = gateway.dir.path().join("control.sock");
    let mut stalled = tokio::net::UnixStream::connect(&path).await.expect("connection");
    stalled.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("sent");
    tokio::time::sleep(Duration::from_millis(50)).await;
    let shut = tokio::time::timeout(Duration::from_secs(30), gateway.server.shutdown()).await;
    assert!(shut.is_ok());
}
