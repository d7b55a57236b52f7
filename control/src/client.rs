//! Connecting to a gateway, for the command line and the agent.

use crate::Endpoint;
use crate::pinned::PinnedServer;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::rustls::crypto::ring;
use tonic::transport::{Channel, ClientTlsConfig, Identity};

/// A gateway's control endpoint and what it takes to be let in.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where.
    pub endpoint: Endpoint,
    /// For TCP endpoints that speak TLS.
    pub tls: Option<ClientTls>,
}

/// What a client needs for TLS; PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// Whom to trust.
    pub ca: PathBuf,
    /// For mutual TLS: certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name in the server's certificate; None: the endpoint's address.
    pub server_name: Option<String>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A file cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file holds no certificate to trust.
    #[error("{path}: holds no certificate to trust, in PEM: {reason}", path = path.display())]
    Pem {
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Nobody there, or no agreement on TLS.
    #[error(
        "cannot connect to {endpoint}: {reason}: is the gateway running, and its control.listen the same?"
    )]
    Connect {
        /// Where.
        endpoint: Endpoint,
        /// The causes.
        reason: String,
    },
}

/// Time to connect.
const CONNECT: Duration = Duration::from_secs(5);

impl From<Endpoint> for Target {
    fn from(endpoint: Endpoint) -> Self {
        Self { endpoint, tls: None }
    }
}

/// Connects. The channel reconnects by itself when the connection breaks later.
pub async fn connect(target: &Target) -> Result<Channel, ClientError> {
    let connect = |error: tonic::transport::Error| ClientError::Connect {
        endpoint: target.endpoint.clone(),
        reason: causes(&error),
    };
    let uri = match (&target.endpoint, &target.tls) {
        (Endpoint::Unix(path), _) => format!("unix:{}", path.display()),
        (Endpoint::Tcp(address), None) => format!("http://{address}"),
        (Endpoint::Tcp(address), Some(_)) => format!("https://{address}"),
    };
    let mut channel = tonic::transport::Endpoint::from_shared(uri)
        .map_err(|error| ClientError::Connect {
            endpoint: target.endpoint.clone(),
            reason: error.to_string(),
        })?
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    if let (Endpoint::Tcp(_), Some(tls)) = (&target.endpoint, &target.tls) {
        let (config, verifier) = tls_config(tls)?;
        channel = channel.tls_config_with_verifier(config, Arc::new(verifier)).map_err(connect)?;
    }
    channel.connect().await.map_err(connect)
}

/// TLS as the gateway wants it; a self-signed certificate may be its own authority.
pub(crate) fn tls_config(tls: &ClientTls) -> Result<(ClientTlsConfig, PinnedServer), ClientError> {
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|source| ClientError::Read { path: path.clone(), source })
    };
    let pem = |reason: String| ClientError::Pem { path: tls.ca.clone(), reason };
    let trusted: Vec<_> = CertificateDer::pem_slice_iter(&read(&tls.ca)?)
        .collect::<Result<_, _>>()
        .map_err(|error| pem(error.to_string()))?;
    let verifier = PinnedServer::new(trusted, Arc::new(ring::default_provider()))
        .map_err(|error| pem(error.to_string()))?;
    let mut config = ClientTlsConfig::new();
    if let Some((cert, key)) = &tls.identity {
        config = config.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    if let Some(name) = &tls.server_name {
        config = config.domain_name(name);
    }
    Ok((config, verifier))
}

/// An error and its causes, outermost first, each said once: transports repeat those below, and some say nothing else.
pub fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    const NOTHING: &str = "transport error";
    let all = std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string);
    let said = all.filter(|text| text != NOTHING).fold(String::new(), |said, text| match said.as_str() {
        "" => text,
        before if before.contains(&text) => said,
        before => format!("{before}: {text}"),
    });
    if said.is_empty() { NOTHING.to_owned() } else { said }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Error, ErrorKind};

    #[test]
    fn causes_are_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("{text}")]
        struct Outer {
            text: &'static str,
            source: Error,
        }
        let said = |text| causes(&Outer { text, source: Error::new(ErrorKind::NotFound, "no such file") });
        assert_eq!(said("cannot open x"), "cannot open x: no such file");
        assert_eq!(said("cannot open x: no such file: make it"), "cannot open x: no such file: make it");
        assert_eq!(said("transport error"), "no such file");
    }

    #[tokio::test]
    async fn nobody_at_a_unix_socket() {
        let endpoint: Endpoint = "unix:/nonexistent/x.sock".parse().unwrap();
        assert_eq!(
            connect(&endpoint.into()).await.unwrap_err().to_string(),
            "cannot connect to unix:/nonexistent/x.sock: No such file or directory (os error 2): \
             is the gateway running, and its control.listen the same?"
        );
    }
}
