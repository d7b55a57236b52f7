//! What workers do: look up, count, observe. No locks, no allocation, no waiting.

use super::entry::{Entry, EntryV4, EntryV6};
use super::extras::{Extras, NEVER};
use super::index::Place;
use super::memory::prefetch_at;
use super::record::{CARRIED, COLLECTOR_V4, NIL, Record};
use super::{BURST, Family, SessionTable};
use crate::rewrite::{L2Index, L2Rewrite, Rewrite, RewriteFlags, Values};
use crate::sync::Ordering::Relaxed;
use crate::{ChecksumDelta, FlowKeyV4, FlowKeyV6, SessionId, TcpFlags, Timestamp, plan::protocol};
use arrayvec::ArrayVec;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// A worker's view of the table. `Send`, one per worker.
pub struct Reader {
    table: Arc<SessionTable>,
    number: usize,
}

impl Reader {
    pub(super) fn register(table: &Arc<SessionTable>) -> Option<Self> {
        let number = table.epochs.register()?;
        Some(Self { table: Arc::clone(table), number })
    }

    /// Begins a burst: what is looked up through the guard stays valid until it is dropped.
    #[inline]
    pub fn enter(&mut self) -> Burst<'_> {
        self.table.epochs.pin(self.number);
        Burst { reader: self }
    }

    /// The table this reader reads.
    pub fn table(&self) -> &Arc<SessionTable> {
        &self.table
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.table.epochs.unregister(self.number);
    }
}

/// A burst in progress. Dropping it is the worker's quiescent point.
pub struct Burst<'r> {
    reader: &'r Reader,
}

impl Drop for Burst<'_> {
    #[inline]
    fn drop(&mut self) {
        self.reader.table.epochs.unpin(self.reader.number);
    }
}

impl Burst<'_> {
    /// Begins to look up `key`, of the asker's item `number`: its place in the index is on its way to the cache when this
    /// returns. Best asked for some keys at once, eight or so, with other work before they are sought, settled and taken.
    #[inline(always)]
    pub fn ask_v4(&self, key: FlowKeyV4, number: u8) -> Asked<FlowKeyV4> {
        ask::<EntryV4>(&self.reader.table, key, number)
    }

    /// The same for IPv6.
    #[inline(always)]
    pub fn ask_v6(&self, key: FlowKeyV6, number: u8) -> Asked<FlowKeyV6> {
        ask::<EntryV6>(&self.reader.table, key, number)
    }

    /// Finds the likely entries of the first [`BURST`] that were `asked` of this table: they, or what tells where they are, are
    /// on their way to the cache when this returns.
    #[inline(always)]
    pub fn seek_v4(&self, asked: &mut [Asked<FlowKeyV4>]) -> Unsettled {
        seek::<EntryV4>(&self.reader.table, asked)
    }

    /// The same for IPv6.
    #[inline(always)]
    pub fn seek_v6(&self, asked: &mut [Asked<FlowKeyV6>]) -> Unsettled {
        seek::<EntryV6>(&self.reader.table, asked)
    }

    /// Finds the likely entries of those that seeking left `unsettled`.
    #[inline(always)]
    pub fn settle_v4(&self, asked: &mut [Asked<FlowKeyV4>], unsettled: Unsettled) {
        settle::<EntryV4>(&self.reader.table, asked, unsettled);
    }

    /// The same for IPv6.
    #[inline(always)]
    pub fn settle_v6(&self, asked: &mut [Asked<FlowKeyV6>], unsettled: Unsettled) {
        settle::<EntryV6>(&self.reader.table, asked, unsettled);
    }

    /// Gives the flow of each that was `asked` and sought to `take`, with its item's number. Flows of ended or expired
    /// sessions are missing. What was not sought is found too, but waits for memory, one after the other.
    #[inline(always)]
    pub fn take_v4<'b>(
        &'b self,
        asked: &[Asked<FlowKeyV4>],
        now: Timestamp,
        take: &mut impl Take<FlowV4<'b>>,
    ) {
        take_all::<EntryV4, _>(&self.reader.table, asked, now, take);
    }

    /// The same for IPv6.
    #[inline(always)]
    pub fn take_v6<'b>(
        &'b self,
        asked: &[Asked<FlowKeyV6>],
        now: Timestamp,
        take: &mut impl Take<FlowV6<'b>>,
    ) {
        take_all::<EntryV6, _>(&self.reader.table, asked, now, take);
    }

    /// Asks, seeks and takes at once: `flows[i]` is the flow of `keys[i]`.
    pub fn lookup_v4<'b>(&'b self, keys: &[FlowKeyV4], now: Timestamp, flows: &mut [Option<FlowV4<'b>>]) {
        all::<EntryV4, _>(&self.reader.table, keys, now, flows);
    }

    /// The same for IPv6.
    pub fn lookup_v6<'b>(&'b self, keys: &[FlowKeyV6], now: Timestamp, flows: &mut [Option<FlowV6<'b>>]) {
        all::<EntryV6, _>(&self.reader.table, keys, now, flows);
    }

    /// What a flow found in this burst has under its [`L2Index`].
    #[inline(always)]
    pub fn l2(&self, index: L2Index) -> L2Rewrite {
        self.reader.table.l2.get(index)
    }
}

