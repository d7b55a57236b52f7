//! Senders of frames in tunnels that were heard of lately: a worker's own memory, so that a packet of one of them does not ask
//! for the LIF of its VNI, nor tell the forwarding database and the neighbour table what they know.
//!
//! It holds for the second it is of, and only while no MAC moved and no neighbour changed: so all of them are heard of again
//! each second.

use crate::cache::{Cache, spread};
use crate::tunnel::Arrival;
use crate::wire::ethernet;
use conntrack::LifIndex;

/// Senders a worker remembers.
const SENDERS: usize = 1024;

/// See the module.
#[derive(Debug)]
pub struct Senders(Cache<Known, SENDERS>);

/// A sender, by all that is learned from its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// VTEP and VNI.
    network: u64,
    /// The MAC of who sent the tunnel packet, and the two bytes behind it.
    outer: u64,
    /// The same of the frame inside.
    inner: u64,
}

#[derive(Debug, Default)]
struct Known {
    outer: u64,
    inner: u64,
    lif: LifIndex,
}

impl Sender {
    /// Of a tunnel packet that begins with `head`; None if the frame's header is not all there.
    #[inline(always)]
    pub fn of(head: &[u8], arrival: &Arrival) -> Option<Self> {
        const SOURCE: usize = ethernet::LEN - 8;
        let word = |at: usize| head.get(at..)?.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes));
        Some(Self {
            network: u64::from(arrival.source) << 32 | u64::from(arrival.vni),
            outer: word(SOURCE)?,
            inner: word(arrival.headers + SOURCE)?,
        })
    }

    #[inline(always)]
    fn position(&self) -> usize {
        spread(self.inner ^ self.network.rotate_left(20))
    }
}

impl Senders {
    /// Nobody.
    pub fn new() -> Self {
        Self(Cache::new())
    }

    /// The LIF of a sender that was heard of.
    #[inline(always)]
    pub fn lif(&self, sender: &Sender, validity: u64) -> Option<LifIndex> {
        let known = self.0.get(sender.position(), sender.network, validity)?;
        (known.inner == sender.inner && known.outer == sender.outer).then_some(known.lif)
    }

    /// Notes that all has been learned from a packet of this sender, on this LIF.
    pub fn put(&mut self, sender: &Sender, validity: u64, lif: LifIndex) {
        let Sender { network, outer, inner } = *sender;
        self.0.put(sender.position(), network, validity, Known { outer, inner, lif });
    }
}
