use super::*;
use crate::session_manager::tests::{IPV4, IPV6, context};
use std::net::Ipv6Addr;

fn request() -> v1::Session {
    v1::Session {
        session_id: 7,
        in_lif: 1,
        out_lif: 2,
        protocol: 6,
        original: Some(v1::Tuple {
            source: vec![10, 1, 0, 5].into(),
            destination: vec![198, 51, 100, 10].into(),
            source_port: 40_000,
            destination_port: 443,
        }),
        translated: Some(v1::Tuple {
            source: vec![203, 0, 113, 1].into(),
            destination: vec![198, 51, 100, 10].into(),
            source_port: 61_000,
            destination_port: 443,
        }),
        l2: Some(v1::L2 {
            forward: Some(v1::MacPair {
                source: vec![2, 0, 0, 0, 0, 1].into(),
                destination: vec![2, 0, 0, 0, 0, 2].into(),
            }),
            reverse: Some(v1::MacPair {
                source: vec![2, 0, 0, 0, 0, 3].into(),
                destination: vec![2, 0, 0, 0, 0, 4].into(),
            }),
        }),
        action: v1::Action::Snoop.into(),
        collector: vec![192, 0, 2, 7].into(),
        idle_timeout: 30,
        hard_timeout: 600,
        limit: Some(v1::RateLimit { packets: 100, bytes: 1 << 40, burst_ms: 50 }),
        owner: String::new(),
    }
}

fn refused(change: impl FnOnce(&mut v1::Session)) -> SpecError {
    let mut request = request();
    change(&mut request);
    spec(&request, &context(IPV4)).expect_err("must be refused")
}

fn original(session: &mut v1::Session) -> &mut v1::Tuple {
    session.original.as_mut().expect("present")
}

#[test]
fn there_and_back() {
    let context = context(IPV4);
    let spec = spec(&request(), &context).expect("valid");
    assert_eq!(session(&spec, &context), request());
    assert_eq!(spec.translated.source.to_string(), "203.0.113.1");
}

#[test]
fn untranslated_there_and_back() {
    let context = context(None);
    let request = v1::Session {
        translated: None,
        l2: None,
        action: v1::Action::Drop.into(),
        collector: Vec::new().into(),
        idle_timeout: 0,
        ..request()
    };
    let spec = spec(&request, &context).expect("valid");
    assert_eq!(spec.translated, spec.original);
    assert_eq!(session(&spec, &context), request);
}

#[test]
fn icmp_and_protocols_without_ports() {
    let context = context(None);
    let mut request = v1::Session { protocol: 1, translated: None, action: 0, ..request() };
    assert_eq!(
        spec(&request, &context),
        Err(SpecError::field("original.destination_port", "the protocol has none; send 0"))
    );
    original(&mut request).destination_port = 0;
    assert_eq!(spec(&request, &context).map(|s| s.original.source_port), Ok(40_000));
    request.protocol = 58;
    assert!(matches!(spec(&request, &context), Err(SpecError::Field { field: "protocol", .. })));
    request.protocol = 47;
    assert!(matches!(spec(&request, &context), Err(SpecError::Field { field: "original.source_port", .. })));
    original(&mut request).source_port = 0;
    assert!(spec(&request, &context).is_ok());
}

#[test]
fn bad_requests_name_the_field() {
    let field = |error| match error {
        SpecError::Field { field, .. } | SpecError::UnknownLif { field, .. } => field,
        SpecError::NoCopies => "action",
        SpecError::CollectorFamily { .. } => "collector",
    };
    assert_eq!(field(refused(|s| s.session_id = 0)), "session_id");
    assert_eq!(field(refused(|s| s.in_lif = 77)), "in_lif");
    assert_eq!(field(refused(|s| s.out_lif = u32::MAX)), "out_lif");
    assert_eq!(field(refused(|s| s.protocol = 256)), "protocol");
    assert_eq!(field(refused(|s| s.original = None)), "original");
    assert_eq!(field(refused(|s| original(s).source.clear())), "original.source");
    assert_eq!(field(refused(|s| original(s).destination = vec![1; 16].into())), "original.destination");
    assert_eq!(field(refused(|s| original(s).source_port = 65_536)), "original.source_port");
    assert_eq!(field(refused(|s| original(s).destination_port = 0)), "original.destination_port");
    assert_eq!(field(refused(|s| s.action = 9)), "action");
    assert_eq!(field(refused(|s| s.collector.clear())), "collector");
    assert_eq!(field(refused(|s| s.collector = vec![0; 4].into())), "collector");
    assert_eq!(field(refused(|s| s.idle_timeout = 1 << 30)), "idle_timeout");
    assert_eq!(field(refused(|s| s.hard_timeout = (1 << 21) + 1)), "hard_timeout");
    assert_eq!(field(refused(|s| s.limit = Some(v1::RateLimit::default()))), "limit");
    let burst = v1::RateLimit { packets: 1, burst_ms: 60_001, ..Default::default() };
    assert_eq!(field(refused(|s| s.limit = Some(burst))), "limit.burst_ms");
    assert_eq!(
        field(refused(|s| {
            s.translated = Some(v1::Tuple {
                source: vec![1; 16].into(),
                destination: vec![2; 16].into(),
                source_port: 1,
                destination_port: 2,
            });
        })),
        "translated"
    );
    assert_eq!(field(refused(|s| s.l2 = Some(v1::L2 { forward: None, reverse: None }))), "l2.forward");
    assert_eq!(
        field(refused(|s| {
            let l2 = s.l2.as_mut().expect("present");
            l2.forward = Some(v1::MacPair { source: vec![0xff; 6].into(), destination: vec![2; 6].into() });
        })),
        "l2"
    );
}

