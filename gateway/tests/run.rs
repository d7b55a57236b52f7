//! `gateway run` without hugepages, on ports of rings: its life from outside.
#![forbid(unsafe_code)]

mod common;

use common::{program_for_nobody, spawn};
use control::client::{self, ClientTls, Target};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use proto::gateway::v1::GetStatsRequest;
use proto::gateway::v1::gateway_client::GatewayClient;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const NOBODY: u32 = 65_534;
/// How long a busy machine may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Killed when dropped.
struct Gateway {
    child: Child,
    log: Receiver<String>,
    socket: PathBuf,
    config: PathBuf,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(dir: &Path, extra: &str) -> String {
    let base = include_str!("golden/gateway.toml").replace("net_null", "net_ring");
    let socket = dir.join("gw.sock");
    format!(
        "{base}\n[eal]\nhugepages = false\nmemory_mib = 64\nidle_sleep_us = 100\n\
         [control]\nlisten = [\"unix:{}\"]\n{extra}",
        socket.display()
    )
}

fn command(dir: &Path, text: &str) -> Command {
    let config = dir.join("gw.toml");
    fs::write(&config, text).unwrap();
    let mut command = Command::new(program_for_nobody(dir));
    // Whatever it can do as nobody, it does not need root for.
    if Uid::effective().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.args(["run", "--config"]).arg(&config).stderr(Stdio::piped()).env_remove("RUST_LOG");
    command.env_remove("XDG_RUNTIME_DIR");
    command
}

fn output(mut command: Command) -> Output {
    spawn(command.stdout(Stdio::piped())).wait_with_output().unwrap()
}

impl Gateway {
    fn start(dir: &Path, text: &str) -> Self {
        Self::from(dir, command(dir, text))
    }

    fn from(dir: &Path, mut command: Command) -> Self {
        let mut child = spawn(&mut command);
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (to, log) = channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| to.send(line)));
        let (socket, config) = (dir.join("gw.sock"), dir.join("gw.toml"));
        let mut gateway = Self { child, log, socket, config };
        let ready = gateway.wait_for(" ready ");
        assert!(ready.contains("uplink (net_ring0), kernel (net_ring1)"), "{ready}");
        gateway
    }

    /// The first line of the log that contains `text`.
    fn wait_for(&mut self, text: &str) -> String {
        let mut seen = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while let Ok(line) = self.log.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if line.contains(text) {
                return line;
            }
            seen.push(line);
        }
        panic!("no {text:?} in {seen:#?}");
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        let connect = format!("unix:{}", self.socket.display());
        Command::new(env!("CARGO_BIN_EXE_gateway"))
            .args(arguments)
            .args(["--connect", &connect])
            .output()
            .unwrap()
    }
}

/// A port that nobody uses now.
fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

fn text(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

const SESSION: &str = r#"{"session_id":7,"in_lif":1,"out_lif":2,"protocol":"udp","source":"10.1.0.5:40000","destination":"198.51.100.10:53","action":"forward","timeout":300}"#;

#[test]
fn from_ready_to_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::start(dir.path(), &configuration(dir.path(), ""));
    assert_eq!(fs::metadata(&gateway.socket).unwrap().permissions().mode() & 0o777, 0o600);

    let sessions = dir.path().join("s.jsonl");
    fs::write(&sessions, format!("{SESSION}\n{SESSION}\n")).unwrap();
    let added = gateway.ask(&["sessions", "add", sessions.to_str().unwrap(), "--json"]);
    assert_eq!(added.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&added.stdout), "{\"accepted\":1,\"failed\":1}\n");
    let errors = String::from_utf8_lossy(&added.stderr).into_owned();
    assert!(errors.starts_with(&format!("{}:2: session 7: ", sessions.display())), "{errors}");

    let listed = text(gateway.ask(&["sessions", "list", "--json"]));
    assert!(listed.starts_with(SESSION.trim_end_matches('}')), "{listed}");
    assert_eq!(listed.lines().count(), 1);
    assert!(text(gateway.ask(&["sessions", "list"])).contains("10.1.0.5:40000"));
    assert!(text(gateway.ask(&["sessions", "show", "7"])).contains("(of 300 s)"));
    assert_eq!(gateway.ask(&["sessions", "show", "8"]).status.code(), Some(1));
    let stats: serde_json::Value = serde_json::from_str(&text(gateway.ask(&["stats", "--json"]))).unwrap();
    assert_eq!(stats["sessions"]["active"], 1);
    let deleted = text(gateway.ask(&["sessions", "delete", "7", "--json"]));
    assert_eq!(
        deleted,
        "{\"session_id\":7,\"close_code\":\"deleted\",\"in_packets\":0,\"in_bytes\":0,\"out_packets\":0,\"out_bytes\":0}\n"
    );
    assert_eq!(text(gateway.ask(&["sessions", "flush", "--json"])), "{\"removed\":0}\n");

    let asked = Instant::now();
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.child.wait().unwrap().code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
    assert!(!gateway.socket.exists());
}

