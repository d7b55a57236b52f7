//! Sessions that have closed, kept until somebody has read them.

use conntrack::{CloseCode, Closed, SessionId};
use hashbrown::HashMap;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{broadcast, mpsc};

/// What the housekeeper reports, for three kinds of readers: a log that drains once ([`Drain`]), listeners that see all that
/// closes from now on ([`Self::watch`]), and whoever removed a session and waits for its final counters ([`Self::removed`]).
///
/// The log holds at most `capacity` records, those out with a reader included. When nobody reads, the oldest of the owner with
/// the most are dropped and counted ([`Self::dropped`]).
pub struct ClosedLog {
    log: Mutex<Log>,
    capacity: usize,
    dropped: AtomicU64,
    watchers: broadcast::Sender<Closed>,
    waiters: Mutex<HashMap<SessionId, VecDeque<mpsc::UnboundedSender<Closed>>>>,
    waiting: AtomicUsize,
}

/// Records added before the log is brought back to its capacity.
const TRIM: usize = 256;

#[derive(Default)]
struct Log {
    /// By owner; none is empty.
    queues: BTreeMap<u16, VecDeque<Closed>>,
    /// Records in all queues.
    len: usize,
    /// Records out with a [`Drain`]: they come back, or are confirmed.
    lent: usize,
}

impl Log {
    fn push(&mut self, record: Closed) {
        self.queues.entry(record.info.spec.owner).or_default().push_back(record);
        self.len += 1;
    }

    fn put_back(&mut self, record: Closed) {
        self.queues.entry(record.info.spec.owner).or_default().push_front(record);
        self.len += 1;
    }

    /// The queue of `owner`, or of anybody who has one.
    fn owner(&self, owner: Option<u16>) -> Option<u16> {
        match owner {
            Some(owner) => self.queues.contains_key(&owner).then_some(owner),
            None => self.queues.keys().next().copied(),
        }
    }

    /// Takes the oldest `n` of an owner who has that many.
    fn take(&mut self, owner: u16, n: usize, to: impl FnMut(Closed)) {
        let Some(queue) = self.queues.get_mut(&owner) else { return };
        queue.drain(..n).for_each(to);
        self.len -= n;
        if queue.is_empty() {
            self.queues.remove(&owner);
        }
    }

    fn count(&self, owner: Option<u16>) -> usize {
        owner.map_or(self.len, |owner| self.queues.get(&owner).map_or(0, VecDeque::len))
    }

    /// Drops records until `room` are left: the oldest of whoever has the most, so that one who does not read costs the
    /// others nothing. How many.
    fn trim(&mut self, room: usize) -> usize {
        let excess = self.len.saturating_sub(room);
        while self.len > room {
            let mut longest = (0, 0);
            let mut second = 0;
            for (&owner, queue) in &self.queues {
                if queue.len() > longest.1 {
                    (second, longest) = (longest.1, (owner, queue.len()));
                } else {
                    second = second.max(queue.len());
                }
            }
            let n = (longest.1 - second).max(1).min(self.len - room);
            self.take(longest.0, n, drop);
        }
        excess
    }
}

impl ClosedLog {
    /// A log of `capacity` records, and `watch_buffer` records a listener may be late by.
    pub fn new(capacity: usize, watch_buffer: usize) -> Arc<Self> {
        Arc::new(Self {
            log: Mutex::default(),
            capacity,
            dropped: AtomicU64::new(0),
            watchers: broadcast::Sender::new(watch_buffer.max(1)),
            waiters: Mutex::default(),
            waiting: AtomicUsize::new(0),
        })
    }

    /// Takes what has closed, in order.
    pub fn report(&self, closed: &[Closed]) {
        if closed.is_empty() {
            return;
        }
        self.answer_waiters(closed);
        if self.watchers.receiver_count() > 0 {
            for record in closed {
                // Fails only when the last listener has just gone.
                let _ = self.watchers.send(*record);
            }
        }
        self.append(closed);
    }

