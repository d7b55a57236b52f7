//! The session table: one for all workers.
//!
//! | part | holds |
//! |---|---|
//! | `memory` | arrays in mapped memory; the only unsafe code |
//! | `hash` | the keyed hash |
//! | `bucket`, `index` | hash → flow, lock-free to read |
//! | `entry` | the flows: key, rewrite, counters, stamp |
//! | `record` | what is kept once per session |
//! | `l2` | out LIFs and MACs, shared by many flows |
//! | `extras` | what few sessions have |
//! | `ended` | which sessions workers saw end |
//! | `epoch` | when a slot may be used again |
//! | `reader` | what workers do: look up, count, observe |
//! | `writer`, `places` | insert, remove |
//! | `wheel`, `maintain` | timeouts, ends, final reports |
//! | `query` | get, list |
//!
//! A session has a slot `k`; its forward flow is entry `2k`, its reverse flow entry `2k + 1`, of the IPv4 or the IPv6
//! entries. The families share slots and records, and have an index each.

mod memory;
mod hash;
mod bucket;
mod index;
mod entry;
mod record;
mod l2;
mod extras;
mod ended;
mod epoch;
mod wheel;
mod reader;
mod places;
mod writer;
mod maintain;
mod query;
#[cfg(all(test, not(feature = "shuttle")))]
mod tests;

pub use reader::{Asked, Burst, FlowV4, FlowV6, Reader, Take, Unsettled};

use crate::plan::MAX_TIMEOUT;
use crate::session::{SessionId, SessionInfo, SessionSpec};
use crate::sync::{Mutex, MutexGuard};
use crate::{Closed, Timestamp};
use ended::Ended;
use entry::{Entry, EntryV4, EntryV6};
use epoch::Epochs;
use extras::Extras;
use hash::Hasher;
use index::Index;
use l2::L2Table;
use memory::{Pages, Region};
use record::{Carry, Record};
use std::io;
use std::sync::{Arc, PoisonError};
use writer::Writer;

/// Largest burst a [`Burst`] looks up at once.
pub const BURST: usize = 32;

/// Most sessions a table can be made for: 2^29.
pub const MAX_CAPACITY: u32 = 1 << 29;

/// Most different [`L2Rewrite`](crate::L2Rewrite)s (out LIF, destination MAC, source MAC) that the sessions of a table have
/// together: 2^20.
pub const MAX_L2_REWRITES: usize = 1 << 20;

/// Default idle timeouts, in seconds: 1 to 2^21.
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
    /// Sessions it holds, IPv4 and IPv6 together; exactly. 1 to [`MAX_CAPACITY`].
    pub capacity: u32,
    /// Used where a session gives none.
    pub timeouts: Timeouts,
    /// Most workers that may read at once.
    pub readers: usize,
    /// Try explicit 2 MiB pages first.
    pub hugepages: bool,
    /// Secret that keys the hash, so that nobody can choose colliding tuples. From a good random source.
    pub hash_secret: [u64; 2],
}

/// Why a table could not be made, or a reader not registered.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// Every reader that the table was made for is in use.
    #[error("too many readers: at most {0}, as the table was made; raise `readers`")]
    TooManyReaders(usize),
    /// The capacity is out of range.
    #[error("session capacity {0} is not between 1 and {MAX_CAPACITY}")]
    Capacity(u32),
    /// A default timeout is out of range.
    #[error("default timeout of {0} seconds is not between 1 and {MAX_TIMEOUT}")]
    Timeout(u32),
    /// The system has not that much memory to give.
    #[error("no memory for {capacity} sessions: {source}; lower the session capacity")]
    Memory {
        /// As configured.
        capacity: u32,
        /// The system's reason.
        source: io::Error,
    },
}

/// Why a session was not installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InsertError {
    /// `capacity` sessions are there already (or, while a worker holds a burst for long, as many removed ones wait for it).
    #[error("the session table is full")]
    Full,
    /// Its MACs are new, and the sessions there are have [`MAX_L2_REWRITES`] different out LIFs and MACs already.
    #[error("the sessions have too many different MAC addresses: at most {MAX_L2_REWRITES} pairs")]
    L2Full,
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
    /// Different out LIFs and MACs that its sessions have, those included that are removed but not reported.
    pub l2_rewrites: u64,
    /// Sessions ever refused because there were [`MAX_L2_REWRITES`] of these; counted in `rejected` too.
    pub l2_rejected: u64,
}

