//! End-to-end tests: the gateway on DPDK, real agents, nftables, and real traffic in a lab. They need root.

mod bench;
mod copies;
mod demo;
mod exceptions;
mod icmp_errors;
mod limits;
mod nat;
mod neighbors;
mod resets;
mod restart;
mod sessions;
mod tcp;
mod udp;
