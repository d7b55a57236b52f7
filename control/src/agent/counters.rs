//! What the agent has done so far.

use std::collections::BTreeMap;
use std::fmt;

/// Counts since the start. `Display` shows those that are not zero.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Events heard from the kernel.
    pub events: u64,
    /// Messages of the kernel that could not be read.
    pub undecodable: u64,
    /// Times the kernel could not queue events for us.
    pub overruns: u64,
    /// Whole tables compared.
    pub resyncs: u64,
    /// Connections to the gateway made.
    pub connects: u64,
    /// Sessions found in the gateway and kept.
    pub adopted: u64,
    /// Sessions the gateway accepted.
    pub installed: u64,
    /// Sessions deleted by us.
    pub deleted: u64,
    /// Sessions the gateway closed.
    pub closed: u64,
    /// Records of closed sessions the gateway lost before we read them.
    pub closed_lost: u64,
    /// Kernel entries kept alive.
    pub refreshed: u64,
    /// Kernel entries given the TCP state of their closed session.
    pub settled: u64,
    /// Records of ended connections written.
    pub recorded: u64,
    /// Records lost because they could not be written.
    pub record_lost: u64,
    /// Attempts put off.
    pub retries: u64,
    /// Connections whose path changed while offloaded.
    pub rerouted: u64,
    /// Connections not offloaded, by reason.
    pub skipped: BTreeMap<&'static str, u64>,
    /// Sessions the gateway refused, by reason.
    pub refused: BTreeMap<&'static str, u64>,
}

impl Counters {
    /// Counts a connection that stays in the kernel.
    pub fn skip(&mut self, reason: &'static str) {
        *self.skipped.entry(reason).or_default() += 1;
    }

    /// Counts a session that the gateway refused.
    pub fn refuse(&mut self, reason: &'static str) {
        *self.refused.entry(reason).or_default() += 1;
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = [
            ("events", self.events),
            ("undecodable", self.undecodable),
            ("overruns", self.overruns),
            ("resyncs", self.resyncs),
            ("connects", self.connects),
            ("adopted", self.adopted),
            ("installed", self.installed),
            ("deleted", self.deleted),
            ("closed", self.closed),
            ("closed_lost", self.closed_lost),
            ("refreshed", self.refreshed),
            ("settled", self.settled),
            ("recorded", self.recorded),
            ("record_lost", self.record_lost),
            ("retries", self.retries),
            ("rerouted", self.rerouted),
        ];
        let mut separator = "";
        for (name, value) in plain.into_iter().filter(|(_, value)| *value > 0) {
            write!(f, "{separator}{name}={value}")?;
            separator = " ";
        }
        for (kind, reasons) in [("skipped", &self.skipped), ("refused", &self.refused)] {
            for (reason, value) in reasons {
                write!(f, "{separator}{kind}.{reason}={value}")?;
                separator = " ";
            }
        }
        Ok(())
    }
}
