//! Where the kernel sends a connection's packets: interfaces, next hops and their MACs, over rtnetlink.

mod cache;
mod tables;

use super::entry::Entry;
use cache::{Known, RouteCache};
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia};
use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex as Lock, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tables::{Tables, follow};
use thiserror::Error;
use tokio::sync::{Mutex, mpsc};
use tokio_stream::StreamExt;

/// What the first look at all routes may take before the agent goes on without.
const SURVEY_WAIT: Duration = Duration::from_millis(500);

/// An Ethernet address.
pub type Mac = [u8; 6];

/// One side of a connection's path.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Side {
    /// The LIF of the interface, by configuration.
    pub lif: u32,
    /// The interface's own MAC: the source of what leaves there.
    pub own_mac: Mac,
    /// Whom packets that leave there are sent to.
    pub next_hop_mac: Mac,
}

/// Both sides of a connection's path.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Path {
    /// Where the original direction arrives, and replies leave.
    pub inward: Side,
    /// Where the original direction leaves, and replies arrive.
    pub outward: Side,
}

/// Why there is no path.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum PathError {
    /// The VNF itself is one of the ends.
    #[error("an end of the connection is this host")]
    Local,
    /// Multicast, broadcast, blackhole and the like.
    #[error("the route is not a unicast route")]
    NotUnicast,
    /// The kernel has no route.
    #[error("no route")]
    NoRoute,
    /// The interface has no LIF in the configuration.
    #[error("interface {0} has no LIF in the agent's configuration")]
    NotConfigured(String),
    /// The interface is down or gone.
    #[error("interface {0} is down")]
    InterfaceDown(String),
    /// Tunnels and the like.
    #[error("interface {0} has no Ethernet address")]
    NoMac(String),
    /// Worth another try.
    #[error("the neighbour {0} is not resolved")]
    Neighbour(IpAddr),
    /// The way back does not lead to where the packets come from.
    #[error("the route back leaves by another interface")]
    Asymmetric,
    /// Worth another try.
    #[error("netlink: {0}")]
    Netlink(String),
}

impl PathError {
    /// May go away by itself soon.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Neighbour(_) | Self::Netlink(_))
    }

    /// The name of its counter.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::NotUnicast => "not_unicast",
            Self::NoRoute => "no_route",
            Self::NotConfigured(_) => "interface_not_configured",
            Self::InterfaceDown(_) => "interface_down",
            Self::NoMac(_) => "no_mac",
            Self::Neighbour(_) => "neighbour_unresolved",
            Self::Asymmetric => "asymmetric",
            Self::Netlink(_) => "netlink",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Hop {
    interface: u32,
    address: IpAddr,
}

/// Looks paths up. Cheap to clone.
#[derive(Clone)]
pub struct Resolver {
    shared: Arc<Shared>,
}

struct Shared {
    handle: Handle,
    lifs: HashMap<String, u32>,
    tables: RwLock<Tables>,
    cache: Lock<RouteCache>,
    refreshed: Mutex<Option<Instant>>,
    /// Counts looks at all rules and routes, and what has changed their outcome.
    surveys: AtomicU64,
}

/// Something that may change paths: routes, rules, links, addresses or a neighbour's MAC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PathsChanged;