/// What becomes of items whose flows were looked up: see [`Burst::take_v4`].
pub trait Take<F> {
    /// Item `number` is of this flow.
    fn found(&mut self, number: u8, flow: F);
    /// Item `number` is of no session's flow.
    fn missing(&mut self, number: u8);
}

/// A key that is being looked up.
#[derive(Clone, Copy, Debug)]
pub struct Asked<K> {
    key: K,
    /// Its first place in the index.
    place: Place,
    /// The number of the entry that is likely its own.
    guess: u32,
    /// Of the asker's item.
    number: u8,
}

#[inline(always)]
fn ask<E: Entry>(table: &SessionTable, key: E::Key, number: u8) -> Asked<E::Key> {
    let index = &E::family(table).index;
    let place = index.first(E::hash(&table.hasher, &key));
    index.buckets().prefetch(place);
    Asked { key, place, guess: NIL, number }
}

fn all<'b, E: Entry, F: From<Flow<'b, E>>>(
    table: &'b SessionTable,
    keys: &[E::Key],
    now: Timestamp,
    flows: &mut [Option<F>],
) {
    for (keys, flows) in keys.chunks(BURST).zip(flows.chunks_mut(BURST)) {
        let mut asked: ArrayVec<_, BURST> =
            (0..).zip(keys).map(|(number, key)| ask::<E>(table, *key, number)).collect();
        let unsettled = seek::<E>(table, &mut asked);
        settle::<E>(table, &mut asked, unsettled);
        take_all(table, &asked, now, &mut Flows(flows));
    }
    flows.iter_mut().skip(keys.len()).for_each(|flow| *flow = None);
}

/// By the numbers of their items.
struct Flows<'f, F>(&'f mut [Option<F>]);

impl<F> Flows<'_, F> {
    fn put(&mut self, number: u8, flow: Option<F>) {
        if let Some(to) = self.0.get_mut(usize::from(number)) {
            *to = flow;
        }
    }
}

impl<F> Take<F> for Flows<'_, F> {
    fn found(&mut self, number: u8, flow: F) {
        self.put(number, Some(flow));
    }

    fn missing(&mut self, number: u8) {
        self.put(number, None);
    }
}

#[inline(always)]
fn take_all<'b, E: Entry, F: From<Flow<'b, E>>>(
    table: &'b SessionTable,
    asked: &[Asked<E::Key>],
    now: Timestamp,
    take: &mut impl Take<F>,
) {
    let entries: &[E] = &E::family(table).entries;
    for Asked { key, guess, number, .. } in asked {
        match table.resolve(entries, key, *guess, now) {
            Some(flow) => take.found(*number, flow.into()),
            None => take.missing(*number),
        }
    }
}

#[inline(always)]
fn seek<E: Entry>(table: &SessionTable, asked: &mut [Asked<E::Key>]) -> Unsettled {
    if asked.is_empty() { Unsettled::default() } else { seek_some::<E>(table, asked) }
}

