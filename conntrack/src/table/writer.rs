//! Insert and remove, under the writers' lock. Readers go on meanwhile.

use super::ended::Taken;
use super::entry::{Entry, EntryV4, EntryV6};
use super::hash::Hasher;
use super::index::{Index, Search};
use super::l2::Users;
use super::maintain::CHUNK;
use super::memory::prefetch;
use super::record::{CARRIED, COLLECTOR_V4, NIL, Origin, Phase, Record, State, V6};
use super::wheel::Wheel;
use super::{Family, InsertError, SessionTable};
use crate::Timestamp;
use crate::plan::{Flows, Half, Plan, plan, protocol};
use crate::rewrite::{L2Index, RewriteFlags};
use crate::session::{Action, SessionId, SessionSpec};
use crate::sync::Ordering::Relaxed;
use arrayvec::ArrayVec;
use std::collections::VecDeque;
use std::net::IpAddr;

/// How many slots one turn of a long walk looks at before it lets other writers in.
pub(super) const TURN: u32 = 256;

/// Sessions of a batch that wait for their memory while others are put in.
const AHEAD: usize = 8;

/// What only the holder of the writers' lock may touch.
pub(super) struct Writer {
    /// Sessions that are in the index.
    pub active: u32,
    pub installed: u64,
    pub rejected: u64,
    pub closed: u64,
    /// The latest time anybody told.
    pub now: Timestamp,
    pub search: Search,
    pub wheel: Wheel,
    pub l2: Users,
    /// First free slot of those used before; they are linked by `next`.
    pub free: u32,
    /// Slots from here on were never used.
    pub fresh: u32,
    slots: u32,
    /// Slots out of the index, in the order they were taken out, linked by `next`.
    pub retired: Retired,
    pub ended: Taken,
}

/// A list of slots by epoch.
pub(super) struct Retired {
    pub first: u32,
    last: u32,
    /// How many were taken out in each epoch, the oldest first.
    pub epochs: VecDeque<(u64, u32)>,
}

impl Writer {
    pub fn new(slots: u32, ended: Taken) -> Self {
        Self {
            active: 0,
            installed: 0,
            rejected: 0,
            closed: 0,
            now: Timestamp(0),
            search: Search::new(),
            wheel: Wheel::new(),
            l2: Users::default(),
            free: NIL,
            fresh: 0,
            slots,
            retired: Retired { first: NIL, last: NIL, epochs: VecDeque::new() },
            ended,
        }
    }

    fn take_slot(&mut self, records: &[Record]) -> Option<u32> {
        if let Some(record) = records.get(self.free as usize) {
            let slot = self.free;
            self.free = record.next.load(Relaxed);
            return Some(slot);
        }
        (self.fresh < self.slots).then(|| {
            self.fresh += 1;
            self.fresh - 1
        })
    }

    pub fn give_slot(&mut self, slot: u32, record: &Record) {
        record.open(State::new(Phase::Free, 0, 0));
        record.next.store(self.free, Relaxed);
        self.free = slot;
    }

    fn retire(&mut self, records: &[Record], slot: u32, record: &Record, epoch: u64, end: Timestamp) {
        record.next.store(NIL, Relaxed);
        record.prev.store(end.0 as u32, Relaxed);
        match records.get(self.retired.last as usize) {
            Some(last) => last.next.store(slot, Relaxed),
            None => self.retired.first = slot,
        }
        self.retired.last = slot;
        match self.retired.epochs.back_mut() {
            Some((of, count)) if *of == epoch => *count += 1,
            _ => self.retired.epochs.push_back((epoch, 1)),
        }
    }

    /// Takes the first of the retired, all of whose epoch nobody holds.
    pub fn take_retired<'t>(&mut self, records: &'t [Record], horizon: u64) -> Option<(u32, &'t Record)> {
        let (epoch, count) = self.retired.epochs.front_mut()?;
        if *epoch >= horizon {
            return None;
        }
        *count -= 1;
        if *count == 0 {
            self.retired.epochs.pop_front();
        }
        let slot = self.retired.first;
        let record = records.get(slot as usize)?;
        self.retired.first = record.next.load(Relaxed);
        if self.retired.first == NIL {
            self.retired.last = NIL;
        }
        Some((slot, record))
    }
}

/// A session on its way in, and the hashes that its id and its flows are found by.
struct Coming<'s> {
    spec: &'s SessionSpec,
    plan: Result<Plan, &'static str>,
    id_hash: u64,
    flow_hashes: [u64; 2],
}