#[test]
fn statuses_tell_causes_apart() {
    assert_eq!(spec_status(&refused(|s| s.in_lif = 77)), v1::AddStatus::UnknownLif);
    assert_eq!(spec_status(&refused(|s| s.protocol = 300)), v1::AddStatus::Invalid);
    let unsupported = spec(&request(), &context(None)).expect_err("no copies");
    assert_eq!(spec_status(&unsupported), v1::AddStatus::Unsupported);
    assert_eq!(insert_status(&InsertError::Full), v1::AddStatus::TableFull);
    assert_eq!(insert_status(&InsertError::FlowExists(3)), v1::AddStatus::Exists);
}

#[test]
fn a_collector_is_of_the_underlays_family() {
    let v6 = v1::Session { collector: Ipv6Addr::LOCALHOST.octets().to_vec().into(), ..request() };
    let error = spec(&v6, &context(IPV4)).expect_err("copies leave over IPv4");
    assert!(matches!(error, SpecError::CollectorFamily { .. }), "{error}");
    assert!(error.to_string().contains("underlay is IPv4"), "{error}");
    assert_eq!(spec_status(&error), v1::AddStatus::Unsupported);
    assert!(spec(&request(), &context(IPV6)).is_err());
    assert_eq!(
        spec(&v6, &context(IPV6)).map(|spec| spec.action),
        Ok(Action::Snoop(Ipv6Addr::LOCALHOST.into()))
    );
    assert!(spec(&request(), &context(IPV4)).is_ok());
}

#[test]
fn what_the_common_shape_does_not_cover_is_read_too() {
    let context = context(IPV4);
    let common: Bytes = request().encode_to_vec().into();
    // The same session, its id a second time: the last one counts.
    let twice: Bytes = [&common[..], &[0x08, 9]].concat().into();
    assert_eq!(read(&common, &context).expect("a message"), (7, spec(&request(), &context)));
    let other = v1::Session { session_id: 9, ..request() };
    assert_eq!(read(&twice, &context).expect("a message"), (9, spec(&other, &context)));
    assert!(read(&Bytes::from_static(&[0x08]), &context).is_err());
}

/// As many sessions as an answer may hold are less than clients take by default, whatever is in them.
#[test]
fn the_largest_session_fits_an_answer() {
    use prost::Message;
    let address = vec![0xff; 16];
    let tuple = || {
        let (source, destination) = (address.clone(), address.clone());
        Some(v1::Tuple {
            source: source.into(),
            destination: destination.into(),
            source_port: 65_535,
            destination_port: 65_535,
        })
    };
    let pair = || Some(v1::MacPair { source: vec![0xff; 6].into(), destination: vec![0xff; 6].into() });
    let session = v1::Session {
        session_id: u64::MAX,
        in_lif: u32::MAX,
        out_lif: u32::MAX,
        protocol: 255,
        original: tuple(),
        translated: tuple(),
        l2: Some(v1::L2 { forward: pair(), reverse: pair() }),
        action: v1::Action::Snoop.into(),
        collector: address.clone().into(),
        idle_timeout: MAX_TIMEOUT,
        hard_timeout: MAX_TIMEOUT,
        limit: Some(v1::RateLimit { packets: u32::MAX, bytes: u64::MAX, burst_ms: 60_000 }),
        owner: "x".repeat(crate::session_manager::owners::MAX_NAME),
    };
    let counters =
        v1::Counters { in_packets: u64::MAX, in_bytes: u64::MAX, out_packets: u64::MAX, out_bytes: u64::MAX };
    let time = Some(prost_types::Timestamp { seconds: 1 << 34, nanos: 999_999_999 });
    let info = v1::SessionInfo {
        session: Some(session.clone()),
        counters: Some(counters),
        state: v1::SessionState::Closing2.into(),
        start_time: time,
        idle_ms: u64::MAX,
    };
    let closed = v1::ClosedSession {
        session: Some(session),
        counters: Some(counters),
        close_code: v1::CloseCode::Deleted.into(),
        start_time: time,
        end_time: time,
    };
    for len in [info.encoded_len(), closed.encoded_len()] {
        assert!((len + 3) * 10_000 < 4 << 20, "{len} bytes");
    }
}
