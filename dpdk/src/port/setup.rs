use std::{mem, ptr};

use dpdk_sys as sys;

use super::{Inner, driver_name, interface};
use crate::{Error, Mempool};

/// Ethernet header and checksum, and two VLAN tags.
const FRAME_OVERHEAD: usize = 14 + 4 + 8;

/// Drivers that chain buffers, or pass them on as they are, without saying so in their capabilities.
const CHAINING_DRIVERS: [&str; 4] = ["net_memif", "net_pcap", "net_ring", "net_null"];

/// What net_af_xdp takes for the fill ring of each receive queue (ETH_AF_XDP_DFLT_NUM_DESCS); it fails without a word if it
/// cannot.
const AF_XDP_FILL: u32 = 2048;

/// How a port is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortOptions {
    /// Receive queues, one for each worker. With more than one, flows are spread by hash where the device can (RSS).
    pub rx_queues: u16,
    /// Transmit queues, one for each worker.
    pub tx_queues: u16,
    /// Descriptors in a receive queue; rounded to what the device supports.
    pub rx_descriptors: u16,
    /// Descriptors in a transmit queue; rounded to what the device supports.
    pub tx_descriptors: u16,
    /// MTU, bytes of the packet in the frame. None: the device's own. Frames larger than a buffer arrive in chained ones.
    pub mtu: Option<u16>,
    /// Receive frames for any address. Devices that cannot filter always do.
    pub promiscuous: bool,
}

impl Default for PortOptions {
    /// One queue each way of 1024 descriptors, the device's MTU, promiscuous.
    fn default() -> Self {
        Self {
            rx_queues: 1,
            tx_queues: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mtu: None,
            promiscuous: true,
        }
    }
}

/// What `start` needs to know.
#[derive(Debug)]
pub(super) struct Configured {
    pub rx_queues: u16,
    pub tx_queues: u16,
    pub promiscuous: bool,
    /// The driver sends single, direct buffers only; others it would send as garbage.
    pub linear_tx: bool,
    pub pool: Mempool,
}

pub(super) fn configure(port: &Inner, options: &PortOptions, pool: &Mempool) -> Result<Configured, Error> {
    let info = port.info()?;
    check_queues(port, &info, "rx", options.rx_queues, info.max_rx_queues)?;
    check_queues(port, &info, "tx", options.tx_queues, info.max_tx_queues)?;
    if let Some(mtu) = options.mtu {
        check_mtu(port, &info, mtu, pool)?;
    }
    let interface_mtu = options.mtu.filter(|_| interface::rules(&info));
    let options = &PortOptions { mtu: options.mtu.filter(|_| interface_mtu.is_none()), ..options.clone() };
    if let Some(mtu) = interface_mtu {
        interface::set_mtu(port, &info, mtu)?;
    }
    let config = device_config(&info, options, usize::from(pool.data_room()));
    // SAFETY: the port is open and stopped or new; the configuration is read during the call.
    port.check("configure", || unsafe {
        sys::rte_eth_dev_configure(port.id, options.rx_queues, options.tx_queues, &config)
    })?;
    if let Some(mtu) = options.mtu {
        // SAFETY: the port is configured. Drivers without a real device behind them have no such operation.
        port.check_supported("setting the MTU", || unsafe { sys::rte_eth_dev_set_mtu(port.id, mtu) })?;
    }
    check_buffers(port, &info, options, pool)?;
    set_up_queues(port, options, pool)?;
    Ok(Configured {
        rx_queues: options.rx_queues,
        tx_queues: options.tx_queues,
        promiscuous: options.promiscuous,
        linear_tx: info.tx_offload_capa & sys::SHIM_TX_OFFLOAD_MULTI_SEGS == 0
            && !CHAINING_DRIVERS.contains(&driver_name(&info).as_str()),
        pool: pool.clone(),
    })
}

fn check_queues(
    port: &Inner,
    info: &sys::rte_eth_dev_info,
    direction: &'static str,
    wanted: u16,
    max: u16,
) -> Result<(), Error> {
    if wanted <= max {
        return Ok(());
    }
    let driver = driver_name(info);
    let remedy = match driver.as_str() {
        "net_af_packet" => "add qpairs=N to the device's arguments, or use fewer workers",
        "net_af_xdp" => {
            "give the interface more queues (ethtool -L, or numrxqueues/numtxqueues when it is made) and add \
             queue_count=N to the device's arguments, or use fewer workers"
        }
        "net_vhost" => "add queues=N to the device's arguments, or use fewer workers",
        "net_virtio_user" | "net_virtio" => "add queues=N to the device, or use fewer workers",
        _ => "use fewer workers, or a device with more queues",
    };
    Err(Error::Queues { device: port.device.clone(), driver, direction, wanted, max, remedy })
}

