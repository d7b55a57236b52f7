//! The files `[control] tls` names.

use super::{LoadError, Problem, Tls};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;

/// Checks that each file holds what it should; returns those that could not be read.
pub(super) fn check(tls: &Tls, file: &Path) -> Result<Vec<Problem>, LoadError> {
    let (mut unreadable, mut wrong) = (Vec::new(), Vec::new());
    let mut note = |key: &str, path: &Path, content: &str, outcome: Result<(), pem::Error>| {
        let at = format!("[control] tls: {key} = \"{}\"", path.display());
        let problem = |message| Problem { file: file.to_owned(), line: tls.line, message };
        match outcome {
            Ok(()) => {}
            Err(pem::Error::Io(error)) => {
                unreadable.push(problem(format!(
                    "{at} cannot be read: {error}: write a readable file with {content}"
                )));
            }
            Err(error) => wrong.push(problem(format!("{at}: {error}: write a file with {content}"))),
        }
    };
    note("cert", &tls.cert, "a PEM certificate chain", certificates(&tls.cert));
    note("key", &tls.key, "a PEM private key", PrivateKeyDer::from_pem_file(&tls.key).map(drop));
    if let Some(client_ca) = &tls.client_ca {
        note("client_ca", client_ca, "PEM certificates", certificates(client_ca));
    }
    if wrong.is_empty() { Ok(unreadable) } else { Err(LoadError::Problems(wrong)) }
}

/// At least one certificate, and nothing broken.
fn certificates(path: &Path) -> Result<(), pem::Error> {
    let all = CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>()?;
    if all.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(()) }
}
