//! What the kernel, and the records, know of sessions that have closed.

use super::netns::{MASQUERADE, TRACK_ONLY, exchange, may_run};
use super::recorder::wait;
use super::{SETTLE, Setup};
use proto::gateway::v1;
use std::time::{Duration, Instant};

/// Data packets of TCP are hidden from the kernel, as if the fast path had taken them over.
const BYPASS: &str = "nft 'add table ip bypass; add chain ip bypass pre { type filter hook prerouting priority raw; }; \
                      add rule ip bypass pre tcp flags & (fin | syn | rst) == 0 notrack'";

fn counters(packets: u64) -> v1::Counters {
    v1::Counters {
        in_packets: packets,
        in_bytes: packets * 114,
        out_packets: packets * 2,
        out_bytes: packets * 2 * 114,
    }
}

/// The kernel's state and seconds left of the TCP connection from `port`.
fn entry(setup: &Setup, port: u16) -> (String, u32) {
    let listed = setup.conntrack(&format!("-L -p tcp --orig-port-src {port}"));
    let mut words = listed.split_whitespace().skip(2);
    let seconds = words.next().map_or(0, |seconds| seconds.parse().unwrap());
    (words.next().unwrap_or_default().to_owned(), seconds)
}

/// To the kernel, which has missed the data, the sequence number of the RST may belong to an attack: it keeps the state.
#[test]
fn a_reset_session_closes_the_kernels_entry() {
    if !may_run("reset") {
        return;
    }
    let setup = Setup::new(TRACK_ONLY);
    let _agent = setup.agent("");
    let _listener = setup.lab.listen(&setup.lab.server, "tcp", "10.82.0.9", 7000);
    let mut client = setup.lab.connect(&setup.lab.client, "tcp", "10.82.0.9", 7000, 45_000);
    exchange(&mut client, 1);
    let id = setup.only_session().session_id;
    setup.lab.vnf.sh(BYPASS);
    exchange(&mut client, 100);
    client.say("reset");
    client.expect("closed");
    std::thread::sleep(SETTLE);
    assert_eq!(entry(&setup, 45_000).0, "ESTABLISHED", "the kernel alone does not know better");
    setup.server.close(id, v1::CloseCode::Rst);
    wait("the kernel's entry to be closed", || entry(&setup, 45_000).0 == "CLOSE");
    assert!(entry(&setup, 45_000).1 <= 10);
}

/// With more than 2 GiB that the kernel has not seen, the RST of a peer that gives up is before what the kernel saw acknowledged:
/// invalid, also for a connection marked liberal. A ruleset that drops invalid packets keeps it from the other peer, unless the
/// kernel is told to let it pass (docs/adr/0006).
#[test]
fn a_reset_after_two_gibibytes_is_invalid_to_the_kernel_and_passes_where_it_is_told_to() {
    if !may_run("reset after 2 GiB") {
        return;
    }
    let setup = Setup::new(&format!(
        "{TRACK_ONLY}
         table inet strict {{
           chain forward {{
             type filter hook forward priority 1
             tcp flags & rst == rst ct state invalid counter drop
             ct state invalid drop
           }}
         }}"
    ));
    let _agent = setup.agent("");
    // RSTs alone: the peer that was not told sends its FIN again and again, which is invalid too.
    let dropped = || {
        let chain = setup.lab.vnf.sh("nft list chain inet strict forward");
        let packets = chain.split_whitespace().skip_while(|word| *word != "packets").nth(1).map(str::parse);
        packets.unwrap().unwrap()
    };
    let open =
        |port| !setup.lab.server.sh(&format!("ss -Htn state established sport = :{port}")).trim().is_empty();
    for (port, mebibytes, ignore, passes) in
        [(7000, 1000, 0, true), (7001, 2200, 0, false), (7002, 2200, 1, true)]
    {
        setup.lab.vnf.sh(&format!("sysctl -qw net.netfilter.nf_conntrack_tcp_ignore_invalid_rst={ignore}"));
        let mut sink = setup.lab.sink(&setup.lab.server, "10.82.0.9", port);
        let source = port + 38_000;
        let mut client = setup.lab.connect(&setup.lab.client, "tcp", "10.82.0.9", port, source);
        client.say("send 1");
        client.expect("ok");
        let id = setup.only_session().session_id;
        setup.lab.vnf.sh(BYPASS);
        client.say(&format!("send {mebibytes}"));
        client.expect("ok");
        let before: u32 = dropped();
        client.say("reset");
        client.expect("closed");
        if passes {
            sink.expect("reset");
            assert_eq!(dropped(), before);
        } else {
            wait("the RST to be dropped", || dropped() > before);
            assert!(open(port), "the peer was not told");
        }
        setup.server.close(id, v1::CloseCode::Rst);
        wait("the kernel's entry to be closed", || entry(&setup, source).0 == "CLOSE");
        setup.lab.vnf.sh("nft delete table ip bypass");
        setup.conntrack("-F");
    }
}