    /// Everything that closes from now on.
    pub fn watch(&self) -> broadcast::Receiver<Closed> {
        self.watchers.subscribe()
    }

    /// Runs `remove`; if it says that the session is gone, its record will be sent to `to`.
    pub fn removed(
        &self,
        id: SessionId,
        to: &mpsc::UnboundedSender<Closed>,
        remove: impl FnOnce() -> bool,
    ) -> bool {
        // Held over the removal, so that the record cannot be reported before somebody waits for it.
        let mut waiters = lock(&self.waiters);
        let removed = remove();
        if removed {
            waiters.entry(id).or_default().push_back(to.clone());
            self.waiting.fetch_add(1, Ordering::Release);
        }
        removed
    }

    /// Records that wait to be drained.
    pub fn len(&self) -> usize {
        lock(&self.log).len
    }

    /// Whether there is nothing to drain.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Listeners there are.
    pub fn watchers(&self) -> usize {
        self.watchers.receiver_count()
    }

    /// Records dropped because nobody drained them in time.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn answer_waiters(&self, closed: &[Closed]) {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut waiters = lock(&self.waiters);
        for record in closed.iter().filter(|record| record.code == CloseCode::Deleted) {
            let id = record.info.spec.id;
            let Some(queue) = waiters.get_mut(&id) else { continue };
            if let Some(waiter) = queue.pop_front() {
                // Fails when the caller gave up waiting; the log has the record.
                let _ = waiter.send(*record);
                self.waiting.fetch_sub(1, Ordering::Release);
            }
            if queue.is_empty() {
                waiters.remove(&id);
            }
        }
    }

    fn append(&self, closed: &[Closed]) {
        let mut log = lock(&self.log);
        let room = self.capacity.saturating_sub(log.lent);
        let mut lost = 0;
        for closed in closed.chunks(TRIM) {
            closed.iter().for_each(|record| log.push(*record));
            lost += log.trim(room);
        }
        drop(log);
        self.dropped.fetch_add(lost as u64, Ordering::Relaxed);
    }
}

/// Records on their way to one reader. What was taken and not [`confirmed`](Self::confirm) goes back to the front of the log
/// when this is dropped: a reader that breaks off halfway costs no record, whatever part of it the reader has seen.
pub struct Drain {
    log: Arc<ClosedLog>,
    owner: Option<u16>,
    taken: Vec<Closed>,
    remaining: usize,
}

impl Drain {
    /// Of what is in the log now, at most `limit` records; those of sessions of `owner`, if one is given.
    pub fn new(log: Arc<ClosedLog>, owner: Option<u16>, limit: usize) -> Self {
        let remaining = lock(&log.log).count(owner).min(limit);
        Self { log, owner, taken: Vec::new(), remaining }
    }

    /// The next records, at most `n`; empty when all have been taken.
    pub fn next_batch(&mut self, n: usize) -> &[Closed] {
        let from = self.taken.len();
        let mut log = lock(&self.log.log);
        let mut wanted = n.min(self.remaining);
        while wanted > 0
            && let Some(owner) = log.owner(self.owner)
        {
            let n = wanted.min(log.count(Some(owner)));
            log.take(owner, n, |record| self.taken.push(record));
            wanted -= n;
        }
        let n = self.taken.len() - from;
        log.lent += n;
        self.remaining = if n == 0 { 0 } else { self.remaining - n };
        &self.taken[from..]
    }

    /// Whether nothing has been taken (or all of it confirmed).
    pub fn is_unused(&self) -> bool {
        self.taken.is_empty()
    }

    /// Everything taken has arrived: forget it.
    pub fn confirm(&mut self) {
        lock(&self.log.log).lent -= self.taken.len();
        self.taken.clear();
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        if self.taken.is_empty() {
            return;
        }
        let mut log = lock(&self.log.log);
        log.lent -= self.taken.len();
        for record in self.taken.drain(..).rev() {
            log.put_back(record);
        }
    }
}

/// A poisoned lock means that another thread panicked; what it guards is sound after each statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "closed_tests.rs"]
mod tests;
