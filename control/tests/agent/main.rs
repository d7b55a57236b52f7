//! The offload agent against the real kernel: nftables in a namespace between a client and a server, with real traffic, and a
//! gateway that records what it is asked.

mod activation;
mod closed;
#[path = "../common/mod.rs"]
mod common;
mod events;
mod load;
mod nat;
mod netns;
mod paths;
mod policy;
mod recorder;
mod tls;

use control::agent::{AgentConfig, AgentError, Counters, is_own};
use netns::{CLIENT_MAC, IN_MAC, Lab, MASQUERADE, OUT_MAC, SERVER_MAC, TRACK_ONLY, exchange, may_run};
use proto::gateway::v1;
use recorder::{Asked, Server, wait};
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::oneshot;

const EAGER: &str = "refresh_seconds = 1\nresync_seconds = 1";
const SETTLE: Duration = Duration::from_millis(300);

struct Agent {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<Result<Counters, AgentError>>>,
}

impl Agent {
    fn start(lab: &Lab, config: AgentConfig) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = lab.vnf.thread(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(control::agent::run(config, async {
                let _ = stopped.await;
            }))
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }

    fn stop(mut self) -> Counters {
        self.stop.take();
        self.thread.take().unwrap().join().unwrap().unwrap()
    }
}

struct Setup {
    lab: Lab,
    directory: tempfile::TempDir,
    server: Server,
}

impl Setup {
    fn new(rules: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let server = Server::start(directory.path().join("gateway.sock"));
        Self { lab: Lab::new(rules), directory, server }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.directory.path().join("gateway.sock")
    }

    fn agent(&self, offload: &str) -> Agent {
        self.agent_with(&format!("{EAGER}\n{offload}"), "")
    }

    /// One with these settings of the section `offload`, and further sections.
    fn agent_with(&self, offload: &str, sections: &str) -> Agent {
        let before = self.connects();
        let agent = Agent::start(&self.lab, self.config(offload, sections));
        wait("the agent", || self.connects() > before);
        agent
    }

    fn config(&self, offload: &str, sections: &str) -> AgentConfig {
        config(&format!("unix:{}", self.socket().display()), offload, sections)
    }

    fn connects(&self) -> usize {
        self.server
            .with(|state| state.asked.iter().filter(|(_, asked)| matches!(asked, Asked::Connect)).count())
    }

    fn only_session(&self) -> v1::Session {
        self.server.wait_for(1);
        self.server.sessions().remove(0)
    }

    fn conntrack(&self, arguments: &str) -> String {
        self.lab.vnf.sh(&format!("conntrack {arguments} 2>/dev/null || true"))
    }
}

/// `in0` is LIF 11, `out0` 12 and `out1` 13.
fn config(gateway: &str, offload: &str, sections: &str) -> AgentConfig {
    let text = format!(
        "[gateway]\nconnect = \"{gateway}\"\n\
         [offload]\nprotocols = [\"tcp\", \"udp\", \"icmp\", \"icmpv6\", 47, 50, 132]\n{offload}\n{sections}\n\
         [[interface]]\nname = \"in0\"\nlif = 11\n[[interface]]\nname = \"out0\"\nlif = 12\n\
         [[interface]]\nname = \"out1\"\nlif = 13\n"
    );
    AgentConfig::from_toml(&text, "test").unwrap()
}

fn ip(bytes: &[u8]) -> IpAddr {
    match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).unwrap()),
        _ => IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap()),
    }
}

fn addresses(tuple: &Option<v1::Tuple>) -> (String, String) {
    let tuple = tuple.as_ref().unwrap();
    (ip(&tuple.source).to_string(), ip(&tuple.destination).to_string())
}

fn assert_macs(session: &v1::Session, forward: [[u8; 6]; 2], reverse: [[u8; 6]; 2]) {
    let l2 = session.l2.clone().unwrap();
    let bytes = |pair: Option<v1::MacPair>| pair.map(|pair| [pair.source, pair.destination]).unwrap();
    assert_eq!(bytes(l2.forward), forward.map(|mac| mac.to_vec()));
    assert_eq!(bytes(l2.reverse), reverse.map(|mac| mac.to_vec()));
}