fn check_mtu(port: &Inner, info: &sys::rte_eth_dev_info, mtu: u16, pool: &Mempool) -> Result<(), Error> {
    let device = || port.device.clone();
    if mtu < info.min_mtu || mtu > info.max_mtu {
        return Err(Error::Mtu { device: device(), mtu, min: info.min_mtu, max: info.max_mtu });
    }
    let needed = usize::from(mtu) + FRAME_OVERHEAD;
    let room = usize::from(pool.data_room());
    let driver = driver_name(info);
    let chains = info.rx_offload_capa & sys::SHIM_RX_OFFLOAD_SCATTER != 0
        || CHAINING_DRIVERS.contains(&driver.as_str());
    if needed > room && !chains {
        return Err(Error::DataRoom { device: device(), driver, mtu, needed, room });
    }
    Ok(())
}

fn check_buffers(
    port: &Inner,
    info: &sys::rte_eth_dev_info,
    options: &PortOptions,
    pool: &Mempool,
) -> Result<(), Error> {
    let driver = driver_name(info);
    let needed = if driver == "net_af_xdp" { AF_XDP_FILL * u32::from(options.rx_queues) } else { 0 };
    let available = pool.available();
    if needed <= available {
        return Ok(());
    }
    Err(Error::Buffers { device: port.device.clone(), driver, pool: pool.name().into(), needed, available })
}

fn device_config(info: &sys::rte_eth_dev_info, options: &PortOptions, room: usize) -> sys::rte_eth_conf {
    // SAFETY: the struct is plain C data, for which all zeroes are valid and mean "default".
    let mut config: sys::rte_eth_conf = unsafe { mem::zeroed() };
    let jumbo = options.mtu.is_some_and(|mtu| usize::from(mtu) + FRAME_OVERHEAD > room);
    if jumbo {
        config.rxmode.offloads |= info.rx_offload_capa & sys::SHIM_RX_OFFLOAD_SCATTER;
    }
    config.rxmode.mtu = options.mtu.map_or(0, u32::from);
    // Packets that were received or replicated in chained buffers leave in them.
    config.txmode.offloads |= info.tx_offload_capa & sys::SHIM_TX_OFFLOAD_MULTI_SEGS;
    let hash_types = info.flow_type_rss_offloads & sys::SHIM_RSS_HASH_TYPES;
    if options.rx_queues > 1 && hash_types != 0 {
        config.rxmode.mq_mode = sys::SHIM_MQ_RX_RSS;
        config.rxmode.offloads |= info.rx_offload_capa & sys::SHIM_RX_OFFLOAD_RSS_HASH;
        config.rx_adv_conf.rss_conf.rss_hf = hash_types;
    }
    config
}

fn set_up_queues(port: &Inner, options: &PortOptions, pool: &Mempool) -> Result<(), Error> {
    let (mut rx, mut tx) = (options.rx_descriptors, options.tx_descriptors);
    // SAFETY: the port is configured; both numbers are writable.
    port.check("descriptors", || unsafe {
        sys::rte_eth_dev_adjust_nb_rx_tx_desc(port.id, &mut rx, &mut tx)
    })?;
    // SAFETY: the port is open. -1 (any socket) becomes DPDK's unsigned "any".
    let socket = unsafe { sys::rte_eth_dev_socket_id(port.id) } as u32;
    for queue in 0..options.rx_queues {
        // SAFETY: the port has the queue; NULL means the driver's defaults; the queue handles keep the pool alive.
        port.check("receive queue", || unsafe {
            sys::rte_eth_rx_queue_setup(port.id, queue, rx, socket, ptr::null(), pool.as_ptr())
        })?;
    }
    for queue in 0..options.tx_queues {
        // SAFETY: as above.
        port.check("transmit queue", || unsafe {
            sys::rte_eth_tx_queue_setup(port.id, queue, tx, socket, ptr::null())
        })?;
    }
    Ok(())
}
