//! What the demonstration found, as tables.

use crate::control::Session;
use crate::demo::Figures;
use crate::demo::copies::Copied;
use crate::demo::flows::{Flow, Kind, Outcome};
use crate::error::Result;
use crate::gateway::Stats;

/// Closed sessions that are listed.
const LISTED: usize = 16;

/// Per flow: throughput and packets of both ways.
pub(super) fn flows(flows: &[Flow], off: &[Figures], on: &[Figures]) {
    println!("{:<40} {:>28}   {:>38}", "", "offload off", "offload on");
    println!(
        "{:<40} {:>16} {:>11}   {:>16} {:>10} {:>10}  {:>8} {:>7}",
        "flow", "", "kernel", "", "kernel", "hot path", "offload", "gain"
    );
    for ((flow, off), on) in flows.iter().zip(off).zip(on) {
        println!(
            "{:<40} {:>16} {:>11}   {:>16} {:>10} {:>10}  {:>7.1}% {:>7}",
            flow.name,
            outcome(off),
            off.kernel_packets,
            outcome(on),
            on.kernel_packets,
            on.hot_packets,
            on.hot_share() * 100.0,
            gain(flow, off, on),
        );
    }
    println!();
}

/// Per flow: packets and what the collector got of them.
pub(super) fn copied(flows: &[Copied]) {
    println!(
        "{:<40} {:>16} {:>11} {:>11}   {:>28}",
        "copies over VXLAN to the collector", "", "packets", "copies", "client in queries / answers"
    );
    for flow in flows {
        let (answers, queries) = flow.answers;
        println!(
            "{:<40} {:>16} {:>11} {:>11}   {:>28}",
            flow.name,
            format!("{answers}/{queries} answers"),
            flow.packets,
            flow.copies,
            format!("{} / {}", flow.client[0], flow.client[1]),
        );
    }
    println!();
}

/// "812.3 Mbit/s", or "20/20 answers".
pub(super) fn outcome(figures: &Figures) -> String {
    match figures.outcome {
        Some(Outcome::Throughput(rate, loss)) if loss > 0.0 => {
            format!("{:.1} Mbit/s -{:.1}%", rate / 1e6, loss * 100.0)
        }
        Some(Outcome::Throughput(rate, _)) => format!("{:.1} Mbit/s", rate / 1e6),
        Some(Outcome::Answers(received, sent)) => format!("{received}/{sent} answers"),
        None => "-".to_owned(),
    }
}

/// The closed sessions, with their counters.
pub(super) fn closed(sessions: &[Session]) {
    let (used, unused): (Vec<&Session>, Vec<&Session>) =
        sessions.iter().partition(|session| session.packets() > 0);
    println!("closed sessions: {}, and {} that saw no packet", used.len(), unused.len());
    if used.is_empty() {
        return;
    }
    println!(
        "  {:<6} {:>4} {:>4}  {:<48} {:>9} {:>12} {:>9} {:>12}",
        "end", "in", "out", "connection", "packets", "bytes", "back", "bytes"
    );
    for session in used.iter().take(LISTED) {
        let end = session
            .closed
            .map_or("", |code| code.as_str_name())
            .trim_start_matches("CLOSE_CODE_")
            .to_lowercase();
        let protocol = match session.protocol {
            1 => "icmp".to_owned(),
            6 => "tcp".to_owned(),
            58 => "icmpv6".to_owned(),
            17 => "udp".to_owned(),
            other => other.to_string(),
        };
        println!(
            "  {end:<6} {:>4} {:>4}  {:<48} {:>9} {:>12} {:>9} {:>12}",
            session.in_lif,
            session.out_lif,
            format!("{protocol} {} > {}", session.source, session.destination),
            session.in_packets,
            session.in_bytes,
            session.out_packets,
            session.out_bytes,
        );
    }
    if used.len() > LISTED {
        println!("  and {} more", used.len() - LISTED);
    }
    println!();
}

/// The gateway's own counters.
pub(super) fn stats(stats: &Stats) -> Result<()> {
    let sum = |names: &[&str], group: &str| -> Result<String> {
        let mut parts = Vec::new();
        for name in names {
            parts.push(format!("{name} {}", stats.get(&format!("/{group}/{name}"))?));
        }
        Ok(parts.join(", "))
    };
    println!("trapped: {}", sum(&["new", "tcp_control", "arp_nd", "exception"], "traps")?);
    let drops = ["unknown_lif", "malformed", "bad_checksum", "no_neighbor", "session_drop", "trap_limited"];
    println!("dropped: {}", sum(&drops, "drops")?);
    println!("sessions: {}\n", sum(&["installed", "rejected", "closed", "active"], "sessions")?);
    Ok(())
}

/// Says whether every flow went as it should, and which did not.
pub(super) fn verdict(flows: &[Flow], off: &[Figures], on: &[Figures], copied: &[Copied]) -> bool {
    let mut good = true;
    let mut wrong = |name: &str, what: &str| {
        println!("FAILED  {name}: {what}");
        good = false;
    };
    for ((flow, off), on) in flows.iter().zip(off).zip(on) {
        if off.hot_packets > 0 {
            wrong(flow.name, "there were hot-path packets with no agent running");
        }
        for figures in [off, on] {
            match figures.outcome {
                Some(Outcome::Answers(received, sent)) if received * 10 < sent * 9 => {
                    wrong(flow.name, &format!("{received} of {sent} answers"));
                }
                Some(Outcome::Throughput(rate, _)) if rate <= 0.0 => wrong(flow.name, "nothing arrived"),
                _ => {}
            }
        }
        // The first packets, and TCP's first and last ones, are the kernel's.
        let least = if matches!(flow.kind, Kind::Dns | Kind::Ping) { 0.5 } else { 0.9 };
        if on.hot_share() < least {
            wrong(flow.name, &format!("only {:.1} % went through the hot path", on.hot_share() * 100.0));
        }
    }
    for flow in copied {
        let (answers, queries) = flow.answers;
        if answers * 10 < queries * 9 || flow.packets < u64::from(answers) * 2 {
            wrong(flow.name, &format!("{answers} of {queries} answers, {} packets", flow.packets));
        }
        if flow.copies != flow.packets {
            wrong(flow.name, &format!("{} copies of {} packets", flow.copies, flow.packets));
        }
    }
    if good {
        println!("PASSED  every flow that should be offloaded was, and every copy arrived");
    }
    good
}

/// How much faster a bulk flow is with offload.
fn gain(flow: &Flow, off: &Figures, on: &Figures) -> String {
    match (flow.kind, off.outcome, on.outcome) {
        (Kind::Tcp(_), Some(Outcome::Throughput(off, _)), Some(Outcome::Throughput(on, _))) if off > 0.0 => {
            format!("{:.2} x", on / off)
        }
        _ => String::new(),
    }
}
