//! openoffload.v2 requests and answers.

use super::{Context, SpecError, check_addresses, idle_timeout, transport_port};
use crate::Clock;
use conntrack::{
    Action, CloseCode, Closed, InsertError, SessionId, SessionInfo, SessionSpec, SessionState, Tuple,
};
use proto::openoffload::v2;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A session as requested. Its family is the one whose addresses are present, whatever `ip_version` leaves unset; `_IPV6`
/// with IPv4 addresses is a contradiction. There is no translation in this API.
pub fn spec(request: &v2::SessionRequest, context: &Context) -> Result<SessionSpec, SpecError> {
    if request.session_id == 0 {
        return Err(SpecError::field("session_id", "choose any value but 0"));
    }
    let (source, destination) = addresses(request)?;
    let protocol = match v2::ProtocolId::try_from(request.protocol_id) {
        Ok(v2::ProtocolId::Tcp) => 6,
        Ok(v2::ProtocolId::Udp) => 17,
        Ok(v2::ProtocolId::Hopopt) | Err(_) => {
            return Err(SpecError::field("protocol_id", "_TCP or _UDP; gateway.v1 takes other protocols"));
        }
    };
    let tuple = Tuple {
        source,
        destination,
        source_port: transport_port("source_port", request.source_port)?,
        destination_port: transport_port("destination_port", request.destination_port)?,
    };
    Ok(SessionSpec {
        id: SessionId(request.session_id),
        in_lif: context.lif("in_lif", i64::from(request.in_lif))?,
        out_lif: context.lif("out_lif", i64::from(request.out_lif))?,
        protocol,
        original: tuple,
        translated: tuple,
        l2: None,
        action: action(request.action.as_ref(), context)?,
        idle_timeout: idle_timeout("cache_timeout", request.cache_timeout)?,
        hard_timeout: None,
        limit: None,
        owner: 0,
    })
}

/// The four bytes in network order, read as an integer by a little-endian client.
fn ipv4(native: u32) -> Ipv4Addr {
    Ipv4Addr::from(native.to_le_bytes())
}

fn ipv6(field: &'static str, bytes: &[u8]) -> Result<Ipv6Addr, SpecError> {
    if bytes.is_empty() {
        return Ok(Ipv6Addr::UNSPECIFIED);
    }
    <[u8; 16]>::try_from(bytes)
        .map(Ipv6Addr::from)
        .map_err(|_| SpecError::field(field, "an IPv6 address has 16 bytes, in network order"))
}

fn addresses(request: &v2::SessionRequest) -> Result<(IpAddr, IpAddr), SpecError> {
    let version = v2::IpVersion::try_from(request.ip_version)
        .map_err(|_| SpecError::field("ip_version", "_IPV4 or _IPV6"))?;
    let v4 = (ipv4(request.source_ip), ipv4(request.destination_ip));
    let v6 =
        (ipv6("source_ipv6", &request.source_ipv6)?, ipv6("destination_ipv6", &request.destination_ipv6)?);
    let has_v4 = !v4.0.is_unspecified() || !v4.1.is_unspecified();
    let has_v6 = !v6.0.is_unspecified() || !v6.1.is_unspecified();
    let (source, destination) = match (has_v4, has_v6) {
        (true, false) if version == v2::IpVersion::Ipv6 => {
            return Err(SpecError::field("ip_version", "_IPV6, but the addresses are IPv4"));
        }
        (true, true) => return Err(SpecError::field("source_ipv6", "give IPv4 or IPv6 addresses, not both")),
        (true, false) => (("source_ip", IpAddr::V4(v4.0)), ("destination_ip", IpAddr::V4(v4.1))),
        (false, true) => (("source_ipv6", IpAddr::V6(v6.0)), ("destination_ipv6", IpAddr::V6(v6.1))),
        (false, false) => return Err(SpecError::field("source_ip", "is missing")),
    };
    check_addresses(source, destination)?;
    Ok((source.1, destination.1))
}

