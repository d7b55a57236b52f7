//! Which sessions a list shows.

use super::{Context, SpecError, address, port};
use conntrack::{LifIndex, SessionInfo, SessionState};
use proto::gateway::v1;
use std::net::IpAddr;

/// What a session must fit; what is None fits all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    lif: Option<LifIndex>,
    /// Bits, and those that count.
    address: Option<(IpAddr, u128)>,
    nat: Option<IpAddr>,
    protocol: Option<u8>,
    state: Option<SessionState>,
    port: Option<u16>,
    /// Of a name that nobody has: no session's.
    owner: Option<Option<u16>>,
}

impl Filter {
    /// As requested.
    pub fn new(request: &v1::SessionFilter, context: &Context) -> Result<Self, SpecError> {
        let v1::SessionFilter { lif, address: ip, prefix, nat, protocol, state, port: number, owner } =
            request;
        let given = |field, bytes: &[u8]| (!bytes.is_empty()).then(|| address(field, bytes)).transpose();
        let ip = given("address", ip)?;
        let state = state.map(|state| match v1::SessionState::try_from(state) {
            Ok(v1::SessionState::Established) => Ok(SessionState::Established),
            Ok(v1::SessionState::Closing1) => Ok(SessionState::Closing1),
            Ok(v1::SessionState::Closing2) => Ok(SessionState::Closing2),
            _ => Err(SpecError::field("state", "live sessions are established, closing 1 or closing 2")),
        });
        let protocol = protocol.map(|number| {
            u8::try_from(number)
                .map_err(|_| SpecError::field("protocol", "an IP protocol number is at most 255"))
        });
        Ok(Self {
            lif: (*lif != 0).then(|| context.lif("lif", i64::from(*lif))).transpose()?,
            address: ip.map(|ip| Ok((ip, mask(ip, *prefix)?))).transpose()?,
            nat: given("nat", nat)?,
            protocol: protocol.transpose()?,
            state: state.transpose()?,
            port: number.map(|number| port("port", number)).transpose()?,
            owner: owner.as_ref().map(|name| context.owners().find(name)),
        })
    }

