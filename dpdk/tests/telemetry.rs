//! Run-time files: where systemd says, only while telemetry serves them, and gone afterwards.

mod common;

use std::{env, fs, path::PathBuf, process::Command};

use dpdk::{Eal, EalOptions};

const DIRECTORY: &str = "RUNTIME_DIRECTORY";
const INSIDE: &str = "DPDK_TEST_TELEMETRY";

#[test]
fn telemetry() {
    if env::var_os(INSIDE).is_some() {
        return inside(env::var_os(DIRECTORY).unwrap().into());
    }
    let dir = env::temp_dir().join(format!("dpdk-telemetry-{}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "telemetry", "--nocapture"]).env(INSIDE, "1").env(DIRECTORY, &dir);
    let output = command.output().unwrap();
    fs::remove_dir_all(&dir).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn inside(dir: PathBuf) {
    let own = dir.join(format!("dpdk/dpdk-{}", std::process::id()));
    let eal = Eal::init(&EalOptions { telemetry: true, ..common::options() }).unwrap();
    assert!(own.join("dpdk_telemetry.v2").exists());
    drop(eal);
    assert!(!own.exists());
}
