//! The memif client against DPDK's own server.

mod common;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use arrayvec::ArrayVec;
use dpdk::{Eal, Mbuf, Memif, MemifError, MemifOptions, Mempool, Port, PortOptions};

#[test]
fn memif() {
    let eal = common::eal();
    let pool = common::pool(&eal, "memif");
    let name = format!("dpdk-test-{}", std::process::id());
    let options = MemifOptions {
        socket: &name,
        abstract_socket: true,
        ring_bits: 6,
        rx_rings: 2,
        patience: Duration::from_millis(200),
        ..MemifOptions::default()
    };
    let nobody = Memif::connect(&options).unwrap_err();
    assert!(matches!(nobody, MemifError::Socket { operation: "connecting", .. }), "{nobody}");

    let mut server = server(&eal, &pool, &name);
    let options = MemifOptions { patience: Duration::from_secs(10), ..options };
    let wrong = Memif::connect(&MemifOptions { id: 7, ..options }).unwrap_err();
    assert!(matches!(&wrong, MemifError::Refused { reason, .. } if reason.contains("ID")), "{wrong}");
    let large = Memif::connect(&MemifOptions { rx_rings: 300, ..options }).unwrap_err();
    assert!(matches!(large, MemifError::Rings { rings: 256, .. }), "{large}");

    let mut client = Memif::connect(&options).unwrap();
    let (mut rx, mut tx) = server.start_queues.take().unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut burst = ArrayVec::<Mbuf, 32>::new();
            let mut turn = 0;
            while !stop.load(Ordering::Relaxed) {
                rx[0].rx_burst(&mut burst);
                // By one ring, then by the other.
                turn ^= 1;
                while !burst.is_empty() && !stop.load(Ordering::Relaxed) {
                    tx[turn].tx_burst(&mut burst);
                }
            }
        });
        echo(&mut client);
        stop.store(true, Ordering::Relaxed);
    });
    assert!(client.is_connected());
    drop((rx, tx, server.port));
    let start = Instant::now();
    while client.is_connected() {
        assert!(start.elapsed() < Duration::from_secs(10), "the client does not see that the server is gone");
        thread::sleep(Duration::from_millis(10));
    }
    drop(client);
    assert_eq!(pool.in_use(), 0);
    // DPDK 22.11 unmaps its memory while its own thread still looks at what the server had there.
    std::mem::forget(eal);
}

/// A descriptor's offset has 32 bits: beyond 4 GiB, two slots would have one buffer.
#[test]
fn rings_beyond_4_gib_are_refused() {
    let name = format!("dpdk-test-nobody-{}", std::process::id());
    let options = MemifOptions {
        socket: &name,
        abstract_socket: true,
        ring_bits: 14,
        buffer: 9216,
        patience: Duration::ZERO,
        ..MemifOptions::default()
    };
    // With the ring to the server, 28 rings are 3.97 GiB, and fit; there is nobody to connect to.
    let fits = Memif::connect(&MemifOptions { rx_rings: 27, ..options }).unwrap_err();
    assert!(matches!(fits, MemifError::Socket { .. }), "{fits}");
    for rx_rings in [28, u16::MAX] {
        let error = Memif::connect(&MemifOptions { rx_rings, ..options }).unwrap_err();
        let all = usize::from(rx_rings) + 1;
        assert!(matches!(error, MemifError::TooLarge { rings, .. } if rings == all), "{error}");
    }
}

struct Server {
    port: Port,
    start_queues: Option<(Vec<dpdk::RxQueue>, Vec<dpdk::TxQueue>)>,
}

/// A memif server with one ring in and two out.
fn server(eal: &Eal, pool: &Mempool, name: &str) -> Server {
    let device = format!("net_memif0,role=server,id=0,socket={name},socket-abstract=yes,rsize=6");
    let mut port = Port::open(eal, &device).unwrap();
    port.configure(&PortOptions { tx_queues: 2, ..PortOptions::default() }, pool).unwrap();
    let queues = port.start().unwrap();
    Server { port, start_queues: Some(queues) }
}

/// Frames of all lengths, many times around the rings and past the 16 bits of their counters, come back as they were sent; the
/// longest in several buffers of the server's pool.
fn echo(client: &mut Memif) {
    const FRAMES: usize = 70_000;
    let byte = |n: usize, at: usize| (n.wrapping_mul(31).wrapping_add(at) >> 3) as u8;
    let length = |n: usize| if n.is_multiple_of(1000) { 2048 } else { 14 + n % 500 };
    let (mut sent, mut next, mut back) = (0, 0, 0);
    let mut seen = vec![false; FRAMES];
    let start = Instant::now();
    while back < FRAMES {
        assert!(start.elapsed() < Duration::from_secs(60), "{back} of {sent} came back");
        sent += client.send((FRAMES - sent).min(16), |buffer| {
            let n = next;
            next += 1;
            let frame = &mut buffer[..length(n)];
            frame.iter_mut().enumerate().for_each(|(at, to)| *to = byte(n, at));
            frame[..8].copy_from_slice(&(n as u64).to_ne_bytes());
            frame.len()
        });
        back += client.receive(|frames| {
            for frame in frames {
                let n = u64::from_ne_bytes(*frame.first_chunk().unwrap()) as usize;
                assert_eq!(frame.len(), length(n), "frame {n}");
                assert!((8..frame.len()).all(|at| frame[at] == byte(n, at)), "frame {n}");
                assert!(!std::mem::replace(&mut seen[n], true), "frame {n} came twice");
            }
        });
    }
    assert_eq!((sent, client.arrived()), (FRAMES, 0));
}
