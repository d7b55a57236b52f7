//! Every rule of the configuration: what is reported, and on which line.
#![forbid(unsafe_code)]

use control::Endpoint;
use gateway::config::{Config, LoadError};
use pipeline::config::{Encapsulation, TrapLimits};
use std::path::Path;

const GOOD: &str = include_str!("good.toml");

fn problems(text: &str) -> Vec<String> {
    match Config::parse(Path::new("x.toml"), text) {
        Ok(_) => Vec::new(),
        Err(LoadError::Problems(problems)) => problems.iter().map(ToString::to_string).collect(),
        Err(other) => panic!("{other}"),
    }
}

/// `GOOD` with the only occurrence of `from` replaced.
fn edited(from: &str, to: &str) -> String {
    assert_eq!(GOOD.matches(from).count(), 1, "{from:?} must stand in good.toml once");
    GOOD.replace(from, to)
}

#[track_caller]
fn reports(from: &str, to: &str, expected: &[&str]) {
    let expected = expected.iter().map(|line| format!("x.toml:{line}")).collect::<Vec<_>>();
    assert_eq!(problems(&edited(from, to)), expected, "{from:?} → {to:?}");
}

#[test]
fn the_documented_configuration_is_good() {
    let config = Config::parse(Path::new("/etc/gw/x.toml"), GOOD).unwrap();
    assert_eq!(config.eal.workers, [1]);
    assert_eq!((config.eal.main_lcore, config.eal.hugepages, config.eal.memory_mib), (0, true, 512));
    assert_eq!(config.ports[0].device, "net_af_xdp0,iface=up-gw");
    assert_eq!((config.ports[0].mtu, config.ports[1].mtu), (Some(1600), None));
    assert_eq!(config.ports[0].mac, None);
    assert_eq!(config.pipeline.ports[1].mac, [2, 0, 0, 0, 0, 2]);
    let red = &config.pipeline.lifs[0];
    assert_eq!((red.id, red.encapsulation, red.trap_vni), (1, Encapsulation::Vlan(100), 10100));
    let blue = &config.pipeline.lifs[1];
    assert_eq!((blue.encapsulation, blue.trap_vni, blue.mtu), (Encapsulation::Vxlan(2000), 2000, 1500));
    assert_eq!(config.pipeline.underlay.as_ref().unwrap().neighbors.len(), 1);
    let limits = TrapLimits { arp_nd: 1000, new: 100_000, tcp_control: 100_000, exception: 1000 };
    assert_eq!(config.pipeline.trap.limits, limits);
    assert_eq!((config.sessions.capacity, config.sessions.timeouts.tcp), (1_000_000, 7440));
    assert_eq!(config.control.listen[1], Endpoint::Unix("/run/openoffload-gateway.sock".into()));
    assert_eq!(config.control.tls.unwrap().cert, Path::new("/etc/gw/server.crt"));
}

#[test]
fn descriptors_are_enough_for_what_is_handed_over_at_once() {
    for few in [64, 128, 300, 8192] {
        let found = problems(&edited("mtu = 1600", &format!("mtu = 1600\ntx_descriptors = {few}")));
        assert!(
            matches!(&found[..], [only] if only.contains("a power of two from 256 to 4096")),
            "{few}: {found:?}"
        );
    }
    const { assert!(2 * pipeline::PORT_BURST <= 256) };
    assert!(
        problems(&edited("mtu = 1600", "mtu = 1600\nrx_descriptors = 256\ntx_descriptors = 4096")).is_empty()
    );
}

#[test]
fn defaults() {
    let text = r#"
        [[port]]
        name = "kernel"
        device = "net_null0"
        [trap]
        port = "kernel"
        local_ip = "169.254.10.1"
        kernel_ip = "169.254.10.2"
    "#;
    let config = Config::parse(Path::new("x.toml"), text).unwrap();
    let full = Config::parse(Path::new("x.toml"), GOOD).unwrap();
    assert_eq!(config.eal, full.eal);
    assert_eq!(config.sessions, full.sessions);
    assert_eq!(config.pipeline.trap.limits, full.pipeline.trap.limits);
    assert_eq!(config.pipeline.trap.udp_port, 4789);
    assert_eq!(config.control.listen, [Endpoint::Unix("/run/openoffload-gateway.sock".into())]);
    assert!(config.control.tls.is_none() && !config.control.plaintext);
}

