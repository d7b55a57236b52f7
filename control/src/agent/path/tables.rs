//! Links, neighbours and bridge tables, read once and then followed.

use super::cache::RouteCache;
use super::{Mac, PathError, PathsChanged, Resolver, route_error};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::rule::{RuleAttribute, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{IpVersion, MulticastGroup};
use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::{RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt};

/// The neighbour table is read again at most this often when one is missing.
const NEIGHBOUR_REFRESH: Duration = Duration::from_millis(200);

/// An interface.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub name: String,
    pub mac: Option<Mac>,
    pub up: bool,
}

/// What is known of this namespace.
#[derive(Default)]
pub(super) struct Tables {
    pub links: HashMap<u32, Link>,
    pub neighbours: HashMap<(u32, IpAddr), Mac>,
    /// Bridge forwarding database: (bridge, MAC) → port.
    pub fdb: HashMap<(u32, Mac), u32>,
}

impl Resolver {
    pub(super) fn tables(&self) -> RwLockReadGuard<'_, Tables> {
        self.shared.tables.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn tables_mut(&self) -> RwLockWriteGuard<'_, Tables> {
        self.shared.tables.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) async fn refresh_neighbours(&self) -> Result<(), PathError> {
        let mut refreshed = self.shared.refreshed.lock().await;
        if refreshed.is_some_and(|at| at.elapsed() < NEIGHBOUR_REFRESH) {
            return Ok(());
        }
        *refreshed = Some(Instant::now());
        self.read_neighbours().await
    }

    pub(super) async fn read_all(&self) -> Result<(), PathError> {
        for version in [IpVersion::V4, IpVersion::V6] {
            let mut rules = pin!(self.shared.handle.rule().get(version).execute());
            while let Some(rule) = rules.next().await {
                self.apply_rule(&rule.map_err(route_error)?);
            }
        }
        let mut links = pin!(self.shared.handle.link().get().execute());
        while let Some(link) = links.next().await {
            self.apply_link(&link.map_err(route_error)?);
        }
        self.read_neighbours().await
    }

    async fn read_neighbours(&self) -> Result<(), PathError> {
        for family in [AddressFamily::Unspec, AddressFamily::Bridge] {
            let request = self.shared.handle.neighbours().get().set_address_family(family);
            let mut neighbours = pin!(request.execute());
            while let Some(neighbour) = neighbours.next().await {
                self.apply_neighbour(&neighbour.map_err(route_error)?, false);
            }
        }
        Ok(())
    }

    /// Follows the kernel's notifications; after losing some, reads everything again.
    pub(super) async fn keep_current(self, mut messages: Messages, changed: mpsc::Sender<PathsChanged>) {
        loop {
            while let Some((message, _)) = messages.next().await {
                let rtnetlink::packet_core::NetlinkPayload::InnerMessage(message) = message.payload else {
                    continue;
                };
                if self.apply(message) {
                    self.cache(RouteCache::clear);
                    // Full means that a change is already announced.
                    let _ = changed.try_send(PathsChanged);
                }
                if changed.is_closed() {
                    return;
                }
            }
            tokio::time::sleep(NEIGHBOUR_REFRESH).await;
            if changed.is_closed() {
                return;
            }
            match follow() {
                Ok(again) => messages = again,
                Err(error) => {
                    tracing::warn!(%error, "cannot follow routes and neighbours; trying again");
                    continue;
                }
            }
            self.clear();
            self.cache(RouteCache::clear);
            if let Err(error) = self.read_all().await {
                tracing::warn!(%error, "cannot read links and neighbours; trying again");
            }
            let _ = changed.try_send(PathsChanged);
        }
    }

    fn clear(&self) {
        *self.tables_mut() = Tables::default();
    }

    /// Whether paths may have changed.
    fn apply(&self, message: RouteNetlinkMessage) -> bool {
        match message {
            RouteNetlinkMessage::NewLink(link) => self.apply_link(&link),
            RouteNetlinkMessage::DelLink(link) => {
                let mut tables = self.tables_mut();
                if link.header.interface_family == AddressFamily::Bridge {
                    return false;
                }
                tables.links.remove(&link.header.index).is_some()
            }
            RouteNetlinkMessage::NewNeighbour(neighbour) => self.apply_neighbour(&neighbour, false),
            RouteNetlinkMessage::DelNeighbour(neighbour) => self.apply_neighbour(&neighbour, true),
            RouteNetlinkMessage::NewRule(rule) => {
                self.apply_rule(&rule);
                true
            }
            RouteNetlinkMessage::NewRoute(_)
            | RouteNetlinkMessage::DelRoute(_)
            | RouteNetlinkMessage::DelRule(_) => true,
            _ => false,
        }
    }

    fn apply_rule(&self, rule: &RuleMessage) {
        let by_ports = rule.attributes.iter().any(|attribute| {
            matches!(
                attribute,
                RuleAttribute::IpProtocol(_)
                    | RuleAttribute::SourcePortRange(_)
                    | RuleAttribute::DestinationPortRange(_)
            )
        });
        if by_ports {
            self.cache(RouteCache::ports_matter);
        }
    }

    fn apply_link(&self, message: &LinkMessage) -> bool {
        if message.header.interface_family == AddressFamily::Bridge {
            return false;
        }
        let (mut name, mut mac) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(text) => name = Some(text.clone()),
                LinkAttribute::Address(bytes) => mac = Mac::try_from(bytes.as_slice()).ok(),
                _ => {}
            }
        }
        let Some(name) = name else { return false };
        let up = message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
        let mut tables = self.tables_mut();
        let before = tables.links.insert(message.header.index, Link { name: name.clone(), mac, up });
        before.is_none_or(|before| before.name != name || before.mac != mac || before.up != up)
    }

    /// Whether a known neighbour has another MAC now. One that is only forgotten keeps its sessions: they carry the
    /// traffic that would have kept it fresh.
    fn apply_neighbour(&self, message: &NeighbourMessage, gone: bool) -> bool {
        let (mut address, mut mac, mut bridge) = (None, None, None);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => {
                    address = Some(IpAddr::V4(*ip))
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                    address = Some(IpAddr::V6(*ip))
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = Mac::try_from(bytes.as_slice()).ok(),
                NeighbourAttribute::Controller(index) => bridge = Some(*index),
                _ => {}
            }
        }
        let interface = message.header.ifindex;
        let mut tables = self.tables_mut();
        if message.header.family == AddressFamily::Bridge {
            let (Some(bridge), Some(mac)) = (bridge, mac) else { return false };
            if gone {
                tables.fdb.remove(&(bridge, mac));
                return false;
            }
            return tables.fdb.insert((bridge, mac), interface).is_some_and(|before| before != interface);
        }
        let Some(address) = address else { return false };
        let usable = !matches!(
            message.header.state,
            NeighbourState::Incomplete | NeighbourState::Failed | NeighbourState::None
        );
        match mac {
            Some(mac) if usable && !gone => {
                tables.neighbours.insert((interface, address), mac).is_some_and(|before| before != mac)
            }
            _ => {
                tables.neighbours.remove(&(interface, address));
                false
            }
        }
    }
}

type Message = rtnetlink::packet_core::NetlinkMessage<RouteNetlinkMessage>;
pub(super) type Messages = Pin<Box<dyn Stream<Item = (Message, rtnetlink::sys::SocketAddr)> + Send>>;

/// Notifications of what the tables and paths depend on.
pub(super) fn follow() -> std::io::Result<Messages> {
    let (connection, _, messages) = rtnetlink::new_multicast_connection(&[
        MulticastGroup::Link,
        MulticastGroup::Neigh,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
        MulticastGroup::Ipv4Rule,
        MulticastGroup::Ipv6Rule,
    ])?;
    tokio::spawn(connection);
    Ok(Box::pin(messages))
}
