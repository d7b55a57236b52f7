//! `[activation]`: the VNFs to register with.

use super::document::{Problems, Section};
use super::{Sessions, value};
use control::Endpoint;
use control::activation::{ActivationConfig, Device, Pacing};
use control::client::{ClientTls, Target};
use std::net::SocketAddr;
use std::path::Path;
use toml::de::DeValue;

const VNF: &str = "\"https://IP:PORT\", or \"http://IP:PORT\" without TLS";
/// What VNFs are told if the configuration does not say: sessions per second on one control core.
const RATE: i32 = 100_000;

pub(super) fn activation(
    root: &Section<'_>,
    file: &Path,
    sessions: &Sessions,
    problems: &Problems,
) -> Option<ActivationConfig> {
    let section = root.table("activation", "[activation]")?;
    if !section.has("vnf") {
        let message = format!("[activation]: vnf is missing: write vnf = [ … ], each {VNF}");
        problems.rule(section.line, message);
    }
    let vnfs = section.list("vnf", VNF, false, vnf).unwrap_or_default();
    let name = section.required("name", value::NAME, value::name);
    let description = section.optional("description", "\"vendor and whatever helps to choose\"", value::text);
    let rate = "sessions per second from 1 to 2147483647";
    let rate = section.optional("rate", rate, value::integer(1..=i64::from(i32::MAX)));
    let tls = tls(&section, file, problems);
    for vnf in vnfs.iter().filter(|vnf| vnf.value.0 && tls.is_none()) {
        let message = "[activation]: https needs to know whom to trust: write tls = { ca = \"FILE\" }";
        problems.rule(vnf.line, message);
    }
    section.finish();
    let device = Device {
        name: name.map(|at| at.value).unwrap_or_default(),
        description: description.map_or_else(|| "openoffload-gateway".to_owned(), |at| at.value),
        capacity: sessions.capacity,
        rate: rate.map_or(RATE, |at| at.value).unsigned_abs(),
        tcp_timeout: sessions.timeouts.tcp,
        udp_timeout: sessions.timeouts.udp,
    };
    let target = |(https, address)| Target {
        endpoint: Endpoint::Tcp(address),
        tls: if https { tls.clone() } else { None },
    };
    let vnfs = vnfs.into_iter().map(|vnf| target(vnf.value)).collect();
    Some(ActivationConfig { vnfs, device, pacing: Pacing::default() })
}

/// Whether it speaks TLS, and where it is.
fn vnf(value: &DeValue<'_>) -> Option<(bool, SocketAddr)> {
    let text = value.as_str()?;
    let (https, address) = match text.strip_prefix("https://") {
        Some(address) => (true, address),
        None => (false, text.strip_prefix("http://")?),
    };
    let address = address.parse::<SocketAddr>().ok().filter(|address| address.port() != 0)?;
    Some((https, address))
}

fn tls(section: &Section<'_>, file: &Path, problems: &Problems) -> Option<ClientTls> {
    let tls = section.table("tls", "[activation] tls")?;
    let base = file.parent().unwrap_or(Path::new(""));
    let path = |value: &_| value::text(value).map(|path| base.join(path));
    let ca = tls.required("ca", "\"FILE\", PEM certificates to trust", path);
    let cert = tls.optional("cert", "\"FILE\", a PEM certificate chain", path);
    let key = tls.optional("key", "\"FILE\", the certificate's PEM private key", path);
    let name = tls.optional("server_name", "\"NAME\", as in the VNF's certificate", value::text);
    if cert.is_some() != key.is_some() {
        problems.rule(tls.line, "[activation] tls: write both cert and key, or none of them");
    }
    tls.finish();
    Some(ClientTls {
        ca: ca.map(|at| at.value).unwrap_or_default(),
        identity: cert.zip(key).map(|(cert, key)| (cert.value, key.value)),
        server_name: name.map(|at| at.value),
    })
}
