//! The offload agent: runs in the VNF's network namespace beside nftables, follows the kernel's connection table, and
//! installs the connections worth it as sessions in the gateway, translation and MACs included. The kernel decides, the agent
//! only follows: what it does not install, or what the gateway loses, goes on through the VNF.
//!
//! ```text
//! ctnetlink events ─▶ [tracker] ─▶ lookups ─▶ route, neighbour, link (rtnetlink)
//!                        │  ▲
//!                        ▼  └── closed sessions, lists ◀─┐
//!             get, liberal flags ─▶ AddSessions ───────▶ gateway.v1
//! ```

mod activation;
mod config;
mod counters;
mod entry;
pub mod flood;
mod kernel;
mod ledger;
mod link;
mod path;
mod session;
mod tracker;
mod view;
mod work;

pub use config::{Activation, AgentConfig, ConfigError, ConfigErrors, Device, Endpoint, RawAgentConfig, Tls};
pub use counters::Counters;
pub use entry::{Count, Entry, TcpState, Traffic, Tuple};
pub use ledger::Record;
pub use link::LinkError;
pub use path::{Mac, Path, PathError, Side};
pub use session::{Ineligible, Policy, is_own, session_id};
pub use view::{Connection, connections};

use std::future::Future;
use std::time::Duration;
use thiserror::Error;
use work::Agent;

/// `ready` is called at the latest after so long, gateway or not.
const READY_LIMIT: Duration = Duration::from_secs(10);

/// Why the agent cannot go on.
#[derive(Debug, Error)]
pub enum AgentError {
    /// The event socket cannot be opened or read.
    #[error(
        "connection tracking over netlink: {0}; the agent needs CAP_NET_ADMIN in the VNF's network namespace"
    )]
    Conntrack(#[from] std::io::Error),
    /// Routes, links and neighbours cannot be read.
    #[error("routes and neighbours: {0}")]
    Paths(#[from] PathError),
    /// The activation service cannot be served.
    #[error("activation: {0}")]
    Activation(#[from] crate::ServerError),
    /// The gateway's address or the TLS files cannot be used, or it does not answer a question.
    #[error(transparent)]
    Gateway(#[from] LinkError),
}

/// Runs the agent in the network namespace of the calling thread until `shutdown` completes. A gateway that is not there, or
/// goes away, is waited for. Returns what was done.
///
/// # Errors
/// Netlink sockets cannot be opened or break; the gateway's address cannot be used.
pub async fn run(config: AgentConfig, shutdown: impl Future<Output = ()>) -> Result<Counters, AgentError> {
    run_with_ready(config, || {}, shutdown).await
}

/// As [`run`]; calls `ready` once, when the gateway and the kernel have been compared for the first time, or after 10 seconds
/// without a gateway.
///
/// # Errors
/// As [`run`].
pub async fn run_with_ready(
    config: AgentConfig,
    ready: impl FnOnce() + Send + 'static,
    shutdown: impl Future<Output = ()>,
) -> Result<Counters, AgentError> {
    for missing in kernel::missing_settings(config.policy.min_packets > 0) {
        tracing::warn!("{missing}");
    }
    let mut agent = Agent::start(config, Box::new(ready)).await?;
    let result = agent.work(shutdown).await;
    let counters = agent.finish().await;
    result.map(|()| counters)
}