/// Makes `command` tell us what it would tell systemd: one message after the other.
fn notified(dir: &Path, command: &mut Command) -> impl Fn() -> String + use<> {
    let path = dir.join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    command.env("NOTIFY_SOCKET", &path);
    move || {
        let mut buffer = [0; 256];
        let len = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..len]).trim().to_owned()
    }
}

#[test]
fn systemd_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = command(dir.path(), &configuration(dir.path(), ""));
    let told = notified(dir.path(), &mut command);
    let mut child = spawn(&mut command);
    assert_eq!(told(), "READY=1");
    let pid = Pid::from_raw(child.id() as i32);
    kill(pid, Signal::SIGHUP).unwrap();
    assert!(told().starts_with("RELOADING=1"));
    assert_eq!(told(), "READY=1");
    kill(pid, Signal::SIGINT).unwrap();
    assert_eq!(told(), "STOPPING=1");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn sighup_reloads_and_says_what_needs_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = command(dir.path(), &configuration(dir.path(), ""));
    let told = notified(dir.path(), &mut command);
    let mut gateway = Gateway::from(dir.path(), command);
    let changed = configuration(dir.path(), "")
        .replace("capacity = 100", "capacity = 200")
        .replace("mtu = 1500", "mtu = 1400");
    fs::write(&gateway.config, changed).unwrap();
    gateway.signal(Signal::SIGHUP);
    let line = gateway.wait_for("reloaded");
    assert!(
        line.ends_with("reloaded; to take effect, a restart is needed for: [[lif]], [sessions]"),
        "{line}"
    );
    fs::write(&gateway.config, configuration(dir.path(), "").replace("vlan = 100", "vlan = 4095")).unwrap();
    gateway.signal(Signal::SIGHUP);
    assert!(gateway.wait_for("vlan = 4095 is wrong").contains("gw.toml:"));
    gateway.wait_for("not reloaded: 1 problems in the configuration");
    fs::write(&gateway.config, configuration(dir.path(), "[log]\nlevel = \"warn\"\n")).unwrap();
    gateway.signal(Signal::SIGHUP);
    // With this level the next word of it is the end. It has told of the start, and of three reloads twice each.
    let told = [(); 7].map(|()| told());
    assert_eq!(told[6], "READY=1", "{told:?}");
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.child.wait().unwrap().code(), Some(0));
    let rest = gateway.log.iter().collect::<Vec<_>>();
    assert!(!rest.iter().any(|line| line.contains("stopping")), "{rest:#?}");
}

