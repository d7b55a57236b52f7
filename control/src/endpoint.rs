//! Where a server listens, or a client connects.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// An address: `127.0.0.1:3443`, `[::1]:3443` or `unix:/run/gateway.sock`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A TCP address and port.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

/// The text is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is no endpoint: {reason}")]
pub struct EndpointError {
    text: String,
    reason: &'static str,
}

/// Longest path of a unix socket (sun_path less the final zero, unix(7)).
const UNIX_PATH_MAX: usize = 107;

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let error = |reason| EndpointError { text: text.to_owned(), reason };
        match text.strip_prefix("unix:") {
            Some("") => Err(error("write the socket's path behind unix:")),
            Some(path) if path.len() > UNIX_PATH_MAX => {
                Err(error("the path of a unix socket has at most 107 bytes; choose a shorter one"))
            }
            Some(path) if path.contains('\0') => Err(error("the path of a unix socket has no zero bytes")),
            Some(path) => Ok(Self::Unix(PathBuf::from(path))),
            None => text
                .parse()
                .map(Self::Tcp)
                .map_err(|_| error("write ADDRESS:PORT, [IPV6ADDRESS]:PORT or unix:/PATH")),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_there_and_back() {
        for text in ["127.0.0.1:3443", "[::1]:3443", "unix:/run/gateway.sock", "unix:relative.sock"] {
            assert_eq!(text.parse::<Endpoint>().map(|e| e.to_string()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn bad_texts() {
        let long = format!("unix:/{}", "x".repeat(107));
        for text in
            ["", "3443", "localhost", "127.0.0.1", "127.0.0.1:70000", "::1:3443", "unix:", long.as_str()]
        {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
