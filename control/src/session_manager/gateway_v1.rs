//! gateway.v1 requests and answers.

use super::requested::{self, Requested};
use super::{Context, MAX_TIMEOUT, SpecError, address, check_addresses, idle_timeout, port, transport_port};
use crate::Clock;
use conntrack::{
    Action, CloseCode, Closed, Counters, InsertError, L2, MacPair, RateLimit, SessionId, SessionInfo,
    SessionSpec, SessionState, Tuple,
};
use prost::{DecodeError, Message};
use proto::Bytes;
use proto::gateway::v1;
use std::net::IpAddr;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// What a rate limit's buckets hold if the client does not say.
const DEFAULT_BURST_MS: u32 = 1000;

/// A session as requested, from its message's bytes: its id, and what is to be installed or why it cannot be.
///
/// # Errors
/// The bytes are no message.
pub fn read(wire: &Bytes, context: &Context) -> Result<(u64, Result<SessionSpec, SpecError>), DecodeError> {
    if let Some(session) = Requested::read(wire) {
        return Ok((session.session_id, check(&session, context)));
    }
    let session = v1::Session::decode(wire.clone())?;
    Ok((session.session_id, spec(&session, context)))
}

/// A session as requested.
pub fn spec(session: &v1::Session, context: &Context) -> Result<SessionSpec, SpecError> {
    check(&Requested::from(session), context)
}

fn check(session: &Requested<'_>, context: &Context) -> Result<SessionSpec, SpecError> {
    if session.session_id == 0 {
        return Err(SpecError::field("session_id", "choose any value but 0"));
    }
    let protocol = u8::try_from(session.protocol)
        .map_err(|_| SpecError::field("protocol", "an IP protocol number is at most 255"))?;
    let original = session.original.as_ref().ok_or(SpecError::field("original", "is missing"))?;
    let original = tuple(original, protocol, &ORIGINAL)?;
    let translated = session.translated.as_ref().map(|t| tuple(t, protocol, &TRANSLATED)).transpose()?;
    let translated = translated.unwrap_or(original);
    if original.source.is_ipv4() != translated.source.is_ipv4() {
        return Err(SpecError::field("translated", "must be of the original tuple's address family"));
    }
    Ok(SessionSpec {
        id: SessionId(session.session_id),
        in_lif: context.lif("in_lif", i64::from(session.in_lif))?,
        out_lif: context.lif("out_lif", i64::from(session.out_lif))?,
        protocol,
        original,
        translated,
        l2: session.l2.as_ref().map(l2).transpose()?,
        action: action(session, context)?,
        idle_timeout: idle_timeout("idle_timeout", session.idle_timeout)?,
        hard_timeout: hard_timeout(session.hard_timeout)?,
        limit: session.limit.as_ref().map(limit).transpose()?,
        owner: 0,
    })
}

/// 0 = none.
fn hard_timeout(seconds: u32) -> Result<Option<u32>, SpecError> {
    match seconds {
        0 => Ok(None),
        1..=MAX_TIMEOUT => Ok(Some(seconds)),
        _ => Err(SpecError::field("hard_timeout", "at most 2097152 seconds; 0 for none")),
    }
}

fn limit(limit: &v1::RateLimit) -> Result<RateLimit, SpecError> {
    let v1::RateLimit { packets, bytes, burst_ms } = *limit;
    if packets == 0 && bytes == 0 {
        return Err(SpecError::field("limit", "give packets or bytes per second, or leave it out"));
    }
    match burst_ms {
        0 => Ok(RateLimit { packets, bytes, burst_ms: DEFAULT_BURST_MS }),
        1..=60_000 => Ok(RateLimit { packets, bytes, burst_ms }),
        _ => Err(SpecError::field("limit.burst_ms", "1 to 60000 milliseconds; 0 for 1000")),
    }
}

/// The names of a tuple's fields in a session.
struct TupleFields {
    source: &'static str,
    destination: &'static str,
    source_port: &'static str,
    destination_port: &'static str,
}

const ORIGINAL: TupleFields = TupleFields {
    source: "original.source",
    destination: "original.destination",
    source_port: "original.source_port",
    destination_port: "original.destination_port",
};

