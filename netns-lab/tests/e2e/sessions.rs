//! Sessions over the command line, without an agent: what `gateway sessions add` installs is what the wire shows.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use netns_lab::plan::{A, BLUE, BLUE1, RED, RED1, mac};
use netns_lab::traffic::ping;
use proto::gateway::v1::CloseCode;
use serde_json::{Value, json};

use crate::bench::{Bench, wait};
use crate::udp;

const SERVER_PORT: u16 = 7000;
const MAPPED_PORT: u16 = 61_000;
/// Ethernet, IPv4 and UDP headers.
const HEADERS: u64 = 14 + 20 + 8;

/// Installs the flow of a client socket in red to an echo server in blue by hand, as VNF A would forward it.
fn install(bench: &Bench, id: u64, client: SocketAddr, timeout: u32) {
    let session = json!({
        "session_id": id, "in_lif": RED.id, "out_lif": BLUE.id, "protocol": "udp",
        "source": client.to_string(),
        "destination": format!("{}:{SERVER_PORT}", BLUE1.ipv4()),
        "timeout": timeout,
        "nat": {"source": format!("{}:{MAPPED_PORT}", BLUE.ipv4(A.number))},
        "l2": {"forward": {"source": mac(A.mac(&BLUE)), "destination": mac(BLUE1.mac())},
               "reverse": {"source": mac(A.mac(&RED)), "destination": mac(RED1.mac())}},
    });
    let file = bench.lab.directory().join("sessions.jsonl");
    std::fs::write(&file, format!("{session}\n")).unwrap();
    bench.gateway().client(&["sessions", "add", &file.to_string_lossy()]).unwrap();
}

/// What `gateway sessions list --json` prints.
fn list(bench: &Bench) -> Vec<Value> {
    let text = bench.gateway().client(&["sessions", "list", "--json"]).unwrap();
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn ready() -> (Bench, udp::Echo, std::net::UdpSocket, SocketAddr) {
    let bench = Bench::new(Default::default());
    // Everybody knows everybody's MAC afterwards, the gateway included.
    assert!(ping(&bench.lab, &RED1, BLUE1.ipv4().into(), 2).unwrap() > 0);
    let server = SocketAddr::new(BLUE1.ipv4().into(), SERVER_PORT);
    let echo = udp::Echo::start(bench.ns(&BLUE1), server);
    let client = udp::connect(bench.ns(&RED1), IpAddr::from(RED1.ipv4()), server);
    let own = client.local_addr().unwrap();
    (bench, echo, client, own)
}

#[test]
fn a_session_times_out_with_true_counters_and_its_flow_goes_on() {
    let (bench, echo, client, own) = ready();
    install(&bench, 7, own, 6);
    for _ in 0..10 {
        assert!(udp::comes_back(&client, 100));
    }
    assert_eq!(
        echo.peers(),
        [SocketAddr::new(BLUE.ipv4(A.number).into(), MAPPED_PORT)],
        "not the hot path's mapping"
    );

    wait("the session is reported closed", || !bench.control().closed().is_empty());
    let closed = bench.control().closed();
    assert_eq!(closed.len(), 1, "{closed:?}");
    let session = &closed[0];
    assert_eq!((session.id, session.closed), (7, Some(CloseCode::Timeout)));
    assert_eq!((session.in_packets, session.out_packets), (10, 10), "{session:?}");
    let bytes = 10 * (HEADERS + 100);
    assert_eq!((session.in_bytes, session.out_bytes), (bytes, bytes), "{session:?}");
    assert!(bench.control().sessions().unwrap().is_empty());

    // A miss from now on: the VNF forwards it, under a mapping of its own.
    wait("the flow goes on through the VNF", || udp::exchange(&client, 100));
    assert_eq!(echo.peers().len(), 2, "{:?}", echo.peers());
}

#[test]
fn traffic_keeps_a_session_from_timing_out() {
    let (bench, _echo, client, own) = ready();
    // Together they take longer than the session's time.
    install(&bench, 8, own, 15);
    for _ in 0..30 {
        assert!(udp::comes_back(&client, 10));
        thread::sleep(Duration::from_millis(600));
    }
    let sessions = bench.control().sessions().unwrap();
    assert_eq!(sessions.len(), 1, "{:?}", bench.control().closed());
    assert_eq!((sessions[0].in_packets, sessions[0].out_packets), (30, 30));
}

#[test]
fn sessions_are_listed_shown_and_deleted() {
    let (bench, _echo, client, own) = ready();
    assert!(list(&bench).is_empty());
    install(&bench, 12_345_678_910, own, 60);
    assert!(udp::comes_back(&client, 10));

    let listed = list(&bench);
    assert_eq!(listed.len(), 1, "{listed:?}");
    let session = &listed[0];
    assert_eq!(session["session_id"], json!(12_345_678_910_u64));
    assert_eq!((&session["in_lif"], &session["out_lif"]), (&json!(RED.id), &json!(BLUE.id)));
    assert_eq!(session["protocol"], json!("udp"));
    assert_eq!(session["source"], json!(own.to_string()));
    assert_eq!(session["destination"], json!(format!("{}:{SERVER_PORT}", BLUE1.ipv4())));
    assert_eq!(session["nat"]["source"], json!(format!("{}:{MAPPED_PORT}", BLUE.ipv4(A.number))));
    let shown: Value = serde_json::from_str(
        &bench.gateway().client(&["sessions", "show", "12345678910", "--json"]).unwrap(),
    )
    .unwrap();
    assert_eq!(shown["source"], session["source"]);

    bench.gateway().client(&["sessions", "delete", "12345678910"]).unwrap();
    assert!(list(&bench).is_empty());
    wait("the session is reported closed", || !bench.control().closed().is_empty());
    let closed = bench.control().closed();
    assert_eq!((closed[0].closed, closed[0].in_packets), (Some(CloseCode::Deleted), 1));
    assert!(bench.gateway().client(&["sessions", "show", "12345678910"]).is_err());
}

#[test]
fn every_frame_of_a_port_is_accounted_for() {
    let (bench, _echo, client, own) = ready();
    install(&bench, 9, own, 60);
    let before = bench.control().sessions().unwrap()[0].packets();
    for _ in 0..100 {
        assert!(udp::comes_back(&client, 200));
    }
    assert_eq!(bench.control().sessions().unwrap()[0].packets(), before + 200);
    let stats = bench.stats();
    let sum = |what: &str| -> u64 {
        ["uplink", "kernel"].iter().map(|port| stats.get(&format!("/ports/{port}/{what}")).unwrap()).sum()
    };
    assert!(sum("rx_packets") >= 200 && sum("tx_packets") >= 200, "{}", stats.0);
    assert_eq!(sum("tx_dropped"), 0, "{}", stats.0);
    for lif in ["red", "blue"] {
        assert!(stats.get(&format!("/lifs/{lif}/rx_packets")).unwrap() >= 100, "{}", stats.0);
        assert!(stats.get(&format!("/lifs/{lif}/tx_packets")).unwrap() >= 100, "{}", stats.0);
    }
}