    /// Whether every session passes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a session fits.
    pub fn passes(&self, info: &SessionInfo) -> bool {
        let spec = &info.spec;
        let (original, translated) = (&spec.original, &spec.translated);
        let addresses = [original.source, original.destination, translated.source, translated.destination];
        let ports = [
            original.source_port,
            original.destination_port,
            translated.source_port,
            translated.destination_port,
        ];
        let changed = [(original.source, translated.source), (original.destination, translated.destination)];
        self.lif.is_none_or(|lif| lif == spec.in_lif || lif == spec.out_lif)
            && self.protocol.is_none_or(|protocol| protocol == spec.protocol)
            && self.state.is_none_or(|state| state == info.state)
            && self.owner.is_none_or(|owner| owner == Some(spec.owner))
            && self.port.is_none_or(|port| ports.contains(&port))
            && self.address.is_none_or(|(ip, mask)| {
                let near =
                    |other: &IpAddr| other.is_ipv4() == ip.is_ipv4() && (bits(*other) ^ bits(ip)) & mask == 0;
                addresses.iter().any(near)
            })
            && self.nat.is_none_or(|nat| changed.iter().any(|(old, new)| old != new && *new == nat))
    }
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

fn mask(ip: IpAddr, prefix: Option<u32>) -> Result<u128, SpecError> {
    let longest = if ip.is_ipv4() { 32 } else { 128 };
    match prefix.unwrap_or(longest) {
        length if length <= longest => Ok(u128::MAX.checked_shl(longest - length).unwrap_or(0)),
        _ => Err(SpecError::field("prefix", "at most 32 with IPv4, 128 with IPv6")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session_manager::gateway_v1::spec;
    use crate::session_manager::tests::context;
    use conntrack::{Counters, Timestamp};

    fn info(source: [u8; 4], translated: Option<[u8; 4]>, protocol: u32) -> SessionInfo {
        let tuple = |source: [u8; 4], source_port| v1::Tuple {
            source: source.to_vec().into(),
            destination: vec![198, 51, 100, 10].into(),
            source_port,
            destination_port: 443,
        };
        let session = v1::Session {
            session_id: 7,
            in_lif: 1,
            out_lif: 1,
            protocol,
            original: Some(tuple(source, 40_000)),
            translated: translated.map(|ip| tuple(ip, 61_000)),
            ..Default::default()
        };
        SessionInfo {
            spec: spec(&session, &context(None)).expect("valid"),
            counters: Counters::default(),
            state: SessionState::Established,
            start: Timestamp::from_nanos(0),
            last_seen: Timestamp::from_nanos(0),
        }
    }

    fn filter(change: impl FnOnce(&mut v1::SessionFilter)) -> Result<Filter, SpecError> {
        let mut request = v1::SessionFilter::default();
        change(&mut request);
        Filter::new(&request, &context(None))
    }

    #[test]
    fn each_field_decides() {
        let plain = info([10, 1, 0, 5], None, 17);
        let nat = info([10, 1, 0, 5], Some([203, 0, 113, 1]), 6);
        let check = |what: &str, change: &dyn Fn(&mut v1::SessionFilter), expected: (bool, bool)| {
            let filter = filter(change).expect(what);
            assert_eq!((filter.passes(&plain), filter.passes(&nat)), expected, "{what}");
        };
        check("nothing", &|_| {}, (true, true));
        check("lif", &|f| f.lif = 1, (true, true));
        check("another lif", &|f| f.lif = 2, (false, false));
        check("source", &|f| f.address = vec![10, 1, 0, 5].into(), (true, true));
        check("translated source", &|f| f.address = vec![203, 0, 113, 1].into(), (false, true));
        check("prefix", &|f| (f.address, f.prefix) = (vec![203, 0, 0, 0].into(), Some(16)), (false, true));
        check("all of IPv4", &|f| (f.address, f.prefix) = (vec![1; 4].into(), Some(0)), (true, true));
        check("all of IPv6", &|f| (f.address, f.prefix) = (vec![1; 16].into(), Some(0)), (false, false));
        check("nat", &|f| f.nat = vec![203, 0, 113, 1].into(), (false, true));
        check("nat, but not translated", &|f| f.nat = vec![198, 51, 100, 10].into(), (false, false));
        check("protocol", &|f| f.protocol = Some(17), (true, false));
        check("state", &|f| f.state = Some(0), (true, true));
        check("another state", &|f| f.state = Some(1), (false, false));
        check("port", &|f| f.port = Some(443), (true, true));
        check("translated port", &|f| f.port = Some(61_000), (false, true));
        check("owner", &|f| f.owner = Some(String::new()), (true, true));
        check("another owner", &|f| f.owner = Some("unix".to_owned()), (false, false));
        check("nobody's name", &|f| f.owner = Some("nobody".to_owned()), (false, false));
        check("all of it", &|f| (f.lif, f.protocol, f.port) = (1, Some(6), Some(40_000)), (false, true));
        assert!(filter(|_| {}).expect("valid").is_empty());
        assert!(!filter(|f| f.port = Some(0)).expect("valid").is_empty());
    }

    #[test]
    fn bad_filters_name_the_field() {
        let field = |change: &dyn Fn(&mut v1::SessionFilter)| match filter(change) {
            Err(SpecError::Field { field, .. } | SpecError::UnknownLif { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(field(&|f| f.lif = 9), "lif");
        assert_eq!(field(&|f| f.address = vec![1; 3].into()), "address");
        assert_eq!(field(&|f| (f.address, f.prefix) = (vec![1; 4].into(), Some(33))), "prefix");
        assert_eq!(field(&|f| f.nat = vec![1; 5].into()), "nat");
        assert_eq!(field(&|f| f.protocol = Some(256)), "protocol");
        assert_eq!(field(&|f| f.state = Some(3)), "state");
        assert_eq!(field(&|f| f.port = Some(65_536)), "port");
    }
}