#[test]
fn empty_lists_where_nothing_is_a_choice() {
    reports("vteps = [\"192.0.2.9\"]", "vteps = []", &[]);
    reports("neighbors = [{ ip = \"192.0.2.9\", mac = \"02:00:00:00:02:09\" }]", "neighbors = []", &[]);
}

#[test]
fn routes_on_the_underlay() {
    let neighbors = "neighbors = [";
    let with = |lines: &str| edited(neighbors, &format!("{lines}\n{neighbors}"));
    let good = with("routes = [{ to = \"10.9.0.0/16\", via = \"192.0.2.254\" }]\ncopies = 7");
    let config = Config::parse(Path::new("x.toml"), &good).unwrap();
    let underlay = config.pipeline.underlay.unwrap();
    let route = underlay.routes[0];
    assert_eq!(
        (route.to.to_string(), route.prefix, route.via.to_string()),
        ("10.9.0.0".to_owned(), 16, "192.0.2.254".to_owned())
    );
    assert_eq!(underlay.copies, 7);
    for (routes, expected) in [
        (
            "{ to = \"10.9.0.0\", via = \"192.0.2.254\" }",
            "[underlay] routes: to = \"10.9.0.0\" is wrong: write \"IP/LENGTH\", such as \"10.9.0.0/16\"",
        ),
        (
            "{ to = \"10.9.0.1/16\", via = \"192.0.2.254\" }",
            "underlay: route to 10.9.0.1/16: write the prefix's first address and length, of local_ip's family",
        ),
        (
            "{ to = \"2001:db8::/32\", via = \"192.0.2.254\" }",
            "underlay: route to 2001:db8::/32: write the prefix's first address and length, of local_ip's family",
        ),
        (
            "{ to = \"10.9.0.0/16\", via = \"192.0.2.1\" }",
            "underlay: route via 192.0.2.1: a router is another unicast address of local_ip's family, and on the link: name one",
        ),
        (
            "{ to = \"10.9.0.0/16\", via = \"192.0.2.7\" }, { to = \"10.9.0.0/16\", via = \"192.0.2.8\" }",
            "underlay: route to 10.9.0.0/16 is there twice: remove one",
        ),
        (
            "{ to = \"10.9.0.0/16\" }",
            "[underlay] routes: via is missing: write via = \"IP\" of a router on the underlay's link",
        ),
    ] {
        assert_eq!(problems(&with(&format!("routes = [{routes}]"))), [format!("x.toml:20: {expected}")]);
    }
}

#[test]
fn a_wrong_value_hides_no_other_problem() {
    let text = edited("id = 2\n", "id = 1\n");
    let text = text.replace("vlan = 100", "vlan = 9999").replace("name = \"blue\"", "name = \"red\"");
    let text = text.replace("port = \"uplink\"\nvni", "port = \"nowhere\"\nvni");
    let expected = [
        r#"x.toml:26: [[lif]] "red": vlan = 9999 is wrong: write a VLAN from 1 to 4094"#,
        r#"x.toml:30: lif "red": id 1 belongs to another lif: give one of them another id"#,
        r#"x.toml:31: lif "red" is there twice: give one of them another name"#,
        r#"x.toml:32: [[lif]] "red": port = "nowhere" is wrong: write "uplink" or "kernel""#,
    ];
    assert_eq!(problems(&text), expected);
}

