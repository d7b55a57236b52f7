use super::*;

/// As the documentation has it.
const DOCUMENTED: &str = r#"{"session_id": 7, "in_lif": 1, "out_lif": 2, "protocol": "tcp",
 "source": "10.1.0.5:40000", "destination": "198.51.100.10:443",
 "action": "forward", "timeout": 30,
 "nat": {"source": "203.0.113.1:61000", "destination": "198.51.100.10:443"},
 "l2": {"forward": {"source": "02:00:00:00:bb:01", "destination": "02:00:00:00:bb:0a"},
        "reverse": {"source": "02:00:00:00:aa:01", "destination": "02:00:00:00:aa:05"}}}"#;

#[test]
fn the_documented_session() {
    let session = parse(&DOCUMENTED.replace('\n', "")).unwrap();
    let tuple = |source: [u8; 4], source_port| {
        let (source, destination) = (source.to_vec(), vec![198, 51, 100, 10]);
        Some(v1::Tuple {
            source: source.into(),
            destination: destination.into(),
            source_port,
            destination_port: 443,
        })
    };
    let pair = |low: u8, last: u8| {
        let (source, destination) = (vec![2, 0, 0, 0, low, 1], vec![2, 0, 0, 0, low, last]);
        Some(v1::MacPair { source: source.into(), destination: destination.into() })
    };
    let expected = v1::Session {
        session_id: 7,
        in_lif: 1,
        out_lif: 2,
        protocol: 6,
        original: tuple([10, 1, 0, 5], 40000),
        translated: tuple([203, 0, 113, 1], 61000),
        l2: Some(v1::L2 { forward: pair(0xbb, 0x0a), reverse: pair(0xaa, 5) }),
        action: v1::Action::Forward.into(),
        collector: Vec::new().into(),
        idle_timeout: 30,
        ..Default::default()
    };
    assert_eq!(session, expected);
}

#[test]
fn there_and_back() {
    let lines = [
        r#"{"session_id":18446744073709551615,"in_lif":1,"out_lif":2,"protocol":"udp","source":"[2001:db8::5]:40000","destination":"[2001:db8::6]:53","action":"drop"}"#,
        r#"{"session_id":1,"in_lif":1,"out_lif":2,"protocol":"icmp","source":"10.0.0.1:77","destination":"8.8.8.8","action":"forward","timeout":9,"nat":{"source":"203.0.113.1:5"}}"#,
        r#"{"session_id":3,"in_lif":1,"out_lif":2,"protocol":47,"source":"10.0.0.1","destination":"10.0.0.2","action":"forward","hard_timeout":600,"limit":{"packets":100,"bytes":5000000000}}"#,
        r#"{"session_id":4,"in_lif":1,"out_lif":2,"protocol":47,"source":"10.0.0.1","destination":"10.0.0.2","action":"forward","limit":{"bytes":1000,"burst_ms":50}}"#,
        r#"{"session_id":1,"in_lif":1,"out_lif":2,"protocol":"icmpv6","source":"[2001:db8::5]:1","destination":"2001:db8::6","action":"forward"}"#,
        r#"{"session_id":2,"in_lif":2,"out_lif":1,"protocol":47,"source":"10.0.0.1","destination":"10.0.0.2","action":"mirror","collector":"192.0.2.77","nat":{"destination":"10.0.0.3"}}"#,
    ];
    for line in lines {
        let session = Session::from_proto(&parse(line).unwrap()).unwrap();
        assert_eq!(serde_json::to_string(&session).unwrap(), line);
    }
}

