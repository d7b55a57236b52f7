//! The table against a model made of standard maps: random operations, time included. A property test under plain
//! `cargo test`, a fuzz target under `cargo bolero`.
#![cfg(not(feature = "shuttle"))]

mod common;
use bolero::{TypeGenerator, check, generator::*};
use common::*;
use conntrack::tcp::TcpState;
use conntrack::*;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

const CAPACITY: u32 = 6;

#[derive(Clone, Copy, Debug, TypeGenerator)]
enum Op {
    Insert { id: u8, original: u8, translated: u8, timeout: u8, kind: u8 },
    Remove { id: u8 },
    Packet { pick: u8, original: u8, reverse: bool, bytes: u16 },
    Tcp { pick: u8, original: u8, reverse: bool, flags: u8 },
    Advance { milliseconds: u16 },
    Leap { days: u8 },
    Maintain { budget: u8 },
    List { page: u8 },
    Flush { really: u8 },
}

/// Rates whose tokens come at whole nanoseconds.
const LIMITS: [RateLimit; 4] = [
    RateLimit { packets: 2, bytes: 0, burst_ms: 1000 },
    RateLimit { packets: 0, bytes: 50_000, burst_ms: 500 },
    RateLimit { packets: 1, bytes: 20_000, burst_ms: 3000 },
    RateLimit { packets: 1000, bytes: 1000, burst_ms: 1 },
];

struct Live {
    spec: SessionSpec,
    /// Thousandths of packets and bytes that the limit's buckets hold, and when they did.
    buckets: [i64; 2],
    filled: u64,
    start: u64,
    last: u64,
    counters: Counters,
    tcp: TcpState,
}

struct Model {
    table: Arc<SessionTable>,
    reader: Reader,
    now: u64,
    maintained: u64,
    live: HashMap<u64, Live>,
    closed: Vec<Closed>,
    stats: TableStats,
}

/// A small world, so that requests collide: eight tuples of each family, one translated to another's now and then.
fn spec(id: u8, original: u8, translated: u8, timeout: u8, kind: u8) -> SessionSpec {
    let side = |n: u8, base: u8| {
        let n = n % 8;
        if n < 4 {
            tuple(v4(0x0a00_0001 + u32::from(base)), 1000 + u16::from(n), v4(0x0808_0808), 53)
        } else {
            tuple(v6(1 << 64 | u128::from(base)), 1000 + u16::from(n), v6(9 << 64), 53)
        }
    };
    let same_family = original % 8 / 4 * 4 + translated % 4;
    let mac = |n: u8| MacPair { source: [2, 0, 0, 0, n, 1], destination: [2, 0, 0, 0, n, 2] };
    SessionSpec {
        id: SessionId(u64::from(id % 10) + 1),
        in_lif: LifIndex(1),
        out_lif: LifIndex(1 + u16::from(kind & 1)),
        protocol: if kind & 2 == 0 { 6 } else { 17 },
        original: side(original, 0),
        translated: side(same_family, 1),
        l2: (kind & 4 != 0).then_some(L2 { forward: mac(kind >> 6), reverse: mac(id % 4) }),
        action: match kind >> 3 & 7 {
            0 => Action::Drop,
            1 => Action::Mirror(v4(0x0a09_0909)),
            2 => Action::Snoop(v6(77 << 100)),
            _ => Action::Forward,
        },
        idle_timeout: (!timeout.is_multiple_of(4)).then_some(u32::from(timeout % 4) * 10),
        hard_timeout: (timeout & 0x0c == 0).then_some(u32::from(timeout >> 4) * 3 + 1),
        limit: (timeout & 0x30 == 0).then_some(LIMITS[usize::from(timeout >> 6)]),
        owner: u16::from(kind),
    }
}

#[derive(Clone, Copy)]
enum Key {
    V4(FlowKeyV4),
    V6(FlowKeyV6),
}

fn flow_keys(spec: &SessionSpec) -> [Key; 2] {
    if spec.original.source.is_ipv4() { keys(spec).map(Key::V4) } else { keys_v6(spec).map(Key::V6) }
}

/// (LIF, protocol, tuple) of both flows.
fn flows(spec: &SessionSpec) -> [(LifIndex, u8, Tuple); 2] {
    [(spec.in_lif, spec.protocol, spec.original), (spec.out_lif, spec.protocol, swapped(&spec.translated))]
}

