//! Timeouts: a lazy hierarchical timer wheel.
//!
//! Two levels of 32,768 lists; a list of level 0 is for a tick of 16 ms, of level 1 for 32,768 of them. A session that lives
//! for less than nine minutes is looked at once, within a tick of its end; others once more before. Packets do not touch the
//! wheel: when a session's time comes, whoever drives the wheel looks at when it was last used, and puts it back if that
//! was since. Lists are of lanes, each doubly linked through the records: the next record is known for as many as there are
//! lanes, and memory is waited for once for all of them. Empty lists are skipped by bitmaps.

use super::memory::prefetch;
use super::record::{NIL, Record};
use crate::sync::Ordering::Relaxed;
use arrayvec::ArrayVec;

/// Binary digits of a tick in milliseconds.
const TICK: usize = 4;
const LEVELS: usize = 2;
/// Binary digits of a level's number of lists.
const BITS: usize = 15;
const LISTS: usize = 1 << BITS;
/// Of a list; a slot's lane follows from its number.
const LANES: usize = 16;
/// Marks in `prev` that a slot is first of the lane whose number follows.
const HEAD: u32 = 1 << 31;
/// Slots that come out at once.
pub(super) const BATCH: usize = 8;

/// The end of the tick that `now` is in.
pub(super) fn tick_end(now: u64) -> u64 {
    now.next_multiple_of(1 << TICK)
}

/// See the module. Times are milliseconds, but for `tick`.
pub(super) struct Wheel {
    tick: u64,
    /// The lanes' first slots.
    heads: Box<[[u32; LANES]]>,
    used: Box<[[u64; LISTS / 64]; LEVELS]>,
    /// The list that was taken from last, whose new first slots do not know yet that they are.
    taken: Option<usize>,
}

impl Wheel {
    pub fn new() -> Self {
        Self {
            tick: 0,
            heads: vec![[NIL; LANES]; LEVELS * LISTS].into_boxed_slice(),
            used: Box::new([[0; LISTS / 64]; LEVELS]),
            taken: None,
        }
    }

    /// The time up to which [`Self::due`] has handed out everything, or is about to.
    pub fn now(&self) -> u64 {
        self.tick << TICK
    }

    /// Moves on to `now`. Only while nothing is scheduled.
    pub fn skip_to(&mut self, now: u64) {
        self.tick = self.tick.max(now >> TICK);
    }

    /// Puts `slot`, which is in no list, where it is found at `due`, or up to a tick later.
    pub fn schedule(&mut self, records: &[Record], slot: u32, due: u64) {
        let due = due.div_ceil(1 << TICK).max(self.tick + 1);
        let level = ((due - self.tick).ilog2() as usize / BITS).min(LEVELS - 1);
        // Beyond the last level: as late as there is, and looked at again then.
        let due = due.min(self.tick + ((LISTS as u64 - 1) << (BITS * (LEVELS - 1))));
        let list = level * LISTS + (due >> (BITS * level)) as usize % LISTS;
        let lane = slot as usize % LANES;
        let head = self.heads.get_mut(list).and_then(|lanes| lanes.get_mut(lane));
        let (Some(head), Some(record)) = (head, records.get(slot as usize)) else { return };
        record.next.store(*head, Relaxed);
        record.prev.store(HEAD | (list * LANES + lane) as u32, Relaxed);
        if let Some(next) = records.get(*head as usize) {
            next.prev.store(slot, Relaxed);
        }
        *head = slot;
        self.mark(list, true);
    }

    /// Asks for what [`Self::cancel`] will touch.
    pub fn prefetch_neighbours(&self, records: &[Record], slot: u32) {
        let Some(record) = records.get(slot as usize) else { return };
        for neighbour in [record.next.load(Relaxed), record.prev.load(Relaxed)] {
            if let Some(neighbour) = records.get(neighbour as usize) {
                prefetch(neighbour);
            }
        }
    }

    /// Takes `slot` out of its list.
    pub fn cancel(&mut self, records: &[Record], slot: u32) {
        self.mark_heads(records);

        let Some(record) = records.get(slot as usize) else { return };
        let (next, prev) = (record.next.load(Relaxed), record.prev.load(Relaxed));
        if let Some(next) = records.get(next as usize) {
            next.prev.store(prev, Relaxed);
        }
        if prev & HEAD == 0 {
            if let Some(prev) = records.get(prev as usize) {
                prev.next.store(next, Relaxed);
            }
            return;
        }
        let (list, lane) = ((prev & !HEAD) as usize / LANES, prev as usize % LANES);
        let Some(lanes) = self.heads.get_mut(list) else { return };
        if let Some(head) = lanes.get_mut(lane) {
            *head = next;
        }
        if *lanes == [NIL; LANES] {
            self.mark(list, false);
        }
    }

    /// Takes out slots whose time has come by `now`, `limit` (at least 1) at most, all of one time, which [`Self::now`] then is.
    /// Empty when there are none.
    pub fn due(&mut self, records: &[Record], now: u64, limit: usize) -> ArrayVec<u32, BATCH> {
        self.mark_heads(records);
        let now = now >> TICK;
        loop {
            for level in 0..LEVELS {
                let shift = BITS * level;
                if self.tick & ((1 << shift) - 1) != 0 {
                    break;
                }
                let list = level * LISTS + (self.tick >> shift) as usize % LISTS;
                if self.is_marked(list) {
                    return self.take(records, list, limit);
                }
            }
            if self.tick >= now {
                return ArrayVec::new();
            }
            self.tick = self.next_list().min(now);
        }
    }

