//! What came back: is it what the session says, and what does it say of loss, order and time.

use super::account::{Arrival, Window};
use super::flows::Session;
use super::frame::{Content, Encapsulation, Sender, Shape, build, fold, header_sum, l4_sum};
use super::mould::Mould;
use super::profile::{Direction, Expect, Profile, Protocol};
use super::templates::{Stamp, sides};
use super::{Tuple, trial::Counts};
use hdrhistogram::Histogram;

/// What is known of a flow. Flows are numbered as they are sent, so that packets in order find theirs side by side.
#[derive(Clone, Copy, Default)]
struct Flow {
    /// As the frame has them; 0 is not known yet.
    addresses: u64,
    ports: u32,
    window: Window,
}

/// One way's frames as they come back.
struct Way {
    shape: Shape,
    /// By length.
    moulds: Vec<(usize, Mould)>,
}

/// Checks packets of one trial after the other.
pub struct Checker {
    protocol: Protocol,
    learn: bool,
    ways: Vec<Way>,
    /// Where stamps may be in frames that are wrong.
    payloads: Vec<usize>,
    flows: Vec<Flow>,
    trial: u8,
    counts: Counts,
    /// Nanoseconds.
    latency: Histogram<u64>,
    /// Of untimed packets, until they were seen.
    at_most: Histogram<u64>,
    ticks_to_nanos: f64,
    /// Who looks for arrivals later than this was held up meanwhile.
    timely: u64,
    /// What was sent before may have arrived in a hold-up.
    seen_from: u64,
}

impl Checker {
    /// For what `profile` says comes back.
    pub fn new(profile: &Profile, sessions: &[Session], tsc_hz: u64) -> Self {
        let ways: Vec<_> = profile.direction.ways().iter().map(|way| Way::new(profile, *way)).collect();
        let mut payloads: Vec<_> = [&profile.inside, &profile.outside]
            .map(|side| Encapsulation::new(profile, side, Sender::Us).shape(profile.protocol).payload)
            .into();
        payloads.dedup();
        let learn = profile.expect == Expect::Learn;
        let mut flows = Vec::with_capacity(sessions.len() * ways.len());
        for session in sessions {
            for (way, direction) in ways.iter().zip(profile.direction.ways()) {
                let mut flow = Flow::default();
                if !learn {
                    let content = reply(profile, *direction, session);
                    let frame = build(&reply_encapsulation(profile, *direction), &content);
                    (flow.addresses, flow.ports) = way.shape.tuple(&frame);
                }
                flows.push(flow);
            }
        }
        Self {
            protocol: profile.protocol,
            learn,
            ways,
            payloads,
            flows,
            trial: 0,
            counts: Counts::default(),
            latency: histogram(),
            at_most: histogram(),
            ticks_to_nanos: 1e9 / tsc_hz as f64,
            timely: u64::MAX,
            seen_from: 0,
        }
    }

    /// Begins a trial: nothing has arrived. What was learned stays.
    pub fn begin(&mut self, trial: u8) {
        self.trial = trial;
        self.counts = Counts::default();
        self.latency.reset();
        self.at_most.reset();
        (self.timely, self.seen_from) = (u64::MAX, 0);
        self.flows.iter_mut().for_each(|flow| flow.window = Window::default());
    }

    /// What has arrived so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Of all packets of the trial that have one.
    pub fn latency(&self) -> &Histogram<u64> {
        &self.latency
    }

    /// Of all packets of the trial; of those that nobody saw arrive, the most that it can be.
    pub fn latency_at_most(&self) -> Histogram<u64> {
        let mut all = self.latency.clone();
        all += &self.at_most;
        all
    }

    /// Nobody has looked until `now`, or knows when what is on its way has arrived.
    #[inline]
    pub fn held_up(&mut self, now: u64) {
        self.seen_from = now;
    }

    /// A burst that is received later than this was not looked for when it arrived.
    #[inline]
    pub fn timely(&mut self, latest: u64) {
        self.timely = latest;
    }

    /// Takes a burst that arrived at `now`.
    #[inline]
    pub fn burst(&mut self, now: u64, frames: &[&[u8]]) {
        if now > self.timely {
            self.held_up(now);
        }
        let (mut time, mut run) = (0, 0);
        for frame in frames {
            let Some((stamp, way)) = self.identify(frame) else {
                self.wrong_header(frame);
                continue;
            };
            if !self.check(stamp, way, frame) {
                continue;
            }
            if stamp.time != time {
                self.record(now, time, run);
                (time, run) = (stamp.time, 0);
            }
            run += 1;
        }
        self.record(now, time, run);
    }

