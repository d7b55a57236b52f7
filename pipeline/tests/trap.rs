//! What goes to the kernel, and what comes from it.

mod common;
use common::*;

#[test]
fn new_packets_go_to_the_kernel_as_they_are() {
    let mut gateway = Gateway::new();
    let new = frame((CLIENT_MAC, GATEWAY_RED), 17, &tuple("10.1.0.5:1", "10.2.0.1:2"), 64, b"hello");
    let (outer, inner) = unwrap(&gateway.forward(UPLINK, &vlan(100, &new), KERNEL));
    assert_eq!(inner, new);
    assert_eq!((outer.macs, outer.ips), ((TRAP_MAC, KERNEL_MAC), (TRAP_LOCAL, TRAP_KERNEL)));
    assert_eq!(outer.vni, 10100);
    let tunnelled = vlan(2, &Outer::from_vtep().wrap(&new));
    let (outer, inner) = unwrap(&gateway.forward(UPLINK, &tunnelled, KERNEL));
    assert_eq!((outer.vni, inner), (2000, new.clone()));
    let (outer, inner) = unwrap(&gateway.forward(ACCESS, &new, KERNEL));
    assert_eq!((outer.vni, inner), (10300, new));
    assert_eq!(gateway.traps("new"), 3);
}

#[test]
fn the_way_back() {
    let mut gateway = Gateway::new();
    let frame = frame((GATEWAY_RED, CLIENT_MAC), 17, &tuple("10.2.0.1:2", "10.1.0.5:1"), 64, b"hello");
    let out = gateway.forward(KERNEL, &Outer::from_kernel(10100).wrap(&frame), UPLINK);
    assert_eq!(out, vlan(100, &frame));
    let out = gateway.forward(KERNEL, &Outer::from_kernel(10300).wrap(&frame), ACCESS);
    assert_eq!(out, frame);
    let out = gateway.forward(KERNEL, &Outer::from_kernel(2000).wrap(&frame), UPLINK);
    let (outer, inner) = unwrap(&untag(2, &out));
    assert_eq!((outer.macs, outer.ips), ((UPLINK_MAC, VTEP_MAC), (LOCAL, VTEP)));
    assert_eq!((outer.vni, inner), (2000, frame));
    assert_eq!(gateway.other("from_kernel"), 3);
    gateway.receive(KERNEL, &Outer::from_kernel(77).wrap(&[0; 60]));
    assert_eq!(gateway.drops("unknown_lif"), 1);
}

#[test]
fn arp_of_tenants_and_of_the_gateway() {
    let mut gateway = Gateway::new();
    let request = arp_request((CLIENT_MAC, [10, 1, 0, 5].into()), [10, 1, 0, 1].into());
    let (_, inner) = unwrap(&gateway.forward(UPLINK, &vlan(100, &request), KERNEL));
    assert_eq!(inner, request);
    assert_eq!(gateway.traps("arp_nd"), 1);

    let request = arp_request((VTEP_MAC, VTEP), LOCAL);
    let reply = gateway.forward(UPLINK, &vlan(2, &request), UPLINK);
    assert_eq!(untag(2, &reply), arp(2, (UPLINK_MAC, LOCAL), (VTEP_MAC, VTEP), VTEP_MAC));
    let request = arp_request((KERNEL_MAC, TRAP_KERNEL), TRAP_LOCAL);
    let reply = gateway.forward(KERNEL, &request, KERNEL);
    assert_eq!(reply, arp(2, (TRAP_MAC, TRAP_LOCAL), (KERNEL_MAC, TRAP_KERNEL), KERNEL_MAC));
    gateway.receive(UPLINK, &vlan(2, &arp_request((VTEP_MAC, VTEP), VTEP2)));
    assert_eq!(gateway.drops("not_for_us"), 1);
}