impl Resolver {
    /// Reads links, neighbours and bridge tables, and follows them from then on in tasks of its own. `lifs`: LIF by interface
    /// name. `changed` is told when paths may be others than before.
    pub async fn new(
        lifs: HashMap<String, u32>,
        changed: mpsc::Sender<PathsChanged>,
    ) -> Result<Self, PathError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(io_error)?;
        tokio::spawn(connection);
        let shared = Shared {
            handle,
            lifs,
            tables: RwLock::default(),
            cache: Lock::new(RouteCache::new()),
            refreshed: Mutex::new(None),
            surveys: AtomicU64::new(0),
        };
        let resolver = Self { shared: Arc::new(shared) };
        let messages = follow().map_err(io_error)?;
        resolver.read_all().await?;
        // A host with very many routes does not wait for it.
        if tokio::time::timeout(SURVEY_WAIT, resolver.clone().survey()).await.is_err() {
            tokio::spawn(resolver.clone().survey());
        }
        tokio::spawn(resolver.clone().keep_current(messages, changed));
        Ok(resolver)
    }

    /// Configured interfaces that are not there.
    pub fn missing(&self) -> Vec<String> {
        let tables = self.tables();
        let is_there = |name: &String| tables.links.values().any(|link| link.name == *name);
        let mut missing: Vec<_> = self.shared.lifs.keys().filter(|name| !is_there(name)).cloned().collect();
        missing.sort();
        missing
    }

    /// The path of `entry`'s packets, where it can be told without asking the kernel.
    pub fn known_path(&self, entry: &Entry) -> Option<Result<Path, PathError>> {
        let key = (entry.original.source, entry.translated().destination, entry.mark);
        let Known::Both(back, out) = self.cache(|cache| cache.get(key, Instant::now())) else { return None };
        match (self.lookup(&back), self.lookup(&out)) {
            (Ok(inward), Ok(outward)) => Some(Ok(Path { inward, outward })),
            (Err(PathError::Neighbour(_)), _) | (_, Err(PathError::Neighbour(_))) => None,
            (Err(error), _) | (_, Err(error)) => Some(Err(error)),
        }
    }

    /// The path of `entry`'s packets.
    pub async fn path(&self, entry: &Entry) -> Result<Path, PathError> {
        let translated = entry.translated();
        let (client, server) = (entry.original.source, translated.destination);
        let key = (client, server, entry.mark);
        let (back, out) = match self.cache(|cache| cache.get(key, Instant::now())) {
            Known::Both(back, out) => (back, out),
            Known::Hosts(back, out, epoch) => {
                (self.host(entry, client, back, epoch).await?, self.host(entry, server, out, epoch).await?)
            }
            Known::Nothing(epoch) => {
                let hops = self.routes(entry, client, server).await?;
                self.cache(|cache| cache.insert(key, hops, epoch));
                hops
            }
        };
        Ok(Path { inward: self.side(&back).await?, outward: self.side(&out).await? })
    }

    /// The route to `host`, where it depends on nothing else.
    async fn host(
        &self,
        entry: &Entry,
        host: IpAddr,
        known: Option<Hop>,
        epoch: u64,
    ) -> Result<Hop, PathError> {
        if let Some(hop) = known {
            return Ok(hop);
        }
        let hop = self.route(entry, host, None, None, true).await?;
        self.cache(|cache| cache.insert_host(host, hop, epoch));
        Ok(hop)
    }

    fn cache<T>(&self, use_it: impl FnOnce(&mut RouteCache) -> T) -> T {
        use_it(&mut self.shared.cache.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The routes back to the client and out to the server.
    async fn routes(&self, entry: &Entry, client: IpAddr, server: IpAddr) -> Result<(Hop, Hop), PathError> {
        let mut arrival = self.route(entry, client, None, None, false).await?.interface;
        // Routes may depend on where packets arrive, on both sides: look until it is consistent.
        for _ in 0..2 {
            let out = self.route(entry, server, Some(client), Some(arrival), true).await?;
            let back = self.route(entry, client, Some(server), Some(out.interface), false).await?;
            if back.interface == arrival {
                return Ok((back, out));
            }
            arrival = back.interface;
        }
        Err(PathError::Asymmetric)
    }

    async fn route(
        &self,
        entry: &Entry,
        destination: IpAddr,
        source: Option<IpAddr>,
        arrival: Option<u32>,
        forward: bool,
    ) -> Result<Hop, PathError> {
        let mut query = RouteMessage::default();
        let (family, bits) =
            if destination.is_ipv4() { (AddressFamily::Inet, 32) } else { (AddressFamily::Inet6, 128) };
        query.header.address_family = family;
        query.header.destination_prefix_length = bits;
        query.attributes.push(RouteAttribute::Destination(destination.into()));
        if let Some(source) = source {
            query.header.source_prefix_length = bits;
            query.attributes.push(RouteAttribute::Source(source.into()));
        }
        if let Some(arrival) = arrival {
            query.attributes.push(RouteAttribute::Iif(arrival));
        }
        if entry.mark != 0 {
            // Rules look at the packet's mark; rulesets that use it restore it from the connection's.
            query.attributes.push(RouteAttribute::Mark(entry.mark));
        }
        if entry.has_ports() {
            // For rules and multipath hashes that look at ports.
            let translated = entry.translated();
            let (source_port, destination_port) = if forward {
                (entry.original.source_port, translated.destination_port)
            } else {
                (translated.destination_port, entry.original.source_port)
            };
            query.attributes.push(RouteAttribute::IpProto(entry.protocol));
            query.attributes.push(RouteAttribute::Sport(source_port));
            query.attributes.push(RouteAttribute::Dport(destination_port));
        }
        let mut answers = pin!(self.shared.handle.route().get(query).execute());
        let answer = answers.next().await.ok_or(PathError::NoRoute)?.map_err(route_error)?;
        hop(&answer, destination)
    }

    async fn side(&self, hop: &Hop) -> Result<Side, PathError> {
        match self.lookup(hop) {
            Err(PathError::Neighbour(_)) => {
                self.refresh_neighbours().await?;
                self.lookup(hop)
            }
            result => result,
        }
    }

    fn lookup(&self, hop: &Hop) -> Result<Side, PathError> {
        let tables = self.tables();
        let link = tables
            .links
            .get(&hop.interface)
            .ok_or_else(|| PathError::InterfaceDown(hop.interface.to_string()))?;
        let next_hop_mac = tables.neighbours.get(&(hop.interface, hop.address)).copied();
        let lif = self.shared.lifs.get(&link.name).copied().or_else(|| {
            // A bridge whose ports have the LIFs: the port is where the neighbour's MAC was learned.
            let port = tables.fdb.get(&(hop.interface, next_hop_mac?))?;
            self.shared.lifs.get(&tables.links.get(port)?.name).copied()
        });
        let Some(lif) = lif else { return Err(PathError::NotConfigured(link.name.clone())) };
        if !link.up {
            return Err(PathError::InterfaceDown(link.name.clone()));
        }
        let own_mac = link.mac.ok_or_else(|| PathError::NoMac(link.name.clone()))?;
        let next_hop_mac = next_hop_mac.ok_or(PathError::Neighbour(hop.address))?;
        Ok(Side { lif, own_mac, next_hop_mac })
    }
}

fn hop(answer: &RouteMessage, destination: IpAddr) -> Result<Hop, PathError> {
    match answer.header.kind {
        RouteType::Unicast => {}
        RouteType::Local => return Err(PathError::Local),
        RouteType::Unreachable | RouteType::Prohibit | RouteType::BlackHole | RouteType::Throw => {
            return Err(PathError::NoRoute);
        }
        _ => return Err(PathError::NotUnicast),
    }
    let (mut interface, mut address) = (None, destination);
    for attribute in &answer.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => address = IpAddr::V4(*ip),
            RouteAttribute::Gateway(RouteAddress::Inet6(ip)) => address = IpAddr::V6(*ip),
            RouteAttribute::Via(RouteVia::Inet(ip)) => address = IpAddr::V4(*ip),
            RouteAttribute::Via(RouteVia::Inet6(ip)) => address = IpAddr::V6(*ip),
            _ => {}
        }
    }
    Ok(Hop { interface: interface.ok_or(PathError::NoRoute)?, address })
}

fn route_error(error: rtnetlink::Error) -> PathError {
    use nix::errno::Errno;
    if let rtnetlink::Error::NetlinkError(message) = &error {
        let errno = Errno::from_raw(message.raw_code().saturating_neg());
        // What `ip route get` says for unroutable, prohibited, blackholed, and failed reverse path checks.
        if matches!(
            errno,
            Errno::ENETUNREACH
                | Errno::EHOSTUNREACH
                | Errno::EACCES
                | Errno::EINVAL
                | Errno::EXDEV
                | Errno::EAGAIN
        ) {
            return PathError::NoRoute;
        }
    }
    PathError::Netlink(error.to_string())
}

fn io_error(error: std::io::Error) -> PathError {
    PathError::Netlink(error.to_string())
}
