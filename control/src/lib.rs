//! The control side: gRPC services over the session table, and the offload agent beside a Linux VNF.
#![forbid(unsafe_code)]

pub mod activation;
pub mod agent;
pub mod client;
pub mod clock;
pub mod endpoint;
pub mod housekeeper;
mod pinned;
pub mod server;
pub mod session_manager;
pub mod stats;

pub use clock::Clock;
pub use endpoint::Endpoint;
pub use housekeeper::Housekeeper;
pub use server::{Handles, Limits, Server, ServerConfig, ServerError, TlsFiles};
pub use session_manager::ClosedLog;
