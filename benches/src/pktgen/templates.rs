//! Frames of all flows: sending one is a copy of what all have alike, what is the flow's own, and a stamp.

use super::flows::{Session, Tuple};
use super::frame::{Content, Encapsulation, Sender, Shape, build, fold, halves, sum};
use super::profile::{Direction, PAYLOAD, Profile, Protocol, Side};

/// Tells the generator's frames from others.
pub const MAGIC: u8 = 0xa7;

/// What each frame carries behind its L4 header, in this machine's byte order: time, sequence, flow, magic, trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// TSC when the burst was made.
    pub time: u64,
    /// Number within the flow, from 0.
    pub sequence: u32,
    /// Which flow.
    pub flow: u32,
    /// Which trial.
    pub trial: u8,
}

impl Stamp {
    fn bytes(self) -> [u8; PAYLOAD] {
        let mut bytes = [0; PAYLOAD];
        bytes[..8].copy_from_slice(&self.time.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        bytes[12..16].copy_from_slice(&self.flow.to_ne_bytes());
        (bytes[16], bytes[17]) = (MAGIC, self.trial);
        bytes
    }

    /// From a payload; None if it is none of the generator's.
    #[inline]
    pub fn read(payload: &[u8]) -> Option<Self> {
        let bytes = payload.first_chunk::<PAYLOAD>()?;
        if bytes[16] != MAGIC {
            return None;
        }
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let time = bytes.first_chunk().map_or(0, |time| u64::from_ne_bytes(*time));
        Some(Self { time, sequence: word(8), flow: word(12), trial: bytes[17] })
    }
}

/// The sender's and the receiver's side of a way.
pub fn sides(profile: &Profile, way: Direction) -> (&Side, &Side) {
    match way {
        Direction::Reverse => (&profile.outside, &profile.inside),
        Direction::Forward | Direction::Both => (&profile.inside, &profile.outside),
    }
}

/// All frames, in the order they are sent: every flow once, and again. A flow has what its frames differ in, 16 bytes, and not
/// whole frames: so that the generator of a million flows leaves the caches to others.
pub struct Templates {
    flows: Vec<Flow>,
    /// By turn's size and way.
    bases: Vec<Base>,
    /// By turn: the first of its bases.
    turns: Vec<usize>,
    ways: usize,
    udp: bool,
    position: usize,
    sequence: u32,
    turn: usize,
}

/// What is of one flow.
#[derive(Clone, Copy)]
struct Flow {
    addresses: u64,
    ports: u32,
    /// What these add to the sum of the IP header,
    ip: u16,
    /// and to that which the checksum of TCP, UDP or ICMP covers.
    l4: u16,
}

/// What all frames of a way and a size have alike.
struct Base {
    shape: Shape,
    /// Headers and stamp, without addresses and ports; what follows is zero.
    head: Vec<u8>,
    len: usize,
    /// Sums that the checksums cover, both folded.
    ip: u16,
    l4: u16,
}

impl Templates {
    /// Of all flows of `sessions`, in that order.
    pub fn new(profile: &Profile, sessions: &[Session]) -> Self {
        let ways = profile.direction.ways();
        let mut sizes: Vec<u16> = profile.frame.turns().to_vec();
        sizes.sort_unstable();
        sizes.dedup();
        let bases = sizes.iter().flat_map(|size| ways.iter().map(|way| Base::new(profile, *way, *size)));
        let turn = |size| sizes.binary_search(size).unwrap_or_default() * ways.len();
        let flow = |session| ways.iter().map(move |way| Flow::new(profile, *way, session));
        Self {
            flows: sessions.iter().flat_map(flow).collect(),
            bases: bases.collect(),
            turns: profile.frame.turns().iter().map(turn).collect(),
            ways: ways.len(),
            udp: profile.protocol == Protocol::Udp,
            position: 0,
            sequence: 0,
            turn: 0,
        }
    }

    /// How many flows there are.
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Bytes of the longest frame.
    pub fn longest(&self) -> usize {
        self.bases.iter().map(|base| base.len).max().unwrap_or_default()
    }

    /// From the first flow on, with sequence number 0.
    pub fn restart(&mut self) {
        (self.position, self.sequence, self.turn) = (0, 0, 0);
    }

