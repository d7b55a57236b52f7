//! The session table: one for all workers.

use crate::session::{Closed, SessionId, SessionInfo, SessionSpec};
use crate::{FlowKeyV4, FlowKeyV6, RewriteV4, RewriteV6, TcpFlags, Timestamp};
use std::sync::Arc;

/// Largest burst a [`Burst`] looks up at once.
pub const BURST: usize = 32;

/// Default idle timeouts, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP (RFC 5382 REQ-5: at least 7440).
    pub tcp: u32,
    /// UDP (RFC 4787 REQ-5: 300).
    pub udp: u32,
    /// ICMP and ICMPv6 queries (RFC 5508 REQ-2: at least 60).
    pub icmp: u32,
    /// Everything else.
    pub other: u32,
}

/// How to size a table.
#[derive(Clone, Copy, Debug)]
pub struct TableConfig {
    /// Sessions it holds, IPv4 and IPv6 together; exactly.
    pub capacity: u32,
    /// Used where a session gives none.
    pub timeouts: Timeouts,
    /// Most workers that may read at once.
    pub readers: usize,
    /// Try explicit 2 MiB pages first.
    pub hugepages: bool,
    /// Secret that keys the hash, so that nobody can choose colliding tuples.
    pub hash_secret: [u64; 2],
}

/// Why a table could not be made, or a reader not registered.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// Placeholder.
    #[error("too many readers: at most {0}")]
    TooManyReaders(usize),
}

/// Why a session was not installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InsertError {
    /// `capacity` sessions are there already.
    #[error("the session table is full")]
    Full,
    /// The id belongs to another session, which stays as it is.
    #[error("session id {0} is in use")]
    IdExists(u64),
    /// One of the two flows belongs to the session named, which stays as it is.
    #[error("the tuple belongs to session {0}")]
    FlowExists(u64),
    /// The request contradicts itself.
    #[error("{0}")]
    Invalid(&'static str),
}

/// Counts since the table was made, and its fill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableStats {
    /// Sessions it can hold.
    pub capacity: u64,
    /// Sessions it holds.
    pub active: u64,
    /// Sessions ever installed.
    pub installed: u64,
    /// Sessions ever refused.
    pub rejected: u64,
    /// Sessions ever reported closed.
    pub closed: u64,
}

/// The session table. All methods take `&self`; writers lock among themselves, readers never wait.
pub struct SessionTable {}

/// What [`SessionTable::maintain`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Sessions reported closed.
    pub closed: usize,
    /// Whether the budget ran out with work left.
    pub more: bool,
}

impl SessionTable {
    /// Takes all memory the table will ever use.
    pub fn new(_config: TableConfig) -> Result<Arc<Self>, TableError> {
        unimplemented!()
    }

    /// Registers a worker. Its slot is free again when the reader is dropped.
    pub fn reader(self: &Arc<Self>) -> Result<Reader, TableError> {
        unimplemented!()
    }

    /// Installs both flows of a session, or neither.
    pub fn insert(&self, _spec: &SessionSpec, _now: Timestamp) -> Result<(), InsertError> {
        unimplemented!()
    }

    /// Takes a session out of the workers' sight at once; [`Self::maintain`] reports it closed (`Deleted`) with its final
    /// counters when no worker can still hold it. False if there is no such session (or it is closing already).
    pub fn remove(&self, _id: SessionId, _now: Timestamp) -> bool {
        unimplemented!()
    }

    /// Removes every session, as [`Self::remove`] does. How many.
    pub fn flush(&self, _now: Timestamp) -> u64 {
        unimplemented!()
    }

    /// A live session.
    pub fn get(&self, _id: SessionId) -> Option<SessionInfo> {
        unimplemented!()
    }

    /// Up to `limit` live sessions from `cursor` on (0 = from the beginning) into `out`; the cursor to go on from, 0 at
    /// the end. A session that lives throughout is seen exactly once. Does not block readers, and writers only briefly.
    pub fn list(&self, _cursor: u64, _limit: usize, _out: &mut Vec<SessionInfo>) -> u64 {
        unimplemented!()
    }

