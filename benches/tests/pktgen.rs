//! The generator against the gateway's own pipeline, and against one that does each thing wrong that it must find out: over
//! rings, in one process, without privileges. One test, since the EAL starts once per process.
#![forbid(unsafe_code)]

use arrayvec::ArrayVec;
use benches::devices::gateway::configuration;
use benches::pktgen::generator::Traffic;
use benches::pktgen::profile::{Direction, Expect, Mix, Protocol, Size};
use benches::pktgen::{Generator, Load, Outcome, Ports, Profile, Trial, flows, sessions};
use conntrack::table::Timeouts;
use conntrack::{SessionTable, TableConfig, Timestamp};
use control::session_manager::Context;
use dpdk::{
    Consumer, Eal, EalOptions, Mbuf, Mempool, PoolOptions, Port, PortOptions, Producer, RingMode, SocketId,
};
use gateway::config::Config;
use gateway::frame::Frame;
use pipeline::{BURST, Burst, Io, Pipeline, PortIndex, Worker};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const PROFILE: &str = include_str!("../../share/bench/vlan-to-vxlan.toml");
const PACKETS: u64 = 3_000;
const UPLINK: PortIndex = PortIndex(0);

/// What a device does to its packets beside forwarding.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// Every 100th is dropped.
    Drop,
    /// Every 100th is sent twice.
    Duplicate,
    /// Every 100th changes places with one 100 behind.
    Delay,
    /// Every 100th has a bit of its payload changed.
    Payload,
    /// Every 100th has another source port, and a checksum that says so.
    Tuple,
    /// Every 100th has another VNI.
    Vni,
    /// All but the first so many are dropped.
    Death(u64),
}

/// The gateway's worker between two rings.
struct Device {
    worker: Worker<Frame>,
    input: Consumer,
    out: Sink,
}

struct Sink {
    pool: Mempool,
    out: Producer,
    fault: Fault,
    count: u64,
    held: Option<Mbuf>,
}

impl Io<Frame> for Sink {
    fn transmit<const N: usize>(&mut self, port: PortIndex, packets: &mut ArrayVec<Frame, N>) {
        if port != UPLINK {
            // Announcements are trapped, and there is nobody behind the trap port.
            packets.clear();
        }
        for frame in packets.drain(..) {
            let mut mbuf = frame.into_mbuf();
            self.count += 1;
            if matches!(self.fault, Fault::Death(after) if self.count > after) {
                continue;
            }
            let mut extra = None;
            if self.count.is_multiple_of(100) {
                match self.fault {
                    Fault::None | Fault::Death(_) => {}
                    Fault::Drop => continue,
                    Fault::Duplicate => extra = Mbuf::copy_from(&self.pool, &mbuf),
                    Fault::Delay => {
                        extra = self.held.replace(mbuf);
                        match extra.take() {
                            Some(held) => mbuf = held,
                            None => continue,
                        }
                    }
                    Fault::Payload => mbuf.data_mut().unwrap()[96] ^= 1,
                    Fault::Tuple => {
                        let data = mbuf.data_mut().unwrap();
                        // By RFC 1624, equation 3.
                        let word = |data: &[u8], at: usize| u16::from_be_bytes([data[at], data[at + 1]]);
                        let port = word(data, 88).wrapping_add(1);
                        let sum = u32::from(!word(data, 94)) + u32::from(port) + u32::from(!word(data, 88));
                        let sum = (sum & 0xffff) + (sum >> 16);
                        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
                        data[88..90].copy_from_slice(&port.to_be_bytes());
                        data[94..96].copy_from_slice(&sum.to_be_bytes());
                    }
                    Fault::Vni => mbuf.data_mut().unwrap()[51] ^= 1,
                }
            }
            let mut burst: ArrayVec<Mbuf, 2> = ArrayVec::new();
            burst.push(mbuf);
            burst.extend(extra);
            while !burst.is_empty() {
                self.out.enqueue_burst(&mut burst);
            }
        }
    }

    fn allocate(&mut self) -> Option<Frame> {
        self.pool.alloc().map(|mbuf| Frame::new(mbuf, ()))
    }