/// How packets of both flows leave.
fn l2s(spec: &SessionSpec) -> [L2Rewrite; 2] {
    let macs = |macs: MacPair| Macs::new(macs.destination, macs.source);
    let [forward, reverse] = spec.l2.map_or_else(Default::default, |l2| [macs(l2.forward), macs(l2.reverse)]);
    [L2Rewrite { macs: forward, out_lif: spec.out_lif }, L2Rewrite { macs: reverse, out_lif: spec.in_lif }]
}

impl Live {
    fn timeout(&self) -> u64 {
        1000 * u64::from(self.spec.idle_timeout.unwrap_or(match self.spec.protocol {
            6 => TIMEOUTS.tcp,
            _ => TIMEOUTS.udp,
        }))
    }

    fn is_policed(&self) -> bool {
        self.spec.hard_timeout.is_some() || self.spec.limit.is_some()
    }

    fn due(&self) -> u64 {
        let hard = self.spec.hard_timeout.map_or(u64::MAX, |seconds| self.start + 1000 * u64::from(seconds));
        hard.min(self.last + self.timeout())
    }

    fn expired(&self, now: u64) -> bool {
        now >= self.due()
    }

    /// Takes a packet from the limit's buckets, if both have enough.
    fn admits(&mut self, now: u64, bytes: u32) -> bool {
        let Some(limit) = self.spec.limit else { return true };
        let rates = [i64::from(limit.packets), limit.bytes as i64];
        let passed = (now - self.filled) as i64;
        self.filled = now;
        for (bucket, rate) in self.buckets.iter_mut().zip(rates) {
            *bucket = (*bucket + rate * passed).min(rate * i64::from(limit.burst_ms));
        }
        let costs = [1000, 1000 * i64::from(bytes)];
        let passes = (0..2).all(|i| {
            let most = rates[i] * i64::from(limit.burst_ms);
            rates[i] == 0 || self.buckets[i] >= costs[i].min(most)
        });
        for (bucket, cost) in self.buckets.iter_mut().zip(costs) {
            *bucket -= if passes { cost } else { 0 };
        }
        passes
    }

    fn info(&self) -> SessionInfo {
        SessionInfo {
            spec: SessionSpec { idle_timeout: Some((self.timeout() / 1000) as u32), ..self.spec },
            counters: self.counters,
            state: match self.tcp {
                TcpState::Open => SessionState::Established,
                TcpState::FinForward | TcpState::FinReverse => SessionState::Closing1,
                TcpState::Finished | TcpState::Reset => SessionState::Closing2,
            },
            start: Timestamp(self.start),
            last_seen: Timestamp(self.last),
        }
    }
}

impl Model {
    fn new() -> Self {
        let table = table(CAPACITY);
        let reader = table.reader().unwrap();
        let stats = TableStats { capacity: CAPACITY.into(), ..TableStats::default() };
        Self { table, reader, now: 0, maintained: 0, live: HashMap::new(), closed: Vec::new(), stats }
    }

    fn close(&mut self, id: u64, code: CloseCode, end: u64) {
        let session = self.live.remove(&id).unwrap();
        self.closed.push(Closed { info: session.info(), code, end: Timestamp(end) });
    }

    /// Closes what is over, but for what timed out after `reached`.
    fn close_if_over(&mut self, id: u64, reached: u64) -> bool {
        let session = &self.live[&id];
        let due = session.due();
        match session.tcp {
            TcpState::Finished => self.close(id, CloseCode::FinAck, self.now),
            TcpState::Reset => self.close(id, CloseCode::Rst, self.now),
            _ if session.expired(reached) => self.close(id, CloseCode::Timeout, due),
            _ => return false,
        }
        true
    }

    fn expect_insert(&mut self, spec: &SessionSpec) -> Result<(), InsertError> {
        if self.live.contains_key(&spec.id.0) && !self.close_if_over(spec.id.0, self.now) {
            return Err(InsertError::IdExists(spec.id.0));
        }
        for flow in flows(spec) {
            let holder =
                self.live.iter().find(|(_, live)| flows(&live.spec).contains(&flow)).map(|(id, _)| *id);
            if let Some(id) = holder
                && !self.close_if_over(id, self.now)
            {
                return Err(InsertError::FlowExists(id));
            }
        }
        if self.live.len() >= CAPACITY as usize {
            let over: Vec<u64> =
                self.live.iter().filter(|(_, live)| live.tcp.is_over()).map(|(id, _)| *id).collect();
            over.into_iter().for_each(|id| assert!(self.close_if_over(id, self.now)));
        }
        if self.live.len() >= CAPACITY as usize {
            return Err(InsertError::Full);
        }
        let new = Live {
            spec: *spec,
            buckets: [1 << 40; 2],
            filled: self.now,
            start: self.now,
            last: self.now,
            counters: Counters::default(),
            tcp: TcpState::Open,
        };
        self.live.insert(spec.id.0, new);
        Ok(())
    }