const TRANSLATED: TupleFields = TupleFields {
    source: "translated.source",
    destination: "translated.destination",
    source_port: "translated.source_port",
    destination_port: "translated.destination_port",
};

fn tuple(
    tuple: &requested::Tuple<'_>,
    protocol: u8,
    fields: &'static TupleFields,
) -> Result<Tuple, SpecError> {
    let source = address(fields.source, tuple.source)?;
    let destination = address(fields.destination, tuple.destination)?;
    check_addresses((fields.source, source), (fields.destination, destination))?;
    let (source_port, destination_port) = match protocol {
        TCP | UDP => (
            transport_port(fields.source_port, tuple.source_port)?,
            transport_port(fields.destination_port, tuple.destination_port)?,
        ),
        ICMP | ICMPV6 => {
            if (protocol == ICMP) != source.is_ipv4() {
                return Err(SpecError::field("protocol", "ICMP is 1 with IPv4 and 58 with IPv6 addresses"));
            }
            no_port(fields.destination_port, tuple.destination_port)?;
            (port(fields.source_port, tuple.source_port)?, 0)
        }
        _ => {
            no_port(fields.source_port, tuple.source_port)?;
            no_port(fields.destination_port, tuple.destination_port)?;
            (0, 0)
        }
    };
    Ok(Tuple { source, destination, source_port, destination_port })
}

fn no_port(field: &'static str, value: u32) -> Result<(), SpecError> {
    if value == 0 { Ok(()) } else { Err(SpecError::field(field, "the protocol has none; send 0")) }
}

fn l2(l2: &requested::L2<'_>) -> Result<L2, SpecError> {
    let forward =
        l2.forward.as_ref().ok_or(SpecError::field("l2.forward", "is missing; l2 needs both directions"))?;
    let reverse =
        l2.reverse.as_ref().ok_or(SpecError::field("l2.reverse", "is missing; l2 needs both directions"))?;
    Ok(L2 { forward: mac_pair(forward)?, reverse: mac_pair(reverse)? })
}

fn mac_pair(pair: &requested::MacPair<'_>) -> Result<MacPair, SpecError> {
    let mac = |bytes: &[u8]| {
        <[u8; 6]>::try_from(bytes).map_err(|_| SpecError::field("l2", "a MAC address has 6 bytes"))
    };
    let (source, destination) = (mac(pair.source)?, mac(pair.destination)?);
    // The group bit (IEEE 802): no frame comes from a group.
    if source[0] & 1 == 1 {
        return Err(SpecError::field("l2", "a source MAC must be a unicast address"));
    }
    Ok(MacPair { source, destination })
}

fn action(session: &Requested<'_>, context: &Context) -> Result<Action, SpecError> {
    let kind = v1::Action::try_from(session.action).map_err(|_| {
        SpecError::field("action", "ACTION_FORWARD, ACTION_DROP, ACTION_MIRROR or ACTION_SNOOP")
    })?;
    match kind {
        v1::Action::Forward => Ok(Action::Forward),
        v1::Action::Drop => Ok(Action::Drop),
        v1::Action::Mirror => collector(session, context).map(Action::Mirror),
        v1::Action::Snoop => collector(session, context).map(Action::Snoop),
    }
}

fn collector(session: &Requested<'_>, context: &Context) -> Result<IpAddr, SpecError> {
    context.underlay()?;
    let collector = address("collector", session.collector)?;
    if collector.is_unspecified() {
        return Err(SpecError::field("collector", "is missing"));
    }
    context.reachable(collector)
}

/// How a request that is wrong in itself reads.
pub fn spec_status(error: &SpecError) -> v1::AddStatus {
    match error {
        SpecError::Field { .. } => v1::AddStatus::Invalid,
        SpecError::UnknownLif { .. } => v1::AddStatus::UnknownLif,
        SpecError::NoCopies | SpecError::CollectorFamily { .. } => v1::AddStatus::Unsupported,
    }
}

/// How a refusal by the table reads.
pub fn insert_status(error: &InsertError) -> v1::AddStatus {
    match error {
        InsertError::Full | InsertError::L2Full => v1::AddStatus::TableFull,
        InsertError::IdExists(_) | InsertError::FlowExists(_) => v1::AddStatus::Exists,
        InsertError::Invalid(_) => v1::AddStatus::Invalid,
    }
}