/// What [`SessionTable::maintain`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Sessions reported closed.
    pub closed: usize,
    /// Whether the budget was used up, so that there may be more to do now.
    pub more: bool,
}

/// The session table. All methods take `&self`; writers lock among themselves, readers never wait.
pub struct SessionTable {
    config: TableConfig,
    hasher: Hasher,
    v4: Family<EntryV4>,
    v6: Family<EntryV6>,
    ids: Index,
    records: Region<Record>,
    l2: L2Table,
    carry: Carry,
    extras: Region<Extras>,
    ended: Ended,
    epochs: Epochs,
    writer: Mutex<Writer>,
    maintenance: Mutex<Vec<Closed>>,
}

/// The flows of one address family.
struct Family<E> {
    entries: Region<E>,
    index: Index,
}

impl<E: Entry> Family<E> {
    fn new(slots: usize, sessions: usize, pages: Pages, secret: u64) -> io::Result<Self> {
        Ok(Self { entries: Region::new(slots * 2, pages)?, index: Index::new(sessions * 2, pages, secret)? })
    }

    /// The two entries of a slot.
    fn pair(&self, slot: u32) -> Option<(&E, &E)> {
        let first = slot as usize * 2;
        Some((self.entries.get(first)?, self.entries.get(first + 1)?))
    }
}

impl SessionTable {
    /// Takes all memory the table will ever use. (Pages that are not explicit huge pages are committed by the system when
    /// first written.)
    pub fn new(config: TableConfig) -> Result<Arc<Self>, TableError> {
        let TableConfig { capacity, timeouts, .. } = config;
        if !(1..=MAX_CAPACITY).contains(&capacity) {
            return Err(TableError::Capacity(capacity));
        }
        for seconds in [timeouts.tcp, timeouts.udp, timeouts.icmp, timeouts.other] {
            if !(1..=MAX_TIMEOUT).contains(&seconds) {
                return Err(TableError::Timeout(seconds));
            }
        }
        Self::build(config, MAX_L2_REWRITES)
            .map(Arc::new)
            .map_err(|source| TableError::Memory { capacity, source })
    }

    fn build(config: TableConfig, l2_rewrites: usize) -> io::Result<Self> {
        // Removed sessions keep their slot until no reader holds it and they are reported: room for some of them, so that
        // a full table takes a new session for each one removed. They are not in the indexes.
        let spare = if cfg!(feature = "shuttle") { 2 } else { (config.capacity / 256).max(8192) };
        let sessions = config.capacity as usize;
        let slots = sessions + spare as usize;
        let pages = if config.hugepages { Pages::Explicit } else { Pages::Transparent };
        let hasher = Hasher::new(config.hash_secret);
        let strides = [1, 2, 3, 4].map(|n| hasher.hash_1(n));
        let ended = Ended::new(slots)?;
        Ok(Self {
            v4: Family::new(slots, sessions, pages, strides[0])?,
            v6: Family::new(slots, sessions, Pages::Transparent, strides[1])?,
            ids: Index::new(sessions, pages, strides[2])?,
            records: Region::new(slots, pages)?,
            l2: L2Table::new(l2_rewrites.min(slots * 2), strides[3])?,
            carry: Region::new(slots, Pages::Sparse)?,
            extras: Region::new(slots, Pages::Sparse)?,
            epochs: Epochs::new(config.readers),
            writer: Mutex::new(Writer::new(slots as u32, ended.none())),
            ended,
            maintenance: Mutex::new(Vec::with_capacity(maintain::CHUNK)),
            hasher,
            config,
        })
    }

    /// Registers a worker. Its slot is free again when the reader is dropped.
    pub fn reader(self: &Arc<Self>) -> Result<Reader, TableError> {
        Reader::register(self).ok_or(TableError::TooManyReaders(self.config.readers))
    }