    fn duplicate(&mut self, packet: &Frame, headers: usize) -> Option<Frame> {
        Mbuf::share(&self.pool, packet.mbuf(), headers).map(|mbuf| Frame::new(mbuf, ()))
    }
}

fn worker(profile: &Profile) -> Worker<Frame> {
    let file = std::env::temp_dir().join(format!("pktgen-e2e-{}.toml", std::process::id()));
    let control = "[control]\nlisten = [\"unix:/nowhere.sock\"]\n";
    std::fs::write(&file, configuration(profile, "net_ring0", "net_ring1") + control).unwrap();
    let config = Config::load(&file);
    std::fs::remove_file(&file).unwrap();
    let config = config.unwrap().pipeline;
    let table = SessionTable::new(TableConfig {
        capacity: profile.sessions.max(1024),
        timeouts: Timeouts { tcp: 7440, udp: 300, icmp: 60, other: 60 },
        readers: 2,
        hugepages: false,
        hash_secret: [1, 2],
    })
    .unwrap();
    let context = Context::new(&config);
    for (n, session) in flows::sessions(profile).unwrap().iter().enumerate() {
        let spec = gateway::session::spec(&sessions::to_proto(profile, n, session, 60), &context).unwrap();
        table.insert(&spec, Timestamp(0)).unwrap();
    }
    Pipeline::new(config, table, 1, [1, 2]).unwrap().worker(0).unwrap()
}

/// Forwards until told to stop.
fn run(mut device: Device, stop: Arc<AtomicBool>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut mbufs: ArrayVec<Mbuf, BURST> = ArrayVec::new();
        let mut burst: Burst<Frame> = ArrayVec::new();
        while !stop.load(Ordering::Relaxed) {
            if device.input.dequeue_burst(&mut mbufs) == 0 {
                std::thread::yield_now();
                continue;
            }
            burst.extend(mbufs.drain(..).map(|mbuf| Frame::new(mbuf, ())));
            device.worker.process(UPLINK, &mut burst, 0, &mut device.out);
        }
    })
}

struct Bench {
    eal: Eal,
    pool: Mempool,
    number: u32,
}

impl Bench {
    /// A generator on a port of rings, and `device` at their other ends, for one trial.
    fn trial(&mut self, profile: &Profile, fault: Fault, load: Load) -> Outcome {
        self.number += 1;
        let ring = |way: &str| {
            let name = format!("{way}{}", self.number);
            dpdk::ring(&self.eal, &name, 4096, RingMode::Single, SocketId::ANY).unwrap()
        };
        let ((to_device, from_us), (to_us, from_device)) = (ring("in"), ring("out"));
        let name = format!("gen{}", self.number);
        let mut port = Port::from_rings(&self.eal, &name, vec![from_device], vec![to_device]).unwrap();
        port.configure(&PortOptions::default(), &self.pool).unwrap();
        let (rx, mut tx) = port.start().unwrap();
        let ports = Ports::new(tx.pop().unwrap(), rx, self.pool.clone());
        let out = Sink { pool: self.pool.clone(), out: to_us, fault, count: 0, held: None };
        let device = Device { worker: worker(profile), input: from_us, out };
        let stop = Arc::new(AtomicBool::new(false));
        let thread = run(device, stop.clone());
        let mut traffic = Traffic::new(&self.eal, profile).unwrap();
        let mut generator = Generator::new(&self.eal, ports);
        let trial = Trial {
            packets: Some(PACKETS),
            drain: Duration::from_secs(2),
            ..Trial::new(load, Duration::from_secs(60))
        };
        let outcome = generator.run(&mut traffic, &trial);
        stop.store(true, Ordering::Relaxed);
        thread.join().unwrap();
        outcome.unwrap()
    }
}

