//! What happens by itself: sessions end, time out, are reported, and their slots become free.

use super::entry::{Entry, Hot};
use super::memory::prefetch;
use super::places::Places;
use super::record::{Phase, Record, V6};
use super::wheel::BATCH;
use super::writer::Writer;
use super::{Family, SessionTable, Work};
use crate::plan::MAX_TIMEOUT;
use crate::session::{CloseCode, Closed};
use crate::sync::{Ordering::Relaxed, TryLockError};
use crate::tcp::TcpState;
use crate::{RewriteFlags, Timestamp};
use arrayvec::ArrayVec;

/// Sessions looked at, or put in, before other writers are let in.
pub(super) const CHUNK: usize = 64;

/// Milliseconds that a session's two stamps may be apart.
const APART: u32 = 1 << 25;
const _: () = assert!(APART as u64 + MAX_TIMEOUT as u64 * 1000 < 1 << 31);

impl SessionTable {
    /// With `ticks` up to when the wheel is turned: a multiple of its ticks, or what has not come to one waits.
    pub(super) fn maintain_at(
        &self,
        now: Timestamp,
        ticks: u64,
        budget: usize,
        closed: &mut dyn FnMut(&Closed),
    ) -> Work {
        let mut reports = match self.maintenance.try_lock() {
            Ok(reports) => reports,
            Err(TryLockError::Poisoned(reports)) => reports.into_inner(),
            Err(TryLockError::WouldBlock) => return Work::default(),
        };
        let mut work = Work::default();
        let mut left = budget;
        loop {
            reports.clear();
            let chunk = left.min(CHUNK);
            let used = {
                let mut writer = self.write();
                writer.now = writer.now.max(now);
                let reclaimed = self.reclaim(&mut writer, chunk, &mut reports);
                let ended = self.collect_ended(&mut writer, now, chunk - reclaimed);
                let looked_at = self.expire(&mut writer, now, ticks, chunk - reclaimed - ended);
                writer.closed += reports.len() as u64;
                reclaimed + ended + looked_at
            };
            work.closed += reports.len();
            reports.iter().for_each(&mut *closed);
            left -= used;
            work.more = left == 0;
            if used == 0 || left == 0 {
                return work;
            }
        }
    }

    /// Retires sessions that workers saw end. How many it looked at.
    pub(super) fn collect_ended(&self, writer: &mut Writer, now: Timestamp, budget: usize) -> usize {
        let mut used = 0;
        while used < budget
            && let Some(slot) = self.ended.take(&mut writer.ended)
        {
            used += 1;
            if self.records.get(slot as usize).is_some_and(|record| record.state().tcp().is_over()) {
                self.retire(writer, slot, Phase::Ended, now);
            }
        }
        used
    }