    /// Takes slots out of `list`, from each lane in turn.
    fn take(&mut self, records: &[Record], list: usize, limit: usize) -> ArrayVec<u32, BATCH> {
        let (mut slots, limit) = (ArrayVec::new(), limit.min(BATCH));
        let Some(lanes) = self.heads.get_mut(list) else { return slots };
        let mut before = usize::MAX;
        while slots.len() != before {
            before = slots.len();
            for head in &mut *lanes {
                if slots.len() < limit
                    && let Some(record) = records.get(*head as usize)
                {
                    slots.push(*head);
                    *head = record.next.load(Relaxed);
                }
            }
        }
        if *lanes == [NIL; LANES] {
            self.mark(list, false);
            return slots;
        }
        // What comes next is on its way while the caller deals with these; a store now would be waited for before that.
        lanes.iter().filter_map(|&head| records.get(head as usize)).for_each(prefetch);
        self.taken = Some(list);
        slots
    }

    /// Tells the first slots of the list that was taken from that they are.
    fn mark_heads(&mut self, records: &[Record]) {
        let Some(list) = self.taken.take() else { return };
        for (lane, head) in self.heads.get(list).into_iter().flatten().enumerate() {
            if let Some(record) = records.get(*head as usize) {
                record.prev.store(HEAD | (list * LANES + lane) as u32, Relaxed);
            }
        }
    }

    /// The next tick after this one at which a list may have to be looked at.
    fn next_list(&self) -> u64 {
        for (level, used) in self.used.iter().enumerate() {
            let turn = self.tick >> (BITS * level);
            let position = turn as usize % LISTS;
            if let Some(next) = next_bit(used, position + 1) {
                return (turn - position as u64 + next as u64) << (BITS * level);
            }
            if used.iter().any(|&word| word != 0) {
                return ((turn >> BITS) + 1) << (BITS * (level + 1));
            }
        }
        u64::MAX
    }

    fn is_marked(&self, list: usize) -> bool {
        let word = self.used.get(list / LISTS).and_then(|level| level.get(list % LISTS / 64));
        word.is_some_and(|word| word >> (list % 64) & 1 != 0)
    }

    fn mark(&mut self, list: usize, used: bool) {
        let word = self.used.get_mut(list / LISTS).and_then(|level| level.get_mut(list % LISTS / 64));
        if let Some(word) = word {
            let bit = 1 << (list % 64);
            *word = if used { *word | bit } else { *word & !bit };
        }
    }
}

/// The first bit set from `from` on.
fn next_bit(words: &[u64; LISTS / 64], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(word) = words.get(at / 64) {
        let rest = word >> (at % 64);
        if rest != 0 {
            return Some(at + rest.trailing_zeros() as usize);
        }
        at = (at / 64 + 1) * 64;
    }
    None
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;
    use bolero::{TypeGenerator, check};

    const TICK: u64 = 1 << super::TICK;

    #[derive(Debug, TypeGenerator)]
    enum Op {
        Schedule { slot: u8, shift: u8, delay: u16 },
        Cancel { slot: u8 },
        Advance { shift: u8, by: u16, limit: u8 },
    }

    /// Each slot comes out at the tick that its time is in and not before, whatever was scheduled, cancelled or skipped over.
    #[test]
    fn agrees_with_a_list_of_times() {
        check!().with_type::<Vec<Op>>().with_max_len(4096).for_each(|ops| {
            let records: Vec<Record> = (0..256).map(|_| Record::default()).collect();
            let mut wheel = Wheel::new();
            let mut model = [None; 256];
            let mut now = 0u64;
            for op in ops {
                match *op {
                    Op::Schedule { slot, shift, delay } if model[usize::from(slot)].is_none() => {
                        let due = now + (u64::from(delay) << (shift % 16));
                        wheel.schedule(&records, slot.into(), due);
                        model[usize::from(slot)] =
                            Some(due.max(now / TICK * TICK + 1).next_multiple_of(TICK));
                    }
                    Op::Cancel { slot } if model[usize::from(slot)].take().is_some() => {
                        wheel.cancel(&records, slot.into());
                    }
                    Op::Schedule { .. } | Op::Cancel { .. } => {}
                    Op::Advance { shift, by, limit } => {
                        let limit = 1 + usize::from(limit % 20);
                        now += u64::from(by) << (shift % 18);
                        loop {
                            let slots = wheel.due(&records, now, limit);
                            if slots.is_empty() {
                                break;
                            }
                            assert!(slots.len() <= limit);
                            for slot in slots {
                                let due: u64 = model[slot as usize].unwrap();
                                // Lists of higher levels are looked at early, to be spread over lower ones.
                                if due <= wheel.now() {
                                    assert_eq!(due, wheel.now());
                                    model[slot as usize] = None;
                                } else {
                                    wheel.schedule(&records, slot, due);
                                }
                            }
                        }
                        assert_eq!(wheel.now(), now / TICK * TICK);
                        assert!(model.iter().flatten().all(|&due| due > now));
                    }
                }
            }
        });
    }
}
