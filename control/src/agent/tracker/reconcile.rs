//! Comparing with the whole of what the kernel and the gateway have.

use super::super::entry::Entry;
use super::super::session::{Ineligible, is_own, session_id};
use super::settle::remaining;
use super::{Connection, Stage, Tracker, as_sent};
use proto::gateway::v1;
use std::time::Instant;

impl Tracker {
    /// A part of the whole kernel table.
    pub fn compare(&mut self, entries: Vec<Entry>, now: Instant) {
        if !self.online {
            return;
        }
        for entry in entries {
            let id = session_id(&entry, self.tag);
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.comparison = self.comparison;
                self.update(id, entry, now);
            } else if matches!(self.policy.judge(&entry), Err(Ineligible::Closing)) {
                self.adopt_closing(id, entry, now);
            } else {
                self.consider(id, entry, now);
            }
        }
    }

    /// The table asked for at `started` is complete: what is not in it has gone unheard.
    pub fn compare_complete(&mut self, started: Instant, now: Instant) {
        self.counters.resyncs += 1;
        let missing = self
            .connections
            .iter()
            .filter(|(_, c)| c.since < started && c.comparison != self.comparison)
            .map(|(id, _)| *id);
        for id in missing.collect::<Vec<_>>() {
            self.gone(id, now);
        }
        self.comparison += 1;
        self.reconciling = false;
        // Sessions whose connections are not there, or are not to be offloaded any more.
        let connections = &self.connections;
        let orphans: Vec<_> = self.remote.extract_if(|id, _| !connections.contains_key(id)).collect();
        for (id, session) in orphans {
            self.delete(id, &session);
        }
    }

    /// A half-closed connection already in the gateway stays there until its end.
    fn adopt_closing(&mut self, id: u64, entry: Entry, now: Instant) {
        let Some(session) = self.remote.remove(&id) else { return };
        self.counters.adopted += 1;
        let connection = Connection {
            entry,
            session: Some(session),
            stage: Stage::Installed,
            attempts: 0,
            since: now,
            expires: None,
            packets: 0,
            listing: 0,
            comparison: 0,
        };
        self.connections.insert(id, Box::new(connection));
    }

    /// Whether the gateway's list is wanted before its time.
    pub fn take_list_wanted(&mut self) -> bool {
        std::mem::take(&mut self.list_wanted)
    }

    /// A part of the gateway's list.
    pub fn listed(&mut self, page: Vec<v1::SessionInfo>) {
        for info in page {
            let Some(remote) = info.session else { continue };
            let id = remote.session_id;
            if !is_own(id, self.tag) {
                continue;
            }
            let Some(connection) = self.connections.get_mut(&id) else {
                if !self.remote.contains_key(&id) && !self.leaving.contains(id) {
                    self.delete(id, &remote);
                }
                continue;
            };
            connection.listing = self.listing;
            match connection.stage {
                Stage::Installed => {
                    let packets = info.counters.map_or(0, |c| c.in_packets.saturating_add(c.out_packets));
                    if packets > connection.packets {
                        connection.packets = packets;
                        let idle = u32::try_from(info.idle_ms / 1000).unwrap_or(u32::MAX);
                        let timeout = remaining(&self.timeouts, connection, idle);
                        self.refreshes.push_back((id, timeout));
                    }
                }
                Stage::Looking | Stage::Waiting | Stage::Ready => {
                    self.remote.insert(id, as_sent(remote));
                }
                Stage::Resting | Stage::Ended | Stage::Skipped { .. } => {
                    if !self.leaving.contains(id) {
                        self.delete(id, &remote);
                    }
                }
                Stage::Adding => {}
            }
        }
    }

    /// The list asked for at `started` is complete: what is not in it has closed unheard.
    pub fn list_complete(&mut self, started: Instant, now: Instant) {
        for connection in self.connections.values_mut() {
            let unseen = connection.listing != self.listing && connection.since < started;
            if connection.stage == Stage::Installed && unseen {
                self.counters.closed += 1;
                connection.enter(Stage::Resting, now);
            }
        }
        self.listing += 1;
    }
}
