//! A session's cold record: what its two flows share, and what packets do not need. (What never changes of that is in the
//! flows: see [`Origin`].)

use super::memory::Region;
use crate::sync::{AtomicU32, AtomicU64, Ordering::*};
use crate::tcp::{TcpFlags, TcpState};
use crate::{SessionId, Timestamp};

/// No slot.
pub(super) const NIL: u32 = u32::MAX;

/// One per slot; twelve bytes. Written by whoever holds the writers' lock, but for `state`, which workers write when they
/// observe a session's end.
#[derive(Default)]
#[repr(C)]
pub(super) struct Record {
    /// See [`State`].
    state: AtomicU32,
    /// Next in the slot's list: of the wheel, of retired, or of free slots.
    pub next: AtomicU32,
    /// Wheel: previous in the list. Retired: end, milliseconds, low 32 bits.
    pub prev: AtomicU32,
}

#[cfg(not(feature = "shuttle"))]
const _: () = assert!(size_of::<Record>() == 12);

/// Whose a session is and since when: a word in each of its two flows, free there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub id: SessionId,
    pub start: Timestamp,
    pub owner: u16,
}

impl Origin {
    /// For the forward flow: the id. For the reverse flow: the start in milliseconds (48 bits) and the owner (16).
    pub fn words(&self) -> [u64; 2] {
        [self.id.0, self.start.0 << 16 | u64::from(self.owner)]
    }

    pub fn from_words([id, rest]: [u64; 2]) -> Self {
        Self { id: SessionId(id), start: Timestamp(rest >> 16), owner: rest as u16 }
    }
}

/// What a slot is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing.
    Free = 0,
    /// A session that is in the index.
    Live = 1,
    /// Out of the index after FINs or RST.
    Ended = 2,
    /// Out of the index for its timeout.
    TimedOut = 3,
    /// Out of the index by request.
    Deleted = 4,
    /// Never was in the index as a whole; not reported.
    Aborted = 5,
}

/// A record's state word: timeout in seconds (22 bits), TCP state (3), a bit unused, three flags, phase (3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State(u32);

const TIMEOUT: u32 = (1 << 22) - 1;
const TCP: u32 = 7 << TCP_SHIFT;
const TCP_SHIFT: u32 = 22;
/// An IPv6 session.
pub(super) const V6: u32 = 1 << 26;
/// Its packets are counted beyond 32 bits: see [`Carry`].
pub(super) const CARRIED: u32 = 1 << 27;
/// Its collector has an IPv4 address.
pub(super) const COLLECTOR_V4: u32 = 1 << 28;
const PHASE_SHIFT: u32 = 29;

impl State {
    pub fn new(phase: Phase, timeout: u32, flags: u32) -> Self {
        Self((phase as u32) << PHASE_SHIFT | flags & (V6 | CARRIED | COLLECTOR_V4) | timeout & TIMEOUT)
    }

    pub fn timeout(self) -> u32 {
        self.0 & TIMEOUT
    }

    pub fn timeout_ms(self) -> u64 {
        u64::from(self.timeout()) * 1000
    }

    pub fn tcp(self) -> TcpState {
        TcpState::from_bits((self.0 & TCP) >> TCP_SHIFT)
    }

    pub fn has(self, flag: u32) -> bool {
        self.0 & flag != 0
    }

    pub fn phase(self) -> Phase {
        match self.0 >> PHASE_SHIFT {
            0 => Phase::Free,
            1 => Phase::Live,
            2 => Phase::Ended,
            3 => Phase::TimedOut,
            4 => Phase::Deleted,
            _ => Phase::Aborted,
        }
    }
}

impl Record {
    pub fn open(&self, state: State) {
        self.state.store(state.0, Relaxed);
    }

    pub fn state(&self) -> State {
        State(self.state.load(Acquire))
    }

    pub fn set_phase(&self, phase: Phase) {
        self.update(|state| state & !(7 << PHASE_SHIFT) | (phase as u32) << PHASE_SHIFT);
    }

    pub fn set_flag(&self, flag: u32) {
        self.state.fetch_or(flag, AcqRel);
    }

    /// Notes a TCP control packet: the state before and after. Whoever finds that it ended the session just now must tell
    /// [`Ended`](super::ended::Ended).
    pub fn observe(&self, reverse: bool, flags: TcpFlags) -> (TcpState, TcpState) {
        let (before, after) = self.update(|state| {
            let next = State(state).tcp().next(reverse, flags);
            state & !TCP | (next as u32) << TCP_SHIFT
        });
        (before.tcp(), after.tcp())
    }

    fn update(&self, change: impl Fn(u32) -> u32) -> (State, State) {
        let mut before = self.state.load(Acquire);
        loop {
            let after = change(before);
            match self.state.compare_exchange_weak(before, after, AcqRel, Acquire) {
                Ok(_) => return (State(before), State(after)),
                Err(now) => before = now,
            }
        }
    }
}

/// High 32 bits of the packet counters, for the few sessions that need them: one word per flow. The memory is taken only
/// where it is written.
pub(super) type Carry = Region<[AtomicU64; 2]>;
