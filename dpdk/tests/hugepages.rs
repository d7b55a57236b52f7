//! The EAL and a jumbo port on hugepages. Skipped where none are free.

mod common;

use std::fs;

use arrayvec::ArrayVec;
use dpdk::{Eal, EalOptions, Mbuf, Port, PortOptions};

#[test]
fn hugepages() {
    let free = free_hugepages_mib();
    if free < 64 {
        eprintln!("SKIPPED: {free} MiB of hugepages are free, 64 are needed (sysctl vm.nr_hugepages=64)");
        return;
    }
    let eal = Eal::init(&EalOptions { hugepages: true, ..common::options() }).unwrap();
    assert!(eal.has_hugepages());
    let pool = common::pool(&eal, "huge");
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
        fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").unwrap_or_default();
    pages.trim().parse::<u64>().unwrap_or(0) * 2
}

fn own_hugepages_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("HugetlbPages:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
