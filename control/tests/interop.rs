//! Python clients, as in `interop/README.md` and docs/vnf.md.

mod common;

use common::Setup;
use conntrack::{FlowKeyV4, LifIndex, SessionId, TcpFlags};
use control::{Endpoint, TlsFiles};
use rcgen::{CertificateParams, KeyPair};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A certificate that is its own root, as clients of this API have it.
fn self_signed(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    let key = KeyPair::generate().expect("key");
    let cert = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters").self_signed(&key);
    let (cert_path, key_path) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    std::fs::write(&cert_path, cert.expect("certificate").pem()).expect("file");
    std::fs::write(&key_path, key.serialize_pem()).expect("file");
    (cert_path, key_path)
}

/// The interpreter with what is in `interop/requirements.txt`: `make setup` makes it; else whichever there is.
fn interpreter() -> PathBuf {
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../python/bin/python3");
    if made.exists() { made } else { "python3".into() }
}

/// Whether Python has what a test needs; says so if not, and fails where `INTEROP_REQUIRED` is set.
fn has(modules: &str) -> bool {
    let check = Command::new(interpreter()).args(["-c", &format!("import {modules}")]).output();
    let has = check.is_ok_and(|output| output.status.success());
    let remedy = "make setup, or pip install -r control/tests/interop/requirements.txt";
    assert!(
        has || std::env::var_os("INTEROP_REQUIRED").is_none(),
        "python3 lacks one of {modules}: {remedy}"
    );
    if !has {
        eprintln!("SKIPPED: python3 lacks one of {modules}: {remedy}");
    }
    has
}

/// Stubs of openoffload.v2 in `dir`.
fn generate_stubs(dir: &Path) {
    let stubs = Command::new(interpreter())
        .args(["-m", "grpc_tools.protoc", "-I"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/proto"))
        .arg(format!("--python_out={}", dir.display()))
        .arg(format!("--grpc_python_out={}", dir.display()))
        .arg("openoffload_v2.proto")
        .status();
    assert!(stubs.expect("protoc").success(), "stubs from our own proto file");
}

/// A Python program that gets five minutes.
fn python(file: &str) -> tokio::process::Command {
    let mut run = tokio::process::Command::new("timeout");
    run.arg("300")
        .arg(interpreter())
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(file))
        .kill_on_drop(true);
    run
}

/// docs/vnf.md: the example as it is.
#[tokio::test(flavor = "multi_thread")]
async fn the_example_installs_a_session_and_tells_its_end() {
    if !has("grpc, grpc_tools") {
        return;
    }
    let gateway = common::Gateway::start().await;
    generate_stubs(gateway.dir.path());
    let endpoint = gateway.server.endpoints()[0].to_string();
    let mut run = python("../share/examples/vnf.py");
    run.arg(&endpoint).env("PYTHONPATH", gateway.dir.path());
    let child = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("python3");
    let end = Instant::now() + Duration::from_secs(120);
    while gateway.handles.table.get(SessionId(7)).is_none() {
        assert!(Instant::now() < end, "it installs nothing");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut reader = gateway.handles.table.reader().expect("reader");
    let (client, server) = (Ipv4Addr::new(10, 1, 0, 5), Ipv4Addr::new(198, 51, 100, 10));
    let key = FlowKeyV4::new(LifIndex(0), 6, client, 40_000, server, 443);
    let now = gateway.handles.clock.now();
    let burst = reader.enter();
    let mut flows = [None];
    burst.lookup_v4(&[key], now, &mut flows);
    let flow = flows[0].expect("the session it installed");
    (0..12).for_each(|_| flow.count(now, 100));
    flow.observe(TcpFlags(TcpFlags::RST), now);
    drop(burst);
    let output = child.wait_with_output().await.expect("python3");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text, "added: _SESSION_ACCEPTED\nclosed: 7 _RST 12 packets in, 0 out\n");
}

/// docs/vnf.md: what its commands ask for is what the server's reflection says, and is answered.
#[tokio::test(flavor = "multi_thread")]
async fn the_documented_calls_work_by_reflection() {
    if !has("grpc, grpc_reflection.v1alpha.proto_reflection_descriptor_database") {
        return;
    }
    let gateway = common::Gateway::start().await;
    let mut run = python("tests/interop/reflect.py");
    run.arg(gateway.server.endpoints()[0].to_string());
    run.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/vnf.md"));
    let output = run.output().await.expect("python3");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.ends_with("8 commands\n"), "{text}");
    assert!(text.contains("'accepted': '1'") && text.contains("'session_id': '8'"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn python_client() {
    if !has("grpc, grpc_tools") {
        return;
    }
    let dir = TempDir::new().expect("directory");
    generate_stubs(dir.path());
    let (cert, key) = self_signed(dir.path(), "server");
    let client = self_signed(dir.path(), "client");
    for mutual in [false, true] {
        let tls =
            TlsFiles { cert: cert.clone(), key: key.clone(), client_ca: mutual.then(|| client.0.clone()) };
        let listen = vec![Endpoint::Tcp(([127, 0, 0, 1], 0).into())];
        let gateway = Setup { listen, tls: Some(tls), ..Default::default() }.start().await;
        let mut run = python("tests/interop/client.py");
        run.arg(gateway.server.endpoints()[1].to_string()).arg(&cert);
        if mutual {
            run.arg(&client.0).arg(&client.1);
        }
        let output = run.env("PYTHONPATH", dir.path()).output().await.expect("python3");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        println!("{text}");
    }
}
