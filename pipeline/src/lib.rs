//! The packet's way through the gateway, one file per stage.
#![forbid(unsafe_code)]

pub mod packet;
pub mod config;
pub mod stats;
pub mod worker;

pub use config::{Config, ConfigError, Encapsulation, Lif, PortIndex, TrapLimits};
pub use packet::{BURST, Burst, Io, Packet};
pub use stats::Snapshot;
pub use worker::{Pipeline, Worker};
