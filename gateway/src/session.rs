//! Sessions as JSON: what files of sessions hold and `--json` prints, there and back to `gateway.v1`.

mod fields;

use conntrack::{CloseCode, Closed, SessionSpec};
use control::session_manager::{Context, gateway_v1};
use fields::{Address, Mac, Protocol};
use proto::gateway::v1;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// A session as one line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    session_id: u64,
    in_lif: u32,
    out_lif: u32,
    protocol: Protocol,
    source: Address,
    destination: Address,
    #[serde(default)]
    action: Action,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    collector: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hard_timeout: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limit: Option<Limit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nat: Option<Nat>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    l2: Option<L2>,
    // What a list adds: it can be installed again as it is.
    #[serde(default, skip_serializing, rename = "owner")]
    _owner: IgnoredAny,
    #[serde(default, skip_serializing, rename = "state")]
    _state: IgnoredAny,
    #[serde(default, skip_serializing, rename = "in_packets")]
    _in_packets: IgnoredAny,
    #[serde(default, skip_serializing, rename = "in_bytes")]
    _in_bytes: IgnoredAny,
    #[serde(default, skip_serializing, rename = "out_packets")]
    _out_packets: IgnoredAny,
    #[serde(default, skip_serializing, rename = "out_bytes")]
    _out_bytes: IgnoredAny,
    #[serde(default, skip_serializing, rename = "idle_ms")]
    _idle_ms: IgnoredAny,
    #[serde(default, skip_serializing, rename = "start_time")]
    _start_time: IgnoredAny,
    #[serde(default, skip_serializing, rename = "packets_per_second")]
    _packets_per_second: IgnoredAny,
    #[serde(default, skip_serializing, rename = "bits_per_second")]
    _bits_per_second: IgnoredAny,
    #[serde(default, skip_serializing, rename = "age_ms")]
    _age_ms: IgnoredAny,
    #[serde(default, skip_serializing, rename = "timeout_left_ms")]
    _timeout_left_ms: IgnoredAny,
    #[serde(default, skip_serializing, rename = "rates")]
    _rates: IgnoredAny,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    #[default]
    Forward,
    Drop,
    Mirror,
    Snoop,
}

