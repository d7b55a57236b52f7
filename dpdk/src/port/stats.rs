use std::mem;

use dpdk_sys as sys;

use super::{Port, c_text};
use crate::Error;

/// A port's counters since it was opened or [`Port::reset_stats`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets dropped by the device because its receive queues were full.
    pub rx_missed: u64,
    /// Packets received with errors.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets not received for want of buffers.
    pub rx_no_buffer: u64,
}

impl Port {
    /// The counters every device has.
    pub fn stats(&self) -> Result<PortStats, Error> {
        // SAFETY: the struct is plain C data, for which all zeroes are valid.
        let mut stats: sys::rte_eth_stats = unsafe { mem::zeroed() };
        // SAFETY: the port is open and `stats` writable.
        self.inner.check("statistics", || unsafe { sys::rte_eth_stats_get(self.inner.id, &mut stats) })?;
        Ok(PortStats {
            rx_packets: stats.ipackets,
            rx_bytes: stats.ibytes,
            tx_packets: stats.opackets,
            tx_bytes: stats.obytes,
            rx_missed: stats.imissed,
            rx_errors: stats.ierrors,
            tx_errors: stats.oerrors,
            rx_no_buffer: stats.rx_nombuf,
        })
    }

    /// Sets the counters to 0.
    pub fn reset_stats(&mut self) -> Result<(), Error> {
        // SAFETY: the port is open.
        self.inner
            .check_supported("resetting statistics", || unsafe { sys::rte_eth_stats_reset(self.inner.id) })
    }

    /// All the driver's counters, by its own names.
    pub fn xstats(&self) -> Result<Vec<(String, u64)>, Error> {
        let (operation, id) = ("extended statistics", self.inner.id);
        // SAFETY: the port is open; with no room given DPDK only returns the number of counters.
        let count = self
            .inner
            .check(operation, || unsafe { sys::rte_eth_xstats_get(id, std::ptr::null_mut(), 0) })?;
        let count = count as usize;
        // SAFETY: both structs are plain C data, for which all zeroes are valid.
        let (mut names, mut values): (Vec<sys::rte_eth_xstat_name>, Vec<sys::rte_eth_xstat>) =
            unsafe { (vec![mem::zeroed(); count], vec![mem::zeroed(); count]) };
        // SAFETY: the port is open and there is room for `count` names.
        self.inner.check(operation, || unsafe {
            sys::rte_eth_xstats_get_names(id, names.as_mut_ptr(), count as u32)
        })?;
        // SAFETY: as above, for values.
        let got = self
            .inner
            .check(operation, || unsafe { sys::rte_eth_xstats_get(id, values.as_mut_ptr(), count as u32) })?;
        values.truncate(got as usize);
        let named = |value: &sys::rte_eth_xstat| {
            let name = names.get(value.id as usize)?;
            Some((c_text(name.name.as_ptr()), value.value))
        };
        Ok(values.iter().filter_map(named).collect())
    }
}
