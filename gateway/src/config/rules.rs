//! Rules that look at more than one value.

use super::Config;
use super::document::{Problems, Section};
use super::sections::{LifLines, Lines, NO_PORT};
use control::Endpoint;
use pipeline::ConfigError;
use pipeline::config::Route;
use std::collections::HashMap;
use std::hash::Hash;

/// Notes whatever contradicts something else.
pub(super) fn check(config: &Config, root: &Section<'_>, lines: &Lines, problems: &Problems) {
    eal(config, lines, problems);
    ports(config, lines, problems);
    control(config, root, lines, problems);
    pipeline(config, root, lines, problems);
}

fn eal(config: &Config, lines: &Lines, problems: &Problems) {
    let eal = &config.eal;
    for (line, lcore, first) in repeated(eal.workers.iter().zip(&lines.workers)) {
        problems.rule(
            line,
            format!("[eal]: worker {lcore} is there already, on line {first}: write each lcore once"),
        );
    }
    for (lcore, line) in eal.workers.iter().zip(&lines.workers).filter(|(lcore, _)| **lcore == eal.main_lcore)
    {
        let message = format!("[eal]: worker {lcore} is main_lcore too: write another lcore for one of them");
        problems.rule(*line, message);
    }
}

fn ports(config: &Config, lines: &Lines, problems: &Problems) {
    let names = config.pipeline.ports.iter().map(|port| port.name.as_str()).filter(|name| !name.is_empty());
    for (line, name, first) in repeated(names.zip(lines.ports.iter().map(|port| &port.name))) {
        let message = format!("[[port]] {name:?}: the name is taken on line {first}: write another one");
        problems.rule(line, message);
    }
    // The part before the comma names a vdev; two of one name cannot exist.
    let device =
        |port: &'_ super::Port| port.device.split(',').next().unwrap_or_default().to_ascii_lowercase();
    let devices = config.ports.iter().map(device).zip(lines.ports.iter().map(|port| &port.device));
    for (line, device, first) in repeated(devices.filter(|(device, _)| !device.is_empty())) {
        let message = format!(
            "[[port]]: device {device} is taken on line {first}: write another device (vdevs are numbered)"
        );
        problems.rule(line, message);
    }
}

fn control(config: &Config, root: &Section<'_>, lines: &Lines, problems: &Problems) {
    let control = &config.control;
    for (line, address, first) in repeated(control.listen.iter().zip(&lines.listen)) {
        let message =
            format!("[control]: {address} is there already, on line {first}: write each address once");
        problems.rule(line, message);
    }
    if !control.admins.is_empty() && control.tls.as_ref().is_none_or(|tls| tls.client_ca.is_none()) {
        let message =
            "[control]: admins are told apart by certificates: write client_ca in tls, or leave admins out";
        problems.rule(lines.admins, message);
    }
    if control.tls.is_some() && control.plaintext {
        let message = "[control]: plaintext = true contradicts tls: leave one of them out";
        problems.rule(lines.plaintext, message);
    }
    // Without a [control] section only the unix socket is there.
    let bare = root.has("control") && control.tls.is_none() && !control.plaintext;
    for (address, line) in control.listen.iter().zip(&lines.listen).filter(|_| bare) {
        if let Endpoint::Tcp(address) = address {
            let message = format!(
                "[control]: {address} would serve TCP without TLS: write tls = {{ cert = \"…\", key = \"…\" }}, \
                 or plaintext = true if that is what you want"
            );
            problems.rule(*line, message);
        }
    }
}

/// What the pipeline itself asks for, at the lines it is about.
fn pipeline(config: &Config, root: &Section<'_>, lines: &Lines, problems: &Problems) {
    let errors = config.pipeline.validate().err().unwrap_or_default();
    for error in &errors {
        if let Some(line) = line_of(error, config, root, lines) {
            problems.rule(line, error.to_string());
        }
    }
    // The others come from values that were noted where they stand; if none was, they still must not pass.
    if problems.is_empty() {
        errors.iter().for_each(|error| problems.rule(1, error.to_string()));
    }
}

