//! What is offloaded, and when.

use super::netns::{MASQUERADE, TRACK_ONLY, exchange, may_run};
use super::{SETTLE, Setup};

#[test]
fn connections_with_few_packets_wait_for_more() {
    if !may_run("min_packets") {
        return;
    }
    let setup = Setup::new(TRACK_ONLY);
    let _agent = setup.agent("min_packets = 20");
    let _listener = setup.lab.listen(&setup.lab.server, "udp", "10.82.0.9", 7000);
    let mut client = setup.lab.connect(&setup.lab.client, "udp", "10.82.0.9", 7000, 0);
    exchange(&mut client, 3);
    std::thread::sleep(SETTLE * 5);
    assert_eq!(setup.server.adds(), 0);
    exchange(&mut client, 10);
    setup.only_session();
}

#[test]
fn ports_are_excluded_before_and_after_translation() {
    if !may_run("exclude_ports") {
        return;
    }
    let setup = Setup::new(MASQUERADE);
    let agent = setup.agent("exclude_ports = [\"7100-7199\", 80]");
    let _one = setup.lab.listen(&setup.lab.server, "tcp", "10.82.0.9", 7150);
    let _web = setup.lab.listen(&setup.lab.client, "tcp", "10.81.0.5", 80);
    let _two = setup.lab.listen(&setup.lab.server, "tcp", "10.82.0.9", 7200);
    let mut excluded = setup.lab.connect(&setup.lab.client, "tcp", "10.82.0.9", 7150, 0);
    let mut forwarded = setup.lab.connect(&setup.lab.server, "tcp", "10.82.0.1", 8080, 0);
    let mut plain = setup.lab.connect(&setup.lab.client, "tcp", "10.82.0.9", 7200, 7150);
    for client in [&mut excluded, &mut forwarded, &mut plain] {
        exchange(client, 1);
    }
    assert_eq!(setup.only_session().original.unwrap().destination_port, 7200);
    std::thread::sleep(SETTLE * 4);
    assert_eq!(setup.server.adds(), 1);
    let counters = agent.stop();
    assert_eq!(counters.skipped["port"], 2, "{counters}");
}

#[test]
fn connections_with_a_helper_stay_in_the_kernel() {
    if !may_run("helper") {
        return;
    }
    let ftp = r#"table ip helpers {
      ct helper ftp { type "ftp" protocol tcp; }
      chain pre { type filter hook prerouting priority filter; tcp dport 21 ct helper set "ftp"; }
    }"#;
    let setup = Setup::new(&format!("{MASQUERADE}{ftp}"));
    let agent = setup.agent("");
    let _ftp = setup.lab.listen(&setup.lab.server, "tcp", "10.82.0.9", 21);
    let _plain = setup.lab.listen(&setup.lab.server, "tcp", "10.82.0.9", 22);
    let mut control = setup.lab.connect(&setup.lab.client, "tcp", "10.82.0.9", 21, 0);
    exchange(&mut control, 1);
    let mut plain = setup.lab.connect(&setup.lab.client, "tcp", "10.82.0.9", 22, 0);
    exchange(&mut plain, 1);
    assert_eq!(setup.only_session().original.unwrap().destination_port, 22);
    exchange(&mut control, 10);
    // Several comparisons of the whole table.
    std::thread::sleep(SETTLE * 8);
    assert_eq!(setup.server.adds(), 1);
    let counters = agent.stop();
    assert!(counters.skipped["helper"] >= 1, "{counters}");
}

#[test]
fn connections_in_a_zone_are_followed_there() {
    if !may_run("zones") {
        return;
    }
    let zone = "table ip zones { chain pre { type filter hook prerouting priority raw; ct zone set 7; }; }";
    let setup = Setup::new(&format!("{MASQUERADE}{zone}"));
    let agent = setup.agent("");
    // The agent has read what it was before, and gives it to what it offloads.
    setup.lab.vnf.sh("sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_established=100");
    let _listener = setup.lab.listen(&setup.lab.server, "tcp", "10.82.0.9", 7000);
    let mut client = setup.lab.connect(&setup.lab.client, "tcp", "10.82.0.9", 7000, 47_000);
    exchange(&mut client, 1);
    let id = setup.only_session().session_id;
    let entry = || setup.conntrack("-L -p tcp --zone 7 --orig-port-src 47000");
    assert!(entry().contains("zone=7"), "{}", entry());
    // Found and changed in its zone: it is kept alive there.
    setup.server.forward(id, proto::gateway::v1::Counters { in_packets: 5, ..Default::default() });
    let seconds = || entry().split_whitespace().nth(2).map_or(0, |text| text.parse::<u32>().unwrap());
    super::recorder::wait("the entry to live longer", || seconds() > 1000);
    setup.conntrack("-D -p tcp --zone 7");
    setup.server.wait_for(0);
    agent.stop();
}

/// A zone for one direction only tells apart what the gateway could not.
#[test]
fn connections_with_a_zone_of_one_direction_stay_in_the_kernel() {
    if !may_run("zone of one direction") {
        return;
    }
    let zone = "table ip zones { chain pre { type filter hook prerouting priority raw; \
                iifname \"in0\" meta l4proto udp ct original zone set 7; }; }";
    let setup = Setup::new(&format!("{MASQUERADE}{zone}"));
    let agent = setup.agent("");
    let _listeners = ["udp", "tcp"].map(|kind| setup.lab.listen(&setup.lab.server, kind, "10.82.0.9", 7000));
    let mut client = setup.lab.connect(&setup.lab.client, "udp", "10.82.0.9", 7000, 0);
    exchange(&mut client, 2);
    // What comes later, in no zone, is installed.
    let mut plain = setup.lab.connect(&setup.lab.client, "tcp", "10.82.0.9", 7000, 0);
    exchange(&mut plain, 1);
    assert_eq!(setup.only_session().protocol, 6);
    std::thread::sleep(SETTLE * 5);
    assert_eq!(setup.server.adds(), 1);
    let counters = agent.stop();
    assert!(counters.skipped["foreign"] >= 1, "{counters}");
}
