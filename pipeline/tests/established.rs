//! Packets of known sessions, byte for byte, against frames that etherparse builds.

mod common;
use common::*;

fn udp() -> (conntrack::Tuple, conntrack::Tuple) {
    (tuple("10.1.0.5:40000", "198.51.100.10:53"), tuple("203.0.113.1:61000", "198.51.100.10:53"))
}

#[test]
fn vlan_to_vxlan_and_back() {
    for protocol in [6, 17] {
        let mut gateway = Gateway::new();
        let (original, translated) = udp();
        gateway.install(&routed(7, protocol, original, translated));

        let sent = frame((CLIENT_MAC, GATEWAY_RED), protocol, &original, 64, b"question");
        let out = gateway.forward(UPLINK, &vlan(100, &sent), UPLINK);
        let (outer, inner) = unwrap(&untag(2, &out));
        assert_eq!(inner, frame((GATEWAY_BLUE, SERVER_MAC), protocol, &translated, 63, b"question"));
        assert_eq!((outer.macs, outer.ips), ((UPLINK_MAC, VTEP_MAC), (LOCAL, VTEP)));
        assert_eq!(outer.vni, 2000);

        let back = frame((SERVER_MAC, GATEWAY_BLUE), protocol, &swapped(&translated), 64, b"answer");
        let out = gateway.forward(UPLINK, &vlan(2, &Outer::from_vtep().wrap(&back)), UPLINK);
        let expected = frame((GATEWAY_RED, CLIENT_MAC), protocol, &swapped(&original), 63, b"answer");
        assert_eq!(out, vlan(100, &expected));

        let info = gateway.sessions.get(conntrack::SessionId(7)).unwrap();
        assert_eq!((info.counters.in_packets, info.counters.out_packets), (1, 1));
        assert_eq!(info.counters.in_bytes, sent.len() as u64);
        assert_eq!(gateway.other("established"), 2);
        let lifs = gateway.snapshot().lifs;
        assert_eq!((lifs[0].rx_packets, lifs[0].tx_packets), (1, 1));
        assert_eq!((lifs[1].rx_packets, lifs[1].tx_packets), (1, 1));
        assert_eq!(lifs[0].rx_bytes, sent.len() as u64);
    }
}
