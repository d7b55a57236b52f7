//! What figures are to reach, whether they did, and which way is better.

use super::number::{round, with_unit};
use super::{Figure, Report};

/// The end of the scale that counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reach {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

use Reach::{AtLeast, AtMost};

/// A figure to reach.
pub struct Target {
    /// Of the figure in the report.
    pub name: &'static str,
    /// What it is.
    pub words: &'static str,
    /// Unit of figure and reach.
    pub unit: &'static str,
    /// The goal.
    pub reach: Reach,
}

const fn target(name: &'static str, unit: &'static str, reach: Reach, words: &'static str) -> Target {
    Target { name, words, unit, reach }
}

/// All of them, of a 2.6 GHz Zen 4-class virtual core.
pub const TARGETS: &[Target] = &[
    target(
        "hotpath.cycles_per_packet.1k",
        "cycles",
        AtMost(80.0),
        "decap, NAT, encap in process, 1k sessions",
    ),
    target("hotpath.cycles_per_packet.1M", "cycles", AtMost(130.0), "the same, 1M sessions"),
    target("hotpath.cycles_per_packet.16M", "cycles", AtMost(180.0), "the same, 16M sessions"),
    target("memif.ratio_to_testpmd.1k", "ratio", AtLeast(0.6), "÷ testpmd macswap, same memif, 1k sessions"),
    target("memif.ratio_to_testpmd.1M", "ratio", AtLeast(0.45), "the same, 1M sessions"),
    target("peer.ovs_dpdk.ratio.1M", "ratio", AtLeast(8.0), "÷ OVS-DPDK ct+nat, same memif, 1M sessions"),
    target(
        "peer.nftables.ratio.64k",
        "ratio",
        AtLeast(20.0),
        "÷ nftables masquerade, one core, 64k sessions",
    ),
    target(
        "table.bytes_per_session.16M",
        "bytes",
        AtMost(160.0),
        "memory per session, index and both flows, at 16M",
    ),
    target(
        "table.insert_delete_per_second",
        "1/s",
        AtLeast(2e6),
        "sessions inserted and deleted beside a busy worker",
    ),
    target("table.reader_loss", "share", AtMost(0.05), "what that worker loses by it"),
    target("ageing.core_share.16M", "share", AtMost(0.01), "of a core, ageing 16M sessions"),
    target("workers.second_speedup", "ratio", AtLeast(1.8), "two workers ÷ one, in process"),
    target(
        "latency.p99_ratio_to_testpmd.50",
        "ratio",
        AtMost(2.0),
        "added latency at half of own load, p99 ÷ testpmd's",
    ),
    target(
        "latency.same_rate.p99_ratio_to_testpmd.50",
        "ratio",
        AtMost(2.0),
        "the same, both at half of the gateway's load",
    ),
    target(
        "soak.longest_pause_us",
        "us",
        AtMost(200.0),
        "longest pause of a worker while sessions come and go",
    ),
    target(
        "bad.trap_flood.established_lost",
        "share",
        AtMost(0.05),
        "what established traffic loses to 5 Mpps of new flows",
    ),
    target(
        "rpc.openoffload_v2.sessions_per_second",
        "1/s",
        AtLeast(3e5),
        "AddSession, one openoffload.v2 stream",
    ),
    target("rpc.gateway_v1.sessions_per_second", "1/s", AtLeast(1e6), "sessions added in gateway.v1 batches"),
    target("rpc.list_million_seconds", "s", AtMost(2.0), "1M sessions listed by cursor"),
    target("rpc.get_p99_ms", "ms", AtMost(1.0), "GetSession p99 while 100,000 sessions/s are added"),
    target("rpc.hotpath_loss", "share", AtMost(0.03), "what the other core's hot path loses to control load"),
    target("agent.offload_p99_ms", "ms", AtMost(20.0), "assured in the kernel to offloaded, p99, 5,000/s"),
    target(
        "agent.restart_gateway_seconds",
        "s",
        AtMost(2.0),
        "100,000 connections offloaded again after the gateway restarts",
    ),
    target("agent.restart_agent_seconds", "s", AtMost(2.0), "the same after the agent restarts"),
    target("agent.restart_both_seconds", "s", AtMost(2.0), "the same after both restart"),
];

impl Target {
    /// "≤ 80 cycles".
    pub fn goal(&self) -> String {
        match self.reach {
            AtMost(goal) => format!("≤ {}", with_unit(goal, self.unit, round)),
            AtLeast(goal) => format!("≥ {}", with_unit(goal, self.unit, round)),
        }
    }

    /// The figure that is measured against it.
    pub fn figure<'r>(&self, report: &'r Report) -> Option<&'r Figure> {
        report.figure(self.name).filter(|figure| figure.unit == self.unit)
    }

    /// Whether it is reached.
    pub fn is_reached(&self, value: f64) -> bool {
        match self.reach {
            AtMost(goal) => value <= goal,
            AtLeast(goal) => value >= goal,
        }
    }
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Less.
    Lower,
    /// More.
    Higher,
}

