//! When a slot may be used again: epoch-based reclamation.
//!
//! A reader pins the current epoch for the length of a burst. What a writer takes out of the index belongs to the epoch of
//! that moment; the epoch then moves on, and once no reader is pinned to it or an earlier one, no reader can still hold
//! what was taken out. Idle readers are pinned to nothing and hold up nobody.
//!
//! Why it is right: a reader stores its pin, passes a SeqCst fence, then loads the index; a writer clears the index,
//! passes a SeqCst fence, then loads the pins. So the writer sees the pin, or the reader sees the cleared index. A reader
//! that reads the later epoch (Acquire) has with it all that was written before the epoch moved (Release).

use crate::sync::{AtomicBool, AtomicU64, Ordering::*, fence};
use crossbeam::utils::CachePadded;

const IDLE: u64 = 0;

/// The epoch, and a pin per reader.
pub(super) struct Epochs {
    current: CachePadded<AtomicU64>,
    pins: Box<[CachePadded<Pin>]>,
}

#[derive(Default)]
struct Pin {
    epoch: AtomicU64,
    taken: AtomicBool,
}

impl Epochs {
    pub fn new(readers: usize) -> Self {
        Self {
            current: CachePadded::new(AtomicU64::new(IDLE + 1)),
            pins: (0..readers).map(|_| CachePadded::default()).collect(),
        }
    }

    pub fn register(&self) -> Option<usize> {
        self.pins.iter().position(|pin| pin.taken.compare_exchange(false, true, AcqRel, Relaxed).is_ok())
    }

    pub fn unregister(&self, reader: usize) {
        self.unpin(reader);
        if let Some(pin) = self.pins.get(reader) {
            pin.taken.store(false, Release);
        }
    }

    #[inline]
    pub fn pin(&self, reader: usize) {
        if let Some(pin) = self.pins.get(reader) {
            pin.epoch.store(self.current.load(Acquire), Release);
            fence(SeqCst);
        }
    }

    #[inline]
    pub fn unpin(&self, reader: usize) {
        if let Some(pin) = self.pins.get(reader) {
            pin.epoch.store(IDLE, Release);
        }
    }

    pub fn current(&self) -> u64 {
        self.current.load(Relaxed)
    }

    /// Begins the next epoch.
    pub fn advance(&self) {
        self.current.fetch_add(1, AcqRel);
    }

    /// The earliest epoch that a reader is pinned to; what belongs to an earlier one is held by nobody.
    pub fn horizon(&self) -> u64 {
        fence(SeqCst);
        let pinned = self.pins.iter().map(|pin| pin.epoch.load(Acquire)).filter(|&epoch| epoch != IDLE);
        pinned.min().unwrap_or(u64::MAX)
    }
}
