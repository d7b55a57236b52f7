//! An EAL that runs anywhere: without hugepages or privileges. One test per file, since the EAL starts once per process.

#![allow(dead_code, reason = "each test uses some of it")]

use dpdk::{Eal, EalOptions, Mempool, PoolOptions};

pub fn options() -> EalOptions {
    EalOptions { hugepages: false, memory_mib: 64, log_level: "info".into(), ..EalOptions::default() }
}

pub fn eal() -> Eal {
    dpdk::set_log_sink(|_| {});
    Eal::init(&options()).expect("the EAL starts without privileges or hugepages")
}

pub fn pool(eal: &Eal, name: &str) -> Mempool {
    let options = PoolOptions { name, count: 1023, cache: 32, ..PoolOptions::default() };
    Mempool::new(eal, &options).expect("64 MiB hold 1023 buffers")
}