/// Whether a figure is counted or computed rather than timed: one run is as good as many.
pub fn is_counted(name: &str, unit: &str) -> bool {
    matches!(unit, "instructions" | "bytes") || name.contains(".load_at_refusal.")
}

/// Figures whose unit says the wrong thing: beginning of the name, unit (empty: any), and what is better; None: they tell of the
/// machine, not of the program.
const EXCEPTIONS: &[(&str, &str, Option<Better>)] = &[
    ("latency.", "ratio", Some(Better::Lower)),
    ("bad.", "ratio", Some(Better::Lower)),
    ("table.load_at_refusal.", "share", Some(Better::Higher)),
    ("soak.preempted_per_second", "1/s", Some(Better::Lower)),
    ("soak.quiet_", "", None),
    ("soak.stolen_", "", None),
    ("soak.longest_pause_stolen_us", "us", None),
    ("rpc.get_idle_", "", None),
];

/// Which way is better for a figure; None if that is nobody's wish, or it is another program's figure.
pub fn better(name: &str, unit: &str) -> Option<Better> {
    let theirs = (name.contains(".testpmd") || name.starts_with("peer.")) && !name.contains(".ratio");
    if theirs {
        return None;
    }
    let is_it = |(start, of, _): &&(&str, &str, _)| name.starts_with(start) && (of.is_empty() || *of == unit);
    if let Some((.., better)) = EXCEPTIONS.iter().find(is_it) {
        return *better;
    }
    match unit {
        "cycles" | "cycles/packet" | "instructions" | "bytes" | "ns" | "us" | "µs" | "ms" | "s" | "share" => {
            Some(Better::Lower)
        }
        "Mpps" | "1/s" | "ratio" => Some(Better::Higher),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn targets_agree_with_the_direction_of_their_unit() {
        for target in TARGETS {
            let expected = match target.reach {
                AtMost(_) => Better::Lower,
                AtLeast(_) => Better::Higher,
            };
            assert_eq!(better(target.name, target.unit), Some(expected), "{}", target.name);
        }
        let mut names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TARGETS.len());
    }

    #[test]
    fn what_peers_do_is_neither_better_nor_worse() {
        assert_eq!(better("memif.testpmd_io.mpps.1k", "Mpps"), None);
        assert_eq!(better("latency.testpmd_p99_us.50", "us"), None);
        assert_eq!(better("peer.ovs_dpdk.mpps.1M", "Mpps"), None);
        assert_eq!(better("peer.ovs_dpdk.ratio.1M", "ratio"), Some(Better::Higher));
        assert_eq!(better("memif.ratio_to_testpmd.1k", "ratio"), Some(Better::Higher));
        assert_eq!(better("peer.testpmd.macswap_burst128.mpps.1k", "Mpps"), None);
        assert_eq!(better("peer.testpmd.macswap_burst128.ratio.1k", "ratio"), Some(Better::Higher));
        assert_eq!(better("peer.nftables.ratio_by_cycles.64k", "ratio"), Some(Better::Higher));
        assert_eq!(better("something", "furlongs"), None);
    }

    #[test]
    fn exceptions_are_for_what_their_unit_says_wrongly() {
        assert_eq!(better("soak.preempted_per_second", "1/s"), Some(Better::Lower));
        assert_eq!(better("soak.added_per_second", "1/s"), Some(Better::Higher));
        assert_eq!(better("table.load_at_refusal.64k", "share"), Some(Better::Higher));
        assert_eq!(better("table.reader_loss", "share"), Some(Better::Lower));
        assert_eq!(better("latency.p99_ratio_to_testpmd.50", "ratio"), Some(Better::Lower));
    }

    #[test]
    fn the_machines_own_noise_is_neither_better_nor_worse() {
        assert_eq!(better("soak.quiet_longest_pause_us", "us"), None);
        assert_eq!(better("soak.quiet_preempted_per_second", "1/s"), None);
        assert_eq!(better("soak.stolen_share", "share"), None);
        assert_eq!(better("soak.longest_pause_stolen_us", "us"), None);
        assert_eq!(better("rpc.get_idle_p99_ms", "ms"), None);
        assert_eq!(better("soak.longest_pause_us", "us"), Some(Better::Lower));
        assert_eq!(better("rpc.get_p99_ms", "ms"), Some(Better::Lower));
    }

    #[test]
    fn goals_are_told_and_judged() {
        let report = sample(&[("hotpath.cycles_per_packet.1k", "cycles", &[80.0])]);
        let cycles = &TARGETS[0];
        assert_eq!(cycles.goal(), "≤ 80 cycles");
        assert!(cycles.is_reached(cycles.figure(&report).unwrap().value));
        assert!(!cycles.is_reached(80.5));
        assert!(TARGETS[3].figure(&report).is_none());
        assert!(TARGETS[3].is_reached(0.61) && !TARGETS[3].is_reached(0.59));
    }
}
