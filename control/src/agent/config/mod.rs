//! The agent's configuration: TOML as people write it, checked as a whole, then typed.

use super::entry::protocol;
use super::session::Policy;
use serde::Deserialize;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;

const DEFAULT_TAG: u8 = 0xa6;
const INTERFACE_NAME_LIMIT: usize = 15;

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
    /// How often the whole connection table is compared, in case events were lost or entries made none.
    pub resync: Duration,
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
    #[serde(default)]
    keep_on_exit: bool,
    session_tag: Option<Spanned<i64>>,
    refresh_seconds: Option<Spanned<i64>>,
    resync_seconds: Option<Spanned<i64>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum RawProtocol {
    Name(String),
    Number(i64),
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
            errors(vec![ConfigError { span: error.span(), message: error.message().to_owned() }])
        })?;
        Self::try_from(raw).map_err(errors)
    }
}

impl TryFrom<RawAgentConfig> for AgentConfig {
    type Error = Vec<ConfigError>;

    fn try_from(raw: RawAgentConfig) -> Result<Self, Self::Error> {
        let mut check = Check::default();
        let gateway = check.endpoint(raw.gateway);
        let interfaces = check.interfaces(&raw.interface);
        let offload = raw.offload;
        let protocols = check.protocols(offload.protocols);
        let exclude_mark = offload.exclude_mark.as_ref().and_then(|mark| check.mark(mark));
        let tag = check.number(offload.session_tag, "session_tag", 1, 255, i64::from(DEFAULT_TAG));
        let refresh = check.number(offload.refresh_seconds, "refresh_seconds", 1, 60, 5);
        let resync = check.number(offload.resync_seconds, "resync_seconds", 1, 3600, 30);
        if !check.errors.is_empty() {
            return Err(check.errors);
        }
        Ok(Self {
            gateway,
            policy: Policy { protocols, min_packets: offload.min_packets, exclude_mark },
            interfaces,
            keep_on_exit: offload.keep_on_exit,
            tag: tag as u8,
            records: raw.accounting.map(|accounting| accounting.file),
            refresh: Duration::from_secs(refresh.unsigned_abs()),
            resync: Duration::from_secs(resync.unsigned_abs()),
        })
    }
}

#[derive(Default)]
struct Check {
    errors: Vec<ConfigError>,
}

impl Check {
    fn wrong(&mut self, span: Option<Range<usize>>, message: String) {
        self.errors.push(ConfigError { span, message });
    }

    fn endpoint(&mut self, raw: RawGateway) -> Endpoint {
        let span = raw.connect.span();
        let address = raw.connect.into_inner();
        let kinds = ["unix:", "http://", "https://"];
        let scheme =
            kinds.iter().find(|kind| address.strip_prefix(**kind).is_some_and(|rest| !rest.is_empty()));
        match (scheme, &raw.tls) {
            (None, _) => self.wrong(
                Some(span),
                format!(
                    "gateway.connect = \"{address}\": write unix:/PATH, http://HOST:PORT or https://HOST:PORT"
                ),
            ),
            (Some(&"https://"), None) => self.wrong(
                Some(span),
                "gateway.connect is https, which needs gateway.tls: add tls = { ca = \"ca.crt\" }".to_owned(),
            ),
            (Some(&"https://"), Some(tls)) => {
                let tls_span = tls.span();
                if tls.get_ref().cert.is_some() != tls.get_ref().key.is_some() {
                    self.wrong(
                        Some(tls_span),
                        "gateway.tls: cert and key go together: give both or none".to_owned(),
                    );
                }
            }
            (Some(other), Some(tls)) => {
                self.wrong(
                    Some(tls.span()),
                    format!("gateway.tls is for https only: remove it, or replace {other}"),
                );
            }
            (Some(_), None) => {}
        }
        Endpoint { address, tls: raw.tls.map(Spanned::into_inner) }
    }

    fn interfaces(&mut self, raw: &[RawInterface]) -> HashMap<String, u32> {
        let mut interfaces = HashMap::new();
        if raw.is_empty() {
            self.wrong(
                None,
                "no [[interface]]: add one with name and lif for each interface to offload".to_owned(),
            );
        }
        let mut lifs = HashSet::new();
        for interface in raw {
            let name = interface.name.get_ref();
            if name.is_empty() || name.len() > INTERFACE_NAME_LIMIT || name.contains(['/', ' ']) {
                self.wrong(
                    Some(interface.name.span()),
                    format!("interface name \"{name}\": write a kernel interface's name, 1 to 15 characters"),
                );
            }
            let lif = match u32::try_from(*interface.lif.get_ref()) {
                Ok(lif) if lif != 0 => lif,
                _ => {
                    let message = format!(
                        "interface \"{name}\": lif must be the id of a LIF in the gateway, 1 or more"
                    );
                    self.wrong(Some(interface.lif.span()), message);
                    continue;
                }
            };
            if !lifs.insert(lif) {
                let message = format!(
                    "interface \"{name}\": LIF {lif} belongs to another interface: give each its own"
                );
                self.wrong(Some(interface.lif.span()), message);
            }
            if interfaces.insert(name.clone(), lif).is_some() {
                self.wrong(
                    Some(interface.name.span()),
                    format!("interface \"{name}\" is there twice: remove one"),
                );
            }
        }
        interfaces
    }