    /// Installs both flows of a session, or neither.
    pub fn insert(&self, spec: &SessionSpec, now: Timestamp) -> Result<(), InsertError> {
        self.insert_one(spec, now)
    }

    /// Installs several sessions, each as [`Self::insert`] would; `results[i]` is that of `specs[i]`. Faster than one by
    /// one: the lock is taken for many at once, and memory is fetched some sessions ahead.
    pub fn insert_batch(
        &self,
        specs: &[SessionSpec],
        now: Timestamp,
        results: &mut Vec<Result<(), InsertError>>,
    ) {
        self.insert_all(specs, now, results);
    }

    /// Takes a session out of the workers' sight at once; [`Self::maintain`] reports it closed (`Deleted`) with its final
    /// counters when no worker can still hold it. False if there is no such session (or it is closing already).
    pub fn remove(&self, id: SessionId, now: Timestamp) -> bool {
        self.remove_id(id, None, now)
    }

    /// The same for a session of `owner`; another's stays, and false is returned.
    pub fn remove_of(&self, owner: u16, id: SessionId, now: Timestamp) -> bool {
        self.remove_id(id, Some(owner), now)
    }

    /// Removes every session, as [`Self::remove`] does. How many.
    pub fn flush(&self, now: Timestamp) -> u64 {
        self.remove_all(None, now)
    }

    /// Removes every session of `owner`. How many.
    pub fn flush_of(&self, owner: u16, now: Timestamp) -> u64 {
        self.remove_all(Some(owner), now)
    }

    /// A live session.
    pub fn get(&self, id: SessionId) -> Option<SessionInfo> {
        self.query(id)
    }

    /// Up to `limit` live sessions from `cursor` on (0 = from the beginning) into `out`; the cursor to go on from, 0 at
    /// the end. A session that lives throughout is seen exactly once. Does not block readers, and writers only briefly.
    pub fn list(&self, cursor: u64, limit: usize, out: &mut Vec<SessionInfo>) -> u64 {
        self.query_from(cursor, limit, out)
    }

    /// Does what is due at `now`, at most `budget` sessions' worth: ends sessions that timed out (by the last multiple of
    /// 16 ms; lookups find none from its end on) or were observed to end, gives back memory no reader holds any more,
    /// and reports each closed session once. Called by one thread at a time (others find it busy and return), about
    /// every millisecond. `closed` runs without the writers' lock, and may call the table, but for this method.
    pub fn maintain(&self, now: Timestamp, budget: usize, closed: &mut dyn FnMut(&Closed)) -> Work {
        self.maintain_at(now, now.0, budget, closed)
    }

    /// The same without a bound, and to the millisecond: for where time stops at `now`, as a replay's does. If it goes
    /// on after all, what is due soon may end 32 ms late.
    pub fn settle(&self, now: Timestamp, closed: &mut dyn FnMut(&Closed)) {
        self.maintain_at(now, wheel::tick_end(now.0), usize::MAX, closed);
    }

    /// Differs whenever an [`L2Index`](crate::L2Index) may stand for another rewrite than before. What a worker keeps under
    /// such an index holds while this is the same, asked in the burst in which the index was found.
    #[inline]
    pub fn l2_generation(&self) -> u64 {
        self.l2.generation()
    }

    /// Counts.
    pub fn stats(&self) -> TableStats {
        let writer = self.write();
        TableStats {
            capacity: self.config.capacity.into(),
            active: writer.active.into(),
            installed: writer.installed,
            rejected: writer.rejected,
            closed: writer.closed,
            l2_rewrites: writer.l2.rewrites() as u64,
            l2_rejected: writer.l2.rejected,
        }
    }

    /// Bytes of a full table of IPv4 sessions: all that grows with their number, slots kept for removed ones included. The
    /// different L2 rewrites come to 27 MB if there are as many as there can be.
    pub fn memory_bytes(&self) -> u64 {
        let entries = size_of_val(&*self.v4.entries) + size_of_val(&*self.records);
        (entries + self.v4.index.memory_bytes() + self.ids.memory_bytes() + self.ended.memory_bytes()) as u64
    }

    fn write(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