#[test]
fn masqueraded_tcp_and_udp_are_installed_with_lifs_tuples_and_macs() {
    if !may_run("masquerade") {
        return;
    }
    let setup = Setup::new(MASQUERADE);
    let _agent = setup.agent("");
    for (kind, number) in [("tcp", 6), ("udp", 17)] {
        let _listener = setup.lab.listen(&setup.lab.server, kind, "10.82.0.9", 7000);
        let mut client = setup.lab.connect(&setup.lab.client, kind, "10.82.0.9", 7000, 40_000);
        exchange(&mut client, 1);
        let session = setup.only_session();
        assert_eq!((session.in_lif, session.out_lif, session.protocol), (11, 12, number));
        assert_eq!(addresses(&session.original), ("10.81.0.5".into(), "10.82.0.9".into()));
        assert_eq!(addresses(&session.translated), ("10.82.0.1".into(), "10.82.0.9".into()));
        let (original, translated) = (session.original.clone().unwrap(), session.translated.clone().unwrap());
        assert_eq!((original.source_port, original.destination_port), (40_000, 7000));
        assert_eq!(translated.destination_port, 7000);
        // The port nftables chose: as the kernel itself prints it.
        let listed = setup.conntrack(&format!("-L -p {kind} --orig-port-src 40000"));
        assert!(listed.contains(&format!("sport=7000 dport={}", translated.source_port)), "{listed}");
        assert_macs(&session, [OUT_MAC, SERVER_MAC], [IN_MAC, CLIENT_MAC]);
        assert!(session.idle_timeout > 0 && is_own(session.session_id, 0xa6));
        setup.conntrack(&format!("-D -p {kind}"));
        setup.server.wait_for(0);
    }
}

#[test]
fn echo_requests_are_installed_by_identifier() {
    if !may_run("echo") {
        return;
    }
    let setup = Setup::new(MASQUERADE);
    let _agent = setup.agent("");
    for (target, number, source) in [("10.82.0.9", 1, "10.82.0.1"), ("fd82::9", 58, "fd82::1")] {
        setup.lab.client.sh(&format!("ping -c 2 -i 0.2 -e 777 -W 2 {target} >/dev/null"));
        let session = setup.only_session();
        assert_eq!(session.protocol, number);
        let original = session.original.clone().unwrap();
        assert_eq!((original.source_port, original.destination_port), (777, 0));
        assert_eq!(addresses(&session.translated), (source.into(), target.into()));
        assert_eq!(session.translated.clone().unwrap().destination_port, 0);
        setup.conntrack(&format!("-D -f {}", if number == 1 { "ipv4" } else { "ipv6" }));
        setup.server.wait_for(0);
    }
}

#[test]
fn forwarded_ports_and_ipv6_are_installed() {
    if !may_run("dnat") {
        return;
    }
    let setup = Setup::new(MASQUERADE);
    let _agent = setup.agent("");
    let _web = setup.lab.listen(&setup.lab.client, "tcp", "10.81.0.5", 80);
    let mut visitor = setup.lab.connect(&setup.lab.server, "tcp", "10.82.0.1", 8080, 41_000);
    exchange(&mut visitor, 1);
    let session = setup.only_session();
    assert_eq!((session.in_lif, session.out_lif), (12, 11));
    assert_eq!(addresses(&session.original), ("10.82.0.9".into(), "10.82.0.1".into()));
    assert_eq!(addresses(&session.translated), ("10.82.0.9".into(), "10.81.0.5".into()));
    assert_eq!(session.translated.clone().unwrap().destination_port, 80);
    assert_macs(&session, [IN_MAC, CLIENT_MAC], [OUT_MAC, SERVER_MAC]);
    setup.conntrack("-D -p tcp");
    setup.server.wait_for(0);

    let _listener = setup.lab.listen(&setup.lab.server, "tcp", "fd82::9", 7000);
    let mut client = setup.lab.connect(&setup.lab.client, "tcp", "fd82::9", 7000, 0);
    exchange(&mut client, 1);
    let session = setup.only_session();
    assert_eq!(addresses(&session.original), ("fd81::5".into(), "fd82::9".into()));
    assert_eq!(addresses(&session.translated), ("fd82::1".into(), "fd82::9".into()));
    assert_macs(&session, [OUT_MAC, SERVER_MAC], [IN_MAC, CLIENT_MAC]);
}