    fn insert(&mut self, spec: &SessionSpec) {
        let result = self.table.insert(spec, Timestamp(self.now));
        let expected = self.expect_insert(spec);
        assert_eq!(result, expected);
        match result {
            Ok(()) => self.stats.installed += 1,
            Err(_) => self.stats.rejected += 1,
        }
    }

    /// Whose packet to send: mostly of a session that there is.
    fn pick(&self, pick: u8, original: u8) -> SessionSpec {
        let id = u64::from(pick % 10) + 1;
        match self.live.get(&id) {
            Some(live) => live.spec,
            None => spec(0, original, original >> 3, 0, original >> 5),
        }
    }

    /// A packet of whichever session has this flow: looked up, counted or observed, in table and model.
    fn packet(&mut self, spec: &SessionSpec, reverse: bool, tcp: Option<TcpFlags>, bytes: u32) {
        let flow = flows(spec)[usize::from(reverse)];
        let now = self.now;
        let live = self.live.values_mut().find(|live| flows(&live.spec).contains(&flow));
        let live = live.filter(|live| !live.expired(now) && !live.tcp.is_over());
        let at = Timestamp(now);
        let burst = self.reader.enter();
        macro_rules! check {
            ($lookup:ident, $key:expr) => {{
                let mut found = [None];
                burst.$lookup(&[$key], at, &mut found);
                assert_eq!(found[0].is_some(), live.is_some(), "{flow:?}");
                if let (Some(found), Some(live)) = (found[0], live) {
                    let backwards = flows(&live.spec)[0] != flow;
                    let rewrite = found.rewrite();
                    let after = if backwards { swapped(&live.spec.original) } else { live.spec.translated };
                    assert_eq!(found.session(), live.spec.id);
                    assert_eq!(rewrite.flags.any(RewriteFlags::REVERSE), backwards);
                    assert_eq!(rewrite.flags.any(RewriteFlags::ROUTED), live.spec.l2.is_some());
                    assert_eq!(
                        (found.l2(), burst.l2(rewrite.l2)),
                        (l2s(&live.spec)[usize::from(backwards)], found.l2())
                    );
                    assert_eq!(std::net::IpAddr::from(rewrite.source), after.source);
                    assert_eq!(u16::from_be_bytes(rewrite.destination_port), after.destination_port);
                    assert_eq!(
                        found.collector(),
                        match live.spec.action {
                            Action::Mirror(ip) | Action::Snoop(ip) => Some(ip),
                            _ => None,
                        }
                    );
                    if let Some(flags) = tcp {
                        found.observe(flags, at);
                        if live.spec.protocol == 6 {
                            live.tcp = live.tcp.next(backwards, flags);
                            if flags.any(TcpFlags::FIN) && !live.tcp.is_over() {
                                live.last = now;
                            }
                        }
                        assert_eq!(found.is_dead(), live.tcp.is_over());
                    } else if {
                        let admitted = found.admit(at, bytes);
                        assert_eq!(admitted, live.admits(now, bytes));
                        assert_eq!(rewrite.flags.any(RewriteFlags::POLICED), live.is_policed());
                        admitted
                    } {
                        found.count(at, bytes);
                        live.last = now;
                        let c = &mut live.counters;
                        let (p, b) = if backwards {
                            (&mut c.out_packets, &mut c.out_bytes)
                        } else {
                            (&mut c.in_packets, &mut c.in_bytes)
                        };
                        *p += 1;
                        *b += u64::from(bytes);
                    }
                }
            }};
        }
        match flow_keys(spec)[usize::from(reverse)] {
            Key::V4(key) => check!(lookup_v4, key),
            Key::V6(key) => check!(lookup_v6, key),
        }
    }

