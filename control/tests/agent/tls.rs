//! An agent and a real gateway that speak TLS, both in the network function's namespace.

use super::common;
use super::netns::{MASQUERADE, exchange, may_run};
use super::recorder::wait;
use super::{Agent, EAGER, SETTLE, config};
use crate::netns::Lab;
use control::{Endpoint, TlsFiles};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::path::Path;
use tokio::sync::oneshot;

/// A CA, and certificates from it, in files.
fn certificates(directory: &Path) {
    let write = |name: &str, text: String| std::fs::write(directory.join(name), text).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    write("ca.crt", ca.pem());
    for name in ["server", "agent"] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![format!("{name}.test")]).unwrap();
        write(&format!("{name}.crt"), params.signed_by(&key, &ca).unwrap().pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
}

#[test]
fn over_mutual_tls_only_an_agent_with_a_certificate_installs_sessions() {
    if !may_run("mutual TLS") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    let path = |name: &str| directory.path().join(name);
    let lab = Lab::new(MASQUERADE);
    let (stop, stopped) = oneshot::channel::<()>();
    let (started, begun) = std::sync::mpsc::channel();
    let tls = TlsFiles { cert: path("server.crt"), key: path("server.key"), client_ca: Some(path("ca.crt")) };
    let serving = lab.vnf.thread(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listen = vec![Endpoint::Tcp(([127, 0, 0, 1], 0).into())];
            let setup = common::Setup { listen, tls: Some(tls), lifs: [11, 12], ..Default::default() };
            let gateway = setup.start().await;
            started.send((gateway.server.endpoints()[1].clone(), gateway.handles.table.clone())).unwrap();
            let _ = stopped.await;
        });
    });
    let (endpoint, table) = begun.recv().unwrap();
    let gateway = format!("https://{endpoint}");
    let identity = |with: bool| {
        let identity = match with {
            true => format!(
                ", cert = \"{}\", key = \"{}\"",
                path("agent.crt").display(),
                path("agent.key").display()
            ),
            false => String::new(),
        };
        format!(
            "\"\ntls = {{ ca = \"{}\", server_name = \"server.test\"{identity} }} #",
            path("ca.crt").display()
        )
    };
    let _listener = lab.listen(&lab.server, "tcp", "10.82.0.9", 7000);
    let mut client = lab.connect(&lab.client, "tcp", "10.82.0.9", 7000, 0);
    exchange(&mut client, 1);

    let agent = Agent::start(&lab, config(&(gateway.clone() + &identity(false)), EAGER, ""));
    std::thread::sleep(SETTLE * 3);
    assert_eq!(agent.stop().connects, 0);
    let agent = Agent::start(&lab, config(&(gateway + &identity(true)), EAGER, ""));
    wait("the session", || table.stats().active == 1);
    assert_eq!(agent.stop().connects, 1);
    assert_eq!(table.stats().active, 0);
    drop(stop);
    serving.join().unwrap();
}
