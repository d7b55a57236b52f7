//! Every rule of the configuration, broken once.

mod common;
use common::*;
use pipeline::{Config, ConfigError, Encapsulation, PortIndex};
use std::net::{IpAddr, Ipv4Addr};

#[track_caller]
fn broken(change: impl FnOnce(&mut Config)) -> Vec<ConfigError> {
    let mut config = config();
    change(&mut config);
    let errors = config.validate().unwrap_err();
    assert!(
        errors.iter().all(|error| error.to_string().contains(": ")),
        "names object and remedy: {errors:?}"
    );
    errors
}

fn red() -> String {
    "red".into()
}

#[test]
fn the_lab_is_valid() {
    assert_eq!(config().validate(), Ok(()));
}

#[test]
fn ports() {
    use ConfigError::*;
    assert_eq!(broken(|c| c.ports[2].name = "uplink".into()), [DuplicatePort("uplink".into())]);
    assert_eq!(broken(|c| c.ports[2].name.clear()), [PortWithoutName(2)]);
    assert_eq!(broken(|c| c.ports[0].mac = [0; 6]), [PortMac("uplink".into())]);
    assert_eq!(broken(|c| c.ports[0].mac = [1; 6]), [PortMac("uplink".into())]);
    assert!(broken(|c| c.ports.clear()).contains(&NoPorts));
    let many = broken(|c| {
        for i in 0..30 {
            let mut port = c.ports[0].clone();
            port.name = format!("p{i}");
            c.ports.push(port);
        }
    });
    assert_eq!(many, [TooManyPorts(33)]);
    assert_eq!(broken(|c| c.lifs[0].port = PortIndex(9)), [NoSuchPort("lif \"red\"".into(), 9)]);
}

#[test]
fn lifs() {
    use ConfigError::*;
    assert_eq!(broken(|c| c.lifs[1].name = red()), [DuplicateLif(red())]);
    assert_eq!(broken(|c| c.lifs[0].name.clear()), [LifWithoutName(1)]);
    assert_eq!(broken(|c| c.lifs[0].id = 0), [LifId(red(), 0)]);
    assert_eq!(broken(|c| c.lifs[0].id = 1 << 31), [LifId(red(), 1 << 31)]);
    assert_eq!(broken(|c| c.lifs[0].id = 2), [DuplicateLifId("blue".into(), 2)]);
    for vlan in [0, 4095] {
        let errors = broken(|c| c.lifs[0].encapsulation = Encapsulation::Vlan(vlan));
        assert_eq!(errors, [LifVlan(red(), vlan)]);
    }
    for vni in [0, 1 << 24] {
        let errors = broken(|c| c.lifs[1].encapsulation = Encapsulation::Vxlan(vni));
        assert_eq!(errors, [LifVni("blue".into(), vni)]);
        assert_eq!(broken(|c| c.lifs[0].trap_vni = vni), [TrapVni(red(), vni)]);
    }
    assert_eq!(broken(|c| c.lifs[0].trap_vni = 2000), [DuplicateTrapVni("blue".into(), 2000)]);
    for mtu in [67, 9217] {
        assert_eq!(broken(|c| c.lifs[0].mtu = mtu), [LifMtu(red(), mtu)]);
    }
    assert_eq!(broken(|c| c.lifs[0].port = PortIndex(KERNEL)), [LifOnTrapPort(red())]);
    assert_eq!(broken(|c| c.lifs[0].vteps = vec![VTEP.into()]), [UselessVteps(red())]);
    let many = broken(|c| c.lifs = vec![c.lifs[0].clone(); 4097]);
    assert!(many.contains(&TooManyLifs(4097)));
}

