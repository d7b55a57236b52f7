//! The binary from outside: exit codes, and what it prints where.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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