/// As after a forged RST: the peers go on.
#[test]
fn a_connection_that_goes_on_after_a_reset_keeps_its_entry() {
    if !may_run("forged reset") {
        return;
    }
    let setup = Setup::new(TRACK_ONLY);
    let _agent = setup.agent("");
    let _listener = setup.lab.listen(&setup.lab.server, "tcp", "10.82.0.9", 7000);
    // A second after the reset the agent looks whether they have: on a busy machine they may be too late, and another tries.
    let in_time = (45_010..45_020).find(|&port| {
        let mut client = setup.lab.connect(&setup.lab.client, "tcp", "10.82.0.9", 7000, port);
        exchange(&mut client, 1);
        let id = setup.only_session().session_id;
        let closed = Instant::now();
        setup.server.close(id, v1::CloseCode::Rst);
        wait("the entry's time to be cut", || entry(&setup, port).1 <= 10);
        exchange(&mut client, 1);
        if closed.elapsed() > Duration::from_millis(900) {
            return false;
        }
        std::thread::sleep(Duration::from_secs(2));
        let (state, seconds) = entry(&setup, port);
        assert_eq!(state, "ESTABLISHED");
        assert!(seconds > 1000, "{seconds}");
        true
    });
    assert!(in_time.is_some(), "no packet passed within a second");
}

#[test]
fn a_finished_session_leaves_the_entry_in_time_wait() {
    if !may_run("finished") {
        return;
    }
    let setup = Setup::new(TRACK_ONLY);
    let _agent = setup.agent("");
    let _listener = setup.lab.listen(&setup.lab.server, "tcp", "10.82.0.9", 7000);
    let mut client = setup.lab.connect(&setup.lab.client, "tcp", "10.82.0.9", 7000, 45_002);
    exchange(&mut client, 1);
    let id = setup.only_session().session_id;
    setup.lab.vnf.sh(BYPASS);
    exchange(&mut client, 10);
    client.say("close");
    client.expect("closed");
    wait("the FINs", || entry(&setup, 45_002).0 == "LAST_ACK");
    // The acknowledgement of the last FIN is hidden too.
    setup.server.close(id, v1::CloseCode::Finack);
    wait("the kernel's entry to end", || entry(&setup, 45_002).0 == "TIME_WAIT");
    assert!((30..=120).contains(&entry(&setup, 45_002).1));
}

#[test]
fn a_session_timed_out_leaves_the_entry_the_rest_of_its_time() {
    if !may_run("rest of the time") {
        return;
    }
    let setup = Setup::new(TRACK_ONLY);
    setup.lab.vnf.sh("sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_established=1000");
    // No list in between.
    let _agent = setup.agent_with("refresh_seconds = 60\nresync_seconds = 60", "");
    let _listener = setup.lab.listen(&setup.lab.server, "tcp", "10.82.0.9", 7000);
    let mut client = setup.lab.connect(&setup.lab.client, "tcp", "10.82.0.9", 7000, 45_003);
    exchange(&mut client, 1);
    let session = setup.only_session();
    assert_eq!(session.idle_timeout, 750);
    setup.server.forward(session.session_id, counters(10));
    setup.server.close(session.session_id, v1::CloseCode::Timeout);
    wait("the entry's time to be cut", || (1..=250).contains(&entry(&setup, 45_003).1));
    assert_eq!(entry(&setup, 45_003).0, "ESTABLISHED");
    std::thread::sleep(SETTLE);
    assert_eq!(setup.server.sessions().len(), 0, "the agent's own change is no sign of life");
}