/// New connections see the new certificate, one that is there lives on, and files that are wrong change nothing.
#[test]
fn sighup_swaps_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    let [first, second] = [0, 1].map(|n| {
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key);
        let pem = cert.unwrap().pem();
        write(&format!("trusted-{n}.crt"), &pem);
        (pem, key.serialize_pem())
    });
    let install = |cert: &str, key: &str| {
        write("server.crt", cert);
        write("server.key", key);
    };
    install(&first.0, &first.1);
    let tls = "tls = { cert = \"server.crt\", key = \"server.key\" }\n";
    let address = free_address();
    let text = configuration(dir.path(), tls).replace("listen = [", &format!("listen = [\"{address}\", "));
    let mut gateway = Gateway::start(dir.path(), &text);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let connect = |trusted: &str| {
        let tls = ClientTls { ca: dir.path().join(trusted), ..Default::default() };
        let target = Target { endpoint: address.parse().unwrap(), tls: Some(tls) };
        runtime.block_on(client::connect(&target)).map(GatewayClient::new)
    };
    let mut old = connect("trusted-0.crt").unwrap();
    let mut works = || runtime.block_on(old.get_stats(GetStatsRequest {})).unwrap();
    works();

    for (cert, word) in
        [("no certificate", "holds no certificate"), (second.0.as_str(), "do not belong together")]
    {
        install(cert, &first.1);
        gateway.signal(Signal::SIGHUP);
        let line = gateway.wait_for("TLS stays as it was: ");
        assert!(line.contains(word), "{line}");
        gateway.wait_for(" reloaded");
        connect("trusted-0.crt").unwrap();
        assert!(connect("trusted-1.crt").is_err());
    }
    install(&second.0, &second.1);
    gateway.signal(Signal::SIGHUP);
    gateway.wait_for(" reloaded");
    connect("trusted-1.crt").unwrap();
    assert!(connect("trusted-0.crt").is_err());
    works();
}

/// Told apart by their certificates, clients of the command line remove their own sessions; admins and root all.
#[test]
fn clients_with_certificates_keep_to_their_own() {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    fs::write(path("ca.crt"), ca.pem()).unwrap();
    for name in ["server", "vnf-a", "ops"] {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        fs::write(path(&format!("{name}.crt")), params.signed_by(&key, &ca).unwrap().pem()).unwrap();
        fs::write(path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }
    let address = free_address();
    let control =
        "tls = { cert = \"server.crt\", key = \"server.key\", client_ca = \"ca.crt\" }\nadmins = [\"ops\"]\n";
    let config =
        configuration(dir.path(), control).replace("listen = [", &format!("listen = [\"{address}\", "));
    let mut gateway = Gateway::start(dir.path(), &config);
    let ask = |who: &str, arguments: &[&str]| {
        let (cert, key, ca) = (path(&format!("{who}.crt")), path(&format!("{who}.key")), path("ca.crt"));
        let over = ["--connect", &address, "--ca", &ca, "--cert", &cert, "--key", &key];
        Command::new(env!("CARGO_BIN_EXE_gateway")).args(arguments).args(over).output().unwrap()
    };
    fs::write(path("one.jsonl"), SESSION).unwrap();
    fs::write(path("two.jsonl"), SESSION.replace(":7,", ":8,").replace("10.1.0.5", "10.1.0.6")).unwrap();
    text(gateway.ask(&["sessions", "add", &path("one.jsonl")]));
    text(ask("vnf-a", &["sessions", "add", &path("two.jsonl")]));
    let listed = text(ask("vnf-a", &["sessions", "list", "--json"]));
    let owners: Vec<_> = listed
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|session| {
            (session["session_id"].as_u64().unwrap(), session["owner"].as_str().unwrap().to_owned())
        })
        .collect();
    assert_eq!(owners, [(7, "unix".to_owned()), (8, "vnf-a".to_owned())]);

    let refused = ask("vnf-a", &["sessions", "delete", "7"]);
    assert_eq!(refused.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(errors.contains("session 7 belongs to another client"), "{errors}");
    assert_eq!(text(ask("vnf-a", &["sessions", "flush", "--json"])), "{\"removed\":1}\n");
    // Who is an admin is read again at SIGHUP.
    for (admins, may) in [("[]", false), ("[\"ops\"]", true)] {
        fs::write(&gateway.config, config.replace("[\"ops\"]", admins)).unwrap();
        gateway.signal(Signal::SIGHUP);
        let line = gateway.wait_for(" reloaded");
        assert!(!line.contains("restart"), "{line}");
        assert_eq!(ask("ops", &["sessions", "delete", "7"]).status.success(), may, "{admins}");
    }
}

#[test]
fn a_second_gateway_and_a_missing_device_end_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let text = configuration(dir.path(), "");
    let _first = Gateway::start(dir.path(), &text);
    let second = output(command(dir.path(), &text));
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another process answers there"));
    let missing = text.replace("\"net_ring0\"", "\"net_af_packet0,iface=gone0\"");
    let other = tempfile::tempdir().unwrap();
    let missing = output(command(other.path(), &missing));
    assert_eq!(missing.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(errors.contains("port \"uplink\": device net_af_packet0,iface=gone0: "), "{errors}");
}

/// Before DPDK looks for the interface, which is none.
#[test]
fn an_interface_of_another_process_stays_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let interface = format!("held-{}", std::process::id());
    let name = SocketAddr::from_abstract_name(format!("openoffload-gateway/port/{interface}")).unwrap();
    let _held = UnixListener::bind_addr(&name).unwrap();
    let device = format!("\"net_af_packet0,iface={interface}\"");
    let text = configuration(dir.path(), "").replace("\"net_ring0\"", &device);
    let output = output(command(dir.path(), &text));
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let expected = format!(
        "port \"uplink\": interface {interface} is used by another gateway, process {}: stop that one first",
        std::process::id()
    );
    assert!(errors.starts_with(&expected), "{errors}");
}

