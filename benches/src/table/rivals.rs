//! Tables for flows: ours, and what one would use instead, each set up as its users would for so many sessions.

use anyhow::Result;
use arrayvec::ArrayVec;
use conntrack::table::{BURST, FlowV4, Take, Timeouts};
use conntrack::{FlowKeyV4, Reader, RewriteV4, SessionSpec, SessionTable, TableConfig, Timestamp, Tuple};
use dashmap::DashMap;
use dpdk::{Eal, HashOptions, HashTable, SocketId};
use hashbrown::{DefaultHashBuilder, HashMap};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Deref;
use std::sync::Arc;

/// When all happens: nothing ages.
const NOW: Timestamp = Timestamp(1);
/// How full an index may be with all sessions in it: as ours is.
const LOAD: f64 = 0.85;

/// A table that gets two flows for each session, and is asked for the rewrites of single flows.
pub trait Rival: Sized {
    /// As figures call it.
    const NAME: &'static str;
    /// What flows are looked up by.
    type Key;

    /// An empty one with room for so many sessions.
    fn new(eal: &Eal, hugepages: bool, sessions: u32) -> Result<Self>;
    /// The key of a flow.
    fn key(flow: &FlowKeyV4) -> Self::Key;
    /// Puts both flows of a session in; false if there is no room.
    fn insert(&mut self, session: &SessionSpec) -> bool;
    /// Looks up at most [`BURST`] keys and copies what packets are rewritten by; how many were found.
    fn lookup(&mut self, keys: &[Self::Key]) -> usize;
    /// Bytes it has taken, for everything that lookups need.
    fn bytes(&self) -> usize;
}

/// Keys of a session's two flows.
pub fn flows(session: &SessionSpec) -> [FlowKeyV4; 2] {
    let v4 = |address| if let IpAddr::V4(address) = address { address } else { Ipv4Addr::UNSPECIFIED };
    let key = |lif, tuple: &Tuple| {
        FlowKeyV4::new(
            lif,
            session.protocol,
            v4(tuple.source),
            tuple.source_port,
            v4(tuple.destination),
            tuple.destination_port,
        )
    };
    let there = &session.translated;
    let back = Tuple {
        source: there.destination,
        destination: there.source,
        source_port: there.destination_port,
        destination_port: there.source_port,
    };
    [key(session.in_lif, &session.original), key(session.out_lif, &back)]
}

/// Copies what was found; how many.
#[inline(always)]
fn copied(found: impl Iterator<Item: Deref<Target = RewriteV4>>) -> usize {
    let mut count = 0;
    for rewrite in found {
        black_box(*rewrite);
        count += 1;
    }
    count
}

/// Ours. Lookups check the session's age too, and it has all that a session is.
pub struct Own {
    table: Arc<SessionTable>,
    reader: Reader,
}

impl Rival for Own {
    const NAME: &'static str = "own";
    type Key = FlowKeyV4;

    fn new(_eal: &Eal, hugepages: bool, sessions: u32) -> Result<Self> {
        let table = SessionTable::new(TableConfig {
            capacity: sessions,
            timeouts: Timeouts { tcp: 7440, udp: 300, icmp: 60, other: 60 },
            readers: 1,
            hugepages,
            hash_secret: [7, 11],
        })?;
        let reader = table.reader()?;
        Ok(Self { table, reader })
    }

    fn key(flow: &FlowKeyV4) -> FlowKeyV4 {
        *flow
    }

    fn insert(&mut self, session: &SessionSpec) -> bool {
        self.table.insert(session, NOW).is_ok()
    }

    fn lookup(&mut self, keys: &[FlowKeyV4]) -> usize {
        let burst = self.reader.enter();
        let mut asked: ArrayVec<_, BURST> =
            keys.iter().zip(0..).map(|(key, number)| burst.ask_v4(*key, number)).collect();
        let unsettled = burst.seek_v4(&mut asked);
        burst.settle_v4(&mut asked, unsettled);
        let mut found = Found(0);
        burst.take_v4(&asked, NOW, &mut found);
        found.0
    }

    fn bytes(&self) -> usize {
        self.table.memory_bytes() as usize
    }
}

/// How many flows were found.
struct Found(usize);

impl Take<FlowV4<'_>> for Found {
    fn found(&mut self, _number: u8, flow: FlowV4<'_>) {
        black_box(flow.rewrite());
        self.0 += 1;
    }

    fn missing(&mut self, _number: u8) {}
}

/// `rte_hash` with an array of rewrites by position. `LOCK_FREE`: lookups as they have to be beside a writer.
pub struct Rte<const LOCK_FREE: bool> {
    hash: HashTable,
    rewrites: Vec<RewriteV4>,
    hash_bytes: usize,
}

impl<const LOCK_FREE: bool> Rival for Rte<LOCK_FREE> {
    const NAME: &'static str = if LOCK_FREE { "rte_hash_lock_free" } else { "rte_hash" };
    type Key = [u8; 16];

