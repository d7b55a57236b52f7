//! Sessions as clients see them, read back from flows and record.

use super::entry::Entry;
use super::extras::Extras;
use super::record::{CARRIED, Origin, Phase, Record, V6};
use super::writer::TURN;
use super::{Family, SessionTable};
use crate::rewrite::{L2Rewrite, RewriteFlags};
use crate::session::{
    Action, Counters, L2, MacPair, SessionId, SessionInfo, SessionSpec, SessionState, Tuple,
};
use crate::sync::Ordering::Relaxed;
use crate::tcp::TcpState;
use crate::{LifIndex, Timestamp};
use std::net::IpAddr;

impl SessionTable {
    pub(super) fn query(&self, id: SessionId) -> Option<SessionInfo> {
        let writer = self.write();
        let slot = self.find_id(id, self.hasher.hash_1(id.0))?;
        self.info(slot, self.records.get(slot as usize)?, writer.now)
    }

    pub(super) fn query_from(&self, cursor: u64, limit: usize, out: &mut Vec<SessionInfo>) -> u64 {
        let end = out.len().saturating_add(limit);
        let mut slot = u32::try_from(cursor).unwrap_or(u32::MAX);
        loop {
            let writer = self.write();
            for _ in 0..TURN {
                if slot >= writer.fresh {
                    return 0;
                }
                if out.len() >= end {
                    return slot.into();
                }
                if let Some(record) = self.records.get(slot as usize)
                    && record.state().phase() == Phase::Live
                {
                    out.extend(self.info(slot, record, writer.now));
                }
                slot += 1;
            }
        }
    }

    /// The session in `slot`, whose last packet was less than 24 days from `near`.
    pub(super) fn info(&self, slot: u32, record: &Record, near: Timestamp) -> Option<SessionInfo> {
        let (protocol, flows, counters) = if record.state().has(V6) {
            self.halves(&self.v6, slot, record)?
        } else {
            self.halves(&self.v4, slot, record)?
        };
        let [forward, reverse] = flows;
        let Origin { id, start, owner } = Origin::from_words([forward.origin, reverse.origin]);
        let flags = forward.flags;
        let state = record.state();
        let extras = self.extras.get(slot as usize).filter(|_| flags.any(RewriteFlags::POLICED));
        Some(SessionInfo {
            spec: SessionSpec {
                id,
                in_lif: reverse.out_lif,
                out_lif: forward.out_lif,
                protocol,
                original: reverse.after.swapped(),
                translated: forward.after,
                l2: flags
                    .any(RewriteFlags::ROUTED)
                    .then_some(L2 { forward: forward.macs, reverse: reverse.macs }),
                action: self.action(flags, slot, record),
                idle_timeout: Some(state.timeout()),
                hard_timeout: extras.and_then(|extras| extras.hard_timeout(start)),
                limit: extras.and_then(Extras::limit),
                owner,
            },
            counters,
            state: match state.tcp() {
                TcpState::Open => SessionState::Established,
                TcpState::FinForward | TcpState::FinReverse => SessionState::Closing1,
                TcpState::Finished | TcpState::Reset => SessionState::Closing2,
            },
            start,
            last_seen: self.last_seen_since(slot, record, start, near),
        })
    }

    fn action(&self, flags: RewriteFlags, slot: u32, record: &Record) -> Action {
        if flags.any(RewriteFlags::DROP) {
            return Action::Drop;
        }
        if !flags.any(RewriteFlags::MIRROR | RewriteFlags::SNOOP) {
            return Action::Forward;
        }
        match self.collector(slot, record) {
            Some(collector) if flags.any(RewriteFlags::MIRROR) => Action::Mirror(collector),
            Some(collector) => Action::Snoop(collector),
            None => Action::Forward,
        }
    }

    fn halves<E: Entry>(
        &self,
        family: &Family<E>,
        slot: u32,
        record: &Record,
    ) -> Option<(u8, [Direction; 2], Counters)>
    where
        IpAddr: From<E::Address>,
    {
        let (forward, reverse) = family.pair(slot)?;
        let [in_packets, out_packets] = self.packets([forward, reverse], slot, record);
        let counters = Counters {
            in_packets,
            in_bytes: forward.hot().bytes.load(Relaxed),
            out_packets,
            out_bytes: reverse.hot().bytes.load(Relaxed),
        };
        let flows = [forward, reverse].map(|entry| Direction::new(entry, self.l2.get(entry.end().l2())));
        Some((E::protocol(&forward.key()), flows, counters))
    }

    fn packets<E: Entry>(&self, entries: [&E; 2], slot: u32, record: &Record) -> [u64; 2] {
        let low = entries.map(|entry| u64::from(entry.hot().packets.load(Relaxed)));
        if !record.state().has(CARRIED) {
            return low;
        }
        let high = self.carry.get(slot as usize);
        let high = high.map_or([0; 2], |pair| pair.each_ref().map(|word| word.load(Relaxed)));
        let [(low_in, high_in), (low_out, high_out)] = [(low[0], high[0]), (low[1], high[1])];
        [high_in << 32 | low_in, high_out << 32 | low_out]
    }
}

/// What a flow says about the session, whatever the family.
struct Direction {
    origin: u64,
    after: Tuple,
    macs: MacPair,
    out_lif: LifIndex,
    flags: RewriteFlags,
}

impl Direction {
    fn new<E: Entry>(entry: &E, l2: L2Rewrite) -> Self
    where
        IpAddr: From<E::Address>,
    {
        let rewrite = entry.rewrite();
        let [destination, source] = l2.macs.split();
        Self {
            origin: entry.origin(),
            after: Tuple {
                source: rewrite.source.into(),
                destination: rewrite.destination.into(),
                source_port: u16::from_be_bytes(rewrite.source_port),
                destination_port: u16::from_be_bytes(rewrite.destination_port),
            },
            macs: MacPair { source, destination },
            out_lif: l2.out_lif,
            flags: rewrite.flags,
        }
    }
}

impl Tuple {
    fn swapped(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }
}