/// Guesses each key's entry by its tag and asks for it; at most [`BURST`] keys. Where no tag matches, the guess stays as it is.
#[inline(never)]
fn seek_some<E: Entry>(table: &SessionTable, asked: &mut [Asked<E::Key>]) -> Unsettled {
    let family = E::family(table);
    let (index, entries): (_, &[E]) = (&family.index, &family.entries);
    let buckets = index.buckets();
    let mut unsettled = Unsettled::default();
    for (i, Asked { place, guess, .. }) in (0..BURST).zip(asked) {
        let mut guesses = buckets.guesses(*place);
        if let Some(entry) = guesses.next() {
            *guess = entry;
            prefetch_at(entries, entry as usize);
            if guesses.more() {
                unsettled.several |= 1 << i;
                guesses.for_each(|entry| prefetch_at(entries, entry as usize));
            }
        } else {
            unsettled.elsewhere |= 1 << i;
            buckets.prefetch(index.other(*place));
        }
    }
    unsettled
}

/// What [`Burst::seek_v4`] could not settle without waiting for memory: one bit for each key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unsettled {
    /// No tag matches in the first bucket.
    elsewhere: u32,
    /// More than one does.
    several: u32,
}

#[inline(always)]
fn settle<E: Entry>(table: &SessionTable, asked: &mut [Asked<E::Key>], unsettled: Unsettled) {
    if unsettled.elsewhere | unsettled.several != 0 {
        settle_some::<E>(table, asked, unsettled);
    }
}

/// Guesses by the second bucket, where no tag matches in the first; compares keys, where several do.
#[inline(never)]
fn settle_some<E: Entry>(
    table: &SessionTable,
    asked: &mut [Asked<E::Key>],
    Unsettled { mut elsewhere, mut several }: Unsettled,
) {
    let family = E::family(table);
    let (index, entries): (_, &[E]) = (&family.index, &family.entries);
    let buckets = index.buckets();
    while elsewhere != 0 {
        let i = elsewhere.trailing_zeros() as usize;
        elsewhere &= elsewhere - 1;
        if let Some(Asked { place, guess, .. }) = asked.get_mut(i)
            && let Some(entry) = buckets.guesses(index.other(*place)).next()
        {
            *guess = entry;
            prefetch_at(entries, entry as usize);
        }
    }
    // Few, but each would wait for memory by itself later.
    while several != 0 {
        let i = several.trailing_zeros() as usize;
        several &= several - 1;
        if let Some(Asked { key, place, guess, .. }) = asked.get_mut(i) {
            let mut guesses = buckets.guesses(*place);
            let is_it = |number: &u32| entries.get(*number as usize).is_some_and(|entry| entry.matches(key));
            *guess = guesses.find(is_it).unwrap_or(*guess);
        }
    }
}

const _: () = assert!(BURST <= 32);

impl<E: Entry> Family<E> {
    /// The entry of `key`, dead or alive.
    pub(super) fn find(&self, key: &E::Key, hash: u64) -> Option<(u32, &E)> {
        let number = self
            .index
            .find(hash, |number| self.entries.get(number as usize).is_some_and(|entry| entry.matches(key)))?;
        Some((number, self.entries.get(number as usize)?))
    }
}

impl SessionTable {
    #[cold]
    #[inline(never)]
    fn find_entry<E: Entry>(&self, key: &E::Key) -> Option<(u32, &E)> {
        E::family(self).find(key, E::hash(&self.hasher, key))
    }

    /// The flow of `key`: entry `guess`, unless that is another's or [`NIL`].
    #[inline(always)]
    fn resolve<'b, E: Entry>(
        &'b self,
        entries: &'b [E],
        key: &E::Key,
        guess: u32,
        now: Timestamp,
    ) -> Option<Flow<'b, E>> {
        let (number, entry) = match entries.get(guess as usize) {
            Some(entry) if entry.matches(key) => (guess, entry),
            _ => self.find_entry::<E>(key)?,
        };
        let control = entry.hot().control();
        let flags = control.flags();
        if flags.any(RewriteFlags::DEAD | RewriteFlags::POLICED)
            && (flags.any(RewriteFlags::DEAD) || self.deadline(number / 2, flags) <= now.0)
        {
            return None;
        }
        if !entry.hot().is_fresh(control, now.0 as u32) && self.is_expired::<E>(number / 2, now.0 as u32) {
            return None;
        }
        Some(Flow { table: self, entry })
    }

    /// Whether neither flow of `slot` saw a packet for the session's timeout.
    #[cold]
    pub(super) fn is_expired<E: Entry>(&self, slot: u32, now: u32) -> bool {
        let (Some((forward, reverse)), Some(record)) =
            (E::family(self).pair(slot), self.records.get(slot as usize))
        else {
            return false;
        };
        let idle = |entry: &E| match now.wrapping_sub(entry.hot().stamp.load(Relaxed)) {
            future if future > i32::MAX as u32 => 0,
            past => past,
        };
        u64::from(idle(forward).min(idle(reverse))) >= record.state().timeout_ms()
    }
}

