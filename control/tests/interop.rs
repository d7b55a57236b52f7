//! A Python client, as in `interop/README.md`.

mod common;

use common::Setup;
use control::{Endpoint, TlsFiles};
use rcgen::{CertificateParams, KeyPair};
use std::path::{Path, PathBuf};
use std::process::Command;
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

fn has_grpcio() -> bool {
    let check = Command::new("python3").args(["-c", "import grpc, grpc_tools"]).output();
    check.is_ok_and(|output| output.status.success())
}

#[tokio::test(flavor = "multi_thread")]
async fn python_client() {
    if !has_grpcio() {
        eprintln!("SKIPPED: python3 has no grpcio and grpcio-tools (pip install grpcio grpcio-tools)");
        return;
    }
    let dir = TempDir::new().expect("directory");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let proto = manifest.join("../proto/proto");
    let stubs = Command::new("python3")
        .args(["-m", "grpc_tools.protoc", "-I"])
        .arg(&proto)
        .arg(format!("--python_out={}", dir.path().display()))
        .arg(format!("--grpc_python_out={}", dir.path().display()))
        .arg("openoffload_v2.proto")
        .status();
    assert!(stubs.expect("protoc").success(), "stubs from our own proto file");

    let (cert, key) = self_signed(dir.path(), "server");
    let client = self_signed(dir.path(), "client");
    for mutual in [false, true] {
        let tls =
            TlsFiles { cert: cert.clone(), key: key.clone(), client_ca: mutual.then(|| client.0.clone()) };
        let listen = vec![Endpoint::Tcp(([127, 0, 0, 1], 0).into())];
        let gateway = Setup { listen, tls: Some(tls), ..Default::default() }.start().await;
        let mut run = tokio::process::Command::new("timeout");
        run.args(["60", "python3"]).arg(manifest.join("tests/interop/client.py"));
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