/// What the fast path takes over is hidden from the kernel here by `notrack`. Its FIN must still be valid afterwards.
#[test]
fn the_kernel_accepts_the_fin_of_a_connection_it_did_not_see() {
    if !may_run("liberal") {
        return;
    }
    let setup = Setup::new(TRACK_ONLY);
    let agent = setup.agent("");
    let _listener = setup.lab.listen(&setup.lab.server, "tcp", "10.82.0.9", 7000);
    let mut client = setup.lab.connect(&setup.lab.client, "tcp", "10.82.0.9", 7000, 42_000);
    exchange(&mut client, 1);
    let session = setup.only_session();
    assert_eq!(session.translated, None);
    setup.lab.vnf.sh(
        "nft 'add table ip bypass; add chain ip bypass pre { type filter hook prerouting priority raw; }; \
                      add rule ip bypass pre tcp flags & (fin | syn | rst) == 0 notrack'",
    );
    // Beyond any window that the kernel has seen, each way.
    exchange(&mut client, 1000);
    agent.stop();
    client.say("close");
    client.expect("closed");
    let state = || setup.conntrack("-L -p tcp --orig-port-src 42000");
    wait("the kernel to see the FINs", || state().contains("LAST_ACK") || state().contains("TIME_WAIT"));
}

#[test]
fn deleted_kernel_entries_are_deleted_in_the_gateway_at_once() {
    if !may_run("destroy") {
        return;
    }
    let setup = Setup::new(MASQUERADE);
    let _agent = setup.agent("");
    let _listener = setup.lab.listen(&setup.lab.server, "udp", "10.82.0.9", 7000);
    let mut client = setup.lab.connect(&setup.lab.client, "udp", "10.82.0.9", 7000, 0);
    exchange(&mut client, 1);
    // The best of ten: the machine may be busy with other things.
    let took = (0..10).map(|_| {
        exchange(&mut client, 1);
        setup.only_session();
        setup.conntrack("-F");
        setup.server.wait_for(0)
    });
    let took = took.min().unwrap();
    assert!(took < Duration::from_millis(100), "{took:?}");
}

#[test]
fn busy_sessions_keep_the_kernels_entry_alive_by_their_idle_time() {
    if !may_run("refresh") {
        return;
    }
    let setup = Setup::new(MASQUERADE);
    setup.lab.vnf.sh("sysctl -qw net.netfilter.nf_conntrack_udp_timeout=60 net.netfilter.nf_conntrack_udp_timeout_stream=120");
    let _agent = setup.agent("");
    let _listener = setup.lab.listen(&setup.lab.server, "udp", "10.82.0.9", 7000);
    let mut client = setup.lab.connect(&setup.lab.client, "udp", "10.82.0.9", 7000, 43_000);
    exchange(&mut client, 1);
    let id = setup.only_session().session_id;
    let left = || -> u32 {
        let listed = setup.conntrack("-L -p udp --orig-port-src 43000");
        listed.split_whitespace().nth(2).map_or(0, |seconds| seconds.parse().unwrap())
    };
    assert!((1..=60).contains(&left()));
    // Without traffic it is left alone.
    std::thread::sleep(Duration::from_millis(1500));
    assert!(left() < 59);
    setup.server.with(|state| {
        let info = state.sessions.get_mut(&id).unwrap();
        info.counters = Some(v1::Counters { in_packets: 5, ..Default::default() });
        info.idle_ms = 20_000;
    });
    wait("the kernel's entry to live longer", || (90..=100).contains(&left()));
    // The same count again is no traffic: nothing is renewed.
    std::thread::sleep(Duration::from_millis(2500));
    assert!(left() < 99, "{}", left());
}

#[test]
fn a_gateway_that_starts_again_gets_every_session_again() {
    if !may_run("gateway restart") {
        return;
    }
    let mut setup = Setup::new(MASQUERADE);
    let _agent = setup.agent("");
    let _listener = setup.lab.listen(&setup.lab.server, "tcp", "10.82.0.9", 7000);
    let mut clients: Vec<_> =
        (0..5).map(|_| setup.lab.connect(&setup.lab.client, "tcp", "10.82.0.9", 7000, 0)).collect();
    clients.iter_mut().for_each(|client| exchange(client, 1));
    setup.server.wait_for(5);
    let before = setup.server.sessions();
    setup.server = Server::start(setup.socket());
    setup.server.wait_for(5);
    assert_eq!(setup.server.sessions(), before);
    assert_eq!(setup.server.adds(), 5);
}