    fn new(eal: &Eal, _hugepages: bool, sessions: u32) -> Result<Self> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive and small")]
        Self::with_entries(eal, (f64::from(2 * sessions) / LOAD).ceil() as u32)
    }

    fn key(flow: &FlowKeyV4) -> [u8; 16] {
        bytes(flow)
    }

    fn insert(&mut self, session: &SessionSpec) -> bool {
        flows(session).iter().all(|flow| {
            let Some(position) = self.hash.insert(&bytes(flow)) else { return false };
            let position = position as usize;
            if self.rewrites.len() <= position {
                self.rewrites.resize(position + 1, RewriteV4::default());
            }
            self.rewrites[position] = RewriteV4::default();
            true
        })
    }

    fn lookup(&mut self, keys: &[[u8; 16]]) -> usize {
        let mut positions = [-1; BURST];
        let count = self.hash.lookup_bulk(keys, &mut positions);
        let places = positions[..count].iter().filter_map(|position| usize::try_from(*position).ok());
        copied(places.filter_map(|place| self.rewrites.get(place)))
    }

    fn bytes(&self) -> usize {
        self.hash_bytes + self.rewrites.len() * size_of::<RewriteV4>()
    }
}

/// A flow's key as `rte_hash` has it.
fn bytes(flow: &FlowKeyV4) -> [u8; 16] {
    let mut key = [0; 16];
    key[..4].copy_from_slice(&flow.source().octets());
    key[4..8].copy_from_slice(&flow.destination().octets());
    key[8..10].copy_from_slice(&flow.source_port().to_be_bytes());
    key[10..12].copy_from_slice(&flow.destination_port().to_be_bytes());
    key[12..14].copy_from_slice(&flow.lif().0.to_be_bytes());
    key[14] = flow.protocol();
    key
}

impl<const LOCK_FREE: bool> Rte<LOCK_FREE> {
    /// Exactly so many entries.
    pub fn with_entries(eal: &Eal, entries: u32) -> Result<Self> {
        let before = eal.heap_in_use(SocketId(0));
        let options = HashOptions { name: "rival", entries, lock_free: LOCK_FREE, ..HashOptions::default() };
        let hash = HashTable::new(eal, &options)?;
        let hash_bytes = eal.heap_in_use(SocketId(0)) - before;
        Ok(Self { hash, rewrites: Vec::with_capacity(entries as usize), hash_bytes })
    }
}

/// `hashbrown`, with its own hash function: nobody may write while somebody reads.
pub struct Hashbrown(HashMap<FlowKeyV4, RewriteV4>);

impl Rival for Hashbrown {
    const NAME: &'static str = "hashbrown";
    type Key = FlowKeyV4;

    fn new(_eal: &Eal, _hugepages: bool, sessions: u32) -> Result<Self> {
        Ok(Self(HashMap::with_capacity(2 * sessions as usize)))
    }

    fn key(flow: &FlowKeyV4) -> FlowKeyV4 {
        *flow
    }

    fn insert(&mut self, session: &SessionSpec) -> bool {
        for flow in flows(session) {
            self.0.insert(flow, RewriteV4::default());
        }
        true
    }

    fn lookup(&mut self, keys: &[FlowKeyV4]) -> usize {
        copied(keys.iter().filter_map(|key| self.0.get(key)))
    }

    fn bytes(&self) -> usize {
        self.0.allocation_size()
    }
}

/// `DashMap`, sharded as by default, with hashbrown's hash function, which is quicker than its default one.
pub struct Dash(DashMap<FlowKeyV4, RewriteV4, DefaultHashBuilder>);

impl Rival for Dash {
    const NAME: &'static str = "dashmap";
    type Key = FlowKeyV4;

    fn new(_eal: &Eal, _hugepages: bool, sessions: u32) -> Result<Self> {
        Ok(Self(DashMap::with_capacity_and_hasher(2 * sessions as usize, DefaultHashBuilder::default())))
    }

    fn key(flow: &FlowKeyV4) -> FlowKeyV4 {
        *flow
    }

    fn insert(&mut self, session: &SessionSpec) -> bool {
        for flow in flows(session) {
            self.0.insert(flow, RewriteV4::default());
        }
        true
    }

    fn lookup(&mut self, keys: &[FlowKeyV4]) -> usize {
        copied(keys.iter().filter_map(|key| self.0.get(key)))
    }

    fn bytes(&self) -> usize {
        self.0.shards().iter().map(|shard| shard.read().allocation_info().1.size()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic;

    #[test]
    fn a_session_has_two_flows_that_differ_and_are_found() {
        let [there, back] = flows(&traffic::session(70_000));
        assert_eq!((there.source_port(), there.destination_port()), (1024 + 4464, 443));
        assert_eq!((back.source(), back.source_port()), (Ipv4Addr::new(198, 51, 100, 10), 443));
        assert_ne!(bytes(&there), bytes(&back));
    }
}
