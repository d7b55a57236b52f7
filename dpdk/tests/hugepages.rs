//! The EAL, a pool and a jumbo port on hugepages of node 0. Skipped where none are free there.

mod common;

use std::fs;

use arrayvec::ArrayVec;
use dpdk::{Eal, EalOptions, Error, Mbuf, Mempool, PoolOptions, Port, PortOptions, SocketId};

#[test]
fn hugepages() {
    let free = free_hugepages_mib();
    if free < 64 {
        eprintln!(
            "SKIPPED: {free} MiB of hugepages are free on node 0, 64 are needed (sysctl vm.nr_hugepages=64)"
        );
        return;
    }
    let eal = Eal::init(&EalOptions { hugepages: true, numa: Some(0), ..common::options() }).unwrap();
    assert!(eal.has_hugepages());
    let options = PoolOptions { name: "huge", socket: SocketId(0), ..PoolOptions::default() };
    let pool = Mempool::new(&eal, &options).unwrap();
    assert!(eal.heap_in_use(SocketId(0)) > 8191 * 2048, "the pool is on its node");
    let nowhere = PoolOptions { name: "nowhere", socket: SocketId(31), ..options };
    assert!(matches!(Mempool::new(&eal, &nowhere), Err(Error::Mempool { .. })), "no such node");
    let mut port = Port::open(&eal, "net_null0,size=9000").unwrap();
    port.configure(&PortOptions::default(), &pool).unwrap();
    let (mut rx, mut tx) = port.start().unwrap();
    let mut burst = ArrayVec::<Mbuf, 32>::new();
    assert_eq!(rx[0].rx_burst(&mut burst), 32);
    assert_eq!(tx[0].tx_burst(&mut burst), 32);
    assert!(own_hugepages_kib() >= 64 << 10, "the memory is on hugepages");
    let own = format!("dpdk-{}", std::process::id());
    let files = fs::read_dir("/dev/hugepages").into_iter().flatten().flatten();
    let mut names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    assert!(
        !names.any(|name| name.contains(&own)),
        "a killed process would leave its pages behind in a file"
    );
}

fn free_hugepages_mib() -> u64 {
    let pages =
        fs::read_to_string("/sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages")
            .unwrap_or_default();
    pages.trim().parse::<u64>().unwrap_or(0) * 2
}

fn own_hugepages_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("HugetlbPages:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
