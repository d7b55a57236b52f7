//! The binary from outside: exit codes, and what it prints where.
#![forbid(unsafe_code)]

use nix::unistd::Uid;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn gateway(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gateway")).args(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn write(dir: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

#[test]
fn version_and_usage() {
    let version = gateway(&["--version"]);
    assert!(version.status.success());
    assert_eq!(stdout(&version), format!("gateway {}\n", env!("CARGO_PKG_VERSION")));
    for args in [&[][..], &["nonsense"], &["check"], &["check", "--config"]] {
        assert_eq!(gateway(args).status.code(), Some(2), "{args:?}");
    }
}

/// What is installed beside the program runs in its place where the processor can run it, with the same arguments; if it cannot
/// be run, the program says so and goes on.
#[test]
#[cfg(target_arch = "x86_64")]
fn the_build_for_the_processor_is_preferred() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("gateway");
    // By another process: a program that this one holds open for writing cannot be run, nor while a test beside this one has
    // forked and holds it too.
    let install = |from: &Path, to: &Path| {
        assert!(Command::new("install").arg("-m755").args([from, to]).status().unwrap().success());
    };
    install(Path::new(env!("CARGO_BIN_EXE_gateway")), &program);
    let version = || Command::new(&program).args(["--version", "a b"]).output().unwrap();
    let portable = format!("gateway {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(stdout(&version()), portable);

    let sibling = dir.path().join("gateway-x86-64-v3");
    install(&write(dir.path(), "script", "#!/bin/sh\nprintf '%s|' sibling \"$@\"\n"), &sibling);
    if !std::arch::is_x86_feature_detected!("avx2") {
        assert_eq!(stdout(&version()), portable);
        return;
    }
    assert_eq!(stdout(&version()), "sibling|--version|a b|");

    std::fs::set_permissions(&sibling, PermissionsExt::from_mode(0o644)).unwrap();
    let output = version();
    assert_eq!(stdout(&output), portable);
    assert!(stderr(&output).contains("gateway-x86-64-v3: Permission denied"), "{}", stderr(&output));
}

#[test]
fn check_warns_of_keys_it_cannot_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "good.toml", include_str!("good.toml"));
    let output = gateway(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), format!("{}: good: 2 ports, 2 LIFs\n", file.display()));
    let warnings = stderr(&output);
    assert_eq!(warnings.lines().count(), 3, "{warnings}");
    let first = format!(
        "warning: {}:50: [control] tls: cert = \"{}\"",
        file.display(),
        dir.path().join("server.crt").display()
    );
    assert!(warnings.starts_with(&first), "{warnings}");
}

#[test]
fn check_warns_of_a_node_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let text = include_str!("golden/gateway.toml").to_owned() + "\n[eal]\nnuma = 31\n";
    let line = text.lines().position(|line| line == "numa = 31").unwrap() + 1;
    let file = write(dir.path(), "far.toml", text);
    let output = gateway(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let warning =
        format!("warning: {}:{line}: [eal]: numa = 31: this machine has no memory there", file.display());
    assert!(stderr(&output).starts_with(&warning), "{}", stderr(&output));
}

/// What `run` refuses or warns of; the file may be for another machine.
#[test]
fn check_warns_of_what_does_not_run_here() {
    let dir = tempfile::tempdir().unwrap();
    let text = "[eal]\nworkers = [1023]\n".to_owned() + include_str!("golden/gateway.toml");
    let text = text.replace("\"net_null0\"", "\"eth1\"\nmtu = 1500");
    let file = write(dir.path(), "far.toml", text);
    let output = gateway(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let (errors, name) = (stderr(&output), file.display());
    let expected = [
        format!("warning: {name}:2: [eal] workers: this machine has no CPU 1023: write lcores of 0"),
        format!("warning: {name}:5: [[port]] \"uplink\": device = \"eth1\" is no DPDK device: "),
        format!(
            "warning: {name}:6: [[port]] \"uplink\": mtu = 1500 is too small for the packets of LIF \"blue\""
        ),
    ];
    assert_eq!(errors.lines().count(), expected.len(), "{errors}");
    assert!(errors.lines().zip(&expected).all(|(line, start)| line.starts_with(start)), "{errors}");
}

#[test]
fn check_refuses_keys_that_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "good.toml", include_str!("good.toml"));
    write(dir.path(), "server.key", "no key\n");
    write(dir.path(), "server.crt", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n");
    let output = gateway(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(64));
    let errors = stderr(&output);
    assert_eq!(errors.lines().count(), 2, "{errors}");
    assert!(errors.contains("write a file with a PEM certificate chain"), "{errors}");
    assert!(errors.contains("write a file with a PEM private key"), "{errors}");
}

