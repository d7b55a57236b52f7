//! ARP and neighbour discovery: the tenants' through the trap, the gateway's own answered by itself.

use std::net::IpAddr;

use netns_lab::plan::{A, B, Host, RED1, TRAP_GATEWAY_MAC, UPLINK_MAC, VIOLET1, Vnf, mac};
use netns_lab::traffic::ping;

use crate::bench::Bench;

fn neighbor(bench: &Bench, role: &str, address: IpAddr) -> String {
    bench.lab.ns(role).unwrap().ip(&format!("neigh show {address}")).unwrap()
}

fn resolves_through_the_trap(bench: &Bench, host: &Host, vnf: &Vnf) {
    let addresses: [IpAddr; 2] = [host.lif.ipv4(vnf.number).into(), host.lif.ipv6(vnf.number).into()];
    for address in addresses {
        let before = bench.stat("/traps/arp_nd");
        bench.ns(host).ip("neigh flush dev eth0").unwrap();
        assert_eq!(ping(&bench.lab, host, address, 1).unwrap(), 1, "{} pings {address}", host.name);
        let entry = neighbor(bench, host.name, address);
        assert!(entry.contains(&mac(vnf.mac(&host.lif))), "{address}: {entry}");
        assert!(bench.stat("/traps/arp_nd") > before, "{address} was resolved past the trap");
    }
}

#[test]
fn tenants_resolve_the_vnf_through_the_trap() {
    let bench = Bench::new(Default::default());
    resolves_through_the_trap(&bench, &RED1, &A);
    resolves_through_the_trap(&bench, &VIOLET1, &B);
}

#[test]
fn the_gateway_answers_for_its_own_addresses() {
    let bench = Bench::new(Default::default());
    // Traffic both ways makes the VTEPs of the fabric and of the kernel ask for the gateway.
    assert_eq!(ping(&bench.lab, &VIOLET1, VIOLET1.lif.ipv4(B.number).into(), 1).unwrap(), 1);
    let underlay = neighbor(&bench, "vtep", netns_lab::plan::UNDERLAY_GATEWAY.into());
    assert!(underlay.contains(&mac(UPLINK_MAC)), "{underlay}");
    let trap = neighbor(&bench, "kernel", netns_lab::plan::TRAP_GATEWAY.into());
    assert!(trap.contains(&mac(TRAP_GATEWAY_MAC)), "{trap}");
}
