//! The packet's way through the gateway, one file per stage.
//!
//! [`Worker::process`] takes a burst through the stages in the order of the `mod` lines below; each stage handles the packets
//! that are marked for it ([`batch::Next`]) and marks each for a later one. The first line of each names its exits.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable))]

pub mod packet;
pub mod config;
mod validate;
pub mod stats;
pub mod wire;
pub mod batch;
pub mod counters;
mod lif;
mod neighbors;
mod routes;
mod fdb;
mod limits;
mod tunnel;
mod cache;
mod adjacency;
mod senders;
mod ecn;

pub mod worker;
mod ingress;
mod decap;
mod from_kernel;
mod local;
mod classify;
mod extension;
mod lookup;
mod nat;
mod related;
mod mirror;
mod trap;
mod encap;
mod egress;
mod solicit;

#[doc(hidden)]
pub mod testing;
#[cfg(test)]
mod fuzz;

pub use config::{Config, ConfigError, Encapsulation, Lif, PortIndex, TrapLimits};
pub use packet::{BURST, Burst, Io, PORT_BURST, Packet};
pub use stats::Snapshot;
pub use worker::{Pipeline, Probe, Worker};
