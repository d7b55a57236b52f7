use super::*;
use crate::session_manager::tests::{IPV4, IPV6, context};
use conntrack::LifIndex;

fn v4() -> v2::SessionRequest {
    v2::SessionRequest {
        session_id: 12_345_678_910,
        in_lif: 1,
        out_lif: 2,
        source_ip: 0x0100_000A,
        source_port: 40_000,
        destination_ip: 0x0A64_33C6,
        destination_port: 443,
        protocol_id: 6,
        action: Some(v2::ActionParameters { action_type: 1, action_next_hop: 7, ..Default::default() }),
        cache_timeout: 30,
        ..Default::default()
    }
}

fn v6() -> v2::SessionRequest {
    let address = |last| [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last].to_vec();
    v2::SessionRequest {
        source_ip: 0,
        destination_ip: 0,
        source_ipv6: address(5),
        destination_ipv6: address(6),
        protocol_id: 17,
        ..v4()
    }
}

fn refused(change: impl FnOnce(&mut v2::SessionRequest)) -> SpecError {
    let mut request = v4();
    change(&mut request);
    spec(&request, &context(IPV4)).expect_err("must be refused")
}

fn refused_field(change: impl FnOnce(&mut v2::SessionRequest)) -> &'static str {
    match refused(change) {
        SpecError::Field { field, .. } | SpecError::UnknownLif { field, .. } => field,
        SpecError::NoCopies => "action",
        SpecError::CollectorFamily { .. } => "action_next_hop",
    }
}

#[test]
fn ipv4_comes_in_the_clients_byte_order() {
    let spec = spec(&v4(), &context(None)).expect("valid");
    assert_eq!(spec.id, SessionId(12_345_678_910));
    assert_eq!((spec.in_lif, spec.out_lif), (LifIndex(0), LifIndex(1)));
    assert_eq!(spec.original.source.to_string(), "10.0.0.1");
    assert_eq!(spec.original.destination.to_string(), "198.51.100.10");
    assert_eq!((spec.original.source_port, spec.original.destination_port), (40_000, 443));
    assert_eq!(spec.original, spec.translated);
    assert_eq!((spec.protocol, spec.action, spec.idle_timeout), (6, Action::Forward, Some(30)));
}

#[test]
fn the_addresses_tell_the_family() {
    let mut request = v6();
    for version in [0, 1] {
        request.ip_version = version;
        let spec = spec(&request, &context(None)).expect("valid");
        assert_eq!(spec.original.source.to_string(), "2001:db8::5");
    }
    let mut request = v4();
    request.source_ipv6 = vec![0; 16];
    request.destination_ipv6 = vec![0; 16];
    assert!(spec(&request, &context(None)).is_ok());
}

#[test]
fn bad_requests_name_the_field() {
    assert_eq!(refused_field(|r| r.session_id = 0), "session_id");
    assert_eq!(refused_field(|r| r.in_lif = 9), "in_lif");
    assert_eq!(refused_field(|r| r.out_lif = -1), "out_lif");
    assert_eq!(refused_field(|r| r.in_lif = 0), "in_lif");
    assert_eq!(refused_field(|r| r.ip_version = 1), "ip_version");
    assert_eq!(refused_field(|r| r.ip_version = 4), "ip_version");
    assert_eq!(refused_field(|r| r.source_ip = 0), "source_ip");
    assert_eq!(refused_field(|r| r.destination_ip = 0), "destination_ip");
    assert_eq!(refused_field(|r| r.source_ip = 0x0100_00E0), "source_ip");
    assert_eq!(refused_field(|r| r.source_ip = u32::MAX), "source_ip");
    assert_eq!(refused_field(|r| r.source_ipv6 = vec![1; 4]), "source_ipv6");
    assert_eq!(refused_field(|r| r.destination_ipv6 = vec![1; 17]), "destination_ipv6");
    assert_eq!(refused_field(|r| r.destination_ipv6 = vec![1; 16]), "source_ipv6");
    assert_eq!(refused_field(|r| r.source_port = 65_536), "source_port");
    assert_eq!(refused_field(|r| r.destination_port = u32::MAX), "destination_port");
    assert_eq!(refused_field(|r| r.destination_port = 0), "destination_port");
    assert_eq!(refused_field(|r| r.action = None), "action");
    assert_eq!(
        refused_field(|r| r.action = Some(v2::ActionParameters { action_type: 4, ..Default::default() })),
        "action_type"
    );
    assert_eq!(refused_field(|r| r.cache_timeout = u32::MAX), "cache_timeout");
    for protocol in [0, 1, 7, 58, 255, 256, -1] {
        assert_eq!(refused_field(|r| r.protocol_id = protocol), "protocol_id");
    }
}

#[test]
fn half_an_ipv6_session_is_refused() {
    let mut request = v6();
    request.destination_ipv6.clear();
    assert_eq!(spec(&request, &context(None)), Err(SpecError::field("destination_ipv6", "is missing")));
}

#[test]
fn copies_need_a_pipeline_that_makes_them() {
    let mut request = v4();
    request.action =
        Some(v2::ActionParameters { action_type: 2, action_next_hop: 0x0100_000A, ..Default::default() });
    assert_eq!(spec(&request, &context(None)), Err(SpecError::NoCopies));
    let spec = spec(&request, &context(IPV4)).expect("valid");
    assert_eq!(spec.action, Action::Mirror(Ipv4Addr::new(10, 0, 0, 1).into()));
}

#[test]
fn a_collector_is_of_the_underlays_family() {
    let collector = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);
    let request = |v4, v6: Vec<u8>| {
        let action = v2::ActionParameters { action_type: 3, action_next_hop: v4, action_next_hop_v6: v6 };
        v2::SessionRequest { action: Some(action), ..self::v6() }
    };
    let action = |request, underlay| spec(&request, &context(underlay)).map(|spec| spec.action);
    let snoop = |to: IpAddr| Ok(Action::Snoop(to));
    let (v4, v6) = (Ipv4Addr::new(10, 0, 0, 1), collector.octets().to_vec());
    // Of both, the one that copies get to, whatever the session's own family.
    assert_eq!(action(request(0x0100_000A, v6.clone()), IPV6), snoop(collector.into()));
    assert_eq!(action(request(0x0100_000A, v6.clone()), IPV4), snoop(v4.into()));
    assert_eq!(action(request(0, v6.clone()), IPV6), snoop(collector.into()));
    assert_eq!(action(request(0x0100_000A, Vec::new()), IPV4), snoop(v4.into()));
    let wrong = [(request(0, v6), IPV4), (request(0x0100_000A, Vec::new()), IPV6)];
    for (request, underlay) in wrong {
        assert!(matches!(action(request, underlay), Err(SpecError::CollectorFamily { .. })));
    }
}

#[test]
fn copies_need_a_collector() {
    let action = |v6: Vec<u8>| {
        Some(v2::ActionParameters { action_type: 2, action_next_hop: 0, action_next_hop_v6: v6 })
    };
    assert_eq!(refused_field(|r| r.action = action(Vec::new())), "action_next_hop");
    assert_eq!(refused_field(|r| r.action = action(vec![1; 4])), "action_next_hop_v6");
}
