//! The connections as they are: the kernel's table, with what the gateway forwarded added to its counts.

use super::AgentError;
use super::config::AgentConfig;
use super::entry::{Count, Entry, TcpState, Traffic, Tuple, protocol};
use super::kernel::ConntrackSocket;
use super::ledger::{Record, traffic};
use super::link;
use super::session::session_id;
use serde::Serialize;
use std::collections::HashMap;
use std::fmt;

/// A connection of the kernel's table. `Display` is a line as `conntrack -L` prints it, with the truth for counters.
#[derive(Clone, Debug, Serialize)]
pub struct Connection {
    /// Who, and how much.
    #[serde(flatten)]
    pub record: Record,
    /// Whether the gateway has it now.
    pub in_gateway: bool,
    /// The kernel's state, for TCP.
    pub state: Option<TcpState>,
    /// Seconds that the kernel's entry has left.
    pub timeout: Option<u32>,
    #[serde(skip)]
    entry: Entry,
}

/// The kernel's table in the network namespace of the calling thread, with what the gateway's sessions have forwarded.
///
/// # Errors
/// The table cannot be read, or the gateway does not answer.
pub async fn connections(config: &AgentConfig) -> Result<Vec<Connection>, AgentError> {
    let mut client = link::connect(&config.gateway).await?;
    let mut forwarded = HashMap::new();
    let mut cursor = 0;
    loop {
        let (page, next) = link::list_page(&mut client, cursor).await?;
        forwarded.extend(page.into_iter().filter_map(|info| {
            Some((info.session?.session_id, traffic(&info.counters.unwrap_or_default())))
        }));
        if next == 0 {
            break;
        }
        cursor = next;
    }
    let mut socket = ConntrackSocket::requests()?;
    socket.start_dump().await?;
    let mut entries = Vec::new();
    while socket.dump_part(&mut entries).await? {}
    let connection = |entry: Entry| {
        let id = session_id(&entry, config.tag);
        let session = forwarded.get(&id).copied();
        Connection {
            record: Record::new(id, &entry, session.unwrap_or_default(), None),
            in_gateway: session.is_some(),
            state: entry.tcp_state,
            timeout: entry.timeout,
            entry,
        }
    };
    Ok(entries.into_iter().map(connection).collect())
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = &self.entry;
        match name(entry.protocol) {
            Some(name) => write!(f, "{name} {}", entry.protocol)?,
            None => write!(f, "unknown {}", entry.protocol)?,
        }
        if let Some(timeout) = self.timeout {
            write!(f, " {timeout}")?;
        }
        if let Some(state) = self.state {
            write!(f, " {}", state.name())?;
        }
        let Traffic { original, reply } = self.record.total;
        direction(f, entry, &entry.original, original)?;
        direction(f, entry, &entry.reply, reply)?;
        if self.in_gateway {
            f.write_str(" [OFFLOADED]")?;
        }
        write!(f, " mark={}", entry.mark)?;
        if entry.zone != 0 {
            write!(f, " zone={}", entry.zone)?;
        }
        write!(f, " id={}", entry.kernel_id)
    }
}

fn direction(f: &mut fmt::Formatter<'_>, entry: &Entry, tuple: &Tuple, count: Count) -> fmt::Result {
    write!(f, " src={} dst={}", tuple.source, tuple.destination)?;
    if entry.is_icmp() {
        write!(f, " id={}", tuple.source_port)?;
    } else if entry.has_ports() {
        write!(f, " sport={} dport={}", tuple.source_port, tuple.destination_port)?;
    }
    write!(f, " packets={} bytes={}", count.packets, count.bytes)
}

fn name(number: u8) -> Option<&'static str> {
    match number {
        protocol::TCP => Some("tcp"),
        protocol::UDP => Some("udp"),
        protocol::ICMP => Some("icmp"),
        protocol::ICMPV6 => Some("icmpv6"),
        _ => None,
    }
}

impl TcpState {
    fn name(self) -> &'static str {
        match self {
            Self::Opening => "SYN_RECV",
            Self::Established => "ESTABLISHED",
            Self::FinWait => "FIN_WAIT",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::TimeWait => "TIME_WAIT",
            Self::Closed => "CLOSE",
        }
    }
}

impl Serialize for TcpState {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