#[test]
fn udp_that_the_kernel_does_not_see_becomes_assured() {
    if !may_run("assured") {
        return;
    }
    let setup = Setup::new(MASQUERADE);
    let _agent = setup.agent("");
    let _listener = setup.lab.listen(&setup.lab.server, "udp", "10.82.0.9", 7000);
    let mut client = setup.lab.connect(&setup.lab.client, "udp", "10.82.0.9", 7000, 45_004);
    exchange(&mut client, 1);
    let id = setup.only_session().session_id;
    let assured = || setup.conntrack("-L -p udp --orig-port-src 45004").contains("[ASSURED]");
    assert!(!assured());
    let mut packets = 0;
    wait("the kernel's entry to be assured", || {
        packets += 1;
        setup.server.forward(id, counters(packets));
        std::thread::sleep(Duration::from_millis(200));
        assured()
    });
}

#[test]
fn a_record_of_each_ended_connection_adds_up_kernel_and_gateway() {
    if !may_run("records") {
        return;
    }
    let setup = Setup::new(MASQUERADE);
    let file = setup.directory.path().join("connections.jsonl");
    let agent = setup.agent_with(super::EAGER, &format!("[accounting]\nfile = \"{}\"", file.display()));
    let _listener = setup.lab.listen(&setup.lab.server, "udp", "10.82.0.9", 7000);
    let mut client = setup.lab.connect(&setup.lab.client, "udp", "10.82.0.9", 7000, 45_005);
    exchange(&mut client, 3);
    let id = setup.only_session().session_id;
    // Two sessions of one connection: one times out, the next goes with the kernel's entry.
    setup.server.forward(id, counters(10));
    setup.server.close(id, v1::CloseCode::Timeout);
    wait("the end of the first session", || setup.server.sessions().is_empty());
    wait("the second session", || {
        exchange(&mut client, 1);
        setup.server.sessions().len() == 1
    });
    setup.server.forward(id, counters(5));
    let kernel = setup.conntrack("-L -p udp --orig-port-src 45005");
    let packets: Vec<u64> =
        kernel.split_whitespace().filter_map(|word| word.strip_prefix("packets=")?.parse().ok()).collect();

    let config = setup.config("", "");
    let thread = setup.lab.vnf.thread(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(control::agent::connections(&config)).unwrap()
    });
    let live = thread.join().unwrap();
    assert_eq!(live.len(), 1);
    assert!(live[0].in_gateway && live[0].to_string().contains("[OFFLOADED]"), "{}", live[0]);
    assert_eq!(live[0].record.total.original.packets, packets[0] + 5);

    setup.conntrack("-D -p udp");
    let lines = || std::fs::read_to_string(&file).unwrap_or_default();
    wait("the record", || lines().ends_with('\n'));
    let record: serde_json::Value = serde_json::from_str(lines().trim()).unwrap();
    assert_eq!(record["source"], "10.81.0.5:45005");
    assert_eq!(record["session_id"], id);
    assert_eq!(record["kernel"]["original"]["packets"], packets[0]);
    assert_eq!(record["offloaded"]["original"], serde_json::json!({ "packets": 15, "bytes": 1500 }));
    assert_eq!(record["total"]["original"]["packets"], packets[0] + 15);
    assert_eq!(record["total"]["reply"]["packets"], packets[1] + 30);
    agent.stop();
    assert_eq!(lines().lines().count(), 1);
}