/// A session as clients describe it.
pub fn session(spec: &SessionSpec, context: &Context) -> v1::Session {
    let (action, collector) = action_and_collector(spec.action);
    let pair =
        |pair: &MacPair| v1::MacPair { source: copy(&pair.source), destination: copy(&pair.destination) };
    v1::Session {
        session_id: spec.id.0,
        in_lif: context.lif_id(spec.in_lif),
        out_lif: context.lif_id(spec.out_lif),
        protocol: u32::from(spec.protocol),
        original: Some(proto_tuple(&spec.original)),
        translated: (spec.translated != spec.original).then(|| proto_tuple(&spec.translated)),
        l2: spec.l2.map(|l2| v1::L2 { forward: Some(pair(&l2.forward)), reverse: Some(pair(&l2.reverse)) }),
        action: action.into(),
        collector: collector.map(bytes).unwrap_or_default(),
        idle_timeout: spec.idle_timeout.unwrap_or_default(),
        hard_timeout: spec.hard_timeout.unwrap_or_default(),
        limit: spec.limit.map(|RateLimit { packets, bytes, burst_ms }| v1::RateLimit {
            packets,
            bytes,
            burst_ms,
        }),
        owner: context.owners().name(spec.owner).to_string(),
    }
}

/// Both as clients have them.
pub(super) fn action_and_collector(action: Action) -> (v1::Action, Option<IpAddr>) {
    match action {
        Action::Forward => (v1::Action::Forward, None),
        Action::Drop => (v1::Action::Drop, None),
        Action::Mirror(collector) => (v1::Action::Mirror, Some(collector)),
        Action::Snoop(collector) => (v1::Action::Snoop, Some(collector)),
    }
}

/// As clients have it.
pub(super) fn state(state: SessionState) -> v1::SessionState {
    match state {
        SessionState::Established => v1::SessionState::Established,
        SessionState::Closing1 => v1::SessionState::Closing1,
        SessionState::Closing2 => v1::SessionState::Closing2,
    }
}

fn proto_tuple(tuple: &Tuple) -> v1::Tuple {
    v1::Tuple {
        source: bytes(tuple.source),
        destination: bytes(tuple.destination),
        source_port: u32::from(tuple.source_port),
        destination_port: u32::from(tuple.destination_port),
    }
}

fn copy(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn bytes(address: IpAddr) -> Bytes {
    match address {
        IpAddr::V4(v4) => copy(&v4.octets()),
        IpAddr::V6(v6) => copy(&v6.octets()),
    }
}

fn counters(counters: &Counters) -> v1::Counters {
    v1::Counters {
        in_packets: counters.in_packets,
        in_bytes: counters.in_bytes,
        out_packets: counters.out_packets,
        out_bytes: counters.out_bytes,
    }
}

/// A live session.
pub fn live(info: &SessionInfo, context: &Context, clock: &Clock) -> v1::SessionInfo {
    v1::SessionInfo {
        session: Some(session(&info.spec, context)),
        counters: Some(counters(&info.counters)),
        state: state(info.state).into(),
        start_time: Some(clock.proto(info.start)),
        idle_ms: clock.now().since(info.last_seen),
    }
}

/// A session that has ended.
pub fn closed(closed: &Closed, context: &Context, clock: &Clock) -> v1::ClosedSession {
    let code = match closed.code {
        CloseCode::FinAck => v1::CloseCode::Finack,
        CloseCode::Rst => v1::CloseCode::Rst,
        CloseCode::Timeout => v1::CloseCode::Timeout,
        CloseCode::Deleted => v1::CloseCode::Deleted,
    };
    v1::ClosedSession {
        session: Some(session(&closed.info.spec, context)),
        counters: Some(counters(&closed.info.counters)),
        close_code: code.into(),
        start_time: Some(clock.proto(closed.info.start)),
        end_time: Some(clock.proto(closed.end)),
    }
}

#[cfg(test)]
#[path = "gateway_v1_tests.rs"]
mod tests;
