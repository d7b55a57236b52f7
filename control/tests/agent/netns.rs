//! Network namespaces that clean up after themselves.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Whether namespaces can be made; says so where they cannot.
pub fn may_run(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED {test}: needs root for network namespaces");
    }
    root
}

/// A namespace, deleted when dropped.
pub struct Netns {
    pub name: String,
}

impl Netns {
    pub fn new(role: &str) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("oagt{}-{number}-{role}", std::process::id());
        run(&["ip", "netns", "add", &name]);
        let netns = Self { name };
        netns.sh("ip link set lo up");
        netns
    }

    /// Runs a shell script inside; its output.
    pub fn sh(&self, script: &str) -> String {
        run(&["ip", "netns", "exec", &self.name, "sh", "-ec", script])
    }

    /// Starts a Python program inside, that talks over its standard streams.
    pub fn python(&self, program: &str, arguments: &[&str]) -> Talker {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.name, "timeout", "600", "python3", "-uc", program])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Talker { child, stdin, stdout }
    }

    /// Calls `work` on a thread inside the namespace.
    pub fn thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let path = format!("/var/run/netns/{}", self.name);
        std::thread::spawn(move || {
            let file = std::fs::File::open(path).unwrap();
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// A running program that answers a line with a line; killed when dropped.
pub struct Talker {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Talker {
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    pub fn expect(&mut self, wanted: &str) {
        assert_eq!(self.line(), wanted);
    }

    pub fn say(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        // Their end of input ends the programs, and `timeout` passes the signal on.
        self.stdin = None;
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

fn run(command: &[&str]) -> String {
    let output = Command::new(command[0]).args(&command[1..]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A client, a VNF and a server: client 10.81.0.5 fd81::5 — in0 [VNF] out0 — 10.82.0.9 fd82::9 server.
pub struct Lab {
    pub client: Netns,
    pub vnf: Netns,
    pub server: Netns,
}

pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0x81, 0, 5];
pub const IN_MAC: [u8; 6] = [2, 0, 0, 0x81, 0, 1];
pub const OUT_MAC: [u8; 6] = [2, 0, 0, 0x82, 0, 1];
pub const SERVER_MAC: [u8; 6] = [2, 0, 0, 0x82, 0, 9];

const ECHO_SERVER: &str = r#"
import socket, sys, threading
kind, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ':' in address else socket.AF_INET
if kind == 'udp':
    s = socket.socket(family, socket.SOCK_DGRAM); s.bind((address, port)); print('ready')
    while True:
        data, peer = s.recvfrom(65535); s.sendto(data, peer)
def serve(c):
    with c:
        while data := c.recv(65536): c.sendall(data)
s = socket.socket(family, socket.SOCK_STREAM); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((address, port)); s.listen(1024); print('ready')
while True:
    c, _ = s.accept(); threading.Thread(target=serve, args=(c,), daemon=True).start()
"#;

/// Takes what one client sends, and tells how it ended.
const SINK: &str = r#"
import socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((sys.argv[1], int(sys.argv[2]))); s.listen(); print('ready')
c, _ = s.accept(); buffer = bytearray(1 << 20)
try:
    while c.recv_into(buffer): pass
    print('end')
except ConnectionResetError: print('reset')
"#;

const CLIENT: &str = r#"
import fcntl, socket, struct, sys, termios, time
kind, address, port, source_port = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
family = socket.AF_INET6 if ':' in address else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM if kind == 'udp' else socket.SOCK_STREAM)
s.settimeout(20)
if source_port: s.bind(('', source_port))
s.connect((address, port)); print('connected')
for line in sys.stdin:
    if line.startswith('close'):
        s.close(); print('closed'); break
    if line.startswith('reset'):
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); s.close(); print('closed'); break
    if line.startswith('send'):  # so many MiB, until the peer has acknowledged them
        data = b'x' * (1 << 20)
        for _ in range(int(line.split()[1])): s.sendall(data)
        while struct.unpack('i', fcntl.ioctl(s, termios.TIOCOUTQ, b'    '))[0]: time.sleep(0.01)
        print('ok'); continue
    size = int(line); data = b'x' * 1000
    for _ in range(size):
        s.sendall(data); left = len(data)
        while left: left -= len(s.recv(left))
    print('ok')
"#;

impl Lab {
    pub fn new(rules: &str) -> Self {
        let lab = Self { client: Netns::new("cl"), vnf: Netns::new("vnf"), server: Netns::new("sv") };
        let (client, vnf, server) = (&lab.client, &lab.vnf, &lab.server);
        vnf.sh(&format!(
            "ip link add in0 address 02:00:00:81:00:01 type veth peer name eth0 address 02:00:00:81:00:05 netns {}
             ip link add out0 address 02:00:00:82:00:01 type veth peer name eth0 address 02:00:00:82:00:09 netns {}
             ip addr add 10.81.0.1/24 dev in0; ip addr add fd81::1/64 dev in0 nodad; ip link set in0 up
             ip addr add 10.82.0.1/24 dev out0; ip addr add fd82::1/64 dev out0 nodad; ip link set out0 up
             sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
             sysctl -qw net.netfilter.nf_conntrack_acct=1 net.netfilter.nf_conntrack_events=1",
            client.name, server.name
        ));
        for (side, network, host) in [(client, 81, 5), (server, 82, 9)] {
            side.sh(&format!(
                "ip addr add 10.{network}.0.{host}/24 dev eth0; ip addr add fd{network}::{host}/64 dev eth0 nodad
                 ip link set eth0 up
                 ip route add default via 10.{network}.0.1; ip -6 route add default via fd{network}::1"
            ));
        }
        vnf.sh(&format!("nft -f - <<'X'\n{rules}\nX"));
        lab
    }

    pub fn listen(&self, at: &Netns, kind: &str, address: &str, port: u16) -> Talker {
        let mut server = at.python(ECHO_SERVER, &[kind, address, &port.to_string()]);
        server.expect("ready");
        server
    }

    /// A server that takes what one client sends.
    pub fn sink(&self, at: &Netns, address: &str, port: u16) -> Talker {
        let mut server = at.python(SINK, &[address, &port.to_string()]);
        server.expect("ready");
        server
    }

    pub fn connect(&self, from: &Netns, kind: &str, address: &str, port: u16, source_port: u16) -> Talker {
        let mut client = from.python(CLIENT, &[kind, address, &port.to_string(), &source_port.to_string()]);
        client.expect("connected");
        client
    }
}

/// Sends `packets` of 1000 bytes and waits for their echoes.
pub fn exchange(client: &mut Talker, packets: u32) {
    client.say(&packets.to_string());
    client.expect("ok");
}

pub const MASQUERADE: &str = r#"
table ip nat {
  chain post { type nat hook postrouting priority srcnat; oifname "out0" masquerade random; }
  chain pre { type nat hook prerouting priority dstnat; iifname "out0" tcp dport 8080 dnat to 10.81.0.5:80; }
}
table ip6 nat {
  chain post { type nat hook postrouting priority srcnat; oifname "out0" masquerade random; }
}
"#;

pub const TRACK_ONLY: &str = r#"
table inet filter {
  chain forward { type filter hook forward priority 0; ct state established,related,new accept; }
}
"#;