    fn protocols(&mut self, raw: Option<Vec<Spanned<RawProtocol>>>) -> Vec<u8> {
        let Some(raw) = raw else { return vec![protocol::TCP, protocol::UDP] };
        let mut protocols = Vec::new();
        for item in raw {
            let span = item.span();
            match item.into_inner() {
                RawProtocol::Name(name) => match name.as_str() {
                    "tcp" => protocols.push(protocol::TCP),
                    "udp" => protocols.push(protocol::UDP),
                    "icmp" => protocols.push(protocol::ICMP),
                    "icmpv6" => protocols.push(protocol::ICMPV6),
                    _ => self.wrong(
                        Some(span),
                        format!("offload.protocols: \"{name}\": write tcp, udp, icmp, icmpv6 or a number"),
                    ),
                },
                RawProtocol::Number(number) => match u8::try_from(number) {
                    Ok(number) if number != 0 => protocols.push(number),
                    _ => self.wrong(
                        Some(span),
                        format!("offload.protocols: {number}: protocol numbers are 1 to 255"),
                    ),
                },
            }
        }
        protocols.sort_unstable();
        protocols.dedup();
        protocols
    }

    fn mark(&mut self, raw: &Spanned<RawMark>) -> Option<(u32, u32)> {
        let parsed = match raw.get_ref() {
            RawMark::Exact(value) => u32::try_from(*value).ok().map(|value| (value, u32::MAX)),
            RawMark::Masked(text) => match text.split_once('/') {
                Some((value, mask)) => parse_u32(value).zip(parse_u32(mask)),
                None => parse_u32(text).map(|value| (value, u32::MAX)),
            },
        };
        match parsed {
            Some((value, mask)) if value & !mask == 0 => return parsed,
            Some(_) => self.wrong(
                Some(raw.span()),
                "offload.exclude_mark: the value has bits outside the mask".to_owned(),
            ),
            None => self.wrong(
                Some(raw.span()),
                "offload.exclude_mark: write a 32-bit number, or \"VALUE/MASK\" like \"0x10/0xf0\""
                    .to_owned(),
            ),
        }
        None
    }

    fn number(&mut self, raw: Option<Spanned<i64>>, name: &str, least: i64, most: i64, default: i64) -> i64 {
        let Some(raw) = raw else { return default };
        let value = *raw.get_ref();
        if !(least..=most).contains(&value) {
            self.wrong(
                Some(raw.span()),
                format!("offload.{name} = {value}: write a number from {least} to {most}"),
            );
        }
        value
    }
}

fn parse_u32(text: &str) -> Option<u32> {
    let text = text.trim();
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[gateway]
connect = "unix:/run/gateway.sock"
[offload]
protocols = ["tcp", "udp", "icmp", 50]
exclude_mark = "0x10/0xf0"
[[interface]]
name = "eth0"
lif = 1
[[interface]]
name = "eth1"
lif = 2
"#;

    #[test]
    fn a_good_file_becomes_typed() {
        let config = AgentConfig::from_toml(GOOD, "agent.toml").unwrap();
        assert_eq!(config.policy.protocols, [1, 6, 17, 50]);
        assert_eq!(config.policy.exclude_mark, Some((0x10, 0xf0)));
        assert_eq!(config.interfaces["eth1"], 2);
        assert_eq!(config.tag, DEFAULT_TAG);
        assert!(!config.keep_on_exit);
    }

    #[test]
    fn every_error_is_reported_at_once_with_its_line() {
        let text = GOOD
            .replace("unix:/run", "ftp:/run")
            .replace("50]", "\"gre\", 300]")
            .replace("0x10/0xf0", "0x11/0xf0")
            .replace("lif = 2", "lif = 1");
        let errors = AgentConfig::from_toml(&text, "agent.toml").unwrap_err();
        let lines: Vec<usize> = errors.errors.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [3, 12, 5, 5, 6], "{errors}");
        assert!(errors.to_string().starts_with("agent.toml:3: gateway.connect"));
    }

    #[test]
    fn unknown_keys_are_refused() {
        let errors =
            AgentConfig::from_toml(&GOOD.replace("protocols", "protocol"), "agent.toml").unwrap_err();
        assert_eq!(errors.errors[0].0, 5);
        assert!(errors.to_string().contains("unknown field `protocol`"), "{errors}");
    }

    #[test]
    fn tls_fits_its_address() {
        let https = GOOD.replace("unix:/run/gateway.sock", "https://127.0.0.1:3443");
        assert!(AgentConfig::from_toml(&https, "f").unwrap_err().to_string().contains("needs gateway.tls"));
        let half = https.replace("3443\"", "3443\"\ntls = { ca = \"ca.crt\", cert = \"a.crt\" }");
        assert!(
            AgentConfig::from_toml(&half, "f").unwrap_err().to_string().contains("cert and key go together")
        );
        let full = https.replace("3443\"", "3443\"\ntls = { ca = \"ca.crt\" }");
        assert!(AgentConfig::from_toml(&full, "f").is_ok());
    }
}
