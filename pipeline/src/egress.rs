//! Group 4, the end of every packet: sent, used up, or dropped and counted. What a port does not take is dropped and counted
//! there (`tx_dropped`), never waited for.

use crate::PortIndex;
use crate::batch::{Metas, Next};
use crate::counters::Other;
use crate::packet::{Io, PORT_BURST, Packet};
use crate::worker::{Context, Due};
use arrayvec::ArrayVec;

/// Empties `packets`.
#[inline(never)]
pub fn run<P: Packet, const N: usize>(
    cx: &Context<'_>,
    packets: &mut ArrayVec<P, N>,
    metas: &Metas,
    out: &mut Out<'_, P, impl Io<P>>,
) {
    if let Some(port) = common_port(packets, metas) {
        return out.send_all(cx, port, packets);
    }
    for (packet, meta) in packets.drain(..).zip(metas) {
        match meta.next {
            Next::Send => out.send(cx, meta.port, packet),
            Next::Consumed => cx.counters.other(Other::Consumed, 1),
            _ => cx.counters.drop(meta.reason),
        }
    }
}

/// The port that all packets are to be sent on, if it is the same.
#[inline(always)]
fn common_port<P>(packets: &[P], metas: &Metas) -> Option<PortIndex> {
    let metas = metas.get(..packets.len())?;
    let port = metas.first()?.port;
    metas.iter().all(|meta| meta.next == Next::Send && meta.port == port).then_some(port)
}

/// What stages that send need: the queues, the ports, and who is to be solicited.
pub struct Out<'a, P, I> {
    pub(crate) outbox: &'a mut Outbox<P>,
    pub(crate) io: &'a mut I,
    pub(crate) due: &'a mut Due,
}

impl<P: Packet, I: Io<P>> Out<'_, P, I> {
    /// Puts a packet in the queue of `port`.
    #[inline]
    pub fn send(&mut self, cx: &Context<'_>, port: PortIndex, packet: P) {
        self.outbox.send(cx, port, packet, self.io);
    }

    /// Sends all packets on `port`, behind what waits for it.
    #[inline]
    fn send_all<const N: usize>(&mut self, cx: &Context<'_>, port: PortIndex, packets: &mut ArrayVec<P, N>) {
        self.outbox.send_all(cx, port, packets, self.io);
    }

    /// Hands everything to the ports.
    #[inline]
    pub fn flush(&mut self, cx: &Context<'_>) {
        self.outbox.flush(cx, self.io);
    }
}

/// What waits for each port's queue, until all that was received together has passed.
#[derive(Debug)]
pub struct Outbox<P> {
    ports: Box<[Waiting<P>]>,
}

#[derive(Debug)]
struct Waiting<P> {
    packets: ArrayVec<P, PORT_BURST>,
    bytes: u64,
}

impl<P: Packet> Outbox<P> {
    /// Of that many ports.
    pub fn new(ports: usize) -> Self {
        Self { ports: (0..ports).map(|_| Waiting { packets: ArrayVec::new(), bytes: 0 }).collect() }
    }

    #[inline]
    fn send(&mut self, cx: &Context<'_>, port: PortIndex, packet: P, io: &mut impl Io<P>) {
        let Some(waiting) = self.ports.get_mut(usize::from(port.0)) else { return };
        if waiting.packets.is_full() {
            waiting.flush(cx, port, io);
        }
        waiting.bytes += packet.total_len() as u64;
        // There is room: it was just flushed if it was full.
        let _ = waiting.packets.try_push(packet);
    }

    /// They are handed over as they are, if nothing waits.
    #[inline]
    fn send_all<const N: usize>(
        &mut self,
        cx: &Context<'_>,
        port: PortIndex,
        packets: &mut ArrayVec<P, N>,
        io: &mut impl Io<P>,
    ) {
        let Some(waiting) = self.ports.get_mut(usize::from(port.0)) else { return packets.clear() };
        let bytes: u64 = packets.iter().map(|packet| packet.total_len() as u64).sum();
        if waiting.packets.is_empty() {
            return hand_over(cx, port, packets, bytes, io);
        }
        if waiting.packets.remaining_capacity() < packets.len() {
            waiting.flush(cx, port, io);
        }
        waiting.bytes += bytes;
        waiting.packets.extend(packets.drain(..));
    }

    #[inline]
    fn flush(&mut self, cx: &Context<'_>, io: &mut impl Io<P>) {
        for (port, waiting) in (0u8..).map(PortIndex).zip(&mut self.ports) {
            if !waiting.packets.is_empty() {
                waiting.flush(cx, port, io);
            }
        }
    }
}

impl<P: Packet> Waiting<P> {
    #[inline]
    fn flush(&mut self, cx: &Context<'_>, port: PortIndex, io: &mut impl Io<P>) {
        hand_over(cx, port, &mut self.packets, self.bytes, io);
        self.bytes = 0;
    }
}

/// Gives packets of `bytes` together to the port's queue; drops and counts what it does not take.
#[inline]
fn hand_over<P: Packet, const N: usize>(
    cx: &Context<'_>,
    port: PortIndex,
    packets: &mut ArrayVec<P, N>,
    bytes: u64,
    io: &mut impl Io<P>,
) {
    let offered = packets.len() as u64;
    io.transmit(port, packets);
    let left = packets.len() as u64;
    let left_bytes: u64 = packets.iter().map(|packet| packet.total_len() as u64).sum();
    cx.counters.port_tx(port, offered - left, bytes - left_bytes, left);
    packets.clear();
}