#[test]
fn every_packet_is_accounted_for() {
    dpdk::set_log_sink(|_| {});
    let options = EalOptions { hugepages: false, memory_mib: 128, ..EalOptions::default() };
    let eal = Eal::init(&options).expect("the EAL starts without privileges or hugepages");
    let pool = PoolOptions { name: "e2e", count: 16_383, cache: 256, ..PoolOptions::default() };
    let pool = Mempool::new(&eal, &pool).unwrap();
    let mut bench = Bench { eal, pool, number: 0 };
    let base = Profile { sessions: 250, ..Profile::parse(PROFILE).unwrap() };
    let slow = Load::Rate(20_000.0);

    // A device that does all as it should, whatever it gets.
    let with = |change: &dyn Fn(&mut Profile)| {
        let mut profile = base.clone();
        change(&mut profile);
        profile
    };
    let good = [
        ("base", base.clone()),
        ("reverse", with(&|profile| profile.direction = Direction::Reverse)),
        ("both", with(&|profile| profile.direction = Direction::Both)),
        ("random", with(&|profile| profile.random = true)),
        ("icmp", with(&|profile| (profile.protocol, profile.direction) = (Protocol::Icmp, Direction::Both))),
        ("tcp", with(&|profile| (profile.protocol, profile.frame) = (Protocol::Tcp, Size::Fixed(100)))),
        ("1518", with(&|profile| profile.frame = Size::Fixed(1518))),
        ("imix", with(&|profile| profile.frame = Size::Mix(Mix::Imix))),
        ("bridged", with(&|profile| profile.routed = false)),
        ("learn", with(&|profile| profile.expect = Expect::Learn)),
        ("no nat", with(&|profile| profile.nat = None)),
    ];
    for (name, profile) in good {
        for load in [slow, Load::Window(512)] {
            let outcome = bench.trial(&profile, Fault::None, load);
            assert_eq!((outcome.sent, outcome.lost), (PACKETS, 0), "{name}:\n{}", outcome.table());
            let counts = &outcome.counts;
            assert_eq!((counts.received, counts.unique()), (PACKETS, PACKETS), "{name}");
            assert_eq!(
                (counts.wrong, counts.reordered, counts.foreign),
                (0, 0, 0),
                "{name}:\n{}",
                outcome.table()
            );
            let latency = outcome.latency_us.unwrap();
            assert!(latency.p50 > 0.0 && latency.max >= latency.p99, "{name}");
            assert_eq!(outcome.verdict(), None, "{name}");
        }
    }

    // Devices with faults: the announcements take no numbers, so every 100th of the packets it is.
    let counted = |outcome: &Outcome| {
        let counts = &outcome.counts;
        (outcome.lost, counts.wrong, counts.duplicates, counts.reordered)
    };
    let faults = PACKETS / 100;
    let mut check = |fault, expected: (u64, u64, u64, u64), sample: &str| {
        let outcome = bench.trial(&base, fault, slow);
        assert_eq!(counted(&outcome), expected, "{fault:?}:\n{}", outcome.table());
        let samples = &outcome.counts.samples;
        assert!(samples.iter().all(|text| text.contains(sample)), "{fault:?}: {samples:?}");
        assert_eq!(samples.is_empty(), expected.1 == 0);
    };
    check(Fault::Drop, (faults, 0, 0, 0), "");
    check(Fault::Duplicate, (0, 0, faults, 0), "");
    check(Fault::Payload, (faults, faults, 0, 0), "checksum");
    check(Fault::Tuple, (faults, faults, 0, 0), "tuple");
    check(Fault::Vni, (faults, faults, 0, 0), "header at byte 51: VNI 0006d0, expected 0007d0");
    // One of each flow's numbers at most is late, and the last one held stays out. With 250 flows, 100 packets later is still
    // the same round: order within a flow is kept.
    check(Fault::Delay, (1, 0, 0, 0), "");
    let few = Profile { sessions: 10, ..base.clone() };
    let outcome = bench.trial(&few, Fault::Delay, slow);
    assert_eq!(counted(&outcome), (1, 0, 0, faults - 1), "{}", outcome.table());

    let mut verdict = |fault, load| bench.trial(&base, fault, load).verdict().unwrap_or_default();
    assert!(verdict(Fault::Death(0), slow).starts_with("nothing came back: 3000 packets"));
    assert_eq!(verdict(Fault::Death(2_900), slow), "", "a little silence is loss");
    let died = verdict(Fault::Death(100), Load::Rate(2_000.0));
    assert!(died.starts_with("nothing came back in the last 1."), "{died}");
}
