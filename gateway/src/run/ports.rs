//! The ports and the pool they receive into.

use crate::config::{Config, Port as PortConfig, format_mac, is_pci};
use crate::numa::Machine;
use anyhow::Context;
use dpdk::{Eal, Mempool, PoolOptions, Port, PortOptions, RxQueue, SocketId, TxQueue};
use pipeline::{PORT_BURST, PortIndex};
use std::fmt;

/// Buffers that net_af_xdp keeps in the fill and completion rings of a queue.
const AF_XDP_RINGS: u32 = 2 * 2048;
const CACHE: u32 = 256;
/// Packet bytes in a buffer, unless a device that cannot chain them needs more.
const DATA_ROOM: u16 = 2048;
/// Ethernet header, FCS and two tags.
const FRAME_OVERHEAD: u16 = 26;

/// All ports, in the configuration's order.
pub(super) struct Ports {
    ports: Vec<(String, Port)>,
    pool: Mempool,
}

/// A worker's queues: receive queues with their ports, transmit queues by port.
#[derive(Default)]
pub(super) struct Queues {
    pub(super) rx: Vec<(PortIndex, RxQueue)>,
    pub(super) tx: Vec<TxQueue>,
}

/// The devices on the PCI bus.
pub(super) fn pci_addresses(config: &Config) -> Vec<String> {
    // A device's arguments go with its address to the bus.
    let devices = config.ports.iter().map(|port| port.device.clone());
    devices.filter(|device| is_pci(device.split(',').next().unwrap_or_default())).collect()
}

impl Ports {
    /// Opens and configures all ports, with the pool on the NUMA node `memory`; none receives yet.
    pub(super) fn open(eal: &Eal, config: &Config, memory: Option<u16>) -> anyhow::Result<Self> {
        let mut ports = Vec::new();
        for (port, named) in config.ports.iter().zip(&config.pipeline.ports) {
            let opened = Port::open(eal, &port.device).with_context(|| format!("port {:?}", named.name))?;
            ports.push((named.name.clone(), opened));
        }
        let room = data_room(config, &ports)?;
        let count = buffers(config);
        let socket = memory.map_or(SocketId::ANY, |node| SocketId(node.into()));
        let options = PoolOptions { name: "packets", count, cache: CACHE, data_room: room, socket };
        let pool = Mempool::new(eal, &options).with_context(|| {
            let mib = (u64::from(count) * (u64::from(room) + 256)) >> 20;
            format!("{count} packet buffers need {mib} MiB: raise [eal] memory_mib, or use fewer descriptors")
        })?;
        for ((name, port), settings) in ports.iter_mut().zip(&config.ports) {
            configure(port, settings, config.eal.workers.len(), &pool)
                .with_context(|| format!("port {name:?}"))?;
        }
        Ok(Self { ports, pool })
    }

    /// The pool they receive into.
    pub(super) fn pool(&self) -> &Mempool {
        &self.pool
    }

    /// The NUMA node that a port's device is on; None where it is on none or does not say.
    pub(super) fn node(&self, config: &Config, position: usize) -> Option<u16> {
        let ((_, port), settings) = (self.ports.get(position)?, config.ports.get(position)?);
        // A virtual device tells the main lcore's.
        match is_pci(port.device()) {
            true => super::node(port.socket()),
            false => Machine::this().of_device(&settings.device),
        }
    }

    /// The pipeline's configuration with the devices' MACs.
    pub(super) fn pipeline_config(&mut self, config: &Config) -> anyhow::Result<pipeline::Config> {
        let mut pipeline = config.pipeline.clone();
        for ((target, settings), (name, port)) in
            pipeline.ports.iter_mut().zip(&config.ports).zip(&mut self.ports)
        {
            match settings.mac {
                Some(mac) => set_mac(name, port, mac),
                None => match port.mac().with_context(|| format!("port {name:?}"))?.0 {
                    own if own != [0; 6] && own[0] & 1 == 0 => target.mac = own,
                    _ => tracing::info!(
                        port = name,
                        mac = format_mac(&target.mac),
                        "the device has no MAC: taken"
                    ),
                },
            }
        }
        Ok(pipeline)
    }

    /// Starts all ports; the queues of each worker.
    pub(super) fn start(&mut self, workers: usize) -> anyhow::Result<Vec<Queues>> {
        let mut all = (0..workers).map(|_| Queues::default()).collect::<Vec<_>>();
        for (position, (name, port)) in (0..).map(PortIndex).zip(&mut self.ports) {
            let (rx, tx) = port.start().with_context(|| format!("port {name:?}"))?;
            for (queues, (rx, tx)) in all.iter_mut().zip(rx.into_iter().zip(tx)) {
                queues.rx.push((position, rx));
                queues.tx.push(tx);
            }
        }
        Ok(all)
    }

    /// Stops all ports; their queues are gone with the workers.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        for (name, port) in &mut self.ports {
            port.stop().with_context(|| format!("port {name:?}"))?;
        }
        Ok(())
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (name, port)) in self.ports.iter().enumerate() {
            let separator = if position == 0 { "" } else { ", " };
            write!(f, "{separator}{name} ({})", port.device())?;
        }
        Ok(())
    }
}

fn configure(port: &mut Port, settings: &PortConfig, workers: usize, pool: &Mempool) -> anyhow::Result<()> {
    let queues = u16::try_from(workers)?;
    let options = PortOptions {
        rx_queues: queues,
        tx_queues: queues,
        rx_descriptors: settings.rx_descriptors,
        tx_descriptors: settings.tx_descriptors,
        mtu: settings.mtu,
        // VLANs and VTEPs bring frames for any address.
        promiscuous: true,
    };
    Ok(port.configure(&options, pool)?)
}

/// A device that does not take the address still receives all frames, and the gateway sends with it.
fn set_mac(name: &str, port: &mut Port, mac: [u8; 6]) {
    if let Err(error) = port.set_mac(dpdk::MacAddr(mac)) {
        tracing::warn!(port = name, %error, "the device keeps its own MAC; frames are sent with the configured one");
    }
}

/// Enough for every descriptor and all that is on its way, and one less than a power of two.
fn buffers(config: &Config) -> u32 {
    let per_port = |port: &PortConfig| {
        let rings = if port.device.starts_with("net_af_xdp") { AF_XDP_RINGS } else { 0 };
        u32::from(port.rx_descriptors) + u32::from(port.tx_descriptors) + rings
    };
    // A worker holds its cache, with half of it over, what it has received, and what waits for each port.
    let on_their_way = (1 + config.ports.len() as u32) * PORT_BURST as u32;
    let per_worker = config.ports.iter().map(per_port).sum::<u32>() + CACHE + CACHE / 2 + on_their_way;
    let workers = u32::try_from(config.eal.workers.len()).unwrap_or(u32::MAX);
    let needed = per_worker.saturating_mul(workers).saturating_add(1024);
    needed.checked_next_power_of_two().map_or(u32::MAX, |count| count - 1)
}

/// What the largest frame of a device needs that cannot chain buffers.
fn data_room(config: &Config, ports: &[(String, Port)]) -> anyhow::Result<u16> {
    let mut room = DATA_ROOM;
    for (settings, (name, port)) in config.ports.iter().zip(ports) {
        let Some(mtu) = settings.mtu else { continue };
        if !port.capabilities().with_context(|| format!("port {name:?}"))?.rx_scatter {
            room = room.max(mtu.saturating_add(FRAME_OVERHEAD).next_multiple_of(64));
        }
    }
    Ok(room)
}