    /// Writes the next frame into what `room` gives for its length, stamped with `time` and `trial`. False, and the frame
    /// stays the next, if there is no room.
    #[inline]
    pub fn write<'b>(
        &mut self,
        time: u64,
        trial: u8,
        room: impl FnOnce(usize) -> Option<&'b mut [u8]>,
    ) -> bool {
        let way = if self.ways == 2 { self.position & 1 } else { 0 };
        let base = &self.bases[self.turns[self.turn] + way];
        let flow = self.flows[self.position];
        let Some(frame) = room(base.len) else { return false };
        base.write(
            frame,
            &flow,
            self.udp,
            Stamp { time, sequence: self.sequence, flow: self.position as u32, trial },
        );
        self.turn = if self.turn + 1 == self.turns.len() { 0 } else { self.turn + 1 };
        self.position += 1;
        if self.position == self.flows.len() {
            self.position = 0;
            self.sequence = self.sequence.wrapping_add(1);
        }
        true
    }
}

impl Flow {
    fn new(profile: &Profile, way: Direction, session: &Session) -> Self {
        let encapsulation = Encapsulation::new(profile, sides(profile, way).0, Sender::Us);
        let shape = encapsulation.shape(profile.protocol);
        let frame = template(profile, way, &encapsulation, session, profile.frame.turns()[0]);
        let (addresses, ports) = shape.tuple(&frame);
        // ICMP's checksum has no pseudo-header.
        let pseudo = if profile.protocol == Protocol::Icmp { 0 } else { halves(addresses) };
        Self { addresses, ports, ip: fold(halves(addresses)), l4: fold(pseudo + u64::from(ports)) }
    }
}

impl Base {
    fn new(profile: &Profile, way: Direction, size: u16) -> Self {
        let encapsulation = Encapsulation::new(profile, sides(profile, way).0, Sender::Us);
        let shape = encapsulation.shape(profile.protocol);
        let nobody = Session { original: Tuple::default(), translated: Tuple::default() };
        let mut head = template(profile, way, &encapsulation, &nobody, size);
        let len = head.len();
        let sum_at = |at: usize| !u16::from_ne_bytes([head[at], head[at + 1]]);
        let stamp = Stamp { time: 0, sequence: 0, flow: 0, trial: 0 }.bytes();
        // The payload was zero: a stamp adds its own sum.
        let (ip, l4) = (sum_at(shape.ip + 10), fold(u64::from(sum_at(shape.checksum)) + sum(&stamp)));
        head[shape.payload..shape.payload + PAYLOAD].copy_from_slice(&stamp);
        head.truncate(shape.payload + PAYLOAD);
        Self { shape, head, len, ip, l4 }
    }

    #[inline]
    fn write(&self, frame: &mut [u8], flow: &Flow, udp: bool, stamp: Stamp) {
        let shape = &self.shape;
        copy(frame, &self.head);
        if let Some(outer) = shape.outer {
            let entropy = flow.ports as u16 ^ (flow.addresses >> 16) as u16 | u16::from_ne_bytes([0xc0, 0]);
            put(frame, outer + 20, entropy.to_ne_bytes());
        }
        put(frame, shape.ip + 10, (!fold(u64::from(self.ip) + u64::from(flow.ip))).to_ne_bytes());
        put(frame, shape.ip + 12, flow.addresses.to_ne_bytes());
        put(frame, shape.ports, flow.ports.to_ne_bytes());
        put(frame, shape.payload, stamp.time.to_ne_bytes());
        put(frame, shape.payload + 8, stamp.sequence.to_ne_bytes());
        put(frame, shape.payload + 12, stamp.flow.to_ne_bytes());
        put(frame, shape.payload + 17, [stamp.trial]);
        let covered = u64::from(self.l4)
            + u64::from(flow.l4)
            + halves(stamp.time)
            + u64::from(stamp.sequence)
            + u64::from(stamp.flow)
            + u64::from(u16::from_ne_bytes([0, stamp.trial]));
        let checksum = !fold(covered);
        let checksum = if checksum == 0 && udp { 0xffff } else { checksum };
        put(frame, shape.checksum, checksum.to_ne_bytes());
    }
}

