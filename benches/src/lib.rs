//! What the benchmarks are made of and others may use: the packet generator, and the devices that it measures.
#![forbid(unsafe_code)]

pub mod output;
pub mod pktgen;
pub mod devices;
