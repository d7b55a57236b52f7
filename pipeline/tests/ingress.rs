//! Nonsense at every layer: each kind is dropped under its reason, and nothing is sent.

mod common;
use common::*;
use std::net::Ipv4Addr;

fn udp_frame() -> Vec<u8> {
    frame((CLIENT_MAC, GATEWAY_RED), 17, &tuple("10.1.0.5:1", "10.2.0.1:2"), 64, b"hello")
}

#[track_caller]
fn dropped(port: u8, frame: &[u8], reason: &str) {
    let mut gateway = Gateway::new();
    gateway.receive(port, frame);
    assert_eq!(gateway.drops(reason), 1, "{:?}", gateway.snapshot().drops);
    assert!(gateway.io.sent.iter().all(Vec::is_empty));
}

/// An inner frame with its IPv4 header checksum made right again.
fn changed(change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = udp_frame();
    change(&mut bytes);
    bytes[24..26].fill(0);
    let sum = conntrack::checksum::checksum(&[&bytes[14..34]]);
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    bytes
}

#[test]
fn tags() {
    let frame = udp_frame();
    dropped(UPLINK, &vlan(101, &frame), "unknown_lif");
    dropped(UPLINK, &frame, "unknown_lif");
    dropped(UPLINK, &vlan(100, &vlan(100, &frame)), "unknown_lif");
    dropped(UPLINK, &vlan(0, &vlan(100, &frame)), "unknown_lif");
    dropped(ACCESS, &vlan(5, &frame), "unknown_lif");
    dropped(KERNEL, &vlan(5, &frame), "unknown_lif");
    for service in [[0x88, 0xa8], [0x91, 0x00]] {
        let mut tagged = vlan(100, &frame);
        tagged[12..14].copy_from_slice(&service);
        dropped(UPLINK, &tagged, "unknown_lif");
        let mut tagged = vlan(100, &vlan(100, &frame));
        tagged[16..18].copy_from_slice(&service);
        dropped(UPLINK, &tagged, "unknown_lif");
    }
    let inside = vlan(2, &Outer::from_vtep().wrap(&vlan(100, &frame)));
    dropped(UPLINK, &inside, "unknown_lif");
    dropped(KERNEL, &Outer::from_kernel(10100).wrap(&vlan(100, &frame)), "unknown_lif");
    for len in 0..14 {
        dropped(UPLINK, &frame[..len], "malformed");
    }
    dropped(UPLINK, &vlan(100, &frame)[..17], "malformed");
    // The drop-eligible and priority bits are not part of the id.
    let mut urgent = vlan(100, &frame);
    urgent[14] |= 0xf0;
    Gateway::new().forward(UPLINK, &urgent, KERNEL);
}

#[test]
fn tunnels() {
    let good = Outer::from_vtep().wrap(&udp_frame());
    let outer = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        bytes[24..26].fill(0);
        let sum = conntrack::checksum::checksum(&[&bytes[14..34]]);
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        vlan(2, &bytes)
    };
    dropped(UPLINK, &outer(&|b| b[42] = 0), "malformed");
    dropped(UPLINK, &outer(&|b| b[46] = 9), "unknown_lif");
    dropped(UPLINK, &outer(&|b| b[20] = 0x20), "outer_fragment");
    dropped(UPLINK, &outer(&|b| b[21] = 1), "outer_fragment");
    dropped(UPLINK, &outer(&|b| b[30] = 9), "not_for_us");
    dropped(UPLINK, &outer(&|b| b[5] = 9), "not_for_us");
    dropped(UPLINK, &outer(&|b| b[14] = 0x44), "malformed");
    dropped(UPLINK, &outer(&|b| b[17] = 255), "malformed");
    dropped(UPLINK, &outer(&|b| b[39] = 255), "malformed");
    dropped(UPLINK, &outer(&|b| b[39] = 20), "malformed");
    dropped(UPLINK, &outer(&|b| b[37] = 9), "not_vxlan");
    dropped(UPLINK, &outer(&|b| b[23] = 6), "not_vxlan");
    let mut wrong = vlan(2, &good);
    wrong[28] ^= 1;
    dropped(UPLINK, &wrong, "bad_checksum");
    dropped(UPLINK, &vlan(2, &Outer::from_vtep().wrap(&[1; 13])), "malformed");
    // Reserved bits are ignored, options stepped over, trailing bytes cut.
    let mut gateway = Gateway::new();
    let reserved = outer(&|b| {
        b[42] = 0xff;
        b[43..46].fill(0xff);
        b[49] = 0xff;
    });
    gateway.forward(UPLINK, &reserved, KERNEL);
    let trailing = [vlan(2, &good), vec![0xee; 30]].concat();
    let (_, inner) = unwrap(&gateway.forward(UPLINK, &trailing, KERNEL));
    assert_eq!(inner, udp_frame());
    let options = outer(&|b| {
        b[14] = 0x46;
        b[17] += 4;
        b.splice(34..34, [1, 1, 1, 1]);
    });
    let mut options = untag(2, &options);
    options[24..26].fill(0);
    let sum = conntrack::checksum::checksum(&[&options[14..38]]);
    options[24..26].copy_from_slice(&sum.to_be_bytes());
    let (_, inner) = unwrap(&gateway.forward(UPLINK, &vlan(2, &options), KERNEL));
    assert_eq!(inner, udp_frame());
}