    /// Retires sessions that timed out, and puts those back that did not. How many it looked at. A few at a time, in steps, each
    /// of which asks for the memory that the next one needs; while that comes, others take their steps.
    fn expire(&self, writer: &mut Writer, now: Timestamp, ticks: u64, budget: usize) -> usize {
        let mut used = 0;
        let mut passes: [Pass<'_>; 4] = Default::default();
        let [mut taken, mut looked_at, mut located, mut unlinked] = [0, 3, 2, 1];
        let mut idle = 0;
        while idle < passes.len() {
            idle += 1;
            if let Some(pass) = passes.get_mut(unlinked) {
                for (slot, record, places, due) in pass.over.drain(..) {
                    self.unlink(writer, slot, record, &places);
                    self.retire_unlinked(writer, slot, record, Phase::TimedOut, Timestamp(due));
                }
            }
            if let Some(pass) = passes.get_mut(located) {
                for (slot, record, places, _) in &mut pass.over {
                    self.locate(*slot, record, places);
                }
            }
            if let Some(pass) = passes.get_mut(looked_at) {
                for slot in pass.slots.drain(..) {
                    let Some(record) = self.records.get(slot as usize) else { continue };
                    let due = self.due(slot, record, pass.reached);
                    if due <= pass.reached.0 && !record.state().tcp().is_over() {
                        let places = self.places(slot, record);
                        self.prefetch_places(record, &places);
                        pass.over.push((slot, record, places, due));
                    } else {
                        self.freshen(slot, record);
                        writer.wheel.schedule(&self.records, slot, due);
                    }
                }
            }
            if used < budget
                && let Some(pass) = passes.get_mut(taken)
            {
                pass.slots = writer.wheel.due(&self.records, ticks, budget - used);
                pass.reached = Timestamp(writer.wheel.now().min(now.0));
                pass.slots.iter().for_each(|&slot| self.prefetch_flows_of(slot));
                used += pass.slots.len();
                if !pass.slots.is_empty() {
                    idle = 0;
                }
            }
            // Each pass goes on to its next step; the one that is done takes the next sessions.
            (taken, looked_at, located, unlinked) = (unlinked, taken, looked_at, located);
        }
        used
    }

    /// The flows of the session in `slot`.
    fn prefetch_flows_of(&self, slot: u32) {
        match self.records.get(slot as usize) {
            Some(record) if record.state().has(V6) => self.v6.prefetch(slot),
            Some(_) => self.v4.prefetch(slot),
            None => {}
        }
    }

    /// Reports retired sessions that no reader holds any more, and frees their slots. How many.
    fn reclaim(&self, writer: &mut Writer, budget: usize, reports: &mut Vec<Closed>) -> usize {
        match writer.retired.epochs.back() {
            Some(&(epoch, _)) if epoch == self.epochs.current() => self.epochs.advance(),
            Some(_) => {}
            None => return 0,
        }
        let horizon = self.epochs.horizon();
        let mut used = 0;
        while used < budget
            && let Some((slot, record)) = writer.take_retired(&self.records, horizon)
        {
            used += 1;
            if let Some(code) = close_code(record) {
                let end = extend(record.prev.load(Relaxed), writer.now).min(writer.now);
                if let Some(info) = self.info(slot, record, end) {
                    reports.push(Closed { info, code, end });
                }
            }
            self.clear_carry(slot, record);
            self.release_l2(writer, slot, record);
            writer.give_slot(slot, record);
        }
        used
    }

    /// When the session in `slot` times out as things stand, given a time less than 24 days from its last use.
    pub(super) fn due(&self, slot: u32, record: &Record, near: Timestamp) -> u64 {
        let idle_end = self.last_seen(slot, record, near).0 + record.state().timeout_ms();
        let flags = self.hot(slot, record).map_or_else(RewriteFlags::default, |[forward, _]| forward.flags());
        idle_end.min(self.deadline(slot, flags))
    }

    /// Keeps the stamp of a direction that has long been silent, while the other is not, from being taken for one that is to
    /// come: 32 bits of milliseconds tell 24.8 days of past, and at the next look the longest timeout, 24.3, has gone by.
    fn freshen(&self, slot: u32, record: &Record) {
        let Some([forward, reverse]) = self.hot(slot, record) else { return };
        let (first, second) = (forward.stamp.load(Relaxed), reverse.stamp.load(Relaxed));
        let lead = first.wrapping_sub(second) as i32;
        if lead.unsigned_abs() < APART {
            return;
        }
        let (silent, old, new) = if lead > 0 { (reverse, second, first) } else { (forward, first, second) };
        // Unless its worker has just done so.
        let _ = silent.stamp.compare_exchange(old, new, Relaxed, Relaxed);
    }

    /// When the session in `slot` was last used, given a time less than 24 days off.
    pub(super) fn last_seen(&self, slot: u32, record: &Record, near: Timestamp) -> Timestamp {
        self.last_seen_since(slot, record, self.origin(slot, record).start, near)
    }

    /// The same of a session that began at `start`.
    pub(super) fn last_seen_since(
        &self,
        slot: u32,
        record: &Record,
        start: Timestamp,
        near: Timestamp,
    ) -> Timestamp {
        let last = |hot: &Hot| extend(hot.stamp.load(Relaxed), near);
        let flows = self.hot(slot, record);
        flows.map_or(start, |[forward, reverse]| last(forward).max(last(reverse)).max(start))
    }

    /// Both flows of the session in `slot`.
    pub(super) fn hot(&self, slot: u32, record: &Record) -> Option<[&Hot; 2]> {
        if record.state().has(V6) {
            self.v6.pair(slot).map(|(a, b)| [a.hot(), b.hot()])
        } else {
            self.v4.pair(slot).map(|(a, b)| [a.hot(), b.hot()])
        }
    }
}

/// Sessions whose time has come, under way together.
#[derive(Default)]
struct Pass<'t> {
    /// The time that has come.
    reached: Timestamp,
    /// To be looked at.
    slots: ArrayVec<u32, BATCH>,
    /// Those that are over, where they are, and when they were.
    over: ArrayVec<(u32, &'t Record, Places, u64), BATCH>,
}

impl<E: Entry> Family<E> {
    fn prefetch(&self, slot: u32) {
        if let Some((forward, reverse)) = self.pair(slot) {
            prefetch(forward);
            prefetch(reverse);
        }
    }
}

/// The 64-bit time whose low 32 bits are `low`, nearest to `near`.
pub(super) fn extend(low: u32, near: Timestamp) -> Timestamp {
    let behind = (near.0 as u32).wrapping_sub(low) as i32;
    Timestamp(near.0.saturating_add_signed(-i64::from(behind)))
}

/// Why a retired session closed; none if it never was complete.
fn close_code(record: &Record) -> Option<CloseCode> {
    match record.state().phase() {
        Phase::Ended if record.state().tcp() == TcpState::Reset => Some(CloseCode::Rst),
        Phase::Ended => Some(CloseCode::FinAck),
        Phase::TimedOut => Some(CloseCode::Timeout),
        Phase::Deleted => Some(CloseCode::Deleted),
        _ => None,
    }
}
