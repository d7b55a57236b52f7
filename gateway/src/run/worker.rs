//! A worker's loop.

use super::worker_clock::WorkerClock;
use crate::frame::Frame;
use arrayvec::ArrayVec;
use dpdk::{Mbuf, Mempool, RxQueue, TxQueue};
use pipeline::{PORT_BURST, PortIndex, Worker};
use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Nanoseconds between two turns of what is due by time.
const TICK: u64 = 1_000_000;
/// Polls in vain before a worker that may sleep does.
const PATIENCE: u32 = 1024;

/// Polls every port's queue until told to stop. While packets come it makes no system call.
pub(super) fn poll(
    mut worker: Worker<Frame>,
    mut rx: Vec<(PortIndex, RxQueue)>,
    mut io: Io,
    mut clock: WorkerClock,
    idle: Duration,
    stop: &AtomicBool,
) {
    let mut packets = ArrayVec::<Frame, PORT_BURST>::new();
    let (mut due, mut vain) = (0, 1_u32);
    let mut last = 0;
    loop {
        let now = clock.now_nanos();
        if vain == 0 {
            worker.count_busy(now - last);
        }
        last = now;
        let mut busy = false;
        for (port, queue) in &mut rx {
            if queue.rx_burst(&mut packets) > 0 {
                busy = true;
                worker.process(*port, &mut packets, now, &mut io);
            }
        }
        if now >= due {
            if stop.load(Ordering::Acquire) {
                return;
            }
            worker.tick(now, &mut io);
            due = now + TICK;
        }
        vain = if busy { 0 } else { vain.saturating_add(1) };
        if vain > PATIENCE && !idle.is_zero() {
            std::thread::sleep(idle);
        } else if vain > 0 {
            spin_loop();
        }
    }
}

/// A worker's transmit queues, by port, and the pool.
pub(super) struct Io {
    pool: Mempool,
    tx: Vec<TxQueue>,
}

impl Io {
    pub(super) fn new(pool: Mempool, tx: Vec<TxQueue>) -> Self {
        Self { pool, tx }
    }
}

impl pipeline::Io<Frame> for Io {
    #[inline]
    fn transmit<const N: usize>(&mut self, port: PortIndex, packets: &mut ArrayVec<Frame, N>) {
        if let Some(queue) = self.tx.get_mut(usize::from(port.0)) {
            queue.tx_burst(packets);
        }
    }

    #[inline]
    fn allocate(&mut self) -> Option<Frame> {
        self.pool.alloc().map(|mbuf| Frame::new(mbuf, ()))
    }

    /// Shares the body; queues that cannot send chains copy it when they send it.
    fn duplicate(&mut self, packet: &Frame, headers: usize) -> Option<Frame> {
        Mbuf::share(&self.pool, packet.mbuf(), headers).map(|mbuf| Frame::new(mbuf, ()))
    }
}
