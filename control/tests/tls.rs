//! TLS below gRPC: versions, and certificates that cannot be verified.

mod common;

use common::pki::{Pki, any_port};
use common::{Gateway, Setup};
use control::client::{self, Target};
use control::{Endpoint, Limits};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion};

async fn serve(pki: &Pki, mutual: bool) -> (Gateway, SocketAddr) {
    let setup = Setup { listen: vec![any_port()], tls: Some(pki.server(mutual)), ..Default::default() };
    let gateway = setup.start().await;
    let Endpoint::Tcp(address) = gateway.server.endpoints()[1] else { panic!("TCP") };
    (gateway, address)
}

/// What is agreed on with a client that speaks `version` only: version and protocol.
async fn agreed(
    pki: &Pki,
    address: SocketAddr,
    version: &'static SupportedProtocolVersion,
) -> (Option<ProtocolVersion>, Option<Vec<u8>>) {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.path("ca.crt")).expect("PEM")).expect("a CA");
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .expect("version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await.expect("connection");
    let name = ServerName::from(address.ip());
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("handshake");
    let (_, session) = stream.get_ref();
    (session.protocol_version(), session.alpn_protocol().map(<[u8]>::to_vec))
}

#[tokio::test]
async fn tls_1_2_and_1_3_and_nothing_older() {
    let pki = Pki::new();
    let (gateway, address) = serve(&pki, false).await;
    let h2 = Some(b"h2".to_vec());
    assert_eq!(agreed(&pki, address, &TLS12).await, (Some(ProtocolVersion::TLSv1_2), h2.clone()));
    assert_eq!(agreed(&pki, address, &TLS13).await, (Some(ProtocolVersion::TLSv1_3), h2));

    // A ClientHello of TLS 1.1 (RFC 4346 section 7.4.1.2): no session, two cipher suites, no compression.
    let body = [&[3, 2][..], &[7; 32], &[0], &[0, 4, 0, 0x2f, 0, 0x35], &[1, 0]].concat();
    let hello = [&[1, 0, 0, body.len() as u8][..], &body].concat();
    let record = [&[22, 3, 1, 0, hello.len() as u8][..], &hello].concat();
    let mut stream = TcpStream::connect(address).await.expect("connection");
    stream.write_all(&record).await.expect("sent");
    let mut answer = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
    end.expect("closed at once").expect("readable");
    // A fatal alert, and no handshake message before it.
    assert_eq!((answer.len(), answer[0], answer[5]), (7, 21, 2), "{answer:?}");
    assert_eq!(gateway.counter("tls_handshake_failed").await, 1);
}

/// Strangers hold no more than the slots there are, and those no longer than a handshake may take.
#[tokio::test]
async fn silent_peers_do_not_keep_others_out() {
    let pki = Pki::new();
    let limits = Limits { connections: 4, handshake: Duration::from_millis(500), ..Default::default() };
    let tls = Some(pki.server(true));
    let gateway = Setup { limits, listen: vec![any_port()], tls, ..Default::default() }.start().await;
    let endpoint = gateway.server.endpoints()[1].clone();
    let Endpoint::Tcp(address) = endpoint else { panic!("TCP") };
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(TcpStream::connect(address).await.expect("accepted by the kernel"));
    }
    let target = Target { endpoint, tls: Some(pki.client(true)) };
    let mut tries = 0;
    while client::connect(&target).await.is_err() {
        tries += 1;
        assert!(tries < 1000, "never let in");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for mut stream in silent {
        let end = tokio::time::timeout(Duration::from_secs(30), stream.read(&mut [0; 64])).await;
        assert!(matches!(end.expect("closed"), Ok(0) | Err(_)));
    }
    let refused = gateway.counter("connections_refused").await;
    assert!(refused + gateway.counter("tls_handshake_failed").await >= 10, "each is counted");
}

/// The usual tools make X.509 v1 where nobody asks for extensions: not verifiable, refused, and counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_of_the_first_version_is_refused() {
    let pki = Pki::new();
    pki.write("ca.key", &pki.ca.key().serialize_pem());
    let openssl = |arguments: &str| {
        let command = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(pki.dir.path())
            .stdin(Stdio::null())
            .output();
        command.ok().inspect(|output| assert!(output.status.success(), "{output:?}"))
    };
    let request =
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout v1.key -out v1.csr -subj /CN=old";
    if openssl(request).is_none() {
        eprintln!("SKIPPED: there is no openssl to make such a certificate");
        return;
    }
    openssl("x509 -req -in v1.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out v1.crt -days 2");
    let (gateway, address) = serve(&pki, true).await;
    let mut client = Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string(), "-CAfile", "ca.crt", "-cert", "v1.crt"])
        .args(["-key", "v1.key", "-alpn", "h2", "-tls1_2"])
        .current_dir(pki.dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl");
    let status = tokio::task::block_in_place(|| client.wait()).expect("ends");
    assert!(!status.success());
    assert_eq!(gateway.counter("tls_handshake_failed").await, 1);
}
