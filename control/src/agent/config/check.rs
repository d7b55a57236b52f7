//! The rules that a configuration keeps to.

use super::super::entry::protocol;
use super::{
    Activation, ConfigError, Device, Endpoint, RawActivation, RawGateway, RawInterface, RawMark, RawPorts,
    RawProtocol,
};
use crate::TlsFiles;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use toml::Spanned;

const INTERFACE_NAME_LIMIT: usize = 15;

#[derive(Default)]
pub(super) struct Check {
    pub errors: Vec<ConfigError>,
}

impl Check {
    pub fn wrong(&mut self, span: Option<Range<usize>>, message: String) {
        self.errors.push(ConfigError { span, message });
    }

    /// `section` is where `connect` and `tls` stand.
    pub fn endpoint(&mut self, section: &str, raw: RawGateway) -> Endpoint {
        let span = raw.connect.span();
        let address = raw.connect.into_inner();
        let kinds = ["unix:", "http://", "https://"];
        let scheme =
            kinds.iter().find(|kind| address.strip_prefix(**kind).is_some_and(|rest| !rest.is_empty()));
        match (scheme, &raw.tls) {
            (None, _) => self.wrong(
                Some(span),
                format!(
                    "{section}.connect = \"{address}\": write unix:/PATH, http://HOST:PORT or https://HOST:PORT"
                ),
            ),
            (Some(&"https://"), None) => self.wrong(
                Some(span),
                format!("{section}.connect is https, which needs {section}.tls: add tls = {{ ca = \"ca.crt\" }}"),
            ),
            (Some(&"https://"), Some(tls)) => {
                let tls_span = tls.span();
                if tls.get_ref().cert.is_some() != tls.get_ref().key.is_some() {
                    self.wrong(
                        Some(tls_span),
                        format!("{section}.tls: cert and key go together: give both or none"),
                    );
                }
            }
            (Some(other), Some(tls)) => {
                self.wrong(
                    Some(tls.span()),
                    format!("{section}.tls is for https only: remove it, or replace {other}"),
                );
            }
            (Some(_), None) => {}
        }
        Endpoint { address, tls: raw.tls.map(Spanned::into_inner) }
    }

    pub fn activation(&mut self, raw: RawActivation) -> Activation {
        let span = raw.listen.span();
        let mut listen = Vec::new();
        for address in raw.listen.into_inner() {
            match address.get_ref().parse::<crate::Endpoint>() {
                Ok(endpoint) => listen.push(endpoint),
                Err(error) => self.wrong(Some(address.span()), format!("activation.listen: {error}")),
            }
        }
        let bare = listen.iter().any(|endpoint| matches!(endpoint, crate::Endpoint::Tcp(_)));
        if listen.is_empty() {
            self.wrong(
                Some(span),
                "activation.listen: name at least one ADDRESS:PORT or unix:/PATH".to_owned(),
            );
        } else if bare && raw.tls.is_none() && !raw.plaintext {
            self.wrong(
                Some(span),
                "activation.listen would serve TCP without TLS: write tls = { cert = \"…\", key = \"…\" }, or plaintext = true"
                    .to_owned(),
            );
        }
        let mut names = HashSet::new();
        let mut devices = Vec::new();
        for device in raw.device {
            let (span, name) = (device.name.span(), device.name.into_inner());
            if name.is_empty() || !names.insert(name.clone()) {
                let message = format!("activation.device \"{name}\": each needs a name of its own");
                self.wrong(Some(span.clone()), message);
            }
            let gateway = match (device.connect, device.tls) {
                (Some(connect), tls) => Some(self.endpoint("activation.device", RawGateway { connect, tls })),
                (None, None) => None,
                (None, Some(_)) => {
                    let message = "activation.device: tls is for its connect: add connect, or remove tls";
                    self.wrong(Some(span), message.to_owned());
                    None
                }
            };
            devices.push(Device { name, gateway });
        }
        let tls = raw.tls.map(|tls| TlsFiles { cert: tls.cert, key: tls.key, client_ca: tls.client_ca });
        Activation { listen, tls, plaintext: raw.plaintext, devices }
    }

    pub fn ports(&mut self, raw: Option<Vec<Spanned<RawPorts>>>) -> Vec<(u16, u16)> {
        let mut ports = Vec::new();
        for item in raw.unwrap_or_default() {
            let range = match item.get_ref() {
                RawPorts::One(port) => u16::try_from(*port).ok().map(|port| (port, port)),
                RawPorts::Range(text) => text
                    .split_once('-')
                    .and_then(|(low, high)| Some((low.trim().parse().ok()?, high.trim().parse().ok()?))),
            };
            match range {
                Some((low, high)) if low > 0 && low <= high => ports.push((low, high)),
                _ => self.wrong(
                    Some(item.span()),
                    "offload.exclude_ports: write ports from 1 to 65535, or ranges like \"5000-5999\""
                        .to_owned(),
                ),
            }
        }
        ports
    }

    pub fn interfaces(&mut self, raw: &[RawInterface]) -> HashMap<String, u32> {
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

    pub fn protocols(&mut self, raw: Option<Vec<Spanned<RawProtocol>>>) -> Vec<u8> {
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

    pub fn mark(&mut self, raw: &Spanned<RawMark>) -> Option<(u32, u32)> {
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

    pub fn number(
        &mut self,
        raw: Option<Spanned<i64>>,
        name: &str,
        least: i64,
        most: i64,
        default: i64,
    ) -> i64 {
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
