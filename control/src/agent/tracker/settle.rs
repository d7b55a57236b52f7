//! What the kernel's entry is told when its session has closed: the gateway saw packets that the kernel did not.

use super::super::entry::{Entry, TcpState, protocol};
use super::super::kernel::KernelTimeouts;
use super::{Connection, Tracker};
use proto::gateway::v1;
use std::time::{Duration, Instant};

/// The packet that closed the session is on its way through the kernel, and an answer to it may follow.
const SETTLE_DELAY: Duration = Duration::from_secs(1);

impl Tracker {
    /// The kernel's timeout after `session` has closed, and the look at its state that follows for TCP.
    pub(super) fn settle_later(&mut self, id: u64, session: &v1::ClosedSession, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match session.close_code() {
            v1::CloseCode::Rst if connection.entry.protocol == protocol::TCP => {
                // As the kernel itself does: a connection that goes on, as after a forged RST (RFC 5961), gets its life
                // back with the next packet.
                let timeout = self.timeouts.of_state(TcpState::Closed);
                connection.expires = Some(now + Duration::from_secs(timeout.into()));
                self.refreshes.push_back((id, timeout));
                self.settling.push_back((now + SETTLE_DELAY, id, v1::CloseCode::Rst));
            }
            v1::CloseCode::Finack if connection.entry.protocol == protocol::TCP => {
                self.settling.push_back((now + SETTLE_DELAY, id, v1::CloseCode::Finack));
            }
            code => {
                let forwarded = session.counters.map_or(0, |c| c.in_packets.saturating_add(c.out_packets));
                if forwarded > connection.packets {
                    // Its last packet came after the last list.
                    let idle = match (code, &session.session) {
                        (v1::CloseCode::Timeout, Some(session)) => session.idle_timeout,
                        _ => 0,
                    };
                    let timeout = remaining(&self.timeouts, connection, idle);
                    connection.expires = Some(now + Duration::from_secs(timeout.into()));
                    self.refreshes.push_back((id, timeout));
                }
            }
        }
    }

    /// Ended connections whose entries are to be looked at now.
    pub fn take_settling(&mut self, limit: usize, now: Instant) -> Vec<(u64, Entry, v1::CloseCode)> {
        let mut due = Vec::new();
        while due.len() < limit
            && let Some((at, id, code)) = self.settling.front().copied()
            && at <= now
        {
            self.settling.pop_front();
            due.extend(self.connections.get(&id).map(|connection| (id, connection.entry.clone(), code)));
        }
        due
    }

    /// When the next entry is to be looked at.
    pub fn next_settling(&self) -> Option<Instant> {
        self.settling.front().map(|(at, ..)| *at)
    }

    /// The state and timeout to give an entry that is `entry` some time after its session closed by `code`.
    pub fn settled_state(&self, entry: &Entry, code: v1::CloseCode) -> Option<(TcpState, u32)> {
        let known = entry.tcp_state?;
        let timeout = |state| self.timeouts.of_state(state);
        match (code, known) {
            (_, TcpState::Closed | TcpState::TimeWait) => None,
            (v1::CloseCode::Rst, _) => {
                let close = timeout(TcpState::Closed);
                // More life than that: packets have passed since.
                let left = entry.timeout.filter(|left| *left <= close)?;
                Some((TcpState::Closed, left.max(1)))
            }
            (v1::CloseCode::Finack, _) => Some((TcpState::TimeWait, timeout(TcpState::TimeWait))),
            _ => None,
        }
    }
}

/// What the kernel would give the entry, `idle` seconds after its last packet.
pub(super) fn remaining(timeouts: &KernelTimeouts, connection: &Connection, idle: u32) -> u32 {
    timeouts.of(&connection.entry, true).saturating_sub(idle).max(1)
}
