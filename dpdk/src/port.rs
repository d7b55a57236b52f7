use std::{
    ffi::{CStr, c_char},
    fmt, mem,
    sync::Arc,
};

use dpdk_sys as sys;

use crate::{Consumer, Eal, Error, Mempool, Producer, Reason, SocketId, eal::c_string, log};

mod interface;
mod queue;
mod stats;
mod setup;

pub use queue::{QueueId, RxQueue, TxQueue};
pub use setup::PortOptions;
pub use stats::PortStats;

/// A port, by DPDK's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u16);

/// A MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The state of a port's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// There is a link.
    pub up: bool,
    /// Mbit/s; 0 if there is none, `u32::MAX` if it is not known.
    pub speed_mbps: u32,
    /// Both ways at once.
    pub full_duplex: bool,
}

/// What a port's device and driver can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// The driver's name.
    pub driver: String,
    /// The most rx queues.
    pub max_rx_queues: u16,
    /// The most tx queues.
    pub max_tx_queues: u16,
    /// The smallest MTU, bytes.
    pub min_mtu: u16,
    /// The largest MTU, bytes.
    pub max_mtu: u16,
    /// Receives frames larger than a buffer into chained ones, by its own word.
    pub rx_scatter: bool,
    /// Sends chained buffers, by its own word.
    pub tx_multi_segs: bool,
    /// Spreads flows over rx queues by a hash over addresses and ports.
    pub rss: bool,
    /// The kernel interface behind it; 0 if there is none.
    pub if_index: u32,
}

/// An Ethernet port: a NIC by its PCI address, or a virtual device. It is stopped and closed, and its device removed, when
/// this and all its queues are dropped.
#[derive(Debug)]
pub struct Port {
    inner: Arc<Inner>,
    setup: Option<setup::Configured>,
}

#[derive(Debug)]
struct Inner {
    id: u16,
    device: String,
    /// The device string's arguments: what follows its first comma.
    arguments: String,
    eal: Eal,
    /// Close the device's bus entry too: virtual devices can then be made again under their name.
    remove: bool,
    /// For a port of rings, its ends of them.
    _rings: (Vec<Consumer>, Vec<Producer>),
}

impl Port {
    /// Opens a device by PCI address (`0000:01:00.0`, listed in [`EalOptions::pci`](crate::EalOptions::pci)) or by virtual
    /// device string (`net_af_packet0,iface=eth0`: driver and a number, then arguments).
    pub fn open(eal: &Eal, device: &str) -> Result<Self, Error> {
        let devargs = c_string(device)?;
        let name = device.split(',').next().unwrap_or(device);
        eal.control(|| {
            let before = port_by_name(name)?;
            if let Some(id) = before {
                return Self::claim(eal, id, device, (Vec::new(), Vec::new()));
            }
            // SAFETY: the EAL is initialised; the string is NUL-terminated, and copied by DPDK.
            Reason::check(|| unsafe { sys::rte_dev_probe(devargs.as_ptr()) })
                .map_err(|reason| Error::Probe { device: device.into(), reason })?;
            let id = port_by_name(name)?.ok_or_else(|| Error::NoPort { device: device.into() })?;
            Self::claim(eal, id, device, (Vec::new(), Vec::new()))
        })
    }

    /// A port in this process that receives from `rx` and sends to `tx`, a queue for each; at least one of both.
    pub fn from_rings(eal: &Eal, name: &str, rx: Vec<Consumer>, tx: Vec<Producer>) -> Result<Self, Error> {
        let c_name = c_string(name)?;
        let mut rx_rings: Vec<_> = rx.iter().map(Consumer::as_ptr).collect();
        let mut tx_rings: Vec<_> = tx.iter().map(Producer::as_ptr).collect();
        eal.control(|| {
            let id = Reason::check(|| {
                // SAFETY: the EAL is initialised; DPDK copies the name and the rings' addresses, and the port keeps the rings'
                // ends, and so the rings, alive.
                unsafe {
                    sys::rte_eth_from_rings(
                        c_name.as_ptr(),
                        rx_rings.as_mut_ptr(),
                        rx_rings.len() as u32,
                        tx_rings.as_mut_ptr(),
                        tx_rings.len() as u32,
                        0,
                    )
                }
            })
            .map_err(|reason| Error::Probe { device: name.into(), reason })?;
            Self::claim(eal, id as u16, name, (rx, tx))
        })
    }

