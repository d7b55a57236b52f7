//! `gateway sessions list` and `show` against a real server: filters, order, rates, repetition.
#![forbid(unsafe_code)]

use conntrack::table::Timeouts;
use conntrack::{FlowKeyV4, LifIndex, Reader, SessionTable, TableConfig};
use control::{Clock, ClosedLog, Handles, Server, ServerConfig};
use gateway::config::Config;
use pipeline::Snapshot;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// A server in this process, and its table.
struct Stand {
    handles: Handles,
    dir: tempfile::TempDir,
    _server: Server,
    _runtime: tokio::runtime::Runtime,
}

const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
const MAPPED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// Of session `n`.
fn client(n: u64) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0A01_0000 + n as u32)
}

impl Stand {
    /// Sessions 1 to 9, the last of UDP without translation.
    fn new() -> Self {
        let config = Config::parse(Path::new("gw.toml"), include_str!("golden/gateway.toml")).unwrap();
        let table = SessionTable::new(TableConfig {
            capacity: 100,
            timeouts: Timeouts { tcp: 7440, udp: 300, icmp: 60, other: 60 },
            readers: 1,
            hugepages: false,
            hash_secret: [1, 2],
        });
        let handles = Handles {
            table: table.unwrap(),
            config: Arc::new(config.pipeline),
            snapshot: Arc::new(Snapshot::default),
            clock: Clock::start(),
            closed: ClosedLog::new(100, 100),
        };
        let dir = tempfile::tempdir().unwrap();
        let listen = format!("unix:{}", dir.path().join("gw.sock").display()).parse().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let server_config = ServerConfig {
            listen: vec![listen],
            tls: None,
            admins: Vec::new(),
            plaintext: false,
            limits: Default::default(),
            activation: None,
        };
        let server = runtime.block_on(Server::start(server_config, handles.clone())).unwrap();
        let stand = Self { handles, dir, _server: server, _runtime: runtime };
        let lines = (1..=9).map(|n| {
            let (protocol, nat) = match n {
                9 => ("udp", String::new()),
                n => ("tcp", format!("\"nat\":{{\"source\":\"{MAPPED}:{}\"}},", 60_000 + n)),
            };
            format!(
                "{{\"session_id\":{n},\"in_lif\":1,\"out_lif\":2,\"protocol\":\"{protocol}\",\"source\":\"{}:40000\",{nat}\
                 \"destination\":\"{SERVER}:443\",\"timeout\":300}}\n",
                client(n)
            )
        });
        let file = stand.dir.path().join("sessions.jsonl");
        std::fs::write(&file, lines.collect::<String>()).unwrap();
        stand.good(&["sessions", "add", file.to_str().unwrap()]);
        stand
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gateway"));
        let connect = format!("unix:{}", self.dir.path().join("gw.sock").display());
        command.args(arguments).args(["--connect", &connect]);
        command
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn good(&self, arguments: &[&str]) -> String {
        let output = self.ask(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The ids that a list shows, in its order.
    fn ids(&self, filters: &[&str]) -> Vec<u64> {
        let text = self.good(&[&["sessions", "list", "--json"], filters].concat());
        text.lines().map(|line| id(&json(line))).collect()
    }

    /// `packets` of 1000 bytes from the client of session `n`.
    fn traffic(&self, reader: &mut Reader, n: u64, packets: u32) {
        let protocol = if n == 9 { 17 } else { 6 };
        let key = FlowKeyV4::new(LifIndex(0), protocol, client(n), 40_000, SERVER, 443);
        let now = self.handles.clock.now();
        let burst = reader.enter();
        let mut flows = [None];
        burst.lookup_v4(&[key], now, &mut flows);
        (0..packets).for_each(|_| flows[0].expect("there").count(now, 1000));
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn id(session: &Value) -> u64 {
    session["session_id"].as_u64().unwrap()
}

#[test]
fn filters_choose_sessions() {
    let stand = Stand::new();
    assert_eq!(stand.ids(&[]), (1..=9).collect::<Vec<_>>());
    assert_eq!(stand.ids(&["--address", "10.1.0.3"]), [3]);
    assert_eq!(stand.ids(&["--address", "10.1.0.4/30"]), [4, 5, 6, 7]);
    assert_eq!(stand.ids(&["--address", "203.0.113.0/24"]).len(), 8);
    assert_eq!(stand.ids(&["--nat", "203.0.113.1", "--limit", "3"]).len(), 3);
    assert!(stand.ids(&["--nat", "198.51.100.10"]).is_empty());
    assert_eq!(stand.ids(&["--protocol", "udp"]), [9]);
    assert_eq!(stand.ids(&["--protocol", "17"]), [9]);
    assert_eq!(stand.ids(&["--port", "60005"]), [5]);
    assert_eq!(stand.ids(&["--state", "established", "--protocol", "tcp"]).len(), 8);
    assert!(stand.ids(&["--state", "closing_1"]).is_empty());
    assert_eq!(stand.ids(&["--lif", "blue"]).len(), 9);
    assert_eq!(stand.ids(&["--lif", "1"]).len(), 9);
    assert_eq!(stand.ids(&["--owner", "unix"]).len() + stand.ids(&["--owner", ""]).len(), 9);
    assert!(stand.ids(&["--owner", "somebody else"]).is_empty());
    let table = stand.good(&["sessions", "list", "--address", "10.1.0.3"]);
    assert!(table.contains("src 203.0.113.1:60003"), "{table}");

    let nowhere = stand.ask(&["sessions", "list", "--lif", "nowhere"]);
    assert_eq!(nowhere.status.code(), Some(1));
    let error = String::from_utf8_lossy(&nowhere.stderr).into_owned();
    assert!(error.starts_with("there is no LIF nowhere: there are red (1), blue (2)"), "{error}");
    for wrong in [["--address", "10.1.0.0/33"], ["--nat", "x"], ["--protocol", "sctp"], ["--state", "new"]] {
        let output = stand.ask(&[&["sessions", "list"][..], &wrong].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn order_is_by_what_was_asked_for() {
    let stand = Stand::new();
    let mut reader = stand.handles.table.reader().unwrap();
    for (n, packets) in [(2, 10), (5, 30), (9, 20)] {
        stand.traffic(&mut reader, n, packets);
    }
    assert_eq!(stand.ids(&["--sort", "bytes", "--limit", "3"]), [5, 9, 2]);
    assert_eq!(stand.ids(&["--sort", "packets", "--limit", "2"]), [5, 9]);
    assert_eq!(stand.ids(&["--sort", "age"]).len(), 9);
    // By what passes now, not what has passed.
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                stand.traffic(&mut reader, 7, 1);
                thread::sleep(Duration::from_millis(5));
            }
        });
        let text = stand.good(&["sessions", "list", "--sort", "rate", "--limit", "1", "--json"]);
        let first = json(text.lines().next().unwrap());
        stop.store(true, Ordering::Relaxed);
        assert_eq!((id(&first), text.lines().count()), (7, 1));
        let packets = first["packets_per_second"].as_f64().unwrap();
        let bits = first["bits_per_second"].as_f64().unwrap();
        assert!(packets > 0.0 && (bits / packets - 8000.0).abs() < 1.0, "{first}");
    });
    // What a list prints can be installed again.
    let lines = stand.good(&["sessions", "list", "--sort", "rate", "--json"]);
    stand.good(&["sessions", "flush"]);
    let file = stand.dir.path().join("again.jsonl");
    std::fs::write(&file, lines).unwrap();
    assert_eq!(stand.good(&["sessions", "add", file.to_str().unwrap()]), "9 sessions added, 0 refused\n");
}

/// Killed when dropped.
struct Watch(Child);

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn watch_tells_again_and_again() {
    let stand = Stand::new();
    let mut reader = stand.handles.table.reader().unwrap();
    let mut command = stand.command(&["sessions", "list", "--watch=0.2", "--json", "--address", "10.1.0.3"]);
    let mut watch = Watch(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(watch.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let first = json(&lines.next().unwrap());
    assert_eq!((id(&first), &first["packets_per_second"]), (3, &Value::Null));
    stand.traffic(&mut reader, 3, 50);
    let rate = |line: String| json(&line)["packets_per_second"].as_f64().unwrap();
    assert!(lines.by_ref().take(100).any(|line| rate(line) > 0.0), "the traffic shows");
    assert!(lines.by_ref().take(100).any(|line| rate(line) == 0.0), "and that it has ended");
    // For people, to a pipe: nothing that only a terminal understands.
    let mut command = stand.command(&["sessions", "list", "--watch=0.2", "--limit", "1"]);
    let mut watch = Watch(command.stdout(Stdio::piped()).spawn().unwrap());
    let lines = BufReader::new(watch.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let seen: Vec<String> = lines.take(7).collect();
    assert_eq!(seen.iter().filter(|line| *line == "1 of 9 sessions").count(), 2, "{seen:#?}");
    assert!(!seen.concat().contains('\x1b') && seen[0].contains("packets/s"), "{seen:#?}");
}

#[test]
fn show_tells_all_of_a_session() {
    let stand = Stand::new();
    let mut reader = stand.handles.table.reader().unwrap();
    stand.traffic(&mut reader, 3, 2);
    let text = stand.good(&["sessions", "show", "3"]);
    for part in [
        "session 3: tcp, forward, established\n",
        "forward  red (1) to blue (2)\n",
        "  arrives   10.1.0.3:40000 > 198.51.100.10:443\n",
        "  leaves    203.0.113.1:60003 > 198.51.100.10:443\n",
        "  rewrites  MACs and TTL stay, source\n",
        "  passed    2 packets, 2000 bytes; now 0 packets/s, 0 bit/s\n",
        "reverse  blue (2) to red (1)\n",
        "  arrives   198.51.100.10:443 > 203.0.113.1:60003\n",
        "  leaves    198.51.100.10:443 > 10.1.0.3:40000\n",
        "  rewrites  MACs and TTL stay, destination\n",
        "installed by ",
        "without any (of 300 s)\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let shown = json(&stand.good(&["sessions", "show", "3", "--json"]));
    assert_eq!((id(&shown), &shown["in_packets"], &shown["in_bytes"]), (3, &2.into(), &2000.into()));
    assert_eq!(shown["nat"]["source"], "203.0.113.1:60003");
    assert!(shown["age_ms"].as_u64().unwrap() >= 1000, "{shown}");
    assert!((1..300_000).contains(&shown["timeout_left_ms"].as_u64().unwrap()), "{shown}");
    assert_eq!(shown["rates"]["in_packets_per_second"], 0.0);
    let none = stand.ask(&["sessions", "show", "77"]);
    assert_eq!((none.status.code(), &*none.stderr), (Some(1), &b"there is no session 77\n"[..]));
}