    fn maintain(&mut self, budget: usize) {
        self.maintained = self.now;
        let mut closed = Vec::new();
        let table = self.table.clone();
        while table.maintain(Timestamp(self.now), budget, &mut |session| closed.push(*session)).more {}
        let ids: Vec<u64> = self.live.keys().copied().collect();
        ids.into_iter().for_each(|id| {
            self.close_if_over(id, self.now / TICK * TICK);
        });
        let mut expected = std::mem::take(&mut self.closed);
        let order = |a: &Closed, b: &Closed| {
            (a.info.spec.id, a.info.start, a.end).cmp(&(b.info.spec.id, b.info.start, b.end))
        };
        closed.sort_by(order);
        expected.sort_by(order);
        assert_eq!(closed, expected);
        self.stats.closed += closed.len() as u64;
        assert_eq!(self.table.stats().l2_rewrites, self.l2_rewrites());
    }

    /// How many different L2 rewrites the live sessions have.
    fn l2_rewrites(&self) -> u64 {
        self.live.values().flat_map(|live| l2s(&live.spec)).collect::<HashSet<_>>().len() as u64
    }

    fn list(&self, page: usize) {
        let mut listed = Vec::new();
        let mut cursor = 0;
        loop {
            let before = listed.len();
            cursor = self.table.list(cursor, page, &mut listed);
            assert!(listed.len() - before <= page);
            if cursor == 0 {
                break;
            }
        }
        listed.sort_by_key(|info| info.spec.id);
        let mut expected: Vec<_> = self.live.values().map(Live::info).collect();
        expected.sort_by_key(|info| info.spec.id);
        assert_eq!(listed, expected);
        for id in 1..=10 {
            assert_eq!(self.table.get(SessionId(id)), self.live.get(&id).map(Live::info));
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Insert { id, original, translated, timeout, kind } => {
                self.insert(&spec(id, original, translated, timeout, kind));
            }
            Op::Remove { id } => {
                let id = u64::from(id % 10) + 1;
                let removed = self.table.remove(SessionId(id), Timestamp(self.now));
                assert_eq!(removed, self.live.get(&id).is_some_and(|live| !live.tcp.is_over()));
                if removed {
                    self.close(id, CloseCode::Deleted, self.now);
                }
            }
            Op::Packet { pick, original, reverse, bytes } => {
                self.packet(&self.pick(pick, original), reverse, None, bytes.into());
            }
            Op::Tcp { pick, original, reverse, flags } => {
                let tcp = Some(TcpFlags(flags & (TcpFlags::FIN | TcpFlags::SYN | TcpFlags::ACK)));
                let tcp = if flags & 0xe0 == 0 { Some(TcpFlags(TcpFlags::RST)) } else { tcp };
                self.packet(&self.pick(pick, original), reverse, tcp, 0);
            }
            Op::Advance { milliseconds } => self.now += u64::from(milliseconds % 3000),
            Op::Leap { days } => {
                // Stamps are told apart up to 24 days after maintenance was due.
                if days < 16 && self.now - self.maintained < 20 * 86_400_000 {
                    self.now += u64::from(days) * 86_400_000 / 7;
                }
            }
            Op::Maintain { budget } => self.maintain(usize::from(budget % 4) + 1),
            Op::List { page } => self.list(usize::from(page % 5) + 1),
            Op::Flush { really: 0 } => {
                let ids: Vec<u64> =
                    self.live.iter().filter(|(_, live)| !live.tcp.is_over()).map(|(id, _)| *id).collect();
                assert_eq!(self.table.flush(Timestamp(self.now)), ids.len() as u64);
                ids.into_iter().for_each(|id| self.close(id, CloseCode::Deleted, self.now));
            }
            Op::Flush { .. } => {}
        }
        self.stats.active = self.live.len() as u64;
        let stats = self.table.stats();
        assert!(stats.l2_rewrites >= self.l2_rewrites());
        assert_eq!(TableStats { l2_rewrites: 0, ..stats }, self.stats);
    }
}

#[test]
fn table_agrees_with_model() {
    let ops = produce::<Vec<Op>>().with().len(0..300usize);
    let mut check = check!().with_generator(ops).with_max_len(16384);
    // Else as many as there is time for.
    if std::env::var_os("BOLERO_RANDOM_TEST_TIME_MS").is_none() {
        check = check.with_iterations(5000);
    }
    check.for_each(|ops| {
        let mut model = Model::new();
        for op in ops {
            model.apply(*op);
        }
        model.maintain(1);
        model.now += 8_000_000;
        model.maintain(3);
        assert!(model.live.is_empty());
        model.list(1);
    });
}
