//! Counters as the API and the command line show them.

use conntrack::TableStats;
use pipeline::{Config, Encapsulation, Lif, Snapshot};
use proto::gateway::v1;

/// A pipeline's counters, with the names of `config`, and the table's. Ports and LIFs the snapshot lacks read 0.
pub fn stats(config: &Config, snapshot: &Snapshot, table: &TableStats) -> v1::Stats {
    let ports = config.ports.iter().enumerate().map(|(i, port)| {
        let c = snapshot.ports.get(i).copied().unwrap_or_default();
        v1::PortStats {
            name: port.name.clone(),
            rx_packets: c.rx_packets,
            rx_bytes: c.rx_bytes,
            tx_packets: c.tx_packets,
            tx_bytes: c.tx_bytes,
            tx_dropped: c.tx_dropped,
        }
    });
    let lifs = config.lifs.iter().enumerate().map(|(i, lif)| {
        let c = snapshot.lifs.get(i).copied().unwrap_or_default();
        v1::LifStats {
            name: lif.name.clone(),
            id: lif.id,
            rx_packets: c.rx_packets,
            rx_bytes: c.rx_bytes,
            tx_packets: c.tx_packets,
            tx_bytes: c.tx_bytes,
        }
    });
    v1::Stats {
        ports: ports.collect(),
        lifs: lifs.collect(),
        drops: counters(&snapshot.drops),
        traps: counters(&snapshot.traps),
        trap_limited: counters(&snapshot.trap_limited),
        sessions: Some(v1::SessionStats {
            capacity: table.capacity,
            active: table.active,
            installed: table.installed,
            rejected: table.rejected,
            closed: table.closed,
        }),
        other: counters(&snapshot.other),
    }
}

/// A LIF as [`v1::ListLifsResponse`] lists it.
pub fn lif(config: &Config, lif: &Lif) -> v1::Lif {
    let encapsulation = match lif.encapsulation {
        Encapsulation::Untagged => "untagged".to_owned(),
        Encapsulation::Vlan(vid) => format!("vlan {vid}"),
        Encapsulation::Vxlan(vni) => format!("vni {vni}"),
    };
    v1::Lif {
        id: lif.id,
        name: lif.name.clone(),
        port: config.ports.get(usize::from(lif.port.0)).map(|port| port.name.clone()).unwrap_or_default(),
        encapsulation,
        trap_vni: lif.trap_vni,
        mtu: u32::from(lif.mtu),
    }
}

fn counters(values: &[(&'static str, u64)]) -> Vec<v1::Counter> {
    values.iter().map(|&(name, value)| v1::Counter { name: name.to_owned(), value }).collect()
}