#[test]
fn an_agent_that_starts_again_reconciles_without_duplicates() {
    if !may_run("agent restart") {
        return;
    }
    let setup = Setup::new(MASQUERADE);
    let agent = setup.agent("keep_on_exit = true");
    let _listener = setup.lab.listen(&setup.lab.server, "tcp", "10.82.0.9", 7000);
    let mut clients: Vec<_> =
        (0..5).map(|n| setup.lab.connect(&setup.lab.client, "tcp", "10.82.0.9", 7000, 44_000 + n)).collect();
    clients.iter_mut().for_each(|client| exchange(client, 1));
    setup.server.wait_for(5);
    agent.stop();
    assert_eq!(setup.server.sessions().len(), 5);
    // While nobody looks: one goes, one comes; and somebody else has a session.
    setup.conntrack("-D -p tcp --orig-port-src 44001");
    let mut late = setup.lab.connect(&setup.lab.client, "tcp", "10.82.0.9", 7000, 44_009);
    exchange(&mut late, 1);
    let foreign = v1::Session { session_id: 7, ..Default::default() };
    setup.server.with(|state| {
        state.sessions.insert(7, v1::SessionInfo { session: Some(foreign.clone()), ..Default::default() });
    });
    let agent = setup.agent("");
    let port = |session: &v1::Session| session.original.as_ref().map_or(0, |tuple| tuple.source_port);
    let wanted = [0, 44_000, 44_002, 44_003, 44_004, 44_009];
    let mut ports = Vec::new();
    wait("the reconciliation", || {
        ports = setup.server.sessions().iter().map(port).collect();
        ports.sort_unstable();
        ports == wanted
    });
    std::thread::sleep(SETTLE);
    assert_eq!(setup.server.adds(), 6, "what was there is not added again");
    agent.stop();
    assert_eq!(setup.server.sessions(), [foreign], "its own are taken back, the other stays");
}

#[test]
fn a_session_timed_out_comes_back_with_the_next_packets() {
    if !may_run("timeout") {
        return;
    }
    let setup = Setup::new(MASQUERADE);
    let _agent = setup.agent("");
    let _listener = setup.lab.listen(&setup.lab.server, "tcp", "10.82.0.9", 7000);
    let mut client = setup.lab.connect(&setup.lab.client, "tcp", "10.82.0.9", 7000, 0);
    exchange(&mut client, 1);
    let id = setup.only_session().session_id;
    setup.server.close(id, v1::CloseCode::Timeout);
    // Comparisons of the table alone do not bring it back. Longer than what the agent takes for a sign of life: its clock for
    // the entry has whole seconds.
    std::thread::sleep(Duration::from_millis(4500));
    assert_eq!(setup.server.sessions().len(), 0);
    exchange(&mut client, 1);
    assert_eq!(setup.only_session().session_id, id);
    setup.server.close(id, v1::CloseCode::Rst);
    exchange(&mut client, 1);
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(setup.server.sessions().len(), 0, "what has ended stays ended");
}

#[test]
fn a_full_table_leaves_connections_in_the_kernel_until_there_is_room() {
    if !may_run("table full") {
        return;
    }
    let setup = Setup::new(MASQUERADE);
    setup.server.with(|state| state.capacity = 2);
    let _agent = setup.agent("");
    let _listener = setup.lab.listen(&setup.lab.server, "tcp", "10.82.0.9", 7000);
    let mut clients: Vec<_> =
        (0..4).map(|_| setup.lab.connect(&setup.lab.client, "tcp", "10.82.0.9", 7000, 0)).collect();
    clients.iter_mut().for_each(|client| exchange(client, 1));
    setup.server.wait_for(2);
    std::thread::sleep(SETTLE);
    clients.iter_mut().for_each(|client| exchange(client, 1));
    setup.server.with(|state| state.capacity = 100);
    setup.server.wait_for(4);
    assert!(setup.server.adds() < 20, "it does not hammer at a full table");
}

