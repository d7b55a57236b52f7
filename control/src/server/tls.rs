//! TLS from PEM files.

use super::ServerError;
use crate::pinned::{PinnedClient, webpki_error};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{Error, InconsistentKeys, RootCertStore, ServerConfig};

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate chain.
    pub cert: PathBuf,
    /// Its private key (PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
    /// Mutual TLS: clients need a certificate signed by one of these. Then each acts on its own sessions only, but for
    /// [`super::ServerConfig::admins`].
    pub client_ca: Option<PathBuf>,
}

/// TLS 1.2 and 1.3, HTTP/2 only.
pub(super) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, ServerError> {
    let provider = Arc::new(ring::default_provider());
    let certified = certified(files, &provider)?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| pem("certificate", &files.cert, error.to_string()))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let trusted = certificates("client CA", path)?;
            for certificate in &trusted {
                RootCertStore::empty()
                    .add(certificate.clone())
                    .map_err(|error| pem("client CA", path, error.to_string()))?;
            }
            let verifier = PinnedClient::new(trusted, provider)
                .map_err(|error| pem("client CA", path, error.to_string()))?;
            builder.with_client_cert_verifier(Arc::new(verifier))
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Certificate and key, and that they belong together.
fn certified(files: &TlsFiles, provider: &CryptoProvider) -> Result<CertifiedKey, ServerError> {
    let chain = certificates("certificate", &files.cert)?;
    let key = provider
        .key_provider
        .load_private_key(key(&files.key)?)
        .map_err(|error| pem("key", &files.key, error.to_string()))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(Error::InconsistentKeys(_)) => Err(mismatch(files)),
        // X.509 v1, as `openssl x509 -req` makes it without extensions: good enough for clients that take it.
        Err(error) if webpki_error(&error) == Some(&webpki::Error::UnsupportedCertVersion) => {
            if !embeds_key(&certified) {
                return Err(mismatch(files));
            }
            tracing::warn!(certificate = %files.cert.display(), "is X.509 v1, which many clients refuse; issue it with a subjectAltName");
            Ok(certified)
        }
        Err(error) => Err(pem("certificate", &files.cert, error.to_string())),
    }
}

/// A certificate has its public key in it as the key's own encoding (RFC 5280 section 4.1).
fn embeds_key(certified: &CertifiedKey) -> bool {
    match (certified.cert.first(), certified.key.public_key()) {
        (Some(certificate), Some(key)) => certificate.windows(key.len()).any(|part| part == key.as_ref()),
        _ => false,
    }
}

fn mismatch(files: &TlsFiles) -> ServerError {
    ServerError::KeyMismatch { cert: files.cert.clone(), key: files.key.clone() }
}

fn pem(what: &'static str, path: &Path, reason: String) -> ServerError {
    ServerError::Pem { what, path: path.to_owned(), reason }
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, ServerError> {
    fs::read(path).map_err(|source| ServerError::Read { what, path: path.to_owned(), source })
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, ServerError> {
    let text = read(what, path)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| pem(what, path, format!("no valid PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(pem(
            what,
            path,
            "holds no certificate; put one there in PEM (-----BEGIN CERTIFICATE-----)".to_owned(),
        ));
    }
    Ok(certificates)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, ServerError> {
    let text = read("key", path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| ServerError::Pem {
        what: "key",
        path: path.to_owned(),
        reason: format!("holds no private key in PEM (-----BEGIN PRIVATE KEY-----): {error}"),
    })
}