/// Where an error stands; None if it only follows from a value that was noted as wrong, or is a rule of this file too.
fn line_of(error: &ConfigError, config: &Config, root: &Section<'_>, lines: &Lines) -> Option<usize> {
    use ConfigError as E;
    let config = &config.pipeline;
    // Of LIFs that share a name, the later one is meant.
    let lif = |name: &str, part: fn(&LifLines) -> usize| {
        let position = config.lifs.iter().rposition(|lif| lif.name == name)?;
        lines.lifs.get(position).map(part)
    };
    let has_port =
        |name: &str| config.lifs.iter().rfind(|lif| lif.name == name).is_some_and(|lif| lif.port != NO_PORT);
    let vtep = |name: &str, ip| {
        let position = config.lifs.iter().rposition(|lif| lif.name == name)?;
        let at = config.lifs.get(position)?.vteps.iter().rposition(|vtep| vtep == ip)?;
        lines.lifs.get(position)?.vteps.get(at).copied()
    };
    let neighbors = config.underlay.as_ref().map_or(&[][..], |underlay| &underlay.neighbors);
    let neighbor = |ip| {
        let position = neighbors.iter().rposition(|neighbor| neighbor.ip == ip)?;
        lines.neighbors.get(position).copied()
    };
    let route = |is: &dyn Fn(&Route) -> bool| {
        let position = config.underlay.as_ref()?.routes.iter().rposition(is)?;
        lines.routes.get(position).copied()
    };
    let underlay_address =
        config.underlay.as_ref().is_some_and(|underlay| !underlay.local_ip.is_unspecified());
    let underlay_port = config.underlay.as_ref().is_some_and(|underlay| underlay.port != NO_PORT);
    match error {
        E::TooManyPorts(_) => lines.ports.last().map(|port| port.name),
        E::TooManyLifs(_) => lines.lifs.last().map(|lif| lif.name),
        E::DuplicateLif(name) => lif(name, |lif| lif.name),
        E::DuplicateLifId(name, _) => lif(name, |lif| lif.id),
        E::DuplicateTrapVni(name, _) => lif(name, |lif| lif.trap_vni),
        E::TagTaken(name, ..) if has_port(name) => lif(name, |lif| lif.encapsulation),
        E::DuplicateVni(name, _) => lif(name, |lif| lif.encapsulation),
        E::LifMtu(name, _) => lif(name, |lif| lif.mtu),
        E::NoUnderlay(name) if !root.has("underlay") => lif(name, |lif| lif.encapsulation),
        E::NotOnUnderlay(name) if underlay_port && has_port(name) => lif(name, |lif| lif.encapsulation),
        E::LifOnTrapPort(name) if has_port(name) => lif(name, |lif| lif.name),
        E::VtepFamily(name, ip) if underlay_address => vtep(name, ip),
        E::VtepAddress(name, ip) | E::DuplicateVtep(name, ip) => vtep(name, ip),
        E::UnderlayOnTrapPort if underlay_port => Some(lines.underlay),
        E::NeighborAddress(ip) if underlay_address => neighbor(*ip),
        E::DuplicateNeighbor(ip) => neighbor(*ip),
        E::RoutePrefix(to, prefix) if underlay_address => route(&|r| (r.to, r.prefix) == (*to, *prefix)),
        E::DuplicateRoute(to, prefix) => route(&|r| (r.to, r.prefix) == (*to, *prefix)),
        E::RouteVia(via) if underlay_address => route(&|r| r.via == *via),
        E::TrapSameAddress if !config.trap.local_ip.is_unspecified() => Some(lines.trap),
        _ => None,
    }
}

/// The later of equal values: their line, the value, the first one's line.
fn repeated<'l, T: Hash + Eq + Clone>(
    values: impl Iterator<Item = (T, &'l usize)>,
) -> Vec<(usize, T, usize)> {
    let mut first = HashMap::new();
    let mut found = Vec::new();
    for (value, line) in values {
        match first.get(&value) {
            Some(first) => found.push((*line, value, *first)),
            None => drop(first.insert(value, *line)),
        }
    }
    found
}