/// A flow found, of either family.
struct Flow<'b, E> {
    table: &'b SessionTable,
    entry: &'b E,
}

impl<E> Clone for Flow<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for Flow<'_, E> {}

impl<'b, E: Entry> Flow<'b, E> {
    /// Entry number, slot and record: only where that is rare.
    fn locate(&self) -> Option<(usize, u32, &'b Record)> {
        let offset =
            std::ptr::from_ref(self.entry) as usize - E::family(self.table).entries.as_ptr() as usize;
        let number = offset / size_of::<E>();
        let slot = (number / 2) as u32;
        Some((number, slot, self.table.records.get(slot as usize)?))
    }

    fn session(&self) -> SessionId {
        let forward = self.locate().and_then(|(_, slot, _)| E::family(self.table).pair(slot));
        SessionId(forward.map_or(0, |(forward, _)| forward.origin()))
    }

    #[inline]
    fn count(&self, now: Timestamp, bytes: u32) {
        let hot = self.entry.hot();
        hot.bytes.store(hot.bytes.load(Relaxed).wrapping_add(bytes.into()), Relaxed);
        hot.stamp.store(now.0 as u32, Relaxed);
        let packets = hot.packets.load(Relaxed).wrapping_add(1);
        hot.packets.store(packets, Relaxed);
        if packets == 0 {
            self.carry();
        }
    }

    #[cold]
    fn carry(&self) {
        if let Some((number, slot, record)) = self.locate()
            && let Some(high) = self.table.carry.get(slot as usize).and_then(|pair| pair.get(number % 2))
        {
            high.store(high.load(Relaxed) + 1, Relaxed);
            record.set_flag(CARRIED);
        }
    }

    fn observe(&self, is_tcp: bool, flags: TcpFlags, now: Timestamp) {
        if !is_tcp || !flags.any(TcpFlags::RST | TcpFlags::FIN) {
            return;
        }
        let Some((number, slot, record)) = self.locate() else { return };
        let (before, after) = record.observe(number % 2 == 1, flags);
        if after.is_over() {
            // Also if another worker saw the end first: it may not have come to this yet.
            if let Some((forward, reverse)) = E::family(self.table).pair(slot) {
                forward.hot().bury();
                reverse.hot().bury();
            }
            if !before.is_over() {
                self.table.ended.add(slot);
            }
        } else {
            self.entry.hot().stamp.store(now.0 as u32, Relaxed);
        }
    }

    #[cold]
    fn admit(&self, now: Timestamp, bytes: u32) -> bool {
        if !self.entry.hot().flags().any(RewriteFlags::POLICED) {
            return true;
        }
        let extras = self.locate().and_then(|(_, slot, _)| self.table.extras.get(slot as usize));
        extras.is_none_or(|extras| extras.admit(now, bytes))
    }

    fn collector(&self) -> Option<IpAddr> {
        if !self.entry.hot().flags().any(RewriteFlags::MIRROR | RewriteFlags::SNOOP) {
            return None;
        }
        let (_, slot, record) = self.locate()?;
        self.table.collector(slot, record)
    }
}

impl SessionTable {
    /// The collector of a session that has one.
    pub(super) fn collector(&self, slot: u32, record: &Record) -> Option<IpAddr> {
        let bits = self.extras.get(slot as usize)?.collector();
        Some(if record.state().has(COLLECTOR_V4) {
            Ipv4Addr::from_bits(bits as u32).into()
        } else {
            Ipv6Addr::from_bits(bits).into()
        })
    }

