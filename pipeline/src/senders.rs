//! Senders of frames in tunnels that were heard of lately: a worker's own memory, so that a packet of one of them does not ask
//! for the LIF of its VNI, nor tell the forwarding database and the neighbour table what they know.
//!
//! It holds for the second it is of, and only while no MAC moved and no neighbour changed: so all of them are heard of again
//! each second.

use crate::cache::{Cache, spread};
use crate::tunnel::{Arrival, Source};
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
    /// VTEP and VNI; of IPv6 the first half of the VTEP's address.
    network: u64,
    /// Of IPv6 the other half, and the VNI.
    rest: Option<(u64, u32)>,
    /// The MAC of who sent the tunnel packet, and the two bytes behind it.
    outer: u64,
    /// The same of the frame inside.
    inner: u64,
}

#[derive(Debug, Default)]
struct Known {
    rest: (u64, u32),
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
        let (network, rest) = match arrival.source {
            Source::V4(source) => (u64::from(source) << 32 | u64::from(arrival.vni), None),
            Source::V6([first, second]) => (first, Some((second, arrival.vni))),
        };
        Some(Self { network, rest, outer: word(SOURCE)?, inner: word(arrival.headers + SOURCE)? })
    }

    #[inline(always)]
    fn position(&self) -> usize {
        let rest = self.rest.map_or(0, |(second, vni)| second ^ u64::from(vni) << 32);
        spread(self.inner ^ (self.network ^ rest).rotate_left(20))
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
        // An underlay is of one family: over IPv4 there is no rest to compare.
        let is_same = sender.rest.is_none_or(|rest| known.rest == rest)
            && known.inner == sender.inner
            && known.outer == sender.outer;
        is_same.then_some(known.lif)
    }

    /// Notes that all has been learned from a packet of this sender, on this LIF.
    pub fn put(&mut self, sender: &Sender, validity: u64, lif: LifIndex) {
        let Sender { network, rest, outer, inner } = *sender;
        let rest = rest.unwrap_or_default();
        self.0.put(sender.position(), network, validity, Known { rest, outer, inner, lif });
    }
}