    fn claim(eal: &Eal, id: u16, device: &str, rings: (Vec<Consumer>, Vec<Producer>)) -> Result<Self, Error> {
        if !eal.claim_port(id) {
            return Err(Error::InUse { device: device.into() });
        }
        let (name, arguments) = device.split_once(',').unwrap_or((device, ""));
        let inner = Inner {
            id,
            device: name.into(),
            arguments: arguments.into(),
            eal: eal.clone(),
            remove: !is_pci_address(name),
            _rings: rings,
        };
        Ok(Self { inner: Arc::new(inner), setup: None })
    }

    /// DPDK's number.
    pub fn id(&self) -> PortId {
        PortId(self.inner.id)
    }

    /// The device: the PCI address, or the virtual device's name without its arguments.
    pub fn device(&self) -> &str {
        &self.inner.device
    }

    /// The NUMA node the device is on.
    pub fn socket(&self) -> SocketId {
        // SAFETY: the port is open.
        SocketId(unsafe { sys::rte_eth_dev_socket_id(self.inner.id) })
    }

    /// What the device can do.
    pub fn capabilities(&self) -> Result<Capabilities, Error> {
        let info = self.inner.info()?;
        Ok(Capabilities {
            driver: driver_name(&info),
            max_rx_queues: info.max_rx_queues,
            max_tx_queues: info.max_tx_queues,
            min_mtu: info.min_mtu,
            max_mtu: info.max_mtu,
            rx_scatter: info.rx_offload_capa & sys::SHIM_RX_OFFLOAD_SCATTER != 0,
            tx_multi_segs: info.tx_offload_capa & sys::SHIM_TX_OFFLOAD_MULTI_SEGS != 0,
            rss: info.flow_type_rss_offloads & sys::SHIM_RSS_HASH_TYPES != 0,
            if_index: info.if_index,
        })
    }

    /// Sets queues, MTU and so on. The port must not be started.
    pub fn configure(&mut self, options: &PortOptions, pool: &Mempool) -> Result<(), Error> {
        self.require_no_queues("cannot be configured while its queues are in use")?;
        // The former pool stays until the driver has given its buffers back.
        let _former = self.setup.take();
        self.setup = Some(setup::configure(&self.inner, options, pool)?);
        Ok(())
    }

    /// Starts a configured port and hands out its queues.
    pub fn start(&mut self) -> Result<(Vec<RxQueue>, Vec<TxQueue>), Error> {
        self.require_no_queues("is started already")?;
        let Some(setup) = &self.setup else { return Err(self.inner.state("is not configured")) };
        // SAFETY: the port is open and configured, with its queues set up.
        self.inner.check("start", || unsafe { sys::rte_eth_dev_start(self.inner.id) })?;
        if setup.promiscuous {
            // SAFETY: the port is open. Drivers that cannot filter have no such switch, and receive everything anyway.
            self.inner.check_supported("promiscuous mode", || unsafe {
                sys::rte_eth_promiscuous_enable(self.inner.id)
            })?;
        }
        // The port is started, queues of these numbers are set up, and each is handed out once.
        let rx = (0..setup.rx_queues).map(|queue| RxQueue::new(&self.inner, queue, setup)).collect();
        let tx = (0..setup.tx_queues).map(|queue| TxQueue::new(&self.inner, queue, setup)).collect();
        Ok((rx, tx))
    }

    /// Stops the port; all its queues must have been dropped. It may be configured or started again.
    pub fn stop(&mut self) -> Result<(), Error> {
        self.require_no_queues("cannot stop while its queues are in use")?;
        // SAFETY: the port is open, and nobody polls it: there are no queues.
        self.inner.check("stop", || unsafe { sys::rte_eth_dev_stop(self.inner.id) }).map(drop)
    }

    /// The MAC address.
    pub fn mac(&self) -> Result<MacAddr, Error> {
        let mut mac = sys::rte_ether_addr::default();
        // SAFETY: the port is open and `mac` writable.
        self.inner.check("MAC address", || unsafe { sys::rte_eth_macaddr_get(self.inner.id, &mut mac) })?;
        Ok(MacAddr(mac.addr_bytes))
    }

    /// Sets the MAC address.
    pub fn set_mac(&mut self, mac: MacAddr) -> Result<(), Error> {
        let mut mac = sys::rte_ether_addr { addr_bytes: mac.0 };
        let set = || {
            // SAFETY: the port is open; `mac` is read during the call.
            unsafe { sys::rte_eth_dev_default_mac_addr_set(self.inner.id, &mut mac) }
        };
        self.inner.check("setting the MAC address", set).map(drop)
    }

    /// The MTU, bytes.
    pub fn mtu(&self) -> Result<u16, Error> {
        let info = self.inner.info()?;
        if interface::rules(&info) {
            return interface::mtu(&self.inner, &info);
        }
        let mut mtu = 0;
        // SAFETY: the port is open and `mtu` writable.
        self.inner.check("MTU", || unsafe { sys::rte_eth_dev_get_mtu(self.inner.id, &mut mtu) })?;
        Ok(mtu)
    }