    /// When the session in `slot`, whose flows have `flags`, ends whatever its traffic.
    #[cold]
    pub(super) fn deadline(&self, slot: u32, flags: RewriteFlags) -> u64 {
        if !flags.any(RewriteFlags::POLICED) {
            return NEVER;
        }
        self.extras.get(slot as usize).map_or(NEVER, Extras::deadline)
    }
}

macro_rules! flow {
    ($flow:ident, $entry:ty, $address:ty) => {
        /// A flow found in a burst. Copies stand for the same flow.
        #[derive(Clone, Copy)]
        pub struct $flow<'b>(Flow<'b, $entry>);

        impl<'b> From<Flow<'b, $entry>> for $flow<'b> {
            #[inline]
            fn from(flow: Flow<'b, $entry>) -> Self {
                Self(flow)
            }
        }

        impl $flow<'_> {
            /// What to do, beside writing new values.
            #[inline(always)]
            pub fn flags(&self) -> RewriteFlags {
                self.0.entry.hot().flags()
            }

            /// The flow's rewrite, copied.
            #[inline(always)]
            pub fn rewrite(&self) -> Rewrite<$address> {
                self.0.entry.rewrite()
            }

            /// The outer source port, as in the rewrite.
            #[inline(always)]
            pub fn outer_port(&self) -> u16 {
                self.0.entry.hot().control().outer_port()
            }

            /// Where out LIF and MACs are, as in the rewrite.
            #[inline(always)]
            pub fn l2_index(&self) -> L2Index {
                self.0.entry.end().l2()
            }

            /// Out LIF and MACs: what the rewrite's [`L2Index`] stands for.
            #[inline]
            pub fn l2(&self) -> L2Rewrite {
                self.0.table.l2.get(self.l2_index())
            }

            /// Whether the session ended since it was looked up (e.g. by a RST earlier in the same burst).
            #[inline]
            pub fn is_dead(&self) -> bool {
                self.flags().any(RewriteFlags::DEAD)
            }

            /// Counts one forwarded (or dropped by action) packet and stamps the flow. Only by the worker that the
            /// flow's direction arrives on.
            #[inline]
            pub fn count(&self, now: Timestamp, bytes: u32) {
                self.0.count(now, bytes);
            }

            /// Notes SYN, FIN or RST of a packet that goes to the VNF. RST, or the second direction's FIN, ends the
            /// session at once: later lookups, and `is_dead` of flows found already, say so. A FIN keeps the session from
            /// timing out as a packet does; nothing happens to sessions that are not TCP.
            pub fn observe(&self, flags: TcpFlags, now: Timestamp) {
                self.0.observe(self.0.entry.key().protocol() == protocol::TCP, flags, now);
            }

            /// The session's id.
            pub fn session(&self) -> SessionId {
                self.0.session()
            }

            /// Whether the session's rate limit, if it has one, lets a packet of `bytes` pass; takes it from the limit
            /// then. Any worker may ask. Only of flows that are [`RewriteFlags::POLICED`] need it be asked.
            pub fn admit(&self, now: Timestamp, bytes: u32) -> bool {
                self.0.admit(now, bytes)
            }

            /// The session's collector, if its action is mirror or snoop.
            pub fn collector(&self) -> Option<IpAddr> {
                self.0.collector()
            }
        }

        impl Values<$address> for $flow<'_> {
            #[inline(always)]
            fn addresses(&self) -> [$address; 2] {
                self.0.entry.addresses()
            }

            #[inline(always)]
            fn ports(&self) -> [[u8; 2]; 2] {
                self.0.entry.hot().ports()
            }

            #[inline(always)]
            fn l3_delta(&self) -> ChecksumDelta {
                self.0.entry.end().l3_delta()
            }

            #[inline(always)]
            fn l4_delta(&self) -> ChecksumDelta {
                self.0.entry.end().l4_delta()
            }
        }
    };
}

flow!(FlowV4, EntryV4, [u8; 4]);
flow!(FlowV6, EntryV6, [u8; 16]);
