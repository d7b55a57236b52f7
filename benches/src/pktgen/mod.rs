//! A packet generator over any DPDK port: it sends frames of many sessions and checks every frame that comes back.
//!
//! One thread sends and receives. Each frame carries its flow, a sequence number per flow, and the time it was sent; so loss,
//! duplicates, order, translation, encapsulation, checksums and latency are known per packet.

mod address;
mod permutation;
pub mod profile;
pub mod flows;
pub mod frame;
mod mould;
mod account;
mod check;
mod templates;
mod pace;
pub mod trial;
pub mod link;
pub mod generator;
pub mod search;
pub mod sessions;
mod options;
pub mod cli;

pub use flows::{Session, Tuple};
pub use generator::Generator;
pub use link::{Link, Ports};
pub use profile::Profile;
pub use search::{Bounds, Goal, Search};
pub use trial::{Load, Outcome, Trial};
