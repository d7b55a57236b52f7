//! Frames of all flows, built once; sending one is a copy and a stamp.

use super::flows::Session;
use super::frame::{Content, Encapsulation, Sender, Shape, build, fold, sum};
use super::permutation::Permutation;
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

/// All frames, in the order they are sent: every flow once, pseudo-randomly, and again.
pub struct Templates {
    /// Headers and stamp of each flow's frame, by turn's size and position; what is behind them is zero.
    sets: Vec<Vec<u8>>,
    /// By turn: which set, and the frame's bytes for each way.
    turns: Vec<(usize, [usize; 2])>,
    /// By way.
    shapes: Vec<Shape>,
    udp: bool,
    stride: usize,
    flows: usize,
    position: usize,
    sequence: u32,
    turn: usize,
}

impl Templates {
    /// Of all flows of `sessions`.
    pub fn new(profile: &Profile, sessions: &[Session]) -> Self {
        let ways = profile.direction.ways();
        let encapsulations: Vec<_> =
            ways.iter().map(|way| Encapsulation::new(profile, sides(profile, *way).0, Sender::Us)).collect();
        let shapes: Vec<_> = encapsulations.iter().map(|e| e.shape(profile.protocol)).collect();
        let stride = shapes.iter().map(|shape| shape.payload + PAYLOAD).max().unwrap_or_default();
        let mut sizes: Vec<u16> = profile.frame.turns().to_vec();
        sizes.sort_unstable();
        sizes.dedup();
        let order = Permutation::new(sessions.len() as u64, profile.seed ^ 0x5eed);
        let set = |size: &u16| {
            let mut set = Vec::with_capacity(stride * sessions.len() * ways.len());
            for position in 0..sessions.len() as u64 {
                let number = order.at(position) as usize;
                for (at, (way, encapsulation)) in ways.iter().zip(&encapsulations).enumerate() {
                    let flow = (number * ways.len() + at) as u32;
                    let mut frame = template(profile, *way, encapsulation, &sessions[number], *size);
                    stamp_flow(&mut frame, &shapes[at], profile.protocol, flow);
                    frame.resize(stride, 0);
                    set.extend_from_slice(&frame);
                }
            }
            set
        };
        let turn = |size: &u16| {
            let len = |at: usize| shapes.get(at).map_or(0, |shape: &Shape| shape.len(*size));
            (sizes.binary_search(size).unwrap_or_default(), [len(0), len(1)])
        };
        Self {
            sets: sizes.iter().map(set).collect(),
            turns: profile.frame.turns().iter().map(turn).collect(),
            udp: profile.protocol == Protocol::Udp,
            stride,
            flows: sessions.len() * ways.len(),
            position: 0,
            sequence: 0,
            turn: 0,
            shapes,
        }
    }

    /// How many flows there are.
    pub fn flows(&self) -> usize {
        self.flows
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
        let way = if self.shapes.len() == 2 { self.position & 1 } else { 0 };
        let (set, len) = self.turns[self.turn];
        let shape = &self.shapes[way];
        let Some(frame) = room(len[way]) else { return false };
        let start = self.position * self.stride;
        let head = shape.payload + PAYLOAD;
        copy(frame, &self.sets[set][start..start + head]);
        let payload = &mut frame[shape.payload..];
        payload[..8].copy_from_slice(&time.to_ne_bytes());
        payload[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        payload[17] = trial;
        let change = (time & 0xffff_ffff)
            + (time >> 32)
            + u64::from(self.sequence)
            + u64::from(u16::from_ne_bytes([0, trial]));
        adjust(frame, shape.checksum, change, self.udp);
        self.turn = if self.turn + 1 == self.turns.len() { 0 } else { self.turn + 1 };
        self.position += 1;
        if self.position == self.flows {
            self.position = 0;
            self.sequence = self.sequence.wrapping_add(1);
        }
        true
    }
}

/// Copies a template to the front of a frame, and makes the rest zero. Nearly all are a little over 64 bytes long, and a copy
/// of known length is twice as fast.
#[inline]
fn copy(frame: &mut [u8], template: &[u8]) {
    let mut done = 0;
    if let (Some(to), Some(from)) = (frame.first_chunk_mut::<64>(), template.first_chunk::<64>()) {
        *to = *from;
        done = 64;
    }
    if template.len() > done {
        frame[done..template.len()].copy_from_slice(&template[done..]);
    }
    if frame.len() > template.len() {
        frame[template.len()..].fill(0);
    }
}

/// Adds `change` to the sum that the checksum at `at` covers (RFC 1624).
#[inline]
fn adjust(frame: &mut [u8], at: usize, change: u64, udp: bool) {
    let old = u16::from_ne_bytes([frame[at], frame[at + 1]]);
    let mut new = !fold(u64::from(!old) + change);
    if new == 0 && udp {
        new = 0xffff;
    }
    frame[at..at + 2].copy_from_slice(&new.to_ne_bytes());
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

fn stamp_flow(frame: &mut [u8], shape: &Shape, protocol: Protocol, flow: u32) {
    let stamp = Stamp { time: 0, sequence: 0, flow, trial: 0 }.bytes();
    frame[shape.payload..shape.payload + PAYLOAD].copy_from_slice(&stamp);
    adjust(frame, shape.checksum, sum(&stamp), protocol == Protocol::Udp);
}

/// Frames that tell switches, and gateways that learn, where the hosts are: broadcasts of the local experimental Ethertype,
/// one from each side.
pub fn announcements(profile: &Profile) -> Vec<Vec<u8>> {
    let announce = |side: &Side| {
        let encapsulation = Encapsulation::new(profile, side, Sender::Us);
        let content = Content {
            macs: [[0xff; 6], side.mac.0],
            tuple: super::Tuple::default(),
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
                    let shape = templates.shapes[(n % 2) as usize];
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