    fn record(&mut self, now: u64, time: u64, packets: u64) {
        if packets == 0 {
            return;
        }
        let nanos = (now.saturating_sub(time) as f64 * self.ticks_to_nanos) as u64;
        if time < self.seen_from {
            self.counts.untimed += packets;
            self.at_most.saturating_record_n(nanos, packets);
        } else {
            self.latency.saturating_record_n(nanos, packets);
        }
    }

    /// The stamp and way of a frame whose headers are as they should be.
    #[inline]
    fn identify(&self, frame: &[u8]) -> Option<(Stamp, usize)> {
        for (number, way) in self.ways.iter().enumerate() {
            let mould = way.moulds.iter().find(|(len, _)| *len == frame.len());
            if mould.is_some_and(|(_, mould)| mould.matches(frame)) {
                return Some((Stamp::read(frame.get(way.shape.payload..)?)?, number));
            }
        }
        None
    }

    /// Checks tuple and checksums of a frame and counts it; false if it does not count as received.
    #[inline]
    fn check(&mut self, stamp: Stamp, number: usize, frame: &[u8]) -> bool {
        if stamp.trial != self.trial {
            self.counts.stale += 1;
            return false;
        }
        let way = &self.ways[number];
        let of_way = self.ways.len() == 1 || stamp.flow as usize % 2 == number;
        let Some(flow) = self.flows.get_mut(stamp.flow as usize).filter(|_| of_way) else {
            self.counts.wrong("flow", frame);
            return false;
        };
        let tuple = way.shape.tuple(frame);
        if tuple != (flow.addresses, flow.ports) {
            let new = self.learn && (flow.addresses, flow.ports) == (0, 0);
            if !new {
                self.counts.wrong("tuple", frame);
                return false;
            }
            (flow.addresses, flow.ports) = tuple;
        }
        if !way.checksums(frame, self.protocol) {
            self.counts.wrong("checksum", frame);
            return false;
        }
        self.counts.received += 1;
        match flow.window.arrive(stamp.sequence) {
            Arrival::InOrder => {}
            Arrival::Reordered => self.counts.reordered += 1,
            Arrival::Duplicate => self.counts.duplicates += 1,
            Arrival::TooLate => self.counts.too_late += 1,
        }
        true
    }

    /// A frame of ours in the wrong headers, or nobody's.
    #[cold]
    fn wrong_header(&mut self, frame: &[u8]) {
        let stamp = |at: &usize| Stamp::read(frame.get(*at..)?);
        match self.payloads.iter().find_map(stamp) {
            Some(stamp) if stamp.trial == self.trial => {
                let what = self.ways.first().map_or("header".into(), |way| way.difference(frame));
                self.counts.wrong(&what, frame);
            }
            Some(_) => self.counts.stale += 1,
            None => self.counts.foreign += 1,
        }
    }
}

impl Way {
    fn new(profile: &Profile, direction: Direction) -> Self {
        let encapsulation = reply_encapsulation(profile, direction);
        let shape = encapsulation.shape(profile.protocol);
        let nobody = Session { original: Tuple::default(), translated: Tuple::default() };
        let mut free = vec![
            // Identification and checksum, addresses.
            shape.ip + 4..shape.ip + 6,
            shape.ip + 10..shape.ip + 20,
            shape.ports..shape.ports + 4,
            shape.checksum..shape.checksum + 2,
        ];
        if let Some(outer) = shape.outer {
            // Identification, TTL, checksum; the source port, which carries entropy, and the UDP checksum.
            free.extend([outer + 4..outer + 6, outer + 8..outer + 9, outer + 10..outer + 12]);
            free.extend([outer + 20..outer + 22, outer + 26..outer + 28]);
        }
        let mut moulds: Vec<(usize, Mould)> = Vec::new();
        for size in profile.frame.turns() {
            let content = Content { size: *size, ..reply(profile, direction, &nobody) };
            let frame = build(&encapsulation, &content);
            if !moulds.iter().any(|(len, _)| *len == frame.len()) {
                moulds.push((frame.len(), Mould::new(&frame[..shape.payload], &free)));
            }
        }
        Self { shape, moulds }
    }

