//! The gateway as a library: its configuration, `replay`, and the adapter that runs the pipeline on DPDK's buffers.
#![forbid(unsafe_code)]

pub mod capture;
pub mod cli;
pub mod config;
pub mod frame;
pub mod numa;
pub mod preflight;
pub mod processor;
pub mod replay;
mod run;
pub mod session;
pub mod stats;

/// Where the control services listen, and clients connect, unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/openoffload-gateway.sock";
