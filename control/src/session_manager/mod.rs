//! Sessions between the wire and the table: requests become [`conntrack::SessionSpec`]s or a reason why not, and what the
//! table reports becomes answers.

pub mod closed;
mod filter;
pub mod gateway_v1;
pub mod listing;
pub mod openoffload_v2;
pub mod owners;
pub mod requested;

pub use closed::{ClosedLog, Drain};
pub use filter::Filter;
pub use owners::Owners;

use conntrack::LifIndex;
use hashbrown::HashMap;
use pipeline::Config;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Longest timeout a session may ask for: 2^21 seconds, 24 days.
pub const MAX_TIMEOUT: u32 = 1 << 21;

/// What is wrong with a requested session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A field is missing, out of range, or contradicts another.
    #[error("{field}: {remedy}")]
    Field {
        /// Its name in the request.
        field: &'static str,
        /// What to send instead.
        remedy: &'static str,
    },
    /// The configuration has no such LIF.
    #[error("{field}: this gateway has no LIF {id}; ListLifs names those it has")]
    UnknownLif {
        /// Its name in the request.
        field: &'static str,
        /// As requested.
        id: i64,
    },
    /// The gateway cannot do this action.
    #[error(
        "action: this gateway has no underlay to send copies over; configure one, or use forward or drop"
    )]
    NoCopies,
    /// Copies leave over the underlay, which is of the other address family.
    #[error("collector: {collector} cannot be reached, this gateway's underlay is {}; give an address of that family", family(.underlay))]
    CollectorFamily {
        /// As requested.
        collector: IpAddr,
        /// The gateway's own address there.
        underlay: IpAddr,
    },
}

impl SpecError {
    fn field(field: &'static str, remedy: &'static str) -> Self {
        Self::Field { field, remedy }
    }
}

fn family(address: &IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// What requests are judged by.
#[derive(Clone, Debug)]
pub struct Context {
    /// Configured ids, by position.
    ids: Vec<u32>,
    positions: HashMap<u32, LifIndex>,
    /// The gateway's own address on the underlay, which copies leave over.
    underlay: Option<IpAddr>,
    owners: Arc<Owners>,
}

impl Context {
    /// The LIFs and the underlay of `config`.
    pub fn new(config: &Config) -> Self {
        let ids: Vec<u32> = config.lifs.iter().map(|lif| lif.id).collect();
        let positions =
            ids.iter().zip(0..=u16::MAX).map(|(&id, position)| (id, LifIndex(position))).collect();
        let underlay = config.underlay.as_ref().map(|underlay| underlay.local_ip);
        Self { ids, positions, underlay, owners: Arc::default() }
    }

    /// Who installed sessions.
    pub fn owners(&self) -> &Arc<Owners> {
        &self.owners
    }

    fn lif(&self, field: &'static str, id: i64) -> Result<LifIndex, SpecError> {
        let position = u32::try_from(id).ok().and_then(|id| self.positions.get(&id));
        position.copied().ok_or(SpecError::UnknownLif { field, id })
    }

    fn lif_id(&self, lif: LifIndex) -> u32 {
        self.ids.get(usize::from(lif.0)).copied().unwrap_or_default()
    }

    /// The gateway's address on the underlay, where copies can be made.
    fn underlay(&self) -> Result<IpAddr, SpecError> {
        self.underlay.ok_or(SpecError::NoCopies)
    }

    /// `collector`, if copies get there.
    fn reachable(&self, collector: IpAddr) -> Result<IpAddr, SpecError> {
        let underlay = self.underlay()?;
        if collector.is_ipv4() == underlay.is_ipv4() {
            Ok(collector)
        } else {
            Err(SpecError::CollectorFamily { collector, underlay })
        }
    }
}

/// 0 = the table's default.
fn idle_timeout(field: &'static str, seconds: u32) -> Result<Option<u32>, SpecError> {
    match seconds {
        0 => Ok(None),
        1..=MAX_TIMEOUT => Ok(Some(seconds)),
        _ => Err(SpecError::field(field, "at most 2097152 seconds; 0 for the gateway's default")),
    }
}

fn port(field: &'static str, value: u32) -> Result<u16, SpecError> {
    u16::try_from(value).map_err(|_| SpecError::field(field, "a port is at most 65535"))
}

/// TCP and UDP: 0 is no port (RFC 9293, RFC 768), so the field was left out.
fn transport_port(field: &'static str, value: u32) -> Result<u16, SpecError> {
    match port(field, value)? {
        0 => Err(SpecError::field(field, "is missing; TCP and UDP ports are 1 to 65535")),
        port => Ok(port),
    }
}

/// An address of 4 or 16 bytes in network order.
fn address(field: &'static str, bytes: &[u8]) -> Result<IpAddr, SpecError> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        Ok(IpAddr::V4(Ipv4Addr::from(v4)))
    } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        Ok(IpAddr::V6(Ipv6Addr::from(v6)))
    } else {
        Err(SpecError::field(field, "an address has 4 or 16 bytes, in network order"))
    }
}

/// No packet comes from, or goes to, 0.0.0.0 or ::, and none comes from a group (RFC 1122 3.2.1.3, RFC 4291 2.7).
fn check_addresses(
    (source_field, source): (&'static str, IpAddr),
    (destination_field, destination): (&'static str, IpAddr),
) -> Result<(), SpecError> {
    if source.is_ipv4() != destination.is_ipv4() {
        return Err(SpecError::field(destination_field, "must be of the source's address family"));
    }
    if source.is_unspecified() {
        return Err(SpecError::field(source_field, "is missing"));
    }
    if destination.is_unspecified() {
        return Err(SpecError::field(destination_field, "is missing"));
    }
    let broadcast = matches!(source, IpAddr::V4(v4) if v4.is_broadcast());
    if source.is_multicast() || broadcast {
        return Err(SpecError::field(source_field, "must be a unicast address"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pipeline::config::{Port, Trap, Underlay};
    use pipeline::{Encapsulation, Lif, PortIndex, TrapLimits};

    pub(super) const IPV4: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
    pub(super) const IPV6: Option<IpAddr> = Some(IpAddr::V6(Ipv6Addr::LOCALHOST));

    /// LIFs 1 and 2, and an underlay where the gateway has this address.
    pub(super) fn context(underlay: Option<IpAddr>) -> Context {
        let lif = |id: u32| Lif {
            id,
            name: format!("lif{id}"),
            port: PortIndex(0),
            encapsulation: Encapsulation::Vlan(100 + id as u16),
            trap_vni: id,
            mtu: 1500,
            vteps: Vec::new(),
        };
        let config = Config {
            ports: vec![Port { name: "uplink".to_owned(), mac: [2, 0, 0, 0, 0, 1] }],
            underlay: underlay.map(|local_ip| Underlay {
                port: PortIndex(0),
                vlan: 2,
                local_ip,
                udp_port: 4789,
                neighbors: Vec::new(),
                routes: Vec::new(),
                copies: 1,
            }),
            lifs: vec![lif(1), lif(2)],
            trap: Trap {
                port: PortIndex(0),
                local_ip: Ipv4Addr::new(169, 254, 10, 1),
                kernel_ip: Ipv4Addr::new(169, 254, 10, 2),
                kernel_mac: None,
                udp_port: 4789,
                limits: TrapLimits { arp_nd: 1, new: 1, tcp_control: 1, exception: 1 },
            },
        };
        Context::new(&config)
    }
}