#[test]
fn tunnels_cut_short_anywhere() {
    let good = vlan(2, &Outer::from_vtep().wrap(&udp_frame()));
    for len in 18..good.len() {
        dropped(UPLINK, &good[..len], "malformed");
    }
}

#[test]
fn inner_headers() {
    dropped(ACCESS, &changed(|b| b[14] = 0x65), "malformed");
    dropped(ACCESS, &changed(|b| b[14] = 0x44), "malformed");
    dropped(ACCESS, &changed(|b| b[17] = 19), "malformed");
    dropped(ACCESS, &changed(|b| b[16] = 9), "malformed");
    dropped(ACCESS, &changed(|b| b[39] = 7), "malformed");
    dropped(ACCESS, &changed(|b| b[39] = 99), "malformed");
    dropped(ACCESS, &changed(|b| b[26] = 127), "martian");
    dropped(ACCESS, &changed(|b| b[30] = 127), "martian");
    dropped(ACCESS, &changed(|b| b[26] = 224), "martian");
    dropped(ACCESS, &changed(|b| b[26..30].fill(255)), "martian");
    dropped(ACCESS, &changed(|b| b.copy_within(26..30, 30)), "martian");
    let mut wrong = udp_frame();
    wrong[24] ^= 0x40;
    dropped(ACCESS, &wrong, "bad_checksum");
    for len in 14..udp_frame().len() {
        dropped(ACCESS, &udp_frame()[..len], "malformed");
    }
    let tcp = frame((CLIENT_MAC, GATEWAY_RED), 6, &tuple("10.1.0.5:1", "10.2.0.1:2"), 64, b"");
    for flags in [0, 0x01, 0x03, 0x06, 0x05, 0x29, 0xff] {
        let mut bytes = tcp.clone();
        bytes[47] = flags;
        dropped(ACCESS, &bytes, "malformed");
    }
    for offset in [0x40, 0x60, 0xf0] {
        let mut bytes = tcp.clone();
        bytes[46] = offset;
        dropped(ACCESS, &bytes, "malformed");
    }
    let v6 = frame((CLIENT_MAC, GATEWAY_RED), 17, &tuple("[2001:db8::1]:1", "[2001:db8::2]:2"), 64, b"x");
    for len in 14..v6.len() {
        dropped(ACCESS, &v6[..len], "malformed");
    }
    let mut bytes = v6.clone();
    bytes[14] = 0x40;
    dropped(ACCESS, &bytes, "malformed");
    let mut bytes = v6.clone();
    bytes[22] = 0xff;
    dropped(ACCESS, &bytes, "martian");
}

#[test]
fn nobody_but_the_gateway_is_served() {
    let ping = |to: Ipv4Addr| {
        frame((VTEP_MAC, UPLINK_MAC), 1, &tuple(&format!("{VTEP}:9"), &to.to_string()), 64, b"are you there?")
    };
    let mut gateway = Gateway::new();
    let answer = gateway.forward(UPLINK, &vlan(2, &ping(LOCAL)), UPLINK);
    let reply = tuple(&LOCAL.to_string(), &format!("{VTEP}:9"));
    assert_eq!(untag(2, &answer), frame((UPLINK_MAC, VTEP_MAC), 1, &reply, 64, b"are you there?"));
    assert_eq!((gateway.other("consumed"), gateway.other("originated")), (1, 1));
    dropped(UPLINK, &vlan(2, &ping(VTEP2)), "not_for_us");
    let mut unanswered = ping(LOCAL);
    unanswered[34] = 3;
    dropped(UPLINK, &vlan(2, &unanswered), "not_vxlan");
}