/// Per second; a burst in milliseconds' worth.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limit {
    #[serde(default, skip_serializing_if = "is_zero")]
    packets: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    burst_ms: Option<u32>,
}

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nat {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<Address>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    destination: Option<Address>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct L2 {
    forward: MacPair,
    reverse: MacPair,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MacPair {
    source: Mac,
    destination: Mac,
}

/// A live session: what a list prints.
#[derive(Serialize)]
pub struct Live {
    #[serde(flatten)]
    session: Session,
    owner: String,
    state: &'static str,
    #[serde(flatten)]
    counters: Counters,
    idle_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<String>,
}

/// One direction of a session, for people.
pub struct Direction {
    /// Source and destination of its packets as they come.
    pub arrives: String,
    /// And as they go.
    pub leaves: String,
    /// What is changed.
    pub rewrites: String,
}

#[derive(Serialize)]
struct Counters {
    in_packets: u64,
    in_bytes: u64,
    out_packets: u64,
    out_bytes: u64,
}

/// A session that closed.
#[derive(Serialize)]
pub struct ClosedSession {
    session_id: u64,
    close_code: &'static str,
    #[serde(flatten)]
    counters: Counters,
}

/// Lines of a file that are no sessions.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct BadLines(pub Vec<BadLine>);

/// A line that is no session, and why.
#[derive(Debug, thiserror::Error)]
#[error("{}:{line}: {message}", file.display())]
pub struct BadLine {
    /// As named by the user.
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

/// Bad lines reported at most: a file that is something else entirely should not fill the screen.
const MOST_BAD_LINES: usize = 100;

/// The sessions in `text`, one per line, with their lines; empty lines are passed over. `file` is for messages.
pub fn read_lines(file: &Path, text: &str) -> Result<Vec<(usize, v1::Session)>, BadLines> {
    let (mut sessions, mut bad) = (Vec::new(), Vec::new());
    for (line, content) in (1..).zip(text.lines()).filter(|(_, content)| !content.trim().is_empty()) {
        match parse(content) {
            Ok(session) => sessions.push((line, session)),
            Err(message) => bad.push(BadLine { file: file.to_owned(), line, message }),
        }
        if bad.len() == MOST_BAD_LINES {
            break;
        }
    }
    if bad.is_empty() { Ok(sessions) } else { Err(BadLines(bad)) }
}

fn parse(line: &str) -> Result<v1::Session, String> {
    let session = serde_json::from_str::<Session>(line).map_err(|error| {
        // The line number it gives counts within this line.
        let (text, column) = (error.to_string(), error.column());
        let text = text.split(" at line ").next().unwrap_or_default().to_owned();
        format!("column {column}: {text}")
    })?;
    session.into_proto()
}

/// Checks what a session asks for against the LIFs there are.
pub fn spec(session: &v1::Session, context: &Context) -> Result<SessionSpec, String> {
    gateway_v1::spec(session, context).map_err(|error| error.to_string())
}

impl Session {
    fn into_proto(self) -> Result<v1::Session, String> {
        let protocol = self.protocol;
        let original = tuple(protocol, ("source", self.source), ("destination", self.destination))?;
        let translated = self.nat.map(|nat| {
            same_family("nat.source", nat.source, self.source)?;
            same_family("nat.destination", nat.destination, self.source)?;
            let source = nat.source.unwrap_or(self.source);
            let destination = nat.destination.unwrap_or(self.destination);
            tuple(protocol, ("nat.source", source), ("nat.destination", destination))
        });
        let pair = |pair: MacPair| v1::MacPair {
            source: pair.source.0.to_vec().into(),
            destination: pair.destination.0.to_vec().into(),
        };
        let (action, needs_collector) = match self.action {
            Action::Forward => (v1::Action::Forward, false),
            Action::Drop => (v1::Action::Drop, false),
            Action::Mirror => (v1::Action::Mirror, true),
            Action::Snoop => (v1::Action::Snoop, true),
        };
        match (needs_collector, self.collector) {
            (true, None) => return Err("collector is missing: write \"collector\": \"IP\"".to_owned()),
            (false, Some(_)) => return Err("collector is for mirror and snoop only: leave it out".to_owned()),
            _ => {}
        }
        if self.hard_timeout == Some(0) {
            return Err("hard_timeout: 0 seconds is no life: write 1 or more, or leave it out".to_owned());
        }
        Ok(v1::Session {
            session_id: self.session_id,
            in_lif: self.in_lif,
            out_lif: self.out_lif,
            protocol: u32::from(protocol.0),
            original: Some(original),
            translated: translated.transpose()?,
            l2: self.l2.map(|l2| v1::L2 { forward: Some(pair(l2.forward)), reverse: Some(pair(l2.reverse)) }),
            action: action.into(),
            collector: self.collector.map(octets).unwrap_or_default().into(),
            idle_timeout: self.timeout.unwrap_or_default(),
            hard_timeout: self.hard_timeout.unwrap_or_default(),
            limit: self.limit.map(Limit::into_proto).transpose()?,
            owner: String::new(),
        })
    }

    /// A session of the API as a line of JSON; None if its fields are not what they should be.
    pub fn from_proto(session: &v1::Session) -> Option<Self> {
        let protocol = Protocol(u8::try_from(session.protocol).ok()?);
        let address = |bytes: &[u8], port: u32, has_port: bool| {
            let port = u16::try_from(port).ok()?;
            Some(Address { ip: ip(bytes)?, port: has_port.then_some(port) })
        };
        let ends = |tuple: &v1::Tuple| {
            let source = address(&tuple.source, tuple.source_port, protocol.has_source_port())?;
            let destination =
                address(&tuple.destination, tuple.destination_port, protocol.has_destination_port())?;
            Some((source, destination))
        };
        let (source, destination) = ends(session.original.as_ref()?)?;
        let nat = match &session.translated {
            None => None,
            Some(translated) => {
                let (new_source, new_destination) = ends(translated)?;
                let changed = |new: Address, old: Address| (new != old).then_some(new);
                let nat = Nat {
                    source: changed(new_source, source),
                    destination: changed(new_destination, destination),
                };
                (nat.source.is_some() || nat.destination.is_some()).then_some(nat)
            }
        };
        let pair = |pair: &v1::MacPair| {
            let mac = |bytes: &[u8]| bytes.try_into().ok().map(Mac);
            Some(MacPair { source: mac(&pair.source)?, destination: mac(&pair.destination)? })
        };
        let l2 = match &session.l2 {
            None => None,
            Some(l2) => {
                Some(L2 { forward: pair(l2.forward.as_ref()?)?, reverse: pair(l2.reverse.as_ref()?)? })
            }
        };
        Some(Self {
            session_id: session.session_id,
            in_lif: session.in_lif,
            out_lif: session.out_lif,
            protocol,
            source,
            destination,
            action: match session.action() {
                v1::Action::Forward => Action::Forward,
                v1::Action::Drop => Action::Drop,
                v1::Action::Mirror => Action::Mirror,
                v1::Action::Snoop => Action::Snoop,
            },
            collector: ip(&session.collector),
            timeout: (session.idle_timeout != 0).then_some(session.idle_timeout),
            hard_timeout: (session.hard_timeout != 0).then_some(session.hard_timeout),
            limit: session.limit.map(|v1::RateLimit { packets, bytes, burst_ms }| Limit {
                packets,
                bytes,
                burst_ms: (burst_ms != 0).then_some(burst_ms),
            }),
            nat,
            l2,
            _owner: IgnoredAny,
            _state: IgnoredAny,
            _in_packets: IgnoredAny,
            _in_bytes: IgnoredAny,
            _out_packets: IgnoredAny,
            _out_bytes: IgnoredAny,
            _idle_ms: IgnoredAny,
            _start_time: IgnoredAny,
            _packets_per_second: IgnoredAny,
            _bits_per_second: IgnoredAny,
            _age_ms: IgnoredAny,
            _timeout_left_ms: IgnoredAny,
            _rates: IgnoredAny,
        })
    }
}

impl Limit {
    fn into_proto(self) -> Result<v1::RateLimit, String> {
        let Self { packets, bytes, burst_ms } = self;
        if packets == 0 && bytes == 0 {
            return Err(
                "limit: nothing would be limited: write \"packets\" or \"bytes\" per second".to_owned()
            );
        }
        match burst_ms {
            None | Some(1..=60_000) => {
                Ok(v1::RateLimit { packets, bytes, burst_ms: burst_ms.unwrap_or_default() })
            }
            Some(other) => Err(format!("limit: burst_ms is {other}: write milliseconds from 1 to 60000")),
        }
    }
}

fn same_family(name: &str, new: Option<Address>, source: Address) -> Result<(), String> {
    match new {
        Some(new) if new.ip.is_ipv4() != source.ip.is_ipv4() => {
            Err(format!("{name}: {} is of another family than source: write one of the same", new.ip))
        }
        _ => Ok(()),
    }
}

impl Live {
    /// From the API; None if its fields are not what they should be.
    pub fn from_proto(info: &v1::SessionInfo) -> Option<Self> {
        Some(Self {
            session: Session::from_proto(info.session.as_ref()?)?,
            owner: info.session.as_ref()?.owner.clone(),
            state: state(info.state()),
            counters: Counters::from(&info.counters.unwrap_or_default()),
            idle_ms: info.idle_ms,
            start_time: info.start_time.as_ref().map(ToString::to_string),
        })
    }

    /// What [`Self::cells`] are.
    pub const TITLES: [&str; 10] = [
        "id",
        "lifs",
        "protocol",
        "source",
        "destination",
        "nat",
        "action",
        "state",
        "packets in/out",
        "idle",
    ];

    /// Protocol, action and state in words.
    pub fn summary(&self) -> String {
        let Self { session, state, .. } = self;
        let to = session.collector.map_or(String::new(), |collector| format!(" to {collector}"));
        format!("{}, {}{to}, {state}", session.protocol, format!("{:?}", session.action).to_lowercase())
    }

    /// Both directions.
    pub fn directions(&self) -> [(&'static str, Direction); 2] {
        let Session { source, destination, nat, l2, protocol, .. } = &self.session;
        let part = |part: fn(&Nat) -> Option<Address>| nat.as_ref().and_then(part);
        let new_source = part(|nat| nat.source).unwrap_or(*source);
        let new_destination = part(|nat| nat.destination).unwrap_or(*destination);
        let peer = |from: Address, to: Address| match protocol.has_destination_port() {
            true => format!("{from} > {to}"),
            // The identifier of an ICMP query goes with both ways.
            false => format!("{from} > {}", to.ip),
        };
        let mut answer = (new_destination, new_source);
        if !protocol.has_destination_port() {
            answer = (Address { port: new_source.port, ..new_destination }, new_source);
        }
        let mut end = (*destination, *source);
        if !protocol.has_destination_port() {
            end = (Address { port: source.port, ..*destination }, *source);
        }
        let macs = |pair: Option<&MacPair>| match pair {
            Some(pair) => format!("MACs {} > {}, TTL - 1", pair.source, pair.destination),
            None => "MACs and TTL stay".to_owned(),
        };
        let rewrites = |pair: Option<&MacPair>, from: bool, to: bool| {
            let mut all = vec![macs(pair)];
            all.extend(from.then(|| "source".to_owned()));
            all.extend(to.then(|| "destination".to_owned()));
            all.join(", ")
        };
        let (changed, redirected) = (new_source != *source, new_destination != *destination);
        let l2 = l2.as_ref();
        [
            (
                "forward",
                Direction {
                    arrives: peer(*source, *destination),
                    leaves: peer(new_source, new_destination),
                    rewrites: rewrites(l2.map(|l2| &l2.forward), changed, redirected),
                },
            ),
            (
                "reverse",
                Direction {
                    arrives: peer(answer.0, answer.1),
                    leaves: peer(end.0, end.1),
                    rewrites: rewrites(l2.map(|l2| &l2.reverse), redirected, changed),
                },
            ),
        ]
    }

    /// A row of a table.
    pub fn cells(&self) -> [String; 10] {
        let Self { session, counters, .. } = self;
        let nat = session.nat.as_ref().map_or(String::new(), |nat| {
            let part = |name, address: Option<Address>| address.map(|address| format!("{name} {address}"));
            [part("src", nat.source), part("dst", nat.destination)]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(" ")
        });
        [
            session.session_id.to_string(),
            format!("{}→{}", session.in_lif, session.out_lif),
            session.protocol.to_string(),
            session.source.to_string(),
            session.destination.to_string(),
            nat,
            format!("{:?}", session.action).to_lowercase(),
            self.state.to_owned(),
            format!("{}/{}", counters.in_packets, counters.out_packets),
            format!("{}.{:03} s", self.idle_ms / 1000, self.idle_ms % 1000),
        ]
    }
}

impl ClosedSession {
    /// As the API reports it; None if its fields are not what they should be.
    pub fn from_proto(closed: &v1::ClosedSession) -> Option<Self> {
        Some(Self {
            session_id: closed.session.as_ref()?.session_id,
            close_code: match closed.close_code() {
                v1::CloseCode::Finack => "finack",
                v1::CloseCode::Rst => "rst",
                v1::CloseCode::Timeout => "timeout",
                v1::CloseCode::Deleted => "deleted",
                v1::CloseCode::None => "none",
            },
            counters: Counters::from(&closed.counters.unwrap_or_default()),
        })
    }
}

impl ClosedSession {
    /// What [`Self::cells`] are.
    pub const TITLES: [&str; 6] = ["id", "closed by", "packets in", "bytes in", "packets out", "bytes out"];

    /// A row of a table.
    pub fn cells(&self) -> [String; 6] {
        let Counters { in_packets, in_bytes, out_packets, out_bytes } = self.counters;
        let id = self.session_id.to_string();
        let numbers = [in_packets, in_bytes, out_packets, out_bytes].map(|number| number.to_string());
        let [a, b, c, d] = numbers;
        [id, self.close_code.to_owned(), a, b, c, d]
    }
}

impl From<&Closed> for ClosedSession {
    fn from(closed: &Closed) -> Self {
        let counters = &closed.info.counters;
        Self {
            session_id: closed.info.spec.id.0,
            close_code: match closed.code {
                CloseCode::FinAck => "finack",
                CloseCode::Rst => "rst",
                CloseCode::Timeout => "timeout",
                CloseCode::Deleted => "deleted",
            },
            counters: Counters {
                in_packets: counters.in_packets,
                in_bytes: counters.in_bytes,
                out_packets: counters.out_packets,
                out_bytes: counters.out_bytes,
            },
        }
    }
}

impl From<&v1::Counters> for Counters {
    fn from(counters: &v1::Counters) -> Self {
        let v1::Counters { in_packets, in_bytes, out_packets, out_bytes } = *counters;
        Self { in_packets, in_bytes, out_packets, out_bytes }
    }
}

fn state(state: v1::SessionState) -> &'static str {
    match state {
        v1::SessionState::Established => "established",
        v1::SessionState::Closing1 => "closing_1",
        v1::SessionState::Closing2 => "closing_2",
        v1::SessionState::Closed => "closed",
    }
}

/// Both ends, with ports where the protocol has them and none where it has none.
fn tuple(
    protocol: Protocol,
    (source_name, source): (&str, Address),
    (destination_name, destination): (&str, Address),
) -> Result<v1::Tuple, String> {
    let port = |name: &str, address: Address, wanted: bool| match (address.port, wanted) {
        (Some(port), true) => Ok(u32::from(port)),
        (None, false) => Ok(0),
        (None, true) => {
            Err(format!("{name}: {address} has no port: write \"{}\"", address.with_port("PORT")))
        }
        (Some(_), false) => Err(format!(
            "{name}: {address} has a port, but {protocol} has none there: write \"{}\"",
            address.ip
        )),
    };
    Ok(v1::Tuple {
        source_port: port(source_name, source, protocol.has_source_port())?,
        destination_port: port(destination_name, destination, protocol.has_destination_port())?,
        source: octets(source.ip).into(),
        destination: octets(destination.ip).into(),
    })
}

/// The number of a protocol, by name or number.
pub fn protocol_number(text: &str) -> Result<u8, String> {
    let named = fields::by_name(text).or_else(|| text.parse().ok());
    named.ok_or_else(|| "write tcp, udp, icmp, icmpv6 or a number up to 255".to_owned())
}

/// An address as the API has it.
pub fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests;