#[inline]
fn put<const N: usize>(frame: &mut [u8], at: usize, bytes: [u8; N]) {
    frame[at..at + N].copy_from_slice(&bytes);
}

/// Copies a head to the front of a frame, and makes the rest zero. Nearly all are a little over 64 bytes long, and a copy of
/// known length is twice as fast.
#[inline]
fn copy(frame: &mut [u8], head: &[u8]) {
    let mut done = 0;
    if let (Some(to), Some(from)) = (frame.first_chunk_mut::<64>(), head.first_chunk::<64>()) {
        *to = *from;
        done = 64;
    }
    if head.len() > done {
        frame[done..head.len()].copy_from_slice(&head[done..]);
    }
    if frame.len() > head.len() {
        frame[head.len()..].fill(0);
    }
}

fn template(
    profile: &Profile,
    way: Direction,
    encapsulation: &Encapsulation,
    session: &Session,
    size: u16,
) -> Vec<u8> {
    let from = sides(profile, way).0;
    let reverse = way == Direction::Reverse;
    let content = Content {
        macs: [from.gateway_mac.0, from.mac.0],
        tuple: if reverse { session.translated.swapped() } else { session.original },
        protocol: profile.protocol,
        reply: reverse,
        ttl: 64,
        size,
    };
    build(encapsulation, &content)
}

/// Frames that tell switches, and gateways that learn, where the hosts are: broadcasts of the local experimental Ethertype,
/// one from each side.
pub fn announcements(profile: &Profile) -> Vec<Vec<u8>> {
    let announce = |side: &Side| {
        let encapsulation = Encapsulation::new(profile, side, Sender::Us);
        let content = Content {
            macs: [[0xff; 6], side.mac.0],
            tuple: Tuple::default(),
            protocol: Protocol::Udp,
            reply: false,
            ttl: 64,
            size: 64,
        };
        let mut frame = build(&encapsulation, &content);
        let ip = encapsulation.shape(Protocol::Udp).ip;
        frame[ip - 2..ip].copy_from_slice(&[0x88, 0xb5]);
        frame[ip..].fill(0);
        frame
    };
    [&profile.inside, &profile.outside].map(announce).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pktgen::flows::sessions;
    use crate::pktgen::frame::l4_sum;
    use crate::pktgen::profile::tests::VLAN_TO_VXLAN;
    use crate::pktgen::profile::{Mix, Size};

    #[test]
    fn every_frame_is_whole_whatever_its_stamp() {
        let mut profile = Profile::parse(VLAN_TO_VXLAN).unwrap();
        profile.sessions = 7;
        for protocol in [Protocol::Udp, Protocol::Icmp, Protocol::Tcp] {
            for size in [Size::Fixed(80), Size::Mix(Mix::Imix)] {
                if protocol == Protocol::Tcp && size == Size::Mix(Mix::Imix) {
                    continue;
                }
                profile.direction = Direction::Both;
                (profile.protocol, profile.frame) = (protocol, size);
                let mut templates = Templates::new(&profile, &sessions(&profile).unwrap());
                let mut seen = vec![0_u32; templates.flows()];
                for n in 0..140_u64 {
                    let mut buffer = vec![0xee; 2000];
                    let mut length = 0;
                    let time = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    assert!(templates.write(time, n as u8, |len| {
                        length = len;
                        buffer.get_mut(..len)
                    }));
                    let shape = templates.bases[(n % 2) as usize].shape;
                    let frame = &buffer[..length];
                    let stamp = Stamp::read(&frame[shape.payload..]).unwrap();
                    assert_eq!((stamp.time, stamp.trial), (time, n as u8));
                    assert_eq!(stamp.sequence, seen[stamp.flow as usize]);
                    seen[stamp.flow as usize] += 1;
                    assert_eq!(fold(l4_sum(frame, &shape, protocol)), 0xffff, "{protocol:?} {n}");
                    assert_eq!(fold(sum(&frame[shape.ip..shape.ip + 20])), 0xffff);
                }
                assert!(seen.iter().all(|count| *count == 10));
            }
        }
    }
}
