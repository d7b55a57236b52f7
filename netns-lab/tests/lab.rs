//! The lab by itself: what it puts on the gateway's ports, and that it leaves nothing behind. Needs root.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use netns_lab::plan::{BLUE1, GREEN1, HOSTS, Host, RED, RED1, RED2, UPLINK_MAC, VIOLET1, mac};
use netns_lab::traffic::{self, Iperf};
use netns_lab::{Lab, Netns, Process, cleanup};

const LIMIT: Duration = Duration::from_secs(20);

/// Captures what `filter` matches on `device`, from before `stimulus` on, until all that is `expected` is in the text, which has
/// a line per frame: others may send before.
fn capture(lab: &Lab, netns: &Netns, device: &str, filter: &str, expected: &[String], stimulus: impl Fn()) {
    let log = lab.directory().join("tcpdump.log");
    let argv = ["tcpdump", "-l", "-e", "-n", "-i", device, filter];
    let mut tcpdump = Process::spawn(netns, &argv, &log).unwrap();
    let listening = |text: &str| text.contains("listening on");
    tcpdump
        .wait_until("listening", LIMIT, || listening(&std::fs::read_to_string(&log).unwrap_or_default()))
        .unwrap();
    stimulus();
    let seen = || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        expected.iter().all(|part| text.contains(part))
    };
    tcpdump.wait_until(&expected.join(" and "), LIMIT, seen).unwrap();
    tcpdump.stop().unwrap();
    std::fs::remove_file(&log).unwrap();
}

fn ping(lab: &Lab, from: &Host, to: &str) -> bool {
    let argv = ["ping", "-n", "-c", "1", "-W", "1", to];
    lab.ns(from.name).unwrap().output(&argv, LIMIT).unwrap().status.success()
}

#[test]
fn tenants_frames_carry_their_tags_on_the_uplink() {
    cleanup::on_signals();
    let lab = Lab::up().unwrap();
    let gw = lab.ns("gw").unwrap();

    for (host, vlan, gateway) in
        [(RED1, 100, "10.1.0.1"), (RED2, 100, "10.1.0.1"), (GREEN1, 200, "203.0.113.1")]
    {
        let expected = [
            format!("vlan {vlan}, p 0, ethertype ARP"),
            format!("{} > ff:ff:ff:ff:ff:ff", mac(host.mac())),
            format!("who-has {gateway} tell {}", host.ipv4()),
        ];
        capture(&lab, gw, "up-gw", "vlan and arp", &expected, || assert!(!ping(&lab, &host, gateway)));
    }

    // VXLAN: the VTEP's neighbour entry stands in for the gateway's ARP answer.
    let vtep = lab.ns("vtep").unwrap();
    vtep.ip(&format!("neigh replace 192.0.2.1 lladdr {} dev underlay", mac(UPLINK_MAC))).unwrap();
    for (host, vni, gateway) in [(BLUE1, 2000, "198.51.100.1"), (VIOLET1, 3000, "10.3.0.1")] {
        let expected = [
            format!("> {}, ethertype 802.1Q", mac(UPLINK_MAC)),
            "vlan 2, p 0, ethertype IPv4".to_owned(),
            "192.0.2.1.4789: VXLAN".to_owned(),
            format!("vni {vni}"),
        ];
        capture(&lab, gw, "up-gw", "vlan", &expected, || assert!(!ping(&lab, &host, gateway)));
    }
}

#[test]
fn the_kernel_puts_a_vnfs_frames_into_its_lifs_vni() {
    cleanup::on_signals();
    let lab = Lab::up().unwrap();
    lab.ns("kernel").unwrap().ip("neigh replace 169.254.10.1 lladdr 02:00:00:00:10:01 dev trap-k").unwrap();
    let gw = lab.ns("gw").unwrap();
    let a = lab.ns("A").unwrap();
    let vni = format!("vni {}", RED.trap_vni);
    let expected = ["169.254.10.2", "169.254.10.1.4789: VXLAN", &vni, "who-has 10.1.0.5 tell 10.1.0.1"]
        .map(str::to_owned);
    capture(&lab, gw, "trap-gw", "udp port 4789", &expected, || {
        assert!(!a.output(&["ping", "-c", "1", "-W", "1", "10.1.0.5"], LIMIT).unwrap().status.success());
    });
}

/// Two labs wired back to back at the gateway's uplinks: frames come out of the tagger as they went in.
#[test]
fn tags_survive_the_way_there_and_back() {
    cleanup::on_signals();
    let (one, two) = (Lab::up().unwrap(), Lab::up().unwrap());
    for (lab, tenant) in [(&one, "red1"), (&two, "red2")] {
        // Without a gateway, a bridge joins the two uplinks: gw of `one` gets a port to gw of `two`.
        let gw = lab.ns("gw").unwrap();
        gw.ip("link add join type bridge stp_state 0 forward_delay 0 mcast_snooping 0").unwrap();
        gw.ip("link set up-gw master join").unwrap();
        gw.ip("link set join up").unwrap();
        assert!(lab.ns(tenant).unwrap().ip("addr").unwrap().contains("10.1.0."));
    }
    let (left, right) = (one.ns("gw").unwrap(), two.ns("gw").unwrap());
    left.ip(&format!(
        "link add wire mtu 1600 master join type veth peer name wire mtu 1600 netns {}",
        right.name()
    ))
    .unwrap();
    left.ip("link set wire up").unwrap();
    right.ip("link set wire up master join").unwrap();
    // The same host in both labs would answer twice.
    one.ns("red2").unwrap().ip("link set eth0 down").unwrap();
    two.ns("red1").unwrap().ip("link set eth0 down").unwrap();

    // The new bridges take a moment.
    assert!((0..20).any(|_| ping(&one, &RED1, &RED2.ipv4().to_string())), "IPv4 over VLAN 100");
    assert!((0..20).any(|_| ping(&one, &RED1, &RED2.ipv6().to_string())), "IPv6 over VLAN 100");
    let full = ["ping", "-n", "-c", "1", "-W", "2", "-M", "do", "-s", "1472", "10.1.0.6"];
    one.ns("red1").unwrap().run(&full, LIMIT).unwrap();
    // Green is another VLAN: nothing crosses.
    assert!(!ping(&one, &GREEN1, &RED2.ipv4().to_string()));
}

