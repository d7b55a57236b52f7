//! Rules that look at more than one value.

use super::document::{Problems, Section};
use super::sections::Lines;
use super::{Config, Listen};
use std::collections::HashMap;
use std::hash::Hash;

/// Notes whatever contradicts something else.
pub(super) fn check(config: &Config, root: &Section<'_>, lines: &Lines, problems: &Problems) {
    eal(config, lines, problems);
    ports(config, lines, problems);
    control(config, root, lines, problems);
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
    if control.tls.is_some() && control.plaintext {
        let message = "[control]: plaintext = true contradicts tls: leave one of them out";
        problems.rule(lines.plaintext, message);
    }
    // Without a [control] section only the unix socket is there.
    let bare = root.has("control") && control.tls.is_none() && !control.plaintext;
    for (address, line) in control.listen.iter().zip(&lines.listen).filter(|_| bare) {
        if let Listen::Tcp(address) = address {
            let message = format!(
                "[control]: {address} would serve TCP without TLS: write tls = {{ cert = \"…\", key = \"…\" }}, \
                 or plaintext = true if that is what you want"
            );
            problems.rule(*line, message);
        }
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