#[test]
fn where_it_cannot_listen_is_said_once() {
    let dir = tempfile::tempdir().unwrap();
    let text = configuration(dir.path(), "").replace("gw.sock", "none/gw.sock");
    let output = output(command(dir.path(), &text));
    assert_eq!(output.status.code(), Some(1));
    let expected = format!(
        "cannot listen on unix:{}: No such file or directory (os error 2): make its directory first, or choose another path",
        dir.path().join("none/gw.sock").display()
    );
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.lines().any(|line| line == expected), "{errors}");
}

#[test]
fn keys_that_are_missing_end_it_before_anything_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let text = configuration(dir.path(), "tls = { cert = \"a.crt\", key = \"a.key\" }\n");
    let output = output(command(dir.path(), &text));
    assert_eq!(output.status.code(), Some(64));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(errors.lines().count(), 2, "{errors}");
    assert!(errors.contains("cannot be read: No such file"), "{errors}");
    assert!(!dir.path().join("gw.sock").exists());
}

/// The control side's threads write to the session table first; each has the policy that says where its pages are to be.
#[test]
fn memory_is_on_the_configured_node() {
    let probe = std::thread::spawn(|| dpdk::prefer_memory(dpdk::SocketId(0)));
    if let Err(error) = probe.join().unwrap() {
        eprintln!("SKIPPED: {error}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let text = configuration(dir.path(), "").replace("[eal]\n", "[eal]\nnuma = 0\n");
    let gateway = Gateway::start(dir.path(), &text);
    let process = PathBuf::from(format!("/proc/{}", gateway.child.id()));
    let policy = |path: &Path| {
        let maps = fs::read_to_string(path.join("numa_maps")).ok()?;
        Some(maps.lines().any(|line| line.contains(" prefer")))
    };
    assert_eq!(policy(&process), Some(true));
    let policies = |part: &str| {
        let threads = fs::read_dir(process.join("task")).unwrap().flatten().map(|thread| thread.path());
        let named =
            threads.filter(|path| fs::read_to_string(path.join("comm")).is_ok_and(|c| c.contains(part)));
        named.filter_map(|path| policy(&path)).collect::<Vec<_>>()
    };
    let control = policies("tokio");
    assert!(!control.is_empty() && control.iter().all(|prefers| *prefers), "{control:?}");
    assert_eq!(policies("worker-1"), [false], "workers keep the kernel's");
}

#[test]
fn cpus_and_devices_that_are_not_there_end_it_before_anything_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let text = configuration(dir.path(), "").replace("[eal]\n", "[eal]\nworkers = [1, 1023]\n");
    let output = output(command(dir.path(), &text.replace("\"net_ring0\"", "\"eth1\"")));
    assert_eq!(output.status.code(), Some(64));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(errors.lines().count(), 2, "{errors}");
    assert!(errors.contains("device = \"eth1\" is no DPDK device: write"), "{errors}");
    assert!(errors.contains("[eal] workers: this machine has no CPU 1023: write lcores of 0"), "{errors}");
}

#[test]
fn a_node_that_is_not_there_ends_it_before_anything_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let text = configuration(dir.path(), "").replace("[eal]\n", "[eal]\nnuma = 31\n");
    let output = output(command(dir.path(), &text));
    assert_eq!(output.status.code(), Some(64));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.contains("[eal]: numa = 31: this machine has no memory there: write 0"), "{errors}");
    assert!(!dir.path().join("gw.sock").exists());
}