#[test]
fn tags() {
    use ConfigError::*;
    let taken = |words: &str, owner: &str| [TagTaken(red(), words.into(), owner.into())];
    let underlay = broken(|c| c.lifs[0].encapsulation = Encapsulation::Vlan(2));
    assert_eq!(underlay, taken("vlan 2", "the underlay"));
    let untagged = broken(|c| {
        c.underlay.as_mut().unwrap().vlan = 0;
        c.lifs[0].encapsulation = Encapsulation::Untagged;
    });
    assert_eq!(untagged, taken("untagged", "the underlay"));
    let both = broken(|c| {
        c.lifs[2].port = PortIndex(UPLINK);
        c.lifs[2].encapsulation = Encapsulation::Vlan(100);
    });
    assert_eq!(both, [TagTaken("green".into(), "vlan 100".into(), "lif \"red\"".into())]);
    let vni = broken(|c| {
        c.lifs[0].encapsulation = Encapsulation::Vxlan(2000);
        c.lifs[0].trap_vni = 5;
    });
    assert_eq!(vni, [DuplicateVni("blue".into(), 2000)]);
}

#[test]
fn underlay() {
    use ConfigError::*;
    let blue = || "blue".to_owned();
    assert_eq!(broken(|c| c.underlay = None), [NoUnderlay(blue())]);
    assert_eq!(broken(|c| c.lifs[1].port = PortIndex(ACCESS)), [NotOnUnderlay(blue())]);
    let errors = broken(|c| c.underlay.as_mut().unwrap().port = PortIndex(KERNEL));
    assert_eq!(errors, [UnderlayOnTrapPort, NotOnUnderlay(blue())]);
    assert_eq!(broken(|c| c.underlay.as_mut().unwrap().vlan = 4095), [UnderlayVlan(4095)]);
    assert_eq!(broken(|c| c.underlay.as_mut().unwrap().udp_port = 0), [UdpPort("underlay")]);
    let group = IpAddr::from(Ipv4Addr::new(224, 0, 0, 1));
    assert_eq!(broken(|c| c.underlay.as_mut().unwrap().local_ip = group), [UnderlayAddress(group)]);
    let v6: IpAddr = "2001:db8::9".parse().unwrap();
    assert_eq!(broken(|c| c.lifs[1].vteps = vec![v6]), [VtepFamily(blue(), v6)]);
    let local = IpAddr::from(LOCAL);
    assert_eq!(broken(|c| c.lifs[1].vteps = vec![local]), [VtepAddress(blue(), local)]);
    let vtep = IpAddr::from(VTEP);
    assert_eq!(broken(|c| c.lifs[1].vteps = vec![vtep, vtep]), [DuplicateVtep(blue(), vtep)]);
    let neighbors = |change: fn(&mut Vec<pipeline::config::StaticNeighbor>)| {
        broken(|c| change(&mut c.underlay.as_mut().unwrap().neighbors))
    };
    assert_eq!(neighbors(|n| n[0].ip = LOCAL.into()), [NeighborAddress(local)]);
    assert_eq!(neighbors(|n| n[0].mac = [0; 6]), [NeighborMac(vtep)]);
    assert_eq!(neighbors(|n| n[1].ip = VTEP.into()), [DuplicateNeighbor(vtep)]);
}

#[test]
fn trap() {
    use ConfigError::*;
    let none = Ipv4Addr::UNSPECIFIED;
    assert_eq!(broken(|c| c.trap.local_ip = none), [TrapAddress("local_ip", none)]);
    assert_eq!(broken(|c| c.trap.kernel_ip = none), [TrapAddress("kernel_ip", none)]);
    assert_eq!(broken(|c| c.trap.kernel_ip = TRAP_LOCAL), [TrapSameAddress]);
    assert_eq!(broken(|c| c.trap.kernel_mac = Some([0xff; 6])), [KernelMac]);
    assert_eq!(broken(|c| c.trap.udp_port = 0), [UdpPort("trap")]);
    assert_eq!(broken(|c| c.trap.port = PortIndex(7)), [NoSuchPort("trap".into(), 7)]);
}

#[test]
fn everything_at_once() {
    let errors = broken(|c| {
        c.lifs[0].mtu = 1;
        c.lifs[1].id = 0;
        c.trap.udp_port = 0;
    });
    assert_eq!(errors.len(), 3);
}
