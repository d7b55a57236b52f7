//! Packets of known and of unknown flows at a rate, over a memif, each told apart.

use super::bed::SESSIONS;
use crate::hotpath::Frames;
use crate::{Stand, traffic};
use anyhow::{Result, ensure};
use benches::devices::memif_client;
use conntrack::Tuple;
use dpdk::Memif;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Where UDP begins in a frame of [`traffic`]'s.
const UDP: usize = 18 + 20;
/// Bytes of such a frame when it comes back in its tunnel without its tag, and where the UDP payload begins.
const LEN_BACK: usize = 54 + 60;
const PAYLOAD_BACK: usize = 54 + 14 + 20 + 8;
/// Packets made together, at most: a share of a ring.
const MOST: usize = 64;
/// Fewer wait for more.
const LEAST: usize = 16;
/// Longer from turn to turn, in seconds, and this thread did not run: no catching up.
const HELD_UP: f64 = 200e-6;
/// Nothing has come for so long: nothing is on its way.
const PATIENCE: Duration = Duration::from_millis(100);

/// Packets a second.
#[derive(Clone, Copy)]
pub struct Rates {
    /// Of flows that have sessions.
    pub known: f64,
    /// Of flows that have none, no two packets of one.
    pub unknown: f64,
}

/// Packets of one sort.
#[derive(Clone, Copy, Default)]
pub struct Sent {
    /// That were due.
    pub offered: u64,
    /// Of those, taken by the ring; for others there was no room.
    pub taken: u64,
}

/// What came of a run.
pub struct Outcome {
    pub known: Sent,
    pub unknown: Sent,
    /// Seconds of sending, without those in which this thread did not run.
    pub seconds: f64,
    /// Of the known packets, in the order they were due: whether it came back.
    pub back: Vec<bool>,
    /// The first of them that was due after the silence.
    pub after_silence: usize,
}

impl Outcome {
    /// Known packets that came back.
    pub fn received(&self) -> u64 {
        self.back.iter().filter(|back| **back).count() as u64
    }

    /// Share of the known packets that did not.
    pub fn lost(&self) -> f64 {
        1.0 - self.received() as f64 / self.known.offered.max(1) as f64
    }
}

/// The sender and receiver.
pub struct Source {
    memif: Memif,
    hz: f64,
    frames: Frames,
    stranger: Vec<u8>,
    strangers: u32,
}

impl Source {
    /// To a gateway with the first [`SESSIONS`] sessions of [`traffic`].
    pub fn connect(stand: &Stand, socket: &str) -> Result<Self> {
        let mut memif = memif_client(socket, 1, 0)?;
        let hello = traffic::hello();
        memif.send(1, |buffer| {
            buffer[..hello.len()].copy_from_slice(&hello);
            hello.len()
        });
        let stranger = Tuple { source: Ipv4Addr::new(10, 200, 0, 1).into(), ..traffic::session(0).original };
        let mut source = Self {
            memif,
            hz: dpdk::tsc_hz(&stand.eal) as f64,
            frames: Frames::new(SESSIONS),
            stranger: traffic::frame_of(&stranger),
            strangers: 0,
        };
        source.drain(&mut Vec::new())?;
        Ok(source)
    }

    /// Sends at these rates for so many seconds. In those of `silence` it takes nothing from its ring.
    pub fn run(&mut self, rates: Rates, seconds: f64, silence: Range<f64>) -> Result<Outcome> {
        let rate = rates.known + rates.unknown;
        let mut run = Outcome {
            known: Sent::default(),
            unknown: Sent::default(),
            seconds: 0.0,
            back: Vec::with_capacity((rates.known * seconds) as usize + MOST),
            after_silence: 0,
        };
        let mut mix = Mix { share: rates.known / rate, sum: 0.0 };
        let (mut last, mut ticks, mut given) = (dpdk::tsc(), 0.0, 0_u64);
        while run.seconds < seconds {
            let now = dpdk::tsc();
            let step = now.saturating_sub(last) as f64;
            last = now;
            ticks += if step > HELD_UP * self.hz { 0.0 } else { step };
            run.seconds = ticks / self.hz;
            if run.seconds < silence.end {
                run.after_silence = run.back.len();
            }
            let due = (run.seconds * rate) as u64 - given;
            if due >= LEAST as u64 {
                let count = due.min(MOST as u64) as usize;
                self.offer(count, &mut mix, &mut run);
                given += count as u64;
            }
            if !silence.contains(&run.seconds) {
                self.receive(&mut run.back)?;
            }
        }
        Ok(run)
    }

    #[inline]
    fn offer(&mut self, count: usize, mix: &mut Mix, run: &mut Outcome) {
        let Self { memif, frames, stranger, strangers, .. } = self;
        let mut taken = [0, 0];
        let made = memif.send(count, |buffer| {
            let is_known = mix.next_is_known();
            if is_known {
                buffer[..64].copy_from_slice(frames.next_frame());
                let number = run.back.len() as u32;
                buffer[UDP + 8..UDP + 12].copy_from_slice(&number.to_ne_bytes());
                run.back.push(false);
            } else {
                buffer[..64].copy_from_slice(stranger);
                buffer[UDP..UDP + 4].copy_from_slice(&strangers.to_ne_bytes());
                *strangers = strangers.wrapping_add(1);
            }
            // None: the payload is another.
            buffer[UDP + 6..UDP + 8].fill(0);
            taken[usize::from(is_known)] += 1;
            64
        });
        let mut refused = [0, 0];
        for _ in made..count {
            let is_known = mix.next_is_known();
            refused[usize::from(is_known)] += 1;
            if is_known {
                run.back.push(false);
            }
        }
        for (sent, n) in [(&mut run.unknown, 0), (&mut run.known, 1)] {
            sent.taken += taken[n];
            sent.offered += taken[n] + refused[n];
        }
    }

    /// How many.
    #[inline]
    fn receive(&mut self, back: &mut [bool]) -> Result<usize> {
        let mut wrong = 0;
        let count = self.memif.receive(|frames| {
            for frame in frames {
                wrong += usize::from(!note(frame, back));
            }
        });
        ensure!(wrong == 0, "{wrong} of {count} packets came back twice, or as they should not");
        Ok(count)
    }

    /// Takes what still comes, until nothing has for a while.
    pub fn drain(&mut self, back: &mut [bool]) -> Result<()> {
        let mut last = Instant::now();
        while last.elapsed() < PATIENCE {
            if self.receive(back)? > 0 {
                last = Instant::now();
            }
        }
        Ok(())
    }
}

/// Notes that a packet came back. Whether it is one that was sent, translated, in its tunnel, and the first of its number.
#[inline]
fn note(frame: &[u8], back: &mut [bool]) -> bool {
    let is_right =
        frame.len() == LEN_BACK && frame[12..16] == [0x81, 0, 0, 2] && frame[54 + 26..54 + 28] == [0xcb, 0];
    let number = frame.get(PAYLOAD_BACK..).and_then(|payload| payload.first_chunk());
    let place = number.and_then(|number| back.get_mut(u32::from_ne_bytes(*number) as usize));
    is_right && place.is_some_and(|place| !std::mem::replace(place, true))
}

/// Which packets are of known flows: their share of all, evenly.
struct Mix {
    share: f64,
    sum: f64,
}

impl Mix {
    #[inline]
    fn next_is_known(&mut self) -> bool {
        self.sum += self.share;
        let is_known = self.sum >= 1.0;
        self.sum -= f64::from(u8::from(is_known));
        is_known
    }
}