#[test]
fn a_list_can_be_installed_again() {
    let session = parse(&DOCUMENTED.replace('\n', "")).unwrap();
    let listed = v1::Session { owner: "vnf-1.example".to_owned(), ..session.clone() };
    let info = v1::SessionInfo { session: Some(listed), idle_ms: 5, ..Default::default() };
    let line = serde_json::to_string(&Live::from_proto(&info).unwrap()).unwrap();
    assert!(line.contains(r#""owner":"vnf-1.example","state":"established","in_packets":0"#), "{line}");
    assert_eq!(parse(&line).unwrap(), session);
}

#[test]
fn bad_lines() {
    let good = DOCUMENTED.replace('\n', "");
    let bad = |from: &str, to: &str| {
        assert_eq!(good.matches(from).count(), 1, "{from}");
        parse(&good.replace(from, to)).unwrap_err()
    };
    let cases = [
        (
            r#""protocol": "tcp""#,
            r#""protocol": "sctp""#,
            r#"column _: invalid value: string "sctp", expected "tcp", "udp", "icmp", "icmpv6" or a number up to 255"#,
        ),
        (
            r#""protocol": "tcp""#,
            r#""protocol": 256"#,
            r#"column _: invalid value: integer `256`, expected "tcp", "udp", "icmp", "icmpv6" or a number up to 255"#,
        ),
        (
            "10.1.0.5:40000",
            "10.1.0.5:70000",
            r#"column _: invalid value: string "10.1.0.5:70000", expected an address like "10.0.0.1:80", "[2001:db8::1]:80" or, without a port, "10.0.0.1""#,
        ),
        ("10.1.0.5:40000", "10.1.0.5", r#"source: 10.1.0.5 has no port: write "10.1.0.5:PORT""#),
        (
            r#""protocol": "tcp""#,
            r#""protocol": "icmp""#,
            r#"destination: 198.51.100.10:443 has a port, but icmp has none there: write "198.51.100.10""#,
        ),
        (
            r#""protocol": "tcp""#,
            r#""protocol": 47"#,
            r#"source: 10.1.0.5:40000 has a port, but protocol 47 has none there: write "10.1.0.5""#,
        ),
        (
            "02:00:00:00:bb:01",
            "02:00:00:00:bb",
            r#"column _: invalid value: string "02:00:00:00:bb", expected a MAC address like "02:00:00:00:00:01""#,
        ),
        (r#""forward", "#, r#""mirror", "#, r#"collector is missing: write "collector": "IP""#),
        (
            r#""timeout": 30"#,
            r#""collector": "10.0.0.1""#,
            "collector is for mirror and snoop only: leave it out",
        ),
        (
            r#""timeout": 30"#,
            r#""timeuot": 30"#,
            "column _: unknown field `timeuot`, expected one of `session_id`, `in_lif`, `out_lif`, `protocol`, `source`, `destination`, `action`, `collector`, `timeout`, `hard_timeout`, `limit`, `nat`, `l2`, `owner`, `state`, `in_packets`, `in_bytes`, `out_packets`, `out_bytes`, `idle_ms`, `start_time`, `packets_per_second`, `bits_per_second`, `age_ms`, `timeout_left_ms`, `rates`",
        ),
        (
            r#""timeout": 30"#,
            r#""hard_timeout": 0"#,
            "hard_timeout: 0 seconds is no life: write 1 or more, or leave it out",
        ),
        (
            r#""timeout": 30"#,
            r#""limit": {}"#,
            r#"limit: nothing would be limited: write "packets" or "bytes" per second"#,
        ),
        (
            r#""timeout": 30"#,
            r#""limit": {"packets": 5, "burst_ms": 60001}"#,
            "limit: burst_ms is 60001: write milliseconds from 1 to 60000",
        ),
        (
            r#""timeout": 30"#,
            r#""limit": {"packets": -5}"#,
            "column _: invalid value: integer `-5`, expected u32",
        ),
        (
            "203.0.113.1:61000",
            "[2001:db8::1]:61000",
            "nat.source: 2001:db8::1 is of another family than source: write one of the same",
        ),
        (r#""session_id": 7, "#, "", "column _: missing field `session_id`"),
    ];
    for (from, to, expected) in cases {
        let found = bad(from, to);
        let found = match found.strip_prefix("column ").and_then(|rest| rest.split_once(':')) {
            Some((column, rest)) => {
                assert!(column.parse::<usize>().is_ok_and(|column| column <= good.len()), "{found}");
                format!("column _:{rest}")
            }
            None => found,
        };
        assert_eq!(found, expected, "{from} → {to}");
    }
}

#[test]
fn files_name_their_bad_lines() {
    let good = DOCUMENTED.replace('\n', "");
    let text = format!("{good}\n\n{{}}\n{good}\nnonsense\n");
    let bad = read_lines(Path::new("s.jsonl"), &text).unwrap_err().to_string();
    assert_eq!(bad, "s.jsonl:3: column 2: missing field `session_id`\ns.jsonl:5: column 2: expected ident");
    let good = read_lines(Path::new("s.jsonl"), &format!("{good}\n\n{good}\n")).unwrap();
    assert_eq!(good.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 3]);
    let many = "x\n".repeat(1000);
    assert_eq!(read_lines(Path::new("s.jsonl"), &many).unwrap_err().0.len(), MOST_BAD_LINES);
}
