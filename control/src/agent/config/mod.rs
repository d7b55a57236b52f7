//! The agent's configuration: TOML as people write it, checked as a whole, then typed.

mod check;

use super::session::Policy;
use crate::TlsFiles;
use check::Check;
use serde::Deserialize;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;

const DEFAULT_TAG: u8 = 0xa6;

/// What the agent needs to know, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgentConfig {
    /// Where the gateway's control interface is.
    pub gateway: Endpoint,
    /// What to offload.
    pub policy: Policy,
    /// LIF by interface name.
    pub interfaces: HashMap<String, u32>,
    /// Leave the sessions in the gateway on shutdown.
    pub keep_on_exit: bool,
    /// Top byte of the session ids: agents of one gateway must differ.
    pub tag: u8,
    /// How often the gateway is asked which sessions had traffic, to keep the kernel's entries alive.
    pub refresh: Duration,
    /// Where a line of JSON is appended for each ended connection that was offloaded.
    pub records: Option<PathBuf>,
    /// With it, sessions are installed only while a device has registered and is activated.
    pub activation: Option<Activation>,
    /// Wanted bytes of the queue for the kernel's events.
    pub event_buffer: usize,
    /// How often the whole connection table is compared, in case events were lost or entries made none.
    pub resync: Duration,
}

/// The service with which devices make themselves known (openoffload.v1alpha5 `Activation`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Activation {
    /// Where it is served.
    pub listen: Vec<crate::Endpoint>,
    /// For TCP.
    pub tls: Option<TlsFiles>,
    /// Allows TCP without `tls`.
    pub plaintext: bool,
    /// Those that may register, the preferred one first; empty: any.
    pub devices: Vec<Device>,
}

/// A device that may register.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// Its name, as it registers.
    pub name: String,
    /// Where its sessions are installed; `None`: where [`AgentConfig::gateway`] says.
    pub gateway: Option<Endpoint>,
}

/// Where the gateway listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// `unix:PATH`, `http://HOST:PORT` or `https://HOST:PORT`.
    pub address: String,
    /// For `https`.
    pub tls: Option<Tls>,
}

/// PEM files for TLS.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Whom to trust.
    pub ca: PathBuf,
    /// The agent's certificate, for mutual TLS.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// The name in the gateway's certificate, where it is not the host of `connect`.
    pub server_name: Option<String>,
}

/// The configuration as it stands in the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAgentConfig {
    gateway: RawGateway,
    #[serde(default)]
    offload: RawOffload,
    #[serde(default)]
    interface: Vec<RawInterface>,
    accounting: Option<RawAccounting>,
    activation: Option<RawActivation>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawActivation {
    listen: Spanned<Vec<Spanned<String>>>,
    tls: Option<RawTlsFiles>,
    #[serde(default)]
    plaintext: bool,
    #[serde(default)]
    device: Vec<RawDevice>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTlsFiles {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDevice {
    name: Spanned<String>,
    connect: Option<Spanned<String>>,
    tls: Option<Spanned<Tls>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAccounting {
    file: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGateway {
    connect: Spanned<String>,
    tls: Option<Spanned<Tls>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOffload {
    protocols: Option<Vec<Spanned<RawProtocol>>>,
    #[serde(default)]
    min_packets: u64,
    exclude_mark: Option<Spanned<RawMark>>,
    exclude_ports: Option<Vec<Spanned<RawPorts>>>,
    #[serde(default)]
    keep_on_exit: bool,
    session_tag: Option<Spanned<i64>>,
    refresh_seconds: Option<Spanned<i64>>,
    resync_seconds: Option<Spanned<i64>>,
    event_buffer_kib: Option<Spanned<i64>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum RawProtocol {
    Name(String),
    Number(i64),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum RawPorts {
    One(i64),
    Range(String),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum RawMark {
    Exact(i64),
    Masked(String),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawInterface {
    name: Spanned<String>,
    lif: Spanned<i64>,
}

/// One thing wrong with a configuration: where, what, and what to write instead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// Bytes of the text it is about.
    pub span: Option<Range<usize>>,
    /// For people.
    pub message: String,
}

/// Everything wrong with a configuration file.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct ConfigErrors {
    /// The file, and line by line what is wrong: (line from 1, message).
    pub file: String,
    /// Lines count from 1; 0 where the whole file is meant.
    pub errors: Vec<(usize, String)>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (line, message)) in self.errors.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            match line {
                0 => write!(f, "{}: {message}", self.file)?,
                line => write!(f, "{}:{line}: {message}", self.file)?,
            }
        }
        Ok(())
    }
}

impl AgentConfig {
    /// Reads `text`; `file` names it in errors.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once; a text that is not TOML, or has unknown keys, ends at the first.
    pub fn from_toml(text: &str, file: &str) -> Result<Self, ConfigErrors> {
        let errors = |errors: Vec<ConfigError>| ConfigErrors {
            file: file.to_owned(),
            errors: errors
                .into_iter()
                .map(|error| (error.span.map_or(0, |span| line_of(text, span.start)), error.message))
                .collect(),
        };
        let raw: RawAgentConfig = toml::from_str(text).map_err(|error| {
            errors(vec![match is_gateways(text) {
                true => ConfigError { span: None, message: GATEWAYS.to_owned() },
                false => ConfigError { span: error.span(), message: error.message().to_owned() },
            }])
        })?;
        Self::try_from(raw).map_err(errors)
    }
}

impl TryFrom<RawAgentConfig> for AgentConfig {
    type Error = Vec<ConfigError>;

    fn try_from(raw: RawAgentConfig) -> Result<Self, Self::Error> {
        let mut check = Check::default();
        let gateway = check.endpoint("gateway", raw.gateway);
        let activation = raw.activation.map(|activation| check.activation(activation));
        let interfaces = check.interfaces(&raw.interface);
        let offload = raw.offload;
        let protocols = check.protocols(offload.protocols);
        let exclude_mark = offload.exclude_mark.as_ref().and_then(|mark| check.mark(mark));
        let exclude_ports = check.ports(offload.exclude_ports);
        let tag = check.number(offload.session_tag, "session_tag", 1, 255, i64::from(DEFAULT_TAG));
        let refresh = check.number(offload.refresh_seconds, "refresh_seconds", 1, 60, 5);
        let resync = check.number(offload.resync_seconds, "resync_seconds", 1, 3600, 30);
        let event_buffer = check.number(offload.event_buffer_kib, "event_buffer_kib", 4, 1 << 20, 64 << 10);
        if !check.errors.is_empty() {
            return Err(check.errors);
        }
        Ok(Self {
            gateway,
            policy: Policy { protocols, min_packets: offload.min_packets, exclude_mark, exclude_ports },
            interfaces,
            keep_on_exit: offload.keep_on_exit,
            tag: tag as u8,
            activation,
            event_buffer: event_buffer as usize * 1024,
            records: raw.accounting.map(|accounting| accounting.file),
            refresh: Duration::from_secs(refresh.unsigned_abs()),
            resync: Duration::from_secs(resync.unsigned_abs()),
        })
    }
}

const GATEWAYS: &str = "this is the gateway's configuration, not the agent's: give it to `gateway run`, and here a file as in \
                        gateway-agent.toml(5)";

fn is_gateways(text: &str) -> bool {
    let has = |table: &toml::Table, key: &str| table.contains_key(key);
    text.parse().is_ok_and(|table| has(&table, "port") && has(&table, "trap") && !has(&table, "gateway"))
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests;
