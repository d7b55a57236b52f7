//! Translations beyond masquerade, and protocols beyond TCP and UDP.

use super::netns::{MASQUERADE, exchange, may_run};
use super::{SETTLE, Setup, addresses};

const RULES: &str = r#"
table ip more {
  chain pre { type nat hook prerouting priority dstnat - 1;
    ip daddr 10.82.0.1 tcp dport 8081 dnat to 10.81.0.5:80;
    iifname "out0" tcp dport 8082 dnat to 10.81.0.5:80;
    tcp dport 9000 redirect to :9001; }
  chain post { type nat hook postrouting priority srcnat - 1;
    ct status dnat oifname "in0" snat to 10.81.0.1; }
}
"#;

#[test]
fn source_and_destination_at_once_and_hairpin_are_installed() {
    if !may_run("both at once") {
        return;
    }
    let setup = Setup::new(&format!("{RULES}{MASQUERADE}"));
    let _agent = setup.agent("");
    let _web = setup.lab.listen(&setup.lab.client, "tcp", "10.81.0.5", 80);
    // From outside, and from the inside by the outer address.
    for (from, port, in_lif, source) in
        [(&setup.lab.server, 8082, 12, "10.82.0.9"), (&setup.lab.client, 8081, 11, "10.81.0.5")]
    {
        let mut visitor = setup.lab.connect(from, "tcp", "10.82.0.1", port, 46_000);
        exchange(&mut visitor, 1);
        let session = setup.only_session();
        assert_eq!((session.in_lif, session.out_lif), (in_lif, 11));
        assert_eq!(addresses(&session.original), (source.into(), "10.82.0.1".into()));
        assert_eq!(addresses(&session.translated), ("10.81.0.1".into(), "10.81.0.5".into()));
        let (original, translated) = (session.original.clone().unwrap(), session.translated.clone().unwrap());
        assert_eq!((original.destination_port, translated.destination_port), (u32::from(port), 80));
        let listed = setup.conntrack(&format!("-L -p tcp --orig-port-dst {port}"));
        assert!(listed.contains(&format!("sport=80 dport={}", translated.source_port)), "{listed}");
        setup.conntrack("-D -p tcp");
        setup.server.wait_for(0);
    }
}

#[test]
fn what_is_redirected_to_the_network_function_stays_there() {
    if !may_run("redirect") {
        return;
    }
    let setup = Setup::new(&format!("{RULES}{MASQUERADE}"));
    let agent = setup.agent("");
    let _proxy = setup.lab.listen(&setup.lab.vnf, "tcp", "0.0.0.0", 9001);
    let mut client = setup.lab.connect(&setup.lab.client, "tcp", "10.82.0.9", 9000, 0);
    exchange(&mut client, 1);
    let _other = setup.lab.listen(&setup.lab.server, "tcp", "10.82.0.9", 7000);
    let mut plain = setup.lab.connect(&setup.lab.client, "tcp", "10.82.0.9", 7000, 0);
    exchange(&mut plain, 1);
    assert_eq!(setup.only_session().original.unwrap().destination_port, 7000);
    std::thread::sleep(SETTLE);
    assert_eq!(setup.server.adds(), 1);
    let counters = agent.stop();
    assert!(counters.skipped["local"] >= 1, "{counters}");
}

const RAW_ECHO: &str = r#"
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, int(sys.argv[1])); print('ready')
while True:
    data, peer = s.recvfrom(65535)
    s.sendto(data[20:], peer)
"#;

const RAW_CLIENT: &str = r#"
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, int(sys.argv[1])); s.settimeout(10)
s.connect(('10.82.0.9', 0))
for line in sys.stdin:
    s.send(bytes.fromhex(line)); s.recv(65535); print('ok')
"#;

#[test]
fn protocols_without_ports_are_installed_by_their_addresses() {
    if !may_run("other protocols") {
        return;
    }
    let setup = Setup::new(MASQUERADE);
    let _agent = setup.agent("");
    // GRE version 0 and ESP; the kernel tracks the one by itself, the other as any protocol.
    for (number, packet) in [(47, "0000080045000014"), (50, "0000100000000001")] {
        let mut server = setup.lab.server.python(RAW_ECHO, &[&number.to_string()]);
        server.expect("ready");
        let mut client = setup.lab.client.python(RAW_CLIENT, &[&number.to_string()]);
        for _ in 0..2 {
            client.say(packet);
            client.expect("ok");
        }
        let session = setup.only_session();
        assert_eq!(session.protocol, number);
        assert_eq!(addresses(&session.original), ("10.81.0.5".into(), "10.82.0.9".into()));
        assert_eq!(addresses(&session.translated), ("10.82.0.1".into(), "10.82.0.9".into()));
        let original = session.original.unwrap();
        assert_eq!((original.source_port, original.destination_port), (0, 0));
        setup.conntrack("-F");
        setup.server.wait_for(0);
    }
}

/// The kernel tells its connections apart by ports, the gateway could not.
#[test]
fn sctp_stays_in_the_kernel() {
    if !may_run("sctp") {
        return;
    }
    let setup = Setup::new(MASQUERADE);
    let agent = setup.agent("");
    let mut server = setup.lab.server.python(RAW_ECHO, &["132"]);
    server.expect("ready");
    // The handshake's INIT; the echo of it is no answer, so the entry is made by hand.
    let _client = setup.lab.client.python(RAW_CLIENT, &["132"]);
    setup
        .lab
        .vnf
        .sh("conntrack -I -p sctp -s 10.81.0.5 -d 10.82.0.9 --sport 5000 --dport 6000 --state ESTABLISHED \
         --orig-vtag 1 --reply-vtag 2 -t 600 -u SEEN_REPLY,ASSURED");
    super::recorder::wait("the entry", || setup.conntrack("-L -p sctp").contains("sport=5000"));
    // What comes later is installed.
    let _listener = setup.lab.listen(&setup.lab.server, "tcp", "10.82.0.9", 7000);
    let mut plain = setup.lab.connect(&setup.lab.client, "tcp", "10.82.0.9", 7000, 0);
    exchange(&mut plain, 1);
    assert_eq!(setup.only_session().protocol, 6);
    std::thread::sleep(SETTLE * 4);
    assert_eq!(setup.server.adds(), 1);
    let counters = agent.stop();
    assert!(counters.skipped["foreign"] >= 1, "{counters}");
}