#[test]
fn a_lab_leaves_nothing_behind() {
    cleanup::on_signals();
    let (id, directory, pid) = {
        let lab = Lab::up().unwrap();
        assert_eq!(cleanup::namespaces(lab.id()).len(), 4 + HOSTS.len() + 3);
        let log = lab.directory().join("sleep.log");
        let sleep = Process::spawn(lab.ns("red1").unwrap(), &["sleep", "1000"], &log).unwrap();
        let pid = sleep.pid();
        // As if the guard had been lost: the lab itself finds the process.
        std::mem::forget(sleep);
        (lab.id().to_owned(), lab.directory().to_owned(), pid)
    };
    assert!(cleanup::namespaces(&id).is_empty());
    assert!(!directory.exists());
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "still runs: {stat}");
}

/// Whoever copies a line needs nothing on the PATH.
#[test]
fn the_next_steps_name_programs_that_are_there() {
    let own = env!("CARGO_BIN_EXE_netns-lab");
    let name = format!("next{}", std::process::id());
    let run = |command| {
        let arguments = [command, "--name", &name];
        let output = Command::new(own).args(arguments).env("GATEWAY_BIN", own).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let up = run("up");
    run("down");
    let steps = up.lines().filter_map(|line| line.strip_prefix("  ")).collect::<Vec<_>>();
    assert!(steps.iter().any(|step| step.contains(" gw ")), "{up}");
    for step in steps {
        let programs =
            step.split(' ').filter(|word| word.ends_with("netns-lab") || word.ends_with("gateway"));
        let programs = programs.collect::<Vec<_>>();
        assert!(
            !programs.is_empty() && programs.iter().all(|program| Path::new(program).is_absolute()),
            "{step}"
        );
    }
}

#[test]
fn a_killed_owners_lab_is_found_and_removed() {
    cleanup::on_signals();
    // This test program again, as a process that gets killed with its lab up.
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "holds_a_lab"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let prefix = format!("{}.", child.id());
    let end = std::time::Instant::now() + Duration::from_secs(60);
    let lab = loop {
        let mut labs = cleanup::labs().into_iter().filter(|lab| lab.starts_with(&prefix));
        match labs.next() {
            Some(lab) if cleanup::namespaces(&lab).len() == 4 + HOSTS.len() + 3 => break lab,
            _ => assert!(
                std::time::Instant::now() < end && child.try_wait().unwrap().is_none(),
                "no lab came up"
            ),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    child.kill().unwrap();
    child.wait().unwrap();
    // Another test's lab may have come first and removed it.
    cleanup::remove_dead();
    assert!(cleanup::namespaces(&lab).is_empty());
    assert!(!cleanup::labs().contains(&lab));
}

#[test]
fn a_signal_takes_the_lab_down() {
    for signal in [nix::sys::signal::Signal::SIGINT, nix::sys::signal::Signal::SIGTERM] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture", "holds_a_lab"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let prefix = format!("{}.", child.id());
        let end = std::time::Instant::now() + Duration::from_secs(60);
        while !cleanup::labs().iter().any(|lab| lab.starts_with(&prefix)) {
            assert!(std::time::Instant::now() < end, "no lab came up");
            std::thread::sleep(Duration::from_millis(5));
        }
        // In the middle of the set-up.
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(128 + signal as i32));
        assert!(!cleanup::labs().iter().any(|lab| lab.starts_with(&prefix)));
    }
}

/// Not a test: what the tests above run, to be ended by them.
#[test]
#[ignore = "run by other tests"]
fn holds_a_lab() {
    cleanup::on_signals();
    let _lab = Lab::up().unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

/// Two tenants of one VLAN meet in the fabric, without the gateway.
#[test]
fn traffic_helpers_measure_real_traffic() {
    cleanup::on_signals();
    let lab = Lab::up().unwrap();
    let _iperf = traffic::iperf_server(&lab, &RED2, 5201).unwrap();
    let _dns = traffic::dns_server(&lab, &RED2).unwrap();

    let tcp = Iperf::tcp(RED2.ipv4().into(), 5201, 1).run(&lab, &RED1).unwrap();
    assert!(tcp.bytes > 1_000_000 && tcp.bits_per_second > 1e6, "{tcp:?}");
    let udp = Iperf { udp_rate: Some(1_000_000), ..Iperf::tcp(RED2.ipv6().into(), 5201, 1) };
    let udp = udp.run(&lab, &RED1).unwrap();
    assert!(udp.bytes > 50_000 && udp.loss < 0.5, "{udp:?}");
    let error = Iperf::tcp(RED2.ipv4().into(), 5202, 1).run(&lab, &RED1).unwrap_err().to_string();
    assert!(error.contains("refused"), "{error}");

    let answer = traffic::dns_query(&lab, &RED1, RED2.ipv4().into(), 53, 5353).unwrap();
    assert_eq!(answer, traffic::DNS_ADDRESS);
    assert_eq!(traffic::ping(&lab, &RED1, RED2.ipv6().into(), 3).unwrap(), 3);
    assert_eq!(traffic::ping(&lab, &RED1, RED.ipv4(77).into(), 1).unwrap(), 0);
}