fn action(parameters: Option<&v2::ActionParameters>, context: &Context) -> Result<Action, SpecError> {
    // An absent message would read as _DROP, which nobody can be taken to mean.
    let parameters = parameters.ok_or(SpecError::field("action", "is missing"))?;
    let kind = v2::ActionType::try_from(parameters.action_type)
        .map_err(|_| SpecError::field("action_type", "_DROP, _FORWARD, _MIRROR or _SNOOP"))?;
    match kind {
        v2::ActionType::Drop => Ok(Action::Drop),
        v2::ActionType::Forward => Ok(Action::Forward),
        v2::ActionType::Mirror => collector(parameters, context).map(Action::Mirror),
        v2::ActionType::Snoop => collector(parameters, context).map(Action::Snoop),
    }
}

/// Where both are given, the one of the underlay's family: copies get to no other.
fn collector(parameters: &v2::ActionParameters, context: &Context) -> Result<IpAddr, SpecError> {
    let underlay = context.underlay()?;
    let v4 = ipv4(parameters.action_next_hop);
    let v6 = ipv6("action_next_hop_v6", &parameters.action_next_hop_v6)?;
    match (v4.is_unspecified(), v6.is_unspecified()) {
        (true, true) => {
            Err(SpecError::field("action_next_hop", "_MIRROR and _SNOOP need a collector's address"))
        }
        (false, true) => context.reachable(v4.into()),
        (true, false) => context.reachable(v6.into()),
        (false, false) if underlay.is_ipv4() => Ok(v4.into()),
        (false, false) => Ok(v6.into()),
    }
}

/// How a refusal by the table reads.
pub fn add_status(error: &InsertError) -> v2::AddSessionStatus {
    match error {
        InsertError::Full | InsertError::L2Full => v2::AddSessionStatus::SessionTableFull,
        InsertError::IdExists(_) | InsertError::FlowExists(_) => v2::AddSessionStatus::SessionAlreadyExists,
        InsertError::Invalid(_) => v2::AddSessionStatus::SessionRejected,
    }
}

/// A live session.
pub fn live(info: &SessionInfo, clock: &Clock) -> v2::SessionResponse {
    let state = match info.state {
        SessionState::Established => v2::SessionState::Established,
        SessionState::Closing1 => v2::SessionState::Closing1,
        SessionState::Closing2 => v2::SessionState::Closing2,
    };
    v2::SessionResponse {
        session_id: info.spec.id.0,
        in_packets: info.counters.in_packets,
        out_packets: info.counters.out_packets,
        in_bytes: info.counters.in_bytes,
        out_bytes: info.counters.out_bytes,
        session_state: state.into(),
        session_close_code: v2::SessionCloseCode::NotClosed.into(),
        request_status: v2::RequestStatus::Accepted.into(),
        start_time: Some(clock.proto(info.start)),
        end_time: None,
    }
}

/// A session that has ended. The API has no code for one that a client removed: `_UNKNOWN_CLOSE_CODE`.
pub fn closed(closed: &Closed, clock: &Clock) -> v2::SessionResponse {
    let code = match closed.code {
        CloseCode::FinAck => v2::SessionCloseCode::Finack,
        CloseCode::Rst => v2::SessionCloseCode::Rst,
        CloseCode::Timeout => v2::SessionCloseCode::Timeout,
        CloseCode::Deleted => v2::SessionCloseCode::UnknownCloseCode,
    };
    v2::SessionResponse {
        session_state: v2::SessionState::Closed.into(),
        session_close_code: code.into(),
        end_time: Some(clock.proto(closed.end)),
        ..live(&closed.info, clock)
    }
}

/// The answer about a session there is not.
pub fn nonexistent(id: u64) -> v2::SessionResponse {
    v2::SessionResponse {
        session_id: id,
        session_state: v2::SessionState::UnknownState.into(),
        session_close_code: v2::SessionCloseCode::UnknownCloseCode.into(),
        request_status: v2::RequestStatus::RejectedSessionNonexistent.into(),
        ..Default::default()
    }
}

/// The answer to whoever may not remove the session: it is another client's, and stays as it is.
pub fn foreign(id: u64) -> v2::SessionResponse {
    v2::SessionResponse { request_status: v2::RequestStatus::Rejected.into(), ..nonexistent(id) }
}

#[cfg(test)]
#[path = "openoffload_v2_tests.rs"]
mod tests;