#[test]
fn what_is_not_to_be_offloaded_is_not() {
    if !may_run("exclusions") {
        return;
    }
    let mark = r#"table inet marks { chain pre { type filter hook prerouting priority mangle; tcp dport 7001 ct mark set 0x12; }; }"#;
    let setup = Setup::new(&format!("{MASQUERADE}{mark}"));
    setup.lab.vnf.sh(
        "ip link add other0 type veth peer name other1; ip addr add 10.83.0.1/24 dev other0; ip link set other0 up",
    );
    let _agent = setup.agent("exclude_mark = \"0x10/0xf0\"");
    let _marked = setup.lab.listen(&setup.lab.server, "tcp", "10.82.0.9", 7001);
    let _local = setup.lab.listen(&setup.lab.vnf, "tcp", "10.81.0.1", 7002);
    let _plain = setup.lab.listen(&setup.lab.server, "tcp", "10.82.0.9", 7003);
    let mut marked = setup.lab.connect(&setup.lab.client, "tcp", "10.82.0.9", 7001, 0);
    let mut to_vnf = setup.lab.connect(&setup.lab.client, "tcp", "10.81.0.1", 7002, 0);
    let mut from_vnf = setup.lab.connect(&setup.lab.vnf, "tcp", "10.82.0.9", 7003, 0);
    for client in [&mut marked, &mut to_vnf, &mut from_vnf] {
        exchange(client, 1);
    }
    let mut plain = setup.lab.connect(&setup.lab.client, "tcp", "10.82.0.9", 7003, 0);
    exchange(&mut plain, 1);
    let session = setup.only_session();
    assert_eq!(session.original.unwrap().destination_port, 7003);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!((setup.server.sessions().len(), setup.server.adds()), (1, 1));
}

#[test]
fn a_neighbour_with_another_mac_rewrites_its_sessions() {
    if !may_run("neighbour change") {
        return;
    }
    let setup = Setup::new(MASQUERADE);
    let _agent = setup.agent("");
    let _listener = setup.lab.listen(&setup.lab.server, "tcp", "10.82.0.9", 7000);
    let mut client = setup.lab.connect(&setup.lab.client, "tcp", "10.82.0.9", 7000, 0);
    exchange(&mut client, 1);
    let before = setup.only_session();
    setup.lab.vnf.sh("ip neigh replace 10.82.0.9 lladdr 02:00:00:82:00:77 dev out0");
    let moved = [2, 0, 0, 0x82, 0, 0x77];
    let destination = || {
        let session = setup.server.sessions().pop()?;
        Some(session.l2?.forward?.destination)
    };
    wait("the new MAC", || destination() == Some(moved.to_vec().into()));
    assert_eq!(setup.only_session().session_id, before.session_id);
    setup.lab.vnf.sh("ip link set out0 down");
    setup.server.wait_for(0);
}

const BURST: &str = r#"
import socket, sys, time
count, pause = int(sys.argv[1]), float(sys.argv[2])
sockets = []
begin = time.monotonic()
for i in range(count):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); s.connect(('10.82.0.9', 7000))
    s.send(b'x'); s.recv(9)
    sockets.append((s.getsockname()[1], time.time())); s.close()
    ahead = begin + (i + 1) * pause - time.monotonic()
    if ahead > 0: time.sleep(ahead)
print(' '.join(f'{port}:{at:.6f}' for port, at in sockets))
sys.stdin.readline()
"#;

#[test]
fn a_burst_of_connections_is_installed_without_loss() {
    if !may_run("burst") {
        return;
    }
    const COUNT: usize = 4000;
    let setup = Setup::new(TRACK_ONLY);
    // The first entry is to be there after the last, however long they take.
    setup.lab.vnf.sh("sysctl -qw net.netfilter.nf_conntrack_udp_timeout=600");
    let _agent = setup.agent("");
    let _listener = setup.lab.listen(&setup.lab.server, "udp", "10.82.0.9", 7000);
    let mut burst = setup.lab.client.python(BURST, &[&COUNT.to_string(), "0"]);
    let answered = burst.line();
    let mut last = std::collections::HashMap::new();
    for pair in answered.split_whitespace() {
        let (port, at) = pair.split_once(':').unwrap();
        last.insert(port.parse::<u32>().unwrap(), at.parse::<f64>().unwrap());
    }
    setup.server.wait_for(last.len());
    let mut delays: Vec<f64> = setup.server.with(|state| {
        let delay = |(at, id): &(std::time::SystemTime, u64)| {
            let port = state.sessions[id].session.as_ref()?.original.as_ref()?.source_port;
            Some(at.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs_f64() - last[&port])
        };
        state.arrived.iter().filter_map(delay).collect()
    });
    delays.sort_by(f64::total_cmp);
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize] * 1e3;
    let span = last.values().copied().fold(0.0, f64::max) - last.values().copied().fold(f64::MAX, f64::min);
    let rate = COUNT as f64 / span;
    println!("{rate:.0} connections/s; to the gateway: median {:.1} ms, p99 {:.1} ms", at(0.5), at(0.99));
    assert!(at(0.99) < 10_000.0, "it falls behind: {} ms", at(0.99));
    setup.conntrack("-F");
    setup.server.wait_for(0);
}
