//! Certificates for tests.

use control::client::ClientTls;
use control::{Endpoint, TlsFiles};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

pub fn any_port() -> Endpoint {
    Endpoint::Tcp(([127, 0, 0, 1], 0).into())
}

/// A CA, and certificates for 127.0.0.1 from it; PEM files in a directory.
pub struct Pki {
    pub dir: TempDir,
    pub ca: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("CA");
        let pki = Self { dir: TempDir::new().expect("directory"), ca };
        pki.write("ca.crt", &pki.ca.pem());
        pki.issue("server");
        pki.issue("client");
        pki
    }

    /// A certificate with `name` as common name.
    pub fn issue(&self, name: &str) {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        let cert = params.signed_by(&key, &self.ca).expect("certificate");
        self.write(&format!("{name}.crt"), &cert.pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("file");
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn server(&self, mutual: bool) -> TlsFiles {
        TlsFiles {
            cert: self.path("server.crt"),
            key: self.path("server.key"),
            client_ca: mutual.then(|| self.path("ca.crt")),
        }
    }

    pub fn client(&self, with_identity: bool) -> ClientTls {
        let identity = with_identity.then(|| (self.path("client.crt"), self.path("client.key")));
        ClientTls { ca: self.path("ca.crt"), identity, server_name: None }
    }

    /// What the client `name` needs.
    pub fn client_named(&self, name: &str) -> ClientTls {
        let identity = (self.path(&format!("{name}.crt")), self.path(&format!("{name}.key")));
        ClientTls { ca: self.path("ca.crt"), identity: Some(identity), server_name: None }
    }
}