    /// What is wrong with a frame's headers.
    fn difference(&self, frame: &[u8]) -> String {
        let of_length = self.moulds.iter().find(|(len, _)| *len == frame.len());
        let Some((_, mould)) = of_length.or(self.moulds.first()) else { return "header".into() };
        let Some(at) = mould.difference(frame) else { return "length".into() };
        let (field, range) = self.shape.field(at);
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let (got, wanted) = (frame.get(range.clone()).unwrap_or_default(), mould.bytes(range));
        let part = match self.shape.outer {
            Some(outer) if at < outer + 28 => "outer ",
            Some(_) if at >= self.shape.ethernet => "inner ",
            _ => "",
        };
        format!("header at byte {at}: {part}{field} {}, expected {}", hex(got), hex(&wanted))
    }

    /// Whether all of a frame's checksums are right.
    #[inline]
    fn checksums(&self, frame: &[u8], protocol: Protocol) -> bool {
        let header =
            |at: usize| frame[at..].first_chunk().is_some_and(|header| fold(header_sum(header)) == 0xffff);
        self.shape.outer.is_none_or(header)
            && header(self.shape.ip)
            && fold(l4_sum(frame, &self.shape, protocol)) == 0xffff
    }
}

fn is_loop(profile: &Profile) -> bool {
    matches!(profile.expect, Expect::Same | Expect::Macswap)
}

/// What replies of frames sent one way come back in.
fn reply_encapsulation(profile: &Profile, direction: Direction) -> Encapsulation {
    let (from, to) = sides(profile, direction);
    match is_loop(profile) {
        true => Encapsulation::new(profile, from, Sender::Us),
        false => Encapsulation::new(profile, to, Sender::Gateway),
    }
}

/// What a frame of a session, sent one way, comes back as.
fn reply(profile: &Profile, direction: Direction, session: &Session) -> Content {
    let (from, to) = sides(profile, direction);
    let reverse = direction == Direction::Reverse;
    let macs = match profile.expect {
        Expect::Same => [from.gateway_mac.0, from.mac.0],
        Expect::Macswap => [from.mac.0, from.gateway_mac.0],
        _ if profile.routed => [to.mac.0, to.gateway_mac.0],
        _ => [from.gateway_mac.0, from.mac.0],
    };
    let tuple = match (is_loop(profile), reverse) {
        (false, false) => session.translated,
        (false, true) => session.original.swapped(),
        (true, false) => session.original,
        (true, true) => session.translated.swapped(),
    };
    Content {
        macs,
        tuple,
        protocol: profile.protocol,
        reply: reverse,
        ttl: if profile.routed && !is_loop(profile) { 63 } else { 64 },
        size: profile.frame.turns()[0],
    }
}

/// Up to a minute, three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3)
        .unwrap_or_else(|error| unreachable!("bounds are fixed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrives_in_a_hold_up_has_no_latency() {
        let profile = Profile::parse(include_str!("../../../share/bench/vlan-to-vxlan.toml")).unwrap();
        let mut checker = Checker::new(&profile, &[], 1_000_000_000);
        checker.begin(1);
        let seen = |checker: &Checker| (checker.latency().len(), checker.counts().untimed);
        checker.timely(11_000);
        checker.record(1_200, 900, 3);
        assert_eq!(seen(&checker), (3, 0));
        checker.held_up(90_000);
        checker.timely(100_000);
        checker.record(90_100, 1_100, 4);
        assert_eq!(seen(&checker), (3, 4), "sent before, arrived nobody knows when");
        checker.record(90_300, 90_100, 2);
        assert_eq!((seen(&checker), checker.latency().max()), ((5, 4), 300), "sent after it");
        checker.burst(150_000, &[]);
        checker.record(150_000, 99_000, 1);
        assert_eq!(seen(&checker), (5, 5), "held up between look and receipt");
        let all = checker.latency_at_most();
        assert_eq!((all.len(), all.max() / 1_000), (10, 89));
        checker.begin(2);
        assert_eq!(seen(&checker), (0, 0));
        checker.record(200_000, 150_500, 1);
        assert_eq!(seen(&checker), (1, 0), "a trial begins without a hold-up");
    }
}
