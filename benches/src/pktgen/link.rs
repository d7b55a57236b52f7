//! What leads to the device under test and back: DPDK ports, or a memif without a driver between.

use super::check::Checker;
use super::templates::Templates;
use anyhow::{Context, Result, ensure};
use arrayvec::ArrayVec;
use dpdk::{MEMIF_BURST, Mbuf, Memif, Mempool, RxQueue, TxQueue};

/// Frames handled together.
pub const BURST: usize = MEMIF_BURST;

/// A way to the device and back.
pub enum Link {
    /// By ports of DPDK's.
    Ports(Box<Ports>),
    /// In place: the generator's work is half of what it is with a driver.
    Memif(Memif),
}

/// Queues, and the buffers between.
pub struct Ports {
    tx: TxQueue,
    rx: Vec<RxQueue>,
    pool: Mempool,
    fresh: ArrayVec<Mbuf, BURST>,
    arrived: ArrayVec<Mbuf, BURST>,
}

impl Ports {
    /// To the device by `tx`, from it by `rx`; frames are made in buffers of `pool`.
    pub fn new(tx: TxQueue, rx: Vec<RxQueue>, pool: Mempool) -> Self {
        Self { tx, rx, pool, fresh: ArrayVec::new(), arrived: ArrayVec::new() }
    }
}

impl From<Ports> for Link {
    fn from(ports: Ports) -> Self {
        Self::Ports(Box::new(ports))
    }
}

impl From<Memif> for Link {
    fn from(memif: Memif) -> Self {
        Self::Memif(memif)
    }
}

impl Link {
    /// Makes up to `count` frames and sends them, behind those that wait; how many were made. What a port does not take
    /// waits.
    #[inline]
    pub fn send(&mut self, templates: &mut Templates, count: usize, now: u64, trial: u8) -> Result<usize> {
        match self {
            Self::Ports(ports) => ports.send(templates, count, now, trial),
            Self::Memif(memif) => Ok(memif.send(count, |buffer| {
                let mut len = 0;
                templates.write(now, trial, |wanted| {
                    len = wanted;
                    buffer.get_mut(..wanted)
                });
                len
            })),
        }
    }

    /// Sends one frame.
    pub fn send_one(&mut self, frame: &[u8]) -> Result<()> {
        match self {
            Self::Ports(ports) => {
                let mut burst: ArrayVec<Mbuf, 1> = ArrayVec::new();
                burst.push(Mbuf::from_slice(&ports.pool, frame).context("the generator's pool is empty")?);
                ports.tx.tx_burst(&mut burst);
            }
            Self::Memif(memif) => {
                memif.send(1, |buffer| {
                    buffer[..frame.len()].copy_from_slice(frame);
                    frame.len()
                });
            }
        }
        Ok(())
    }

    /// Whether sending or receiving may take a while: drivers of kernel interfaces make system calls.
    pub fn calls_system(&self) -> bool {
        matches!(self, Self::Ports(_))
    }

    /// Whether the other end is there still. Ports do not tell.
    pub fn is_connected(&self) -> bool {
        match self {
            Self::Ports(_) => true,
            Self::Memif(memif) => memif.is_connected(),
        }
    }

    /// That frames of this many bytes can be sent.
    pub fn check_room(&self, longest: usize) -> Result<()> {
        let room = match self {
            Self::Ports(ports) => usize::from(ports.pool.data_room()),
            Self::Memif(memif) => memif.buffer(),
        };
        ensure!(longest <= room, "frames have up to {longest} bytes, a buffer of the generator's has {room}");
        Ok(())
    }

    /// Frames made that wait to be sent.
    #[inline]
    pub fn waiting(&self) -> usize {
        if let Self::Ports(ports) = self { ports.fresh.len() } else { 0 }
    }

    /// Gives those up; how many.
    #[inline]
    pub fn give_up(&mut self) -> usize {
        let Self::Ports(ports) = self else { return 0 };
        let count = ports.fresh.len();
        dpdk::free_burst(&mut ports.fresh);
        count
    }

    /// Whether at least `count` frames have arrived, or that cannot be told.
    #[inline]
    pub fn has(&self, count: usize) -> bool {
        if let Self::Memif(memif) = self { memif.arrived() >= count } else { true }
    }

    /// Has frames that have arrived checked; how many.
    #[inline]
    pub fn receive(&mut self, checker: &mut Checker) -> usize {
        match self {
            Self::Ports(ports) => ports.receive(checker),
            Self::Memif(memif) => memif.receive(|frames| checker.burst(dpdk::tsc(), frames)),
        }
    }
}

impl Ports {
    #[inline]
    fn send(&mut self, templates: &mut Templates, count: usize, now: u64, trial: u8) -> Result<usize> {
        let waiting = self.fresh.len();
        let count = count.min(BURST - waiting);
        // None, if all buffers are on their way.
        let made = if self.pool.alloc_bulk(count, &mut self.fresh) { count } else { 0 };
        for mbuf in &mut self.fresh[waiting..] {
            let written = templates.write(now, trial, |len| mbuf.append(len));
            ensure!(written, "a frame is longer than a buffer of the generator's pool");
        }
        if !self.fresh.is_empty() {
            self.tx.tx_burst(&mut self.fresh);
        }
        Ok(made)
    }

    #[inline]
    fn receive(&mut self, checker: &mut Checker) -> usize {
        let rx = self.rx.iter_mut();
        let count = rx.map(|queue| queue.rx_burst(&mut self.arrived)).sum();
        if count > 0 {
            let now = dpdk::tsc();
            for mbuf in &mut self.arrived {
                // Frames are looked at in one piece; buffers have room for them.
                if mbuf.nb_segs() > 1 {
                    mbuf.linearize();
                }
                mbuf.prefetch_data();
            }
            let frames: ArrayVec<&[u8], BURST> = self.arrived.iter().map(Mbuf::data).collect();
            checker.burst(now, &frames);
            drop(frames);
            dpdk::free_burst(&mut self.arrived);
        }
        count
    }
}