#[test]
fn check_lists_everything_wrong_and_exits_64() {
    let dir = tempfile::tempdir().unwrap();
    let text = include_str!("good.toml")
        .replace("workers = [1]", "workers = [0]")
        .replace("mtu = 1500", "mut = 1500");
    let file = write(dir.path(), "bad.toml", text);
    let output = gateway(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(stdout(&output), "");
    let name = file.display();
    let expected = format!(
        "{name}:2: [eal]: worker 0 is main_lcore too: write another lcore for one of them\n\
         {name}:28: [[lif]] \"red\": unknown key mut: did you mean mtu?\n"
    );
    assert_eq!(stderr(&output), expected);
}

#[test]
fn files_that_are_no_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.toml");
    let output = gateway(&["check", "--config", missing.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(stderr(&output), format!("{}: No such file or directory (os error 2)\n", missing.display()));
    let binary = write(dir.path(), "binary.toml", b"[eal]\n\xff\xfe");
    let output = gateway(&["check", "--config", binary.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(stderr(&output), format!("{}:2: not UTF-8: write the file in UTF-8\n", binary.display()));
}

#[test]
fn the_examples_are_good() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../share/examples");
    for name in ["gateway.toml", "minimal.toml"] {
        let file = examples.join(name);
        let output = gateway(&["check", "--config", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{name}: {}", stderr(&output));
    }
    let agent = std::fs::read_to_string(examples.join("agent.toml")).unwrap();
    control::agent::AgentConfig::from_toml(&agent, "agent.toml").unwrap();
}

#[test]
fn replay_says_what_is_wrong_before_it_makes_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let config = write(dir.path(), "gw.toml", include_str!("golden/gateway.toml"));
    let bad = write(
        dir.path(),
        "bad.toml",
        include_str!("golden/gateway.toml").replace("vlan = 100", "vlan = 5000"),
    );
    let no_capture = write(dir.path(), "x.pcap", "this is no capture at all, only words");
    let sessions = write(dir.path(), "s.jsonl", "{\"session_id\": 1}\n");
    let unknown_lif = write(
        dir.path(),
        "lif.jsonl",
        r#"{"session_id": 1, "in_lif": 1, "out_lif": 9, "protocol": 47, "source": "10.0.0.1", "destination": "10.0.0.2"}"#,
    );
    let out = dir.path().join("out");
    let [config, bad, pcap, sessions, lif, out_dir] =
        [&config, &bad, &no_capture, &sessions, &unknown_lif, &out]
            .map(|path| path.to_str().unwrap().to_owned());
    let replay = |config: &str, arguments: &[&str]| {
        let common = ["replay", "--config", config, "--output-dir", &out_dir];
        let output = gateway(&[&common, arguments].concat());
        assert!(!out.exists(), "{arguments:?}");
        (output.status.code(), stderr(&output))
    };
    let uplink = format!("uplink={pcap}");
    let (code, errors) = replay(&config, &["--input", &uplink]);
    assert_eq!((code, errors), (Some(1), format!("{pcap}: frame 1: neither pcap nor pcapng\n")));
    let (code, errors) = replay(&config, &["--input", "uplink=/nonexistent"]);
    assert_eq!(
        (code, errors),
        (Some(1), "/nonexistent: No such file or directory (os error 2)\n".to_owned())
    );
    let (code, errors) = replay(&config, &["--input", "up=x.pcap"]);
    let expected = "--input up=…: the configuration has no port \"up\"; it has: uplink, kernel\n";
    assert_eq!((code, errors), (Some(2), expected.to_owned()));
    assert_eq!(replay(&config, &["--input", "uplink"]).0, Some(2));
    assert_eq!(replay(&config, &[]).0, Some(2));
    assert_eq!(replay(&config, &["--input", &uplink, "--until", "-1"]).0, Some(2));
    assert_eq!(replay(&bad, &["--input", &uplink]).0, Some(64));
    let (code, errors) = replay(&config, &["--input", &uplink, "--sessions", &sessions]);
    assert_eq!(code, Some(64));
    assert_eq!(errors, format!("{sessions}:1: column 17: missing field `in_lif`\n"));
    let (code, errors) = replay(&config, &["--input", &uplink, "--sessions", &lif]);
    assert_eq!(code, Some(64));
    assert!(errors.starts_with(&format!("{lif}:1: out_lif: this gateway has no LIF 9")), "{errors}");
}

/// Its socket takes connections, as of a process that is stopped.
#[test]
fn a_gateway_that_hangs_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("gw.sock");
    let _silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let endpoint = format!("unix:{}", socket.display());
    let ask = &|command: &[&str]| {
        let output = gateway(&[command, &["--connect", &endpoint]].concat());
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        let expected = "no answer from the gateway within 10 s: is it stopped or overloaded?\n";
        assert_eq!(stderr(&output), expected, "{command:?}");
    };
    std::thread::scope(|scope| {
        for command in [&["stats"][..], &["sessions", "list", "--watch"], &["sessions", "show", "7"]] {
            scope.spawn(move || ask(command));
        }
    });
}

#[test]
fn tls_has_no_meaning_on_a_unix_socket() {
    for option in ["--ca", "--server-name"] {
        let output = gateway(&["stats", "--connect", "unix:/run/x.sock", option, "x"]);
        assert_eq!(output.status.code(), Some(2));
        let expected = format!(
            "{option} is for TLS over TCP, unix:/run/x.sock has none: leave {option} out, or --connect IP:PORT\n"
        );
        assert_eq!(stderr(&output), expected);
    }
}

#[test]
fn the_other_programs_file_is_told() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../share/examples");
    let told = |command: &str, name: &str| {
        let file = examples.join(name);
        let output = gateway(&[command, "--config", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(64));
        stderr(&output)
    };
    let agents = told("check", "agent.toml");
    assert!(
        agents.contains(":1: this is the offload agent's configuration: give it to `gateway agent`"),
        "{agents}"
    );
    assert_eq!(agents.lines().count(), 1, "{agents}");
    let gateways = told("agent", "gateway.toml");
    assert!(gateways.contains("this is the gateway's configuration, not the agent's"), "{gateways}");
}

#[test]
fn clients_without_a_gateway_fail() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = format!("unix:{}", dir.path().join("none.sock").display());
    for command in [&["stats"][..], &["sessions", "list"], &["sessions", "flush"]] {
        let output = gateway(&[command, &["--connect", &endpoint]].concat());
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        assert!(
            stderr(&output).starts_with(&format!("cannot connect to {endpoint}: No such file")),
            "{}",
            stderr(&output)
        );
    }
    assert_eq!(gateway(&["sessions", "list", "--connect", "nowhere"]).status.code(), Some(2));
    assert_eq!(gateway(&["sessions", "add", "/nonexistent", "--connect", &endpoint]).status.code(), Some(64));
}

#[test]
fn the_agent_names_interfaces_that_are_not_there() {
    if !Uid::effective().is_root() {
        eprintln!("SKIPPED: needs root for a network namespace");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let text = "[gateway]\nconnect = \"unix:/nonexistent/x.sock\"\n\
                [[interface]]\nname = \"lo\"\nlif = 1\n[[interface]]\nname = \"gone9\"\nlif = 2\n";
    let file = write(dir.path(), "agent.toml", text);
    let mut agent = Command::new("unshare");
    agent.args(["--net", env!("CARGO_BIN_EXE_gateway"), "agent", "--config"]).arg(file);
    let mut agent = agent.env_remove("RUST_LOG").stderr(Stdio::piped()).spawn().unwrap();
    let mut log = Vec::new();
    for line in BufReader::new(agent.stderr.take().unwrap()).lines().map_while(Result::ok) {
        log.push(line);
        // It looks for the gateway afterwards.
        if log.last().is_some_and(|line| line.contains("no gateway")) {
            break;
        }
    }
    agent.kill().unwrap();
    agent.wait().unwrap();
    let missing = log.iter().filter(|line| line.contains(" is not there")).collect::<Vec<_>>();
    assert!(matches!(&missing[..], [one] if one.contains("interface gone9 is not there: ")), "{log:#?}");
}

#[test]
fn agent_refuses_a_bad_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "agent.toml", "[gateway]\nconnect = \"ftp:x\"\n");
    let output = gateway(&["agent", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("agent.toml:2: "), "{}", stderr(&output));
}
