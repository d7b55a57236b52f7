//! Links, neighbours and bridge tables, read once and then followed.

use super::cache::{Depends, RouteCache};
use super::{Mac, PathError, PathsChanged, Resolver, route_error};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};
use rtnetlink::packet_route::rule::{RuleAttribute, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{IpVersion, MulticastGroup};
use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
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
            self.cache(|cache| cache.at_least(Depends::Pair));
            tokio::spawn(self.clone().survey());
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
                self.depend(rule_dependence(&rule));
                true
            }
            RouteNetlinkMessage::NewRoute(route) => {
                self.depend(route_dependence(&route));
                true
            }
            RouteNetlinkMessage::DelRoute(_) | RouteNetlinkMessage::DelRule(_) => true,
            _ => false,
        }
    }

    /// Looks at all rules and routes, of which there may be many: do routes depend on destinations alone? Until it is
    /// done they are taken to depend on more.
    pub(super) async fn survey(self) {
        let epoch = self.shared.surveys.fetch_add(1, Ordering::Relaxed) + 1;
        match self.dependence().await {
            // What has come meanwhile has been counted too.
            Ok(depends) if self.shared.surveys.load(Ordering::Relaxed) == epoch => {
                self.cache(|cache| cache.set(depends));
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot read rules and routes: each connection's are asked for")
            }
        }
    }

    async fn dependence(&self) -> Result<Depends, PathError> {
        let mut depends = Depends::Destination;
        for version in [IpVersion::V4, IpVersion::V6] {
            let mut rules = pin!(self.shared.handle.rule().get(version).execute());
            while let Some(rule) = rules.next().await {
                depends = depends.max(rule_dependence(&rule.map_err(route_error)?));
            }
        }
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut query = RouteMessage::default();
            query.header.address_family = family;
            let mut routes = pin!(self.shared.handle.route().get(query).execute());
            while let Some(route) = routes.next().await {
                depends = depends.max(route_dependence(&route.map_err(route_error)?));
            }
        }
        Ok(depends)
    }

    /// A rule or a route that has just come.
    fn depend(&self, depends: Depends) {
        // A survey under way may have missed it.
        if depends > Depends::Destination {
            self.shared.surveys.fetch_add(1, Ordering::Relaxed);
        }
        self.cache(|cache| cache.at_least(depends));
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

/// What a rule makes routes depend on.
fn rule_dependence(rule: &RuleMessage) -> Depends {
    let by_ports = |attribute: &RuleAttribute| {
        matches!(
            attribute,
            RuleAttribute::IpProtocol(_)
                | RuleAttribute::SourcePortRange(_)
                | RuleAttribute::DestinationPortRange(_)
        )
    };
    // A destination and what merely leads to a table; anything else, and what is new, may select.
    let plain = |attribute: &RuleAttribute| {
        matches!(
            attribute,
            RuleAttribute::Destination(_)
                | RuleAttribute::Priority(_)
                | RuleAttribute::Table(_)
                | RuleAttribute::Goto(_)
                | RuleAttribute::SuppressPrefixLen(_)
                | RuleAttribute::Protocol(_)
                | RuleAttribute::Realm(_)
        ) || matches!(attribute, RuleAttribute::SuppressIfGroup(group) if *group == u32::MAX)
    };
    if rule.attributes.iter().any(by_ports) {
        Depends::Ports
    } else if rule.header.tos == 0 && rule.header.src_len == 0 && rule.attributes.iter().all(plain) {
        Depends::Destination
    } else {
        Depends::Pair
    }
}

/// What a route makes routes depend on: next hop objects may be groups.
fn route_dependence(route: &RouteMessage) -> Depends {
    let selects = |attribute: &RouteAttribute| {
        matches!(
            attribute,
            RouteAttribute::MultiPath(_) | RouteAttribute::NhId(_) | RouteAttribute::Source(_)
        )
    };
    if route.attributes.iter().any(selects) { Depends::Pair } else { Depends::Destination }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(attributes: Vec<RuleAttribute>) -> Depends {
        let mut rule = RuleMessage::default();
        rule.attributes = attributes;
        rule_dependence(&rule)
    }

    #[test]
    fn rules_tell_what_routes_depend_on() {
        let plain = || vec![RuleAttribute::Priority(32_766), RuleAttribute::Table(254)];
        let with = |attribute| rule(plain().into_iter().chain([attribute]).collect());
        assert_eq!(rule(plain()), Depends::Destination);
        assert_eq!(with(RuleAttribute::FwMark(5)), Depends::Pair);
        assert_eq!(with(RuleAttribute::Iifname("eth0".to_owned())), Depends::Pair);
        assert_eq!(with(RuleAttribute::Source([10, 0, 0, 1].into())), Depends::Pair);
        assert_eq!(with(RuleAttribute::Destination([10, 0, 0, 1].into())), Depends::Destination);
        assert_eq!(with(RuleAttribute::IpProtocol(6.into())), Depends::Ports);
    }

    #[test]
    fn routes_with_several_next_hops_depend_on_both_ends() {
        let mut route = RouteMessage::default();
        assert_eq!(route_dependence(&route), Depends::Destination);
        route.attributes.push(RouteAttribute::NhId(3));
        assert_eq!(route_dependence(&route), Depends::Pair);
    }
}