#[test]
fn values() {
    const MAC: &str = r#"write a unicast MAC address such as "02:00:00:00:00:01""#;
    const NAME: &str =
        "write a name of at most 32 letters, digits, '-', '_' and '.', beginning with a letter or digit";
    reports(
        "workers = [1]",
        "workers = [1.5]",
        &["2: [eal]: workers: 1.5 is wrong: write an lcore from 0 to 1023"],
    );
    reports(
        "workers = [1]",
        "workers = []",
        &["2: [eal]: workers = [] is wrong: write [ … ], each an lcore from 0 to 1023"],
    );
    reports(
        "workers = [1]",
        "workers = 1",
        &["2: [eal]: workers = 1 is wrong: write [ … ], each an lcore from 0 to 1023"],
    );
    reports(
        "main_lcore = 0",
        "main_lcore = -1",
        &["3: [eal]: main_lcore = -1 is wrong: write an lcore from 0 to 1023"],
    );
    reports(
        "hugepages = true",
        "hugepages = \"yes\"",
        &[r#"4: [eal]: hugepages = "yes" is wrong: write true or false"#],
    );
    reports(
        "memory_mib = 512",
        "memory_mib = 8",
        &["5: [eal]: memory_mib = 8 is wrong: write MiB from 64 to 1048576"],
    );
    reports(
        "memory_mib = 512",
        "numa = 32",
        &["5: [eal]: numa = 32 is wrong: write a NUMA node from 0 to 31"],
    );
    reports(
        "mtu = 1600",
        "mtu = 65536",
        &[r#"10: [[port]] "uplink": mtu = 65536 is wrong: write bytes from 68 to 65535"#],
    );
    reports(
        "mtu = 1600",
        "mac = \"01:00:00:00:00:01\"",
        &[&format!(r#"10: [[port]] "uplink": mac = "01:00:00:00:00:01" is wrong: {MAC}"#)],
    );
    reports(
        "name = \"kernel\"",
        "name = \"ker/nel\"",
        &[
            &format!(r#"12: [[port]]: name = "ker/nel" is wrong: {NAME}"#),
            r#"37: [trap]: port = "kernel" is wrong: write "uplink""#,
        ],
    );
    reports(
        "\"net_af_packet0,iface=trap-gw\"",
        "\"eth 1\"",
        &[
            r#"13: [[port]] "kernel": device = "eth 1" is wrong: write a PCI address such as "0000:01:00.0" or a DPDK vdev such as "net_af_packet0,iface=eth1""#,
        ],
    );
    reports(
        "mac = \"02:00:00:00:02:09\"",
        "mac = \"02:00:00:00:02\"",
        &[&format!(r#"20: [underlay] neighbors: mac = "02:00:00:00:02" is wrong: {MAC}"#)],
    );
    reports(
        "id = 1\n",
        "id = 0\n",
        &[r#"23: [[lif]] "red": id = 0 is wrong: write a number from 1 to 2147483647"#],
    );
    reports(
        "vlan = 100",
        "vlan = 4095",
        &[r#"26: [[lif]] "red": vlan = 4095 is wrong: write a VLAN from 1 to 4094"#],
    );
    reports(
        "vni = 2000",
        "vni = 0x1000000",
        &[r#"33: [[lif]] "blue": vni = 0x1000000 is wrong: write a VNI from 1 to 16777215"#],
    );
}

#[test]
fn values_of_trap_sessions_control() {
    const NO_HOST: &str = r#"is wrong: write "IPv4", the gateway's end of the trap link"#;
    for ip in ["224.0.0.1", "0.0.0.0", "255.255.255.255", "127.0.0.1", "2001:db8::1", "169.254.10"] {
        let expected = format!("38: [trap]: local_ip = {ip:?} {NO_HOST}");
        reports("local_ip = \"169.254.10.1\"", &format!("local_ip = {ip:?}"), &[&expected]);
    }
    reports(
        "new = 100000",
        "new = -5",
        &["42: [trap] limits: new = -5 is wrong: write packets per second from 0 to 4294967295"],
    );
    reports(
        "capacity = 1000000",
        "capacity = 0",
        &["45: [sessions]: capacity = 0 is wrong: write sessions from 1 to 536870912"],
    );
    reports(
        "tcp = 7440",
        "tcp = 0",
        &["46: [sessions] timeout: tcp = 0 is wrong: write seconds from 1 to 2097152"],
    );
    reports(
        "\"127.0.0.1:3443\", ",
        "\"localhost:3443\", ",
        &[r#"49: [control]: listen: "localhost:3443" is wrong: write "IP:PORT" or "unix:/absolute/path""#],
    );
    reports(
        "plaintext = false",
        "plaintext = 0",
        &["51: [control]: plaintext = 0 is wrong: write true or false"],
    );
    reports(
        "plaintext = false",
        "[log]\nlevel = \"loud\"",
        &[r#"52: [log]: level = "loud" is wrong: write "error", "warn", "info", "debug" or "trace""#],
    );
}

#[test]
fn missing_keys() {
    reports(
        "name = \"uplink\"\n",
        "\n",
        &[
            "7: [[port]]: name is missing: write name = a name of at most 32 letters, digits, '-', '_' and '.', beginning with a letter or digit",
            r#"16: [underlay]: port = "uplink" is wrong: write "kernel""#,
            r#"25: [[lif]] "red": port = "uplink" is wrong: write "kernel""#,
            r#"32: [[lif]] "blue": port = "uplink" is wrong: write "kernel""#,
        ],
    );
    reports(
        "trap_vni = 10100\n",
        "\n",
        &[
            r#"22: [[lif]] "red": trap_vni is missing: write trap_vni = a VNI from 1 to 16777215, the one the kernel sees"#,
        ],
    );
    reports(
        "vlan = 100\n",
        "\n",
        &[
            r#"22: [[lif]] "red": encapsulation is missing: write exactly one of vlan = N, vni = N, untagged = true"#,
        ],
    );
    reports(
        "kernel_ip = \"169.254.10.2\"\n",
        "\n",
        &[r#"36: [trap]: kernel_ip is missing: write kernel_ip = "IPv4", the kernel's end of the trap link"#],
    );
    assert_eq!(
        problems(""),
        [
            "x.toml:1: [trap] is missing: write [trap] with port, local_ip and kernel_ip",
            "x.toml:1: no port: write [[port]] with name = \"uplink\" and device = \"…\"",
        ]
    );
}

#[test]
fn unknown_keys_and_sections() {
    reports("mtu = 1600", "mtux = 1600", &[r#"10: [[port]] "uplink": unknown key mtux: did you mean mtu?"#]);
    reports(
        "udp_port = 4789\nneighbors",
        "colour = 1\nneighbors",
        &[
            "19: [underlay]: unknown key colour: known here: port, vlan, local_ip, udp_port, neighbors, routes, copies",
        ],
    );
    reports(
        "[trap]",
        "[trapp]",
        &[
            "1: [trap] is missing: write [trap] with port, local_ip and kernel_ip",
            "36: the file: unknown key trapp: did you mean trap?",
        ],
    );
    reports("[eal]", "[[eal]]", &["1: [eal] stands here more than once, as [[eal]]: write one [eal]"]);
    reports(
        "[trap]",
        "[extra]\nx = 1\n[trap]",
        &[
            "36: the file: unknown key extra: known here: eal, port, underlay, lif, trap, sessions, control, activation, log",
        ],
    );
}

#[test]
fn rules_between_values() {
    reports(
        "workers = [1]",
        "workers = [1, 0, 1]",
        &[
            "2: [eal]: worker 0 is main_lcore too: write another lcore for one of them",
            "2: [eal]: worker 1 is there already, on line 2: write each lcore once",
        ],
    );
    reports(
        "device = \"net_af_packet0,iface=trap-gw\"",
        "device = \"net_af_xdp0,iface=trap-gw\"",
        &["13: [[port]]: device net_af_xdp0 is taken on line 9: write another device (vdevs are numbered)"],
    );
    reports(
        "mtu = 1500",
        "vni = 5",
        &[
            r#"28: [[lif]] "red": more than one encapsulation: write exactly one of vlan = N, vni = N, untagged = true"#,
        ],
    );
    reports(
        "mtu = 1500",
        "vteps = [\"192.0.2.9\"]",
        &[r#"28: [[lif]] "red": vteps is for VXLAN LIFs: leave it out, or write vni = N"#],
    );
}

#[test]
fn pipeline_rules() {
    let red_again =
        "[[lif]]\nid = 1\nname = \"red\"\nport = \"uplink\"\nvlan = 100\ntrap_vni = 10100\n[trap]";
    reports(
        "[trap]",
        red_again,
        &[
            "37: lif \"red\": id 1 belongs to another lif: give one of them another id",
            "38: lif \"red\" is there twice: give one of them another name",
            "40: lif \"red\": vlan 100 is taken by lif \"red\": use another tag or port",
            "41: lif \"red\": trap_vni 10100 belongs to another lif: give one of them another",
        ],
    );
    reports(
        "vlan = 100",
        "vlan = 2",
        &["26: lif \"red\": vlan 2 is taken by the underlay: use another tag or port"],
    );
    reports(
        "vteps = [\"192.0.2.9\"]",
        "vteps = [\n\"2001:db8::9\",\n\"192.0.2.1\"]",
        &[
            "35: lif \"blue\": vtep 2001:db8::9 is of another family than the underlay's local_ip: use one of the same",
            "36: lif \"blue\": vtep 192.0.2.1 is the gateway itself or no unicast address: remove it",
        ],
    );
    reports(
        "neighbors = [{ ip = \"192.0.2.9\"",
        "neighbors = [{ ip = \"192.0.2.1\"",
        &[
            "20: underlay: neighbor 192.0.2.1 is of another family than local_ip, local_ip itself, or no unicast address: remove it",
        ],
    );
    reports(
        "kernel_ip = \"169.254.10.2\"",
        "kernel_ip = \"169.254.10.1\"",
        &["36: trap: local_ip and kernel_ip are the same: they are two ends of a link"],
    );
    let underlay = &GOOD[GOOD.find("[underlay]").unwrap()..GOOD.find("[[lif]]").unwrap()];
    reports(underlay, "", &["26: lif \"blue\" is a VXLAN and there is no underlay: configure one"]);
}

#[test]
fn what_only_follows_from_another_problem_is_not_reported() {
    reports(
        "[trap]\nport = \"kernel\"",
        "[trap]\nport = \"kernal\"",
        &["37: [trap]: port = \"kernal\" is wrong: write \"uplink\" or \"kernel\""],
    );
    reports(
        "[underlay]\nport = \"uplink\"",
        "[underlay]\nport = \"up\"",
        &["16: [underlay]: port = \"up\" is wrong: write \"uplink\" or \"kernel\""],
    );
    reports(
        "local_ip = \"192.0.2.1\"",
        "local_ip = \"192.0.2\"",
        &["18: [underlay]: local_ip = \"192.0.2\" is wrong: write \"IP\", the gateway's VTEP address"],
    );
}

#[test]
fn control_rules() {
    let tls = "tls = { cert = \"server.crt\", key = \"server.key\", client_ca = \"ca.crt\" }\n";
    reports(
        tls,
        "\n",
        &[
            r#"49: [control]: 127.0.0.1:3443 would serve TCP without TLS: write tls = { cert = "…", key = "…" }, or plaintext = true if that is what you want"#,
        ],
    );
    reports(&format!("{tls}plaintext = false"), "plaintext = true", &[]);
    reports("plaintext = false", "admins = [\"ops.example\"]", &[]);
    reports(
        ", client_ca = \"ca.crt\" }\nplaintext = false",
        " }\nadmins = [\"ops.example\"]",
        &[
            "51: [control]: admins are told apart by certificates: write client_ca in tls, or leave admins out",
        ],
    );
    reports(
        "plaintext = false",
        "plaintext = true",
        &["51: [control]: plaintext = true contradicts tls: leave one of them out"],
    );
    reports(
        "\"127.0.0.1:3443\", ",
        "\"unix:/run/openoffload-gateway.sock\", ",
        &[
            "49: [control]: unix:/run/openoffload-gateway.sock is there already, on line 49: write each address once",
        ],
    );
    reports(
        "key = \"server.key\", ",
        "",
        &[r#"50: [control] tls: key is missing: write key = "FILE", the certificate's PEM private key"#],
    );
}

#[test]
fn syntax_errors_are_reported_with_the_rest_that_can_be_trusted() {
    let text = edited("memory_mib = 512", "memory_mib 512").replace("vlan = 100", "vlan = 5000");
    let found = problems(&text);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].starts_with("x.toml:5: not TOML: "), "{}", found[0]);
    assert!(found[0].ends_with(": memory_mib 512"), "{}", found[0]);
    assert!(found[1].starts_with(r#"x.toml:26: [[lif]] "red": vlan = 5000"#), "{}", found[1]);
    let found = problems("a = \n[b\n");
    assert!(found.len() >= 2 && found.iter().all(|line| line.contains("not TOML")), "{found:#?}");
    let found = problems("[eal]\nmain_lcore = 0\nmain_lcore = 0\n");
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0], "x.toml:3: not TOML: duplicate key: main_lcore = 0");
}

#[test]
fn everything_wrong_is_reported_at_once() {
    let text = GOOD
        .replace("workers = [1]", "workers = [\"a\", 2000]")
        .replace("mtu = 1600", "mtx = 1600")
        .replace("vlan = 2\n", "vlan = 9999\n")
        .replace("vni = 2000", "vni = 0")
        .replace("capacity = 1000000", "capacity = \"many\"")
        .replace("kernel_ip = \"169.254.10.2\"\n", "\n");
    let lines = problems(&text)
        .iter()
        .map(|problem| problem.split(':').nth(1).unwrap().parse::<usize>().unwrap())
        .collect::<Vec<_>>();
    assert_eq!(lines, [2, 2, 10, 17, 33, 36, 45]);
}

#[test]
fn activation() {
    let parse = |section: &str| Config::parse(Path::new("/etc/gw/x.toml"), &format!("{GOOD}{section}"));
    assert!(parse("").unwrap().activation.is_none(), "always active");
    let text = r#"
[activation]
vnf = ["https://192.0.2.5:3443", "http://[::1]:50051"]
name = "edge-1"
description = "Example Inc., software"
rate = 5000
tls = { ca = "vnf.crt", cert = "gw.crt", key = "gw.key", server_name = "vnf" }
"#;
    let activation = parse(text).unwrap().activation.unwrap();
    assert_eq!(activation.vnfs[0].endpoint.to_string(), "192.0.2.5:3443");
    let tls = activation.vnfs[0].tls.as_ref().unwrap();
    assert_eq!((tls.ca.as_path(), tls.server_name.as_deref()), (Path::new("/etc/gw/vnf.crt"), Some("vnf")));
    assert!(activation.vnfs[1].tls.is_none());
    let device = activation.device;
    assert_eq!((device.name.as_str(), device.description.as_str()), ("edge-1", "Example Inc., software"));
    assert_eq!(
        (device.capacity, device.rate, device.tcp_timeout, device.udp_timeout),
        (1_000_000, 5000, 7440, 300)
    );
}

#[test]
fn activation_problems() {
    let line = GOOD.lines().count() + 1;
    for (text, at, expected) in [
        ("[activation]\nname = \"a\"", 0, "vnf is missing"),
        ("[activation]\nvnf = []\nname = \"a\"", 1, "vnf = [] is wrong"),
        ("[activation]\nvnf = [\"http://1.2.3.4:1\"]", 0, "name is missing"),
        ("[activation]\nvnf = [\"1.2.3.4:1\"]\nname = \"a\"", 1, "https://IP:PORT"),
        ("[activation]\nvnf = [\"http://1.2.3.4:0\"]\nname = \"a\"", 1, "https://IP:PORT"),
        ("[activation]\nvnf = [\"https://1.2.3.4:1\"]\nname = \"a\"", 1, "write tls = { ca = \"FILE\" }"),
        (
            "[activation]\nvnf = [\"https://1.2.3.4:1\"]\nname = \"a\"\ntls = { ca = \"x\", key = \"y\" }",
            3,
            "both cert and key",
        ),
        ("[activation]\nvnf = [\"http://1.2.3.4:1\"]\nname = \"a\"\nvendor = \"b\"", 3, "unknown key vendor"),
    ] {
        let found = problems(&format!("{GOOD}{text}\n"));
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert!(found[0].starts_with(&format!("x.toml:{}:", line + at)), "{text}: {found:?}");
        assert!(found[0].contains(expected), "{text}: {found:?}");
    }
}
