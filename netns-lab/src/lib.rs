//! The lab: tenants, fabric, kernel and network functions in network namespaces around a gateway, for demonstrations
//! and end-to-end tests. Needs root.
//!
//! [`Lab::up`] makes it and dropping the [`Lab`] removes it: namespaces, processes and files, also on panic. Names are
//! unique, so labs of several processes live side by side. [`cleanup::on_signals`] does the same on SIGINT and SIGTERM;
//! what a SIGKILL leaves is removed by the next lab. See [`plan`] for the topology.

#![forbid(unsafe_code)]

pub mod cleanup;
pub mod collector;
pub mod command;
pub mod config;
pub mod control;
pub mod demo;
pub mod error;
pub mod gateway;
pub mod lab;
pub mod netns;
pub mod plan;
pub mod process;
pub mod tagger;
pub mod traffic;

pub use error::{Error, Result};
pub use lab::Lab;
pub use netns::Netns;
pub use process::Process;
