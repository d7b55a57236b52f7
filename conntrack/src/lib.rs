//! Connection tracking: flow keys, the flow table, sessions and their rewrites, TCP observation, timeouts.
//!
//! Pure: no clock, no I/O, no logging. Time comes in as [`Timestamp`], packets as keys and lengths, decisions go out as
//! [`session::Closed`] records and [`rewrite`]s. Writers are any threads; readers ([`table::Reader`], one per worker)
//! never take a lock, never allocate and never wait.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::indexing_slicing
    )
)]

mod sync;
pub mod time;
pub mod lif;
pub mod key;
pub mod checksum;
pub mod entropy;
pub mod rewrite;
pub mod tcp;
mod plan;
pub mod session;
pub mod table;

pub use checksum::ChecksumDelta;
pub use key::{FlowKeyV4, FlowKeyV6};
pub use lif::LifIndex;
pub use rewrite::{L2Index, L2Rewrite, Macs, Rewrite, RewriteFlags, RewriteV4, RewriteV6, Values};
pub use session::{
    Action, CloseCode, Closed, Counters, L2, MacPair, RateLimit, SessionId, SessionInfo, SessionSpec,
    SessionState, Tuple,
};
pub use table::{InsertError, Reader, SessionTable, TableConfig, TableError, TableStats};
pub use tcp::TcpFlags;
pub use time::Timestamp;
