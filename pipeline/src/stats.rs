//! Counters: one set per worker, plain stores, summed when read.

/// Of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Received by the pipeline.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Taken by the port.
    pub tx_packets: u64,
    /// Bytes taken.
    pub tx_bytes: u64,
    /// Not taken by the port's full queue, dropped.
    pub tx_dropped: u64,
}

/// Of a LIF; bytes of the tenant's frame, without tag and tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LifCounters {
    /// Arrived on it.
    pub rx_packets: u64,
    /// Bytes arrived.
    pub rx_bytes: u64,
    /// Left on it.
    pub tx_packets: u64,
    /// Bytes left.
    pub tx_bytes: u64,
}

/// All workers' counters at one moment, named as in `gateway stats --json`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// By position of the port.
    pub ports: Vec<PortCounters>,
    /// By position of the LIF.
    pub lifs: Vec<LifCounters>,
    /// Every drop reason with its count: `unknown_lif`, `malformed`, `bad_checksum`, `no_neighbor`, `session_drop`,
    /// `trap_limited`, `rate_limited` and more.
    pub drops: Vec<(&'static str, u64)>,
    /// Packets trapped by class: `new`, `tcp_control`, `arp_nd`, `exception`.
    pub traps: Vec<(&'static str, u64)>,
    /// Packets dropped by the trap's rate limit, by class.
    pub trap_limited: Vec<(&'static str, u64)>,
    /// What else is worth knowing: `established`, `related`, `from_kernel`, `replicated`, `originated`, `consumed`, …
    pub other: Vec<(&'static str, u64)>,
}