    /// Does what is due at `now`, at most `budget` sessions' worth: ends sessions that timed out or were observed to
    /// end, gives back memory no reader holds any more, and reports each closed session once. Called by one thread at
    /// a time (others find it busy and return), about every millisecond.
    pub fn maintain(&self, _now: Timestamp, _budget: usize, _closed: &mut dyn FnMut(&Closed)) -> Work {
        unimplemented!()
    }

    /// Counts.
    pub fn stats(&self) -> TableStats {
        unimplemented!()
    }
}

/// A worker's view of the table. `Send`, one per worker.
pub struct Reader {}

impl Reader {
    /// Begins a burst: what is looked up through the guard stays valid until it is dropped.
    #[inline]
    pub fn enter(&mut self) -> Burst<'_> {
        unimplemented!()
    }
}

/// A burst in progress. Dropping it is the worker's quiescent point.
pub struct Burst<'r> {
    _reader: &'r Reader,
}

/// A flow found in a burst.
#[derive(Clone, Copy)]
pub struct FlowV4<'b> {
    _burst: std::marker::PhantomData<&'b ()>,
}

/// A flow found in a burst.
#[derive(Clone, Copy)]
pub struct FlowV6<'b> {
    _burst: std::marker::PhantomData<&'b ()>,
}

impl<'r> Burst<'r> {
    /// Looks up all `keys` (at most [`BURST`]) in passes, so that the misses of one hide behind the others:
    /// `flows[i]` is the flow of `keys[i]`. Flows of ended or expired sessions are not found.
    pub fn lookup_v4<'b>(&'b self, _keys: &[FlowKeyV4], _now: Timestamp, _flows: &mut [Option<FlowV4<'b>>]) {
        unimplemented!()
    }

    /// The same for IPv6.
    pub fn lookup_v6<'b>(&'b self, _keys: &[FlowKeyV6], _now: Timestamp, _flows: &mut [Option<FlowV6<'b>>]) {
        unimplemented!()
    }
}

impl FlowV4<'_> {
    /// The flow's rewrite, copied.
    #[inline]
    pub fn rewrite(&self) -> RewriteV4 {
        unimplemented!()
    }

    /// Whether the session ended since it was looked up (e.g. by a RST earlier in the same burst).
    #[inline]
    pub fn is_dead(&self) -> bool {
        unimplemented!()
    }

    /// Counts one forwarded (or dropped by action) packet and stamps the flow.
    #[inline]
    pub fn count(&self, _now: Timestamp, _bytes: u32) {
        unimplemented!()
    }

    /// Notes SYN, FIN or RST of a packet that goes to the VNF. RST, or the second direction's FIN, ends the session at once:
    /// later lookups, and `is_dead` of flows found already, say so.
    pub fn observe(&self, _flags: TcpFlags, _now: Timestamp) {
        unimplemented!()
    }

    /// The session's collector, if its action is mirror or snoop.
    pub fn collector(&self) -> Option<std::net::IpAddr> {
        unimplemented!()
    }
}

impl FlowV6<'_> {
    /// The flow's rewrite, copied.
    #[inline]
    pub fn rewrite(&self) -> RewriteV6 {
        unimplemented!()
    }

    /// See [`FlowV4::is_dead`].
    #[inline]
    pub fn is_dead(&self) -> bool {
        unimplemented!()
    }

    /// See [`FlowV4::count`].
    #[inline]
    pub fn count(&self, _now: Timestamp, _bytes: u32) {
        unimplemented!()
    }

    /// See [`FlowV4::observe`].
    pub fn observe(&self, _flags: TcpFlags, _now: Timestamp) {
        unimplemented!()
    }

    /// See [`FlowV4::collector`].
    pub fn collector(&self) -> Option<std::net::IpAddr> {
        unimplemented!()
    }
}