    /// The link's state now; does not wait for it.
    pub fn link(&self) -> Result<Link, Error> {
        let mut link = sys::rte_eth_link::default();
        let get = || {
            // SAFETY: the port is open and `link` writable.
            unsafe { sys::rte_eth_link_get_nowait(self.inner.id, &mut link) }
        };
        self.inner.check("link state", get)?;
        let (mut speed_mbps, mut up, mut full_duplex) = (0, 0, 0);
        // SAFETY: reads the bit fields of `link`; the rest is writable.
        unsafe { sys::shim_eth_link(&link, &mut speed_mbps, &mut up, &mut full_duplex) };
        Ok(Link { up: up != 0, speed_mbps, full_duplex: full_duplex != 0 })
    }

    /// Every queue handed out holds the port.
    fn require_no_queues(&mut self, problem: &'static str) -> Result<(), Error> {
        if Arc::get_mut(&mut self.inner).is_some() { Ok(()) } else { Err(self.inner.state(problem)) }
    }
}

impl Inner {
    fn info(&self) -> Result<sys::rte_eth_dev_info, Error> {
        // SAFETY: the struct is plain C data, for which all zeroes are valid.
        let mut info: sys::rte_eth_dev_info = unsafe { mem::zeroed() };
        // SAFETY: the port is open and `info` writable.
        self.check("device information", || unsafe { sys::rte_eth_dev_info_get(self.id, &mut info) })?;
        Ok(info)
    }

    fn check(&self, operation: &'static str, call: impl FnOnce() -> i32) -> Result<i32, Error> {
        Reason::check(call).map_err(|reason| Error::Port { device: self.device.clone(), operation, reason })
    }

    /// As `check`, for what drivers may leave out.
    fn check_supported(&self, operation: &'static str, call: impl FnOnce() -> i32) -> Result<(), Error> {
        match self.check(operation, call) {
            Err(Error::Port { reason, .. }) if matches!(reason.errno, libc::ENOTSUP | libc::ENOSYS) => Ok(()),
            other => other.map(drop),
        }
    }

    /// The value of one of the device string's arguments.
    fn argument(&self, key: &str) -> Option<&str> {
        self.arguments
            .split(',')
            .find_map(|argument| argument.split_once('=').filter(|(k, _)| *k == key))
            .map(|(_, v)| v)
    }

    fn state(&self, problem: &'static str) -> Error {
        Error::State { device: self.device.clone(), problem }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let device = self.info().map(|info| info.device);
        let closed = self.eal.control(|| {
            Reason::check(|| {
                // SAFETY: the port is open and, without queues, nobody polls it; the device was looked up before closing, and
                // is removed once.
                unsafe {
                    sys::rte_eth_dev_stop(self.id);
                    let closed = sys::rte_eth_dev_close(self.id);
                    match device {
                        Ok(device) if self.remove && !device.is_null() => sys::rte_dev_remove(device),
                        _ => closed,
                    }
                }
            })
        });
        self.eal.release_port(self.id);
        if let Err(reason) = closed {
            log::emit(&format!("port {}: close: {reason}", self.device));
        }
    }
}

fn port_by_name(name: &str) -> Result<Option<u16>, Error> {
    let c_name = c_string(name)?;
    let mut id = 0;
    // SAFETY: the EAL is initialised, the name is NUL-terminated and `id` writable.
    let found = unsafe { sys::rte_eth_dev_get_port_by_name(c_name.as_ptr(), &mut id) };
    Ok((found == 0).then_some(id))
}

/// `[domain:]bus:device.function`, in hexadecimal.
fn is_pci_address(name: &str) -> bool {
    !name.is_empty()
        && name.contains(':')
        && name.bytes().all(|c| c.is_ascii_hexdigit() || c == b':' || c == b'.')
}

fn driver_name(info: &sys::rte_eth_dev_info) -> String {
    c_text(info.driver_name)
}

fn c_text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: DPDK's names are NUL-terminated and live as long as their driver.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses_are_told_from_virtual_devices() {
        assert!(is_pci_address("0000:01:00.0") && is_pci_address("01:00.1"));
        assert!(!is_pci_address("net_null0") && !is_pci_address("face") && !is_pci_address(""));
    }

    #[test]
    fn mac_addresses_are_written_in_hexadecimal() {
        assert_eq!(MacAddr([2, 0, 0, 0, 0xbb, 1]).to_string(), "02:00:00:00:bb:01");
    }
}
