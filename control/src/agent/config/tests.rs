use super::*;

const GOOD: &str = r#"
[gateway]
connect = "unix:/run/gateway.sock"
[offload]
protocols = ["tcp", "udp", "icmp", 50]
exclude_mark = "0x10/0xf0"
[[interface]]
name = "eth0"
lif = 1
[[interface]]
name = "eth1"
lif = 2
"#;

#[test]
fn a_good_file_becomes_typed() {
    let config = AgentConfig::from_toml(GOOD, "agent.toml").unwrap();
    assert_eq!(config.policy.protocols, [1, 6, 17, 50]);
    assert_eq!(config.policy.exclude_mark, Some((0x10, 0xf0)));
    assert_eq!(config.interfaces["eth1"], 2);
    assert_eq!(config.tag, DEFAULT_TAG);
    assert!(!config.keep_on_exit);
}

#[test]
fn every_error_is_reported_at_once_with_its_line() {
    let text = GOOD
        .replace("unix:/run", "ftp:/run")
        .replace("50]", "\"gre\", 300]")
        .replace("0x10/0xf0", "0x11/0xf0")
        .replace("lif = 2", "lif = 1");
    let errors = AgentConfig::from_toml(&text, "agent.toml").unwrap_err();
    let lines: Vec<usize> = errors.errors.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [3, 12, 5, 5, 6], "{errors}");
    assert!(errors.to_string().starts_with("agent.toml:3: gateway.connect"));
}

#[test]
fn unknown_keys_are_refused() {
    let errors = AgentConfig::from_toml(&GOOD.replace("protocols", "protocol"), "agent.toml").unwrap_err();
    assert_eq!(errors.errors[0].0, 5);
    assert!(errors.to_string().contains("unknown field `protocol`"), "{errors}");
}

#[test]
fn tls_fits_its_address() {
    let https = GOOD.replace("unix:/run/gateway.sock", "https://127.0.0.1:3443");
    assert!(AgentConfig::from_toml(&https, "f").unwrap_err().to_string().contains("needs gateway.tls"));
    let half = https.replace("3443\"", "3443\"\ntls = { ca = \"ca.crt\", cert = \"a.crt\" }");
    assert!(AgentConfig::from_toml(&half, "f").unwrap_err().to_string().contains("cert and key go together"));
    let full = https.replace("3443\"", "3443\"\ntls = { ca = \"ca.crt\" }");
    assert!(AgentConfig::from_toml(&full, "f").is_ok());
}

#[test]
fn ports_are_numbers_and_ranges() {
    let with = |ports: &str| GOOD.replace("[offload]", &format!("[offload]\nexclude_ports = {ports}"));
    let config = AgentConfig::from_toml(&with("[53, \"5000-5999\"]"), "f").unwrap();
    assert_eq!(config.policy.exclude_ports, [(53, 53), (5000, 5999)]);
    for wrong in ["[0]", "[70000]", "[\"9-8\"]", "[\"x\"]", "[\"80\"]"] {
        let errors = AgentConfig::from_toml(&with(wrong), "f").unwrap_err();
        assert_eq!(errors.errors.len(), 1, "{wrong}: {errors}");
    }
}

#[test]
fn activation_has_its_rules() {
    let with = |section: &str| format!("{GOOD}[activation]\n{section}\n");
    let text = with(
        "listen = [\"unix:/run/vnf.sock\"]\n[[activation.device]]\nname = \"red\"\nconnect = \"http://[::1]:1\"",
    );
    let activation = AgentConfig::from_toml(&text, "f").unwrap().activation.unwrap();
    assert_eq!(activation.devices[0].name, "red");
    assert_eq!(activation.devices[0].gateway.as_ref().unwrap().address, "http://[::1]:1");
    for (section, wanted) in [
        ("listen = []", "name at least one"),
        ("listen = [\"localhost\"]", "no endpoint"),
        ("listen = [\"0.0.0.0:1\"]", "without TLS"),
        ("listen = [\"unix:/a\"]\ndevice = [{ name = \"a\" }, { name = \"a\" }]", "name of its own"),
        (
            "listen = [\"unix:/a\"]\ndevice = [{ name = \"a\", connect = \"https://b\" }]",
            "activation.device.tls",
        ),
    ] {
        let errors = AgentConfig::from_toml(&with(section), "f").unwrap_err();
        assert!(errors.to_string().contains(wanted), "{errors}");
    }
    assert!(AgentConfig::from_toml(&with("listen = [\"0.0.0.0:1\"]\nplaintext = true"), "f").is_ok());
}

#[test]
fn the_gateways_file_is_told() {
    let text = include_str!("../../../../share/examples/gateway.toml");
    let error = AgentConfig::from_toml(text, "gw.toml").unwrap_err().to_string();
    assert_eq!(error, format!("gw.toml: {GATEWAYS}"));
}