impl SessionTable {
    pub(super) fn insert_one(&self, spec: &SessionSpec, now: Timestamp) -> Result<(), InsertError> {
        let coming = self.coming(spec);
        self.prefetch(&coming);
        self.insert_locked(&mut self.write(), &coming, now)
    }

    pub(super) fn insert_all(
        &self,
        specs: &[SessionSpec],
        now: Timestamp,
        results: &mut Vec<Result<(), InsertError>>,
    ) {
        for specs in specs.chunks(CHUNK) {
            let mut upcoming = specs.iter().map(|spec| {
                let coming = self.coming(spec);
                self.prefetch(&coming);
                coming
            });
            let mut ahead: ArrayVec<Coming, AHEAD> = upcoming.by_ref().take(AHEAD).collect();
            let mut writer = self.write();
            let mut install = |coming: &Coming| results.push(self.insert_locked(&mut writer, coming, now));
            let mut oldest = 0;
            for coming in upcoming {
                if let Some(place) = ahead.get_mut(oldest) {
                    install(place);
                    *place = coming;
                }
                oldest = (oldest + 1) % AHEAD;
            }
            ahead.rotate_left(oldest);
            ahead.iter().for_each(install);
        }
    }

    fn coming<'s>(&self, spec: &'s SessionSpec) -> Coming<'s> {
        fn hashes<E: Entry>(hasher: &Hasher, flows: &Flows<E::Key, E::Address>) -> [u64; 2] {
            flows.each_ref().map(|half| E::hash(hasher, &half.key))
        }
        let plan = plan(spec);
        let flow_hashes = match &plan {
            Ok(Plan::V4(flows)) => hashes::<EntryV4>(&self.hasher, flows),
            Ok(Plan::V6(flows)) => hashes::<EntryV6>(&self.hasher, flows),
            Err(_) => [0; 2],
        };
        Coming { spec, plan, id_hash: self.hasher.hash_1(spec.id.0), flow_hashes }
    }

    /// What is new is looked for in both places of its id and of each flow.
    fn prefetch(&self, coming: &Coming<'_>) {
        let ask = |index: &Index, hash: u64| {
            let place = index.first(hash);
            index.buckets().prefetch(place);
            index.buckets().prefetch(index.other(place));
        };
        ask(&self.ids, coming.id_hash);
        let index = match coming.plan {
            Ok(Plan::V4(_)) => &self.v4.index,
            Ok(Plan::V6(_)) => &self.v6.index,
            Err(_) => return,
        };
        coming.flow_hashes.into_iter().for_each(|hash| ask(index, hash));
    }

    fn insert_locked(
        &self,
        writer: &mut Writer,
        coming: &Coming<'_>,
        now: Timestamp,
    ) -> Result<(), InsertError> {
        writer.now = writer.now.max(now);
        let result = match &coming.plan {
            Ok(Plan::V4(flows)) => self.install(writer, &self.v4, 0, coming, flows, now),
            Ok(Plan::V6(flows)) => self.install(writer, &self.v6, V6, coming, flows, now),
            Err(reason) => Err(InsertError::Invalid(reason)),
        };
        match result {
            Ok(()) => writer.installed += 1,
            Err(_) => writer.rejected += 1,
        }
        result
    }

    fn install<E: Entry>(
        &self,
        writer: &mut Writer,
        family: &Family<E>,
        family_flag: u32,
        &Coming { spec, id_hash, flow_hashes: [forward, reverse], .. }: &Coming<'_>,
        flows: &Flows<E::Key, E::Address>,
        now: Timestamp,
    ) -> Result<(), InsertError> {
        if let (Some(record), Some((first, second))) =
            (self.records.get(writer.free as usize), family.pair(writer.free))
        {
            prefetch(record);
            prefetch(first);
            prefetch(second);
        }
        if let Some(slot) = self.find_id(spec.id, id_hash)
            && !self.retire_if_over(writer, slot, now)
        {
            return Err(InsertError::IdExists(spec.id.0));
        }
        for (Half { key, .. }, hash) in flows.iter().zip([forward, reverse]) {
            if let Some((number, _)) = family.find(key, hash)
                && !self.retire_if_over(writer, number / 2, now)
            {
                return Err(InsertError::FlowExists(self.id_of(number / 2).0));
            }
        }
        if writer.active >= self.config.capacity {
            self.collect_ended(writer, now, usize::MAX);
            if writer.active >= self.config.capacity {
                return Err(InsertError::Full);
            }
        }
        let slot = writer.take_slot(&self.records).ok_or(InsertError::Full)?;
        let (Some(record), Some((first, second))) = (self.records.get(slot as usize), family.pair(slot))
        else {
            return Err(InsertError::Full);
        };
        let Some(l2) = self.acquire_l2(writer, flows) else {
            writer.l2.rejected += 1;
            writer.give_slot(slot, record);
            return Err(InsertError::L2Full);
        };
        let timeout = self.timeout(spec);
        let collector = self.store_extras(slot, spec, now);
        record.open(State::new(Phase::Live, timeout, family_flag | collector));
        let origin = Origin { id: spec.id, start: now, owner: spec.owner }.words();
        let due = now.0 + u64::from(timeout.min(spec.hard_timeout.unwrap_or(timeout))) * 1000;
        // Dead until both are in the index: no reader takes hold of a session that does not come to be.
        for (((half, l2), origin), entry) in flows.iter().zip(l2).zip(origin).zip([first, second]) {
            let mut half = *half;
            half.rewrite.l2 = l2;
            half.rewrite.flags.0 |= RewriteFlags::DEAD;
            entry.write(&half, origin, u64::from(timeout) * 1000, now.0 as u32);
        }
        if writer.active == 0 {
            writer.wheel.skip_to(now.0);
        }
        writer.active += 1;
        writer.wheel.schedule(&self.records, slot, due);
        let search = &mut writer.search;
        if self.ids.insert(search, id_hash, slot)
            && family.index.insert(search, forward, slot * 2)
            && family.index.insert(search, reverse, slot * 2 + 1)
        {
            first.hot().revive();
            second.hot().revive();
            // A worker may have seen a RST on the first before the second was alive.
            if record.state().tcp().is_over() {
                second.hot().bury();
            }
            return Ok(());
        }
        self.retire(writer, slot, Phase::Aborted, now);
        Err(InsertError::Full)
    }

    /// The L2 rewrites of a session's two flows, or neither.
    fn acquire_l2<K, A>(
        &self,
        writer: &mut Writer,
        [forward, reverse]: &Flows<K, A>,
    ) -> Option<[L2Index; 2]> {
        let Writer { l2: users, search, .. } = writer;
        let first = self.l2.acquire(users, search, &self.hasher, &forward.l2)?;
        match self.l2.acquire(users, search, &self.hasher, &reverse.l2) {
            Some(second) => Some([first, second]),
            None => {
                self.l2.release(users, search, &self.hasher, first);
                None
            }
        }
    }

    /// Lets go of what the session in `slot`, which no reader holds any more, had of the L2 rewrites.
    pub(super) fn release_l2(&self, writer: &mut Writer, slot: u32, record: &Record) {
        if record.state().has(V6) {
            self.release_flows_l2(writer, &self.v6, slot);
        } else {
            self.release_flows_l2(writer, &self.v4, slot);
        }
    }

    fn release_flows_l2<E: Entry>(&self, writer: &mut Writer, family: &Family<E>, slot: u32) {
        let Some((first, second)) = family.pair(slot) else { return };
        for entry in [first, second] {
            self.l2.release(&mut writer.l2, &mut writer.search, &self.hasher, entry.end().l2());
        }
    }

    fn timeout(&self, spec: &SessionSpec) -> u32 {
        let default = &self.config.timeouts;
        spec.idle_timeout.unwrap_or(match spec.protocol {
            protocol::TCP => default.tcp,
            protocol::UDP => default.udp,
            protocol::ICMP | protocol::ICMPV6 => default.icmp,
            _ => default.other,
        })
    }

    /// Keeps what few sessions have for `slot`; the state flag that goes with it.
    fn store_extras(&self, slot: u32, spec: &SessionSpec, start: Timestamp) -> u32 {
        let extras = self.extras.get(slot as usize);
        if spec.hard_timeout.is_some() || spec.limit.is_some() {
            extras.inspect(|extras| extras.police(spec, start));
        }
        let (Action::Mirror(address) | Action::Snoop(address)) = spec.action else { return 0 };
        let (bits, flag) = match address {
            IpAddr::V4(address) => (u128::from(address.to_bits()), COLLECTOR_V4),
            IpAddr::V6(address) => (address.to_bits(), 0),
        };
        extras.inspect(|extras| extras.set_collector(bits));
        flag
    }

    pub(super) fn find_id(&self, id: SessionId, hash: u64) -> Option<u32> {
        self.ids.find(hash, |slot| self.id_of(slot) == id)
    }

    fn id_of(&self, slot: u32) -> SessionId {
        self.records.get(slot as usize).map_or(SessionId(0), |record| self.origin(slot, record).id)
    }

    /// Whose the session in `slot` is.
    pub(super) fn origin(&self, slot: u32, record: &Record) -> Origin {
        fn words<E: Entry>(family: &Family<E>, slot: u32) -> [u64; 2] {
            family.pair(slot).map_or([0; 2], |(forward, reverse)| [forward.origin(), reverse.origin()])
        }
        let is_v6 = record.state().has(V6);
        Origin::from_words(if is_v6 { words(&self.v6, slot) } else { words(&self.v4, slot) })
    }

    /// Retires the session in `slot` if it has ended or expired, so that its id and flows are free again.
    fn retire_if_over(&self, writer: &mut Writer, slot: u32, now: Timestamp) -> bool {
        let Some(record) = self.records.get(slot as usize) else { return false };
        let state = record.state();
        if state.tcp().is_over() {
            self.retire(writer, slot, Phase::Ended, now);
            return true;
        }
        let due = self.due(slot, record, now);
        if due <= now.0 {
            self.retire(writer, slot, Phase::TimedOut, Timestamp(due));
        }
        due <= now.0
    }

    /// Takes a live session out of the index, the ids and the wheel. What it counted meanwhile is reported when no reader
    /// can hold it any more.
    pub(super) fn retire(&self, writer: &mut Writer, slot: u32, phase: Phase, end: Timestamp) {
        let Some(record) = self.records.get(slot as usize) else { return };
        if record.state().phase() != Phase::Live {
            return;
        }
        let places = self.places(slot, record);
        self.prefetch_places(record, &places);
        writer.wheel.prefetch_neighbours(&self.records, slot);
        self.unlink(writer, slot, record, &places);
        writer.wheel.cancel(&self.records, slot);
        self.retire_unlinked(writer, slot, record, phase, end);
    }

    /// The rest of [`Self::retire`], of a session that is neither in the index nor in the wheel any more.
    pub(super) fn retire_unlinked(
        &self,
        writer: &mut Writer,
        slot: u32,
        record: &Record,
        phase: Phase,
        end: Timestamp,
    ) {
        record.set_phase(phase);
        writer.active -= 1;
        writer.retire(&self.records, slot, record, self.epochs.current(), end);
    }

    pub(super) fn remove_id(&self, id: SessionId, owner: Option<u16>, now: Timestamp) -> bool {
        let mut writer = self.write();
        writer.now = writer.now.max(now);
        let Some(slot) = self.find_id(id, self.hasher.hash_1(id.0)) else { return false };
        self.remove_slot(&mut writer, slot, owner, now)
    }

    /// False if the session ended by itself, or is of another owner than the one given.
    fn remove_slot(&self, writer: &mut Writer, slot: u32, owner: Option<u16>, now: Timestamp) -> bool {
        let Some(record) = self.records.get(slot as usize) else { return false };
        let state = record.state();
        let is_owned = owner.is_none_or(|owner| owner == self.origin(slot, record).owner);
        if state.phase() != Phase::Live || state.tcp().is_over() || !is_owned {
            return false;
        }
        self.retire(writer, slot, Phase::Deleted, now);
        true
    }

    pub(super) fn remove_all(&self, owner: Option<u16>, now: Timestamp) -> u64 {
        let mut removed = 0;
        let mut slot = 0;
        loop {
            let mut writer = self.write();
            writer.now = writer.now.max(now);
            let end = writer.fresh.min(slot + TURN);
            if slot >= end {
                return removed;
            }
            for slot in slot..end {
                removed += u64::from(self.remove_slot(&mut writer, slot, owner, now));
            }
            slot = end;
        }
    }

    /// Forgets the packets carried beyond 32 bits, if any.
    pub(super) fn clear_carry(&self, slot: u32, record: &Record) {
        if record.state().has(CARRIED)
            && let Some(pair) = self.carry.get(slot as usize)
        {
            pair.iter().for_each(|high| high.store(0, Relaxed));
        }
    }
}
